"""Clips through a trained model, on the device of choice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from twostream.errors import ConfigError
from twostream.models.two_stream import TwoStream


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}); try --device cpu") from error
    return device


@torch.inference_mode()
def predict_clips(model: TwoStream, batch: dict[str, torch.Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Classify the K clips of each of B videos and average over the clips.

    Args:
        model: in evaluation mode.
        batch: "rgb" (B, K, T, 3, S, S) and "flow" (B, K, T, 2L, S, S), uint8, as far as the model needs them.

    Returns:
        For "fused" (where there are two streams), "rgb" and "flow" the softmax (B, C) float32, averaged over clips;
        and, where there is a fusion, "weights" (B, 2), averaged in the same way.
    """
    device = next(model.parameters()).device
    clips = {name: batch[name].to(device, non_blocking=True) for name in model.names}
    videos, count = next(iter(clips.values())).shape[:2]
    output = model({name: clip.flatten(0, 1) for name, clip in clips.items()})
    logits = {name: stream.logits for name, stream in output.streams.items()}
    values = {name: stream.softmax(dim=1) for name, stream in logits.items()}
    if output.weights is not None:
        values = {"fused": output.logits.softmax(dim=1), **values, "weights": output.weights}
    return {name: value.view(videos, count, -1).mean(dim=1).cpu().numpy() for name, value in values.items()}
