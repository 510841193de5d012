"""Clips of cached videos as uint8 tensors, and a loader that yields them in batches.

Nothing random lives outside a clip: every clip is drawn from a generator seeded by (seed, epoch, video), and
the sampler hands (epoch, video) to the workers. A run is the same for any number of workers and after a
resume.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from flow_cache import CacheReader, FlowCacheError, IndexEntry, leave_signals_to_parent, signals_blocked
from twostream.data.annotations import VideoRecord
from twostream.data.motion import motion_maps
from twostream.data.sampling import (
    Indices,
    even_starts,
    middle_frames,
    random_starts,
    runs_inside,
    stack_fields,
    window_frames,
    without_repeats,
)
from twostream.data.settings import DataConfig
from twostream.data.transforms import Bytes, View, apply_view, evaluation_views, random_view
from twostream.errors import TwoStreamError, one_line
from twostream.settings import STREAMS, StreamName

if TYPE_CHECKING:
    from pathlib import Path

    from flow_cache import RemotePath

Clip = dict[str, Tensor | int]


class ClipKey(NamedTuple):
    """Name one clip of one epoch: what the sampler yields and the dataset takes.

    Attributes:
        epoch: counted from 0.
        video: its place among the videos.
        repeat: how often the epoch has drawn the video before; each time it is another random clip.
    """

    epoch: int
    video: int
    repeat: int = 0


class ClipReader(Protocol):
    """The part of a `CacheReader` that clips are cut from."""

    def flow(self, numbers: Sequence[int], /) -> NDArray[np.uint8]:
        """Return fields (n, 2, H, W) uint8, quantised."""
        ...

    def rgb(self, numbers: Sequence[int], /) -> NDArray[np.uint8]:
        """Return RGB frames (n, H, W, 3) uint8."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class NamedErrors(Dataset[Clip]):
    """A dataset whose batches hold our own errors in place of the clips that have them, for `ClipLoader` to raise."""

    def __getitems__(self, keys: Sequence[int | ClipKey]) -> list[Clip | Exception]:
        """Read a batch for a loader; our own errors are returned: a worker would turn them into tracebacks."""
        items: list[Clip | Exception] = []
        for key in keys:
            try:
                items.append(self[key])
            except (FlowCacheError, TwoStreamError) as error:
                items.append(error)
        return items


