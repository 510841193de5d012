"""Say what a run would do, how long it would take and how large it would be, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from flow_cache.cache.codecs import encode_flow, encode_rgb
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.writer import MEMBER_OVERHEAD, reserved_bytes
from flow_cache.errors import VideoError
from flow_cache.methods.base import FlowMethod
from flow_cache.methods.device import check_devices
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.inputs import evenly_spread
from flow_cache.pipeline.outcome import Failure
from flow_cache.pipeline.plan import Plan, plan_run
from flow_cache.pipeline.runners.ray_cluster import RayCluster
from flow_cache.pipeline.settings import PrecomputeConfig
from flow_cache.pipeline.worker import Job, frames_of
from flow_cache.quantization import quantize
from flow_cache.runtime import available_cores
from flow_cache.storage.paths import is_local
from flow_cache.video.damage import Damage
from flow_cache.video.frames import Frame, probe_frames
from flow_cache.video.source import local_copy

_MAX_OPENED = 500  # videos that are opened, evenly spread
_MAX_COPIED = 12  # the same for remote videos, which have to be copied first
_SAMPLED = 3  # videos of which flow is computed
_SAMPLED_FIELDS = 12  # of each
_MAX_DECODED = 2000  # frames of a sample that are decoded, to see how wrong the header is


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    Attributes:
        plan: what has to be done.
        opened: videos that were opened to check them and count their frames.
        unreadable: those of them that cannot be opened, or whose first frames cannot be decoded; and videos that
            cannot have a cache file.
        fields, bytes, seconds: estimates; 0 if nothing could be sampled.
        workers: worker processes that the time is estimated for.
        sampled_fields: fields that were computed for this estimate.
    """

    plan: Plan
    opened: int
    unreadable: list[Failure]
    fields: int
    bytes: int
    seconds: float
    workers: int
    sampled_fields: int


@dataclass(frozen=True)
class _Sample:
    """The beginning of a video: its fields, their bytes and seconds, and the frames that were decoded."""

    fields: int
    bytes: int
    seconds: float
    frames: int
    complete: bool  # whether these are all frames of the video


def estimate(
    config: PrecomputeConfig,
    videos: Sequence[str] | None = None,
    *,
    max_opened: int = _MAX_OPENED,
    cluster: type[RayCluster] = RayCluster,
) -> Estimate:
    """Plan a run and estimate it from a few of its videos; nothing is written to the cache folder.

    The headers of the opened videos tell the number of frames; the error of the headers of the sampled videos is
    corrected for, and the other videos are estimated by the size of their files.

    Args:
        config: what to precompute, and how.
        videos: paths relative to the input; None for all that are found.
        max_opened: number of videos that are opened at most (fewer if they are remote).
        cluster: tells how many workers a Ray cluster has room for.

    Raises:
        ArgumentError: as `precompute`.
    """
    plan = plan_run(config, videos)
    template = plan.template
    workers = max(min(_workers(config, plan, cluster), len(plan.jobs)), 1)
    opened = _choose(plan.jobs, max_opened)
    counts, unreadable = _count(opened)
    samples: list[tuple[int, _Sample]] = []
    method: FlowMethod | None = None
    for job, announced in counts:
        if len(samples) == _SAMPLED:
            break
        try:
            if method is None:
                # For a cluster, the best guess is what this machine has.
                if config.ray and config.flow.device != "cpu":
                    device = "auto"
                else:
                    device = (check_devices(config.flow.device) or ["cpu"])[0]
                method = get_method(template.method, device, **template.parameters)
                _sample(job, method, 1)  # compiles the kernels, which a run does only once
            samples.append((announced, _sample(job, method, _SAMPLED_FIELDS)))
        except VideoError as error:
            unreadable.append(Failure(job.video, error.reason_and_frame))
    expected = _fields(counts, samples, template.step)
    if len(plan.jobs) > len(opened):
        size = sum(job.meta.source.bytes for job, _ in counts)
        expected *= sum(job.meta.source.bytes for job in plan.jobs) / max(size, 1)
    fields = round(expected)
    sampled = sum(sample.fields for _, sample in samples)
    read = len(counts) + len(unreadable)
    unreadable += [Failure(video, reason) for video, reason in plan.refused.items()]
    return Estimate(
        plan,
        read,
        unreadable,
        fields,
        round(fields * sum(sample.bytes for _, sample in samples) / max(sampled, 1))
        + sum(reserved_bytes(job.meta) for job in plan.jobs) * (sampled > 0),
        fields * sum(sample.seconds for _, sample in samples) / max(sampled, 1) / workers,
        workers,
        sampled,
    )


