"""Joint augmentation of RGB frames and quantised flow: one crop, one flip and one colour change a clip.

The one place that knows a horizontal flip negates u. Everything random is drawn into a `View` first, from a
generator alone, so that a clip looks the same whichever streams are read; `apply_view` then is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_cache import negate
from twostream.data.settings import AugmentConfig
from twostream.errors import DataError

Bytes = NDArray[np.uint8]

# Sides of the corner crops relative to the short side; height and width differ by one step at most (Wang et
# al. 2016).
CORNER_SCALES = (1.0, 0.875, 0.75, 0.66)
# Rec. 601 luma of RGB, which saturation and contrast are taken against.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class View:
    """Hold what is done to one clip: a crop in pixels of the cached frame, a flip, factors for RGB colour."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def random_view(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> View:
    """Draw a training view of frames of the given size."""
    top, left, crop_height, crop_width = _draw_crop(height, width, config, rng)
    flip = bool(rng.random() < config.flip)
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    brightness, contrast, saturation = (1 + strengths * rng.uniform(-1, 1, 3)).tolist()
    return View(top, left, crop_height, crop_width, flip, brightness, contrast, saturation)


def evaluation_view(height: int, width: int, config: AugmentConfig) -> View:
    """Choose the part of the frame that is seen in evaluation: the largest central square, or all of it."""
    if config.view == "full":
        return View(0, 0, height, width)
    side = min(height, width)
    return View((height - side) // 2, (width - side) // 2, side, side)


def apply_view(
    view: View, size: int, rgb: Bytes | None = None, flow: Bytes | None = None
) -> tuple[Bytes | None, Bytes | None]:
    """Cut a view out of frames and flow fields and resize it to a square.

    Args:
        view: what to cut, flip and colour.
        size: S, side of the output in pixels.
        rgb: (n, H, W, 3) uint8, or None.
        flow: (m, 2, H, W) uint8, quantised, u before v, or None. Flow stays in pixels of the cached frame: a
            resize does not scale it, so that one bound serves all crops.

    Returns:
        rgb (n, 3, S, S) uint8 and flow (m, 2, S, S) uint8, None where none was given.
    """
    if rgb is not None and flow is not None and rgb.shape[1:3] != flow.shape[2:]:
        raise DataError(f"RGB frames of {rgb.shape[1:3]} and flow of {flow.shape[2:]} differ in size")
    return (
        None if rgb is None else _apply_rgb(view, size, rgb),
        None if flow is None else _apply_flow(view, size, flow),
    )


def flip_flow(flow: Bytes) -> Bytes:
    """Mirror quantised flow (..., 2, H, W) uint8: columns are reversed and u changes its sign."""
    mirrored = np.ascontiguousarray(flow[..., ::-1])
    mirrored[..., 0, :, :] = negate(mirrored[..., 0, :, :])
    return mirrored


def _apply_flow(view: View, size: int, flow: Bytes) -> Bytes:
    planes = flow.reshape(-1, *flow.shape[2:])
    resized = _resize(_cut(planes, view), size).reshape(-1, 2, size, size)
    return flip_flow(resized) if view.flip else resized


def _apply_rgb(view: View, size: int, rgb: Bytes) -> Bytes:
    resized = _resize(_cut(rgb, view), size)
    if view.flip:
        resized = resized[:, :, ::-1]
    if (view.brightness, view.contrast, view.saturation) != (1, 1, 1):
        resized = _recolour(np.ascontiguousarray(resized), view)
    return np.ascontiguousarray(resized.transpose(0, 3, 1, 2))


def _cut(images: Bytes, view: View) -> Bytes:
    return images[:, view.top : view.top + view.height, view.left : view.left + view.width]


def _resize(images: Bytes, size: int) -> Bytes:
    """Resize (n, h, w[, 3]) uint8 to (n, S, S[, 3]) plane by plane: faster than packing channels."""
    if images.shape[1:3] == (size, size):
        return images
    resized = np.empty((len(images), size, size, *images.shape[3:]), np.uint8)
    for source, target in zip(images, resized, strict=True):
        # Linear interpolation sees every pixel down to half the size; halving first is much faster than
        # averaging over areas.
        height, width = source.shape[:2]
        while max(height, width) > 2 * size:
            height, width = (side // 2 if side > 2 * size else side for side in (height, width))
            source = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.resize(source, (size, size), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized


def _recolour(rgb: Bytes, view: View) -> Bytes:
    """Change brightness, contrast, then saturation of (n, S, S, 3) uint8 as one affine map of each pixel."""
    mean_grey = view.brightness * float(_LUMA @ np.asarray(cv2.mean(rgb.reshape(-1, rgb.shape[2], 3))[:3]))
    saturate = view.saturation * np.eye(3) + (1 - view.saturation) * np.tile(_LUMA, (3, 1))
    scale = view.brightness * view.contrast * saturate
    shift = np.full((3, 1), (1 - view.contrast) * mean_grey)  # grey, so saturation leaves it as it is
    tall = rgb.reshape(-1, rgb.shape[2], 3)
    changed: Bytes = cv2.transform(tall, np.hstack([scale, shift])).reshape(rgb.shape)
    return changed


def _draw_crop(
    height: int, width: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    if config.crop == "corners":
        return _corner_crop(height, width, rng)
    if config.crop == "random":
        return _random_crop(height, width, config, rng)
    view = evaluation_view(height, width, config)
    return view.top, view.left, view.height, view.width


def _corner_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    first = int(rng.integers(len(CORNER_SCALES)))
    second = int(np.clip(first + rng.integers(-1, 2), 0, len(CORNER_SCALES) - 1))
    short = min(height, width)
    crop_height, crop_width = (max(1, round(short * CORNER_SCALES[i])) for i in (first, second))
    bottom, right = height - crop_height, width - crop_width
    corners: Sequence[tuple[int, int]] = (
        (0, 0),
        (0, right),
        (bottom, 0),
        (bottom, right),
        (bottom // 2, right // 2),
    )
    top, left = corners[int(rng.integers(len(corners)))]
    return top, left, crop_height, crop_width


def _random_crop(
    height: int, width: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw an area share and a log-uniform aspect; sides that do not fit are cut to the frame."""
    area = height * width * rng.uniform(config.scale_min, 1)
    aspect = float(np.exp(rng.uniform(-1, 1) * np.log(config.aspect_max)))
    crop_width = min(width, max(1, round(float(np.sqrt(area * aspect)))))
    crop_height = min(height, max(1, round(float(np.sqrt(area / aspect)))))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width
