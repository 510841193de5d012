"""What this process runs on: its processor cores, and OpenCV, imported on first use with its messages off."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def silence_opencv() -> bool:
    """Switch the messages of OpenCV and its FFmpeg off, unless the environment asks for them; returns whether they are.

    They would break the progress line, and what matters in them is raised as an error anyway.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT") == "SILENT"


@functools.cache
def opencv() -> ModuleType:
    """Return the `cv2` module, silent."""
    silent = silence_opencv()
    import cv2

    if silent:  # also where it was imported before, which is when it reads the environment
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    module: ModuleType = cv2
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


@contextlib.contextmanager
def existing_working_folder() -> Iterator[None]:
    """Leave a working folder that has been deleted for the root folder, and return to it afterwards.

    For the start of processes: `multiprocessing` tells each of them which folder to work in.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        deleted = os.open(".", os.O_RDONLY)
        try:
            os.chdir("/")
            yield
        finally:
            os.fchdir(deleted)
            os.close(deleted)
    else:
        yield
