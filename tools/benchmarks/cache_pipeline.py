"""The end-to-end rate of `flow-cache precompute` against a plain loop over OpenCV's TV-L1: part of `benchmark_cache`.

Both read the same video files and write theirs; the loop (`opencv_loop.py`) runs once as one process with OpenCV's own
threads, once as a process for each core with one thread each. It does a few of the videos, since it is slow: rates are
compared. Start-up is kept apart: `precompute` is measured from outside while it runs, the loop times itself.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.process_monitor import PRECOMPUTE, MonitoredRun, run_monitored
from benchmarks.report import format_range, section
from benchmarks.timing import ratios
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.runtime import available_cores

OURS = "flow-cache precompute"
ONE_PROCESS = "OpenCV loop, its own threads"
PROCESS_PER_CORE = "OpenCV loop, a process a core"
LOOP_SCRIPT = Path(__file__).with_name("opencv_loop.py")
MAX_DIFFERENCE = 1.5  # mean over all values, in grey levels; what JPEG and JPEG-LS lose is in it


@dataclass(frozen=True)
class Run:
    """One run of a contestant."""

    pairs: int
    whole: float
    """Pairs a second of the whole command."""
    steady: float
    """The same without start-up and tail."""
    start: float
    """Seconds that the command takes beyond its pairs at the steady rate."""
    busy: float
    """Share of all cores' time that was used."""
    busy_steady: float
    """The same without start-up and tail."""
    threads: int = 1
    """Of each process."""


@dataclass(frozen=True)
class PipelineRow:
    """One contestant: medians over the rounds; speeds are in multiples of the loop with OpenCV's own threads."""

    name: str
    videos: int
    pairs: int
    whole: float
    whole_low: float
    whole_high: float
    steady: float
    steady_low: float
    steady_high: float
    pairs_per_second: float
    """Of the whole command."""
    steady_pairs_per_second: float
    start: float
    busy: float
    busy_steady: float
    threads: int
    """Of each process."""
    difference: float
    """Mean difference of the levels to the loop's, over the videos that both did."""


def measure_pipeline(
    folder: Path, names: Sequence[str], loop_videos: int, size: str, scratch: Path, rounds: int
) -> list[PipelineRow]:
    """Compare the contestants on videos of a folder, in turns; the loop does the first `loop_videos` of them."""
    scratch.mkdir()
    cache, images, loop_names = scratch / "cache", scratch / "loop", names[:loop_videos]
    # Warm-up: kernels are compiled and kept, files are in memory. The results of both must agree.
    run_ours(folder, loop_names, size, cache)
    run_loop(folder, loop_names, size, images)
    difference = mean_difference(loop_names, cache, images)
    if not difference < MAX_DIFFERENCE:
        raise SystemExit(
            f"the results differ by {difference:.2f} levels, expected less than {MAX_DIFFERENCE}"
        )
    runs: dict[str, list[Run]] = {OURS: [], ONE_PROCESS: [], PROCESS_PER_CORE: []}
    for _ in range(rounds):
        shutil.rmtree(cache)
        runs[OURS].append(run_ours(folder, names, size, cache))
        shutil.rmtree(images)
        runs[ONE_PROCESS].append(run_loop(folder, loop_names, size, images))
        shutil.rmtree(images)
        runs[PROCESS_PER_CORE].append(run_loop(folder, loop_names, size, images, available_cores()))
    return [
        summarise(name, runs[name], runs[ONE_PROCESS], len(names if name == OURS else loop_names), difference)
        for name in runs
    ]


def run_ours(folder: Path, names: Sequence[str], size: str, out: Path) -> Run:
    """Run `flow-cache precompute` with its defaults on some videos, a worker for each core."""
    video_list = out.with_suffix(".txt")
    video_list.write_text("".join(f"{name}\n" for name in names))
    command = [*PRECOMPUTE, str(video_list), "--root", str(folder), "--out", str(out), "--size", size]
    run = run_monitored(command)
    finished = []
    for name in names:
        path = cache_path(out, name)
        with CacheReader(path) as reader:
            finished.append((path.stat().st_mtime, reader.num_fields))
    return summarise_ours(run, sorted(finished), available_cores())


