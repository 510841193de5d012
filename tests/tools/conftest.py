"""Videos for the tools to measure."""

from __future__ import annotations

import cv2
import numpy as np
import pytest


@pytest.fixture
def make_videos(tmp_path):
    """Write short videos of a moving texture, of `lengths` frames, into a folder."""

    def make(lengths, width, height):
        rng = np.random.default_rng(0)
        folder = tmp_path / "videos"
        folder.mkdir()
        for n, frames in enumerate(lengths):
            large = cv2.GaussianBlur(rng.integers(0, 256, (80, 120, 3), np.uint8), (0, 0), 2)
            codec = cv2.VideoWriter.fourcc(*"MJPG")
            writer = cv2.VideoWriter(str(folder / f"{n}.avi"), codec, 25, (width, height))
            for t in range(frames):
                writer.write(np.ascontiguousarray(large[t : t + height, 2 * t : 2 * t + width]))
            writer.release()
        return folder

    return make
