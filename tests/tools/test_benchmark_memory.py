"""The benchmark of memory, on two short videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import sys

import pytest

from .conftest import read_csv, run_tool

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


def test_writes_what_it_measured(tmp_path):
    short_and_long = ("--seconds", 1, 2, "--size", 64, 48, "--scratch", tmp_path)
    done = run_tool("benchmark_memory.py", "--out", tmp_path / "out", *short_and_long)
    assert done.returncode == 0, done.stdout + done.stderr
    short, long = read_csv(tmp_path / "out" / "memory.csv")
    assert (short["fields"], long["fields"]) == ("29", "59")
    assert float(long["megabytes"]) > 1.5 * float(short["megabytes"])
    for row in (short, long):
        assert 20 < float(row["largest"]) < 1000
        assert 20 < float(row["together"]) < 2000
        assert 0 <= float(row["open"]) <= float(row["read"]) < 100
        assert float(row["opening"]) > 0
    assert "times the memory of the short one" in (tmp_path / "out" / "memory.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
