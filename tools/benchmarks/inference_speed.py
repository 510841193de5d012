"""Compare live decisions with the plain loop: OpenCV's TV-L1 pair by pair, and the network on a whole clip each time.

    python tools/benchmark_inference.py --out reports/benchmarks

The pictures are generated, 320x240, and move. The network is the default one (two ResNet-18, 8 steps of 5 fields, three
clips) with random weights, which take as long as trained ones. Both sides decide every 8 frames over the same window.
First agreement: the largest difference of a probability between the plain loop's decision and ours with the same flow.
Then, in turns, the processor time of 8 frames and a decision. The plain loop's flow is measured on two pairs and
multiplied, since it takes long. Processor time does not depend on who else uses the machine; frames per second and
latency are what passes on the clock, and are lower on a busy machine. Writes inference.md and inference.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from benchmarks.synthetic_frames import scene
from benchmarks.timing import median_and_range, ratios
from flow_cache import FlowSettings, StorageSettings, available_cores, quantize
from twostream import DataConfig, ModelCard, ModelConfig, Predictor
from twostream.checkpoints import Checkpoint
from twostream.inference.clips import evaluation_clips, predict_clips
from twostream.inference.footage import entry_of
from twostream.inference.windows import Decision

EVERY = 8
PAIRS = 2  # of the plain loop's flow in a round
LIBRARIES = ("numpy", "torch", "opencv-contrib-python", "numba")
FLOWS = {
    "ours, tvl1 opencv": FlowSettings("tvl1", "opencv"),
    "ours, tvl1 fast": FlowSettings("tvl1", "fast"),
    "ours, dis medium": FlowSettings("dis", "medium"),
    "ours, dis fast": FlowSettings("dis", "fast"),
}
PLAIN = "plain loop, OpenCV's TV-L1"
ABOUT = """\
Seconds of the processor for 8 frames and the decision after them, and of each stage; in brackets the lowest and the
highest round. `ratio` is the plain loop's time divided by ours in the same round. `frames/s` and `latency`, from the
arrival of a window's last frame to its decision, are by the clock, with all cores.
"""


@dataclass(frozen=True)
class Row:
    """One contestant: times of 8 frames and a decision."""

    device: str
    contestant: str
    seconds: float
    low: float
    high: float
    ratio: float
    frames: float
    flow: float
    network: float
    frames_per_second: float
    latency: float
    load: float


def make_predictor(flow: FlowSettings, device: str, backbone: str) -> Predictor:
    """Make a predictor with random weights."""
    torch.manual_seed(0)
    parameters = flow.estimator().parameters.as_dict()
    made: dict[str, Any] = {
        "method": flow.method, "parameters": parameters, "bound": 20.0, "step": 1, "short_side": None, "size": None,
        "codec": StorageSettings(rgb=True).as_dict(),
    }  # fmt: skip
    config = ModelConfig(backbone=backbone, weights="none")
    card = ModelCard(
        tuple(f"class {n}" for n in range(101)), config, dataclasses.asdict(DataConfig()), made, 20.0, 5, 0
    )
    checkpoint = Checkpoint(Path("random.ckpt"), card, 1, card.build_model().state_dict())
    return Predictor(checkpoint, device)


class Ours:
    """Frames through a window classifier, and a note of how long each stage takes."""

    def __init__(self, predictor: Predictor, pictures: np.ndarray) -> None:
        self.predictor, self.pictures = predictor, pictures
        self.classifier, self.number = predictor.classifier(), 0
        self.flow_seconds = 0.0
        store = self.classifier.store
        compute = store.flow

        def timed(numbers: Any) -> Any:
            start = time.process_time()
            fields = compute(numbers)
            self.flow_seconds += time.process_time() - start
            return fields

        store.flow = timed  # type: ignore[method-assign]
        while self.add() is None:
            pass

    def add(self) -> Decision | None:
        """Take the next picture; the pictures are shown to and fro."""
        n, last = self.number, len(self.pictures) - 1
        place = last - abs(n % (2 * last) - last)
        frame = self.predictor.framing.frame(self.pictures[place], n)
        self.number += 1
        return self.classifier.add(frame)

    def decide(self) -> tuple[float, float, float, float, float]:
        """Take pictures up to a decision; returns seconds: processor, frames, flow, clock, latency."""
        self.flow_seconds = frames = 0.0
        begin, wall = time.process_time(), time.perf_counter()
        decision = None
        while decision is None:
            start, arrival = time.process_time(), time.perf_counter()
            decision = self.add()
            if decision is None:
                frames += time.process_time() - start
        now = time.perf_counter()
        return (
            time.process_time() - begin,
            frames * EVERY / (EVERY - 1),
            self.flow_seconds,
            now - wall,
            now - arrival,
        )


def plain_decision(predictor: Predictor, fields: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Classify a window as a plain loop does: all steps of all clips through both networks."""

    class Arrays:
        def flow(self, numbers: Any) -> np.ndarray:
            return fields[list(numbers)]

        def rgb(self, numbers: Any) -> np.ndarray:
            return rgb[list(numbers)]

    entry = entry_of(len(rgb), rgb.shape[1], rgb.shape[2], predictor.recipe)
    batch = evaluation_clips(predictor.card, Path(), entry, lambda path: contextlib.nullcontext(Arrays()))
    decision: np.ndarray = predict_clips(predictor.model, batch)["fused"][0]
    return decision


