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
fraction (k + 1/2) / K of every segment. These are `segments`. There are two other ways to place the T steps:

- `uniform`: at equal distances over the whole video, M / T up to rounding. In training all steps are shifted by one
  fraction of a segment, drawn anew; in evaluation it is `segments`.
- `dense`: a window, steps that are `stride` fields apart (C3D, Tran et al. 2015; I3D, Carreira and Zisserman 2017). In
  training the window lies anywhere; for evaluation K windows lie evenly from the first one that there is to the last,
  and one in the middle:

    starts     0   1   2   3   4   5   6   7   8
    K = 3      0   1   2                               T = 3, stride 1
                         3   4   5
                                       6   7   8

If M < T, neighbouring steps may start at the same field, and of a dense window that does not fit, steps that would lie
outside repeat the last one inside; `without_repeats` then leaves each place once and says which steps pad.

Of a damaged video frames may be missing in between. Its fields then come in runs, and a place is one where
the stack lies inside one run: no clip sees a motion that was not there. Where the lists say which frames show the
action, runs end at their borders in the same way. A dense window lies inside one run.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twostream.data.settings import ClipShape
from twostream.errors import DataError

Indices = NDArray[np.int64]
Fields = int | Sequence[range]
"""The flow fields of a video: their number, or their numbers in runs that no gap interrupts."""


def random_starts(fields: Fields, shape: ClipShape, rng: np.random.Generator) -> Indices:
    """Draw the first field of each stack at random; (T,) int64, never decreasing."""
    if shape.sampling == "dense":
        windows, offsets = _windows(fields, shape)
        window: Indices = offsets + windows[rng.integers(len(windows))]
        return window
    all_places = _places(fields, shape)
    places = len(all_places)
    steps = np.arange(shape.steps)
    if shape.sampling == "uniform":
        return all_places[
            np.minimum((steps + rng.random()) * places / shape.steps, places - 1).astype(np.int64)
        ]
    if places < shape.steps:
        # segments narrower than a field: draw places in continuous time, then round down
        drawn = np.floor((steps + rng.random(shape.steps)) * places / shape.steps).astype(np.int64)
        return all_places[np.minimum(drawn, places - 1)]  # (T - 1 + 0.999…) * M / T may round up to M
    return all_places[rng.integers(steps * places // shape.steps, (steps + 1) * places // shape.steps)]


def even_starts(fields: Fields, shape: ClipShape, clips: int = 1) -> Indices:
    """Place K deterministic clips evenly over the video; (K, T) int64. One clip is the centre clip."""
    if clips < 1:
        raise DataError(f"got {clips} clips a video, expected at least 1")
    if shape.sampling == "dense":
        windows, offsets = _windows(fields, shape)
        last = len(windows) - 1
        places = np.arange(clips) * last // (clips - 1) if clips > 1 else np.array([last // 2])
        return windows[places, None] + offsets
    places = _places(fields, shape)
    offsets = 2 * clips * np.arange(shape.steps) + (2 * np.arange(clips)[:, None] + 1)
    chosen: Indices = places[offsets * len(places) // (2 * clips * shape.steps)]
    return chosen


def stack_fields(starts: Indices, shape: ClipShape) -> Indices:
    """List the fields of every stack: starts (...,) to (..., L) int64."""
    return starts[..., None] + np.arange(shape.stack)


def middle_frames(starts: Indices, shape: ClipShape, step: int = 1) -> Indices:
    """Give the RGB frame of every stack, the middle of the frames that it covers; (...,) int64.

    A stack that starts at field s covers the frames s to s + L - 1 + step.
    """
    return starts + (shape.stack - 1 + step) // 2


def longest_run(runs: Sequence[range]) -> int:
    """Return the number of flow fields that follow each other without a gap, where these are most."""
    return max(map(len, runs), default=0)


def runs_inside(runs: Sequence[range], spans: Sequence[tuple[int, int]], step: int = 1) -> tuple[range, ...]:
    """Return the runs of fields between frames of the same span.

    Args:
        runs: the numbers of the flow fields, in runs.
        spans: first and last frame of each part of the video that counts; the whole video if there are none.
        step: field t carries frame t to frame t + step.
    """
    if not spans:
        return tuple(runs)
    inside = (
        range(max(run.start, first), min(run.stop, last - step + 1)) for first, last in spans for run in runs
    )
    return tuple(run for run in inside if run)


def _windows(fields: Fields, shape: ClipShape) -> tuple[Indices, Indices]:
    """List where dense windows can start, (W,) int64, ascending, and how far behind it each step is, (T,) int64.

    Of a window that fits nowhere, as many steps count as fit into the longest run, and the others repeat the last one.
    """
    runs = _places_in_runs(fields, shape)
    fitting = (max(map(len, runs)) - 1) // shape.stride
    offsets = np.minimum(np.arange(shape.steps), fitting) * shape.stride
    return np.concatenate([run[: max(len(run) - int(offsets[-1]), 0)] for run in runs]), offsets


def _places(fields: Fields, shape: ClipShape) -> Indices:
    """List the fields where a stack can start; (M,) int64, ascending."""
    return np.concatenate(_places_in_runs(fields, shape))


def _places_in_runs(fields: Fields, shape: ClipShape) -> list[Indices]:
    """List the fields where a stack can start, run by run."""
    runs = (range(fields),) if isinstance(fields, int) else fields
    if longest_run(runs) < shape.stack:
        parts = f" in {len(runs)} parts of at most {longest_run(runs)}" if len(runs) > 1 else ""
        raise DataError(
            f"a stack of {shape.stack} flow fields does not fit into a video of {sum(map(len, runs))} fields{parts}; "
            "lower the stack or leave the video out"
        )
    return [np.arange(run.start, max(run.stop - shape.stack + 1, run.start), dtype=np.int64) for run in runs]


def without_repeats(starts: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Move places that a clip looks at twice to its end.

    Args:
        starts: (K, T) int64, never decreasing along a clip.

    Returns:
        Starts (K, T) of which each is once among the first ones, and (K, T) bool, True on these. The steps after them
        repeat the last one, and do not count.
    """
    places = np.arange(starts.shape[1])
    kept = [np.unique(row) for row in starts]
    packed = np.stack([row[np.minimum(places, len(row) - 1)] for row in kept])
    return packed, places < np.array([[len(row)] for row in kept])


def window_frames(frames: Indices, window: int, fields: Sequence[range], step: int = 1) -> Indices:
    """List the frames of windows around frames: (...,) to (..., F) int64, the frame itself in the middle.

    Windows are cut at the ends of the run of frames without a gap, where its first or last frame is repeated.

    Args:
        frames: the frames.
        window: F.
        fields: the runs of fields; that of the fields s to e covers the frames s to e + step.
        step: frames from one end of a flow vector to the other.
    """
    windows = frames[..., None] + np.arange(window) - (window - 1) // 2
    for run in fields:
        first, last = run.start, run.stop - 1 + step
        inside = (frames >= first) & (frames <= last)
        windows[inside] = np.clip(windows[inside], first, last)
    return windows
