"""Compare our loader with JPEG folders and with decoding on the fly: clips per second, waiting, memory.

    python tools/benchmark_loader.py VIDEOS --out reports/benchmarks

What is measured, and how, is said in `benchmarks/loader_speed.py`.
"""

from __future__ import annotations

import sys

from benchmarks import ROOT  # noqa: F401 - to import it is to take the packages of this checkout
from flow_cache import run_program


def main() -> int:
    """Measure, and write the report."""
    # torch, which must not be imported in a folder that was deleted: run_program leaves it
    from benchmarks.loader_speed import main as measure

    return measure()


if __name__ == "__main__":
    sys.exit(run_program("benchmark_loader", main))
