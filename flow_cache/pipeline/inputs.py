"""Which videos to do: a file, a folder, a list or a manifest becomes relative paths, which are checked.

Every cache file lies below the output folder at its video's relative path, so a hostile list could do harm there.
`cache_path` refuses paths that lead out of the folder, and a list that holds one is refused whole. A video that was
found under an unusable name, or whose cache file another video has, is refused alone: the run goes on without it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from flow_cache.cache.naming import cache_path, unusable_name
from flow_cache.errors import ArgumentError
from flow_cache.storage.paths import absolute, as_path, is_local, relative_name
from flow_cache.video.find import find_videos, is_image_folder, search_videos

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

LIST_SUFFIXES = frozenset({".txt", ".list", ".lst"})
MANIFEST_SUFFIX = ".csv"
MANIFEST_COLUMNS = ("path", "video")


@dataclass(frozen=True)
class Inputs:
    """The videos of a run.

    Attributes:
        root: folder where relative paths start.
        names: the videos' relative paths; no two have the same cache file.
        refused: videos that cannot have a cache file, and why.
        notes: what a search left out, a line each.
    """

    root: AnyPath
    names: list[str]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_videos(
    source: str | os.PathLike[str] | AnyPath,
    *,
    videos: Sequence[str] | None = None,
    root: str | os.PathLike[str] | AnyPath | None = None,
    limit: int | None = None,
    shard: str | None = None,
) -> Inputs:
    """Find the videos of a run.

    Args:
        source: path or URL of a video, a folder of videos (searched recursively), a folder of images, a list (`.txt`,
            one path a line) or a manifest (`.csv` with a column `path` or `video`).
        videos: choose these instead, by their relative paths.
        root: folder where the paths of a list or manifest start; default: where it lies.
        limit: maximum number of videos; the first ones are taken.
        shard: of those, part i of n as `i/n`.

    Raises:
        ArgumentError: there is no video; `videos` or a list holds a path that is absolute, leads out of the folder or
            is hidden (the message names the line).
    """
    part = None if shard is None else parse_shard(shard)
    try:
        return _choose(source, videos, root, limit, part)
    except OSError as error:
        raise ArgumentError(f"{source}: {error.strerror or error}") from error


def _choose(
    source: str | os.PathLike[str] | AnyPath,
    videos: Sequence[str] | None,
    root: str | os.PathLike[str] | AnyPath | None,
    limit: int | None,
    part: tuple[int, int] | None,
) -> Inputs:
    """Do what `choose_videos` does; raises OSError, too."""
    path = _absolute(source)
    if not path.exists():
        raise ArgumentError(f"{source}: no such file or folder")
    listed = path.suffix.lower() in {*LIST_SUFFIXES, MANIFEST_SUFFIX} and path.is_file()
    if root is not None and not listed:
        raise ArgumentError(f"root is for lists and manifests only, and {source} is neither")
    if listed:
        folder = path.parent if root is None else _absolute(root)
        if not folder.is_dir():
            raise ArgumentError(f"root {root}: no such folder")
    else:
        folder = path if path.is_dir() and not is_image_folder(path) else path.parent
    refused: dict[str, str] = {}
    notes: list[str] = []
    if videos is not None:
        names = _safe_names(videos)
        if not names:
            raise ArgumentError("the list of videos is empty")
    elif listed:
        names = read_list(path)
    else:
        found = search_videos(path)
        notes = found.notes
        names = []
        for name in (relative_name(video, folder) for video in found.videos):
            if (reason := unusable_name(name)) is not None:
                refused[name] = reason
            else:
                names.append(name)
        if not found.videos:
            left_out = "".join(f"; {note}" for note in notes)
            raise ArgumentError(
                f"{source}: no videos found (neither video files nor folders of images){left_out}"
            )
    names = names[:limit]
    refused |= _collisions(names)
    names = [name for name in names if name not in refused]
    if part is not None:
        names = _part(names, *part)
        refused = {name: refused[name] for name in _part(refused, *part)}
    return Inputs(folder, names, dict(sorted(refused.items())), notes)


def _absolute(where: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """Return an absolute path, without `.` and `..` if it is local."""
    path = absolute(where)
    return Path(os.path.normpath(path)) if is_local(path) else path  # `.` has no name


def expand_videos(
    source: str | os.PathLike[str] | AnyPath, *, root: str | os.PathLike[str] | AnyPath | None = None
) -> list[AnyPath]:
    """List the videos that a path stands for, whatever they are called.

    No cache file is going to be named after them, so absolute paths, odd names and names that differ only in their
    suffix are all welcome. What does not exist is listed too, unless it is a list: whoever reads it names it.

    Args:
        source: path or URL of a video, a folder of videos (searched recursively), a folder of images, a list (`.txt`,
            one path a line) or a manifest (`.csv` with a column `path` or `video`).
        root: folder where the relative paths of a list or manifest start; default: where it lies.

    Returns:
        Paths, each once: sorted, or in the order of the list.

    Raises:
        ArgumentError: a list that cannot be used, a folder without videos, or a root for something that is no list.

    Example:
        >>> from pathlib import Path
        >>> from flow_cache import expand_videos
        >>> _ = Path("list.txt").write_text("walk/b.mp4\\nrun/a.avi\\n")
        >>> [path.as_posix() for path in expand_videos("list.txt", root="videos")]
        ['videos/walk/b.mp4', 'videos/run/a.avi']
        >>> expand_videos("c.mp4")  # doctest: +ELLIPSIS
        [...Path('c.mp4')]
    """
    path = as_path(source)
    try:
        if path.suffix.lower() in {*LIST_SUFFIXES, MANIFEST_SUFFIX} and not path.is_dir():
            folder = path.parent if root is None else as_path(root)
            return list(dict.fromkeys(_below(folder, entry) for _, entry in _read_lines(path)))
        if root is not None:
            raise ArgumentError(f"root is for lists and manifests only, and {source} is neither")
        if not path.is_dir():
            return [path]
        found = find_videos(path)
    except OSError as error:
        raise ArgumentError(f"{source}: {error.strerror or error}") from error
    if not found:
        raise ArgumentError(f"{source}: no videos found (neither video files nor folders of images)")
    return found


def read_list(path: AnyPath) -> list[str]:
    """Read the relative paths in a list or manifest, each once, in order.

    Raises:
        ArgumentError: the file or a path in it is unusable; the message names the line.
    """
    names: dict[str, None] = {}
    for number, entry in _read_lines(path):
        try:
            names.update(dict.fromkeys(_safe_names([entry])))
        except ArgumentError as error:
            raise ArgumentError(f"{path}, line {number}: {error}") from error
    return list(names)


def parse_shard(text: str) -> tuple[int, int]:
    """Read `i/n`, part i of n, counted from 1; raises ArgumentError."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ArgumentError(f"shard must be i/n with i from 1 to n, such as 1/8, got {text!r}")
    return int(match[1]), int(match[2])


