"""The pyramid of a frame: on each level, grey values and their gradient, with a border.

There are two conventions. OpenCV's CPU version aligns pixel centres when it resizes ("half-pixel") and reads 0 outside
the image. Its CUDA version (`corner`) aligns the top left corners and repeats the border. Both interpolate linearly,
without smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.tvl1.compile import kernel, row, row_kernel
from flow_cache.methods.tvl1.parameters import BORDER

PLANES = 3  # grey values, their derivative along x, along y


@dataclass(frozen=True)
class Level:
    """One pyramid level of a frame.

    Attributes:
        height: rows.
        width: pixels in a row.
        memory: flat float32 array of three planes: grey values from 0 to 255, d/dx, d/dy. A plane is `height` rows of
            `width` floats with a border of 5 floats on all sides.
    """

    height: int
    width: int
    memory: NDArray[np.float32]


def build_pyramid(
    frame: NDArray[np.uint8] | NDArray[np.float32],
    sizes: list[tuple[int, int]],
    scale_step: float,
    cuda_conventions: bool,
) -> list[Level]:
    """Build the levels of a frame.

    Args:
        frame: (H, W) uint8 or float32, grey levels from 0 to 255.
        sizes: (height, width) of the levels, finest first; the first is the frame's.
        scale_step: size of a level relative to the next finer one.
        cuda_conventions: resize and fill the border as OpenCV's CUDA version does.

    Returns:
        The levels, finest first.
    """
    levels: list[Level] = []
    for height, width in sizes:
        memory = np.zeros(PLANES * (height + 2 * BORDER) * (width + 2 * BORDER), np.float32)
        if levels:
            finer = levels[-1]
            shrink(
                finer.memory, finer.height, finer.width, memory, height, width, scale_step, cuda_conventions
            )
        else:
            inside = memory[: (height + 2 * BORDER) * (width + 2 * BORDER)].reshape(height + 2 * BORDER, -1)
            inside[BORDER:-BORDER, BORDER:-BORDER] = frame
        differentiate(memory, height, width, cuda_conventions)
        levels.append(Level(height, width, memory))
    return levels


@row_kernel
def _blend_rows(n, upper, lower, weight, out):
    """Interpolate between two rows."""
    for x in range(n):
        out[x] = upper[x] + (lower[x] - upper[x]) * weight


@row_kernel
def _blend_columns(n, source, left, weights, last, factor, out):
    """Interpolate within a row, times `factor`."""
    for x in range(n):
        here = left[x]
        next_one = here + 1 if here < last else here
        out[x] = (source[here] + (source[next_one] - source[here]) * weights[x]) * factor


@row_kernel
def _halved_difference(n, before, after, out):
    """Compute half the difference of two rows."""
    half = np.float32(0.5)
    for x in range(n):
        out[x] = (after[x] - before[x]) * half


@row_kernel
def _copy(n, source, out):
    """Copy a row."""
    for x in range(n):
        out[x] = source[x]


@kernel
def position(index, scale, size, corner):
    """Return where a pixel of a resized axis lies in the source.

    OpenCV computes this in double precision, its CUDA version in single. The difference matters: warps magnify a
    rounding of the position.

    Args:
        index: of the target pixel.
        scale: source pixels per target pixel.
        size: pixels of the source.
        corner: align the corners, as OpenCV's CUDA version does; else the pixel centres.

    Returns:
        Index of the source pixel before the position, and the weight (float32, 0 to 1) of the one after it.
    """
    centre = np.float64(np.float32(index) * np.float32(scale)) if corner else (index + 0.5) * scale - 0.5
    cell = int(np.floor(centre))
    weight = np.float32(centre - cell)
    if cell < 0:
        return 0, np.float32(0)
    if cell >= size - 1:
        return size - 1, np.float32(0)
    return cell, weight


@kernel
def resize(
    source, source_start, source_stride, source_height, source_width,
    target, target_start, target_stride, height, width,
    scale_y, scale_x, corner, factor,
):  # fmt: skip
    """Resize a plane linearly into another, times `factor`.

    Args:
        source: flat float32 array; row y of the plane begins at source_start + y * source_stride.
        source_start, source_stride, source_height, source_width: the plane in it.
        target, target_start, target_stride, height, width: the same of the result.
        scale_y, scale_x: source pixels per target pixel.
        corner: as in `position`.
        factor: float32, multiplies every value.
    """
    left = np.empty(width, np.int32)
    weights = np.empty(width, np.float32)
    blended = np.empty(source_width, np.float32)
    for x in range(width):
        left[x], weights[x] = position(x, scale_x, source_width, corner)
    for y in range(height):
        upper, weight = position(y, scale_y, source_height, corner)
        lower = min(upper + 1, source_height - 1)
        _blend_rows(
            source_width,
            row(source, source_start + upper * source_stride, source_width),
            row(source, source_start + lower * source_stride, source_width),
            weight,
            blended,
        )
        out = row(target, target_start + y * target_stride, width)
        _blend_columns(width, blended, left, weights, source_width - 1, factor, out)


@kernel
def shrink(source, source_height, source_width, target, height, width, scale_step, corner):
    """Resize the grey plane of a level into that of the next coarser level (`target`); memory as in `Level`."""
    scale = 1.0 / scale_step
    resize(
        source, BORDER * (source_width + 2 * BORDER) + BORDER, source_width + 2 * BORDER, source_height, source_width,
        target, BORDER * (width + 2 * BORDER) + BORDER, width + 2 * BORDER, height, width,
        scale, scale, corner, np.float32(1),
    )  # fmt: skip


@kernel
def differentiate(memory, height, width, repeat_border):
    """Fill the gradient planes of a level by central differences, at the edges by half the one-sided ones.

    Args:
        memory: of the level, see `Level`.
        height: rows of the level.
        width: pixels in a row.
        repeat_border: fill the border of all planes with the values at the edge; otherwise it stays 0.
    """
    stride = width + 2 * BORDER
    plane = (height + 2 * BORDER) * stride
    start = BORDER * stride + BORDER
    half = np.float32(0.5)
    for y in range(height):
        here = start + y * stride
        above = here - stride if y > 0 else here
        below = here + stride if y < height - 1 else here
        along_x = here + plane
        if width > 1:
            _halved_difference(
                width - 2,
                row(memory, here, width),
                row(memory, here + 2, width),
                row(memory, along_x + 1, width),
            )
            memory[along_x] = (memory[here + 1] - memory[here]) * half
            memory[along_x + width - 1] = (memory[here + width - 1] - memory[here + width - 2]) * half
        _halved_difference(
            width, row(memory, above, width), row(memory, below, width), row(memory, along_x + plane, width)
        )
    if repeat_border:
        for i in range(PLANES):
            for y in range(height):
                edge = start + i * plane + y * stride
                memory[edge - BORDER : edge] = memory[edge]
                memory[edge + width : edge + width + BORDER] = memory[edge + width - 1]
            first = start + i * plane - BORDER
            final = first + (height - 1) * stride
            for k in range(1, BORDER + 1):
                _copy(stride, row(memory, first, stride), row(memory, first - k * stride, stride))
                _copy(stride, row(memory, final, stride), row(memory, final + k * stride, stride))
