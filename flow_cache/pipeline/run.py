"""A run over many videos: plan it, work in processes of this machine or on a cluster, record the result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import ArgumentError, CacheFileError, CacheWriteError, FlowCacheError
from flow_cache.pipeline.outcome import (
    Failure,
    PrecomputeInterrupted,
    PrecomputeSummary,
    record_outcome,
    remove_file,
)
from flow_cache.pipeline.plan import Copy, Plan, plan_run
from flow_cache.pipeline.runners.base import Runner
from flow_cache.pipeline.runners.gpu_service import EstimationProcess, estimation_services
from flow_cache.pipeline.runners.pool import WorkerPool
from flow_cache.pipeline.runners.ray_cluster import RayCluster
from flow_cache.pipeline.settings import PrecomputeConfig
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.runtime import available_cores
from flow_cache.storage.atomic import probe_writable, remove_stale_temporaries
from flow_cache.storage.paths import is_shared

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath


@contextlib.contextmanager
def start_runner(
    config: PrecomputeConfig,
    plan: Plan,
    *,
    start_process: Callable[[str, str, dict[str, Any]], EstimationProcess] = EstimationProcess,
    cluster: type[RayCluster] = RayCluster,
) -> Iterator[Runner]:
    """Start what works on the jobs: the nodes of a cluster, or processes of this machine; nothing without jobs.

    Args:
        config: what to precompute, and how.
        plan: what has to be done.
        start_process: starts the process of a GPU: (method, device, parameters).
        cluster: what runs jobs on the nodes of a Ray cluster.
    """
    jobs, flow = len(plan.jobs), config.flow
    if config.ray is not None and jobs:
        with cluster(
            config.ray, plan.template, plan.output, device=flow.device, workers=config.workers
        ) as runner:
            yield runner
        return
    workers = min(config.workers or available_cores(), jobs)
    with (
        estimation_services(plan.template, flow.device if jobs else "cpu", start_process) as services,
        WorkerPool(workers, services) as pool,
    ):
        yield pool


def precompute(
    config: PrecomputeConfig,
    videos: Sequence[str] | None = None,
    progress: bool = True,
    *,
    start_runner: Callable[[PrecomputeConfig, Plan], AbstractContextManager[Runner]] = start_runner,
) -> PrecomputeSummary:
    """Fill a cache with the flow of many videos; complete cache files with the same settings are kept.

    Videos that fail are listed in the summary and in `failures.csv` in the cache folder, and have no cache file.

    Args:
        config: what to precompute, and how.
        videos: paths relative to the input; None for all that are found.
        progress: show a live line on stderr.
        start_runner: returns what works on the jobs of a plan, a context manager; default: processes of this machine,
            or the nodes of the cluster that the config names.

    Returns:
        What was done.

    Raises:
        ArgumentError, CacheMismatchError: before any work.
        CacheWriteError: the disk refuses.
        PrecomputeInterrupted: on Ctrl-C, and on SIGTERM inside `interruptible`; the same call continues from there.

    Example:
        A script that calls it must do so under `if __name__ == "__main__":`, because it starts processes.

        >>> from flow_cache import FlowSettings, PrecomputeConfig, precompute
        >>> config = PrecomputeConfig("videos", "cache", FlowSettings("tvl1", short_side=256))
        >>> summary = precompute(config)  # doctest: +SKIP
        >>> print(summary.done, "done,", len(summary.failures), "failed")  # doctest: +SKIP
        1200 done, 0 failed
    """
    started = time.monotonic()
    plan = plan_run(config, videos, prepare=_prepare_folders)
    plan.check()
    output = plan.output
    # The longest first: otherwise one worker may still be busy with a long video when all others are idle.
    jobs = sorted(plan.jobs, key=lambda job: (-job.meta.source.bytes, job.video))

    failures = [Failure(video, reason) for video, reason in plan.refused.items()]
    stamps = {video: plan.stamps[video] for video in plan.kept}
    done = fields = partial = 0
    parts = {**plan.partial}

    def summary(remaining: int = 0) -> PrecomputeSummary:
        """Return what was done until now."""
        seconds = time.monotonic() - started
        found = sorted(failures, key=lambda failure: failure.video)
        return PrecomputeSummary(
            done,
            len(plan.kept),
            found,
            fields,
            seconds,
            output,
            partial,
            remaining,
            plan.notes,
            dict(sorted(parts.items())),
        )

    videos_in_all = len(jobs) + len(plan.copies) + len(plan.kept)
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
                    stamps[event.job.video] = plan.stamps[event.job.video]
                    fields += event.fields
                    if event.partial is not None:
                        partial += 1
                        parts[event.job.video] = event.partial
                else:
                    # The video is in the list of failures: no file of an earlier run may remain.
                    remove_file(event.job.target)
                    failures.append(Failure(event.job.video, event.reason))
            failed = {failure.video for failure in failures}
            for copy in plan.copies:
                reason = (
                    f"is the same file as {copy.of}, which failed"
                    if copy.of in failed
                    else _copy(copy, output)
                )
                line.finished(0, failed=reason is not None)
                if reason is None:
                    done += 1
                    stamps[copy.job.video] = plan.stamps[copy.job.video]
                    if copy.of in parts:
                        partial += 1
                        parts[copy.job.video] = parts[copy.of]
                else:
                    remove_file(copy.job.target)
                    failures.append(Failure(copy.job.video, reason))
    except KeyboardInterrupt as interrupt:
        remaining = len(jobs) + len(plan.copies) - done - (len(failures) - len(plan.refused))
        record_outcome(output, failures, config.shard, stamps)
        raise PrecomputeInterrupted(summary(remaining)) from interrupt
    except FlowCacheError:
        remove_stale_temporaries(output)
        raise
    record_outcome(output, failures, config.shard, stamps)
    return summary()


def _copy(copy: Copy, output: AnyPath) -> str | None:
    """Write the cache file of a video that is the same file as another one; returns why not, if that one is damaged."""
    try:
        with CacheReader(cache_path(output, copy.of)) as reader:
            CacheWriter.copy(reader, copy.job.target, copy.job.video)
    except CacheFileError as error:
        return f"is the same file as {copy.of}, whose cache file cannot be read ({error.reason_and_member})"
    return None


def _prepare_folders(root: AnyPath, output: AnyPath) -> None:
    """Refuse folders that worker processes cannot see, then prepare that of the cache."""
    for path in (root, output):
        if not is_shared(path):
            raise ArgumentError(
                f"{path} is in the memory of this process, and the processes that work on the videos cannot see it; "
                "use a local folder, or a storage such as s3://"
            )
    prepare_output(output)


def prepare_output(output: AnyPath) -> None:
    """Check that the cache folder can be written, and remove the temporary files of dead runs.

    Raises:
        ArgumentError: it cannot be written.
    """
    try:
        probe_writable(output)
    except CacheWriteError as error:
        raise ArgumentError(str(error)) from error
    remove_stale_temporaries(output)
