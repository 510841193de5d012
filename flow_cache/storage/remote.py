"""Files and folders at URLs that fsspec knows, such as `s3://bucket/folder`.

Credentials, endpoints and the like come from the storage's own environment variables and from fsspec's configuration
files.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Self

import fsspec
from upath.extensions import ProxyUPath

from flow_cache.errors import StorageError, one_line

# There an object appears once all of it has arrived; elsewhere a name may show a file that is still being written.
_APPEARS_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
_WEB = frozenset({"http", "https"})
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

    def open_storage(self) -> Any:
        """Return fsspec's file system for this process: one that UPath keeps would break in forked workers."""
        return fsspec.filesystem(self.protocol, **self.storage_options)

    @property
    def fs(self) -> Any:
        """The file system, with its errors translated."""
        return _Translated(self, _Translated(self, self).open_storage())

    @property
    def _fresh(self) -> Any:
        """The file system, without its old listings."""
        storage = self.fs
        storage.invalidate_cache()
        return storage

    def __str__(self) -> str:
        """Return the URL; without user and password, which stand among the storage options."""
        text, options = super().__str__(), self.storage_options
        if "host" not in options:
            return text
        port = f":{options['port']}" if "port" in options else ""
        return text.replace(":///", f"://{options['host']}{port}/", 1)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there is a file or folder."""
        return bool(self._fresh.exists(self.path))

    def is_dir(self) -> bool:
        """Tell whether there is a folder; on storages without folders, whether anything lies below that name."""
        storage = self._fresh
        if self.protocol in _WEB:
            # fsspec takes a page with links for a folder, and loads whatever is there to look for them: a whole video.
            try:
                if storage.info(self.path).get("mimetype") != "text/html":
                    return False
            except FileNotFoundError:
                return False
        return bool(storage.isdir(self.path))

    def is_file(self) -> bool:
        """Tell whether there is a file."""
        return bool(self._fresh.isfile(self.path))

    def details(self) -> dict[str, Any]:
        """Return what the storage says about a file; raises FileNotFoundError if there is none."""
        details: dict[str, Any] = self.fs.info(self.path)
        if details["type"] != "file":
            raise FileNotFoundError(f"{self}: no such file")
        return details

    def files(self) -> dict[str, dict[str, Any]]:
        """Find all files below a folder: what the storage says about each, by relative path."""
        base = self.path.rstrip("/") + "/"
        found = self._fresh.find(self.path, detail=True).items()
        return {name.removeprefix(base): details for name, details in found if name.startswith(base)}

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:
        """Find what lies directly in a folder and whose name matches."""
        names = [PurePosixPath(name).name for name in self._fresh.ls(self.path, detail=False)]
        return (self / name for name in fnmatch.filter(names, pattern))

    def read_bytes(self) -> bytes:
        """Read a small file."""
        return bytes(self.fs.cat_file(self.path))

    def open(self, mode: str = "r") -> Any:  # type: ignore[override]
        """Open a file, in the mode `rb` only; blocks of it are kept, so that a window of fields costs few requests."""
        if mode != "rb":
            raise ValueError(f"{self}: can be opened in the mode rb only, got {mode}")
        return _Translated(self, self.fs.open(self.path, mode, block_size=_BLOCK, cache_type="blockcache"))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file; some storages do not say whether it was there."""
        try:
            self._fresh.rm_file(self.path)
        except OSError:
            if not missing_ok or self.exists():
                raise

    def upload(self, local: Path) -> None:
        """Let a local file appear here, whole or not at all."""
        storage = self.fs
        if self.protocol in _APPEARS_WHOLE:
            storage.put_file(str(local), self.path)
            return
        hidden = (self.parent / f".{secrets.token_hex(8)}.flow.tmp").path
        try:
            storage.makedirs(self.parent.path, exist_ok=True)
        except OSError:
            if not self.parent.is_dir():  # else another process was quicker
                raise
        try:
            storage.put_file(str(local), hidden)
            storage.mv(hidden, self.path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error says more
                storage.rm_file(hidden)
            raise

    def download(self, folder: Path) -> Path:
        """Copy a file, or the files directly in a folder, into a local folder; returns the copy."""
        copy, storage = folder / self.name, self.fs
        if self.is_dir():
            copy.mkdir()
            for name in self.files():
                if "/" not in name:
                    storage.get_file((self / name).path, str(copy / name))
        else:
            storage.get_file(self.path, str(copy))
        return copy


class _Translated:
    """The methods of a file system or of an open file; what they raise, each storage its own, becomes StorageError."""

    def __init__(self, path: RemotePath, wrapped: Any) -> None:
        self._path = path
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._call, getattr(self._wrapped, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except FileNotFoundError:
            raise
        except Exception as error:  # of the storage's own classes
            if isinstance(error, ValueError) and "closed" in str(error):
                raise
            raise StorageError(self._path, one_line(error)) from error
