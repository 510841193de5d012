"""Farneback's flow in plain NumPy and float64, with OpenCV's conventions: the definition that the kernels must meet.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003. Slow and short on purpose: each step
is one array expression, no step shares code with the engine.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SMALLEST_LEVEL = 32  # pixels: a level with a shorter side is not built
BORDER_WEIGHTS = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472])  # trust in the outermost five pixels
REGULARISATION = 1e-3  # added to the determinant of the normal equations


def farneback(first, second, parameters) -> np.ndarray:
    """Estimate the flow between two grey frames (H, W): (2, H, W) float64, u and v in pixels."""
    p = parameters
    flow = None
    for scale in reversed(level_scales(first.shape, p.levels, p.pyr_scale)):
        shape = tuple(round(side * scale) for side in first.shape)  # halves to even, as cvRound
        flow = np.zeros((2, *shape)) if flow is None else resize(flow, shape) / p.pyr_scale
        r0, r1 = (polynomials(level_image(f, scale, shape), p.poly_n, p.poly_sigma) for f in (first, second))
        for _ in range(p.iterations):
            flow = solve(box_sums(matrices(r0, r1, flow), p.winsize), p.winsize)
    return flow


def level_scales(shape, levels, pyr_scale) -> list[float]:
    """Scales of the levels that are built, the full size first."""
    scales = [1.0]
    while len(scales) <= levels and min(shape) * scales[-1] * pyr_scale >= SMALLEST_LEVEL:
        scales.append(scales[-1] * pyr_scale)
    return scales


def level_image(frame, scale, shape) -> np.ndarray:
    """Smooth the full-size frame against aliasing, then sample it at a level's size."""
    sigma = (1 / scale - 1) / 2
    size = max(round(5 * sigma) | 1, 3)
    x = np.arange(size) - size // 2
    kernel = np.exp(-(x**2) / (2 * sigma**2)) if sigma > 0 else np.array([1.0, 2.0, 1.0])
    image = frame.astype(np.float64)
    for axis in (0, 1):
        image = ndimage.correlate1d(image, kernel / kernel.sum(), axis, mode="mirror")
    return resize(image, shape)


def resize(image, shape) -> np.ndarray:
    """Sample (..., H, W) linearly at another size, pixel centres at halves, borders replicated."""
    for axis, target in ((-2, shape[0]), (-1, shape[1])):
        size = image.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.minimum(at.astype(int), max(size - 2, 0))
        fraction = at - low if axis == -1 else (at - low)[:, None]
        high = np.minimum(low + 1, size - 1)
        image = np.take(image, low, axis) * (1 - fraction) + np.take(image, high, axis) * fraction
    return image


def polynomials(image, n, sigma) -> np.ndarray:
    """Fit c + b_x x + b_y y + a_xx x^2 + a_yy y^2 + a_xy x y around every pixel, weighted by a Gaussian.

    The neighbourhood reaches n pixels to every side. Returns (5, H, W): b_y, b_x, a_yy, a_xx, a_xy.
    """
    x = np.arange(-n, n + 1)
    g = np.exp(-(x**2) / (2 * sigma**2))
    g /= g.sum()
    second, fourth = (g * x**2).sum(), (g * x**4).sum()
    if second**2 < np.finfo(np.float64).eps:  # the weights see one pixel, and OpenCV gives up
        return np.zeros((5, *image.shape))

    def moment(i, j):
        rows = ndimage.correlate1d(image, g * x**i, 0, mode="nearest")
        return ndimage.correlate1d(rows, g * x**j, 1, mode="nearest")

    mean = moment(0, 0)
    spread = fourth - second**2
    return np.stack(
        [
            moment(1, 0) / second,
            moment(0, 1) / second,
            (moment(2, 0) - second * mean) / spread,
            (moment(0, 2) - second * mean) / spread,
            moment(1, 1) / second**2,
        ]
    )


def matrices(r0, r1, flow) -> np.ndarray:
    """Return each pixel's normal equations G d = h at the current flow: (5, H, W) g_yy, g_xy, g_xx, h_y, h_x."""
    height, width = flow.shape[1:]
    ys, xs = np.mgrid[:height, :width]
    x, y = xs + flow[0], ys + flow[1]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (x0 >= 0) & (x0 < width - 1) & (y0 >= 0) & (y0 < height - 1)
    sampled = np.stack([ndimage.map_coordinates(r, [y, x], order=1, mode="nearest") for r in r1])
    # where the second frame does not reach, the first frame's curvature stands alone
    b_y, b_x = (r0[:2] - np.where(inside, sampled[:2], 0)) / 2
    a_yy, a_xx, a_xy = np.where(inside, (r0[2:] + sampled[2:]) / 2, r0[2:])
    a_xy = a_xy / 2  # the coefficient of x y is twice the matrix's entry
    b_y, b_x = b_y + a_yy * flow[1] + a_xy * flow[0], b_x + a_xy * flow[1] + a_xx * flow[0]
    trust = border_trust(height, width)
    b_y, b_x, a_yy, a_xx, a_xy = (trust * value for value in (b_y, b_x, a_yy, a_xx, a_xy))
    return np.stack(
        [
            a_yy**2 + a_xy**2,
            (a_yy + a_xx) * a_xy,
            a_xx**2 + a_xy**2,
            a_yy * b_y + a_xy * b_x,
            a_xy * b_y + a_xx * b_x,
        ]
    )


def border_trust(height, width) -> np.ndarray:
    """Return smaller weights for the outermost five pixels; for sides below ten pixels, what OpenCV does there."""
    reach = len(BORDER_WEIGHTS)

    def weights(size):
        padded = np.concatenate([BORDER_WEIGHTS, np.ones(size)])
        return padded[:size] * padded[:size][::-1]

    def near(size):  # its comparison is of unsigned numbers: both sides of it wrap around below ten pixels
        return np.uint32((np.arange(size) - reach) % 2**32) >= np.uint32((size - 2 * reach) % 2**32)

    rim = near(height)[:, None] | near(width)
    return np.where(rim, np.outer(weights(height), weights(width)), 1)


def box_sums(planes, winsize) -> np.ndarray:
    """Sum every plane over the window of 2 * (winsize // 2) + 1 pixels a side, borders replicated."""
    size = 2 * (winsize // 2) + 1
    return np.stack([ndimage.uniform_filter(plane, size, mode="nearest") for plane in planes]) * size**2


def solve(sums, winsize) -> np.ndarray:
    """Solve every pixel's averaged normal equations for (u, v)."""
    g_yy, g_xy, g_xx, h_y, h_x = sums / winsize**2
    determinant = g_yy * g_xx - g_xy**2 + REGULARISATION
    return np.stack([g_yy * h_x - g_xy * h_y, g_xx * h_y - g_xy * h_x]) / determinant