def collision_key(path: str) -> str:
    """Return a key that is equal for paths which some file systems do not tell apart: by letter case or by accents."""
    return unicodedata.normalize("NFC", path).casefold()


def evenly_spread(count: int, most: int) -> list[int]:
    """Choose at most `most` of the indices 0 ... count - 1, evenly spread from the first to the last."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, most)).tolist()})


def spread_over(numbers: Sequence[int], most: int) -> list[int]:
    """Choose at most `most` of some numbers, evenly spread from the first to the last."""
    return [numbers[position] for position in evenly_spread(len(numbers), most)]


def _read_lines(path: AnyPath) -> list[tuple[int, str]]:
    """Read the line numbers and paths of a list or manifest; raises ArgumentError, also if there are none."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror or error}") from error
    lines = _manifest_lines(path, text) if path.suffix.lower() == MANIFEST_SUFFIX else _list_lines(text)
    entries = list(lines)
    if not entries:
        raise ArgumentError(f"{path}: names no videos")
    return entries


def _below(folder: AnyPath, entry: str) -> AnyPath:
    """Return the path of a list's entry: a relative one starts at the folder."""
    return as_path(entry) if "://" in entry or Path(entry).is_absolute() else folder / entry


def _list_lines(text: str) -> Iterator[tuple[int, str]]:
    """Iterate the numbers and paths of the lines that are not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _manifest_lines(path: AnyPath, text: str) -> Iterator[tuple[int, str]]:
    """Iterate the line numbers and paths of a manifest; raises ArgumentError."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        column = next((name for name in MANIFEST_COLUMNS if name in columns), None)
        if column is None:
            shown = ", ".join(columns)[:200] or "none"
            raise ArgumentError(f"{path}: needs a column `path` or `video`, has: {shown}")
        for row in reader:
            if not row[column]:
                raise ArgumentError(f"{path}, line {reader.line_num}: has no {column}")
            yield reader.line_num, row[column]
    except csv.Error as error:
        raise ArgumentError(f"{path}, line {reader.line_num}: {error}") from error


def _safe_names(names: Iterable[str]) -> list[str]:
    """Normalise paths and drop repeated ones; raises ArgumentError for one that `cache_path` refuses."""
    safe: dict[str, None] = {}
    for name in names:
        cache_path("", name)
        safe[PurePosixPath(name).as_posix()] = None
    return list(safe)


def _collisions(names: list[str]) -> dict[str, str]:
    """Find videos whose cache file an earlier one has, on this file system or on another, and say so of each."""
    collisions: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        owner = owners.setdefault(collision_key(cache_path("", name).as_posix()), name)
        if owner != name:
            collisions[name] = shares_cache_file(name, owner)
    for key, name in owners.items():
        folder = key
        while folder := folder.rpartition("/")[0]:
            if folder in owners:
                collisions[name] = (
                    f"lies in a folder named like the cache file of {owners[folder]}; rename one"
                )
    return collisions


def shares_cache_file(name: str, owner: str) -> str:
    """Say why a video is refused whose cache file another one has."""
    return f"would share the cache file {cache_path('', name).as_posix()} with {owner}; rename one"


def _part(names: Iterable[str], number: int, count: int) -> list[str]:
    """Choose a shard by the hash of each path: a video stays in its shard when others are added or removed."""
    return [name for name in names if _hash(name) % count == number - 1]


def _hash(name: str) -> int:
    """Return a number that depends on a path only, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
