"""One video with its flow and frames in a temporary cache, to be looked at more than once and however long it is."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flow_cache import IndexEntry, Job, RemotePath, Source, as_path, cache_path, cache_video, read_index
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import Clip, ClipDataset
from twostream.inference.predictor import Predictor

_ONLY_VIDEO = "video"  # what every video is called in its temporary cache


@dataclass(frozen=True)
class CachedVideo:
    """A video whose flow and frames lie in a temporary cache.

    Attributes:
        cache: root of the cache.
        entry: the only row of its index.
    """

    cache: Path
    entry: IndexEntry


@contextlib.contextmanager
def cached_video(predictor: Predictor, video: str | Path | RemotePath) -> Iterator[CachedVideo]:
    """Compute a video's flow as the predictor does, and keep it with the frames until the context ends.

    Raises:
        VideoError: cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="twostream-") as folder:
        cache = Path(folder)
        storage = replace(predictor.storage, rgb=True)
        meta = replace(predictor.flow.template(storage, predictor.estimator), source=Source(_ONLY_VIDEO))
        job = Job(as_path(video), cache_path(cache, _ONLY_VIDEO), meta, predictor.damaged)
        cache_video(job, lambda fields: None, predictor.estimator)
        yield CachedVideo(cache, read_index(cache)[0])


def centre_clip(predictor: Predictor, cached: CachedVideo) -> Clip:
    """Read the centre clip, whose steps are spread over the whole video.

    Raises:
        DataError: the video is too short for a clip.
    """
    return ClipDataset(
        [VideoRecord(cached.entry.video, 0, "")],
        cached.cache,
        {cached.entry.video: cached.entry},
        config=predictor.data,
        streams=predictor.model.names,
        motion=predictor.card.model.needs_motion,
        window=predictor.card.model.rgb_window,
    )[0]
