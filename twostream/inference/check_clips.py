"""Clips to compare an exported model with its original on: of a flow cache, of videos, or generated ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flow_cache import (
    as_path,
    expand_videos,
    read_index,
)
from twostream.checkpoints import Checkpoint
from twostream.data.sampling import longest_run
from twostream.errors import DataError
from twostream.inference.cached_video import temporary_cache
from twostream.inference.clips import evaluation_clips
from twostream.inference.onnx_models import inputs_of

Batch = dict[str, Tensor]


def real_clips(checkpoint: Checkpoint, source: str, count: int) -> Iterator[tuple[str, Batch]]:
    """Yield the evaluation clips of videos, evenly chosen, as a batch of one video each.

    Args:
        checkpoint: the model.
        source: a flow cache whose flow was made as the model's, or what `expand_videos` takes.
        count: videos, at most.

    Raises:
        DataError: there are no videos that are long enough.
        CheckpointError: the cache holds other flow.
        VideoError: a video cannot be read.
    """
    folder = as_path(source)
    entries = read_index(folder) if folder.is_dir() and next(folder.rglob("*.flow.zip"), None) else []
    found = 0
    if entries:
        for entry in _evenly(entries, count):
            if longest_run(entry.runs) >= checkpoint.card.stack:
                found += 1
                yield entry.video, evaluation_clips(checkpoint.card, folder, entry)
    else:
        settings, storage = checkpoint.card.flow_settings()
        estimator = settings.estimator()
        for video in _evenly(expand_videos(source), count):
            with temporary_cache(video, settings.template(storage, estimator), estimator) as cached:
                if longest_run(cached.entry.runs) >= checkpoint.card.stack:
                    found += 1
                    yield str(video), evaluation_clips(checkpoint.card, cached.cache, cached.entry)
    if not found:
        raise DataError(
            f"{source} holds no video that is long enough for a clip; give other videos to check on"
        )


def generated_clips(checkpoint: Checkpoint, count: int) -> Iterator[tuple[str, Batch]]:
    """Yield random clips of the model's sizes, some padded; the same ones each time."""
    config, model = checkpoint.card.data_config(), checkpoint.card.build_model()
    rng = torch.Generator().manual_seed(0)
    for number in range(count):
        batch: Batch = {}
        for name in model.names:
            shape, (width, height) = config.clips_of(name)
            channels = model.stream(name).backbone.in_channels
            clips, steps = 1 + number % 2, shape.steps
            size = (1, clips, steps, channels, height, width)
            batch[name] = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)
            lengths = torch.randint(1, steps + 1, (1, clips, 1), generator=rng)
            batch[f"{name}_valid"] = torch.arange(steps) < lengths
            if "motion" in inputs_of(model, name):
                cells = (-(-height // 16), -(-width // 16))
                batch["motion"] = 3 * torch.rand((1, clips, steps, *cells), generator=rng)
        yield f"generated clip {number + 1}", batch


def _evenly(items: list[Any], count: int) -> list[Any]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[place] for place in places]


def describe_clips(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe, as plain values, how clips are made of a video, so that they can be made without this package."""
    config, model = checkpoint.card.data_config(), checkpoint.card.build_model()
    settings, storage = checkpoint.card.flow_settings()
    flow = {key: value for key, value in asdict(settings).items() if key not in ("device", "preset")}
    flow["size"] = "x".join(map(str, settings.size)) if isinstance(settings.size, tuple) else None
    clips = {}
    for name in model.names:
        shape, size = config.clips_of(name)
        part, views = config.views_of(name)
        clips[name] = {
            "steps": shape.steps,
            "clips": config.eval_clips_of(name),
            "size": list(size),
            "whole": part == "full",
            "views": _views(views),
            "window": checkpoint.card.model.rgb_window if name == "rgb" else 1,
            "motion": "motion" in inputs_of(model, name),
        }
    return {"stack": checkpoint.card.stack, "clips": clips, "flow": flow, "storage": asdict(storage)}


def _views(count: int) -> list[list[float]]:
    """List views: where they lie between the frame's edges (y, x from 0 to 1), side in eighths, whether mirrored."""
    places = [(0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)] if count == 10 else [(0.5, 0.5)]
    eighths = 7 if count == 10 else 8
    return [[y, x, eighths, flip] for flip in ((0, 1) if count > 1 else (0,)) for y, x in places]
