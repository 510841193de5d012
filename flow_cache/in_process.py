"""Do the videos in this process, one after the other: for places such as `memory://`, which no other process sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from flow_cache.errors import FlowCacheError
from flow_cache.estimation import RemoteEstimator, Service
from flow_cache.pool import Event, Runner, attempt
from flow_cache.worker import Job


class InProcess(Runner):
    """Run jobs here, without a worker pool's protection from decoders that crash."""

    def __init__(self, services: Sequence[Service] = ()) -> None:
        self._estimator = RemoteEstimator(services[0]) if services else None
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    @property
    def idle(self) -> bool:
        """Whether every job that was submitted is finished."""
        return not self._queue

    @property
    def crew(self) -> tuple[int, int]:
        """One worker, on this machine."""
        return 1, 0

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Do one job, however long it takes, and return what has happened."""
        if self.idle:
            return []
        events: list[Event] = []
        result = attempt(self._queue.popleft(), events.append, self._estimator)
        if isinstance(result, FlowCacheError):
            raise result
        return [*events, result]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.clear()
