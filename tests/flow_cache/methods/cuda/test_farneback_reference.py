"""The NumPy reference against OpenCV, so that what agrees with it agrees with the CPU path."""

from __future__ import annotations

import numpy as np
import pytest

from flow_cache.methods.farneback import FarnebackParameters
from flow_cache.methods.registry import get_method

PRESETS = FarnebackParameters.presets


def errors(reference, frames, parameters) -> np.ndarray:
    """Distance in pixels between the reference's flow and OpenCV's, for every pixel."""
    expected = get_method("farneback", device="cpu", **parameters.as_dict())(frames)[0]
    return np.hypot(*(reference.farneback(*frames, parameters) - expected))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("height", "width"), [(64, 80), (97, 131), (33, 70), (8, 9), (9, 30)])
def test_agrees_with_opencv(farneback_reference, stack, preset, dtype, height, width):
    frames = stack(2, height, width, 1.7, -0.6).astype(dtype)
    assert errors(farneback_reference, frames, PRESETS[preset]).max() < 1e-4


@pytest.mark.parametrize(
    "values",
    [
        {"winsize": 2},
        {"winsize": 200},
        {"poly_n": 63, "poly_sigma": 9.0},
        {"poly_n": 3, "poly_sigma": 0.4},
        {"poly_sigma": 0.1},  # sees one pixel only: no flow
        {"levels": 30, "pyr_scale": 0.9, "iterations": 1},
        {"pyr_scale": 0.3},
        {"levels": 1},
    ],
    ids=str,
)
def test_agrees_with_opencv_for_other_parameters(farneback_reference, stack, values):
    parameters = FarnebackParameters.build("opencv", **values)
    assert errors(farneback_reference, stack(2, 80, 73, 0.7, -0.6), parameters).max() < 1e-3


@pytest.mark.real_data
@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_opencv_on_a_real_pair(farneback_reference, rubber_whale, preset):
    distance = errors(farneback_reference, rubber_whale[:, 100:260, 100:310], PRESETS[preset])
    assert distance.mean() < 1e-4
