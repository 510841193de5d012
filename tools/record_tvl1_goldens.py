"""Record what OpenCV's TV-L1 says about generated frames, for the tests to compare with.

    python tools/record_tvl1_goldens.py tests/flow_cache/methods

The file's name carries OpenCV's version, since its results change between versions.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

from flow_cache.opencv import opencv


def load(path: Path) -> ModuleType:
    """Import a file of the tests."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write tvl1_opencv_<version>.npz into the folder of the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tests", type=Path, help="folder of conftest.py and test_tvl1.py")
    folder = parser.parse_args().tests
    texture = load(folder / "conftest.py").Texture
    golden_case = load(folder / "test_tvl1.py").golden_case
    fields = {}
    for name in ("uint8", "float32", "fixed", "median3", "narrow"):
        first, second, p = golden_case(name, texture)
        if first.dtype == np.float32:  # OpenCV takes float frames from 0 to 1
            first, second = first / np.float32(255), second / np.float32(255)
        solver = opencv().optflow.DualTVL1OpticalFlow_create(
            0.25, 0.15, 0.3, p.get("nscales", 5), p.get("warps", 5), p.get("epsilon", 0.01),
            p.get("inner_iterations", 30), p.get("outer_iterations", 10), 0.8, 0.0, p.get("median_filtering", 5),
        )  # fmt: skip
        flow = np.moveaxis(solver.calc(first, second, None), -1, 0)
        fields[name] = np.round(flow * 2048).astype(
            np.int16
        )  # below 16 px; finer than what the tests ask for
        if np.abs(flow).max() >= 16:
            raise SystemExit(f"{name}: the flow reaches {np.abs(flow).max():.1f} px, which int16 cannot hold")
    np.savez_compressed(folder / f"tvl1_opencv_{opencv().__version__}.npz", **fields)


if __name__ == "__main__":
    main()
