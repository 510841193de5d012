"""Measure what a training run costs at the size of UCF-101, and how that grows with the number of videos.

    python tools/benchmark_scale.py --lists data/splits/ucf101 --scratch /tmp/scale --out reports/benchmarks

Writes generated videos under UCF-101's official names (`make_shaped_dataset.py`) and their flow cache into --scratch,
unless they are there already: 1.3 GB, a few minutes. Then it runs `configs/ucf101.yaml` with a small network, on a
quarter, half and all of the classes, and `configs/ucf50.yaml` on half of them: start-up on the complete cache until the
first batch, one epoch with its validation and checkpoint, the start-up of a resumed run, evaluation, and the reports.
Each is measured in a fresh process that loads its own clips: processor time and peak memory. Writes scale.md and
scale.csv. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.process_monitor import checkout_environment, own_memory
from benchmarks.report import bullet_list, markdown_table, provenance, write_csv, write_markdown
from flow_cache import PrecomputeConfig, available_cores, cache_path, precompute
from make_shaped_dataset import list_sources, write_dataset
from twostream.cli.errors import run_command
from twostream.cli.train import parse
from twostream.config import TrainConfig
from twostream.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "twostream" / "configs"
LIBRARIES = ("torch", "lightning", "timm", "opencv-contrib-python")
START_LIMIT, MEMORY_LIMIT = (
    30,
    2000,
)  # seconds of processor time until the first batch; MB of the main process
# A network and flow that cost little: what is asked is what the number of videos costs.
SETTINGS = """
data: {size: 48, steps: 1, batch_size: 64, eval_clips: 1, workers: 0, augment: {flip: 0.0, view: full}}
flow: {method: farneback, parameters: {levels: 1, iterations: 1, winsize: 9, poly_n: 5, poly_sigma: 1.1}}
model: {backbone: "timm:test_resnet", weights: none, freeze_batch_norm: false, hidden: 128, dropout: 0.1,
  subtract_mean_flow: false}
optim: {name: adamw, lr: 0.002, backbone_lr: 0.002}
trainer: {epochs: 2, accumulate: 1, tensorboard: false, progress_bar: false}
"""


class Size(NamedTuple):
    """A configuration, and how many classes it is run on."""

    config: str
    classes: int


@dataclass(frozen=True)
class Row:
    """One size; seconds of processor time, and memory in MB."""

    config: str
    classes: int
    videos: int
    imports: float
    """Python and its libraries: a part of `start`."""
    cache: float
    """Comparing the complete cache with the videos: a part of `start`."""
    data: float
    """Labels, source groups, split, and the cache's index: a part of `start`."""
    start: float
    """From the start of the process until the first batch is there."""
    start_memory: float
    epoch: float
    """Training, validation, and writing the checkpoints."""
    memory: float
    """Peak of the training process."""
    resumed: float
    """As `start`, from a checkpoint."""
    evaluation: float
    """Of the test side, and of the validation side for the weighted fusion."""
    report: float
    evaluation_memory: float
    checkpoint: float
    """Size of `last.ckpt`."""
    record: float
    """What of that says which videos were seen."""
    reports: float
    """Size of all reports."""
    top1: float
    """Share of the test videos that the network names after an epoch."""


class _Stop(BaseException):  # no library takes it for an error
    pass


def measure_training(config: TrainConfig) -> dict[str, float]:
    """Train one epoch and stop; where its checkpoint is there already, stop at the first batch."""
    from torch import nn
    from torch.nn.modules.module import register_module_forward_pre_hook

    from twostream.models.two_stream import TwoStream
    from twostream.run import train

    measured = {"imports": time.process_time()}
    last = Path(str(config.out)) / "checkpoints" / "last.ckpt"

    def before_batch(module: nn.Module, inputs: Any) -> None:
        if not isinstance(module, TwoStream) or not module.training:
            return
        if "start" not in measured:
            measured.update(start=time.process_time(), start_memory=_peak())
        if last.exists():
            raise _Stop

    hook = register_module_forward_pre_hook(before_batch)
    with contextlib.suppress(_Stop):
        train(config)
    hook.remove()
    return {**measured, "epoch": time.process_time() - measured["start"], "memory": _peak()}


def measure_parts(config: TrainConfig) -> dict[str, float]:
    """Do what a start-up does with the videos, part by part."""
    from twostream.data.loading import load_data

    started = time.process_time()
    precompute(_precomputation(config), progress=False)
    compared = time.process_time()
    load_data(config.data)
    return {"cache": compared - started, "data": time.process_time() - compared}


