"""How every report writes its figures."""

from __future__ import annotations

import math

from twostream.evaluation.metrics import Interval, OutputMetrics

EMPTY = "-"


def percent(value: float | None) -> str:
    """Write a fraction in percent with one decimal, without the sign; a dash for None and NaN."""
    return EMPTY if value is None or math.isnan(value) else f"{100 * value:.1f}"


def interval(values: OutputMetrics) -> str:
    """Write the interval of top-1 in percent; a dash where it could not be estimated."""
    low, high = values.top1_low, values.top1_high
    return EMPTY if math.isnan(low) else f"{percent(low)} to {percent(high)}"


def gain_interval(difference: Interval) -> str:
    """Write the interval of a difference of top-1 in brackets, with a space before; nothing if it has none."""
    if math.isnan(difference.low):
        return ""
    return (
        f" (95 % interval of the difference {100 * difference.low:+.1f} to {100 * difference.high:+.1f} "
        "points, paired over source groups)"
    )
