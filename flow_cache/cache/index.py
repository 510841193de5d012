"""The data set's index: one row per cache file, so that a training run never opens files to count frames.

`index.csv` is only a shortcut. Reading compares it with what lies in the folder: a row counts while its file has the
size and the time (or ETag) that the row says; every other file is opened. A run killed before it wrote the index, or
one that writes at the same time, therefore costs time at the next reading, never correctness.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from flow_cache.cache.naming import CACHE_SUFFIX
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import CacheFileError
from flow_cache.storage.atomic import write_atomically
from flow_cache.storage.paths import Status, as_path, list_files, map_files

if TYPE_CHECKING:
    import os

    from flow_cache.storage.paths import AnyPath

INDEX_NAME = "index.csv"


@dataclass(frozen=True)
class IndexEntry:
    """What one row of the index says about a cache file."""

    video: str
    """Relative path of the video with its suffix, forward slashes."""
    cache_file: str
    """Relative path of the cache file, forward slashes."""
    num_frames: int
    num_fields: int
    height: int
    width: int
    has_rgb: bool
    fps: float
    bound: float
    step: int
    method: str
    clip_fraction: float
    bytes: int
    """Size of the cache file."""
    stamp: str = field(compare=False)
    """What tells that the file has been written anew, see `flow_cache.storage.paths.Status`."""


def read_index(root: str | os.PathLike[str] | AnyPath) -> list[IndexEntry]:
    """List a cache's contents, sorted by video; written nowhere.

    Raises CacheFileError if the folder is missing or a file that the index does not cover is damaged.
    """
    entries, damaged = scan_cache(root)
    if damaged:
        raise damaged[0]
    return entries


def rebuild_index(root: str | os.PathLike[str] | AnyPath) -> list[IndexEntry]:
    """Bring `index.csv` up to date, atomically, and return its rows.

    Raises CacheFileError if a cache file is damaged, CacheWriteError if the index cannot be written.
    """
    entries = read_index(root)
    _write_index(as_path(root), entries)
    return entries


def refresh_index(root: str | os.PathLike[str] | AnyPath) -> list[CacheFileError]:
    """Bring `index.csv` up to date, atomically, and return the errors of the files that cannot be opened.

    Several processes may do so at once: the last one's index stays, and the next reader opens what it has missed.
    """
    entries, damaged = scan_cache(root)
    _write_index(as_path(root), entries)
    return damaged


def scan_cache(root: str | os.PathLike[str] | AnyPath) -> tuple[list[IndexEntry], list[CacheFileError]]:
    """List a cache's contents, sorted by video, and the errors of the files that cannot be opened."""
    folder = as_path(root)
    try:
        if not folder.is_dir():
            raise CacheFileError(folder, "no such cache folder")
        known = _load(folder / INDEX_NAME)
        files = {name: status for name, status in list_files(folder).items() if _is_cache_file(name)}
    except OSError as error:
        raise CacheFileError(folder, error.strerror or str(error)) from error

    def entry_of(name: str) -> IndexEntry | CacheFileError:
        entry = known.get(name)
        if entry is not None and (entry.bytes, entry.stamp) == files[name]:
            return entry
        try:
            return read_entry(folder, name, files[name])
        except CacheFileError as error:
            return error

    found = map_files(entry_of, list(files), folder)
    entries = [entry for entry in found if isinstance(entry, IndexEntry)]
    damaged = [error for error in found if isinstance(error, CacheFileError)]
    return sorted(entries, key=lambda entry: (entry.video, entry.cache_file)), damaged


def indexed_files(root: str | os.PathLike[str] | AnyPath) -> list[str]:
    """List the cache files that `index.csv` speaks of, whether they are there or not."""
    return list(_load(as_path(root) / INDEX_NAME))


def cache_files_of(cache: AnyPath) -> dict[str, AnyPath]:
    """Find what a cache consists of: a folder's files, or the one file that it is."""
    return cache_files(cache) if cache.is_dir() else {cache.name: cache}


def cache_files(root: AnyPath) -> dict[str, AnyPath]:
    """Find the cache files below a folder, sorted by relative path with forward slashes; raises CacheFileError."""
    try:
        return {name: root / name for name in list_files(root) if _is_cache_file(name)}
    except OSError as error:
        raise CacheFileError(root, error.strerror or str(error)) from error


def read_entry(root: AnyPath, name: str, status: Status) -> IndexEntry:
    """Make a row from a cache file itself, of which a listing said `status` before; raises CacheFileError."""
    with CacheReader(root / name) as reader:
        meta = reader.meta
        return IndexEntry(
            video=meta.source.path,
            cache_file=name,
            num_frames=meta.frames,
            num_fields=meta.fields,
            height=meta.height,
            width=meta.width,
            has_rgb=meta.has_rgb,
            fps=meta.fps,
            bound=meta.bound,
            step=meta.step,
            method=meta.method,
            clip_fraction=meta.clip_fraction,
            bytes=reader.file_size,
            stamp=status.stamp,
        )


def _is_cache_file(name: str) -> bool:
    return name.endswith(CACHE_SUFFIX) and not name.rpartition("/")[2].startswith(".")


def _write_index(root: AnyPath, entries: list[IndexEntry]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [column.name for column in fields(IndexEntry)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    write_atomically(root / INDEX_NAME, text.getvalue().encode("utf-8", "surrogateescape"))


def _load(path: AnyPath) -> dict[str, IndexEntry]:
    """Read the rows of an index; nothing if it is missing or not readable as one."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        entries = [_parse(row) for row in rows]
    except (OSError, csv.Error, KeyError, ValueError, TypeError):
        return {}  # a shortcut only: the files themselves are read instead
    return {entry.cache_file: entry for entry in entries}


def _parse(row: dict[str, str]) -> IndexEntry:
    values: dict[str, Any] = {}
    for column in fields(IndexEntry):
        text = row[column.name]
        if column.type == "bool":
            values[column.name] = {"True": True, "False": False}[text]
        else:
            values[column.name] = {"str": str, "int": int, "float": float}[str(column.type)](text)
    return IndexEntry(**values)
