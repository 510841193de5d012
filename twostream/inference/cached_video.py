"""One video with its flow and frames in a temporary cache, to be looked at more than once and however long it is."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flow_cache import (
    CacheMeta,
    FlowMethod,
    IndexEntry,
    Job,
    RemotePath,
    Source,
    as_path,
    cache_path,
    cache_video,
    read_index,
)
from twostream.data.dataset import Clip
from twostream.inference.clips import clips_of_video
from twostream.inference.predictor import Predictor
from twostream.settings import Damaged

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
    storage = replace(predictor.storage, rgb=True)
    meta = predictor.flow.template(storage, predictor.estimator)
    with temporary_cache(as_path(video), meta, predictor.estimator, predictor.damaged) as cached:
        yield cached


@contextlib.contextmanager
def temporary_cache(
    video: Path | RemotePath, meta: CacheMeta, estimator: FlowMethod, damaged: Damaged = "fail"
) -> Iterator[CachedVideo]:
    """Compute a video's flow by an estimator, and keep it as `meta` says until the context ends.

    Raises:
        VideoError: cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="twostream-") as folder:
        cache = Path(folder)
        own = replace(meta, source=Source(_ONLY_VIDEO))
        cache_video(Job(video, cache_path(cache, _ONLY_VIDEO), own, damaged), lambda fields: None, estimator)
        yield CachedVideo(cache, read_index(cache)[0])


def centre_clip(predictor: Predictor, cached: CachedVideo) -> Clip:
    """Read the centre clip, whose steps are spread over the whole video.

    Raises:
        DataError: the video is too short for a clip.
    """
    return clips_of_video(predictor.card, cached.cache, cached.entry)[0]
