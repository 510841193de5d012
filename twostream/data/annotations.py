"""Video records (path, label, source group) of folder trees, official split lists and CSV tables.

Every loader takes the relative paths of the videos that exist, so the same code serves a folder of videos and
a flow cache whose videos were deleted; `list_videos` makes that list from a folder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from flow_cache import find_videos
from twostream.data.groups import find_groups, refusal, stem, without_suffix
from twostream.data.settings import AnnotationFormat
from twostream.errors import DataError, first_names
from twostream.settings import Part

if TYPE_CHECKING:
    from flow_cache import RemotePath

_HMDB_LIST = re.compile(r"(?P<name>.+)_test_split(?P<number>\d+)\.txt")
_UCF_LIST = re.compile(r"(?P<part>train|test)list0*(?P<number>\d+)\.txt")
_CSV_PARTS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class VideoRecord:
    """Name one labelled video: its posix path relative to the data root, class number and source group."""

    path: str
    label: int
    group: str


@dataclass(frozen=True)
class OfficialSplit:
    """Hold one published split: the part of each existing video; videos that it leaves out are absent."""

    name: str
    parts: Mapping[str, Part]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """Hold the classes and labelled videos of a data set, and how its source groups were found.

    `group_rule` and `notes` are plain sentences for reports; `official` maps split numbers to published
    splits. `ungrouped` are videos whose source is not known.
    """

    classes: tuple[str, ...]
    videos: tuple[VideoRecord, ...]
    group_rule: str
    official: Mapping[int, OfficialSplit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ungrouped: tuple[str, ...] = ()


def list_videos(root: Path | RemotePath) -> list[str]:
    """List the videos below a folder as posix paths relative to it, sorted; DataError if it is no folder."""
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder: give the folder that holds the class folders")
    return sorted(video.relative_to(root).as_posix() for video in find_videos(root))  # type: ignore[arg-type]


def load_annotations(
    videos: Sequence[str],
    format: AnnotationFormat = "auto",
    lists: Path | None = None,
    groups: str = "auto",
) -> Annotations:
    """Label the given videos from their folders, from split lists or from a CSV table.

    Args:
        videos: posix paths relative to the data root, as `list_videos` gives them.
        format: `folders`, `hmdb`, `ucf`, `csv`, or `auto` to tell from what `lists` is.
        lists: folder of official lists (hmdb, ucf) or the table itself (csv); unused for folders.
        groups: as `find_groups` takes it.

    Raises:
        DataError: nothing to label, fewer than two classes, lists that are missing or malformed, or videos whose
            source is not known.
    """
    if not videos:
        raise DataError("there are no videos to label: expected <root>/<class>/<video>, found none")
    chosen = detect_format(lists) if format == "auto" else format
    if chosen == "folders":
        annotations = load_folders(videos, groups)
    elif lists is None:
        raise DataError(f"annotation format '{chosen}' needs its lists: give their path")
    else:
        loader = {"hmdb": load_hmdb, "ucf": load_ucf, "csv": load_csv}[chosen]
        annotations = loader(videos, lists, groups)
    if annotations.ungrouped:
        raise DataError(refusal(annotations.ungrouped, len(annotations.videos)))
    return annotations


def detect_format(lists: Path | None) -> AnnotationFormat:
    """Tell the annotation format from the lists' path: none, a CSV file, or a folder of known list names."""
    if lists is None:
        return "folders"
    if lists.is_file() and lists.suffix.lower() == ".csv":
        return "csv"
    names = [entry.name for entry in lists.iterdir()] if lists.is_dir() else []
    if any(_HMDB_LIST.fullmatch(name) for name in names):
        return "hmdb"
    if any(_UCF_LIST.fullmatch(name) for name in names):
        return "ucf"
    raise DataError(
        f"{lists} holds no split lists that are known here: expected a .csv table, a folder with "
        "<class>_test_split1.txt (HMDB) or a folder with trainlist01.txt and testlist01.txt (UCF)"
    )


def load_folders(videos: Sequence[str], groups: str = "auto") -> Annotations:
    """Label videos by the first folder of their path, `<class>/**/<video>`."""
    inside = [video for video in videos if "/" in video]
    stray = len(videos) - len(inside)
    notes = (
        (f"{_count(stray, 'video')} directly in the data root, in no class folder, left out.",)
        if stray
        else ()
    )
    return _annotate([(video, video.split("/", 1)[0]) for video in inside], groups, notes=notes)


