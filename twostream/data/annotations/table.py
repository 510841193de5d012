"""CSV tables of videos."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from twostream.data.annotations.records import (
    SIDES,
    Annotations,
    OfficialSplit,
    annotate,
    compare,
    count,
    sort_classes,
)
from twostream.data.annotations.text import finder_of, read_text
from twostream.errors import DataError, first_names
from twostream.settings import Part


def load_csv(videos: Sequence[str], table: Path, groups: str = "auto") -> Annotations:
    """Label videos by a CSV table with the columns `path, label[, group][, split]`, paths relative to the
    root.

    `split` holds train, val or test (empty: unused). With `groups="auto"` the table's `group` column is used.
    """
    if not table.is_file():
        raise DataError(
            f"annotation table {table} does not exist: expected a CSV file with columns path,label"
        )
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), skipinitialspace=True)
    columns = reader.fieldnames or []
    if "path" not in columns or "label" not in columns:
        raise DataError(f"{table}: got columns {', '.join(columns)}; expected path,label[,group][,split]")
    rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    finder = finder_of(videos)
    found: dict[str, str] = {}
    named_groups: dict[str, str] = {}
    parts: dict[str, Part] = {}
    missing: list[str] = []
    for line, row in rows:
        path, name, split = row["path"], row["label"], row.get("split", "").lower()
        if not name or not path:
            raise DataError(f"{table}, line {line}: got an empty path or label, expected both")
        if split and split not in SIDES:
            raise DataError(f"{table}, line {line}: got split '{split}', expected train, val or test")
        video = finder.find(path)
        if video is None:
            missing.append(path)
            continue
        if video in found:
            raise DataError(f"{table}, line {line}: {path} is listed twice")
        found[video] = name
        named_groups[video] = row.get("group", "")
        if split:
            parts[video] = SIDES[split]
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
    unused = len(found) - len(parts)
    official = {}
    if parts:
        left = (f"{count(unused, 'video')} without a split in {table.name} left out.",) if unused else ()
        official[1] = OfficialSplit(f"column 'split' of {table.name}", parts, left)
    present = set(found.values())
    coverage, notes = compare(
        videos, found, missing, len(rows), {row["label"]: row["label"] in present for _, row in rows}
    )
    return annotate(
        sorted(found.items()),
        groups,
        sort_classes(present),
        official,
        coverage,
        notes,
        named_groups if use_column else None,
    )
