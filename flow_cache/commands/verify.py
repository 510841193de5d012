"""Check a cache in itself and against its videos; redo bad files with the settings of the others."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_cache.cache.index import cache_files_of, indexed_files
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.commands.import_folders import METHOD as IMPORTED
from flow_cache.errors import ArgumentError, CacheFileError, VideoError
from flow_cache.methods.registry import method_names
from flow_cache.pipeline.inputs import choose_videos
from flow_cache.pipeline.outcome import PrecomputeSummary
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.progress import FieldsDone, ProgressLine
from flow_cache.storage.paths import as_path
from flow_cache.video.frames import output_size
from flow_cache.video.source import hash_of_video, source_bytes

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath


@dataclass(frozen=True)
class Fault:
    """What is wrong with one cache file.

    Attributes:
        cache_file: path relative to the cache, with forward slashes; the file need not exist.
        reason: what is wrong.
    """

    cache_file: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was found in a cache.

    Attributes:
        path: the cache folder or file.
        files: number of cache files.
        fields: flow fields in the files that can be read.
        bytes: size of those files.
        faults: what is wrong, by file.
        settings: meta of a file that was made with the settings of most files; None if no file can be read.
        partial: files that hold only a part of their video, as was asked for.
        with_gaps: those of them that hold good frames after the damage, too.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from flow_cache import CacheMeta, CacheWriter, Source, verify_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> _ = Path("cache/b.flow.zip").write_bytes(b"damaged")
        >>> found = verify_cache("cache", progress=False)
        >>> found.files, found.fields, [fault.cache_file for fault in found.faults]
        (2, 3, ['b.flow.zip'])
    """

    path: AnyPath
    files: int
    fields: int
    bytes: int
    faults: list[Fault]
    settings: CacheMeta | None
    partial: int
    with_gaps: int = 0


@dataclass(frozen=True)
class Repair:
    """The result of a repair.

    Attributes:
        summary: of the run that redid the bad files; None if there was nothing to do.
        repaired: the cache files that are good now.
        faults: what is still wrong.
    """

    summary: PrecomputeSummary | None
    repaired: list[str]
    faults: list[Fault]


@dataclass(frozen=True)
class Videos:
    """Where the videos of a cache are, as in `PrecomputeConfig`.

    Attributes:
        input: the video, folder, list or manifest.
        root: folder where the paths of a list or manifest start; default: where it lies.

    Example:
        >>> from flow_cache import Videos
        >>> Videos("lists/train.txt", root="videos").root
        'videos'
    """

    input: str | Path
    root: str | Path | None = None


def verify_cache(
    path: str | os.PathLike[str] | AnyPath,
    videos: Videos | None = None,
    *,
    decode: bool = False,
    only: Sequence[str] | None = None,
    progress: bool = True,
) -> Verification:
    """Check a cache folder, or one cache file.

    What is checked: the checksum and the announced size of every member; the counts; that a file holds the video that
    its name says, in the size asked for, made with the settings of most files; that no file is missing that the index
    lists.

    Args:
        path: the cache folder or file, a path or a URL.
        videos: check also that every video has a cache file that was made from it (size and SHA-256).
        decode: decode every image too.
        only: cache files to check; None for all.
        progress: show a live line on stderr while files are read.

    Raises:
        ArgumentError: there is no such cache.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, verify_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> verify_cache("cache", decode=True, progress=False).faults
        []
    """
    path = as_path(path)
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
                faults.append(Fault(name, error.reason_and_member))
            line.finished(1, failed=len(faults) > failed)
    common = _most_common(list(metas.values()))
    bad = {fault.cache_file for fault in faults}
    for name, meta in metas.items():
        reason = _contradiction(name, meta, common, single)
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
        common,
        sum(meta.partial is not None for meta in metas.values()),
        sum(meta.part == "gaps" for meta in metas.values()),
    )


