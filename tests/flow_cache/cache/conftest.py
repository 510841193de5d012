"""A small cache file of random fields and frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.writer import CacheWriter


@pytest.fixture(scope="session")
def fields() -> np.ndarray:
    """Grey levels of 5 fields, (5, 2, 12, 16) uint8."""
    return np.random.default_rng(0).integers(0, 256, (5, 2, 12, 16), dtype=np.uint8)


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """The 6 frames of these fields, (6, 12, 16, 3) uint8."""
    return np.random.default_rng(1).integers(0, 256, (6, 12, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def png() -> CacheMeta:
    """What a file of these fields says about itself, coded without loss."""
    return CacheMeta(Source("a.avi", 9, "00"), "tvl1", storage=StorageSettings("png"))


@pytest.fixture(scope="session")
def with_rgb(png: CacheMeta) -> CacheMeta:
    """The same with the frames."""
    return replace(png, storage=StorageSettings("png", rgb=True, rgb_quality=95))


@pytest.fixture(scope="session")
def write(fields: np.ndarray, frames: np.ndarray, with_rgb: CacheMeta) -> Callable[..., Path]:
    """Write a file in several steps, with frames unless a meta without RGB is given."""

    def write(path: Path, meta: CacheMeta = with_rgb) -> Path:
        with CacheWriter(path, meta) as writer:
            writer.add_rgb(frames[:3]) if meta.has_rgb else None
            writer.add_flow(fields[:2])
            writer.add_rgb(frames[3:]) if meta.has_rgb else None
            writer.add_flow(fields[2:])
            writer.close(clip_fraction=0.25)
        return path

    return write
