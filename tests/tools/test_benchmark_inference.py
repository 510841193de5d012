"""The benchmark of live decisions, on small pictures: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import pytest

from .conftest import read_csv, run_tool

PLAIN = "plain loop, OpenCV's TV-L1"
OURS = {"ours, tvl1 opencv", "ours, tvl1 fast", "ours, dis medium", "ours, dis fast"}


def test_writes_what_it_measured(tmp_path):
    done = run_tool(
        "benchmark_inference.py", "--quick", "--repeats", "2", "--out", tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["contestant"]: row for row in read_csv(tmp_path / "inference.csv")}
    assert set(rows) == {PLAIN, *OURS}
    for name, row in rows.items():
        low, seconds, high = (float(row[key]) for key in ("low", "seconds", "high"))
        assert 0 < low <= seconds <= high
        assert float(row["flow"]) > 0
        assert (float(row["frames_per_second"]) > 0) == (float(row["latency"]) > 0) == (name in OURS)
    assert float(rows[PLAIN]["ratio"]) == pytest.approx(1)
    text = (tmp_path / "inference.md").read_text(encoding="utf-8")
    assert "differ by" in text
    assert all(f"| {name} |" in text for name in rows)
