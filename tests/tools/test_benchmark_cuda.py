"""The benchmark on CUDA, all of it on the emulated device: what it counts, measures, writes and refuses."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

import benchmark_cuda
from benchmarks import cuda_ceilings, cuda_costs, cuda_real, synthetic_frames
from benchmarks.cuda_agreement import Estimator
from benchmarks.timing import TooSlowError, seconds_per_call
from flow_cache.methods.cuda import tvl1
from flow_cache.methods.cuda.backend import COMPILE_OPTIONS, KERNELS, kernel_source
from flow_cache.methods.registry import get_method, preset_names
from flow_cache.methods.tvl1.parameters import TVL1Parameters

from .conftest import ROOT, read_csv, run_tool

EMULATION = ROOT / "tests" / "flow_cache" / "methods" / "cuda" / "emulation" / "backend.py"


@pytest.fixture(scope="session")
def resident():
    """Maker of emulated devices that know their own arrays, as a GPU does."""
    name = "flow_cache_test_backend"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EMULATION)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    module = sys.modules[name]
    if module.compiler() is None:
        pytest.skip("the emulation of CUDA needs a C++ compiler (g++, or the one that CXX names)")

    class Resident(module.EmulatedBackend):
        def adopt(self, array):
            place = array.ctypes.data
            own = any(start <= place < start + size for start, size in list(self._live.items()))
            return np.ascontiguousarray(array) if own else None

    return Resident


SMALL = [
    "--agreement=2", "--agreement-size=40x36", "--sizes", "40x36", "56x20", "--batches", "1", "2", "--repeats=2",
    "--timed=0", "--copied=4096", "--rounds=2",
]  # fmt: skip
QUICK = {"warps": 1, "nscales": 2, "inner_iterations": 7, "outer_iterations": 1}


def quick_method(name, preset, **values):
    """Make a method of a preset, but with few iterations: the emulation is slow."""
    few = QUICK if name == "tvl1" else {"iterations": 1}
    return get_method(name, preset=preset, **{**few, **values})


def benchmark(device, *arguments):
    """Run the benchmark on a device, with few iterations."""
    return benchmark_cuda.main([*map(str, arguments)], lambda name: device, quick_method)


def test_measures_and_writes_everything(resident, tmp_path, capsys):
    presets = ["tvl1:opencv", "tvl1:opencv-cuda", "farneback:default"]
    assert benchmark(resident(), *SMALL, "--tune", "--presets", *presets, f"--out={tmp_path}") == 0
    rows = read_csv(tmp_path / "cuda.csv")
    ours = [row for row in rows if row["implementation"] == "ours"]
    assert len(ours) == 2 * 3 * 2 * 2 + 2 * (len(tvl1.TUNINGS) - 1)
    assert len({(row["size"], row["estimator"], row["frames"], row["batch"]) for row in ours}) == len(ours)
    for row in ours:
        assert not row["note"], row
        assert float(row["rate"]) > 0
        assert float(row["slowest"]) <= float(row["rate"]) <= float(row["fastest"])
        assert float(row["memory_mib"]) > 0
        assert float(row["bandwidth_share"]) > 0
        assert (float(row["iterations"]) > 0) == row["estimator"].startswith("tvl1")
    assert {row["estimator"] for row in rows if row["implementation"] == "ours, CPU"} == {
        preset.replace(":", " ") for preset in presets
    }
    agreed = read_csv(tmp_path / "cuda_agreement.csv")
    assert len(agreed) == 2 * (2 + 2 + 1)
    assert all(float(row["mean"]) < 0.02 < float(row["motion"]) for row in agreed)
    kernels = read_csv(tmp_path / "cuda_kernels.csv")
    for size in ("40x36", "56x20"):
        shares = [float(row["byte_share"]) for row in kernels if row["size"] == size]
        assert sum(shares) == pytest.approx(3)
    report = (tmp_path / "cuda.md").read_text()
    for part in (
        "- command: ",
        "- commit: ",
        "- machine: ",
        "- versions: ",
        "- GPU: none: Resident",
        "cuCIM is not",
    ):
        assert part in report
    printed = capsys.readouterr().out
    assert "tvl1 opencv, convergence, 2 pairs: agrees" in printed
    assert printed.index("size       preset") > printed.index("56x20 ours")


def test_disagreement_fails(resident, tmp_path, capsys):
    class Wrong(resident):
        def download(self, array):
            values = super().download(array)
            return values + np.float32(0.05) if values.ndim == 4 and values.dtype == np.float32 else values

    small = [*SMALL, "--presets", "tvl1:fast", "--sizes", "40x36", "--batches", "1"]
    assert benchmark(Wrong(), *small, f"--out={tmp_path}") == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_what_does_not_fit_is_said(resident, tmp_path):
    small = [*SMALL, "--presets", "tvl1:opencv", "--sizes", "40x36", "--batches", "1", "64"]
    assert benchmark(resident(limit=3_000_000), *small, f"--out={tmp_path}") == 0
    notes = {
        row["batch"]: row["note"]
        for row in read_csv(tmp_path / "cuda.csv")
        if row["implementation"] == "ours"
    }
    assert notes["1"] == ""
    assert notes["64"].startswith("does not fit: ")
    assert "does not fit: " in (tmp_path / "cuda.md").read_text()


def test_what_there_is_no_time_for_is_said(resident, tmp_path):
    small = [*SMALL, "--presets", "farneback:opencv", "--sizes", "40x36", "--seconds", "0"]
    assert benchmark(resident(), *small, f"--out={tmp_path}") == 0
    rows = read_csv(tmp_path / "cuda.csv")
    assert rows
    assert all("too slow for the time set" in row["note"] and float(row["rate"]) == 0 for row in rows)


def test_the_small_case_runs_every_kernel(resident, capsys):
    device = resident()
    assert benchmark(device, "--small-case") == 0
    text = "".join(kernel_source(path.name) for path in KERNELS.glob("*.cu"))
    ran = {launch[0] for launch in device.launches}
    missing = {name for name in cuda_costs.PAIR_COSTS if name not in ran}
    missing |= {name for name in cuda_costs.FRAME_COSTS if name not in ran}
    assert not missing
    assert {"iterate", "median", "quantize"} <= ran
    assert all(name in text for name in ran)
    assert "equal results" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["opencv", "opencv-cuda", "fast"])
def test_iterations_are_counted_as_the_records_say(resident, preset):
    """All iterations of all levels and warps where nothing may converge, and fewer where something does."""
    frames = synthetic_frames.scene(3, 4, 36, 48)
    parameters = {"warps": 2, "nscales": 2, "inner_iterations": 8, "outer_iterations": 2}
    counts = []
    for epsilon in (0.0, 0.05):
        chosen = TVL1Parameters.build(preset, epsilon=epsilon, **parameters)
        counts.append(
            cuda_costs.count_work(lambda device, p=chosen: tvl1.TVL1(p, device), resident(), frames)
        )
    whole, some = counts
    assert whole.iterations.tolist() == [2 * 2 * 8 * 2] * 3
    assert (some.iterations < whole.iterations).all()
    assert (some.iterations > 0).all()
    assert (some.total(3) < whole.total(3)).all()
    # the device's own record, which counts 64 pixels at a time
    chosen = TVL1Parameters.build(preset, epsilon=0.05, **{**parameters, "nscales": 1})
    some = cuda_costs.count_work(lambda device: tvl1.TVL1(chosen, device), resident(), frames)
    device = resident()
    method = tvl1.TVL1(chosen, device)
    method.batch = 3
    method(frames)
    (workspace,) = method._workspaces.values()
    records = device.download(workspace._control[workspace._turn])
    assert records[:, cuda_costs.record_fields()["ITERATED"]].tolist() == (27 * some.iterations).tolist()


def test_bytes_of_the_iterations_follow_from_the_sizes(resident):
    """Fixed iterations in whole passes: 15 floats a pixel of a level, for each pass of 6 iterations."""
    frames = synthetic_frames.scene(3, 3, 36, 50)
    chosen = TVL1Parameters.build(epsilon=0, warps=3, nscales=2, inner_iterations=12, outer_iterations=2)
    counted = cuda_costs.count_work(lambda device: tvl1.TVL1(chosen, device), resident(), frames)
    plans = tvl1.level_plans(chosen, 36, 50, tvl1.TUNINGS[0])
    pixels = sum(plan.height * plan.stride for plan in plans)
    passes = 3 * 2 * 12 // tvl1.TUNINGS[0].iterations
    assert counted.by_pair["iterate"][:, 0].tolist() == [15 * 4 * pixels * passes] * 2
    assert counted.by_pair["median"][:, 0].tolist() == [4 * 4 * pixels * 3 * 2] * 2
    assert counted.by_frame["grey_from_bytes"].tolist() == [5 * 36 * 50, 0]
    operations = counted.by_pair["iterate"][0, 1] / (3 * 2 * 12)
    assert (
        55 * pixels < operations < 5 * 55 * pixels
    )  # strips and rows overlap, much where frames are so small
    assert counted.launches["take_flow"] == 1


def test_work_of_a_batch_is_the_mean_of_its_pairs():
    made = cuda_costs.Work(3)
    made.by_pair["iterate"] = np.array([[6.0, 1], [12, 1], [30, 1]])
    made.by_frame["expand"] = np.array([10.0, 100])
    assert made.total(1).tolist() == [6 + 20, 1 + 200]
    assert made.total(2).tolist() == [9 + 15, 1 + 150]
    assert made.total(6).tolist() == [16 + 10 * 7 / 6, 1 + 100 * 7 / 6]


def test_tunings_change_what_is_compiled_and_counted(resident):
    """Longer passes read and write memory less often; names tell them apart."""
    frames = synthetic_frames.scene(3, 2, 36, 50)
    changed = {"epsilon": 0.0, "warps": 1, "nscales": 1, "inner_iterations": 40, "outer_iterations": 1}
    counted, names = {}, set()
    for number, tuning in enumerate(tvl1.TUNINGS):
        made = Estimator("tvl1", "opencv", number)
        names.add(made.name)
        counts = cuda_costs.count_work(lambda device, e=made: e.on_gpu(device, **changed), resident(), frames)
        assert counts.iterations.tolist() == [40]
        counted[tuning.iterations] = counts.by_pair["iterate"][0, 0]
    assert len(names) == len(tvl1.TUNINGS)
    for iterations, bytes_ in counted.items():
        assert bytes_ == 15 * 4 * 36 * 52 * -(-40 // iterations)


def test_every_kernel_of_flow_has_a_cost():
    known = {*cuda_costs.FRAME_COSTS, *cuda_costs.PAIR_COSTS, "iterate", "median", "quantize", "extremes"}
    known |= {"gather_bytes", "gather_floats"}
    for path in KERNELS.glob("*.cu"):
        for kernel in cuda_costs.kernels_of(path.name):
            assert kernel in known
            assert cuda_costs.signature(path.name, kernel)


def test_ceilings_are_what_was_done_in_the_time(resident):
    device = resident()
    launches = []

    def time_calls(work, wait, repeats, **_):
        work()
        launches.append(device.launches[-1])
        return [0.5, 0.25]

    found = cuda_ceilings.measure_ceilings(device, 2, copied=16 * 1000, rounds=3, time_calls=time_calls)
    assert found.bandwidth == 2 * 16 * 1000 / 0.25
    blocks = launches[1][1][0]
    assert found.arithmetic == 2 * 16 * 3 * blocks * 256 / 0.25


def test_the_copy_copies_and_the_loop_adds(resident):
    device = resident()
    module = device.module(cuda_ceilings.SOURCE)
    for count in (1, 255, 3000):
        source, target = device.empty(4 * count, np.float32), device.empty(4 * count, np.float32)
        device.upload(np.arange(4 * count, dtype=np.float32), source)
        module.launch("copy", (2, 1, 1), (256, 1, 1), (source, target, np.int64(count)))
        assert np.array_equal(device.download(target), np.arange(4 * count))
    out = device.empty(512, np.float32)
    module.launch("multiply_add", (2, 1, 1), (256, 1, 1), (out, 3, 1.0, 0.5))
    expected = 8 * (np.arange(512) % 256) + 28 + 8 * 6 * 0.5
    assert np.array_equal(device.download(out), expected)


@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_the_ceilings_compile_without_warnings_or_spills(architecture):
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="NVRTC comes with CuPy")
    try:
        supported = nvrtc.getSupportedArchs()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    if architecture not in supported:
        pytest.skip(f"this NVRTC knows {min(supported)} to {max(supported)}")
    program = nvrtc.createProgram(kernel_source(cuda_ceilings.SOURCE), "ceilings.cu", (), ())
    nvrtc.compileProgram(program, (*COMPILE_OPTIONS, f"-arch=sm_{architecture}", "--ptxas-options=-v"))
    log = nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)
    assert "warning" not in log
    assert log.count(" 0 bytes spill stores, 0 bytes spill loads") == 2


def test_a_call_is_timed_after_three_warm_ups():
    now = [0.0]
    calls = []

    def clock():
        return now[0]

    def work():
        calls.append(now[0])
        now[0] += 10.0 if len(calls) == 1 else 0.5

    assert seconds_per_call(work, lambda: None, 4, limit=5, min_seconds=1.5, clock=clock) == [0.5] * 4
    assert len(calls) == 3 + 4 * 3
    with pytest.raises(TooSlowError, match=r"0\.5 s a call"):
        seconds_per_call(work, lambda: None, 4, limit=1.9, clock=clock)


def test_scenes_are_the_same_each_time_and_move():
    stack = synthetic_frames.scene(5, 3, 60, 90)
    assert stack.dtype == np.uint8
    assert stack.shape == (3, 60, 90)
    assert np.array_equal(stack, synthetic_frames.scene(5, 3, 60, 90))
    assert not np.array_equal(stack, synthetic_frames.scene(6, 3, 60, 90))
    assert np.array_equal(stack[:2], synthetic_frames.scene(5, 2, 60, 90))
    assert stack.std() > 20
    difference = np.abs(stack[1].astype(float) - stack[0])
    assert difference.mean() > 2 * synthetic_frames.NOISE  # more than noise alone
    assert difference.max() > 30  # where something is hidden or uncovered


def test_scenes_hold_still_motion_that_flow_finds():
    """The camera's part is what the CPU estimator sees."""
    flow = get_method("farneback")(synthetic_frames.scene(1, 2, 120, 160))
    length = np.hypot(flow[0, 0], flow[0, 1])
    assert 0.2 < np.median(length) < 4
    assert np.quantile(length, 0.99) > 1.5 * np.median(length)  # patches go elsewhere


