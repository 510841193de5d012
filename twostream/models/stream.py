"""One stream: a CNN, an LSTM over each of its two feature levels, temporal attention, and logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from twostream.models.backbone import Backbone


class StreamOutput(NamedTuple):
    """What a stream says of B clips.

    Attributes:
        logits: (B, K) float32.
        embedding: (B, D) float32, the attended state that the logits are computed from.
        attention: (B, T) float32, weight of each step; rows sum to 1.
    """

    logits: Tensor
    embedding: Tensor
    attention: Tensor


class TemporalAttention(nn.Module):
    """Weigh the steps of a sequence and sum them (additive attention, Bahdanau et al., 2015).

    e_t = w^T tanh(W h_t + b),  a = softmax(e),  c = sum_t a_t h_t
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Summarise states (B, T, D): context (B, D), weights (B, T)."""
        weights = self.score(states).squeeze(-1).softmax(dim=1)
        return torch.einsum("bt,btd->bd", weights, states), weights


class Stream(nn.Module):
    """A CNN-LSTM over T steps of a clip.

    The local and the semantic features run through an LSTM of their own; temporal attention goes over the joined
    outputs. Features are layer-normalised first, because the two levels differ in scale by an order of magnitude.

    Args:
        normalize: module from bytes to network input, applied on the device.
        backbone: the CNN.
        num_classes: K.
        hidden: units of each LSTM and direction; the embedding has D = 2 * hidden (4 * hidden if bidirectional).
        dropout: probability on the LSTMs' inputs and on the embedding.
        bidirectional: run both LSTMs in both directions.
    """

    def __init__(
        self,
        normalize: nn.Module,
        backbone: Backbone,
        num_classes: int,
        hidden: int = 256,
        dropout: float = 0.5,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.local_norm = nn.LayerNorm(backbone.local_dim)
        self.semantic_norm = nn.LayerNorm(backbone.semantic_dim)
        self.local_lstm = nn.LSTM(backbone.local_dim, hidden, batch_first=True, bidirectional=bidirectional)
        self.semantic_lstm = nn.LSTM(
            backbone.semantic_dim, hidden, batch_first=True, bidirectional=bidirectional
        )
        self.embedding_dim = hidden * (4 if bidirectional else 2)
        self.attention = TemporalAttention(self.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.embedding_dim, num_classes)

    def forward(self, clip: Tensor) -> StreamOutput:
        """Classify clips (B, T, C, H, W) uint8, C = `backbone.in_channels`.

        Raises:
            ValueError: the clip has another rank or number of channels.
        """
        if clip.ndim != 5 or clip.shape[2] != self.backbone.in_channels:
            raise ValueError(
                f"expected clips (B, T, {self.backbone.in_channels}, H, W), got shape {tuple(clip.shape)}"
            )
        batch, steps = clip.shape[:2]
        local, semantic = self.backbone(self.normalize(clip.flatten(0, 1)))
        # Recurrence and attention are cheap and sensitive: float32 also under mixed precision.
        with torch.autocast(clip.device.type, enabled=False):
            local = self.dropout(self.local_norm(local.float())).view(batch, steps, -1)
            semantic = self.dropout(self.semantic_norm(semantic.float())).view(batch, steps, -1)
            states = torch.cat([self.local_lstm(local)[0], self.semantic_lstm(semantic)[0]], dim=-1)
            embedding, attention = self.attention(states)
            return StreamOutput(self.classifier(self.dropout(embedding)), embedding, attention)
