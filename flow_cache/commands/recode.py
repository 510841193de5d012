"""Turn a cache into another codec without computing flow again: every level stays, every RGB frame byte for byte.

Each new file is the one that `flow-cache precompute --codec ...` would have written. It is compared with the old one
field by field before it takes its place, in one step; so a run may end at any moment and be started again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flow_cache.cache.codecs import recode_flow
from flow_cache.cache.image_headers import CodecError
from flow_cache.cache.index import known_sources, list_cache_files, refresh_index
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.naming import CACHE_SUFFIX, cache_path, unusable_name
from flow_cache.cache.reader import CacheReader, meta_or_error
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import (
    ArgumentError,
    CacheFileError,
    CacheMismatchError,
    CacheVersionError,
    CacheWriteError,
    FlowCacheError,
    check_whole_number,
)
from flow_cache.pipeline.outcome import (
    Failure,
    PrecomputeInterrupted,
    PrecomputeSummary,
    read_failures,
    write_failures,
)
from flow_cache.pipeline.run import prepare_output
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.runtime import available_cores
from flow_cache.storage.atomic import remove_stale_temporaries
from flow_cache.storage.paths import absolute, is_local, map_files, relative_name, status_of

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath, Status

_CHUNK = 32  # images in memory at a time


@dataclass(frozen=True)
class RecodeConfig:
    """Which cache becomes which codec.

    Attributes:
        cache: the cache folder, a path or a URL.
        codec: how its fields shall be stored: zstd for training, jpegxl for archives, jpegls, or png if all levels are
            there (max_error 0). Levels do not change, so jpeg cannot be chosen.
        output: folder of the new cache; default: files are replaced where they are.
        workers: fields that are worked on at once; 0 = one for every core.

    Example:
        >>> from flow_cache import RecodeConfig
        >>> RecodeConfig("cache", "jpegxl", output="archive").workers
        0
    """

    cache: str | Path
    codec: Literal["jpegls", "zstd", "jpegxl", "png"]
    output: str | Path | None = None
    workers: int = 0


@dataclass(frozen=True)
class _Task:
    """One cache file to be written with another codec."""

    name: str
    source: AnyPath
    target: AnyPath
    meta: CacheMeta


def recode_cache(
    config: RecodeConfig, progress: bool = True, *, open_reader: type[CacheReader] = CacheReader
) -> PrecomputeSummary:
    """Turn a cache into another codec; files that have it already are kept.

    A file that is damaged stays as it is, and is listed in the summary and in `failures.csv`.

    Args:
        config: which cache, and which codec.
        progress: show a live line on stderr.
        open_reader: opens a file that is recoded.

    Raises:
        ArgumentError, CacheMismatchError: before any work.
        CacheWriteError: the disk refuses.
        PrecomputeInterrupted: by Ctrl-C or SIGTERM; the same call goes on from there.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheReader, CacheWriter, RecodeConfig, Source, recode_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> summary = recode_cache(RecodeConfig("cache", "zstd"), progress=False)
        >>> summary.done, summary.skipped, summary.fields
        (1, 0, 3)
        >>> with CacheReader("cache/a.flow.zip") as reader:
        ...     reader.meta.storage.codec
        'zstd'
    """
    started = time.monotonic()
    check_whole_number("workers", config.workers, 0)
    cache = absolute(config.cache)
    output = _output_of(config, cache)
    files = list_cache_files(cache)
    if not files:
        raise ArgumentError(f"{cache}: holds no cache files (*{CACHE_SUFFIX})")
    tasks, kept, failures = _plan(cache, output, files, config)
    unreadable = len(failures)
    prepare_output(output)
    stamps = known_sources(cache, files)
    before = after = done = fields = 0

    def summary(remaining: int = 0) -> PrecomputeSummary:
        """Return what was done until now."""
        note = f"{before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB as {config.codec}"
        seconds = time.monotonic() - started
        notes = [note] if done else []
        return PrecomputeSummary(
            done, len(kept), failures, fields, seconds, output, remaining=remaining, notes=notes
        )

    try:
        with (
            ThreadPoolExecutor(config.workers or available_cores()) as threads,
            ProgressLine(
                len(tasks) + len(kept), sum(files[task.name].size for task in tasks), len(kept), progress
            ) as line,
        ):
            for task in tasks:
                failed = len(failures)
                try:
                    with open_reader(task.source) as reader:
                        CacheWriter.rewrite(
                            task.target, task.meta, _members(reader, task.meta, threads, line)
                        )
                    after += status_of(task.target).size
                    before += files[task.name].size
                    fields += task.meta.fields
                    done += 1
                except CacheFileError as error:
                    failures.append(Failure(task.name, error.reason_and_member))
                except OSError as error:
                    raise CacheWriteError.from_os_error(task.target, error) from error
                line.finished(files[task.name].size, failed=len(failures) > failed)
    except KeyboardInterrupt as interrupt:
        remaining = len(tasks) - done - (len(failures) - unreadable)
        _record(cache, output, files, failures, stamps)
        raise PrecomputeInterrupted(summary(remaining)) from interrupt
    except FlowCacheError:
        remove_stale_temporaries(output)
        raise
    _record(cache, output, files, failures, stamps)
    return summary()


def _output_of(config: RecodeConfig, cache: AnyPath) -> AnyPath:
    """Return the folder of the new cache, the old one for itself; raises ArgumentError if one lies in the other."""
    if not cache.is_dir():
        raise ArgumentError(f"{cache}: expected a cache folder")
    output = cache if config.output is None else absolute(config.output)
    if not (is_local(cache) and is_local(output)):
        return output
    inner, outer = sorted((cache.resolve(), output.resolve()), key=lambda path: -len(path.parts))
    if inner == outer:
        return cache
    if inner.is_relative_to(outer):
        raise ArgumentError(f"{inner} lies inside {outer}: choose an output folder beside the cache")
    return output


def _plan(
    cache: AnyPath, output: AnyPath, files: dict[str, Status], config: RecodeConfig
) -> tuple[list[_Task], list[str], list[Failure]]:
    """Return what has to be done, the files that are there already, and those that cannot be read.

    Raises ArgumentError for fields that cannot have the codec, CacheMismatchError for other files in the output.
    """
    names = list(files)
    metas = dict(zip(names, map_files(lambda name: meta_or_error(cache / name), names, cache), strict=True))
    there = metas
    if output != cache:
        others = list(list_cache_files(output))
        found = map_files(lambda name: meta_or_error(output / name), others, output)
        there = dict(zip(others, found, strict=True))
    tasks: list[_Task] = []
    kept: list[str] = []
    failures: list[Failure] = []
    for name, meta in metas.items():
        if isinstance(meta, CacheFileError):
            failures.append(Failure(name, meta.reason_and_member))
            continue
        try:
            wanted = meta.recoded(config.codec)
        except ArgumentError as error:
            raise ArgumentError(f"{cache / name}: {error}") from error
        target = output / name
        if there.get(name) == wanted:
            kept.append(name)
            continue
        if output != cache:
            _check_target(target, output, there.get(name), wanted)
        tasks.append(_Task(name, cache / name, target, wanted))
    return tasks, kept, failures


def _check_target(
    target: AnyPath, output: AnyPath, found: CacheMeta | CacheFileError | None, wanted: CacheMeta
) -> None:
    """Refuse to write where a link leads out, and to replace a file that was made in another way."""
    if is_local(target) and is_local(output) and not target.parent.resolve().is_relative_to(output.resolve()):
        raise ArgumentError(f"{target}: a link leads out of the output folder")
    difference = found.difference(wanted) if isinstance(found, CacheMeta) else None
    if isinstance(found, CacheVersionError):
        difference = found.reason
    if difference is not None:
        raise CacheMismatchError(
            f"{target} was made with other parameters: {difference}; use another output folder"
        )


def _members(
    reader: CacheReader, meta: CacheMeta, threads: ThreadPoolExecutor, line: ProgressLine
) -> Iterator[tuple[str, bytes]]:
    """Iterate the members of the new file: fields recoded, frames as they are, in the order of the old one."""
    source, target = reader.meta.storage, meta.storage
    shape = (2 * reader.height, reader.width)

    def recoded(member: tuple[str, bytes]) -> tuple[str, bytes]:
        name, data = member
        if not name.startswith("flow/") or source == target:
            return member
        try:
            data = recode_flow(data, shape, source, target)
        except CodecError as error:
            raise CacheFileError(reader.path, str(error), name) from error
        return f"{name.removesuffix(source.extension)}{target.extension}", data

    members = reader.encoded()
    while chunk := list(islice(members, _CHUNK)):
        for member in threads.map(recoded, chunk):  # the codecs release the interpreter's lock
            yield member
            line.advance(FieldsDone(int(member[0].startswith("flow/")), {}))


def _record(
    cache: AnyPath,
    output: AnyPath,
    files: dict[str, Status],
    failures: list[Failure],
    stamps: dict[str, str],
) -> None:
    """Write the index, and the list of failures: ours, and those of videos that have no cache file still."""
    remove_stale_temporaries(output)
    named = {failure.video for failure in failures}
    for error in refresh_index(output, stamps):
        if (name := relative_name(error.path, output)) not in named:
            failures.append(Failure(name, error.reason_and_member))
    lacking = [failure for failure in read_failures(cache) if _lacks_file(failure.video, files)]
    write_failures(output, [*failures, *lacking])


def _lacks_file(name: str, files: dict[str, Status]) -> bool:
    """Tell whether a failure of an earlier run is about a video that has no cache file."""
    if name.endswith(CACHE_SUFFIX):
        return False  # a cache file that was damaged
    return unusable_name(name) is not None or cache_path("", name).as_posix() not in files
