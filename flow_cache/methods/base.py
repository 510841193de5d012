"""The one interface of every flow estimator: a stack of grey frames in, a stack of flow fields out."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, check_whole_number
from flow_cache.quantization import count_clipped, quantize

MIN_SIDE = 8  # pixels: smaller frames have too few neighbours to estimate a motion from

Grey = NDArray[np.uint8] | NDArray[np.float32]
Flow = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Base of an estimator's parameters: a frozen dataclass of numbers and names, checked when it is built.

    Attributes:
        presets: complete sets of parameters by name; the first one is the default.
    """

    presets: ClassVar[dict[str, Self]]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in ("str", str):
                if not isinstance(value, str):
                    raise ArgumentError(f"{field.name} must be a string, got {value!r}")
                continue
            whole = field.type in ("int", int)
            kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                expected = "a whole number" if whole else "a number"
                raise ArgumentError(f"{field.name} must be {expected}, got {value!r}")
            object.__setattr__(self, field.name, int(value) if whole else float(value))
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raise ArgumentError for a value outside its range."""

    def _require(self, holds: bool, name: str, expected: str) -> None:
        """Raise ArgumentError about the parameter `name` unless the condition holds."""
        if not holds:
            raise ArgumentError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    @classmethod
    def build(cls, preset: str | None = None, **values: Any) -> Self:
        """Return a preset with some values replaced.

        Args:
            preset: name of the preset; None = the default one.
            **values: parameters that replace the preset's.

        Raises:
            ArgumentError: an unknown preset or parameter, or a value outside its range.
        """
        if preset is None:
            preset = next(iter(cls.presets))
        if preset not in cls.presets:
            raise ArgumentError(f"unknown preset {preset!r}; choose one of {', '.join(cls.presets)}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise ArgumentError(f"unknown parameter {name!r}; choose among preset, {', '.join(names)}")
        return dataclasses.replace(cls.presets[preset], **values)

    def as_dict(self) -> dict[str, Any]:
        """Return all parameters by name, as stored in a cache file."""
        return dataclasses.asdict(self)


class FlowMethod(ABC):
    """An estimator of dense optical flow. The flow of a pair depends only on the pair and the parameters.

    Attributes:
        name: the estimator's name, as `get_method` takes it.
        libraries: pip's names of the packages that compute the flow, besides NumPy and OpenCV.
        parameters_type: class of the parameters.
        parameters: all parameters.
        backend: what computes the flow, as stored in cache files, e.g. `numba-cpu`.
        threads: processor cores that work at the same time.
        on_gpu: whether a GPU computes the flow.
        chunk: good number of pairs to pass at a time from a long video.

    Example:
        >>> import numpy as np
        >>> from flow_cache import FlowMethod, get_method
        >>> method = get_method("farneback")
        >>> isinstance(method, FlowMethod), method.backend
        (True, 'opencv-cpu')
        >>> method(np.zeros((3, 16, 24), np.uint8)).shape
        (2, 2, 16, 24)
    """

    name: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    parameters_type: ClassVar[type[Parameters]]
    parameters: Parameters
    backend: str
    threads: int = 1
    on_gpu: bool = False
    chunk: ClassVar[int] = 32

    def __call__(self, frames: Grey, step: int = 1) -> Flow:
        """Estimate the flow from frame t to frame t + step, for every t.

        Args:
            frames: (T, H, W) uint8 or float32, grey levels from 0 to 255.
            step: distance between the two frames of a pair.

        Returns:
            (T - step, 2, H, W) float32, pixels per step: channel 0 is u (rightwards), 1 is v (downwards).

        Raises:
            ArgumentError: another dtype or rank, levels outside the range, frames smaller than 8x8, fewer than two
                frames, or a step that is too large for the stack.
        """
        check_stack(frames, step)
        return self._estimate_stack(frames, step)

    def quantized(self, frames: Grey, bound: float, step: int = 1) -> tuple[NDArray[np.uint8], int]:
        """Estimate the flow of a stack and quantise it; a GPU does both before it copies the result.

        Args:
            frames: (T, H, W) uint8 or float32, grey levels from 0 to 255.
            bound: pixels per step, as in `flow_cache.quantize`.
            step: distance between the two frames of a pair.

        Returns:
            (T - step, 2, H, W) uint8 as `flow_cache.quantize` returns it, and the number of clipped values.
        """
        flow = self(frames, step)
        return quantize(flow, bound), count_clipped(flow, bound)

    def quantized_stacks(
        self, stacks: Sequence[Grey], bound: float, step: int = 1
    ) -> list[tuple[NDArray[np.uint8], int]]:
        """Return `quantized` of each stack; on a GPU, stacks of one frame size share batches."""
        return [self.quantized(frames, bound, step) for frames in stacks]

    def pairs(self, first: Grey, second: Grey) -> Flow:
        """Estimate the flow from first[n] to second[n], for every n.

        Args:
            first: (N, H, W) uint8 or float32, grey levels from 0 to 255.
            second: the same shape and dtype.

        Returns:
            (N, 2, H, W) float32, pixels: channel 0 is u (rightwards), 1 is v (downwards).

        Raises:
            ArgumentError: frames as in `__call__`, or stacks that differ.
        """
        for frames in (first, second):
            check_frames(frames)
        check_pairs(first, second)
        return self._estimate(first, second)

    def _estimate_stack(self, frames: Grey, step: int) -> Flow:
        """Estimate the flow of a checked stack (T, H, W)."""
        return self._estimate(frames[:-step], frames[step:])

    @abstractmethod
    def _estimate(self, first: Grey, second: Grey) -> Flow:
        """Estimate the flow of checked pairs (N, H, W)."""


def for_each(solve: Callable[[int], object], count: int, threads: int) -> None:
    """Call `solve` with 0 to count - 1 in several threads; raise the first exception after all have ended."""
    if min(threads, count) > 1:
        with ThreadPoolExecutor(min(threads, count), thread_name_prefix="flow") as pool:
            for _ in pool.map(solve, range(count)):
                pass
    else:
        for n in range(count):
            solve(n)


def check_frames(frames: Grey) -> None:
    """Raise ArgumentError unless frames are a (T, H, W) uint8 or float32 stack of at least 8x8 pixels.

    Float levels must be from 0 to 255, too. A stack without a level above 1, unless it is all black, is refused: its
    levels are most likely from 0 to 1.
    """
    if not isinstance(frames, np.ndarray):
        raise ArgumentError(
            f"frames must be a NumPy array (T, H, W) uint8 or float32, got {type(frames).__name__}"
        )
    check_layout(frames)
    if frames.dtype != np.uint8:
        _check_levels(frames)


def check_layout(frames: Any) -> None:
    """Raise ArgumentError unless an array of any library is (T, H, W) uint8 or float32 of at least 8x8 pixels."""
    if frames.ndim != 3:
        raise ArgumentError(f"frames must be a stack (T, H, W) of grey frames, got shape {frames.shape}")
    if frames.dtype not in (np.uint8, np.float32):
        raise ArgumentError(f"frames must be uint8 or float32 grey levels 0 to 255, got dtype {frames.dtype}")
    if min(frames.shape[1:]) < MIN_SIDE:
        height, width = frames.shape[1:]
        raise ArgumentError(f"frames must be at least {MIN_SIDE}x{MIN_SIDE} pixels, got {width}x{height}")


def _check_levels(frames: Grey) -> None:
    """Raise ArgumentError unless float frames hold grey levels from 0 to 255."""
    for t, frame in enumerate(frames):
        low, high = frame.min(), frame.max()
        if not (low >= 0 and high <= 255):  # NaN fails too
            what = "a NaN" if np.isnan(low) else f"values from {low} to {high}"
            raise ArgumentError(f"float frames must be grey levels 0 to 255; frame {t} has {what}")
    if len(frames):
        check_scale(frames.max())


def check_scale(highest: float) -> None:
    """Raise ArgumentError if the highest level of float frames shows that they go from 0 to 1."""
    if 0 < highest <= 1:
        raise ArgumentError(
            "float frames must be grey levels 0 to 255, but none exceeds 1; multiply them by 255"
        )


def check_pairs(first: Any, second: Any) -> None:
    """Raise ArgumentError unless two stacks have the same shape and dtype."""
    if first.shape != second.shape:
        raise ArgumentError(f"pairs must have one shape, got {first.shape} and {second.shape}")
    if first.dtype != second.dtype:
        raise ArgumentError(f"pairs must have one dtype, got {first.dtype} and {second.dtype}")


def check_stack(frames: Grey, step: int) -> None:
    """Raise ArgumentError unless frames are a stack that holds at least one pair `step` apart."""
    check_frames(frames)
    check_count(len(frames), step)


def check_count(count: int, step: int) -> None:
    """Raise ArgumentError unless `count` frames hold at least one pair `step` apart."""
    check_whole_number("step", step, 1)
    if count < 2:
        raise ArgumentError(f"flow needs at least 2 frames, got {count}")
    if step >= count:
        raise ArgumentError(f"step {step} needs at least {step + 1} frames, got {count}")
