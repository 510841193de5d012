"""Attention over space and over time, and the module that relates the two levels' LSTMs.

Every weight is a softmax over valid places: it sums to one, and is zero on steps that only pad a short clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twostream.models.onnx_forms import attend, average_to
from twostream.models.settings import Joint, Spatial, Temporal

_LEAST_MOTION = 0.05  # pixels per step, added to the magnitude: where nothing moves, all places count alike


class SpatialAttention(nn.Module):
    """Pool feature maps over space by attention that motion guides.

    With features f_p and flow magnitude m_p (camera motion removed, pixels per step) at place p:

        e_p = w^T LayerNorm(f_p) + beta log(m_p + 0.05),  a = softmax_p(e),  pooled = sum_p a_p f_p

    w starts at zero and beta at one, which is the average weighted by magnitude. Without a motion map only the scores
    of the features are left, which start as the plain average.

    Args:
        dim: channels of the maps.
        kind: average (no attention), motion (w = 0 and beta = 1, nothing is learned) or attention.
    """

    def __init__(self, dim: int, kind: Spatial) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.norm = nn.LayerNorm(dim)
            self.score = nn.Linear(dim, 1, bias=False)
            nn.init.zeros_(self.score.weight)
            self.motion_weight = nn.Parameter(torch.ones(()))

    def forward(self, maps: Tensor, motion: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Pool maps (N, C, h, w).

        Args:
            maps: the features.
            motion: (N, H, W) float32 magnitude of any size, averaged to the maps' places; None where unknown.

        Returns:
            Pooled features (N, C) float32, and the weights (N, h, w) float32, which sum to one; None for the average.
        """
        if self.kind == "average" or (self.kind == "motion" and motion is None):
            return maps.mean(dim=(2, 3), dtype=torch.float32), None
        values = maps.flatten(2).transpose(1, 2).float()  # (N, h w, C)
        scores = values.new_zeros(values.shape[:2])
        if self.kind == "attention":
            scores = self.score(self.norm(values)).squeeze(-1)
        if motion is not None:
            height, width = maps.shape[2:]
            guide = (average_to(motion, height, width) + _LEAST_MOTION).log().flatten(1)
            scores = scores + (self.motion_weight * guide if self.kind == "attention" else guide)
        weights = scores.softmax(dim=1)
        return torch.einsum("np,npc->nc", weights, values), weights.view(maps.shape[0], *maps.shape[2:])


class TemporalAttention(nn.Module):
    """Weigh the steps of a sequence and sum them (additive attention, Bahdanau et al., 2015).

    e_t = w^T tanh(W h_t + b),  a = softmax(e),  c = sum_t a_t h_t. With several heads each weighs a slice of the states
    of its own.

    Args:
        dim: D, size of a state.
        hidden: size of the score's hidden layer.
        heads: number of heads; D must be a multiple of it.
    """

    def __init__(self, dim: int, hidden: int = 128, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, heads, bias=False))

    def forward(self, states: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Summarise states (B, T, D): context (B, D), weights (B, T), averaged over heads.

        Args:
            states: the sequence.
            valid: (B, T) bool, False on steps that pad; None if all count.
        """
        scores = self.score(states)  # (B, T, heads)
        if valid is not None:
            scores = scores.masked_fill(~valid.unsqueeze(-1), float("-inf"))
        weights = scores.softmax(dim=1)
        sliced = states.view(*states.shape[:2], self.heads, -1)
        context = torch.einsum("bth,bthd->bhd", weights, sliced).flatten(1)
        return context, weights.mean(dim=-1)


class TemporalAverage(nn.Module):
    """Weigh all valid steps alike: the ablation of `TemporalAttention`."""

    def forward(self, states: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Summarise states (B, T, D): context (B, D), weights (B, T)."""
        weights = states.new_ones(states.shape[:2]) if valid is None else valid.to(states.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return torch.einsum("bt,btd->bd", weights, states), weights


def make_temporal(kind: Temporal, dim: int, heads: int) -> nn.Module:
    """Build what pools the steps of a stream."""
    if kind == "average":
        return TemporalAverage()
    return TemporalAttention(dim, heads=heads if kind == "multihead" else 1)


class JointModule(nn.Module):
    """Relate the outputs of the two levels' LSTMs step by step, before attention over time.

    With local and semantic states l_t and s_t of size D, what comes out is, side by side,

        gated            2 g_t l_t and 2 (1 - g_t) s_t, with g_t = sigmoid(W [l_t, s_t]) (Arevalo et al., 2017)
        bilinear         l_t + P b_t and s_t + Q b_t, with b_t = tanh(U l_t) tanh(V s_t) (Kim et al., 2017)
        cross_attention  l_t + A(l_t; s) and s_t + A'(s_t; l), multi-head attention to all steps of the other level

    W, P, Q and the output projections of A and A' start at zero, so that every kind starts as the plain [l_t, s_t].

    Args:
        kind: one of those above; "none" for [l_t, s_t].
        dim: D.
        heads: heads of cross_attention; D must be a multiple of it.
    """

    def __init__(self, kind: Joint, dim: int, heads: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gated":
            self.gate = _zeroed(nn.Linear(2 * dim, dim))
        elif kind == "bilinear":
            self.local_factor, self.semantic_factor = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.to_local, self.to_semantic = (_zeroed(nn.Linear(dim, dim)) for _ in range(2))
        elif kind == "cross_attention":
            self.from_semantic = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.from_local = nn.MultiheadAttention(dim, heads, batch_first=True)
            for attention in (self.from_semantic, self.from_local):
                _zeroed(attention.out_proj)

    def forward(self, local: Tensor, semantic: Tensor, valid: Tensor | None = None) -> Tensor:
        """Relate local and semantic states (B, T, D) each: (B, T, 2 D).

        Args:
            local: outputs of the local level's LSTM.
            semantic: outputs of the semantic level's.
            valid: (B, T) bool, False on steps that pad; None if all count.
        """
        if self.kind == "gated":
            gate = self.gate(torch.cat([local, semantic], dim=-1)).sigmoid()
            local, semantic = 2 * gate * local, 2 * (1 - gate) * semantic
        elif self.kind == "bilinear":
            both = self.local_factor(local).tanh() * self.semantic_factor(semantic).tanh()
            local, semantic = local + self.to_local(both), semantic + self.to_semantic(both)
        elif self.kind == "cross_attention":
            seen_by_local = attend(self.from_semantic, local, semantic, semantic, valid, need_weights=False)[
                0
            ]
            seen_by_semantic = attend(self.from_local, semantic, local, local, valid, need_weights=False)[0]
            local, semantic = local + seen_by_local, semantic + seen_by_semantic
        return torch.cat([local, semantic], dim=-1)


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
