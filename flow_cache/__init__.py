"""Optical flow of many videos, computed once, stored small, read fast.

    from flow_cache import CacheReader, PrecomputeConfig, get_method
    from flow_cache.precompute import precompute
    from flow_cache.quantize import quantize

Nothing heavy is imported before it is used: names are loaded on first access. (The functions `precompute` and
`quantize` bear their modules' names, so they are had from there only.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_cache.codecs import CodecSettings
    from flow_cache.colours import flow_colours
    from flow_cache.container import CacheMeta, CacheReader, CacheWriter, cache_path
    from flow_cache.errors import (
        ArgumentError,
        CacheFileError,
        CacheMismatchError,
        CacheWriteError,
        FlowCacheError,
        VideoError,
    )
    from flow_cache.export import ExportConfig, export_cache
    from flow_cache.frames import Frame, find_videos, probe_fps, read_frames
    from flow_cache.import_folders import ImportConfig
    from flow_cache.index import IndexEntry, read_index, rebuild_index
    from flow_cache.meta import Source
    from flow_cache.methods import get_method
    from flow_cache.precompute import (
        Failure,
        PrecomputeConfig,
        PrecomputeInterrupted,
        PrecomputeSummary,
    )
    from flow_cache.quantize import clip_fraction, dequantize, negate
    from flow_cache.verify import Verification, repair_cache, verify_cache
    from flow_cache.worker import Job, cache_video

_HOMES = {
    "ArgumentError": "errors",
    "CacheFileError": "errors",
    "CacheMeta": "container",
    "CacheMismatchError": "errors",
    "CacheReader": "container",
    "CacheWriteError": "errors",
    "CacheWriter": "container",
    "CodecSettings": "codecs",
    "ExportConfig": "export",
    "Failure": "precompute",
    "FlowCacheError": "errors",
    "Frame": "frames",
    "ImportConfig": "import_folders",
    "IndexEntry": "index",
    "Job": "worker",
    "PrecomputeConfig": "precompute",
    "PrecomputeInterrupted": "precompute",
    "PrecomputeSummary": "precompute",
    "Source": "meta",
    "Verification": "verify",
    "VideoError": "errors",
    "cache_path": "container",
    "cache_video": "worker",
    "clip_fraction": "quantize",
    "dequantize": "quantize",
    "export_cache": "export",
    "find_videos": "frames",
    "flow_colours": "colours",
    "get_method": "methods",
    "negate": "quantize",
    "probe_fps": "frames",
    "read_frames": "frames",
    "read_index": "index",
    "rebuild_index": "index",
    "repair_cache": "verify",
    "verify_cache": "verify",
}

__all__ = [
    "ArgumentError",
    "CacheFileError",
    "CacheMeta",
    "CacheMismatchError",
    "CacheReader",
    "CacheWriteError",
    "CacheWriter",
    "CodecSettings",
    "ExportConfig",
    "Failure",
    "FlowCacheError",
    "Frame",
    "ImportConfig",
    "IndexEntry",
    "Job",
    "PrecomputeConfig",
    "PrecomputeInterrupted",
    "PrecomputeSummary",
    "Source",
    "Verification",
    "VideoError",
    "cache_path",
    "cache_video",
    "clip_fraction",
    "dequantize",
    "export_cache",
    "find_videos",
    "flow_colours",
    "get_method",
    "negate",
    "probe_fps",
    "read_frames",
    "read_index",
    "rebuild_index",
    "repair_cache",
    "verify_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
