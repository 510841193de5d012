"""TV-L1's kernels and their launches, against the CPU estimator, on the emulated device and on a GPU."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from flow_cache.methods.cuda import tvl1
from flow_cache.methods.cuda.tvl1 import TVL1
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1.parameters import TVL1Parameters, level_sizes
from flow_cache.methods.tvl1.pyramid import build_pyramid
from flow_cache.methods.tvl1.solver import Solver


def estimate(device, frames, step=1, batch=None, tuning=tvl1.TUNINGS[0], **parameters):
    method = TVL1(TVL1Parameters.build(**parameters), device)
    method.batch = batch
    method.tuning = tuning
    return method(frames, step)


def mean_distance(flow, other):
    return float(np.hypot(flow[:, 0] - other[:, 0], flow[:, 1] - other[:, 1]).mean())


FIXED = {"epsilon": 0.0, "warps": 2, "inner_iterations": 14}


@pytest.mark.parametrize("size", [(8, 8), (15, 17), (16, 64), (33, 65), (20, 118), (70, 21), (37, 150)])
@pytest.mark.parametrize(
    "parameters",
    [
        {"outer_iterations": 2},
        {"outer_iterations": 2, "median_filtering": 3, "scale_step": 0.5},
        {"outer_iterations": 1, "median_filtering": 1, "cuda_conventions": 1},
        {"outer_iterations": 1, "inner_iterations": 1, "tau": 0.125, "lambda_": 0.05, "theta": 0.5},
    ],
    ids=["opencv", "median3", "cuda", "one"],
)
def test_agrees_at_fixed_iterations(device, stack, size, parameters):
    """Sizes: one strip of columns and several, one segment of rows and several, all with a remainder."""
    frames = stack(2, *size, 0.8, -0.5)
    parameters = {**FIXED, **parameters}
    expected = get_method("tvl1", **parameters)(frames)
    assert mean_distance(estimate(device, frames, **parameters), expected) < 0.002
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("tuning", tvl1.TUNINGS, ids=str)
def test_tunings_agree(device, stack, tuning):
    """Bit for bit if nothing depends on the sums, which are rounded differently for strips of another width."""
    frames = stack(2, 37, 140, 0.8, -0.5)
    parameters = {**FIXED, "outer_iterations": 2}
    expected = estimate(device, frames, **parameters)
    assert np.array_equal(estimate(device, frames, tuning=tuning, **parameters), expected)
    converged = estimate(device, frames, tuning=tuning, preset="fast")
    assert mean_distance(converged, get_method("tvl1", preset="fast")(frames)) < 0.002


@pytest.mark.parametrize("preset", TVL1Parameters.presets)
def test_presets_agree_with_convergence(device, stack, preset):
    frames = stack(3, 40, 60, 0.8, -0.5)
    expected = get_method("tvl1", preset=preset)(frames)
    # where motion leaves the frame, the CPU's flow also depends on rounding of its input
    other = get_method("tvl1", preset=preset)(np.nextafter(frames.astype(np.float32), np.float32(0)))
    own = mean_distance(other, expected)
    assert mean_distance(estimate(device, frames, preset=preset), expected) < max(0.02, 2 * own)
    assert own < 0.05


@pytest.mark.real_data
@pytest.mark.parametrize("preset", TVL1Parameters.presets)
@pytest.mark.parametrize("name", ["golf", "walk"])
def test_agrees_on_real_frames(device, real_data, preset, name):
    frames = real_frames(real_data, name, 3, (96, 72))
    expected = get_method("tvl1", preset=preset)(frames)
    assert mean_distance(estimate(device, frames, preset=preset), expected) < 0.02
    assert np.abs(expected).max() > 0.1


@pytest.mark.real_data
def test_agrees_on_real_frames_at_fixed_iterations(device, real_data):
    frames = real_frames(real_data, "golf", 2, (96, 72))
    parameters = {**FIXED, "outer_iterations": 2}
    expected = get_method("tvl1", **parameters)(frames)
    assert mean_distance(estimate(device, frames, **parameters), expected) < 0.002


@pytest.mark.gpu
@pytest.mark.real_data
@pytest.mark.parametrize("preset", TVL1Parameters.presets)
def test_agrees_on_a_hundred_real_pairs(gpu, real_data, preset):
    distances, moved = [], []
    for name in [
        "golf",
        "pour",
        "stand",
        "walk",
        "throw",
        "jump",
        "kick_ball",
        "swing_baseball",
        "run",
        "clap",
    ]:
        frames = real_frames(real_data, name, 11, (340, 256))
        expected = get_method("tvl1", preset=preset, threads=0)(frames)
        distances.append(mean_distance(estimate(gpu, frames, preset=preset), expected))
        moved.append(np.abs(expected).mean())
    assert np.mean(distances) < 0.02
    assert np.mean(moved) > 0.1


def real_frames(real_data, name, count, size):
    path = sorted((real_data / "jhmdb" / name).glob("*.avi"))[3]
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1] for _ in range(4 + count)][4:]
    return np.stack([cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), size) for frame in frames])


@pytest.mark.parametrize(
    "parameters", [{"preset": "opencv-cuda", "warps": 2, "inner_iterations": 40}, {"preset": "fast"}], ids=str
)
def test_a_pair_does_not_depend_on_its_batch(device, stack, parameters):
    """Bit for bit, though the pairs converge after different numbers of iterations."""
    frames = stack(7, 40, 50, 1.4, -0.5)
    frames[3] = frames[2]
    frames[5:] = stack(2, 40, 50, 0.1, 0.2, seed=4)
    whole = estimate(device, frames, **parameters)
    for batch in (1, 4):
        assert np.array_equal(estimate(device, frames, batch=batch, **parameters), whole), batch
    method = TVL1(TVL1Parameters.build(**parameters), device)
    assert np.array_equal(method.pairs(frames[:-1], frames[1:]), whole)
    assert not whole[2].any()


def test_many_pairs_all_get_their_work(device, stack):
    """More pairs than a warp looks at together."""
    frames = np.tile(stack(3, 16, 20, 0.5, 0.25), (24, 1, 1))
    whole = estimate(device, frames, preset="fast")
    assert len(whole) == 71
    for n in (0, 1, 2):
        assert (whole[n::3] == whole[n]).all()
    assert np.array_equal(whole[:2], estimate(device, frames[:3], preset="fast"))


def test_the_order_of_threads_and_blocks_does_not_matter(emulated, stack):
    frames = stack(3, 36, 90, 0.8, -0.5)
    options = {"warps": 1, "nscales": 2, "outer_iterations": 3}
    flows = [estimate(emulated(seed), frames, **options) for seed in range(4)]
    for flow in flows[1:]:
        assert np.array_equal(flow, flows[0])


@pytest.mark.parametrize("conventions", [0, 1])
@pytest.mark.parametrize("spare", [0, 1, 30])
def test_lengths_of_passes_change_nothing(device, stack, conventions, spare):
    """However iterations are cut into passes, and however often some are done again, bit for bit."""
    frames = stack(3, 32, 40, 0.9, 0.3)
    options = {
        "cuda_conventions": conventions,
        "warps": 2,
        "nscales": 2,
        "outer_iterations": 3,
        "epsilon": 0.02,
    }
    expected = estimate(device, frames, **options)
    tuning = dataclasses.replace(tvl1.TUNINGS[0], spare_passes=spare)
    assert np.array_equal(estimate(device, frames, tuning=tuning, **options), expected)


def test_rows_of_items_change_nothing(emulated, stack):
    """However the rows of a pair are shared out among warps, decisions and flow are the same, bit for bit."""
    frames = stack(4, 70, 72, 0.9, 0.3)
    options = {"nscales": 2, "warps": 1, "outer_iterations": 2, "epsilon": 0.02}
    plan = tvl1.level_plans(TVL1Parameters.build(**options), 70, 72, tvl1.TUNINGS[0])[0]
    flows, sizes = [], set()
    for processors in (1, 2, 20):
        device = emulated()
        device.processors = processors
        sizes.add(plan.chunks_of_item(3, plan.workers(3, processors)))
        flows.append(estimate(device, frames, batch=3, **options))
    assert len(sizes) > 1
    for flow in flows[1:]:
        assert np.array_equal(flow, flows[0])


@pytest.mark.parametrize("tuning", tvl1.TUNINGS, ids=str)
def test_chunks_are_whole_and_no_shorter_than_a_pass(tuning):
    assert tuning.iterations <= tvl1.MOST_ITERATIONS
    for height in range(8, 1200):
        plan = tvl1.LevelPlan(height, 64, tuning)
        assert (plan.chunks - 1) * plan.rows < height <= plan.chunks * plan.rows
        assert height - (plan.chunks - 1) * plan.rows >= tuning.iterations


def test_many_pairs_get_long_items_and_few_short_ones():
    """A GPU of 132 multiprocessors and the finest level of 340x256."""
    plan = tvl1.LevelPlan(256, 340)
    workers = plan.workers(1024, 132)
    assert workers == 132 * 12
    sizes = [plan.chunks_of_item(active, workers) for active in range(1, 1025)]
    assert sizes[0] == 1
    assert sizes[-1] == 16
    for active, size in enumerate(sizes, start=1):
        assert plan.rounds(active, workers, size) * plan.walked(size) == min(
            plan.rounds(active, workers, other) * plan.walked(other) for other in (1, 2, 4, 8, 16)
        )


def test_stops_where_the_cpu_stops(device, stack):
    """One level and warp: the iterations done, of each pair, are those of the CPU's estimator."""
    frames = stack(2, 40, 48, 0.8, -0.5)
    options = {"nscales": 1, "warps": 1, "outer_iterations": 4, "inner_iterations": 25, "epsilon": 0.03}
    expected = get_method("tvl1", **options)(frames)
    sizes = level_sizes(40, 48, 1, 0.8)
    solver = Solver(TVL1Parameters.build(**options), sizes)
    iterate, counts = solver.iterate, []

    def counted(*arguments):
        result = iterate(*arguments)
        counts.append(result[0])
        return result

    solver.iterate = counted
    flow = np.empty_like(expected[0])
    solver.solve(*(build_pyramid(frame, sizes, 0.8, False) for frame in frames), flow)
    assert np.array_equal(flow, expected[0])
    assert 1 < len(counts) < 4
    assert 0 < counts[-1] < 25
    assert np.abs(estimate(device, frames, **options) - expected).max() < 1e-4
    shorter = {**options, "epsilon": 0.0, "outer_iterations": len(counts), "inner_iterations": 25}
    assert np.abs(estimate(device, frames, **shorter) - expected).max() > 1e-3


