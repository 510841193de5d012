"""The frames of one video, read as often as they are needed, and what a cache file of it would hold.

Nothing is written. Fields are computed when somebody asks for them, with the settings of the training cache, and pass
through its quantisation and its codec's rounding, so that a network sees what it would see through a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_cache import (
    Damage,
    FlowMethod,
    Frame,
    Framing,
    IndexEntry,
    StorageSettings,
    VideoError,
    read_frames,
)
from twostream.settings import Damaged

Bytes = NDArray[np.uint8]
MOST_HELD = 1 << 28
"""Bytes of a video's frames that are kept in memory; of a larger one, those that are needed are read again."""


@dataclass(frozen=True)
class FlowRecipe:
    """How fields and RGB frames are made of frames, as a cache file would give them back.

    Attributes:
        estimator: computes flow.
        bound: of the quantisation, in pixels.
        step: frames from one end of a flow vector to the other.
        storage: how the training cache stores them.
    """

    estimator: FlowMethod
    bound: float
    step: int
    storage: StorageSettings

    def fields(self, frames: Sequence[Bytes]) -> Bytes:
        """Compute the quantised flow from each frame, (H, W) uint8, to the next one given: (N - 1, 2, H, W) uint8."""
        levels, _ = self.estimator.quantized(np.stack(frames), self.bound)
        return self.storage.stored_flow(levels)