def test_frames_go_to_and_fro():
    order = synthetic_frames.to_and_fro(np.arange(4)[:, None, None], 9)[:, 0, 0]
    assert order.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_textures_have_no_seam():
    plane = synthetic_frames.texture(2, 64)
    steps = np.abs(np.diff(plane, axis=1)).mean()
    assert np.abs(plane[:, 0] - plane[:, -1]).mean() < 1.5 * steps
    assert 0 <= plane.min() < 60 < 200 < plane.max() <= 255


def test_presets_measured_are_those_that_there_are():
    measured = benchmark_cuda.PRESETS
    assert set(measured) == {
        f"{name}:{preset}" for name in ("tvl1", "farneback") for preset in preset_names(name)
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "device cuda:0"),
        (("--device", "cpu"), "device must be cuda or cuda:N, got 'cpu'"),
        (("--device", "gpu"), "device must be cpu, cuda, cuda:N"),
        (("--sizes", "640"), "a size must be WIDTHxHEIGHT, got '640'"),
        (("--presets", "tvl1:slow"), "unknown preset 'slow'"),
        (("--presets", "raft:large"), "a preset must be METHOD:PRESET"),
        (("--batches", "0"), "batches and agreement must be at least 1"),
    ],
)
def test_unusable_arguments_are_one_line_and_status_2(arguments, message):
    done = run_tool("benchmark_cuda.py", *arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_real_video_is_counted_pair_by_pair(resident):
    """Pairs between two videos are left out; the stages take the time of their launches."""
    stacks = [synthetic_frames.scene(n, 3, 36, 40) for n in range(3)]
    estimator = Estimator("tvl1", "opencv", get_method=quick_method)
    ticks = iter(range(10**6))
    counted = cuda_real.count(resident(), estimator, stacks, 5, lambda: float(next(ticks)))
    assert counted.iterations.tolist() == [
        cuda_real.count(resident(), estimator, [stack[t : t + 2]]).iterations[0]
        for stack in stacks
        for t in (0, 1)
    ]
    assert max(counted.active) <= 4
    assert counted.seconds["iterations"] == counted.launches
    assert set(counted.seconds) == set(cuda_real.STAGES)
    assert all(value > 0 for value in counted.seconds.values())


def test_real_videos_are_in_the_report(resident, tmp_path, make_videos):
    small = [
        *SMALL,
        "--presets",
        "tvl1:opencv",
        "--sizes",
        "40x36",
        "--batches",
        "1",
        "--real-batches",
        "2",
        "8",
    ]
    assert benchmark(resident(), *small, "--videos", make_videos([3, 4], 40, 36), f"--out={tmp_path}") == 0
    rows = read_csv(tmp_path / "cuda_real.csv")
    assert [row["batch"] for row in rows] == ["2", "8"]
    for row in rows:
        assert (row["videos"], row["pairs"], row["note"]) == ("2", "5", "")
        assert 0 < float(row["iterations"]) <= float(row["iterations_99"]) <= float(row["iterations_most"])
        assert float(row["rate"]) > 0
    assert "## Real video" in (tmp_path / "cuda.md").read_text()


def test_groups_of_videos_fit_in_a_batch():
    stacks = [np.zeros((n, 8, 8), np.uint8) for n in (3, 3, 2, 9)]
    groups = [[len(stack) for stack in group] for group in cuda_real.together(stacks, 6)]
    assert groups == [[3, 3], [2], [7]]
