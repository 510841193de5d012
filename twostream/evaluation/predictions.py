"""Predictions of a checkpoint on one side of a split."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from flow_cache import Progress
from twostream.checkpoints import Checkpoint, load_checkpoint
from twostream.data.batches import worker_deaths_named
from twostream.data.module import ActionDataModule, data_of
from twostream.data.settings import DataConfig
from twostream.errors import ConfigError
from twostream.evaluation.examples import EXAMPLES, Example, choose_examples
from twostream.evaluation.results import Evaluation, FloatArray, Protocol
from twostream.evaluation.test_set import compare_with_training, load_test_set, require_unseen
from twostream.inference.attention import look
from twostream.inference.clips import choose_device, predict_clips
from twostream.models.two_stream import TwoStream
from twostream.settings import Part


def evaluate(
    checkpoint: Checkpoint | str | Path,
    data: ActionDataModule | DataConfig | None = None,
    part: Part = "test",
    device: str = "auto",
    command: str = "",
    allow_seen: bool = False,
) -> Evaluation:
    """Classify every video of one side of the split that the checkpoint was trained under, or of a new test set.

    For the test side of a model of two streams the validation side, if there is one, is classified too, with as many
    clips a video: on it the baseline "weighted" of `Evaluation.baselines` is fitted.

    Args:
        checkpoint: the trained model, or what `load_checkpoint` takes, such as the folder of a run.
        data: the videos, or the settings that find them, see `load_test_set`; None for those of the checkpoint's
            training.
        part: which side.
        device: "auto", "cpu", "cuda", …
        command: the command line, for the report.
        allow_seen: evaluate also on videos that the checkpoint was trained or validated on, by name, content or source
            group; the protocol then counts and names them.

    Raises:
        CheckpointError: trained on other classes, with other clips or flow, or on some of the videos.
        ConfigError: no such device, or the side has no videos.
        DataError: the videos cannot be found, split or read.
        CacheFileError: a cache file is damaged.

    Example:
        >>> from twostream import evaluate
        >>> evaluation = evaluate("runs/videos", device="cpu")
        >>> evaluation.outputs
        ('fused', 'rgb', 'flow')
        >>> evaluation.probabilities["fused"].shape == (len(evaluation.videos), len(evaluation.classes))
        True
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    if not isinstance(data, ActionDataModule):
        data = find_data(checkpoint, checkpoint.card.data_config() if data is None else data, part)
    checkpoint.require_classes(data.classes)
    checkpoint.require_clips(data.config)
    checkpoint.require_flow(data.data.flow)
    records = getattr(data.split, part)
    if not records:
        raise ConfigError(f"the split has no {part} videos")
    comparison = compare_with_training(checkpoint, data.data, part)
    if not allow_seen:
        require_unseen(checkpoint, comparison, len(records), part)
    model = checkpoint.model().to(choose_device(device))
    data.keep_features(model)
    probabilities, weights = _predict(model, data, part, f"evaluating {part}")
    validation = data.split.validation if part == "test" and len(model.names) > 1 else ()
    validation_probabilities = None
    if validation:
        purpose = f"fitting the weighted fusion on {len(validation)} validation videos"
        validation_probabilities, _ = _predict(model, data, "validation", purpose)
    # On the test side an all-False array says that no source is shared with training.
    shared_sources = data.split.shared_sources | {video.path for video in comparison.seen}
    shared = np.array([record.path in shared_sources for record in records]) if part == "test" else None
    record = checkpoint.card.split
    counts = {name: (data.config.eval_clips_of(name), data.config.views_of(name)[1]) for name in model.names}
    clips: dict[str, int] = {name: clips * views for name, (clips, views) in counts.items()}
    protocol = Protocol(
        dataset=data.data.name,
        split=data.split.name,
        side=part,
        num_train=len(record.side("train") if record else data.split.train),
        num_videos=len(records),
        clips_per_video=max(clips.values()),
        clips_by_stream=clips,
        sampling={name: f"{clips}x{views}" for name, (clips, views) in counts.items()},
        streams=model.names,
        checkpoint=checkpoint.path.name,
        epoch=checkpoint.epoch,
        flow=f"{data.data.method}, bound {data.data.bound:g} px, step {data.data.step}",
        groups=data.data.group_rule,
        seed=checkpoint.card.seed,
        command=command,
        notes=(*data.data.notes, comparison.note) if comparison.note else data.data.notes,
        seen=tuple(map(str, comparison.seen)),
        num_validation=len(data.split.validation),
    )
    return Evaluation(
        protocol=protocol,
        classes=data.classes,
        videos=tuple(record.path for record in records),
        groups=tuple(record.group for record in records),
        labels=np.array([record.label for record in records]),
        probabilities=probabilities,
        stream_weights=weights,
        shared_source=shared,
        validation_labels=np.array([record.label for record in validation]) if validation else None,
        validation_probabilities=validation_probabilities,
    )


def find_data(checkpoint: Checkpoint, config: DataConfig, part: Part = "test") -> ActionDataModule:
    """Find the videos to evaluate a checkpoint on, see `load_test_set`.

    Raises:
        CheckpointError: trained on other classes or with other clips.
        DataError: the videos cannot be found, split or read.
    """
    checkpoint.require_clips(config)
    videos = load_test_set(checkpoint, config, part)
    return data_of(config, checkpoint.card.model, checkpoint.card.seed, videos)


def find_examples(
    checkpoint: Checkpoint,
    data: ActionDataModule,
    evaluation: Evaluation,
    device: str = "auto",
    count: int = EXAMPLES,
) -> list[Example]:
    """Look at a few videos of an evaluation through the eyes of its network.

    Args:
        checkpoint: the trained model.
        data: the videos.
        evaluation: what the model said of them.
        device: "auto", "cpu", "cuda", …
        count: how many videos, at most.

    Raises:
        CacheFileError: a cache file is damaged.
        ConfigError: no such device.
    """
    chosen = choose_examples(evaluation, count)
    records = {record.path: record for record in data.records(cast(Part, evaluation.protocol.side))}
    clips = data.centre_clips([records[evaluation.videos[index]] for index in chosen])
    model = checkpoint.model().to(choose_device(device))
    said = evaluation.probabilities[evaluation.decision].argmax(axis=1)
    return [Example(index, look(model, clips[place], int(said[index]))) for place, index in enumerate(chosen)]


def _predict(
    model: TwoStream, data: ActionDataModule, part: Part, purpose: str
) -> tuple[dict[str, FloatArray], FloatArray | None]:
    """Classify a side of the split in its order; gives probabilities by output, and stream weights if there are any."""
    loader = data.evaluation_dataloader(part)
    outputs = []
    with worker_deaths_named(), Progress(len(loader), "batches", before=f"{purpose}: ") as progress:
        for batch in loader:
            outputs.append(predict_clips(model, batch))
            progress.finished()
    probabilities = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
    return probabilities, probabilities.pop("weights", None)
