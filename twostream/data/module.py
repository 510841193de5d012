"""The data of a run: settings, the checked videos of each part, and their loaders."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L

from flow_cache.container import CacheReader
from flow_cache.index import IndexEntry, read_index
from flow_cache.places import as_place, is_file, is_folder, read_bytes
from flow_cache.precompute import FAILURES_NAME
from twostream.data.annotations import AnnotationFormat, VideoRecord, list_videos, load_annotations
from twostream.data.dataset import ClipDataset, ClipLoader, ClipSampler, StreamName
from twostream.data.groups import some
from twostream.data.sampling import ClipShape
from twostream.data.splits import Split, SplitConfig, make_split
from twostream.data.transforms import AugmentConfig
from twostream.errors import DataError

if TYPE_CHECKING:
    from flow_cache.places import Place

_MOST_WORKERS = 8


@dataclass(frozen=True)
class DataConfig:
    """Say which videos are used, how they are split, and what a clip is.

    Attributes:
        root: folder of the videos, by class or as the lists name them; null if only the flow cache is left.
        cache: folder of the flow cache made by `flow-cache precompute`.
        name: name of the data set in reports; empty for the name of the root folder.
        format: where the labels come from: `folders`, `hmdb` or `ucf` lists, a `csv`, or `auto` to tell from
            `lists`.
        lists: folder of official split lists, or a CSV table path,label[,group][,split]; null for class
            folders.
        groups: how a video's source is found: `auto`, `ucf`, `hmdb`, `generic`, `video`, or a pattern with
            one group.
        split: how training, validation and test are made.
        steps: places in the video that a clip looks at (T).
        stack: consecutive flow fields at each place (L).
        size: side of the square network input in pixels (S).
        augment: training augmentation and evaluation view.
        batch_size: clips in a batch of one device.
        workers: loader processes of one device; -1 takes one per core, at most 8; 0 loads in the main
            process.
        eval_clips: clips of a test video whose predictions are averaged (K).
        short_videos: what to do with videos of fewer than `stack` flow fields: `error` or `skip`.
        missing_videos: what to do with videos that the flow cache lacks: `error` or `skip`.
    """

    root: str | None = None
    cache: str | None = None
    name: str = ""
    format: AnnotationFormat = "auto"
    lists: str | None = None
    groups: str = "auto"
    split: SplitConfig = field(default_factory=SplitConfig)
    steps: int = 8
    stack: int = 5
    size: int = 112
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch_size: int = 16
    workers: int = -1
    eval_clips: int = 3
    short_videos: Literal["error", "skip"] = "error"
    missing_videos: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        for name, least in (("size", 16), ("batch_size", 1), ("workers", -1), ("eval_clips", 1)):
            if getattr(self, name) < least:
                raise DataError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
        _ = self.shape

    @property
    def shape(self) -> ClipShape:
        """Return steps and stack as one value."""
        return ClipShape(self.steps, self.stack)


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
    """

    name: str
    classes: tuple[str, ...]
    split: Split
    group_rule: str
    notes: tuple[str, ...]
    entries: Mapping[str, IndexEntry]
    cache: "Place"
    bound: float
    step: int
    short_side: int
    method: str
    flow: Mapping[str, Any]


