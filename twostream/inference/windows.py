"""Long and endless videos: a decision for each window of frames, and one for all that was seen.

A window is looked at as an evaluation looks at a video of its length. Windows begin `every` frames apart. A stack of
flow and an RGB frame that several windows look at go through the CNN once: with the default length, T * `every` places
for a stack, the next window's places are those of this one but for the newest of each clip.

The decisions are smoothed over time, so that a label does not flicker:

    exponential    s_k = s_(k-1) + a (p_k - s_(k-1)),  a = 2 / (n + 1),  s_0 = p_0
    mean           s_k = mean of p_(k-n+1) ... p_k

A video's own decision is the mean of all its windows.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flow_cache import Frame
from twostream.checkpoints import ModelCard
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import ClipDataset
from twostream.data.sampling import even_starts, middle_frames
from twostream.data.settings import DataConfig, StreamClips
from twostream.inference.clips import ClipAnswers, classify_clips
from twostream.inference.footage import FlowRecipe, FrameStore, entry_of
from twostream.inference.settings import Smoothing, WindowSettings
from twostream.models.two_stream import TwoStream
from twostream.settings import StreamName

Probabilities = NDArray[np.float32]
_PLACES_AT_ONCE = 16


class Attention(NamedTuple):
    """How much each place of a stream counted: frames (n,) int64, ascending, and weights (n,) float32 of sum 1."""

    frames: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """What a model says of one window.

    Attributes:
        number: of the decision, from 0.
        first: number of the window's first frame.
        last: number of its last frame.
        probabilities: per output ("fused", "rgb", "flow") the probability of each class, (C,) float32.
        smoothed: the deciding output's, smoothed over time, (C,) float32.
        stream_weights: share of RGB and flow in the fusion, (2,) float32; None with one stream.
        attention: of each stream, over the window's frames.
    """

    number: int
    first: int
    last: int
    probabilities: dict[str, Probabilities]
    smoothed: Probabilities
    stream_weights: Probabilities | None
    attention: dict[StreamName, Attention]

    @property
    def decision(self) -> Probabilities:
        """The probabilities that decide in this window alone."""
        return next(iter(self.probabilities.values()))


class Smoother:
    """Smooth probabilities over time, as the head of this page says.

    Example:
        >>> from twostream.inference.windows import Smoother
        >>> smoother = Smoother("mean", over=2)
        >>> [smoother(np.array([p])).tolist() for p in (0.0, 1.0, 0.5)]
        [[0.0], [0.5], [0.75]]
    """

    def __init__(self, kind: Smoothing, over: int) -> None:
        self._recent: deque[Probabilities] = deque(maxlen=over if kind == "mean" else 1)
        self._share = None if kind == "mean" else 2 / (over + 1)

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        """Take the next decision and return what it becomes."""
        if self._share is not None and self._recent:
            last = self._recent[-1]
            probabilities = (last + self._share * (probabilities - last)).astype(np.float32)
        self._recent.append(probabilities)
        if self._share is not None:
            return probabilities
        total: NDArray[np.float64] = np.sum(np.stack(self._recent), axis=0, dtype=np.float64)
        return (total / len(self._recent)).astype(np.float32)


class Summary:
    """The mean of decisions, kept as sums: what is said of a video as a whole.

    Attributes:
        count: decisions so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._weights = np.zeros(2)

    def add(self, decision: Decision) -> None:
        """Count a decision."""
        self.count += 1
        for name, values in decision.probabilities.items():
            self._sums[name] = self._sums.get(name, 0) + values.astype(np.float64)
        if decision.stream_weights is not None:
            self._weights = self._weights + decision.stream_weights

    def probabilities(self) -> dict[str, Probabilities]:
        """Return the mean of each output."""
        return {name: (values / self.count).astype(np.float32) for name, values in self._sums.items()}

    def stream_weights(self) -> Probabilities:
        """Return the mean share of each stream."""
        return (self._weights / self.count).astype(np.float32)


