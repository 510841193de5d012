"""What this process runs on: its processor cores, and OpenCV and PyAV, imported on first use, silent."""

from __future__ import annotations

import functools
import os
from types import ModuleType


@functools.cache
def opencv() -> ModuleType:
    """Return the `cv2` module.

    OpenCV and FFmpeg print warnings to stderr. They are switched off, unless the environment asks for them: they
    would break the progress line, and what matters in them is raised as an error anyway.
    """
    quiet = os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT") == "SILENT"
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    if quiet and hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    module: ModuleType = cv2
    return module


@functools.cache
def pyav() -> ModuleType:
    """Return the `av` module, whose messages are off unless a program asks PyAV for them."""
    import av
    import av.video.reformatter

    module: ModuleType = av
    return module


def available_cores() -> int:
    """Return the number of processor cores that this process may use.

    Example:
        >>> from flow_cache import available_cores
        >>> available_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
