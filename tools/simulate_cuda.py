"""Simulate the launches of TV-L1 on CUDA on real videos, without a GPU: how full they are, before and now.

    python tools/simulate_cuda.py --videos FOLDER [--clips 36] [--processors 132] [--out reports/benchmarks]

The CPU's estimator solves all consecutive pairs of the videos; from its changes after every iteration follow the passes
and launches (benchmarks/cuda_schedule.py). Nothing here is measured on a GPU: counts are exact, time is modelled by
rows walked. Writes cuda_schedule.md, and cuda_iterations.csv: iterations of each pair. Exit status: 0; 2 for unusable
arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.cuda_schedule import Pair, Strategy, Totals, by_power_law, by_ratio, record_changes, simulate
from benchmarks.report import bullet_list, provenance, section, write_csv, write_markdown
from benchmarks.videos import parse_size, pick_videos, read_middle
from flow_cache import run_program
from flow_cache.errors import ArgumentError
from flow_cache.methods.cuda.tvl1 import TUNINGS, Tuning
from flow_cache.methods.tvl1.parameters import TVL1Parameters

ABOUT = """\
**Modelled, not measured**: no GPU has run these. Active: pairs that have work, in launches that have any. Filled: of
the places that a launch's warps take until the last of them is done, those with an item, by rows walked down. Useful:
rows of the pairs themselves among them, without those that neighbouring items repeat. Few: places in launches whose
pairs cannot fill one round even in items of 16 rows. Time: places, relative to the first line.
"""
HEAD = ("strategy", "batch", "launches a pair", "passes a pair", "done again", "iterations a pair", "active", "filled",
        "useful", "few", "time")  # fmt: skip
LONGEST = 10_000  # frames of a video


def strategies() -> list[Strategy]:
    """List how it was done before, each change alone, and how it is done now."""
    now = TUNINGS[0]
    before = Tuning(now.iterations, now.columns, now.resident, 1)
    return [
        Strategy("before: ratio of changes, items of 64 rows", by_ratio, before, 4),
        Strategy("power law", by_power_law, now, 4),
        Strategy("now: power law, items by active pairs", by_power_law, now),
    ]


def in_batches(
    pairs: Sequence[Pair], strategy: Strategy, batch: int, parameters: TVL1Parameters, height: int, width: int,
    processors: int,
) -> Totals:  # fmt: skip
    """Simulate consecutive pairs in whole batches; a rest is left out, unless there is nothing else."""
    totals = Totals()
    whole = max(1, len(pairs) // batch)
    for n in range(whole):
        part = pairs[n * batch : (n + 1) * batch]
        simulate(part, parameters, height, width, strategy, processors, totals)
    return totals


def main(arguments: list[str] | None = None) -> int:
    """Simulate and write the report; `arguments`: the command line's, if None."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--videos", type=Path, required=True, help="folder of videos")
    add("--clips", type=int, default=36, help="videos to take, evenly spread (default: %(default)s)")
    add("--size", default="340x256", help="WIDTHxHEIGHT of the frames (default: %(default)s)")
    add("--preset", default="opencv", help="of TV-L1 (default: %(default)s)")
    add("--batches", nargs="+", type=int, default=[64, 256, 1024], help="pairs in a batch, several")
    add(
        "--processors",
        type=int,
        default=132,
        help="multiprocessors of the device (default: H100's %(default)s)",
    )
    add("--out", type=Path, default=Path("reports/benchmarks"), help="folder (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        width, height = parse_size(given.size)
        parameters = TVL1Parameters.build(given.preset)
        if parameters.cuda_conventions:
            raise ArgumentError("the preset must have the conventions of OpenCV's CPU version")
        if min(given.clips, given.processors, *given.batches) < 1:
            raise ArgumentError("clips, processors and batches must be at least 1")
    except ArgumentError as error:
        print(f"simulate_cuda: {error}", file=sys.stderr)
        return 2
    pairs: list[Pair] = []
    named: list[str] = []
    videos = pick_videos(given.videos, given.clips)
    for video in videos:
        solved = list(record_changes(parameters, read_middle(video, LONGEST, width, height)))
        pairs += solved
        named += [video.relative_to(given.videos).as_posix()] * len(solved)
    done = np.array([sum(len(c) for level in pair for warp in level for c in warp) for pair in pairs])
    rows, first = [], 0.0
    for strategy in strategies():
        for batch in given.batches:
            batch = min(batch, len(pairs))
            t = in_batches(pairs, strategy, batch, parameters, height, width, given.processors)
            count = max(1, len(pairs) // batch) * batch
            first = first or t.places / count
            active = [n for n in t.active or [] if n]
            rows.append([
                strategy.name, str(batch), f"{t.launches / count:.1f}", f"{t.passes / count:.1f}",
                f"{t.repeated / count:.1f}", f"{t.iterations / count:.0f}", f"{np.mean(active):.1f}",
                f"{t.filled / t.places:.1%}", f"{t.useful / t.places:.1%}", f"{t.few / t.places:.1%}",
                f"{t.places / count / first:.2f}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
    write_csv(
        given.out / "cuda_iterations.csv",
        [
            {
                "video": name,
                "iterations": " ".join(str(n) for of, n in zip(named, done, strict=True) if of == name),
            }
            for name in dict.fromkeys(named)
        ],
    )
    about = {
        **provenance("numpy", "numba"),
        "pairs": f"{len(pairs)} consecutive ones of {len(videos)} videos of {given.videos.name}, {given.size}, "
        f"{given.preset}",
        "iterations a pair, by the CPU": f"mean {done.mean():.0f}, median {np.median(done):.0f}, 99 % "
        f"{np.quantile(done, 0.99):.0f}, most {done.max()}",
        "device": f"{given.processors} multiprocessors, {TUNINGS[0].resident} blocks each",
    }
    write_markdown(
        given.out / "cuda_schedule.md",
        "Launches of TV-L1 on CUDA, simulated",
        [*bullet_list(about), ""],
        section("Launches", ABOUT, HEAD, rows),
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_program("simulate_cuda", main))
