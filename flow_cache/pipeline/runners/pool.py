"""Worker processes that do one video at a time; when one dies, only its video is affected.

Each worker has its own pipe, so it is always known which video it was doing when it died (a decoder that crashes, the
kernel's out-of-memory killer). The video is then tried once more when all others are done, alone on the machine; if its
worker dies again, the video has failed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Self

from flow_cache.errors import CacheWriteError, FlowCacheError, LostDeviceError, VideoError, one_line
from flow_cache.pipeline.runners.base import Died, Event, Finished, Runner
from flow_cache.pipeline.runners.gpu_service import RemoteEstimator, Service
from flow_cache.pipeline.worker import Estimator, Job, cache_video
from flow_cache.progress import FieldsDone
from flow_cache.runtime import opencv, signals_blocked, start_worker

_MAX_FAILED_STARTS = 3  # in a row


@dataclass
class _Worker:
    """A worker process, and the job that it does."""

    process: SpawnProcess
    connection: Connection
    ready: bool = False
    job: Job | None = None


class WorkerPool(Runner):
    """Run jobs in worker processes of this machine.

    Args:
        workers: number of processes at most.
        services: processes of GPUs, which the workers use in turn; none: each worker estimates flow on the CPU.
        serve: what a worker process runs, given its pipe and its service.
    """

    def __init__(
        self,
        workers: int,
        services: Sequence[Service] = (),
        *,
        serve: Callable[[Connection, Service | None], None] | None = None,
    ) -> None:
        self._size = workers
        self._services = itertools.cycle(services or [None])
        self._serve = serve or _serve
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def submit(self, job: Job) -> None:
        """Queue a job; it starts at the next `poll`."""
        self._queue.append(job)

    @property
    def idle(self) -> bool:
        """Whether every job that was submitted is finished, or its worker has died."""
        return not self._queue and not self._busy()

    @property
    def workers_and_nodes(self) -> tuple[int, int]:
        """Number of workers at most, and 0: they are on this machine."""
        return self._size, 0

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Wait until something has happened, see `Runner.poll`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        events: list[Event] = []
        while not events and not self.idle:
            self._hand_out()
            by_connection = {worker.connection: worker for worker in self._workers}
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = wait(list(by_connection), left)
            for connection in ready:
                events += self._receive(by_connection[connection])  # type: ignore[index]
            if not ready:
                break
        return events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with signals_blocked():  # a second Ctrl-C leaves no worker behind either
            for worker in self._workers:
                worker.connection.close()  # which ends an idle worker
                if worker.job is not None:
                    worker.process.terminate()
            for worker in self._workers:
                worker.process.join(5)
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
            self._workers.clear()

    def _hand_out(self) -> None:
        """Start the workers that are needed, and give jobs to those that have none."""
        while len(self._workers) < min(self._size, len(self._queue) + self._busy()):
            self._workers.append(self._start())
        for worker in self._workers:
            if self._queue and worker.ready and worker.job is None:
                self._give(worker)

    def _receive(self, worker: _Worker) -> list[Event]:
        """Read a worker's message, or notice its death; raises an error that concerns the whole run."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._remove(worker)
        if message is None:
            worker.ready = True
            return []
        if isinstance(message, FlowCacheError):
            worker.job = None
            raise message
        if isinstance(message, Finished):
            worker.job = None
        return [message]

    def _busy(self) -> int:
        """Count the workers that have a job."""
        return sum(worker.job is not None for worker in self._workers)

    def _start(self) -> _Worker:
        """Start a worker process."""
        ours, theirs = multiprocessing.Pipe()
        try:
            process = start_worker(self._serve, theirs, next(self._services), name="flow-cache worker")
        except OSError as error:
            raise FlowCacheError(f"cannot start a worker process: {error.strerror or error}") from error
        theirs.close()  # then the pipe ends when the process dies
        return _Worker(process, ours)

    def _give(self, worker: _Worker) -> None:
        """Send a worker the next job."""
        worker.job = self._queue.popleft()
        try:
            worker.connection.send(worker.job)
        except OSError:
            # It died while it was idle: this video is not the cause. `wait` reports the death.
            self._queue.appendleft(worker.job)
            worker.job = None

    def _remove(self, worker: _Worker) -> list[Event]:
        """Remove a dead worker; raises FlowCacheError if workers die again and again before they are ready."""
        worker.connection.close()
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        self._workers.remove(worker)
        how = _describe(worker.process.exitcode)
        self._failed_starts = 0 if worker.ready else self._failed_starts + 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise FlowCacheError(
                f"worker processes cannot start ({how}); a script that calls "
                "precompute() must do so under `if __name__ == '__main__':`"
            )
        return [] if worker.job is None else [Died(worker.job, how)]


def attempt(
    job: Job, advance: Callable[[FieldsDone], object], estimator: Estimator | None = None
) -> Finished | FlowCacheError:
    """Do one job.

    Args:
        job: the video, and what is asked for.
        advance: called after each chunk of frames.
        estimator: what estimates the flow; None for the method that the job's meta names, on the CPU.

    Returns:
        What was done, or why the video failed; an error if it concerns the whole run.
    """
    try:
        meta = cache_video(job, advance, estimator)
    except VideoError as error:
        return Finished(job, reason=error.reason_and_frame)
    except FlowCacheError as error:
        general = isinstance(error, (CacheWriteError, LostDeviceError))
        return error if general else Finished(job, reason=str(error))
    except ConnectionError:
        raise  # the main process has ended
    except Exception as error:  # any error of a library at a damaged video: it must not end the run
        return Finished(job, reason=f"{type(error).__name__}: {one_line(error)}")
    return Finished(job, fields=meta.fields, partial=meta.partial)


def _serve(connection: Connection, service: Service | None) -> None:
    """Run as a worker: report that it is ready, then do jobs until the pipe is closed."""
    opencv().setNumThreads(1)
    try:
        estimator = RemoteEstimator(service) if service else None
        connection.send(None)
        while True:
            connection.send(attempt(connection.recv(), connection.send, estimator))
    except LostDeviceError as error:
        connection.send(error)
    except (EOFError, OSError):
        return  # the main process has closed the pipe, or has ended


def _describe(exitcode: int | None) -> str:
    """Say how a process ended."""
    if exitcode is not None and exitcode < 0:
        try:
            return f"killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"exit status {exitcode}"
