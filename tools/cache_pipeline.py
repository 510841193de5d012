"""The end-to-end rate of `flow-cache precompute` against a plain loop over OpenCV's TV-L1: part of `benchmark_cache`.

Both read the same video files and write theirs; the loop (`opencv_loop.py`) runs once as one process with OpenCV's own
threads, once as a process for each core with one thread each. It does a few of the videos, being slow: rates are
compared. Start-up is told apart: `precompute` is watched from outside while it runs, the loop times itself.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from benchmarking import markdown_table
from watching import PRECOMPUTE, ROOT, Watched, environment, watch

from flow_cache.container import CacheReader, cache_path
from flow_cache.cores import available_cores

OURS = "flow-cache precompute"
LOOP = "OpenCV loop, its own threads"
LOOPS = "OpenCV loop, a process a core"
MOST_DIFFERENT = 1.5  # mean over all values, in grey levels, JPEG of one and JPEG-LS of the other included


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
    folder: Path, names: Sequence[str], few: int, size: str, scratch: Path, rounds: int
) -> list[PipelineRow]:
    """Compare the contestants on videos of a folder, in turns; the loop does the first `few`."""
    scratch.mkdir()
    # Warm-up: kernels are compiled and kept, files are in memory. The results of both must agree.
    run_ours(folder, names[:few], size, scratch / "cache")
    run_loop(folder, names[:few], size, scratch / "loop", None)
    difference = mean_difference(names[:few], scratch / "cache", scratch / "loop")
    if not difference < MOST_DIFFERENT:
        raise SystemExit(
            f"the results differ by {difference:.2f} levels, expected less than {MOST_DIFFERENT}"
        )
    runs: dict[str, list[Run]] = {OURS: [], LOOP: [], LOOPS: []}
    for _ in range(rounds):
        for part in ("cache", "loop"):
            shutil.rmtree(scratch / part)
        runs[OURS].append(run_ours(folder, names, size, scratch / "cache"))
        runs[LOOP].append(run_loop(folder, names[:few], size, scratch / "loop", None))
        shutil.rmtree(scratch / "loop")
        runs[LOOPS].append(run_loop(folder, names[:few], size, scratch / "loop", available_cores()))
    return [
        summarise(name, runs[name], runs[LOOP], len(names) if name == OURS else few, difference)
        for name in runs
    ]


def run_ours(folder: Path, names: Sequence[str], size: str, out: Path) -> Run:
    """Run `flow-cache precompute` with its defaults on some videos, a worker for each core."""
    chosen = out.with_suffix(".txt")
    chosen.write_text("".join(f"{name}\n" for name in names))
    watched = watch([*PRECOMPUTE, str(chosen), "--root", str(folder), "--out", str(out), "--size", size])
    finished = []
    for name in names:
        path = cache_path(out, name)
        with CacheReader(path) as reader:
            finished.append((path.stat().st_mtime, reader.num_fields))
    return summarise_ours(watched, sorted(finished), available_cores())


def summarise_ours(watched: Watched, finished: list[tuple[float, int]], workers: int) -> Run:
    """Tell the steady part of a run: since all workers had done a video until the first was without one.

    finished: when each video was done, and its fields, in order. With too few videos for that all is taken as steady.
    """
    pairs = sum(fields for _, fields in finished)
    whole = pairs / watched.seconds
    if len(finished) < 4 * workers:
        return Run(pairs, whole, whole, 0.0, watched.utilisation(), watched.utilisation())
    start, end = finished[workers - 1][0], finished[-workers][0]
    steady = sum(fields for _, fields in finished[workers : 1 - workers or None]) / (end - start)
    beyond = watched.seconds - pairs / steady
    return Run(pairs, whole, steady, beyond, watched.utilisation(), watched.utilisation(start, end))


def run_loop(folder: Path, names: Sequence[str], size: str, out: Path, processes: int | None) -> Run:
    """Run the plain loop, as one process with OpenCV's threads, or as several with one thread each."""
    shares = [list(enumerate(names))[n :: processes or 1] for n in range(processes or 1)]
    command = [sys.executable, str(ROOT / "tools" / "opencv_loop.py"), "--size", size]
    command += [] if processes is None else ["--threads", "1"]
    calls = [
        [*command, *(str(folder / name) for _, name in share), "--out", str(out / str(n))]
        for n, share in enumerate(shares)
        if share
    ]
    # One command to watch, whichever way.
    watched = watch([sys.executable, __file__, json.dumps(calls)])
    told = [json.loads(line) for line in watched.output.splitlines()]
    pairs = sum(entry["pairs"] for entry in told)
    seconds = max(entry["seconds"] for entry in told)
    end = watched.ended
    return Run(
        pairs, pairs / watched.seconds, pairs / seconds, watched.seconds - seconds,
        watched.utilisation(), watched.utilisation(end - seconds, end), told[0]["threads"],
    )  # fmt: skip


