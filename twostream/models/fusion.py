"""Heads that merge the streams: they decide, clip by clip, how much each one counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twostream.models.onnx_forms import attend
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
    """Merge streams by attention over their embeddings, trained with them.

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

    def describe(self, streams: Sequence[StreamOutput]) -> Tensor:
        """Describe B clips by their h_s, (B, S, H)."""
        return torch.stack(
            [project(stream.embedding) for project, stream in zip(self.project, streams, strict=True)], dim=1
        )

    def forward(self, streams: Sequence[StreamOutput]) -> FusionOutput:
        """Fuse the outputs of S streams for the same B clips."""
        hidden = self.describe(streams)
        weights = self.score(hidden).squeeze(-1).softmax(dim=1)
        late = torch.einsum("bs,bsk->bk", weights, torch.stack([stream.logits for stream in streams], dim=1))
        joint = self.combine((weights.unsqueeze(-1) * self.dropout(hidden)).flatten(1))
        return FusionOutput(late + joint, weights)


class CrossAttentionFusion(AttentionFusion):
    """Merge two streams by attention between them in time: each step of one looks at all steps of the other.

    With states x_s,t of stream s, which its attention over time weighs with a_s,t:

        y_s,t = tanh(LayerNorm(V_s x_s,t)),  h_s = sum_t a_s,t (y_s,t + A_s(y_s,t; y_other)),

    and from h_s on as in `AttentionFusion`. A_s is multi-head attention (Vaswani et al., 2017) whose queries and keys
    also say where in the clip a step lies, so that the streams may have different numbers of steps. Its output
    projection starts at zero, so that training starts from the plain average of the streams here too.

    Args:
        embedding_dims: D_s of both streams.
        num_classes: K.
        hidden: H, size of h_s; a multiple of `heads`.
        dropout: probability on the h_s that C sees.
        heads: heads of A_s.
    """

    def __init__(
        self,
        embedding_dims: Sequence[int],
        num_classes: int,
        hidden: int = 128,
        dropout: float = 0.5,
        heads: int = 4,
    ) -> None:
        super().__init__(embedding_dims, num_classes, hidden, dropout)
        self.place = nn.Linear(2 * _WAVES, hidden, bias=False)
        self.look = nn.ModuleList(
            nn.MultiheadAttention(hidden, heads, batch_first=True) for _ in embedding_dims
        )
        for look in self.look:
            nn.init.zeros_(look.out_proj.weight)  # type: ignore[arg-type, union-attr]

    def relate(self, streams: Sequence[StreamOutput]) -> list[tuple[Tensor, Tensor]]:
        """Let the steps of each stream look at the other's.

        Returns:
            For each stream what its steps have seen (B, T, H), and the weights (B, T, T of the other), averaged over
            heads: each row sums to one, and is zero on the other's steps that pad.
        """
        steps, placed = [], []
        for project, stream in zip(self.project, streams, strict=True):
            assert stream.states is not None
            steps.append(project(stream.states))
            placed.append(steps[-1] + self.place(_waves(stream.states, stream.valid)))
        seen = []
        for look, own, other in zip(self.look, (0, 1), (1, 0), strict=True):
            assert isinstance(look, nn.MultiheadAttention)
            found, weights = attend(look, placed[own], placed[other], steps[other], streams[other].valid)
            assert weights is not None
            seen.append((found, weights))
        return [(step + found, weights) for step, (found, weights) in zip(steps, seen, strict=True)]

    def describe(self, streams: Sequence[StreamOutput]) -> Tensor:
        """Describe B clips by their h_s, (B, 2, H)."""
        related = self.relate(streams)
        return torch.stack(
            [
                torch.einsum("bt,bth->bh", stream.attention, seen)
                for stream, (seen, _) in zip(streams, related, strict=True)
            ],
            dim=1,
        )


_WAVES = 4  # the finest has two periods a clip: steps of a clip are few


def _waves(states: Tensor, valid: Tensor | None) -> Tensor:
    """Describe where in its clip each step (B, T) lies by waves, (B, T, 8); steps that pad do not count."""
    batch, steps = states.shape[:2]
    counts = states.new_full((batch,), steps) if valid is None else valid.sum(dim=1).to(states.dtype)
    places = (torch.arange(steps, device=states.device, dtype=states.dtype) + 0.5) / counts.unsqueeze(1)
    angles = math.pi * places.unsqueeze(-1) * torch.arange(1, _WAVES + 1, device=states.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class CalibratedFusion(nn.Module):
    """Multiply the streams' probabilities, each with an exponent of its own that depends on the clip.

    With logits z_s of stream s, probabilities p_s = softmax(z_s) and what they tell of the clip, phi (how sure each
    stream is, and how far the streams disagree):

        alpha_s = exp(a_s + q_s^T phi),  logits = sum_s alpha_s z_s

    a and q start at zero, which is the product of the streams (Kittler et al., "On Combining Classifiers", 1998).
    exp(-a_s) is the temperature that calibrates stream s in the product (Guo et al., 2017). There are few parameters on
    purpose: they are fitted on clips that the streams have not been trained on, never by the training itself, which
    would trust the stream that memorises best.

    Args:
        num_streams: S.
    """

    def __init__(self, num_streams: int) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.zeros(num_streams), requires_grad=False)
        self.from_clip = nn.Parameter(torch.zeros(num_streams, num_streams + 1), requires_grad=False)

    def forward(self, streams: Sequence[StreamOutput]) -> FusionOutput:
        """Fuse the outputs of S streams for the same B clips."""
        return self.fuse(torch.stack([stream.logits for stream in streams], dim=1).float())

    def fuse(self, logits: Tensor) -> FusionOutput:
        """Fuse logits, or logarithms of probabilities, (B, S, K)."""
        alpha = (self.exponent + describe_confidence(logits) @ self.from_clip.T).exp()
        return FusionOutput(torch.einsum("bs,bsk->bk", alpha, logits), alpha / alpha.sum(dim=1, keepdim=True))


def describe_confidence(logits: Tensor) -> Tensor:
    """Say how sure streams are of a clip, and how far they disagree.

    Args:
        logits: (B, S, K) float32.

    Returns:
        (B, S + 1) float32: the entropy of each stream, from -1 (sure) to 1 (knows nothing), then the Jensen-Shannon
        divergence of the streams, from 0 (agree) to 1.
    """
    p = logits.softmax(dim=-1)
    entropy = -(p * p.clamp_min(1e-12).log()).sum(dim=-1)  # (B, S)
    mixture = p.mean(dim=1)
    divergence = -(mixture * mixture.clamp_min(1e-12).log()).sum(dim=-1) - entropy.mean(dim=1)
    sure = 2 * entropy / math.log(logits.shape[-1]) - 1
    return torch.cat([sure, divergence.unsqueeze(1) / math.log(max(logits.shape[1], 2))], dim=1)
