"""Count the bytes and operations that the kernels of flow on CUDA take, launch by launch, on given frames.

The estimator runs once on a device that looks at its launches. What a launch does follows from its arguments, known by
the names that the kernel's source gives them, and from the control records of the pairs before and after it, which say
how many iterations were done.

Bytes: every value that a launch must read or write, once. What neighbouring blocks read again comes from caches. In
small batches, so may what the launch before has written: the share of a copy's bandwidth can then be too high.
Operations: single-precision additions, multiplications (a fused one is two), minima, maxima, divisions and roots (one
each), also where a pixel is computed twice because strips overlap; not index arithmetic, nor double precision.
"""

from __future__ import annotations

import functools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.cuda.backend import Backend, kernel_source
from flow_cache.methods.cuda.engine import CudaMethod
from flow_cache.methods.cuda.tvl1 import LANES, WARPS, LevelPlan, Tuning

Values = Mapping[str, Any]
Cost = tuple[float, float]  # bytes, operations
FLOAT = 4
BORDER = 5


@functools.cache
def signature(source: str, kernel: str) -> list[str]:
    """Return the names of a kernel's parameters as a file of kernels has them."""
    found = re.search(
        rf"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?{kernel}\s*\(([^)]*)\)",
        kernel_source(source),
    )
    if found is None:
        raise ValueError(f"{source} has no kernel {kernel}")
    return [parameter.split()[-1].lstrip("*") for parameter in found[1].split(",")]


