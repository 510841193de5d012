"""Places: local paths, and URLs that fsspec knows such as `s3://bucket/folder`, behind the same few operations.

A place is a `pathlib.Path`, or a `UPath` for a URL. Most of what is asked of a place both can do; what differs is here.
Whatever a remote storage raises comes out as a StorageError, which is an OSError. Credentials, endpoints and the like
come from the storage's own environment variables and from fsspec's configuration files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flow_cache.errors import ArgumentError, StorageError, one_line

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

    AnyPath = Path | UPath

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# There an object appears once all of it has arrived; elsewhere a name may show a file that is still being written.
_APPEARS_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
_LOCAL = frozenset({"file", "local"})
_OF_ONE_PROCESS = frozenset({"memory"})
_THREADS = 16
_BLOCK = 1 << 20  # bytes that are read at a time from a remote file
# What a listing may say that changes with a file's contents, best first.
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


class Status(NamedTuple):
    """What a listing says about a file."""

    size: int
    stamp: str
    """Another one if the file has been written anew: the time of that in nanoseconds, or the storage's ETag."""


def as_path(where: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """Return the place that a path or URL (`scheme://...`) names; raises ArgumentError for an unusable URL."""
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, (str, os.PathLike)) else where
    try:
        from upath import UPath

        place = UPath(where.rstrip("/") if where.split("://", 1)[1].strip("/") else where)
        if place.protocol in _LOCAL:
            return Path(place.path)
        _storage(place)  # so that a missing package is found out at once
    except ImportError as error:
        raise ArgumentError(f"{where}: needs a package for such URLs ({one_line(error)})") from error
    except Exception as error:  # of the storage's own classes
        raise ArgumentError(f"{where}: cannot be used ({one_line(error)})") from error
    return place


def is_local(place: AnyPath) -> TypeIs[Path]:
    """Tell whether a place is a local path."""
    return isinstance(place, Path)


def is_shared(place: AnyPath) -> bool:
    """Tell whether other processes see what is there, unlike `memory://`."""
    return is_local(place) or place.protocol not in _OF_ONE_PROCESS


def exists(place: AnyPath) -> bool:
    """Tell whether there is a file or folder, now, whatever an earlier listing said."""
    if is_local(place):
        return place.exists()
    with _storage_errors(place):
        return bool(_fresh(place).exists(place.path))


def is_folder(place: AnyPath) -> bool:
    """Tell whether there is a folder; on storages without folders, whether anything lies below that name."""
    if is_local(place):
        return place.is_dir()
    with _storage_errors(place):
        return bool(_fresh(place).isdir(place.path))


def is_file(place: AnyPath) -> bool:
    """Tell whether there is a file."""
    if is_local(place):
        return place.is_file()
    with _storage_errors(place):
        return bool(_fresh(place).isfile(place.path))


def list_files(root: AnyPath) -> dict[str, Status]:
    """List all files below a folder: relative paths with forward slashes, sorted. Links to folders are not followed."""
    found: dict[str, Status] = {}
    if is_local(root):
        for folder, _, names in os.walk(root):
            prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
            for name in names:
                try:
                    found[prefix + name] = status_of(Path(folder, name))
                except OSError:  # a link that leads nowhere; whoever opens it will say so
                    found[prefix + name] = Status(0, "")
    else:
        with _storage_errors(root):
            base = root.path.rstrip("/") + "/"
            for name, entry in _fresh(root).find(root.path, detail=True).items():
                if name.startswith(base):
                    found[name.removeprefix(base)] = Status(int(entry["size"] or 0), _stamp(entry))
    return dict(sorted(found.items()))


def status_of(place: AnyPath) -> Status:
    """Return the status of one file; raises OSError, FileNotFoundError if there is none."""
    if is_local(place):
        status = place.stat()
        return Status(status.st_size, str(status.st_mtime_ns))
    with _storage_errors(place):
        entry = _storage(place).info(place.path)
        if entry["type"] != "file":
            raise FileNotFoundError(f"{place}: no such file")
        return Status(int(entry["size"] or 0), _stamp(entry))


