"""Generated frames whose motion is known, a real pair, and a plain reference of TV-L1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Plane = NDArray[np.float64]


def keys(distance: Plane) -> Plane:
    """Return the cubic convolution kernel with slope -0.5 (Keys 1981, equation 15)."""
    s = np.abs(distance)
    near = 1.5 * s**3 - 2.5 * s**2 + 1
    far = -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2
    return np.where(s <= 1, near, np.where(s < 2, far, 0.0))


def sample(plane: Plane, x: Plane, y: Plane) -> Plane:
    """Interpolate over all grid points less than 2 away, by weights divided by their sum, borders repeated."""
    height, width = plane.shape
    total, weights = np.zeros(x.shape), np.zeros(x.shape)
    for j in range(-2, 4):
        for i in range(-2, 4):
            cx, cy = np.floor(x) + i, np.floor(y) + j
            weight = keys(x - cx) * keys(y - cy)
            rows = np.clip(cy, 0, height - 1).astype(int)
            columns = np.clip(cx, 0, width - 1).astype(int)
            total += weight * plane[rows, columns]
            weights += weight
    return total / weights


def resize(plane: Plane, shape: tuple[int, int], scale: tuple[float, float]) -> Plane:
    """Resize linearly from the top left corner: target pixel i lies at source position i * scale."""
    for axis in (0, 1):
        position = np.arange(shape[axis]) * scale[axis]
        low = np.minimum(np.floor(position).astype(int), plane.shape[axis] - 1)
        high = np.minimum(low + 1, plane.shape[axis] - 1)
        t = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
        plane = np.take(plane, low, axis) * (1 - t) + np.take(plane, high, axis) * t
    return plane


def gradient(plane: Plane) -> tuple[Plane, Plane]:
    """Return central differences, halved one-sided ones at the border."""
    padded = np.pad(plane, 1, mode="edge")
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


def divergence(px: Plane, py: Plane) -> Plane:
    """Return backward differences with p = 0 before the first pixel."""
    return np.diff(px, axis=1, prepend=0) + np.diff(py, axis=0, prepend=0)


def tvl1_cuda(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    *,
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    nscales: int = 5,
    warps: int = 5,
    iterations: int = 300,
    scale_step: float = 0.8,
) -> Plane:
    """Estimate the flow (2, H, W) by a fixed number of iterations."""
    pyramids = [(np.asarray(first, np.float64), np.asarray(second, np.float64))]
    for _ in range(nscales - 1):
        height, width = pyramids[-1][0].shape
        shape = (round(height * scale_step), round(width * scale_step))
        if min(shape) < 16:
            break
        scale = (1 / scale_step, 1 / scale_step)
        pyramids.append((resize(pyramids[-1][0], shape, scale), resize(pyramids[-1][1], shape, scale)))
    flow = np.zeros((2, *pyramids[-1][0].shape))
    for before, after in reversed(pyramids):
        if flow[0].shape != before.shape:
            scale = (flow.shape[1] / before.shape[0], flow.shape[2] / before.shape[1])
            flow = np.stack([resize(plane, before.shape, scale) for plane in flow]) / scale_step
        y, x = np.mgrid[: before.shape[0], : before.shape[1]].astype(np.float64)
        after_x, after_y = gradient(after)
        p = np.zeros((2, 2, *before.shape))
        for _ in range(warps):
            position = (x + flow[0], y + flow[1])
            g = np.stack([sample(after_x, *position), sample(after_y, *position)])
            square = (g**2).sum(axis=0)
            rho_c = sample(after, *position) - (g * flow).sum(axis=0) - before
            for _ in range(iterations):
                rho = rho_c + (g * flow).sum(axis=0)
                fitting = -rho / np.where(square > np.finfo(np.float32).eps, square, np.inf)
                step = np.where(
                    rho < -lambda_ * theta * square,
                    lambda_ * theta,
                    np.where(rho > lambda_ * theta * square, -lambda_ * theta, fitting),
                )
                flow = flow + step * g + theta * np.stack([divergence(*p[0]), divergence(*p[1])])
                for i in range(2):
                    d = np.stack(
                        [
                            np.diff(flow[i], axis=1, append=flow[i][:, -1:]),
                            np.diff(flow[i], axis=0, append=flow[i][-1:]),
                        ]
                    )
                    p[i] = (p[i] + tau / theta * d) / (1 + tau / theta * np.hypot(*d))
    return flow


@pytest.fixture
def tvl1_cuda_reference() -> Callable[..., Plane]:
    """TV-L1 in plain NumPy float64 with the conventions of OpenCV's CUDA version; it uses no code of the package."""
    return tvl1_cuda


class Texture:
    """A smooth random picture, a sum of waves, that can be sampled exactly at any position."""

    def __init__(self, seed: int = 0, waves: int = 40, shortest: float = 6.0) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.uniform(shortest, 6 * shortest, waves)
        angles = rng.uniform(0, 2 * np.pi, waves)
        self._kx, self._ky = 2 * np.pi / lengths * np.cos(angles), 2 * np.pi / lengths * np.sin(angles)
        self._phases = rng.uniform(0, 2 * np.pi, waves)

    def at(self, x: Plane, y: Plane) -> NDArray[np.float32]:
        """Return grey levels from 0 to 255 at the positions."""
        total = sum(
            np.cos(kx * x + ky * y + phase)
            for kx, ky, phase in zip(self._kx, self._ky, self._phases, strict=True)
        )
        return np.clip(127.5 + 20 * np.asarray(total), 0, 255).astype(np.float32)

    def moved(
        self, height: int, width: int, motion: Motion
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Plane]:
        """Return two frames and the flow (2, H, W) from the first to the second.

        motion: a linear map and a shift, from positions (x, y) about the centre in the first frame to the second.
        """
        matrix, shift = motion
        y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
        inverse = np.linalg.inv(matrix)
        bx, by = x - shift[0], y - shift[1]
        second = self.at(inverse[0, 0] * bx + inverse[0, 1] * by, inverse[1, 0] * bx + inverse[1, 1] * by)
        tx = matrix[0, 0] * x + matrix[0, 1] * y + shift[0]
        ty = matrix[1, 0] * x + matrix[1, 1] * y + shift[1]
        return self.at(x, y), second, np.stack([tx - x, ty - y])


Motion = tuple[NDArray[np.float64], tuple[float, float]]


@pytest.fixture
def texture() -> type[Texture]:
    """The class of pictures that can be moved exactly."""
    return Texture


@pytest.fixture(scope="session")
def rubber_whale(real_data: Path) -> NDArray[np.uint8]:
    """Middlebury's pair of frames RubberWhale, (2, H, W) uint8."""
    folder = real_data / "flow" / "RubberWhale"
    names = ("frame10.png", "frame11.png")
    return np.stack([cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE) for name in names])
