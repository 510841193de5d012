"""A whole training run: demo videos if asked for, flow cache, training, evaluation and reports."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from flow_cache import (
    CacheMeta,
    CacheMismatchError,
    CacheReader,
    FlowSettings,
    IndexEntry,
    PrecomputeConfig,
    RemotePath,
    StorageSettings,
    as_path,
    format_seconds,
    precompute,
    read_index,
)
from twostream.checkpoints import (
    BEST,
    ModelCard,
    load_checkpoint,
    load_streams,
    save_model,
    update_weights,
)
from twostream.config import TrainConfig
from twostream.data.loading import VideoData, all_for_training, load_data
from twostream.data.module import data_of
from twostream.demo.generate import generate_demo
from twostream.errors import ConfigError
from twostream.evaluation.fusion_fit import fit_fusion
from twostream.evaluation.predictions import evaluate, find_examples
from twostream.evaluation.results import Evaluation
from twostream.evaluation.strips import find_strips
from twostream.models.two_stream import TwoStream
from twostream.reports.console import print_summary
from twostream.reports.write import write_reports
from twostream.run_directory import (
    CONFIG_NAME,
    claim,
    find_versions,
    merge_histories,
    read_record,
    read_split,
    write_record,
    write_split,
)
from twostream.settings import Damaged
from twostream.training.fit import FitResult, fit


@dataclass(frozen=True)
class RunResult:
    """How a training run ended.

    Attributes:
        directory: the run directory.
        evaluation: the predictions on the test side; None if the run was interrupted, and in all processes but the
            first where several train together.
        failures: how many videos failed; each is named, with its reason, in the cache's `failures.csv`.
        interrupted: stopped by Ctrl-C or SIGTERM; the same call goes on from the last checkpoint.

    Example:
        >>> from pathlib import Path
        >>> from twostream import RunResult, load_checkpoint
        >>> result = RunResult(Path("runs/videos"), evaluation=None, failures=0, interrupted=True)
        >>> load_checkpoint(result.directory / "checkpoints" / "last.ckpt").epoch
        2
    """

    directory: Path
    evaluation: Evaluation | None
    failures: int
    interrupted: bool = False


def train(config: TrainConfig, command: str | None = None) -> RunResult:
    """Do everything that `twostream-train` does; safe to be killed at any time and called again.

    Args:
        config: the settings.
        command: the command line, for the record and the report; by default the one that repeats the run with the
            settings that its directory keeps.

    Raises:
        TwoStreamError: settings, data or a checkpoint that cannot be used.
        FlowCacheError: the flow cache cannot be filled or read.

    Example:
        >>> from twostream import DataConfig, TrainConfig, TrainerConfig, train
        >>> config = TrainConfig(data=DataConfig(root="videos"), trainer=TrainerConfig(epochs=20))
        >>> result = train(config)  # doctest: +SKIP
        >>> result.evaluation.protocol.num_videos  # doctest: +SKIP
        54
    """
    started = time.monotonic()
    if config.data.root is None and config.data.cache is None:
        raise ConfigError(
            "no videos are given: set --data.root to a folder of videos, or --data.cache to a flow cache"
        )
    config = _with_defaults(config)
    run = Path(str(config.out))
    command = command or shlex.join(["twostream-train", "--config", str(run / CONFIG_NAME)])
    main_process = rank_zero_only.rank == 0  # the others only train
    failures = 0
    if main_process:
        claim(run, config)
        failures = _prepare_videos(config)
    begun_with = read_split(run)
    videos = load_data(config.data, config.model.streams, record=begun_with)
    record = read_record(run)
    if main_process:
        if begun_with is None:
            write_split(run, videos.record)
            record["split"] = videos.record.words()
        print("\n".join([_describe_split(videos), *(f"note: {note}" for note in videos.notes)]), flush=True)
        record.setdefault("commands", []).append(command)
        record.update(seed=config.seed, versions=find_versions(), machine=platform.platform())
        write_record(run, record)
    if not record.get("trained"):
        result = _fit(config, videos, run)
        if result.interrupted:
            return RunResult(run, None, failures, interrupted=True)
        record["trained"] = {"epochs": result.epochs, "best_epoch": result.best_epoch}
    if not main_process:
        return RunResult(run, None, failures)
    write_record(run, record)
    if config.model.fusion == "calibrated" and len(config.model.streams) > 1 and not record.get("fusion"):
        record["fusion"] = _fit_fusion(config, videos, run)
        write_record(run, record)
    if config.refit:
        config = _with_all_for_training(config)
        videos = all_for_training(videos)
        if not record.get("refitted"):
            print(f"training again on all {len(videos.split.train)} videos of the training side", flush=True)
            if _refit(config, videos, run).interrupted:
                return RunResult(run, None, failures, interrupted=True)
            record["refitted"] = {"videos": len(videos.split.train)}
            write_record(run, record)
    checkpoint = load_checkpoint(run / "checkpoints" / BEST)
    data = data_of(config.data, config.model, config.seed, videos)
    evaluation = evaluate(checkpoint, data, "test", _evaluation_device(config), command)
    examples = find_examples(checkpoint, data, evaluation, _evaluation_device(config))
    strips = find_strips(videos, evaluation)
    write_reports(evaluation, run / "evaluation", run / "metrics.csv", examples, strips)
    print_summary(evaluation, run / "evaluation")
    print(f"took {format_seconds(time.monotonic() - started)}; checkpoint {checkpoint.path}")
    if failures:
        print(f"{failures} videos failed; see {as_path(str(config.data.cache)) / 'failures.csv'}")
    return RunResult(run, evaluation, failures)


def _fit(config: TrainConfig, videos: VideoData, run: Path) -> FitResult:
    """Train as the recipe says; what an interrupted run has done is not done again."""
    if config.recipe == "joint":
        data = data_of(config.data, config.model, config.seed, videos)
        return fit(_model_card(config, videos), data, run, config.trainer, config.optim)
    stages = _fit_stages(config, videos, run / "stages")
    if isinstance(stages, FitResult):
        return stages
    if config.model.fusion != "calibrated" and len(config.model.streams) > 1:
        config = _assembled(config, run / "stages")
        data = data_of(config.data, config.model, config.seed, videos)
        return fit(_model_card(config, videos), data, run, config.trainer, config.optim)
    return _assemble(config, videos, run, run / "stages", stages)


def _fit_stages(config: TrainConfig, videos: VideoData, folder: Path) -> int | FitResult:
    """Train each stream alone, below a folder; returns the epochs of the longest stage, or the interrupted one."""
    epochs = 0
    for name in config.model.streams:
        stage, own = config.stage(name), folder / name
        record = read_record(own)
        if not record.get("trained"):
            print(f"stage {name}: {stage.trainer.epochs} epochs", flush=True)
            own.mkdir(parents=True, exist_ok=True)
            data = data_of(stage.data, stage.model, stage.seed, videos)
            result = fit(_model_card(stage, videos), data, own, stage.trainer, stage.optim)
            if result.interrupted:
                return result
            record["trained"] = {"epochs": result.epochs, "best_epoch": result.best_epoch}
            write_record(own, record)
        epochs = max(epochs, record["trained"]["epochs"])
    return epochs


def _assembled(config: TrainConfig, stages: Path) -> TrainConfig:
    """Return the settings of the whole network, whose streams come from their stages."""
    names = config.model.streams
    paths: dict[str, Any] = {
        f"{name}_checkpoint": str(stages / name / "checkpoints" / BEST) for name in names
    }
    model = dataclasses.replace(config.model, **paths, freeze_streams=len(names) > 1)
    return dataclasses.replace(config, recipe="joint", refit=False, model=model)


def _assemble(config: TrainConfig, videos: VideoData, run: Path, stages: Path, epochs: int) -> FitResult:
    """Put the streams of finished stages into one checkpoint, whose fusion is the product."""
    card = _model_card(_assembled(config, stages), videos)
    model = TwoStream(card.model, len(card.classes), card.stack, card.bound)
    card = load_streams(model, card)
    histories: dict[str, Path] = {name: stages / name / "metrics.csv" for name in config.model.streams}
    merge_histories(run / "metrics.csv", histories)
    best = run / "checkpoints" / BEST
    best.parent.mkdir(parents=True, exist_ok=True)
    save_model(best, model, card, epochs)
    return FitResult(best, epochs, epochs, interrupted=False)


def _with_all_for_training(config: TrainConfig) -> TrainConfig:
    """Return the settings of a training that holds no training video out."""
    split = dataclasses.replace(config.data.split, val_fraction=0.0)
    return dataclasses.replace(config, refit=False, data=dataclasses.replace(config.data, split=split))


def _refit(config: TrainConfig, videos: VideoData, run: Path) -> FitResult:
    """Train the stages again on all training videos, under the fusion that was fitted while some were held out."""
    fusion = {
        name: values
        for name, values in load_checkpoint(run / "checkpoints" / BEST).state.items()
        if name.startswith("fusion.")
    }
    stages = _fit_stages(config, videos, run / "refit")
    if isinstance(stages, FitResult):
        return stages
    result = _assemble(config, videos, run, run / "refit", stages)
    update_weights(result.best, fusion)
    return result


def _fit_fusion(config: TrainConfig, videos: VideoData, run: Path) -> dict[str, Any]:
    """Fit the calibrated fusion of the best checkpoint, where there are videos to fit it on."""
    if not videos.split.validation:
        print("the split has no validation videos: the fusion stays the product of the streams")
        return {"videos": 0}
    checkpoint = load_checkpoint(run / "checkpoints" / BEST)
    data = data_of(config.data, config.model, config.seed, videos)
    fitted = fit_fusion(checkpoint, data, _evaluation_device(config))
    print(
        f"fusion fitted on {fitted.videos} validation videos: cross-entropy {fitted.loss_before:.3f} (product) ->"
        f" {fitted.loss_after:.3f}",
        flush=True,
    )
    return dataclasses.asdict(fitted)


def _with_defaults(config: TrainConfig) -> TrainConfig:
    """Spell the recipe out, and fill in the run directory and the cache folder, both named after the data set."""
    config = config.spelled_out()
    data = config.data
    name = data.name or Path(str(data.root or data.cache)).resolve().name
    cache = data.cache or str(Path("cache") / name)
    return dataclasses.replace(
        config, out=config.out or str(Path("runs") / name), data=dataclasses.replace(data, cache=cache)
    )


def _model_card(config: TrainConfig, videos: VideoData) -> ModelCard:
    return ModelCard(
        classes=videos.classes,
        model=config.model,
        data=dataclasses.asdict(config.data),
        flow=dict(videos.flow),
        bound=videos.bound,
        stack=config.data.stack,
        seed=config.seed,
        split=videos.record,
    )


def _describe_split(videos: VideoData) -> str:
    split = videos.split
    return (
        f"{videos.name}: {len(videos.classes)} classes; {len(split.train)} training,"
        f" {len(split.validation)} validation, {len(split.test)} test videos"
        f" ({split.name}; source groups: {videos.group_rule})"
    )


def _prepare_videos(config: TrainConfig) -> int:
    """Generate the demo if asked for, and precompute what the cache lacks; returns how many videos failed."""
    root = config.data.root
    if config.demo:
        print(f"demo videos: {generate_demo(Path(str(root)))}", flush=True)
    if not config.flow.precompute or root is None:
        return 0
    if not as_path(root).is_dir():
        raise ConfigError(f"data.root {root} is not a folder: give the folder that holds the class folders")
    cache = as_path(str(config.data.cache))
    present = read_index(cache) if cache.is_dir() else []
    rgb = config.storage.rgb or "rgb" in config.model.streams or any(entry.has_rgb for entry in present)
    storage = dataclasses.replace(config.storage, rgb=rgb)
    try:
        summary = precompute(
            PrecomputeConfig(
                root,
                str(cache),
                config.flow,
                storage,
                workers=config.flow.workers,
                damaged=_treatment_of_damage(cache, present),
            )
        )
    except CacheMismatchError as error:
        with CacheReader(cache / present[0].cache_file) as reader:
            flags = _flags_of_cache(reader.meta, config.flow, storage)
        raise ConfigError(
            f"{str(error).partition(';')[0]}; give the settings that it was made with ({flags}), choose another"
            " --data.cache, or redo it with flow-cache precompute --overwrite"
        ) from error
    print(
        f"flow cache {summary.output}: {summary.done} videos done, {summary.skipped} already there,"
        f" {len(summary.failures)} failed, {summary.fields} fields in {format_seconds(summary.seconds)}",
        flush=True,
    )
    return len(summary.failures)


def _treatment_of_damage(cache: Path | RemotePath, present: Sequence[IndexEntry]) -> Damaged:
    """Tell from its files how a cache was made of damaged videos, so that what was kept of them stays."""
    parts = set()
    for entry in present:
        part: str = entry.partial
        if part == "unknown":  # the index is of an earlier version
            with CacheReader(cache / entry.cache_file) as reader:
                part = reader.meta.part
        parts.add(part)
    return "skip-frames" if "gaps" in parts else "keep-prefix" if "prefix" in parts else "fail"


def _flags_of_cache(meta: CacheMeta, flow: FlowSettings, storage: StorageSettings) -> str:
    """Say with which flags flow is made and stored as in a cache, as far as these settings differ from that."""
    made, asked = FlowSettings.of(meta), flow.template(storage)
    flags = []
    for field in dataclasses.fields(FlowSettings):
        value = getattr(made, field.name)
        if field.name == "parameters":
            flags += [
                f"--flow.parameters.{name} {entry}"
                for name, entry in value.items()
                if asked.parameters.get(name) != entry
            ]
        elif field.name not in ("preset", "device") and value != getattr(flow, field.name):
            text = "x".join(map(str, value)) if field.name == "size" and value else value
            flags.append(f"--flow.{field.name} {'null' if text is None else text}")
    for field in dataclasses.fields(StorageSettings):
        value = getattr(meta.storage, field.name)
        if value != getattr(storage, field.name):
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            flags.append(f"--storage.{field.name} {text}")
    return " ".join(flags)


def _evaluation_device(config: TrainConfig) -> str:
    return {"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[config.trainer.accelerator]
