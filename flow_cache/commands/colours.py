"""Flow as colours: the direction chooses the hue, the length how far it is from white.

The coding of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011: 55 hues around a
circle in six stretches whose lengths follow how finely the eye tells them apart. Rightwards is red, downwards yellow,
leftwards cyan-blue, upwards violet. No motion is white.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError

# Corners of the circle (R, G, B), and how many hues lie from each to the next.
_CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255))
_HUES = (15, 6, 4, 11, 13, 6)
_UNKNOWN = 1e9  # Middlebury's ground truth has larger values where the flow is not known
_BEYOND = 0.75  # brightness of what is longer than the longest motion


@functools.cache
def colour_wheel() -> NDArray[np.float64]:
    """Return the hues in order of direction, from rightwards over downwards: (55, 3), 0 to 1, RGB."""
    stretches = []
    for number, count in enumerate(_HUES):
        start, end = (np.array(_CORNERS[(number + n) % len(_CORNERS)]) for n in (0, 1))
        share = np.arange(count)[:, None] / count
        stretches.append(np.floor(start + (end - start) * share) / 255)
    return np.concatenate(stretches)


def flow_colours(flow: NDArray[np.floating[Any]], max_motion: float) -> NDArray[np.uint8]:
    """Colour flow.

    flow: (..., 2, H, W) float, pixels per step. max_motion: the length in pixels that has the full colour; longer
    motion is drawn darker. Returns (..., H, W, 3) uint8 RGB; unknown flow (NaN, or beyond 1e9) is black. Raises
    ArgumentError for another layout, or unless max_motion is positive.
    """
    if flow.ndim < 3 or flow.shape[-3] != 2 or flow.dtype.kind != "f":
        raise ArgumentError(f"flow must be (..., 2, H, W) float, got {flow.shape} {flow.dtype}")
    if not (np.isfinite(max_motion) and max_motion > 0):
        raise ArgumentError(f"max_motion must be a positive number of pixels, got {max_motion}")
    u, v = np.moveaxis(flow, -3, 0).astype(np.float64)
    known = (np.abs(u) < _UNKNOWN) & (np.abs(v) < _UNKNOWN)
    u, v = np.where(known, u, 0) / max_motion, np.where(known, v, 0) / max_motion
    wheel = colour_wheel()
    # Added zeros make -0.0 to 0.0, which would lie at the other end of the circle.
    place = (np.arctan2(-(v + 0.0), -(u + 0.0)) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(place).astype(np.intp)
    share = (place - lower)[..., None]
    hue = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    length = np.hypot(u, v)[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), hue * _BEYOND)
    colour[~known] = 0
    pixels: NDArray[np.uint8] = np.floor(255 * colour).astype(np.uint8)
    return pixels


def wheel_picture(side: int) -> NDArray[np.uint8]:
    """Draw the legend, a disc whose pixels show the colour of a motion to where they are: (side, side, 3) uint8 RGB."""
    axis = np.linspace(-1, 1, side)
    field = np.stack(np.meshgrid(axis, axis))
    picture = flow_colours(field, 1.0)
    picture[np.hypot(*field) > 1] = 255
    return picture
