"""The head that merges the streams: attention decides, clip by clip, how much each one counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twostream.models.stream import StreamOutput


class FusionOutput(NamedTuple):
    """What the fusion says of B clips from S streams.

    Attributes:
        logits: (B, K) float32.
        weights: (B, S) float32, share of each stream; rows sum to 1.
    """

    logits: Tensor
    weights: Tensor


class AttentionFusion(nn.Module):
    """Merge streams by attention over their embeddings.

    With embeddings e_s and logits z_s of stream s:

        h_s = tanh(LayerNorm(V_s e_s)),  w = softmax_s(q^T h_s),
        logits = sum_s w_s z_s + C [w_1 h_1, …, w_S h_S]

    q and C start at zero, so that training starts from the plain average of the streams (late fusion) and learns
    what is better: to trust one stream more (w), and combinations that no stream knows alone (C).

    Args:
        embedding_dims: D_s of each stream.
        num_classes: K.
        hidden: size of h_s.
        dropout: probability on the h_s that C sees.
    """

    def __init__(
        self, embedding_dims: Sequence[int], num_classes: int, hidden: int = 128, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.Tanh()) for dim in embedding_dims
        )
        self.score = nn.Linear(hidden, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.combine = nn.Linear(hidden * len(embedding_dims), num_classes)
        for zeroed in (self.score, self.combine):
            nn.init.zeros_(zeroed.weight)
        nn.init.zeros_(self.combine.bias)

    def forward(self, streams: Sequence[StreamOutput]) -> FusionOutput:
        """Fuse the outputs of S streams for the same B clips."""
        hidden = torch.stack(
            [project(stream.embedding) for project, stream in zip(self.project, streams, strict=True)], dim=1
        )
        weights = self.score(hidden).squeeze(-1).softmax(dim=1)
        late = torch.einsum("bs,bsk->bk", weights, torch.stack([stream.logits for stream in streams], dim=1))
        joint = self.combine((weights.unsqueeze(-1) * self.dropout(hidden)).flatten(1))
        return FusionOutput(late + joint, weights)
