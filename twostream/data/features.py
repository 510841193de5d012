"""Features of frozen CNNs, kept on disk: computed once, they let everything behind the CNN be trained in minutes.

What is kept is what the network would compute: the same clips, drawn, cropped, flipped and coloured by the same code.
A training keeps P passes over its videos, and epoch e sees pass e mod P; where it draws a video again, the next pass.

    <root>/<digest of all that features depend on>/key.json
    <root>/<digest>/<video>.npz        local (K, T, C_l), semantic (K, T, C_s) float16, valid (K, T) bool

K counts passes or clips.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from flow_cache import IndexEntry, Progress
from twostream.data.batches import ClipLoader, ClipSampler, worker_deaths_named
from twostream.data.dataset import Clip, ClipDataset, ClipKey, NamedErrors
from twostream.errors import DataError
from twostream.files import replacing
from twostream.models.stream import Stream
from twostream.models.two_stream import TwoStream
from twostream.settings import StreamName

if TYPE_CHECKING:
    from twostream.data.annotations import VideoRecord

_VERSION = 2  # of what a file holds; since 2, frozen_bfloat16 takes effect
_ARRAYS = ("local", "semantic", "valid")


@dataclass(frozen=True)
class FeatureStore:
    """Features of one stream's clips, a file a video.

    Args:
        root: folder of all features.
        key: everything that they depend on, apart from the video, as plain values.
    """

    root: Path
    key: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the features with this key."""
        return self.root / hashlib.sha256(self._text().encode()).hexdigest()[:16]

    def _text(self) -> str:
        return json.dumps(self.key, indent=1, sort_keys=True)

    def read(self, entry: IndexEntry) -> dict[str, np.ndarray] | None:
        """Read the features of a video; None if there are none of this cache file."""
        try:
            with np.load(self._path(entry)) as file:
                if str(file["source"]) != _identity(entry):
                    return None
                return {name: file[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # missing or damaged: it is computed again

    def write(self, entry: IndexEntry, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the features of a video; the file appears whole or not at all."""
        path = self._path(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (described := self.folder / "key.json").exists():
            described.write_text(self._text(), encoding="utf-8")
        with replacing(path) as partial, Path(partial).open("wb") as file:
            np.savez(file, **{**arrays, "source": np.array(_identity(entry))})  # type: ignore[arg-type]

    def _path(self, entry: IndexEntry) -> Path:
        return self.folder / f"{entry.video}.npz"


def _identity(entry: IndexEntry) -> str:
    """Tell a video's cache file from one that replaced it."""
    return f"{entry.bytes} bytes, {entry.stamp}"


class FeatureDataset(NamedErrors):
    """Clips of a `ClipDataset` in which some streams come as features: `rgb_local`, `rgb_semantic` and `rgb_valid`.

    Args:
        clips: the clips, of the streams that are not kept as features; None if there are no others.
        records: the videos.
        entries: index entry of each.
        stores: where the features are, by stream.
        passes: P in training; None for evaluation clips.
        single: without passes, give the first clip alone, as a `ClipDataset` without `clips` does.
    """

    def __init__(
        self,
        clips: ClipDataset | None,
        records: Sequence[VideoRecord],
        entries: Sequence[IndexEntry],
        stores: Mapping[StreamName, FeatureStore],
        passes: int | None,
        single: bool,
    ) -> None:
        self.records = tuple(records)
        self.training = passes is not None
        self.clips = None if passes or single else 1
        self._clips = clips
        self._entries = list(entries)
        self._stores = dict(stores)
        self._passes = passes
        self._single = single

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        """Read a clip; features that have vanished since the start are an error."""
        epoch, index, repeat = ClipKey(*key) if isinstance(key, tuple) else ClipKey(0, key)
        clip: Clip = (
            {"label": self.records[index].label, "index": index} if self._clips is None else self._clips[key]
        )
        for name, store in self._stores.items():
            arrays = store.read(self._entries[index])
            if arrays is None:
                raise DataError(
                    f"the features of {self._entries[index].video} in {store.folder} have vanished"
                )
            for part, values in arrays.items():
                if self._passes:
                    values = values[(epoch + repeat) % self._passes]
                elif self._single:
                    values = values[0]
                clip[f"{name}_{part}"] = torch.from_numpy(np.ascontiguousarray(values))
        return clip


class _Passes(NamedErrors):
    """All passes over a video at once, in place of the clips of an evaluation."""

    def __init__(self, clips: ClipDataset, wanted: Sequence[int], passes: int | None) -> None:
        self._clips = clips
        self._wanted = list(wanted)
        self._passes = passes
        self.clips = clips.clips

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, key: int | ClipKey) -> Clip:
        index = self._wanted[key[1] if isinstance(key, tuple) else key]
        if self._passes is None:
            return self._clips[index]
        drawn = [self._clips[ClipKey(number, index)] for number in range(self._passes)]
        names = [name for name in drawn[0] if name not in ("label", "index")]
        tensors = {name: torch.stack([torch.as_tensor(clip[name]) for clip in drawn]) for name in names}
        return {**tensors, "label": drawn[0]["label"], "index": index}


def compute_features(
    model: TwoStream,
    name: StreamName,
    clips: ClipDataset,
    entries: Sequence[IndexEntry],
    store: FeatureStore,
    passes: int | None,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Compute the features that a store lacks; safe to be killed at any time, what is there stays.

    Processes that train together share the work: each computes every `world_size`-th video, and must wait for the
    others before it reads.

    Args:
        model: the network, whose CNN of this stream is frozen.
        name: the stream.
        clips: the clips of that stream alone.
        entries: index entry of each of their videos.
        store: where features are kept.
        passes: P in training; None for evaluation clips.
        workers: processes that read clips.
        rank: number of this process among those that train together.
        world_size: how many these are.

    Returns:
        How many videos this process computed.
    """
    # By place among all videos: another process may fill the store while this one looks.
    missing = [
        index
        for index, entry in enumerate(entries)
        if index % world_size == rank and store.read(entry) is None
    ]
    if not missing:
        return 0
    stream = model.stream(name)
    dataset = _Passes(clips, missing, passes)
    loader = ClipLoader(
        dataset, ClipSampler(len(dataset), shuffle=False), batch_size=1, workers=workers, keep=False
    )
    described = f"features of the frozen {name} CNN: "
    of_all = (
        f"{len(entries)} videos"
        if world_size == 1
        else f"{len(entries)} videos, shared by {world_size} processes,"
    )
    print(f"{described}{len(missing)} of {of_all} to compute", flush=True)
    was_training = stream.training
    stream.eval()
    try:
        with worker_deaths_named(), Progress(len(missing), "videos", before=described) as progress:
            for batch in loader:
                store.write(entries[int(batch["index"][0])], _features_of(model, stream, name, batch))
                progress.finished()
    finally:
        stream.train(was_training)
    return len(missing)


@torch.inference_mode()
def _features_of(
    model: TwoStream, stream: Stream, name: StreamName, batch: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    device = next(model.parameters()).device
    clips = {key: values[0].to(device) for key, values in batch.items() if key not in ("label", "index")}
    features = stream.features(clips[name], model.motion(name, clips))
    return {
        "local": features.local.half().cpu().numpy(),
        "semantic": features.semantic.half().cpu().numpy(),
        "valid": clips[f"{name}_valid"].cpu().numpy(),
    }


def describe_stream(model: TwoStream, name: StreamName) -> dict[str, Any]:
    """Describe all of a frozen stream that its features depend on: settings, and a digest of its weights."""
    stream = model.stream(name)
    digest = hashlib.sha256()
    for part in (stream.backbone, stream.spatial):
        for key, values in sorted(part.state_dict().items()):
            digest.update(key.encode())
            digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    config, whole = stream.config, model.config
    return {
        "version": _VERSION,
        "stream": name,
        "backbone": config.backbone,
        # Not "bfloat16" alone: features that an earlier version has kept under that name are of float32.
        "precision": "bfloat16 CNN" if config.frozen_bfloat16 else "float32",
        "levels": config.levels,
        "spatial": config.spatial,
        "weights": digest.hexdigest(),
        "mean": list(stream.backbone.mean),
        "std": list(stream.backbone.std),
        "window": whole.rgb_window,
        "flow": [whole.flow_scale, whole.subtract_mean_flow, whole.subtract_median_flow]
        if name == "flow"
        else None,
    }


def seeds_of(records: Sequence[VideoRecord]) -> list[int]:
    """Return a number for each video that depends on its path alone, so that splits share features."""
    return [crc32(record.path.encode(errors="surrogateescape")) for record in records]


def frozen_streams(model: TwoStream) -> Iterator[StreamName]:
    """Name the streams whose features never change: CNN and attention over space are frozen."""
    for name in model.names:
        config = model.stream(name).config
        if config.freeze_backbone and config.spatial != "attention":
            yield name
