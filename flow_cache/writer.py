"""Write one cache file, streaming: members go to a temporary file that is renamed when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.codecs import RGB_EXTENSION, encode_flow, encode_rgb
from flow_cache.errors import ArgumentError, CacheWriteError
from flow_cache.frames import MAX_SIDE
from flow_cache.meta import CacheMeta
from flow_cache.places import as_place, is_local, remove, staging_folder, upload
from flow_cache.zip_format import StoredZip

if TYPE_CHECKING:
    from flow_cache.places import Place

META_NAME = "meta.json"

_TEMPORARY_SUFFIX = ".flow.tmp"
_FOLDER_SUFFIX = ".d"  # after that of the temporary file that guards a folder
_PARTIAL_LIMIT = 200  # characters of the reason for a partial file
# For what is not known at the start: counts, and a reason of which JSON makes up to 12 bytes a character.
_RESERVE = 1024 + 12 * _PARTIAL_LIMIT
MEMBER_OVERHEAD = (
    104  # bytes of the zip for each image: a local header, an entry of the directory, the name in both
)


class CacheWriter:
    """Write a cache file; as a context manager it commits on success and leaves nothing on an exception.

    path: where the file will appear; for a URL it is put together in a local temporary file. meta: what is known at the
    start; counts and size are filled in at the end. Raises CacheWriteError when the disk refuses, ArgumentError for
    arrays that do not belong together.
    """

    def __init__(self, path: str | os.PathLike[str] | Place, meta: CacheMeta) -> None:
        self.meta = meta
        self._fields = 0
        self._frames = 0
        self._shape: tuple[int, int] | None = None
        self._reserved = reserved_bytes(meta)
        self.path = as_place(path)
        try:
            if is_local(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary, self._file = _create_temporary(_folder_of_temporaries(self.path))
        except OSError as error:
            raise CacheWriteError.from_os_error(self.path.parent, error) from error
        self._open = True
        self._zip = StoredZip(self._file)
        self._add(META_NAME, b" " * self._reserved)

    def add_flow(self, fields: NDArray[np.uint8]) -> None:
        """Append quantised fields: (n, 2, H, W) uint8."""
        self._check(
            fields, fields.ndim == 4 and fields.shape[1] == 2, "flow", "(n, 2, H, W)", fields.shape[2:]
        )
        extension = self.meta.codec.extension
        for field in fields:
            image = field.reshape(-1, field.shape[-1])
            self._add(f"flow/{self._fields:05d}.{extension}", encode_flow(image, self.meta.codec))
            self._fields += 1

    def add_rgb(self, frames: NDArray[np.uint8]) -> None:
        """Append RGB frames: (n, H, W, 3) uint8."""
        quality = self.meta.codec.rgb_quality
        if quality is None:
            raise ArgumentError("this cache was opened without RGB (rgb_quality is None), got RGB frames")
        self._check(
            frames, frames.ndim == 4 and frames.shape[3] == 3, "rgb", "(n, H, W, 3)", frames.shape[1:3]
        )
        for frame in frames:
            self._add(f"rgb/{self._frames:05d}.{RGB_EXTENSION}", encode_rgb(frame, quality))
            self._frames += 1

    def close(self, *, clip_fraction: float = 0.0, partial: str | None = None) -> CacheMeta:
        """Complete the file and let it appear under its name; returns its final meta.

        clip_fraction: share of the flow values beyond the bound. partial: why the video was cut short.
        """
        if not self._open:
            raise ArgumentError(f"{self.path}: the writer is closed")
        try:
            meta = self._final_meta(clip_fraction, partial)
            self._commit(meta)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise CacheWriteError.from_os_error(self.path, error) from error
            raise
        return meta

    def abort(self) -> None:
        """Throw away what was written; harmless after `close`."""
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):  # a full disk refuses the last buffer; nobody wants it now
                self._file.close()
            self._temporary.unlink(missing_ok=True)

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
        try:
            self._zip.add(name, data)
        except OSError as error:
            self.abort()
            raise CacheWriteError.from_os_error(self.path, error) from error

    def _check(
        self, array: NDArray[np.uint8], rank: bool, what: str, layout: str, shape: tuple[int, ...]
    ) -> None:
        if not rank or array.dtype != np.uint8:
            raise ArgumentError(f"{what} must be {layout} uint8, got {array.shape} {array.dtype}")
        if self._shape is None:
            if not all(1 <= side <= MAX_SIDE for side in shape):
                raise ArgumentError(f"{what} must have sides from 1 to {MAX_SIDE}, got shape {array.shape}")
            self._shape = (shape[0], shape[1])
        if self._shape != tuple(shape):
            raise ArgumentError(f"{what} must be of height and width {self._shape}, got shape {array.shape}")
        if not self._open:
            raise ArgumentError(f"{self.path}: the writer is closed")

    def _final_meta(self, clip_fraction: float, partial: str | None) -> CacheMeta:
        if self._shape is None or self._fields < 1:
            raise ArgumentError(f"{self.path}: a cache file needs at least one flow field, got none")
        frames = self._fields + self.meta.step
        if self.meta.has_rgb and self._frames != frames:
            raise ArgumentError(
                f"{self.path}: {self._fields} fields with step {self.meta.step} need {frames} RGB frames, "
                f"got {self._frames}"
            )
        return self.meta.closed(
            frames=frames,
            fields=self._fields,
            height=self._shape[0],
            width=self._shape[1],
            clip_fraction=clip_fraction,
            partial=None if partial is None else partial[:_PARTIAL_LIMIT],
        )

    def _commit(self, meta: CacheMeta) -> None:
        data = meta.to_json()
        assert len(data) <= self._reserved, "meta.json outgrew its reserve"
        self._zip.finish(data.ljust(self._reserved))
        self._file.flush()
        os.fsync(self._file.fileno())
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._file.close()
        _publish(self._temporary, self.path)
        self._open = False
        self._file.close()


def reserved_bytes(meta: CacheMeta) -> int:
    """Return how much room is left for `meta.json`, about what a file takes beside its images."""
    return _round_up(len(meta.to_json()) + _RESERVE, 512)


def temporary_files(root: Place) -> Iterator[Path]:
    """Iterate the writers' temporary files below a folder, of live and of dead processes; local ones for a URL."""
    for folder, _, names in os.walk(root if is_local(root) else staging_folder()):
        for name in names:
            if name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX):
                yield Path(folder, name)


