"""The pipeline over a folder of videos: plan, run in worker processes, record failures, index."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from flow_cache.codecs import CodecSettings
from flow_cache.container import CacheReader, cache_path
from flow_cache.cores import available_cores
from flow_cache.device import check_device
from flow_cache.errors import (
    ArgumentError,
    CacheFileError,
    CacheMismatchError,
    CacheWriteError,
    FlowCacheError,
    LostDeviceError,
)
from flow_cache.estimation import EstimationProcess, Service
from flow_cache.frames import find_videos, is_image_folder
from flow_cache.index import cache_files, scan_cache, write_index
from flow_cache.meta import CacheMeta, Source, current_versions
from flow_cache.methods import get_method
from flow_cache.pool import WorkerPool
from flow_cache.progress import ProgressLine
from flow_cache.worker import Advance, Job, source_bytes
from flow_cache.writer import probe_writable, remove_stale_temporaries, write_atomically

FAILURES_NAME = "failures.csv"


@dataclass(frozen=True)
class PrecomputeConfig:
    """What to precompute, and how."""

    input: str | Path
    """A video file, a folder of videos (searched recursively), or a folder of images."""
    output: str | Path
    """The cache folder; files appear under the videos' relative paths."""
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
    overwrite: bool = False
    """Redo videos that are in the cache already, whatever their parameters."""
    keep_partial: bool = False
    """Keep the readable beginning of a video that breaks half-way."""
    limit: int | None = None
    """Only the first so many videos."""
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
    output: Path
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
    template = _template(config)
    output = Path(config.output).absolute()
    root, names = _choose(config, videos)
    _prepare(output)
    jobs, kept = _plan(config, template, root, names, output)
    # The longest first, or the last worker may sit on a long one alone.
    jobs.sort(key=lambda job: (-job.meta.source.bytes, job.video))

    failures: list[Failure] = []
    done = fields = partial = 0

    def summary(remaining: int = 0) -> PrecomputeSummary:
        seconds = time.monotonic() - started
        found = sorted(failures, key=lambda failure: failure.video)
        return PrecomputeSummary(done, kept, found, fields, seconds, output, partial, remaining)

    workers = min(config.workers or available_cores(), len(jobs))
    size = sum(job.meta.source.bytes for job in jobs)
    try:
        with (
            _services(template, config.device if jobs else "cpu") as services,
            ProgressLine(len(names), size, kept, progress, workers) as line,
            WorkerPool(workers, services) as pool,
        ):
            for event in pool.run(jobs):
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
        _record(output, failures)
        raise PrecomputeInterrupted(summary(remaining)) from interrupt
    except FlowCacheError:
        remove_stale_temporaries(output)
        raise
    _record(output, failures)
    return summary()


def _template(config: PrecomputeConfig) -> CacheMeta:
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
    _devices(config.device)
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


def _devices(names: str) -> list[str]:
    """Split names of devices; the CPU is none, since workers use it themselves."""
    if names == "cpu":
        return []
    devices = [check_device(name.strip()) for name in names.split(",")]
    unusable = {"cpu", "auto"} & set(devices) if len(devices) > 1 else None
    if unusable or len({name.replace("cuda:0", "cuda") for name in devices}) < len(devices):
        raise ArgumentError(f"several devices must be different GPUs, e.g. cuda:0,cuda:1, got {names!r}")
    return devices