def _workers(config: PrecomputeConfig, plan: Plan, cluster: type[RayCluster]) -> int:
    """Return how many worker processes the run would have."""
    if config.ray is None or not plan.jobs:
        return config.workers or available_cores()
    with cluster(
        config.ray, plan.template, plan.output, device=config.flow.device, workers=config.workers
    ) as connected:
        actors, workers = connected.capacity()
    return actors * workers


def _choose(jobs: list[Job], most: int) -> list[Job]:
    """Choose the jobs whose videos are opened, evenly spread."""
    if not all(is_local(job.source) for job in jobs):
        most = min(most, _MAX_COPIED)
    return [jobs[position] for position in evenly_spread(len(jobs), most)]


def _count(jobs: list[Job]) -> tuple[list[tuple[Job, int]], list[Failure]]:
    """Return the number of frames that each video's header announces, and the videos that cannot be opened."""
    counts: list[tuple[Job, int]] = []
    unreadable: list[Failure] = []
    for job in jobs:
        try:
            with local_copy(job.source) as source:
                counts.append((job, probe_frames(source)))
        except VideoError as error:
            unreadable.append(Failure(job.video, error.reason_and_frame))
    return counts, unreadable


def _sample(job: Job, method: FlowMethod, fields: int) -> _Sample:
    """Do what a worker does with the beginning of a video, and count the frames after it."""
    with local_copy(job.source) as source:
        if job.damaged == "fail":
            return _sample_local(job.meta, source, method, fields)
        try:
            return _sample_local(job.meta, source, method, fields, _until_damage)
        except VideoError:
            if job.damaged == "keep-prefix":
                raise
            return _sample_local(job.meta, source, method, fields, damage=Damage())


def _sample_local(
    meta: CacheMeta,
    source: Path,
    method: FlowMethod,
    fields: int,
    chosen: Callable[[Iterator[Frame], int], Iterator[Frame]] = lambda frames, step: frames,
    damage: Damage | None = None,
) -> _Sample:
    """Sample a local copy of a video, of whose frames some are chosen."""
    started = time.perf_counter()
    frames = chosen(frames_of(source, meta, damage), meta.step)
    first = list(islice(frames, fields + meta.step))
    if len(first) <= meta.step:
        raise VideoError(source, f"has {len(first)} frames, step {meta.step} needs {meta.step + 1}")
    flow = quantize(method(np.stack([frame.grey for frame in first]), meta.step), meta.bound)
    encoded = [encode_flow(field.reshape(-1, field.shape[-1]), meta.storage) for field in flow]
    for frame in first[: len(flow)]:
        if frame.rgb is not None and meta.has_rgb:
            encoded.append(encode_rgb(frame.rgb, meta.storage.rgb_quality))
    size = sum(len(image) + MEMBER_OVERHEAD for image in encoded)
    seconds = time.perf_counter() - started
    rest = sum(1 for _ in islice(frames, _MAX_DECODED))
    return _Sample(len(flow), size, seconds, len(first) + rest, rest < _MAX_DECODED)


def _until_damage(frames: Iterator[Frame], step: int) -> Iterator[Frame]:
    """Yield the frames before the damage, as a run that keeps them does; too few for a field are none."""
    count = 0
    try:
        for frame in frames:
            yield frame
            count += 1
    except VideoError:
        if count <= step:
            raise


def _fields(counts: list[tuple[Job, int]], samples: list[tuple[int, _Sample]], step: int) -> float:
    """Estimate the fields of the videos that were opened."""
    if not samples:
        return 0
    known = [(announced, sample.frames) for announced, sample in samples if sample.complete and announced]
    correction = sum(real for _, real in known) / sum(announced for announced, _ in known) if known else 1.0
    return sum(max(announced * correction - step, 0) for _, announced in counts)
