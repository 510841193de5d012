"""Clips of cached videos as uint8 tensors.

Nothing random lives outside a clip: every clip is drawn from a generator seeded by (seed, epoch, video), and
the sampler hands (epoch, video) to the workers. A run is the same for any number of workers and after a
resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from flow_cache import CacheReader, FlowCacheError, IndexEntry
from twostream.data.annotations import VideoRecord
from twostream.data.motion import motion_maps
from twostream.data.sampling import (
    Indices,
    even_starts,
    middle_frames,
    random_starts,
    runs_inside,
    stack_fields,
    window_frames,
    without_repeats,
)
from twostream.data.settings import DataConfig
from twostream.data.transforms import Bytes, View, apply_view, evaluation_views, random_view
from twostream.errors import TwoStreamError
from twostream.settings import STREAMS, StreamName

if TYPE_CHECKING:
    from pathlib import Path

    from flow_cache import RemotePath

Clip = dict[str, Tensor | int]


class ClipKey(NamedTuple):
    """Name one clip of one epoch: what the sampler yields and the dataset takes.

    Attributes:
        epoch: counted from 0.
        video: its place among the videos.
        repeat: how often the epoch has drawn the video before; each time it is another random clip.
    """

    epoch: int
    video: int
    repeat: int = 0


class ClipReader(Protocol):
    """The part of a `CacheReader` that clips are cut from."""

    def flow(self, numbers: Sequence[int], /) -> NDArray[np.uint8]:
        """Return fields (n, 2, H, W) uint8, quantised."""
        ...

    def rgb(self, numbers: Sequence[int], /) -> NDArray[np.uint8]:
        """Return RGB frames (n, H, W, 3) uint8."""
        ...


OpenCache: TypeAlias = "Callable[[Path | RemotePath], AbstractContextManager[ClipReader]]"
"""Opens the cache file of a video."""


class NamedErrors(Dataset[Clip]):
    """A dataset whose batches hold our own errors in place of the clips that have them, for `ClipLoader` to raise."""

    def __getitems__(self, keys: Sequence[int | ClipKey]) -> list[Clip | Exception]:
        """Read a batch for a loader; our own errors are returned: a worker would turn them into tracebacks."""
        items: list[Clip | Exception] = []
        for key in keys:
            try:
                items.append(self[key])
            except (FlowCacheError, TwoStreamError) as error:
                items.append(error)
        return items


class ClipDataset(NamedErrors):
    """Read clips from a flow cache.

    `dataset[index]` or `dataset[ClipKey(epoch, video)]` gives a dict with

    - `rgb`: (T, 3 F, h, w) uint8, the frame in the middle of every stack, or a window of F frames around it, if the RGB
      stream is wanted,
    - `motion`: (T, ceil(h / 16), ceil(w / 16)) float32, how much each place of the RGB frames moves, in pixels per
      step, if it is wanted,
    - `flow`: (T, 2L, h, w) uint8, quantised, ordered u0 v0 u1 v1 …, if the flow stream is wanted,
    - `rgb_valid`, `flow_valid`: (T,) bool, True on the steps that count; a video with fewer than T places for a stack
      gives each once, and repeats the last one in the steps after them,
    - `label`: class number, and `index`: place of the video in `records`.

    T, h and w are a stream's own. With `training` the clip is a random one, else the centre clip. With `clips=K` it is
    K deterministic evaluation clips, each in the V views of `augment.views`, and all but label and index have a leading
    dimension K * V, also for one.

    Args:
        records: the videos.
        cache: root of the flow cache.
        entries: index entry of each video, by the video's path.
        config: steps, stack, sizes, augmentation and views.
        streams: what to read; members of the other stream are not touched.
        motion: read the flow around the RGB frames, too.
        window: F, RGB frames at each step.
        training: draw random clips.
        clips: K for multi-clip evaluation, the same for both streams or by stream; None for a single clip without that
            dimension.
        seed: seed of the random clips.
        numbers: a number for each video that seeds its random clips; its place in `records`, counted from 1, if None.
        open_cache: opens a cache file for reading.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        cache: Path | RemotePath,
        entries: Mapping[str, IndexEntry],
        *,
        config: DataConfig = DataConfig(),  # noqa: B008 - a frozen value
        streams: Sequence[StreamName] = STREAMS,
        motion: bool = False,
        window: int = 1,
        training: bool = False,
        clips: int | Mapping[StreamName, int] | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        open_cache: OpenCache = CacheReader,
    ) -> None:
        if training and clips is not None:
            raise ValueError(f"training takes one random clip a video: got clips={clips}, expected None")
        self.records = tuple(records)
        self.config = config
        self.streams = tuple(streams)
        self.motion = motion
        self.window = window
        self.training = training
        self.clips = clips
        self.seed = seed
        self._numbers = range(1, len(self.records) + 1) if numbers is None else [max(n, 1) for n in numbers]
        self._open_cache = open_cache
        self._cache = cache
        self._entries = [entries[record.path] for record in self.records]
        self._runs = [
            runs_inside(entry.runs, record.spans, entry.step)
            for record, entry in zip(self.records, self._entries, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """Read a clip; CacheFileError if its file is missing, damaged or replaced, DataError if it is too short."""
        epoch, index, repeat = ClipKey(*key) if isinstance(key, tuple) else ClipKey(0, key)
        entry, runs = self._entries[index], self._runs[index]
        # Drawn for both streams, so that a clip of one looks the same whether or not the other is read.
        shapes = {name: self.config.clips_of(name)[0] for name in STREAMS}
        augment = self.config.augment
        if self.training:
            # Never zero at the end: seeds are padded with zeros, and [seed, epoch] is the sampler's.
            rng = np.random.default_rng(
                [self.seed, epoch, self._numbers[index], *([repeat] if repeat else [])]
            )
            rgb_starts = random_starts(runs, shapes["rgb"], rng)[None]
            drawn = random_view(entry.height, entry.width, augment, rng)
            views = {name: [drawn] for name in STREAMS}
            same = shapes["flow"] == shapes["rgb"]  # then both look at the same places
            flow_starts = rgb_starts if same else random_starts(runs, shapes["flow"], rng)[None]
        else:
            rgb_starts, flow_starts = (even_starts(runs, shapes[name], self._count(name)) for name in STREAMS)
            count = None if self.clips else 1
            views = {
                name: evaluation_views(entry.height, entry.width, *self.config.views_of(name))[:count]
                for name in STREAMS
            }
        starts: dict[StreamName, Indices] = {"rgb": rgb_starts, "flow": flow_starts}
        packed = {name: without_repeats(starts[name]) for name in self.streams}
        with self._open_cache(self._cache / entry.cache_file) as reader:
            if isinstance(reader, CacheReader):  # nothing takes the place of what is in memory
                entry.require_same(reader)
            decoded = self._decode(reader, {name: begin for name, (begin, _) in packed.items()}, entry, runs)
        clip: Clip = {}
        for name, (_, valid) in packed.items():
            # Clip by clip, all its views: (K V, …)
            parts = [
                {**decoded.view(name, view), f"{name}_valid": torch.from_numpy(valid)} for view in views[name]
            ]
            for kind in parts[0]:
                values = torch.stack([part[kind] for part in parts], dim=1).flatten(0, 1)
                clip[kind] = values if self.clips else values[0]
        clip["label"] = self.records[index].label
        clip["index"] = index
        return clip

    def _count(self, name: StreamName) -> int:
        """Return how many evaluation clips a stream has."""
        if isinstance(self.clips, Mapping):
            return self.clips.get(name, 1)
        return self.clips or 1

    def _decode(
        self,
        reader: ClipReader,
        starts: Mapping[StreamName, Indices],
        entry: IndexEntry,
        runs: Sequence[range],
    ) -> _Decoded:
        """Decode what clips need whose stacks begin at `starts` (K, T), by stream; each member once."""
        shape = {name: self.config.clips_of(name)[0] for name in starts}
        fields = {
            name: stack_fields(begin, shape[name])
            for name, begin in starts.items()
            if name == "flow" or self.motion
        }
        wanted = np.unique(np.concatenate([values.ravel() for values in fields.values()])) if fields else None
        decoded = _Decoded(self.config, entry)
        if wanted is not None:
            decoded.flow = reader.flow(wanted.tolist())
            decoded.fields = {name: np.searchsorted(wanted, values) for name, values in fields.items()}
        if "rgb" in starts:
            middle = middle_frames(starts["rgb"], shape["rgb"], entry.step)
            windows = window_frames(middle, self.window, runs, entry.step)
            frames = np.unique(windows)
            decoded.rgb, decoded.frames = reader.rgb(frames.tolist()), np.searchsorted(frames, windows)
        return decoded


@dataclass
class _Decoded:
    """Members of a cache file, and where clips need them.

    Attributes:
        config: sizes of the network's inputs.
        entry: the video.
        flow: (m, 2, H, W) uint8 fields.
        fields: by stream, places in `flow` of the stacks of K clips of T steps, (K, T, L).
        rgb: (n, H, W, 3) uint8 frames.
        frames: places in `rgb` of the windows, (K, T, F).
    """

    config: DataConfig
    entry: IndexEntry
    flow: Bytes | None = None
    fields: Mapping[StreamName, Indices] = field(default_factory=dict)
    rgb: Bytes | None = None
    frames: Indices | None = None

    def view(self, name: StreamName, view: View) -> dict[str, Tensor]:
        """Look at the clips of one stream in one view."""
        size = self.config.clips_of(name)[1]
        if name == "flow":
            assert self.flow is not None
            used = np.unique(self.fields["flow"])
            moved = apply_view(view, size, flow=self.flow[used])[1]
            assert moved is not None
            return {"flow": _joined(moved[np.searchsorted(used, self.fields["flow"])])}
        assert self.rgb is not None
        assert self.frames is not None
        seen = apply_view(view, size, rgb=self.rgb)[0]
        assert seen is not None
        clip = {"rgb": _joined(seen[self.frames])}
        if "rgb" in self.fields:
            assert self.flow is not None
            stacks = self.flow[self.fields["rgb"]]  # (K, T, L, 2, H, W)
            maps = motion_maps(stacks.reshape(-1, *stacks.shape[2:]), self.entry.bound, view, size)
            clip["motion"] = torch.from_numpy(maps.reshape(*stacks.shape[:2], *maps.shape[1:]))
        return clip


def _joined(images: Bytes) -> Tensor:
    """Join the channels of a step's images: (K, T, n, C, h, w) to (K, T, n C, h, w)."""
    return torch.from_numpy(images.reshape(*images.shape[:2], -1, *images.shape[4:]))
