"""The ways to get training clips that our loader is compared with: same clips, same views, another source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.cache_stores import Folders, FoldersEveryTime, Levels, Read, Store
from flow_cache import (
    CacheMeta,
    CacheWriter,
    ExportConfig,
    IndexEntry,
    Source,
    StorageSettings,
    export_cache,
    quantize,
    read_frames,
)
from flow_cache.methods.registry import get_method
from flow_cache.quantization import DEFAULT_BOUND
from flow_cache.runtime import opencv
from twostream.data.dataset import Clip, ClipKey
from twostream.data.sampling import middle_frames, random_starts, stack_fields, without_repeats
from twostream.data.settings import DataConfig
from twostream.data.transforms import apply_view, random_view

OURS = "our cache"
TSN = "JPEG folders, as TSN reads"
ONCE = "JPEG folders, each image once"
ON_THE_FLY = "decoded on the fly, flow by Farneback"
DECODED = "decoded on the fly, no flow"
METHOD = "farneback"  # of the cache, too: the quickest that is in use, and what is read must be the same flow


class OnTheFly(Store):
    """Video files `0.avi`, ..., decoded by OpenCV for every clip up to the last frame that it needs.

    Args:
        folder: where the files are.
        flow: compute flow; without it fields show no motion, and the rest is the least that decoding can take.
    """

    def __init__(self, folder: Path, flow: bool) -> None:
        super().__init__(folder)
        self._flow = flow

    def read(self, video: int, fields: Sequence[int], frames: Sequence[int]) -> Read:
        cv2 = opencv()
        wanted = set(frames)
        last = max(*wanted, *(field + 1 for field in fields))
        greys: list[Levels] = []
        colours: dict[int, Levels] = {}
        capture = cv2.VideoCapture(
            str(self.folder / f"{video}.avi"), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]
        )
        for number in range(last + 1):
            more, image = capture.read()
            if not more:
                raise SystemExit(f"{self.folder / f'{video}.avi'} ends before frame {number}")
            if self._flow:
                greys.append(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
            if number in wanted:
                colours[number] = image[..., ::-1]
        capture.release()
        rgb = np.stack([colours[number] for number in frames])
        unique, inverse = np.unique(fields, return_inverse=True)
        if not self._flow:
            return np.full((len(fields), 2, *rgb.shape[1:3]), 128, np.uint8), rgb
        first = int(unique[0])
        flow = quantize(get_method(METHOD, threads=1)(np.stack(greys[first : last + 1])), DEFAULT_BOUND)
        return flow[unique - first][inverse], rgb


class SourceClips(Dataset[Clip]):
    """Training clips as `ClipDataset` draws them, read from another store and varied as those who use it do.

    Args:
        store: where fields and frames come from.
        entries: what the index says of videos 0, 1, ...
        config: steps, stack, size and augmentation.
        every_time: cut and resize each image as often as it occurs in the clip.
        slow: a benchmark should ask for few clips.
    """

    training = True

    def __init__(
        self,
        store: Store,
        entries: Sequence[IndexEntry],
        config: DataConfig,
        *,
        every_time: bool,
        slow: bool = False,
    ) -> None:
        self.slow = slow
        self._store = store
        self._entries = entries
        self._config = config
        self._every_time = every_time

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: ClipKey) -> Clip:
        """Read a clip: `rgb` (T, 3, h, w) and `flow` (T, 2 L, h, w) uint8."""
        epoch, video, _ = key
        entry, (shape, size) = self._entries[video], self._config.clips_of("flow")
        rng = np.random.default_rng([0, epoch, video + 1])
        starts = without_repeats(random_starts(entry.runs, shape, rng)[None])[0][0]
        view = random_view(entry.height, entry.width, self._config.augment, rng)
        fields, frames = stack_fields(starts, shape).ravel(), middle_frames(starts, shape, entry.step)
        places: tuple[slice | np.ndarray, slice | np.ndarray] = (slice(None), slice(None))
        if not self._every_time:
            (fields, of_fields), (frames, of_frames) = (
                np.unique(wanted, return_inverse=True) for wanted in (fields, frames)
            )
            places = (of_fields, of_frames)
        flow, rgb = self._store.read(video, fields.tolist(), frames.tolist())
        seen_rgb, seen_flow = apply_view(view, size, rgb=rgb, flow=flow)
        assert seen_rgb is not None
        assert seen_flow is not None
        stacks = seen_flow[places[0]].reshape(shape.steps, -1, *seen_flow.shape[2:])
        return {
            "rgb": torch.from_numpy(seen_rgb[places[1]]),
            "flow": torch.from_numpy(stacks),
            "label": 0,
            "index": video,
        }


def prepare(videos: Sequence[Path], folder: Path, short_side: int | None = None) -> None:
    """Fill a folder with `videos` named by number, their `cache`, of frames of some size, and the `images` of it."""
    (folder / "videos").mkdir()
    for number, video in enumerate(videos):
        (folder / "videos" / f"{number}.avi").symlink_to(video.resolve())
        frames = list(read_frames(video, short_side=short_side, rgb=True, threads=1))
        flow = get_method(METHOD, threads=1)(np.stack([frame.grey for frame in frames]))
        meta = CacheMeta(Source(f"{number}.avi"), METHOD, storage=StorageSettings(rgb=True))
        with CacheWriter(folder / "cache" / f"{number}.flow.zip", meta) as writer:
            writer.add_flow(quantize(flow, DEFAULT_BOUND))
            writer.add_rgb(np.stack([frame.rgb for frame in frames if frame.rgb is not None]))
    export_cache(ExportConfig(folder / "cache", folder / "images"), progress=False)


def make_sources(folder: Path, entries: Sequence[IndexEntry], config: DataConfig) -> dict[str, SourceClips]:
    """Make the sources that our cache is compared with, from what lies in a folder: `videos` and `images`."""
    images, videos = folder / "images", folder / "videos"
    return {
        TSN: SourceClips(FoldersEveryTime(images), entries, config, every_time=True),
        ONCE: SourceClips(Folders(images), entries, config, every_time=False),
        ON_THE_FLY: SourceClips(OnTheFly(videos, flow=True), entries, config, every_time=False, slow=True),
        DECODED: SourceClips(OnTheFly(videos, flow=False), entries, config, every_time=False),
    }
