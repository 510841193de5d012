"""The data set's index: one row per cache file, so that a training run never opens files to count frames.

`index.csv` is only a shortcut. Reading compares it with the files in the folder: a row is valid while its file has the
size and the time (or ETag) that the row says; every other file is opened. If a run is killed before it writes the
index, or another run writes at the same time, the next reading takes longer, but its result is still correct.
"""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from flow_cache.cache.meta import field_runs
from flow_cache.cache.naming import CACHE_SUFFIX
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import CacheFileError
from flow_cache.storage.atomic import write_atomically
from flow_cache.storage.paths import Status, as_path, list_files, map_files
from flow_cache.storage.table import csv_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from flow_cache.storage.paths import AnyPath

INDEX_NAME = "index.csv"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class IndexEntry:
    """What one row of the index says about a cache file.

    Attributes:
        video: relative path of the video, with its suffix and forward slashes.
        cache_file: relative path of the cache file, with forward slashes.
        num_frames: frames of the video that were decoded.
        num_fields: flow fields in the file.
        height, width: size of a field in pixels.
        has_rgb: whether RGB frames are stored.
        fps: frames per second of the video; 0.0 if unknown.
        bound: flow of +-bound pixels per step fills the grey levels.
        step: flow is from frame t to frame t + step.
        method: the flow estimator.
        clip_fraction: share of the flow values beyond the bound, 0 to 1.
        bytes: size of the cache file.
        stamp: changes when the file is written again, see `flow_cache.storage.paths.Status`.
        partial: what the file holds of its video: empty for all of it, `prefix` for the frames before its damage,
            `gaps` for the good frames with others missing in between, `unknown` in an index of an earlier version.
        gaps: the frames before which others are missing, with spaces between; see `runs`.
        source_stamp: what `stamp` is, of the video when it was last found to be the one that the file was made from;
            empty if not known. It stands here and not in the file, whose bytes do not depend on when a video was
            copied.
        source_sha256: hash of the video's content, as `Source.sha256`; empty if none was computed, `unknown` in an
            index of an earlier version.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, cache_path, read_index
        >>> meta = CacheMeta(Source("walk/a.avi"), "tvl1")
        >>> with CacheWriter(cache_path("cache", "walk/a.avi"), meta) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 10), 128, np.uint8))
        >>> entry = read_index("cache")[0]
        >>> entry.video, entry.num_fields, (entry.height, entry.width)
        ('walk/a.avi', 3, (8, 10))
    """

    video: str
    cache_file: str
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
    stamp: str = field(compare=False)
    partial: str = ""
    gaps: str = ""
    source_stamp: str = field(default="", compare=False)
    source_sha256: str = field(default="", compare=False)

    @property
    def runs(self) -> tuple[range, ...]:
        """The numbers of the flow fields, in runs that no gap of the video interrupts."""
        return field_runs(self.num_frames, self.step, map(int, self.gaps.split()))

    def require_same(self, reader: CacheReader) -> None:
        """Refuse an open cache file that is not the one that this row was made from.

        Raises:
            CacheFileError: another video's file, or one that was made anew, stands in its place; with what differs.

        Example:
            >>> import numpy as np
            >>> from flow_cache import CacheMeta, CacheReader, CacheWriter, Source, read_index
            >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
            ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
            >>> entry = read_index("cache")[0]
            >>> with CacheReader("cache/a.flow.zip") as reader:
            ...     entry.require_same(reader)
        """
        found = _describe(reader, self.cache_file, self.stamp)
        if self.partial == _UNKNOWN:  # the index is of an earlier version
            found = replace(found, partial=self.partial, gaps=self.gaps)
        if found != self:
            differing = [
                f"{column.name} {getattr(found, column.name)}, expected {getattr(self, column.name)}"
                for column in fields(self)
                if column.compare and getattr(found, column.name) != getattr(self, column.name)
            ]
            reason = f"was replaced since the index was read ({'; '.join(differing)}); run the command again"
            raise CacheFileError(reader.path, reason)


def read_index(root: str | os.PathLike[str] | AnyPath) -> list[IndexEntry]:
    """List what a cache holds, without writing anything.

    Args:
        root: the cache folder, a path or a URL.

    Returns:
        An entry for each cache file, sorted by video.

    Raises:
        CacheFileError: the folder is missing, or a file that has no valid row in the index is damaged.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, cache_path, read_index
        >>> for video in ("run.avi", "walk.avi"):
        ...     with CacheWriter(cache_path("cache", video), CacheMeta(Source(video), "tvl1")) as writer:
        ...         writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> [entry.video for entry in read_index("cache")]
        ['run.avi', 'walk.avi']
    """
    entries, damaged = scan_cache(root)
    if damaged:
        raise damaged[0]
    return entries


def rebuild_index(root: str | os.PathLike[str] | AnyPath) -> list[IndexEntry]:
    """Bring `index.csv` up to date and return its rows; the file is replaced in one step.

    Raises:
        CacheFileError: the folder is missing, or a cache file is damaged.
        CacheWriteError: the index cannot be written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from flow_cache import CacheMeta, CacheWriter, Source, rebuild_index
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> len(rebuild_index("cache")), Path("cache/index.csv").exists()
        (1, True)
    """
    entries = read_index(root)
    _write_index(as_path(root), entries)
    return entries


def scan_cache(root: str | os.PathLike[str] | AnyPath) -> tuple[list[IndexEntry], list[CacheFileError]]:
    """List what a cache holds, sorted by video, and the errors of the files that cannot be opened."""
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
        if entry is not None and _is_valid(entry, files[name]):
            return entry
        try:
            return read_entry(folder, name, files[name])
        except CacheFileError as error:
            return error

    found = map_files(entry_of, list(files), folder)
    entries = [entry for entry in found if isinstance(entry, IndexEntry)]
    damaged = [error for error in found if isinstance(error, CacheFileError)]
    return sorted(entries, key=lambda entry: (entry.video, entry.cache_file)), damaged


