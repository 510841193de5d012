"""One video to its cache file, a few frames at a time: memory does not depend on the video's length."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import VideoError
from flow_cache.methods.base import FlowMethod
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.settings import Damaged
from flow_cache.progress import FieldsDone
from flow_cache.video.aspect import as_text
from flow_cache.video.damage import Damage
from flow_cache.video.frames import Frame, probe_header, read_frames
from flow_cache.video.source import hash_source, local_copy

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

# A chunk of frames gives about this many bytes of float flow for each pair that the estimator wants together, or takes
# them as RGB frames where those are larger. Results do not depend on it: pairs are independent.
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """One video to be done.

    Attributes:
        source: the video, a path or a URL.
        target: the cache file.
        meta: what was asked for, with the source's relative path and size.
        damaged: what is done with a damaged video, as in `PrecomputeConfig`.

    Example:
        >>> from flow_cache import CacheMeta, Job, Source, as_path
        >>> meta = CacheMeta(Source("walk/a.avi"), "tvl1")
        >>> Job(as_path("videos/walk/a.avi"), as_path("cache/walk/a.flow.zip"), meta).video
        'walk/a.avi'
    """

    source: AnyPath
    target: AnyPath
    meta: CacheMeta
    damaged: Damaged = "fail"

    @property
    def video(self) -> str:
        """Path of the video relative to the input folder."""
        return self.meta.source.path


class Estimator(Protocol):
    """The part of a `FlowMethod` that `cache_video` uses.

    Attributes:
        backend: what computes the flow, as written in cache files.
        chunk: pairs of a long video that are best given at a time.
    """

    @property
    def backend(self) -> str: ...

    @property
    def chunk(self) -> int: ...

    def quantized(
        self, frames: NDArray[np.uint8], bound: float, step: int = 1
    ) -> tuple[NDArray[np.uint8], int]:
        """Estimate and quantise the flow of a stack, as `FlowMethod.quantized` does."""
        ...


def cache_video(
    job: Job, advance: Callable[[FieldsDone], object], estimator: Estimator | None = None
) -> CacheMeta:
    """Estimate, encode and write the flow of one video; after an exception there is no file.

    Args:
        job: the video, and what is asked for.
        advance: called after each chunk of frames.
        estimator: what estimates the flow; None for the method that the job's meta names, on the CPU.

    Returns:
        What the file says about itself.

    Raises:
        VideoError: the video cannot be read (to its end, unless the job says otherwise), or is too short.
        CacheWriteError: the file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from flow_cache import CacheMeta, Job, Source, as_path, cache_video, get_method
        >>> Path("clip").mkdir()  # a folder of images is a video, too
        >>> for number in range(3):
        ...     _ = Path(f"clip/{number}.pgm").write_bytes(b"P5 16 16 255 " + bytes(256))
        >>> parameters = get_method("farneback").parameters.as_dict()
        >>> job = Job(as_path("clip"), as_path("clip.flow.zip"), CacheMeta(Source("clip"), "farneback", parameters))
        >>> meta = cache_video(job, advance=lambda done: None)
        >>> meta.frames, meta.fields
        (3, 2)
    """
    method = estimator or _on_cpu(job.meta.method, tuple(job.meta.parameters.items()))
    with local_copy(job.source) as source:
        return _cache_local_video(job, source, method, advance)


def frames_of(source: Path, meta: CacheMeta, damage: Damage | None) -> Iterator[Frame]:
    """Read the frames of a local video as its cache file asks for them, by one thread: others read other videos.

    Args:
        source: the video.
        meta: sizes, and whether colours are kept.
        damage: as for `read_frames`.
    """
    return read_frames(
        source,
        short_side=meta.short_side,
        size=meta.size,
        rgb=meta.has_rgb,
        rgb_short_side=meta.storage.own_rgb_side,
        threads=1,
        damage=damage,
    )


def _cache_local_video(
    job: Job, source: Path, method: Estimator | FlowMethod, advance: Callable[[FieldsDone], object]
) -> CacheMeta:
    """Do the job with a local copy of its video."""
    header = probe_header(source)
    meta = replace(
        job.meta,
        fps=header.fps,
        pixel_aspect=as_text(header.pixel_aspect),
        source=replace(job.meta.source, sha256=hash_source(source)),
        backend=method.backend,
    )
    damage = Damage() if job.damaged == "skip-frames" else None
    frames = frames_of(source, meta, damage)
    writer: CacheWriter | None = None
    clipped = values = count = 0
    partial: str | None = None
    clock = _StageClock("decode")
    try:
        try:
            for first, grey, rgb in _chunks(frames, meta.step, method.chunk, source, damage):
                count = first + len(grey)
                if writer is None:  # only now, so that a video without a frame leaves no folder behind
                    writer = CacheWriter(job.target, meta)
                levels: NDArray[np.uint8] | None = None
                if len(grey) > meta.step:  # else a part between two gaps that is too short for a field
                    clock.enter("flow")
                    levels, beyond = method.quantized(np.stack(grey), meta.bound, meta.step)
                    clipped += beyond
                    values += levels.size
                clock.enter("store")
                if rgb:
                    writer.add_rgb(np.stack(rgb))
                if levels is not None:
                    writer.add_flow(levels, first)
                clock.enter("decode")
                advance(FieldsDone(0 if levels is None else len(levels), clock.take()))
        except VideoError as error:
            if writer is None:
                raise
            if job.damaged == "fail":
                raise _with_advice(error, source) from error
            if job.damaged == "skip-frames":
                raise
            partial = error.reason_and_frame
        assert writer is not None, "_chunks yields once or raises"
        if damage is not None and damage.gaps:
            return writer.close(
                clip_fraction=clipped / values, partial=damage.reason, gaps=damage.gaps, frames=count
            )
        return writer.close(clip_fraction=clipped / values, partial=partial)
    finally:
        if writer is not None:
            writer.abort()  # does nothing once it is closed


def _with_advice(error: VideoError, source: Path) -> VideoError:
    """Add to an error what can be done about it; of a folder, the image that is named can be replaced."""
    if source.is_dir():
        return error
    advice = (
        "flow-cache precompute --keep-partial keeps those before it, --damaged skip-frames all good ones; or re-encode "
        "the video"
    )
    return VideoError(error.path, f"{error.reason}; {advice}", error.frame)


@functools.lru_cache(maxsize=1)
def _on_cpu(name: str, parameters: tuple[tuple[str, Any], ...]) -> FlowMethod:
    """Return the estimator; that of the last video again if it is the same, so that a network is loaded once."""
    return get_method(name, **dict(parameters))


class _StageClock:
    """Measures how long each stage takes."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def enter(self, stage: str) -> None:
        """Start a stage, and end the one before."""
        now = time.perf_counter()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def take(self) -> dict[str, float]:
        """Return the seconds of each stage that ended since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def _chunks(
    frames: Iterator[Frame], step: int, pairs: int, path: Path, damage: Damage | None = None
) -> Iterator[tuple[int, list[NDArray[np.uint8]], list[NDArray[np.uint8]]]]:
    """Cut a stream into pieces that overlap by `step` frames, but not across the gaps of a damaged video.

    At a VideoError, the frames before it are yielded first, then the error is raised. Raises VideoError for too few
    frames.

    Yields:
        The index of the first frame, the grey frames, and the RGB of those that no piece before had.
    """
    grey: list[NDArray[np.uint8]] = []
    rgb: list[NDArray[np.uint8]] = []
    length = first = new = longest = 0
    failure: VideoError | None = None
    try:
        for frame in frames:
            if damage is not None and damage.is_after_gap:
                if new:
                    yield first, grey, rgb
                first, grey, rgb, new = frame.index, [], [], 0
            new += 1
            grey.append(frame.grey)
            longest = max(longest, len(grey))
            if frame.rgb is not None:
                rgb.append(frame.rgb)
            pair = max(8 * frame.grey.size, 0 if frame.rgb is None else frame.rgb.nbytes)
            length = length or step + min(max(pairs * _CHUNK_BYTES // pair, 1), pairs)
            if len(grey) == length:
                yield first, grey, rgb
                first, grey, rgb, new = first + length - step, grey[-step:], [], 0
    except VideoError as error:
        failure = error
    if new and longest > step:
        yield first, grey, rgb
    if failure is not None:
        raise failure
    if longest <= step:
        count = first + len(grey)
        parts = f" in parts of at most {longest}" if longest < count else ""
        raise VideoError(path, f"has {count} frame{'s' * (count != 1)}{parts}, step {step} needs {step + 1}")
