"""Find the videos below a folder, local or remote: files with a video suffix, and folders of images."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from flow_cache.errors import ArgumentError
from flow_cache.storage.paths import as_path, is_local, list_files

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_videos(root: AnyPath) -> list[AnyPath]:
    """List the videos below a folder: video files, and folders of images.

    A folder of images holds images, but no videos and no visible folders. Hidden files and folders are skipped. Links
    to folders are followed once.

    Args:
        root: folder, local or remote. A video file or a folder of images is listed alone.

    Returns:
        Paths, sorted.

    Raises:
        ArgumentError: `root` does not exist.
        OSError: a remote `root` cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> from flow_cache import find_videos
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.mp4", "a.avi", "notes.txt"):
        ...         pathlib.Path(folder, name).touch()
        ...     [path.name for path in find_videos(folder)]
        ['a.avi', 'b.mp4']
    """
    root = as_path(root)
    if not is_local(root):
        return _find_remote_videos(root)
    if root.is_file() or is_image_folder(root):
        return [root]
    if not root.is_dir():
        raise ArgumentError(f"{root}: no such file or folder")
    found: list[AnyPath] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        visible = [name for name in files if not name.startswith(".")]
        videos = [here / name for name in visible if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        if videos:
            found += videos
        elif not subfolders and any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in visible):
            found.append(here)
    return sorted(found)


def _find_remote_videos(root: AnyPath) -> list[AnyPath]:
    """Find the videos below a remote folder by one listing: a request for each folder would be slow."""
    names = [PurePosixPath(name) for name in list_files(root)]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        if not root.is_file():
            raise ArgumentError(f"{root}: no such file or folder, or an empty one")
        return [root]
    videos = {name for name in names if name.suffix.lower() in VIDEO_SUFFIXES}
    with_folders = {folder for name in names for folder in name.parent.parents}
    images = {name.parent for name in names if name.suffix.lower() in IMAGE_SUFFIXES}
    images -= with_folders | {name.parent for name in videos}
    return [root if name == PurePosixPath() else root / name.as_posix() for name in sorted(videos | images)]


def is_image_folder(path: AnyPath) -> bool:
    """Return whether a folder is one video: it holds images, but no videos and no visible folders."""
    if not is_local(path):
        return not path.is_file() and find_videos(path) == [path]
    if not path.is_dir():
        return False
    images = False
    for entry in os.scandir(path):
        if entry.name.startswith("."):
            continue
        suffix = Path(entry.name).suffix.lower()
        if entry.is_dir() or suffix in VIDEO_SUFFIXES:
            return False
        images = images or suffix in IMAGE_SUFFIXES
    return images


def is_video(name: str) -> bool:
    """Tell whether a file counts as a video, by the suffix of its name.

    >>> from flow_cache import is_video
    >>> is_video("walk/a.AVI"), is_video("walk/a.txt")
    (True, False)
    """
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder in natural order (`img_2` before `img_10`)."""
    images = [path for path in folder.iterdir() if is_image(path.name) and path.is_file()]
    return sorted(images, key=lambda path: (_natural_key(path.name), path.name))


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Split a name into numbers and text, so that numbers compare by value."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
