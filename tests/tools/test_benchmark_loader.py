"""The benchmark of the loader, on few small videos: it must measure what it says, whatever the figures are."""

from __future__ import annotations

import sys

import pytest

from .conftest import read_csv, run_tool

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


def test_writes_what_it_measured(make_videos, tmp_path):
    out = tmp_path / "out"
    videos = make_videos((13, 15, 14), width=64, height=48)
    done = run_tool("benchmark_loader.py", videos, "--quick", "--out", out, "--scratch", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_csv(out / "loader.csv")
    assert [row["workers"] for row in rows] == ["0"] * 5 + ["2"] * 5
    for row in rows:
        assert (float(row["speed"]) == 1) == row["contestant"].endswith("TSN reads")
        assert 0 < float(row["speed_low"]) <= float(row["speed"]) <= float(row["speed_high"])
        assert 0 < float(row["wait_share"]) < 1
        assert float(row["processor"]) > 0
        assert float(row["megabytes"]) >= 0
    report = (out / "loader.md").read_text()
    assert "--quick" in report
    assert "Clips of 3 videos" in report
    assert "12 to 14 flow fields" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_other_clips_are_refused(make_videos, tmp_path):
    """What is compared must be the same: a video of other frames than those that the cache was made of."""
    from benchmarks.clip_sources import prepare
    from benchmarks.loader_speed import check_agreement

    videos = make_videos((13, 13), width=64, height=48)
    names = [videos / "0.avi", videos / "1.avi"]
    folder = tmp_path / "stores"
    folder.mkdir()
    prepare(names, folder)
    assert check_agreement(folder, 2)["our cache"] == (0, 0)
    for path in (folder / "images" / "0").glob("flow_x_*.jpg"):
        path.write_bytes((folder / "images" / "0" / "img_00001.jpg").read_bytes())
    with pytest.raises(SystemExit, match="as TSN reads gives other clips than our cache"):
        check_agreement(folder, 2)
