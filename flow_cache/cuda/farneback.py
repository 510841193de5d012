"""Farneback on a device: which kernels of `farneback.cu` run in what order, on what sizes, in how much memory.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003, as OpenCV computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flow_cache.cuda.backend import Backend, DeviceArray, Size, blocks_for
from flow_cache.methods.farneback import FarnebackParameters

SMALLEST_LEVEL = 32  # pixels: a level with a shorter side is not built
REGULARISATION = 1e-3  # added to the determinant of a pixel's averaged equations; for grey levels from 0 to 255
PLANES = 5  # of a polynomial, and of a pixel's equations
MOMENTS = 4  # what `expand` keeps of a pixel's column
THREADS = 256  # of a block
TILE = (32, 8, 1)  # threads of a block where every pixel stands alone
STRIPS = (32, 4, 1)  # threads of a block that walk down columns
STRIP = 16  # pixels that such a thread walks


@dataclass(frozen=True)
class Level:
    """A level of the pyramid."""

    height: int
    width: int
    sigma: float
    """Standard deviation, in pixels of the frame, of the smoothing before it is sampled."""


def pyramid_levels(height: int, width: int, parameters: FarnebackParameters) -> list[Level]:
    """Return the levels that are built, the frame's own size first."""
    levels: list[Level] = []
    scale = 1.0
    while not levels or (len(levels) <= parameters.levels and min(height, width) * scale >= SMALLEST_LEVEL):
        levels.append(Level(round(height * scale), round(width * scale), (1 / scale - 1) / 2))
        scale *= parameters.pyr_scale
    return levels


def smoothing_taps(sigma: float) -> NDArray[np.float32]:
    """Return the Gaussian that smooths frames for a level; the frame's own size takes 1 2 1."""
    size = max(round(5 * sigma) | 1, 3)
    x = np.arange(size) - size // 2
    taps = np.exp(-(x**2) / (2 * sigma**2)) if sigma > 0 else np.array([1.0, 2.0, 1.0])
    return np.asarray(taps / taps.sum(), np.float32)


def expansion_weights(radius: int, sigma: float) -> NDArray[np.float32]:
    """Return the weights of the polynomial fit as `expand` reads them: g, g k, g k^2 for k = 0 .. radius, then moments.

    Where so narrow a Gaussian sees one pixel only, no polynomial can be told: all inverse moments are 0, then so is
    the flow.
    """
    if sigma < np.finfo(np.float32).eps:
        sigma = 0.3 * radius
    k = np.arange(radius + 1.0)
    g = np.exp(-(k**2) / (2 * sigma**2))
    g /= 2 * g.sum() - g[0]
    second, fourth = 2 * (g * k**2).sum(), 2 * (g * k**4).sum()
    moments = [0.0, 0.0, 0.0, second]
    if second**2 >= np.finfo(np.float64).eps:
        moments[:3] = 1 / second, 1 / (fourth - second**2), 1 / second**2
    return np.concatenate([g, g * k, g * k**2, moments]).astype(np.float32)