def load_data(config: DataConfig, streams: Sequence[StreamName] = ("rgb", "flow")) -> VideoData:
    """Find, label, split and check the videos of a run, from the cache's index and one of its files.

    Raises:
        CacheFileError: the first cache file is missing or damaged.
        DataError: one line that says what is wrong with the folders, lists, split or cache, and what to do.
    """
    root = as_place(config.root) if config.root else None
    if config.cache is None:
        raise DataError("data.cache is not set: give the folder that flow-cache precompute wrote")
    cache = as_place(config.cache)
    if not is_folder(cache):
        raise DataError(f"flow cache {cache} does not exist; make it with: {_precompute(config)}")
    index = {entry.video: entry for entry in read_index(cache)}
    videos = (list_videos(root) if root else []) or sorted(index)
    if not videos:
        raise DataError(f"no videos below {root or cache}: expected <root>/<class>/<video>")
    lists = Path(config.lists) if config.lists else None
    if lists and not lists.exists():
        raise DataError(f"data.lists {lists} does not exist")
    annotations = load_annotations(videos, config.format, lists, config.groups)
    split = make_split(annotations, config.split)
    split, notes = _leave_out(config, split, annotations.classes, index)
    used = [index[record.path] for record in _records(split)]
    _require_same_flow(used)
    if "rgb" in streams and (lacking := [entry.video for entry in used if not entry.has_rgb]):
        raise DataError(
            f"{len(lacking)} of {len(used)} cached videos have no RGB frames, such as {some(lacking)}; "
            f"make the cache with: {_precompute(config)} --rgb, or train the flow stream alone"
        )
    return VideoData(
        name=config.name or (root or cache).resolve().name,
        classes=annotations.classes,
        split=split,
        group_rule=annotations.group_rule,
        notes=(*split.notes, *notes),
        entries={entry.video: entry for entry in used},
        cache=cache,
        bound=used[0].bound,
        step=used[0].step,
        short_side=min(used[0].height, used[0].width),
        method=used[0].method,
        flow=_describe_flow(cache / used[0].cache_file),
    )


