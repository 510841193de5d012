"""What can be said of a data set before anything is trained on it."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_cache import (
    CacheFileError,
    CacheReader,
    IndexEntry,
    Progress,
    VideoError,
    as_path,
    hash_of_video,
    read_failures,
    read_frames,
    read_index,
)
from twostream.data.annotations import Annotations, VideoRecord, list_videos, read_annotations
from twostream.data.annotations.records import count
from twostream.data.duplicates import Alike, find_alike, group_identical, hash_frame, spread
from twostream.data.groups import refusal
from twostream.data.sampling import longest_run, runs_inside
from twostream.data.settings import DataConfig
from twostream.data.splits import assign_parts, make_split
from twostream.errors import DataError, DataWarning
from twostream.settings import Part

if TYPE_CHECKING:
    from flow_cache import RemotePath

_LARGEST = 3
_SIDES: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class DataReport:
    """Hold what was found in a data set; plain values alone, for JSON.

    Attributes:
        root: where the videos lie; None if only the flow cache is left.
        videos: how many there are.
        labelled: how many have a class.
        left_out: videos without one: not named in the lists, or in no class folder.
        listed: how many videos the lists name; 0 without lists.
        missing: listed videos that are not on disk, as far as the lists give their names.
        absent_classes: listed classes without any video.
        classes: of each class its name, videos, sources, and videos of each side.
        sources: how many source groups there are.
        largest: the sources of most videos, and how many each has.
        group_rule: how they were found.
        ungrouped: videos whose source is not known; each is taken for its own here.
        split: how the split was made.
        sides: videos of each side.
        leaks: sources on more than one side: the source, its sides, and classes that are on more than one.
        identical: the same file under several names: videos, sources, sides.
        alike: different sources that look alike: sources, one pair of videos, number of pairs, sides.
        unreadable: videos that cannot be read, or only in part, and why.
        short: videos with fewer flow fields than a clip's stack, and how many they have.
        cache: flow cache: path, videos of the data set that it holds and lacks, others, and the different settings that
            its files were made with, each with its number of videos; None without a cache.
        unchecked: what could not be checked, a sentence each.
        problems: what a training would refuse or should not be trusted with, a sentence each.
    """

    root: str | None
    videos: int
    labelled: int
    left_out: list[str]
    listed: int
    missing: list[str]
    absent_classes: list[str]
    classes: list[dict[str, Any]]
    sources: int
    largest: dict[str, int]
    group_rule: str
    ungrouped: list[str]
    split: str
    sides: dict[str, int]
    leaks: list[dict[str, Any]]
    identical: list[dict[str, Any]]
    alike: list[dict[str, Any]]
    unreadable: dict[str, str]
    short: dict[str, int]
    cache: dict[str, Any] | None
    unchecked: list[str]
    problems: list[str]


@dataclass
class _Seen:
    """What looking at the videos themselves has told: by path."""

    contents: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, list[int]] = field(default_factory=dict)
    fields: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    settings: Counter[str] = field(default_factory=Counter)
    unchecked: list[str] = field(default_factory=list)


def find_all(config: DataConfig) -> tuple[list[str], dict[str, IndexEntry]]:
    """List the videos of a data set, below its root or else in its cache, and the index of the cache.

    Raises:
        DataError: neither is given, or the root is no folder.
        CacheFileError: the cache cannot be read.
    """
    cache = as_path(config.cache) if config.cache else None
    index = {entry.video: entry for entry in read_index(cache)} if cache and cache.is_dir() else {}
    if config.root is None and not index:
        raise DataError(
            "no videos are given: set data.root to a folder of videos, or data.cache to a flow cache"
        )
    if config.lists and not Path(config.lists).exists():
        raise DataError(f"data.lists {config.lists} does not exist")
    return (list_videos(as_path(config.root)) if config.root else sorted(index)), index


def check_data(config: DataConfig, fast: bool = False) -> DataReport:
    """Look at the videos, lists, sources, split and cache of a data set.

    Args:
        config: the settings, as for a training.
        fast: leave out what decodes frames: sources that look alike, and videos that the cache lacks.

    Raises:
        DataError: there is nothing to look at: no videos, malformed lists, fewer than two classes.
        CacheFileError: the cache cannot be read.
    """
    videos, index = find_all(config)
    annotations = read_annotations(
        videos, config.format, Path(config.lists) if config.lists else None, config.groups
    )
    records = {record.path: record for record in annotations.videos}
    seen = _look(config, annotations, index, fast)
    problems = _problems_of(config, annotations)
    split, sides, refused = _split(config, annotations)
    if refused:
        problems.append(refused)
    leaks = _find_leaks(annotations, sides)
    groups = {path: record.group for path, record in records.items()}
    same_files = group_identical(seen.contents)
    identical = [_describe(paths, groups, sides) for paths in same_files]
    for paths in same_files:
        for path in paths[1:]:  # that they look alike goes without saying
            seen.hashes.pop(path, None)
    on: dict[str, set[Part | None]] = defaultdict(set)
    for path, group in groups.items():
        on[group].add(sides.get(path))
    alike = [_describe_alike(pair, on) for pair in find_alike(seen.hashes, groups)]
    short = {path: fields for path, fields in sorted(seen.fields.items()) if fields < config.stack}
    problems += _problems_of_videos(config, identical, records, seen, short)
    return DataReport(
        root=config.root,
        videos=len(videos),
        labelled=len(records),
        left_out=[path for path in videos if path not in records],
        listed=annotations.coverage.listed,
        missing=list(annotations.coverage.missing),
        absent_classes=list(annotations.coverage.absent),
        classes=_count_classes(annotations, sides),
        sources=len(set(groups.values())),
        largest=dict(Counter(groups.values()).most_common(_LARGEST)),
        group_rule=annotations.group_rule,
        ungrouped=list(annotations.ungrouped),
        split=split,
        sides={side: sum(own == side for own in sides.values()) for side in _SIDES},
        leaks=leaks,
        identical=identical,
        alike=alike,
        unreadable=dict(sorted(seen.unreadable.items())),
        short=short,
        cache=_describe_cache(config, records, index, seen),
        unchecked=seen.unchecked,
        problems=problems,
    )


def _problems_of(config: DataConfig, annotations: Annotations) -> list[str]:
    problems = []
    if annotations.ungrouped:
        problems.append(refusal(annotations.ungrouped, len(annotations.videos)))
    coverage = annotations.coverage
    if coverage.share > config.max_missing:
        problems.append(f"{coverage.describe_missing()}; data.max_missing is {config.max_missing:g}")
    return problems


def _split(config: DataConfig, annotations: Annotations) -> tuple[str, dict[str, Part], str | None]:
    """Make the split; where it is refused, return the sides that it would have had, and why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        try:
            split = make_split(annotations, config.split)
        except DataError as error:
            try:
                sides, name, _ = assign_parts(annotations, config.split)
            except DataError:
                return "none", {}, str(error)
            return name, sides, str(error)
    return split.name, {video.path: side for side in _SIDES for video in getattr(split, side)}, None