def remove_stale_temporaries(root: Place) -> int:
    """Remove the temporary files that dead processes left below a folder; returns how many."""
    return sum(_remove_if_stale(path) for path in temporary_files(root))


@contextlib.contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """Give an empty hidden folder in `parent`, removed in the end; those that dead processes left go first.

    A locked file beside it tells that its process lives: it is there before the folder and after. Raises
    CacheWriteError.
    """
    try:
        for path in parent.glob(f".*{_TEMPORARY_SUFFIX}"):
            _remove_if_stale(path)
        for folder in parent.glob(f".*{_TEMPORARY_SUFFIX}{_FOLDER_SUFFIX}"):
            if not folder.with_suffix("").exists():
                shutil.rmtree(folder, ignore_errors=True)
        guard, file = _create_temporary(parent)
        folder = guard.with_name(guard.name + _FOLDER_SUFFIX)
        folder.mkdir()
    except OSError as error:
        raise CacheWriteError.from_os_error(parent, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.close()
        guard.unlink(missing_ok=True)


def probe_writable(folder: Place) -> None:
    """Create a folder and, for a moment, a file in it, to learn early whether that works; raises CacheWriteError."""
    try:
        if is_local(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path, file = _create_temporary(folder)
            file.close()
            path.unlink()
        else:
            probe = folder / f".{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
            write_atomically(probe, b"probe")
            remove(probe)
    except CacheWriteError as error:
        raise CacheWriteError(folder, error.reason) from error
    except OSError as error:
        raise CacheWriteError.from_os_error(folder, error) from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside a folder survive a power cut, where the system can do that."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Place, data: bytes) -> None:
    """Write a small file whole or not at all; raises CacheWriteError."""
    try:
        temporary, file = _create_temporary(_folder_of_temporaries(path))
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error


def _folder_of_temporaries(target: Place) -> Path:
    """Return the folder of a local file, where alone a rename is atomic; a remote one starts in the staging folder."""
    return target.parent if is_local(target) else staging_folder()


def _publish(temporary: Path, target: Place) -> None:
    """Let a finished temporary file appear under its name."""
    if is_local(target):
        temporary.replace(target)
        sync_folder(target.parent)
    else:
        upload(temporary, target)
        temporary.unlink()


def _create_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """Create a temporary file and lock it: the lock ends with the process, however that ends."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
        file = path.open("xb+")
        # A cleaner may have come between creation and lock; then the name is gone.
        if _lock(file) and path.exists():
            return path, file
        file.close()


def _remove_if_stale(path: Path) -> bool:
    """Remove a temporary file whose process is dead."""
    try:
        with path.open("rb+") as file:
            if not _lock(file):
                return False  # its writer lives
            path.unlink()
            return True
    except FileNotFoundError:
        return False  # renamed or removed meanwhile
    except PermissionError:
        return False  # another user's, or still open (Windows)


def _lock(file: BinaryIO) -> bool:
    """Try to lock an open file; True also where files cannot be locked."""
    if sys.platform == "win32":
        return True  # there an open file cannot be removed, which serves the same end
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
