"""Say what is in a cache, how it was made, and how much of the flow its bound clipped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.container import CacheReader
from flow_cache.errors import CacheFileError
from flow_cache.index import cache_files_of
from flow_cache.meta import CacheMeta
from flow_cache.places import each
from flow_cache.quantize import ZERO

if TYPE_CHECKING:
    from flow_cache.places import Place

_CLIP_LIMITS = (0.001, 0.01, 0.1, 1.0, 10.0)  # percent
_BOUNDS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100)  # pixels
_SAMPLED_FILES = 64
_SAMPLED_FIELDS = 4  # of each


@dataclass(frozen=True)
class CacheInfo:
    """A cache in numbers."""

    path: str
    videos: int
    frames: int
    fields: int
    with_rgb: int
    partial: int
    bytes: int
    sizes: dict[str, int]
    """Videos by frame size, `WxH`."""
    made: list[dict[str, Any]]
    """The different makes (method, parameters, bound, codec, ...), each with its number of videos."""
    clip_fraction: dict[str, float]
    """Share of clipped values: mean over all of them, median and largest by video."""
    clip_histogram: dict[str, int]
    """Videos by the share of their values that was clipped."""
    beyond: dict[str, float]
    """Share of the flow that a bound of so many pixels would clip, from a sample of fields. Larger bounds than the
    cache's own need the flow to be computed again."""
    damaged: list[str]

    @property
    def bytes_per_field(self) -> float:
        """Disk use per flow field, RGB included."""
        return self.bytes / self.fields if self.fields else 0.0


def describe_cache(path: Place) -> CacheInfo:
    """Describe a cache folder or a single cache file; damaged files are listed, not raised."""
    files = cache_files_of(path)
    sound: list[Place] = []
    metas: list[CacheMeta] = []
    size = 0
    damaged: list[str] = []
    places = list(files.values())
    for file, found in zip(places, each(_meta_and_size, places, path), strict=True):
        if isinstance(found, CacheFileError):
            damaged.append(str(found))
            continue
        sound.append(file)
        metas.append(found[0])
        size += found[1]
    makes = Counter(json.dumps(_make(meta)) for meta in metas)
    return CacheInfo(
        path=str(path),
        videos=len(metas),
        frames=sum(meta.frames for meta in metas),
        fields=sum(meta.fields for meta in metas),
        with_rgb=sum(meta.has_rgb for meta in metas),
        partial=sum(meta.partial is not None for meta in metas),
        bytes=size,
        sizes=dict(Counter(f"{meta.width}x{meta.height}" for meta in metas).most_common()),
        made=[{**json.loads(make), "videos": count} for make, count in makes.most_common()],
        clip_fraction=_clipping(metas),
        clip_histogram=_clip_histogram(metas),
        beyond=_beyond(sound),
        damaged=damaged,
    )


def render_json(info: CacheInfo) -> str:
    """Return a cache's description as JSON."""
    return json.dumps(asdict(info), indent=1)


def render_info(info: CacheInfo) -> None:
    """Print a cache's description for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows: list[tuple[str, str]] = [
        ("cache", info.path),
        ("videos", f"{info.videos:,}" + (f" ({info.partial:,} partial)" if info.partial else "")),
        ("fields", f"{info.fields:,} from {info.frames:,} frames"),
        ("RGB", f"{info.with_rgb:,} videos"),
        ("disk use", f"{info.bytes / 1e6:,.1f} MB, {info.bytes_per_field / 1e3:,.1f} kB a field"),
        ("frame sizes", ", ".join(f"{size} ({count:,})" for size, count in list(info.sizes.items())[:5])),
    ]
    if info.clip_fraction:
        shares = ", ".join(f"{name} {info.clip_fraction[name]:.3%}" for name in ("mean", "median", "max"))
        rows.append(("clipped flow", f"{shares} (by video)"))
        histogram = ", ".join(f"{name}: {count:,}" for name, count in info.clip_histogram.items() if count)
        rows.append(("videos by clipped", histogram))
    if info.beyond:
        rows.append(
            ("would clip", ", ".join(f"bound {bound}: {share:.3%}" for bound, share in info.beyond.items()))
        )
    for make in info.made:
        rows.append(("made with", ", ".join(f"{name} {_plain(value)}" for name, value in make.items())))
    if info.damaged:
        rows.append(("damaged", f"{len(info.damaged):,} files"))
    for name, value in rows:
        table.add_row(name, value or "-")
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


def _meta_and_size(file: Place) -> tuple[CacheMeta, int] | CacheFileError:
    try:
        with CacheReader(file) as reader:
            return reader.meta, reader.file_size
    except CacheFileError as error:
        return error


def _make(meta: CacheMeta) -> dict[str, Any]:
    make = {
        "method": meta.method,
        "parameters": dict(meta.parameters),
        "backend": meta.backend,
        "bound": meta.bound,
        "step": meta.step,
        "short_side": meta.short_side,
        "size": meta.size,
        **meta.codec.as_dict(),
        "versions": dict(meta.versions),
    }
    return {name: value for name, value in make.items() if value is not None}


def _clipping(metas: list[CacheMeta]) -> dict[str, float]:
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
    names = ["none", *(f"up to {limit:.4g} %" for limit in _CLIP_LIMITS), "more"]
    counts = dict.fromkeys(names, 0)
    for meta in metas:
        percent = 100 * meta.clip_fraction
        place = 0 if percent == 0 else 1 + sum(percent > limit for limit in _CLIP_LIMITS)
        counts[names[place]] += 1
    return counts


def _beyond(files: list[Place]) -> dict[str, float]:
    """Tell from a sample of fields how much smaller bounds would clip."""
    chosen = [files[place] for place in _spread(len(files), _SAMPLED_FILES)]
    levels: list[tuple[float, NDArray[np.int64]]] = []
    for file in chosen:
        try:
            with CacheReader(file) as reader:
                fields = reader.flow(_spread(reader.num_fields, _SAMPLED_FIELDS))
                levels.append((reader.meta.bound, np.bincount(fields.reshape(-1), minlength=256)))
        except CacheFileError:
            continue  # `verify` names it
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


def _spread(count: int, most: int) -> list[int]:
    """Choose at most so many of `count` places, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()})


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + " ".join(f"{name}={entry}" for name, entry in value.items()) + ")"
    return str(value)