def _find_leaks(annotations: Annotations, sides: Mapping[str, Part]) -> list[dict[str, Any]]:
    """Find the sources that are on more than one side."""
    places: dict[str, dict[int, set[Part]]] = defaultdict(lambda: defaultdict(set))
    for video in annotations.videos:
        if side := sides.get(video.path):
            places[video.group][video.label].add(side)
    leaks = []
    for group, found in sorted(places.items()):
        on = set.union(*found.values())
        if len(on) > 1:
            shared = [annotations.classes[label] for label, own in sorted(found.items()) if len(own) > 1]
            leaks.append({"source": group, "sides": _in_order(on), "classes": shared})
    return leaks


def _in_order(sides: Iterable[Part | None]) -> list[str]:
    found = {*sides}
    return [side for side in _SIDES if side in found]


def _describe(paths: Sequence[str], groups: Mapping[str, str], sides: Mapping[str, Part]) -> dict[str, Any]:
    return {
        "videos": list(paths),
        "sources": sorted({groups[path] for path in paths}),
        "sides": _in_order(sides.get(path) for path in paths),
    }


def _describe_alike(pair: Alike, on: Mapping[str, set[Part | None]]) -> dict[str, Any]:
    return {
        "sources": list(pair.sources),
        "videos": list(pair.videos),
        "pairs": pair.pairs,
        "sides": _in_order(set.union(*(on[source] for source in pair.sources))),
    }


def _problems_of_videos(
    config: DataConfig,
    identical: Sequence[Mapping[str, Any]],
    records: Mapping[str, VideoRecord],
    seen: _Seen,
    short: Mapping[str, int],
) -> list[str]:
    problems = []
    across = [same for same in identical if len(same["sides"]) > 1]
    if across:
        first = " = ".join(across[0]["videos"])
        problems.append(f"{count(len(across), 'file')} under several names on several sides, such as {first}")
    mixed = [same for same in identical if len({records[path].label for path in same["videos"]}) > 1]
    if mixed:
        first = " = ".join(mixed[0]["videos"])
        problems.append(
            f"{count(len(mixed), 'file')} under several names in several classes, such as {first}"
        )
    if seen.unreadable:
        path, reason = min(seen.unreadable.items())
        problems.append(
            f"{count(len(seen.unreadable), 'video')} not readable as a whole, such as {path}: {reason}"
        )
    if short and config.short_videos == "error":
        path, fields = next(iter(short.items()))
        number = count(len(short), "video")
        problems.append(
            f"{number} with fewer flow fields than data.stack={config.stack}, such as {path} ({fields})"
        )
    if len(seen.settings) > 1:
        problems.append(f"the files of the flow cache were made with {len(seen.settings)} different settings")
    return problems


