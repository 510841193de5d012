"""Farneback's kernels and their launches, on the emulated device and, if there is one, on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_cache.methods.cuda.farneback import EQUATIONS, Farneback, Level, RowBlocks
from flow_cache.methods.farneback import FarnebackParameters
from flow_cache.methods.registry import build_method, get_method

PRESETS = FarnebackParameters.presets
FEW = FarnebackParameters.build("opencv", levels=2, iterations=2)


def estimate(device, frames, parameters, step=1, batch=None) -> np.ndarray:
    """Flow of a stack by the engine; batch: pairs at the same time."""
    method = Farneback(parameters, device)
    method.batch = batch
    return method(frames, step)


def opencv(frames, parameters, step=1) -> np.ndarray:
    return get_method("farneback", device="cpu", **parameters.as_dict())(frames, step)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("height", "width", "dtype", "step"),
    [
        (64, 80, np.uint8, 1),
        (64, 80, np.float32, 2),
        (97, 131, np.uint8, 1),
        (8, 9, np.uint8, 1),  # the smallest frame; both rims overlap
        (11, 8, np.float32, 1),
        (33, 300, np.uint8, 1),  # more than one block along a row
    ],
)
def test_agrees_with_opencv(device, stack, preset, height, width, dtype, step):
    frames = stack(2 + step, height, width, 1.7, -0.6).astype(dtype)
    distance = np.hypot(
        *np.moveaxis(
            estimate(device, frames, PRESETS[preset], step) - opencv(frames, PRESETS[preset], step), 1, 0
        )
    )
    assert distance.mean() < 1e-4
    assert distance.max() < 1e-2


@pytest.mark.parametrize(
    "values",
    [
        {"winsize": 2},
        {"winsize": 31},
        {"winsize": 200},
        {"winsize": 1023},
        {"poly_n": 3, "poly_sigma": 0.4},
        {"poly_n": 63, "poly_sigma": 9.0},
        {"poly_sigma": 1e-9},
        {"levels": 30, "pyr_scale": 0.9},
        {"pyr_scale": 0.3},
        {"levels": 1, "pyr_scale": 0.01},
        {"iterations": 1},
    ],
    ids=str,
)
def test_agrees_with_opencv_for_other_parameters(device, stack, values):
    parameters = FarnebackParameters.build(**{"preset": "opencv", "iterations": 2, **values})
    frames = stack(2, 45, 52, 0.7, -0.6)
    error = estimate(device, frames, parameters) - opencv(frames, parameters)
    assert np.abs(error).mean() < 1e-4


@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    pyr_scale=st.floats(0.2, 0.95),
    winsize=st.integers(3, 60),
    poly_n=st.integers(1, 8).map(lambda n: 2 * n + 1),
    poly_sigma=st.floats(0.3, 4),
)
def test_agrees_with_opencv_for_any_parameters(device, stack, height, width, **values):
    parameters = FarnebackParameters.build("opencv", levels=4, iterations=2, **values)
    frames = stack(2, height, width, 0.7, -0.6, seed=height)
    error = estimate(device, frames, parameters) - opencv(frames, parameters)
    assert np.abs(error).mean() < 0.002


def test_a_window_of_one_pixel_agrees_with_the_reference(device, farneback_reference, stack):
    """OpenCV adds the first row and column to such a window."""
    parameters = FarnebackParameters.build("opencv", winsize=1, iterations=1)
    frames = stack(2, 20, 24, 0.7, -0.6)
    error = estimate(device, frames, parameters)[0] - farneback_reference.farneback(*frames, parameters)
    assert np.median(np.abs(error)) < 1e-5


@pytest.mark.parametrize("step", [1, 3])
def test_a_pair_does_not_depend_on_its_batch(device, stack, step):
    frames = stack(9, 40, 50, 0.8, -0.5)
    whole = estimate(device, frames, FEW, step)
    for batch in (1, 3, 4, 64):
        assert np.array_equal(estimate(device, frames, FEW, step, batch), whole)
    method = Farneback(FEW, device)
    assert np.array_equal(method.pairs(frames[:-step], frames[step:]), whole)
    assert np.array_equal(method(frames[2 : 4 + step], step), whole[2:4])


def test_a_batch_leaves_nothing_behind_for_the_next(device, stack):
    method = Farneback(FEW, device)
    frames = stack(4, 40, 50, 0.8, -0.5)
    expected = method(frames)
    method(255 - frames[::-1])
    method(frames.astype(np.float32))
    assert np.array_equal(method(frames), expected)


@pytest.mark.parametrize("axis", [-1, -2])
def test_flow_of_flipped_frames_is_the_flipped_flow(device, stack, axis):
    frames = stack(2, 67, 71, 1.25, -0.75)
    flipped = np.flip(estimate(device, frames, FEW), axis).copy()
    flipped[:, 0 if axis == -1 else 1] *= -1
    again = estimate(device, np.ascontiguousarray(np.flip(frames, axis)), FEW)
    assert np.abs(again - flipped).mean() < 1e-3


def test_a_constant_added_to_the_levels_changes_nothing(device, stack):
    """Float32 must not lose the curvature in the levels, however bright the frame."""
    frames = stack(2, 40, 50, 0.8, -0.5).astype(np.float32) / 16
    error = estimate(device, frames + 239, FEW) - estimate(device, frames, FEW)
    assert np.abs(error).mean() < 1e-3


def test_an_edge_leaves_nothing_in_the_window_that_it_left(device):
    """On black, tiny numbers decide the flow, and OpenCV sums in float64."""
    frames = np.zeros((2, 96, 120), np.uint8)
    frames[0, 40:, 50:] = frames[1, 41:, 52:] = 255
    error = estimate(device, frames, PRESETS["default"]) - opencv(frames, PRESETS["default"])
    assert np.abs(error).mean() < 1e-5
    assert np.abs(error).max() < 1e-2


def test_the_order_of_threads_and_blocks_does_not_matter(emulated, stack):
    frames = stack(3, 41, 53, 0.8, -0.5)
    expected = estimate(emulated(seed=0), frames, FEW)
    for seed in (1, 2):
        assert np.array_equal(estimate(emulated(seed=seed), frames, FEW), expected)


def test_launches_do_not_grow_with_the_batch(emulated, stack):
    counts = []
    for count in (2, 6):
        device = emulated()
        estimate(device, stack(count, 64, 70, 0.8, -0.5), FEW)
        counts.append(len(device.launches))
    # two levels: three launches for the frames, two an iteration, and one to come down
    assert counts == [2 * (3 + 2 * FEW.iterations) + 1] * 2


def test_bytes_are_known_beforehand(emulated, emulation, stack):
    device = emulated()
    method = Farneback(FEW, device)
    before = device.free_memory()
    for dtype in (np.uint8, np.float32):
        method(stack(6, 97, 131, 0.8, -0.5).astype(dtype))
    taken = before - device.free_memory() - 2 * emulation.GUARD * len(device.allocations())
    ((_, _, frames, pairs),) = method._workspaces
    frame_bytes, pair_bytes = method._bytes(97, 131)
    expected = frames * frame_bytes + pairs * pair_bytes
    assert expected <= taken <= expected + 4096  # the filters and slots are not counted


@given(width=st.integers(8, 10_000), height=st.integers(8, 10_000), radius=st.integers(0, 511))
def test_row_blocks_cover_every_pixel_within_what_any_card_has(width, height, radius):
    blocks = RowBlocks.cover(Level(height, width, 0.0), radius, EQUATIONS)
    assert 0 <= blocks.grid[0] * blocks.outputs - width < blocks.grid[0]
    assert 0 <= blocks.grid[1] * blocks.block[1] - height < blocks.block[1]
    assert blocks.block[0] * blocks.block[1] <= 256
    assert blocks.shared <= 48 * 1024


def test_it_is_what_get_method_gives_for_a_gpu(emulated, stack):
    frames = stack(3, 40, 50, 0.8, -0.5)
    parameters = {"preset": "opencv", "winsize": 9}
    method = build_method("farneback", "cuda", 1, parameters, {"cuda": emulated()}.get)
    assert method.backend == "cuda"
    expected = get_method("farneback", preset="opencv", winsize=9)(frames)
    assert np.abs(method(frames) - expected).mean() < 1e-4


def test_a_large_pair_fits_small_devices(emulated):
    """One pair of 1920x1080 within 256 MiB."""
    frame_bytes, pair_bytes = Farneback(PRESETS["default"], emulated())._bytes(1080, 1920)
    assert 2 * frame_bytes + pair_bytes < 256 * 2**20


def test_the_work_neither_allocates_nor_copies_nor_waits(emulated, stack, monkeypatch):
    """So it can be recorded in a graph, and the device never waits for the host."""
    device = emulated()
    method = Farneback(FEW, device)
    frames = stack(4, 64, 70, 0.8, -0.5)
    expected = method(frames)
    (workspace,) = method._workspaces.values()
    staged = workspace._staged[frames.dtype]
    for name in ("empty", "upload", "download", "adopt", "free_memory"):
        monkeypatch.setattr(device, name, lambda *_: pytest.fail("the work called the host"))
    workspace.flow[...] = np.nan
    workspace.work(staged)
    assert np.array_equal(workspace.flow[: len(expected)], expected)


@pytest.mark.real_data
@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_with_opencv_on_a_real_pair(device, rubber_whale, preset):
    frames = rubber_whale[:, 100:260, 100:310]
    error = estimate(device, frames, PRESETS[preset]) - opencv(frames, PRESETS[preset])
    assert np.hypot(*error[0]).mean() < 1e-4