def summarise_ours(run: MonitoredRun, finished: list[tuple[float, int]], workers: int) -> Run:
    """Find the steady part of a run: from when all workers had done a video until the first one was without work.

    Args:
        run: The whole run.
        finished: When each video was done, and its number of fields, in order of time. If there are too few videos to
            tell, the whole run is taken as steady.
        workers: How many processes shared the videos.
    """
    pairs = sum(fields for _, fields in finished)
    whole = pairs / run.seconds
    if len(finished) < 4 * workers:
        return Run(pairs, whole, whole, 0.0, run.utilisation(), run.utilisation())
    start, end = finished[workers - 1][0], finished[-workers][0]
    steady = sum(fields for _, fields in finished[workers : 1 - workers or None]) / (end - start)
    beyond = run.seconds - pairs / steady
    return Run(pairs, whole, steady, beyond, run.utilisation(), run.utilisation(start, end))


def run_loop(folder: Path, names: Sequence[str], size: str, out: Path, processes: int | None = None) -> Run:
    """Run the plain loop, as one process with OpenCV's threads, or as several with one thread each."""
    videos = [str(folder / name) for name in names]
    command = [sys.executable, str(LOOP_SCRIPT), *videos, "--out", str(out), "--size", size]
    if processes is not None:
        command += ["--threads", "1", "--processes", str(processes)]
    run = run_monitored(command)
    results = [json.loads(line) for line in run.output.splitlines()]
    pairs = sum(result["pairs"] for result in results)
    seconds = max(result["seconds"] for result in results)
    return Run(
        pairs, pairs / run.seconds, pairs / seconds, run.seconds - seconds,
        run.utilisation(), run.utilisation(run.ended - seconds, run.ended), results[0]["threads"],
    )  # fmt: skip


def mean_difference(names: Sequence[str], cache: Path, images: Path) -> float:
    """Compare the levels that both would give a reader; every field that one has the other must have."""
    total = values = 0
    for number, name in enumerate(names):
        folder = images / str(number)
        with CacheReader(cache_path(cache, name)) as reader:
            ours = reader.flow(range(reader.num_fields)).astype(np.int16)
        written = len(list(folder.iterdir()))
        if written != 2 * len(ours):
            raise SystemExit(f"{name}: {len(ours)} fields, the loop wrote {written} images")
        for field, (u, v) in enumerate(ours, 1):
            for axis, levels in (("x", u), ("y", v)):
                theirs = cv2.imread(str(folder / f"flow_{axis}_{field:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
                total += int(np.abs(levels - theirs).sum())
                values += levels.size
    return total / values


def summarise(
    name: str, runs: list[Run], reference: list[Run], videos: int, difference: float
) -> PipelineRow:
    """Take medians over the rounds, speeds against the reference of the same round."""

    def every(attribute: str, of: list[Run] = runs) -> list[float]:
        return [getattr(run, attribute) for run in of]

    def median(attribute: str) -> float:
        return float(statistics.median(every(attribute)))

    def speeds(attribute: str) -> tuple[float, float, float]:
        return ratios(every(attribute), every(attribute, reference))

    return PipelineRow(
        name, videos, runs[0].pairs, *speeds("whole"), *speeds("steady"), median("whole"), median("steady"),
        median("start"), median("busy"), median("busy_steady"), runs[0].threads, difference if name == OURS else 0.0,
    )  # fmt: skip


def pipeline_section(rows: list[PipelineRow], size: str) -> list[str]:
    """Return the report's lines."""
    table = [
        (r.name, f"{r.videos} ({r.pairs:,})", format_range(r.whole, r.whole_low, r.whole_high, 1),
         format_range(r.steady, r.steady_low, r.steady_high, 1), f"{r.pairs_per_second:.2f}",
         f"{r.steady_pairs_per_second:.2f}", f"{r.start:.1f} s", f"{r.busy:.0%}", f"{r.busy_steady:.0%}",
         str(r.threads))
        for r in rows
    ]  # fmt: skip
    head = ("", "videos (pairs)", "speed", "speed, steady", "pairs/s", "pairs/s, steady", "start and end",
            "cores busy", "steady", "threads a process")  # fmt: skip
    intro = f"""\
From video files to a cache on disk at {size}, TV-L1 preset `opencv`, all defaults, against a plain loop
over OpenCV's TV-L1 that writes JPEGs (`tools/benchmarks/opencv_loop.py`). Speeds as multiples of that loop as one
process with OpenCV's own threads (median of the rounds, in brackets the lowest and highest); `steady` is
without start-up and tail. Cores busy: processor time of all processes over the time of
{available_cores()} cores. The levels that a reader gets of both differ by {rows[0].difference:.3f} on
average, JPEG's errors included."""
    return section("End to end", intro, head, table)
