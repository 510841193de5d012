"""The benchmark of decoding, on few small videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import sys

import pytest

from .conftest import read_csv, run_tool

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


def test_writes_what_it_measured(make_videos, tmp_path):
    pytest.importorskip("aiohttp", reason="needs fsspec's HTTP")
    out = tmp_path / "out"
    videos = make_videos((5, 7), width=64, height=48)
    done = run_tool(
        "benchmark_decoding.py", videos, "--quick", "--remote", "--out", out, "--scratch", tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in read_csv(out / "decoding.csv") if row["contestant"] == "OpenCV"]
    assert {row["files"]: row["frames"] for row in rows} == {"clips": "12", "H.264, 1080p": "20"}
    assert rows[0]["threads"] == rows[1]["threads"] == "1"
    assert all(float(row["time"]) == 1 for row in rows)
    remote = read_csv(out / "decoding_remote.csv")
    assert {row["latency"] for row in remote} == {"0.0", "1.0"}
    for row in remote:
        assert int(row["requests"]) > 0
        assert float(row["megabytes"]) > 0.05
        assert (float(row["time"]) == 1) == row["way"].startswith("copy")
    report = (out / "decoding.md").read_text()
    assert "--quick --remote" in report
    assert "2 of " in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]
