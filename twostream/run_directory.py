"""The directory of a training run: who may use it, and the records in it of what was run on what."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flow_cache import csv_bytes
from twostream.checkpoints import load_checkpoint
from twostream.config import FREE_SETTINGS, TrainConfig
from twostream.data.annotations import VideoRecord
from twostream.data.record import SplitRecord
from twostream.errors import ConfigError, DataError, TwoStreamError
from twostream.files import write_bytes, write_text
from twostream.settings import from_plain

CONFIG_NAME = "config.yaml"
RECORD_NAME = "run.json"
SPLIT_NAME = "split.csv"
_SPLIT_COLUMNS = ("video", "class", "group", "side", "sha256")


def claim(run: Path, config: TrainConfig) -> None:
    """Make the run directory, or check that what has been trained in it was trained with these settings.

    Settings that are newer than the run have their defaults in it.

    Raises:
        ConfigError: it holds a run with other settings, or it cannot be written.
    """
    if config.overwrite and (run / CONFIG_NAME).exists():
        shutil.rmtree(run)
    path = run / CONFIG_NAME
    plain = dataclasses.asdict(config)
    try:
        run.mkdir(parents=True, exist_ok=True)
        if path.exists() and any(run.rglob("*.ckpt")):  # of the run, or of one of its stages
            _require_same_settings(run, _read_settings(path), plain)
        else:
            write_text(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"the run directory {run} cannot be used: {error}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of an earlier run as this version would write them."""
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{path} holds no settings; --overwrite true starts the run anew")
    try:
        return dataclasses.asdict(from_plain(TrainConfig, plain))
    except TwoStreamError as error:
        raise ConfigError(
            f"{path} holds settings that this version does not know ({error}); choose another --out, or"
            " --overwrite true to start anew"
        ) from error


def _require_same_settings(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changed = [
        f"{key} {before!r} -> {now!r}"
        for key, before, now in _differences(old, new)
        if key not in FREE_SETTINGS
    ]
    if changed:
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{run} holds a run with other settings ({'; '.join(changed[:3])}{more}); choose another"
            " --out, or --overwrite true to start anew"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, old, new


def write_split(run: Path, split: SplitRecord) -> None:
    """Record which video is on which side, under what label, source group and content.

    What else is known of a video has a column, as JSON, unless it is the default for all.
    """
    extra = [
        field.name
        for field in dataclasses.fields(VideoRecord)
        if field.name not in ("path", "label", "group")
        and any(getattr(recorded.video, field.name) != field.default for recorded in split.videos)
    ]
    rows = [
        (
            *(recorded.path, split.classes[recorded.video.label], recorded.group),
            *(recorded.side, recorded.sha256),
            *(json.dumps(getattr(recorded.video, name)) for name in extra),
        )
        for recorded in split.side("train", "validation", "test")
    ]
    write_bytes(run / SPLIT_NAME, csv_bytes([(*_SPLIT_COLUMNS, *extra), *rows]))


def read_split(run: Path) -> SplitRecord | None:
    """Read the split that a run was begun with: all that has been trained in it depends on that one.

    Returns:
        The split; None while nothing has been trained, so that a new one may be made.

    Raises:
        ConfigError: the run's `split.csv` is damaged.
        CheckpointError: a checkpoint is damaged.
    """
    path = run / SPLIT_NAME
    checkpoint = next(iter(sorted(run.rglob("*.ckpt"))), None)
    if checkpoint is None or not path.exists():
        return None
    words = read_record(run).get("split")
    if words is None:  # a run of an earlier version, whose split.csv says it all but the order of the classes
        classes = load_checkpoint(checkpoint).card.classes
        words = {"classes": classes, "name": f"as in {SPLIT_NAME}", "group_rule": f"as in {SPLIT_NAME}"}
    numbers = {name: number for number, name in enumerate(words["classes"])}
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        columns: dict[str, list[Any]] = {
            "path": [row["video"] for row in rows],
            "label": [numbers[row["class"]] for row in rows],
            "group": [row["group"] for row in rows],
            "side": [row["side"] for row in rows],
            "sha256": [row.get("sha256") or "" for row in rows],
        }
        for name in set(reader.fieldnames or ()) - set(_SPLIT_COLUMNS):
            columns[name] = [json.loads(row[name]) for row in rows]
        return SplitRecord.from_plain({"notes": [], "others": [], **words, **columns})
    except (OSError, csv.Error, KeyError, TypeError, ValueError, DataError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error!r}): it says what the checkpoints of this run were trained on; put it back,"
            " or start anew with --overwrite true"
        ) from error


def merge_histories(path: Path, stages: Mapping[str, Path]) -> None:
    """Write one `metrics.csv` from those of stages that trained one stream each: a row per epoch of the longest."""
    rows: dict[str, dict[str, str]] = {}
    columns = ["epoch"]
    for name, history in stages.items():
        with history.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            own = [column for column in table.fieldnames or () if column.endswith(f"_{name}")]
            for row in table:
                rows.setdefault(row["epoch"], {"epoch": row["epoch"]}).update({key: row[key] for key in own})
        columns += own
    cells = [[row.get(column, "") for column in columns] for row in rows.values()]
    write_bytes(path, csv_bytes([columns, *cells]))


def read_record(run: Path) -> dict[str, Any]:
    """Read what the run has recorded of itself so far; empty for a new run."""
    path = run / RECORD_NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Record commands, seed, versions, and how the training ended."""
    write_text(run / RECORD_NAME, json.dumps(record, indent=1))


def find_versions() -> dict[str, str]:
    """Find the versions of Python and of the packages that matter to a result."""
    names = ("twostream", "torch", "torchvision", "lightning", "numpy", "opencv-contrib-python")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"  # run from a checkout, or another OpenCV wheel
    return {"python": platform.python_version(), **found}
