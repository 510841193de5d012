"""Write the demo data set: a class-per-folder tree of Motion-JPEG files, whole or not at all."""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flow_cache import Progress, available_cores
from twostream.demo.scene import APPEARANCES, MOTIONS, SourceGroup, make_group, render_clip
from twostream.errors import ConfigError, DataError
from twostream.settings import require_at_least

VideoWriter = Callable[[Path, npt.NDArray[np.uint8], int], None]

MANIFEST_NAME = "demo.json"
_FORMAT = 1  # counted up when the same settings would give other videos
_QUALITY = 90
_STALE_SECONDS = 3600.0
_LEAST = {
    "seed": 0,
    "groups": 2,
    "clips": 1,
    "min_frames": 8,
    "max_frames": 8,
    "width": 48,
    "height": 48,
    "fps": 1,
}


@dataclass(frozen=True)
class DemoSettings:
    """What the demo data set holds; equal settings give equal videos.

    Attributes:
        seed: of everything that is drawn at random.
        groups: number of source groups (wallpaper, light, person); a split keeps a group's clips together.
        clips: clips of each class in each group.
        min_frames, max_frames: bounds of the number of frames of a clip, both included.
        width, height: size of the frames, pixels; even numbers.
        fps: frames a second.

    Example:
        >>> from twostream import DemoSettings
        >>> DemoSettings(groups=4).clips
        2
    """

    seed: int = 0
    groups: int = 12
    clips: int = 2
    min_frames: int = 28
    max_frames: int = 36
    width: int = 112
    height: int = 84
    fps: int = 25

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is too small or odd where it must be even, or the bounds are crossed.
        """
        require_at_least(self, _LEAST, "demo setting ", ConfigError)
        if self.max_frames < self.min_frames:
            raise ConfigError(
                "demo setting max_frames must not be below min_frames, "
                f"got {self.max_frames} and {self.min_frames}"
            )
        if self.width % 2 or self.height % 2:
            raise ConfigError(
                f"demo frames must have an even width and height, got {self.width}x{self.height}"
            )


@dataclass(frozen=True)
class _Clip:
    """One video to be written; group, class and clip are counted from 1."""

    path: str
    appearance: str
    motion: str
    group: int
    class_: int
    clip: int


def demo_classes() -> tuple[str, ...]:
    """Return the class names, each an appearance and a motion, in the order of the label numbers (sorted)."""
    return tuple(sorted(f"{appearance}_{motion}" for appearance in APPEARANCES for motion in MOTIONS))


def write_video(path: Path, frames: npt.NDArray[np.uint8], fps: int) -> None:
    """Write frames as Motion-JPEG.

    Args:
        path: the .avi file.
        frames: `(T, H, W, 3) uint8` RGB.
        fps: frames a second.

    Raises:
        DataError: the file could not be written.
    """
    _, height, width, _ = frames.shape
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, float(fps), (width, height), True)
    if not writer.isOpened():
        raise DataError(f"OpenCV cannot write the Motion-JPEG video {path}; is the folder writable?")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, _QUALITY)
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    # The writer does not report a failed write, but the file's own header says how long it should be.
    with path.open("rb") as file:
        promised = int.from_bytes(file.read(8)[4:], "little") + 8
    written = path.stat().st_size
    if written != promised:
        raise DataError(f"{path} has {written} bytes after writing instead of {promised}; is the disk full?")


def generate_demo(
    root: str | Path,
    *,
    settings: DemoSettings | None = None,
    progress: bool = True,
    write: VideoWriter = write_video,
) -> Path:
    """Write the demo's videos below `root`, or find them there.

    The tree is `<class>/<class>_g<group>_c<clip>.avi` (Motion-JPEG, written by OpenCV's own encoder, which
    needs no FFmpeg) and `demo.json`, which names the settings and every file. It is made in a temporary
    folder beside `root` and renamed when all of it is there. A complete demo of the same settings is kept as
    it is; one that lacks videos is made again.

    Args:
        root: the data folder; must be absent, empty, or hold a demo.
        settings: what to generate; the defaults give 216 clips of 9 classes.
        progress: show a live line on stderr.
        write: writes the frames of one video to a file.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds something else, or a video could not be written.

    Example:
        >>> from twostream import DemoSettings, generate_demo
        >>> settings = DemoSettings(groups=2, clips=1, min_frames=8, max_frames=8, width=48, height=48)
        >>> root = generate_demo("small-demo", settings=settings, progress=False)
        >>> len(list(root.glob("*/*.avi")))
        18
    """
    settings = settings or DemoSettings()
    root = Path(root)
    target = root.resolve()
    partial = target.parent / f".{target.name}.partial-{uuid.uuid4().hex}"
    try:
        if _is_complete(target, settings):
            return root
        _check_ours(target, settings)
        _sweep(target)
        partial.mkdir(parents=True)
        _fill(partial, settings, progress, write)
        _put_in_place(partial, target, settings)
    except OSError as error:
        raise DataError(f"cannot make the demo in {root}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _clips(settings: DemoSettings) -> Iterator[_Clip]:
    pairs = {
        f"{appearance}_{motion}": (appearance, motion) for appearance in APPEARANCES for motion in MOTIONS
    }
    for group in range(1, settings.groups + 1):
        for class_, name in enumerate(demo_classes(), start=1):
            for clip in range(1, settings.clips + 1):
                path = f"{name}/{name}_g{group:02d}_c{clip:02d}.avi"
                yield _Clip(path, *pairs[name], group, class_, clip)


def _fill(folder: Path, settings: DemoSettings, progress: bool, write: VideoWriter) -> None:
    """Render and write all videos, then the manifest, into an empty folder."""
    for name in demo_classes():
        (folder / name).mkdir()
    # Counted from 1, because seed sequences pad with zeros: [seed, 1] and [seed, 1, 0, 0] are the same seed.
    groups = [
        make_group(np.random.default_rng([settings.seed, group]), settings.height, settings.width)
        for group in range(1, settings.groups + 1)
    ]

    def make(clip: _Clip) -> None:
        frames = _render(clip, groups[clip.group - 1], settings)
        write(folder / clip.path, frames, settings.fps)

    clips = list(_clips(settings))
    # Threads, not processes: they start at once, need no guarded __main__, and most of the work is in OpenCV.
    with ThreadPoolExecutor(max_workers=min(8, available_cores())) as pool:
        results = pool.map(make, clips)
        with Progress(len(clips), "demo videos", enabled=progress) as line:
            for _ in results:
                line.finished()
    videos = {clip.path: (folder / clip.path).stat().st_size for clip in clips}
    manifest = {"format": _FORMAT, "settings": asdict(settings), "videos": videos}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _render(clip: _Clip, group: SourceGroup, settings: DemoSettings) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng([settings.seed, clip.group, clip.class_, clip.clip])
    frames = int(rng.integers(settings.min_frames, settings.max_frames, endpoint=True))
    return render_clip(rng, group, APPEARANCES[clip.appearance], MOTIONS[clip.motion], frames)


def _is_complete(root: Path, settings: DemoSettings) -> bool:
    """Say whether `root` holds all videos of these settings.

    Raises:
        DataError: it holds something that is not a demo of these settings.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"the demo needs a folder, but {root} is a file; name another folder")
    if not any(root.iterdir()):
        return False
    manifest = _read_manifest(root)
    if manifest is None:
        raise DataError(f"{root} holds other files than the demo's videos; name an empty or a new folder")
    wanted = {"format": _FORMAT, **asdict(settings)}
    found = {"format": manifest["format"], **manifest["settings"]}
    if found != wanted:
        names = [name for name in wanted if found.get(name) != wanted[name]]
        differences = ", ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in names)
        raise DataError(
            f"{root} holds a demo of other settings ({differences}); delete it or name another folder"
        )
    sizes: dict[str, int] = manifest["videos"]
    paths = [clip.path for clip in _clips(settings)]
    return all((root / path).is_file() and (root / path).stat().st_size == sizes.get(path) for path in paths)


