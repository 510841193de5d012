"""Labels for the videos that exist: which format it is, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flow_cache import find_videos
from twostream.data.annotations.folders import has_side_folders, load_folders, load_split_folders
from twostream.data.annotations.hmdb import HMDB_LIST, is_jhmdb, load_hmdb, load_jhmdb
from twostream.data.annotations.kth import KTH_LIST, load_kth
from twostream.data.annotations.mmaction import MMACTION_LIST, load_mmaction
from twostream.data.annotations.records import Annotations
from twostream.data.annotations.table import load_csv
from twostream.data.annotations.ucf import UCF_LIST, load_ucf
from twostream.data.groups import refusal
from twostream.data.settings import AnnotationFormat
from twostream.errors import DataError, DataWarning

if TYPE_CHECKING:
    from flow_cache import RemotePath

_LIST_LOADERS = {
    "hmdb": load_hmdb,
    "jhmdb": load_jhmdb,
    "ucf": load_ucf,
    "mmaction": load_mmaction,
    "csv": load_csv,
}


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
    max_missing: float = 1.0,
) -> Annotations:
    """Label the given videos, and refuse data whose sources are not known or of which too much is missing.

    Args:
        videos: posix paths relative to the data root, as `list_videos` gives them.
        format: as `DataConfig.format`.
        lists: folder of official lists, or the table itself (csv); unused for folders.
        groups: as `DataConfig.groups`.
        max_missing: largest share of the listed videos that may be missing on disk.

    Raises:
        DataError: nothing to label, fewer than two classes, lists that are missing or malformed, videos whose source
            is not known, or too many that are not on disk.

    Warns:
        DataWarning: listed videos or whole classes are not on disk.
    """
    annotations = read_annotations(videos, format, lists, groups)
    if annotations.ungrouped:
        raise DataError(refusal(annotations.ungrouped, len(annotations.videos)))
    coverage = annotations.coverage
    if (missing := coverage.describe_missing()) is not None:
        if coverage.share > max_missing:
            part = ", set data.format=jhmdb" if format == "hmdb" and is_jhmdb(videos) else ""
            raise DataError(
                f"{missing}; at most a share of {max_missing:g} may be missing: complete the data, correct the lists"
                f"{part}, or permit it with data.max_missing"
            )
        warnings.warn(missing, DataWarning, stacklevel=2)
    return annotations


def read_annotations(
    videos: Sequence[str], format: AnnotationFormat = "auto", lists: Path | None = None, groups: str = "auto"
) -> Annotations:
    """Label the given videos from their folders, from split lists or from a table, as `load_annotations`.

    Videos whose source is not known and listed videos that are not on disk are told, not refused.
    """
    if not videos:
        raise DataError("there are no videos to label: expected <root>/<class>/<video>, found none")
    chosen = detect_format(lists, videos) if format == "auto" else format
    if chosen == "folders":
        return load_folders(videos, groups)
    if chosen == "split_folders":
        return load_split_folders(videos, groups)
    if chosen == "kth":
        return load_kth(videos, lists, groups)
    if lists is None:
        raise DataError(f"annotation format '{chosen}' needs its lists: give their path")
    return _LIST_LOADERS[chosen](videos, lists, groups)


def detect_format(lists: Path | None, videos: Sequence[str] = ()) -> AnnotationFormat:
    """Tell the annotation format from the lists' path: none, a CSV file, or a folder of known list names.

    Without lists the videos' folders tell it.
    """
    if lists is None:
        return "split_folders" if has_side_folders(videos) else "folders"
    if lists.is_file() and lists.suffix.lower() == ".csv":
        return "csv"
    names = [entry.name for entry in lists.iterdir()] if lists.is_dir() else [lists.name]
    if KTH_LIST in names and (lists / KTH_LIST if lists.is_dir() else lists).is_file():
        return "kth"
    if lists.is_dir():
        if any(HMDB_LIST.fullmatch(name) for name in names):
            return "jhmdb" if is_jhmdb(videos) else "hmdb"
        if any(UCF_LIST.fullmatch(name) for name in names):
            return "ucf"
        if any(MMACTION_LIST.fullmatch(name) for name in names):
            return "mmaction"
    raise DataError(
        f"{lists} holds no split lists that are known here: expected a .csv table, a folder with "
        "<class>_test_split1.txt (HMDB), with trainlist01.txt and testlist01.txt (UCF) or with …train….txt and "
        f"…val….txt (TSN, mmaction2), or {KTH_LIST} (KTH)"
    )