def refresh_index(
    root: str | os.PathLike[str] | AnyPath,
    source_stamps: Mapping[str, str] | None = None,
    *,
    scan: Callable[[AnyPath], tuple[list[IndexEntry], list[CacheFileError]]] = scan_cache,
) -> list[CacheFileError]:
    """Bring `index.csv` up to date and return the errors of the files that cannot be opened.

    Several processes may do so at once: the last index stays, and the next reader opens the files that it lacks.

    Args:
        root: the cache folder, a path or a URL.
        source_stamps: what is newly known of the videos, by cache file.
        scan: lists what the folder holds.

    Raises:
        CacheWriteError: the index cannot be written.
    """
    root = as_path(root)
    entries, damaged = scan(root)
    stamps = source_stamps or {}

    def completed(entry: IndexEntry) -> IndexEntry:
        if _UNKNOWN in (entry.partial, entry.source_sha256):
            with contextlib.suppress(CacheFileError):  # the next reading will find it damaged
                found = read_entry(root, entry.cache_file, Status(entry.bytes, entry.stamp))
                entry = replace(
                    entry, partial=found.partial, gaps=found.gaps, source_sha256=found.source_sha256
                )
        return replace(entry, source_stamp=stamps.get(entry.cache_file, entry.source_stamp))

    _write_index(root, map_files(completed, entries, root))
    return damaged


def indexed_files(root: str | os.PathLike[str] | AnyPath) -> list[str]:
    """List the cache files that `index.csv` names, whether they exist or not."""
    return list(_load(as_path(root) / INDEX_NAME))


def known_sources(root: AnyPath, files: Mapping[str, Status]) -> dict[str, str]:
    """Return the stamps of the videos that cache files were made from, as far as the index knows them.

    Args:
        root: the cache folder.
        files: what a listing says of the cache files, by name; rows of other ones are not believed.
    """
    return {
        name: entry.source_stamp
        for name, entry in _load(root / INDEX_NAME).items()
        if entry.source_stamp and name in files and _is_valid(entry, files[name])
    }


def _is_valid(entry: IndexEntry, status: Status) -> bool:
    """Tell whether a row is about the file as it is now."""
    return (entry.bytes, entry.stamp) == (status.size, status.stamp)


def cache_files_of(cache: AnyPath) -> dict[str, AnyPath]:
    """Find the files of a cache: those of a folder, or the single file itself; by name."""
    return cache_files(cache) if cache.is_dir() else {cache.name: cache}


def cache_files(root: AnyPath) -> dict[str, AnyPath]:
    """Find the cache files below a folder, sorted by relative path with forward slashes; raises CacheFileError."""
    return {name: root / name for name in list_cache_files(root)}


def list_cache_files(root: AnyPath) -> dict[str, Status]:
    """List the cache files below a folder, by relative path, and their status; raises CacheFileError."""
    try:
        return {name: status for name, status in list_files(root).items() if _is_cache_file(name)}
    except OSError as error:
        raise CacheFileError(root, error.strerror or str(error)) from error


def read_entry(root: AnyPath, name: str, status: Status) -> IndexEntry:
    """Build a row by opening a cache file.

    Args:
        root: the cache folder.
        name: the file's path relative to it.
        status: what a listing said about the file before it is opened, so that a later change shows.

    Raises:
        CacheFileError: the file is damaged.
    """
    with CacheReader(root / name) as reader:
        return _describe(reader, name, status.stamp)


def _describe(reader: CacheReader, name: str, stamp: str) -> IndexEntry:
    """Build the row of an open cache file."""
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
        stamp=stamp,
        partial=meta.part,
        gaps=" ".join(str(gap.before) for gap in meta.gaps),
        source_sha256=meta.source.sha256,
    )


def _write_index(root: AnyPath, entries: list[IndexEntry]) -> None:
    """Replace `index.csv` in one step; raises CacheWriteError."""
    header = [column.name for column in fields(IndexEntry)]
    write_atomically(root / INDEX_NAME, csv_bytes([header, *(asdict(entry).values() for entry in entries)]))


def _is_cache_file(name: str) -> bool:
    """Tell whether a path is that of a cache file; hidden files are not."""
    return name.endswith(CACHE_SUFFIX) and not name.rpartition("/")[2].startswith(".")


def _load(path: AnyPath) -> dict[str, IndexEntry]:
    """Read the rows of an index by cache file; none if it is missing or cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        entries = [_parse(row) for row in rows]
    except (OSError, csv.Error, KeyError, ValueError, TypeError):
        return {}  # the index is only a shortcut: the files themselves are read instead
    return {entry.cache_file: entry for entry in entries}


def _parse(row: dict[str, str]) -> IndexEntry:
    """Convert the text of each column to the type of its field; raises ValueError or KeyError."""
    values: dict[str, Any] = {"partial": _UNKNOWN, "source_sha256": _UNKNOWN}  # unless the index says more
    for column in fields(IndexEntry):
        if column.name not in row and column.default is not MISSING:
            continue  # an index of an earlier version
        text = row[column.name]
        if column.type == "bool":
            values[column.name] = {"True": True, "False": False}[text]
        else:
            values[column.name] = {"str": str, "int": int, "float": float}[str(column.type)](text)
    entry = IndexEntry(**values)
    if sum(map(len, entry.runs)) != entry.num_fields:
        raise ValueError(f"{entry.gaps!r} are no gaps of {entry.cache_file}")
    return entry