class ClipDataset(NamedErrors):
    """Read clips from a flow cache.

    `dataset[index]` or `dataset[ClipKey(epoch, video)]` gives a dict with

    - `rgb`: (T, 3 F, h, w) uint8, the frame in the middle of every stack, or a window of F frames around it, if the RGB
      stream is wanted,
    - `motion`: (T, ceil(h / 16), ceil(w / 16)) float32, how much each place of the RGB frames moves, in pixels per
      step, if it is wanted,
    - `flow`: (T, 2L, h, w) uint8, quantised, ordered u0 v0 u1 v1 …, if the flow stream is wanted,
    - `rgb_valid`, `flow_valid`: (T,) bool, True on the steps that count; a video with fewer than T places for a stack
      gives each once, and repeats the last one in the steps after them,
    - `label`: class number, and `index`: place of the video in `records`.

    T, h and w are a stream's own. With `training` the clip is a random one, else the centre clip. With `clips=K` it is
    K deterministic evaluation clips, each in the V views of `augment.views`, and all but label and index have a leading
    dimension K * V, also for one.

    Args:
        records: the videos.
        cache: root of the flow cache.
        entries: index entry of each video, by the video's path.
        config: steps, stack, sizes, augmentation and views.
        streams: what to read; members of the other stream are not touched.
        motion: read the flow around the RGB frames, too.
        window: F, RGB frames at each step.
        training: draw random clips.
        clips: K for multi-clip evaluation, the same for both streams or by stream; None for a single clip without that
            dimension.
        seed: seed of the random clips.
        numbers: a number for each video that seeds its random clips; its place in `records`, counted from 1, if None.
        open_cache: opens a cache file for reading.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        cache: Path | RemotePath,
        entries: Mapping[str, IndexEntry],
        *,
        config: DataConfig = DataConfig(),  # noqa: B008 - a frozen value
        streams: Sequence[StreamName] = STREAMS,
        motion: bool = False,
        window: int = 1,
        training: bool = False,
        clips: int | Mapping[StreamName, int] | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        open_cache: Callable[[Path | RemotePath], ClipReader] = CacheReader,
    ) -> None:
        if training and clips is not None:
            raise ValueError(f"training takes one random clip a video: got clips={clips}, expected None")
        self.records = tuple(records)
        self.config = config
        self.streams = tuple(streams)
        self.motion = motion
        self.window = window
        self.training = training
        self.clips = clips
        self.seed = seed
        self._numbers = range(1, len(self.records) + 1) if numbers is None else [max(n, 1) for n in numbers]
        self._open_cache = open_cache
        self._cache = cache
        self._entries = [entries[record.path] for record in self.records]
        self._runs = [
            runs_inside(entry.runs, record.spans, entry.step)
            for record, entry in zip(self.records, self._entries, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """Read a clip; CacheFileError if its file is missing, damaged or replaced, DataError if it is too short."""
        epoch, index, repeat = ClipKey(*key) if isinstance(key, tuple) else ClipKey(0, key)
        entry, runs = self._entries[index], self._runs[index]
        # Drawn for both streams, so that a clip of one looks the same whether or not the other is read.
        shapes = {name: self.config.clips_of(name)[0] for name in STREAMS}
        augment = self.config.augment
        if self.training:
            # Never zero at the end: seeds are padded with zeros, and [seed, epoch] is the sampler's.
            rng = np.random.default_rng(
                [self.seed, epoch, self._numbers[index], *([repeat] if repeat else [])]
            )
            rgb_starts = random_starts(runs, shapes["rgb"], rng)[None]
            drawn = random_view(entry.height, entry.width, augment, rng)
            views = {name: [drawn] for name in STREAMS}
            same = shapes["flow"] == shapes["rgb"]  # then both look at the same places
            flow_starts = rgb_starts if same else random_starts(runs, shapes["flow"], rng)[None]
        else:
            rgb_starts, flow_starts = (even_starts(runs, shapes[name], self._count(name)) for name in STREAMS)
            count = None if self.clips else 1
            views = {
                name: evaluation_views(entry.height, entry.width, *self.config.views_of(name))[:count]
                for name in STREAMS
            }
        starts: dict[StreamName, Indices] = {"rgb": rgb_starts, "flow": flow_starts}
        packed = {name: without_repeats(starts[name]) for name in self.streams}
        with self._open_cache(self._cache / entry.cache_file) as reader:
            if isinstance(reader, CacheReader):  # nothing takes the place of what is in memory
                entry.require_same(reader)
            decoded = self._decode(reader, {name: begin for name, (begin, _) in packed.items()}, entry, runs)
        clip: Clip = {}
        for name, (_, valid) in packed.items():
            # Clip by clip, all its views: (K V, …)
            parts = [
                {**decoded.view(name, view), f"{name}_valid": torch.from_numpy(valid)} for view in views[name]
            ]
            for kind in parts[0]:
                values = torch.stack([part[kind] for part in parts], dim=1).flatten(0, 1)
                clip[kind] = values if self.clips else values[0]
        clip["label"] = self.records[index].label
        clip["index"] = index
        return clip

    def _count(self, name: StreamName) -> int:
        """Return how many evaluation clips a stream has."""
        if isinstance(self.clips, Mapping):
            return self.clips.get(name, 1)
        return self.clips or 1

    def _decode(
        self,
        reader: ClipReader,
        starts: Mapping[StreamName, Indices],
        entry: IndexEntry,
        runs: Sequence[range],
    ) -> _Decoded:
        """Decode what clips need whose stacks begin at `starts` (K, T), by stream; each member once."""
        shape = {name: self.config.clips_of(name)[0] for name in starts}
        fields = {
            name: stack_fields(begin, shape[name])
            for name, begin in starts.items()
            if name == "flow" or self.motion
        }
        wanted = np.unique(np.concatenate([values.ravel() for values in fields.values()])) if fields else None
        decoded = _Decoded(self.config, entry)
        if wanted is not None:
            decoded.flow = reader.flow(wanted.tolist())
            decoded.fields = {name: np.searchsorted(wanted, values) for name, values in fields.items()}
        if "rgb" in starts:
            middle = middle_frames(starts["rgb"], shape["rgb"], entry.step)
            windows = window_frames(middle, self.window, runs, entry.step)
            frames = np.unique(windows)
            decoded.rgb, decoded.frames = reader.rgb(frames.tolist()), np.searchsorted(frames, windows)
        return decoded


@dataclass
class _Decoded:
    """Members of a cache file, and where clips need them.

    Attributes:
        config: sizes of the network's inputs.
        entry: the video.
        flow: (m, 2, H, W) uint8 fields.
        fields: by stream, places in `flow` of the stacks of K clips of T steps, (K, T, L).
        rgb: (n, H, W, 3) uint8 frames.
        frames: places in `rgb` of the windows, (K, T, F).
    """

    config: DataConfig
    entry: IndexEntry
    flow: Bytes | None = None
    fields: Mapping[StreamName, Indices] = field(default_factory=dict)
    rgb: Bytes | None = None
    frames: Indices | None = None

    def view(self, name: StreamName, view: View) -> dict[str, Tensor]:
        """Look at the clips of one stream in one view."""
        size = self.config.clips_of(name)[1]
        if name == "flow":
            assert self.flow is not None
            used = np.unique(self.fields["flow"])
            moved = apply_view(view, size, flow=self.flow[used])[1]
            assert moved is not None
            return {"flow": _joined(moved[np.searchsorted(used, self.fields["flow"])])}
        assert self.rgb is not None
        assert self.frames is not None
        seen = apply_view(view, size, rgb=self.rgb)[0]
        assert seen is not None
        clip = {"rgb": _joined(seen[self.frames])}
        if "rgb" in self.fields:
            assert self.flow is not None
            stacks = self.flow[self.fields["rgb"]]  # (K, T, L, 2, H, W)
            maps = motion_maps(stacks.reshape(-1, *stacks.shape[2:]), self.entry.bound, view, size)
            clip["motion"] = torch.from_numpy(maps.reshape(*stacks.shape[:2], *maps.shape[1:]))
        return clip


def _joined(images: Bytes) -> Tensor:
    """Join the channels of a step's images: (K, T, n, C, h, w) to (K, T, n C, h, w)."""
    return torch.from_numpy(images.reshape(*images.shape[:2], -1, *images.shape[4:]))


