"""What runs on the nodes of a Ray cluster: an actor that owns a worker pool and, on a GPU, its estimation process."""

from __future__ import annotations

import contextlib
import pickle
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flow_cache.cache.meta import FORMAT_VERSIONS, CacheMeta, current_versions
from flow_cache.errors import ArgumentError, CacheWriteError, FlowCacheError
from flow_cache.pipeline.runners.base import Event
from flow_cache.pipeline.runners.gpu_service import Service, estimation_services
from flow_cache.pipeline.runners.pool import WorkerPool
from flow_cache.pipeline.worker import Job
from flow_cache.progress import FieldsDone
from flow_cache.storage.atomic import write_atomically
from flow_cache.storage.paths import is_local

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

StartServices = Callable[[CacheMeta, str], contextlib.AbstractContextManager[list[Service]]]
_COLLECT = 1.0  # seconds that an actor collects events for, unless a video is finished before
SHARED = "must be on storage that all nodes share, under the same path, or a URL"


class Host:
    """Work on a node, as a Ray actor; a decoder that crashes there kills a worker, not the actor.

    Errors are returned, not raised: Ray would wrap them.
    """

    def __init__(self, node: str = "", start_services: StartServices = estimation_services) -> None:
        """Start nothing yet.

        Args:
            node: the name of the node for messages; default: its address, host name and Ray's identifier.
            start_services: starts the estimation process of a GPU.
        """
        self._stack = contextlib.ExitStack()
        self._pool: WorkerPool
        self._node = node or _node_name()
        self._start_services = start_services
        # Workers would import Ray's own main module, as multiprocessing lets them import any.
        sys.modules["__main__"].__dict__.pop("__file__", None)

    def open(self, versions: Mapping[str, str], task: bytes) -> tuple[str, AnyPath] | FlowCacheError:
        """Start the workers, if this node can do what the driver needs.

        Args:
            versions: the driver's, which this node must have too.
            task: pickled meta, device, number of workers, cache folder and one of the videos.

        Returns:
            The name of the node, and an empty file that it has made in the cache folder for the driver to see.
        """
        try:
            ours = current_versions([name for name in versions if name != "format"])
            if versions.get("format", "") in [str(version) for version in FORMAT_VERSIONS]:
                ours["format"] = versions["format"]  # which depends on the codec
            for name, version in versions.items():
                if ours[name] != version:
                    raise ArgumentError(
                        f"has {name} {ours[name]}, the driver {version}; install the same version on every node"
                    )
            meta, device, workers, output, video = pickle.loads(task)
            if not video.exists():
                raise ArgumentError(f"does not see the video {video}; the input {SHARED}")
            if is_local(output) and not output.exists():
                raise ArgumentError(f"does not see {output}; the cache folder {SHARED}")
            probe: AnyPath = output / f".{secrets.token_hex(8)}.probe"
            try:
                write_atomically(probe, b"")
            except CacheWriteError as error:
                raise CacheWriteError(output, error.reason) from error
            services = self._stack.enter_context(self._start_services(meta, device))
            self._pool = self._stack.enter_context(WorkerPool(workers, services))
        except FlowCacheError as error:
            return _named(error, self._node)
        return self._node, probe

    def exchange(self, jobs: list[Job]) -> list[Event] | FlowCacheError:
        """Take jobs, and return what has happened: as soon as a video is done with, or in a second."""
        for job in jobs:
            self._pool.submit(job)
        events: list[Event] = []
        deadline = time.monotonic() + _COLLECT
        try:
            while not self._pool.idle and (left := deadline - time.monotonic()) > 0:
                events += self._pool.poll(left)
                if not all(isinstance(event, FieldsDone) for event in events):
                    break
        except FlowCacheError as error:
            try:
                self._stack.__exit__(type(error), error, error.__traceback__)
            except FlowCacheError as told:  # by `estimation_services`, which knows more
                error = told
            return _named(error, self._node)
        return events

    def close(self) -> None:
        """End the workers."""
        self._stack.close()


def _node_name() -> str:
    import ray

    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()}, {ray.get_runtime_context().get_node_id()[:8]})"


def _named(error: FlowCacheError, node: str) -> FlowCacheError:
    """Say on which node it was."""
    if isinstance(error, CacheWriteError):
        return CacheWriteError(error.path, f"{error.reason} (on node {node})")
    return type(error)(f"node {node}: {error}")
