"""The lists of TSN and mmaction2: a text file a side, rows `path label` or `path frames label`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from twostream.data.annotations.records import (
    SIDES,
    Annotations,
    OfficialSplit,
    annotate,
    compare,
    sort_classes,
    split_of,
)
from twostream.data.annotations.text import VideoFinder, finder_of, list_entries, read_rows
from twostream.data.annotations.ucf import read_class_index
from twostream.data.groups import stem
from twostream.errors import DataError
from twostream.settings import Part

MMACTION_LIST = re.compile(
    rf"(.*[_-])?(?P<side>{'|'.join(SIDES)})(?![a-z]).*\.txt", re.IGNORECASE
)  # ucf101_train_split_1_videos.txt, kinetics_val_list.txt, train.txt
_NUMBER = re.compile(r"split[_-]?0*(\d+)", re.IGNORECASE)
_ROW = re.compile(r"(?P<path>.+?)(?P<frames>\s+\d+)?\s+(?P<label>\d+)")
_CLASS_NAMES = re.compile(r"label_?map.*\.txt|class_?names.*\.txt", re.IGNORECASE)


def load_mmaction(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label videos by lists such as `ucf101_train_split_1_videos.txt`, one a side and split.

    Paths may be those of other machines: if no video has the path, the one that has its name counts, where there is
    one alone and it is in no other class folder. Classes take their names from `classInd.txt` or `label_map.txt` beside
    the lists, else from the videos' folders if each class has one of its own, else they are the numbers. Without a test
    list the validation is the test.
    """
    find = _finder(videos)
    files = [(path, match) for path in list_entries(lists) if (match := MMACTION_LIST.fullmatch(path.name))]
    if not files:
        raise DataError(
            f"{lists} holds no lists of TSN or mmaction2: expected files named …train….txt and …val….txt"
        )
    labels: dict[str, int] = {}
    missing: dict[str, int] = {}
    parts: dict[int, dict[str, Part]] = defaultdict(dict)
    for path, name in files:
        number = int(found[1]) if (found := _NUMBER.search(path.name)) else 1
        side = SIDES[name["side"].lower()]
        for line, row in read_rows(path):
            match = _ROW.fullmatch(row)
            if match is None:
                raise DataError(
                    f"{path}, line {line}: got '{row}', expected 'path label' or 'path frames label'"
                )
            listed, label = match["path"], int(match["label"])
            video = find(listed)
            if video is None:
                missing[listed] = label
            elif labels.setdefault(video, label) != label:
                raise DataError(f"{path}, line {line}: {listed} has label {label}, elsewhere {labels[video]}")
            elif parts[number].setdefault(video, side) != side:
                raise DataError(f"{path}, line {line}: {listed} is on two sides of split {number}")
    classes = _name_classes(lists, labels, missing)
    official: dict[int, OfficialSplit] = {}
    for number, members in sorted(parts.items()):
        if split := split_of(f"lists, split {number}", members, "list"):
            official[number] = split
    present = set(labels.values())
    coverage, notes = compare(
        videos,
        labels,
        missing,
        len(labels) + len(missing),
        {name: label in present for label, name in classes.items()},
    )
    items = sorted((video, classes[label]) for video, label in labels.items())
    ordered = [classes[label] for label in sorted(classes)]
    return annotate(items, groups, ordered, official, coverage, notes)


def _finder(videos: Sequence[str]) -> Callable[[str], str | None]:
    """Make a function that finds the video of a listed path; see `load_mmaction`."""
    by_path = finder_of(videos)
    names = Counter(stem(video) for video in videos)
    by_name = VideoFinder({stem(video): video for video in videos if names[stem(video)] == 1})
    folders = {PurePosixPath(video).parent.name for video in videos}

    def find(listed: str) -> str | None:
        video = by_path.find(listed)
        if video is None and (video := by_name.find(stem(listed))) is not None:
            folder = PurePosixPath(listed).parent.name
            if folder in folders and folder != PurePosixPath(video).parent.name:
                return None
        return video

    return find


def _name_classes(lists: Path, labels: Mapping[str, int], missing: Mapping[str, int]) -> dict[int, str]:
    """Name the classes by number; see `load_mmaction`."""
    numbers = {*labels.values(), *missing.values()}
    named = {number - 1: name for number, name in read_class_index(lists / "classInd.txt").items()}
    for path in list_entries(lists):
        if not named and _CLASS_NAMES.fullmatch(path.name):
            named = {number: name for number, (_, name) in enumerate(read_rows(path))}
    if named:
        if unknown := sorted(numbers - named.keys()):
            raise DataError(f"{lists}: the class names lack number {unknown[0]}, which the lists use")
        return named
    folders: dict[int, set[str]] = defaultdict(set)
    for video, label in [*labels.items(), *missing.items()]:
        folders[label].add(video.rpartition("/")[0].rpartition("/")[2])
    names = [name for own in folders.values() for name in own]
    if all(len(own) == 1 for own in folders.values()) and "" not in names and len({*names}) == len(names):
        return {label: next(iter(own)) for label, own in folders.items()}
    return {int(name): name for name in sort_classes({str(number) for number in numbers})}