class WindowClassifier:
    """Take frames one by one and decide once for each window; memory is that of one window.

    Args:
        model: in evaluation mode.
        card: what it was trained for.
        recipe: how fields are made.
        settings: windows and smoothing.

    Attributes:
        length: frames of a window.
        store: the frames that are kept: those of the next window, or since the last one.
    """

    def __init__(
        self, model: TwoStream, card: ModelCard, recipe: FlowRecipe, settings: WindowSettings
    ) -> None:
        self.settings = settings
        self.store = FrameStore(recipe)
        self._model = model
        self._data = card.data_config()
        self.length = settings.length(self._data, model.names, recipe.step)
        self._streams = {name: _Places(name, model, card, self._data, self.store) for name in model.names}
        self._smoother = Smoother(settings.smoothing, settings.over)
        self._begin: int | None = None  # first frame without a gap before the present one
        self._decided = 0

    def add(self, frame: Frame, *, after_gap: bool = False) -> Decision | None:
        """Take the next frame; returns the decision if a window ends with it.

        Args:
            frame: its number is one more than that of the frame before.
            after_gap: frames are missing before it; no window reaches across.
        """
        if after_gap or self._begin is None:
            self._begin = frame.index
            self.store.clear()
        self.store.add(frame)
        seen = frame.index + 1 - self._begin
        if seen < self.length or (seen - self.length) % self.settings.every:
            return None
        decision = self._decide(frame, frame.index + 1 - self.length)
        following = decision.first + self.settings.every
        # Those since the last decision stay in any case, for who wants to draw them.
        recent = frame.index + 1 - self.settings.every - self.store.recipe.step
        self.store.drop_before(min(following, recent))
        for places in self._streams.values():
            places.drop_before(following)
        return decision

    @torch.inference_mode()
    def _decide(self, frame: Frame, first: int) -> Decision:
        recipe = self.store.recipe
        starts: dict[StreamName, NDArray[np.int64]] = {}
        for name in self._streams:
            shape, count = self._data.clips_of(name)[0], self._data.eval_clips_of(name)
            starts[name] = first + even_starts(self.length - recipe.step, shape, count)
        wanted: set[int] = set()
        for name, places in self._streams.items():
            wanted |= places.fields(starts[name])
        if wanted:
            self.store.flow(sorted(wanted))  # all at once, for the estimator's threads
        size = (frame.grey.shape[0], frame.grey.shape[1])
        batch: dict[str, Tensor] = {}
        for name, places in self._streams.items():
            batch |= places.clips(starts[name], size)
        answers = classify_clips(self._model, batch)
        probabilities = {name: values[0] for name, values in answers.values.items()}
        weights = probabilities.pop("weights", None)
        smoothed = self._smoother(next(iter(probabilities.values())))
        self._decided += 1
        return Decision(
            self._decided - 1,
            first,
            frame.index,
            probabilities,
            smoothed,
            weights,
            {name: self._attention(name, starts[name], answers) for name in starts},
        )

    def _attention(self, name: StreamName, starts: NDArray[np.int64], answers: ClipAnswers) -> Attention:
        shape = self._data.clips_of(name)[0]
        return attention_over(middle_frames(starts, shape, self.store.recipe.step), answers.attention[name])


def attention_over(frames: NDArray[np.int64], weights: Probabilities) -> Attention:
    """Add up the attention (K V, T) of clips in views whose steps look at frames (K, T)."""
    clips = weights.reshape(len(frames), -1, frames.shape[1]).mean(axis=1) / len(frames)
    places, where = np.unique(frames, return_inverse=True)
    sums = np.bincount(where.ravel(), clips.ravel(), len(places))
    return Attention(places, sums.astype(np.float32))


