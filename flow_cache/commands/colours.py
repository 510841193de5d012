"""Flow as colours: the direction chooses the hue, the length how far the colour is from white.

The coding of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011: 55 hues around a
circle, in six parts with more hues where the eye distinguishes more. Rightwards is red, downwards yellow, leftwards
cyan-blue, upwards violet. No motion is white.
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
_BEYOND = 0.75  # brightness of motion longer than `max_motion`


@functools.cache
def colour_wheel() -> NDArray[np.float64]:
    """Return the hues by direction, rightwards first, then clockwise to downwards: (55, 3) float64 RGB, 0 to 1."""
    parts = []
    for number, count in enumerate(_HUES):
        start, end = (np.array(_CORNERS[(number + n) % len(_CORNERS)]) for n in (0, 1))
        share = np.arange(count)[:, None] / count
        parts.append(np.floor(start + (end - start) * share) / 255)
    return np.concatenate(parts)


def flow_colours(flow: NDArray[np.floating[Any]], max_motion: float) -> NDArray[np.uint8]:
    """Draw flow as colours.

    Args:
        flow: (..., 2, H, W) float, pixels per step: channel 0 = u (rightwards), 1 = v (downwards).
        max_motion: the length in pixels that has the full colour; longer motion is drawn darker.

    Returns:
        (..., H, W, 3) uint8 RGB; unknown flow (NaN, or beyond 1e9) is black.

    Raises:
        ArgumentError: another layout, or a max_motion that is not positive.

    Example:
        >>> import numpy as np
        >>> from flow_cache import flow_colours
        >>> flow = np.zeros((2, 1, 2), np.float32)
        >>> flow[0, 0, 1] = 5.0  # the second pixel moves 5 pixels to the right
        >>> flow_colours(flow, max_motion=5.0).tolist()
        [[[255, 255, 255], [255, 0, 0]]]
    """
    if flow.ndim < 3 or flow.shape[-3] != 2 or flow.dtype.kind != "f":
        raise ArgumentError(f"flow must be (..., 2, H, W) float, got {flow.shape} {flow.dtype}")
    if not (np.isfinite(max_motion) and max_motion > 0):
        raise ArgumentError(f"max_motion must be a positive number of pixels, got {max_motion}")
    u, v = np.moveaxis(flow, -3, 0).astype(np.float64)
    known = (np.abs(u) < _UNKNOWN) & (np.abs(v) < _UNKNOWN)
    u, v = np.where(known, u, 0) / max_motion, np.where(known, v, 0) / max_motion
    wheel = colour_wheel()
    # Adding zero turns -0.0, which would lie at the other end of the circle, into 0.0.
    position = (np.arctan2(-(v + 0.0), -(u + 0.0)) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(position).astype(np.intp)
    share = (position - lower)[..., None]
    hue = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    length = np.hypot(u, v)[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), hue * _BEYOND)
    colour[~known] = 0
    pixels: NDArray[np.uint8] = np.floor(255 * colour).astype(np.uint8)
    return pixels


def wheel_picture(side: int) -> NDArray[np.uint8]:
    """Draw the legend, a disc: a pixel has the colour of a motion from the centre to it.

    Returns:
        (side, side, 3) uint8 RGB, white outside the disc.
    """
    axis = np.linspace(-1, 1, side)
    field = np.stack(np.meshgrid(axis, axis))
    picture = flow_colours(field, 1.0)
    picture[np.hypot(*field) > 1] = 255
    return picture
