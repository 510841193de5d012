"""The whole model: an RGB and a flow stream side by side, their fusion, and the joint loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostream.models.backbone import Backbone
from twostream.models.fusion import AttentionFusion
from twostream.models.normalize import NormalizeFlow, NormalizeRGB
from twostream.models.settings import ModelConfig
from twostream.models.stream import Stream, StreamOutput
from twostream.settings import STREAMS


class TwoStreamOutput(NamedTuple):
    """What the model says of B clips.

    Attributes:
        logits: (B, K) float32, the decision: fused where there are two streams, else the only stream's.
        streams: each stream's own output, keyed "rgb", "flow".
        weights: (B, 2) float32 shares of RGB and flow in the fusion; None with one stream.
    """

    logits: Tensor
    streams: dict[str, StreamOutput]
    weights: Tensor | None


class TwoStream(nn.Module):
    """RGB and flow CNN-LSTM streams in parallel, merged by attention.

    Args:
        config: the architecture.
        num_classes: K.
        stack: L, flow fields a step.
        bound: the flow quantisation's bound in pixels.

    Example:
        >>> import torch
        >>> from twostream import ModelConfig, TwoStream
        >>> config = ModelConfig(backbone="mobilenet_v3_small", weights="none", hidden=8)
        >>> model = TwoStream(config, num_classes=3, stack=2, bound=20.0).eval()
        >>> rgb, flow = torch.zeros(1, 2, 3, 32, 32).byte(), torch.full((1, 2, 4, 32, 32), 128).byte()
        >>> output = model({"rgb": rgb, "flow": flow})
        >>> tuple(output.logits.shape), output.weights.tolist()
        ((1, 3), [[0.5, 0.5]])
    """

    def __init__(self, config: ModelConfig, num_classes: int, stack: int, bound: float) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(name for name in STREAMS if name in config.streams)
        normalize = {
            "rgb": NormalizeRGB(),
            "flow": NormalizeFlow(bound, config.flow_scale, config.subtract_mean_flow),
        }
        channels = {"rgb": 3, "flow": 2 * stack}
        self.streams = nn.ModuleDict(
            {
                name: Stream(
                    normalize[name],
                    Backbone(
                        config.backbone,
                        channels[name],
                        config.weights,
                        config.freeze_backbone,
                        config.freeze_batch_norm,
                    ),
                    num_classes,
                    config.hidden,
                    config.dropout,
                    config.bidirectional,
                )
                for name in self.names
            }
        )
        self.fusion = (
            AttentionFusion(
                [self._stream(name).embedding_dim for name in self.names],
                num_classes,
                config.fusion_hidden,
                config.dropout,
            )
            if len(self.names) > 1
            else None
        )
        if config.freeze_streams:
            self.streams.requires_grad_(False)
        self.train()  # frozen streams are in evaluation mode from the start, whether or not a trainer asks
        self.to(memory_format=torch.channels_last)

    def _stream(self, name: str) -> Stream:
        stream = self.streams[name]
        assert isinstance(stream, Stream)
        return stream

    def train(self, mode: bool = True) -> TwoStream:
        """Set training mode; frozen streams stay in evaluation mode."""
        super().train(mode)
        if self.config.freeze_streams:
            self.streams.eval()
        return self

    def forward(self, clips: Mapping[str, Tensor]) -> TwoStreamOutput:
        """Classify clips: "rgb" (B, T, 3, H, W) uint8 and "flow" (B, T, 2L, H, W) uint8, as far as streams exist.

        On a CUDA device the streams run on CUDA streams of their own.
        """
        missing = [name for name in self.names if name not in clips]
        if missing:
            raise ValueError(
                f"the model needs clips of {', '.join(self.names)}; missing: {', '.join(missing)}"
            )
        if clips[self.names[0]].is_cuda and len(self.names) > 1:
            outputs = self._forward_cuda(clips)
        else:
            outputs = {name: self.streams[name](clips[name]) for name in self.names}
        if self.fusion is None:
            return TwoStreamOutput(outputs[self.names[0]].logits, outputs, None)
        with torch.autocast(clips[self.names[0]].device.type, enabled=False):
            fused = self.fusion(list(outputs.values()))
        return TwoStreamOutput(fused.logits, outputs, fused.weights)

    def _forward_cuda(self, clips: Mapping[str, Tensor]) -> dict[str, StreamOutput]:
        """Run the first stream on the current CUDA stream and the second beside it; autograd does the same."""
        first, second = self.names
        current = torch.cuda.current_stream(clips[second].device)
        side = torch.cuda.Stream(clips[second].device)  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        clips[second].record_stream(side)
        with torch.cuda.stream(side):
            output = self.streams[second](clips[second])
        outputs: dict[str, StreamOutput] = {first: self.streams[first](clips[first]), second: output}
        current.wait_stream(side)
        for tensor in output:
            tensor.record_stream(current)
        return outputs

    def loss(self, output: TwoStreamOutput, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the joint loss of B clips against labels (B,) int64.

        L = CE(fused) + sum_s lambda_s CE(s); with a single stream, its cross-entropy alone.

        Returns:
            The loss to minimise, and each part before weighting, keyed "fused", "rgb", "flow".
        """
        smoothing = self.config.label_smoothing
        parts = {
            name: F.cross_entropy(stream.logits, labels, label_smoothing=smoothing)
            for name, stream in output.streams.items()
        }
        if self.fusion is None:
            return parts[self.names[0]], parts
        fused = F.cross_entropy(output.logits, labels, label_smoothing=smoothing)
        weights = {"rgb": self.config.loss_weight_rgb, "flow": self.config.loss_weight_flow}
        total = fused + sum((weights[name] * part for name, part in parts.items()), torch.zeros_like(fused))
        return total, {"fused": fused, **parts}