class _Places:
    """The features of one stream at places of a video; each is computed once."""

    def __init__(
        self, name: StreamName, model: TwoStream, card: ModelCard, data: DataConfig, store: FrameStore
    ) -> None:
        self._name = name
        self._model = model
        self._store = store
        self._motion = name == "rgb" and card.model.needs_motion
        self._window = card.model.rgb_window if name == "rgb" else 1
        own: StreamClips = getattr(data, name)
        single: StreamClips = replace(own, steps=1)
        self._data = replace(data, rgb=single, flow=single)
        self._features: dict[int, tuple[Tensor, Tensor]] = {}  # start -> local (V, C_l), semantic (V, C_s)

    def drop_before(self, start: int) -> None:
        """Forget the places before one."""
        for old in [key for key in self._features if key < start]:
            del self._features[old]

    def fields(self, starts: NDArray[np.int64]) -> set[int]:
        """List the fields that new places among these need."""
        if self._name == "rgb" and not self._motion:
            return set()
        stack = range(self._data.stack)
        return {start + t for start in starts.ravel().tolist() if start not in self._features for t in stack}

    def clips(self, starts: NDArray[np.int64], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the features of clips whose stacks begin at starts (K, T), in all views.

        Args:
            starts: of all clips of one window.
            size: (H, W) of the frames.

        Returns:
            `local`, `semantic` (1, K V, T, C) and `valid` (1, K V, T), by the stream's name.
        """
        missing = sorted(set(starts.ravel().tolist()) - self._features.keys())
        for begin in range(0, len(missing), _PLACES_AT_ONCE):
            self._compute(missing[begin : begin + _PLACES_AT_ONCE], size)
        count, steps = starts.shape
        parts = [[self._features[start] for start in row] for row in starts.tolist()]
        clips: dict[str, Tensor] = {}
        for number, level in enumerate(("local", "semantic")):
            stacked = torch.stack([torch.stack([place[number] for place in row]) for row in parts])
            views = stacked.shape[2]  # (K, T, V, C)
            clips[f"{self._name}_{level}"] = stacked.transpose(1, 2).flatten(0, 1)[None]
        clips[f"{self._name}_valid"] = torch.ones(1, count * views, steps, dtype=torch.bool)
        return clips

    def _compute(self, starts: Sequence[int], size: tuple[int, int]) -> None:
        """Compute the features of new places."""
        pictures = [self._pictures(start, size) for start in starts]
        device = next(self._model.parameters()).device
        # (n V, 1, ...): each place in each view is a clip of one step.
        batch = {key: torch.cat([item[key] for item in pictures]).to(device) for key in pictures[0]}
        features = self._model.stream(self._name).features(
            batch[self._name], self._model.motion(self._name, batch)
        )
        levels = [
            level.view(len(starts), len(level) // len(starts), level.shape[-1])
            for level in (features.local, features.semantic)
        ]
        self._features.update(zip(starts, zip(*levels, strict=True), strict=True))

    def _pictures(self, start: int, size: tuple[int, int]) -> Mapping[str, Tensor]:
        """Cut out what the stream sees at a place, by the code that cuts clips from a cache: (V, 1, ...)."""
        # A video as short as can be, with the place in its middle; wide enough for a video net's window of frames.
        context = self._window // 2
        recipe = self._store.recipe
        frames = self._data.stack + recipe.step + 2 * context
        clips = ClipDataset(
            [VideoRecord("video", 0, "")],
            Path(),  # nothing is opened
            {"video": entry_of(frames, *size, recipe)},
            config=self._data,
            streams=(self._name,),
            motion=self._motion,
            window=self._window,
            clips=1,
            open_cache=lambda path: contextlib.nullcontext(_Shifted(self._store, start - context)),
        )
        return {key: value for key, value in clips[0].items() if isinstance(value, Tensor)}


class _Shifted:
    """A part of a store, whose numbers begin at 0."""

    def __init__(self, store: FrameStore, offset: int) -> None:
        self._store, self._offset = store, offset

    def flow(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        return self._store.flow([number + self._offset for number in numbers])

    def rgb(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        return self._store.rgb([number + self._offset for number in numbers])
