"""Choose videos of a folder, and read the frames in their middle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, FlowCacheError
from flow_cache.video.find import find_videos
from flow_cache.video.frames import read_frames

Frames = NDArray[np.uint8]


def pick_videos(folder: Path, count: int) -> list[Path]:
    """Choose up to `count` videos of a folder, evenly spread over its list sorted by name."""
    try:
        videos = find_videos(folder)
    except FlowCacheError as error:
        raise SystemExit(str(error)) from error
    if not videos:
        raise SystemExit(f"{folder} holds no videos")
    positions = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int)
    return [videos[position] for position in positions]


def read_middle(video: Path, count: int, width: int, height: int) -> Frames:
    """Read up to `count` consecutive frames in the middle of a video: grey (count, height, width) uint8, resized."""
    greys = [frame.grey for frame in read_frames(video, size=(width, height))]
    if len(greys) < 2:
        raise SystemExit(f"{video} has {len(greys)} frame, a pair needs 2")
    start = max(0, (len(greys) - count) // 2)
    return np.stack(greys[start : start + count])


def read_pairs(videos: Sequence[Path], width: int, height: int) -> tuple[Frames, Frames]:
    """Read the two frames in the middle of each video: two stacks, grey (N, height, width) uint8, resized."""
    pairs = np.stack([read_middle(video, 2, width, height) for video in videos])
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def parse_size(text: str) -> tuple[int, int]:
    """Split WIDTHxHEIGHT; raises ArgumentError for any other text."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ArgumentError(f"a size must be WIDTHxHEIGHT, got {text!r}")
    return int(width), int(height)