def test_counts_what_was_done(device, stack):
    """15 iterations of 1920 pixels in three passes, twice; nothing is done again without a test for convergence."""
    method = TVL1(
        TVL1Parameters.build(nscales=1, warps=2, outer_iterations=1, inner_iterations=15, epsilon=0), device
    )
    method(stack(4, 40, 48, 0.8, -0.5))
    (work,) = method._workspaces.values()
    iterated, passes = device.download(work._control[work._turn])[:3, 6:].T
    assert (64 * iterated == 2 * 15 * 1920).all()  # counted in 64 pixels
    assert (64 * passes == 2 * 3 * 1920).all()


def test_identical_frames_give_exactly_zero(device, stack):
    frames = np.repeat(stack(1, 40, 50, 0, 0), 3, axis=0)
    for preset in TVL1Parameters.presets:
        assert not estimate(device, frames, preset=preset).any()


def test_far_motion_stays_finite(device):
    frames = np.random.default_rng(0).integers(0, 256, (2, 33, 47), np.uint8)
    assert np.isfinite(estimate(device, frames, preset="fast")).all()


@pytest.mark.parametrize("axis", [-1, -2])
def test_flipping_commutes(device, stack, axis):
    frames = stack(2, 48, 64, 0.75, -0.5)
    flow = estimate(device, frames, preset="fast", epsilon=0.005)
    flipped = np.flip(estimate(device, np.flip(frames, axis), preset="fast", epsilon=0.005), axis).copy()
    flipped[:, 0 if axis == -1 else 1] *= -1
    assert mean_distance(flipped[..., 4:-4, 4:-4], flow[..., 4:-4, 4:-4]) < 0.05


