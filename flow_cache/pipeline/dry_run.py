"""Say what a run would do, how long it would take and how large it would be, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from flow_cache.pipeline.worker import Job
from flow_cache.quantization import quantize
from flow_cache.runtime import available_cores
from flow_cache.storage.paths import is_local
from flow_cache.video.frames import probe_frames, read_frames
from flow_cache.video.source import local_copy

_OPENED = 500  # videos that are opened at most, evenly spread
_COPIED = 12  # the same of remote ones, which have to be copied for that
_SAMPLED = 3  # videos of which flow is computed
_SAMPLED_FIELDS = 12  # of each
_DECODED = 2000  # frames that are counted at most, to see how far the headers are wrong


@dataclass(frozen=True)
class Estimate:
    """What a run would do. Fields, bytes and seconds are estimated, and 0 where nothing could be sampled."""

    plan: Plan
    opened: int
    """Videos that were opened to check and count."""
    unreadable: list[Failure]
    """Those among them that cannot be opened, or whose first frames cannot be decoded."""
    fields: int
    bytes: int
    seconds: float
    workers: int
    sampled_fields: int
    """Fields that were computed for this estimate."""


@dataclass(frozen=True)
class _Sample:
    fields: int
    bytes: int
    seconds: float
    frames: int
    whole: bool  # whether `frames` is all there are


def estimate(config: PrecomputeConfig, videos: Sequence[str] | None = None) -> Estimate:
    """Plan a run and estimate it from its first videos; the cache folder is not touched.

    Frames are counted by the headers of at most 500 videos, corrected by how far the sampled ones' are wrong, and taken
    to be in proportion to the size of the files. Raises ArgumentError as `precompute` does.
    """
    plan = plan_run(config, videos)
    template = plan.template
    workers = max(min(_workers(config, plan), len(plan.jobs)), 1)
    counts, unreadable = _count(_opened(plan.jobs))
    samples: list[tuple[int, _Sample]] = []
    method: FlowMethod | None = None
    for job, announced in counts:
        if len(samples) == _SAMPLED:
            break
        try:
            if method is None:
                # of a cluster, what this machine has comes nearest
                if config.ray and config.flow.device != "cpu":
                    device = "auto"
                else:
                    device = (check_devices(config.flow.device) or ["cpu"])[0]
                method = get_method(template.method, device, **template.parameters)
                _sample(job, method, 1)  # compiles kernels, which a run does once only
            samples.append((announced, _sample(job, method, _SAMPLED_FIELDS)))
        except VideoError as error:
            unreadable.append(Failure(job.video, error.reason_and_frame))
    fields = _fields(plan.jobs, counts, samples, template.step)
    sampled = sum(sample.fields for _, sample in samples)
    return Estimate(
        plan,
        len(counts) + len(unreadable),
        unreadable,
        fields,
        round(fields * sum(sample.bytes for _, sample in samples) / max(sampled, 1))
        + sum(reserved_bytes(job.meta) for job in plan.jobs) * (sampled > 0),
        fields * sum(sample.seconds for _, sample in samples) / max(sampled, 1) / workers,
        workers,
        sampled,
    )


def _workers(config: PrecomputeConfig, plan: Plan) -> int:
    if config.ray is None or not plan.jobs:
        return config.workers or available_cores()
    with RayCluster(
        config.ray, plan.template, plan.output, device=config.flow.device, workers=config.workers
    ) as cluster:
        actors, workers = cluster.capacity()
    return actors * workers


def _opened(jobs: list[Job]) -> list[Job]:
    """Choose the jobs whose videos are opened, evenly spread."""
    most = _OPENED if all(is_local(job.source) for job in jobs) else _COPIED
    return [jobs[position] for position in evenly_spread(len(jobs), most)]


def _count(jobs: list[Job]) -> tuple[list[tuple[Job, int]], list[Failure]]:
    """Return how many frames each video's header announces, and the videos that cannot be opened."""
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
    """Do what a worker does with the beginning of a video, and count its frames."""
    with local_copy(job.source) as source:
        return _sample_local(job.meta, source, method, fields)


def _sample_local(meta: CacheMeta, source: Path, method: FlowMethod, fields: int) -> _Sample:
    started = time.perf_counter()
    frames = read_frames(source, short_side=meta.short_side, size=meta.size, rgb=meta.has_rgb, threads=1)
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
    rest = sum(1 for _ in islice(frames, _DECODED))
    return _Sample(len(flow), size, seconds, len(first) + rest, rest < _DECODED)


def _fields(
    jobs: list[Job],
    counts: list[tuple[Job, int]],
    samples: list[tuple[int, _Sample]],
    step: int,
) -> int:
    """Estimate the fields of all jobs."""
    if not samples:
        return 0
    known = [(announced, sample.frames) for announced, sample in samples if sample.whole and announced]
    correction = sum(real for _, real in known) / sum(announced for announced, _ in known) if known else 1.0
    fields = sum(max(announced * correction - step, 0) for _, announced in counts)
    if len(jobs) > len(_opened(jobs)):
        opened = sum(job.meta.source.bytes for job, _ in counts)
        fields *= sum(job.meta.source.bytes for job in jobs) / max(opened, 1)
    return round(fields)
