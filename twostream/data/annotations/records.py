"""What every format comes to: labelled videos with their source groups, published splits, and what was not found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from twostream.data.groups import find_groups
from twostream.errors import DataError, first_names
from twostream.settings import Part

SIDES: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What the sides are called in tables, in names of lists and of folders, in lower case."""


@dataclass(frozen=True)
class VideoRecord:
    """Name one labelled video.

    Attributes:
        path: posix path relative to the data root.
        label: class number.
        group: source group.
        spans: first and last frame, counted from 0, of the parts that show the action; empty for the whole video.
    """

    path: str
    label: int
    group: str
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class OfficialSplit:
    """Hold one published split: the part of each existing video; videos that it leaves out are absent."""

    name: str
    parts: Mapping[str, Part]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Hold how the lists and what is on disk fit together.

    Attributes:
        listed: how many videos there should be.
        lacking: how many of them are not on disk.
        missing: their names, where the lists give them.
        classes: how many classes there should be.
        absent: those without any video on disk.
    """

    listed: int = 0
    lacking: int = 0
    missing: tuple[str, ...] = ()
    classes: int = 0
    absent: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Return the share of the videos that are not on disk."""
        return self.lacking / self.listed if self.listed else 0.0

    def describe_missing(self) -> str | None:
        """Say in one line what is missing on disk; None if nothing is."""
        if not self.lacking:
            return None
        named = f", such as {first_names(self.missing)}" if self.missing else ""
        absent = (
            f"; {len(self.absent)} of {self.classes} classes have no videos at all: {first_names(self.absent, 5)}"
            if self.absent
            else ""
        )
        share = f"{100 * self.share:.2g} %"
        return f"{self.lacking} of {self.listed} listed videos ({share}) are not on disk{named}{absent}"


def compare(
    videos: Sequence[str],
    found: Collection[str],
    missing: Iterable[str],
    listed: int,
    classes: Mapping[str, bool],
) -> tuple[Coverage, tuple[str, ...]]:
    """Compare the lists with what is on disk; returns the comparison, and sentences for reports.

    Args:
        videos: the videos on disk.
        found: those that the lists name.
        missing: listed videos that are not on disk, as the lists name them.
        listed: how many videos the lists name.
        classes: whether each listed class has videos here.
    """
    names = tuple(sorted(missing))
    absent = tuple(sorted(name for name, present in classes.items() if not present))
    notes = []
    if unlisted := len(videos) - len(found):
        notes.append(f"{count(unlisted, 'video')} on disk not named in the lists, left out.")
    if names:
        notes.append(f"{count(len(names), 'listed video')} not on disk.")
    if absent:
        notes.append(f"{len(absent)} of {len(classes)} listed classes have no videos here.")
    return Coverage(listed, len(names), names, len(classes), absent), tuple(notes)


def split_of(name: str, parts: Mapping[str, Part], kind: str) -> OfficialSplit | None:
    """Make the published split of sides; a validation side without a test side beside it is the test side.

    Args:
        name: what the split is called.
        parts: the side of each video.
        kind: what says the side, such as a folder.

    Returns:
        The split; None if there is no training side, or nothing else.
    """
    sides = set(parts.values())
    if "train" not in sides or len(sides) < 2:
        return None
    if "test" in sides:
        return OfficialSplit(name, parts)
    moved: dict[str, Part] = {path: "test" if part == "validation" else part for path, part in parts.items()}
    return OfficialSplit(
        name, moved, (f"There is no {kind} of the test side: that of the validation is it.",)
    )


@dataclass(frozen=True)
class Annotations:
    """Hold the classes and labelled videos of a data set, and how its source groups were found.

    `group_rule` and `notes` are plain sentences for reports; `official` maps split numbers to published
    splits. `ungrouped` are videos whose source is not known, `coverage` says what of the lists was found.
    """

    classes: tuple[str, ...]
    videos: tuple[VideoRecord, ...]
    group_rule: str
    official: Mapping[int, OfficialSplit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ungrouped: tuple[str, ...] = ()
    coverage: Coverage = Coverage()


def annotate(
    items: Sequence[tuple[str, str]],
    rule: str,
    classes: Sequence[str] | None = None,
    official: Mapping[int, OfficialSplit] | None = None,
    coverage: Coverage = Coverage(),
    notes: Iterable[str] = (),
    named_groups: Mapping[str, str] | None = None,
    spans: Mapping[str, tuple[tuple[int, int], ...]] | None = None,
) -> Annotations:
    """Number the classes, find the groups and refuse what no classifier can be trained on.

    Args:
        items: path and class name of each video.
        rule: how groups are found, as `find_groups` takes it.
        classes: the classes in order; sorted by name if None. Those without videos are left out.
        official: published splits by number.
        coverage: how the lists and what is on disk fit together.
        notes: sentences for reports.
        named_groups: the group of each video by path, where a table says it.
        spans: the parts that show the action, by path, where the lists say them.

    Raises:
        DataError: fewer than two classes have videos, or an explicit rule does not fit every video.
    """
    if not items:
        raise DataError(
            "no video is labelled: expected <root>/<class>/<video> or lists that name existing videos"
        )
    present = {name for _, name in items}
    ordered = tuple(name for name in (classes or sorted(present)) if name in present)
    if len(ordered) < 2:
        raise DataError(f"got videos of one class only ({ordered[0]}), expected at least two class folders")
    ungrouped: tuple[str, ...] = ()
    if named_groups is not None:
        groups, words = tuple(named_groups[path] for path, _ in items), "the table's group column"
    else:
        found = find_groups(items, rule)
        groups, words, ungrouped = found.names, found.words, found.unmatched
    numbers = {name: number for number, name in enumerate(ordered)}
    videos = tuple(
        VideoRecord(path, numbers[name], group, (spans or {}).get(path, ()))
        for (path, name), group in zip(items, groups, strict=True)
    )
    return Annotations(ordered, videos, words, dict(official or {}), tuple(notes), ungrouped, coverage)


def sort_classes(names: set[str]) -> list[str]:
    """Sort class names; numbers in the order of numbers."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def count(number: int, noun: str) -> str:
    """Write a number of things: "1 video", "2 videos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