def test_launches_do_not_depend_on_batch_or_frames(emulated, stack):
    """So that they can be recorded in a graph."""
    launches = []
    for frames in (stack(2, 20, 24, 0.5, 0), np.zeros((9, 20, 24), np.uint8)):
        device = emulated()
        estimate(device, frames, preset="fast", batch=8)
        launches.append([launch[0] for launch in device.launches])
    assert launches[0] == launches[1]


def test_no_block_waits_for_a_place(emulated, stack):
    """A launch has no more blocks than the registers of its kernel leave room for."""
    device = emulated()
    estimate(device, stack(9, 40, 130, 0.5, 0), preset="opencv", nscales=1, warps=1, outer_iterations=1)
    for name, resident in (("median", tvl1.MEDIAN_RESIDENT), ("iterate", tvl1.TUNINGS[0].resident)):
        blocks = {launch[1][0] for launch in device.launches if launch[0] == name}
        assert 8 <= max(blocks) <= resident * device.processors, name


def test_the_work_neither_allocates_nor_copies_nor_waits(emulated, stack, monkeypatch):
    device = emulated()
    method = TVL1(TVL1Parameters.build("fast"), device)
    frames = stack(3, 20, 24, 0.5, 0)
    expected = method(frames)
    work = next(iter(method._workspaces.values()))
    with monkeypatch.context() as patch:
        for name in ("empty", "upload", "download", "module"):
            patch.setattr(device, name, lambda *_: pytest.fail("not while pairs are solved"))
        work.flow[...] = np.nan
        work.work(work._staged[np.dtype(np.uint8)])
    assert np.array_equal(work.flow[:2], expected)


def test_bytes_are_known_beforehand(emulated, stack):
    device = emulated()
    method = TVL1(TVL1Parameters.build(), device)
    before = device.free_memory()
    work = method._make_workspace(40, 50, 9, 8)
    work._staged[np.dtype(np.uint8)] = device.empty((9, 40, 50), np.uint8)
    frame, pair = method._bytes(40, 50)
    bands = 2 * 4096 * len(device.allocations())
    assert before - device.free_memory() - bands <= 9 * frame + 8 * pair
    assert sum(method._bytes(1080, 1920)[i] * (2, 1)[i] for i in (0, 1)) < 1 << 30
