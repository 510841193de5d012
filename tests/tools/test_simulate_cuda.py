"""The simulation of launches on CUDA: it does what the emulated device does, and adds up."""

from __future__ import annotations

import numpy as np
import pytest

import simulate_cuda
from benchmarks import cuda_costs, cuda_schedule, synthetic_frames
from flow_cache.methods.cuda import tvl1
from flow_cache.methods.tvl1.parameters import TVL1Parameters

from .conftest import read_csv, run_tool
from .test_benchmark_cuda import resident  # noqa: F401

PARAMETERS = TVL1Parameters.build(nscales=2, warps=2, outer_iterations=2, epsilon=0.03)
NOW = simulate_cuda.strategies()[-1]


def test_launches_are_those_of_the_emulated_device(resident):  # noqa: F811
    frames = synthetic_frames.scene(3, 5, 40, 48)
    pairs = list(cuda_schedule.record_changes(PARAMETERS, frames))
    device = resident()
    simulated = cuda_schedule.simulate(pairs, PARAMETERS, 40, 48, NOW, device.processors)
    counted = cuda_costs.count_work(lambda device: tvl1.TVL1(PARAMETERS, device), device, frames)
    assert simulated.active == counted.active
    assert simulated.launches == counted.launches["iterate"]
    assert simulated.iterations == counted.iterations.sum()
    assert simulated.repeated > 0
    assert 0 < simulated.empty < simulated.launches
    assert max(simulated.active) == 4


def test_the_constants_are_those_of_the_kernel():
    defined = cuda_costs.kernel_source("tvl1_iterate.cu")
    assert f"#define SLOWEST_DECAY {cuda_schedule.SLOWEST_DECAY}f" in defined
    assert f"#define LARGEST_ITEM {tvl1.LARGEST_ITEM}  " in defined
    assert f"min({cuda_schedule.LAG}, count)" in defined


@pytest.mark.parametrize("strategy", simulate_cuda.strategies(), ids=lambda s: s.name)
@pytest.mark.parametrize("converging", [False, True])
def test_passes_do_the_iterations_of_the_pair(strategy, converging):
    changes = 100.0 / np.arange(1, 24) ** 2.0 if converging else np.full(30, 50.0)
    passes = strategy.passes(changes, 30, changes[-1] if converging else 1.0)
    assert len(passes) <= strategy.passes_of_an_outer(30) + 1
    again = [count for count in passes if count < 0]
    done = [count for count in passes if count > 0]
    assert sum(done[:-1]) - sum(again) + (0 if again else done[-1]) == len(changes)
    assert max(done) <= strategy.tuning.iterations


def test_a_batch_that_fills_the_device_leaves_no_place_empty():
    """24 equal pairs on one multiprocessor: all launches with work are full but for the rounding of rounds."""
    changes = [[[[np.full(30, 50.0)]]]]
    fixed = TVL1Parameters.build(nscales=1, warps=1, outer_iterations=1, epsilon=0)
    totals = cuda_schedule.simulate(changes * 24, fixed, 64, 64, NOW, 1)
    assert totals.filled == totals.places
    assert totals.passes == 24 * 5
    assert totals.active == [24] * 5 + [0] * 3


def test_the_report_says_that_it_is_modelled(tmp_path, make_videos):
    films = make_videos([3], 40, 32)
    done = run_tool(
        "simulate_cuda.py", "--videos", films, "--size", "40x32", "--preset", "fast",
        "--batches", "2", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "out" / "cuda_schedule.md").read_text()
    assert "**Modelled, not measured**" in report
    assert report.count("| 2 | ") == 3
    rows = read_csv(tmp_path / "out" / "cuda_iterations.csv")
    assert [row["video"] for row in rows] == ["0.avi"]
    assert [int(n) > 0 for n in rows[0]["iterations"].split()] == [True, True]


def test_unusable_arguments_are_one_line_and_status_2():
    for arguments, message in [
        (("--size", "40"), "a size must be"),
        (("--preset", "opencv-cuda"), "conventions"),
    ]:
        done = run_tool("simulate_cuda.py", "--videos", ".", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
