"""Clips to compare an exported model with its original on: of a flow cache, of videos, or generated ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flow_cache import (
    FlowSettings,
    IndexEntry,
    Job,
    RemotePath,
    Source,
    StorageSettings,
    as_path,
    cache_path,
    cache_video,
    expand_videos,
    read_index,
)
from twostream.checkpoints import Checkpoint
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import ClipDataset
from twostream.data.sampling import longest_run
from twostream.errors import DataError
from twostream.inference.onnx_models import inputs_of

Batch = dict[str, Tensor]


def flow_settings(checkpoint: Checkpoint) -> tuple[FlowSettings, StorageSettings]:
    """Return how the flow of a video is made and stored for a model."""
    flow: dict[str, Any] = dict(checkpoint.card.flow)
    storage = StorageSettings.from_dict(flow.pop("codec"))
    size = tuple(flow.pop("size", None) or ()) or None
    rgb = storage.rgb and "rgb" in checkpoint.card.model.streams
    return FlowSettings(**flow, size=size), replace(storage, rgb=rgb)


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
                yield entry.video, _clips(checkpoint, folder, entry)
    else:
        settings, storage = flow_settings(checkpoint)
        estimator = settings.estimator()
        for video in _evenly(expand_videos(source), count):
            with tempfile.TemporaryDirectory(prefix="twostream-") as temporary:
                cache = Path(temporary)
                meta = replace(settings.template(storage, estimator), source=Source("video"))
                cache_video(Job(video, cache_path(cache, "video"), meta), lambda done: None, estimator)
                entry = read_index(cache)[0]
                if longest_run(entry.runs) >= checkpoint.card.stack:
                    found += 1
                    yield str(video), _clips(checkpoint, cache, entry)
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


def _clips(checkpoint: Checkpoint, cache: Path | RemotePath, entry: IndexEntry) -> Batch:
    config, model = checkpoint.card.data_config(), checkpoint.card.model
    clips = ClipDataset(
        [VideoRecord(entry.video, 0, "")],
        cache,
        {entry.video: entry},
        config=config,
        streams=model.streams,
        motion=model.needs_motion,
        window=model.rgb_window,
        clips={name: config.eval_clips_of(name) for name in model.streams},
    )
    return {name: values[None] for name, values in clips[0].items() if isinstance(values, Tensor)}


def describe_clips(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe, as plain values, how clips are made of a video, so that they can be made without this package."""
    config, model = checkpoint.card.data_config(), checkpoint.card.build_model()
    settings, storage = flow_settings(checkpoint)
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
