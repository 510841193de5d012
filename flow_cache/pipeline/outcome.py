"""The result of a run: its summary, the videos that failed and why, and `failures.csv`."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flow_cache.cache.index import refresh_index
from flow_cache.cache.naming import cache_path
from flow_cache.errors import CacheWriteError
from flow_cache.pipeline.inputs import parse_shard
from flow_cache.storage.atomic import remove_stale_temporaries, write_atomically
from flow_cache.storage.paths import as_path, relative_name
from flow_cache.storage.table import csv_bytes

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

FAILURES_NAME = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """A video that could not be done, and why.

    Attributes:
        video: path relative to the input folder; of a damaged cache file of another video, the file's own.
        reason: why, in one line.

    Example:
        >>> from flow_cache import Failure
        >>> Failure("walk/a.avi", "has 1 frame, step 1 needs 2").video
        'walk/a.avi'
    """

    video: str
    reason: str


@dataclass(frozen=True)
class PrecomputeSummary:
    """What a run did.

    Attributes:
        done: videos that were done in this run.
        skipped: videos that were in the cache already.
        failures: videos that failed, and why.
        fields: flow fields computed, or recoded, in this run.
        seconds: how long it took.
        output: the cache folder.
        partial: how many of `done` hold only a part of their video.
        remaining: videos not tried, after an interruption.
        notes: what else there is to say, such as what the search for videos left out, a line each.
        parts: the videos in the cache of which only a part is there, those kept from before too, and why.

    Example:
        >>> from flow_cache import Failure, PrecomputeSummary
        >>> failures = [Failure("a.avi", "no such file")]
        >>> summary = PrecomputeSummary(3, 0, failures, fields=120, seconds=8.0, output="cache")
        >>> f"{summary.fields / summary.seconds} pairs/s, {len(summary.failures)} failed"
        '15.0 pairs/s, 1 failed'
    """

    done: int
    skipped: int
    failures: list[Failure]
    fields: int
    seconds: float
    output: AnyPath
    partial: int = 0
    remaining: int = 0
    notes: Sequence[str] = ()
    parts: Mapping[str, str] = field(default_factory=dict)


class PrecomputeInterrupted(KeyboardInterrupt):
    """The run was interrupted (Ctrl-C, SIGTERM); the videos that are done stay, and the same call continues from there.

    Its text is for the user of a command.

    Attributes:
        summary: what the run did until then.

    Example:
        >>> from flow_cache import PrecomputeInterrupted, PrecomputeSummary
        >>> try:
        ...     raise PrecomputeInterrupted(PrecomputeSummary(3, 0, [], 120, 8.0, "cache", remaining=5))
        ... except PrecomputeInterrupted as interrupt:
        ...     print(interrupt)
        interrupted: 3 videos are done, 0 failed, 5 remain; the same command goes on from here
    """

    def __init__(self, summary: PrecomputeSummary) -> None:
        super().__init__(summary)
        self.summary = summary

    def __str__(self) -> str:
        done, failed = self.summary.done + self.summary.skipped, len(self.summary.failures)
        counts = f"{done} videos are done, {failed} failed, {self.summary.remaining} remain"
        return f"interrupted: {counts}; the same command goes on from here"


def failures_name(shard: str | None = None) -> str:
    """Return the name of the list of failures; each shard has its own."""
    if shard is None:
        return FAILURES_NAME
    number, count = parse_shard(shard)
    return f"failures.{number}-of-{count}.csv"


def record_outcome(
    output: AnyPath,
    failures: list[Failure],
    shard: str | None = None,
    source_stamps: Mapping[str, str] | None = None,
) -> None:
    """Write the index and the list of failures.

    Args:
        output: the cache folder.
        failures: videos that failed; damaged cache files of other videos are appended.
        shard: the part that was run, i/n, if only one was.
        source_stamps: of the videos whose files are good, by video, for the index.

    Raises:
        CacheWriteError: one of the two cannot be written.
    """
    remove_stale_temporaries(output)  # of workers that died
    stamps = {cache_path("", video).as_posix(): stamp for video, stamp in (source_stamps or {}).items()}
    damaged = refresh_index(output, stamps)
    failures += [Failure(relative_name(error.path, output), error.reason) for error in damaged]
    if shard is None:  # the videos that failed in earlier shards were tried again in this run
        for path in output.glob("failures.*-of-*.csv"):
            remove_file(path)
    write_failures(output, failures, shard)


def write_failures(output: AnyPath, failures: Sequence[Failure], shard: str | None = None) -> None:
    """Write the list of failures, or remove it if there are none; raises CacheWriteError."""
    path = output / failures_name(shard)
    if not failures:
        remove_file(path)
        return
    rows = [(failure.video, failure.reason) for failure in sorted(failures, key=lambda f: f.video)]
    write_atomically(path, csv_bytes([("video", "reason"), *rows]))


def read_failures(cache: str | os.PathLike[str] | AnyPath) -> list[Failure]:
    """Read which videos failed in the last run over a cache folder, and why; none if it wrote no list.

    Example:
        >>> from pathlib import Path
        >>> from flow_cache import read_failures
        >>> _ = Path("failures.csv").write_text("video,reason\\nwalk/a.avi,no such file\\n")
        >>> read_failures(".")
        [Failure(video='walk/a.avi', reason='no such file')]
    """
    path = as_path(cache) / FAILURES_NAME
    if not path.is_file():
        return []
    text = io.StringIO(path.read_bytes().decode("utf-8", "surrogateescape"), newline="")
    return [Failure(row.get("video") or "", row.get("reason") or "") for row in csv.DictReader(text)]


def remove_file(path: AnyPath) -> None:
    """Remove a file if it exists; raises CacheWriteError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error
