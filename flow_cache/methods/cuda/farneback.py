"""Farneback on CUDA: the launches of `farneback.cu`, their order and sizes, and the memory that they need.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003, as OpenCV computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.cuda.backend import Backend, DeviceArray, Size, blocks_for
from flow_cache.methods.cuda.engine import CudaMethod, Workspace
from flow_cache.methods.farneback import FarnebackParameters

SMALLEST_LEVEL = 32  # pixels: a level with a shorter side is not built
# added to the determinant of a pixel's averaged equations; for grey levels from 0 to 255
REGULARISATION = 1e-3
FLOAT_BYTES = 4
MOMENTS = 4  # floats of shared memory for each pixel, in the kernel `expand`
EQUATIONS = 10  # floats of shared memory for each pixel, in the kernel `sum_equations_along_rows`
THREADS = 256  # of a block
TILE = (32, 8, 1)  # block of the kernels in which a thread computes one pixel
STRIPS = (32, 4, 1)  # block of the kernel in which a thread goes down a column
STRIP = 16  # pixels of the column that such a thread computes


@dataclass(frozen=True)
class Level:
    """A level of the pyramid.

    Attributes:
        height: pixels.
        width: pixels.
        sigma: standard deviation of the Gaussian that smooths the frame before it is sampled, in pixels of the frame.
    """

    height: int
    width: int
    sigma: float

    @property
    def area(self) -> int:
        """Pixels of the level."""
        return self.height * self.width

    @property
    def sheet(self) -> int:
        """Floats of an array with five values for each pixel, as the kernels lay it out."""
        return 5 * padded(self.area)


def padded(count: int) -> int:
    """Round a number of floats up to whole float4."""
    return 4 * blocks_for(count, 4)


def pyramid_levels(height: int, width: int, parameters: FarnebackParameters) -> list[Level]:
    """Return the pyramid levels of a frame of height x width pixels, finest first."""
    levels: list[Level] = []
    scale = 1.0
    while not levels or (len(levels) <= parameters.levels and min(height, width) * scale >= SMALLEST_LEVEL):
        levels.append(Level(round(height * scale), round(width * scale), (1 / scale - 1) / 2))
        scale *= parameters.pyr_scale
    return levels


def smoothing_taps(sigma: float) -> NDArray[np.float32]:
    """Return the filter, float32 with sum 1, that smooths a frame for a level.

    Args:
        sigma: standard deviation of the Gaussian, pixels; 0, for the finest level, gives the filter 1 2 1.
    """
    size = max(round(5 * sigma) | 1, 3)
    x = np.arange(size) - size // 2
    taps = np.exp(-(x**2) / (2 * sigma**2)) if sigma > 0 else np.array([1.0, 2.0, 1.0])
    return np.asarray(taps / taps.sum(), np.float32)


def expansion_weights(radius: int, sigma: float) -> NDArray[np.float32]:
    """Return the weights of the polynomial fit as the kernel `expand` reads them.

    Args:
        radius: the neighbourhood reaches this many pixels to every side.
        sigma: standard deviation of the Gaussian g, pixels.

    Returns:
        float32: g, g k, g k^2 for k = 0 .. radius, then inverse moments. If the Gaussian is so narrow that it weights
        only one pixel, no polynomial can be fitted: all inverse moments are 0, and so is the flow.
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
    """Blocks of a kernel that filters along rows, in shared memory.

    Attributes:
        outputs: neighbouring pixels of a row that a block computes; it reads the filter's radius more at both ends.
        grid: blocks along x and y.
        block: threads of a block along x, y, z.
        shared: bytes of shared memory of a block.
    """

    outputs: int
    grid: tuple[int, int]
    block: Size
    shared: int

    @classmethod
    def cover(cls, level: Level, radius: int, floats: int) -> RowBlocks:
        """Cut the rows of a level into equal parts, so that each thread reads one pixel unless the radius is large.

        Args:
            level: gives the size.
            radius: of the filter, pixels.
            floats: floats of shared memory for each pixel.
        """
        segments = blocks_for(level.width, max(THREADS - 2 * radius, THREADS // 2))
        outputs = blocks_for(level.width, segments)
        span = outputs + 2 * radius
        columns = min(THREADS, 32 * blocks_for(span, 32))
        rows = min(THREADS // columns, level.height)
        return cls(
            outputs,
            (segments, blocks_for(level.height, rows)),
            (columns, rows, 1),
            rows * floats * padded(span) * FLOAT_BYTES,
        )


class FarnebackWorkspace(Workspace):
    """The arrays and launches of Farneback's flow for pairs of one size.

    A slot holds a frame's polynomials on all levels. `work` does not allocate and does not wait.

    Args:
        backend: the device.
        parameters: of the algorithm.
        height, width, frames, pairs: see `Workspace`.
    """

    def __init__(
        self,
        backend: Backend,
        parameters: FarnebackParameters,
        height: int,
        width: int,
        frames: int,
        pairs: int,
    ) -> None:
        super().__init__(backend, height, width, frames, pairs)
        self._parameters = parameters
        self._module = backend.module("farneback.cu")
        self._levels = pyramid_levels(height, width, parameters)
        self._polynomials = [backend.empty(frames * level.sheet, np.float32) for level in self._levels]
        # first for the two passes that smooth the frames, later for the equations of the pairs
        whole = self._levels[0]
        self._scratch = backend.empty(max(2 * frames * whole.area, pairs * whole.sheet), np.float32)
        self._coarser_flow = backend.empty(
            2 * pairs * sum(level.area for level in self._levels[1:2]), np.float32
        )
        self._upload_tables()

    def _upload_tables(self) -> None:
        """Upload all filters in one copy."""
        p = self._parameters
        tables = [
            expansion_weights(p.poly_n, p.poly_sigma),
            *(smoothing_taps(level.sigma) for level in self._levels),
        ]
        whole = np.concatenate(tables)
        device = self.backend.empty(whole.shape, whole.dtype)
        self.backend.upload(whole, device)
        ends = np.cumsum([len(table) for table in tables]).tolist()
        self._weights, *self._taps = (
            device[end - len(table) : end] for end, table in zip(ends, tables, strict=True)
        )

    def work(self, staged: DeviceArray) -> None:
        """Queue all launches: polynomials of the staged frames, then the flow of the pairs, coarse to fine."""
        for index in range(len(self._levels)):
            self._expand(staged, index)
        # the levels alternate between two buffers, so that the finest one writes into `flow`
        flow, previous = self.flow.reshape(-1), self._coarser_flow
        if len(self._levels) % 2 == 0:
            flow, previous = previous, flow
        for index in reversed(range(len(self._levels))):
            level = self._levels[index]
            if index + 1 < len(self._levels):
                self._enlarge(previous, self._levels[index + 1], flow, level)
            else:
                self.backend.clear(flow[: 2 * self.pairs * level.area])
            for _ in range(self._parameters.iterations):
                self._iterate(flow, index)
            flow, previous = previous, flow

    def _expand(self, staged: DeviceArray, index: int) -> None:
        """Fit polynomials to the staged frames on one level, and store them in the frames' slots."""
        level, taps = self._levels[index], self._taps[index]
        rows, image = self._scratch, self._scratch[self.frames * self.height * level.width :]
        scale_x, scale_y = np.float64(self.width / level.width), np.float64(self.height / level.height)
        radius = len(taps) // 2
        self._launch(
            f"smooth_rows_{staged.dtype.name}",
            (level.width, self.height, self.frames),
            (staged, self.slots, rows, self.width, self.height, level.width, scale_x, taps, radius),
        )
        self._launch(
            "smooth_columns",
            (level.width, level.height, self.frames),
            (rows, self.slots, image, self.height, level.width, level.height, scale_y, taps, radius),
        )
        radius = self._parameters.poly_n
        blocks = RowBlocks.cover(level, radius, MOMENTS)
        size = (level.width, level.height)
        self._module.launch(
            "expand",
            (*blocks.grid, self.frames),
            blocks.block,
            (image, self.slots, self._polynomials[index], *size, self._weights, radius, blocks.outputs),
            blocks.shared,
        )

    def _enlarge(self, coarse: DeviceArray, coarser: Level, fine: DeviceArray, level: Level) -> None:
        """Start a level with the resized flow of the next coarser one."""
        scales = np.float64(coarser.width / level.width), np.float64(coarser.height / level.height)
        sizes = (coarser.width, coarser.height, level.width, level.height)
        self._launch(
            "enlarge_flow",
            (level.width, level.height, 2 * self.pairs),
            (coarse, self.first, fine, *sizes, *scales, 1 / self._parameters.pyr_scale),
        )

    def _iterate(self, flow: DeviceArray, index: int) -> None:
        """Set up all equations at the current flow, average them over the window, solve them."""
        level = self._levels[index]
        radius = self._parameters.winsize // 2
        blocks = RowBlocks.cover(level, radius, EQUATIONS)
        size = (level.width, level.height)
        frames = (self._polynomials[index], self.first, self.second)
        self._module.launch(
            "sum_equations_along_rows",
            (*blocks.grid, self.pairs),
            blocks.block,
            (*frames, flow, self._scratch, *size, radius, blocks.outputs),
            blocks.shared,
        )
        # REGULARISATION is for means; sums are winsize^2 times as large, their determinant winsize^4 times
        regularisation = REGULARISATION * self._parameters.winsize**4
        self._module.launch(
            "solve_along_columns",
            (blocks_for(level.width, STRIPS[0]), blocks_for(level.height, STRIPS[1] * STRIP), self.pairs),
            STRIPS,
            (self._scratch, self.first, flow, *size, radius, STRIP, regularisation),
        )

    def _launch(self, name: str, size: Size, arguments: tuple[object, ...]) -> None:
        """Launch a kernel with a thread for each pixel of (width, height, count)."""
        width, height, count = size
        grid = (blocks_for(width, TILE[0]), blocks_for(height, TILE[1]), count)
        self._module.launch(name, grid, TILE, arguments)


class Farneback(CudaMethod):
    """Farneback's flow on one GPU, as OpenCV's calcOpticalFlowFarneback estimates it on the CPU.

    They differ only for winsize 1: OpenCV then adds the first row and column to every window.

    Args:
        parameters: of the algorithm.
        backend: the device.
    """

    name = "farneback"
    parameters_type = FarnebackParameters

    def __init__(self, parameters: FarnebackParameters, backend: Backend) -> None:
        super().__init__(backend)
        self.parameters: FarnebackParameters = parameters
        self.backend = "cuda"

    def _make_workspace(self, height: int, width: int, frames: int, pairs: int) -> Workspace:
        return FarnebackWorkspace(self.device, self.parameters, height, width, frames, pairs)

    def _bytes(self, height: int, width: int) -> tuple[int, int]:
        """Return the bytes of a frame and those of a pair in a workspace.

        The scratch is counted with the pairs, five floats per pixel for each. Frames need less of it: two floats per
        pixel for each, and there are at most twice as many.
        """
        levels = pyramid_levels(height, width, self.parameters)
        staged = (1 + FLOAT_BYTES) * levels[0].area  # as bytes, as floats, or both in turn
        frame = sum(level.sheet for level in levels)
        pair = levels[0].sheet + 2 * sum(level.area for level in levels[:2])
        return staged + frame * FLOAT_BYTES, pair * FLOAT_BYTES
