"""Predictions of a checkpoint on one side of a split."""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
import torch
from rich.progress import track

from twostream.checkpoints import Checkpoint
from twostream.data.module import ActionDataModule
from twostream.errors import ConfigError
from twostream.models import TwoStream
from twostream.results import Evaluation, FloatArray, Protocol

Part = Literal["train", "validation", "test"]


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}); try --device cpu") from error
    return device


@torch.inference_mode()
def predict_clips(model: TwoStream, batch: dict[str, torch.Tensor]) -> dict[str, FloatArray]:
    """Classify the K clips of each of B videos and average over the clips.

    Args:
        model: in evaluation mode.
        batch: "rgb" (B, K, T, 3, S, S) and "flow" (B, K, T, 2L, S, S), uint8, as far as the model needs them.

    Returns:
        For "fused" (where there are two streams), "rgb" and "flow" the softmax (B, C) float32, averaged over clips;
        and, where there is a fusion, "weights" (B, 2), averaged alike.
    """
    device = next(model.parameters()).device
    clips = {name: batch[name].to(device, non_blocking=True) for name in model.names}
    videos, count = next(iter(clips.values())).shape[:2]
    output = model({name: clip.flatten(0, 1) for name, clip in clips.items()})
    logits = {name: stream.logits for name, stream in output.streams.items()}
    values = {name: stream.softmax(dim=1) for name, stream in logits.items()}
    if output.weights is not None:
        values = {"fused": output.logits.softmax(dim=1), **values, "weights": output.weights}
    return {name: value.view(videos, count, -1).mean(dim=1).cpu().numpy() for name, value in values.items()}


def evaluate(
    checkpoint: Checkpoint,
    data: ActionDataModule,
    part: Part = "test",
    device: str = "auto",
    command: str = "",
) -> Evaluation:
    """Classify every video of one side of the split.

    Args:
        checkpoint: the trained model.
        data: the videos; its classes must be the checkpoint's.
        part: which side.
        device: "auto", "cpu", "cuda", …
        command: the command line, for the report.

    Raises:
        CheckpointError: trained on other classes.
        ConfigError: no such device, or the side has no videos.
        CacheFileError: a cache file is damaged.
    """
    checkpoint.require_classes(data.classes)
    records = getattr(data.split, part)
    if not records:
        raise ConfigError(f"the split has no {part} videos")
    model = checkpoint.model().to(choose_device(device))
    loader = data.evaluation_dataloader(part)
    batches = track(loader, description=f"evaluating {part}", transient=True, disable=not sys.stderr.isatty())
    outputs = [predict_clips(model, batch) for batch in batches]
    probabilities = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
    weights = probabilities.pop("weights", None)
    # Only the test side is compared with training by source; an all-False array then says that nothing is shared.
    shared = (
        np.array([record.path in data.split.shared_sources for record in records]) if part == "test" else None
    )
    protocol = Protocol(
        dataset=data.data.name,
        split=data.split.name,
        side=part,
        num_train=len(data.split.train),
        num_videos=len(records),
        clips_per_video=data.config.eval_clips,
        streams=model.names,
        checkpoint=checkpoint.path.name,
        epoch=checkpoint.epoch,
        flow=f"{data.data.method}, bound {data.data.bound:g} px, step {data.data.step}",
        groups=data.data.group_rule,
        seed=checkpoint.card.seed,
        command=command,
        notes=data.data.notes,
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
    )
