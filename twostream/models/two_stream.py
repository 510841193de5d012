"""The whole model: an RGB and a flow stream side by side, their fusion, and the joint loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostream.models.backbone import Backbone
from twostream.models.fusion import AttentionFusion, CalibratedFusion, CrossAttentionFusion
from twostream.models.mixup import Mixup
from twostream.models.normalize import NormalizeFlow, NormalizeRGB, Offset, flow_magnitude
from twostream.models.settings import ModelConfig
from twostream.models.stream import Stream, StreamFeatures, StreamOutput
from twostream.settings import STREAMS, StreamName


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
    """RGB and flow CNN-LSTM streams in parallel, and the head that merges them.

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
        self.bound = bound
        self.names = tuple(name for name in STREAMS if name in config.streams)
        self.streams = nn.ModuleDict(
            {name: _make_stream(config, name, num_classes, stack, bound) for name in self.names}
        )
        self.fusion = self._make_fusion(num_classes) if len(self.names) > 1 else None
        if config.freeze_streams:
            self.streams.requires_grad_(False)
        self.train()  # frozen streams are in evaluation mode from the start, whether or not a trainer asks

    def _make_fusion(self, num_classes: int) -> AttentionFusion | CalibratedFusion:
        if self.config.fusion == "calibrated":
            return CalibratedFusion(len(self.names))
        dims = [self.stream(name).embedding_dim for name in self.names]
        if self.config.fusion == "cross_attention":
            return CrossAttentionFusion(
                dims, num_classes, self.config.fusion_hidden, self.config.dropout, self.config.heads
            )
        return AttentionFusion(dims, num_classes, self.config.fusion_hidden, self.config.dropout)

    def stream(self, name: str) -> Stream:
        """Return the stream of a name."""
        stream = self.streams[name]
        assert isinstance(stream, Stream)
        return stream

    def train(self, mode: bool = True) -> TwoStream:
        """Set training mode; frozen streams stay in evaluation mode."""
        super().train(mode)
        if self.config.freeze_streams:
            self.streams.eval()
        return self

    def forward(self, clips: Mapping[str, Tensor], mixup: Mixup | None = None) -> TwoStreamOutput:
        """Classify clips: "rgb" (B, T, 3, H, W) uint8 and "flow" (B, T, 2L, h, w) uint8, as far as streams exist.

        Besides, where they are given: "motion" (B, T, h, w) float32, magnitude of the flow at the RGB stream's steps;
        "rgb_valid" and "flow_valid" (B, T) bool, False on steps that pad; "rgb_local" and "rgb_semantic" (B, T, C), or
        the same of flow, features that were computed before, in place of the stream's clip. The streams may have
        different T. On a CUDA device they run on CUDA streams of their own.

        With `mixup` all of it is blended clip by clip; a step of a blend counts where it counts in both clips.
        """
        missing = [name for name in self.names if name not in clips and f"{name}_local" not in clips]
        if missing:
            raise ValueError(
                f"the model needs clips of {', '.join(self.names)}; missing: {', '.join(missing)}"
            )
        of_stream = {name: self.clips_of(name, clips) for name in self.names}
        device = next(iter(of_stream[self.names[0]].values())).device
        if device.type == "cuda" and len(self.names) > 1:
            outputs = self._forward_cuda(of_stream, mixup)
        else:
            outputs = {name: self.run_stream(name, of_stream[name], mixup) for name in self.names}
        if self.fusion is None:
            return TwoStreamOutput(outputs[self.names[0]].logits, outputs, None)
        with torch.autocast(device.type, enabled=False):
            fused = self.fusion(list(outputs.values()))
        return TwoStreamOutput(fused.logits, outputs, fused.weights)

    @staticmethod
    def clips_of(name: str, clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pick what one stream takes."""
        keys = (
            name,
            f"{name}_valid",
            f"{name}_local",
            f"{name}_semantic",
            *(["motion"] if name == "rgb" else []),
        )
        return {key: clips[key] for key in keys if key in clips}

    def run_stream(self, name: str, clips: Mapping[str, Tensor], mixup: Mixup | None = None) -> StreamOutput:
        """Run one stream alone on what `clips_of` picks for it, blended if asked for."""
        stream, valid = self.stream(name), clips.get(f"{name}_valid")
        if f"{name}_local" in clips:
            kept = (clips[f"{name}_{level}"].float() for level in ("local", "semantic"))
            features = StreamFeatures(*(kept if mixup is None else map(mixup.blend, kept)))
        else:
            features = stream.features(clips[name], self.motion(name, clips), mixup)
        if mixup is not None and valid is not None:
            valid = mixup.valid(valid)
        return stream.classify(features, valid)

    def motion(self, name: str, clips: Mapping[str, Tensor]) -> Tensor | None:
        """Return the motion that guides a stream's attention over space: the flow's own, or that given for RGB."""
        if name == "rgb" or self.stream(name).config.spatial == "average":
            return clips.get("motion")
        return flow_magnitude(clips[name], self.bound)

    def _forward_cuda(
        self, of_stream: Mapping[StreamName, Mapping[str, Tensor]], mixup: Mixup | None
    ) -> dict[str, StreamOutput]:
        """Run the first stream on the current CUDA stream and the second beside it; autograd does the same."""
        first, second = self.names
        device = next(iter(of_stream[second].values())).device
        current = torch.cuda.current_stream(device)
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        for tensor in (*of_stream[second].values(), *(() if mixup is None else (mixup.partner,))):
            tensor.record_stream(side)
        with torch.cuda.stream(side):
            output = self.run_stream(second, of_stream[second], mixup)
        outputs: dict[str, StreamOutput] = {
            first: self.run_stream(first, of_stream[first], mixup),
            second: output,
        }
        current.wait_stream(side)
        for result in output:
            if result is not None:
                result.record_stream(current)
        return outputs

    def loss(self, output: TwoStreamOutput, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the joint loss of B clips against labels (B,) int64, or probabilities of the classes (B, K).

        L = CE(fused) + sum_s lambda_s L(s), where L(s) = CE(s) + mu_s sum_v CE(LSTM v of s) / V; with a single stream,
        L(s) alone. A calibrated fusion is not trained, so that CE(fused) trains the product of the streams.

        Returns:
            The loss to minimise, and the cross-entropies before weighting, keyed "fused", "rgb", "flow".
        """

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

        parts = {name: cross_entropy(stream.logits) for name, stream in output.streams.items()}
        losses = dict(parts)
        for name, stream in output.streams.items():
            if stream.level_logits is not None:
                levels = torch.stack([cross_entropy(logits) for logits in stream.level_logits])
                losses[name] = losses[name] + self.stream(name).config.level_loss_weight * levels.mean()
        if self.fusion is None:
            return losses[self.names[0]], parts
        fused = cross_entropy(output.logits)
        weights = {"rgb": self.config.loss_weight_rgb, "flow": self.config.loss_weight_flow}
        total = fused + sum((weights[name] * loss for name, loss in losses.items()), torch.zeros_like(fused))
        return total, {"fused": fused, **parts}


def _make_stream(config: ModelConfig, name: StreamName, num_classes: int, stack: int, bound: float) -> Stream:
    """Build one stream; only its normalisation and its first convolution know which one it is."""
    own = config.stream(name)
    backbone = Backbone(
        own.backbone,
        3 * config.rgb_window if name == "rgb" else 2 * stack,
        own.weights,
        own.freeze_backbone,
        own.freeze_batch_norm,
        own.batch_norm,
        own.checkpoint_gradients,
    )
    if name == "rgb":
        return Stream(
            NormalizeRGB(backbone.mean, backbone.std, config.rgb_window), backbone, num_classes, own
        )
    offset: Offset = (
        "mean" if config.subtract_mean_flow else "median" if config.subtract_median_flow else "none"
    )
    return Stream(NormalizeFlow(bound, config.flow_scale, offset), backbone, num_classes, own)
