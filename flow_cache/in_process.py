"""Do the videos in this process, one after the other: for places such as `memory://`, which no other process sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from flow_cache.errors import FlowCacheError
from flow_cache.estimation import RemoteEstimator, Service
from flow_cache.pool import Finished, attempt
from flow_cache.worker import Advance, Job


class InProcess:
    """Do what a `WorkerPool` does, without its protection from decoders that crash."""

    def __init__(self, services: Sequence[Service] = ()) -> None:
        self._estimator = RemoteEstimator(services[0]) if services else None

    def run(self, jobs: Sequence[Job]) -> Iterator[Advance | Finished]:
        """Iterate what happens until all jobs are done; raises what `WorkerPool.run` raises."""
        for job in jobs:
            advances = _Advances()
            result = attempt(job, advances, self._estimator)
            yield from advances.sent
            if isinstance(result, FlowCacheError):
                raise result
            yield result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Advances:
    """Takes the place of a worker's pipe."""

    def __init__(self) -> None:
        self.sent: list[Advance] = []

    def send(self, advance: Advance) -> None:
        self.sent.append(advance)
