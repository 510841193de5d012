"""UCF-101's lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from twostream.data.annotations.records import Annotations, OfficialSplit, annotate, compare
from twostream.data.annotations.text import finder_of, list_entries, read_rows
from twostream.data.groups import without_suffix
from twostream.errors import DataError
from twostream.settings import Part

UCF_LIST = re.compile(r"(?P<part>train|test)list0*(?P<number>\d+)\.txt")


def load_ucf(videos: Sequence[str], lists: Path, groups: str = "auto") -> Annotations:
    """Label videos by UCF-101's lists: `trainlist01.txt`, `testlist01.txt` and, if there, `classInd.txt`.

    Rows are `Class/v_Class_g01_c01.avi [label]`. Upper and lower case do not matter, since copies of the data set
    differ in them. Classes without any video are left out.
    """
    finder = finder_of(videos)
    files = [(path, match) for path in list_entries(lists) if (match := UCF_LIST.fullmatch(path.name))]
    if not files:
        raise DataError(f"{lists} holds no UCF lists: expected trainlist01.txt and testlist01.txt")
    numbered = read_class_index(lists / "classInd.txt")
    spellings = {name.casefold(): name for name in numbered.values()}
    found: dict[str, str] = {}
    missing: set[str] = set()
    parts: dict[int, dict[str, Part]] = {}
    for path, match in files:
        part: Part = "train" if match["part"] == "train" else "test"
        members = parts.setdefault(int(match["number"]), {})
        for line, row in read_rows(path):
            listed, _, label = row.rpartition(" ") if re.search(r" \d+$", row) else (row, "", "")
            written, slash, _ = listed.partition("/")
            if not slash:
                raise DataError(
                    f"{path}, line {line}: got '{row}', expected 'Class/v_Class_g01_c01.avi [label]'"
                )
            name = spellings.setdefault(written.casefold(), written)
            if label and numbered and numbered.get(int(label)) != name:
                raise DataError(f"{path}, line {line}: label {label} is not class {name} in classInd.txt")
            video = finder.find(listed.strip())
            if video is None:
                missing.add(without_suffix(listed.strip()))
            elif members.get(video, part) != part:
                raise DataError(f"{lists}: split {match['number']} lists {listed} for both training and test")
            else:
                found[video] = name
                members[video] = part
    present = set(found.values())
    ordered = [numbered[number] for number in sorted(numbered)]
    classes = [*ordered, *sorted(present - set(ordered))]
    official = {
        n: OfficialSplit(f"UCF split {n}", members) for n, members in sorted(parts.items()) if members
    }
    coverage, notes = compare(
        videos,
        found,
        missing,
        len(found) + len(missing),
        {name: name in present for name in spellings.values()},
    )
    return annotate(sorted(found.items()), groups, classes, official, coverage, notes)


def read_class_index(path: Path) -> dict[int, str]:
    """Read the class of each number from `classInd.txt`, rows `1 Class`; empty if there is no such file."""
    classes: dict[int, str] = {}
    if path.is_file():
        for line, row in read_rows(path):
            number, _, name = row.partition(" ")
            if not number.isdecimal() or not name:
                raise DataError(f"{path}, line {line}: got '{row}', expected 'number Class'")
            classes[int(number)] = name.strip()
    return classes