def kernels_of(source: str) -> list[str]:
    """List the kernels of a file."""
    found = r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\("
    return re.findall(found, kernel_source(source))


def record_fields() -> dict[str, int]:
    """Return the position of each field of a pair's control record."""
    defined = re.findall(r"^#define (\w+) (\d+)", kernel_source("tvl1_work.cuh"), flags=re.MULTILINE)
    return {name: int(value) for name, value in defined}


def _bordered(v: Values) -> int:
    return int((v["height"] + 2 * BORDER) * (v["width"] + 2 * BORDER))


def _plane(v: Values) -> int:
    return int(v["height"] * v["stride"])


def _area(v: Values) -> int:
    return int(v["height"] * v["width"])


def _differentiate(v: Values) -> Cost:
    # the grey levels read; both derivatives written, and all three borders
    return FLOAT * (_area(v) + 3 * _bordered(v) - _area(v)), 4 * _area(v)


def _zoom(v: Values) -> Cost:
    # two values, of three linear interpolations and the factor each
    return 2 * FLOAT * (v["coarse_height"] * v["coarse_stride"] + _plane(v)), 20 * _area(v)


def _begin_level(v: Values) -> Cost:
    return FLOAT * (6 + (2 if v["zoomed"] is not None else 0)) * _plane(v), 0


def _warp(v: Values) -> Cost:
    # u, the first frame, three planes of the second one; three planes written. Weights 30, position 10, samples 108
    return FLOAT * (2 + 1 + 3 + 3) * _plane(v), 153 * _area(v)


def _median(v: Values) -> Cost:
    # the kernel's own count of minima and maxima; both components
    return 2 * 2 * FLOAT * _plane(v), 2 * (97 if v["size"] == 5 else 24) * _plane(v)


def _iterate(v: Values, count: int, size: int) -> Cost:
    # u, p and the data term read, u and p written; 55 operations an iteration, 5 for what its row is loaded with
    rows = v["height"] + 2 * count * -(-v["chunks"] // size)
    return FLOAT * (6 + 3 + 6) * _plane(v), v["COLUMNS"] * LANES * v["strips"] * rows * (55 * count + 5)


def _smooth_rows(v: Values) -> Cost:
    outputs = v["height"] * v["level_width"]
    read = v["frames"].dtype.itemsize * _area(v)
    return read + FLOAT * outputs, 5 * (2 * v["radius"] + 2) * outputs


def _smooth_columns(v: Values) -> Cost:
    outputs = v["level_height"] * v["level_width"]
    inputs = v["height"] * v["level_width"]
    return FLOAT * (inputs + outputs), 5 * (2 * v["radius"] + 2) * outputs


def _overlapped(v: Values) -> float:
    """Return how many pixels the blocks along rows compute, with those that neighbouring blocks compute too."""
    return float(_area(v) * (v["outputs"] + 2 * v["radius"]) / v["outputs"])


def _expand(v: Values) -> Cost:
    down, along = 11 * v["radius"], 25 * v["radius"] + 15
    return FLOAT * (1 + 5) * _area(v), down * _overlapped(v) + along * _area(v)


def _sum_equations(v: Values) -> Cost:
    window = 2 * v["radius"] + 1
    # two frames' polynomials and the flow read, sums written; equations 85, sums of four 15
    along = 5 * (window // 4 + window % 4)
    return FLOAT * (5 + 5 + 2 + 5) * _area(v), 100 * _overlapped(v) + along * _area(v)


def _solve(v: Values) -> Cost:
    # two exact sums of six operations for each of five values, then three determinants
    return FLOAT * (5 + 2) * _area(v), 100 * _area(v)


def _enlarge(v: Values) -> Cost:
    return 2 * FLOAT * (v["coarse_height"] * v["coarse_width"] + _area(v)), 20 * _area(v)


# What each kernel does for one frame, or for one pair.
FRAME_COSTS: dict[str, Callable[[Values], Cost]] = {
    "grey_from_bytes": lambda v: ((1 + FLOAT) * _area(v), 0),
    "grey_from_floats": lambda v: (2 * FLOAT * _area(v), 0),
    "shrink": lambda v: (FLOAT * (v["finer_height"] * v["finer_width"] + _area(v)), 9 * _area(v)),
    "differentiate": _differentiate,
    "smooth_rows_uint8": _smooth_rows,
    "smooth_rows_float32": _smooth_rows,
    "smooth_columns": _smooth_columns,
    "expand": _expand,
}
PAIR_COSTS: dict[str, Callable[[Values], Cost]] = {
    "zoom": _zoom,
    "begin_level": _begin_level,
    "warp": _warp,
    "begin_warp": lambda v: (0, 0),
    "take_flow": lambda v: (4 * FLOAT * _area(v), 0),
    "enlarge_flow": _enlarge,
    "sum_equations_along_rows": _sum_equations,
    "solve_along_columns": _solve,
}


@dataclass
class Work:
    """What a batch took: by kernel, (bytes, operations) of each frame or of each pair; and iterations of each pair."""

    pairs: int
    by_frame: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Kernel: (2,) for a frame, all frames being alike."""
    by_pair: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Kernel: (pairs, 2)."""
    launches: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    iterations: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """TV-L1's iterations of each pair, over all levels and warps, with those done again; empty for other methods."""
    active: list[int] = field(default_factory=list)
    """Pairs that had work, in each launch of TV-L1's iterations."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By kernel, of all launches, where each was waited for."""

    def _chosen(self, batch: int) -> NDArray[np.int64]:
        return np.arange(batch) % self.pairs

    def kernels(self, batch: int) -> dict[str, NDArray[np.float64]]:
        """Return (bytes, operations) a pair, by kernel, in a batch of consecutive pairs."""
        chosen = self._chosen(batch)
        frames = {name: cost * (batch + 1) / batch for name, cost in self.by_frame.items()}
        return {**frames, **{name: costs[chosen].mean(axis=0) for name, costs in self.by_pair.items()}}

    def total(self, batch: int) -> NDArray[np.float64]:
        """Return (bytes, operations) a pair in a batch of consecutive pairs."""
        return np.asarray(sum(self.kernels(batch).values()))

    def mean_iterations(self, batch: int) -> float:
        """Return the iterations of a pair; 0 where they are not counted."""
        return float(self.iterations[self._chosen(batch)].mean()) if self.iterations.size else 0.0


class _CountingModule:
    """A module whose launches are counted as they are made."""

    def __init__(self, backend: CountingBackend, source: str, module: Any, macros: Mapping[str, int]) -> None:
        self._backend, self._source, self._module, self._macros = backend, source, module, macros
        self._fields = record_fields()

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared: int = 0
    ) -> None:
        backend = self._backend
        names = signature(self._source, name)
        values = {**dict(zip(names, arguments, strict=True)), **self._macros}
        work = backend.work
        work.launches[name] += 1
        records = backend.download(values["control"]) if name in ("median", "iterate") else None
        if backend.settle is None:
            self._module.launch(name, grid, block, arguments, shared)
        else:
            backend.settle()
            start = backend.clock()
            self._module.launch(name, grid, block, arguments, shared)
            backend.settle()
            work.seconds[name] += backend.clock() - start
        if name not in FRAME_COSTS and name not in PAIR_COSTS and records is None:
            return  # of no pair: the flow's quantisation, for example
        if name in FRAME_COSTS:
            work.by_frame[name] = work.by_frame.get(name, np.zeros(2)) + np.array(FRAME_COSTS[name](values))
            return
        costs = work.by_pair.setdefault(name, np.zeros((work.pairs, 2)))
        if records is None:
            costs += np.array(PAIR_COSTS[name](values), np.float64)
        elif name == "median":
            phase, outer = records[:, self._fields["PHASE"]], records[:, self._fields["OUTER"]]
            active = (phase == self._fields["ITERATE"]) & (outer == values["outer"])
            costs += active[:, None] * np.array(_median(values), np.float64)
        else:
            # both count pixels of the level, or groups of them: their ratio is the iterations that one pass did
            iterated, passes = (
                backend.download(values["next"])[:, field] - records[:, field]
                for field in (self._fields["ITERATED"], self._fields["PASSES"])
            )
            done = iterated // np.maximum(passes, 1)
            tuning = Tuning(values["ITERATIONS"], values["COLUMNS"], values["RESIDENT"])
            plan = LevelPlan(values["height"], values["width"], tuning)
            active = np.flatnonzero(passes)
            work.active.append(len(active))
            size = plan.chunks_of_item(len(active), WARPS * grid[0])
            for pair in active:
                costs[pair] += _iterate(values, int(done[pair]), size)
            work.iterations = work.iterations + done


class CountingBackend:
    """A device that counts what is launched on it; launches are never recorded in a graph, which would hide them."""

    def __init__(
        self,
        backend: Backend,
        pairs: int,
        wait: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the device, the pairs of a batch, and what waits for all that is queued, to time launches (or None)."""
        self._backend = backend
        self.settle, self.clock = wait, clock
        self.work = Work(pairs, iterations=np.zeros(0, np.int64))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def module(self, source: str, **macros: int) -> _CountingModule:
        """Compile a file whose launches count."""
        module = self._backend.module(source, **macros)
        if "tvl1_iterate" in source:
            self.work.iterations = np.zeros(self.work.pairs, np.int64)
        return _CountingModule(self, source, module, macros)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return `work` as it is."""
        return work


def count_work(make: Callable[[Backend], CudaMethod], backend: Backend, frames: NDArray[Any]) -> Work:
    """Count what an estimator does for the pairs of a stack, all of them in one batch."""
    counting = CountingBackend(backend, len(frames) - 1)
    method = make(cast(Backend, counting))
    method.batch = counting.work.pairs
    method(frames)
    return counting.work
