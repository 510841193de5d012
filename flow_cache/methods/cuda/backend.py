"""The interface between the estimators and a device: allocation, copies and launches, and nothing else.

An estimator sees arrays with a shape, a dtype and contiguous slices, and modules whose kernels it launches by name.
CuPy implements the interface on a GPU (`cupy_backend`). The tests implement it on NumPy arrays, with the kernels built
by a C++ compiler, so that the same Python and CUDA code runs without a GPU.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flow_cache.errors import DeviceError

KERNELS = Path(__file__).resolve().parent / "kernels"
# Division and square root to 2 ulp, and no denormal numbers: three instructions instead of thirty in the inner loops.
COMPILE_OPTIONS = ("-std=c++17", "--ftz=true", "--prec-div=false", "--prec-sqrt=false")

DeviceArray = Any  # cupy.ndarray, or numpy.ndarray under emulation; always contiguous
Size = tuple[int, int, int]  # x, y, z


class DeviceMemoryError(DeviceError):
    """The device has too little free memory for an allocation."""


class Module(Protocol):
    """The compiled kernels of one source file."""

    def launch(self, name: str, grid: Size, block: Size, arguments: Sequence[Any], shared: int = 0) -> None:
        """Queue a kernel on the current stream.

        Args:
            name: of the kernel.
            grid: blocks along x, y, z.
            block: threads of a block along x, y, z.
            arguments: device arrays (passed as pointers; None is a null pointer), int (passed as int32), float
                (float32), or NumPy scalars of other types.
            shared: bytes of dynamic shared memory.
        """
        ...


class Backend(ABC):
    """A device: memory, copies, kernels. All work is queued on the caller's current stream.

    Attributes:
        processors: multiprocessors of the device; together they determine how many blocks run at a time.
    """

    processors: int

    @abstractmethod
    def active(self) -> AbstractContextManager[object]:
        """Make this the current device within a `with` block."""

    @abstractmethod
    def module(self, source: str, **macros: int) -> Module:
        """Compile a file of `methods/cuda/kernels` with these macros; once for each set of macros."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate an array with undefined values.

        Raises:
            DeviceMemoryError: too little memory is free.
        """

    @abstractmethod
    def clear(self, array: DeviceArray) -> None:
        """Set all bytes of an array to 0."""

    @abstractmethod
    def upload(self, source: NDArray[Any] | DeviceArray, target: DeviceArray) -> None:
        """Copy an array, of the host or the device, into a device array of the same shape and dtype."""

    @abstractmethod
    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Wait until all queued work is done, then copy a device array to the host."""

    @abstractmethod
    def adopt(self, array: Any) -> DeviceArray | None:
        """Return a caller's array as a contiguous device array, without a copy through the host.

        Args:
            array: any array; one on this device has __cuda_array_interface__ or __dlpack__.

        Returns:
            The device array; None if `array` is on the host. What is no stack of frames may be returned as it is.
        """

    @abstractmethod
    def free_memory(self) -> int:
        """Return how many bytes can still be allocated."""

    @abstractmethod
    def mark(self) -> Any:
        """Return a mark (an event) that is reached when all work queued so far on the current stream is done."""

    @abstractmethod
    def wait(self, mark: Any) -> None:
        """Let all work queued from now on, on the current stream, wait for a mark (None = do not wait)."""

    @abstractmethod
    def reached(self, mark: Any) -> bool:
        """Return whether a mark has been reached, without waiting for it."""

    @abstractmethod
    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that queues the same launches, on the same arrays, as `work` does.

        `work` is called at least once. Its launches may be recorded in a graph, which the host can launch at almost no
        cost.
        """


@functools.cache
def kernel_source(name: str) -> str:
    """Return the text of a kernel file, with each `#include` replaced by the text of that file."""
    text = (KERNELS / name).read_text(encoding="utf-8")
    return re.sub(r'^#include "([\w.]+)"$', lambda match: kernel_source(match[1]), text, flags=re.MULTILINE)


def macro_options(macros: dict[str, int]) -> tuple[str, ...]:
    """Return the compiler options that define macros, sorted by name."""
    return tuple(f"-D{name}={value}" for name, value in sorted(macros.items()))


def kernel_argument(value: Any) -> Any:
    """Convert a Python number to the type that kernels take: int32 or float32."""
    if isinstance(value, np.generic):
        return value
    if isinstance(value, int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    return value


def blocks_for(count: int, block: int) -> int:
    """Return how many blocks of `block` threads are needed for `count` threads."""
    return -(-count // block)
