"""Compare our training step, and our loop with its loader, with a plain loop of the same network.

    python tools/benchmark_training.py VIDEOS --out reports/benchmarks

The plain loop is what scripts of this field do: JPEG folders read as TSN reads them, clips normalised to float32 by the
loader, the streams one after the other, frozen batch norm as layers in evaluation mode, convolutions in float32 with
channels first. Both have the same weights, the same clips, AdamW and clipped gradients. First agreement: the losses of
the same clips, before the first step. Then time, all in turns in every round: the steps alone, also with each of our
choices undone; and whole loops, one loader process each, with the share of the time that they wait for it.

On the CPU one thread computes, and a step's time is processor time, so that other work disturbs less; figures are
ratios. On a GPU they are absolute as well, with the share of the matrix rate that is measured first in the same
precision. Operations are counted by torch. Writes training.md and training.csv.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clip_sources import TSN, make_sources, prepare
from benchmarks.process_monitor import own_memory
from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from benchmarks.timing import ratios
from benchmarks.training_steps import (
    OURS,
    PLAIN,
    NormalizedClips,
    Setting,
    Step,
    Trainer,
    model_config,
    settings,
)
from benchmarks.videos import pick_videos
from flow_cache import read_index
from flow_cache.runtime import opencv
from twostream.data.annotations import VideoRecord
from twostream.data.batches import ClipLoader, ClipSampler, Waiting
from twostream.data.dataset import Clip, ClipDataset
from twostream.data.settings import DataConfig

LIBRARIES = ("numpy", "torch", "torchvision", "opencv-contrib-python")
SHORT_SIDE = 120
TOLERANCE = {False: 2e-3, True: 5e-2}  # of losses, relative; in float32 and in bfloat16
ABOUT_STEPS = """\
Clips per second of the step alone, as multiples of the plain loop's in the same round: median, and in brackets the
lowest and the highest. Each line undoes one of our choices.
"""
ABOUT_RATE = """\
Matrix rate: share of the rate of a large matrix product in the same precision.
"""
ABOUT_LOOPS = """\
Whole epochs with one loader process. Memory: by how much this process grew, at its peak; on a GPU, what was allocated.
"""


@dataclass(frozen=True)
class Row:
    """One kind of step or loop; speeds are in multiples of the plain loop's."""

    setting: str
    part: str
    """step or loop"""
    contestant: str
    speed: float
    low: float
    high: float
    clips_per_second: float
    matrix_share: float
    wait_share: float
    megabytes: float


def matrix_rate(device: torch.device, bfloat16: bool) -> float:
    """Measure operations per second of a product of large matrices."""
    side = 8192 if device.type == "cuda" else 768
    kind = torch.bfloat16 if bfloat16 else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    seconds = [time_of(lambda: a @ b, device) for _ in range(5)]
    return 2 * side**3 / statistics.median(seconds[1:])


def operations(trainer: Trainer, batch: Mapping[str, Tensor], frozen: bool) -> int:
    """Count the operations of a step; torch counts those of a depthwise convolution's gradient far too high."""
    with FlopCounterMode(display=False) as counter:
        if frozen:
            trainer.train(batch)
        else:
            trainer.loss(batch)
    # The gradients of inputs and of weights take as many as the way forward, each.
    total: int = counter.get_total_flops()
    return total * (1 if frozen else 3)