def measure_evaluation(config: TrainConfig) -> dict[str, float]:
    """Evaluate the best checkpoint of a run, and write the reports."""
    import torch

    from twostream.checkpoints import BEST, CARD_KEY, load_checkpoint
    from twostream.evaluation.predictions import evaluate, find_data, find_examples
    from twostream.reports.write import write_reports

    run = Path(str(config.out))
    path, out = run / "checkpoints" / BEST, run / "evaluation"
    started = time.process_time()
    checkpoint = load_checkpoint(path)
    data = find_data(checkpoint, checkpoint.card.data_config())
    evaluation = evaluate(checkpoint, data, device="cpu")
    evaluated = time.process_time()
    examples = find_examples(checkpoint, data, evaluation, "cpu")
    write_reports(evaluation, out, run / "metrics.csv", examples)
    reported = time.process_time()
    memory = _peak()
    record = run / "record.pt"
    torch.save(torch.load(path, weights_only=True)[CARD_KEY]["split"], record)
    return {
        "videos": len(data.data.record.videos),
        "evaluation": evaluated - started,
        "report": reported - evaluated,
        "evaluation_memory": memory,
        "checkpoint": path.with_name("last.ckpt").stat().st_size / 1e6,
        "record": record.stat().st_size / 1e6,
        "reports": sum(file.stat().st_size for file in out.iterdir()) / 1e6,
        "top1": float((evaluation.probabilities["fused"].argmax(axis=1) == evaluation.labels).mean()),
    }


Measurement = Callable[[str, Sequence[str]], dict[str, float]]
MEASURES = {"parts": measure_parts, "training": measure_training, "evaluation": measure_evaluation}


def measure(size: Size, lists: Path, scratch: Path, apart: Measurement) -> Row:
    """Link the videos of the first classes and their cache files to a place of their own, and run on them."""
    name = f"{size.config}-{size.classes}"
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    for source in list_sources(lists, size.classes):
        for video in source.names:
            for path in (Path("videos", video), Path(str(cache_path("cache", video)))):
                (folder / path.parent).mkdir(parents=True, exist_ok=True)
                os.link(scratch / path, folder / path)
    settings = folder / "small.yaml"
    settings.write_text(SETTINGS)
    arguments = [
        *("--config", str(CONFIGS / f"{size.config}.yaml"), "--config", str(settings)),
        *("--data.root", str(folder / "videos"), "--data.cache", str(folder / "cache")),
        *("--data.max_missing", "1", "--data.name", f"{name}-shaped", "--out", str(folder / "run")),
        *(("--data.lists", str(lists)) if size.config == "ucf101" else ()),
    ]
    precompute(_precomputation(parse(arguments)), progress=False)  # makes the index
    found: dict[str, float] = {}
    for what in MEASURES:
        found |= apart(what, arguments)
        print(f"{name}: {what}: {json.dumps(found)}", flush=True)
        if what == "training":
            found["resumed"] = apart(what, arguments)["start"]
    shutil.rmtree(folder / "videos")
    shutil.rmtree(folder / "cache")
    found["videos"] = int(found["videos"])
    return Row(size.config, size.classes, **found)  # type: ignore[arg-type]


