"""TV-L1 on real frames: OpenCV's results, recorded and live, and Middlebury's ground truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.methods.registry import get_method

pytestmark = pytest.mark.real_data

# Only flow is stored, since the frames may not be redistributed. On these crops OpenCV's result does not depend on
# rounding.
GOLDENS = Path(__file__).parent / "tvl1_opencv_5.0.0_real.npz"
CROPS = ("golf", "jump", "run", "stand", "throw", "walk")


def read_pair(data, name):
    """Read two frames (240, 320) of a JHMDB class."""
    capture = cv2.VideoCapture(str(sorted((data / "jhmdb" / name).glob("*.avi"))[3]))
    frames = [capture.read()[1] for _ in range(6)][-2:]
    return [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]


def read_crop(data, name):
    """Cut (96, 128) out of their middle; `tools/record_tvl1_goldens.py` calls this too."""
    return [np.ascontiguousarray(frame[72:168, 96:224]) for frame in read_pair(data, name)]


def by_opencv(first, second, **parameters):
    solver = cv2.optflow.DualTVL1OpticalFlow_create(**parameters)
    return np.moveaxis(solver.calc(first, second, None), -1, 0)


def epe(flow, other):
    return float(np.hypot(*(flow - other)).mean())


@pytest.mark.parametrize("name", CROPS)
def test_agrees_with_recorded_opencv(real_data, name):
    first, second = read_crop(real_data, name)
    golden = np.load(GOLDENS)[name] / 2048  # stored as int16
    flow = get_method("tvl1").pairs(first[None], second[None])[0]
    assert epe(flow, golden) < 0.02
    assert np.hypot(*golden).mean() > 0.1  # something moves


def test_differs_from_opencv_no_more_than_opencv_from_itself(real_data):
    """Where motion is fast, OpenCV's own result changes much if one input is rounded."""
    differences, own = [], []
    for name in ("brush_hair", "catch", "clap", "climb_stairs", "wave", *CROPS):
        first, second = read_crop(real_data, name)
        expected = by_opencv(first, second)
        flow = get_method("tvl1").pairs(first[None], second[None])[0]
        scaled = first / np.float32(255), second / np.float32(255)  # as OpenCV takes floats
        assert np.array_equal(by_opencv(*scaled), expected)
        rounded = by_opencv(np.nextafter(scaled[0], np.float32(2)), scaled[1])
        differences.append(epe(flow, expected))
        own.append(epe(rounded, expected))
    assert np.median(differences) < 0.02
    assert np.mean(differences) < 0.05
    assert np.median(differences) < 2 * np.median(own)
    assert np.mean(differences) < 2 * np.mean(own)


@pytest.mark.parametrize("name", ["catch", "climb_stairs", *CROPS])
def test_agrees_with_opencv_at_a_fixed_number_of_iterations(real_data, name):
    """With few warps: more warps, and more scales, magnify OpenCV's own rounding beyond this."""
    first, second = read_crop(real_data, name)
    for warps, outer, most in ((1, 10, 1e-5), (5, 1, 1e-3)):
        flow = get_method("tvl1", epsilon=0, nscales=1, warps=warps, outer_iterations=outer)
        expected = by_opencv(first, second, epsilon=0, nscales=1, warps=warps, outerIterations=outer)
        assert epe(flow.pairs(first[None], second[None])[0], expected) < most


def test_rubber_whale_is_as_right_as_opencvs(real_data, rubber_whale):
    """OpenCV 5.0.0 is off by 0.156 px on average over the pixels whose flow is known."""
    file = real_data / "flow" / "RubberWhale" / "flow10.flo"
    truth = np.fromfile(file, np.float32, offset=12).reshape(*rubber_whale.shape[1:], 2).transpose(2, 0, 1)
    known = np.abs(truth).max(axis=0) < 1e9
    flow = get_method("tvl1")(rubber_whale)[0]
    assert abs(np.hypot(*(flow - truth))[known].mean() - 0.156) < 0.005
