"""The loaders of a run, as Lightning asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L

from flow_cache import available_cores
from twostream.data.annotations import VideoRecord
from twostream.data.batches import ClipLoader, ClipSampler, Waiting
from twostream.data.dataset import ClipDataset
from twostream.data.features import (
    FeatureDataset,
    FeatureStore,
    compute_features,
    describe_stream,
    frozen_streams,
    seeds_of,
)
from twostream.data.loading import VideoData, load_data
from twostream.data.settings import ClipShape, DataConfig
from twostream.data.splits import Split
from twostream.errors import DataError
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream
from twostream.settings import STREAMS, Part, StreamName

_MOST_WORKERS = 8


class ActionDataModule(L.LightningDataModule):
    """Provide the loaders of a run; building one raises what `load_data` raises.

    Batches are dicts: `rgb` (B, T, 3, h, w) and `flow` (B, T, 2L, h, w), uint8, as far as `streams` names them, what
    else `ClipDataset` gives, and `label` and `index` (B,) int64. Test batches have the clips and views of a video as
    second dimension: (B, K V, T, ...). The trainer must be made with `use_distributed_sampler=False`: the samplers
    already share the clips out.

    Args:
        config: the settings.
        streams: streams to read.
        seed: seed of shuffling and augmentation; the split has its own.
        data: the videos, if `load_data` has been called already.
        motion: give the motion that guides the RGB stream's attention, too.
        window: F, RGB frames at each step.

    Attributes:
        waiting: how long loops have waited for the batches of all loaders.

    Example:
        >>> from twostream import ActionDataModule, DataConfig
        >>> config = DataConfig(root="videos", cache="cache/videos", steps=2, stack=3, size=32, workers=0)
        >>> data = ActionDataModule(config)
        >>> batch = next(iter(data.val_dataloader()))
        >>> tuple(batch["rgb"].shape), tuple(batch["flow"].shape)
        ((9, 2, 3, 32, 32), (9, 2, 6, 32, 32))
    """

    def __init__(
        self,
        config: DataConfig,
        streams: Sequence[StreamName] = STREAMS,
        seed: int = 0,
        data: VideoData | None = None,
        *,
        motion: bool = False,
        window: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(streams)
        self.motion = motion
        self.window = window
        self._frozen: dict[StreamName, dict[str, Any]] = {}
        self.seed = seed
        self.waiting = Waiting()
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

    def evaluation_dataloader(self, part: Part, clips: int | None = None) -> ClipLoader:
        """Load K evaluation clips of every video of a part, in order; about `batch_size` clips and views a batch.

        Args:
            part: side of the split.
            clips: K; by default each stream's own.
        """
        counts = {name: clips or self.config.eval_clips_of(name) for name in self.streams}
        dataset = self.dataset(part, clips=counts, training=False)
        most = max(count * self.config.views_of(name)[1] for name, count in counts.items())
        return self._loader(dataset, max(1, self.config.batch_size // most))

    def records(self, part: Part) -> tuple[VideoRecord, ...]:
        """Return the videos of a part."""
        records: tuple[VideoRecord, ...] = getattr(self.split, part)
        return records

    def centre_clips(self, records: Sequence[VideoRecord]) -> ClipDataset:
        """Give the centre clip of each video as pictures, also of streams whose features are kept."""
        return self._clips(records, self.streams, False, None, self.seed, None)

    def keep_features(self, model: TwoStream) -> None:
        """Give features in place of clips from now on, of the streams whose CNN and attention over space are frozen.

        They are computed where they are missing when a loader is asked for. Does nothing with `feature_passes` 0.

        Args:
            model: the network with its weights.

        Raises:
            DataError: the flow cache is not a local folder, and no other folder is given.
        """
        names = tuple(frozen_streams(model)) if self.config.feature_passes else ()
        if names and self.config.features is None and not isinstance(self.data.cache, Path):
            raise DataError(
                f"features cannot be kept in {self.data.cache}: give a local folder with data.features"
            )
        self._frozen = {name: describe_stream(model, name) for name in names}
        self._model = model

    def dataset(
        self,
        part: Part,
        clips: int | Mapping[StreamName, int] | None = None,
        training: bool | None = None,
    ) -> ClipDataset | FeatureDataset:
        """Make the dataset of a part; random clips for `train` unless `training` says otherwise."""
        records = getattr(self.data.split, part)
        training = part == "train" if training is None else training
        others = tuple(name for name in self.streams if name not in self._frozen)
        rest = self._clips(records, others, training, clips, self.seed, None) if others else None
        if not self._frozen:
            assert rest is not None
            return rest
        passes = self.config.feature_passes if training else None
        entries = [self.data.entries[record.path] for record in records]
        stores = {}
        for name, described in self._frozen.items():
            # The seed of the run draws weights, order and dropout; kept passes are the same for all runs.
            count = clips.get(name, 1) if isinstance(clips, Mapping) else clips or 1
            own = self._clips(records, (name,), training, None if training else count, 0, seeds_of(records))
            key = self._feature_key(name, described, passes, count)
            if spans := {record.path: record.spans for record in records if record.spans}:
                key["spans"] = spans
            stores[name] = FeatureStore(self._feature_root(), key)
            compute_features(
                self._model, name, own, entries, stores[name], passes, self._workers, *self._place
            )
        if self.trainer:
            self.trainer.strategy.barrier()  # until all processes have kept their share
        return FeatureDataset(rest, records, entries, stores, passes, clips is None)

    def _feature_root(self) -> Path:
        return Path(self.config.features) if self.config.features else Path(str(self.data.cache)) / "features"

    def _feature_key(
        self, name: StreamName, described: Mapping[str, Any], passes: int | None, clips: int
    ) -> dict[str, Any]:
        shape, size = self.config.clips_of(name)
        # Settings that are newer than kept features are in the key where they are not the default alone.
        usual = asdict(ClipShape(shape.steps, shape.stack))
        clip = {
            name: value
            for name, value in asdict(shape).items()
            if name in ("steps", "stack") or value != usual[name]
        }
        augment = asdict(self.config.augment)
        evaluated = dict(zip(("view", "views"), self.config.views_of(name), strict=True))
        return {
            **described,
            "cache": dict(self.data.flow),
            "clip": {**clip, "size": list(size)},
            "augment": augment if passes else evaluated,
            "passes": passes,
            "clips": None if passes else clips,
        }

    def _clips(
        self,
        records: Sequence[VideoRecord],
        streams: Sequence[StreamName],
        training: bool,
        clips: int | Mapping[StreamName, int] | None,
        seed: int,
        numbers: Sequence[int] | None,
    ) -> ClipDataset:
        return ClipDataset(
            records,
            self.data.cache,
            self.data.entries,
            config=self.config,
            streams=streams,
            motion=self.motion and "rgb" in streams,
            window=self.window,
            training=training,
            clips=clips,
            seed=seed,
            numbers=numbers,
        )

    @property
    def _workers(self) -> int:
        return self.config.workers if self.config.workers >= 0 else min(available_cores(), _MOST_WORKERS)

    @property
    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of processes that train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: ClipDataset | FeatureDataset, batch_size: int) -> ClipLoader:
        rank, world_size = self._place
        sampler = ClipSampler(
            len(dataset),
            shuffle=dataset.training,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            balance=[record.label for record in dataset.records] if self.config.balance else None,
        )
        return ClipLoader(
            dataset,
            sampler,
            batch_size=batch_size,
            workers=self._workers,
            keep=dataset.clips is None,
            waiting=self.waiting,
        )


def data_of(
    config: DataConfig, model: ModelConfig, seed: int = 0, data: VideoData | None = None
) -> ActionDataModule:
    """Provide what a model takes: its streams, the motion that guides it, and windows of frames.

    Raises:
        DataError: as `load_data`.
    """
    return ActionDataModule(
        config, model.streams, seed, data, motion=model.needs_motion, window=model.rgb_window
    )
