"""TV-L1: duality-based total variation with an L1 data term, through OpenCV on the CPU.

Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007; the implementation
follows Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow Estimation", IPOL 2013.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flow_cache.methods.base import Flow, FlowMethod, Grey, Parameters
from flow_cache.opencv import opencv


@dataclass(frozen=True)
class TVL1Parameters(Parameters):
    """OpenCV's parameters of DualTVL1OpticalFlow, under its names; the defaults are OpenCV 5's."""

    tau: float = 0.25
    """Time step of the dual iteration; it converges up to 0.25."""
    lambda_: float = 0.15
    """Weight of the data term: smaller gives smoother flow."""
    theta: float = 0.3
    """Tightness of the coupling between the two halves of the split problem."""
    nscales: int = 5
    """Levels of the pyramid."""
    warps: int = 5
    """Warps of the second frame on each level."""
    epsilon: float = 0.01
    """Stop once the flow changes by less than this; 0 always runs all iterations."""
    inner_iterations: int = 30
    """Iterations between two median filters."""
    outer_iterations: int = 10
    """Median filters, each followed by the inner iterations, in a warp."""
    scale_step: float = 0.8
    """Size of a level relative to the finer one."""
    gamma: float = 0.0
    """Weight of the illumination change that is estimated besides the flow; 0 = none."""
    median_filtering: int = 5
    """Width of the median filter: 1 (none), 3 or 5."""

    presets: ClassVar[dict[str, TVL1Parameters]] = {}

    def _check(self) -> None:
        self._require(0 < self.tau <= 0.25, "tau", "above 0 and at most 0.25")
        self._require(self.lambda_ > 0, "lambda_", "above 0")
        self._require(self.theta > 0, "theta", "above 0")
        self._require(1 <= self.nscales <= 64, "nscales", "from 1 to 64")
        self._require(self.warps >= 1, "warps", "at least 1")
        self._require(self.epsilon >= 0, "epsilon", "at least 0")
        self._require(self.inner_iterations >= 1, "inner_iterations", "at least 1")
        self._require(self.outer_iterations >= 1, "outer_iterations", "at least 1")
        self._require(0 < self.scale_step < 1, "scale_step", "between 0 and 1")
        self._require(self.gamma >= 0, "gamma", "at least 0")
        self._require(self.median_filtering in (1, 3, 5), "median_filtering", "1, 3 or 5")


TVL1Parameters.presets["opencv"] = TVL1Parameters()


class TVL1(FlowMethod):
    """TV-L1 flow by OpenCV's DualTVL1OpticalFlow."""

    name = "tvl1"
    parameters_type = TVL1Parameters

    def __init__(self, parameters: TVL1Parameters) -> None:
        self.parameters: TVL1Parameters = parameters
        self.backend = "opencv-cpu"

    def _estimate(self, first: Grey, second: Grey) -> Flow:
        p = self.parameters
        # A new object per call: after one small image OpenCV's keeps its pyramid shortened for good.
        solver = opencv().optflow.DualTVL1OpticalFlow_create(
            p.tau,
            p.lambda_,
            p.theta,
            p.nscales,
            p.warps,
            p.epsilon,
            p.inner_iterations,
            p.outer_iterations,
            p.scale_step,
            p.gamma,
            p.median_filtering,
        )
        flow = np.empty((len(first), 2, *first.shape[1:]), np.float32)
        for n, (before, after) in enumerate(zip(first, second, strict=True)):
            field = solver.calc(np.ascontiguousarray(before), np.ascontiguousarray(after), None)
            flow[n] = np.moveaxis(field, -1, 0)
        return flow
