"""Bytes to network input, on the device: workers send uint8, a quarter of the traffic of float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NormalizeRGB(nn.Module):
    """Map RGB bytes (…, 3, H, W) to floats with ImageNet's mean 0 and standard deviation 1 per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Normalise (…, 3, H, W) uint8 to float32 of the same shape."""
        return (_bytes(rgb, "RGB frames") - self.mean) / self.std


class NormalizeFlow(nn.Module):
    """Map quantised flow bytes (…, 2L, H, W), u0 v0 u1 v1 …, to pixels per step divided by `scale`.

    Args:
        bound: the quantisation's bound in pixels; byte q stands for (q - 128) * 2 bound / 255.
        scale: pixels per step that become 1.0.
        subtract_mean: take each field's mean away, which removes most of a camera's pan (Simonyan and Zisserman,
            "Two-Stream Convolutional Networks", 2014, section 3.1).
    """

    def __init__(self, bound: float, scale: float, subtract_mean: bool) -> None:
        super().__init__()
        self.factor = 2 * bound / 255 / scale
        self.subtract_mean = subtract_mean

    def forward(self, flow: Tensor) -> Tensor:
        """Normalise (…, 2L, H, W) uint8 to float32 of the same shape."""
        values = (_bytes(flow, "flow fields") - 128) * self.factor
        if self.subtract_mean:
            values = values - values.mean(dim=(-2, -1), keepdim=True)
        return values


def _bytes(values: Tensor, what: str) -> Tensor:
    if values.dtype != torch.uint8:
        raise TypeError(f"{what} must be quantised bytes (uint8), got {values.dtype}")
    return values.float()
