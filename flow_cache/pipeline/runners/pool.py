"""Worker processes that take one video at a time, and whose death costs no more than that video.

Each worker has its own pipe, so it is always known what it was doing when it died (a decoder that crashes,
the kernel's out-of-memory killer). The video is then tried once more when all others are done, alone on the
machine; if it kills its worker again, it has failed.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Self

from flow_cache.errors import CacheWriteError, FlowCacheError, LostDeviceError, VideoError, one_line
from flow_cache.pipeline.runners.base import Died, Event, Finished, Runner
from flow_cache.pipeline.runners.gpu_service import RemoteEstimator, Service
from flow_cache.pipeline.worker import Estimator, Job, cache_video
from flow_cache.progress import FieldsDone
from flow_cache.runtime import opencv

_MAX_FAILED_STARTS = 3  # in a row


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    job: Job | None = None


class WorkerPool(Runner):
    """Run jobs in worker processes of this machine."""

    def __init__(self, workers: int, services: Sequence[Service] = ()) -> None:
        """services: where workers have flow estimated, in turns; none: each estimates itself, on the CPU."""
        self._size = workers
        self._services = itertools.cycle(services or [None])
        # fork would copy locks that OpenCV's and CUDA's threads hold
        self._context = multiprocessing.get_context("spawn")
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
        """How many workers there are at most."""
        return self._size, 0

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Work until something has happened, for `timeout` seconds at most (None: no limit), and return it."""
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
        for worker in self._workers:
            worker.connection.close()  # an idle worker ends by itself
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _hand_out(self) -> None:
        while len(self._workers) < min(self._size, len(self._queue) + self._busy()):
            self._workers.append(self._start())
        for worker in self._workers:
            if self._queue and worker.ready and worker.job is None:
                self._give(worker)

    def _receive(self, worker: _Worker) -> list[Event]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
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
        return sum(worker.job is not None for worker in self._workers)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, next(self._services)), name="flow-cache worker", daemon=True
        )
        try:
            with _without_interrupts():
                process.start()
        except OSError as error:
            raise FlowCacheError(f"cannot start a worker process: {error.strerror or error}") from error
        theirs.close()  # so that its death shows as the end of the pipe
        return _Worker(process, ours)

    def _give(self, worker: _Worker) -> None:
        worker.job = self._queue.popleft()
        try:
            worker.connection.send(worker.job)
        except OSError:
            # It died while idle: not this video's doing. `wait` reports the death.
            self._queue.appendleft(worker.job)
            worker.job = None

    def _bury(self, worker: _Worker) -> list[Event]:
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
    """Do one job; what goes wrong with the video becomes the reason of its failure, other errors are returned."""
    try:
        meta = cache_video(job, advance, estimator)
    except VideoError as error:
        return Finished(job, reason=error.reason_and_frame)
    except FlowCacheError as error:
        general = isinstance(error, (CacheWriteError, LostDeviceError))
        return error if general else Finished(job, reason=str(error))
    except ConnectionError:
        raise  # the main process is gone
    except Exception as error:  # whatever a library throws on a broken video must not end the run
        return Finished(job, reason=f"{type(error).__name__}: {one_line(error)}")
    return Finished(job, fields=meta.fields, partial=meta.partial is not None)


def _serve(connection: Connection, service: Service | None) -> None:
    """Be a worker: report ready, then do jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
    opencv().setNumThreads(1)
    try:
        estimator = RemoteEstimator(service) if service else None
        connection.send(None)
        while True:
            connection.send(attempt(connection.recv(), connection.send, estimator))
    except LostDeviceError as error:
        connection.send(error)
    except (EOFError, OSError):
        return  # the main process closed the pipe, or is gone


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even while they import; it waits for the main one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else `start` does, and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _describe(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"exit status {exitcode}"
