"""Bytes to network input, on the device: workers send uint8, a quarter of the traffic of float32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from twostream.models.onnx_forms import lower_median

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Offset = Literal["none", "mean", "median"]


class NormalizeRGB(nn.Module):
    """Map RGB bytes (…, 3 F, H, W), r0 g0 b0 r1 …, to floats with mean 0 and standard deviation 1 per channel.

    Args:
        mean: of R, G and B in [0, 1], as the CNN's weights expect it; by default ImageNet's.
        std: likewise the standard deviation.
        frames: F, frames of a window.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        frames: int = 1,
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                name, 255 * torch.tensor(values).repeat(frames).view(-1, 1, 1), persistent=False
            )

    def forward(self, rgb: Tensor) -> Tensor:
        """Normalise (…, 3 F, H, W) uint8 to float32 of the same shape."""
        return (_bytes(rgb, "RGB frames") - self.mean) / self.std


class NormalizeFlow(nn.Module):
    """Map quantised flow bytes (…, 2L, H, W), u0 v0 u1 v1 …, to pixels per step divided by `scale`.

    Args:
        bound: the quantisation's bound in pixels; byte q stands for (q - 128) * 2 bound / 255.
        scale: pixels per step that become 1.0.
        offset: what is taken away from each field: its mean, which removes most of a camera's pan (Simonyan and
            Zisserman, "Two-Stream Convolutional Networks", 2014, section 3.1); its median, which a moving actor shifts
            less; or nothing.
    """

    def __init__(self, bound: float, scale: float, offset: Offset = "none") -> None:
        super().__init__()
        self.factor = 2 * bound / 255 / scale
        self.offset = offset

    def forward(self, flow: Tensor) -> Tensor:
        """Normalise (…, 2L, H, W) uint8 to float32 of the same shape."""
        values = (_bytes(flow, "flow fields") - 128) * self.factor
        if self.offset == "mean":
            values = values - values.mean(dim=(-2, -1), keepdim=True)
        elif self.offset == "median":
            values = values - lower_median(values.flatten(-2))[..., None, None]
        return values


def flow_magnitude(flow: Tensor, bound: float) -> Tensor:
    """Compute how much each place moves: magnitude averaged over L fields, each with its median taken away.

    Args:
        flow: (…, 2L, H, W) uint8, quantised.
        bound: the quantisation's bound in pixels.

    Returns:
        (…, H, W) float32, pixels per step.
    """
    planes = NormalizeFlow(bound, 1.0, "median")(flow)
    # `unflatten` would write the number of clips into an exported graph.
    vectors = planes.view(*planes.shape[:-3], -1, 2, *planes.shape[-2:])  # (…, L, 2, H, W)
    magnitude: Tensor = vectors.square().sum(dim=-3).sqrt().mean(dim=-3)
    return magnitude


def _bytes(values: Tensor, what: str) -> Tensor:
    if values.dtype != torch.uint8:
        raise TypeError(f"{what} must be quantised bytes (uint8), got {values.dtype}")
    return values.float()
