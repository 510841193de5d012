"""Check a cache against itself and against its videos; redo what is bad, as the rest was made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_cache.cache.index import cache_files_of, indexed_files
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import ArgumentError, CacheFileError, VideoError
from flow_cache.methods.registry import method_names
from flow_cache.pipeline.inputs import choose_videos
from flow_cache.pipeline.outcome import PrecomputeSummary
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.video.frames import output_size
from flow_cache.video.source import hash_source, local_copy, source_bytes

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath


@dataclass(frozen=True)
class Fault:
    """What is wrong with one cache file."""

    cache_file: str
    """Relative to the cache, with forward slashes; it need not exist."""
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was found in a cache."""

    path: AnyPath
    files: int
    fields: int
    """In the files that are sound in themselves."""
    bytes: int
    faults: list[Fault]
    make: CacheMeta | None
    """The meta of a file made as most of the cache was, None if no file can be read."""
    partial: int
    """Files that hold only the readable beginning of their video, as they were asked to."""


@dataclass(frozen=True)
class Repair:
    """What came of a repair."""

    summary: PrecomputeSummary | None
    """Of the run that redid the bad files, None if there was nothing to be done."""
    repaired: list[str]
    faults: list[Fault]
    """What is still wrong."""


@dataclass(frozen=True)
class Videos:
    """Where the videos of a cache are, as `precompute` was told."""

    input: str | Path
    root: str | Path | None = None


def verify_cache(
    path: AnyPath,
    videos: Videos | None = None,
    *,
    decode: bool = False,
    only: Sequence[str] | None = None,
    progress: bool = True,
) -> Verification:
    """Check a cache folder, or one cache file.

    Every member's checksum and announced size is checked; the counts; that a file holds the video that its name says,
    in the size asked for, made as most others were; that nothing is missing that the index lists. With `videos`, also
    that every video has a file, made from that very video (size and SHA-256). decode: decode every image too. only:
    cache files to be checked, default all. progress: show a live line on stderr while files are read. Raises
    ArgumentError if there is no such cache.
    """
    if not path.exists():
        raise ArgumentError(f"{path}: no such cache file or folder")
    single = not path.is_dir()
    files = cache_files_of(path)
    faults: list[Fault] = []
    metas: dict[str, CacheMeta] = {}
    size = 0
    with ProgressLine(len(files), len(files), 0, progress) as line:
        for name, file in files.items():
            failed = len(faults)
            try:
                with CacheReader(file) as reader:
                    metas[name] = reader.meta
                    size += reader.file_size
                    if only is None or name in only:
                        reader.check(decode=decode)
                    line.advance(FieldsDone(reader.num_fields, {}))
            except CacheFileError as error:
                where = "" if error.member is None else f"member {error.member}: "
                faults.append(Fault(name, where + error.reason))
            line.finished(1, failed=len(faults) > failed)
    make = _common_make(list(metas.values()))
    bad = {fault.cache_file for fault in faults}
    for name, meta in metas.items():
        reason = _contradiction(name, meta, make, single)
        if reason is not None and name not in bad:
            faults.append(Fault(name, reason))
    if not single:
        listed = indexed_files(path)
        faults += [Fault(name, "is missing, but index.csv lists it") for name in listed if name not in files]
        if videos is not None:
            faults += _against_videos(videos, metas, files, {fault.cache_file for fault in faults})
    faults = [fault for fault in faults if only is None or fault.cache_file in only]
    return Verification(
        path,
        len(files),
        sum(meta.fields for meta in metas.values()),
        size,
        sorted(faults, key=lambda fault: fault.cache_file),
        make,
        sum(meta.partial is not None for meta in metas.values()),
    )


