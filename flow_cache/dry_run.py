"""Say what a run would do, how long it would take and how large it would be, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from flow_cache.cluster import RayCluster
from flow_cache.codecs import encode_flow, encode_rgb
from flow_cache.cores import available_cores
from flow_cache.errors import VideoError
from flow_cache.estimation import check_devices
from flow_cache.frames import probe_frames, read_frames
from flow_cache.inputs import choose_videos
from flow_cache.meta import CacheMeta
from flow_cache.methods import FlowMethod, get_method
from flow_cache.places import as_place, is_local
from flow_cache.plan import Plan, make_plan
from flow_cache.precompute import Failure, PrecomputeConfig, make_template
from flow_cache.progress import format_seconds
from flow_cache.quantize import quantize
from flow_cache.worker import Job, readable, reason_of
from flow_cache.writer import MEMBER_OVERHEAD, reserved_bytes

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
    template = make_template(config)
    root, names = choose_videos(
        config.input, videos=videos, root=config.root, limit=config.limit, shard=config.shard
    )
    plan = make_plan(
        template, root, names, as_place(config.output).absolute(),
        overwrite=config.overwrite, keep_partial=config.keep_partial,
    )  # fmt: skip
    workers = max(min(_workers(config, template, plan), len(plan.jobs)), 1)
    counts, unreadable = _count(_spread(plan.jobs))
    samples: list[tuple[int, _Sample]] = []
    method: FlowMethod | None = None
    for job, announced in counts:
        if len(samples) == _SAMPLED:
            break
        try:
            if method is None:
                # of a cluster, what this machine has comes nearest
                device = (
                    "auto"
                    if config.ray and config.device != "cpu"
                    else (check_devices(config.device) or ["cpu"])[0]
                )
                method = get_method(template.method, device, **template.parameters)
                _sample(job, method, 1)  # compiles kernels, which a run does once only
            samples.append((announced, _sample(job, method, _SAMPLED_FIELDS)))
        except VideoError as error:
            unreadable.append(Failure(job.video, reason_of(error)))
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


def _workers(config: PrecomputeConfig, template: CacheMeta, plan: Plan) -> int:
    if config.ray is None or not plan.jobs:
        return config.workers or available_cores()
    with RayCluster(
        config.ray, template, plan.output, device=config.device, workers=config.workers
    ) as cluster:
        actors, workers = cluster.capacity()
    return actors * workers


def print_estimate(found: Estimate) -> None:
    """Print an estimate for people."""
    from rich.console import Console
    from rich.table import Table

    plan = found.plan
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    opened = f" (of {found.opened:,} opened)" if found.opened < len(plan.jobs) else ""
    per_field = f", {found.bytes / found.fields / 1e3:,.1f} kB a field" if found.fields else ""
    for name, value in (
        ("new videos", f"{len(plan.new):,}"),
        ("kept from before", f"{len(plan.kept):,}"),
        ("to be redone", f"{len(plan.redone):,}"),
        ("made otherwise", f"{len(plan.mismatches) + len(plan.others):,}"),
        ("cannot be read", f"{len(found.unreadable):,}{opened}"),
        ("flow fields", f"about {found.fields:,}"),
        ("size", f"about {found.bytes / 1e6:,.1f} MB{per_field}"),
        ("time", f"about {format_seconds(found.seconds)} with {found.workers} worker processes"),
        ("estimated from", f"{found.sampled_fields} fields"),
        ("cache", f"{plan.output} (nothing was written)"),
    ):
        table.add_row(name, value)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for failure in found.unreadable[:20]:
        console.print(f"cannot be read: {failure.video}: {failure.reason}")
    for video, reason in list(plan.redone.items())[:20]:
        console.print(f"to be redone: {video}: {reason}")


def _spread(jobs: list[Job]) -> list[Job]:
    most = _OPENED if all(is_local(job.source) for job in jobs) else _COPIED
    if len(jobs) <= most:
        return jobs
    return [jobs[place] for place in np.linspace(0, len(jobs) - 1, most).round().astype(int)]


def _count(jobs: list[Job]) -> tuple[list[tuple[Job, int]], list[Failure]]:
    """Return how many frames each video's header announces, and the videos that cannot be opened."""
    counts: list[tuple[Job, int]] = []
    unreadable: list[Failure] = []
    for job in jobs:
        try:
            with readable(job.source) as source:
                counts.append((job, probe_frames(source)))
        except VideoError as error:
            unreadable.append(Failure(job.video, reason_of(error)))
    return counts, unreadable


def _sample(job: Job, method: FlowMethod, fields: int) -> _Sample:
    """Do what a worker does with the beginning of a video, and count its frames."""
    with readable(job.source) as source:
        return _sample_local(job.meta, source, method, fields)


def _sample_local(meta: CacheMeta, source: Path, method: FlowMethod, fields: int) -> _Sample:
    started = time.perf_counter()
    frames = read_frames(source, short_side=meta.short_side, size=meta.size, rgb=meta.has_rgb, threads=1)
    first = list(islice(frames, fields + meta.step))
    if len(first) <= meta.step:
        raise VideoError(source, f"has {len(first)} frames, step {meta.step} needs {meta.step + 1}")
    flow = quantize(method(np.stack([frame.grey for frame in first]), meta.step), meta.bound)
    encoded = [encode_flow(field.reshape(-1, field.shape[-1]), meta.codec) for field in flow]
    for frame in first[: len(flow)]:
        if frame.rgb is not None and meta.codec.rgb_quality is not None:
            encoded.append(encode_rgb(frame.rgb, meta.codec.rgb_quality))
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
    if len(jobs) > len(_spread(jobs)):
        opened = sum(job.meta.source.bytes for job, _ in counts)
        fields *= sum(job.meta.source.bytes for job in jobs) / max(opened, 1)
    return round(fields)
