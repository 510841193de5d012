"""All code that relies on Numba's internals: a compiler pipeline that sets LLVM attributes, and rows without counters.

It makes kernels faster and changes their results by no more than rounding. A release of Numba may change what this
module imports and overrides. So only `compile` imports it, and works without it if that fails.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

TESTED_VERSIONS = {"0.68.0", "0.68.1"}  # of Numba; under another one, `check` must pass first

# On many processors with wider vectors LLVM uses only 256 bits, to keep the clock rate up. The attribute asks for 512.
# LLVM refines an estimate of 1 / x to single precision. An estimate of 1 / sqrt(x) must have 11 bits or more: on x86 it
# has them without refinement, elsewhere after one. Code that uses it adds a Newton step (see `_scaled_root`).
_REFINEMENTS = 0 if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686") else 1
_ATTRIBUTES = (
    '"prefer-vector-width"="512"',
    f'"reciprocal-estimates"="vec-sqrtf:{_REFINEMENTS},vec-divf"',
)


class _Lower(Lower):
    """Lower a function with attributes for LLVM; they have no effect on processors without such vectors."""

    def setup_function(self, description: Any) -> None:
        super().setup_function(description)
        for attribute in _ATTRIBUTES:
            # not its own method `add`: that refuses attributes which depend on the processor
            set.add(self.function.attributes, attribute)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """The compiler pass that lowers functions by `_Lower`."""

    _name = "flow_cache_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Lower


class _Compiler(Compiler):
    """Numba's compiler with `_Lowering` in place of its own pass."""

    def define_pipelines(self) -> Any:
        pipelines = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (_Lowering if step is NativeLowering else step, name) for step, name in pipeline.passes
            ]
            pipeline.finalize()
        return pipelines


class _NoAliasCompiler(_Compiler):
    """Compile a function whose array arguments must not overlap, like C's `restrict`."""

    def define_pipelines(self) -> Any:
        if hasattr(self.state.flags, "noalias"):
            self.state.flags.noalias = True
        return super().define_pipelines()


# Options of `njit`; its documentation does not list them.
KERNEL_OPTIONS: dict[str, Any] = {"pipeline_class": _Compiler}
ROW_KERNEL_OPTIONS: dict[str, Any] = {
    "pipeline_class": _NoAliasCompiler,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


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


def check() -> None:
    """Compile and run a small kernel that uses all of this module.

    Raises:
        Exception: Numba's error, if it cannot compile the kernel.
        RuntimeError: the kernel ran, but its result is wrong.
    """

    @njit(**ROW_KERNEL_OPTIONS)
    def double_row(n, source, target):  # type: ignore[no-untyped-def]
        for x in range(n):
            target[x] = 2 * source[x]

    @njit(**KERNEL_OPTIONS)
    def double(memory, n):  # type: ignore[no-untyped-def]
        double_row(n, row(memory, 0, n), row(memory, n, n))

    memory = np.arange(8, dtype=np.float32)
    double(memory, 4)
    if memory.tolist() != [0, 1, 2, 3, 0, 2, 4, 6]:
        raise RuntimeError("a small kernel gave a wrong result")
