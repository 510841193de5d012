"""How the CPU kernels are compiled: options, row views without reference counts, aligned memory.

A kernel walks rows; what it does to a row is a *row kernel*, a function over contiguous 1-D arrays that is inlined
into it. Three things make LLVM turn a row kernel into plain vector code at any width: it is inlined (a call would pass
seven words an array), its rows are views that own nothing (a NumPy slice takes and drops an atomic reference count),
and the row kernel promises that no row that it writes is reached through another of its arguments.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

LANES = 16  # rows are padded to a multiple of this many floats: 64 bytes, a cache line

# Sums may be regrouped and products fused.
_ARITHMETIC = {"contract", "reassoc", "nsz"}
# In row kernels, what the processor estimates of 1 / x and 1 / sqrt(x) may stand for it. NaN keeps its meaning there;
# infinity is not looked for.
_ROW_ARITHMETIC = _ARITHMETIC | {"arcp", "ninf"}

# LLVM takes vectors of 256 bits on many processors that have wider ones, for the sake of other programs' clock rates.
# An estimate of 1 / x is refined until single precision is had. One of 1 / sqrt(x) comes unrefined on x86, where it has
# 11 bits or more, and refined once elsewhere, so that it has them, too; who takes one adds a Newton step.
_REFINEMENTS = 0 if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686") else 1
_ATTRIBUTES = (
    '"prefer-vector-width"="512"',
    f'"reciprocal-estimates"="vec-sqrtf:{_REFINEMENTS},vec-divf"',
)


class _Lower(Lower):
    """Lower a function with attributes for LLVM; processors that lack what they name ignore them."""

    def setup_function(self, description: Any) -> None:
        super().setup_function(description)
        for attribute in _ATTRIBUTES:
            set.add(self.function.attributes, attribute)  # its own `add` refuses attributes of a target


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "flow_cache_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Lower


class _Compiler(Compiler):
    def define_pipelines(self) -> Any:
        pipelines = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (_Lowering if step is NativeLowering else step, name) for step, name in pipeline.passes
            ]
            pipeline.finalize()
        return pipelines


class _NoAliasCompiler(_Compiler):
    """Compile a function whose array arguments are promised not to overlap, as C's `restrict` does."""

    def define_pipelines(self) -> Any:
        if hasattr(self.state.flags, "noalias"):
            self.state.flags.noalias = True
        return super().define_pipelines()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel that Python calls: without the GIL, kept on disk between processes.

    The compiled code goes beside the source, else to the user's cache folder (NUMBA_CACHE_DIR names another one);
    where none of them can be written, it is compiled anew in every process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _ARITHMETIC}
    options["pipeline_class"] = _Compiler
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder that it may write
        return njit(**options)(function)


def row_kernel(function: Callable[..., Any]) -> Any:
    """Compile a function over 1-D arrays that kernels of the same module inline.

    An array that it writes must not overlap any other argument. It lives in the module of its callers, since numba
    renews a stored kernel only when that kernel's own file changes.
    """
    return njit(
        nogil=True,
        error_model="numpy",
        fastmath=_ROW_ARITHMETIC,
        forceinline=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        pipeline_class=_NoAliasCompiler,
    )(function)


@intrinsic  # type: ignore[untyped-decorator]
def row(typing_context: Any, memory: Any, start: Any, size: Any) -> Any:
    """View `size` elements of the flat array `memory` from `start`, without bounds check or reference count."""
    view = types.Array(memory.dtype, 1, "C")

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, arguments[0])
        target = make_array(view)(context, builder)
        size_of = context.get_abi_sizeof(context.get_data_type(memory.dtype))
        itemsize = context.get_constant(types.intp, size_of)
        populate_array(
            target,
            data=builder.gep(source.data, [arguments[1]]),
            shape=[arguments[2]],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return target._getvalue()

    return view(memory, types.intp, types.intp), build


def round_up(size: int) -> int:
    """Round a row's length up to whole cache lines."""
    return -(-size // LANES) * LANES


def aligned(size: int) -> NDArray[np.float32]:
    """Allocate `size` float32 zeros that start on a cache line."""
    memory = np.zeros(size + LANES, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % LANES
    return memory[start : start + size]