def repair_cache(
    found: Verification, videos: Videos, *, device: str = "cpu", workers: int = 0, progress: bool = True
) -> Repair:
    """Redo the bad files of a cache folder from their videos, with the parameters that the cache was made with.

    A bad file is replaced only once its video has been redone; if that fails, it is removed and its video listed in
    `failures.csv`. Raises ArgumentError if nothing says how the cache was made.
    """
    if not found.faults:
        return Repair(None, [], [])
    if not found.path.is_dir():
        raise ArgumentError(f"{found.path}: only a cache folder can be repaired, not a single file")
    if found.make is None:
        raise ArgumentError(
            f"{found.path}: no file is left that says how it was made; use flow-cache precompute"
        )
    if found.make.method not in method_names():
        raise ArgumentError(
            f"{found.path} was made by method {found.make.method}, which is no estimator; import it again"
        )
    root, names = choose_videos(videos.input, root=videos.root)
    by_file = {cache_path("", name).as_posix(): name for name in names}
    wanted = [by_file[fault.cache_file] for fault in found.faults if fault.cache_file in by_file]
    summary = None
    if wanted:
        config = PrecomputeConfig(
            str(root),
            str(found.path),
            FlowSettings.of(found.make, device=device),
            found.make.storage,
            workers=workers,
            overwrite=True,
            keep_partial=found.partial > 0,
        )
        summary = precompute(config, wanted, progress)
    bad = [fault.cache_file for fault in found.faults]
    again = verify_cache(found.path, videos, only=bad, progress=progress)
    still = {fault.cache_file for fault in again.faults}
    unknown = [
        replace(fault, reason=f"{fault.reason}; no video of {videos.input} belongs to it")
        for fault in again.faults
        if fault.cache_file not in by_file
    ]
    others = [fault for fault in again.faults if fault.cache_file in by_file]
    return Repair(summary, [name for name in bad if name not in still], unknown + others)


def _common_make(metas: list[CacheMeta]) -> CacheMeta | None:
    """Return the first meta of the commonest make."""
    makes = Counter(_make_key(meta) for meta in metas)
    if not makes:
        return None
    commonest = makes.most_common(1)[0][0]
    return next(meta for meta in metas if _make_key(meta) == commonest)


def _make_key(meta: CacheMeta) -> str:
    request: dict[str, Any] = meta.request()
    request.pop("video")
    return json.dumps(request, sort_keys=True)


def _contradiction(name: str, meta: CacheMeta, make: CacheMeta | None, single: bool) -> str | None:
    """Say in what a sound file contradicts its name, its own settings or the rest of the cache."""
    try:
        expected = cache_path("", meta.source.path).as_posix()
    except ArgumentError as error:
        return f"names a video that cannot be: {error}"
    if not single and expected != name:
        return f"holds the flow of {meta.source.path}, which belongs into {expected}"
    size = (meta.width, meta.height)
    if size != output_size(*size, short_side=meta.short_side, size=meta.size):
        asked = (
            f"short side {meta.short_side}" if meta.size is None else f"size {meta.size[0]}x{meta.size[1]}"
        )
        return f"holds fields of {size[0]}x{size[1]}, but {asked} was asked for"
    if make is not None and (difference := meta.difference(replace(make, source=meta.source))) is not None:
        return f"was made in another way than most: {difference.replace('asked for', 'most')}"
    return None


def _against_videos(
    videos: Videos, metas: dict[str, CacheMeta], files: dict[str, AnyPath], bad: set[str]
) -> Iterator[Fault]:
    root, names = choose_videos(videos.input, root=videos.root)
    for name in names:
        cache_file = cache_path("", name).as_posix()
        if cache_file in bad:
            continue
        if cache_file not in files:
            yield Fault(cache_file, f"is missing: video {name} is not in the cache")
            continue
        source = metas[cache_file].source
        try:
            found = source_bytes(root / name)
            if found != source.bytes:
                yield Fault(cache_file, f"was made from a video of {source.bytes} bytes, it now has {found}")
            elif source.sha256 and _hash(root / name) != source.sha256:
                yield Fault(cache_file, "was made from a video of the same size with other contents")
        except VideoError as error:
            yield Fault(cache_file, f"its video cannot be read ({error.reason})")


def _hash(video: AnyPath) -> str:
    with local_copy(video) as copy:
        return hash_source(copy)
