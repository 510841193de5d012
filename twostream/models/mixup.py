"""Mixup: pairs of clips are blended, and so are their labels (Zhang et al., "mixup", 2018)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Mixup(NamedTuple):
    """How the clips of a batch are blended: clip b becomes share * b + (1 - share) * partner[b].

    One share and one partner hold for everything that a clip consists of: RGB, flow, motion, features of a frozen
    CNN. Pictures are blended as the CNN sees them: flow in pixels, each field's camera motion taken away.

    Attributes:
        partner: (B,) int64, a permutation of the batch.
        share: in [0, 1].

    Example:
        >>> import torch
        >>> from twostream.models.mixup import Mixup
        >>> mixup = Mixup(torch.tensor([1, 0]), 0.75)
        >>> mixup.blend(torch.tensor([[4.0], [8.0]])).tolist()
        [[5.0], [7.0]]
        >>> mixup.targets(torch.tensor([2, 0]), num_classes=3).tolist()
        [[0.25, 0.0, 0.75], [0.75, 0.0, 0.25]]
    """

    partner: Tensor
    share: float

    @classmethod
    def draw(cls, size: int, alpha: float, device: torch.device | str = "cpu") -> Mixup:
        """Draw partners for B clips, and share ~ Beta(alpha, alpha), from torch's generator on the CPU."""
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        return cls(torch.randperm(size).to(device), share)

    def blend(self, values: Tensor) -> Tensor:
        """Blend (B, …) floats."""
        return torch.lerp(values[self.partner], values, self.share)

    def valid(self, valid: Tensor) -> Tensor:
        """Tell which steps (B, T) bool of the blend count: those of both clips, so that every one has this share."""
        return valid & valid[self.partner]

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Blend labels (B,) int64 to probabilities (B, K) float32."""
        return self.blend(F.one_hot(labels, num_classes).float())

    def largest(self, labels: Tensor) -> Tensor:
        """Return the label (B,) int64 that has the larger share."""
        return labels if self.share >= 0.5 else labels[self.partner]
