"""Joint augmentation of RGB frames and quantised flow: one crop, one flip and one colour change a clip.

The one place that knows a horizontal flip negates u. Everything random is drawn into a `View` first, from a
generator alone, so that a clip looks the same whichever streams are read; `apply_view` then is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_cache import negate
from twostream.data.settings import AugmentConfig, Views, width_and_height
from twostream.data.settings import View as Part
from twostream.errors import DataError

Bytes = NDArray[np.uint8]

# Sides of the corner crops relative to the short side; height and width differ by one step at most (Wang et
# al. 2016).
CORNER_SCALES = (1.0, 0.875, 0.75, 0.66)
# Rec. 601 luma of RGB, which saturation and contrast are taken against.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class View:
    """Hold what is done to one clip: a crop in pixels of a cached field, a flip, factors for RGB colour.

    RGB frames may be of another size than the fields; of them the same share is cut.

    Attributes:
        top, left, height, width: the crop in pixels of the frame.
        flip: mirror it.
        brightness, contrast, saturation: factors for RGB colour.
        frame: (H, W) of the frame that the crop is measured in, that of the fields; None: that of the fields given
            with it, or else of the RGB frames themselves.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    frame: tuple[int, int] | None = field(default=None, compare=False)


def random_view(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> View:
    """Draw a training view of frames of the given size."""
    top, left, crop_height, crop_width = _draw_crop(height, width, config, rng)
    flip = bool(rng.random() < config.flip)
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    brightness, contrast, saturation = (1 + strengths * rng.uniform(-1, 1, 3)).tolist()
    return View(top, left, crop_height, crop_width, flip, brightness, contrast, saturation, (height, width))


def evaluation_view(height: int, width: int, part: Part) -> View:
    """Choose the part of the frame that is seen in evaluation: the largest central square, or all of it."""
    if part == "full":
        return View(0, 0, height, width, frame=(height, width))
    side = min(height, width)
    return View((height - side) // 2, (width - side) // 2, side, side, frame=(height, width))


def evaluation_views(height: int, width: int, part: Part, count: Views) -> list[View]:
    """List the views of an evaluation clip.

    One is that of `evaluation_view`, two are it and its mirror image. Ten are crops of 7/8 of its sides in the centre
    and in the four corners of the frame, and their mirror images (Krizhevsky et al., 2012).
    """
    base = evaluation_view(height, width, part)
    views = [base]
    if count == 10:
        crop_height, crop_width = max(1, base.height * 7 // 8), max(1, base.width * 7 // 8)
        down, right = height - crop_height, width - crop_width
        corners = ((down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right))
        views = [replace(base, top=y, left=x, height=crop_height, width=crop_width) for y, x in corners]
    return views if count == 1 else [*views, *(replace(view, flip=True) for view in views)]


def apply_view(
    view: View, size: int | tuple[int, int], rgb: Bytes | None = None, flow: Bytes | None = None
) -> tuple[Bytes | None, Bytes | None]:
    """Cut a view out of frames and flow fields and resize it to the network's input.

    Args:
        view: what to cut, flip and colour, in pixels of the fields.
        size: side S of a square output in pixels, or (width, height).
        rgb: (n, Hr, Wr, 3) uint8, or None. If the size is another than the fields', the same share of it is cut,
            rounded to whole pixels.
        flow: (m, 2, H, W) uint8, quantised, u before v, or None. Flow stays in pixels of the cached frame: a
            resize does not scale it, so that one bound serves all crops.

    Returns:
        rgb (n, 3, h, w) uint8 and flow (m, 2, h, w) uint8 of that size, None where none was given.

    Raises:
        DataError: the view is of frames of another size than the fields.
    """
    frame = view.frame
    if flow is not None:
        fields = (flow.shape[2], flow.shape[3])
        if frame not in (None, fields):
            raise DataError(
                f"flow fields are of height and width {fields}, but the view is of {frame}; draw it for the fields"
            )
        frame = fields
    return (
        None if rgb is None else _apply_rgb(_of_rgb(view, frame, rgb), size, rgb),
        None if flow is None else _apply_flow(view, size, flow),
    )


def flip_flow(flow: Bytes) -> Bytes:
    """Mirror quantised flow (..., 2, H, W) uint8: columns are reversed and u changes its sign."""
    mirrored = np.ascontiguousarray(flow[..., ::-1])
    mirrored[..., 0, :, :] = negate(mirrored[..., 0, :, :])
    return mirrored


def _apply_flow(view: View, size: int | tuple[int, int], flow: Bytes) -> Bytes:
    planes = flow.reshape(-1, *flow.shape[2:])
    resized = _resize(_cut(planes, view), size)
    resized = resized.reshape(-1, 2, *resized.shape[1:])
    return flip_flow(resized) if view.flip else resized


def _of_rgb(view: View, frame: tuple[int, int] | None, rgb: Bytes) -> View:
    """Measure a view of a frame (H, W) in pixels of RGB frames; its edges are rounded, so views that touch still do."""
    size = (rgb.shape[1], rgb.shape[2])
    if frame in (None, size):
        return view
    (top, bottom), (left, right) = (
        _scaled_span(start, length, own, other)
        for start, length, own, other in zip(
            (view.top, view.left), (view.height, view.width), frame, size, strict=True
        )
    )
    return replace(view, top=top, left=left, height=bottom - top, width=right - left, frame=size)


def _scaled_span(start: int, length: int, own: int, other: int) -> tuple[int, int]:
    """Scale the pixels from `start` on, of `own` in all, to those of `other` in all; at least one is left."""
    first = min(round(start * other / own), other - 1)
    return first, max(round((start + length) * other / own), first + 1)


def _apply_rgb(view: View, size: int | tuple[int, int], rgb: Bytes) -> Bytes:
    resized = _resize(_cut(rgb, view), size)
    if view.flip:
        resized = resized[:, :, ::-1]
    if (view.brightness, view.contrast, view.saturation) != (1, 1, 1):
        resized = _recolour(np.ascontiguousarray(resized), view)
    return np.ascontiguousarray(resized.transpose(0, 3, 1, 2))


def _cut(images: Bytes, view: View) -> Bytes:
    return images[:, view.top : view.top + view.height, view.left : view.left + view.width]


def _resize(images: Bytes, size: int | tuple[int, int]) -> Bytes:
    """Resize (n, h, w[, 3]) uint8 to another width and height plane by plane: faster than packing channels."""
    to_width, to_height = width_and_height(size)
    if images.shape[1:3] == (to_height, to_width):
        return images
    resized = np.empty((len(images), to_height, to_width, *images.shape[3:]), np.uint8)
    for source, target in zip(images, resized, strict=True):
        # Linear interpolation sees every pixel down to half the size; halving first is much faster than
        # averaging over areas.
        height, width = source.shape[:2]
        while height > 2 * to_height or width > 2 * to_width:
            height = height // 2 if height > 2 * to_height else height
            width = width // 2 if width > 2 * to_width else width
            source = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.resize(source, (to_width, to_height), dst=target, interpolation=cv2.INTER_LINEAR)
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
    view = evaluation_view(height, width, config.view)
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
