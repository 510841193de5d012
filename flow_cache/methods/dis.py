"""DIS: the quickest flow that is usable, by inverse search of patches, through OpenCV on the CPU.

Kroeger, Timofte, Dai, Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016. OpenCV's version refines the
result by a few steps of a variational method on each level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.base import Flow, FlowMethod, Grey, Parameters, for_each
from flow_cache.runtime import opencv

_PATCH = 8  # side of a patch in pixels, the same in all of OpenCV's presets
_LEAST_SIDE = 16  # OpenCV reads beyond its memory where frames are smaller
_LEAST_COARSE = 13  # likewise where the shorter side is smaller on the coarsest level


@dataclass(frozen=True)
class DisParameters(Parameters):
    """Parameters of OpenCV's DISOpticalFlow.

    Attributes:
        finest_scale: pyramid level at which the search ends, 0 = full size; the flow is enlarged from there.
        patch_stride: distance between neighbouring patches, pixels of a level.
        gradient_descent_iterations: steps of each patch's search.
        refinement_iterations: steps of the variational refinement on each level; 0 leaves it out.
        refinement_alpha: weight of its smoothness.
        refinement_delta: weight of the constancy of levels.
        refinement_gamma: weight of the constancy of gradients.
    """

    finest_scale: int = 2
    patch_stride: int = 4
    gradient_descent_iterations: int = 16
    refinement_iterations: int = 5
    refinement_alpha: float = 20.0
    refinement_delta: float = 5.0
    refinement_gamma: float = 10.0

    presets: ClassVar[dict[str, DisParameters]] = {}

    def _check(self) -> None:
        self._require(0 <= self.finest_scale <= 10, "finest_scale", "from 0 to 10")
        self._require(1 <= self.patch_stride <= _PATCH, "patch_stride", f"from 1 to {_PATCH}")
        self._require(self.gradient_descent_iterations >= 1, "gradient_descent_iterations", "at least 1")
        self._require(self.refinement_iterations >= 0, "refinement_iterations", "at least 0")
        for name in ("refinement_alpha", "refinement_delta", "refinement_gamma"):
            self._require(getattr(self, name) >= 0, name, "at least 0")


DisParameters.presets["fast"] = DisParameters()
DisParameters.presets["ultrafast"] = DisParameters(gradient_descent_iterations=12, refinement_iterations=0)
DisParameters.presets["medium"] = DisParameters(
    finest_scale=1, patch_stride=3, gradient_descent_iterations=25
)


class Dis(FlowMethod):
    """DIS flow by OpenCV's DISOpticalFlow, whose presets have the names of ours.

    The pyramid ends earlier than OpenCV's own where a long, narrow frame would become too small for patches, and
    frames with a side below 16 pixels are padded by repeating their border. Float levels are rounded to bytes.
    """

    name = "dis"
    parameters_type = DisParameters

    def __init__(self, parameters: DisParameters, device: str = "cpu") -> None:
        self.parameters: DisParameters = parameters
        self.backend = "opencv-cpu"

    def _estimate(self, first: Grey, second: Grey) -> Flow:
        count, height, width = first.shape
        flow = np.empty((count, 2, height, width), np.float32)
        top, left = (max(_LEAST_SIDE - side, 0) // 2 for side in (height, width))
        inner = (slice(top, top + height), slice(left, left + width))

        def solve(n: int) -> None:
            before, after = _bytes(first[n]), _bytes(second[n])
            # An object of its own: it keeps memory between pairs and serves one thread.
            field = self._solver(before.shape).calc(before, after, None)
            flow[n] = np.moveaxis(field, -1, 0)[:, *inner]

        for_each(solve, count, self.threads)
        return flow

    def _solver(self, shape: tuple[int, ...]) -> Any:
        """Return OpenCV's object for frames (H, W)."""
        p = self.parameters
        # OpenCV's own rule for the coarsest level knows the longer side only.
        coarsest = int(math.log2(max(shape) / (4 * _PATCH)) + 0.5)
        coarsest = max(0, min(coarsest, int(math.log2(min(shape) / _LEAST_COARSE))))
        solver = opencv().DISOpticalFlow_create(opencv().DISOPTICAL_FLOW_PRESET_FAST)
        solver.setCoarsestScale(coarsest)
        solver.setFinestScale(min(p.finest_scale, coarsest))
        solver.setPatchSize(_PATCH)
        solver.setPatchStride(p.patch_stride)
        solver.setGradientDescentIterations(p.gradient_descent_iterations)
        solver.setVariationalRefinementIterations(p.refinement_iterations)
        solver.setVariationalRefinementAlpha(p.refinement_alpha)
        solver.setVariationalRefinementDelta(p.refinement_delta)
        solver.setVariationalRefinementGamma(p.refinement_gamma)
        return solver


def _bytes(frame: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a frame (H, W) as bytes, with sides of at least 16 pixels."""
    levels = np.ascontiguousarray(frame if frame.dtype == np.uint8 else np.rint(frame), np.uint8)
    down, right = (max(_LEAST_SIDE - side, 0) for side in levels.shape)
    if not (down or right):
        return levels
    return np.pad(levels, ((down // 2, down - down // 2), (right // 2, right - right // 2)), mode="edge")