class ActionDataModule(L.LightningDataModule):
    """Give the loaders of a run; raises what `load_data` raises when it is built.

    Batches are dicts: `rgb` (B, T, 3, S, S) and `flow` (B, T, 2L, S, S), uint8, as far as `streams` names
    them, and `label` and `index` (B,) int64. Test batches have the clips of a video as second dimension: (B,
    K, T, ...). The trainer must be made with `use_distributed_sampler=False`: the samplers already share the
    clips out.

    Args:
        config: the settings.
        streams: streams to read.
        seed: seed of shuffling and augmentation; the split has its own.
        data: the videos, if `load_data` has been called already.
    """

    def __init__(
        self,
        config: DataConfig,
        streams: Sequence[StreamName] = ("rgb", "flow"),
        seed: int = 0,
        data: VideoData | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(streams)
        self.seed = seed
        self.data = load_data(config, streams) if data is None else data

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of the labels."""
        return self.data.classes

    @property
    def split(self) -> Split:
        """Return the videos of each part."""
        return self.data.split

    @property
    def has_validation(self) -> bool:
        """Tell whether there is a validation part."""
        return bool(self.data.split.validation)

    def train_dataloader(self) -> ClipLoader:
        """Load one random clip of every training video, shuffled."""
        return self._loader(self.dataset("train"), self.config.batch_size)

    def val_dataloader(self) -> ClipLoader | list[ClipLoader]:
        """Load the centre clip of every validation video; no loader without a validation part."""
        return self._loader(self.dataset("validation"), self.config.batch_size) if self.has_validation else []

    def test_dataloader(self) -> ClipLoader:
        """Load K clips of every test video, in the order of `split.test`."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(
        self, part: Literal["train", "validation", "test"], clips: int | None = None
    ) -> ClipLoader:
        """Load K evaluation clips of every video of a part, in order; about `batch_size` clips a batch."""
        count = clips or self.config.eval_clips
        dataset = self.dataset(part, clips=count, training=False)
        return self._loader(dataset, max(1, self.config.batch_size // count))

    def dataset(
        self,
        part: Literal["train", "validation", "test"],
        clips: int | None = None,
        training: bool | None = None,
    ) -> ClipDataset:
        """Make the dataset of a part; random clips for `train` unless `training` says otherwise."""
        return ClipDataset(
            getattr(self.data.split, part),
            self.data.cache,
            self.data.entries,
            shape=self.config.shape,
            size=self.config.size,
            augment=self.config.augment,
            streams=self.streams,
            training=part == "train" if training is None else training,
            clips=clips,
            seed=self.seed,
        )

    def _loader(self, dataset: ClipDataset, batch_size: int) -> ClipLoader:
        trainer = self.trainer
        sampler = ClipSampler(
            len(dataset),
            shuffle=dataset.training,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        workers = self.config.workers if self.config.workers >= 0 else min(_cores(), _MOST_WORKERS)
        return ClipLoader(
            dataset, sampler, batch_size=batch_size, workers=workers, keep=dataset.clips is None
        )


def _leave_out(
    config: DataConfig, split: Split, classes: Sequence[str], index: Mapping[str, IndexEntry]
) -> tuple[Split, tuple[str, ...]]:
    """Refuse or leave out videos that the cache lacks or that are too short for a clip."""
    records = _records(split)
    missing = [record.path for record in records if record.path not in index]
    if missing and (config.missing_videos == "error" or len(missing) == len(records)):
        raise DataError(
            f"flow cache {config.cache} lacks {len(missing)} of {len(records)} videos, "
            f"such as {some(missing)}{_failures(config, missing)}; make them with: {_precompute(config)}, "
            "or leave them out with data.missing_videos=skip"
        )
    short = [r.path for r in records if r.path in index and index[r.path].num_fields < config.stack]
    if short and (config.short_videos == "error" or len(short) + len(missing) == len(records)):
        named = [f"{path} ({index[path].num_fields})" for path in short]
        raise DataError(
            f"{len(short)} of {len(records)} videos have fewer flow fields than data.stack={config.stack}: "
            f"{some(named)}; lower data.stack, or leave them out with data.short_videos=skip"
        )
    left_out = {*missing, *short}
    if not left_out:
        return split, ()
    kept = replace(
        split,
        train=_without(split.train, left_out),
        validation=_without(split.validation, left_out),
        test=_without(split.test, left_out),
        shared_sources=split.shared_sources - left_out,
    )
    labels = {record.label for record in kept.train}
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if empty or not kept.test:
        what = f"no training videos for {some(empty)}" if empty else "no test videos"
        raise DataError(f"leaving out {len(missing)} missing and {len(short)} short videos leaves {what}")
    parts = (
        f"{len(split.train) - len(kept.train)} of training, "
        f"{len(split.validation) - len(kept.validation)} of validation, "
        f"{len(split.test) - len(kept.test)} of test"
    )
    note = (
        f"{len(left_out)} videos left out: {len(missing)} not in the flow cache, {len(short)} with fewer "
        f"than {config.stack} flow fields ({parts})."
    )
    return kept, (note,)


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
                f"the cached videos differ in {name}: {some(sorted(map(str, values)))}; "
                "make the whole cache anew with the same settings (and one --short_side)"
            )


def _describe_flow(cache_file: "Place") -> dict[str, Any]:
    """Read how one video's flow was made, all that is needed to make the same of another video."""
    with CacheReader(cache_file) as reader:
        meta = reader.meta
    return {
        "method": meta.method,
        "parameters": dict(meta.parameters),
        "bound": meta.bound,
        "step": meta.step,
        "short_side": meta.short_side,
        "size": None if meta.size is None else list(meta.size),
        "codec": asdict(meta.codec),
    }


def _failures(config: DataConfig, missing: Sequence[str]) -> str:
    """Say which of the missing videos failed in the precomputation, and why, from its list of failures."""
    path = as_place(config.cache or "") / FAILURES_NAME
    if not is_file(path):
        return ""
    wanted = set(missing)
    text = io.StringIO(read_bytes(path).decode("utf-8", "surrogateescape"), newline="")
    rows = [row for row in csv.DictReader(text) if row.get("video") in wanted]
    if not rows:
        return ""
    reasons = [f"{row['video']}: {row.get('reason', '')}" for row in rows]
    return f" ({len(rows)} failed in the precomputation: {some(reasons, 2)})"


def _precompute(config: DataConfig) -> str:
    return f"flow-cache precompute {config.root or '<videos>'} --out {config.cache or '<cache>'}"


def _records(split: Split) -> list[VideoRecord]:
    return [*split.train, *split.validation, *split.test]


def _without(records: Iterable[VideoRecord], paths: set[str]) -> tuple[VideoRecord, ...]:
    return tuple(record for record in records if record.path not in paths)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
