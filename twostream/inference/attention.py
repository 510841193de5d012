"""Find out what a network looks at in a clip: which places of each step, and which steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from flow_cache import dequantize, flow_colours
from twostream.inference.grad_cam import grad_cam
from twostream.inference.looks import StreamLook
from twostream.models.two_stream import TwoStream
from twostream.settings import StreamName

_FULL_COLOUR = 0.99  # quantile of a clip's displacements that is drawn in full colour


def look(
    model: TwoStream, clip: Mapping[str, torch.Tensor | int], target: int | None = None
) -> dict[StreamName, StreamLook]:
    """Find out what each stream looks at in a clip.

    Args:
        model: in evaluation mode.
        clip: what `ClipDataset` gives without `clips`: no features in place of pictures.
        target: the class whose Grad-CAM is computed; None for the one that each stream decides for.
    """
    device = next(model.parameters()).device
    batch = {key: value[None].to(device) for key, value in clip.items() if isinstance(value, torch.Tensor)}
    looks: dict[StreamName, StreamLook] = {}
    for name in model.names:
        chosen = None if target is None else torch.tensor([target])
        output, heat = grad_cam(model, name, model.clips_of(name, batch), chosen)
        looks[name] = StreamLook(
            _pictures(name, batch[name][0].cpu().numpy(), model.bound),
            output.attention[0].float().cpu().numpy(),
            None if output.spatial is None else output.spatial[0].float().cpu().numpy(),
            heat[0].cpu().numpy(),
        )
    return looks


def _pictures(name: StreamName, clip: npt.NDArray[np.uint8], bound: float) -> npt.NDArray[np.uint8]:
    """Turn what a stream takes, (T, C, H, W), into pictures, (T, H, W, 3)."""
    steps, channels, height, width = clip.shape
    if name == "rgb":
        frames = clip.reshape(steps, channels // 3, 3, height, width)
        return np.ascontiguousarray(frames[:, (channels // 3 - 1) // 2].transpose(0, 2, 3, 1))
    fields = clip.reshape(steps, channels // 2, 2, height, width)
    flow = dequantize(fields[:, (channels // 2 - 1) // 2], bound)
    fastest = max(float(np.quantile(np.hypot(flow[:, 0], flow[:, 1]), _FULL_COLOUR)), 1e-6)
    return np.stack([flow_colours(field, fastest) for field in flow])
