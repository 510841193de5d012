"""Find the videos below a folder, local or remote: files with a video suffix, and folders of images.

A folder of images is one video if its images are one numbered series, such as `img_00001.jpg`, `img_00002.jpg`, ...
Pictures of flow beside them are known by name and left out; any other second series is refused when the folder is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from flow_cache.errors import ArgumentError, VideoError, first_names
from flow_cache.storage.paths import as_path, is_local, list_files

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
# Found too, but they stay in the names of cache files: `a.gif` beside `a.mp4` is often a preview of it.
_MORE_SUFFIXES = frozenset({".264", ".265", ".gif", ".h264", ".h265", ".hevc", ".mjpeg", ".mjpg", ".y4m"})
_SUFFIXES = VIDEO_SUFFIXES | _MORE_SUFFIXES
_PREVIEW = ".gif"
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What network drives and archives put beside a user's files: thumbnails, deleted files.
_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "lost+found", "thumbnails"}
)
_FLOW_FOLDERS = (("u", "v"), ("flow_x", "flow_y"))
_FLOW_NAME = re.compile(r"flow[_-]?[xyuv][_-]?#\.[a-z]+")
_IMPORTED = "images named flow_x_00001 and flow_y_00001 in one folder"


class Found(NamedTuple):
    """What a search found.

    Attributes:
        videos: paths, sorted.
        notes: what was left out though it might have been meant, a line each.
    """

    videos: list[AnyPath]
    notes: list[str]


class Series(NamedTuple):
    """The pictures of a folder, told apart by their names.

    Attributes:
        frames: names of the pictures that are the video, in natural order.
        flow: what pictures of flow beside them are called, such as `flow_x_#.jpg`.
        problem: why these pictures are not one video; None if they are.
    """

    frames: list[str]
    flow: list[str]
    problem: str | None


def find_videos(root: AnyPath) -> list[AnyPath]:
    """List the videos below a folder: video files, and folders of images.

    A folder of images holds images, but no videos and no visible folders, other than flow in `u` and `v` or `flow_x`
    and `flow_y`. Hidden files and folders are skipped, and so are folders of thumbnails and of deleted files that
    systems make, such as `@eaDir`. Links to folders are followed once.

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
    return search_videos(root).videos


def search_videos(root: AnyPath) -> Found:
    """Find what `find_videos` lists, and say what was left out; raises the same."""
    root = as_path(root)
    repeated: list[PurePosixPath] = []
    if not is_local(root):
        folders = _remote_folders(root)
        if not folders:
            if not root.is_file():
                raise ArgumentError(f"{root}: no such file or folder, or an empty one")
            return Found([root], [])
    elif root.is_file():
        return Found([root], [])
    elif root.is_dir():
        folders = _local_folders(root, repeated)
    else:
        raise ArgumentError(f"{root}: no such file or folder")
    flow = _flow_folders(folders)
    found: list[PurePosixPath] = []
    beside: list[PurePosixPath] = []  # images in them are passed over
    mixed: list[PurePosixPath] = []  # flow in them is left out
    previews: list[PurePosixPath] = []
    for folder, (subfolders, files) in folders.items():
        if any(above in flow for above in (folder, *folder.parents)):
            continue
        videos = [folder / name for name in files if is_video(name)]
        images = [name for name in files if is_image(name)]
        if videos and images and _are_previews(videos, images):
            previews += videos
            videos = []
        if videos or not images:
            found += videos
        elif any(folder / name not in flow for name in subfolders):
            beside.append(folder)
        else:
            found.append(folder)
            series = split_series(images if any("flow" in name.lower() for name in images) else [])
            if series.flow and series.problem is None:
                mixed.append(folder)

    def path_of(name: PurePosixPath) -> AnyPath:
        return root if name == PurePosixPath() else root / name.as_posix()

    notes = [
        text.format(first_names([path_of(name) for name in named]))
        for text, named in (
            ("passed over, since images lie beside folders there: {}; a folder of images holds nothing else", beside),
            ("left out, since they hold components of flow: {}; flow-cache import takes " + _IMPORTED, sorted(flow)),
            ("passed over, since they are links to folders that are searched anyway: {}", repeated),
            ("passed over, since they lie beside the images of a video: {}", previews),
            ("only the frames are taken, not the flow beside them: {}; flow-cache import reads that", mixed),
        )
        if named
    ]  # fmt: skip
    return Found([path_of(name) for name in sorted(found)], notes)


_Tree = dict[PurePosixPath, tuple[list[str], list[str]]]  # the names of folders and files in each folder


def _local_folders(root: Path, repeated: list[PurePosixPath]) -> _Tree:
    """Walk a folder, without what is hidden; links to folders that were searched already are appended to `repeated`."""
    found: _Tree = {}
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        name = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if real in seen:
            repeated.append(name)
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(inner for inner in subfolders if _is_visible_folder(inner))
        visible = [file for file in files if not file.startswith(".")]
        found[name] = (list(subfolders), visible)
    return found


def _remote_folders(root: AnyPath) -> _Tree:
    """Do the same with a remote folder by one listing: a request for each folder would be slow."""
    folders: _Tree = {}
    for name in map(PurePosixPath, list_files(root)):
        if name.name.startswith(".") or not all(_is_visible_folder(part) for part in name.parts[:-1]):
            continue
        folders.setdefault(name.parent, ([], []))[1].append(name.name)
        for folder in name.parent.parents:
            inside = name.relative_to(folder).parts[0]
            subfolders = folders.setdefault(folder, ([], []))[0]
            if inside not in subfolders[-1:]:  # the listing is sorted
                subfolders.append(inside)
    return folders


