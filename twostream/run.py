"""A whole training run: demo videos if asked for, flow cache, training, evaluation, reports, and what it records."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

from flow_cache import CacheMismatchError, read_index
from flow_cache.places import as_place, is_folder
from flow_cache.precompute import FAILURES_NAME, PrecomputeConfig, precompute
from twostream.callbacks import BEST, LAST, format_seconds
from twostream.checkpoints import Card, load_checkpoint
from twostream.config import TrainConfig
from twostream.data.module import ActionDataModule, VideoData, load_data
from twostream.demo import generate_demo
from twostream.errors import ConfigError
from twostream.evaluation import evaluate
from twostream.reports import write_reports
from twostream.results import Evaluation
from twostream.training import fit

CONFIG_NAME = "config.yaml"
RECORD_NAME = "run.json"
SPLIT_NAME = "split.csv"
# Settings that change how a run is carried out, not what comes out: a resumed run may set them anew.
FREE_SETTINGS = (
    "out",
    "overwrite",
    "data.workers",
    "flow.workers",
    "trainer.progress_bar",
    "trainer.tensorboard",
)


def train(config: TrainConfig, command: str) -> int:
    """Do everything that `twostream-train` does; safe to be killed at any time and called again.

    Args:
        config: the settings.
        command: the command line, for the record and the report.

    Returns:
        Exit status: 0 all done, 1 some videos failed (each is named), 130 interrupted.
    """
    started = time.monotonic()
    if config.data.root is None and config.data.cache is None:
        raise ConfigError(
            "no videos are given: set --data.root to a folder of videos, or --data.cache to a flow cache"
        )
    config = _with_defaults(config)
    run = Path(str(config.out))
    main_process = rank_zero_only.rank == 0  # the others only train
    failures = 0
    if main_process:
        _claim(run, config)
        failures = _prepare_videos(config)
    videos = load_data(config.data, config.model.streams)
    record = _read_record(run)
    if main_process:
        _write_split(run, videos)
        record.setdefault("commands", []).append(command)
        record.update(seed=config.seed, versions=_versions(), machine=platform.platform())
        _write_record(run, record)
    if not record.get("trained"):
        data = ActionDataModule(config.data, config.model.streams, config.seed, videos)
        result = fit(_make_card(config, videos), data, run, config.trainer, config.optim)
        if result.interrupted:
            print("interrupted; the same command goes on from the last complete epoch", flush=True)
            return 130
        record["trained"] = {"epochs": result.epochs, "best_epoch": result.best_epoch}
    if not main_process:
        return 0
    _write_record(run, record)
    checkpoint = load_checkpoint(run / "checkpoints" / BEST)
    data = ActionDataModule(config.data, config.model.streams, config.seed, videos)
    evaluation = evaluate(checkpoint, data, "test", _evaluation_device(config), command)
    write_reports(evaluation, run / "evaluation", run / "metrics.csv")
    print_summary(evaluation, run / "evaluation")
    print(f"took {format_seconds(time.monotonic() - started)}; checkpoint {checkpoint.path}")
    if failures:
        print(f"{failures} videos failed; see {as_place(str(config.data.cache)) / FAILURES_NAME}")
    return 1 if failures else 0


def print_summary(evaluation: Evaluation, directory: Path) -> None:
    """Print the figures of an evaluation as a table, and where its report is."""
    with (directory / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = Table(title=evaluation.protocol.line(), title_justify="left", title_style="")
    columns = {
        "top1": "top-1",
        "top5": "top-5",
        "mean_class_accuracy": "mean class acc.",
        "f1_macro": "macro F1",
    }
    present = {key: text for key, text in columns.items() if any(row.get(key) for row in rows)}
    table.add_column("output")
    for text in present.values():
        table.add_column(text, justify="right")
    for row in rows:
        if row.get("subset", "all") == "all":
            table.add_row(
                row["output"], *(f"{100 * float(row[key]):.1f} %" if row[key] else "" for key in present)
            )
    Console().print(table)
    print(f"report: {directory / 'report.md'} (and report.html, per_class.md, summary.csv, per_class.csv)")


def _with_defaults(config: TrainConfig) -> TrainConfig:
    """Fill in the run directory and the cache folder, both named after the data set."""
    data = config.data
    name = data.name or Path(str(data.root or data.cache)).resolve().name
    cache = data.cache or str(Path("cache") / name)
    return dataclasses.replace(
        config, out=config.out or str(Path("runs") / name), data=dataclasses.replace(data, cache=cache)
    )


def _make_card(config: TrainConfig, videos: VideoData) -> Card:
    return Card(
        classes=videos.classes,
        model=config.model,
        data=dataclasses.asdict(config.data),
        flow=dict(videos.flow),
        bound=videos.bound,
        stack=config.data.stack,
        seed=config.seed,
    )


def _prepare_videos(config: TrainConfig) -> int:
    """Generate the demo if asked for, and precompute what the cache lacks; returns how many videos failed."""
    root = config.data.root
    if config.demo:
        print(f"demo videos: {generate_demo(Path(str(root)))}", flush=True)
    if not config.flow.precompute or root is None:
        return 0
    if not is_folder(as_place(root)):
        raise ConfigError(f"data.root {root} is not a folder: give the folder that holds the class folders")
    settings = {
        field.name: getattr(config.flow, field.name)
        for field in dataclasses.fields(config.flow)
        if field.name != "precompute"
    }
    cache = str(config.data.cache)
    present = read_index(cache) if is_folder(as_place(cache)) else []
    rgb = "rgb" in config.model.streams or any(entry.has_rgb for entry in present)
    try:
        summary = precompute(PrecomputeConfig(root, cache, rgb=rgb, **settings))
    except CacheMismatchError as error:
        raise ConfigError(
            f"{str(error).partition(';')[0]}; give the settings that it was made with as --flow.*, choose another"
            " --data.cache, or redo it with flow-cache precompute --overwrite"
        ) from error
    print(
        f"flow cache {summary.output}: {summary.done} videos done, {summary.skipped} already there,"
        f" {len(summary.failures)} failed, {summary.fields} fields in {format_seconds(summary.seconds)}",
        flush=True,
    )
    return len(summary.failures)


def _claim(run: Path, config: TrainConfig) -> None:
    """Make the run directory, or check that what has been trained in it was trained with these settings."""
    if config.overwrite and (run / CONFIG_NAME).exists():
        shutil.rmtree(run)
    plain = dataclasses.asdict(config)
    path = run / CONFIG_NAME
    try:
        run.mkdir(parents=True, exist_ok=True)
        if path.exists() and (run / "checkpoints" / LAST).exists():
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            changed = [
                f"{key} {old!r} -> {new!r}"
                for key, old, new in _differences(before, plain)
                if key not in FREE_SETTINGS
            ]
            if changed:
                more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise ConfigError(
                    f"{run} holds a run with other settings ({'; '.join(changed[:3])}{more}); choose another"
                    " --out, or --overwrite true to start anew"
                )
            return
        _replace_text(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"the run directory {run} cannot be used: {error}") from error


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, old, new


def _write_split(run: Path, videos: VideoData) -> None:
    """Record which video is on which side, and say how many."""
    split, classes = videos.split, videos.classes
    partial = run / f"{SPLIT_NAME}.part"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "class", "group", "side"])
        for side in ("train", "validation", "test"):
            for record in getattr(split, side):
                writer.writerow([record.path, classes[record.label], record.group, side])
    partial.replace(run / SPLIT_NAME)
    print(
        f"{videos.name}: {len(classes)} classes; {len(split.train)} training, {len(split.validation)} validation,"
        f" {len(split.test)} test videos ({split.name}; source groups: {videos.group_rule})",
        flush=True,
    )


def _read_record(run: Path) -> dict[str, Any]:
    path = run / RECORD_NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write_record(run: Path, record: dict[str, Any]) -> None:
    _replace_text(run / RECORD_NAME, json.dumps(record, indent=1))


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _versions() -> dict[str, str]:
    names = ("twostream", "torch", "torchvision", "lightning", "numpy", "opencv-contrib-python")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"  # run from a checkout, or another OpenCV wheel
    return {"python": platform.python_version(), **found}


def _evaluation_device(config: TrainConfig) -> str:
    return {"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[config.trainer.accelerator]
