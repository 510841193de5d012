"""What became of the videos of a recorded split, and which of them are the same file, told by name and content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flow_cache import CacheReader, IndexEntry
from twostream.data.record import SplitRecord
from twostream.data.settings import Leakage
from twostream.data.splits import Split
from twostream.errors import DataError, first_names

if TYPE_CHECKING:
    from flow_cache import RemotePath


def read_contents(cache: Path | RemotePath, entries: Iterable[IndexEntry]) -> dict[str, str]:
    """Return the hash of each video's content by its path: from the index, or from the file if that is older.

    It is the one that was computed when the flow was, so that no video is read for it; empty where there is none.
    """
    contents = {}
    for entry in entries:
        contents[entry.video] = entry.source_sha256
        if entry.source_sha256 == "unknown":  # the index is of an earlier version
            with CacheReader(cache / entry.cache_file) as reader:
                contents[entry.video] = reader.meta.source.sha256
    return contents


def follow_changes(
    record: SplitRecord,
    listed: Sequence[str],
    index: Mapping[str, IndexEntry],
    root: Path | RemotePath | None,
) -> tuple[Split, tuple[str, ...]]:
    """Return a recorded split without the videos that are gone, and sentences that name them and those that came.

    Args:
        record: the split.
        listed: what lies below the root; empty without one.
        index: what the cache holds.
        root: where the videos lie.
    """
    sides = record.sides()
    present = set(listed)
    gone = [path for path in sides if path not in present and path not in index]
    moved = [path for path in sides if present and path not in present and path in index]
    came = sorted((present or set(index)) - set(sides) - set(record.others))
    notes = []
    if gone:
        counts = ", ".join(f"{n} of {side}" for side, n in Counter(sides[path] for path in gone).items())
        notes.append(
            f"Gone since the split was made: {_count(gone)} ({counts}), {first_names(sorted(gone))}."
        )
    if moved:
        notes.append(
            f"No longer below {root}, read from the flow cache: {_count(moved)}, {first_names(moved)}."
        )
    if came:
        notes.append(f"Came since the split was made, on no side of it: {_count(came)}, {first_names(came)}.")
    lost = set(gone)
    split = record.split().changed(lambda _, videos: (video for video in videos if video.path not in lost))
    return split, tuple(notes)


def note_replaced(record: SplitRecord, contents: Mapping[str, str]) -> tuple[str, ...]:
    """Name the videos of a recorded split whose content is not the one that was recorded."""
    known = {video.path: video.sha256 for video in record.videos}
    replaced = [path for path, content in contents.items() if content and known[path] not in ("", content)]
    if not replaced:
        return ()
    return (f"Another file than when the split was made: {_count(replaced)}, {first_names(replaced)}.",)


def check_contents(split: Split, contents: Mapping[str, str], leakage: Leakage) -> tuple[str, ...]:
    """Refuse, or report, test videos whose content is that of a training or validation video under another name."""
    training = {contents[video.path]: video.path for video in (*split.train, *split.validation)}
    training.pop("", None)
    pairs = [
        f"{video.path} and {training[contents[video.path]]}"
        for video in split.test
        if contents[video.path] in training
    ]
    if not pairs:
        return ()
    found = f"{len(pairs)} test videos are the same file as a training or validation video"
    if leakage == "refuse":
        raise DataError(
            f"{found}: {first_names(pairs)}; remove one of each or put both on one side, or keep the split and report"
            " it with data.split.leakage=report"
        )
    return (f"{found}: {first_names(pairs)}.",)


def _count(paths: Sequence[str]) -> str:
    return f"{len(paths)} video{'' if len(paths) == 1 else 's'}"