def agreement(predictor: Predictor, pictures: np.ndarray) -> float:
    """Return the largest difference of a probability between a plain loop with the same flow and ours."""
    ours = Ours(predictor, pictures)
    decision = ours.decide() and None
    while decision is None:
        decision = ours.add()
    numbers = range(decision.first, decision.last + 1)
    last = len(pictures) - 1
    window = np.stack([pictures[last - abs(n % (2 * last) - last)] for n in numbers])
    grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in window])
    storage = predictor.storage
    fields = storage.stored_flow(quantize(predictor.estimator(grey), 20.0))
    rgb = np.stack([storage.stored_rgb(picture[..., ::-1]) for picture in window])
    return float(np.abs(plain_decision(predictor, fields, rgb) - decision.decision).max())


def plain_flow(pictures: np.ndarray) -> Callable[[], None]:
    """Return OpenCV's TV-L1 on some pairs."""
    solver = cv2.optflow.DualTVL1OpticalFlow_create()  # type: ignore[attr-defined]
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures[: PAIRS + 1]]

    def work() -> None:
        for before, after in itertools.pairwise(grey):
            solver.calc(before, after, None)

    return work


def measure(device: str, size: tuple[int, int], repeats: int, backbone: str) -> tuple[list[Row], float]:
    """Compare the contestants on one device of the network."""
    width, height = size
    grey = scene(1, 100, height, width)
    pictures = np.repeat(grey[..., None], 3, axis=-1)
    predictors = {name: make_predictor(flow, device, backbone) for name, flow in FLOWS.items()}
    first = next(iter(predictors.values()))
    difference = agreement(first, pictures)
    if difference > 1e-4:
        raise SystemExit(f"the plain loop's decision differs by {difference:.2g}, expected 1e-4 at most")
    contestants = {name: Ours(predictor, pictures) for name, predictor in predictors.items()}
    solve = plain_flow(pictures)
    rng = np.random.default_rng(0)
    fields = rng.integers(100, 150, (first.length - 1, 2, height, width), np.uint8)
    solve()
    plain: list[tuple[float, float]] = []
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        start = time.process_time()
        solve()
        flow = (time.process_time() - start) * EVERY / PAIRS
        start = time.process_time()
        plain_decision(first, fields, pictures[: first.length])
        plain.append((flow, time.process_time() - start))
        for name, ours in contestants.items():
            times[name].append(ours.decide())
    base = [sum(parts) for parts in plain]
    load = os.getloadavg()[0]
    low_high = median_and_range(base)
    flow_share, network_share = (float(np.median([parts[k] for parts in plain])) for k in (0, 1))
    rows = [Row(device, PLAIN, *low_high, 1.0, 0.0, flow_share, network_share, 0.0, 0.0, load)]
    for name, rounds in times.items():
        columns = np.array(rounds).T
        total, frames, flow_seconds, wall, latency = columns
        median, low, high = median_and_range(total.tolist())
        stages = (frames, flow_seconds, total - frames - flow_seconds, wall, latency)
        of_frames, of_flow, of_network, of_clock, late = (float(np.median(values)) for values in stages)
        ratio = ratios(base, total.tolist())[0]
        rows.append(
            Row(
                device, name, median, low, high, ratio, of_frames, of_flow, of_network, EVERY / of_clock, late, load
            )
        )  # fmt: skip
        print(f"{device}, {name}: {rows[-1].seconds:.3f} s for {EVERY} frames", flush=True)
    return rows, difference


def report(out: Path, rows: list[Row], size: tuple[int, int], backbone: str, difference: float) -> None:
    """Write the report and the table."""
    cells = [
        (
            row.device,
            row.contestant,
            format_range(row.seconds, row.low, row.high, 3),
            f"{row.frames:.3f} / {row.flow:.3f} / {row.network:.3f}",
            f"{row.ratio:.1f}",
            f"{row.frames_per_second:.0f}" if row.frames_per_second else "-",
            f"{row.latency:.2f} s" if row.latency else "-",
        )
        for row in rows
    ]
    about = {
        **provenance(*LIBRARIES),
        "pictures": f"generated, {size[0]}x{size[1]}",
        "network": f"two {backbone}, 8 steps of 5 fields, 112x112, 3 clips, random weights",
        "agreement": f"the plain loop's probabilities, with the same flow, differ by {difference:.1g} at most",
        "load": f"{max(row.load for row in rows):.1f} processes wanted the {available_cores()} cores on average",
    }
    head = (
        "network on",
        "contestant",
        "processor s",
        "frames / flow / network",
        "ratio",
        "frames/s",
        "latency",
    )
    write_markdown(
        out / "inference.md",
        "Live decisions",
        bullet_list(about),
        [""],
        section("Eight frames and a decision", ABOUT, head, cells),
    )
    write_csv(out / "inference.csv", [dataclasses.asdict(row) for row in rows])


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--quick", action="store_true", help="small pictures and a small network, for a test")
    arguments = parser.parse_args()
    size, backbone = ((48, 32), "mobilenet_v3_small") if arguments.quick else ((320, 240), "resnet18")
    cv2.setNumThreads(1)
    torch.set_num_threads(available_cores())
    rows: list[Row] = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        found, difference = measure(device, size, arguments.repeats, backbone)
        rows += found
    report(arguments.out, rows, size, backbone, difference)
    print(f"report: {arguments.out / 'inference.md'}")
    return 0
