"""Draw the demo's person: head, hair, striped shirt, trousers and four swinging limbs.

The figure is mirror-symmetric at every moment, so a single frame never says which way it is walking.
Colours are full-range YCrCb (ITU-R BT.601, as OpenCV's): luma is drawn apart from chroma, so that a shirt's
colour leaves no trace in the grey frames that optical flow is computed from.
"""

from dataclasses import dataclass
from math import cos, sin

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[float, float, float]  # Y, Cr, Cb in 0..255; grey is Cr = Cb = 128
Point = tuple[float, float]  # x to the right, y down

_SUPERSAMPLING = 2
_FRACTION_BITS = 4  # of the fixed-point coordinates that OpenCV's drawing takes


@dataclass(frozen=True)
class Build:
    """A person's proportions; `height` in pixels, everything else as a share of the height."""

    height: float
    head: float  # radius
    shoulders: float  # half width
    hips: float  # half width
    torso: float  # neck to hips
    arm: float
    limb: float  # thickness of a leg; arms are a little thinner


@dataclass(frozen=True)
class Outfit:
    """The colours of one clip's person."""

    shirt: Colour
    stripe: Colour
    trousers: Colour
    shoes: Colour
    skin: Colour
    hair: Colour


@dataclass(frozen=True)
class Pose:
    """Where the person is and how the limbs stand.

    Attributes:
        x, y: middle of the body, in pixels of the frame.
        legs: angle of either leg from the vertical, radians; one leg goes one way, the other the other way.
        arms: angle of either arm from the vertical, radians, positive is outwards.
    """

    x: float
    y: float
    legs: float
    arms: float


def draw_figure(
    height: int, width: int, build: Build, outfit: Outfit, pose: Pose
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw one person with soft edges at a sub-pixel position.

    Returns:
        `(H, W, 3) float32` YCrCb multiplied by coverage, and `(H, W, 1) float32` coverage in 0..1: the
        picture over a background `b` is `colour + (1 - coverage) * b`.
    """
    pen = _Pen(height, width)
    size = build.height
    top = pose.y - size / 2
    head_y = top + build.head * size
    neck_y = top + 2.05 * build.head * size
    hip_y = neck_y + build.torso * size
    leg = top + size - hip_y

    for side in (-1, 1):
        angle = side * pose.legs
        hip = (pose.x + side * 0.45 * build.hips * size, hip_y - 0.01 * size)
        knee = _along(hip, angle, leg / 2)
        ankle = _along(knee, 0.75 * angle, leg / 2 - 0.03 * size)
        pen.line((hip, knee, ankle), 1.1 * build.limb * size, outfit.trousers)
        toe = (ankle[0] + side * 0.025 * size, ankle[1] + 0.012 * size)
        pen.line((ankle, toe), 0.8 * build.limb * size, outfit.shoes)

    for side in (-1, 1):
        shoulder = (pose.x + side * (build.shoulders - 0.4 * build.limb) * size, neck_y + 0.045 * size)
        elbow = _along(shoulder, side * pose.arms, build.arm * size / 2)
        forearm = side * (1.25 * pose.arms + 0.1)
        cuff, hand = (_along(elbow, forearm, share * build.arm * size) for share in (0.32, 0.5))
        pen.line((cuff, hand), 0.62 * build.limb * size, outfit.skin)
        pen.line((shoulder, elbow, cuff), 0.85 * build.limb * size, outfit.shirt)

    pen.line(((pose.x, head_y), (pose.x, neck_y + 0.02 * size)), 0.07 * size, outfit.skin)
    shoulder_half, hip_half = build.shoulders * size, build.hips * size
    torso_height = hip_y - neck_y
    bands = 7  # odd, so that shirt colour is at the collar and at the hem
    for band in range(bands):
        above, below = band / bands, (band + 1) / bands
        half_above = shoulder_half + above * (hip_half - shoulder_half)
        half_below = shoulder_half + below * (hip_half - shoulder_half)
        y_above, y_below = neck_y + above * torso_height, neck_y + below * torso_height
        corners = (
            (pose.x - half_above, y_above),
            (pose.x + half_above, y_above),
            (pose.x + half_below, y_below),
            (pose.x - half_below, y_below),
        )
        pen.polygon(corners, outfit.stripe if band % 2 else outfit.shirt)

    radius = build.head * size
    pen.ellipse((pose.x, head_y - 0.12 * radius), (radius, 1.08 * radius), outfit.hair)
    pen.ellipse((pose.x, head_y + 0.22 * radius), (0.8 * radius, 0.82 * radius), outfit.skin)
    return pen.picture()


def _along(start: Point, angle: float, length: float) -> Point:
    return start[0] + length * sin(angle), start[1] + length * cos(angle)


class _Pen:
    """Draws flat shapes on an enlarged canvas, which is then averaged down to soft edges."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (width, height)
        self._canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 4), dtype=np.uint8)

    def line(self, points: tuple[Point, ...], thickness: float, colour: Colour) -> None:
        """Draw joined segments with round ends; the thickness is in pixels of the frame."""
        thick = max(1, round(thickness * _SUPERSAMPLING))
        cv2.polylines(
            self._canvas, [self._fixed(points)], False, _ink(colour), thick, cv2.LINE_AA, _FRACTION_BITS
        )

    def polygon(self, points: tuple[Point, ...], colour: Colour) -> None:
        """Fill a convex polygon."""
        cv2.fillConvexPoly(self._canvas, self._fixed(points), _ink(colour), cv2.LINE_AA, _FRACTION_BITS)

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Fill an upright ellipse."""
        scale = _SUPERSAMPLING << _FRACTION_BITS
        axes = (round(radii[0] * scale), round(radii[1] * scale))
        middle = tuple(int(value) for value in self._fixed((centre,))[0])
        cv2.ellipse(self._canvas, middle, axes, 0, 0, 360, _ink(colour), -1, cv2.LINE_AA, _FRACTION_BITS)

    def picture(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Average down; returns colour times coverage, and coverage."""
        small = cv2.resize(self._canvas, self._size, interpolation=cv2.INTER_AREA).astype(np.float32)
        return small[..., :3], small[..., 3:] / np.float32(255)

    def _fixed(self, points: tuple[Point, ...]) -> npt.NDArray[np.int32]:
        # Pixel centres of the frame and of the enlarged canvas differ by half an enlarged pixel less a half.
        enlarged = (np.asarray(points) + 0.5) * _SUPERSAMPLING - 0.5
        return np.rint(enlarged * (1 << _FRACTION_BITS)).astype(np.int32)


def _ink(colour: Colour) -> tuple[int, int, int, int]:
    luma, red, blue = (min(255, max(0, round(value))) for value in colour)
    return luma, red, blue, 255
