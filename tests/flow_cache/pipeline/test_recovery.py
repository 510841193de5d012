"""Precompute that is killed, interrupted or runs out of disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import CacheWriteError
from flow_cache.pipeline.outcome import Failure, PrecomputeInterrupted
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.runners.pool import WorkerPool
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.progress import FieldsDone
from flow_cache.storage.atomic import temporary_files


def test_a_worker_death_is_a_failure_of_its_video_only(
    config: PrecomputeConfig, videos: Path, tmp_path: Path, make_video
) -> None:
    make_video(videos / "killer.avi", frames=140)

    class Deadly(WorkerPool):
        def run(self, jobs):
            for event in super().run(jobs):
                for worker in self._workers:
                    if (
                        isinstance(event, FieldsDone)
                        and worker.job is not None
                        and worker.job.video == "killer.avi"
                    ):
                        os.kill(worker.process.pid, signal.SIGKILL)
                        worker.process.join()
                yield event

    summary = precompute(config, progress=False, start_runner=lambda config, plan: Deadly(config.workers))
    assert summary.done == 3
    assert summary.failures == [Failure("killer.avi", "its worker process died twice (killed by SIGKILL)")]
    assert not list(temporary_files(tmp_path / "cache"))


def test_interruption_keeps_what_is_done(config: PrecomputeConfig, tmp_path: Path) -> None:
    class Interrupted(WorkerPool):
        def run(self, jobs):
            for event in super().run(jobs):
                yield event
                if not isinstance(event, FieldsDone):
                    raise KeyboardInterrupt

    with pytest.raises(PrecomputeInterrupted) as caught:
        precompute(config, progress=False, start_runner=lambda config, plan: Interrupted(config.workers))
    assert (caught.value.summary.done, caught.value.summary.remaining) == (1, 2)
    assert len(read_index(tmp_path / "cache")) == 1
    summary = precompute(config, progress=False)
    assert (summary.done, summary.skipped) == (2, 1)


def test_killed_and_started_again_equals_uninterrupted(
    tmp_path: Path, repository: Path, make_video, members
) -> None:
    root = tmp_path / "videos"
    for number in range(4):
        make_video(root / f"{number}.avi", frames=45, width=80, height=64, seed=number)
    tool = [sys.executable, str(repository / "tools" / "precompute_flow.py"), str(root)]
    options = ["--method", "farneback", "--rgb", "--workers", "2"]
    killed = tmp_path / "killed"
    run = subprocess.Popen(
        [*tool, "--out", str(killed), *options], start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (list(killed.glob("*.flow.zip")) and list(temporary_files(killed))):
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    left = list(killed.glob("*.flow.zip"))
    assert 1 <= len(left) < 4
    for path in left:
        with CacheReader(path) as reader:
            reader.check()
    again = subprocess.run(
        [*tool, "--out", str(killed), *options], capture_output=True, text=True, check=True
    )
    assert f"kept from before  {len(left)}" in again.stdout
    assert not list(temporary_files(killed))
    whole = tmp_path / "whole"
    precompute(
        PrecomputeConfig(
            root, whole, flow=FlowSettings(method="farneback"), storage=StorageSettings(rgb=True), workers=1
        ),
        progress=False,
    )
    assert members(killed) == members(whole)
    assert read_index(killed) == read_index(whole)


def test_disk_trouble_half_way_is_one_error(config: PrecomputeConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "walk").touch()  # the folder cannot be made
    with pytest.raises(CacheWriteError, match=r"cannot write .*walk"):
        precompute(config, progress=False)
    assert not list(temporary_files(tmp_path / "cache"))


def test_output_that_cannot_be_cleared_is_one_error(
    config: PrecomputeConfig, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache" / "failures.csv").mkdir(parents=True)
    with pytest.raises(CacheWriteError, match=r"cannot write .*failures\.csv"):
        precompute(config, ["c.avi"], progress=False)
