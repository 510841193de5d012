"""A trained model as modules that are exported to ONNX: a stream, the fusion, and all of it for whole videos."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from twostream.checkpoints import Checkpoint
from twostream.inference.clips import LEAST
from twostream.models.fusion import CalibratedFusion, CrossAttentionFusion
from twostream.models.stream import StreamOutput
from twostream.models.two_stream import TwoStream
from twostream.settings import STREAMS, StreamName

STREAM_OUTPUTS = ("probabilities", "logits", "embedding", "attention", "states")


def in_float32(checkpoint: Checkpoint) -> Checkpoint:
    """Return the model with frozen CNNs in float32, too, as ONNX runtimes compute them."""
    model = checkpoint.card.model
    own: dict[str, Any] = {
        name: {key: value for key, value in getattr(model, name).items() if key != "frozen_bfloat16"}
        for name in STREAMS
    }
    card = dataclasses.replace(
        checkpoint.card, model=dataclasses.replace(model, frozen_bfloat16=False, **own)
    )
    return dataclasses.replace(checkpoint, card=card)


class StreamModel(nn.Module):
    """One stream: clips (N, T, C, H, W) uint8 and what goes with them to `STREAM_OUTPUTS`.

    Args:
        model: the whole model, in evaluation mode.
        name: of the stream.
    """

    def __init__(self, model: TwoStream, name: StreamName) -> None:
        super().__init__()
        self.model = model
        self.stream = name
        self.inputs = inputs_of(model, name)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Classify clips; the values are in the order of `inputs`."""
        output = self.model.run_stream(self.stream, dict(zip(self.inputs, values, strict=True)))
        assert output.states is not None
        probabilities = output.logits.softmax(dim=1)
        return probabilities, output.logits, output.embedding, output.attention, output.states


class FusionModel(nn.Module):
    """The fusion of two streams: of their probabilities (B, C), or clip by clip of what it needs of each."""

    def __init__(self, model: TwoStream) -> None:
        super().__init__()
        fusion = model.fusion
        assert fusion is not None
        self.fusion = fusion
        parts = ["probabilities"]
        if not isinstance(fusion, CalibratedFusion):
            parts = ["logits", "embedding"]
        if isinstance(fusion, CrossAttentionFusion):
            parts += ["attention", "states", "valid"]
        self.parts = tuple(parts)
        self.inputs = tuple(f"{name}_{part}" for name in model.names for part in parts)

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse; the values are in the order of `inputs`. Gives probabilities and the shares of the streams."""
        count = len(self.parts)
        streams = [
            dict(zip(self.parts, values[i : i + count], strict=True)) for i in range(0, len(values), count)
        ]
        if isinstance(self.fusion, CalibratedFusion):
            averages = torch.stack([stream["probabilities"] for stream in streams], dim=1)
            merged = self.fusion.fuse(averages.clamp_min(LEAST).log())
        else:
            outputs = [
                StreamOutput(
                    stream["logits"],
                    stream["embedding"],
                    stream.get("attention", stream["logits"]),
                    states=stream.get("states"),
                    valid=stream.get("valid"),
                )
                for stream in streams
            ]
            merged = self.fusion(outputs)
        return merged.logits.softmax(dim=1), merged.weights


class VideoModel(nn.Module):
    """The whole model: the K clips of each of B videos, (B, K, T, …), to what `predict_clips` says of the videos."""

    def __init__(self, model: TwoStream) -> None:
        super().__init__()
        self.streams = nn.ModuleDict({name: StreamModel(model, name) for name in model.names})
        self.fusion = FusionModel(model) if model.fusion is not None else None
        self.inputs = tuple(key for name in model.names for key in inputs_of(model, name))
        fused = self.fusion is not None
        answers = [f"{name}_probabilities" for name in (*(["fused"] if fused else []), *model.names)]
        self.outputs = (*answers, *(["weights"] if fused else []))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Classify videos; the values are in the order of `inputs`."""
        given = dict(zip(self.inputs, values, strict=True))
        fused: dict[str, Tensor] = {}
        averages = []
        for name, stream in self.streams.items():
            assert isinstance(stream, StreamModel)
            clips = [given[key] for key in stream.inputs]
            outputs = stream(*(values.flatten(0, 1) for values in clips))
            averages.append(_average(outputs[0], clips[0]))
            fused |= {f"{name}_{part}": value for part, value in zip(STREAM_OUTPUTS, outputs, strict=True)}
            fused[f"{name}_probabilities"] = averages[-1]
            fused[f"{name}_valid"] = given[f"{name}_valid"].flatten(0, 1)
        if self.fusion is None:
            return tuple(averages)
        merged = self.fusion(*(fused[key] for key in self.fusion.inputs))
        if not isinstance(self.fusion.fusion, CalibratedFusion):
            merged = tuple(_average(values, clips[0]) for values in merged)
        return merged[0], *averages, merged[1]


def inputs_of(model: TwoStream, name: StreamName) -> tuple[str, ...]:
    """Name what a stream takes, its clip first."""
    motion = name == "rgb" and model.stream(name).config.spatial != "average"
    return (name, f"{name}_valid", *(["motion"] if motion else []))


def _average(values: Tensor, clips: Tensor) -> Tensor:
    """Average (B K, C) over the K clips of each of B videos."""
    return values.view(clips.shape[0], clips.shape[1], values.shape[-1]).mean(dim=1)
