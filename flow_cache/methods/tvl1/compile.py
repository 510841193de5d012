"""How the CPU kernels are compiled: options, row views without reference counts, aligned memory.

A kernel loops over rows. The work on one row is a *row kernel*: a function over contiguous 1-D arrays that is inlined
into the kernel. LLVM turns a row kernel into plain vector code, at any vector width, if three things hold:

- It is inlined. A call would pass seven words for each array.
- Its rows are views without a reference count. A NumPy slice would increment and decrement an atomic counter.
- It promises that no row that it writes overlaps another of its arguments.

Numba's public options give only the first. The tuned way gets all three from Numba's internals (`numba_internals`). If
a release of Numba has changed them, the plain way uses the public options alone: results agree up to rounding, and
estimation is slower. For debugging, the environment variable FLOW_CACHE_PLAIN_NUMBA=1 selects the plain way, too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import njit
from numpy.typing import NDArray

from flow_cache.errors import first_line

LANES = 16  # rows are padded to a multiple of this many floats: 64 bytes, a cache line

_PLAIN_VARIABLE = "FLOW_CACHE_PLAIN_NUMBA"
_log = logging.getLogger(__name__)

# Sums may be regrouped and products fused.
_ARITHMETIC = {"contract", "reassoc", "nsz"}
# In row kernels, the processor's estimates of 1 / x and 1 / sqrt(x) may be used. NaN still works there, infinity need
# not.
_ROW_ARITHMETIC = _ARITHMETIC | {"arcp", "ninf"}


@dataclass(frozen=True)
class Way:
    """A way to compile kernels: what is added to Numba's public options.

    Attributes:
        kernel_options: further options of kernels.
        row_kernel_options: further options of row kernels.
        row: compiled function (memory, start, size) that views `size` elements of the flat array `memory` from `start`.
        suffix: end of a kernel's name on disk. Numba finds stored code by name and ignores the options of its
            compilation, so each way needs names of its own.
    """

    kernel_options: Mapping[str, Any]
    row_kernel_options: Mapping[str, Any]
    row: Any
    suffix: str


@njit(nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _slice(memory: Any, start: Any, size: Any) -> Any:
    """View `size` elements of `memory` from `start`."""
    return memory[start : start + size]


PLAIN = Way(kernel_options={}, row_kernel_options={}, row=_slice, suffix=".plain")


def load_tuned() -> Way:
    """Return the tuned way; raise any exception if Numba's internals have changed."""
    from flow_cache.methods.tvl1 import numba_internals as internals

    # the check takes a third of a second in every process, also in one that estimates nothing
    if numba.__version__ not in internals.TESTED_VERSIONS:
        internals.check()
    return Way(internals.KERNEL_OPTIONS, internals.ROW_KERNEL_OPTIONS, internals.row, suffix="")


def choose(load: Callable[[], Way], environment: MutableMapping[str, str]) -> Way:
    """Return the way to compile kernels.

    Args:
        load: returns the tuned way, or raises any exception.
        environment: environment variables. If `load` fails, FLOW_CACHE_PLAIN_NUMBA is set there, so that processes
            started by this one use the plain way without another warning.

    Returns:
        What `load` returns. PLAIN if `load` fails, with a logged warning, or if the environment asks for it.
    """
    if environment.get(_PLAIN_VARIABLE, "0") not in ("", "0"):
        return PLAIN
    try:
        return load()
    except Exception as error:  # a changed library may raise anything
        _log.warning(
            "numba %s does not take the tuning of the TV-L1 kernels, which run slower without it: %s",
            numba.__version__,
            first_line(error),
        )
        environment[_PLAIN_VARIABLE] = "1"
        return PLAIN


_WAY = choose(load_tuned, os.environ)
row = _WAY.row


def kernel(function: Callable[..., Any], way: Way = _WAY) -> Any:
    """Compile a kernel that Python calls. It runs without the GIL, and its code is kept on disk between processes.

    The code is stored beside the source, else in the user's cache folder (or the one that NUMBA_CACHE_DIR names). If
    neither can be written, every process compiles the kernel again.

    Args:
        function: the kernel; compiled at its first call for the types of its arguments.
        way: how to compile.

    Returns:
        The compiled function.
    """
    function.__qualname__ += way.suffix
    options = {"nogil": True, "error_model": "numpy", "fastmath": _ARITHMETIC, **way.kernel_options}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # Numba finds no folder that it can write to
        return njit(**options)(function)


def row_kernel(function: Callable[..., Any], way: Way = _WAY) -> Any:
    """Compile a function over 1-D arrays that kernels of the same module inline.

    It must be defined in the same module as its callers: Numba compiles a stored kernel again only if the kernel's own
    file has changed.

    Args:
        function: the row kernel; an array that it writes must not overlap any other argument.
        way: how to compile.

    Returns:
        The compiled function.
    """
    return njit(
        nogil=True,
        error_model="numpy",
        fastmath=_ROW_ARITHMETIC,
        forceinline=True,
        **way.row_kernel_options,
    )(function)


def round_up(size: int) -> int:
    """Round a row's length, in floats, up to whole cache lines."""
    return -(-size // LANES) * LANES


def aligned(size: int) -> NDArray[np.float32]:
    """Allocate `size` float32 zeros that start at a cache line."""
    memory = np.zeros(size + LANES, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % LANES
    return memory[start : start + size]
