"""Killed and resumed precompute on generated videos; and that what must not be would be noticed."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

import kill_precompute
from flow_cache.cache.reader import CacheReader
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig

from .conftest import ROOT, run_tool

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


@pytest.fixture
def cache(make_videos, tmp_path, monkeypatch):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    videos = make_videos((4, 5), width=32, height=24)
    precompute(
        PrecomputeConfig(videos, tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1),
        progress=False,
    )
    return tmp_path / "cache"


@pytest.mark.slow
def test_three_kills(make_videos, tmp_path):
    videos = make_videos((25,) * 12, width=70, height=50)
    options = ["--method", "farneback", "--rgb", "--workers", "2"]
    folders = ["--scratch", tmp_path, "--out", tmp_path / "report"]
    done = run_tool("kill_precompute.py", videos, "--kills", 3, *folders, "--", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 videos, 288 fields" in done.stdout
    assert "12 of 12 videos" in done.stdout
    assert "killed 3 times" in done.stdout
    assert "broken promises: 0" in (tmp_path / "report" / "killed.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "report"}


def test_a_difference_would_be_noticed(cache, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(cache, other)
    assert list(kill_precompute.compare(cache, other)) == []
    path = other / "0.flow.zip"
    data = bytearray(path.read_bytes())
    with CacheReader(path) as reader:
        data[reader._flow[1].offset + 60] ^= 1
    path.write_bytes(data)
    (other / "1.flow.zip").unlink()
    (other / "index.csv").write_text("")
    found = list(kill_precompute.compare(cache, other))
    assert [line.split()[0] for line in found] == ["1.flow.zip", "0.flow.zip", "index.csv"]


def test_a_lost_frame_would_be_noticed(cache, tmp_path):
    names = ["0.avi", "1.avi"]
    assert list(kill_precompute.check_counts(cache, tmp_path / "videos", names)) == []
    by_opencv = kill_precompute.count_frames_by_opencv
    assert list(kill_precompute.check_counts(cache, tmp_path / "videos", names, by_opencv)) == []
    shutil.copy(tmp_path / "videos" / "1.avi", tmp_path / "videos" / "0.avi")
    (found,) = kill_precompute.check_counts(cache, tmp_path / "videos", names)
    assert found.startswith("0.avi: 5 frames, but 3 fields")


def test_what_must_not_lie_in_a_cache_would_be_noticed(cache, tmp_path):
    trial = kill_precompute.Trial([], cache, tmp_path / "log")
    trial.inspect("before")
    trial.check_cleared("before", 0)
    assert trial.broken == []
    (cache / "half.jpg").touch()
    path = cache / "0.flow.zip"
    path.write_bytes(path.read_bytes()[:-1])
    leftover = cache / ".dead.flow.tmp"
    leftover.touch()
    trial.check_cleared("first", 2)
    trial.inspect("after")
    (cache / ".new.flow.tmp").touch()
    trial.check_cleared("after", 2)
    assert len(trial.broken) == 4
    for text in (
        "has been replaced",
        "is not a whole zip file",
        "half.jpg should not be there",
        "1 temporary",
    ):
        assert any(text in line for line in trial.broken), text


def test_a_reference_that_fails_is_told(make_videos, tmp_path):
    videos = make_videos((1,), width=32, height=24)
    _, _, broken = kill_precompute.prove(videos, 1, 0, ["--method", "farneback"], tmp_path)
    assert "has 1 frame" in broken[0]
