"""The most that a device can do: a large copy, and a large loop of fused multiplications and additions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.timing import MIN_SECONDS, seconds_per_call
from flow_cache.methods.cuda.backend import Backend

# an absolute path: the backend compiles a file from anywhere
SOURCE = str(Path(__file__).resolve().with_name("cuda_ceilings.cu"))
BLOCK = (256, 1, 1)
BLOCKS_PER_PROCESSOR = 32
OPERATIONS_PER_ROUND = 2 * 16  # a fused multiplication and addition is two
COPIED = 1 << 30  # bytes: far more than any cache holds
ROUNDS = 20_000


def waiter(backend: Backend) -> Callable[[], None]:
    """Return a function that waits until all that is queued on the current stream has been done."""
    token = backend.empty(1, np.int32)
    backend.clear(token)

    def wait() -> None:
        backend.download(token)

    return wait


@dataclass(frozen=True)
class Ceilings:
    """What was measured to be the most that a device does in a second."""

    bandwidth: float
    """Bytes read and written."""
    arithmetic: float
    """Single-precision multiplications and additions."""


def measure_ceilings(
    backend: Backend,
    repeats: int,
    copied: int = COPIED,
    rounds: int = ROUNDS,
    min_seconds: float = MIN_SECONDS,
    time_calls: Callable[..., list[float]] = seconds_per_call,
) -> Ceilings:
    """Measure both and take the best repeat of each.

    Args:
        backend: The device.
        repeats: How many times to measure.
        copied: Bytes of each of the two arrays, fewer where memory is short.
        rounds: Of the loop, in each thread.
        min_seconds: The least that a repeat lasts.
        time_calls: Returns the seconds of a call in each repeat, as `seconds_per_call` does.
    """
    module = backend.module(SOURCE)
    wait = waiter(backend)
    grid = (BLOCKS_PER_PROCESSOR * backend.processors, 1, 1)
    count = min(copied, backend.free_memory() // 4) // 16  # of float4
    source, target = (backend.empty(4 * count, np.float32) for _ in range(2))
    backend.clear(source)
    threads = grid[0] * BLOCK[0]
    sums = backend.empty(threads, np.float32)

    def copy() -> None:
        module.launch("copy", grid, BLOCK, (source, target, np.int64(count)))

    def multiply_add() -> None:
        module.launch("multiply_add", grid, BLOCK, (sums, rounds, 0.999, 0.5))

    copying = min(time_calls(copy, wait, repeats, min_seconds=min_seconds))
    adding = min(time_calls(multiply_add, wait, repeats, min_seconds=min_seconds))
    return Ceilings(2 * 16 * count / copying, OPERATIONS_PER_ROUND * rounds * threads / adding)
