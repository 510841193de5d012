"""Videos for the tools to measure, and how the tools are run; pyproject.toml lets the tests import them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"


def run(*command, cwd=ROOT, **environment):
    """Run a command on the packages of this checkout, with some variables of the environment changed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment, cwd=cwd
    )


def run_tool(script, *arguments, **environment):
    """Run a script of the tools as a user does."""
    return run(sys.executable, TOOLS / script, *arguments, **environment)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
