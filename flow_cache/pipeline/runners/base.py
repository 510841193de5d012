"""The one interface of those who carry out jobs, here or on a cluster, and what they report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone


@dataclass(frozen=True)
class Finished:
    """A video is done: `reason` says why it failed, None if it did not."""

    job: Job
    fields: int = 0
    reason: str | None = None
    partial: bool = False


@dataclass(frozen=True)
class Died:
    """A video's worker process died, which may be the video's doing or not; `how` says what is known."""

    job: Job
    how: str


Event = FieldsDone | Finished | Died


class Runner(ABC):
    """What jobs can be given to, here or on a cluster; a context manager that ends its workers."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Queue a job."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether every job that was submitted is finished, or its worker has died."""

    @abstractmethod
    def poll(self, timeout: float | None = None) -> list[Event]:
        """Work until something has happened, for `timeout` seconds at most (None: no limit), and return it.

        Nothing is returned if the time is up or the runner is idle. Raises CacheWriteError as soon as a worker cannot
        write, LostDeviceError if a device has gone, other FlowCacheErrors if workers cannot be had.
        """

    @property
    @abstractmethod
    def workers_and_nodes(self) -> tuple[int, int]:
        """How many workers there are, and on how many nodes of a cluster (0: on this machine)."""

    def run(self, jobs: Sequence[Job]) -> Iterator[FieldsDone | Finished]:
        """Iterate what happens until all jobs are done; the order of videos is not fixed. Raises what `poll` raises.

        A video whose worker dies is tried once more at the end, alone, so that neither memory nor blame is shared.
        """
        suspects: list[Died] = []
        yield from self._run(jobs, suspects)
        for suspect in suspects:
            deaths: list[Died] = []
            yield from self._run([suspect.job], deaths)
            for death in deaths:
                yield Finished(death.job, reason=f"its worker process died twice ({death.how})")

    def _run(self, jobs: Sequence[Job], deaths: list[Died]) -> Iterator[FieldsDone | Finished]:
        for job in jobs:
            self.submit(job)
        while not self.idle:
            for event in self.poll():
                if isinstance(event, Died):
                    deaths.append(event)
                else:
                    yield event

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
