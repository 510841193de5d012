"""Compare our TV-L1 with OpenCV's, its Farneback and DIS, and scikit-image's TV-L1 on real frames.

    python tools/benchmark_flow.py VIDEO [VIDEO ...] --output reports/benchmarks

First what they say: mean end-point difference to OpenCV's TV-L1 on the same pairs. Then how long they take, with one
thread and with all, in turns within one run; the peak memory of a process of its own; and where our time goes. Times
are given as multiples of the speed of OpenCV's TV-L1 with one thread, since they hold for one machine only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cores import available_cores
from flow_cache.methods import (
    _tvl1_iterate,
    _tvl1_median,
    _tvl1_pyramid,
    _tvl1_warp,
    get_method,
    tvl1,
)
from flow_cache.opencv import opencv

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]
Estimate = Callable[[Frames, Frames], Flow]
REFERENCE = "OpenCV TV-L1"
SIZES = ("320x240", "340x256", "640x480", "1280x720", "1920x1080")


@dataclass(frozen=True)
class Row:
    """One estimator at one size."""

    size: str
    method: str
    threads: int
    speed: float
    """How many times as fast as OpenCV's TV-L1 with one thread, by medians."""
    speed_low: float
    """The same by its slowest repeat."""
    speed_high: float
    """The same by its fastest repeat."""
    difference: float
    """Mean end-point difference to OpenCV's TV-L1, pixels."""
    peak_mib: float
    """Memory that a process needs beyond the frames and libraries, at one thread and one pair."""


