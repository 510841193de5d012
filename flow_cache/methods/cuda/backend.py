"""The seam between the estimators and a device: allocation, copies and launches, and nothing else.

An estimator sees arrays that have shape, dtype and contiguous slices, and modules whose kernels it launches by name.
CuPy implements this on a GPU (`cupy_backend`); the tests implement it on NumPy arrays, with the kernels built by a C++
compiler, so that the same Python and the same CUDA text run without a GPU.
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
COMPILE_OPTIONS = ("-std=c++17", "--ftz=true", "--prec-div=false", "--prec-sqrt=false")
"""Division and square root to 2 ulp and no denormal numbers: three instructions instead of thirty in the hot loops."""

DeviceArray = Any  # cupy.ndarray or, emulated, numpy.ndarray; always contiguous
Size = tuple[int, int, int]


class DeviceMemoryError(DeviceError):
    """The device has not the memory that was asked for."""


class Module(Protocol):
    """The compiled kernels of one source file."""

    def launch(self, name: str, grid: Size, block: Size, arguments: Sequence[Any], shared: int = 0) -> None:
        """Queue a kernel on the current stream.

        arguments: device arrays (passed as pointers, None as a null one), int (int32), float (float32), or NumPy
        scalars of other types. shared: bytes of dynamic shared memory.
        """
        ...


class Backend(ABC):
    """A device: memory, copies, kernels. All work is queued on the caller's current stream."""

    processors: int  # multiprocessors of the device: how many blocks there is a place for

    @abstractmethod
    def active(self) -> AbstractContextManager[object]:
        """Make this the current device within a `with` block."""

    @abstractmethod
    def module(self, source: str, **macros: int) -> Module:
        """Compile a file of `methods/cuda/kernels` with macros defined, once for each set of macros."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate an array that holds nothing yet. Raises DeviceMemoryError."""

    @abstractmethod
    def clear(self, array: DeviceArray) -> None:
        """Set all bytes of an array to 0."""

    @abstractmethod
    def upload(self, source: NDArray[Any] | DeviceArray, target: DeviceArray) -> None:
        """Copy an array, of the host or the device, into a device array of the same shape and dtype."""

    @abstractmethod
    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Copy a device array to the host, once all that is queued has been done."""

    @abstractmethod
    def adopt(self, array: Any) -> DeviceArray | None:
        """Return a contiguous device array over a caller's array without a copy through the host.

        Takes what has __cuda_array_interface__ or __dlpack__ on this device. None: the array is the host's.
        """

    @abstractmethod
    def free_memory(self) -> int:
        """Return the bytes that can still be allocated."""

    @abstractmethod
    def mark(self) -> Any:
        """Return a mark of what has been queued on the current stream up to now."""

    @abstractmethod
    def wait(self, mark: Any) -> None:
        """Let what is queued on the current stream from now on wait for a mark (None = for nothing)."""

    @abstractmethod
    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that does what `work` does: queue the same launches on the same arrays.

        `work` is called at least once. Launches may be recorded in a graph, which costs the host next to nothing.
        """


@functools.cache
def kernel_source(name: str) -> str:
    """Return the text of a kernel file with the files that it includes in place."""
    text = (KERNELS / name).read_text(encoding="utf-8")
    return re.sub(r'^#include "([\w.]+)"$', lambda match: kernel_source(match[1]), text, flags=re.MULTILINE)


def macro_options(macros: dict[str, int]) -> tuple[str, ...]:
    """Return the compiler's options that define macros, in one order."""
    return tuple(f"-D{name}={value}" for name, value in sorted(macros.items()))


def kernel_argument(value: Any) -> Any:
    """Give a plain number the type that kernels take: int32 or float32."""
    if isinstance(value, np.generic):
        return value
    if isinstance(value, int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    return value


def blocks_for(count: int, block: int) -> int:
    """Return how many blocks of `block` threads it takes for `count` of them."""
    return -(-count // block)
