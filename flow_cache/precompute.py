"""The pipeline over a folder of videos: plan, run in worker processes or on a cluster, record failures, index."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_cache.cluster import RayCluster, check_cluster_device
from flow_cache.codecs import CodecSettings
from flow_cache.cores import available_cores
from flow_cache.errors import ArgumentError, CacheWriteError, FlowCacheError
from flow_cache.estimation import check_devices, estimation_services
from flow_cache.in_process import InProcess
from flow_cache.index import refresh_index
from flow_cache.inputs import choose_videos, parse_shard
from flow_cache.meta import CacheMeta, Source, current_versions
from flow_cache.methods import get_method
from flow_cache.places import as_place, is_shared, relative_name, remove
from flow_cache.plan import make_plan
from flow_cache.pool import Runner, WorkerPool
from flow_cache.progress import ProgressLine
from flow_cache.worker import Advance
from flow_cache.writer import probe_writable, remove_stale_temporaries, write_atomically

if TYPE_CHECKING:
    from flow_cache.places import Place

FAILURES_NAME = "failures.csv"


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to precompute, and how."""

    input: str | Path
    """A video file, a folder of videos (searched recursively), a folder of images, a list (.txt, one path a line), or a
    manifest (.csv with a column path or video); a path, or a URL that fsspec knows, such as s3://bucket/videos."""
    output: str | Path
    """The cache folder, a path or a URL; files appear under the videos' relative paths."""
    method: str = "tvl1"
    """Flow estimator: tvl1, farneback or raft."""
    preset: str | None = None
    """Named parameter set of the method; default: its first (tvl1: opencv, opencv-cuda, fast;
    farneback: default, opencv; raft: large, small)."""
    device: str = "cpu"
    """Where flow is computed: cpu; cuda, cuda:N, or several with commas between; auto: a GPU where there is one."""
    short_side: int | None = None
    """Resize so that the shorter side has this many pixels."""
    size: tuple[int, int] | None = None
    """Resize to this width and height, e.g. 340x256."""
    bound: float = 20.0
    """Flow beyond this many pixels per step is clipped."""
    step: int = 1
    """Flow is computed from frame t to frame t + step."""
    codec: str = "jpegls"
    """How fields are stored: jpegls (near-lossless), jpeg or png (lossless)."""
    max_error: int = 1
    """Largest error of jpegls in grey levels; 0 is lossless."""
    quality: int = 95
    """Quality of jpeg fields, 1 to 100."""
    rgb: bool = False
    """Store the RGB frames too, so that training needs nothing but the cache."""
    rgb_quality: int = 90
    """JPEG quality of the RGB frames, 1 to 100."""
    workers: int = 0
    """Worker processes; 0 = one for every core."""
    ray: str | None = None
    """Spread the videos over the Ray cluster at this address (auto, HOST:PORT, or local to start one),
    whose nodes must share the input and the cache folder; workers is then the most in the whole cluster."""
    overwrite: bool = False
    """Redo videos that are in the cache already, whatever their parameters."""
    keep_partial: bool = False
    """Keep the readable beginning of a video that breaks half-way."""
    limit: int | None = None
    """Only the first so many videos."""
    root: str | Path | None = None
    """Folder where the paths of a list or manifest start; default: where it lies."""
    shard: str | None = None
    """Only part i of n, as i/n with i from 1: shards are disjoint, may run at the same time on one cache folder, and
    together do everything."""
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    """Single parameters of the method, which replace the preset's, e.g. `--parameters.warps 3`."""


