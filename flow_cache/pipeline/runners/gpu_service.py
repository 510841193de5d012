"""One process for each GPU, which estimates flow for all workers.

Workers decode and encode; they send their stacks of frames to the process that owns the GPU, and get quantised flow
back. All requests that wait when the GPU becomes free are estimated together, from whatever videos they are, so that
short clips fill a batch too. When a worker dies, only its own request is lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.meta import CacheMeta
from flow_cache.errors import DeviceError, FlowCacheError, LostDeviceError, one_line
from flow_cache.methods.base import FlowMethod
from flow_cache.methods.device import check_devices
from flow_cache.methods.registry import get_method
from flow_cache.runtime import opencv, start_worker

_MAX_TOGETHER = 4  # chunks of frames that are estimated at a time
_SENDERS = 4  # threads that send answers


@dataclass(frozen=True)
class Service:
    """How a worker reaches the process of a device, and what it finds there.

    Attributes:
        address, key: of the connection.
        backend: what computes the flow, as written in cache files.
        on_gpu: whether the device is a GPU.
        chunk: pairs of a long video that are best sent at a time.
    """

    address: Any
    key: bytes
    backend: str
    on_gpu: bool
    chunk: int


class EstimationProcess:
    """The process that owns a device; a context manager that ends it.

    Args:
        method: the flow estimator.
        device: the device's name.
        parameters: of the estimator.

    Attributes:
        device: the device's name.
        service: how workers reach the process.

    Raises:
        DeviceError: the device cannot be used.
        ArgumentError: unusable parameters.
    """

    def __init__(self, method: str, device: str, parameters: dict[str, Any]) -> None:
        self.device = device
        ours, theirs = multiprocessing.Pipe()
        self._life = ours  # when it is closed, the other process knows that this one has ended
        self._process = start_worker(_serve, theirs, method, device, parameters, name=f"flow-cache {device}")
        theirs.close()
        try:
            hello = ours.recv()
        except EOFError:
            raise DeviceError(f"the process of device {device} ended before it was ready") from None
        if isinstance(hello, Exception):
            raise hello
        self.service: Service = hello

    @property
    def failure(self) -> str | None:
        """Why the process has ended; None while it runs."""
        if self._process.is_alive():
            return None
        with contextlib.suppress(EOFError, OSError):
            if self._life.poll():
                return str(self._life.recv())
        return f"exit status {self._process.exitcode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._life.close()
        self._process.terminate()  # it holds nothing but memory
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def estimation_services(
    meta: CacheMeta,
    devices: str,
    start_process: Callable[[str, str, dict[str, Any]], EstimationProcess] = EstimationProcess,
) -> Iterator[list[Service]]:
    """Start a process for each GPU; a context manager that ends them.

    Args:
        meta: names the method and its parameters.
        devices: names of devices between commas; `auto` starts none if there is no GPU.
        start_process: starts a process: (method, device, parameters).

    Yields:
        How workers reach the processes.

    Raises:
        DeviceError: a device cannot be used.
        LostDeviceError: as raised by the work inside, with the reason why the process ended.
    """
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(start_process(meta.method, device, dict(meta.parameters)))
            for device in check_devices(devices)
        ]
        try:
            yield [process.service for process in processes if process.service.on_gpu]
        except LostDeviceError as error:
            ended = [f"{process.device} ({process.failure})" for process in processes if process.failure]
            raise LostDeviceError(
                f"{error}: {', '.join(ended) or 'its pipe was closed'}; what is done is kept, and the same command "
                "goes on from there"
            ) from error


class RemoteEstimator:
    """A worker's connection to the process of a device, used like an estimator.

    Args:
        service: how the process is reached.

    Raises:
        LostDeviceError: it cannot be reached, or has ended.
    """

    def __init__(self, service: Service) -> None:
        self.backend = service.backend
        self.chunk = service.chunk
        try:
            self._connection = Client(service.address, authkey=service.key)
        except (OSError, EOFError) as error:
            raise LostDeviceError(f"the process that estimates flow cannot be reached: {error}") from error

    def quantized(
        self, frames: NDArray[np.uint8], bound: float, step: int = 1
    ) -> tuple[NDArray[np.uint8], int]:
        """Estimate and quantise the flow of a stack, as `FlowMethod.quantized` does; raises the same errors."""
        levels = np.empty((len(frames) - step, 2, *frames.shape[1:]), np.uint8)
        try:
            self._connection.send((frames.shape, bound, step))
            self._connection.send_bytes(_bytes(frames))
            answer = self._connection.recv()
            if isinstance(answer, Exception):
                raise answer
            self._connection.recv_bytes_into(levels.reshape(-1))
        except (OSError, EOFError) as error:
            raise LostDeviceError("the process that estimates flow has ended") from error
        return levels, int(answer)


@dataclass(eq=False)
class _Request:
    """Frames that a worker wants the flow of."""

    connection: Connection
    frames: NDArray[np.uint8]
    bound: float
    step: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests can be estimated together if they have the same kind: the size, the bound and the step."""
        return self.frames.shape[1:], self.bound, self.step