@dataclass(frozen=True)
class RowBlocks:
    """Blocks that filter along rows: each takes `outputs` pixels and `radius` more at both ends into shared memory."""

    outputs: int
    grid: tuple[int, int]
    block: Size
    shared: int

    @classmethod
    def cover(cls, level: Level, radius: int, planes: int) -> RowBlocks:
        """Cut rows evenly, so that a block's threads take one pixel each where the radius leaves them enough to do."""
        room = THREADS - 2 * radius
        segments = blocks_for(level.width, room if room >= THREADS // 2 else THREADS)
        outputs = blocks_for(level.width, segments)
        span = outputs + 2 * radius
        columns = min(THREADS, 32 * blocks_for(span, 32))
        rows = min(THREADS // columns, level.height)
        return cls(
            outputs,
            (segments, blocks_for(level.height, rows)),
            (columns, rows, 1),
            rows * planes * span * np.dtype(np.float32).itemsize,
        )


def batch_bytes(
    frames: int, pairs: int, height: int, width: int, dtype: DTypeLike, parameters: FarnebackParameters
) -> int:
    """Return the bytes of device memory that a FarnebackBatch of this size takes."""
    return sum(
        int(np.prod(shape)) * np.dtype(kind).itemsize
        for shape, kind in _shapes(frames, pairs, height, width, dtype, parameters).values()
    )


def _shapes(
    frames: int, pairs: int, height: int, width: int, dtype: DTypeLike, parameters: FarnebackParameters
) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
    area = height * width
    coarser = [level.height * level.width for level in pyramid_levels(height, width, parameters)[1:2]]
    return {
        "frames": ((frames, height, width), dtype),
        "flow": ((pairs, 2, height, width), np.float32),
        "coarser_flow": ((pairs * 2 * sum(coarser),), np.float32),
        "polynomials": ((frames * PLANES * area,), np.float32),
        # first the frames' two passes of smoothing, later the pairs' equations
        "scratch": ((max(2 * frames, PLANES * pairs) * area,), np.float32),
    }


class FarnebackBatch:
    """The arrays and launches of up to `pairs` pairs of one size: fill `frames`, call `run`, read `flow`.

    Pair n goes from frame n to frame n + apart. Each frame is smoothed and expanded once, for both of its pairs.
    Nothing is allocated, copied to the host or waited for in `run`, so that its launches can be recorded.
    """

    frames: DeviceArray
    """(F, H, W) uint8 or float32 grey levels from 0 to 255."""
    flow: DeviceArray
    """(N, 2, H, W) float32, pixels: u, v."""

    def __init__(
        self,
        backend: Backend,
        frames: int,
        pairs: int,
        apart: int,
        shape: tuple[int, int],
        dtype: DTypeLike,
        parameters: FarnebackParameters,
    ) -> None:
        self._parameters = parameters
        self._pairs = pairs
        self._apart = apart
        self._module = backend.module("farneback.cu")
        self._levels = pyramid_levels(*shape, parameters)
        arrays = {
            name: backend.empty(*array)
            for name, array in _shapes(frames, pairs, *shape, dtype, parameters).items()
        }
        self.frames, self.flow = arrays["frames"], arrays["flow"]
        self._coarser_flow = arrays["coarser_flow"]
        self._polynomials, self._scratch = arrays["polynomials"], arrays["scratch"]
        self._backend = backend
        self._upload_tables()

    def _upload_tables(self) -> None:
        """Send all filters in one copy."""
        p = self._parameters
        tables = [
            expansion_weights(p.poly_n, p.poly_sigma),
            *(smoothing_taps(level.sigma) for level in self._levels),
        ]
        whole = np.concatenate(tables)
        device = self._backend.empty(whole.shape, whole.dtype)
        self._backend.upload(whole, device)
        ends = np.cumsum([len(table) for table in tables]).tolist()
        self._weights, *self._taps = (
            device[end - len(table) : end] for end, table in zip(ends, tables, strict=True)
        )

    def run(self) -> None:
        """Queue the estimation of all pairs."""
        # the levels take turns with two buffers, so that the finest level's is `flow`
        flow, previous = self.flow.reshape(-1), self._coarser_flow
        if len(self._levels) % 2 == 0:
            flow, previous = previous, flow
        for index in reversed(range(len(self._levels))):
            level = self._levels[index]
            self._expand_frames(level, self._taps[index])
            if index + 1 < len(self._levels):
                self._enlarge(previous, self._levels[index + 1], flow, level)
            else:
                self._backend.clear(flow[: self._pairs * 2 * level.height * level.width])
            for _ in range(self._parameters.iterations):
                self._iterate(flow, level)
            flow, previous = previous, flow

    def _expand_frames(self, level: Level, taps: DeviceArray) -> None:
        """Fit polynomials to every frame on a level."""
        frames, height, width = self.frames.shape
        rows, image = self._scratch, self._scratch[frames * height * level.width :]
        arguments = (width, height, level.width, np.float64(width / level.width), taps, len(taps) // 2)
        kernel = f"smooth_rows_{self.frames.dtype.name}"
        self._launch(kernel, (level.width, height, frames), (self.frames, rows, *arguments))
        arguments = (
            height,
            level.width,
            level.height,
            np.float64(height / level.height),
            taps,
            len(taps) // 2,
        )
        self._launch("smooth_columns", (level.width, level.height, frames), (rows, image, *arguments))
        radius = self._parameters.poly_n
        blocks = RowBlocks.cover(level, radius, MOMENTS)
        self._module.launch(
            "expand",
            (*blocks.grid, frames),
            blocks.block,
            (image, self._polynomials, level.width, level.height, self._weights, radius, blocks.outputs),
            blocks.shared,
        )

    def _enlarge(self, coarse: DeviceArray, coarser: Level, fine: DeviceArray, level: Level) -> None:
        """Start a level from the flow of the one above."""
        scales = np.float64(coarser.width / level.width), np.float64(coarser.height / level.height)
        sizes = (coarser.width, coarser.height, level.width, level.height)
        self._launch(
            "enlarge_flow",
            (level.width, level.height, 2 * self._pairs),
            (coarse, fine, *sizes, *scales, 1 / self._parameters.pyr_scale),
        )

    def _iterate(self, flow: DeviceArray, level: Level) -> None:
        """Form all equations at the present flow, average them over the window, solve them."""
        radius = self._parameters.winsize // 2
        blocks = RowBlocks.cover(level, radius, PLANES)
        size = (level.width, level.height)
        self._module.launch(
            "sum_equations_along_rows",
            (*blocks.grid, self._pairs),
            blocks.block,
            (self._polynomials, flow, self._scratch, *size, self._apart, radius, blocks.outputs),
            blocks.shared,
        )
        strips = (
            blocks_for(level.width, STRIPS[0]),
            blocks_for(level.height, STRIPS[1] * STRIP),
            self._pairs,
        )
        # the means' determinant takes REGULARISATION; the sums are winsize^2 times as large
        regularisation = REGULARISATION * self._parameters.winsize**4
        self._module.launch(
            "solve_along_columns", strips, STRIPS, (self._scratch, flow, *size, radius, STRIP, regularisation)
        )

    def _launch(self, name: str, size: Size, arguments: tuple[object, ...]) -> None:
        """Launch a kernel with a thread for each pixel of (width, height, count)."""
        width, height, count = size
        grid = (blocks_for(width, TILE[0]), blocks_for(height, TILE[1]), count)
        self._module.launch(name, grid, TILE, arguments)
