"""Files that appear whole or not at all: written under a temporary name, synced, then renamed.

A temporary file is locked while its process lives. So the files that dead processes left are known, and are removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from flow_cache.errors import CacheWriteError
from flow_cache.storage.lock import try_lock
from flow_cache.storage.paths import is_local, staging_folder

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

_TEMPORARY_SUFFIX = ".flow.tmp"
_FOLDER_SUFFIX = ".d"  # after that of the temporary file that guards a folder


def temporary_files(root: AnyPath) -> Iterator[Path]:
    """Iterate the temporary files of writers, of live and of dead processes.

    Args:
        root: the folder to search, with its sub-folders; for a URL, the local staging folder is searched.
    """
    for folder, _, names in os.walk(root if is_local(root) else staging_folder()):
        for name in names:
            if _is_temporary(name):
                yield Path(folder, name)


def remove_stale_temporaries(root: AnyPath) -> int:
    """Remove the temporary files that dead processes left below a folder; returns how many."""
    return sum(_remove_if_stale(path) for path in temporary_files(root))


@contextlib.contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """Give an empty hidden folder, which is removed in the end; folders that dead processes left are removed first.

    A locked file beside the folder shows that its process lives. It is made before the folder and removed after it.

    Args:
        parent: where the folder is made; it must exist.

    Raises:
        CacheWriteError: the folder cannot be made.
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


def probe_writable(folder: AnyPath) -> None:
    """Create a folder and, for a moment, a file in it, to find out early whether that works.

    Raises:
        CacheWriteError: it does not.
    """
    try:
        if is_local(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path, file = _create_temporary(folder)
            file.close()
            path.unlink()
        else:
            probe = folder / f".{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
            write_atomically(probe, b"probe")
            probe.unlink(missing_ok=True)
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


def write_atomically(path: AnyPath, data: bytes) -> None:
    """Write a small file whole or not at all.

    Raises:
        CacheWriteError: the disk or the storage refuses.
    """
    try:
        with PendingFile(path) as pending:
            pending.file.write(data)
            pending.publish()
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error


@contextlib.contextmanager
def replacing_file(target: AnyPath) -> Iterator[Path]:
    """Give a temporary file to be written by its path; if all goes well it takes the target's place, synced.

    Args:
        target: the file to be replaced. The temporary name has the same suffix, for libraries that choose a format by
            it.

    Raises:
        CacheWriteError: in place of any OSError, also of one inside the block. Nothing is left then.
    """
    try:
        with PendingFile(target, target.suffix) as pending:
            yield pending.path
            pending.publish()
    except OSError as error:
        raise CacheWriteError.from_os_error(target, error) from error


class PendingFile:
    """A temporary file that is going to take a target's place; as a context manager it is discarded in the end.

    Every method raises OSError.

    Attributes:
        path: where the file is now.
        file: open for writing and reading, and locked. The lock ends with the process, however that ends, so that
            other processes know which files are left over.
    """

    def __init__(self, target: AnyPath, suffix: str = "") -> None:
        self._target = target
        # Only inside one folder is a rename a single step. What goes to a remote storage starts in the staging folder.
        folder = target.parent if is_local(target) else staging_folder()
        self.path, self.file = _create_temporary(folder, suffix)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.discard()

    def publish(self) -> None:
        """Let it appear under the target's name, once all of it is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if sys.platform == "win32":  # an open file cannot be renamed there
            self.file.close()
        if is_local(self._target):
            self.path.replace(self._target)
            sync_folder(self._target.parent)
        else:
            self._target.upload(self.path)
            self.path.unlink()
        self.file.close()

    def discard(self) -> None:
        """Remove it unless it was published; harmless when repeated."""
        with contextlib.suppress(OSError):  # a full disk may refuse the last buffer, which is not needed
            self.file.close()
        self.path.unlink(missing_ok=True)


def _create_temporary(folder: Path, suffix: str = "") -> tuple[Path, BinaryIO]:
    """Create a temporary file and lock it."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}{suffix}"
        file = path.open("xb+")
        # A cleaner may have come between creation and lock; then the name is gone.
        if try_lock(file) and path.exists():
            return path, file
        file.close()


def _is_temporary(name: str) -> bool:
    return re.fullmatch(r"\..*\.flow\.tmp(\.\w+)?", name) is not None


def _remove_if_stale(path: Path) -> bool:
    """Remove a temporary file whose process is dead."""
    try:
        with path.open("rb+") as file:
            if not try_lock(file):
                return False  # its writer lives
            path.unlink()
            return True
    except FileNotFoundError:
        return False  # renamed or removed meanwhile
    except PermissionError:
        return False  # another user's, or still open (Windows)