def _read_manifest(root: Path) -> dict[str, Any] | None:
    """Read what a finished demo says of itself; None where there is no such thing."""
    try:
        manifest = json.loads((root / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    kinds = {"format": int, "settings": dict, "videos": dict}
    is_ours = isinstance(manifest, dict) and all(
        isinstance(manifest.get(key), kind) for key, kind in kinds.items()
    )
    return manifest if is_ours else None


def _check_ours(root: Path, settings: DemoSettings) -> None:
    """Make sure that nothing but a demo's files would be deleted with `root`.

    Raises:
        DataError: there is another file.
    """
    ours = {root / MANIFEST_NAME, *(root / clip.path for clip in _clips(settings))}
    foreign = [path for path in sorted(root.rglob("*")) if not path.is_dir() and path not in ours]
    if foreign:
        raise DataError(
            f"{root} holds a demo that lacks videos, and other files (such as {foreign[0].name}); "
            "delete it or name another folder"
        )


def _put_in_place(partial: Path, root: Path, settings: DemoSettings) -> None:
    """Rename the finished folder to `root`, in place of an empty folder or of the rest of a demo."""
    if root.exists():
        if _is_complete(root, settings):  # another run was quicker
            return
        _check_ours(root, settings)
        shutil.rmtree(root)
    partial.replace(root)


def _sweep(root: Path) -> None:
    """Delete what runs that were killed long ago left behind; younger folders may be in use."""
    if not root.parent.is_dir():
        return
    for leftover in root.parent.iterdir():
        if leftover.name.startswith(f".{root.name}.partial-"):
            with suppress(FileNotFoundError):  # another run has swept it
                if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
