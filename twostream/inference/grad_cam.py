"""Grad-CAM: which places of a clip speak for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017. With
the feature maps A_k of a step, (h, w), and the logit y of a class:

    alpha_k = mean over places of dy / dA_k,    heat = ReLU(sum_k alpha_k A_k)

The maps are those of the CNN's last level that the stream uses. Each step has maps and gradients of its own, so that
heat also says at which steps a class was seen. Nothing is asked of the CNN but its maps: it may be frozen, or a video
net, whose maps are averaged over its window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from twostream.models.stream import StreamOutput
from twostream.models.two_stream import TwoStream


def grad_cam(
    model: TwoStream, name: str, clips: Mapping[str, Tensor], target: Tensor | None = None
) -> tuple[StreamOutput, Tensor]:
    """Run one stream on B clips and find the places that speak for a class.

    Args:
        model: in evaluation mode.
        name: of the stream.
        clips: what `TwoStream.clips_of` picks for it: pictures, no features in their place.
        target: (B,) int64, the class of each clip; None for the one that the stream decides for.

    Returns:
        What the stream says, without gradients, and the heat, (B, T, h, w) float32, at least 0: in units of the class's
        logit over the number of places, so that steps can be compared; zero on steps that pad.

    Example:
        >>> import torch
        >>> from twostream import ModelConfig, TwoStream
        >>> config = ModelConfig(streams=("flow",), backbone="mobilenet_v3_small", weights="none", hidden=8)
        >>> model = TwoStream(config, num_classes=3, stack=2, bound=20.0).eval()
        >>> clips = {"flow": torch.full((1, 4, 4, 64, 96), 128).byte()}
        >>> output, heat = grad_cam(model, "flow", clips)
        >>> tuple(heat.shape), bool((heat >= 0).all())
        ((1, 4, 2, 3), True)
    """
    stream = model.stream(name)
    maps: list[Tensor] = []

    def keep(_module: object, _inputs: object, levels: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        # Gradients begin here: they need not go through the CNN, and could not where it is frozen.
        maps.extend(level.detach().float().requires_grad_() for level in levels)
        return tuple(maps)

    handle = stream.backbone.register_forward_hook(keep)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            features = stream.features(clips[name], model.motion(name, clips))
        finally:
            handle.remove()
        # cuDNN's LSTMs have no backward pass in evaluation mode.
        with torch.backends.cudnn.flags(enabled=False):
            output = stream.classify(features, clips.get(f"{name}_valid"))
            logits = output.logits
            chosen = logits.argmax(dim=1) if target is None else target.to(logits.device)
            last = maps[1 if "semantic" in stream.levels else 0]
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen.unsqueeze(1)).sum(), last)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * last.detach()).sum(dim=1).clamp_min(0)
    batch, steps = clips[name].shape[:2]
    detached: list[Any] = [None if value is None else value.detach() for value in output]
    return StreamOutput(*detached), heat.view(batch, steps, *heat.shape[1:])
