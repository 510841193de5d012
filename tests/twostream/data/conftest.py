"""Tiny flow caches whose contents tell which field or frame was read."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from flow_cache import CacheMeta, CacheWriter, Gap, Source, StorageSettings, cache_path, rebuild_index

CacheMaker = Callable[..., Path]

# Twelve videos of three classes and four sources a class, long enough for a stack of two.
VIDEOS = {
    f"{name}/v_{name}_g{group:02d}_c01.avi": 5 + group
    for name in ("fly", "run", "sit")
    for group in range(1, 5)
}


def write_cache_file(
    root: Path,
    video: str,
    fields: int,
    *,
    height: int = 24,
    width: int = 32,
    rgb: bool = True,
    bound: float = 20.0,
    step: int = 1,
    method: str = "farneback",
    gap: int | None = None,
) -> Path:
    """Write a cache file: field t has u = 100 + t and v = 200 - t, frame t the colour (4 t, 50, 60).

    With a gap before a frame, the fields that would lead across it are left out.
    """
    meta = CacheMeta(
        source=Source(video),
        method=method,
        parameters={"winsize": 15},
        bound=bound,
        step=step,
        storage=StorageSettings("png", rgb=rgb, rgb_quality=95),
        fps=25.0,
    )
    path = cache_path(root, video)
    with CacheWriter(path, meta) as writer:
        flow = np.empty((fields, 2, height, width), np.uint8)
        flow[:, 0] = 100 + np.arange(fields)[:, None, None]
        flow[:, 1] = 200 - np.arange(fields)[:, None, None]
        if gap is None:
            writer.add_flow(flow)
        else:
            writer.add_flow(flow[: gap - step])
            writer.add_flow(flow[gap:], gap)
        if rgb:
            frames = np.empty((fields + step, height, width, 3), np.uint8)
            frames[..., 0] = 4 * np.arange(fields + step)[:, None, None]
            frames[..., 1:] = (50, 60)
            writer.add_rgb(frames)
        if gap is not None:
            writer.close(partial=f"frame {gap}: damaged", gaps=[Gap(gap, 1)], frames=fields + step)
    return path


@pytest.fixture
def make_cache(tmp_path: Path) -> CacheMaker:
    """Give a function that writes a cache of the given videos (path: number of fields) with its index."""

    def make(videos: Mapping[str, int] = VIDEOS, name: str = "cache", **settings) -> Path:
        root = tmp_path / name
        for video, fields in videos.items():
            write_cache_file(root, video, fields, **settings)
        rebuild_index(root)
        return root

    return make
