"""The flow of one video as an array, without a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import VideoError
from flow_cache.pipeline.settings import FlowSettings
from flow_cache.storage.paths import as_path
from flow_cache.video.frames import read_frames
from flow_cache.video.source import local_copy

if TYPE_CHECKING:
    import os

    from flow_cache.storage.paths import AnyPath


def video_flow(
    video: str | os.PathLike[str] | AnyPath,
    settings: FlowSettings = FlowSettings(),  # noqa: B008 - a frozen value
) -> NDArray[np.float32]:
    """Compute the optical flow of a video, all of it in memory; `precompute` is for many or long ones.

    Args:
        video: a file or a folder of images, local or at a URL.
        settings: method, parameters, device (one), frame size and step; `bound` does not matter, nothing is rounded.

    Returns:
        (T - step, 2, H, W) float32, pixels per step: channel 0 is u (rightwards), 1 is v (downwards).

    Raises:
        VideoError: cannot be read to its end, or has no more than `step` frames.
        ArgumentError: unusable settings.

    Example:
        >>> from pathlib import Path
        >>> from flow_cache import FlowSettings, video_flow
        >>> Path("clip").mkdir()  # a folder of images is a video, too
        >>> for number in range(3):
        ...     _ = Path(f"clip/{number}.pgm").write_bytes(b"P5 16 16 255 " + bytes(256))
        >>> video_flow("clip", FlowSettings("farneback")).shape
        (2, 2, 16, 16)
    """
    path = as_path(video)
    if not path.exists():
        raise VideoError(path, "no such file or folder")
    size = settings.size if isinstance(settings.size, tuple) else None
    with local_copy(path) as source:
        grey = [frame.grey for frame in read_frames(source, short_side=settings.short_side, size=size)]
    if len(grey) <= settings.step:
        needed = settings.step + 1
        raise VideoError(path, f"has {len(grey)} frames, step {settings.step} needs {needed}")
    return settings.estimator(settings.device)(np.stack(grey), settings.step)
