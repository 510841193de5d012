"""Worker processes and their deaths."""

import os
import signal
import threading
from pathlib import Path

import pytest

from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.errors import CacheWriteError, FlowCacheError
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.runners import pool as pool_module
from flow_cache.pipeline.runners.base import Finished
from flow_cache.pipeline.runners.pool import WorkerPool
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone


@pytest.fixture
def jobs(tmp_path: Path, make_video) -> list[Job]:
    """Three videos; the one in the middle is long enough to be met in its middle."""
    parameters = get_method("farneback").parameters.as_dict()
    made = []
    for name, frames in (("a", 4), ("b", 140), ("c", 4)):
        video = make_video(tmp_path / f"{name}.avi", frames=frames)
        meta = CacheMeta(Source(video.name, 1), "farneback", parameters)
        made.append(Job(video, tmp_path / "out" / f"{name}.flow.zip", meta))
    return made


def _kill_on_advance(pool: WorkerPool, jobs: list[Job], times: int) -> list[Finished]:
    finished = []
    for event in pool.run(jobs):
        if isinstance(event, Finished):
            finished.append(event)
            continue
        for worker in pool._workers:
            if times and worker.job is not None and worker.job.video == "b.avi":
                times -= 1
                os.kill(worker.process.pid, signal.SIGKILL)
                worker.process.join()
    return finished


def test_a_video_whose_worker_dies_once_is_done_in_the_end(jobs: list[Job]) -> None:
    with WorkerPool(2) as pool:
        finished = _kill_on_advance(pool, jobs, times=1)
        processes = [worker.process for worker in pool._workers]
    assert {(event.job.video, event.reason, event.fields) for event in finished} == {
        ("a.avi", None, 3),
        ("b.avi", None, 139),
        ("c.avi", None, 3),
    }
    assert finished[-1].job.video == "b.avi"  # tried again when the others were done
    assert not any(process.is_alive() for process in processes)


def test_a_video_that_kills_its_worker_twice_has_failed(jobs: list[Job]) -> None:
    with WorkerPool(1) as pool:
        finished = _kill_on_advance(pool, jobs, times=2)
    assert [(event.job.video, event.reason) for event in finished] == [
        ("a.avi", None),
        ("c.avi", None),
        ("b.avi", "its worker process died twice (killed by SIGKILL)"),
    ]
    assert sorted(path.name for path in jobs[0].target.parent.glob("*.zip")) == ["a.flow.zip", "c.flow.zip"]


def test_an_idle_worker_that_dies_costs_nothing(jobs: list[Job]) -> None:
    with WorkerPool(1) as pool:
        assert [event for event in pool.run(jobs[:1]) if isinstance(event, Finished)]
        (worker,) = pool._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join()
        (done,) = [event for event in pool.run(jobs[2:]) if isinstance(event, Finished)]
    assert done.reason is None


def test_leaving_early_ends_the_workers(jobs: list[Job]) -> None:
    with WorkerPool(1) as pool:
        events = pool.run(jobs[1:2])
        assert isinstance(next(events), FieldsDone)
        (worker,) = pool._workers
    assert not worker.process.is_alive()
    assert not jobs[1].target.exists()


def test_a_worker_that_cannot_write_ends_the_run(jobs: list[Job]) -> None:
    jobs[0].target.parent.touch()  # a file where the folder should be
    with WorkerPool(1) as pool, pytest.raises(CacheWriteError, match="cannot write"):
        list(pool.run(jobs))


def test_workers_that_cannot_start_are_an_error(jobs: list[Job]) -> None:
    message = r"cannot start \(exit status 1\).*__main__"
    # With a connection as exit status, a process dies at once.
    with WorkerPool(2, serve=os._exit) as pool, pytest.raises(FlowCacheError, match=message):
        list(pool.run(jobs))


def test_a_worker_serves_until_the_pipe_closes(jobs: list[Job]) -> None:
    from multiprocessing import Pipe

    ours, theirs = Pipe()
    ours.send(jobs[0])
    before = signal.getsignal(signal.SIGINT)
    try:
        messages = []
        reader = threading.Thread(target=lambda: messages.extend(_receive(ours)))
        reader.start()
        pool_module._serve(theirs, None)
        reader.join()
    finally:
        signal.signal(signal.SIGINT, before)
    ready, advance, finished = messages
    assert ready is None
    assert advance.fields == 3
    assert finished == Finished(jobs[0], fields=3)


def _receive(connection) -> list:
    messages = [connection.recv() for _ in range(3)]
    connection.close()
    return messages


def test_deaths_are_described() -> None:
    assert pool_module._describe(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert pool_module._describe(-250) == "killed by signal 250"
    assert pool_module._describe(3) == "exit status 3"
