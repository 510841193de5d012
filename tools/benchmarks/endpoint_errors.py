"""How far two results of optical flow are apart, in the field's measure: the end-point error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def endpoint_errors(flow: NDArray[Any], reference: NDArray[Any]) -> list[float]:
    """Return the mean end-point error of each pair of fields, in pixels; flow: (N, 2, H, W)."""
    return mean_lengths(flow - reference)


def mean_lengths(flow: NDArray[Any]) -> list[float]:
    """Return the mean length of the vectors of each field, in pixels; flow: (N, 2, H, W)."""
    return [float(length) for length in np.hypot(flow[:, 0], flow[:, 1]).mean(axis=(1, 2))]


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Describe values by their mean, median, 90th percentile and greatest."""
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "percentile_90": float(np.quantile(values, 0.9)),
        "greatest": float(np.max(values)),
    }