def mean_difference(names: Sequence[str], cache: Path, loop: Path) -> float:
    """Compare the levels that both would give a reader; every field that one has the other must have."""
    sums = values = 0
    for number, name in enumerate(names):
        images = loop / "0" / str(number)
        with CacheReader(cache_path(cache, name)) as reader:
            ours = reader.flow(range(reader.num_fields)).astype(np.int16)
        if len(list(images.iterdir())) != 2 * len(ours):
            raise SystemExit(
                f"{name}: {len(ours)} fields, the loop wrote {len(list(images.iterdir()))} images"
            )
        for field, (u, v) in enumerate(ours, 1):
            for axis, levels in (("x", u), ("y", v)):
                theirs = cv2.imread(str(images / f"flow_{axis}_{field:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
                sums += int(np.abs(levels - theirs).sum())
                values += levels.size
    return sums / values


def summarise(
    name: str, runs: list[Run], reference: list[Run], videos: int, difference: float
) -> PipelineRow:
    """Take medians over the rounds, speeds against the reference of the same round."""

    def median(attribute: str) -> float:
        return float(statistics.median(getattr(run, attribute) for run in runs))

    def speeds(attribute: str) -> tuple[float, float, float]:
        ratios = [getattr(a, attribute) / getattr(b, attribute) for a, b in zip(runs, reference, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)

    return PipelineRow(
        name, videos, runs[0].pairs, *speeds("whole"), *speeds("steady"), median("whole"), median("steady"),
        median("start"), median("busy"), median("busy_steady"), runs[0].threads, difference if name == OURS else 0.0,
    )  # fmt: skip


def pipeline_section(rows: list[PipelineRow], size: str) -> list[str]:
    """Return the report's lines."""
    table = [
        (r.name, f"{r.videos} ({r.pairs:,})", f"{r.whole:.1f} ({r.whole_low:.1f}-{r.whole_high:.1f})",
         f"{r.steady:.1f} ({r.steady_low:.1f}-{r.steady_high:.1f})", f"{r.pairs_per_second:.2f}",
         f"{r.steady_pairs_per_second:.2f}", f"{r.start:.1f} s", f"{r.busy:.0%}", f"{r.busy_steady:.0%}",
         str(r.threads))
        for r in rows
    ]  # fmt: skip
    head = ("", "videos (pairs)", "speed", "speed, steady", "pairs/s", "pairs/s, steady", "start and end",
            "cores busy", "steady", "threads a process")  # fmt: skip
    return [
        "## End to end",
        "",
        f"From video files to a cache on disk at {size}, TV-L1 preset `opencv`, all defaults, against a plain loop",
        "over OpenCV's TV-L1 that writes JPEGs (`tools/opencv_loop.py`). Speeds as multiples of that loop as one",
        "process with OpenCV's own threads (median of the rounds, in brackets the lowest and highest); `steady` is",
        "without start-up and tail. Cores busy: processor time of all processes over the time of",
        f"{available_cores()} cores. The levels that a reader gets of both differ by {rows[0].difference:.3f} on",
        "average, JPEG's errors included.",
        "",
        *markdown_table(head, table),
    ]


def _all_at_once(calls: list[list[str]]) -> int:
    """Run several commands at the same time."""
    runs = [subprocess.Popen(call, env=environment()) for call in calls]
    return max([run.wait() for run in runs])


if __name__ == "__main__":
    sys.exit(_all_at_once(json.loads(sys.argv[1])))