def _serve(life: Connection, name: str, device: str, parameters: dict[str, Any]) -> None:
    """Own a device: open it, send the address, then estimate until the main process ends."""
    opencv().setNumThreads(1)
    try:
        method = get_method(name, device, **parameters)
        key = os.urandom(32)
        listener = Listener(None, backlog=64, authkey=key)
        life.send(Service(listener.address, key, method.backend, method.on_gpu, method.chunk))
    except (FlowCacheError, OSError) as error:
        life.send(error if isinstance(error, FlowCacheError) else DeviceError(str(error)))
        return
    requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(listener, requests), daemon=True).start()
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    try:
        _estimate_all(method, requests)
    except Exception as error:  # an error of CUDA, after which this process cannot work any more
        life.send(f"{type(error).__name__}: {one_line(error)}")
        os._exit(1)


def _end_with(life: Connection) -> None:
    """End this process when the main process closes the pipe, or ends."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    os._exit(0)


def _listen(listener: Listener, requests: queue.SimpleQueue[_Request]) -> None:
    """Accept the connections of workers, each read by its own thread."""
    while True:
        with contextlib.suppress(OSError, EOFError, multiprocessing.AuthenticationError):
            connection = listener.accept()
            threading.Thread(target=_read, args=(connection, requests), daemon=True).start()


def _read(connection: Connection, requests: queue.SimpleQueue[_Request]) -> None:
    """Receive a worker's requests until it ends."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            shape, bound, step = connection.recv()
            frames = np.empty(shape, np.uint8)
            connection.recv_bytes_into(frames.reshape(-1))
            requests.put(_Request(connection, frames, bound, step))


def _estimate_all(method: FlowMethod, requests: queue.SimpleQueue[_Request]) -> None:
    """Answer requests: those that wait and are of one kind together, while earlier answers are being sent."""
    waiting: list[_Request] = []
    with ThreadPoolExecutor(_SENDERS) as senders:
        while True:
            if not waiting:
                waiting.append(requests.get())
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(requests.get_nowait())
            together, waiting = _gather(waiting, _MAX_TOGETHER * method.chunk)
            for request, result in zip(together, _estimate(method, together), strict=True):
                senders.submit(_send, request.connection, result)


def _gather(waiting: list[_Request], most: int) -> tuple[list[_Request], list[_Request]]:
    """Split off the oldest request and others of its kind, up to `most` frames; returns them, and the rest."""
    together, others, frames = [waiting[0]], [], len(waiting[0].frames)
    for request in waiting[1:]:
        if request.kind == waiting[0].kind and frames + len(request.frames) <= most:
            together.append(request)
            frames += len(request.frames)
        else:
            others.append(request)
    return together, others


def _estimate(method: FlowMethod, together: Sequence[_Request]) -> Sequence[Any]:
    """Return the levels and the count of clipped values of each request, or an error for each."""
    first = together[0]
    try:
        return method.quantized_stacks([request.frames for request in together], first.bound, first.step)
    except (
        FlowCacheError
    ) as error:  # for example, frames that are too large: these videos fail, not the process
        return [error] * len(together)


def _send(connection: Connection, result: Any) -> None:
    """Send an answer, or an error."""
    with contextlib.suppress(OSError):  # the worker has ended
        if isinstance(result, Exception):
            connection.send(result)
        else:
            levels, clipped = result
            connection.send(clipped)
            connection.send_bytes(_bytes(levels))


def _bytes(array: NDArray[np.uint8]) -> memoryview:
    """Return an array as the bytes that are sent."""
    return np.ascontiguousarray(array).reshape(-1).data
