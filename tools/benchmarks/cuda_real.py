"""Measure flow on CUDA on consecutive pairs of real videos, whose iterations differ very much in number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.cuda_agreement import Estimator
from benchmarks.cuda_ceilings import waiter
from benchmarks.cuda_costs import CountingBackend
from benchmarks.timing import TooSlowError, median_and_range, seconds_per_call
from benchmarks.videos import Frames, pick_videos, read_middle
from flow_cache.errors import ArgumentError
from flow_cache.methods.cuda.backend import Backend
from flow_cache.methods.cuda.engine import MOST_PAIRS

CLIPS, PAIRS = 30, 1024  # at least so many, where the folder has them
LONGEST = 10_000  # frames of a video
BOUND = 20.0
STAGES = {
    "pyramids": ("grey_from_bytes", "grey_from_floats", "shrink", "differentiate"),
    "levels": ("zoom", "begin_level", "take_flow"),
    "warps": ("warp", "begin_warp"),
    "median": ("median",),
    "iterations": ("iterate",),
}


@dataclass(frozen=True)
class Counted:
    """What the pairs of some videos took.

    Attributes:
        iterations: of each pair, over all levels and warps, with those done again.
        active: pairs that had work, in each launch of iterations that had any.
        launches: of iterations.
        seconds: by stage, of all launches, each waited for.
    """

    iterations: NDArray[np.int64]
    active: list[int]
    launches: int
    seconds: dict[str, float] = field(default_factory=dict)


def real_stacks(
    folder: Path, width: int, height: int, clips: int = CLIPS, pairs: int = PAIRS
) -> list[Frames]:
    """Read whole videos, evenly spread over a folder: at least `clips` of them, and `pairs` consecutive pairs."""
    while True:
        videos = pick_videos(folder, clips)
        stacks = [read_middle(video, LONGEST, width, height) for video in videos]
        if len(videos) < clips or sum(len(stack) - 1 for stack in stacks) >= pairs:
            return stacks
        clips *= 2


def together(stacks: Sequence[Frames], most: int = MOST_PAIRS) -> Iterator[list[Frames]]:
    """Split stacks into groups whose pairs, and those between neighbours, fit in a batch."""
    group: list[Frames] = []
    for stack in stacks:
        if group and sum(map(len, group)) + len(stack) - 1 > most:
            yield group
            group = []
        group.append(stack[: most + 1])
    yield group


def count(
    backend: Backend, estimator: Estimator, stacks: Sequence[Frames], batch: int = MOST_PAIRS,
    clock: Callable[[], float] = time.perf_counter,
) -> Counted:  # fmt: skip
    """Run the stacks once, in batches of at most so many pairs, and count; every launch is waited for."""
    iterations: list[int] = []
    active: list[int] = []
    launches, seconds = 0, dict.fromkeys(STAGES, 0.0)
    for group in together(stacks, batch):
        pairs = sum(map(len, group)) - 1
        counting = CountingBackend(backend, pairs, waiter(backend), clock)
        method = estimator.on_gpu(cast(Backend, counting))
        method.batch = pairs
        method.quantized_stacks(group, BOUND)
        work = counting.work
        seams = np.cumsum([len(stack) for stack in group])[:-1] - 1
        iterations += np.delete(work.iterations, seams).tolist()
        active += [number for number in work.active if number]
        launches += work.launches["iterate"]
        for stage, names in STAGES.items():
            seconds[stage] += sum(work.seconds[name] for name in names)
    return Counted(np.array(iterations, np.int64), active, launches, seconds)


def measure_real(
    backend: Backend, estimator: Estimator, stacks: Sequence[Frames], batches: Sequence[int], repeats: int,
    min_seconds: float, left: Callable[[], float],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Measure pairs a second from the host in batches of several sizes; yield the cells of a row for each.

    Args:
        backend: the device.
        estimator: TV-L1, with a preset.
        stacks: consecutive frames of each video.
        batches: pairs in a batch, several.
        repeats, min_seconds: as `seconds_per_call` takes them.
        left: returns how many seconds the next batch may take.
    """
    if estimator.method != "tvl1":
        raise ArgumentError(f"iterations are counted for tvl1 only, got {estimator.method!r}")
    pairs = sum(len(stack) - 1 for stack in stacks)
    for batch in batches:
        row: dict[str, Any] = {
            "estimator": estimator.name, "videos": len(stacks), "pairs": pairs, "batch": batch, "rate": "",
            "slowest": "", "fastest": "", "iterations": "", "iterations_99": "", "iterations_most": "",
            "launches": "", "active": "", **{f"{stage}_ms_a_pair": "" for stage in STAGES}, "note": "",
        }  # fmt: skip
        try:
            if left() <= 0:
                raise TooSlowError("no time left")
            counted = count(backend, estimator, stacks, batch)
            method = estimator.on_gpu(backend)
            method.batch = batch
            work = partial(method.quantized_stacks, stacks, BOUND)
            seconds = seconds_per_call(work, waiter(backend), repeats, left(), min_seconds)
        except TooSlowError as error:
            yield {**row, "note": f"not measured, too slow for the time set: {error}"}
            continue
        rate, slowest, fastest = median_and_range([pairs / value for value in seconds])
        done = counted.iterations
        yield {
            **row, "rate": rate, "slowest": slowest, "fastest": fastest, "iterations": done.mean(),
            "iterations_99": np.quantile(done, 0.99), "iterations_most": int(done.max()),
            "launches": counted.launches, "active": float(np.mean(counted.active)),
            **{f"{stage}_ms_a_pair": 1e3 * value / pairs for stage, value in counted.seconds.items()},
        }  # fmt: skip
