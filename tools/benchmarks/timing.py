"""Time functions: in turns, or each for itself within a limit of time; medians and ranges of what was measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

MIN_SECONDS = 0.05  # of a repeat, so that the share of the clock and of the launches is small


class TooSlowError(Exception):
    """A case would take longer than it may."""


def time_in_turns(
    tasks: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Run every task `repeats` times, one after the other in each round; returns seconds of the clock."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return times


def seconds_per_call(
    work: Callable[[], object],
    wait: Callable[[], None],
    repeats: int,
    limit: float = math.inf,
    min_seconds: float = MIN_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Warm up, then time repeats of several calls each.

    The first call compiles and loads, the second records its launches, the third is the first of many alike.

    Args:
        work: What is timed; on a device it may only queue its work.
        wait: Waits until all queued work is done.
        repeats: How many times to measure.
        limit: The most seconds that the repeats may take together.
        min_seconds: The least that a repeat lasts: it calls `work` as often as that needs.
        clock: Returns the time in seconds.

    Returns:
        The seconds of one call, by the wall clock, in each repeat.

    Raises:
        TooSlowError: The repeats would take longer than `limit`.
    """
    once = 0.0
    for warmed_up in range(3):
        start = clock()
        work()
        wait()
        once = clock() - start
        if warmed_up and repeats * once > limit:  # the first call is no measure: it compiles
            raise TooSlowError(f"{once:.1f} s a call")
    calls = max(1, math.ceil(min_seconds / max(once, 1e-6)))
    seconds = []
    for _ in range(repeats):
        start = clock()
        for _ in range(calls):
            work()
        wait()
        seconds.append((clock() - start) / calls)
    return seconds


def median_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the lowest and the highest value."""
    return statistics.median(values), min(values), max(values)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Divide figures of the same rounds; returns the median of the ratios, the lowest and the highest."""
    return median_and_range([a / b for a, b in zip(numerators, denominators, strict=True)])
