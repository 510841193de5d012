"""Say what is in a cache, how it was made, and how much of the flow its bound clipped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.index import cache_files_of
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import CacheFileError
from flow_cache.pipeline.inputs import evenly_spread, spread_over
from flow_cache.quantization import ZERO
from flow_cache.storage.paths import as_path, map_files

if TYPE_CHECKING:
    import os

    from flow_cache.storage.paths import AnyPath

_CLIP_LIMITS = (0.001, 0.01, 0.1, 1.0, 10.0)  # percent
_BOUNDS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100)  # pixels
_SAMPLED_FILES = 64
_SAMPLED_FIELDS = 4  # of each


@dataclass(frozen=True)
class CacheInfo:
    """A cache in numbers.

    Attributes:
        path: the cache folder or file.
        videos, frames, fields: how many there are.
        with_rgb: videos with RGB frames.
        partial: videos of which only a part is there.
        bytes: size of the files.
        sizes: number of videos by size of a field, `WxH`.
        rgb_sizes: number of videos with RGB frames by their size.
        settings: the different settings that files were made with (method, parameters, bound, codec, ...), each with
            its number of videos.
        clip_fraction: share of clipped values: mean over all values, median and maximum over the videos.
        clip_histogram: number of videos by the share of their values that was clipped.
        beyond: share of the flow that a smaller bound would clip, by bound in pixels, from a sample of fields. For a
            larger bound than the cache's own, the flow would have to be computed again.
        damaged: files that cannot be read, and why.
        parts: the videos of which only a part is there: what that is (prefix, or gaps: frames are missing in between),
            and why.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, describe_cache
        >>> with CacheWriter("a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 10), 128, np.uint8))
        >>> info = describe_cache("a.flow.zip")
        >>> info.sizes, info.settings[0]["method"], info.settings[0]["videos"]
        ({'10x8': 1}, 'tvl1', 1)
    """

    path: str
    videos: int
    frames: int
    fields: int
    with_rgb: int
    partial: int
    bytes: int
    sizes: dict[str, int]
    rgb_sizes: dict[str, int]
    settings: list[dict[str, Any]]
    clip_fraction: dict[str, float]
    clip_histogram: dict[str, int]
    beyond: dict[str, float]
    damaged: list[str]
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def bytes_per_field(self) -> float:
        """Disk use per flow field, RGB included."""
        return self.bytes / self.fields if self.fields else 0.0


def describe_cache(path: str | os.PathLike[str] | AnyPath) -> CacheInfo:
    """Describe a cache folder or a single cache file; damaged files are listed, not raised.

    Args:
        path: the folder or file, a path or a URL.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, describe_cache
        >>> with CacheWriter("cache/a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 8, 10), 128, np.uint8))
        >>> info = describe_cache("cache")
        >>> info.videos, info.frames, info.fields
        (1, 4, 3)
    """
    path = as_path(path)
    files = cache_files_of(path)
    sound: list[AnyPath] = []
    metas: list[CacheMeta] = []
    size = 0
    damaged: list[str] = []
    paths = list(files.values())
    for file, found in zip(paths, map_files(_meta_and_size, paths, path), strict=True):
        if isinstance(found, CacheFileError):
            damaged.append(str(found))
            continue
        sound.append(file)
        metas.append(found[0])
        size += found[1]
    settings = Counter(json.dumps(_settings(meta)) for meta in metas)
    return CacheInfo(
        path=str(path),
        videos=len(metas),
        frames=sum(meta.frames for meta in metas),
        fields=sum(meta.fields for meta in metas),
        with_rgb=sum(meta.has_rgb for meta in metas),
        partial=sum(meta.partial is not None for meta in metas),
        bytes=size,
        sizes=_sizes([(meta.width, meta.height) for meta in metas]),
        rgb_sizes=_sizes([meta.rgb_size or (meta.width, meta.height) for meta in metas if meta.has_rgb]),
        settings=[{**json.loads(text), "videos": count} for text, count in settings.most_common()],
        clip_fraction=_clipping(metas),
        clip_histogram=_clip_histogram(metas),
        beyond=_beyond(sound),
        damaged=damaged,
        parts={
            meta.source.path: f"{meta.part}: {meta.partial}" for meta in metas if meta.partial is not None
        },
    )


def _meta_and_size(file: AnyPath) -> tuple[CacheMeta, int] | CacheFileError:
    """Return what a file says about itself, and its bytes; or why it cannot be read."""
    try:
        with CacheReader(file) as reader:
            return reader.meta, reader.file_size
    except CacheFileError as error:
        return error


def _sizes(sizes: list[tuple[int, int]]) -> dict[str, int]:
    """Count sizes (W, H), most frequent first."""
    return dict(Counter(f"{width}x{height}" for width, height in sizes).most_common())


def _settings(meta: CacheMeta) -> dict[str, Any]:
    """Return the settings that a file was made with, without those that were not used."""
    settings = {
        "method": meta.method,
        "parameters": dict(meta.parameters),
        "backend": meta.backend,
        "bound": meta.bound,
        "step": meta.step,
        "short_side": meta.short_side,
        "size": meta.size,
        **meta.storage.as_dict(),
        "versions": dict(meta.versions),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _clipping(metas: list[CacheMeta]) -> dict[str, float]:
    """Return the share of clipped values: mean over all values, median and maximum over the videos."""
    if not metas:
        return {}
    shares = sorted(meta.clip_fraction for meta in metas)
    weights = [meta.fields * meta.width * meta.height for meta in metas]
    mean = sum(meta.clip_fraction * weight for meta, weight in zip(metas, weights, strict=True)) / sum(
        weights
    )
    middle = len(shares) // 2
    median = shares[middle] if len(shares) % 2 else (shares[middle - 1] + shares[middle]) / 2
    return {"mean": mean, "median": median, "max": shares[-1]}


def _clip_histogram(metas: list[CacheMeta]) -> dict[str, int]:
    """Count the videos by the share of their values that was clipped."""
    names = ["none", *(f"up to {limit:.4g} %" for limit in _CLIP_LIMITS), "more"]
    counts = dict.fromkeys(names, 0)
    for meta in metas:
        percent = 100 * meta.clip_fraction
        position = 0 if percent == 0 else 1 + sum(percent > limit for limit in _CLIP_LIMITS)
        counts[names[position]] += 1
    return counts


def _beyond(files: list[AnyPath]) -> dict[str, float]:
    """Estimate from a sample of fields which share of the values smaller bounds would clip."""
    chosen = [files[position] for position in evenly_spread(len(files), _SAMPLED_FILES)]
    levels: list[tuple[float, NDArray[np.int64]]] = []
    for file in chosen:
        try:
            with CacheReader(file) as reader:
                fields = reader.flow(spread_over(reader.field_numbers, _SAMPLED_FIELDS))
                levels.append((reader.meta.bound, np.bincount(fields.reshape(-1), minlength=256)))
        except CacheFileError:
            continue  # `verify` reports it
    if not levels:
        return {}
    smallest = min(bound for bound, _ in levels)
    total = sum(int(counts.sum()) for _, counts in levels)
    length = np.abs(np.arange(256) - ZERO)
    return {
        f"{bound:g}": sum(int(counts[length * (2 * own / 255) > bound].sum()) for own, counts in levels)
        / total
        for bound in _BOUNDS
        if bound < smallest
    }