class FrameStore:
    """Frames by their number, and the fields between them: what clips are cut from in place of a cache file.

    It has the methods of a `CacheReader` that a `ClipDataset` uses.

    Args:
        recipe: how fields are made.
    """

    def __init__(self, recipe: FlowRecipe) -> None:
        self.recipe = recipe
        self._frames: dict[int, Frame] = {}
        self._fields: dict[int, Bytes] = {}

    def add(self, frame: Frame) -> None:
        """Keep a frame."""
        self._frames[frame.index] = frame

    def drop_before(self, number: int) -> None:
        """Forget the frames before one, and the fields that begin there."""
        for kept in (self._frames, self._fields):
            for old in [key for key in kept if key < number]:
                del kept[old]

    def clear(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._fields.clear()

    def __len__(self) -> int:
        return len(self._frames)

    def has(self, number: int) -> bool:
        """Tell whether a field can be computed."""
        return number in self._frames and number + self.recipe.step in self._frames

    def flow(self, numbers: Sequence[int]) -> Bytes:
        """Return fields (n, 2, H, W) uint8, computed unless they were asked for before."""
        step, chunk = self.recipe.step, max(self.recipe.estimator.chunk, 1)
        missing = sorted({number for number in numbers if number not in self._fields})
        for chain in _chains(missing, step):
            for begin in range(0, len(chain), chunk):
                part = chain[begin : begin + chunk]
                stack = [self._frames[number].grey for number in (*part, part[-1] + step)]
                self._fields.update(zip(part, self.recipe.fields(stack), strict=True))
        return np.stack([self._fields[number] for number in numbers])

    def rgb(self, numbers: Sequence[int]) -> Bytes:
        """Return RGB frames (n, H, W, 3) uint8; of numbers beyond those that are kept, the nearest one."""
        first, last = min(self._frames), max(self._frames)
        colours = [self._frames[min(max(number, first), last)].rgb for number in numbers]
        return np.stack([self.recipe.storage.stored_rgb(rgb) for rgb in colours if rgb is not None])


def _chains(numbers: Iterable[int], step: int) -> Iterator[list[int]]:
    """Cut ascending numbers into chains whose neighbours are `step` apart."""
    chains: dict[int, list[int]] = {}  # by the number that would follow
    for number in numbers:
        chain = chains.pop(number, [])
        chain.append(number)
        chains[number + step] = chain
    yield from chains.values()


@dataclass
class Footage:
    """A local video file or folder of images.

    Attributes:
        path: where it lies.
        framing: sizes, and whether colours are kept.
        damaged: what is done with a damaged video.
        partial: why only a part of it was read; known once `frames` has ended.
        gaps: numbers of the frames that others are missing before; each is there as soon as its frame is.
    """

    path: Path
    framing: Framing
    damaged: Damaged = "fail"
    partial: str | None = None
    gaps: list[int] = field(default_factory=list)

    def display(self, height: int) -> Iterator[Frame]:
        """Iterate the same frames in colour, to be shown: of about a height, and of even sides."""
        damage = Damage() if self.damaged == "skip-frames" else None
        shown = read_frames(self.path, rgb=True, damage=damage)
        for frame in shown:
            assert frame.rgb is not None
            tall, wide = frame.rgb.shape[:2]
            width = min(max(round(wide * height / tall / 2) * 2, 2), 4 * height)
            shape = (width, height)
            rgb = cv2.resize(
                frame.rgb, shape, interpolation=cv2.INTER_AREA if tall > height else cv2.INTER_LINEAR
            )
            yield Frame(frame.index, frame.grey, np.asarray(rgb, np.uint8))

    def frames(self) -> Iterator[Frame]:
        """Iterate the frames from the beginning.

        Raises:
            VideoError: it cannot be read, or is damaged where that is not put up with.
        """
        damage = Damage() if self.damaged == "skip-frames" else None
        self.partial, self.gaps = None, []
        framing, found = self.framing, False
        try:
            for frame in read_frames(
                self.path,
                short_side=framing.short_side,
                size=framing.size,
                rgb=framing.rgb,
                rgb_short_side=framing.rgb_short_side,
                damage=damage,
            ):
                found = True
                if damage is not None and damage.is_after_gap:
                    self.gaps.append(frame.index)
                yield frame
        except VideoError as error:
            if self.damaged == "keep-prefix" and found:
                self.partial = error.reason_and_frame
            elif self.damaged == "fail" and found and not self.path.is_dir():
                advice = "--damaged keep-prefix looks at those before it, skip-frames at all good ones"
                raise VideoError(error.path, f"{error.reason}; {advice}", error.frame) from error
            else:
                raise
        if damage is not None and damage.gaps:
            self.partial = damage.reason


def entry_of(
    frames: int, height: int, width: int, recipe: FlowRecipe, gaps: Iterable[int] = ()
) -> IndexEntry:
    """Describe a video in memory as an index describes a cache file."""
    return IndexEntry(
        video="video",
        cache_file="",
        num_frames=frames,
        num_fields=max(frames - recipe.step, 0),
        height=height,
        width=width,
        has_rgb=True,
        fps=0.0,
        bound=recipe.bound,
        step=recipe.step,
        method=recipe.estimator.name,
        clip_fraction=0.0,
        bytes=0,
        stamp="",
        gaps=" ".join(map(str, gaps)),
    )


class WholeVideo:
    """A video of any length, from which clips are cut as from a cache file, in memory that does not depend on it.

    Frames are kept while they are few bytes. Otherwise the video is read again for what a clip needs.

    Args:
        footage: the video.
        recipe: how fields are made.
        most_held: bytes of frames that are kept.
    """

    def __init__(self, footage: Footage, recipe: FlowRecipe, most_held: int = MOST_HELD) -> None:
        self._footage = footage
        self._recipe = recipe
        self._most_held = most_held
        self._held: FrameStore | None = None

    def scan(self, limit: int | None = None) -> IndexEntry | None:
        """Read the video once; None if it has more frames than the limit, where reading ends.

        Raises:
            VideoError: it cannot be read.
        """
        store: FrameStore | None = FrameStore(self._recipe)
        count = held = 0
        shape = (0, 0)
        for frame in self._footage.frames():
            count, shape = count + 1, frame.grey.shape
            if limit is not None and count > limit:
                return None
            held += frame.grey.nbytes + (0 if frame.rgb is None else frame.rgb.nbytes)
            if held > self._most_held:
                store = None
            if store is not None:
                store.add(frame)
        self._held = store
        return entry_of(count, *shape, self._recipe, self._footage.gaps)

    def flow(self, numbers: Sequence[int]) -> Bytes:
        """Return fields, as `CacheReader.flow` does."""
        step = self._recipe.step
        return self._with({number + end for number in numbers for end in (0, step)}).flow(numbers)

    def rgb(self, numbers: Sequence[int]) -> Bytes:
        """Return RGB frames, as `CacheReader.rgb` does."""
        return self._with(set(numbers)).rgb(numbers)

    def _with(self, wanted: set[int]) -> FrameStore:
        """Return a store that has some frames."""
        if self._held is not None:
            return self._held
        store, last = FrameStore(self._recipe), max(wanted)
        for frame in self._footage.frames():
            if frame.index in wanted:
                store.add(frame)
            if frame.index == last:
                break
        return store
