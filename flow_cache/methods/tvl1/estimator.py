"""TV-L1: duality-based total variation with an L1 data term, on the CPU.

Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007; the scheme of warps,
medians and scales follows Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow Estimation", IPOL 2013, as
OpenCV's DualTVL1OpticalFlow does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from flow_cache.methods.base import Flow, FlowMethod, Grey, for_each
from flow_cache.methods.tvl1.parameters import TVL1Parameters, level_sizes
from flow_cache.methods.tvl1.pyramid import Level, build_pyramid
from flow_cache.methods.tvl1.solver import Solver

Pyramid = list[Level]


class TVL1(FlowMethod):
    """TV-L1 flow by compiled kernels.

    The flow of a pair depends only on the pair and the parameters: not on the stack, the threads, the number of cores
    or earlier calls.

    Args:
        parameters: of the algorithm.
        device: ignored, this is the estimator of the CPU.
    """

    name = "tvl1"
    libraries = ("numba",)
    parameters_type = TVL1Parameters

    def __init__(self, parameters: TVL1Parameters, device: str = "cpu") -> None:
        self.parameters: TVL1Parameters = parameters
        self.backend = "numba-cpu"

    def _estimate_stack(self, frames: Grey, step: int) -> Flow:
        """Estimate the flow of a stack; a frame's pyramid is built once for both of its pairs."""
        pairs = len(frames) - step
        uses = [(t < pairs) + (t >= step) for t in range(len(frames))]
        pyramids = _Pyramids(lambda t: self._pyramid(frames[t]), uses)
        return self._solve_pairs(
            frames.shape[1:],
            pairs,
            lambda n: (pyramids.take(n), pyramids.take(n + step)),
            lambda n: pyramids.release(n, n + step),
        )

    def _estimate(self, first: Grey, second: Grey) -> Flow:
        return self._solve_pairs(
            first.shape[1:],
            len(first),
            lambda n: (self._pyramid(first[n]), self._pyramid(second[n])),
            lambda n: None,
        )

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the (height, width) of the levels, finest first."""
        return level_sizes(height, width, self.parameters.nscales, self.parameters.scale_step)

    def _pyramid(self, frame: Grey) -> Pyramid:
        """Build the pyramid of a frame (H, W)."""
        p = self.parameters
        return build_pyramid(frame, self._sizes(*frame.shape), p.scale_step, bool(p.cuda_conventions))

    def _solve_pairs(
        self,
        size: tuple[int, ...],
        count: int,
        take: Callable[[int], tuple[Pyramid, Pyramid]],
        release: Callable[[int], object],
    ) -> Flow:
        """Estimate the flow of `count` pairs; `take` returns the pyramids of a pair, `release` says it is done."""
        flow = np.empty((count, 2, *size), np.float32)
        height, width = size
        solvers = threading.local()  # each thread works in memory of its own

        def solve(n: int) -> None:
            if not hasattr(solvers, "one"):
                solvers.one = Solver(self.parameters, self._sizes(height, width))
            first, second = take(n)
            solvers.one.solve(first, second, flow[n])
            release(n)

        for_each(solve, count, self.threads)
        return flow


class _Pyramids:
    """Pyramids of a stack: the thread that needs one first builds it; it is dropped after its last use.

    Args:
        build: builds the pyramid of a frame by its index.
        uses: number of pairs that each frame belongs to.
    """

    def __init__(self, build: Callable[[int], Pyramid], uses: list[int]) -> None:
        self._build = build
        self._uses = uses
        self._lock = threading.Lock()
        self._built: dict[int, Future[Pyramid]] = {}

    def take(self, index: int) -> Pyramid:
        """Return a frame's pyramid; build it, or wait until another thread has built it."""
        with self._lock:
            absent = index not in self._built
            future = self._built.setdefault(index, Future())
        if absent:
            try:
                future.set_result(self._build(index))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def release(self, *indices: int) -> None:
        """Report that one use of each of these pyramids is over."""
        with self._lock:
            for index in indices:
                self._uses[index] -= 1
                if self._uses[index] == 0:
                    del self._built[index]
