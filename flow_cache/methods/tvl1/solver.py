"""The flow of one pair of frames, from coarse to fine levels: warp, median filter, iterate, zoom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.tvl1 import iterate, median, pyramid, warp
from flow_cache.methods.tvl1.compile import aligned
from flow_cache.methods.tvl1.layout import Layout
from flow_cache.methods.tvl1.parameters import CPU_CUBIC, CUDA_CUBIC, TVL1Parameters

if TYPE_CHECKING:
    from flow_cache.methods.tvl1.pyramid import Level


class Solver:
    """Memory and settings for pairs of frames of one size. One thread at a time may use it.

    A pair's flow does not depend on the pairs before.

    Args:
        parameters: of the algorithm.
        sizes: (height, width) of the levels, finest first.

    Attributes:
        iterate: does the inner iterations, `iterate.iterate` or `iterate.iterate_cuda`.
    """

    def __init__(self, parameters: TVL1Parameters, sizes: list[tuple[int, int]]) -> None:
        p = parameters
        self._parameters = p
        self._layouts = [Layout(height, width) for height, width in sizes]
        self._cuda = bool(p.cuda_conventions)
        self._cubic = CUDA_CUBIC if self._cuda else CPU_CUBIC
        self.iterate = iterate.iterate_cuda if self._cuda else iterate.iterate
        self._limit = np.float32(p.lambda_ * p.theta)
        self._taut = np.float32(p.tau / p.theta)
        height, width = sizes[0]
        self._state = aligned(max(layout.state_size for layout in self._layouts))
        # iterations are taken back only after OpenCV's test for convergence on the CPU
        needs_backup = p.epsilon > 0 and not self._cuda
        self._backup = aligned(max(layout.backup_size for layout in self._layouts) if needs_backup else 1)
        self._median = aligned(median.scratch_size(width))
        self._warp = aligned(2 * width)
        self._cells = np.zeros(4 * width, np.int32)
        self._coarser = aligned(2 * height * width)

    def solve(self, first: list[Level], second: list[Level], flow: NDArray[np.float32]) -> None:
        """Estimate the flow of a pair.

        Args:
            first: pyramid of the first frame.
            second: pyramid of the second frame.
            flow: output, (2, H, W) float32, pixels.
        """
        for level in reversed(range(len(self._layouts))):
            self._prepare(level)
            self._solve_level(first[level], second[level], self._layouts[level])
        flow[:] = self._layouts[0].flow(self._state)

    def _prepare(self, level: int) -> None:
        """Clear the state for a level, then resize the coarser level's flow into it."""
        layout = self._layouts[level]
        coarsest = level + 1 == len(self._layouts)
        if not coarsest:
            coarser = self._layouts[level + 1]
            height, width = coarser.height, coarser.width
            size = height * width
            self._coarser[: 2 * size].reshape(2, height, width)[:] = coarser.flow(self._state)
        iterate.clear(self._state, layout.height, layout.width, layout.padded, layout.stride)
        if coarsest:
            return
        scale_y, scale_x = height / layout.height, width / layout.width
        factor = np.float32(1 / self._parameters.scale_step)
        for i in range(2):
            pyramid.resize(
                self._coarser, i * size, width, height, width,
                self._state, layout.start + i * layout.stride, layout.pitch, layout.height, layout.width,
                scale_y, scale_x, self._cuda, factor,
            )  # fmt: skip

    def _solve_level(self, first: Level, second: Level, layout: Layout) -> None:
        """Refine the flow in the state on one level."""
        p = self._parameters
        height, width, stride = layout.height, layout.width, layout.stride
        theta = layout.theta_row(p.theta)
        threshold = p.epsilon * p.epsilon * height * width
        for _ in range(p.warps):
            warp.warp(
                first.memory, second.memory, self._state, layout.start, layout.pitch, stride, height, width,
                self._cubic, self._warp, self._cells,
            )  # fmt: skip
            for _ in range(p.outer_iterations):
                if p.median_filtering > 1:
                    for i in range(2):
                        start = layout.start + i * stride
                        median.median_filter(
                            self._state, start, layout.pitch, height, width, p.median_filtering, self._median
                        )
                _, change = self.iterate(
                    self._state, self._backup, theta, height, width, layout.padded, stride,
                    self._limit, self._taut, threshold, p.inner_iterations,
                )  # fmt: skip
                if threshold > 0 and change <= threshold:
                    break
