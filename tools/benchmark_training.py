"""Compare our training step, and our loop with its loader, with a plain loop of the same network.

    python tools/benchmark_training.py VIDEOS --out reports/benchmarks

What is measured, and how, is said in `benchmarks/training_speed.py`.
"""

from __future__ import annotations

import sys

from benchmarks import ROOT  # noqa: F401 - to import it is to take the packages of this checkout
from flow_cache import run_program


def main() -> int:
    """Measure, and write the report."""
    # torch, which must not be imported in a folder that was deleted: run_program leaves it
    from benchmarks.training_speed import main as measure

    return measure()


if __name__ == "__main__":
    sys.exit(run_program("benchmark_training", main))