def load_hmdb(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label videos by HMDB-51's lists, one `<class>_test_split<k>.txt` a class, rows `name.avi 1|2|0`.

    Classes without a folder among the videos are left out, so that JHMDB-21 can use HMDB-51's lists. Videos
    that the lists do not name and listed videos that do not exist are counted in the notes.
    """
    available = {f"{video.split('/', 1)[0]}/{stem(video)}": video for video in videos if "/" in video}
    folders = {key.split("/", 1)[0] for key in available}
    files = [(path, match) for path in _entries(lists) if (match := _HMDB_LIST.fullmatch(path.name))]
    if not files:
        raise DataError(f"{lists} holds no HMDB lists: expected files named <class>_test_split1.txt")
    listed_classes = {match["name"] for _, match in files}
    classes = sorted(listed_classes & folders)
    if not classes:
        raise DataError(
            f"no class of the lists in {lists} has a folder among the videos: {first_names(sorted(folders))}"
        )
    found: dict[str, str] = {}
    missing: set[str] = set()
    parts: dict[int, dict[str, Part]] = {}
    unused: dict[int, int] = {}
    tags: Mapping[str, Part | None] = {"0": None, "1": "train", "2": "test"}
    for path, match in files:
        name, number = match["name"], int(match["number"])
        if name not in folders:
            continue
        for line, row in _rows(path):
            listed, _, tag = row.rpartition(" ")
            if not listed or tag not in tags:
                raise DataError(f"{path}, line {line}: got '{row}', expected 'name.avi' and 1, 2 or 0")
            key = f"{name}/{stem(listed.strip())}"
            video = available.get(key)
            if video is None:
                missing.add(key)
                continue
            found[video] = name
            part = tags[tag]
            if part is None:
                unused[number] = unused.get(number, 0) + 1
            else:
                parts.setdefault(number, {})[video] = part
    official = {
        number: OfficialSplit(
            name=f"HMDB split {number}",
            parts=members,
            notes=(f"{_count(unused[number], 'video')} marked 0 in the lists, unused in this split.",)
            if unused.get(number)
            else (),
        )
        for number, members in sorted(parts.items())
    }
    notes = _coverage(
        len(videos) - len(found), len(missing), len(listed_classes - folders), len(listed_classes)
    )
    return _annotate(sorted(found.items()), groups, tuple(classes), official, notes)


def load_ucf(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label videos by UCF-101's lists: `trainlist01.txt`, `testlist01.txt` and, if there, `classInd.txt`.

    Rows are `Class/v_Class_g01_c01.avi [label]`; line ends may be CRLF. Classes without any video are left
    out.
    """
    available = _by_stem(videos)
    files = [(path, match) for path in _entries(lists) if (match := _UCF_LIST.fullmatch(path.name))]
    if not files:
        raise DataError(f"{lists} holds no UCF lists: expected trainlist01.txt and testlist01.txt")
    numbered = _ucf_classes(lists / "classInd.txt")
    found: dict[str, str] = {}
    missing: set[str] = set()
    listed_classes: set[str] = set(numbered.values())
    parts: dict[int, dict[str, Part]] = {}
    for path, match in files:
        part: Part = "train" if match["part"] == "train" else "test"
        members = parts.setdefault(int(match["number"]), {})
        for line, row in _rows(path):
            listed, _, label = row.rpartition(" ") if re.search(r" \d+$", row) else (row, "", "")
            name, slash, _ = listed.partition("/")
            if not slash:
                raise DataError(
                    f"{path}, line {line}: got '{row}', expected 'Class/v_Class_g01_c01.avi [label]'"
                )
            if label and numbered and numbered.get(int(label)) != name:
                raise DataError(f"{path}, line {line}: label {label} is not class {name} in classInd.txt")
            listed_classes.add(name)
            key = without_suffix(listed.strip())
            video = available.get(key)
            if video is None:
                missing.add(key)
            elif members.get(video, part) != part:
                raise DataError(f"{lists}: split {match['number']} lists {listed} for both training and test")
            else:
                found[video] = name
                members[video] = part
    present = set(found.values())
    ordered = [numbered[number] for number in sorted(numbered)]
    classes = tuple(name for name in ordered if name in present) + tuple(sorted(present - set(ordered)))
    official = {
        n: OfficialSplit(f"UCF split {n}", members) for n, members in sorted(parts.items()) if members
    }
    notes = _coverage(
        len(videos) - len(found), len(missing), len(listed_classes - present), len(listed_classes)
    )
    return _annotate(sorted(found.items()), groups, classes, official, notes)


def load_csv(videos: Sequence[str], table: Path, groups: str = "auto") -> Annotations:
    """Label videos by a CSV table with the columns `path, label[, group][, split]`, paths relative to the
    root.

    `split` holds train, val or test (empty: unused). With `groups="auto"` the table's `group` column is used.
    """
    if not table.is_file():
        raise DataError(
            f"annotation table {table} does not exist: expected a CSV file with columns path,label"
        )
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        columns = reader.fieldnames or []
        if "path" not in columns or "label" not in columns:
            raise DataError(f"{table}: got columns {', '.join(columns)}; expected path,label[,group][,split]")
        rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    available = _by_stem(videos)
    found: dict[str, str] = {}
    named_groups: dict[str, str] = {}
    parts: dict[str, Part] = {}
    missing = 0
    for line, row in rows:
        path, name, split = PurePosixPath(row["path"]).as_posix(), row["label"], row.get("split", "").lower()
        if not name or not row["path"]:
            raise DataError(f"{table}, line {line}: got an empty path or label, expected both")
        if split and split not in _CSV_PARTS:
            raise DataError(f"{table}, line {line}: got split '{split}', expected train, val or test")
        video = available.get(path, available.get(without_suffix(path)))
        if video is None:
            missing += 1
            continue
        if video in found:
            raise DataError(f"{table}, line {line}: {path} is listed twice")
        found[video] = name
        named_groups[video] = row.get("group", "")
        if split:
            parts[video] = _CSV_PARTS[split]
    if not found:
        raise DataError(
            f"none of the {len(rows)} paths of {table} is a video of the data root; "
            f"it begins with {first_names([row['path'] for _, row in rows])}"
        )
    use_column = groups == "auto" and "group" in columns
    if use_column and not all(named_groups.values()):
        empty = [video for video, group in named_groups.items() if not group]
        raise DataError(
            f"{table}: column group is empty for {first_names(empty)}; fill it, or set the group rule"
        )
    names = set(found.values())
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    unused = len(found) - len(parts)
    official = {}
    if parts:
        notes = (f"{_count(unused, 'video')} without a split in {table.name} left out.",) if unused else ()
        official[1] = OfficialSplit(f"column 'split' of {table.name}", parts, notes)
    return _annotate(
        sorted(found.items()),
        groups,
        tuple(classes),
        official,
        _coverage(len(videos) - len(found), missing, 0, len(classes)),
        named_groups if use_column else None,
    )


def _annotate(
    items: Sequence[tuple[str, str]],
    rule: str,
    classes: tuple[str, ...] | None = None,
    official: Mapping[int, OfficialSplit] | None = None,
    notes: tuple[str, ...] = (),
    named_groups: Mapping[str, str] | None = None,
) -> Annotations:
    """Number the classes, find the groups and refuse what no classifier can be trained on."""
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
        VideoRecord(path, numbers[name], group) for (path, name), group in zip(items, groups, strict=True)
    )
    return Annotations(ordered, videos, words, dict(official or {}), notes, ungrouped)


def _coverage(unlisted: int, missing: int, absent: int, total: int) -> tuple[str, ...]:
    notes = []
    if unlisted:
        notes.append(f"{_count(unlisted, 'video')} on disk not named in the lists, left out.")
    if missing:
        notes.append(f"{_count(missing, 'listed video')} not on disk.")
    if absent:
        notes.append(f"{absent} of {total} listed classes have no videos here.")
    return tuple(notes)


def _ucf_classes(path: Path) -> dict[int, str]:
    classes: dict[int, str] = {}
    if path.is_file():
        for line, row in _rows(path):
            number, _, name = row.partition(" ")
            if not number.isdecimal() or not name:
                raise DataError(f"{path}, line {line}: got '{row}', expected 'number Class'")
            classes[int(number)] = name.strip()
    return classes


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder of the official split lists")
    return sorted(folder.iterdir())


def _rows(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [(number, row.strip()) for number, row in enumerate(text.splitlines(), 1) if row.strip()]


def _by_stem(videos: Sequence[str]) -> dict[str, str]:
    """Map paths with and without suffix to videos, as lists that name .avi files are used with other formats too."""
    return {without_suffix(video): video for video in videos} | {video: video for video in videos}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
