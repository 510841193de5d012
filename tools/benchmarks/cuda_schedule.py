"""Simulate how TV-L1 on CUDA cuts iterations into passes and launches, from what the CPU's estimator does.

The CPU gives the change after every iteration of every pair. From these follow, without a GPU: the passes of each pair
(as `plan` in `tvl1_iterate.cu` chooses them), the launch that does each, how many pairs have work in it, and how many
of the places that its warps take are filled. Time is modelled, not measured: a launch lasts as long as its busiest warp
walks, and all rows take as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.cuda.tvl1 import LevelPlan, Tuning
from flow_cache.methods.tvl1 import iterate
from flow_cache.methods.tvl1.parameters import TVL1Parameters, level_sizes
from flow_cache.methods.tvl1.pyramid import build_pyramid
from flow_cache.methods.tvl1.solver import Solver

Changes = NDArray[np.float64]  # the sum of squared changes after each iteration of an outer iteration
Warp = list[Changes]  # its outer iterations
Pair = list[list[Warp]]  # its levels, coarsest first, and their warps
SLOWEST_DECAY = 1.25  # as in tvl1_iterate.cu
LAG = 3
# (changes so far, iterations of the last pass, threshold) -> iterations that seem to be left
Predict = Callable[[Changes, int, float], float]


def record_changes(parameters: TVL1Parameters, frames: NDArray[Any]) -> Iterator[Pair]:
    """Solve the consecutive pairs of a stack on the CPU, one iteration at a time; yield all changes of each.

    Args:
        parameters: of the algorithm, with the conventions of OpenCV's CPU version.
        frames: (T, H, W) uint8 or float32 grey levels.
    """
    height, width = frames.shape[1:]
    sizes = level_sizes(height, width, parameters.nscales, parameters.scale_step)
    solver = Solver(parameters, sizes)
    outers: list[tuple[int, Changes]] = []

    def recorded(
        state: Any, _backup: Any, theta: Any, rows: int, columns: int, padded: int, stride: int, limit: Any,
        taut: Any, threshold: float, most: int,
    ) -> tuple[int, float]:  # fmt: skip
        iterate.repeat_edge(state, rows, columns, stride)
        changes = np.zeros(most)
        done = 0
        while done < most and (done == 0 or changes[done - 1] > threshold or threshold <= 0):
            iterate.wave(
                state, state[:1], False, theta, rows, columns, padded, stride, limit, taut, 1, changes[done:]
            )
            done += 1
        outers.append((rows, changes[:done]))
        return done, float(changes[done - 1])

    solver.iterate = recorded
    pyramids = [build_pyramid(frame, sizes, parameters.scale_step, False) for frame in frames]
    flow = np.empty((2, height, width), np.float32)
    for first, second in itertools.pairwise(pyramids):
        outers.clear()
        solver.solve(first, second, flow)
        yield _by_warp(parameters, sizes, outers)


def _by_warp(
    parameters: TVL1Parameters, sizes: Sequence[tuple[int, int]], outers: Sequence[tuple[int, Changes]]
) -> Pair:
    """Sort the outer iterations of a pair into levels and warps: a warp ends by convergence, or at the most."""
    given = iter(outers)
    pair: Pair = []
    for height, width in reversed(sizes):
        threshold = parameters.epsilon**2 * height * width
        warps: list[Warp] = []
        for _ in range(parameters.warps):
            warp: Warp = []
            while len(warp) < parameters.outer_iterations:
                warp.append(next(given)[1])
                if warp[-1][-1] <= threshold:
                    break
            warps.append(warp)
        pair.append(warps)
    return pair


def by_power_law(changes: Changes, count: int, threshold: float) -> float:
    """Predict as `tvl1_iterate.cu` does: the change falls as a power of the iteration's number."""
    done = len(changes)
    lag = min(LAG, count if done > count else count - 1)
    if lag == 0 or changes[-1] <= threshold:
        return math.inf
    power = math.log(changes[-1 - lag] / changes[-1]) / math.log(done / (done - lag))
    return float(done * ((changes[-1] / threshold) ** (1 / max(power, SLOWEST_DECAY)) - 1))


def by_ratio(changes: Changes, count: int, threshold: float) -> float:
    """Predict from the ratio of the last two changes, and half as many again: how it was done before."""
    if len(changes) < 2 or changes[-1] >= changes[-2] or changes[-1] <= threshold:
        return math.inf
    return 1.5 * math.log(threshold / changes[-1]) / math.log(changes[-1] / changes[-2])


