"""What came of a run: its summary, the videos that failed with the reason of each, and `failures.csv`."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flow_cache.cache.index import refresh_index
from flow_cache.errors import CacheWriteError
from flow_cache.pipeline.inputs import parse_shard
from flow_cache.storage.atomic import remove_stale_temporaries, write_atomically
from flow_cache.storage.paths import as_path, relative_name

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

FAILURES_NAME = "failures.csv"


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
    output: AnyPath
    partial: int = 0
    """How many of `done` hold only the readable beginning of their video."""
    remaining: int = 0
    """Videos not tried, after an interruption."""


class PrecomputeInterrupted(KeyboardInterrupt):
    """The run was interrupted (Ctrl-C); what is done stays, and the same call goes on from there."""

    def __init__(self, summary: PrecomputeSummary) -> None:
        super().__init__(summary)
        self.summary = summary


def failures_name(shard: str | None = None) -> str:
    """Return the name of the list of failures, which is each shard's own."""
    if shard is None:
        return FAILURES_NAME
    number, count = parse_shard(shard)
    return f"failures.{number}-of-{count}.csv"


def record_outcome(output: AnyPath, failures: list[Failure], shard: str | None = None) -> None:
    """Write the index and the list of failures, which damaged files of other videos join."""
    remove_stale_temporaries(output)  # of workers that died
    damaged = refresh_index(output)
    failures += [Failure(relative_name(error.path, output), error.reason) for error in damaged]
    if shard is None:  # this run has tried again what failed in earlier shards
        for path in output.glob("failures.*-of-*.csv"):
            remove_file(path)
    path = output / failures_name(shard)
    if not failures:
        remove_file(path)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "reason"])
    writer.writerows((failure.video, failure.reason) for failure in sorted(failures, key=lambda f: f.video))
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_failures(cache: str | os.PathLike[str] | AnyPath) -> list[Failure]:
    """Read the videos that failed in the last run over a cache folder; none where it left no list."""
    path = as_path(cache) / FAILURES_NAME
    if not path.is_file():
        return []
    text = io.StringIO(path.read_bytes().decode("utf-8", "surrogateescape"), newline="")
    return [Failure(row.get("video") or "", row.get("reason") or "") for row in csv.DictReader(text)]


def remove_file(path: AnyPath) -> None:
    """Remove a file if it is there; raises CacheWriteError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheWriteError.from_os_error(path, error) from error