class ClipSampler(Sampler[ClipKey]):
    """Yield the keys of one process's clips, shuffled again each epoch for training.

    In training every process gets the same number of clips, the first ones of the epoch being used twice
    where that is needed. In evaluation no clip is ever repeated; processes may differ by one.

    Args:
        length: number of videos.
        shuffle: for training.
        seed: of the shuffling.
        rank: of the process.
        world_size: number of processes.
        balance: label of each video, for an epoch in which all classes are equally frequent; None to have each video
            once.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        balance: Sequence[int] | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"got rank {rank} of {world_size} processes")
        self.epoch = 0
        self._length = length
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._balance = None if balance is None else np.asarray(balance)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        extra = self._world_size - 1 if self._shuffle else self._world_size - 1 - self._rank
        return (self._length + extra) // self._world_size

    def __iter__(self) -> Iterator[ClipKey]:
        order = np.stack([np.arange(self._length), np.zeros(self._length, np.int64)], axis=1)  # video, repeat
        if self._shuffle:
            rng = np.random.default_rng([self._seed, self.epoch])
            if self._balance is not None:
                order = _balanced(self._balance, rng)
            order = order[rng.permutation(self._length)]
            order = np.resize(order, (-(-self._length // self._world_size) * self._world_size, 2))
        for index, repeat in order[self._rank :: self._world_size].tolist():
            yield ClipKey(self.epoch, index, repeat)


def _balanced(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many videos as there are, every class as often as any other, but for one.

    A class's videos are taken in rounds, each in another order, so that no video is drawn twice as long as another
    one of its class waits.

    Returns:
        (N, 2) int64: place of the video, and how often it has been drawn before.
    """
    classes = np.unique(labels)
    counts = np.full(len(classes), len(labels) // len(classes))
    counts[rng.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, count in zip(classes, counts, strict=True):
        videos = np.flatnonzero(labels == label)
        rounds = [rng.permutation(videos) for _ in range(-(-count // len(videos)))]
        drawn += [(video, repeat) for repeat, videos in enumerate(rounds) for video in videos][:count]
    return np.array(drawn, np.int64)


@dataclass
class Waiting:
    """How long a loop has waited for the batches of its loaders; the start of their workers counts.

    Attributes:
        clock: current time in seconds.
        seconds: waited so far.
    """

    clock: Callable[[], float] = time.monotonic
    seconds: float = 0.0


class ClipLoader(DataLoader[Clip]):
    """Load batches of clips with worker processes, and raise a clip's error as itself, one clear line.

    A batch is a dict of the dataset's keys with a leading batch dimension; `label` and `index` are (B,)
    int64.

    Args:
        dataset: the clips.
        sampler: their order.
        batch_size: clips in a batch.
        workers: processes that load; 0 loads in this one, which then waits for all of it.
        keep: keep the processes for the next epoch.
        waiting: where the time is counted that a loop waits for batches.
    """

    def __init__(
        self,
        dataset: Dataset[Clip],
        sampler: ClipSampler,
        *,
        batch_size: int,
        workers: int,
        keep: bool,
        waiting: Waiting | None = None,
    ) -> None:
        self.waiting = Waiting() if waiting is None else waiting
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
        asked = self.waiting.clock()
        batches = None
        try:
            with _one_opencv_thread(), signals_blocked(), torch.random.fork_rng(devices=[]):
                batches = super().__iter__()  # starts the workers
            # Workers that start take a seed from torch's generator, those that are kept take none. Always one number
            # is taken, so that dropout in a resumed run, whose workers have just started, is that of an uninterrupted
            # one.
            torch.empty((), dtype=torch.int64).random_()
            while True:
                batch = next(batches, None)
                self.waiting.seconds += self.waiting.clock() - asked
                if batch is None:
                    return
                if isinstance(batch, Exception):
                    raise batch
                yield batch
                asked = self.waiting.clock()
        except (RuntimeError, OSError, EOFError) as error:
            if died := self._end_workers(batches or self._iterator):
                raise TwoStreamError(_DEATH.format(died)) from error
            raise

    def _end_workers(self, batches: Any) -> str:
        """End the workers after an error, before torch reports them once more; says how one had died, if it had."""
        workers = getattr(batches, "_workers", ())
        with contextlib.suppress(RuntimeError):
            if workers:
                batches._shutdown_workers()
        self._iterator = None  # the next epoch starts new ones
        codes = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0, -signal.SIGTERM)]
        if not codes:
            return ""
        return f"was killed by signal {-codes[0]}" if codes[0] < 0 else f"ended with exit status {codes[0]}"


_DEATH = (
    "a loader process {}; if memory was short, give fewer data.workers or a smaller data.batch_size, then run the same"
    " command again"
)


@contextlib.contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Turn torch's error that a loader process has died into ours, in one line.

    `ClipLoader` does so while a loop waits for a batch. Torch raises it from a signal's handler, though, which may
    run while the loop works.

    Raises:
        TwoStreamError: a loader process has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TwoStreamError(_DEATH.format(f"has died ({one_line(error).rstrip('.')})")) from error


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
