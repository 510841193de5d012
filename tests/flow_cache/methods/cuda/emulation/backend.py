"""The backend on NumPy arrays, with the kernels built by a C++ compiler: see `emulated_cuda.h`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import numpy as np

from flow_cache.methods.cuda.backend import (
    Backend,
    DeviceMemoryError,
    kernel_argument,
    kernel_source,
    macro_options,
)

HEADER = Path(__file__).with_name("emulated_cuda.h")
GUARD = 4096  # bytes of the bands before and after each array
FLAGS = ("-std=c++20", "-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared",
         "-fcf-protection=none", "-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-variable",
         "-Wno-unknown-pragmas", "-Wno-subobject-linkage", "-Wno-sign-compare")  # fmt: skip
POISON = np.uint32(0xFFFFFFFF)


class EmulationError(AssertionError):
    """A kernel did something that is not allowed."""


def compiler() -> str | None:
    """Return the C++ compiler, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


@functools.cache
def build(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Build the kernels of a CUDA text as a library; kept in the temporary folder between runs."""
    names = re.findall(
        r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(', text
    )
    assert len(names) == len(re.findall(r"__global__", text)), (
        'every kernel must be `extern "C" __global__ void`'
    )
    # the only thing that macros cannot make valid C++: an array without a size
    text = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\[\];",
        r"\1* const \2 = reinterpret_cast<\1*>(emulation::dynamic_shared);",
        text,
    )
    entries = ", ".join(
        f'{{"{name}", emulation::Caller<&{name}>::call, emulation::Caller<&{name}>::describe}}'
        for name in names
    )
    program = f"""#include "{HEADER}"
#line 1 "kernel.cu"
{text}
static const emulation::Entry entries[] = {{{entries}}};
extern "C" const char* error_message() {{ return emulation::message; }}
extern "C" void describe(int i, char* out) {{ entries[i].describe(out); }}
extern "C" int launch(int i, const unsigned* size, size_t shared, void** arguments, uint64_t seed,
                      const uint64_t* allocations, size_t allocated, size_t guard) {{
    return emulation::launch(entries[i], size, shared, arguments, seed, allocations, allocated, guard);
}}
"""
    key = hashlib.sha256((program + HEADER.read_text() + str((FLAGS, options))).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"flow-cache-emulation-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, built = Path(work, "kernel.cpp"), Path(work, "kernel.so")
            source.write_text(program)
            command = [compiler() or "g++", *FLAGS, *options, str(source), "-o", str(built)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                raise EmulationError(f"the kernels do not compile:\n{run.stderr[:4000]}")
            built.rename(library)
    loaded = ctypes.CDLL(str(library))
    loaded.error_message.restype = ctypes.c_char_p
    loaded.names = names
    return loaded


@contextlib.contextmanager
def _no_collection():
    """Keep the garbage collector from freeing arrays of the device while they are listed and checked."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class EmulatedModule:
    """The kernels of one text."""

    def __init__(self, backend, text, options=()):
        self._backend = backend
        self._library = build(text, options)
        self._indices = {name: i for i, name in enumerate(self._library.names)}
        self._types = {}

    def launch(self, name, grid, block, arguments, shared=0):
        index = self._indices[name]
        if name not in self._types:
            out = ctypes.create_string_buffer(1024)
            self._library.describe(index, out)
            self._types[name] = out.value.decode().split()
        expected = self._types[name]
        values = [kernel_argument(value) for value in arguments]
        if len(values) != len(expected):
            raise EmulationError(f"{name} takes {len(expected)} arguments, got {len(values)}")
        cells = [self._cell(name, i, *pair) for i, pair in enumerate(zip(expected, values, strict=True))]
        pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        size = (ctypes.c_uint * 6)(*grid, *block)
        self._backend.launches.append((name, tuple(grid), tuple(block), shared))
        with _no_collection():
            allocations = self._backend.allocations()
            failed = self._library.launch(
                index, size, ctypes.c_size_t(shared), pointers, ctypes.c_uint64(self._backend.seed),
                ctypes.c_void_p(allocations.ctypes.data), ctypes.c_size_t(len(allocations)), ctypes.c_size_t(GUARD),
            )  # fmt: skip
        if failed:
            raise EmulationError(self._library.error_message().decode())

    def _cell(self, name, i, code, value):
        """Return memory that holds an argument as the kernel reads it; refuse one of another type."""
        if code.startswith("*"):
            if value is None:
                return np.zeros(1, np.uint64)
            if not isinstance(value, np.ndarray) or value.dtype.str[1:] != code[1:]:
                got = value.dtype.str[1:] if isinstance(value, np.ndarray) else type(value).__name__
                raise EmulationError(f"argument {i} of {name} is a pointer to {code[1:]}, got {got}")
            if not value.flags.c_contiguous:
                raise EmulationError(f"argument {i} of {name} is not contiguous")
            return np.array([value.ctypes.data], np.uint64)
        if not isinstance(value, np.generic) or value.dtype.str[1:] != code:
            got = value.dtype.str[1:] if isinstance(value, np.generic) else type(value).__name__
            raise EmulationError(f"argument {i} of {name} is {code}, got {got}")
        return np.array([value])


class EmulatedBackend(Backend):
    """A device on NumPy arrays. seed: the order in which blocks and threads run; limit: bytes of its memory."""

    processors = 3  # so that workers get several items each, and not all the same number

    def __init__(self, seed=0, limit=1 << 40):
        self.seed = seed
        self.limit = limit
        self.launches = []
        self._live = {}
        self._modules = {}
        self._table = None

    def active(self):
        return contextlib.nullcontext()

    def module(self, source, **macros):
        key = (source, *sorted(macros.items()))
        if key not in self._modules:
            self._modules[key] = EmulatedModule(self, kernel_source(source), macro_options(macros))
        return self._modules[key]

    def text_module(self, text):
        """Compile kernels that are not in a file."""
        return EmulatedModule(self, text)

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes > self.free_memory():
            raise DeviceMemoryError(f"out of memory allocating {nbytes} bytes")
        owner = np.empty(nbytes + 2 * GUARD + 256, np.uint8)
        start = -owner.ctypes.data % 256
        # the band begins right after the last byte, so that the first one beyond it is seen
        memory = owner[start : start + nbytes + 2 * GUARD]
        memory[:] = 0xFF
        token = memory.ctypes.data
        self._live[token] = len(memory)
        self._table = None
        weakref.finalize(owner, self._forget, token)  # views of it keep their owner alive
        return memory[GUARD : GUARD + nbytes].view(dtype).reshape(shape)

    def _forget(self, token):
        self._live.pop(token, None)
        self._table = None

    def allocations(self):
        with _no_collection():
            if self._table is None:
                self._table = np.array(list(self._live.items()), np.uint64).reshape(-1, 2)
            return self._table

    def clear(self, array):
        array.view(np.uint8)[...] = 0

    def upload(self, source, target):
        assert source.shape == target.shape, (source.shape, target.shape)
        assert source.dtype == target.dtype, (source.dtype, target.dtype)
        target[...] = source

    def download(self, array):
        if array.dtype == np.float32 and (np.ascontiguousarray(array).view(np.uint32) == POISON).any():
            raise EmulationError(
                "downloaded floats that nothing has written, or that were computed from such"
            )
        return np.array(array)

    def adopt(self, array):
        return np.ascontiguousarray(array.emulated) if hasattr(array, "emulated") else None

    def free_memory(self):
        with _no_collection():
            return self.limit - sum(self._live.values())

    def mark(self):
        return None

    def wait(self, mark):
        pass

    def reached(self, mark):
        return True

    def recorded(self, work):
        return work
