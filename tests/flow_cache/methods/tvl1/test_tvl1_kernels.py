"""Each stage of TV-L1 alone: against OpenCV's functions, and waves of iterations against single iterations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flow_cache.methods.tvl1 import iterate, median, pyramid, warp
from flow_cache.methods.tvl1.compile import aligned
from flow_cache.methods.tvl1.layout import GRAD_X, GRAD_Y, INVERSE, RHO_C, Layout
from flow_cache.methods.tvl1.parameters import level_sizes

SIZES = [(1, 1), (1, 9), (2, 3), (8, 8), (15, 17), (31, 16), (32, 48), (40, 57)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_median_is_opencvs(rng, height, width, size):
    stride, start = width + 13, 5
    memory = rng.normal(size=(height, stride)).astype(np.float32)
    expected = memory.copy()
    inside = (slice(None), slice(start, start + width))
    expected[inside] = cv2.medianBlur(np.ascontiguousarray(memory[inside]), size)
    scratch = aligned(median.scratch_size(width))
    median.median_filter(memory.reshape(-1), start, stride, height, width, size, scratch)
    assert np.array_equal(memory, expected)  # also around the plane


@pytest.mark.parametrize(("height", "width"), [(20, 20), (33, 58), (64, 17)])
@pytest.mark.parametrize("step", [0.8, 0.5])
def test_pyramid_is_opencvs(rng, height, width, step):
    frame = rng.integers(0, 256, (height, width), np.uint8)
    sizes = level_sizes(height, width, 4, step)
    expected = frame.astype(np.float32)
    for level in pyramid.build_pyramid(frame, sizes, step, False):
        planes = level.memory.reshape(3, level.height + 10, level.width + 10)
        assert planes[0, 5:-5, 5:-5].shape == expected.shape
        assert np.abs(planes[0, 5:-5, 5:-5] - expected).max() < 1e-3
        outside = planes.copy()
        outside[:, 5:-5, 5:-5] = 0
        assert not outside.any()
        expected = cv2.resize(expected, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    assert min(expected.shape) < 16 or len(sizes) == 4


@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_zoom_is_opencvs(rng, factor):
    height, width = 23, 37
    target_height, target_width = round(height * factor), round(width * factor)
    plane = rng.normal(size=(height, width)).astype(np.float32)
    zoomed = np.zeros((target_height, target_width), np.float32)
    pyramid.resize(
        plane.reshape(-1), 0, width, height, width,
        zoomed.reshape(-1), 0, target_width, target_height, target_width,
        height / target_height, width / target_width, False, np.float32(1),
    )  # fmt: skip
    expected = cv2.resize(plane, (target_width, target_height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(zoomed - expected).max() < 1e-6


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 30.0])
def test_warp_is_opencvs(rng, spread):
    """Displacements from one for all pixels, over runs and single pixels, to far outside the frame."""
    height, width = 21, 45
    first, second = rng.uniform(0, 255, (2, height, width)).astype(np.float32)
    sizes = [(height, width)]
    before, after = (pyramid.build_pyramid(frame, sizes, 0.8, False)[0] for frame in (first, second))
    layout = Layout(height, width)
    state = aligned(layout.state_size)
    flow = (spread * rng.normal(size=(2, height, width)) + 0.4).astype(np.float32)
    layout.flow(state)[:] = flow
    warp.warp(
        before.memory, after.memory, state, layout.start, layout.pitch, layout.stride, height, width,
        np.float32(-0.75), aligned(2 * width), np.zeros(4 * width, np.int32),
    )  # fmt: skip
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    padded = np.pad(second, 1, mode="edge")
    planes = second, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    grey, gx, gy = (cv2.remap(plane, x + flow[0], y + flow[1], cv2.INTER_CUBIC) for plane in planes)
    records = state[layout.pitch : (height + 1) * layout.pitch].reshape(height, 10, layout.stride)
    got = records[:, :, 16 : 16 + width]
    assert np.abs(got[:, GRAD_X] - gx).max() < 2e-3
    assert np.abs(got[:, GRAD_Y] - gy).max() < 2e-3
    rho_c = grey - gx * flow[0] - gy * flow[1] - first
    assert np.abs(got[:, RHO_C] - rho_c).max() < 1e-3 * max(1.0, np.abs(flow).max() * 50)
    square = np.maximum(gx**2 + gy**2, np.finfo(np.float32).eps)
    clear = square > 1
    assert np.allclose(got[:, INVERSE][clear], 1 / square[clear], rtol=1e-2)


class Iterations:
    """A state with a random data term, to be iterated."""

    limit, taut = np.float32(0.045), np.float32(0.25 / 0.3)

    def __init__(self, height, width):
        rng = np.random.default_rng(1)
        self.layout = layout = Layout(height, width)
        self.state = aligned(layout.state_size)
        self.backup = aligned(layout.backup_size)
        records = self.state[layout.pitch : (height + 1) * layout.pitch].reshape(height, 10, layout.stride)
        inside = records[:, :, 16 : 16 + width]
        inside[:, GRAD_X], inside[:, GRAD_Y], inside[:, RHO_C] = rng.normal(0, 5, (3, height, width))
        inside[:, INVERSE] = 1 / (inside[:, GRAD_X] ** 2 + inside[:, GRAD_Y] ** 2)
        self.common = (
            layout.theta_row(0.3),
            height,
            width,
            layout.padded,
            layout.stride,
            self.limit,
            self.taut,
        )

    def wave(self, count):
        changes = np.zeros(count)
        iterate.wave(self.state, self.backup, False, *self.common, count, changes)
        return changes

    def iterate(self, threshold, most):
        return iterate.iterate(self.state, self.backup, *self.common, threshold, most)

    def iterate_cuda(self, threshold, most):
        return iterate.iterate_cuda(self.state, self.backup, *self.common, threshold, most)

    @property
    def unknowns(self):
        layout = self.layout
        records = self.state[layout.pitch : (layout.height + 1) * layout.pitch]
        return records.reshape(layout.height, 10, layout.stride)[:, :6, 16 : 16 + layout.width]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_wave_is_its_single_iterations(height, width):
    one, many = Iterations(height, width), Iterations(height, width)
    changes = np.concatenate([one.wave(1) for _ in range(8)])
    assert np.array_equal(many.wave(8), changes)
    assert np.array_equal(many.unknowns, one.unknowns)
    assert changes[0] > changes[-1]


@pytest.mark.parametrize("stop", [1, 2, 3, 7, 8, 20, 29])
def test_stops_at_the_first_small_change(stop):
    """For any lengths of the waves; also if the change drops earlier than predicted, and iterations are undone."""
    single = Iterations(24, 40)
    changes = np.array([single.wave(1)[0] for _ in range(stop)])
    together = Iterations(24, 40)
    done, change = together.iterate(changes[-1], 30)
    expected = 1 + int(np.argmax(changes <= changes[-1]))
    assert (done, change) == (expected, changes[expected - 1])
    if expected == stop:
        assert np.array_equal(together.unknowns, single.unknowns)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_dual_step_is_right_to_single_precision(height, width):
    """From p = 0, whatever estimates of roots and quotients the processor gives."""
    once = Iterations(height, width)
    once.wave(1)
    u, p = once.unknowns[:, :2].astype(np.float64), once.unknowns[:, 2:].astype(np.float64)
    gradient = np.stack(
        [np.diff(u, axis=axis, append=np.take(u, [-1], axis)) for axis in (2, 0)], axis=2
    )  # (H, 2, 2, W): of each u along x, along y
    scaled = float(once.taut) * gradient
    expected = scaled / (1 + np.hypot(scaled[:, :, :1], scaled[:, :, 1:]))
    assert np.allclose(p.reshape(expected.shape), expected, rtol=3e-6, atol=1e-7)
    assert expected.any() or height == width == 1


def test_takes_a_wave_back():
    together = Iterations(24, 40)
    layout = together.layout
    together.wave(2)
    before = together.unknowns.copy()
    iterate.wave(together.state, together.backup, True, *together.common, 8, np.zeros(8))
    assert not np.array_equal(together.unknowns, before)
    iterate.restore(together.state, together.backup, layout.height, layout.stride)
    assert np.array_equal(together.unknowns, before)


def test_runs_all_iterations_without_a_threshold():
    single, together = Iterations(9, 20), Iterations(9, 20)
    for _ in range(37):
        single.wave(1)
    assert together.iterate(0.0, 37)[0] == 37
    assert np.array_equal(together.unknowns, single.unknowns)


def test_without_a_threshold_even_no_change_stops_nothing():
    still = Iterations(9, 20)
    still.state[:] = 0
    still.backup = np.full(1, np.nan, np.float32)  # the solver keeps none then
    assert still.iterate(0.0, 37) == (37, 0.0)
    assert not still.state.any()


def test_cuda_tests_late():
    """OpenCV's CUDA version tests at iteration 1, then only after about change / threshold more iterations."""
    single = Iterations(24, 40)
    changes = np.array([single.wave(1)[0] for _ in range(60)])
    threshold = changes[1] / 10.5
    done, change = Iterations(24, 40).iterate_cuda(threshold, 60)
    counter, error, expected = 0.0, np.inf, 0
    while error > threshold and expected < 60:
        if expected % 2 == 1 and counter < threshold:
            counter = error = changes[expected]
        else:
            error = np.inf
            counter -= threshold
        expected += 1
    assert 12 <= expected < 60
    assert (done, change) == (expected, changes[expected - 1])