@dataclass(frozen=True)
class Strategy:
    """How passes, items and batches are chosen.

    Attributes:
        name: in tables.
        predict: says how many iterations seem to be left.
        tuning: with its spare passes.
        chunks: chunks of every item, None = by the number of pairs that have work.
    """

    name: str
    predict: Predict
    tuning: Tuning
    chunks: int | None = None

    def passes_of_an_outer(self, inner: int) -> int:
        """Return the launches of an outer iteration."""
        return -(-inner // self.tuning.iterations) + self.tuning.spare_passes

    def passes(self, changes: Changes, inner: int, threshold: float) -> list[int]:
        """Return the iterations of each pass of an outer iteration; a last one that is done again is negative."""
        most, launches = self.tuning.iterations, self.passes_of_an_outer(inner)
        done, count, passes = 0, min(inner, most), []
        while True:
            launches -= 1
            passes.append(count)
            if done + count >= len(changes):
                if done + count > len(changes):
                    passes.append(done - len(changes))
                return passes
            done += count
            left = inner - done
            wanted = self.predict(changes[:done], count, threshold) if threshold > 0 else math.inf
            least = max(1, left - (launches - 1) * most)
            count = min(max(math.ceil(min(wanted, most)), least), most, left)


@dataclass
class Totals:
    """What a batch took, summed over its launches of iterations.

    Attributes:
        launches: all of them, those in which no pair has work, too.
        empty: those in which no pair has work.
        passes: of all pairs.
        repeated: of these, passes that do iterations again.
        iterations: of all pairs, those done again counted.
        active: pairs that have work, in each launch.
        filled, places: rows that are walked down in items, and in the places that warps take until the last is done.
        useful: rows that belong to the items, without those that neighbours repeat.
        few: of the places, those in launches with less than a round of items of 16 rows.
    """

    launches: int = 0
    empty: int = 0
    passes: int = 0
    repeated: int = 0
    iterations: int = 0
    active: list[int] | None = None
    filled: int = 0
    places: int = 0
    useful: int = 0
    few: int = 0

    def __post_init__(self) -> None:
        self.active = [] if self.active is None else self.active


def simulate(
    pairs: Sequence[Pair], parameters: TVL1Parameters, height: int, width: int, strategy: Strategy,
    processors: int, totals: Totals | None = None,
) -> Totals:  # fmt: skip
    """Go through the launches of a batch.

    Args:
        pairs: what the CPU did for each.
        parameters: of the algorithm.
        height, width: of the frames, pixels.
        strategy: how passes and items are chosen.
        processors: multiprocessors of the device.
        totals: of the batches before, which are added to.
    """
    totals = totals or Totals()
    assert totals.active is not None
    sizes = level_sizes(height, width, parameters.nscales, parameters.scale_step)
    each = strategy.passes_of_an_outer(parameters.inner_iterations)
    for number, size in enumerate(reversed(sizes)):
        plan = LevelPlan(*size, strategy.tuning)
        threshold = parameters.epsilon**2 * size[0] * size[1]
        workers = plan.workers(len(pairs), processors)
        for w in range(parameters.warps):
            active = np.zeros(parameters.outer_iterations * each + (parameters.epsilon > 0), np.int64)
            for pair in pairs:
                for outer, changes in enumerate(pair[number][w]):
                    passes = strategy.passes(changes, parameters.inner_iterations, threshold)
                    active[outer * each : outer * each + len(passes)] += 1
                    totals.passes += len(passes)
                    totals.repeated += sum(count < 0 for count in passes)
                    totals.iterations += sum(abs(count) for count in passes)
            totals.active += active.tolist()
            totals.launches += len(active)
            totals.empty += int((active == 0).sum())
            for count in active[active > 0].tolist():
                chunks = strategy.chunks or plan.chunks_of_item(count, workers)
                items = count * plan.strips * -(-plan.chunks // chunks)
                places = plan.rounds(count, workers, chunks) * workers * plan.walked(chunks)
                totals.places += places
                totals.filled += items * plan.walked(chunks)
                totals.useful += count * plan.strips * plan.height
                totals.few += places if count * plan.parts < workers else 0
    return totals
