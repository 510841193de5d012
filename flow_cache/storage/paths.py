"""Local paths and URLs behind the same methods: `as_path` gives a `pathlib.Path` or a `RemotePath`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flow_cache.errors import ArgumentError, one_line
from flow_cache.runtime import working_folder_deleted

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

    from flow_cache.storage.remote import RemotePath

    AnyPath = Path | RemotePath

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_LOCAL = frozenset({"file", "local"})
_OF_ONE_PROCESS = frozenset({"memory"})
_THREADS = 16
# What a storage may say of a file that changes with its contents, best first; FTP says `modify`.
_STAMPS = [
    "ETag",
    "etag",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "modify",
    "created",
]


class Status(NamedTuple):
    """What a listing says about a file."""

    size: int
    stamp: str
    """Another one if the file has been written anew: the time of that in nanoseconds, or the storage's ETag."""
    inode: tuple[int, int] | None = None
    """Device and number of a local file, the same under all its names; None where there are no such numbers."""

    @classmethod
    def of(cls, status: os.stat_result) -> Status:
        """Return that of a local file from what the system says about it."""
        inode = (status.st_dev, status.st_ino) if status.st_ino else None
        return cls(status.st_size, str(status.st_mtime_ns), inode)


def as_path(where: str | os.PathLike[str] | AnyPath | UPath) -> AnyPath:
    """Return the path that a path or URL (`scheme://...`) names.

    Args:
        where: a local path; a URL that fsspec knows, or a UPath; what this has returned stays as it is.

    Returns:
        A `pathlib.Path`, also for a URL `file://...`, or a `RemotePath`, which has the same methods.

    Raises:
        ArgumentError: the URL is unusable, or needs a package that is not installed.

    >>> from flow_cache import as_path
    >>> as_path("videos/a.avi"), as_path("s3://bucket/videos").name  # doctest: +ELLIPSIS
    (...Path('videos/a.avi'), 'videos')
    """
    if isinstance(where, str):
        if "://" not in where:
            return Path(where)
    elif isinstance(where, os.PathLike):
        return Path(where)
    try:
        from flow_cache.storage.remote import RemotePath  # fsspec takes long to import, and few need it

        if not isinstance(where, str):
            return where if isinstance(where, RemotePath) else RemotePath(where)
        path = RemotePath(where.rstrip("/") if where.split("://", 1)[1].strip("/") else where)
        if path.protocol in _LOCAL:
            return Path(path.path)
        path.open_storage()  # so that a missing package is found out at once
    except ImportError as error:
        raise ArgumentError(f"{where}: needs a package for such URLs ({one_line(error)})") from error
    except Exception as error:  # of the storage's own classes
        raise ArgumentError(f"{where}: cannot be used ({one_line(error)})") from error
    return path


def absolute(where: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """Return the path that a path or URL names, as an absolute one.

    Raises:
        ArgumentError: a relative path, and the working folder has been deleted.
    """
    path = as_path(where)
    if is_local(path) and not path.is_absolute() and working_folder_deleted():
        raise ArgumentError(
            f"the working folder has been deleted: change to another, or give an absolute path instead of {path}"
        )
    return path.absolute()


def is_local(path: AnyPath) -> TypeIs[Path]:
    """Tell whether a path is a local one."""
    return isinstance(path, Path)


def is_shared(path: AnyPath) -> bool:
    """Tell whether other processes see what is there, unlike `memory://`."""
    return is_local(path) or path.protocol not in _OF_ONE_PROCESS


def list_files(root: AnyPath) -> dict[str, Status]:
    """List all files below a folder: relative paths with forward slashes, sorted. Links to folders are not followed."""
    found: dict[str, Status] = {}
    if is_local(root):
        for folder, _, names in os.walk(root):
            prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
            for name in names:
                try:
                    found[prefix + name] = status_of(Path(folder, name))
                except OSError:  # a broken link: opening it raises a clear error later
                    found[prefix + name] = Status(0, "")
    else:
        found = {name: _status(details) for name, details in root.files().items()}
    return dict(sorted(found.items()))


def status_of(path: AnyPath) -> Status:
    """Return the status of one file; raises OSError, FileNotFoundError if there is none."""
    if not is_local(path):
        return _status(path.details())
    return Status.of(path.stat())


def map_files(function: Callable[[_Item], _Result], items: Sequence[_Item], root: AnyPath) -> list[_Result]:
    """Apply a function that opens one file below a root to many items; remote files are waited for together."""
    if is_local(root) or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(function, items))


def relative_name(path: AnyPath, root: AnyPath) -> str:
    """Return the path from a folder to a path below it, with forward slashes."""
    return PurePosixPath(str(path.relative_to(root))).as_posix()  # type: ignore[arg-type]


def staging_folder() -> Path:
    """Return this user's folder for what is on its way to or from a remote storage; it is there."""
    folder = Path(tempfile.gettempdir(), f"flow-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it, or set TMPDIR to another folder")
    return folder


def _status(details: dict[str, Any]) -> Status:
    stamp = next((str(details[name]) for name in _STAMPS if details.get(name)), "")
    return Status(int(details["size"] or 0), stamp)