def one_by_one(estimate: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> Estimate:
    """Make an estimator of stacks of pairs from one of a pair that returns (H, W, 2)."""

    def estimate_stack(first: Frames, second: Frames) -> Flow:
        fields = [estimate(a, b) for a, b in zip(first, second, strict=True)]
        return np.stack(fields).transpose(0, 3, 1, 2).astype(np.float32)

    return estimate_stack


def scikit_image(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Estimate by scikit-image, which returns (v, u) and takes the flow the other way about."""
    from skimage.registration import optical_flow_tvl1

    v, u = optical_flow_tvl1(first, second, dtype=np.float32)
    return np.stack([u, v], axis=-1)


def estimators(threads: int) -> dict[str, Estimate]:
    """Make the estimators; the reference is the first."""
    ours = {preset: get_method("tvl1", preset=preset, threads=threads) for preset in ("opencv", "fast")}
    made: dict[str, Estimate] = {
        REFERENCE: one_by_one(lambda a, b: opencv().optflow.DualTVL1OpticalFlow_create().calc(a, b, None)),
        "ours, preset opencv": ours["opencv"].pairs,
        "ours, preset fast": ours["fast"].pairs,
        "OpenCV Farneback": one_by_one(
            lambda a, b: opencv().calcOpticalFlowFarneback(a, b, None, 0.5, 5, 13, 10, 5, 1.1, 0)
        ),
        "OpenCV DIS": one_by_one(
            lambda a, b: (
                opencv().DISOpticalFlow_create(opencv().DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)
            )
        ),
        "scikit-image TV-L1": one_by_one(scikit_image),
    }
    if threads > 1:  # it has no threads of its own
        del made["scikit-image TV-L1"]
    return made


def read_pairs(videos: list[Path], count: int, size: str) -> tuple[Frames, Frames]:
    """Read `count` pairs of neighbouring grey frames, spread over the videos."""
    width, height = (int(side) for side in size.split("x"))
    pairs: list[list[Any]] = []
    for n in range(count):
        path = videos[n % len(videos)]
        capture = opencv().VideoCapture(str(path))
        frames = [capture.read() for _ in range(4 + 2 * (n // len(videos)))][-2:]
        if not all(done for done, _ in frames):
            raise SystemExit(f"{path}: too few frames for pair {n}")
        greys = [opencv().cvtColor(frame, opencv().COLOR_BGR2GRAY) for _, frame in frames]
        pairs.append(
            [opencv().resize(grey, (width, height), interpolation=opencv().INTER_LINEAR) for grey in greys]
        )
    stacks = np.asarray(pairs, np.uint8)
    return np.ascontiguousarray(stacks[:, 0]), np.ascontiguousarray(stacks[:, 1])


def difference(flow: Flow, reference: Flow) -> float:
    """Return the mean end-point difference of two stacks of fields, pixels."""
    return float(np.hypot(flow[:, 0] - reference[:, 0], flow[:, 1] - reference[:, 1]).mean())


def time_in_turns(
    made: dict[str, Estimate], first: Frames, second: Frames, repeats: int
) -> dict[str, list[float]]:
    """Time every estimator `repeats` times, one after the other in each round, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(repeats):
        for name, estimate in made.items():
            start = time.perf_counter()
            estimate(first, second)
            times[name].append(time.perf_counter() - start)
    return times


def peak_memory(videos: list[Path], size: str, method: str) -> float:
    """Return what one pair adds to the peak memory of a fresh process, MiB."""
    request = json.dumps({"videos": [str(video) for video in videos], "size": size, "method": method})
    command = [sys.executable, __file__, "--measure-memory", request]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure_memory(videos: list[str], size: str, method: str) -> float:
    """Do the work of `peak_memory` in this process: a small pair first, so that libraries are loaded."""
    opencv().setNumThreads(1)
    estimate = estimators(1)[method]
    estimate(*read_pairs([Path(video) for video in videos], 1, "64x48"))
    first, second = read_pairs([Path(video) for video in videos], 1, size)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak that compilation may have left
    before = memory_status("VmRSS")
    estimate(first, second)
    return (memory_status("VmHWM") - before) / 1024


def memory_status(field: str) -> int:
    """Return a field of this process' memory status, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}: memory is measured on Linux only")


@contextmanager
def stage_clock() -> Iterator[dict[str, float]]:
    """Time the kernels of our TV-L1 while the context lasts; yields seconds by stage."""
    seconds: dict[str, float] = defaultdict(float)
    stages = [
        (tvl1, "build_pyramid", "pyramids"),
        (_tvl1_pyramid, "resize", "zoom"),
        (_tvl1_warp, "warp", "warp"),
        (_tvl1_median, "median_filter", "median"),
        (_tvl1_iterate, "iterate", "iterations"),
    ]
    originals = [getattr(module, name) for module, name, _ in stages]

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            seconds[stage] += time.perf_counter() - start
            return result

        return call

    for (module, name, stage), original in zip(stages, originals, strict=True):
        setattr(module, name, timed(original, stage))
    try:
        yield seconds
    finally:
        for (module, name, _), original in zip(stages, originals, strict=True):
            setattr(module, name, original)


def stage_shares(first: Frames, second: Frames, repeats: int) -> dict[str, float]:
    """Return the share of each stage in the time of preset `opencv` with one thread."""
    with stage_clock() as seconds:
        method = get_method("tvl1")
        start = time.perf_counter()
        for _ in range(repeats):
            method.pairs(first, second)
        total = time.perf_counter() - start
    shares = {stage: spent / total for stage, spent in seconds.items()}
    return {**shares, "rest": 1 - sum(shares.values())}


def benchmark(videos: list[Path], size: str, pairs: int, repeats: int) -> Iterator[Row]:
    """Compare all estimators at one size, with one thread and with all."""
    first, second = read_pairs(videos, pairs, size)
    cores = available_cores()
    base = 0.0
    memory: dict[str, float] = {}
    for threads in (1, cores) if cores > 1 else (1,):
        opencv().setNumThreads(threads)
        made = estimators(threads)
        flows = {name: estimate(first, second) for name, estimate in made.items()}  # the warm-up, too
        times = time_in_turns(made, first, second, repeats)
        base = base or statistics.median(times[REFERENCE])
        for name, seconds in times.items():
            if threads == 1:
                memory[name] = peak_memory(videos, size, name)
            yield Row(
                size, name, threads, base / statistics.median(seconds), base / max(seconds), base / min(seconds),
                difference(flows[name], flows[REFERENCE]), memory[name],
            )  # fmt: skip


def provenance(command: str, videos: list[Path], pairs: int, repeats: int) -> dict[str, str]:
    """Say what was measured, where and with what."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    libraries = ("numpy", "numba", "opencv-contrib-python-headless", "scikit-image")
    return {
        "command": command,
        "commit": commit or "not a git checkout",
        "machine": f"{processor()}, {available_cores()} cores, {platform.platform()}",
        "versions": ", ".join(f"{name} {installed(name)}" for name in ("Python", *libraries)),
        "frames": f"{pairs} pairs of {', '.join(video.name for video in videos)}",
        "repeats": f"{repeats} in turns after one warm-up; medians, slowest and fastest",
    }


def processor() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def installed(name: str) -> str:
    """Return the version of a library."""
    if name == "Python":
        return platform.python_version()
    if name.startswith("opencv"):
        return str(opencv().__version__)
    return version(name)


def write_report(
    folder: Path, about: dict[str, str], rows: list[Row], stages: dict[str, dict[str, float]]
) -> None:
    """Write flow.csv, flow_stages.csv and flow.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "flow.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    names = list(next(iter(stages.values())))
    with (folder / "flow_stages.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["size", *names])
        writer.writerows(
            [size, *(f"{shares[name]:.4f}" for name in names)] for size, shares in stages.items()
        )
    lines = ["# Optical flow on the CPU", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [
        "",
        "Speed is in multiples of OpenCV's TV-L1 with one thread (in brackets its slowest and fastest repeat);",
        "difference is the mean end-point difference to OpenCV's TV-L1 in pixels; memory is what one pair adds to a",
        "process, in MiB.",
        "",
        "| size | method | threads | difference | speed | memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.size} | {r.method} | {r.threads} | {r.difference:.4f} "
        f"| {r.speed:.1f} ({r.speed_low:.1f} to {r.speed_high:.1f}) | {r.peak_mib:.0f} |"
        for r in rows
    ]
    lines += ["", "## Where our time goes", "", "Preset `opencv`, one thread, share of the time.", ""]
    lines += ["| size | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {size} | " + " | ".join(f"{100 * shares[name]:.1f} %" for name in names) + " |"
        for size, shares in stages.items()
    ]
    (folder / "flow.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "videos", nargs="*", type=Path, help="videos to take frames from, resized to each size"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("reports/benchmarks"), help="folder for the report"
    )
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT, several")
    parser.add_argument(
        "--pairs", type=int, default=2 * available_cores(), help="pairs of frames at each size"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats")
    parser.add_argument("--measure-memory", metavar="REQUEST", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        print(measure_memory(**json.loads(options.measure_memory)))
        return
    if not options.videos:
        parser.error("name at least one video")
    rows: list[Row] = []
    stages: dict[str, dict[str, float]] = {}
    for size in options.sizes:
        for row in benchmark(options.videos, size, options.pairs, options.repeats):
            rows.append(row)
            print(
                f"{row.size} {row.method}, {row.threads} threads: {row.speed:.1f}x, {row.difference:.4f} px",
                flush=True,
            )
        stages[size] = stage_shares(*read_pairs(options.videos, 1, size), options.repeats)
    command = shlex.join([Path(sys.executable).name, *(os.path.relpath(sys.argv[0]), *sys.argv[1:])])
    write_report(
        options.output, provenance(command, options.videos, options.pairs, options.repeats), rows, stages
    )


if __name__ == "__main__":
    main()
