"""Clips in batches: the order in which an epoch draws them, and the worker processes that load them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from flow_cache import leave_signals_to_parent, signals_blocked
from twostream.data.dataset import Clip, ClipKey
from twostream.errors import TwoStreamError, one_line


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
        self._begun = (0, 0)
        self._length = length
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._balance = None if balance is None else np.asarray(balance)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one, also after a resume."""
        self.epoch = epoch

    def skip(self, epoch: int, clips: int) -> None:
        """Leave out the first clips of one epoch, in which a training goes on after an interruption."""
        self._begun = (epoch, clips)

    @property
    def skipped(self) -> int:
        """Number of clips that this epoch leaves out."""
        epoch, clips = self._begun
        return clips if epoch == self.epoch else 0

    def __len__(self) -> int:
        """Count the clips of a whole epoch."""
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
        for index, repeat in order[self._rank :: self._world_size][self.skipped :].tolist():
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
        self._order = sampler
        self._given = 0
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

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of which epoch a loop has had; Lightning keeps this in its checkpoints."""
        return {"epoch": self._order.epoch, "batches": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on in the epoch that a checkpoint was written in, with the batch after those that a loop has had."""
        assert self.batch_size is not None
        self._order.skip(state["epoch"], state["batches"] * self.batch_size)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        assert self.batch_size is not None
        self._given = self._order.skipped // self.batch_size
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
                self._given += 1
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
