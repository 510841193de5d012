"""Files and folders at URLs that fsspec knows, such as `s3://bucket/folder`.

Credentials, endpoints and the like come from the storage's own environment variables and from fsspec's configuration
files.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from upath.extensions import ProxyUPath

from flow_cache.errors import StorageError, one_line

# There an object appears once all of it has arrived; elsewhere a name may show a file that is still being written.
_APPEARS_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
_BLOCK = 1 << 20  # bytes that are read at a time from a remote file


class RemotePath(ProxyUPath):
    """A file or folder at a URL, with the methods of `pathlib.Path`.

    Names, parents and joining are those of universal_pathlib; what asks the storage is below. Whether something is
    there is never answered from an earlier listing, since other processes may have written; opening what has just been
    listed takes the size from there, which saves a request. Whatever a storage raises comes out as a StorageError,
    which is an OSError; a missing file as FileNotFoundError.

    >>> from flow_cache import as_path
    >>> path = as_path("memory://videos/walk/a.avi")
    >>> path.name, path.parent.name, path.exists()
    ('a.avi', 'walk', False)
    """

    @property
    def fs(self) -> Any:
        """The file system of this process: one that UPath keeps would go along into forked workers and break there."""
        return fsspec.filesystem(self.protocol, **self.storage_options)

    def __str__(self) -> str:
        """Return the URL; without user and password, which stand among the storage options."""
        text, options = super().__str__(), self.storage_options
        if "host" not in options:
            return text
        port = f":{options['port']}" if "port" in options else ""
        return text.replace(":///", f"://{options['host']}{port}/", 1)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there is a file or folder."""
        with self._storage(fresh=True) as storage:
            return bool(storage.exists(self.path))

    def is_dir(self) -> bool:
        """Tell whether there is a folder; on storages without folders, whether anything lies below that name."""
        with self._storage(fresh=True) as storage:
            return bool(storage.isdir(self.path))

    def is_file(self) -> bool:
        """Tell whether there is a file."""
        with self._storage(fresh=True) as storage:
            return bool(storage.isfile(self.path))

    def details(self) -> dict[str, Any]:
        """Return what the storage says about a file; raises FileNotFoundError if there is none."""
        with self._storage() as storage:
            details: dict[str, Any] = storage.info(self.path)
        if details["type"] != "file":
            raise FileNotFoundError(f"{self}: no such file")
        return details

    def files(self) -> dict[str, dict[str, Any]]:
        """Find all files below a folder: what the storage says about each, by relative path."""
        base = self.path.rstrip("/") + "/"
        with self._storage(fresh=True) as storage:
            found = storage.find(self.path, detail=True).items()
        return {name.removeprefix(base): details for name, details in found if name.startswith(base)}

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:
        """Find what lies directly in a folder and whose name matches."""
        with self._storage(fresh=True) as storage:
            names = [PurePosixPath(name).name for name in storage.ls(self.path, detail=False)]
        yield from (self / name for name in fnmatch.filter(names, pattern))

    def read_bytes(self) -> bytes:
        """Read a small file, in one request."""
        with self._storage() as storage:
            return bytes(storage.cat_file(self.path))

    def open(self, mode: str = "r") -> Any:  # type: ignore[override]
        """Open a file for `seek`, `read` and `close`, in the mode `rb`; once closed it raises ValueError."""
        if mode != "rb":
            raise ValueError(f"{self}: can be opened in the mode rb only, got {mode}")
        return _RemoteFile(self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file; some storages do not say whether it was there."""
        with self._storage(fresh=True) as storage:
            try:
                storage.rm_file(self.path)
            except Exception:
                if not missing_ok:
                    raise
                with contextlib.suppress(FileNotFoundError):
                    storage.info(self.path)
                    raise

    def upload(self, local: Path) -> None:
        """Let a local file appear here, whole or not at all."""
        with self._storage() as storage:
            if self.protocol in _APPEARS_WHOLE:
                storage.put_file(str(local), self.path)
                return
            self._make_parent(storage)
            hidden = (self.parent / f".{secrets.token_hex(8)}.flow.tmp").path
            try:
                storage.put_file(str(local), hidden)
                storage.mv(hidden, self.path)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error says more
                    storage.rm_file(hidden)
                raise

    def download(self, folder: Path) -> Path:
        """Copy a file, or the files directly in a folder, into a local folder; returns the copy."""
        copy = folder / self.name
        with self._storage() as storage:
            if storage.isdir(self.path):
                copy.mkdir()
                for name in self.files():
                    if "/" not in name:
                        storage.get_file((self / name).path, str(copy / name))
            else:
                storage.get_file(self.path, str(copy))
        return copy

    def _make_parent(self, storage: Any) -> None:
        parent = self.parent.path
        try:
            storage.makedirs(parent, exist_ok=True)
        except Exception:
            storage.invalidate_cache()
            if not storage.isdir(parent):  # else another process was quicker
                raise

    @contextlib.contextmanager
    def _storage(self, *, fresh: bool = False) -> Iterator[Any]:
        with self.errors_translated():
            storage = self.fs
            if fresh:
                storage.invalidate_cache()
            yield storage

    @contextlib.contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Turn what storages raise, each its own, into StorageError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except ValueError as error:
            if "closed" in str(error):
                raise
            raise StorageError(self, one_line(error)) from error
        except Exception as error:  # of the storage's own classes
            raise StorageError(self, one_line(error)) from error


class _RemoteFile:
    """A remote file: blocks of it are kept, so that a file's directory and a window of it cost a few requests."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        with path.errors_translated():
            self._file = path.fs.open(path.path, "rb", block_size=_BLOCK, cache_type="blockcache")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        with self._path.errors_translated():
            return bytes(self._file.read(size))

    def close(self) -> None:
        self._file.close()
