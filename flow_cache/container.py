"""The cache file: read and write one video's flow; atomic, checksummed, self-describing.

A plain zip whose members are stored, not deflated:

    meta.json            first, padded with spaces to a fixed size, its counts are filled in at the end
    flow/00000.jls       field 0, u over v as one grey image of 2 H x W (.jls, .jpg or .png)
    rgb/00000.jpg        frame 0, where RGB was asked for; frames and fields may alternate

The writer leaves everything but the last stroke to `zipfile`. The reader parses the directory itself: all
damage is then found, and named, in one place, and a member costs a training run one seek and one read.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.codecs import EXTENSIONS, RGB_EXTENSION, CodecError, check_shape, decode_into
from flow_cache.errors import ArgumentError, CacheFileError
from flow_cache.frames import VIDEO_SUFFIXES
from flow_cache.meta import CacheMeta
from flow_cache.writer import META_NAME, CacheWriter, temporary_files

__all__ = ["CACHE_SUFFIX", "CacheMeta", "CacheReader", "CacheWriter", "cache_path", "temporary_files"]

CACHE_SUFFIX = ".flow.zip"

_END = struct.Struct("<4s4H2LH")  # end of central directory
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # central directory entry
_LOCAL = struct.Struct("<4s5H3L2H")  # local file header
_MAX_META = 1 << 20


class _Member(NamedTuple):
    name: str
    offset: int  # of its local header
    size: int
    crc: int


def cache_path(root: str | os.PathLike[str], video_relative: str | PurePosixPath) -> Path:
    """Return where a video's cache file lies: its relative path without suffix, plus `.flow.zip`.

    Only the suffix of a video file counts, so that an image folder `person.01` keeps its whole name. Raises
    ArgumentError for a path that is absolute or leads out of the root.
    """
    relative = PurePosixPath(video_relative)
    parts = relative.parts
    if not parts or relative.is_absolute() or ".." in parts or any("\\" in p or "\0" in p for p in parts):
        raise ArgumentError(
            f"{video_relative!s:.200}: expected a relative path that stays inside the input folder"
        )
    name = relative.name
    if relative.suffix.lower() in VIDEO_SUFFIXES:
        name = relative.stem
    return Path(root).joinpath(*parts[:-1], name + CACHE_SUFFIX)


class CacheReader:
    """Read flow fields and RGB frames from one cache file, at random.

    Opening checks that the file is whole: its directory, `meta.json`, and that every announced field and
    frame is there; reading checks each member's CRC and shape. Whatever is wrong raises CacheFileError. One
    reader serves one thread; it can be pickled, and then opens the file anew.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = self.path.open("rb")
        except FileNotFoundError as error:
            raise CacheFileError(self.path, "no such cache file") from error
        except OSError as error:
            raise CacheFileError(self.path, error.strerror or str(error)) from error
        try:
            self._file_size = os.fstat(self._file.fileno()).st_size
            members = self._directory()
            self.meta: CacheMeta = self._read_meta(members)
            self._flow, self._rgb = self._arrange(members[1:])
        except OSError as error:
            self.close()
            raise CacheFileError(self.path, error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise

    @property
    def num_fields(self) -> int:
        """Number of flow fields."""
        return self.meta.fields

    @property
    def num_frames(self) -> int:
        """Number of frames that were decoded, and of RGB frames where there are any."""
        return self.meta.frames

    @property
    def height(self) -> int:
        """Height of a field in pixels."""
        return self.meta.height

    @property
    def width(self) -> int:
        """Width of a field in pixels."""
        return self.meta.width

    @property
    def has_rgb(self) -> bool:
        """Whether RGB frames are stored."""
        return self.meta.has_rgb

    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
        return self._file_size

    def flow(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Read quantised fields: (n, 2, H, W) uint8, in the order asked for; an index may come twice.

        Raises CacheFileError for an index outside the file, and for damage.
        """
        images = self._images(
            indices, self._flow, self.meta.codec.codec, (2 * self.height, self.width), "field"
        )
        return images.reshape(len(images), 2, self.height, self.width)

    def rgb(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Read RGB frames: (n, H, W, 3) uint8, in the order asked for; an index may come twice.

        Raises CacheFileError for an index outside the file, when it holds no RGB, and for damage.
        """
        if not self.has_rgb:
            raise CacheFileError(self.path, "holds no RGB frames; make the cache with rgb (--rgb)")
        return self._images(indices, self._rgb, "jpeg", (self.height, self.width, 3), "frame")

    def check(self) -> None:
        """Read every member and compare its CRC; raises CacheFileError at the first that is damaged."""
        for member in (*self._flow, *self._rgb):
            self._read(member)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[CacheReader], tuple[Path]]:
        return (type(self), (self.path,))

    def _images(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        members: list[_Member],
        codec: str,
        shape: tuple[int, ...],
        what: str,
    ) -> NDArray[np.uint8]:
        wanted = [int(index) for index in indices]
        for index in wanted:
            if not 0 <= index < len(members):
                raise CacheFileError(self.path, f"{what} {index} asked for, holds 0 to {len(members) - 1}")
        images: NDArray[np.uint8] | None = None
        decoded: dict[int, int] = {}  # index -> where in `images` it is: overlapping windows decode once
        for place, index in enumerate(wanted):
            if images is not None and index in decoded:
                images[place] = images[decoded[index]]
                continue
            member = members[index]
            data = self._read(member)
            try:
                if images is None:  # meta.json is not believed before an image bears it out
                    check_shape(data, codec, shape)
                    images = np.empty((len(wanted), *shape), np.uint8)
                decode_into(data, codec, images[place])
            except CodecError as error:
                raise CacheFileError(self.path, str(error), member.name) from error
            decoded[index] = place
        return np.empty((0, *shape), np.uint8) if images is None else images

    def _read(self, member: _Member) -> bytes:
        """Return a member's bytes, its CRC checked."""
        try:
            self._file.seek(member.offset)
            # Header, name and data in one go; the writer leaves no extra field in between.
            chunk = self._file.read(_LOCAL.size + len(member.name) + member.size)
            if len(chunk) < _LOCAL.size:
                raise CacheFileError(self.path, "the file ends inside it", member.name)
            signature, *_, name_length, extra_length = _LOCAL.unpack_from(chunk)
            if signature != b"PK\3\4" or name_length != len(member.name):
                raise CacheFileError(self.path, "its local header is damaged", member.name)
            if extra_length:  # repacked by another tool
                chunk += self._file.read(extra_length)
        except OSError as error:
            raise CacheFileError(self.path, error.strerror or str(error), member.name) from error
        except ValueError as error:
            raise CacheFileError(self.path, "the reader is closed", member.name) from error
        data = chunk[_LOCAL.size + name_length + extra_length :]
        if len(data) != member.size:
            raise CacheFileError(self.path, "the file ends inside it", member.name)
        if zlib.crc32(data) != member.crc:
            raise CacheFileError(self.path, "damaged (its CRC does not match)", member.name)
        return data

    def _directory(self) -> list[_Member]:
        """Parse the zip's central directory."""
        offset, size, count = self._end_record()
        if offset + size > self._file_size or count * _ENTRY.size > size:
            raise CacheFileError(self.path, "its directory is damaged, or the file is cut")
        self._file.seek(offset)
        directory = self._file.read(size)
        members: list[_Member] = []
        unpack = _ENTRY.unpack_from
        position = 0
        try:
            for _ in range(count):
                (signature, _, _, flags, method, _, _, crc, stored, length, n, x, c, _, _, _, start) = unpack(
                    directory, position
                )
                position += _ENTRY.size
                name = directory[position : position + n].decode("ascii")
                if signature != b"PK\1\2" or method != 0 or flags & 1 or stored != length:
                    raise CacheFileError(self.path, "is not a plainly stored zip member of ours", name)
                if start == 0xFFFFFFFF:
                    start = _zip64_offset(directory[position + n : position + n + x])
                if start + _LOCAL.size + n + length > offset:
                    raise CacheFileError(self.path, "lies outside the file", name)
                members.append(_Member(name, start, length, crc))
                position += n + x + c
        except (struct.error, UnicodeDecodeError) as error:
            raise CacheFileError(self.path, "its directory is damaged") from error
        if position != size:
            raise CacheFileError(self.path, "its directory is damaged")
        return members

    def _end_record(self) -> tuple[int, int, int]:
        """Find the end record; returns the directory's (offset, size, number of members)."""
        damaged = CacheFileError(self.path, "is not a whole zip file (its end record is missing)")
        tail_size = min(self._file_size, _END.size + _END64_LOCATOR.size)
        self._file.seek(self._file_size - tail_size)
        tail = self._file.read(tail_size)
        if len(tail) < _END.size or tail[-_END.size : -_END.size + 4] != b"PK\5\6":
            raise damaged
        _, _, _, _, count, size, offset, _ = _END.unpack(tail[-_END.size :])
        if count != 0xFFFF and size != 0xFFFFFFFF and offset != 0xFFFFFFFF:
            return offset, size, count
        if len(tail) < tail_size or tail[:4] != b"PK\6\7":
            raise damaged
        _, _, end64, _ = _END64_LOCATOR.unpack_from(tail)
        if end64 + _END64.size > self._file_size:
            raise damaged
        self._file.seek(end64)
        signature, *_, count, size, offset = _END64.unpack(self._file.read(_END64.size))
        if signature != b"PK\6\6":
            raise damaged
        return offset, size, count

    def _read_meta(self, members: list[_Member]) -> CacheMeta:
        if not members or members[0].name != META_NAME:
            raise CacheFileError(self.path, "is not a flow cache (its first member must be meta.json)")
        if members[0].size > _MAX_META:
            raise CacheFileError(self.path, f"is too large ({members[0].size} bytes)", META_NAME)
        try:
            return CacheMeta.from_json(self._read(members[0]))
        except ValueError as error:
            raise CacheFileError(self.path, " ".join(str(error).split())[:300], META_NAME) from error

    def _arrange(self, members: list[_Member]) -> tuple[list[_Member], list[_Member]]:
        """Put fields and frames in order and compare them with `meta.json`."""
        meta = self.meta
        by_name = {member.name: member for member in members}
        frames = meta.frames if meta.has_rgb else 0
        if len(by_name) != len(members) or len(members) != meta.fields + frames:
            reason = f"holds {len(by_name)} members, but meta.json announces {meta.fields + frames}"
            raise CacheFileError(self.path, reason)
        if meta.fields < 1 or meta.fields != meta.frames - meta.step or not meta.width or not meta.height:
            reason = f"announces {meta.fields} fields of {meta.width}x{meta.height} from {meta.frames} frames"
            raise CacheFileError(self.path, reason, META_NAME)
        flow = self._take(by_name, meta.fields, lambda i: f"flow/{i:05d}.{EXTENSIONS[meta.codec.codec]}")
        return flow, self._take(by_name, frames, lambda i: f"rgb/{i:05d}.{RGB_EXTENSION}")

    def _take(self, by_name: dict[str, _Member], count: int, name: Callable[[int], str]) -> list[_Member]:
        taken = [by_name.get(name(index)) for index in range(count)]
        for index, member in enumerate(taken):
            if member is None:
                raise CacheFileError(self.path, "is missing", name(index))
        return [member for member in taken if member is not None]


def _zip64_offset(extra: bytes) -> int:
    """Find the 64-bit offset in a directory entry's extra field (sizes are always below 4 GiB here)."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            return int(struct.unpack_from("<Q", extra, position + 4)[0])
        position += 4 + length
    raise struct.error("no zip64 offset")
