"""Write small generated videos under the official names of UCF-101: its shape, where the data set itself is not there.

    python tools/make_shaped_dataset.py data/ucf101-shaped --lists data/splits/ucf101

Names, hence classes, source groups and official splits, are those of the lists: 13,320 videos of 101 classes. Each is
a clip of the demo's scenes, 64x48 pixels, 20 to 40 frames, MPEG-4; each class has a look of its own (the shirt's colour
and how the person moves), each source group its wallpaper, light and person. `--classes 50` writes the first 50
classes, which is the shape of UCF-50. Equal seeds give equal bytes. A video appears whole or not at all; the same
command goes on where it was interrupted. `shaped.json` says what the folder holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from math import cos, pi, sin
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks import ROOT  # noqa: F401 - to import it is to take the packages of this checkout
from flow_cache import Progress, available_cores, format_seconds, leave_signals_to_parent, signals_blocked
from twostream.cli.errors import run_command
from twostream.data.annotations.text import list_entries, read_rows
from twostream.data.annotations.ucf import UCF_LIST, read_class_index
from twostream.data.groups import assign_groups
from twostream.demo.scene import Chroma, Motion, make_group, render_clip
from twostream.errors import ConfigError, DataError
from twostream.files import replacing, write_text

WIDTH, HEIGHT, FPS = 64, 48, 25
MIN_FRAMES, MAX_FRAMES = 20, 40
MANIFEST_NAME = "shaped.json"
_FORMAT = 1  # counted up when the same seed would give other videos
_QUANTISER = "6"  # of MPEG-4, 1 to 31: 15 kB a video
_HUES, _COLOURFUL = 11, 55.0  # shirts, 33 degrees apart in Cr and Cb; how far from grey they are


def _directions(count: int) -> list[tuple[float, float]]:
    return [(cos(2 * pi * k / count), sin(2 * pi * k / count)) for k in range(count)]


SHIRTS: tuple[Chroma, ...] = tuple((_COLOURFUL * x, _COLOURFUL * y) for x, y in _directions(_HUES))
MOTIONS: tuple[Motion, ...] = (
    *(Motion(walk=direction) for direction in _directions(8)),
    Motion(bounce=(0.0, 1.0)),
    Motion(bounce=(1.0, 0.0)),
)


class Source(NamedTuple):
    """The clips of one source group of one class; class and group are counted from 1."""

    number: int
    group: int
    names: tuple[str, ...]


def look_of(number: int) -> tuple[Chroma, Motion]:
    """Return the shirt and the motion of a class, counted from 1: neighbours differ in the shirt."""
    motion, shirt = divmod(number - 1, len(SHIRTS))
    return SHIRTS[shirt], MOTIONS[motion]


def list_sources(lists: Path, classes: int | None = None) -> list[Source]:
    """Read which videos there are from the official lists, by class and source group.

    Args:
        lists: the folder of `trainlist01.txt`, `testlist01.txt`, … and `classInd.txt`.
        classes: how many of the classes to take, the first ones; None for all.

    Raises:
        DataError: the folder holds no such lists.
        ConfigError: more classes than the lists have, or than there are looks.
    """
    files = [path for path in list_entries(lists) if UCF_LIST.fullmatch(path.name)]
    names = sorted({row.split()[0] for path in files for _, row in read_rows(path)})
    numbers = {name: number for number, name in read_class_index(lists / "classInd.txt").items()}
    if not names or not numbers:
        raise DataError(f"{lists} lacks UCF's lists: expected trainlist01.txt, testlist01.txt, classInd.txt")
    looks = len(SHIRTS) * len(MOTIONS)
    if not 1 <= (classes or len(numbers)) <= min(len(numbers), looks):
        raise ConfigError(
            f"--classes must be from 1 to {min(len(numbers), looks)} ({len(numbers)} are listed, there are {looks}"
            f" looks), got {classes or len(numbers)}"
        )
    wanted = [name for name in names if numbers[name.partition("/")[0]] <= (classes or len(numbers))]
    groups, _ = assign_groups([(name, name.partition("/")[0]) for name in wanted], "ucf")
    clips: dict[tuple[int, int], list[str]] = {}
    for name, group in zip(wanted, groups, strict=True):
        key = numbers[name.partition("/")[0]], int(group.rpartition("_g")[2])
        clips.setdefault(key, []).append(name)
    return [Source(*key, tuple(members)) for key, members in sorted(clips.items())]


def render(source: Source, name: str, seed: int) -> npt.NDArray[np.uint8]:
    """Render one clip of a source, `(T, 48, 64, 3) uint8` RGB; equal seeds give equal pixels, whatever else is made."""
    # Counted from 1, because seed sequences pad with zeros.
    own = [seed, source.number, source.group]
    group = make_group(np.random.default_rng(own), HEIGHT, WIDTH)
    rng = np.random.default_rng([*own, int(Path(name).stem.rpartition("_c")[2])])
    frames = int(rng.integers(MIN_FRAMES, MAX_FRAMES, endpoint=True))
    return render_clip(rng, group, *look_of(source.number), frames)


def write_video(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Write `(T, H, W, 3) uint8` RGB frames as MPEG-4 in AVI; the same bytes for the same frames."""
    options = {"qmin": _QUANTISER, "qmax": _QUANTISER, "flags": "+bitexact"}
    with (
        replacing(path) as partial,
        av.open(str(partial), "w", format="avi", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("mpeg4", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_source(root: Path, source: Source, seed: int) -> int:
    """Write those clips of a source that are not there yet; returns how many it wrote."""
    missing = [name for name in source.names if not (root / name).exists()]
    for name in missing:
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, render(source, name, seed))
    return len(missing)


def write_dataset(root: Path, sources: Sequence[Source], seed: int = 0, workers: int | None = None) -> int:
    """Write the videos that a folder lacks; returns how many were written.

    Args:
        root: the folder; absent, empty, or with videos of the same kind.
        sources: what is wanted.
        seed: of everything that is drawn.
        workers: processes; None for one a core.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    try:
        _claim(root, {"format": _FORMAT, "seed": seed, "size": [WIDTH, HEIGHT], "fps": FPS})
        return _write_all(root, sources, seed, workers or available_cores())
    except OSError as error:
        raise DataError(f"cannot write videos to {root}: {error}") from error


def _claim(root: Path, about: Mapping[str, object]) -> None:
    """Make the folder, or check that it holds videos of the same kind; DataError if it holds something else."""
    manifest = root / MANIFEST_NAME
    root.mkdir(parents=True, exist_ok=True)
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found != about:
            raise DataError(
                f"{root} holds other videos ({found}, asked for: {dict(about)}); name another folder"
            )
    elif any(root.iterdir()):
        raise DataError(f"{root} holds other files than generated videos; name an empty or a new folder")
    else:
        write_text(manifest, json.dumps(about) + "\n")


def _write_all(root: Path, sources: Sequence[Source], seed: int, workers: int) -> int:
    """Write what is missing, in several processes, with a live line on stderr; returns how many videos were written."""
    left = [source for source in sources if not all((root / name).exists() for name in source.names)]
    count = sum(len(source.names) for source in left)
    written = 0
    # New interpreters: a fork would copy locks that threads of OpenCV hold.
    pool = ProcessPoolExecutor(
        max(1, min(workers, len(left))), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    with pool, Progress(count, "videos") as line:
        try:
            with signals_blocked():  # until the workers ignore Ctrl-C themselves
                futures = {pool.submit(write_source, root, source, seed): source for source in left}
            for future in as_completed(futures):
                written += future.result()
                for _ in futures[future].names:
                    line.finished()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that writes videos was killed; the same command goes on from there"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # what has begun is written to its end
    return written


def _start_worker() -> None:
    leave_signals_to_parent()
    cv2.setNumThreads(1)


def run(arguments: Sequence[str]) -> int:
    """Parse the arguments and write the videos."""
    parser = argparse.ArgumentParser(
        prog="make_shaped_dataset.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder of the videos")
    parser.add_argument("--classes", type=int, help="the first N classes only (default: all)")
    parser.add_argument(
        "--lists", type=Path, default=Path("data/splits/ucf101"), help="official lists (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), help="processes (default: one per core)"
    )
    given = parser.parse_args(arguments)
    if given.seed < 0 or given.workers < 1:
        raise ConfigError(f"--seed must be at least 0 and --workers 1, got {given.seed} and {given.workers}")
    sources = list_sources(given.lists, given.classes)
    started = time.monotonic()
    written = write_dataset(given.out, sources, given.seed, given.workers)
    seconds = max(time.monotonic() - started, 1e-9)
    total = sum(len(source.names) for source in sources)
    print(
        f"{given.out}: {total} videos of {len({source.number for source in sources})} classes and {len(sources)} source"
        f" groups, {written} written in {format_seconds(seconds)} ({written / seconds:.0f} a second)"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the given arguments (None: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command("make_shaped_dataset", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
