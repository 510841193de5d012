"""Base of the estimators on CUDA: frames in batches to the device, flow back, a memory budget, clear errors.

A batch is as many pairs as one `Workspace` holds. Each frame of a stack is uploaded and prepared once, even if its two
pairs are in different batches: it keeps its slot until both have been solved.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from flow_cache.errors import ArgumentError, DeviceError
from flow_cache.methods.base import (
    FlowMethod,
    check_count,
    check_frames,
    check_layout,
    check_pairs,
    check_scale,
)
from flow_cache.methods.cuda.backend import Backend, DeviceArray, DeviceMemoryError, blocks_for
from flow_cache.quantization import check_bound, nan_error, quantize_scale

BATCH_PIXELS = (
    90_000_000  # pixels of a batch: 1024 pairs of 340x256, so that many are left when most have converged
)
MOST_PAIRS = 1024  # pairs of a batch that the kernels can handle
KEPT_WORKSPACES = 4  # for different frame sizes


class Workspace(ABC):
    """Arrays for pairs of frames of one size, and the work on them. It is kept between calls, so work can be recorded.

    Args:
        backend: the device.
        height: of the frames, pixels.
        width: of the frames, pixels.
        frames: number of slots, each for one prepared frame.
        pairs: largest number of pairs.

    Attributes:
        slots: (frames,) int32, the slot of each staged frame; -1 = none.
        first: (pairs,) int32, the slot of each pair's first frame; -1 = no such pair.
        second: (pairs,) int32, the slot of its second frame.
        flow: (pairs, 2, height, width) float32, the result, pixels.
    """

    def __init__(self, backend: Backend, height: int, width: int, frames: int, pairs: int) -> None:
        self.backend = backend
        self.height, self.width, self.frames, self.pairs = height, width, frames, pairs
        self.slots = backend.empty(frames, np.int32)
        self.first = backend.empty(pairs, np.int32)
        self.second = backend.empty(pairs, np.int32)
        self.flow = backend.empty((pairs, 2, height, width), np.float32)
        self._staged: dict[np.dtype[Any], DeviceArray] = {}
        self._recorded: dict[np.dtype[Any], Callable[[], None]] = {}

    @abstractmethod
    def work(self, staged: DeviceArray) -> None:
        """Queue all launches: prepare the staged frames (frames, height, width), then solve the pairs."""

    def run(self, frames: list[Any], slots: list[int], first: list[int], second: list[int]) -> None:
        """Queue the upload of frames and the work on pairs.

        Args:
            frames: stacks (T, H, W) of one dtype, uint8 or float32, that are joined.
            slots: slot for each of their frames.
            first: slot of each pair's first frame, -1 = skip the pair.
            second: slot of each pair's second frame.
        """
        dtype = np.dtype(frames[0].dtype)
        if dtype not in self._staged:
            staged = self.backend.empty((self.frames, self.height, self.width), dtype)
            self._staged[dtype] = staged
            self._recorded[dtype] = self.backend.recorded(lambda: self.work(staged))
        start = 0
        for stack in frames:
            self.backend.upload(stack, self._staged[dtype][start : start + len(stack)])
            start += len(stack)
        for values, target in ((slots, self.slots), (first, self.first), (second, self.second)):
            padded = np.full(target.shape, -1, np.int32)
            padded[: len(values)] = values
            self.backend.upload(padded, target)
        self._recorded[dtype]()

    def release(self) -> None:
        """Drop recorded work: it refers to this workspace, which could not free its memory otherwise."""
        self._recorded.clear()


class CudaMethod(FlowMethod):
    """An estimator on one GPU. Two threads must not use it at the same time.

    Args:
        backend: the device.

    Attributes:
        memory_fraction: share of the free device memory that a batch may take; it does not change the result.
        batch: pairs worked on at the same time, None = as many as this share allows; it does not change the result.
        device: the backend.
    """

    memory_fraction: float = 0.5
    batch: int | None = None
    on_gpu = True
    chunk: ClassVar[int] = 256

    def __init__(self, backend: Backend) -> None:
        self.device = backend
        self._workspaces: dict[tuple[int, int, int, int], Workspace] = {}
        self._most = BATCH_PIXELS  # largest batch, in pairs; halved when a batch does not fit
        self._last_use: Any = None
        # callers' arrays on the device, and the marks after the last work that reads them
        self._held: list[tuple[Any, Any]] = []

    @abstractmethod
    def _make_workspace(self, height: int, width: int, frames: int, pairs: int) -> Workspace:
        """Allocate the arrays for that many frames and pairs."""

    @abstractmethod
    def _bytes(self, height: int, width: int) -> tuple[int, int]:
        """Return the bytes that a frame and that a pair take in a workspace."""

    def __call__(self, frames: Any, step: int = 1) -> Any:
        """Estimate the flow from frame t to frame t + step, for every t.

        Work is queued on the current stream.

        Args:
            frames: (T, H, W) uint8 or float32, grey levels from 0 to 255: a NumPy array, or an array on this device
                with DLPack or __cuda_array_interface__ (of torch or CuPy).
            step: distance between the two frames of a pair.

        Returns:
            (T - step, 2, H, W) float32, pixels per step: channel 0 is u (rightwards), 1 is v (downwards). A NumPy array
            for frames on the host, a CuPy array for frames on the device.

        Raises:
            ArgumentError: as the CPU estimators do.
            DeviceError: the device has too little memory for one pair.
        """
        with self.device.active():
            stack, on_device = self._checked(frames)
            check_count(len(stack), step)
            return self._solve(
                stack.shape,
                len(stack) - step,
                frames if on_device else None,
                lambda: self._stack_batches(stack, step),
            )

    def pairs(self, first: Any, second: Any) -> Any:
        """Estimate the flow from first[n] to second[n], for every n.

        Args:
            first: (N, H, W) as in `__call__`.
            second: the same shape and dtype, on the same side (device or host).

        Returns:
            (N, 2, H, W) float32, as in `__call__`.

        Raises:
            ArgumentError: frames as in `__call__`, or stacks that differ.
            DeviceError: the device has too little memory for one pair.
        """
        with self.device.active():
            given = (first, second)
            first, on_device = self._checked(first)
            second, second_on_device = self._checked(second)
            check_pairs(first, second)
            if on_device != second_on_device:
                raise ArgumentError(
                    "pairs must be in one place, got one stack on the device and one on the host"
                )
            return self._solve(
                first.shape,
                len(first),
                given if on_device else None,
                lambda: self._pair_batches(first, second),
            )

    def quantized(self, frames: Any, bound: float, step: int = 1) -> tuple[Any, int]:
        """Estimate the flow of a stack and quantise it on the device.

        Args:
            frames: (T, H, W) as in `__call__`.
            bound: pixels per step, as in `flow_cache.quantize`.
            step: distance between the two frames of a pair.

        Returns:
            (T - step, 2, H, W) uint8, on the same side as the frames, and the number of clipped values.
        """
        ((levels, clipped),) = self.quantized_stacks([frames], bound, step)
        return levels, clipped

    def quantized_stacks(self, stacks: Sequence[Any], bound: float, step: int = 1) -> list[tuple[Any, int]]:
        """Return `quantized` of each stack; the stacks share batches.

        Args:
            stacks: as in `quantized`, of one frame size and dtype; if there are several, on the host.
            bound: as in `quantized`.
            step: as in `quantized`.

        Raises:
            ArgumentError: as in `quantized`, or stacks that differ or are several on the device.
        """
        bound = check_bound(bound)
        with self.device.active():
            checked = [self._checked(frames) for frames in stacks]
            for stack, _ in checked:
                check_count(len(stack), step)
            stack, on_device = checked[0]
            if len({(part.shape[1:], part.dtype, there) for part, there in checked}) > 1:
                raise ArgumentError("stacks must have one frame size and dtype, and be in one place")
            if len(checked) > 1:
                if on_device:
                    raise ArgumentError("several stacks must be on the host; join them on the device")
                stack = np.concatenate([part for part, _ in checked])
            ends = np.cumsum([len(part) for part, _ in checked]).tolist()
            # pairs that would go from one stack to the next
            seams = {t for end in ends[:-1] for t in range(end - step, end)}
            quantizer = _Quantizer(self.device, bound, len(stack) - step)
            levels = self._solve(
                stack.shape,
                len(stack) - step,
                stacks if on_device else None,
                lambda: self._stack_batches(stack, step, seams),
                quantizer,
            )
            spans = [(end - len(part), end - step) for end, (part, _) in zip(ends, checked, strict=True)]
            return [(levels[start:end], quantizer.clipped(start, end)) for start, end in spans]

    def _estimate(self, first: Any, second: Any) -> Any:
        return self.pairs(first, second)

    def _checked(self, frames: Any) -> tuple[Any, bool]:
        """Return a checked stack and whether it is on the device."""
        adopted = self.device.adopt(frames)
        if adopted is None:
            check_frames(frames)
            return frames, False
        check_layout(adopted)
        if adopted.dtype == np.float32 and adopted.size:
            low, high = value_range(self.device, adopted)
            if not (low >= 0 and high <= 255):
                raise ArgumentError(
                    f"float frames must be grey levels 0 to 255; they hold {low} to {high} or a NaN"
                )
            check_scale(high)
        return adopted, True

    def _stack_batches(
        self, stack: Any, step: int, seams: Collection[int] = ()
    ) -> Iterator[tuple[Workspace, int, int]]:
        """Solve a stack batch by batch; yield the workspace, its first pair and count. `seams`: pairs to skip."""
        count = len(stack) - step
        workspace = self._workspace(stack, count, step)
        if workspace is None:  # only few frames of a batch would belong to two of its pairs
            yield from self._pair_batches(stack[:-step], stack[step:])
            return
        slots, most = workspace.frames, workspace.pairs
        staged = 0
        for start in range(0, count, most):
            n = min(most, count - start)
            end = start + n + step
            workspace.run(
                [stack[staged:end]],
                [t % slots for t in range(staged, end)],
                [-1 if t in seams else t % slots for t in range(start, start + n)],
                [(t + step) % slots for t in range(start, start + n)],
            )
            staged = end
            yield workspace, start, n

    def _pair_batches(self, first: Any, second: Any) -> Iterator[tuple[Workspace, int, int]]:
        """Solve explicit pairs batch by batch; yield as `_stack_batches` does."""
        workspace = self._workspace(first, len(first), None) if len(first) else None
        if workspace is None:
            return
        most = workspace.pairs
        for start in range(0, len(first), most):
            n = min(most, len(first) - start)
            parts = [first[start : start + n], second[start : start + n]]
            workspace.run(parts, list(range(2 * n)), list(range(n)), list(range(n, 2 * n)))
            yield workspace, start, n

    def _solve(
        self,
        shape: tuple[int, ...],
        count: int,
        given: Any,
        batches: Callable[[], Iterator[tuple[Workspace, int, int]]],
        quantizer: _Quantizer | None = None,
    ) -> Any:
        """Collect the results of the batches, on the device or the host; retry with smaller ones if memory runs out.

        Args:
            shape: of the frames.
            count: pairs.
            given: the caller's arrays if they, and so the results, are on the device; else None.
            batches: solves the batches, one after the other.
            quantizer: makes levels of flow, if levels are wanted.
        """
        whole = (count, 2, *shape[1:])
        dtype = np.uint8 if quantizer else np.float32
        self._most = max(1, count)
        self._held = [held for held in self._held if not self.device.reached(held[0])]
        self.device.wait(self._last_use)  # another stream may still be working in the workspaces
        there = given is not None
        result = self.device.empty(whole, dtype) if there else np.empty(whole, dtype)
        while True:
            try:
                for workspace, start, n in batches():
                    part = workspace.flow[:n]
                    if quantizer:
                        part = quantizer(part, start)
                    if there:
                        self.device.upload(part, result[start : start + n])
                    else:
                        result[start : start + n] = self.device.download(part)
                break
            except DeviceMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # they refer to what has been allocated so far
                self._drop(0)
                if self._most == 1:
                    raise DeviceError(self._too_large(*shape[1:])) from error
                self._most //= 2
                if quantizer:
                    quantizer.reset()
        self._last_use = self.device.mark()
        if there:  # their owner may give their memory to another stream as soon as the caller lets go of them
            self._held.append((self._last_use, given))
        return result

    def _workspace(self, stack: Any, count: int, step: int | None) -> Workspace | None:
        """Return a workspace for a batch of up to `count` pairs.

        Args:
            stack: the frames, for their size.
            count: pairs to solve.
            step: distance between the two frames of a pair; None = the pairs share no frames.

        Returns:
            The workspace; None if a batch has fewer pairs than `step`, so that sharing frames is not worth it.
        """
        height, width = stack.shape[1:]
        pairs = self._most = self._batch(height, width, count, step)
        if step is not None and step > pairs:
            return None
        size = (height, width, 2 * pairs if step is None else pairs + step, pairs)
        workspace = self._workspaces.pop(size, None)
        if workspace is None:
            self._drop(KEPT_WORKSPACES - 1)
            workspace = self._make_workspace(*size)
        self._workspaces[size] = workspace  # the last one is the one used last
        return workspace

    def _batch(self, height: int, width: int, count: int, step: int | None) -> int:
        """Choose how many pairs to work on at the same time: a power of two, or as many as the memory allows."""
        if self.batch is not None:
            return min(self.batch, self._most, MOST_PAIRS)
        wanted = min(MOST_PAIRS, max(4, BATCH_PIXELS // (height * width)))
        pairs = min(wanted, 1 << (min(count, self._most) - 1).bit_length())
        if self._most < count:
            pairs = min(pairs, self._most)
        frame_bytes, pair_bytes = self._bytes(height, width)
        kept = sum(self._used(size) for size in self._workspaces)
        budget = int((self.device.free_memory() + kept) * self.memory_fraction)
        fits = (budget - (step or 0) * frame_bytes) // (pair_bytes + (2 if step is None else 1) * frame_bytes)
        return max(1, min(pairs, fits))

    def _drop(self, most: int) -> None:
        """Drop the workspaces not used for longest until `most` are left."""
        while len(self._workspaces) > most:
            self._workspaces.pop(next(iter(self._workspaces))).release()

    def _used(self, size: tuple[int, int, int, int]) -> int:
        """Return the bytes of a workspace."""
        height, width, frames, pairs = size
        frame_bytes, pair_bytes = self._bytes(height, width)
        return frames * frame_bytes + pairs * pair_bytes

    def _too_large(self, height: int, width: int) -> str:
        """Return the message for a pair that does not fit."""
        frame_bytes, pair_bytes = self._bytes(height, width)
        needed, free = (pair_bytes + 2 * frame_bytes) / 2**20, self.device.free_memory() / 2**20
        return (
            f"a pair of {width}x{height} frames needs {needed:.1f} MiB of device memory, {free:.1f} MiB are free; "
            "free some, make the frames smaller, or use device='cpu'"
        )


class _Quantizer:
    """Quantise batches on the device as `quantize` does, and count the clipped values there."""

    def __init__(self, device: Backend, bound: float, pairs: int) -> None:
        self._device = device
        self._bound = bound
        self._counts = device.empty((pairs, 2), np.uint32)  # clipped, NaN
        self.reset()

    def reset(self) -> None:
        """Set the counts to 0."""
        self._device.clear(self._counts)

    def __call__(self, flow: DeviceArray, start: int) -> DeviceArray:
        """Quantise the flow (N, 2, H, W) of N pairs, the first of which has index `start`."""
        levels = self._device.empty(flow.shape, np.uint8)
        size = flow[0].size
        scale = np.float32(quantize_scale(self._bound))
        counts = self._counts[start : start + len(flow)]
        self._device.module("quantize.cu").launch(
            "quantize",
            (min(blocks_for(size, 256), 64), len(flow), 1),
            (256, 1, 1),
            (flow, levels, size, scale, np.float32(self._bound), counts),
        )
        return levels

    def clipped(self, start: int, end: int) -> int:
        """Return how many values of the pairs from `start` to `end` were clipped; raise ArgumentError for NaN."""
        clipped, nans = self._device.download(self._counts[start:end]).sum(axis=0, dtype=np.int64)
        if nans:
            raise nan_error()
        return int(clipped)


def value_range(device: Backend, array: DeviceArray) -> tuple[float, float]:
    """Return the smallest and largest value of a float32 array on the device; the largest is NaN if there is a NaN."""
    bits = device.empty(2, np.uint32)
    device.clear(bits)
    grid = (min(blocks_for(array.size, 256), 1024), 1, 1)
    device.module("quantize.cu").launch("extremes", grid, (256, 1, 1), (array, np.int64(array.size), bits))
    negated_low, high = (_float_of(int(value)) for value in device.download(bits))
    return -negated_low, high


def _float_of(ordered: int) -> float:
    """Invert the order-preserving mapping of floats to unsigned integers that the kernel `extremes` uses."""
    value = ordered ^ 0x80000000 if ordered & 0x80000000 else ordered ^ 0xFFFFFFFF
    return float(np.array([value], np.uint32).view(np.float32)[0])
