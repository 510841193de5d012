"""The loaders of a run, as Lightning asks for them."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from flow_cache import available_cores
from twostream.data.dataset import ClipDataset, ClipLoader, ClipSampler
from twostream.data.loading import VideoData, load_data
from twostream.data.settings import DataConfig
from twostream.data.splits import Split
from twostream.settings import STREAMS, Part, StreamName

_MOST_WORKERS = 8


class ActionDataModule(L.LightningDataModule):
    """Provide the loaders of a run; building one raises what `load_data` raises.

    Batches are dicts: `rgb` (B, T, 3, S, S) and `flow` (B, T, 2L, S, S), uint8, as far as `streams` names
    them, and `label` and `index` (B,) int64. Test batches have the clips of a video as second dimension: (B,
    K, T, ...). The trainer must be made with `use_distributed_sampler=False`: the samplers already share the
    clips out.

    Args:
        config: the settings.
        streams: streams to read.
        seed: seed of shuffling and augmentation; the split has its own.
        data: the videos, if `load_data` has been called already.

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

    def evaluation_dataloader(self, part: Part, clips: int | None = None) -> ClipLoader:
        """Load K evaluation clips of every video of a part, in order; about `batch_size` clips a batch."""
        count = clips or self.config.eval_clips
        dataset = self.dataset(part, clips=count, training=False)
        return self._loader(dataset, max(1, self.config.batch_size // count))

    def dataset(
        self,
        part: Part,
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
        workers = self.config.workers if self.config.workers >= 0 else min(available_cores(), _MOST_WORKERS)
        return ClipLoader(
            dataset, sampler, batch_size=batch_size, workers=workers, keep=dataset.clips is None
        )
