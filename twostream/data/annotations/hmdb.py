"""HMDB-51's lists, and JHMDB-21, which is a part of HMDB-51 and uses them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from twostream.data.annotations.records import Annotations, Coverage, OfficialSplit, annotate, compare, count
from twostream.data.annotations.text import VideoFinder, list_entries, read_rows
from twostream.data.groups import without_suffix
from twostream.errors import DataError, first_names
from twostream.settings import Part

HMDB_LIST = re.compile(r"(?P<name>.+)_test_split(?P<number>\d+)\.txt")
_TAGS: Mapping[str, Part | None] = {"0": None, "1": "train", "2": "test"}
_JHMDB_CLIPS = 928
_JHMDB = (
    "brush_hair catch clap climb_stairs golf jump kick_ball pick pour pullup push run shoot_ball shoot_bow shoot_gun "
    "sit stand swing_baseball throw walk wave"
)
_JHMDB_CLASSES = tuple(_JHMDB.split())


def load_hmdb(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label videos by HMDB-51's lists, one `<class>_test_split<k>.txt` a class, rows `name.avi 1|2|0`.

    Videos that the lists do not name, listed videos that do not exist and classes without any are counted in the
    notes.
    """
    found = _read(videos, lists)
    coverage, notes = compare(
        videos, found.labels, found.missing, len(found.labels) + len(found.missing), found.classes
    )
    return annotate(sorted(found.labels.items()), groups, found.present(), found.official(), coverage, notes)


def load_jhmdb(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label JHMDB-21's clips by HMDB-51's lists, as `load_hmdb` does; what the lists name besides is not expected."""
    found = _read(videos, lists)
    _, notes = compare(videos, found.labels, (), 0, {})
    folders = {video.partition("/")[0].casefold() for video in videos}
    here = sum(video.partition("/")[0].casefold() in _JHMDB_CLASSES for video in videos)
    coverage = Coverage(
        _JHMDB_CLIPS,
        max(_JHMDB_CLIPS - here, 0),
        classes=len(_JHMDB_CLASSES),
        absent=tuple(name for name in _JHMDB_CLASSES if name not in folders),
    )
    return annotate(sorted(found.labels.items()), groups, found.present(), found.official(), coverage, notes)


def is_jhmdb(videos: Sequence[str]) -> bool:
    """Tell JHMDB-21, or a part of each of its classes, by its folders and its size."""
    folders = {video.partition("/")[0] for video in videos if "/" in video}
    return folders == {*_JHMDB_CLASSES} and len(videos) <= _JHMDB_CLIPS


@dataclass
class _Found:
    """What the lists say: of the videos that exist, label and sides; the others; whether classes have a folder."""

    labels: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    parts: dict[int, dict[str, Part]] = field(default_factory=dict)
    unused: dict[int, int] = field(default_factory=dict)
    classes: dict[str, bool] = field(default_factory=dict)

    def present(self) -> list[str]:
        return sorted(name for name, present in self.classes.items() if present)

    def official(self) -> dict[int, OfficialSplit]:
        splits = {
            number: OfficialSplit(f"HMDB split {number}", parts)
            for number, parts in sorted(self.parts.items())
        }
        for number in splits.keys() & self.unused.keys():
            note = f"{count(self.unused[number], 'video')} marked 0 in the lists, unused in this split."
            splits[number] = replace(splits[number], notes=(note,))
        return splits


def _read(videos: Sequence[str], lists: Path) -> _Found:
    """Read the lists; raises DataError for malformed rows, or if no class has a folder among the videos."""
    inside = [video for video in videos if "/" in video]
    finder = VideoFinder({f"{video.split('/', 1)[0]}/{PurePosixPath(video).name}": video for video in inside})
    folders = {video.split("/", 1)[0] for video in inside}
    folded = {folder.casefold() for folder in folders}
    files = [(path, match) for path in list_entries(lists) if (match := HMDB_LIST.fullmatch(path.name))]
    if not files:
        raise DataError(f"{lists} holds no HMDB lists: expected files named <class>_test_split1.txt")
    found = _Found(classes={match["name"]: match["name"].casefold() in folded for _, match in files})
    if not found.present():
        raise DataError(
            f"no class of the lists in {lists} has a folder among the videos: {first_names(sorted(folders))}"
        )
    for path, match in files:
        name, number = match["name"], int(match["number"])
        for line, row in read_rows(path):
            listed, _, tag = row.rpartition(" ")
            if not listed or tag not in _TAGS:
                raise DataError(f"{path}, line {line}: got '{row}', expected 'name.avi' and 1, 2 or 0")
            key = f"{name}/{listed.strip()}"
            video = finder.find(key)
            if video is None:
                found.missing.add(without_suffix(key))
                continue
            found.labels[video] = name
            part = _TAGS[tag]
            if part is None:
                found.unused[number] = found.unused.get(number, 0) + 1
            else:
                found.parts.setdefault(number, {})[video] = part
    return found
