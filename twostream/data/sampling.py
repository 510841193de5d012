"""Which flow fields and RGB frames a clip is made of: pure functions of counts, settings and a random
generator.

A video of N flow fields has M = N - L + 1 places where a stack of L consecutive fields can start. They are
cut into T equal segments, and each of the clip's T steps starts its stack in its own segment (temporal
segment networks, Wang et al. 2016). N = 11, L = 3, T = 3 (M = 9), field t carries frame t to frame t + 1:

    frames   0   1   2   3   4   5   6   7   8   9  10  11
    fields     0   1   2   3   4   5   6   7   8   9  10
    starts   |- segment 0 -|- segment 1 -|- segment 2 -|
               0   1   2     3   4   5     6   7   8
    centre         1             4             7                  evaluation, one clip
    stacks        [1  2  3]     [4  5  6]     [7  8  9]
    RGB              frame 2       frame 5       frame 8          the middle of each stack

In training each step starts anywhere in its segment. For evaluation with K clips, clip k starts at the
fraction (k + 1/2) / K of every segment. If M < T, neighbouring steps may start at the same field.
"""

import numpy as np
from numpy.typing import NDArray

from twostream.data.settings import ClipShape
from twostream.errors import DataError

Indices = NDArray[np.int64]


def random_starts(num_fields: int, shape: ClipShape, rng: np.random.Generator) -> Indices:
    """Draw the first field of each stack at random inside its segment; (T,) int64, never decreasing."""
    places = _places(num_fields, shape)
    steps = np.arange(shape.steps)
    if places < shape.steps:
        # segments narrower than a field: draw places in continuous time, then round down
        drawn = np.floor((steps + rng.random(shape.steps)) * places / shape.steps).astype(np.int64)
        return np.minimum(drawn, places - 1)  # (T - 1 + 0.999…) * M / T may round up to M
    return rng.integers(steps * places // shape.steps, (steps + 1) * places // shape.steps)


def even_starts(num_fields: int, shape: ClipShape, clips: int = 1) -> Indices:
    """Place K deterministic clips evenly inside the segments; (K, T) int64. One clip is the centre clip."""
    if clips < 1:
        raise DataError(f"got {clips} clips a video, expected at least 1")
    places = _places(num_fields, shape)
    offsets = 2 * clips * np.arange(shape.steps) + (2 * np.arange(clips)[:, None] + 1)
    return offsets * places // (2 * clips * shape.steps)


def stack_fields(starts: Indices, shape: ClipShape) -> Indices:
    """List the fields of every stack: starts (...,) to (..., L) int64."""
    return starts[..., None] + np.arange(shape.stack)


def middle_frames(starts: Indices, shape: ClipShape, step: int = 1) -> Indices:
    """Give the RGB frame of every stack, the middle of the frames that it covers; (...,) int64.

    A stack that starts at field s covers the frames s to s + L - 1 + step.
    """
    return starts + (shape.stack - 1 + step) // 2


def _places(num_fields: int, shape: ClipShape) -> int:
    if num_fields < shape.stack:
        raise DataError(
            f"a stack of {shape.stack} flow fields does not fit into a video of {num_fields} fields; "
            "lower the stack or leave the video out"
        )
    return num_fields - shape.stack + 1
