"""Compare our loader with JPEG folders and with decoding on the fly: clips per second, waiting, memory.

    python tools/benchmark_loader.py VIDEOS --out reports/benchmarks

A clip is 16 steps of a video, at each an RGB frame and a stack of 10 flow fields, cut and resized for training. Every
contestant gives the same clips through the same loader; only where they come from differs. First agreement: the clips
of all contestants are compared with ours. Then, for each number of loader processes, contestants take turns in every
round: a loop that only takes batches gives the clips per second. A loop that sleeps after each batch, as long as our
cache takes for one without loader processes, stands for a GPU that is just as quick as one core's loading, and gives
the share of its time that it waits. The processor time is that of the loop and of its loader processes.

`JPEG folders, as TSN reads` opens, cuts and resizes every image each time it occurs in a clip; stacks overlap, so most
do several times. The images are those of our cache, exported. On the fly, OpenCV decodes the video; flow is
Farneback's, as in the cache, since TV-L1 would take many times as long; a pass then has few clips. All files have been
read before. Writes loader.md and loader.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.clip_sources import DECODED, ON_THE_FLY, ONCE, OURS, TSN, make_sources, prepare
from benchmarks.process_monitor import own_memory
from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from benchmarks.timing import ratios
from benchmarks.videos import pick_videos
from flow_cache import read_index
from flow_cache.runtime import opencv
from twostream.data.annotations import VideoRecord
from twostream.data.batches import ClipLoader, ClipSampler, Waiting
from twostream.data.dataset import Clip, ClipDataset, ClipKey
from twostream.data.settings import AugmentConfig, DataConfig

STEPS, STACK, SIZE = 16, 10, 112
LIBRARIES = ("numpy", "torch", "opencv-contrib-python", "imagecodecs", "av")
ABOUT = """\
Speed and processor time of a clip in multiples of `{tsn}` with as many loader processes, in
the same round: median, and in brackets the lowest and the highest. Waiting: share of the time of a loop that sleeps
after each batch as long as our cache takes for one without loader processes. Memory: by how much the loop and its
loader processes grew from the first batch on, the peaks of all added up.
"""
ABOUT_AGREEMENT = """\
Mean difference from the clips of our cache, in grey levels. Frames of the cache and of folders are the same JPEG bytes,
flow is within one level in the cache and JPEG of quality 95 in folders; what is decoded has seen no JPEG.
"""


@dataclass(frozen=True)
class Row:
    """One contestant with some number of loader processes."""

    workers: int
    contestant: str
    speed: float
    """Clips per second / TSN's."""
    speed_low: float
    speed_high: float
    processor: float
    """Processor time of a clip / TSN's."""
    processor_low: float
    processor_high: float
    wait_share: float
    megabytes: float


def make_contestants(folder: Path, augment: AugmentConfig = AugmentConfig()) -> dict[str, Dataset[Clip]]:  # noqa: B008
    """Make the data sets over a folder that `prepare` has filled."""
    config = DataConfig(steps=STEPS, stack=STACK, size=SIZE, augment=augment)
    entries = sorted(read_index(folder / "cache"), key=lambda entry: int(Path(entry.video).stem))
    records = [VideoRecord(entry.video, 0, "") for entry in entries]
    by_path = {entry.video: entry for entry in entries}
    ours = ClipDataset(records, folder / "cache", by_path, config=config, training=True)
    return {OURS: ours, **make_sources(folder, entries, config)}


def check_agreement(folder: Path, clips: int) -> dict[str, tuple[float, float]]:
    """Compare clips with those of our cache; returns the mean difference of frames and of fields, in levels."""
    # Contrast is changed about the mean of a clip, in which a frame that is read twice counts twice.
    contestants = make_contestants(folder, AugmentConfig(brightness=0, contrast=0, saturation=0))
    found = {}
    for name, dataset in contestants.items():
        sums = np.zeros(2)
        for video in range(clips):
            ours, theirs = (_arrays(data[ClipKey(0, video)]) for data in (contestants[OURS], dataset))
            sums += [np.abs(a - b).mean() for a, b in zip(ours, theirs, strict=True)]
        rgb, flow = (sums / clips).tolist()
        if rgb > 8 or (flow > 1 and name != DECODED):
            raise SystemExit(f"{name} gives other clips than {OURS}: {rgb:.1f} and {flow:.1f} levels apart")
        found[name] = rgb, flow
    return found


