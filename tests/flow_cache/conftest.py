"""Small generated videos, and the real ones where they exist."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "data"

# Worker processes and command lines started by the tests must find the packages without an installation.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real videos are not here ({REAL_DATA})")
    return REAL_DATA


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture, (H, W) uint8: enough gradient everywhere to tell motion from."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5) + 2 * cv2.GaussianBlur(noise, (0, 0), 4)
    return cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def moving_stack(frames: int, height: int, width: int, dx: float, dy: float, seed: int = 0) -> np.ndarray:
    """A texture that moves by (dx, dy) pixels a frame, larger than the frame: (T, H, W) uint8."""
    margin = int(np.ceil(max(abs(dx), abs(dy)) * frames)) + 4
    large = texture(height + 2 * margin, width + 2 * margin, seed)
    stack = []
    for t in range(frames):
        matrix = np.float32([[1, 0, dx * t], [0, 1, dy * t]])
        moved = cv2.warpAffine(large, matrix, large.shape[::-1], flags=cv2.INTER_CUBIC)
        stack.append(moved[margin:-margin, margin:-margin])
    return np.stack(stack)


@pytest.fixture(scope="session")
def stack() -> Callable[..., np.ndarray]:
    return moving_stack


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Write a small video file whose texture moves; the suffix chooses the codec."""

    def make(path: Path, frames: int = 6, width: int = 64, height: int = 48, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), code, 25.0, (width, height))
        assert writer.isOpened()
        for grey in moving_stack(frames, height, width, 1.0, 0.5, seed):
            writer.write(
                np.stack([grey // 2, grey, 255 - grey], axis=-1)
            )  # B, G, R differ: a swap would show
        writer.release()
        return path

    return make
