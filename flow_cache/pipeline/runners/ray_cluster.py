"""Videos spread over a Ray cluster: a Ray actor on a node owns a worker pool, and a GPU where there is one.

The driver keeps the queue and hands out little more than the workers are busy with, so that a node that dies costs
little: its videos go back into the queue. All nodes must see the input and the cache under the same paths. Ray ends
with the driver, however that ends, and the workers with it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from flow_cache.cache.meta import CacheMeta, current_versions
from flow_cache.errors import ArgumentError, DeviceError, FlowCacheError, first_line
from flow_cache.methods.device import check_cluster_device
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.runners.base import Died, Event, Finished, Runner
from flow_cache.pipeline.runners.ray_host import SHARED, Host
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone
from flow_cache.storage.paths import exists, is_local, remove

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

_log = logging.getLogger(__name__)
_RECRUIT_EVERY = 2.0  # seconds between looks at what the cluster has
_MAX_FAILED_ROUNDS = 3  # of starting actors, in a row
_MAX_LOSSES = 3  # of a video's actor
_GONE_AFTER = 20.0  # seconds without an answer; Ray itself ends the whole process after 60
_CONNECT = 5.0  # seconds
_CLOSE = 10.0  # seconds
_PATIENCE = 15.0  # seconds without any worker after which the user is told why


class RayCluster(Runner):
    """Run jobs on the nodes of a Ray cluster, also on those that join later."""

    def __init__(
        self, address: str, meta: CacheMeta, output: AnyPath, *, device: str = "cpu", workers: int = 0
    ) -> None:
        """address: as `ray.init` takes it; a program that is connected already stays so. meta: of all the jobs.

        output: the cache folder. device: cpu, cuda, or auto, which is cuda if the cluster has a GPU. workers: the most
        there may be in the whole cluster, 0 for what it has room for.
        """
        self._address = address
        self._meta = meta
        self._output = output
        self._device = check_cluster_device(device)
        self._limit = workers
        self._queue: deque[Job] = deque()
        self._members: list[_Member] = []
        self._losses: Counter[str] = Counter()
        self._sample: Job | None = None
        self._round = 0
        self._failed_rounds: set[int] = set()
        self._next_look = 0.0
        self._silent_since: float | None = None
        self._tell_at = float("inf")

    def submit(self, job: Job) -> None:
        """Queue a job; it is given to a node by `poll`."""
        self._sample = self._sample or job
        self._queue.append(job)

    @property
    def idle(self) -> bool:
        """Whether every job that was submitted is finished, or its worker has died."""
        return not self._queue and not any(member.jobs for member in self._members)

    @property
    def workers_and_nodes(self) -> tuple[int, int]:
        """How many workers are at work, and on how many nodes."""
        working = [member for member in self._members if member.node]
        return sum(member.workers for member in working), len({member.node for member in working})

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Work until something has happened, for `timeout` seconds at most (None: no limit), and return it.

        A video whose node is lost goes back into the queue, without blame; the second time it counts as one whose
        worker died, the third time it has failed. What a node has to complain about is raised with its name.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        events: list[Event] = []
        try:
            while not events and not self.idle and time.monotonic() < deadline:
                self._look()
                self._hand_out()
                pending = {member.pending: member for member in self._members if member.pending is not None}
                for reference in self._wait(list(pending), min(deadline - time.monotonic(), 1.0)):
                    events += self._receive(pending[reference])
        except ConnectionError as error:
            raise _gone(self._address) from error
        return events

    def __enter__(self) -> Self:
        self._ray, self._ours = _connect(self._address)
        self._tell_at = time.monotonic() + _PATIENCE
        try:
            self._gcs = _gcs_address(self._ray)
            gpus = self._ray.cluster_resources().get("GPU", 0)
            if self._device == "auto":
                self._device = "cuda" if gpus >= 1 else "cpu"
            elif self._device == "cuda" and gpus < 1:
                raise DeviceError(
                    f"the Ray cluster at {self._address} has no GPU; use --device cpu, or start nodes with --num-gpus"
                )
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._silent_since is None:
                with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
                    # So that workers end before the driver tidies the cache folder.
                    goodbyes = [member.actor.close.remote() for member in self._members if member.node]
                    if goodbyes:
                        self._wait(goodbyes, _CLOSE, len(goodbyes))
                    for member in self._members:
                        self._ray.kill(member.actor)
        finally:
            self._members.clear()
            self._leave()

    def seats(self) -> tuple[int, int]:
        """Return how many actors the cluster has room for at most, and the workers of each."""
        if self._device == "cpu":
            return min(int(self._ray.cluster_resources().get("CPU", 0)) or 1, self._limit or sys.maxsize), 1
        gpus, workers = 0, sys.maxsize
        for node in self._ray.nodes():
            there = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
            if there:
                gpus += there
                workers = min(workers, int(node["Resources"].get("CPU", 0)) // there)
        actors = min(gpus, self._limit or sys.maxsize)
        if self._limit:
            workers = min(workers, self._limit // max(actors, 1))
        return actors, max(min(workers, 1 << 10), 1)

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _look(self) -> None:
        """See whether the cluster is there, and start actors where it has room for more."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _RECRUIT_EVERY
        if self._gcs is not None and not _listens(*self._gcs):
            self._silent_since = self._silent_since or now
            if time.monotonic() - self._silent_since > _GONE_AFTER:
                raise _gone(self._address)
            return  # asking it would block
        self._silent_since = None
        self._round += 1
        actors, workers = self.seats()
        if now > self._tell_at and not self.workers_and_nodes[0]:
            self._tell_at = float("inf")
            _log.warning("waiting for Ray: no node has %s free yet", _describe_seat(workers, self._device))
        unfinished = len(self._queue) + sum(len(member.jobs) for member in self._members)
        for _ in range(min(actors, -(-unfinished // workers)) - len(self._members)):
            self._members.append(self._start(workers))

    def _start(self, workers: int) -> _Member:
        options: dict[str, Any] = {"num_cpus": workers, "max_restarts": 0, "max_task_retries": 0}
        if self._device != "cpu":
            options["num_gpus"] = 1
        actor = self._ray.remote(**options)(Host).remote()
        # By its own pickle: it is not read before the versions are known to be the same.
        task = pickle.dumps((self._meta, self._device, workers, self._output, self._sample))
        opening = actor.open.remote(_versions(self._meta), task)
        return _Member(actor, workers, opening, self._round)

    def _hand_out(self) -> None:
        workers, _ = self.workers_and_nodes
        for member in self._members:
            if member.pending is not None:
                continue
            spare = len(self._queue) > workers  # one in hand, so that no worker waits for the driver
            jobs: list[Job] = []
            while self._queue and len(member.jobs) < member.workers + spare:
                job = self._queue.popleft()
                member.jobs[job.video] = job
                jobs.append(job)
            if member.jobs:
                member.pending = member.actor.exchange.remote(jobs)

    def _wait(self, references: list[Any], seconds: float, count: int = 1) -> list[Any]:
        if not references:
            time.sleep(max(min(seconds, _RECRUIT_EVERY / 4), 0))
            return []
        self._ray.wait(references, num_returns=count, timeout=max(seconds, 0))
        ready: list[Any] = self._ray.wait(references, num_returns=len(references), timeout=0)[0]
        return ready

    def _receive(self, member: _Member) -> list[Event]:
        try:
            answer, member.pending = self._ray.get(member.pending), None
        except self._ray.exceptions.RayTaskError as error:
            raise FlowCacheError(
                f"{member.node or 'a node of the Ray cluster'}: {_last_line(error)}"
            ) from error
        except self._ray.exceptions.RayError as error:
            return self._lost(member, error)
        if isinstance(answer, FlowCacheError):
            raise answer
        if not member.node:
            member.node, probe = answer
            self._check_probe(member.node, probe)
            self._failed_rounds.clear()
            return []
        for event in answer:
            if isinstance(event, FieldsDone):
                continue
            del member.jobs[event.job.video]
            if isinstance(event, Finished) and event.reason is None and not _seen(event.job.target):
                raise FlowCacheError(
                    f"{event.job.target} was written on node {member.node} and is not there for this machine; the "
                    f"cache folder {SHARED}"
                )
        events: list[Event] = answer
        return events

    def _check_probe(self, node: str, probe: AnyPath) -> None:
        if not _seen(probe):
            raise ArgumentError(
                f"what node {node} writes to {self._output} is not there for this machine; the cache folder {SHARED}"
            )
        remove(probe)

    def _lost(self, member: _Member, error: Exception) -> list[Event]:
        """Let an actor go that has died, with its node or alone."""
        self._members.remove(member)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(member.actor)  # if it only was out of reach, it must not go on
        if getattr(error, "actor_init_failed", False) or "creation task" in str(error):
            raise ArgumentError(
                f"a node of the Ray cluster cannot load flow_cache ({_last_line(error)}); install the same version "
                "of twostream on every node"
            ) from error
        if not member.node:
            self._failed_rounds.add(member.round)
            if len(self._failed_rounds) >= _MAX_FAILED_ROUNDS:
                raise FlowCacheError(f"Ray's actors cannot start: {first_line(error)}") from error
        events: list[Event] = []
        for job in member.jobs.values():
            self._losses[job.video] += 1
            how = f"with its Ray actor on node {member.node}: {first_line(error).rstrip('.')}"
            if self._losses[job.video] >= _MAX_LOSSES:
                events.append(Finished(job, reason=f"its worker was lost {_MAX_LOSSES} times ({how})"))
            elif self._losses[job.video] > 1:
                events.append(Died(job, how))
            else:
                self._queue.appendleft(job)
        return events


@dataclass(eq=False)
class _Member:
    """What the driver knows of an actor."""

    actor: Any
    workers: int
    pending: Any
    """The answer that is awaited."""
    round: int
    """In which it was started."""
    node: str = ""
    """Where it is, once it has said so."""
    jobs: dict[str, Job] = field(default_factory=dict)


def _connect(address: str) -> tuple[Any, bool]:
    """Connect to a cluster; returns Ray's module, and whether it was us who connected. Raises ArgumentError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that `local` starts tells nobody
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ArgumentError("--ray needs Ray, which is not installed: python3 -m pip install ray") from error
    if ray.is_initialized():
        return ray, False
    if address.startswith("ray://"):
        raise ArgumentError(
            f"{address}: Ray's client cannot be used, which has no part in the cluster; run the same command on a node "
            "of the cluster, with --ray auto"
        )
    host, port = _split(address)
    if host and port and not _listens(host, port):
        raise ArgumentError(f"no Ray cluster at {address}: nothing answers there")
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about Ray's own future
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({"include_dashboard": False} if address == "local" else {}),
            )
    except Exception as error:  # of many classes
        reason = " ".join(str(error).split())[:300]
        raise ArgumentError(
            f"cannot use a Ray cluster at {address!r} ({reason}); it must be auto, local or HOST:PORT"
        ) from error
    return ray, True


def _describe_seat(workers: int, device: str) -> str:
    cores = f"{workers} core{'s' * (workers != 1)}"
    return cores if device == "cpu" else f"a GPU and {cores}"


def _gcs_address(ray: Any) -> tuple[str, int] | None:
    """Return where the head of the cluster listens, None if Ray does not say."""
    host, port = _split(ray.get_runtime_context().gcs_address)
    return (host, port) if port else None


def _split(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        return parts.hostname or "", parts.port or 0
    except ValueError:
        return "", 0  # Ray will say what is wrong


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _CONNECT).close()
    except OSError:
        return False
    return True


def _versions(meta: CacheMeta) -> dict[str, str]:
    return current_versions(get_method(meta.method, **dict(meta.parameters)).libraries)


def _gone(address: str) -> FlowCacheError:
    return FlowCacheError(
        f"the Ray cluster at {address} has gone; what is done is kept, and the same command goes on from there"
    )


def _seen(path: AnyPath) -> bool:
    """Whether a file that was just made elsewhere is there; a listing is never older than the question, on NFS too."""
    if not is_local(path):
        return exists(path)
    return path.exists() or (path.parent.exists() and path in path.parent.iterdir())


def _last_line(error: BaseException) -> str:
    """Return what is at the end of a traceback that Ray has made a message of."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
