"""The benchmark of memory, on two short videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def test_writes_what_it_measured(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "benchmark_memory.py"), "--out", str(tmp_path / "out")]
    command += ["--seconds", "1", "2", "--size", "64", "48", "--scratch", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "out" / "memory.csv").open(newline="") as file:
        short, long = csv.DictReader(file)
    assert (short["fields"], long["fields"]) == ("29", "59")
    assert float(long["megabytes"]) > 1.5 * float(short["megabytes"])
    for row in (short, long):
        assert 20 < float(row["largest"]) < 1000
        assert 20 < float(row["together"]) < 2000
        assert 0 <= float(row["open"]) <= float(row["read"]) < 100
        assert float(row["opening"]) > 0
    assert "times the memory of the short one" in (tmp_path / "out" / "memory.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
