"""Compare live decisions with the plain loop: OpenCV's TV-L1 pair by pair, and the network on a whole clip each time.

    python tools/benchmark_inference.py --out reports/benchmarks

What is measured, and how, is said in `benchmarks/inference_speed.py`.
"""

from __future__ import annotations

import sys

from benchmarks import ROOT  # noqa: F401 - to import it is to take the packages of this checkout
from flow_cache import run_program


def main() -> int:
    """Measure, and write the report."""
    # torch, which must not be imported in a folder that was deleted: run_program leaves it
    from benchmarks.inference_speed import main as measure

    return measure()


if __name__ == "__main__":
    sys.exit(run_program("benchmark_inference", main))
