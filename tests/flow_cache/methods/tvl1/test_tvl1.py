"""TV-L1 as a whole: known motions, symmetries, goldens of OpenCV 5.0.0, and unusual input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flow_cache.errors import ArgumentError
from flow_cache.methods.registry import get_method

GOLDENS = Path(__file__).parent / "tvl1_opencv_5.0.0.npz"
TURN = np.array([[np.cos(0.03), -np.sin(0.03)], [np.sin(0.03), np.cos(0.03)]])
MOTIONS = {
    "translation": (np.eye(2), (1.6, -0.7)),
    "rotation": (TURN, (0.0, 0.0)),
    "zoom": (np.eye(2) * 1.04, (0.0, 0.0)),
}


def epe(flow, truth, border=0):
    inside = slice(border, -border or None)
    return float(np.hypot(*(flow - truth))[inside, inside].mean())


def estimate(first, second, **parameters):
    return get_method("tvl1", **parameters).pairs(first[None], second[None])[0]


@pytest.mark.parametrize(("preset", "error"), [("opencv", 0.08), ("opencv-cuda", 0.08), ("fast", 0.1)])
@pytest.mark.parametrize("motion", MOTIONS)
def test_recovers_known_motion(texture, motion, preset, error):
    first, second, truth = texture(3).moved(72, 96, MOTIONS[motion])
    flow = estimate(first, second, preset=preset)
    assert flow.dtype == np.float32
    assert flow.shape == (2, 72, 96)
    assert epe(flow, truth, border=8) < error
    assert np.hypot(*truth).mean() > 8 * error  # the motion is not within the error


@pytest.mark.parametrize("preset", ["opencv", "opencv-cuda", "fast"])
def test_no_motion_gives_exactly_zero(texture, preset):
    frame = texture(1).at(*np.mgrid[:40.0, :50.0][::-1]).astype(np.uint8)
    assert not estimate(frame, frame, preset=preset).any()


@pytest.mark.parametrize("preset", ["opencv", "opencv-cuda"])
def test_transposing_commutes(texture, preset):
    """Up to rounding, which warps and levels magnify where one frame shows what the other does not."""
    first, second, _ = texture(5).moved(48, 64, (TURN, (0.3, 0.2)))
    options = {"preset": preset, "epsilon": 0, "inner_iterations": 30, "nscales": 1, "warps": 2}
    flow = estimate(first, second, **options)
    turned = estimate(np.ascontiguousarray(first.T), np.ascontiguousarray(second.T), **options)
    assert epe(turned[::-1].transpose(0, 2, 1), flow) < 0.001
    assert np.hypot(*flow).mean() > 0.3


@pytest.mark.parametrize("axis", [0, 1])
def test_flipping_commutes(texture, axis):
    first, second, _ = texture(6).moved(48, 64, MOTIONS["zoom"])
    flow = estimate(first, second)
    flipped = estimate(np.flip(first, axis), np.flip(second, axis))
    sign = np.array([1, -1] if axis == 0 else [-1, 1]).reshape(2, 1, 1)
    # forward differences look one way, so that only the converged flow is symmetric
    assert epe(np.flip(flipped, axis + 1) * sign, flow, border=4) < 0.03


@pytest.mark.parametrize("name", ["uint8", "float32", "fixed", "median3", "narrow"])
def test_agrees_with_opencv(name, texture):
    golden = np.load(GOLDENS)[name] / 2048  # stored as int16
    first, second, parameters = golden_case(name, texture)
    flow = estimate(first, second, **parameters)
    assert epe(flow, golden) < 0.001
    assert np.hypot(*golden).mean() > 0.3


def golden_case(name, texture):
    """Make the frames and parameters of a golden; `tools/record_tvl1_goldens.py` calls this too."""
    height, width = (18, 60) if name == "narrow" else (32, 40)
    motion = (TURN @ np.diag([1.02, 0.99]), (0.8, -0.5))
    first, second, _ = texture(11).moved(height, width, motion)
    if name != "float32":
        first, second = first.round().astype(np.uint8), second.round().astype(np.uint8)
    parameters = {
        "fixed": {"epsilon": 0.0, "inner_iterations": 20, "outer_iterations": 2},
        "median3": {"median_filtering": 3, "nscales": 2, "warps": 3},
    }
    return first, second, parameters.get(name, {})


@pytest.mark.parametrize("nscales", [1, 3])
def test_cuda_conventions_agree_with_their_equations(texture, tvl1_cuda_reference, nscales):
    first, second, _ = texture(7).moved(36, 44, (TURN, (0.9, 0.4)))
    options = {"nscales": nscales, "warps": 3}
    flow = estimate(first, second, preset="opencv-cuda", epsilon=0, inner_iterations=40, **options)
    expected = tvl1_cuda_reference(first, second, iterations=40, **options)
    assert epe(flow, expected) < 0.002
    assert np.hypot(*expected).mean() > 0.3


@pytest.mark.parametrize("step", [1, 2, 4])
def test_step_pairs_frames_that_far_apart(texture, step):
    base = texture(9)
    frames = np.stack([base.moved(32, 40, (np.eye(2), (0.3 * t, 0.0)))[1] for t in range(5)])
    frames = frames.round().astype(np.uint8)
    flow = get_method("tvl1", threads=2)(frames, step=step)
    assert flow.shape == (5 - step, 2, 32, 40)
    assert np.array_equal(flow[-1], estimate(frames[-1 - step], frames[-1]))


def test_small_frames_have_one_level(texture):
    frames = np.stack(texture(2).moved(15, 17, (np.eye(2), (0.5, 0.25)))[:2])
    flow = get_method("tvl1")(frames)[0]
    assert np.abs(flow.mean(axis=(1, 2)) - (0.5, 0.25)).max() < 0.1
    assert np.array_equal(flow, get_method("tvl1", nscales=1)(frames)[0])


def test_black_frames_give_zero():
    assert not get_method("tvl1")(np.zeros((3, 32, 32), np.uint8)).any()
    assert not get_method("tvl1")(np.zeros((3, 32, 32), np.float32)).any()


def test_far_motion_stays_finite():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 33, 47), np.uint8)
    for preset in ("opencv", "opencv-cuda", "fast"):
        assert np.isfinite(get_method("tvl1", preset=preset)(frames)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"threads": -1}, "threads must be a whole number of at least 0, got -1"),
        ({"preset": "best"}, "unknown preset 'best'; choose one of opencv, opencv-cuda, fast"),
        ({"gamma": 0.1}, "gamma must be 0"),
    ],
)
def test_refuses_unusable_parameters(parameters, message):
    with pytest.raises(ArgumentError, match=message):
        get_method("tvl1", **parameters)
