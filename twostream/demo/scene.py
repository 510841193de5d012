"""Compose the demo's clips: a person before wallpaper, filmed by a camera that follows the person.

How the classes are kept apart, so that each stream alone must fail on part of them:

* *Appearance is chroma only.* The shirts differ in Cr and Cb and are drawn with the same luma, and grey
  frames are luma; so flow comes from the same grey video whatever the shirt.
* *Motion is in no frame and in no place.* The camera follows the person, who wanders about the picture
  slowly, at random and without regard to the class; the limbs swing alike in all classes. What tells the
  motion is the wallpaper going by, a few pixels a frame, which flow shows plainly. The pattern repeats after
  a third of the frame's height, so every frame shows the same pattern somewhere, and about half a period
  passes between two frames sampled sparsely (6 to 8 a clip): from those, left and right look the same. Only
  someone who measured the pattern's phase to a few pixels in each could tell sideways from up and down.
* *The scene tells nothing.* Wallpaper, light, build, skin and hair belong to the source group, the other
  clothes are drawn per clip, and every group holds clips of all classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from twostream.demo.figure import Build, Colour, Outfit, Pose, draw_figure

Chroma = tuple[float, float]  # Cr - 128, Cb - 128


@dataclass(frozen=True)
class Motion:
    """How a person moves in the world: directions (x to the right, y down), zero where there is none of it.

    Attributes:
        walk: steady, at a person's pace.
        bounce: to and fro about a place.
    """

    walk: tuple[float, float] = (0.0, 0.0)
    bounce: tuple[float, float] = (0.0, 0.0)


# The shirts: as colourful as 8-bit RGB allows at the shirts' common luma.
APPEARANCES: Mapping[str, Chroma] = MappingProxyType(
    {"red_shirt": (70.0, -20.0), "green_shirt": (-48.0, -26.0), "blue_shirt": (-30.0, 52.0)}
)
MOTIONS: Mapping[str, Motion] = MappingProxyType(
    {
        "walks_left": Motion(walk=(-1.0, 0.0)),
        "walks_right": Motion(walk=(1.0, 0.0)),
        "jumps": Motion(bounce=(0.0, 1.0)),
    }
)

FloatArray = npt.NDArray[np.float32]
Path2D = npt.NDArray[np.float64]  # (T, 2): x, y in pixels

_REFERENCE_HEIGHT = 84  # the height that speeds and distances below are given for, in pixels
_HARMONICS = 4


@dataclass(frozen=True)
class SourceGroup:
    """What all clips of one source have in common.

    Attributes:
        wallpaper: `(P, P, 3) float32` YCrCb, one period of a pattern that repeats in both directions.
        light: `(H, W, 1) float32`, the gain of the lighting over the picture, near 1.
        build: proportions of the person.
        skin, hair: colours, YCrCb.
    """

    wallpaper: FloatArray
    light: FloatArray
    build: Build
    skin: Colour
    hair: Colour


@dataclass(frozen=True)
class ClipPlan:
    """Everything that moves in one clip.

    Attributes:
        figure: `(T, 2)` place of the person in the picture, x and y in pixels; the same for every motion.
        wallpaper: `(T, 2)` offset of the wallpaper in the picture, x and y in pixels, from a random start.
        swing: `(T,)` phase of the limbs, radians.
    """

    figure: Path2D
    wallpaper: Path2D
    swing: npt.NDArray[np.floating]


def make_group(rng: np.random.Generator, height: int, width: int) -> SourceGroup:
    """Draw the wallpaper, lighting and person of one source group."""
    period = round(height / 3)
    build = Build(
        height=height * rng.uniform(0.8, 0.92),
        head=rng.uniform(0.082, 0.095),
        shoulders=rng.uniform(0.155, 0.185),
        hips=rng.uniform(0.125, 0.15),
        torso=rng.uniform(0.36, 0.4),
        arm=rng.uniform(0.34, 0.4),
        limb=rng.uniform(0.095, 0.115),
    )
    tone = rng.uniform(0, 1)
    return SourceGroup(
        wallpaper=_wallpaper(rng, period),
        light=_light(rng, height, width),
        build=build,
        skin=(185 - 95 * tone, 128 + rng.uniform(12, 20), 128 - rng.uniform(12, 20)),
        hair=(rng.uniform(25, 85), 128 + rng.uniform(0, 8), 128 - rng.uniform(0, 10)),
    )


def plan_clip(rng: np.random.Generator, motion: Motion, frames: int, height: int, width: int) -> ClipPlan:
    """Draw the movements of one clip.

    The draws are the same for every motion: with equal generators, plans differ in `wallpaper` only.
    """
    time = np.arange(frames)
    scale = height / _REFERENCE_HEIGHT
    start = np.array([width * rng.uniform(0.3, 0.7), height * rng.uniform(0.49, 0.51)])
    # Where the camera points: moves person and wallpaper alike.
    wander = np.stack([_wander(rng, time, 6 * scale), _wander(rng, time, 3 * scale)], axis=1)
    shake = cv2.GaussianBlur(rng.normal(0, 0.6 * scale, (frames, 2)), (1, 5), 0, sigmaY=1)
    swing = rng.uniform(0, 2 * pi) + 2 * pi * time / rng.uniform(9, 13)

    # How the person moves in the world: the camera follows, so the wallpaper goes the other way.
    speed = rng.uniform(2.2, 4.0) * scale
    hurry = 1 + rng.uniform(0.1, 0.25) * np.sin(2 * pi * (rng.uniform() + time / rng.uniform(12, 24)))
    walked = np.concatenate([[0.0], np.cumsum(speed * hurry)[:-1]])
    jump_height = rng.uniform(10, 14) * scale
    bounce = jump_height / 2 * np.cos(2 * pi * (rng.uniform() + time / rng.uniform(9, 12)))
    world = walked[:, None] * np.array(motion.walk) + bounce[:, None] * np.array(motion.bounce)

    camera = wander + shake
    wallpaper = camera - world
    origin = rng.uniform(0, height / 3, 2)
    return ClipPlan(figure=start + camera, wallpaper=wallpaper - wallpaper[0] + origin, swing=swing)


def render_clip(
    rng: np.random.Generator, group: SourceGroup, shirt: Chroma, motion: Motion, frames: int
) -> npt.NDArray[np.uint8]:
    """Render one clip.

    Args:
        rng: the clip's own generator.
        group: its source; gives the size of the picture.
        shirt: the appearance, such as one of `APPEARANCES`.
        motion: such as one of `MOTIONS`.
        frames: number of frames T.

    Returns:
        `(T, H, W, 3) uint8` RGB.
    """
    height, width = group.light.shape[:2]
    plan = plan_clip(rng, motion, frames, height, width)
    outfit = _dress(rng, group, shirt)
    leg_swing, arm_swing, arm_rest = rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.7)
    gain = rng.uniform(0.88, 1.08) * (1 + 0.05 * np.sin(2 * pi * (rng.uniform() + np.arange(frames) / 40)))
    noise_level = rng.uniform(2, 4)
    tint = rng.uniform(-3, 3, 2)

    period = group.wallpaper.shape[0]
    repeats = (-(-height // period) + 2, -(-width // period) + 2, 1)
    wall = np.tile(group.wallpaper, repeats)
    wall[..., 1:] += tint.astype(np.float32)
    clip = np.empty((frames, height, width, 3), dtype=np.uint8)
    grey = np.array([0, 128, 128], dtype=np.float32)
    for t in range(frames):
        # The wallpaper has moved by d: the pixel at x shows what was at x - d.
        left, top = np.mod(-plan.wallpaper[t], period)
        centre = (left + (width - 1) / 2, top + (height - 1) / 2)
        picture = cv2.getRectSubPix(wall, (width, height), centre)
        beat = np.sin(plan.swing[t])
        x, y = plan.figure[t]
        pose = Pose(x, y, legs=leg_swing * beat, arms=arm_rest + arm_swing * beat)
        colour, coverage = draw_figure(height, width, group.build, outfit, pose)
        picture = colour + (1 - coverage) * picture
        picture = (picture - grey) * (group.light * np.float32(gain[t])) + grey
        picture[..., 0] += noise_level * rng.standard_normal((height, width), dtype=np.float32)
        ycrcb = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        clip[t] = cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)
    return clip


def _dress(rng: np.random.Generator, group: SourceGroup, shirt: Chroma) -> Outfit:
    """Choose the colours of one clip's person; the luma draws do not depend on the appearance."""
    turn, strength = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.0)
    red, blue = shirt
    cr = 128 + strength * (red * np.cos(turn) - blue * np.sin(turn))
    cb = 128 + strength * (red * np.sin(turn) + blue * np.cos(turn))
    luma = rng.uniform(105, 125)
    contrast = rng.uniform(8, 16) * rng.choice([-1, 1])
    trousers = (rng.uniform(45, 95), 128 + rng.uniform(-8, 8), 128 + rng.uniform(-8, 8))
    return Outfit(
        shirt=(luma, cr, cb),
        stripe=(luma + contrast, cr, cb),
        trousers=trousers,
        shoes=(rng.uniform(20, 60), 128.0, 128.0),
        skin=group.skin,
        hair=group.hair,
    )


