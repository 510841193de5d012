"""The data set's index: one row per cache file, so that a training run never opens files to count frames.

`index.csv` is only a shortcut. Reading compares it with what lies in the folder: a row counts while its file
has the size that the row says and is not newer than the index; every other file is opened. A run killed
before it wrote the index therefore costs time at the next reading, never correctness.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from flow_cache.container import CACHE_SUFFIX, CacheReader
from flow_cache.errors import CacheFileError
from flow_cache.writer import probe_writable, write_atomically

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


def read_index(root: str | os.PathLike[str]) -> list[IndexEntry]:
    """List a cache's contents, sorted by video; written nowhere.

    Raises CacheFileError if the folder is missing or a file that the index does not cover is damaged.
    """
    entries, damaged = scan_cache(root)
    if damaged:
        raise damaged[0]
    return entries


def rebuild_index(root: str | os.PathLike[str]) -> list[IndexEntry]:
    """Bring `index.csv` up to date, atomically, and return its rows.

    Raises CacheFileError if a cache file is damaged, CacheWriteError if the index cannot be written.
    """
    entries, damaged, began = _scan_now(Path(root))
    if damaged:
        raise damaged[0]
    _write_index(Path(root), entries, began)
    return entries


def refresh_index(root: str | os.PathLike[str]) -> list[CacheFileError]:
    """Bring `index.csv` up to date, atomically, and return the errors of the files that cannot be opened.

    Several processes may do so at once. The last one's index stays; it bears the time at which its scan began, so that
    the next reader opens whatever another process has written since.
    """
    entries, damaged, began = _scan_now(Path(root))
    _write_index(Path(root), entries, began)
    return damaged


def scan_cache(root: str | os.PathLike[str]) -> tuple[list[IndexEntry], list[CacheFileError]]:
    """List a cache's contents, sorted by video, and the errors of the files that cannot be opened."""
    root = Path(root)
    if not root.is_dir():
        raise CacheFileError(root, "no such cache folder")
    known, written = _load(root / INDEX_NAME)
    entries: list[IndexEntry] = []
    damaged: list[CacheFileError] = []
    for name, path in cache_files(root).items():
        try:
            status = path.stat()
            entry = known.get(name)
            if entry is None or entry.bytes != status.st_size or status.st_mtime_ns > written:
                entry = read_entry(root, name)
            entries.append(entry)
        except OSError as error:
            damaged.append(CacheFileError(path, error.strerror or str(error)))
        except CacheFileError as error:
            damaged.append(error)
    return sorted(entries, key=lambda entry: (entry.video, entry.cache_file)), damaged


def indexed_files(root: str | os.PathLike[str]) -> list[str]:
    """List the cache files that `index.csv` speaks of, whether they are there or not."""
    return list(_load(Path(root, INDEX_NAME))[0])


def cache_files(root: Path) -> dict[str, Path]:
    """Find the cache files below a folder: relative path with forward slashes to path, sorted."""
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(CACHE_SUFFIX) and not name.startswith(".")
    ]
    return {path.relative_to(root).as_posix(): path for path in sorted(found)}


def read_entry(root: Path, name: str) -> IndexEntry:
    """Make a row from a cache file itself; raises CacheFileError."""
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
        )


def _scan_now(root: Path) -> tuple[list[IndexEntry], list[CacheFileError], int]:
    """Scan a cache; returns also when that began, by the clock of its file system."""
    if not root.is_dir():
        raise CacheFileError(root, "no such cache folder")
    began = probe_writable(root)
    return *scan_cache(root), began


def _write_index(root: Path, entries: list[IndexEntry], began: int) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(IndexEntry)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    path = root / INDEX_NAME
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
    with contextlib.suppress(FileNotFoundError):
        os.utime(path, ns=(began, began))


def _load(path: Path) -> tuple[dict[str, IndexEntry], int]:
    """Read the rows of an index and when it was written; nothing if it is missing or not readable as one."""
    try:
        written = path.stat().st_mtime_ns
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        entries = [_parse(row) for row in rows]
    except (OSError, csv.Error, KeyError, ValueError, TypeError):
        return {}, 0  # a shortcut only: the files themselves are read instead
    return {entry.cache_file: entry for entry in entries}, written


def _parse(row: dict[str, str]) -> IndexEntry:
    values: dict[str, Any] = {}
    for field in fields(IndexEntry):
        text = row[field.name]
        if field.type == "bool":
            values[field.name] = {"True": True, "False": False}[text]
        else:
            values[field.name] = {"str": str, "int": int, "float": float}[str(field.type)](text)
    return IndexEntry(**values)
