"""KTH's actions: the official persons of each side, and the frames that show the action."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from twostream.data.annotations.records import Annotations, OfficialSplit, annotate, compare
from twostream.data.annotations.text import VideoFinder, read_rows
from twostream.data.groups import stem
from twostream.errors import DataError
from twostream.settings import Part

KTH_LIST = "sequences_list.txt"
_NAME = re.compile(r"(?P<video>person(?P<person>\d\d)_(?P<action>[a-z]+)_d\d)(_uncomp)?", re.IGNORECASE)
_ROW = re.compile(r"(?P<video>person\d\d_[a-z]+_d\d)\s+(frames\s+(?P<spans>\d.*)|\*missing\*)")
_SPAN = re.compile(r"(\d+)-(\d+)")
# Schuldt, Laptev and Caputo, Recognizing human actions: a local SVM approach, ICPR 2004.
_PERSONS: dict[Part, str] = {
    "train": "11 12 13 14 15 16 17 18",
    "validation": "19 20 21 23 24 25 01 04",
    "test": "22 02 03 05 06 07 08 09 10",
}
_SIDES: dict[str, Part] = {person: side for side, persons in _PERSONS.items() for person in persons.split()}


def load_kth(videos: Sequence[str], lists: Path | None = None, groups: str = "auto") -> Annotations:
    """Label videos `person<number>_<class>_d<scene>[_uncomp].avi` by their names, in any folders.

    Args:
        videos: posix paths relative to the data root.
        lists: KTH's `sequences_list.txt`, or its folder: then clips are taken from the frames that show the action
            alone, and what is missing on disk is known.
        groups: how a video's source is found; by `auto` it is the person.
    """
    names = {video: match for video in videos if (match := _NAME.fullmatch(stem(video)))}
    labels = {video: match["action"].lower() for video, match in names.items()}
    parts: dict[str, Part] = {
        video: _SIDES[match["person"]] for video, match in names.items() if match["person"] in _SIDES
    }
    listed = {} if lists is None else _read(lists / KTH_LIST if lists.is_dir() else lists)
    finder = VideoFinder({match["video"]: video for video, match in names.items()})
    found = {name: finder.find(name) for name in listed}
    spans = {video: listed[name] for name, video in found.items() if video is not None}
    missing = [name for name, video in found.items() if video is None]
    present = set(labels.values())
    classes = {name.split("_")[1]: name.split("_")[1] in present for name in listed}
    coverage, notes = compare(videos, labels, missing, len(listed), classes)
    official = {1: OfficialSplit("KTH's persons", parts)}
    return annotate(sorted(labels.items()), groups, None, official, coverage, notes, spans=spans)


def _read(path: Path) -> dict[str, tuple[tuple[int, int], ...]]:
    """Read which frames of each video show the action, counted from 0; the file counts from 1."""
    listed: dict[str, tuple[tuple[int, int], ...]] = {}
    for line, row in read_rows(path):
        if not re.match(r"person\d\d_", row):
            continue  # the text above the list
        match = _ROW.fullmatch(row)
        if match is None:
            raise DataError(f"{path}, line {line}: got '{row}', expected 'person01_boxing_d1 frames 1-95, …'")
        if match["spans"] is not None:  # one video was never published
            spans = _SPAN.findall(match["spans"])
            listed[match["video"]] = tuple((int(first) - 1, int(last) - 1) for first, last in spans)
    if not listed:
        raise DataError(f"{path} names no videos: expected rows 'person01_boxing_d1 frames 1-95, …'")
    return listed
