"""TV-L1 on CUDA: the launches of `tvl1_pyramid.cu`, `tvl1_warp.cu`, `tvl1_median.cu` and `tvl1_iterate.cu`.

The results are those of the CPU estimator (`flow_cache.methods.tvl1.estimator`), up to rounding. The host queues the
same launches for every batch, whatever the frames. Launches do no work for a pair that has converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flow_cache.methods.cuda.backend import Backend, DeviceArray, Size, blocks_for
from flow_cache.methods.cuda.engine import CudaMethod, Workspace
from flow_cache.methods.tvl1.parameters import BORDER, CPU_CUBIC, CUDA_CUBIC, TVL1Parameters, level_sizes

LANES = 32  # threads of a warp
WARPS = 2  # of a block
CHUNK = 16  # rows of a chunk, approximately; a warp computes one or several
LARGEST_ITEM = 16  # chunks that a warp computes at most
MOST_ITERATIONS = 8  # of a pass, in any tuning
CONTROL = 8  # numbers in the control record of a pair
BLOCK = (32, 8, 1)  # threads of a block where a thread computes one pixel
MEDIAN_TILE = (64, 16)  # pixels that a block filters at a time
MEDIAN_RESIDENT = 4  # blocks of the median filter that fit on a multiprocessor, by their registers


@dataclass(frozen=True)
class Tuning:
    """How the kernel of the iterations is compiled and launched.

    Results do not depend on it, except for the iteration after which a pair is seen to have converged: sums are rounded
    differently.

    Attributes:
        iterations: iterations in one pass over memory. More need less bandwidth, but more registers and overlap.
        columns: columns of a lane, 2 or 4; the strip of a warp is 32 times as wide.
        resident: blocks that fit on a multiprocessor, by their registers.
        spare_passes: passes of an outer iteration beyond the fewest that can do its iterations, so that some passes may
            be shorter.
    """

    iterations: int
    columns: int
    resident: int
    spare_passes: int = 3

    @property
    def strip(self) -> int:
        """Columns of a strip."""
        return self.columns * LANES

    @property
    def halo(self) -> int:
        """Columns that a strip shares with its neighbour, on each side."""
        return blocks_for(self.iterations, self.columns) * self.columns

    def macros(self) -> dict[str, int]:
        """Return the macros of `tvl1_iterate.cu`."""
        return {"ITERATIONS": self.iterations, "COLUMNS": self.columns, "RESIDENT": self.resident}


# All compile without register spills. The first is the default; the best one differs between GPU generations.
TUNINGS = (Tuning(6, 2, 6), Tuning(5, 4, 4), Tuning(8, 2, 4), Tuning(4, 4, 4))


@dataclass(frozen=True)
class LevelPlan:
    """Size of a level, and how it is cut into items of work for the kernels.

    Chunks depend only on the size, so that sums over them are always rounded in the same way. How many make an item
    also depends on how many pairs have work; results do not.

    Attributes:
        height: rows.
        width: pixels in a row.
        tuning: gives the width of a strip.
    """

    height: int
    width: int
    tuning: Tuning = TUNINGS[0]

    @property
    def stride(self) -> int:
        """Floats from one row to the next, a multiple of 4."""
        return -(-self.width // 4) * 4

    @property
    def strips(self) -> int:
        """Strips of columns; neighbours overlap."""
        strip = self.tuning.strip
        return 1 + max(0, blocks_for(self.stride - strip, strip - 2 * self.tuning.halo))

    @property
    def rows(self) -> int:
        """Rows of a chunk; the last one may have fewer, but at least as many as a pass has iterations."""
        rows = blocks_for(self.height, max(1, round(self.height / CHUNK)))
        while (self.height - 1) % rows + 1 < MOST_ITERATIONS:
            rows += 1
        return rows

    @property
    def chunks(self) -> int:
        """Chunks of rows."""
        return blocks_for(self.height, self.rows)

    @property
    def parts(self) -> int:
        """Sums of squared change in each iteration: of a strip and a chunk each."""
        return self.strips * self.chunks

    def chunks_of_item(self, active: int, workers: int) -> int:
        """Choose how many chunks a warp computes, as the kernel does: those with which the last warp is done first.

        Args:
            active: pairs that have work.
            workers: warps that share it.
        """
        sizes = [1 << k for k in range(LARGEST_ITEM.bit_length())]
        return min(reversed(sizes), key=lambda size: self.rounds(active, workers, size) * self.walked(size))

    def rounds(self, active: int, workers: int, size: int) -> int:
        """Return how many items of `size` chunks the busiest warp gets."""
        return blocks_for(active * self.strips * blocks_for(self.chunks, size), workers)

    def walked(self, size: int) -> int:
        """Return the rows that a warp walks down for an item of `size` chunks."""
        return size * self.rows + 2 * self.tuning.iterations

    def workers(self, pairs: int, processors: int) -> int:
        """Return how many warps share the work of a batch on a device with so many multiprocessors."""
        return WARPS * min(blocks_for(self.parts * pairs, WARPS), self.tuning.resident * processors)

    @property
    def median_tiles(self) -> int:
        """Tiles of the median filter."""
        return blocks_for(self.stride, MEDIAN_TILE[0]) * blocks_for(self.height, MEDIAN_TILE[1])

    @property
    def bordered(self) -> tuple[int, int]:
        """Height and width with the border."""
        return self.height + 2 * BORDER, self.width + 2 * BORDER


class TVL1(CudaMethod):
    """TV-L1 flow on one GPU, many pairs at a time.

    The flow of a pair depends only on the pair and the parameters, not on its batch, bit for bit.

    Args:
        parameters: of the algorithm.
        backend: the device.

    Attributes:
        tuning: how the kernel of the iterations is compiled and launched.
    """

    name = "tvl1"
    parameters_type = TVL1Parameters
    tuning: Tuning = TUNINGS[0]

    def __init__(self, parameters: TVL1Parameters, backend: Backend) -> None:
        super().__init__(backend)
        self.parameters: TVL1Parameters = parameters
        self.backend = "cuda"

    def _make_workspace(self, height: int, width: int, frames: int, pairs: int) -> Workspace:
        return TVL1Workspace(self.device, self.parameters, self.tuning, height, width, frames, pairs)

    def _bytes(self, height: int, width: int) -> tuple[int, int]:
        plans = level_plans(self.parameters, height, width, self.tuning)
        finest = plans[0]
        frame = sum(12 * plan.bordered[0] * plan.bordered[1] for plan in plans) + 4 * height * width
        pair = 4 * (12 + 3 + 2) * finest.height * finest.stride + 8 * height * width
        partials = max(plan.parts for plan in plans) * self.tuning.iterations * 4
        return frame + 4, pair + partials + 8 * CONTROL + 48


def level_plans(parameters: TVL1Parameters, height: int, width: int, tuning: Tuning) -> list[LevelPlan]:
    """Return the plans of the levels of a frame of height x width pixels, finest first."""
    sizes = level_sizes(height, width, parameters.nscales, parameters.scale_step)
    return [LevelPlan(*size, tuning) for size in sizes]


class TVL1Workspace(Workspace):
    """The arrays of a batch (pyramids, two states of the unknowns, data term, control records), and its launches.

    Args:
        backend: the device.
        parameters: of the algorithm.
        tuning: how the kernel of the iterations is compiled and launched.
        height, width, frames, pairs: see `Workspace`.
    """

    def __init__(
        self,
        backend: Backend,
        parameters: TVL1Parameters,
        tuning: Tuning,
        height: int,
        width: int,
        frames: int,
        pairs: int,
    ) -> None:
        super().__init__(backend, height, width, frames, pairs)
        self._parameters = parameters
        self._tuning = tuning
        self._plans = level_plans(parameters, height, width, tuning)
        finest = self._plans[0]
        plane = finest.height * finest.stride
        empty = backend.empty
        self._levels = [empty((frames, 3, *plan.bordered), np.float32) for plan in self._plans]
        self._unknowns = empty(pairs * 12 * plane, np.float32)
        self._filtered = empty(pairs * 2 * plane, np.float32)
        self._data = empty(pairs * 3 * plane, np.float32)
        self._partials = empty(
            pairs * tuning.iterations * max(plan.parts for plan in self._plans), np.float32
        )
        self._control = empty((2, pairs, CONTROL), np.int32)
        self._memory = empty((2, pairs, 2), np.float64)
        self._arrived = empty(pairs, np.int32)
        self._turn = 0  # index of the copy of the control records that the next launch reads
        self._pyramid = backend.module("tvl1_pyramid.cu")
        self._warp = backend.module("tvl1_warp.cu")
        self._median = backend.module("tvl1_median.cu")
        self._iterate = backend.module("tvl1_iterate.cu", **tuning.macros())

    def work(self, staged: DeviceArray) -> None:
        self._turn = 0
        self.backend.clear(self._control)
        self._build_pyramids(staged)
        for level in reversed(range(len(self._plans))):
            self._begin_level(level)
            for _ in range(self._parameters.warps):
                self._solve_warp(level)
        finest = self._plans[0]
        self._pyramid.launch(
            "take_flow",
            self._grid(self.width, self.height, self.pairs),
            BLOCK,
            (
                self.first,
                self._control[self._turn],
                self._unknowns,
                self.flow,
                self.height,
                self.width,
                finest.stride,
            ),
        )

    @staticmethod
    def _grid(width: int, height: int, depth: int) -> Size:
        """Return the grid with one thread for each pixel."""
        return blocks_for(width, BLOCK[0]), blocks_for(height, BLOCK[1]), depth

    def _build_pyramids(self, staged: DeviceArray) -> None:
        """Build the pyramids of the staged frames in their slots."""
        p = self._parameters
        conventions = p.cuda_conventions
        for plan, level, finer in zip(
            self._plans, self._levels, [None, *zip(self._plans, self._levels, strict=True)], strict=False
        ):
            grid = self._grid(plan.width, plan.height, self.frames)
            if finer is None:
                name = "grey_from_bytes" if staged.dtype == np.uint8 else "grey_from_floats"
                self._pyramid.launch(name, grid, BLOCK, (staged, self.slots, level, plan.height, plan.width))
            else:
                finer_plan, finer_level = finer
                scale = np.float64(1 / p.scale_step)
                self._pyramid.launch(
                    "shrink",
                    grid,
                    BLOCK,
                    (
                        self.slots, finer_level, finer_plan.height, finer_plan.width,
                        level, plan.height, plan.width, scale, conventions,
                    ),
                )  # fmt: skip
            height, width = plan.bordered
            self._pyramid.launch(
                "differentiate",
                self._grid(width, height, self.frames),
                BLOCK,
                (self.slots, level, plan.height, plan.width, conventions),
            )

    def _begin_level(self, level: int) -> None:
        """Start a level with the resized flow of the next coarser one."""
        p, plan = self._parameters, self._plans[level]
        grid = self._grid(plan.stride, plan.height, self.pairs)
        coarsest = level + 1 == len(self._plans)
        if not coarsest:
            coarser = self._plans[level + 1]
            self._pyramid.launch(
                "zoom",
                grid,
                BLOCK,
                (
                    self.first, self._control[self._turn], self._unknowns,
                    coarser.height, coarser.width, coarser.stride,
                    self._filtered, plan.height, plan.width, plan.stride,
                    np.float64(coarser.height / plan.height), np.float64(coarser.width / plan.width),
                    p.cuda_conventions, 1 / p.scale_step,
                ),
            )  # fmt: skip
        self._pyramid.launch(
            "begin_level",
            grid,
            BLOCK,
            (
                self.first,
                self._control[self._turn],
                None if coarsest else self._filtered,
                self._unknowns,
                plan.height,
                plan.stride,
            ),
        )

    def _solve_warp(self, level: int) -> None:
        """Warp the second frames of a level, then do the outer iterations."""
        p, plan = self._parameters, self._plans[level]
        self._warp.launch(
            "warp",
            self._grid(plan.stride, plan.height, self.pairs),
            BLOCK,
            (
                self.first, self.second, self._control[self._turn], self._levels[level], self._unknowns, self._data,
                plan.height, plan.width, plan.stride, CUDA_CUBIC if p.cuda_conventions else CPU_CUBIC,
            ),
        )  # fmt: skip
        now, after = self._take_turn()
        self._iterate.launch(
            "begin_warp",
            (blocks_for(self.pairs, 128), 1, 1),
            (128, 1, 1),
            (
                self.first,
                self.pairs,
                self._control[now],
                self._control[after],
                self._memory[after],
                self._arrived,
                p.inner_iterations,
            ),
        )
        passes = blocks_for(p.inner_iterations, self._tuning.iterations) + self._tuning.spare_passes
        for outer in range(p.outer_iterations):
            if p.median_filtering > 1:
                self._filter(plan, outer)
            for left in reversed(range(passes)):
                self._pass(plan, outer, left)
        if p.epsilon > 0:
            self._pass(plan, p.outer_iterations, 0)  # repeats iterations where too many were done

    def _take_turn(self) -> tuple[int, int]:
        """Return which copy of the control records a launch reads, and which it writes."""
        now = self._turn
        self._turn = 1 - now
        return now, self._turn

    def _filter(self, plan: LevelPlan, outer: int) -> None:
        """Launch the median filter before the outer iteration `outer`."""
        blocks = min(2 * plan.median_tiles * self.pairs, MEDIAN_RESIDENT * self.backend.processors)
        self._median.launch(
            "median",
            (blocks, 1, 1),
            BLOCK,
            (
                self._control[self._turn], self.pairs, outer, self._unknowns, self._filtered,
                plan.height, plan.width, plan.stride, self._parameters.median_filtering,
            ),
        )  # fmt: skip

    def _pass(self, plan: LevelPlan, outer: int, left: int) -> None:
        """Launch a pass of iterations; `left` more passes follow in this outer iteration."""
        p = self._parameters
        now, after = self._take_turn()
        blocks = plan.workers(self.pairs, self.backend.processors) // WARPS
        self._iterate.launch(
            "iterate",
            (blocks, 1, 1),
            (LANES * WARPS, 1, 1),
            (
                self._control[now], self._memory[now], self._control[after], self._memory[after],
                self._arrived, self._partials, self.pairs, outer, left, self._unknowns, self._data,
                self._filtered if p.median_filtering > 1 else None, plan.height, plan.width, plan.stride,
                plan.strips, plan.chunks, plan.rows, p.theta, p.lambda_ * p.theta, p.tau / p.theta,
                np.float64(p.epsilon * p.epsilon * plan.height * plan.width), p.inner_iterations,
                p.outer_iterations, p.cuda_conventions,
            ),
        )  # fmt: skip
