"""Measure flow on a GPU: agreement with the CPU path, pairs a second, memory, and the share of what the card can do.

    python tools/benchmark_cuda.py [--videos FOLDER] [--out reports/benchmarks]

First the GPU's results: the mean end-point difference to our CPU path on `--agreement` pairs, beside what one rounding
of the frames does to the CPU path itself, with convergence and with fixed numbers of iterations. Then how many pairs a
second, by size, preset and batch, with frames that are on the device already and with frames from the host, of which
flow comes back as bytes; beside our CPU path with all cores, and other projects' code on CUDA where it is installed.
Bytes and operations are counted (benchmarks/cuda_costs.py) and compared with a large copy and a large loop of fused
multiplications and additions, measured in the same run. Frames are generated (benchmarks/synthetic_frames.py) unless a
folder of videos is named; then TV-L1 is also measured on 1,024 consecutive pairs or more of at least 30 whole videos,
with iterations of a pair (mean, 99 %, most), pairs active in a launch, and time by stage.
Writes cuda.md, cuda.csv, cuda_agreement.csv, cuda_kernels.csv and, of real video, cuda_real.csv.
Exit status: 0; 1 where the GPU disagrees with the CPU; 2 where there is no GPU, or for unusable arguments.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cuda_agreement import Estimator, agreement
from benchmarks.cuda_ceilings import COPIED, ROUNDS, Ceilings, measure_ceilings, waiter
from benchmarks.cuda_costs import Work, count_work
from benchmarks.cuda_real import measure_real, real_stacks
from benchmarks.cuda_report import Row, device_facts, real_line, short_table, write_report
from benchmarks.cuda_third_party import installed
from benchmarks.report import add_flow_arguments
from benchmarks.synthetic_frames import scenes, to_and_fro
from benchmarks.timing import MIN_SECONDS, TooSlowError, median_and_range, seconds_per_call
from benchmarks.videos import Frames, parse_size
from flow_cache import run_program
from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods.cuda.backend import Backend
from flow_cache.methods.cuda.cupy_backend import CupyBackend
from flow_cache.methods.cuda.tvl1 import TUNINGS
from flow_cache.methods.device import open_device
from flow_cache.methods.registry import get_method
from flow_cache.runtime import available_cores

SIZES = ("340x256", "320x240", "640x480", "1920x1080")  # what matters most first, should time run out
BATCHES = (1, 4, 16, 64, 256)
PRESETS = ("tvl1:opencv", "tvl1:opencv-cuda", "tvl1:fast", "farneback:default", "farneback:opencv")
DISTINCT = 9  # frames of a size, shown to and fro: 16 different pairs
COUNTED = 2 * (DISTINCT - 1)
AGREEMENT_STACK = 11  # frames of a scene whose pairs are compared
BOUND = 20.0
TOO_SLOW = "not measured, too slow for the time set: {}"


class Clock:
    """Decides what there is time for: `limit` seconds a case, `total` of all."""

    def __init__(self, limit: float, total: float) -> None:
        self.limit = limit
        self._end = time.perf_counter() + total

    def left(self) -> float:
        """Return the seconds that the next case may take."""
        return min(self.limit, self._end - time.perf_counter())

    def left_for(self, calls: float, seconds: float) -> float:
        """Return the same; raises TooSlowError if it is too short for so many calls of so many seconds."""
        left = self.left()
        if left <= 0:
            raise TooSlowError("no time left")
        if calls * seconds > left:
            raise TooSlowError(f"about {seconds:.1f} s a call")
        return left


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    batches: tuple[int, ...]
    repeats: int
    min_seconds: float
    """Of a repeat."""
    clock: Clock
    ceilings: Ceilings


class GpuSpeed:
    """The measurements of one preset at one size."""

    def __init__(
        self, backend: Backend, estimator: Estimator, size: str, frames: Frames, options: Options
    ) -> None:
        self.backend, self.estimator, self.size, self.frames, self.options = (
            backend, estimator, size, frames, options,
        )  # fmt: skip
        self.wait = waiter(backend)
        self.work = self._count()
        self._pair_seconds: dict[str, float] = {}

    def _count(self) -> Work:
        pairs = min(COUNTED, max(self.options.batches))  # enough for every batch: pairs recur
        while pairs > 1 and not self._fits(pairs):
            pairs //= 2
        make = partial(Estimator.on_gpu, self.estimator)
        return count_work(make, self.backend, to_and_fro(self.frames, pairs + 1))

    def _needed(self, batch: int) -> int:
        """Return the bytes that a batch takes, its frames and its flow on the device counted in."""
        height, width = self.frames.shape[1:]
        frame, pair = self.estimator.on_gpu(self.backend)._bytes(height, width)
        return int((batch + 1) * (frame + height * width) + batch * (pair + 8 * height * width))

    def _fits(self, batch: int) -> bool:
        return self._needed(batch) < 0.95 * self.backend.free_memory()

    def rows(self) -> Iterator[Row]:
        """Measure all batches, with frames on the device and with frames from the host."""
        for batch in self.options.batches:
            for place in ("device", "host"):
                gc.collect()  # workspaces and their recorded graphs refer to one another
                if not self._fits(batch):
                    needed, free = (v / 2**20 for v in (self._needed(batch), self.backend.free_memory()))
                    yield self._skipped(place, batch, f"does not fit: {needed:.0f} MiB of {free:.0f} free")
                    continue
                try:
                    yield self._measure(place, batch)
                except TooSlowError as error:
                    yield self._skipped(place, batch, TOO_SLOW.format(error))
                except DeviceError as error:
                    yield self._skipped(place, batch, f"does not fit: {error}")

    def _skipped(self, place: str, batch: int, note: str) -> Row:
        return Row(self.size, "ours", self.estimator.name, place, batch, note=note)

    def _measure(self, place: str, batch: int) -> Row:
        repeats = self.options.repeats
        expected = self._pair_seconds.get(place, 0.0) * batch
        limit = self.options.clock.left_for((repeats + 2) / 2, expected)
        free = self.backend.free_memory()
        method = self.estimator.on_gpu(self.backend)
        method.batch = batch
        frames: Any = to_and_fro(self.frames, batch + 1)
        if place == "device":
            uploaded = self.backend.empty(frames.shape, np.uint8)
            self.backend.upload(frames, uploaded)
            frames = uploaded
        work: Callable[[], object] = (
            partial(method, frames) if place == "device" else partial(method.quantized, frames, BOUND)
        )
        flow = work()
        self.wait()
        taken = max(0, free - self.backend.free_memory())
        del flow
        if max(workspace.pairs for workspace in method._workspaces.values()) < batch:
            raise DeviceError("the device's memory ran out, smaller batches were worked on")
        seconds = seconds_per_call(work, self.wait, repeats, limit, self.options.min_seconds)
        self._pair_seconds[place] = statistics.median(seconds) / batch
        rate, slowest, fastest = _rates(batch, seconds)
        bytes_, operations = self.work.total(batch)
        ceilings = self.options.ceilings
        return Row(
            self.size, "ours", self.estimator.name, place, batch, rate, slowest, fastest, taken / 2**20,
            self.work.mean_iterations(batch), bytes_ / 1e6, operations / 1e6,
            rate * bytes_ / ceilings.bandwidth, rate * operations / ceilings.arithmetic,
        )  # fmt: skip


class CpuSpeed:
    """Our CPU path, with all cores and a pair for each."""

    def __init__(self) -> None:
        self._pixel_seconds: dict[str, float] = {}  # by estimator: of a pair and pixel, at the size before

    def row(self, estimator: Estimator, size: str, frames: Frames, options: Options) -> Row:
        """Measure it at one size."""
        batch = max(4, available_cores())
        pixels = batch * frames[0].size
        row = partial(Row, size, "ours, CPU", estimator.name, "host", batch)
        expected = pixels * self._pixel_seconds.get(estimator.name, 0.0)
        try:
            limit = options.clock.left_for(options.repeats, expected)
            work = partial(estimator.on_cpu(), to_and_fro(frames, batch + 1))
            seconds = seconds_per_call(work, lambda: None, options.repeats, limit, options.min_seconds)
        except TooSlowError as error:
            return row(note=TOO_SLOW.format(error))
        self._pixel_seconds[estimator.name] = statistics.median(seconds) / pixels
        return row(*_rates(batch, seconds))


def third_party_rows(
    backend: Backend, estimator: Estimator, size: str, frames: Frames, options: Options
) -> Iterator[Row]:
    """Measure other projects' estimators, pair by pair, frames on the device."""
    for other in installed()[0]:
        if other.method != estimator.method or estimator.preset not in other.presets:
            continue
        pairs = 4
        row = partial(Row, size, other.name, estimator.name, "device", 1)
        try:
            run = other.prepare(estimator.parameters(), to_and_fro(frames, pairs + 1))
            wait = waiter(backend)
            seconds = seconds_per_call(run, wait, options.repeats, options.clock.left(), options.min_seconds)
        except TooSlowError as error:
            yield row(note=TOO_SLOW.format(error))
        except Exception as error:  # a comparison that fails is reported, and the others go on
            yield row(
                note=f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        else:
            yield row(*_rates(pairs, seconds))


def _rates(pairs: int, seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return pairs a second from the seconds of each repeat: the median, the lowest and the highest rate."""
    return median_and_range([pairs / value for value in seconds])


def run_small_case(backend: Backend) -> None:
    """Run every kernel once directly and once from a graph, on small frames: for compute-sanitizer. Prints one line."""
    if isinstance(backend, CupyBackend):
        # so that arrays have no neighbours in a pool
        importlib.import_module("cupy").cuda.set_allocator(None)
    stack = scenes(None, 1, 4, 72, 66)[0]  # two levels of Farneback's pyramid
    quick = {"warps": 1, "nscales": 2, "inner_iterations": 14}
    every = [(f"tvl1:opencv:{n}", {**quick, "outer_iterations": 1}) for n in range(1, len(TUNINGS))]
    for name, changed in [
        *every,
        ("tvl1:opencv", {**quick, "outer_iterations": 2}),
        ("tvl1:opencv", {**quick, "outer_iterations": 1, "median_filtering": 3}),
        ("tvl1:opencv-cuda", quick),
        ("farneback:default", {"iterations": 2}),
    ]:
        method_name, preset, *number = name.split(":")
        tuning = int(number[0]) if number else 0
        method = replace(Estimator.named(f"{method_name}:{preset}"), tuning=tuning).on_gpu(backend, **changed)
        method.batch = 2
        first = method.quantized(stack, BOUND)[0]
        if (
            not np.array_equal(first, method.quantized(stack, BOUND)[0])
            or not np.isfinite(method(stack.astype(np.float32))).all()
        ):
            raise SystemExit(f"{name}: a second run gave other flow")
    print("small case: both methods and every tuning ran twice with equal results")


def measure(backend: Backend, given: argparse.Namespace, get_method: Callable[..., Any]) -> int:
    """Measure everything and write the report; returns the exit status."""
    estimators = [Estimator.named(name, get_method) for name in given.presets]
    clock = Clock(given.case_seconds, given.seconds)
    ceilings = measure_ceilings(backend, given.repeats, given.copied, given.rounds, given.timed)
    facts = device_facts(backend)
    count = min(AGREEMENT_STACK - 1, given.agreement)
    width, height = parse_size(given.agreement_size)
    stacks = scenes(given.videos, -(-given.agreement // count), count + 1, width, height)
    fixed = -(-len(stacks) // 5)
    agreed = []
    for result in agreement(backend, estimators, stacks, fixed):
        agreed.append(result)
        print(result.line(), flush=True)
    options = Options(tuple(given.batches), given.repeats, given.timed, clock, ceilings)
    rows: list[Row] = []

    real = []
    if given.videos:
        real_frames = real_stacks(given.videos, width, height)
        for name in estimators:
            if name.method == "tvl1" and name.preset == "opencv":
                for row in measure_real(
                    backend, name, real_frames, given.real_batches, given.repeats, given.timed, clock.left
                ):
                    real.append(row)
                    print(real_line(row), flush=True)

    def record(measured: Iterable[Row]) -> None:
        for row in measured:
            rows.append(row)
            print(row.line(), flush=True)

    cpu = CpuSpeed()
    work: dict[tuple[str, str], Work] = {}
    for size in given.sizes:
        frames = scenes(given.videos, 1, DISTINCT, *parse_size(size))[0]
        for estimator in estimators:
            speed = GpuSpeed(backend, estimator, size, frames, options)
            work[size, estimator.name] = speed.work
            record(speed.rows())
            record([cpu.row(estimator, size, frames, options)])
            record(third_party_rows(backend, estimator, size, frames, options))
        if size == given.sizes[0] and given.tune:
            largest = replace(options, batches=options.batches[-1:])
            for tuning in range(1, len(TUNINGS)):
                tuned = Estimator("tvl1", "opencv", tuning, get_method)
                record(GpuSpeed(backend, tuned, size, frames, largest).rows())
    write_report(given.out, facts, ceilings, given, agreed, rows, work, installed()[1], real)
    print(short_table(agreed, rows, real))
    print(f"report: {given.out / 'cuda.md'}")
    return 0 if all(result.holds() for result in agreed) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the arguments; raises ArgumentError for those that make no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--videos", type=Path, help="folder of videos to take frames from (default: frames are generated)")
    add_flow_arguments(parser)
    add("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    add("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT, several, in the order of their importance")
    add("--batches", nargs="+", type=int, default=BATCHES, help="pairs in a batch, several, rising")
    add("--presets", nargs="+", default=PRESETS, help="METHOD:PRESET, several")
    add(
        "--real-batches",
        nargs="+",
        type=int,
        default=(64, 256, 1024),
        help="pairs in a batch of real video, several (default: 64 256 1024)",
    )
    add("--case-seconds", type=float, default=8, help="most seconds for a case (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=1800,
        help="seconds after which cases are left out (default: %(default)s)",
    )
    add("--tune", action="store_true", help="also measure the other ways to compile TV-L1's iterations")
    add("--small-case", action="store_true", help="only run every kernel on little, for compute-sanitizer")
    for name, kind, default in (
        ("timed", float, MIN_SECONDS),
        ("copied", int, COPIED),
        ("rounds", int, ROUNDS),
    ):
        add(f"--{name}", type=kind, default=default, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    for size in (given.agreement_size, *given.sizes):
        parse_size(size)
    for name in given.presets:
        Estimator.named(name)
    if min(*given.batches, *given.real_batches) < 1 or given.repeats < 2 or given.agreement < 1:
        raise ArgumentError("batches and agreement must be at least 1, repeats at least 2")
    return given


def main(
    arguments: list[str] | None = None,
    open_device: Callable[[str], Backend | None] = open_device,
    get_method: Callable[..., Any] = get_method,
) -> int:
    """Measure and write the report.

    Args:
        arguments: The command line's, if None.
        open_device: Opens the device by its name.
        get_method: Makes the methods to measure.

    Returns:
        The exit status.
    """
    try:
        given = parse(arguments)
        backend = open_device(given.device)
        if backend is None:
            raise ArgumentError(f"device must be cuda or cuda:N, got {given.device!r}")
    except (ArgumentError, DeviceError) as error:
        print(f"benchmark_cuda: {error}", file=sys.stderr)
        return 2
    with backend.active():
        if given.small_case:
            run_small_case(backend)
            return 0
        return measure(backend, given, get_method)


if __name__ == "__main__":
    sys.exit(run_program("benchmark_cuda", main))