@contextmanager
def _services(template: CacheMeta, devices: str) -> Iterator[list[Service]]:
    """Start a process for each GPU; none where `auto` finds no GPU. Says why one has ended if the work ends by that."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(EstimationProcess(template.method, device, dict(template.parameters)))
            for device in _devices(devices)
        ]
        try:
            yield [process.service for process in processes if process.service.on_gpu]
        except LostDeviceError as error:
            ended = [f"{process.device} ({process.failure})" for process in processes if process.failure]
            raise LostDeviceError(
                f"{error}: {', '.join(ended) or 'its pipe was closed'}; what is done is kept, and the same command "
                "goes on from there"
            ) from error


def _choose(config: PrecomputeConfig, videos: Sequence[str] | None) -> tuple[Path, list[str]]:
    """Return the folder that relative paths start from, and those of the videos."""
    source = Path(os.path.normpath(Path(config.input).absolute()))  # `.` has no name
    if not source.exists():
        raise ArgumentError(f"{config.input}: no such file or folder")
    root = source if source.is_dir() and not is_image_folder(source) else source.parent
    if videos is None:
        names = [path.relative_to(root).as_posix() for path in find_videos(source)]
        if not names:
            raise ArgumentError(
                f"{config.input}: no videos found (neither video files nor folders of images)"
            )
    else:
        names = [PurePosixPath(name).as_posix() for name in dict.fromkeys(videos)]
        if not names:
            raise ArgumentError("the list of videos is empty")
    names = names[: config.limit]
    owner: dict[Path, str] = {}
    for name in names:
        target = cache_path("", name)
        if target in owner:
            raise ArgumentError(
                f"{owner[target]} and {name} would share the cache file {target.as_posix()}; rename one"
            )
        owner[target] = name
    return root, names


def _prepare(output: Path) -> None:
    """Make sure that the cache folder can be written, and clear away what dead runs left."""
    try:
        probe_writable(output)
    except CacheWriteError as error:
        raise ArgumentError(str(error)) from error
    remove_stale_temporaries(output)


def _plan(
    config: PrecomputeConfig, template: CacheMeta, root: Path, names: list[str], output: Path
) -> tuple[list[Job], int]:
    """Decide what has to be done; returns the jobs and how many videos are kept.

    Raises CacheMismatchError when the cache holds files of another make: those of the videos asked for unless
    `overwrite` is set, and others in any case, since they could not be redone.
    """
    present = cache_files(output)
    jobs: list[Job] = []
    kept = 0
    mismatches: list[str] = []
    for name in names:
        target = cache_path(output, name)
        if not target.parent.resolve().is_relative_to(output.resolve()):
            raise ArgumentError(f"{target}: a link leads out of the cache folder")
        asked = replace(template, source=Source(name, source_bytes(root / name)))
        found = _meta(present.pop(target.relative_to(output).as_posix(), None))
        if found is not None and not config.overwrite:
            difference = found.difference(asked)
            if difference is not None:
                mismatches.append(f"{target.relative_to(output).as_posix()} has {difference}")
                continue
            if found.source.bytes == asked.source.bytes and (found.partial is None or config.keep_partial):
                kept += 1
                continue
        jobs.append(Job(root / name, target, asked, config.keep_partial))
    if mismatches:
        others = f" (and {len(mismatches) - 1} more files)" if len(mismatches) > 1 else ""
        raise CacheMismatchError(
            f"{output} was made with other parameters: {mismatches[0]}{others}; "
            "use --overwrite to redo them, or another output folder"
        )
    for name, path in present.items():
        found = _meta(path)
        difference = found.difference(replace(template, source=found.source)) if found is not None else None
        if difference is not None:
            raise CacheMismatchError(
                f"{output} holds other videos made with other parameters: {name} has {difference}; "
                "use another output folder"
            )
    return jobs, kept


def _meta(path: Path | None) -> CacheMeta | None:
    """Read the meta of an existing cache file; None if there is none, or it is damaged and must be redone."""
    if path is None:
        return None
    try:
        with CacheReader(path) as reader:
            return reader.meta
    except CacheFileError:
        return None


def _record(output: Path, failures: list[Failure]) -> None:
    """Write the index and the list of failures, which damaged files of other videos join."""
    remove_stale_temporaries(output)  # of workers that died
    entries, damaged = scan_cache(output)
    failures += [Failure(error.path.relative_to(output).as_posix(), error.reason) for error in damaged]
    write_index(output, entries)
    path = output / FAILURES_NAME
    if not failures:
        _remove(path)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "reason"])
    writer.writerows((failure.video, failure.reason) for failure in sorted(failures, key=lambda f: f.video))
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error
