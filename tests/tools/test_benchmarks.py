"""What the benchmark scripts share."""

from __future__ import annotations

import sys

import pytest

from benchmarks.timing import median_and_range, ratios

from .conftest import TOOLS, run

SCRIPTS = ("benchmark_cache.py", "benchmark_cuda.py", "benchmark_decoding.py", "benchmark_flow.py",
           "benchmark_memory.py", "fuzz_cache.py", "kill_precompute.py", "precompute_flow.py")  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_from_any_folder_on_the_packages_of_its_checkout(script, tmp_path):
    """Whatever is installed, or first on the path."""
    (tmp_path / "flow_cache").mkdir()
    (tmp_path / "flow_cache" / "__init__.py").write_text("raise SystemExit('another flow_cache')")
    done = run(sys.executable, TOOLS / script, "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().startswith("usage: ")


def test_ratios_are_of_the_same_round():
    assert ratios([2, 9, 8], [1, 3, 2]) == (3, 2, 4)
    assert median_and_range([3, 1, 2, 9]) == (2.5, 1, 9)
