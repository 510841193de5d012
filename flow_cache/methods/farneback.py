"""Farneback: flow from polynomial expansion, through OpenCV on the CPU.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flow_cache.methods.base import Flow, FlowMethod, Grey, Parameters, for_each
from flow_cache.runtime import opencv


@dataclass(frozen=True)
class FarnebackParameters(Parameters):
    """Parameters of OpenCV's calcOpticalFlowFarneback, under its names.

    Attributes:
        levels: pyramid levels.
        pyr_scale: size of a level relative to the next finer one.
        winsize: width of the averaging window, pixels.
        iterations: iterations on each level.
        poly_n: size of the neighbourhood to which a polynomial is fitted: it reaches this many pixels to every side.
        poly_sigma: standard deviation of the Gaussian that weights this neighbourhood, pixels.
    """

    levels: int = 5
    pyr_scale: float = 0.5
    winsize: int = 13
    iterations: int = 10
    poly_n: int = 5
    poly_sigma: float = 1.1

    presets: ClassVar[dict[str, FarnebackParameters]] = {}

    def _check(self) -> None:
        self._require(1 <= self.levels <= 64, "levels", "from 1 to 64")
        self._require(0 < self.pyr_scale < 1, "pyr_scale", "between 0 and 1")
        self._require(1 <= self.winsize <= 1023, "winsize", "from 1 to 1023")
        self._require(self.iterations >= 1, "iterations", "at least 1")
        self._require(3 <= self.poly_n <= 63 and self.poly_n % 2 == 1, "poly_n", "odd, from 3 to 63")
        self._require(self.poly_sigma > 0, "poly_sigma", "above 0")


FarnebackParameters.presets["default"] = FarnebackParameters()
FarnebackParameters.presets["opencv"] = FarnebackParameters(
    levels=3, pyr_scale=0.5, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2
)


class Farneback(FlowMethod):
    """Farneback flow by OpenCV's calcOpticalFlowFarneback."""

    name = "farneback"
    parameters_type = FarnebackParameters

    def __init__(self, parameters: FarnebackParameters, device: str = "cpu") -> None:
        self.parameters: FarnebackParameters = parameters
        self.backend = "opencv-cpu"

    def _estimate(self, first: Grey, second: Grey) -> Flow:
        p = self.parameters
        flow = np.empty((len(first), 2, *first.shape[1:]), np.float32)

        def solve(n: int) -> None:
            before, after = np.ascontiguousarray(first[n]), np.ascontiguousarray(second[n])
            field = opencv().calcOpticalFlowFarneback(
                before, after, None, p.pyr_scale, p.levels, p.winsize, p.iterations, p.poly_n, p.poly_sigma, 0
            )
            flow[n] = np.moveaxis(field, -1, 0)

        for_each(solve, len(first), self.threads)
        return flow
