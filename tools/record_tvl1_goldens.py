"""Record what OpenCV's TV-L1 says, for the tests to compare with.

    python tools/record_tvl1_goldens.py tests/flow_cache/methods/tvl1 [--data DATA]

Of generated frames, and, where the folder of the real videos is named, of crops of these: the flow alone, without the
frames. The files' names carry OpenCV's version, since its results change between versions.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache import run_program
from flow_cache.runtime import opencv

GENERATED = ("uint8", "float32", "fixed", "median3", "narrow")
STEPS = 2048  # a pixel's, in int16: up to 16 px, and finer than the tests ask for


def estimate(name: str, first: NDArray[Any], second: NDArray[Any], **parameters: Any) -> NDArray[np.int16]:
    """Return OpenCV's flow (2, H, W) in 2048ths of a pixel."""
    if first.dtype == np.float32:  # OpenCV takes float frames from 0 to 1
        first, second = first / np.float32(255), second / np.float32(255)
    solver = opencv().optflow.DualTVL1OpticalFlow_create(
        **{
            {"inner_iterations": "innnerIterations", "outer_iterations": "outerIterations"}.get(
                key, key
            ): value
            for key, value in parameters.items()
            if key != "median_filtering"
        }
    )
    solver.setMedianFiltering(parameters.get("median_filtering", solver.getMedianFiltering()))
    flow = np.moveaxis(solver.calc(first, second, None), -1, 0)
    if np.abs(flow).max() >= 2**15 / STEPS:
        raise SystemExit(f"{name}: the flow reaches {np.abs(flow).max():.1f} px, which int16 cannot hold")
    return np.asarray(np.round(flow * STEPS), np.int16)


def main() -> int:
    """Write tvl1_opencv_<version>.npz, and with --data tvl1_opencv_<version>_real.npz too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", type=Path, help="folder of test_tvl1.py and test_tvl1_real.py")
    parser.add_argument("--data", type=Path, help="folder of jhmdb/<class>/*.avi")
    options = parser.parse_args()
    folder = options.tests
    texture = runpy.run_path(str(folder.parent / "conftest.py"))["Texture"]
    golden_case = runpy.run_path(str(folder / "test_tvl1.py"))["golden_case"]
    fields: dict[str, Any] = {}
    for name in GENERATED:
        first, second, parameters = golden_case(name, texture)
        fields[name] = estimate(name, first, second, **parameters)
    version = opencv().__version__
    np.savez_compressed(folder / f"tvl1_opencv_{version}.npz", **fields)
    if options.data:
        real = runpy.run_path(str(folder / "test_tvl1_real.py"))
        crops: dict[str, Any] = {
            name: estimate(name, *real["read_crop"](options.data, name)) for name in real["CROPS"]
        }
        np.savez_compressed(folder / f"tvl1_opencv_{version}_real.npz", **crops)
    return 0


if __name__ == "__main__":
    sys.exit(run_program("record_tvl1_goldens", main))
