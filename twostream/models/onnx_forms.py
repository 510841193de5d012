"""Operations that ONNX lacks, or has for one length of clips alone: while a model is exported, in those that it has.

Each gives what PyTorch's own gives, up to rounding. All else of the network is exported as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d


def exporting() -> bool:
    """Tell whether the network is being traced for ONNX."""
    return torch.onnx.is_in_onnx_export()


def lower_median(values: Tensor) -> Tensor:
    """Return the lower median of the last dimension, as `Tensor.median` does."""
    if not exporting():
        return values.median(dim=-1).values
    return plain_lower_median(values)


def plain_lower_median(values: Tensor) -> Tensor:
    """Sort the smaller half of the values."""
    half = (int(values.shape[-1]) + 1) // 2
    return values.topk(half, dim=-1, largest=False).values[..., -1]


def average_to(maps: Tensor, height: int, width: int) -> Tensor:
    """Average maps (N, H, W) to another size, (N, height, width), as `adaptive_avg_pool2d` does."""
    if not exporting():
        return adaptive_avg_pool2d(maps.unsqueeze(1), (height, width)).squeeze(1)
    return plain_average_to(maps, int(height), int(width))


def plain_average_to(maps: Tensor, height: int, width: int) -> Tensor:
    """Multiply by a matrix of shares on either side: ONNX has no pooling into parts of unequal size."""
    rows, columns = (
        _shares(int(old), new).to(maps) for old, new in zip(maps.shape[1:], (height, width), strict=True)
    )
    return rows @ maps @ columns.T


def _shares(old: int, new: int) -> Tensor:
    """Return the share (new, old) that each old place has in each new one; parts may overlap."""
    shares = torch.zeros(new, old)
    for place in range(new):
        start, end = place * old // new, -(-(place + 1) * old // new)
        shares[place, start:end] = 1 / (end - start)
    return shares


def attend(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    valid: Tensor | None = None,
    need_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Let queries look at keys.

    Args:
        attention: with the batch first.
        query: (B, T, D).
        key: (B, S, D).
        value: (B, S, D).
        valid: (B, S) bool, False on keys that pad; None if all count.
        need_weights: without, PyTorch may take a quicker way.

    Returns:
        What they see, (B, T, D), and the weights (B, T, S), averaged over heads; None where they are not needed.
    """
    if exporting():
        return plain_attend(attention, query, key, value, valid)
    padding = None if valid is None else ~valid
    seen, weights = attention(query, key, value, padding, need_weights=need_weights)
    return seen, weights


def plain_attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do the same step by step: PyTorch's own export writes the number of steps into the graph."""
    heads, dim = attention.num_heads, attention.embed_dim
    parts = zip(
        (query, key, value), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    )
    q, k, v = (
        _split(nn.functional.linear(inputs, weight, bias), heads) for inputs, weight, bias in parts
    )  # (B, heads, steps, D / heads)
    scores = q @ k.transpose(2, 3) * (dim // heads) ** -0.5
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
    weights = scores.softmax(dim=-1)
    seen = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return seen, weights.mean(dim=1)


def _split(values: Tensor, heads: int) -> Tensor:
    """Split (B, T, D) into (B, heads, T, D / heads)."""
    return values.view(values.shape[0], values.shape[1], heads, -1).transpose(1, 2)
