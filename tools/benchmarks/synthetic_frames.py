"""Frames for measurements on machines without videos: textures that move as filmed scenes do, by NumPy alone.

A scene is a background seen by a camera that pans and zooms, and patches that move over it on paths of their own and
hide it and one another; each frame has noise and a brightness of its own. The same seed gives the same frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.videos import Frames, pick_videos, read_middle

Plane = NDArray[np.float32]
TEXTURE = 256  # pixels of a side; it repeats without a seam
PATCHES = 4
NOISE = 1.5  # grey levels, standard deviation: about what a compressed video has


def texture(seed: int, side: int = TEXTURE) -> Plane:
    """Make a periodic texture, (side, side) grey levels about 20 to 235, with detail at all scales above a pixel."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    # natural images: amplitude falls as 1 / frequency; the Gaussian is the lens
    amplitude = np.exp(-((frequency / 0.2) ** 2)) / frequency
    amplitude[0, 0] = 0
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) * amplitude
    values = np.fft.irfft2(spectrum, (side, side))
    return np.asarray(128 + 43 * np.clip(values / values.std(), -2.5, 2.5), np.float32)


def sample(plane: Plane, y: NDArray[np.float64], x: NDArray[np.float64]) -> Plane:
    """Sample a periodic texture linearly between its pixels."""
    side = len(plane)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    top, left = top % side, left % side
    below, after = (top + 1) % side, (left + 1) % side
    upper = plane[top, left] + right * (plane[top, after] - plane[top, left])
    lower = plane[below, left] + right * (plane[below, after] - plane[below, left])
    return np.asarray(upper + down * (lower - upper), np.float32)


def scene(seed: int, count: int, height: int, width: int) -> Frames:
    """Make `count` consecutive frames of a scene: (count, height, width) uint8."""
    rng = np.random.default_rng(seed)
    background = texture(seed)
    pan = rng.uniform(-1.5, 1.5, 2)  # pixels a frame
    zoom = rng.uniform(0.996, 1.004)  # a frame
    reach = min(height, width)
    radii = rng.uniform(0.08, 0.25, (PATCHES, 2)) * reach
    places = rng.uniform(0.15, 0.85, (PATCHES, 2)) * (height, width)
    speeds = rng.uniform(-5, 5, (PATCHES, 2)) * min(1.0, reach / 256)
    textures = [texture(seed * PATCHES + k + 1_000_003) for k in range(PATCHES)]
    frames = np.empty((count, height, width), np.uint8)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    for t in range(count):
        middle = (height - 1) / 2, (width - 1) / 2
        y = middle[0] + (rows - middle[0]) / zoom**t - pan[0] * t
        x = middle[1] + (columns - middle[1]) / zoom**t - pan[1] * t
        grey = sample(background, *np.broadcast_arrays(y, x))
        for place, speed, radius, pattern in zip(places, speeds, radii, textures, strict=True):
            centre = place + speed * t
            across, down = (columns - centre[1]) / radius[1], (rows - centre[0]) / radius[0]
            # an edge about a pixel wide, as a lens makes it
            cover = np.clip((1 - np.hypot(down, across)) * radius.min() + 0.5, 0, 1).astype(np.float32)
            inside = np.nonzero(cover)
            moved = sample(pattern, inside[0] - speed[0] * t, inside[1] - speed[1] * t)
            grey[inside] += cover[inside] * (moved - grey[inside])
        grey += rng.uniform(-1, 1) + NOISE * rng.standard_normal(grey.shape, np.float32)
        frames[t] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return frames


def to_and_fro(frames: Frames, count: int) -> Frames:
    """Lengthen a stack to `count` frames by showing it forwards and backwards in turn."""
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    return frames[[order[t % len(order)] for t in range(count)]]


def scenes(videos: Path | None, number: int, count: int, width: int, height: int) -> list[Frames]:
    """Return `number` stacks of `count` frames: from the middles of a folder's videos (None = generated)."""
    if videos is None:
        return [scene(seed, count, height, width) for seed in range(number)]
    return [read_middle(video, count, width, height) for video in pick_videos(videos, number)]