def time_of(work: Callable[[], object], device: torch.device) -> float:
    """Time a call: processor time on the CPU, else the time until the device has done it."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = clock()
    work()
    wait()
    return clock() - started


def check_agreement(
    trainers: Mapping[str, Trainer],
    batches: Mapping[str, Sequence[Mapping[str, Tensor]]],
    steps: Mapping[str, Step],
) -> None:
    """Compare the losses of two batches, before the first step, with those of the plain loop."""
    reference = [trainers[PLAIN].loss(batch).item() for batch in batches[PLAIN]]
    for name, trainer in trainers.items():
        losses = [trainer.loss(batch).item() for batch in batches[name]]
        worst = max(abs(a - b) / b for a, b in zip(losses, reference, strict=True))
        if not worst <= TOLERANCE[steps[name].bfloat16]:
            raise SystemExit(f"{name}: losses {losses} differ from {reference} of the {PLAIN}")


def measure_steps(
    setting: Setting, trainers: Mapping[str, Trainer], batches: Mapping[str, Sequence[Mapping[str, Tensor]]],
    device: torch.device, repeats: int,
) -> list[Row]:  # fmt: skip
    """Let the kinds of steps take turns on batches that are in memory."""
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(repeats):
        for name, trainer in trainers.items():
            batch = batches[name][0]
            times[name].append(time_of(lambda trainer=trainer, batch=batch: trainer.train(batch), device))  # type: ignore[misc]
    clips = len(batches[OURS][0]["label"])
    rows = []
    for name, trainer in trainers.items():
        median = statistics.median(times[name])
        share = 0.0
        if device.type == "cuda":
            rate = matrix_rate(device, setting.steps[name].bfloat16)
            share = operations(trainer, batches[name][0], setting.frozen) / median / rate
        rows.append(
            Row(
                setting.name,
                "step",
                name,
                *ratios(times[PLAIN], times[name]),
                clips / median,
                share,
                0.0,
                0.0,
            )
        )
    return rows


def measure_loops(
    setting: Setting, trainers: Mapping[str, Trainer], data: Mapping[str, Dataset[Clip]], batch_size: int,
    device: torch.device, repeats: int,
) -> list[Row]:  # fmt: skip
    """Let our loop and the plain one take turns over whole epochs."""
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, PLAIN)}
    waits: dict[str, list[float]] = {name: [] for name in (OURS, PLAIN)}
    memory = dict.fromkeys((OURS, PLAIN), 0.0)
    clips = len(data[OURS])  # type: ignore[arg-type]
    for epoch in range(repeats):
        for name, taken in seconds.items():
            waiting = Waiting()
            sampler = ClipSampler(clips, shuffle=True)
            sampler.set_epoch(epoch)
            loader = ClipLoader(
                data[name], sampler, batch_size=batch_size, workers=1, keep=False, waiting=waiting
            )
            before = start_memory(device)
            started = time.perf_counter()
            for batch in loader:
                trainers[name].train(batch)
            taken.append(time.perf_counter() - started)
            waits[name].append(waiting.seconds / taken[-1])
            memory[name] = max(memory[name], peak_memory(device) - before)
    return [
        Row(
            setting.name, "loop", name, *ratios(seconds[PLAIN], seconds[name]),
            clips / statistics.median(seconds[name]), 0.0, statistics.median(waits[name]), memory[name],
        )
        for name in seconds
    ]  # fmt: skip


def start_memory(device: torch.device) -> float:
    """Forget the peak of memory so far; returns what is in use that is not to be counted, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be taken again without growth
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return own_memory("VmRSS")


