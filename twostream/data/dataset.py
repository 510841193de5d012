"""Clips of cached videos as uint8 tensors, and a loader that yields them in batches.

Nothing random lives outside a clip: every clip is drawn from a generator seeded by (seed, epoch, video), and
the sampler hands (epoch, video) to the workers. A run is the same for any number of workers and after a
resume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from flow_cache import CacheReader, FlowCacheError, IndexEntry, leave_signals_to_parent, signals_blocked
from twostream.data.annotations import VideoRecord
from twostream.data.sampling import Indices, even_starts, middle_frames, random_starts, stack_fields
from twostream.data.settings import AugmentConfig, ClipShape
from twostream.data.transforms import Bytes, View, apply_view, evaluation_view, random_view
from twostream.errors import TwoStreamError
from twostream.settings import STREAMS, StreamName

if TYPE_CHECKING:
    from pathlib import Path

    from flow_cache import RemotePath

Clip = dict[str, Tensor | int]


class ClipKey(NamedTuple):
    """Name one clip of one epoch: what the sampler yields and the dataset takes."""

    epoch: int
    video: int


class ClipDataset(Dataset[Clip]):
    """Read clips of T steps from a flow cache.

    `dataset[index]` or `dataset[ClipKey(epoch, video)]` gives a dict with

    - `rgb`: (T, 3, S, S) uint8, the middle frame of every stack, if the RGB stream is wanted,
    - `flow`: (T, 2L, S, S) uint8, quantised, ordered u0 v0 u1 v1 …, if the flow stream is wanted,
    - `label`: class number, and `index`: place of the video in `records`.

    With `training` the clip is a random one, else the centre clip. With `clips=K` it is K deterministic
    evaluation clips, and `rgb` and `flow` have a leading dimension K, also for K = 1.

    Args:
        records: the videos.
        cache: root of the flow cache.
        entries: index entry of each video, by the video's path.
        shape: steps and stack of a clip.
        size: S, side of the square input in pixels.
        augment: training augmentation and evaluation view.
        streams: what to read; members of the other stream are not touched.
        training: draw random clips.
        clips: K for multi-clip evaluation; None for a single clip without that dimension.
        seed: seed of the random clips.
        open_cache: opens a cache file for reading.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        cache: Path | RemotePath,
        entries: Mapping[str, IndexEntry],
        *,
        shape: ClipShape = ClipShape(),  # noqa: B008 - a frozen value
        size: int = 112,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 - a frozen value
        streams: Sequence[StreamName] = STREAMS,
        training: bool = False,
        clips: int | None = None,
        seed: int = 0,
        open_cache: Callable[[Path | RemotePath], CacheReader] = CacheReader,
    ) -> None:
        if training and clips is not None:
            raise ValueError(f"training takes one random clip a video: got clips={clips}, expected None")
        self.records = tuple(records)
        self.shape = shape
        self.size = size
        self.augment = augment
        self.streams = tuple(streams)
        self.training = training
        self.clips = clips
        self.seed = seed
        self._open_cache = open_cache
        self._cache = cache
        self._entries = [entries[record.path] for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """Read a clip; CacheFileError if its file is missing or damaged, DataError if it is too short."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        entry = self._entries[index]
        if self.training:
            # Counted from 1: seeds are padded with zeros, and [seed, epoch] is the sampler's.
            rng = np.random.default_rng([self.seed, epoch, index + 1])
            starts = random_starts(entry.runs, self.shape, rng)
            view = random_view(entry.height, entry.width, self.augment, rng)
        else:
            starts = even_starts(entry.runs, self.shape, self.clips or 1)
            starts = starts[0] if self.clips is None else starts
            view = evaluation_view(entry.height, entry.width, self.augment)
        with self._open_cache(self._cache / entry.cache_file) as reader:
            clip: Clip = read_clip(reader, starts, self.shape, view, self.size, self.streams, entry.step)
        clip["label"] = self.records[index].label
        clip["index"] = index
        return clip

    def __getitems__(self, keys: Sequence[int | ClipKey]) -> list[Clip | Exception]:
        """Read a batch for a loader; our own errors are returned: a worker would turn them into tracebacks."""
        items: list[Clip | Exception] = []
        for key in keys:
            try:
                items.append(self[key])
            except (FlowCacheError, TwoStreamError) as error:
                items.append(error)
        return items


def read_clip(
    reader: CacheReader,
    starts: Indices,
    shape: ClipShape,
    view: View,
    size: int,
    streams: Sequence[StreamName] = STREAMS,
    step: int = 1,
) -> dict[str, Tensor | int]:
    """Read the wanted streams of the stacks that begin at `starts` (..., T) from one cached video.

    Returns:
        `rgb` (..., T, 3, S, S) uint8 and `flow` (..., T, 2L, S, S) uint8, as far as `streams` names them.
    """
    clip: dict[str, Tensor | int] = {}
    rgb: Bytes | None = None
    flow: Bytes | None = None
    # Stacks and clips overlap in short videos: decode and resize each member once, then copy it where it is
    # needed.
    frames, frame_places = np.unique(middle_frames(starts, shape, step), return_inverse=True)
    fields, field_places = np.unique(stack_fields(starts, shape), return_inverse=True)
    if "rgb" in streams:
        rgb = reader.rgb(frames.tolist())
    if "flow" in streams:
        flow = reader.flow(fields.tolist())
    rgb, flow = apply_view(view, size, rgb, flow)
    if rgb is not None:
        clip["rgb"] = torch.from_numpy(rgb[frame_places].reshape(*starts.shape, 3, size, size))
    if flow is not None:
        clip["flow"] = torch.from_numpy(
            flow[field_places].reshape(*starts.shape, 2 * shape.stack, size, size)
        )
    return clip


class ClipSampler(Sampler[ClipKey]):
    """Yield the (epoch, video) keys of one process, shuffled again each epoch for training.

    In training every process gets the same number of clips, the first ones of the epoch being used twice
    where that is needed. In evaluation no clip is ever repeated; processes may differ by one.
    """

    def __init__(
        self, length: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"got rank {rank} of {world_size} processes")
        self.epoch = 0
        self._length = length
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        extra = self._world_size - 1 if self._shuffle else self._world_size - 1 - self._rank
        return (self._length + extra) // self._world_size

    def __iter__(self) -> Iterator[ClipKey]:
        order = np.arange(self._length)
        if self._shuffle:
            order = np.random.default_rng([self._seed, self.epoch]).permutation(self._length)
            order = np.resize(order, -(-self._length // self._world_size) * self._world_size)
        for index in order[self._rank :: self._world_size].tolist():
            yield ClipKey(self.epoch, index)


class ClipLoader(DataLoader[Clip]):
    """Load batches of clips with worker processes, and raise a clip's error as itself, one clear line.

    A batch is a dict of the dataset's keys with a leading batch dimension; `label` and `index` are (B,)
    int64.
    """

    def __init__(
        self, dataset: ClipDataset, sampler: ClipSampler, *, batch_size: int, workers: int, keep: bool
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate_clips,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=keep and workers > 0,
            worker_init_fn=_start_worker,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with _one_opencv_thread(), signals_blocked(), torch.random.fork_rng(devices=[]):
            batches = super().__iter__()  # starts the workers
        # Workers that start take a seed from torch's generator, those that are kept take none. Always one number is
        # taken, so that dropout in a resumed run, whose workers have just started, is that of an uninterrupted one.
        torch.empty((), dtype=torch.int64).random_()
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def _start_worker(number: int) -> None:
    """Prepare a loader worker."""
    leave_signals_to_parent()


def collate_clips(items: Sequence[Clip | Exception]) -> Any:
    """Stack clips into a batch, or pass on the first error among them."""
    for item in items:
        if isinstance(item, Exception):
            return item
    return default_collate(list(items))


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Let processes that are forked meanwhile have one thread in OpenCV, since workers fill the cores anyway.

    It must be set before the fork: a process that inherits OpenCV's pool without the pool's threads waits for them
    forever as soon as it uses the pool or changes its size.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