@dataclass(frozen=True)
class Failure:
    """A video that could not be done, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class PrecomputeSummary:
    """What a run did."""

    done: int
    skipped: int
    """Videos that were in the cache already."""
    failures: list[Failure]
    fields: int
    """Flow fields computed in this run."""
    seconds: float
    output: Place
    partial: int = 0
    """How many of `done` hold only the readable beginning of their video."""
    remaining: int = 0
    """Videos not tried, after an interruption."""


class PrecomputeInterrupted(KeyboardInterrupt):
    """The run was interrupted (Ctrl-C); what is done stays, and the same call goes on from there."""

    def __init__(self, summary: PrecomputeSummary) -> None:
        super().__init__(summary)
        self.summary = summary


def precompute(
    config: PrecomputeConfig, videos: Sequence[str] | None = None, progress: bool = True
) -> PrecomputeSummary:
    """Fill a cache with the flow of many videos; what is there already, whole and of the same make, is kept.

    videos: paths relative to the input, None for all that are found. progress: show a live line on stderr.
    Videos that fail are listed in the summary and in `failures.csv` in the cache folder, and have no cache
    file. Raises ArgumentError or CacheMismatchError before any work, CacheWriteError when the disk refuses,
    and PrecomputeInterrupted on Ctrl-C.
    """
    started = time.monotonic()
    template = make_template(config)
    output = as_place(config.output).absolute()
    root, names = choose_videos(
        config.input, videos=videos, root=config.root, limit=config.limit, shard=config.shard
    )
    prepare_output(output)
    plan = make_plan(
        template, root, names, output,
        overwrite=config.overwrite, keep_partial=config.keep_partial,
    )  # fmt: skip
    plan.check()
    jobs, kept = plan.jobs, len(plan.kept)
    # The longest first, or the last worker may sit on a long one alone.
    jobs.sort(key=lambda job: (-job.meta.source.bytes, job.video))

    failures: list[Failure] = []
    done = fields = partial = 0

    def summary(remaining: int = 0) -> PrecomputeSummary:
        seconds = time.monotonic() - started
        found = sorted(failures, key=lambda failure: failure.video)
        return PrecomputeSummary(done, kept, found, fields, seconds, output, partial, remaining)

    size = sum(job.meta.source.bytes for job in jobs)
    try:
        with (
            _runner(config, template, root, output, len(jobs)) as runner,
            ProgressLine(len(names), size, kept, progress) as line,
        ):
            for event in runner.run(jobs):
                line.crew(*runner.crew)
                if isinstance(event, Advance):
                    line.advance(event)
                    continue
                line.finished(event.job.meta.source.bytes, failed=event.reason is not None)
                if event.reason is None:
                    done += 1
                    fields += event.fields
                    partial += event.partial
                else:
                    # A file from an earlier run would contradict the list of failures.
                    _remove(event.job.target)
                    failures.append(Failure(event.job.video, event.reason))
    except KeyboardInterrupt as interrupt:
        remaining = len(jobs) - done - len(failures)
        record_outcome(output, failures, config.shard)
        raise PrecomputeInterrupted(summary(remaining)) from interrupt
    except FlowCacheError:
        remove_stale_temporaries(output)
        raise
    record_outcome(output, failures, config.shard)
    return summary()


def make_template(config: PrecomputeConfig) -> CacheMeta:
    """Turn the arguments into the meta of every file; raises ArgumentError for the first that is unusable."""
    for name, value, lowest in (("workers", config.workers, 0), ("limit", config.limit, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
            raise ArgumentError(f"{name} must be a whole number of at least {lowest}, got {value!r}")
    reserved = {"preset", "name", "device", "threads"} & set(config.parameters)
    if reserved:
        raise ArgumentError(
            f"parameters cannot hold {', '.join(sorted(reserved))}; it has an argument of its own"
        )
    parameters: dict[str, Any] = dict(config.parameters)
    if config.ray is None:
        check_devices(config.device)
    else:
        check_cluster_device(config.device)
    method = get_method(config.method, preset=config.preset, **parameters)
    # Checked whether it is used or not: a mistake should not wait for the run that adds --rgb.
    codec = CodecSettings(config.codec, config.max_error, config.quality, config.rgb_quality)
    return CacheMeta(
        source=Source(""),
        method=config.method,
        parameters=method.parameters.as_dict(),
        backend=method.backend,
        bound=config.bound,
        step=config.step,
        short_side=config.short_side,
        size=config.size,
        codec=codec if config.rgb else replace(codec, rgb_quality=None),
        versions=current_versions(method.libraries),
    )


@contextlib.contextmanager
def _runner(
    config: PrecomputeConfig, template: CacheMeta, root: Place, output: Place, jobs: int
) -> Iterator[Runner]:
    """Choose who works: a cluster, processes of this machine, or this one. Without jobs nobody is troubled."""
    shared = is_shared(root) and is_shared(output)
    if config.ray is not None and jobs:
        if not shared:
            raise ArgumentError(
                f"{output if is_shared(root) else root} is in this process only, not on the cluster"
            )
        workers = config.workers
        with RayCluster(config.ray, template, output, device=config.device, workers=workers) as cluster:
            yield cluster
        return
    workers = min(config.workers or available_cores(), jobs)
    with (
        estimation_services(template, config.device if jobs else "cpu") as services,
        WorkerPool(workers, services) if shared else InProcess(services) as runner,
    ):
        yield runner


def prepare_output(output: Place) -> None:
    """Make sure that the cache folder can be written, and clear away what dead runs left."""
    try:
        probe_writable(output)
    except CacheWriteError as error:
        raise ArgumentError(str(error)) from error
    remove_stale_temporaries(output)


def failures_name(shard: str | None = None) -> str:
    """Return the name of the list of failures, which is each shard's own."""
    if shard is None:
        return FAILURES_NAME
    number, count = parse_shard(shard)
    return f"failures.{number}-of-{count}.csv"


def record_outcome(output: Place, failures: list[Failure], shard: str | None = None) -> None:
    """Write the index and the list of failures, which damaged files of other videos join."""
    remove_stale_temporaries(output)  # of workers that died
    damaged = refresh_index(output)
    failures += [Failure(relative_name(error.path, output), error.reason) for error in damaged]
    if shard is None:  # this run has tried again what failed in earlier shards
        for path in output.glob("failures.*-of-*.csv"):
            _remove(path)
    path = output / failures_name(shard)
    if not failures:
        _remove(path)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "reason"])
    writer.writerows((failure.video, failure.reason) for failure in sorted(failures, key=lambda f: f.video))
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _remove(path: Place) -> None:
    try:
        remove(path)
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error
