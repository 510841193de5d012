"""Gradient checkpointing: the activations inside a block are computed again in the backward pass, not kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Memory falls to one block's activations beside the
blocks' outputs, for one more forward pass. Gradients and batch norm's statistics are those of a run without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Let each block of the network checkpoint its gradients; names and weights stay.

    A block is what stands in the network's chains (`nn.Sequential` and `nn.ModuleList`) and is itself made of
    convolutions or linear layers: a residual block, an inverted residual, an Inception module.

    Returns:
        The number of blocks; 0 where a network is a plain chain of layers, where nothing changes.
    """
    blocks = list(_blocks(network))
    for block in blocks:
        block.__class__ = _checkpointed(type(block))
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        elif any(
            isinstance(inner, nn.Conv2d | nn.Conv3d | nn.Linear)
            for inner in child.modules()
            if inner is not child
        ):
            yield child


class _Checkpointed(nn.Module):
    """What a block's class becomes a subclass of, so that the module stays the same object with the same weights."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(self)),
            **kwargs,
        )


def _checkpointed(block: type[nn.Module]) -> type[nn.Module]:
    return type(f"Checkpointed{block.__name__}", (_Checkpointed, block), {})


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch norm from counting the same batch twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