def _wander(
    rng: np.random.Generator, time: npt.NDArray[np.int64], amplitude: float
) -> npt.NDArray[np.float64]:
    """Draw a slow, smooth random path `(T,)`, at most `amplitude` either side of 0."""
    slow, slower = rng.uniform(40, 60), rng.uniform(60, 90)
    phases = rng.uniform(0, 1, 2)
    path: npt.NDArray[np.float64] = np.sin(2 * pi * (phases[0] + time / slow)) + np.sin(
        2 * pi * (phases[1] + time / slower)
    )
    return amplitude / 2 * path


def _wallpaper(rng: np.random.Generator, period: int) -> FloatArray:
    """Draw one period of a smooth random pattern, in luma and in shades of one weak hue."""
    waves = np.zeros((2, period, period))
    y, x = np.mgrid[:period, :period] * (2 * pi / period)
    for ky in range(-_HARMONICS, _HARMONICS + 1):
        for kx in range(_HARMONICS + 1):
            if 0 < kx * kx + ky * ky <= _HARMONICS**2:
                phase, strength = rng.uniform(0, 2 * pi, 2), rng.uniform(0.5, 1.5, 2)
                for plane in range(2):
                    waves[plane] += strength[plane] * np.cos(kx * x + ky * y + phase[plane])
    waves /= waves.std(axis=(1, 2), keepdims=True)
    base, contrast = rng.uniform(110, 165), rng.uniform(18, 26)
    angle, colourful = rng.uniform(0, 2 * pi), rng.uniform(3, 8)
    chroma = colourful * np.array([np.cos(angle), np.sin(angle)])
    tile = np.empty((period, period, 3))
    tile[..., 0] = base + contrast * np.tanh(1.5 * waves[0])
    tile[..., 1:] = 128 + chroma + 0.5 * np.roll(chroma, 1) * np.tanh(waves[1])[..., None]
    return tile.astype(np.float32)


def _light(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Draw a lamp's slope over the picture, `(H, W, 1)`, mean about 1."""
    angle, slope = rng.uniform(0, 2 * pi), rng.uniform(0.05, 0.15)
    y, x = np.mgrid[:height, :width]
    across = np.cos(angle) * (x / (width - 1) - 0.5) + np.sin(angle) * (y / (height - 1) - 0.5)
    light: FloatArray = (1 + 2 * slope * across[..., None]).astype(np.float32)
    return light