def map_files(function: Callable[[_Item], _Result], items: Sequence[_Item], place: AnyPath) -> list[_Result]:
    """Apply a function that opens one file below a place to many; remote ones are waited for together."""
    if is_local(place) or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(function, items))


def relative_name(place: AnyPath, root: AnyPath) -> str:
    """Return the path from a folder to a place below it, with forward slashes."""
    return PurePosixPath(str(place.relative_to(root))).as_posix()  # type: ignore[arg-type]


def read_bytes(place: AnyPath) -> bytes:
    """Read a small file; raises OSError."""
    if is_local(place):
        return place.read_bytes()
    with _storage_errors(place):
        return bytes(_storage(place).cat_file(place.path))


def open_to_read(place: AnyPath) -> Any:
    """Open a file for `seek`, `read` and `close`; raises OSError, ValueError for what is done to it once closed."""
    return place.open("rb") if is_local(place) else _RemoteFile(place)


def upload(local: Path, place: UPath) -> None:
    """Let a local file appear at a remote place, whole or not at all; raises OSError."""
    with _storage_errors(place):
        storage = _storage(place)
        if place.protocol in _APPEARS_WHOLE:
            storage.put_file(str(local), place.path)
            return
        hidden = place.parent / f".{secrets.token_hex(8)}.flow.tmp"
        storage.makedirs(place.parent.path, exist_ok=True)
        try:
            storage.put_file(str(local), hidden.path)
            storage.mv(hidden.path, place.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                storage.rm_file(hidden.path)


def remove(place: AnyPath) -> None:
    """Remove a file if it is there; raises OSError."""
    if is_local(place):
        place.unlink(missing_ok=True)
        return
    with _storage_errors(place), contextlib.suppress(FileNotFoundError):
        _fresh(place).rm_file(place.path)


def download(place: UPath, folder: Path) -> Path:
    """Copy a remote file, or the files in a remote folder, into a local folder; returns the copy. Raises OSError."""
    copy = folder / place.name
    with _storage_errors(place):
        storage = _storage(place)
        if storage.isdir(place.path):
            copy.mkdir()
            for name in list_files(place):
                if "/" not in name:
                    storage.get_file((place / name).path, str(copy / name))
        else:
            storage.get_file(place.path, str(copy))
    return copy


def staging_folder() -> Path:
    """Return this user's folder for what is on its way to or from a remote storage; it is there."""
    folder = Path(tempfile.gettempdir(), f"flow-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it, or set TMPDIR to another folder")
    return folder


class _RemoteFile:
    """A remote file: blocks of it are kept, so that a file's directory and a window of it cost a few requests."""

    def __init__(self, place: UPath) -> None:
        self._place = place
        with _storage_errors(place):
            self._file = _storage(place).open(place.path, "rb", block_size=_BLOCK, cache_type="blockcache")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        with _storage_errors(self._place):
            return bytes(self._file.read(size))

    def close(self) -> None:
        self._file.close()


def _storage(place: UPath) -> Any:
    """Return the file system of a place; processes and threads each have their own, which its own attribute forgets."""
    import fsspec

    return fsspec.filesystem(place.protocol, **place.storage_options)


def _fresh(place: UPath) -> Any:
    """Return the file system of a place with its listings forgotten: other processes may have written since."""
    storage = _storage(place)
    storage.invalidate_cache()
    return storage


def _stamp(entry: dict[str, Any]) -> str:
    return next((str(entry[name]) for name in _STAMPS if entry.get(name)), "")


@contextlib.contextmanager
def _storage_errors(place: AnyPath) -> Iterator[None]:
    """Turn what storages raise, each its own, into StorageError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except ValueError as error:
        if "closed" in str(error):
            raise
        raise StorageError(place, one_line(error)) from error
    except Exception as error:  # of the storage's own classes
        raise StorageError(place, one_line(error)) from error