def _are_previews(videos: list[PurePosixPath], images: list[str]) -> bool:
    """Tell whether the videos in a folder are only animations of its images."""
    series = split_series(images)
    return (
        all(name.suffix.lower() == _PREVIEW for name in videos)
        and series.problem is None
        and len(series.frames) > 1
    )


def _is_visible_folder(name: str) -> bool:
    """Tell whether a folder is searched: neither hidden nor made by a system."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FOLDERS


def _flow_folders(folders: _Tree) -> set[PurePosixPath]:
    """Find pairs of folders that hold the two components of flow: images of the same names, and no videos."""
    flow: set[PurePosixPath] = set()
    for folder, (subfolders, _) in folders.items():
        for pair in _FLOW_FOLDERS:
            if not set(pair) <= set(subfolders):
                continue
            first, second = (set(_pictures(folders, folder / name, "")) for name in pair)
            names = [PurePosixPath(name).name for name in first]
            if first == second and first and not any(map(is_video, names)) and not split_series(names).flow:
                flow |= {folder / name for name in pair}
    return flow


def _pictures(folders: _Tree, folder: PurePosixPath, prefix: str) -> Iterator[str]:
    """Iterate the images and videos below a folder, by their paths relative to it."""
    subfolders, files = folders.get(folder, ([], []))
    yield from (prefix + name for name in files if is_image(name) or is_video(name))
    for name in subfolders:
        yield from _pictures(folders, folder / name, f"{prefix}{name}/")


def is_image_folder(path: AnyPath) -> bool:
    """Return whether a folder is one video, as `find_videos` says."""
    if is_local(path):
        if not path.is_dir():
            return False
        names = [entry.name for entry in os.scandir(path) if not entry.name.startswith(".")]
        videos = [name for name in names if is_video(name) and not name.lower().endswith(_PREVIEW)]
        if videos or not any(map(is_image, names)):
            return False  # without a search of all that is below
    elif path.is_file():
        return False
    return find_videos(path) == [path]


def is_video(name: str) -> bool:
    """Tell whether a file counts as a video, by the suffix of its name.

    >>> from flow_cache import is_video
    >>> is_video("walk/a.AVI"), is_video("walk/a.txt")
    (True, False)
    """
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder that are its video, in natural order (`img_2` before `img_10`).

    Raises:
        VideoError: they are not one numbered series.
    """
    series = split_series(_image_names(folder))
    if series.problem is not None:
        raise VideoError(folder, series.problem)
    return [folder / name for name in series.frames]


def all_images(folder: Path) -> list[Path]:
    """List all images of a folder, pictures of flow too, in natural order."""
    return [folder / name for name in sorted(_image_names(folder), key=_natural_key)]


def _image_names(folder: Path) -> list[str]:
    """List the names of a folder's images, in any order."""
    return [path.name for path in folder.iterdir() if is_image(path.name) and path.is_file()]


def split_series(names: Sequence[str]) -> Series:
    """Tell the series among the names of a folder's images apart.

    >>> split_series(["img_10.png", "img_9.png", "flow_x_9.png", "flow_y_9.png"])
    Series(frames=['img_9.png', 'img_10.png'], flow=['flow_x_#.png', 'flow_y_#.png'], problem=None)
    >>> split_series(["left_1.png", "right_1.png"]).problem
    'holds pictures of several series (left_#.png: 1, right_#.png: 1); keep one series in a folder'
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"[0-9]+", "#", name.lower()), []).append(name)
    flow = sorted(pattern for pattern in found if _FLOW_NAME.fullmatch(pattern))
    others = {
        label: members
        for pattern in sorted(set(found) - set(flow))
        for label, members in _repeated_numbers(pattern, found[pattern]).items()
    }
    counts = [f"{label}: {len(members):,}" for label, members in others.items()]
    if len(others) > 1:
        listed = first_names(counts)
        return Series([], flow, f"holds pictures of several series ({listed}); keep one series in a folder")
    if flow and not others:
        listed = ", ".join(f"{pattern}: {len(found[pattern]):,}" for pattern in flow)
        return Series(
            [], flow, f"holds pictures of flow ({listed}) and no frames; flow-cache import reads such"
        )
    frames = sorted((name for members in others.values() for name in members), key=_natural_key)
    return Series(frames, flow, None)


def _repeated_numbers(pattern: str, names: list[str]) -> dict[str, list[str]]:
    """Split `cam1_#`, `cam2_#`: the last number counts frames, and starts anew for each value of those before it.

    Numbers of a date and time do not: their parts do not all start with the same number.
    """
    numbers = {name: [int(number) for number in re.findall(r"[0-9]+", name)] for name in names}
    varying = [
        place for place in range(pattern.count("#")) if len({row[place] for row in numbers.values()}) > 1
    ]
    if len(varying) < 2:
        return {pattern: names}
    last = varying[-1]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, row in numbers.items():
        groups.setdefault((*row[:last], *row[last + 1 :]), []).append(name)
    firsts = {min(numbers[name][last] for name in members) for members in groups.values()}
    if len(firsts) > 1 or min(len(members) for members in groups.values()) < 2:
        return {pattern: names}
    return {_label(members[0].lower(), last): members for _, members in sorted(groups.items())}


def _label(name: str, place: int) -> str:
    """Replace one of the numbers in a name by `#`."""
    number = list(re.finditer(r"[0-9]+", name))[place]
    return name[: number.start()] + "#" + name[number.end() :]


def _natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Split a name into numbers and text, so that numbers compare by value; the name itself decides ties."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name
