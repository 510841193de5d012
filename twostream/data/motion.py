"""Where a picture moves: what guides the RGB stream's attention over space."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twostream.data.transforms import Bytes, View

GRID = 16
"""Pixels of the network's input that one place of a motion map stands for: the stride of the finer feature level."""


def motion_maps(flow: Bytes, bound: float, view: View, size: tuple[int, int]) -> NDArray[np.float32]:
    """Compute how much each place of a view moves, the camera's motion taken away.

    The median of each field's u and v is what the background does, where it fills more than half of the frame.

    Args:
        flow: (n, L, 2, H, W) uint8, n stacks of quantised fields.
        bound: the quantisation's bound in pixels.
        view: what of the frame is seen; its colours do not matter.
        size: (width, height) of the network's input.

    Returns:
        (n, ceil(height / 16), ceil(width / 16)) float32, pixels per step: the magnitude averaged over the stack's
        fields and over the place.
    """
    width, height = (-(-side // GRID) for side in size)
    maps = np.empty((len(flow), height, width), np.float32)
    for stack, target in zip(flow, maps, strict=True):
        levels = stack.reshape(-1, *stack.shape[2:])
        medians = np.array([_median(plane) for plane in levels], np.float32)
        vectors = (levels - medians[:, None, None]).reshape(stack.shape) * np.float32(2 * bound / 255)
        magnitude = np.sqrt(np.square(vectors).sum(axis=1)).mean(axis=0)
        part = magnitude[view.top : view.top + view.height, view.left : view.left + view.width]
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        target[:] = small[:, ::-1] if view.flip else small
    return maps


def _median(levels: Bytes) -> int:
    """Return the lower median of a plane of grey levels; counting them is faster than sorting."""
    counts = np.bincount(levels.ravel(), minlength=256)
    return int(np.searchsorted(np.cumsum(counts), (levels.size + 1) // 2))
