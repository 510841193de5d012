"""The backend on a GPU, by CuPy, which compiles kernels for the GPU at first use and keeps them on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flow_cache.errors import ArgumentError, DeviceError, first_line
from flow_cache.methods.cuda.backend import (
    COMPILE_OPTIONS,
    Backend,
    DeviceArray,
    DeviceMemoryError,
    Module,
    Size,
    blocks_for,
    kernel_argument,
    kernel_source,
    macro_options,
)

_DLPACK_CUDA = (2, 13)  # DLPack's codes for device memory and managed memory
DEFAULT_SHARED = 48 * 1024  # bytes of dynamic shared memory that a kernel may use without a special request
MOST_BLOCKS = 65535  # of a grid along z


class CupyModule:
    """The kernels of one source file on one device."""

    def __init__(self, cupy: Any, source: str, macros: dict[str, int]) -> None:
        self._cupy = cupy
        self._module = cupy.RawModule(
            code=kernel_source(source), options=(*COMPILE_OPTIONS, *macro_options(macros)), backend="nvrtc"
        )
        self._kernels: dict[str, Any] = {}

    def launch(self, name: str, grid: Size, block: Size, arguments: Sequence[Any], shared: int = 0) -> None:
        kernel = self._kernels.get(name)
        if kernel is None:
            try:
                kernel = self._kernels[name] = self._module.get_function(name)
            except self._cupy.cuda.compiler.CompileException as error:
                raise DeviceError(
                    f"the kernels do not compile for this GPU ({first_line(error)}); install a CuPy for a newer CUDA"
                ) from error
            except RuntimeError as error:  # e.g. CUDA's headers are missing
                raise DeviceError(
                    f"the kernels cannot be made ({first_line(error)}); where CUDA's headers are missing, "
                    "pip install 'cupy-cuda13x[ctk]'"
                ) from error
        if shared > DEFAULT_SHARED and shared > kernel.max_dynamic_shared_size_bytes:
            kernel.max_dynamic_shared_size_bytes = shared
        values = tuple(np.uintp(0) if value is None else kernel_argument(value) for value in arguments)
        kernel(grid, block, values, shared_mem=shared)


class CupyBackend(Backend):
    """One GPU.

    Args:
        cupy: the module CuPy, passed in so that this module can be imported without it.
        index: CUDA's number of the device.
    """

    def __init__(self, cupy: Any, index: int) -> None:
        self._cupy = cupy
        self.index = index
        self._device = cupy.cuda.Device(index)
        self.processors = int(self._device.attributes["MultiProcessorCount"])
        self.module = functools.cache(self._module)  # type: ignore[method-assign]

    def active(self) -> AbstractContextManager[object]:
        return self._cupy.cuda.Device(self.index)  # type: ignore[no-any-return]

    def _module(self, source: str, **macros: int) -> Module:
        """Compile a file of kernels."""
        with self.active():
            return CupyModule(self._cupy, source, macros)

    def module(self, source: str, **macros: int) -> Module:
        raise AssertionError("replaced by its cached form in __init__")

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            raise DeviceMemoryError(
                f"cuda:{self.index} has no {wanted} bytes left ({self.free_memory()} free); free some of its memory"
            ) from error

    def clear(self, array: DeviceArray) -> None:
        array.data.memset_async(0, array.nbytes)

    def upload(self, source: NDArray[Any] | DeviceArray, target: DeviceArray) -> None:
        if isinstance(source, np.ndarray):
            target.set(np.ascontiguousarray(source), stream=self._cupy.cuda.get_current_stream())
        else:  # a plain copy, for which CuPy need not compile anything
            target.data.copy_from_device_async(source.data, source.nbytes)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        return self._cupy.asnumpy(array)  # type: ignore[no-any-return]

    def adopt(self, array: Any) -> DeviceArray | None:
        if isinstance(array, np.ndarray):
            return None
        # DLPack first: it orders the caller's stream and the current one, and the host need not wait
        if hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in _DLPACK_CUDA:
            adopted = self._cupy.from_dlpack(array)
        elif hasattr(array, "__cuda_array_interface__"):
            adopted = self._cupy.asarray(array)
        else:
            return None
        index = adopted.device.id
        if index != self.index:
            raise ArgumentError(
                f"frames are on cuda:{index} but the method runs on cuda:{self.index}; move one to the other"
            )
        return self._contiguous(adopted)

    def _contiguous(self, array: DeviceArray) -> DeviceArray:
        """Return a stack (n, height, width) in C order, by a kernel of ours: CuPy would need CUDA's headers for it.

        Arrays of other shapes or types are returned as they are: they are no frames.
        """
        kernels = {1: "gather_bytes", 4: "gather_floats"}
        if array.flags.c_contiguous or array.ndim != 3 or array.itemsize not in kernels or not array.size:
            return array
        target = self._cupy.empty(array.shape, array.dtype)
        count, height, width = array.shape
        strides = tuple(np.int64(stride) for stride in array.strides)
        block = (32, 8, 1)
        for start in range(0, count, MOST_BLOCKS):
            part, into = array[start : start + MOST_BLOCKS], target[start : start + MOST_BLOCKS]
            grid = (blocks_for(width, block[0]), blocks_for(height, block[1]), len(part))
            self.module("gather.cu").launch(
                kernels[array.itemsize],
                grid,
                block,
                (np.uint64(part.data.ptr), *strides, into, height, width),
            )
        return target

    def free_memory(self) -> int:
        free, _ = self._device.mem_info
        return int(free + self._cupy.get_default_memory_pool().free_bytes())

    def mark(self) -> Any:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, mark: Any) -> None:
        if mark is not None:
            self._cupy.cuda.get_current_stream().wait_event(mark)

    def reached(self, mark: Any) -> bool:
        return bool(mark.done)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        return _Recorded(self._cupy, work)


class _Recorded:
    """Work that is queued directly the first time, since kernels may have to be loaded then, later by a graph."""

    def __init__(self, cupy: Any, work: Callable[[], None]) -> None:
        self._cupy = cupy
        self._work = work
        self._calls = 0
        self._graph: Any = None

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 1:
            self._work()
            return
        if self._graph is None:
            stream = self._cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                try:
                    self._work()
                finally:
                    graph = (
                        stream.end_capture()
                    )  # also after an error, else the stream would stay in capture mode
            self._graph = graph
        self._graph.launch(self._cupy.cuda.get_current_stream())