def _arrays(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    rgb, flow = (torch.as_tensor(clip[name]).numpy().astype(np.int16) for name in ("rgb", "flow"))
    return rgb, flow


@dataclass(frozen=True)
class Pass:
    """Some epochs in a process of its own."""

    seconds: float
    """Of a clip."""
    cpu_seconds: float
    """Of a clip, in the loop and its loader processes."""
    wait_share: float
    megabytes: float
    """MiB by which the loop and its loader processes grew, at the peak of each, added up."""


def run_pass(dataset: Dataset[Clip], plan: Plan, workers: int, sleep: float = 0.0) -> Pass:
    """Take all batches of some epochs, and sleep after each, in a process that is forked for it."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send(_take_batches(dataset, plan, workers, sleep))
    )
    child.start()
    sender.close()
    try:
        done: Pass = receiver.recv()
    except EOFError:
        raise SystemExit("a contestant ended before its time") from None
    child.join()
    return done


def _take_batches(dataset: Dataset[Clip], plan: Plan, workers: int, sleep: float) -> Pass:
    clips, epochs = plan.of(dataset, workers)
    waiting = Waiting()
    loader = ClipLoader(
        dataset,
        ClipSampler(clips, shuffle=True),
        batch_size=plan.batch_size,
        workers=workers,
        keep=True,
        waiting=waiting,
    )
    before, at_start = own_memory("VmRSS"), _usage()[0]
    started = time.perf_counter()
    for _ in range(epochs):
        for _ in loader:
            time.sleep(sleep)
    seconds = time.perf_counter() - started
    del loader  # its processes end, and their use is known
    cpu_seconds, largest_child = _usage()
    grown = own_memory("VmHWM") - before + workers * max(largest_child - before, 0)
    taken = clips * epochs
    return Pass(seconds / taken, (cpu_seconds - at_start) / taken, waiting.seconds / seconds, grown)


def _usage() -> tuple[float, float]:
    """Return the processor time of this process and its ended children, and the peak of the largest child, MiB."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    return seconds, children.ru_maxrss / 1024


@dataclass(frozen=True)
class Plan:
    """How much is done in a pass."""

    batch_size: int
    epochs: int

    def of(self, dataset: Dataset[Clip], workers: int) -> tuple[int, int]:
        """Return how many videos, and epochs of them: of a slow contestant a batch for each process, once."""
        if getattr(dataset, "slow", False):
            return min(len(dataset), self.batch_size * max(workers, 1)), 1  # type: ignore[arg-type]
        return len(dataset), self.epochs  # type: ignore[arg-type]


def measure(
    contestants: Mapping[str, Dataset[Clip]], plan: Plan, workers: Sequence[int], repeats: int
) -> list[Row]:
    """Let the contestants take turns, with each number of loader processes."""
    once = replace(plan, epochs=1)
    for name, dataset in contestants.items():  # files are read
        if name != ON_THE_FLY:
            run_pass(dataset, once, 0)
    step = statistics.median(run_pass(contestants[OURS], once, 0).seconds for _ in range(3)) * plan.batch_size
    rows = []
    for count in workers:
        passes: dict[str, list[Pass]] = {name: [] for name in contestants}
        for _ in range(repeats):
            for name, dataset in contestants.items():
                passes[name].append(run_pass(dataset, plan, count))
        reference = passes[TSN]
        for name, done in passes.items():
            row = Row(
                count,
                name,
                *ratios([one.seconds for one in reference], [one.seconds for one in done]),
                *ratios([one.cpu_seconds for one in done], [one.cpu_seconds for one in reference]),
                run_pass(contestants[name], plan, count, step).wait_share,
                max(one.megabytes for one in done),
            )
            rows.append(row)
            print(f"{count} workers: {name} {row.speed:.2f}, waits {row.wait_share:.0%}", flush=True)
    return rows


def use_one_thread() -> None:
    """Let libraries use no threads of their own: processes are what is compared."""
    opencv().setNumThreads(1)
    torch.set_num_threads(1)


def report(
    out: Path, about: str, load: str, agreement: Mapping[str, tuple[float, float]], rows: Sequence[Row]
) -> None:
    """Write the tables."""
    write_csv(out / "loader.csv", [asdict(row) for row in rows])
    table = [
        (str(row.workers), row.contestant, format_range(row.speed, row.speed_low, row.speed_high, 2),
         format_range(row.processor, row.processor_low, row.processor_high, 2), f"{row.wait_share:.0%}",
         f"{row.megabytes:.0f}")
        for row in rows
    ]  # fmt: skip
    head = ("loader processes", "clips from", "clips/s / TSN's", "processor time / TSN's", "waiting", "MiB")
    differences = [(name, f"{rgb:.2f}", f"{flow:.2f}") for name, (rgb, flow) in agreement.items()]
    write_markdown(
        out / "loader.md",
        "Loading training clips",
        [about, "", *bullet_list({**provenance(*LIBRARIES), "other work": load}), ""],
        section("Speed, waiting, memory", ABOUT.format(tsn=TSN), head, table),
        [*comparison(rows), ""],
        section("Agreement", ABOUT_AGREEMENT, ("clips from", "frames", "fields"), differences),
    )


def comparison(rows: Sequence[Row]) -> list[str]:
    """Say how many times as many clips a second our cache gives, as a list."""
    lines = []
    for ours in (row for row in rows if row.contestant == OURS):
        others = {row.contestant: ours.speed / row.speed for row in rows if row.workers == ours.workers}
        lines.append(
            f"- {ours.workers} loader processes: our cache gives {ours.speed:.1f} times as many clips a second as"
            f" `{TSN}`,\n  {others[ONCE]:.2f} times as many as `{ONCE}`, {others[ON_THE_FLY]:.0f} times as many as\n"
            f"  `{ON_THE_FLY}`, {others[DECODED]:.2f} times as many as `{DECODED}`."
        )
    return lines


def main() -> int:
    """Parse the arguments, measure, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--clips", type=int, default=40, help="videos, a clip of each (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=2, help="passes over them in a round (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="clips in a batch (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=(0, 1, 2, 4), help="loader processes (default: 0 1 2 4)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few clips: to try the tool itself")
    parser.add_argument("--scratch", type=Path, default=None, help="where cache and images are written")
    arguments = parser.parse_args()
    clips, workers, repeats = (
        (3, (0, 2), 2) if arguments.quick else (arguments.clips, arguments.workers, arguments.repeats)
    )
    plan = Plan(2, 1) if arguments.quick else Plan(arguments.batch_size, arguments.epochs)
    load = f"{os.getloadavg()[1]:.1f} processes wanted to run on average in the five minutes before"
    use_one_thread()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        videos = pick_videos(arguments.videos, clips)
        prepare(videos, folder)
        contestants = make_contestants(folder)
        agreement = check_agreement(folder, min(len(videos), 5))
        rows = measure(contestants, plan, workers, repeats)
    lengths = [entry.num_fields for entry in contestants[OURS]._entries]  # type: ignore[attr-defined]
    about = (
        f"Clips of {len(videos)} videos of {arguments.videos} with {min(lengths)} to {max(lengths)} flow fields:"
        f" {STEPS} steps of one frame and {STACK} fields,\nresized to {SIZE} x {SIZE}, {plan.batch_size} in a batch;"
        f" {repeats} rounds of {plan.epochs} epochs."
    )
    report(arguments.out, about, load, agreement, rows)
    print(f"report: {arguments.out / 'loader.md'}")
    return 0
