"""Time on a device, and what it can do at most: a large copy, a large loop of fused multiplications and additions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow_cache.cuda.backend import Backend

# an absolute path: the seam compiles a file from anywhere
SOURCE = str(Path(__file__).resolve().with_name("cuda_ceilings.cu"))
BLOCK = (256, 1, 1)
BLOCKS_A_PROCESSOR = 32
OPERATIONS_A_ROUND = 2 * 16  # a fused multiplication and addition is two
COPIED = 1 << 30  # bytes: far more than any cache holds
ROUNDS = 20_000
TIMED = 0.05  # seconds that a repeat lasts at least, so that the clock's and the launches' share is small


class TooSlowError(Exception):
    """A case would take longer than it may."""


def waiter(backend: Backend) -> Callable[[], None]:
    """Return a function that waits until all that is queued on the current stream has been done."""
    token = backend.empty(1, np.int32)
    backend.clear(token)

    def wait() -> None:
        backend.download(token)

    return wait


def seconds_a_call(
    work: Callable[[], object],
    wait: Callable[[], None],
    repeats: int,
    limit: float = math.inf,
    timed: float = TIMED,
) -> list[float]:
    """Warm up, then time `repeats` runs of at least `timed` seconds: the seconds of a call in each, by the wall clock.

    The first call compiles and loads, the second records its launches, the third is the first of many. Raises
    TooSlowError where all of that would take more than `limit` seconds.
    """
    once = 0.0
    for warmed in range(3):
        start = time.perf_counter()
        work()
        wait()
        once = time.perf_counter() - start
        if warmed and repeats * once > limit:  # the first call is no measure: it compiles
            raise TooSlowError(f"{once:.1f} s a call")
    calls = max(1, math.ceil(timed / max(once, 1e-6)))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        seconds.append((time.perf_counter() - start) / calls)
    return seconds


@dataclass(frozen=True)
class Ceilings:
    """What was measured to be the most that a device does in a second."""

    bandwidth: float
    """Bytes read and written."""
    arithmetic: float
    """Single-precision multiplications and additions."""


def measure_ceilings(
    backend: Backend, repeats: int, copied: int = COPIED, rounds: int = ROUNDS, timed: float = TIMED
) -> Ceilings:
    """Measure both, best of the repeats. copied: bytes of each of the two arrays, fewer where memory is short."""
    module = backend.module(SOURCE)
    wait = waiter(backend)
    grid = (BLOCKS_A_PROCESSOR * backend.processors, 1, 1)
    count = min(copied, backend.free_memory() // 4) // 16
    source, target = (backend.empty(4 * count, np.float32) for _ in range(2))
    backend.clear(source)
    copying = seconds_a_call(
        lambda: module.launch("copy", grid, BLOCK, (source, target, np.int64(count))), wait, repeats, timed=timed
    )  # fmt: skip
    threads = grid[0] * BLOCK[0]
    out = backend.empty(threads, np.float32)
    adding = seconds_a_call(
        lambda: module.launch("multiply_add", grid, BLOCK, (out, rounds, 0.999, 0.5)), wait, repeats, timed=timed
    )  # fmt: skip
    return Ceilings(2 * 16 * count / min(copying), OPERATIONS_A_ROUND * rounds * threads / min(adding))
