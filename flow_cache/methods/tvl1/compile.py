"""How the CPU kernels are compiled: options, row views without reference counts, aligned memory.

A kernel walks rows; what it does to a row is a *row kernel*, a function over contiguous 1-D arrays that is inlined
into it. Three things make LLVM turn a row kernel into plain vector code at any width: it is inlined (a call would pass
seven words an array), its rows are views that own nothing (a NumPy slice takes and drops an atomic reference count),
and the row kernel promises that no row that it writes is reached through another of its arguments.

Numba's public options give the first alone. The tuned way gets all three from Numba's internals (`numba_internals`);
where these are not as that module needs them, the plain way does with the public options: results agree up to
rounding, and estimation is slower. For debugging, the environment variable FLOW_CACHE_PLAIN_NUMBA=1 takes the plain
way, too.
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
# In row kernels, what the processor estimates of 1 / x and 1 / sqrt(x) may stand for it. NaN keeps its meaning there;
# infinity is not looked for.
_ROW_ARITHMETIC = _ARITHMETIC | {"arcp", "ninf"}


@dataclass(frozen=True)
class Way:
    """A way to compile kernels: what is added to Numba's public options."""

    kernel_options: Mapping[str, Any]
    row_kernel_options: Mapping[str, Any]
    row: Any
    """Compiled function (memory, start, size): views `size` elements of the flat array `memory` from `start`."""
    suffix: str
    """Ends a kernel's name on disk: Numba looks for stored code by name, whatever the options that it was made with."""


@njit(nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _slice(memory: Any, start: Any, size: Any) -> Any:
    return memory[start : start + size]


PLAIN = Way(kernel_options={}, row_kernel_options={}, row=_slice, suffix=".plain")


def load_tuned() -> Way:
    """Return the tuned way; raises any exception where Numba's internals are not as it needs them."""
    from flow_cache.methods.tvl1 import numba_internals as internals

    # a check takes a third of a second in every process, also in those that estimate nothing
    if numba.__version__ not in internals.TESTED_VERSIONS:
        internals.check()
    return Way(internals.KERNEL_OPTIONS, internals.ROW_KERNEL_OPTIONS, internals.row, suffix="")


def choose(load: Callable[[], Way], environment: MutableMapping[str, str]) -> Way:
    """Return what `load` returns, or PLAIN, with a warning, where it fails.

    The environment is then changed so that the processes that this one starts take the plain way without a word.
    """
    if environment.get(_PLAIN_VARIABLE, "0") not in ("", "0"):
        return PLAIN
    try:
        return load()
    except Exception as error:  # there is no telling what a changed library raises
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
    """Compile a kernel that Python calls: without the GIL, kept on disk between processes.

    The compiled code goes beside the source, else to the user's cache folder (NUMBA_CACHE_DIR names another one);
    where none of them can be written, it is compiled anew in every process.
    """
    function.__qualname__ += way.suffix
    options = {"nogil": True, "error_model": "numpy", "fastmath": _ARITHMETIC, **way.kernel_options}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder that it may write
        return njit(**options)(function)


def row_kernel(function: Callable[..., Any], way: Way = _WAY) -> Any:
    """Compile a function over 1-D arrays that kernels of the same module inline.

    An array that it writes must not overlap any other argument. It lives in the module of its callers, since numba
    renews a stored kernel only when that kernel's own file changes.
    """
    return njit(
        nogil=True,
        error_model="numpy",
        fastmath=_ROW_ARITHMETIC,
        forceinline=True,
        **way.row_kernel_options,
    )(function)


def round_up(size: int) -> int:
    """Round a row's length up to whole cache lines."""
    return -(-size // LANES) * LANES


def aligned(size: int) -> NDArray[np.float32]:
    """Allocate `size` float32 zeros that start on a cache line."""
    memory = np.zeros(size + LANES, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % LANES
    return memory[start : start + size]