def _count_classes(annotations: Annotations, sides: Mapping[str, Part]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(annotations.classes):
        own = [video for video in annotations.videos if video.label == label]
        on = Counter(sides.get(video.path) for video in own)
        counts: dict[str, int] = {side: on[side] for side in _SIDES}
        rows.append(
            {"class": name, "videos": len(own), "sources": len({video.group for video in own}), **counts}
        )
    return rows


def _describe_cache(
    config: DataConfig, records: Mapping[str, VideoRecord], index: Mapping[str, IndexEntry], seen: _Seen
) -> dict[str, Any] | None:
    if config.cache is None:
        return None
    settings: list[dict[str, Any]] = []
    for text, made in seen.settings.most_common():
        settings.append({**json.loads(text), "videos": made})
    return {
        "path": config.cache,
        "held": len(records.keys() & index.keys()),
        "lacking": sorted(records.keys() - index.keys()),
        "others": len(index.keys() - records.keys()),
        "settings": settings,
    }


def _look(config: DataConfig, annotations: Annotations, index: Mapping[str, IndexEntry], fast: bool) -> _Seen:
    """Look at the videos themselves: in the cache where it has them, else at their files."""
    seen = _Seen()
    root = Path(config.root) if config.root and isinstance(as_path(config.root), Path) else None
    cache = as_path(config.cache) if config.cache else None
    failures = {failure.video: failure.reason for failure in read_failures(cache)} if cache else {}
    skipped = 0
    with Progress(len(annotations.videos), "videos", before="looking at them: ") as progress:
        for record in annotations.videos:
            entry = index.get(record.path)
            if entry is not None and cache is not None:
                try:
                    _look_into_cache(cache, record, entry, seen, fast)
                except CacheFileError as error:
                    seen.unreadable[record.path] = str(error)
            elif record.path in failures:
                seen.unreadable[record.path] = failures[record.path]
            if (
                root is not None
                and not fast
                and not (record.path in seen.hashes or record.path in seen.unreadable)
            ):
                _decode(root, record, seen)
            elif entry is None and record.path not in failures:
                skipped += 1
            progress.finished(failed=record.path in seen.unreadable)
    if root is not None:
        _hash_files(root, annotations, seen)
    elif lacking := [video.path for video in annotations.videos if not seen.contents.get(video.path)]:
        seen.unchecked.append(
            f"whether {len(lacking)} videos are the same file as another: the cache has no hash of them"
        )
    if skipped:
        seen.unchecked.append(f"whether {skipped} videos that the flow cache lacks can be read")
    unseen = len(annotations.videos) - len(seen.hashes.keys() | seen.unreadable.keys())
    if unseen:
        seen.unchecked.append(f"whether {unseen} videos look like those of another source")
    return seen


def _look_into_cache(
    cache: Path | RemotePath, record: VideoRecord, entry: IndexEntry, seen: _Seen, fast: bool
) -> None:
    """Learn what one cache file tells of its video."""
    seen.fields[record.path] = longest_run(runs_inside(entry.runs, record.spans, entry.step))
    with CacheReader(cache / entry.cache_file) as reader:
        meta = reader.meta
        seen.contents[record.path] = meta.source.sha256
        request = meta.request()
        del request["video"]
        seen.settings[json.dumps(request)] += 1
        if meta.partial:
            seen.unreadable[record.path] = meta.partial
        if meta.has_rgb and not fast:
            frames = reader.rgb(spread(meta.frames))
            found = [hash_frame(frame) for frame in frames]
            seen.hashes[record.path] = [value for value in found if value is not None]


def _decode(root: Path, record: VideoRecord, seen: _Seen) -> None:
    """Decode a video that the cache does not show."""
    hashes = []
    try:
        for frame in read_frames(root / record.path, short_side=120, threads=1):
            hashes.append(hash_frame(frame.grey))
    except VideoError as error:
        seen.unreadable[record.path] = error.reason_and_frame
        return
    seen.fields.setdefault(record.path, longest_run(runs_inside([range(len(hashes) - 1)], record.spans)))
    chosen = [hashes[place] for place in spread(len(hashes))]
    seen.hashes[record.path] = [value for value in chosen if value is not None]


def _hash_files(root: Path, annotations: Annotations, seen: _Seen) -> None:
    """Hash the files whose hash the cache does not know, where another video is as large."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for record in annotations.videos:
        file = root / record.path
        if file.is_file():
            sizes[file.stat().st_size].append(record.path)
    for paths in sizes.values():
        for path in paths if len(paths) > 1 else ():
            if not seen.contents.get(path):
                seen.contents[path] = hash_of_video(root / path)
