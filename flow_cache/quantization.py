"""Quantisation: the only code that knows how float flow becomes uint8 and back.

    q = clip(round_half_even(255 v / (2 b)) + 128, 0, 255)          v ~ (q - 128) * 2 b / 255

The bound b is in pixels per step. No motion (v = 0) is 128 exactly. Inside the bound the error is at most half a level
(b / 255), without bias. Quantising -v gives 256 - q, so flipping stored flow gives what storing flipped flow gives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError

DEFAULT_BOUND = 20.0
ZERO = 128  # the grey level of "no motion"

# Arrays are processed in blocks of this many values, so that the float temporary stays in the processor's cache.
_BLOCK = 1 << 16

_NEGATED = np.minimum(256 - np.arange(256), 255).astype(np.uint8)


def check_bound(bound: float) -> float:
    """Return the bound as a float.

    Args:
        bound: pixels per step, from 0.001 to 10000.

    Raises:
        ArgumentError: `bound` is something else.
    """
    if isinstance(bound, bool) or not isinstance(bound, (int, float, np.integer, np.floating)):
        raise ArgumentError(f"bound must be a number of pixels, got {bound!r}")
    if not (math.isfinite(bound) and 1e-3 <= bound <= 1e4):
        raise ArgumentError(f"bound must lie between 0.001 and 10000 pixels, got {bound}")
    return float(bound)


def quantize_scale(bound: float) -> np.float32:
    """Return grey levels per pixel as float32, the precision in which flow is multiplied by it."""
    return np.float32(255.0 / (2.0 * bound))


def quantize(flow: NDArray[np.floating[Any]], bound: float = DEFAULT_BOUND) -> NDArray[np.uint8]:
    """Quantise flow to grey levels.

    Args:
        flow: array of any shape and float dtype, pixels per step.
        bound: pixels per step; values beyond +-bound are clipped.

    Returns:
        Array of the same shape, uint8; 128 is no motion.

    Raises:
        ArgumentError: a bad bound, a dtype that is not float, or NaN in `flow`.

    Example:
        >>> import numpy as np
        >>> from flow_cache import quantize
        >>> quantize(np.array([-20.0, 0.0, 1.0, 50.0], np.float32), bound=20.0)
        array([  0, 128, 134, 255], dtype=uint8)
    """
    bound = check_bound(bound)
    source = _flat(flow)
    result = np.empty(flow.shape, np.uint8)
    target = result.reshape(-1)
    scale = quantize_scale(bound)
    buffer = np.empty(min(_BLOCK, source.size), np.float32)
    for start in range(0, source.size, _BLOCK):
        block = source[start : start + _BLOCK]
        levels = buffer[: block.size]
        np.multiply(block, scale, out=levels, casting="same_kind")
        if np.isnan(levels).any():
            raise nan_error()
        np.rint(levels, out=levels)
        levels += np.float32(ZERO)
        np.clip(levels, 0.0, 255.0, out=levels)
        target[start : start + _BLOCK] = levels
    return result


def nan_error() -> ArgumentError:
    """Return the error for flow with NaN in it."""
    return ArgumentError("flow holds NaN; expected numbers (an estimator must not return NaN)")


def dequantize(q: NDArray[np.uint8], bound: float = DEFAULT_BOUND) -> NDArray[np.float32]:
    """Turn grey levels back into flow.

    Args:
        q: array of any shape, uint8, as `quantize` returns it.
        bound: the bound that it was quantised with, pixels per step.

    Returns:
        Array of the same shape, float32, pixels per step.

    Raises:
        ArgumentError: a bad bound, or another dtype.

    Example:
        >>> import numpy as np
        >>> from flow_cache import dequantize
        >>> dequantize(np.array([0, 128, 255], np.uint8), bound=25.5)
        array([-25.6,   0. ,  25.4], dtype=float32)
    """
    bound = check_bound(bound)
    _check_levels(q)
    table = ((np.arange(256, dtype=np.float64) - ZERO) * (2.0 * bound / 255.0)).astype(np.float32)
    return table[q]


def clip_fraction(flow: NDArray[np.floating[Any]], bound: float = DEFAULT_BOUND) -> float:
    """Return the share of flow values that `quantize` clips.

    Args:
        flow: array of any shape and float dtype, pixels per step.
        bound: pixels per step.

    Returns:
        Fraction from 0 to 1 of the values beyond +-bound; 0.0 for an empty array.

    Raises:
        ArgumentError: a bad bound, or a dtype that is not float.

    Example:
        >>> import numpy as np
        >>> from flow_cache import clip_fraction
        >>> clip_fraction(np.array([-21.0, 0.0, 3.0, 20.0]), bound=20.0)
        0.25
    """
    source = _flat(flow)
    return count_clipped(source, bound) / source.size if source.size else 0.0


def count_clipped(flow: NDArray[np.floating[Any]], bound: float) -> int:
    """Count the flow values beyond +-bound; arguments as in `clip_fraction`."""
    bound = check_bound(bound)
    source = _flat(flow)
    clipped = 0
    for start in range(0, source.size, _BLOCK):
        clipped += int(np.count_nonzero(np.abs(source[start : start + _BLOCK]) > bound))
    return clipped


def negate(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the grey levels of the opposite motion: what a horizontal flip does to u.

    Args:
        q: array of any shape, uint8, as `quantize` returns it.

    Returns:
        `256 - q` clipped to 255, uint8 of the same shape.

    Raises:
        ArgumentError: another dtype.

    Example:
        >>> import numpy as np
        >>> from flow_cache import negate
        >>> negate(np.array([0, 100, 128, 255], np.uint8))
        array([255, 156, 128,   1], dtype=uint8)
    """
    _check_levels(q)
    return _NEGATED[q]


def _flat(flow: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return checked flow as a contiguous 1-D array."""
    if not isinstance(flow, np.ndarray) or flow.dtype.kind != "f":
        got = f"dtype {flow.dtype}" if isinstance(flow, np.ndarray) else type(flow).__name__
        raise ArgumentError(f"flow must be a float array, got {got}")
    return np.ascontiguousarray(flow).reshape(-1)


def _check_levels(q: NDArray[np.uint8]) -> None:
    """Raise ArgumentError unless `q` is a uint8 array."""
    if not isinstance(q, np.ndarray) or q.dtype != np.uint8:
        got = f"dtype {q.dtype}" if isinstance(q, np.ndarray) else type(q).__name__
        raise ArgumentError(f"quantised flow must be a uint8 array, got {got}")
