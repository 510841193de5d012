"""Videos spread over a Ray cluster: a Ray actor on a node owns a worker pool, and a GPU where there is one.

The driver keeps the queue and hands out little more than the workers are busy with, so that a node that dies costs
little: its videos go back into the queue. All nodes must see the input and the cache under the same paths. Ray ends
with the driver, however that ends, and the workers with it.

Ray's own retries are not used: a task that Ray kills for lack of memory is repeated without end, whatever `max_retries`
says, each retry is printed among the driver's output, and an actor that waits to be restarted keeps its videos.
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

from flow_cache.cache.meta import CacheMeta
from flow_cache.errors import ArgumentError, DeviceError, FlowCacheError, first_line
from flow_cache.methods.device import check_cluster_device
from flow_cache.pipeline.runners.base import Died, Event, Finished, Runner
from flow_cache.pipeline.runners.ray_host import SHARED, Host
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone
from flow_cache.runtime import handlers_kept
from flow_cache.storage.paths import is_local

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

_log = logging.getLogger(__name__)
_MAX_FAILED_ROUNDS = 3  # of starting actors, in a row
_MAX_LOSSES = 3  # of a video's actor
_CONNECT_TIMEOUT = 5.0  # seconds
_CLOSE_TIMEOUT = 10.0  # seconds


class RayCluster(Runner):
    """Run jobs on the nodes of a Ray cluster, also on those that join later."""

    check_interval = 2.0
    """Seconds between looks at what the cluster has."""
    warn_after = 15.0
    """Seconds without any worker after which the user is told why."""
    give_up_after = 20.0
    """Seconds without an answer of the head; Ray itself ends the whole process after 60."""

    def __init__(
        self,
        address: str,
        meta: CacheMeta,
        output: AnyPath,
        *,
        device: str = "cpu",
        workers: int = 0,
        host: type[Host] = Host,
    ) -> None:
        """Take the settings; the connection is made on entering the context.

        Args:
            address: as `ray.init` takes it; a program that is connected already stays so.
            meta: what all jobs have in common; nodes must have the same versions.
            output: the cache folder.
            device: cpu, cuda, or auto, which is cuda if the cluster has a GPU.
            workers: the most there may be in the whole cluster, 0 for what it has room for.
            host: what becomes an actor on the nodes.

        Raises:
            ArgumentError: the device is none of these.
        """
        self._address = address
        self._meta = meta
        self._output = output
        self._device = check_cluster_device(device)
        self._limit = workers
        self._host = host
        self._queue: deque[Job] = deque()
        self._actors: list[_Actor] = []
        self._losses: Counter[str] = Counter()
        self._failed_rounds: set[float] = set()
        self._next_check = 0.0
        self._silent_since: float | None = None
        self._warn_at = float("inf")

    def submit(self, job: Job) -> None:
        """Queue a job; it is given to a node by `poll`."""
        self._queue.append(job)

    @property
    def idle(self) -> bool:
        """Whether every job that was submitted is finished, or its worker has died."""
        return not self._queue and not any(actor.jobs for actor in self._actors)

    @property
    def workers_and_nodes(self) -> tuple[int, int]:
        """How many workers are at work, and on how many nodes."""
        working = [actor for actor in self._actors if actor.node]
        return sum(actor.workers for actor in working), len({actor.node for actor in working})

    def poll(self, timeout: float | None = None) -> list[Event]:
        """Work until something has happened, for `timeout` seconds at most (None: no limit), and return it.

        A video whose node is lost goes back into the queue, without blame; the second time it counts as one whose
        worker died, the third time it has failed.

        Raises:
            FlowCacheError: of the class that a node's error has, with the name of the node; or the cluster has gone.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        events: list[Event] = []
        try:
            while not events and not self.idle and time.monotonic() < deadline:
                self._start_actors()
                self._hand_out_jobs()
                asked = {actor.answer: actor for actor in self._actors if actor.answer is not None}
                for answer in self._wait(list(asked), min(deadline - time.monotonic(), 1.0)):
                    events += self._receive(asked[answer])
        except ConnectionError as error:
            raise _cluster_gone(self._address) from error
        return events

    def __enter__(self) -> Self:
        self._ray, self._connected_here = _connect(self._address)
        self._warn_at = time.monotonic() + self.warn_after
        try:
            self._head = self._ray.get_runtime_context().gcs_address
            gpus = self._ray.cluster_resources().get("GPU", 0)
            if self._device == "auto":
                self._device = "cuda" if gpus >= 1 else "cpu"
            elif self._device == "cuda" and gpus < 1:
                raise DeviceError(
                    f"the Ray cluster at {self._address} has no GPU; use --device cpu, or start nodes with --num-gpus"
                )
        except BaseException:
            self._disconnect()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._silent_since is None:
                with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
                    # So that workers end before the driver tidies the cache folder.
                    closing = [actor.handle.close.remote() for actor in self._actors if actor.node]
                    if closing:
                        self._wait(closing, _CLOSE_TIMEOUT, len(closing))
                    for actor in self._actors:
                        self._ray.kill(actor.handle)
        finally:
            self._actors.clear()
            self._disconnect()

    def capacity(self) -> tuple[int, int]:
        """Ask what the cluster has room for.

        Returns:
            The most actors there can be, and the workers of each.
        """
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

    def _disconnect(self) -> None:
        if self._connected_here:
            self._ray.shutdown()

    def _start_actors(self) -> None:
        """Start actors where the cluster has room for more; from time to time, and if it is still there."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self.check_interval
        if _nobody_listens(self._head):
            self._silent_since = self._silent_since or now
            if time.monotonic() - self._silent_since > self.give_up_after:
                raise _cluster_gone(self._address)
            return  # asking it would block
        self._silent_since = None
        actors, workers = self.capacity()
        if now > self._warn_at and not self.workers_and_nodes[0]:
            self._warn_at = float("inf")
            cores = f"{workers} core{'s' * (workers != 1)}"
            needed = cores if self._device == "cpu" else f"a GPU and {cores}"
            _log.warning("waiting for Ray: no node has %s free yet", needed)
        unfinished = len(self._queue) + sum(len(actor.jobs) for actor in self._actors)
        while self._queue and len(self._actors) < min(actors, -(-unfinished // workers)):
            self._actors.append(self._start_actor(workers, now))

    def _start_actor(self, workers: int, now: float) -> _Actor:
        options: dict[str, Any] = {"num_cpus": workers, "max_restarts": 0, "max_task_retries": 0}
        if self._device != "cpu":
            options["num_gpus"] = 1
        handle = self._ray.remote(**options)(self._host).remote()
        # By its own pickle: it is not read before the versions are known to be the same.
        task = pickle.dumps((self._meta, self._device, workers, self._output, self._queue[0].source))
        return _Actor(handle, workers, handle.open.remote(self._meta.versions, task), now)

    def _hand_out_jobs(self) -> None:
        workers, _ = self.workers_and_nodes
        for actor in self._actors:
            if actor.answer is not None:
                continue
            spare = len(self._queue) > workers  # one in hand, so that no worker waits for the driver
            jobs: list[Job] = []
            while self._queue and len(actor.jobs) < actor.workers + spare:
                job = self._queue.popleft()
                actor.jobs[job.video] = job
                jobs.append(job)
            if actor.jobs:
                actor.answer = actor.handle.exchange.remote(jobs)

    def _wait(self, references: list[Any], seconds: float, count: int = 1) -> list[Any]:
        if not references:
            time.sleep(max(min(seconds, self.check_interval / 4), 0))
            return []
        self._ray.wait(references, num_returns=count, timeout=max(seconds, 0))
        ready: list[Any] = self._ray.wait(references, num_returns=len(references), timeout=0)[0]
        return ready

    def _receive(self, actor: _Actor) -> list[Event]:
        try:
            answer, actor.answer = self._ray.get(actor.answer), None
        except self._ray.exceptions.RayTaskError as error:
            raise FlowCacheError(
                f"{actor.node or 'a node of the Ray cluster'}: {_last_line(error)}"
            ) from error
        except self._ray.exceptions.RayError as error:
            return self._lose(actor, error)
        if isinstance(answer, FlowCacheError):
            raise answer
        if not actor.node:
            actor.node, probe = answer
            self._check_probe(actor.node, probe)
            self._failed_rounds.clear()
            return []
        for event in answer:
            if isinstance(event, FieldsDone):
                continue
            del actor.jobs[event.job.video]
            if isinstance(event, Finished) and event.reason is None and not _seen(event.job.target):
                raise FlowCacheError(
                    f"{event.job.target} was written on node {actor.node} and is not there for this machine; the "
                    f"cache folder {SHARED}"
                )
        events: list[Event] = answer
        return events

    def _check_probe(self, node: str, probe: AnyPath) -> None:
        if not _seen(probe):
            raise ArgumentError(
                f"what node {node} writes to {self._output} is not there for this machine; the cache folder {SHARED}"
            )
        probe.unlink(missing_ok=True)

    def _lose(self, actor: _Actor, error: Exception) -> list[Event]:
        """Let an actor go that has died, with its node or alone."""
        self._actors.remove(actor)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor.handle)  # if it only was out of reach, it must not go on
        if getattr(error, "actor_init_failed", False):
            raise ArgumentError(
                f"a node of the Ray cluster cannot load flow_cache ({_last_line(error)}); install the same version "
                "of twostream on every node"
            ) from error
        if not actor.node:
            self._failed_rounds.add(actor.started)
            if len(self._failed_rounds) >= _MAX_FAILED_ROUNDS:
                raise FlowCacheError(f"Ray's actors cannot start: {first_line(error)}") from error
        events: list[Event] = []
        for job in actor.jobs.values():
            self._losses[job.video] += 1
            how = f"with its Ray actor on node {actor.node}: {first_line(error).rstrip('.')}"
            if self._losses[job.video] >= _MAX_LOSSES:
                events.append(Finished(job, reason=f"its worker was lost {_MAX_LOSSES} times ({how})"))
            elif self._losses[job.video] > 1:
                events.append(Died(job, how))
            else:
                self._queue.appendleft(job)
        return events


@dataclass(eq=False)
class _Actor:
    """What the driver knows of an actor."""

    handle: Any
    workers: int
    answer: Any
    """Ray's reference to the answer that is awaited, None if nothing was asked."""
    started: float
    """When; the same for all of one round."""
    node: str = ""
    """Where it is, once it has said so."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """What it was given and has not finished, by video."""


def _connect(address: str) -> tuple[Any, bool]:
    """Connect to a cluster; return Ray's module, and whether it was not connected before. Raises ArgumentError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started by `local` reports no usage
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
    if _nobody_listens(address):
        raise ArgumentError(f"no Ray cluster at {address}: nothing answers there")
    try:
        # Ray puts a handler of its own for SIGTERM in the place of ours.
        with (
            handlers_kept(),
            warnings.catch_warnings(action="ignore", category=FutureWarning),
        ):  # about its future
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


def _nobody_listens(address: str) -> bool:
    """Whether an address is HOST:PORT and cannot be connected to; what is wrong with others, Ray will say."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), _CONNECT_TIMEOUT).close()
    except OSError:
        return True
    except ValueError:
        return False
    return False


def _cluster_gone(address: str) -> FlowCacheError:
    return FlowCacheError(
        f"the Ray cluster at {address} has gone; what is done is kept, and the same command goes on from there"
    )


def _seen(path: AnyPath) -> bool:
    """Whether a file that was just made elsewhere is there; a listing is never older than the question, on NFS too."""
    if not is_local(path):
        return path.exists()
    return path.exists() or (path.parent.exists() and path in path.parent.iterdir())


def _last_line(error: BaseException) -> str:
    """Return what is at the end of a traceback that Ray has made a message of."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