def peak_memory(device: torch.device) -> float:
    """Return the peak of memory since `start_memory`, MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else own_memory("VmHWM")


def measure(
    setting: Setting, folder: Path, config: DataConfig, backbone: str, device: torch.device, repeats: int
) -> list[Row]:
    """Measure one setting."""
    trainers = {
        name: Trainer(model_config(backbone), config.stack, setting.frozen, step, device)
        for name, step in setting.steps.items()
    }
    entries = sorted(read_index(folder / "cache"), key=lambda entry: int(Path(entry.video).stem))
    records = [VideoRecord(entry.video, 0, "") for entry in entries]
    by_path = {entry.video: entry for entry in entries}
    clips = ClipDataset(records, folder / "cache", by_path, config=config, training=True)
    normalizing = Trainer(model_config(backbone), config.stack, True, Step(), torch.device("cpu")).model
    ours = _first_batches(clips, config.batch_size)
    plain = _first_batches(NormalizedClips(clips, normalizing), config.batch_size)
    batches = {name: plain if step.apart else ours for name, step in setting.steps.items()}
    check_agreement(trainers, batches, setting.steps)
    rows = measure_steps(setting, trainers, batches, device, repeats)
    folders = NormalizedClips(make_sources(folder, entries, config)[TSN], normalizing)
    data: dict[str, Dataset[Clip]] = {OURS: clips, PLAIN: folders}
    rows += measure_loops(setting, trainers, data, config.batch_size, device, repeats)
    for row in rows:
        print(f"{row.setting}, {row.part}: {row.contestant} {row.speed:.2f}", flush=True)
    return rows


def _first_batches(dataset: Dataset[Clip], batch_size: int) -> list[Mapping[str, Tensor]]:
    sampler = ClipSampler(len(dataset), shuffle=True)  # type: ignore[arg-type]
    loader = iter(ClipLoader(dataset, sampler, batch_size=batch_size, workers=0, keep=False))
    return [next(loader) for _ in range(2)]


def report(out: Path, about: str, load: str, rows: Sequence[Row], device: torch.device) -> None:
    """Write the tables; absolute figures of a GPU alone."""
    write_csv(out / "training.csv", [asdict(row) for row in rows])
    on_gpu = device.type == "cuda"
    absolute = ("clips/s",) if on_gpu else ()

    def cells(row: Row) -> tuple[str, ...]:
        speed = format_range(row.speed, row.low, row.high, 2)
        return row.setting, row.contestant, speed, *([f"{row.clips_per_second:.1f}"] if on_gpu else [])

    steps = [
        (*cells(row), *([f"{row.matrix_share:.0%}"] if on_gpu else [])) for row in rows if row.part == "step"
    ]
    loops = [
        (*cells(row), f"{row.wait_share:.0%}", f"{row.megabytes:.0f}") for row in rows if row.part == "loop"
    ]
    head = ("trained", "step", "clips/s / plain loop's", *absolute)
    name = {"device": torch.cuda.get_device_name()} if on_gpu else {}
    write_markdown(
        out / "training.md",
        "Training",
        [about, "", *bullet_list({**provenance(*LIBRARIES), **name, "other work": load}), ""],
        section(
            "The step",
            ABOUT_STEPS + (ABOUT_RATE if on_gpu else ""),
            (*head, *(["matrix rate"] if on_gpu else [])),
            steps,
        ),
        section("The loop", ABOUT_LOOPS, (*head, "waiting", "MiB"), loops),
    )


def main() -> int:
    """Parse the arguments, measure, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--clips", type=int, default=24, help="videos, a clip of each (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips in a batch (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a clip (default: %(default)s)")
    parser.add_argument("--size", type=int, default=112, help="side of the images (default: %(default)s)")
    parser.add_argument(
        "--backbone", default="mobilenet_v2", help="CNN of both streams (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few small clips: to try the tool itself")
    parser.add_argument("--scratch", type=Path, default=None, help="where cache and images are written")
    arguments = parser.parse_args()
    if arguments.quick:
        count, repeats, backbone = 4, 2, "mobilenet_v3_small"
        config = DataConfig(steps=2, stack=5, size=48, batch_size=2)
    else:
        count, repeats, backbone = arguments.clips, arguments.repeats, arguments.backbone
        config = DataConfig(
            steps=arguments.steps, stack=5, size=arguments.size, batch_size=arguments.batch_size
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load = f"{os.getloadavg()[1]:.1f} processes wanted to run on average in the five minutes before"
    opencv().setNumThreads(1)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        videos = pick_videos(arguments.videos, count)
        prepare(videos, Path(scratch), SHORT_SIDE)
        for setting in settings(device.type == "cuda"):
            rows += measure(setting, Path(scratch), config, backbone, device, repeats)
    about = (
        f"Two streams with `{backbone}`, two LSTMs and attention each, and their fusion; {config.steps} steps of one"
        f" frame and {config.stack} fields,\n{config.size} x {config.size} pixels, {config.batch_size} clips in a"
        f" batch, {len(videos)} videos of {arguments.videos}; {repeats} rounds."
    )
    report(arguments.out, about, load, rows, device)
    print(f"report: {arguments.out / 'training.md'}")
    return 0
