"""The interface of everything that works on jobs, on this machine or on a cluster, and what it reports."""

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
    """A video is finished.

    Attributes:
        job: what was asked for.
        fields: flow fields in its cache file.
        reason: why it failed; None if it did not.
        partial: why the file holds only a part of the video; None if it holds all.
    """

    job: Job
    fields: int = 0
    reason: str | None = None
    partial: str | None = None


@dataclass(frozen=True)
class Died:
    """The worker process of a video died; the video may have caused it or not.

    Attributes:
        job: what was asked for.
        how: how the process ended.
    """

    job: Job
    how: str


Event = FieldsDone | Finished | Died


class Runner(ABC):
    """Works on jobs, on this machine or on a cluster; a context manager that ends its workers."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Queue a job."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether every job that was submitted is finished, or its worker has died."""

    @abstractmethod
    def poll(self, timeout: float | None = None) -> list[Event]:
        """Wait until something has happened.

        Args:
            timeout: seconds to wait at most; None for no limit.

        Returns:
            What has happened; nothing if the time is over or the runner is idle.

        Raises:
            CacheWriteError: a worker cannot write.
            LostDeviceError: the process of a device has ended.
            FlowCacheError: workers cannot be started.
        """

    @property
    @abstractmethod
    def workers_and_nodes(self) -> tuple[int, int]:
        """Number of workers, and of the nodes of a cluster that they are on (0: on this machine)."""

    def run(self, jobs: Sequence[Job]) -> Iterator[FieldsDone | Finished]:
        """Work until all jobs are finished, and iterate what happens; the order of videos is not fixed.

        A video whose worker dies is tried once more at the end, alone: then it has all the memory, and if the worker
        dies again, this video is the cause. Raises what `poll` raises.
        """
        suspects: list[Died] = []
        yield from self._run(jobs, suspects)
        for suspect in suspects:
            deaths: list[Died] = []
            yield from self._run([suspect.job], deaths)
            for death in deaths:
                yield Finished(death.job, reason=f"its worker process died twice ({death.how})")

    def _run(self, jobs: Sequence[Job], deaths: list[Died]) -> Iterator[FieldsDone | Finished]:
        """Work on jobs once, and collect those whose worker died."""
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
