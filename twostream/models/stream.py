"""One stream: a CNN, pooling over space, an LSTM over each of its two feature levels, pooling over time, and logits."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from twostream.models.attention import JointModule, SpatialAttention, make_temporal
from twostream.models.backbone import Backbone
from twostream.models.mixup import Mixup
from twostream.models.onnx_forms import exporting
from twostream.models.settings import StreamConfig


class StreamFeatures(NamedTuple):
    """What the CNN sees in B clips of T steps, pooled over space.

    Attributes:
        local: (B, T, C_l) float32, stride 16.
        semantic: (B, T, C_s) float32, stride 32.
        spatial: (B, T, h, w) float32, weights of the semantic level's places, which sum to one at each step; None where
            they are averaged, or not known.
    """

    local: Tensor
    semantic: Tensor
    spatial: Tensor | None = None


class StreamOutput(NamedTuple):
    """What a stream says of B clips.

    Attributes:
        logits: (B, K) float32.
        embedding: (B, D) float32, the attended state that the logits are computed from.
        attention: (B, T) float32, weight of each step; rows sum to 1, and are zero on steps that pad.
        spatial: as in `StreamFeatures`.
        level_logits: (V, B, K) float32, what each of V LSTMs says alone; None without losses of their own.
        states: (B, T, D) float32, what attention over time sums up; None where unknown.
        valid: (B, T) bool, False on steps that pad; None if all count.
    """

    logits: Tensor
    embedding: Tensor
    attention: Tensor
    spatial: Tensor | None = None
    level_logits: Tensor | None = None
    states: Tensor | None = None
    valid: Tensor | None = None


class Stream(nn.Module):
    """A CNN-LSTM over T steps of a clip.

    The local and the semantic features run through an LSTM of their own. A joint module relates the two, and attention
    over time summarises them. Features are layer-normalised first, because the two levels differ in scale by an order
    of magnitude.

    Args:
        normalize: module from bytes to network input, applied on the device.
        backbone: the CNN.
        num_classes: K.
        config: which parts there are, and their sizes. The embedding has D = levels * hidden (twice that if
            bidirectional), or the features' own size without LSTMs.
    """

    def __init__(
        self,
        normalize: nn.Module,
        backbone: Backbone,
        num_classes: int,
        config: StreamConfig = StreamConfig(),  # noqa: B008 - a frozen value
    ) -> None:
        super().__init__()
        self.config = config
        self.normalize = normalize
        self.backbone = backbone
        self.feature_dims = {"local": backbone.local_dim, "semantic": backbone.semantic_dim}
        self.levels = config.level_names
        used = {name: self.feature_dims[name] for name in self.levels}
        for name, dim in used.items():
            setattr(self, f"{name}_norm", nn.LayerNorm(dim))
        state_dims = used
        if config.recurrence == "lstm":
            for name, dim in used.items():
                setattr(self, f"{name}_lstm", _lstm(dim, config))
            state_dims = dict.fromkeys(used, config.hidden * (2 if config.bidirectional else 1))
        self.embedding_dim = sum(state_dims.values())
        self.spatial = nn.ModuleDict(
            {name: SpatialAttention(dim, config.spatial) for name, dim in used.items()}
        )
        self.joint = (
            None if config.joint == "none" else JointModule(config.joint, state_dims["local"], config.heads)
        )
        self.attention = make_temporal(config.temporal, self.embedding_dim, config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.embedding_dim, num_classes)
        self.level_classifiers = nn.ModuleDict(
            {name: nn.Linear(dim, num_classes) for name, dim in state_dims.items()}
            if config.level_loss_weight
            else {}
        )

    def forward(
        self, clip: Tensor, motion: Tensor | None = None, valid: Tensor | None = None
    ) -> StreamOutput:
        """Classify clips.

        Args:
            clip: (B, T, C, H, W) uint8, C = `backbone.in_channels`.
            motion: (B, T, h, w) float32, magnitude of the flow at each step; None where unknown.
            valid: (B, T) bool, True on the first steps, False on those that pad a short clip; None if all count.

        Raises:
            ValueError: the clip has another rank or number of channels.
        """
        return self.classify(self.features(clip, motion), valid)

    def features(
        self, clip: Tensor, motion: Tensor | None = None, mixup: Mixup | None = None
    ) -> StreamFeatures:
        """Compute the features of clips, which depend on nothing but the CNN and the attention over space.

        Args:
            clip: as in `forward`.
            motion: likewise.
            mixup: blend the clips, once they are normalised, and their motion.
        """
        if clip.ndim != 5 or clip.shape[2] != self.backbone.in_channels:
            raise ValueError(
                f"expected clips (B, T, {self.backbone.in_channels}, H, W), got shape {tuple(clip.shape)}"
            )
        batch, steps = clip.shape[:2]
        with self._cnn_precision(clip.device.type):
            images: Tensor = self.normalize(clip.flatten(0, 1))
            if mixup is not None:
                images = mixup.blend(images.view(batch, steps, *images.shape[1:])).flatten(0, 1)
            local, semantic = self.backbone(images)
        maps = {"local": local, "semantic": semantic}
        if mixup is not None and motion is not None:
            motion = mixup.blend(motion.float())
        guide = None if motion is None else motion.flatten(0, 1).float()
        spatial = None
        pooled = {}
        # Attention and recurrence are cheap and sensitive: float32 also under mixed precision.
        with torch.autocast(clip.device.type, enabled=False):
            for name, values in maps.items():
                if name not in self.levels:
                    pooled[name] = values.new_zeros((batch, steps, 0), dtype=torch.float32)
                    continue
                mean, weights = self.spatial[name](values.float(), guide)
                pooled[name] = mean.view(batch, steps, -1)
                if weights is not None:  # the semantic level's, where it is used: it comes last
                    spatial = weights.view(batch, steps, *weights.shape[1:])
        return StreamFeatures(pooled["local"], pooled["semantic"], spatial)

    def _cnn_precision(self, device: str) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the CNN runs."""
        if self.config.freeze_backbone and self.config.frozen_bfloat16:
            return torch.autocast(device, torch.bfloat16)
        return contextlib.nullcontext()

    def classify(self, features: StreamFeatures, valid: Tensor | None = None) -> StreamOutput:
        """Classify clips from their features."""
        with torch.autocast(features.local.device.type, enabled=False):
            lengths = None if valid is None else valid.sum(dim=1).cpu()
            states: dict[str, Tensor] = {}
            for name in self.levels:
                values = getattr(self, f"{name}_norm")(getattr(features, name).float())
                if self.config.recurrence == "lstm":
                    values = _run(getattr(self, f"{name}_lstm"), self.dropout(values), lengths)
                states[name] = values
            joined = (
                torch.cat(list(states.values()), dim=-1)
                if self.joint is None
                else self.joint(states["local"], states["semantic"], valid)
            )
            embedding, attention = self.attention(joined, valid)
            return StreamOutput(
                self.classifier(self.dropout(embedding)),
                embedding,
                attention,
                features.spatial,
                self._level_logits(states, valid),
                joined,
                valid,
            )

    def _level_logits(self, states: dict[str, Tensor], valid: Tensor | None) -> Tensor | None:
        """Classify by each level alone, from the average of its states."""
        if not self.level_classifiers:
            return None
        means = {
            name: values.mean(dim=1)
            if valid is None
            else (values * valid.unsqueeze(-1)).sum(dim=1) / valid.sum(dim=1, keepdim=True)
            for name, values in states.items()
        }
        return torch.stack([self.level_classifiers[name](self.dropout(mean)) for name, mean in means.items()])


def _lstm(dim: int, config: StreamConfig) -> nn.LSTM:
    return nn.LSTM(
        dim,
        config.hidden,
        config.layers,
        batch_first=True,
        bidirectional=config.bidirectional,
        dropout=config.dropout if config.layers > 1 else 0.0,
    )


def _run(lstm: nn.LSTM, values: Tensor, lengths: Tensor | None) -> Tensor:
    """Run an LSTM over (B, T, C); steps beyond a clip's length are not seen and give zeros."""
    steps = values.shape[1]
    if lengths is None or (not exporting() and bool((lengths == steps).all())):
        outputs: Tensor = lstm(values)[0]
        return outputs
    packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=steps)
    return outputs
