"""Pixels that are not square: what shape a file states, and how frames are resized so that they are square."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError
from flow_cache.runtime import opencv

SQUARE = Fraction(1)
_MOST = 8  # the widest and the highest that is believed: television has 1/2 to 2, anamorphic film 2
_NOTICED = Fraction(1, 100)  # encoders that round sizes to even numbers state ratios such as 1281:1280
_MAX_PIXELS = 1 << 27


def pixel_aspect(stated: Fraction | None, path: Path) -> Fraction:
    """Return the ratio of a pixel's width to its height that is applied.

    Args:
        stated: what the file says; None or 0 if nothing.
        path: of the file.

    Returns:
        1 if nothing is stated, or less than a hundredth from 1.

    Raises:
        VideoError: a ratio that cannot be.
    """
    if not stated or stated == 1 or abs(stated - 1) < _NOTICED:
        return SQUARE
    if not Fraction(1, _MOST) <= stated <= _MOST:
        raise VideoError(
            path,
            f"states pixels of {as_text(stated)} (width to height), expected 1:{_MOST} to {_MOST}:1; "
            "ffmpeg -i IN -c copy -aspect WIDTH:HEIGHT OUT corrects the shape of the picture",
        )
    return stated


def as_text(aspect: Fraction) -> str:
    """Return `4:3` of 4/3."""
    return f"{aspect.numerator}:{aspect.denominator}"


def squared(image: NDArray[np.uint8], aspect: Fraction) -> NDArray[np.uint8]:
    """Resize the width of an image so that its pixels become square; the height stays.

    Raises:
        ValueError: the result would be too large.
    """
    height, width = image.shape[:2]
    wide = max(1, int(width * aspect + Fraction(1, 2)))
    if wide * height > _MAX_PIXELS:
        raise ValueError(f"{wide}x{height} square pixels are too many")
    return resized(image, (wide, height))


def resized(image: NDArray[np.uint8], target: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image to (W, H): by area interpolation where it shrinks, else by linear interpolation."""
    height, width = image.shape[:2]
    if (width, height) == target:
        return image
    cv2 = opencv()
    shrinks = target[0] <= width and target[1] <= height
    output: NDArray[np.uint8] = cv2.resize(
        image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return output
