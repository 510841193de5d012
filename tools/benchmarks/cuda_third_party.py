"""Other projects' flow on CUDA, where it is installed: cuCIM's TV-L1, and OpenCV's if built with CUDA, pair by pair."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from flow_cache.methods.base import Parameters
from flow_cache.runtime import opencv

Run = Callable[[], object]


@dataclass(frozen=True)
class ThirdParty:
    """An estimator of another project."""

    name: str
    method: str
    presets: tuple[str, ...]
    """Ours that it is compared with."""
    prepare: Callable[[Parameters, Any], Run]
    """Takes parameters and host frames (T, H, W) uint8, uploads them, returns what queues the flow of all pairs."""


def installed() -> tuple[list[ThirdParty], list[str]]:
    """List the estimators that are installed, and why each of the others is missing."""
    found, missing = [], []
    if find_spec("cucim") and find_spec("cupy"):
        found.append(ThirdParty("cuCIM", "tvl1", ("opencv",), _cucim))
    else:
        missing.append("cuCIM is not installed")
    cv = opencv()
    devices = cv.cuda.getCudaEnabledDeviceCount() if hasattr(cv, "cuda") else 0
    tvl1, farneback = (
        hasattr(getattr(cv, "cuda", None), name)
        for name in ("OpticalFlowDual_TVL1_create", "FarnebackOpticalFlow_create")
    )
    if devices > 0 and tvl1:
        found.append(ThirdParty("OpenCV CUDA", "tvl1", ("opencv-cuda",), _opencv_tvl1))
    if devices > 0 and farneback:
        found.append(ThirdParty("OpenCV CUDA", "farneback", ("default", "opencv"), _opencv_farneback))
    if not (devices > 0 and (tvl1 or farneback)):
        missing.append("OpenCV is not built with CUDA's optical flow")
    return found, missing


def _cucim(parameters: Parameters, frames: Any) -> Run:
    """Run cuCIM's with its own defaults, which stop after 50 iterations; it takes floats from 0 to 1."""
    import cupy

    optical_flow_tvl1 = importlib.import_module("cucim.skimage.registration").optical_flow_tvl1
    greys = cupy.asarray(frames).astype(cupy.float32) / 255

    def run() -> None:
        for before, after in itertools.pairwise(greys):
            optical_flow_tvl1(before, after, dtype=cupy.float32)

    return run


def _upload(frames: Any) -> list[Any]:
    matrices = []
    for frame in frames:
        matrix = opencv().cuda.GpuMat()
        matrix.upload(np.ascontiguousarray(frame))
        matrices.append(matrix)
    return matrices


def _pair_by_pair(estimator: Any, frames: Any) -> Run:
    greys = _upload(frames)

    def run() -> None:
        for before, after in itertools.pairwise(greys):
            estimator.calc(before, after, None)

    return run


def _opencv_tvl1(parameters: Parameters, frames: Any) -> Run:
    p = parameters.as_dict()
    estimator = opencv().cuda.OpticalFlowDual_TVL1_create(
        p["tau"], p["lambda_"], p["theta"], p["nscales"], p["warps"], p["epsilon"], p["inner_iterations"],
        p["scale_step"], p["gamma"], False,
    )  # fmt: skip
    return _pair_by_pair(estimator, frames)


def _opencv_farneback(parameters: Parameters, frames: Any) -> Run:
    p = parameters.as_dict()
    estimator = opencv().cuda.FarnebackOpticalFlow_create(
        p["levels"], p["pyr_scale"], False, p["winsize"], p["iterations"], p["poly_n"], p["poly_sigma"], 0
    )
    return _pair_by_pair(estimator, frames)
