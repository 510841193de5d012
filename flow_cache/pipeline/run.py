"""A run over many videos: plan, work in processes of this machine or on a cluster, record what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flow_cache.errors import ArgumentError, CacheWriteError, FlowCacheError
from flow_cache.pipeline.outcome import (
    Failure,
    PrecomputeInterrupted,
    PrecomputeSummary,
    record_outcome,
    remove_file,
)
from flow_cache.pipeline.plan import Plan, plan_run
from flow_cache.pipeline.runners.base import Runner
from flow_cache.pipeline.runners.gpu_service import estimation_services
from flow_cache.pipeline.runners.pool import WorkerPool
from flow_cache.pipeline.runners.ray_cluster import RayCluster
from flow_cache.pipeline.settings import PrecomputeConfig
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.runtime import available_cores
from flow_cache.storage.atomic import probe_writable, remove_stale_temporaries
from flow_cache.storage.paths import is_shared

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath


def precompute(
    config: PrecomputeConfig, videos: Sequence[str] | None = None, progress: bool = True
) -> PrecomputeSummary:
    """Fill a cache with the flow of many videos; what is there already, whole and made alike, is kept.

    Videos that fail are listed in the summary and in `failures.csv` in the cache folder, and have no cache file.

    Args:
        config: what to precompute, and how.
        videos: paths relative to the input; None for all that are found.
        progress: show a live line on stderr.

    Raises:
        ArgumentError, CacheMismatchError: before any work.
        CacheWriteError: the disk refuses.
        PrecomputeInterrupted: on Ctrl-C; the same call goes on from there.
    """
    started = time.monotonic()
    plan = plan_run(config, videos, prepare=_prepare_run)
    plan.check()
    output = plan.output
    # The longest first, or the last worker may sit on a long one alone.
    jobs = sorted(plan.jobs, key=lambda job: (-job.meta.source.bytes, job.video))

    failures: list[Failure] = []
    done = fields = partial = 0

    def summary(remaining: int = 0) -> PrecomputeSummary:
        seconds = time.monotonic() - started
        found = sorted(failures, key=lambda failure: failure.video)
        return PrecomputeSummary(done, len(plan.kept), found, fields, seconds, output, partial, remaining)

    videos_in_all = len(jobs) + len(plan.kept)
    size = sum(job.meta.source.bytes for job in jobs)
    try:
        with (
            start_runner(config, plan) as runner,
            ProgressLine(videos_in_all, size, len(plan.kept), progress) as line,
        ):
            for event in runner.run(jobs):
                line.set_workers(*runner.workers_and_nodes)
                if isinstance(event, FieldsDone):
                    line.advance(event)
                    continue
                line.finished(event.job.meta.source.bytes, failed=event.reason is not None)
                if event.reason is None:
                    done += 1
                    fields += event.fields
                    partial += event.partial
                else:
                    # A file from an earlier run would contradict the list of failures.
                    remove_file(event.job.target)
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


@contextlib.contextmanager
def start_runner(config: PrecomputeConfig, plan: Plan) -> Iterator[Runner]:
    """Choose who works: the nodes of a cluster, or processes of this machine. Without jobs nothing is started."""
    jobs, flow = len(plan.jobs), config.flow
    if config.ray is not None and jobs:
        with RayCluster(
            config.ray, plan.template, plan.output, device=flow.device, workers=config.workers
        ) as cluster:
            yield cluster
        return
    workers = min(config.workers or available_cores(), jobs)
    with (
        estimation_services(plan.template, flow.device if jobs else "cpu") as services,
        WorkerPool(workers, services) as pool,
    ):
        yield pool


def _prepare_run(root: AnyPath, output: AnyPath) -> None:
    for path in (root, output):
        if not is_shared(path):
            raise ArgumentError(
                f"{path} is in this process only, and the processes that work on the videos cannot see it; use a local "
                "folder, or a storage such as s3://"
            )
    prepare_output(output)


def prepare_output(output: AnyPath) -> None:
    """Make sure that the cache folder can be written, and clear away what dead runs left; raises ArgumentError."""
    try:
        probe_writable(output)
    except CacheWriteError as error:
        raise ArgumentError(str(error)) from error
    remove_stale_temporaries(output)