def repair_cache(
    found: Verification, videos: Videos, *, device: str = "cpu", workers: int = 0, progress: bool = True
) -> Repair:
    """Redo the bad files of a cache folder from their videos, with the settings that the cache was made with.

    A bad file is replaced when its video has been redone; if that fails, it is removed and its video listed in
    `failures.csv`.

    Args:
        found: what `verify_cache` returned.
        videos: where the videos are.
        device: where flow is computed, as in `FlowSettings`.
        workers: worker processes; 0 = one for every core.
        progress: show a live line on stderr.

    Raises:
        ArgumentError: a single file, or no file is left that says how the cache was made.
        FlowCacheError: what `precompute` raises for the run that redoes the videos.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, Videos, repair_cache, verify_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 8), 128, np.uint8))
        >>> found = verify_cache("cache", progress=False)
        >>> repair_cache(found, Videos("videos"), progress=False).repaired  # no file is bad
        []
    """
    if not found.faults:
        return Repair(None, [], [])
    if not found.path.is_dir():
        raise ArgumentError(f"{found.path}: only a cache folder can be repaired, not a single file")
    settings = found.settings
    if settings is None:
        raise ArgumentError(
            f"{found.path}: no file is left that says how it was made; use flow-cache precompute"
        )
    if settings.method not in method_names():
        raise ArgumentError(
            f"{found.path} was made by method {settings.method}, which is no estimator; import it again"
        )
    inputs = choose_videos(videos.input, root=videos.root)
    by_file = {cache_path("", name).as_posix(): name for name in inputs.names}
    wanted = [by_file[fault.cache_file] for fault in found.faults if fault.cache_file in by_file]
    summary = None
    if wanted:
        config = PrecomputeConfig(
            str(inputs.root),
            str(found.path),
            FlowSettings.of(settings, device=device),
            settings.storage,
            workers=workers,
            overwrite=True,
            damaged="skip-frames" if found.with_gaps else "keep-prefix" if found.partial else "fail",
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


def _most_common(metas: list[CacheMeta]) -> CacheMeta | None:
    """Return the first meta with the settings that most files have."""
    counts = Counter(_settings_key(meta) for meta in metas)
    if not counts:
        return None
    most_common = counts.most_common(1)[0][0]
    return next(meta for meta in metas if _settings_key(meta) == most_common)


def _settings_key(meta: CacheMeta) -> str:
    """Return the settings of a file as text, to count equal ones."""
    request: dict[str, Any] = meta.request()
    request.pop("video")
    return json.dumps(request, sort_keys=True)


def _contradiction(name: str, meta: CacheMeta, common: CacheMeta | None, single: bool) -> str | None:
    """Say how a readable file contradicts its name, its own settings or the other files; None if it does not."""
    try:
        expected = cache_path("", meta.source.path).as_posix()
    except ArgumentError as error:
        return f"names a video by an unusable path: {error}"
    if not single and expected != name:
        return f"holds the flow of {meta.source.path}, which belongs in {expected}"
    size = (meta.width, meta.height)
    if size != output_size(*size, short_side=meta.short_side, size=meta.size):
        asked = (
            f"short side {meta.short_side}" if meta.size is None else f"size {meta.size[0]}x{meta.size[1]}"
        )
        return f"holds fields of {size[0]}x{size[1]}, but {asked} was asked for"
    rgb_size, rgb_side = meta.rgb_size, meta.storage.own_rgb_side
    if rgb_size is not None and rgb_side is not None and min(rgb_size) > rgb_side:
        return f"holds RGB frames of {rgb_size[0]}x{rgb_size[1]}, but RGB short side {rgb_side} was asked for"
    difference = None if common is None else meta.difference(replace(common, source=meta.source))
    if difference is not None:
        return f"was made with other settings than most: {difference.replace('asked for', 'most')}"
    return None


def _against_videos(
    videos: Videos, metas: dict[str, CacheMeta], files: dict[str, AnyPath], bad: set[str]
) -> Iterator[Fault]:
    """Compare each video with its cache file; files that are known to be bad are left out."""
    inputs = choose_videos(videos.input, root=videos.root)
    for name, reason in inputs.refused.items():
        yield Fault(name, f"has no cache file: {reason}")
    for name in inputs.names:
        cache_file = cache_path("", name).as_posix()
        if cache_file in bad:
            continue
        if cache_file not in files:
            yield Fault(cache_file, f"is missing: video {name} is not in the cache")
            continue
        source, video = metas[cache_file].source, inputs.root / name
        imported = metas[cache_file].method == IMPORTED
        try:
            found = source_bytes(video, flow=imported)
            if found != source.bytes:
                yield Fault(cache_file, f"was made from a video of {source.bytes} bytes, it now has {found}")
            elif source.sha256 and hash_of_video(video, flow=imported) != source.sha256:
                yield Fault(cache_file, "was made from a video of the same size with other contents")
        except VideoError as error:
            yield Fault(cache_file, f"its video cannot be read ({error.reason})")
