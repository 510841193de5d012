"""Names: the path of a video's cache file, and the name of the member that describes it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from flow_cache.errors import ArgumentError
from flow_cache.storage.paths import as_path
from flow_cache.video.find import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

CACHE_SUFFIX = ".flow.zip"
META_NAME = "meta.json"


def cache_path(root: str | os.PathLike[str] | AnyPath, video_relative: str | PurePosixPath) -> AnyPath:
    """Return the path of a video's cache file: that of the video without suffix, plus `.flow.zip`.

    Only the suffix of a video file is removed, so that an image folder `person.01` keeps its whole name.

    Args:
        root: the cache folder, a path or a URL.
        video_relative: the video's path relative to the input folder, with forward slashes.

    Raises:
        ArgumentError: a path that is absolute or leads out of the root, here or on another system (`..`, drive
            letters, backslashes, NULs), or a hidden file.

    Example:
        >>> from flow_cache import cache_path
        >>> cache_path("cache", "walk/a.avi").as_posix()
        'cache/walk/a.flow.zip'
    """
    if (reason := unusable_name(video_relative)) is not None:
        raise ArgumentError(f"{video_relative!s:.200}: {reason}")
    relative = PurePosixPath(video_relative)
    parts, name = relative.parts, relative.name
    if relative.suffix.lower() in VIDEO_SUFFIXES:
        name = relative.stem
    return as_path(root).joinpath(*parts[:-1], name + CACHE_SUFFIX)


def unusable_name(video_relative: str | PurePosixPath) -> str | None:
    """Say why a video of this relative path cannot have a cache file; None if it can."""
    relative = PurePosixPath(video_relative)
    parts = relative.parts
    odd = any("\\" in part or "\0" in part or PureWindowsPath(part).drive for part in parts)
    if not parts or relative.is_absolute() or ".." in parts or odd:
        return (
            "expected a relative path that stays inside the input folder, on every system "
            "(without drive letters and backslashes); rename it"
        )
    return "hidden files are not used as videos; rename it" if relative.name.startswith(".") else None
