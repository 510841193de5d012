"""Compare our TV-L1 with OpenCV's, its Farneback and DIS, and scikit-image's TV-L1 on real frames, on the CPU.

    python tools/benchmark_flow.py VIDEOS --out reports/benchmarks

First their results: on `--agreement` pairs at 340x256 our difference to OpenCV's TV-L1, beside OpenCV's to itself after
one frame has been changed by one unit in its last place, which tells how much that result depends on rounding at all.
Then how long they take, with one thread and with all, in turns within one run; what a pair adds to the memory of a
process of its own; and where our time goes. Times are given as multiples of the speed of OpenCV's TV-L1 with one
thread, since they hold for one machine only. Writes flow.md, flow.csv, flow_agreement.csv and flow_stages.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.endpoint_errors import distribution, endpoint_errors, mean_lengths
from benchmarks.process_monitor import own_memory
from benchmarks.report import (
    add_flow_arguments,
    bullet_list,
    format_range,
    provenance,
    section,
    write_csv,
    write_markdown,
)
from benchmarks.timing import median_and_range, time_in_turns
from benchmarks.videos import Frames, parse_size, pick_videos, read_pairs
from flow_cache import run_program
from flow_cache.errors import ArgumentError
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1 import estimator as tvl1
from flow_cache.methods.tvl1 import iterate, median, pyramid, warp
from flow_cache.runtime import available_cores, opencv

Flow = NDArray[np.float32]
Estimate = Callable[[NDArray[Any], NDArray[Any]], Flow]
REFERENCE = "OpenCV TV-L1"
OURS = "ours, preset opencv"
SIZES = ("320x240", "340x256", "640x480", "1280x720", "1920x1080")
ABOUT_AGREEMENT = """\
Mean end-point differences of pairs of real frames at {size}, in pixels: our preset `opencv` to OpenCV's TV-L1, and
OpenCV's to itself after each level of one frame has been raised by one unit in its last place.
"""
ABOUT_SPEED = """\
Speed is in multiples of OpenCV's TV-L1 with one thread (in brackets the slowest and fastest repeat); difference is the
mean end-point difference to OpenCV's TV-L1, in pixels; memory is what one pair adds to a process of one thread, in MiB.
"""
LIBRARIES = ("numpy", "numba", "opencv-contrib-python", "scikit-image")


@dataclass(frozen=True)
class Row:
    """One estimator at one size."""

    size: str
    pairs: int
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
    """Memory that one pair adds to a process with one thread, MiB."""


def one_by_one(estimate: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> Estimate:
    """Turn a function of one pair that returns (H, W, 2) into an estimator of stacks of pairs."""

    def estimate_stack(first: NDArray[Any], second: NDArray[Any]) -> Flow:
        fields = [estimate(a, b) for a, b in zip(first, second, strict=True)]
        return np.stack(fields).transpose(0, 3, 1, 2).astype(np.float32)

    return estimate_stack


def opencv_tvl1(**parameters: Any) -> Estimate:
    """Return OpenCV's TV-L1, a new object for each pair, since an object remembers sizes."""
    return one_by_one(lambda a, b: opencv().optflow.DualTVL1OpticalFlow_create(**parameters).calc(a, b, None))


