"""Read one video's flow from its cache file, which describes itself and has a checksum for every part.

The file is a plain zip whose members are stored, not deflated:

    meta.json            first, padded with spaces to a fixed size; its counts are filled in at the end
    flow/00000.jls       field 0, u over v as one grey image of 2 H x W (.jls, .pgm.zst, .jxl, .png or .jpg)
    rgb/00000.jpg        frame 0, where RGB was asked for; frames and fields may alternate

Field t leads from frame t to frame t + step, always. Where frames of a damaged video were left out, `meta.json` says
before which frame, and the fields that would lead across such a gap are not there: their numbers are missing.

Reading and writing the zip is our own code (`zip_format.py`): writing takes little memory; reading finds all damage and
names it in the same way, and a training run needs one seek and one read for a member.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import RGB, RGB_EXTENSION, StorageSettings, check_shape, decode_into
from flow_cache.cache.image_headers import CodecError
from flow_cache.cache.meta import CacheMeta, OtherVersionError
from flow_cache.cache.naming import META_NAME
from flow_cache.cache.zip_format import LOCAL, LOCAL_SIGNATURE, Directory, Member, Members
from flow_cache.errors import CacheFileError, CacheVersionError
from flow_cache.storage.paths import as_path

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

_MAX_META = 1 << 20  # bytes


class CacheReader:
    """Read flow fields and RGB frames from one cache file, in any order.

    Opening checks that the file is whole: its directory, `meta.json`, and that every announced field and frame exists;
    reading checks the CRC and the shape of each member. Use a reader in one thread only. It can be pickled: the copy
    opens the file again.

    Args:
        path: the cache file, a path or a URL that fsspec knows.

    Attributes:
        path: the cache file.
        meta: what the file says about itself.

    Raises:
        CacheFileError: the file is missing, damaged or no cache file.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheReader, CacheWriter, Source, dequantize
        >>> with CacheWriter("a.flow.zip", CacheMeta(Source("a.avi"), "tvl1", bound=20.0)) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 10), 128, np.uint8))  # 128 = no motion
        >>> with CacheReader("a.flow.zip") as reader:
        ...     fields = reader.flow([0, 2])
        >>> fields.shape
        (2, 2, 8, 10)
        >>> float(dequantize(fields, bound=20.0).max())
        0.0
    """

    _max_unproven = 1 << 28  # bytes that are allocated before one image was decoded

    def __init__(self, path: str | os.PathLike[str] | AnyPath) -> None:
        self.path = as_path(path)
        try:
            self._file: Any = self.path.open("rb")
        except FileNotFoundError as error:
            raise CacheFileError(self.path, "no such cache file") from error
        except OSError as error:
            raise CacheFileError(self.path, error.strerror or str(error)) from error
        try:
            self._file_size: int = self._file.seek(0, os.SEEK_END)
            directory = Directory(self.path, self._file, self._file_size)
            self.meta: CacheMeta = self._read_meta(directory)
            self._flow, self._rgb = self._arrange(directory)
        except OSError as error:
            self.close()
            raise CacheFileError(self.path, error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise

    @property
    def num_fields(self) -> int:
        """Number of flow fields. They are numbered from 0, unless `runs` has several parts."""
        return self.meta.fields

    @property
    def runs(self) -> tuple[range, ...]:
        """The numbers of the flow fields, in runs that no gap of the video interrupts.

        One run for a whole video. Across two runs, fields that are read one after the other do not follow each other
        in time.
        """
        return self.meta.runs

    @property
    def field_numbers(self) -> Sequence[int]:
        """The numbers of all flow fields, ascending: 0 to `num_fields - 1`, unless frames are missing in between."""
        return self._flow.numbers if isinstance(self._flow.numbers, range) else list(self._flow)

    @property
    def num_frames(self) -> int:
        """Number of frames that were decoded; also the number of RGB frames, if they are stored."""
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
    def rgb_height(self) -> int:
        """Height of an RGB frame in pixels: that of a field unless `rgb_short_side` was given; 0 without RGB."""
        return self._rgb_shape[0] if self.has_rgb else 0

    @property
    def rgb_width(self) -> int:
        """Width of an RGB frame in pixels: that of a field unless `rgb_short_side` was given; 0 without RGB."""
        return self._rgb_shape[1] if self.has_rgb else 0

    @property
    def has_rgb(self) -> bool:
        """Whether RGB frames are stored."""
        return self.meta.has_rgb

    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
        return self._file_size

    def flow(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Read quantised flow fields.

        Args:
            indices: n numbers of fields (see `runs`), in any order; one may appear twice.

        Returns:
            (n, 2, H, W) uint8 grey levels in the order of `indices`: channel 0 is u, 1 is v, and 128 is no motion.
            `flow_cache.dequantize` turns them into pixels per step.

        Raises:
            CacheFileError: a number outside the file, a field that would lead across a gap, or damage.
        """
        images = self._images(indices, self._flow, self.meta.storage, (2 * self.height, self.width), "field")
        return images.reshape(len(images), 2, self.height, self.width)

    def rgb(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Read RGB frames.

        Args:
            indices: n indices from 0 to `num_frames - 1`, in any order; an index may appear twice.

        Returns:
            (n, H, W, 3) uint8 in the order of `indices`, H and W being `rgb_height` and `rgb_width`.

        Raises:
            CacheFileError: an index outside the file, a file without RGB, or damage.
        """
        if not self.has_rgb:
            raise CacheFileError(self.path, "holds no RGB frames; make the cache with rgb (--rgb)")
        return self._images(indices, self._rgb, RGB, self._rgb_shape, "frame")

    def check(self, *, decode: bool = False) -> None:
        """Read every member; compare its CRC, and the size that its image announces with the one in `meta.json`.

        Args:
            decode: decode every image too.

        Raises:
            CacheFileError: the first member that is damaged.
        """
        for members, codec, shape, what in (
            (self._flow, self.meta.storage, (2 * self.height, self.width), "field"),
            (self._rgb, RGB, self._rgb_shape, "frame"),
        ):
            for index in members:
                if decode:
                    self._images([index], members, codec, shape, what)
                    continue
                member = members[index]
                try:
                    check_shape(self._read(member), codec, shape)
                except CodecError as error:
                    raise CacheFileError(self.path, str(error), member.name) from error

    def encoded_rgb(self, index: int) -> bytes:
        """Return an RGB frame as it is stored, a JPEG; raises CacheFileError like `rgb`."""
        if not 0 <= index < len(self._rgb):
            raise CacheFileError(self.path, f"frame {index} asked for, holds {len(self._rgb)} RGB frames")
        member = self._rgb[index]
        data = self._read(member)
        try:
            check_shape(data, RGB, self._rgb_shape)
        except CodecError as error:
            raise CacheFileError(self.path, str(error), member.name) from error
        return data

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Iterate the names and bytes of all images as they are stored, in the order of the file.

        Raises:
            CacheFileError: one is damaged.
        """
        members = [images[index] for images in (self._flow, self._rgb) for index in images]
        for member in sorted(members, key=lambda member: member.offset):
            yield member.name, self._read(member)

    def close(self) -> None:
        """Close the file; it may be closed twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[CacheReader], tuple[AnyPath]]:
        return (type(self), (self.path,))

    @property
    def _rgb_shape(self) -> tuple[int, int, int]:
        """Shape of an RGB frame."""
        width, height = self.meta.rgb_size or (self.width, self.height)
        return height, width, 3

    def _images(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        members: Members,
        codec: StorageSettings,
        shape: tuple[int, ...],
        what: str,
    ) -> NDArray[np.uint8]:
        """Read images of fields or frames, each checked: (n, *shape) uint8."""
        wanted = [int(index) for index in indices]
        for index in wanted:
            if index not in members:
                raise CacheFileError(self.path, f"{what} {index} asked for, {self._absence(index, members)}")
        positions: dict[int, list[int]] = {}  # an image that is wanted twice is decoded once
        for position, index in enumerate(wanted):
            positions.setdefault(index, []).append(position)
        images: NDArray[np.uint8] | None = None
        for index, (first, *others) in positions.items():
            member = members[index]
            data = self._read(member)
            try:
                if images is None:  # the size in meta.json is trusted once an image confirms it
                    images = self._allocate(data, codec, len(wanted), shape)
                decode_into(data, codec, images[first])
            except CodecError as error:
                raise CacheFileError(self.path, str(error), member.name) from error
            except MemoryError as error:
                reason = f"{len(wanted)} images of shape {shape} do not fit into memory"
                raise CacheFileError(self.path, reason, member.name) from error
            for other in others:  # now, while the image is in the processor's cache
                images[other] = images[first]
        return np.empty((0, *shape), np.uint8) if images is None else images

    def _absence(self, index: int, members: Members) -> str:
        """Say why a field or frame is not there."""
        for gap in self.meta.gaps if members is self._flow else ():
            if gap.before - self.meta.step <= index < gap.before < self.num_frames and index >= 0:
                return (
                    f"which does not exist: frames of the video are missing before frame {gap.before}; "
                    "use the fields of `runs`"
                )
        return f"holds {min(members.numbers, default=0)} to {max(members.numbers, default=-1)}"

    def _allocate(
        self, data: bytes, codec: StorageSettings, count: int, shape: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        """Allocate `count` images of a shape once `data`, the first of them, confirms it; raises CodecError.

        Before much memory is allocated, the image is decoded: a damaged header could announce any size.
        """
        check_shape(data, codec, shape)
        if count * math.prod(shape) > self._max_unproven:
            decode_into(data, codec, np.empty(shape, np.uint8))
        return np.empty((count, *shape), np.uint8)

    def _read(self, member: Member) -> bytes:
        """Return a member's bytes, and check its CRC."""
        try:
            self._file.seek(member.offset)
            # Header, name and data in one read: our writer leaves no extra field between them.
            chunk: bytes = self._file.read(LOCAL.size + len(member.name) + member.size)
            if len(chunk) < LOCAL.size:
                raise CacheFileError(self.path, "the file ends inside it", member.name)
            signature, *_, name_length, extra_length = LOCAL.unpack_from(chunk)
            if signature != LOCAL_SIGNATURE or name_length != len(member.name):
                raise CacheFileError(self.path, "its local header is damaged", member.name)
            if extra_length:  # repacked by another tool
                chunk += self._file.read(extra_length)
        except OSError as error:
            raise CacheFileError(self.path, error.strerror or str(error), member.name) from error
        except ValueError as error:
            raise CacheFileError(self.path, "the reader is closed", member.name) from error
        data = chunk[LOCAL.size + name_length + extra_length :]
        if len(data) != member.size:
            raise CacheFileError(self.path, "the file ends inside it", member.name)
        if zlib.crc32(data) != member.crc:
            raise CacheFileError(self.path, "damaged (its CRC does not match)", member.name)
        return data

    def _read_meta(self, directory: Directory) -> CacheMeta:
        """Read the first member, `meta.json`."""
        if not len(directory) or directory.name(0) != META_NAME:
            raise CacheFileError(self.path, "is not a flow cache (its first member must be meta.json)")
        member = directory.member(0)
        if member.size > _MAX_META:
            raise CacheFileError(self.path, f"is too large ({member.size} bytes)", META_NAME)
        try:
            return CacheMeta.from_json(self._read(member))
        except OtherVersionError as error:
            raise CacheVersionError(self.path, str(error), META_NAME) from error
        except ValueError as error:
            raise CacheFileError(self.path, " ".join(str(error).split())[:300], META_NAME) from error

    def _arrange(self, directory: Directory) -> tuple[Members, Members]:
        """Return the members of fields and of frames, in order, and compare their number with `meta.json`."""
        meta = self.meta
        frames = meta.frames if meta.has_rgb else 0
        members = len(directory) - 1
        # The number is right and every announced member is found below, so no other and no double one can be there.
        if members != meta.fields + frames:
            reason = f"holds {members} members, but meta.json announces {meta.fields + frames}"
            raise CacheFileError(self.path, reason)
        runs = meta.runs
        if meta.fields < 1 or meta.fields != sum(map(len, runs)) or not meta.width or not meta.height:
            reason = f"announces {meta.fields} fields of {meta.width}x{meta.height} from {meta.frames} frames"
            reason += f" with {len(meta.gaps)} gaps" if meta.gaps else ""
            raise CacheFileError(self.path, reason, META_NAME)
        flow = directory.numbered_in("flow", meta.storage.extension, runs)
        return flow, directory.numbered("rgb", RGB_EXTENSION, frames)


def meta_or_error(path: AnyPath) -> CacheMeta | CacheFileError:
    """Return what a file says about itself, or why it cannot be read."""
    try:
        with CacheReader(path) as reader:
            return reader.meta
    except CacheFileError as error:
        return error
