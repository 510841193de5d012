"""Write one cache file piece by piece: members go to a temporary file that is renamed when it is complete."""

from __future__ import annotations

import os
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.codecs import RGB_EXTENSION, encode_flow, encode_rgb
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.naming import META_NAME
from flow_cache.cache.zip_format import StoredZip
from flow_cache.errors import ArgumentError, CacheWriteError, check_whole_number
from flow_cache.storage.atomic import PendingFile
from flow_cache.storage.paths import as_path, is_local
from flow_cache.video.damage import Gap
from flow_cache.video.frames import MAX_SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flow_cache.cache.reader import CacheReader
    from flow_cache.storage.paths import AnyPath

_PARTIAL_LIMIT = 200  # characters of the reason for a partial file
# For what is not known at the start: counts, and a reason, for which JSON needs up to 12 bytes a character.
_RESERVE = 1024 + 12 * _PARTIAL_LIMIT
# Bytes of the zip for each image: a local header, an entry of the directory, the name in both.
MEMBER_OVERHEAD = 104


class CacheWriter:
    """Write a cache file; as a context manager it closes the file at the end and leaves nothing after an exception.

    Args:
        path: where the file will appear; for a URL it is written to a local temporary file first.
        meta: what is known at the start; counts and size are filled in at the end.

    Attributes:
        path: where the file will appear.
        meta: what was given.

    Raises:
        CacheWriteError: the disk refuses.
        ArgumentError: arrays that do not fit together.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheReader, CacheWriter, Source, quantize
        >>> flow = np.zeros((3, 2, 8, 10), np.float32)  # 3 fields: u, v in pixels per step
        >>> with CacheWriter("a.flow.zip", CacheMeta(Source("a.avi"), "tvl1", bound=20.0)) as writer:
        ...     writer.add_flow(quantize(flow, bound=20.0))
        >>> with CacheReader("a.flow.zip") as reader:
        ...     reader.num_fields, reader.num_frames
        (3, 4)
    """

    def __init__(self, path: str | os.PathLike[str] | AnyPath, meta: CacheMeta) -> None:
        self.meta = meta
        self._fields = 0
        self._next = 0  # number of the next field
        self._frames = 0
        self._shapes: dict[str, tuple[int, int]] = {}  # (H, W) of "flow", and of "rgb" where it has its own
        self._reserved = reserved_bytes(meta)
        self.path = as_path(path)
        try:
            if is_local(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._pending = PendingFile(self.path)
        except OSError as error:
            raise CacheWriteError.from_os_error(self.path.parent, error) from error
        self._open = True
        self._zip = StoredZip(self._pending.file)
        self._add(META_NAME, b" " * self._reserved)

    def add_flow(self, fields: NDArray[np.uint8], first: int | None = None) -> None:
        """Append quantised fields.

        Args:
            fields: (n, 2, H, W) uint8 grey levels, channel 0 = u, 1 = v.
            first: number of the first of them, the index of the frame that it leads from; None: that after the last
                one. Numbers are left out only where frames of the video are missing.

        Raises:
            ArgumentError, CacheWriteError: as the class says; a number that was written already.
        """
        if first is not None:
            self._next = check_whole_number("first", first, self._next)
        self._check(
            fields, fields.ndim == 4 and fields.shape[1] == 2, "flow", "(n, 2, H, W)", fields.shape[2:]
        )
        extension = self.meta.storage.extension
        for field in fields:
            image = field.reshape(-1, field.shape[-1])
            self._add(f"flow/{self._next:05d}.{extension}", encode_flow(image, self.meta.storage))
            self._fields += 1
            self._next += 1

    def add_rgb(self, frames: NDArray[np.uint8]) -> None:
        """Append RGB frames: (n, H, W, 3) uint8, of the fields' size unless `rgb_short_side` gives them their own.

        Raises as the class says.
        """
        if not self.meta.has_rgb:
            raise ArgumentError("this cache was opened without RGB (rgb_quality is None), got RGB frames")
        quality = self.meta.storage.rgb_quality
        self._check(
            frames, frames.ndim == 4 and frames.shape[3] == 3, "rgb", "(n, H, W, 3)", frames.shape[1:3]
        )
        for frame in frames:
            self._add(f"rgb/{self._frames:05d}.{RGB_EXTENSION}", encode_rgb(frame, quality))
            self._frames += 1

    def close(
        self,
        *,
        clip_fraction: float = 0.0,
        partial: str | None = None,
        gaps: Sequence[Gap] = (),
        frames: int | None = None,
    ) -> CacheMeta:
        """Complete the file and give it its name.

        Args:
            clip_fraction: share of the flow values beyond the bound, 0 to 1.
            partial: why frames of the video are missing; None for a whole video.
            gaps: where frames are missing, if not only at its end.
            frames: number of frames that were kept; None: those that the last field leads to.

        Returns:
            What the file says about itself.

        Raises:
            ArgumentError: fields or frames are missing, or more gaps than `meta.json` has room for.
        """
        if not self._open:
            raise ArgumentError(f"{self.path}: the writer is closed")
        try:
            meta = self._final_meta(clip_fraction, partial, tuple(gaps), frames)
            self._commit(meta)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise CacheWriteError.from_os_error(self.path, error) from error
            raise
        return meta

    @classmethod
    def copy(cls, reader: CacheReader, path: str | os.PathLike[str] | AnyPath, video: str) -> CacheMeta:
        """Write a cache file once more, for the same video under another name: the bytes that computing it would give.

        Args:
            reader: the file, open.
            path: where the copy will appear.
            video: the other name, relative to the input folder.

        Returns:
            What the copy says about itself.

        Raises:
            CacheFileError: the file is damaged.
            CacheWriteError: the disk refuses.
        """
        meta = replace(reader.meta, source=replace(reader.meta.source, path=video))
        cls.rewrite(path, meta, reader.encoded())
        return meta

    @classmethod
    def rewrite(
        cls, path: str | os.PathLike[str] | AnyPath, meta: CacheMeta, members: Iterable[tuple[str, bytes]]
    ) -> None:
        """Write a file of images that are encoded already.

        Args:
            path: where it appears.
            meta: what it says about itself, complete.
            members: names and bytes of all its images, as `CacheReader.encoded` gives them.

        Raises:
            CacheFileError: from `members`.
            CacheWriteError: the disk refuses.
        """
        start = meta.closed(
            frames=0, fields=0, width=0, height=0, rgb_size=None, clip_fraction=0.0, partial=None, gaps=()
        )
        with cls(path, start) as writer:
            for name, data in members:
                writer._add(name, data)
            try:
                writer._commit(meta)
            except OSError as error:
                raise CacheWriteError.from_os_error(writer.path, error) from error

    def abort(self) -> None:
        """Discard what was written; does nothing after `close`."""
        self._open = False
        self._pending.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.close()

    def _add(self, name: str, data: bytes) -> None:
        """Append a member."""
        try:
            self._zip.add(name, data)
        except OSError as error:
            self.abort()
            raise CacheWriteError.from_os_error(self.path, error) from error

    def _check(
        self, array: NDArray[np.uint8], rank: bool, what: str, layout: str, shape: tuple[int, ...]
    ) -> None:
        """Raise ArgumentError for arrays of another rank, dtype or size, and for a closed writer."""
        if not rank or array.dtype != np.uint8:
            raise ArgumentError(f"{what} must be {layout} uint8, got {array.shape} {array.dtype}")
        size_of = "flow" if self.meta.storage.own_rgb_side is None else what
        if size_of not in self._shapes:
            if not all(1 <= side <= MAX_SIDE for side in shape):
                raise ArgumentError(f"{what} must have sides from 1 to {MAX_SIDE}, got shape {array.shape}")
            self._shapes[size_of] = (shape[0], shape[1])
        if self._shapes[size_of] != tuple(shape):
            raise ArgumentError(
                f"{what} must be of height and width {self._shapes[size_of]}, got shape {array.shape}"
            )
        if not self._open:
            raise ArgumentError(f"{self.path}: the writer is closed")

    def _final_meta(
        self, clip_fraction: float, partial: str | None, gaps: tuple[Gap, ...], frames: int | None
    ) -> CacheMeta:
        """Fill in counts and size; raises ArgumentError if fields or frames are missing."""
        if self._fields < 1:
            raise ArgumentError(f"{self.path}: a cache file needs at least one flow field, got none")
        if frames is None:
            frames = self._next + self.meta.step
        if self.meta.has_rgb and self._frames != frames:
            raise ArgumentError(
                f"{self.path}: {self._fields} fields with step {self.meta.step} need {frames} RGB frames, "
                f"got {self._frames}"
            )
        height, width = self._shapes["flow"]
        rgb_shape = self._shapes.get("rgb")
        meta = self.meta.closed(
            frames=frames,
            fields=self._fields,
            height=height,
            width=width,
            rgb_size=None if rgb_shape is None else rgb_shape[::-1],
            clip_fraction=clip_fraction,
            partial=None if partial is None else partial[:_PARTIAL_LIMIT],
            gaps=gaps,
        )
        count, stop = sum(map(len, meta.runs)), meta.runs[-1].stop if meta.runs else 0
        if (count, stop) != (self._fields, self._next):
            raise ArgumentError(
                f"{self.path}: {frames} frames with {len(gaps)} gaps and step {self.meta.step} have {count} fields up "
                f"to number {stop - 1}, got {self._fields} up to {self._next - 1}"
            )
        return meta

    def _commit(self, meta: CacheMeta) -> None:
        """Write `meta.json` into the bytes kept for it, and rename the file."""
        data = meta.to_json()
        if len(data) > self._reserved:
            raise ArgumentError(
                f"{self.path}: frames are missing in {len(meta.gaps)} places, more than meta.json has room for; "
                "keep only the beginning (--damaged keep-prefix), or mend the video"
            )
        self._zip.finish(data.ljust(self._reserved))
        self._pending.publish()
        self._open = False


def reserved_bytes(meta: CacheMeta) -> int:
    """Return how many bytes are kept for `meta.json`: about the size of a file without its images."""
    return _round_up(len(meta.to_json()) + _RESERVE, 512)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