def measure_apart(what: str, arguments: Sequence[str]) -> dict[str, float]:
    """Measure one thing in a fresh process; the last line that it prints is the result."""
    command = [sys.executable, __file__, "--measure", what, *arguments]
    environment = {**checkout_environment(), "OMP_NUM_THREADS": "1"}
    # A session of its own: a system that shares its cores out by sessions counts it as one.
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, start_new_session=True
    )
    if done.returncode:
        raise ConfigError(f"measuring {what} failed: {done.stdout}{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _precomputation(config: TrainConfig) -> PrecomputeConfig:
    storage = replace(config.storage, rgb=True)
    return PrecomputeConfig(
        str(config.data.root), str(config.data.cache), config.flow, storage, workers=available_cores()
    )


def _peak() -> float:
    return own_memory("VmHWM") * 2**20 / 1e6


_LINES = (  # column, what it is, decimals
    ("videos", "videos", 0),
    ("start", "**start-up, s**", 1),
    ("imports", "of that: imports", 1),
    ("cache", "of that: cache compared with the videos", 1),
    ("data", "of that: labels, groups, split, index", 1),
    ("start_memory", "memory at the first batch, MB", 0),
    ("epoch", "an epoch, s", 0),
    ("memory", "**peak memory in training, MB**", 0),
    ("checkpoint", "checkpoint, MB", 1),
    ("record", "of that: the record of videos in it", 2),
    ("resumed", "start-up of a resumed run, s", 1),
    ("evaluation", "evaluation, s", 0),
    ("report", "reports, s", 1),
    ("evaluation_memory", "peak memory in evaluation, MB", 0),
    ("reports", "all reports, MB", 1),
)


def report(out: Path, rows: Sequence[Row]) -> None:
    """Write the tables."""
    write_csv(out / "scale.csv", [asdict(row) for row in rows])
    grown = [row for row in rows if row.config == "ucf101"]
    least, most = grown[0], grown[-1]
    head = ("", *(f"{row.config}.yaml, {row.classes} classes" for row in rows), "last / first of ucf101")
    table = [
        (
            label,
            *(f"{getattr(row, name):,.{decimals}f}" for row in rows),
            f"{getattr(most, name) / max(getattr(least, name), 1e-9):.2f}",
        )
        for name, label, decimals in _LINES
    ]
    faster = [
        label.strip("*").partition(",")[0]
        for name, label, _ in _LINES
        if getattr(most, name) / max(getattr(least, name), 1e-9) > 1.25 * most.videos / least.videos
    ]
    verdict = (
        f"{', '.join(faster)} grow faster than the videos"
        if faster
        else "Nothing grows faster than the videos"
    )
    write_markdown(
        out / "scale.md",
        "A training run at UCF-101's size",
        [
            "Generated videos of 64x48 under UCF-101's official names, with the recipes of `configs/` and a small",
            "network (`timm:test_resnet`, 1 step of 48x48, a stack of 10). Seconds are processor time of a process",
            "that loads its own clips; memory is its peak. Start-up is everything before the first batch, on a",
            "complete cache.",
            "",
            *bullet_list(provenance(*LIBRARIES)),
            "",
            *markdown_table(head, table),
            f"On {most.videos:,} videos, start-up takes {most.start:.1f} s (asked for: below {START_LIMIT}) and",
            f"training {most.memory:,.0f} MB (below {MEMORY_LIMIT:,}). {verdict} by a quarter or more.",
            f"After one epoch the network names {most.top1:.0%} of the {most.classes} classes' test videos, which says",
            "that the pipeline is whole, and nothing about real videos.",
            "",
        ],
    )


def run(argv: Sequence[str], apart: Measurement = measure_apart) -> int:
    """Parse the arguments, measure, write the report.

    Args:
        argv: the arguments.
        apart: does one of `MEASURES` with the settings of a run.
    """
    if argv and argv[0] == "--measure":
        print(json.dumps(MEASURES[argv[1]](parse(argv[2:]))))
        return 0
    parser = argparse.ArgumentParser(prog="benchmark_scale.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--lists", type=Path, default=Path("data/splits/ucf101"), help="official lists (default: %(default)s)"
    )
    parser.add_argument(
        "--classes", type=int, help="the largest number of classes, 4 at least (default: all)"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, help="where videos and caches are kept (default: nowhere)")
    parser.add_argument(
        "--at-once", type=int, default=1, help="sizes that are measured side by side (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    if given.classes is not None and given.classes < 4:
        raise ConfigError(
            f"--classes must be 4 or more: a quarter of them is measured, too; got {given.classes}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        scratch = given.scratch or Path(temporary)
        sources = list_sources(given.lists, given.classes)
        write_dataset(scratch / "videos", sources)
        settings = scratch / "small.yaml"
        settings.write_text(SETTINGS)
        flow = parse(["--config", str(CONFIGS / "ucf101.yaml"), "--config", str(settings)])
        data = replace(flow.data, root=str(scratch / "videos"), cache=str(scratch / "cache"))
        precompute(_precomputation(replace(flow, data=data)))
        classes = len({source.number for source in sources})
        sizes = [Size("ucf101", n) for n in (classes // 4, classes // 2, classes)]
        sizes.append(Size("ucf50", classes // 2))
        with ThreadPoolExecutor(given.at_once) as threads:
            rows = list(threads.map(lambda size: measure(size, given.lists, scratch, apart), sizes))
    report(given.out, rows)
    print(f"report: {given.out / 'scale.md'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command("benchmark_scale", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
