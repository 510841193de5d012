"""Clips through a trained model, on the device of choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flow_cache import CacheReader, IndexEntry, RemotePath
from twostream.checkpoints import ModelCard
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import ClipDataset, OpenCache
from twostream.errors import ConfigError
from twostream.models.fusion import CalibratedFusion
from twostream.models.stream import StreamOutput
from twostream.models.two_stream import TwoStream
from twostream.settings import StreamName

LEAST = 1e-7
"""Probabilities are taken for at least this before their logarithm."""


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


def clips_of_video(
    card: ModelCard,
    cache: Path | RemotePath,
    entry: IndexEntry,
    clips: Mapping[StreamName, int] | None = None,
    open_cache: OpenCache = CacheReader,
) -> ClipDataset:
    """Cut clips from one video as the evaluation of a model does.

    Args:
        card: of the model.
        cache: root of the cache.
        entry: of the video.
        clips: how many, by stream; None for the centre clip alone.
        open_cache: opens the video's file.
    """
    return ClipDataset(
        [VideoRecord(entry.video, 0, "")],
        cache,
        {entry.video: entry},
        config=card.data_config(),
        streams=card.model.streams,
        motion=card.model.needs_motion,
        window=card.model.rgb_window,
        clips=clips,
        open_cache=open_cache,
    )


def evaluation_clips(
    card: ModelCard, cache: Path | RemotePath, entry: IndexEntry, open_cache: OpenCache = CacheReader
) -> dict[str, torch.Tensor]:
    """Return all clips and views that the evaluation of a model takes of a video, as a batch of one."""
    data = card.data_config()
    counts = {name: data.eval_clips_of(name) for name in card.model.streams}
    clip = clips_of_video(card, cache, entry, counts, open_cache)[0]
    return {name: value[None] for name, value in clip.items() if isinstance(value, torch.Tensor)}


class ClipAnswers(NamedTuple):
    """What a model says of the clips of B videos.

    Attributes:
        values: as `predict_clips` returns them.
        attention: of each stream, the weight of each step, (B K, T) float32.
    """

    values: dict[str, npt.NDArray[np.float32]]
    attention: dict[StreamName, npt.NDArray[np.float32]]


def predict_clips(model: TwoStream, batch: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Classify clips as `classify_clips` does, and return the values alone."""
    return classify_clips(model, batch).values


@torch.inference_mode()
def classify_clips(model: TwoStream, batch: Mapping[str, torch.Tensor]) -> ClipAnswers:
    """Classify the K clips and views of each of B videos and average over them.

    A calibrated fusion merges the streams' averages, so that the streams may see different numbers of clips; one over
    embeddings merges clip by clip, and is averaged.

    Args:
        model: in evaluation mode.
        batch: what `ClipDataset` gives, (B, K, …) each; label and index are not needed.

    Returns:
        The attention, and as values for "fused" (where there are two streams), "rgb" and "flow" the softmax (B, C)
        float32, averaged over clips; and, where there is a fusion, "weights" (B, 2), averaged in the same way.

    Raises:
        ConfigError: the streams see different numbers of clips, and the fusion merges clip by clip.
    """
    device = next(model.parameters()).device
    streams: dict[StreamName, StreamOutput] = {}
    counts: dict[str, int] = {}
    averages: dict[str, torch.Tensor] = {}
    for name in model.names:
        clips = {
            key: values.to(device, non_blocking=True) for key, values in model.clips_of(name, batch).items()
        }
        videos, counts[name] = next(iter(clips.values())).shape[:2]
        streams[name] = model.run_stream(name, {key: values.flatten(0, 1) for key, values in clips.items()})
        averages[name] = _average(streams[name].logits.float().softmax(dim=1), videos)
    values = averages
    if isinstance(model.fusion, CalibratedFusion):
        fused = model.fusion.fuse(torch.stack(list(averages.values()), dim=1).clamp_min(LEAST).log())
        values = {"fused": fused.logits.softmax(dim=1), **averages, "weights": fused.weights}
    elif model.fusion is not None:
        if len(set(counts.values())) > 1:
            raise ConfigError(
                f"the streams see {' and '.join(map(str, counts.values()))} clips of a video, but a fusion by attention"
                " merges them clip by clip; give one data.eval_clips, or model.fusion calibrated"
            )
        merged = model.fusion(list(streams.values()))
        fused_average = _average(merged.logits.softmax(dim=1), videos)
        values = {"fused": fused_average, **averages, "weights": _average(merged.weights, videos)}
    return ClipAnswers(
        {name: value.cpu().numpy() for name, value in values.items()},
        {name: output.attention.float().cpu().numpy() for name, output in streams.items()},
    )


def _average(values: torch.Tensor, videos: int) -> torch.Tensor:
    """Average (B K, C) over the K clips of each of B videos."""
    return values.view(videos, -1, values.shape[-1]).mean(dim=1)
