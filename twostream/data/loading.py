"""The videos of a run: found, labelled, split, and checked against the flow cache."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from flow_cache import CacheReader, IndexEntry, as_path, read_failures, read_index
from twostream.data.annotations import Annotations, VideoRecord, list_videos, load_annotations
from twostream.data.changes import check_contents, follow_changes, note_replaced, read_contents
from twostream.data.record import SplitRecord
from twostream.data.sampling import longest_run, runs_inside
from twostream.data.settings import DataConfig
from twostream.data.splits import Split, make_split
from twostream.errors import DataError, first_names
from twostream.settings import STREAMS, Part, StreamName

PARTS: tuple[Part, ...] = get_args(Part)

if TYPE_CHECKING:
    from flow_cache import RemotePath


@dataclass(frozen=True)
class VideoData:
    """Hold the checked videos of a run.

    Attributes:
        name: name of the data set.
        classes: class names in the order of the labels.
        split: the videos of each part, all in the cache and long enough.
        group_rule: what a source group is, in words.
        notes: sentences for the report: what was left out, what is shared.
        entries: index entry of every video of the split, by its path.
        cache: root of the flow cache.
        bound: quantisation bound of the flow in pixels per step.
        step: frames from one end of a flow vector to the other.
        short_side: short side of the cached frames in pixels.
        method: optical flow method.
        flow: how it was made, as plain values: method, parameters, bound, step, short_side, size (W, H),
            and the codec's settings.
        record: the whole split with the content of its videos, those included that have gone since it was made.
        contents: hash of the content of every video of the split, by its path; empty if the cache does not know it.

    Example:
        >>> from twostream import DataConfig, load_data
        >>> videos = load_data(DataConfig(root="videos", cache="cache/videos", stack=3))
        >>> videos.method, videos.bound, videos.short_side
        ('farneback', 20.0, 48)
    """

    name: str
    classes: tuple[str, ...]
    split: Split
    group_rule: str
    notes: tuple[str, ...]
    entries: Mapping[str, IndexEntry]
    cache: Path | RemotePath
    bound: float
    step: int
    short_side: int
    method: str
    flow: Mapping[str, Any]
    record: SplitRecord
    contents: Mapping[str, str] = field(default_factory=dict)


def load_data(
    config: DataConfig,
    streams: Sequence[StreamName] = STREAMS,
    *,
    record: SplitRecord | None = None,
    parts: Collection[Part] = PARTS,
    test_only: bool = False,
) -> VideoData:
    """Find, label, split and check the videos of a run, from the cache's index and one of its files.

    Args:
        config: the settings.
        streams: streams that will be read.
        record: the split of an earlier run. It is used as it is; videos that came or went since are named in the notes.
        parts: sides that will be read; the others are left empty, and what they lack does not matter.
        test_only: take all videos for the test where no published split says which.

    Raises:
        CacheFileError: the first cache file is missing or damaged.
        DataError: one line that says what is wrong with the folders, lists, split or cache, and what to do.

    Example:
        >>> from twostream import DataConfig, load_data
        >>> videos = load_data(DataConfig(root="videos", cache="cache/videos", stack=3))
        >>> len(videos.classes), len(videos.split.test)
        (9, 9)
    """
    root = as_path(config.root) if config.root else None
    if config.cache is None:
        raise DataError("data.cache is not set: give the folder that flow-cache precompute wrote")
    cache = as_path(config.cache)
    if not cache.is_dir():
        raise DataError(f"flow cache {cache} does not exist; make it with: {_precompute(config)}")
    index = {entry.video: entry for entry in read_index(cache)}
    listed = list_videos(root) if root else []
    videos = listed or sorted(index)
    if not videos:
        raise DataError(f"no videos below {root or cache}: expected <root>/<class>/<video>")
    lists = Path(config.lists) if config.lists else None
    if lists and record is None and not lists.exists():
        raise DataError(f"data.lists {lists} does not exist")
    news: tuple[str, ...] = ()
    if record is None:
        annotations = load_annotations(videos, config.format, lists, config.groups, config.max_missing)
        whole = test_only and not annotations.official
        split = _all_for_test(annotations) if whole else make_split(annotations, config.split)
        classes, group_rule = annotations.classes, annotations.group_rule
    else:
        classes, group_rule = record.classes, record.group_rule
        split, news = follow_changes(record, listed, index, root)
    split = split.changed(lambda part, members: members if part in parts else ())
    _require_videos(split, classes, parts, " ".join([*news, "That leaves"]) if news else "the split has")
    split, left_out = _leave_out(config, split, classes, index, parts)
    used = [index[video.path] for video in _records(split)]
    contents = read_contents(cache, used)
    if record is None:
        notes = (*split.notes, *left_out, *check_contents(split, contents, config.split.leakage))
        others = set(videos) - {video.path for video in _records(split)}
        record = SplitRecord.of(split, classes, group_rule, contents, notes, sorted(others))
        split = record.split()
    else:
        notes = (*record.notes, *news, *left_out, *note_replaced(record, contents))
        record = record.with_contents(contents)
    _require_same_flow(used)
    if "rgb" in streams and (lacking := [entry.video for entry in used if not entry.has_rgb]):
        raise DataError(
            f"{len(lacking)} of {len(used)} cached videos have no RGB frames, such as {first_names(lacking)}; "
            f"make the cache with: {_precompute(config)} --rgb, or train the flow stream alone"
        )
    return VideoData(
        name=config.name or (root or cache).resolve().name,
        classes=classes,
        split=split,
        group_rule=group_rule,
        notes=(*notes, *_note_parts(used)),
        entries={entry.video: entry for entry in used},
        cache=cache,
        bound=used[0].bound,
        step=used[0].step,
        short_side=min(used[0].height, used[0].width),
        method=used[0].method,
        flow=_describe_flow(cache / used[0].cache_file),
        record=record,
        contents=contents,
    )


def all_for_training(videos: VideoData) -> VideoData:
    """Return the videos of a run with those of the validation side on the training side, and a note that says so."""
    note = (
        f"The weights are of a last training on all {len(videos.split.train) + len(videos.split.validation)} videos"
        " of the training side, those of its validation side included."
    )
    record = videos.record.all_for_training(note)
    gone = {video.path for video in record.videos} - set(videos.entries)
    split = record.split().changed(lambda _, members: _without(members, gone))
    return replace(videos, record=record, split=split, notes=(*videos.notes, note))


def _all_for_test(annotations: Annotations) -> Split:
    """Put all videos on the test side."""
    return Split((), (), annotations.videos, "all videos", annotations.notes)


def _leave_out(
    config: DataConfig,
    split: Split,
    classes: Sequence[str],
    index: Mapping[str, IndexEntry],
    parts: Collection[Part],
) -> tuple[Split, tuple[str, ...]]:
    """Refuse or leave out videos that the cache lacks or that are too short for a clip."""
    records = _records(split)
    missing = [record.path for record in records if record.path not in index]
    if missing and (config.missing_videos == "error" or len(missing) == len(records)):
        raise DataError(
            f"flow cache {config.cache} lacks {len(missing)} of {len(records)} videos, "
            f"such as {first_names(missing)}{_failures(config, missing)}; make them with: {_precompute(config)}, "
            "or leave them out with data.missing_videos=skip"
        )
    lengths = {
        r.path: longest_run(runs_inside(index[r.path].runs, r.spans, index[r.path].step))
        for r in records
        if r.path in index
    }
    short = [path for path, length in lengths.items() if length < config.stack]
    if short and (config.short_videos == "error" or len(short) + len(missing) == len(records)):
        named = [f"{path} ({lengths[path]})" for path in short]
        raise DataError(
            f"{len(short)} of {len(records)} videos have fewer flow fields than data.stack={config.stack}: "
            f"{first_names(named)}; lower data.stack, or leave them out with data.short_videos=skip"
        )
    left_out = {*missing, *short}
    if not left_out:
        return split, ()
    kept = split.changed(lambda _, videos: _without(videos, left_out))
    why = f"leaving out {len(missing)} missing and {len(short)} short videos leaves"
    _require_videos(kept, classes, parts, why)
    sides = (
        f"{len(split.train) - len(kept.train)} of training, "
        f"{len(split.validation) - len(kept.validation)} of validation, "
        f"{len(split.test) - len(kept.test)} of test"
    )
    note = (
        f"{len(left_out)} videos left out: {len(missing)} not in the flow cache, {len(short)} with fewer "
        f"than {config.stack} flow fields ({sides})."
    )
    return kept, (note,)


def _require_videos(split: Split, classes: Sequence[str], parts: Collection[Part], why: str) -> None:
    """Refuse a split that has no training videos of a class, or no videos of the side that is needed."""
    labels = {video.label for video in split.train}
    lacking = [name for label, name in enumerate(classes) if label not in labels] if "train" in parts else []
    if lacking:
        raise DataError(f"{why} no training videos for {first_names(lacking)}")
    if not (split.test if "test" in parts else _records(split)):
        raise DataError(f"{why} no {' or '.join(parts)} videos")


def _note_parts(entries: Sequence[IndexEntry]) -> tuple[str, ...]:
    """Say which videos are in the cache only in part."""
    parts = [entry.video for entry in entries if entry.partial in ("prefix", "gaps")]
    if not parts:
        return ()
    return (f"{len(parts)} videos are damaged and in the flow cache only in part: {first_names(parts)}.",)


def _require_same_flow(entries: Sequence[IndexEntry]) -> None:
    """Check that one normalisation fits all: the network sees pixels per step of frames of one scale."""
    for name, values in (
        ("bound", {entry.bound for entry in entries}),
        ("step", {entry.step for entry in entries}),
        ("method", {entry.method for entry in entries}),
        ("short side", {min(entry.height, entry.width) for entry in entries}),
    ):
        if len(values) > 1:
            raise DataError(
                f"the cached videos differ in {name}: {first_names(sorted(map(str, values)))}; "
                "make the whole cache anew with the same settings (and one --short_side)"
            )


def _describe_flow(cache_file: Path | RemotePath) -> dict[str, Any]:
    """Read how one video's flow was made, all that is needed to make the same of another video."""
    with CacheReader(cache_file) as reader:
        meta = reader.meta
    storage = asdict(meta.storage)
    if meta.storage.own_rgb_side is None:  # then frames have the size of the fields
        del storage["rgb_short_side"]
    if not storage.pop("rgb"):
        storage["rgb_quality"] = None
    return {
        "method": meta.method,
        "parameters": dict(meta.parameters),
        "bound": meta.bound,
        "step": meta.step,
        "short_side": meta.short_side,
        "size": None if meta.size is None else list(meta.size),
        "codec": storage,
    }


def _failures(config: DataConfig, missing: Sequence[str]) -> str:
    """Say which of the missing videos failed in the precomputation, and why, from its list of failures."""
    wanted = set(missing)
    failed = [failure for failure in read_failures(config.cache or "") if failure.video in wanted]
    if not failed:
        return ""
    reasons = [f"{failure.video}: {failure.reason}" for failure in failed]
    return f" ({len(failed)} failed in the precomputation: {first_names(reasons, 2)})"


def _precompute(config: DataConfig) -> str:
    return f"flow-cache precompute {config.root or '<videos>'} --out {config.cache or '<cache>'}"


def _records(split: Split) -> list[VideoRecord]:
    return [*split.train, *split.validation, *split.test]


def _without(records: Iterable[VideoRecord], paths: set[str]) -> tuple[VideoRecord, ...]:
    return tuple(record for record in records if record.path not in paths)