def scikit_image(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Estimate by scikit-image, which returns (v, u)."""
    from skimage.registration import optical_flow_tvl1

    v, u = optical_flow_tvl1(first, second, dtype=np.float32)
    return np.stack([u, v], axis=-1)


def estimators(threads: int) -> dict[str, Estimate]:
    """Return the estimators by name; the reference is the first."""
    cv = opencv()
    by_name = {REFERENCE: opencv_tvl1()}
    for preset in ("opencv", "fast", "opencv-cuda"):
        by_name[f"ours, preset {preset}"] = get_method("tvl1", preset=preset, threads=threads).pairs
    by_name["OpenCV Farneback"] = one_by_one(
        lambda a, b: cv.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 13, 10, 5, 1.1, 0)
    )
    by_name["OpenCV DIS"] = one_by_one(
        lambda a, b: cv.DISOpticalFlow_create(cv.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)
    )
    if threads == 1 and find_spec("skimage"):  # it has no threads of its own
        by_name["scikit-image TV-L1"] = one_by_one(scikit_image)
    return by_name


def measure_agreement(videos: Sequence[Path], size: str) -> Iterator[dict[str, Any]]:
    """Compare ours with OpenCV's, and OpenCV's with itself after one rounding, pair by pair.

    Each pair once as it stands, and every tenth of them with fixed numbers of iterations too: all 300 of each of the 5
    warps on each of the 5 scales, the 300 of one warp on one scale.
    """
    settings: dict[str, dict[str, Any]] = {
        "convergence": {},
        "fixed iterations": {"epsilon": 0},
        "fixed iterations, one warp": {"epsilon": 0, "nscales": 1, "warps": 1},
    }
    for n, video in enumerate(videos):
        first, second = read_pairs([video], *parse_size(size))
        # OpenCV takes floats from 0 to 1
        rounded = np.nextafter(first / np.float32(255), np.float32(2)), second / np.float32(255)
        for name, parameters in settings.items():
            if parameters and n % 10:
                continue
            reference, ours = opencv_tvl1(**parameters), get_method("tvl1", **parameters).pairs
            expected = reference(first, second)
            row = {
                "size": size,
                "setting": name,
                "video": f"{video.parent.name}/{video.name}",
                "motion": mean_lengths(expected)[0],
                "ours to OpenCV": endpoint_errors(ours(first, second), expected)[0],
                "OpenCV to itself": endpoint_errors(reference(*rounded), expected)[0],
            }
            print(
                *(f"{v:.5f}" if isinstance(v, float | np.floating) else v for v in row.values()), flush=True
            )
            yield row


def peak_memory(video: Path, size: str, method: str) -> float:
    """Return what one pair adds to the peak memory of a fresh process, MiB."""
    request = json.dumps({"video": str(video), "size": size, "method": method})
    command = [sys.executable, __file__, "--measure-memory", request]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure_memory(video: str, size: str, method: str) -> float:
    """Do the work of `peak_memory` in this process: a small pair first, so that libraries are loaded."""
    opencv().setNumThreads(1)
    estimate = estimators(1)[method]
    estimate(*read_pairs([Path(video)], 64, 48))
    first, second = read_pairs([Path(video)], *parse_size(size))
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak that compilation may have left
    before = own_memory("VmRSS")
    estimate(first, second)
    return own_memory("VmHWM") - before


@contextmanager
def stage_clock() -> Iterator[dict[str, float]]:
    """Time the kernels of our TV-L1 inside a `with` block; yields the seconds of each stage so far."""
    seconds: dict[str, float] = defaultdict(float)
    stages = [
        (tvl1, "build_pyramid", "pyramids"),
        (pyramid, "resize", "zoom"),
        (warp, "warp", "warp"),
        (median, "median_filter", "median"),
        (iterate, "iterate", "iterations"),
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


def measure_speed(videos: Sequence[Path], size: str, repeats: int) -> Iterator[Row]:
    """Compare all estimators at one size, with one thread and with all."""
    first, second = read_pairs(videos, *parse_size(size))
    cores = available_cores()
    base = 0.0
    memory: dict[str, float] = {}
    for threads in (1, cores) if cores > 1 else (1,):
        opencv().setNumThreads(threads)
        tasks = {name: partial(estimate, first, second) for name, estimate in estimators(threads).items()}
        flows = {name: estimate() for name, estimate in tasks.items()}  # the warm-up, too
        times = time_in_turns(tasks, repeats)
        base = base or statistics.median(times[REFERENCE])
        for name, seconds in times.items():
            if threads == 1:
                memory[name] = peak_memory(videos[0], size, name)
            difference = statistics.fmean(endpoint_errors(flows[name], flows[REFERENCE]))
            speed, fastest, slowest = (base / value for value in median_and_range(seconds))
            yield Row(size, len(videos), name, threads, speed, slowest, fastest, difference, memory[name])


def write_report(
    folder: Path,
    about: dict[str, str],
    agreed: list[dict[str, Any]],
    rows: list[Row],
    stages: dict[str, dict[str, float]],
) -> None:
    """Write the tables into a folder, as CSV and together as markdown."""
    write_csv(folder / "flow.csv", [asdict(row) for row in rows])
    write_csv(folder / "flow_stages.csv", [{"size": size, **shares} for size, shares in stages.items()])
    agreement_section: list[str] = []
    if agreed:
        write_csv(folder / "flow_agreement.csv", agreed)
        intro = ABOUT_AGREEMENT.format(size=agreed[0]["size"])
        head = ["iterations until", "pairs", "difference", "mean", "median", "90th percentile", "greatest"]
        agreement_section = section("Agreement", intro, head, list(_agreement_rows(agreed)))
    speed_head = ["size", "pairs", "method", "threads", "difference", "speed", "memory"]
    stages_head = ["size", *next(iter(stages.values()))]
    stages_rows = [
        [size, *(f"{100 * share:.1f} %" for share in shares.values())] for size, shares in stages.items()
    ]
    write_markdown(
        folder / "flow.md",
        "Optical flow on the CPU",
        [*bullet_list(about), ""],
        agreement_section,
        section("Speed and memory", ABOUT_SPEED, speed_head, [_speed_row(row) for row in rows]),
        section(
            "Where our time goes", "Preset `opencv`, one thread, share of the time.", stages_head, stages_rows
        ),
    )


def _speed_row(row: Row) -> list[str]:
    speeds = format_range(row.speed, row.speed_low, row.speed_high, 1)
    figures = [f"{row.difference:.4f}", speeds, f"{row.peak_mib:.0f}"]
    return [row.size, str(row.pairs), row.method, str(row.threads), *figures]


def _agreement_rows(agreed: list[dict[str, Any]]) -> Iterator[list[str]]:
    for setting in dict.fromkeys(row["setting"] for row in agreed):
        chosen = [row for row in agreed if row["setting"] == setting]
        for column in ("ours to OpenCV", "OpenCV to itself"):
            figures = distribution([row[column] for row in chosen]).values()
            yield [setting, str(len(chosen)), column, *(f"{figure:.5f}" for figure in figures)]


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="?", type=Path, help="folder of videos to take frames from")
    add_flow_arguments(parser)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT, several")
    parser.add_argument(
        "--pairs",
        type=int,
        default=8,
        help="pairs at 340x256, fewer where frames are larger (default: %(default)s)",
    )
    parser.add_argument("--measure-memory", metavar="REQUEST", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        print(measure_memory(**json.loads(options.measure_memory)))
        return 0
    if options.videos is None:
        parser.error("name a folder of videos")
    try:
        sizes = {size: parse_size(size) for size in (*options.sizes, options.agreement_size)}
    except ArgumentError as error:
        raise SystemExit(str(error)) from error
    rows: list[Row] = []
    stages: dict[str, dict[str, float]] = {}
    opencv().setNumThreads(1)
    agreed = (
        list(measure_agreement(pick_videos(options.videos, options.agreement), options.agreement_size))
        if options.agreement
        else []
    )
    for size in options.sizes:
        width, height = sizes[size]
        share = 340 * 256 / (width * height)
        videos = pick_videos(
            options.videos, max(available_cores(), min(options.pairs, round(options.pairs * share)))
        )
        for row in measure_speed(videos, size, options.repeats):
            rows.append(row)
            print(
                f"{size} {row.method}, {row.threads} threads: {row.speed:.1f}x, {row.difference:.4f} px",
                flush=True,
            )
        opencv().setNumThreads(1)
        stages[size] = stage_shares(*read_pairs(videos[:1], width, height), options.repeats)
    repeats = f"{options.repeats} in turns after one warm-up"
    write_report(options.out, {**provenance(*LIBRARIES), "repeats": repeats}, agreed, rows, stages)
    print(f"report: {options.out / 'flow.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program("benchmark_flow", main))
