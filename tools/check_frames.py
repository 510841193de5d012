"""Compare the frames of all videos below a folder, as `flow_cache` decodes them, with the `ffmpeg` program's own.

    python tools/check_frames.py data/jhmdb --csv frames.csv
    python tools/check_frames.py --encodings FOLDER    # writes 130 short videos of many encodings there first

Count, order and levels are compared: each of our frames with the one that ffmpeg writes at the same place, over a pipe,
so that memory does not grow with a video's length. ffmpeg is told to show what a player does (the main stream, upright)
and to neither repeat nor drop frames for a steady rate. Verdicts:

    equal       no level differs
    close       the same frames; levels differ as roundings of two versions of libswscale do: by 1.5 on average and 16
                at most, by more than 5 in fewer than one of 5,000 in any frame (at saturated edges)
    siting      as `equal` or `close` once ffmpeg is told that chroma samples stand left, as MPEG-4, H.264 and HEVC
                state it. Newer libswscale reads that from the frame, older ones do not
    resized     as `equal` or `close`, where pixels are not square: ffmpeg's frame was resized as ours
    damaged     both report damage, and the frames before it agree; or neither can read the file
    explained   a generated encoding of which it is known why only ffmpeg, or only flow_cache, complains
    unsaid      the same frames, but ffmpeg complains and flow_cache does not
    differs     anything else

Exit status 0, 1 if any video differs or is unsaid, 2 if there is no ffmpeg.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from benchmarks.encodings import EXPLAINED, write_all
from benchmarks.report import markdown_table, write_csv
from flow_cache import run_program
from flow_cache.errors import VideoError
from flow_cache.runtime import opencv
from flow_cache.video.container import read_header
from flow_cache.video.find import find_videos
from flow_cache.video.frames import read_frames

Image = NDArray[np.uint8]
# What the search for videos leaves out, since data sets do not hold it.
MORE_SUFFIXES = {".apng", ".dv", ".ivf", ".m1v", ".m2v", ".mxf", ".nut", ".ogg", ".rm"}
_SQUARE = "1:1"
_COMPLAINT = re.compile(r"\[(error|fatal|panic)\]|\[warning\] .*corrupt")
_MEAN, _LARGEST, _ROUNDED, _SHARE = 1.5, 16, 5, 1 / 5000  # what is close
BAD = {"differs", "unsaid"}
_LEFT = ":in_h_chr_pos=0"


class OurFrames:
    """Frames of a video as flow_cache decodes them.

    Attributes:
        failure: why they end early; None if they do not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failure: str | None = None

    def __iter__(self) -> Iterator[Image]:
        try:
            for frame in read_frames(self._path, rgb=True, threads=1):
                assert frame.rgb is not None
                yield frame.rgb
        except VideoError as error:
            self.failure = error.reason


class ProgramFrames:
    """Frames of a video as the ffmpeg program writes them.

    Attributes:
        failure: the first error that ffmpeg wrote; None if there is none.
        pixel_aspect: width to height of a pixel, as ffmpeg states it for what it wrote.
    """

    def __init__(self, ffmpeg: str, path: Path, scale: str = "") -> None:
        # Fields of interlaced frames are converted one by one (interl=-1), as libswscale does by itself from version 9
        # on. Each frame is a PPM picture: its size comes with it, turned or not.
        self._command = [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info", "-threads", "1"),
            *("-i", str(path.absolute()), "-an", "-sn", "-dn", "-fps_mode", "passthrough"),
            *(
                "-vf",
                f"scale=flags=bicubic:interl=-1{scale}",
                "-pix_fmt",
                "rgb24",
                "-c:v",
                "ppm",
                "-f",
                "image2pipe",
                "-",
            ),
        ]
        self.failure: str | None = None
        self.pixel_aspect = _SQUARE

    def __iter__(self) -> Iterator[Image]:
        with tempfile.TemporaryFile("w+", errors="replace") as messages:
            program = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=messages)
            assert program.stdout is not None
            try:
                while (image := _read_ppm(program.stdout)) is not None:
                    yield image
            finally:
                program.stdout.close()  # a program that still writes ends at that
                status = program.wait()
                messages.seek(0)
                self._listen(messages, status)

    def _listen(self, messages: IO[str], status: int) -> None:
        written = False
        for line in messages:
            about_output = "[image2pipe @" in line  # which only says that times go back
            if self.failure is None and not about_output and _COMPLAINT.search(line):
                self.failure = line.strip()
            written = written or "Output #0" in line
            if written and "Video: ppm" in line and (stated := re.search(r"SAR (\d+:\d+)", line)):
                self.pixel_aspect = stated.group(1)
        if status != 0 and self.failure is None:
            self.failure = f"exit status {status}"


def _read_ppm(stream: IO[bytes]) -> Image | None:
    """Read one picture; None at the end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()
    data = stream.read(3 * width * height)
    return (
        np.frombuffer(data, np.uint8).reshape(height, width, 3) if len(data) == 3 * width * height else None
    )


@dataclass
class Row:
    """How the frames of one video compare."""

    video: str
    codec: str = ""
    size: str = ""
    ours: int = 0
    program: int = 0
    first_difference: int | None = None
    """The first frame at which a level differs."""
    largest: int = 0
    """Largest difference of a level, in frames that both have."""
    mean: float = 0.0
    """Mean difference, over all levels of these frames."""
    verdict: str = ""
    why: str = ""
    """What was said about it, by us or by ffmpeg."""


def compare(name: str, ours: OurFrames, program: ProgramFrames) -> Row:
    """Compare the frames of a video, in order.

    Args:
        name: of the video.
        ours: its frames, and why they end.
        program: the same of ffmpeg.
    """
    row = Row(name)
    theirs, total, compared, close = iter(program), 0.0, 0, True
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = (
        None  # ffmpeg's and ours, where they are not the same
    )
    for image in ours:
        row.ours += 1
        row.size = row.size or f"{image.shape[1]}x{image.shape[0]}"
        other = next(theirs, None)
        if other is None:
            continue
        row.program += 1
        if other.shape != image.shape:
            shapes = other.shape, image.shape
            other = _resized(other, image.shape)
        distance = np.abs(image.astype(np.int16) - other)
        row.largest = max(row.largest, int(distance.max()))
        total += float(distance.sum())
        compared += distance.size
        close = close and np.count_nonzero(distance > _ROUNDED) < _SHARE * distance.size
        if row.first_difference is None and distance.any():
            row.first_difference = row.ours - 1
    row.program += sum(1 for _ in theirs)
    row.mean = total / max(compared, 1)
    alike = close and row.largest <= _LARGEST and row.mean <= _MEAN
    row.verdict, row.why = _verdict(row, alike, shapes, ours.failure, program)
    return row


def _resized(image: Image, shape: tuple[int, ...]) -> Image:
    """Resize an image of pixels that are not square as flow_cache does."""
    cv2 = opencv()
    shrinks = shape[0] <= image.shape[0] and shape[1] <= image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(image, (shape[1], shape[0]), interpolation=how)
    return resized


def _squares(shape: tuple[int, ...], pixel_aspect: str) -> set[tuple[int, ...]]:
    """Return which shapes a frame may have after its stored width was resized; it may have been turned then."""
    width, height = map(int, pixel_aspect.split(":"))
    ratio = Fraction(width, height) if width and height else Fraction(1)
    half = Fraction(1, 2)
    wide, high = int(shape[1] * ratio + half), int(shape[0] / ratio + half)
    return {(shape[0], wide, 3), (high, shape[1], 3)}


def _verdict(
    row: Row,
    alike: bool,
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None,
    failure: str | None,
    program: ProgramFrames,
) -> tuple[str, str]:
    """Judge what was measured; returns the verdict and what explains it."""
    if row.ours == row.program == 0:
        return "damaged", f"neither shows a frame; ours: {failure}; ffmpeg: {program.failure}"
    if failure is not None:
        said = f"ours: {failure}; ffmpeg: {program.failure}"
        return "damaged" if alike and program.failure is not None else "differs", said
    if row.ours != row.program or not alike:
        return "differs", program.failure or ""
    if program.failure is not None:
        return "unsaid", f"ffmpeg: {program.failure}"
    if shapes is not None:
        if shapes[1] not in _squares(shapes[0], program.pixel_aspect):
            return "differs", f"another size; ffmpeg states pixels of {program.pixel_aspect}"
        return "resized", f"pixels of {program.pixel_aspect}"
    return ("equal" if row.largest == 0 else "close"), ""


def videos_below(folder: Path) -> list[Path]:
    """List the video files below a folder; folders of images are none."""
    more = (path for path in folder.rglob("*") if path.suffix.lower() in MORE_SUFFIXES and path.is_file())
    return sorted({*(path for path in map(Path, map(str, find_videos(folder))) if path.is_file()), *more})


def check(
    videos: dict[str, Path],
    ffmpeg: str,
    known: Mapping[str, str],
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Compare videos by name.

    Args:
        videos: the files.
        ffmpeg: the program.
        known: why some are known to differ.
        tell: gets a line of progress now and then.
        clock: current time in seconds.
    """
    rows, frames = [], 0
    started = told = clock()
    for number, (name, path) in enumerate(videos.items(), 1):
        row = compare(name, OurFrames(path), ProgramFrames(ffmpeg, path))
        if row.verdict == "differs" and row.ours == row.program:
            left = compare(name, OurFrames(path), ProgramFrames(ffmpeg, path, _LEFT))
            if left.verdict in ("equal", "close"):
                row = replace(left, verdict="siting", why="chroma samples stand left")
        if row.verdict in ("unsaid", "differs") and name in known:
            row = replace(row, verdict="explained", why=known[name])
        with contextlib.suppress(VideoError):
            row.codec = read_header(path).codec
        rows.append(row)
        frames += row.ours
        if clock() - told > 10 or number == len(videos):
            told = clock()
            rate = frames / max(told - started, 1e-9)
            different = sum(row.verdict in BAD for row in rows)
            tell(f"{number} of {len(videos)} videos, {rate:.0f} frames/s, {different} differ")
    return rows


def table(rows: list[Row]) -> list[str]:
    """Return the lines of a markdown table."""
    head = ("video", "codec", "size", "ours", "ffmpeg's", "first difference", "largest", "mean", "verdict")
    return markdown_table(
        head,
        [
            (row.video, row.codec, row.size, str(row.ours), str(row.program),
             "" if row.first_difference is None else str(row.first_difference), str(row.largest),
             f"{row.mean:.3f}", row.verdict + (f" ({row.why})" if row.why else ""))
            for row in rows
        ],
    )  # fmt: skip


def main() -> int:
    """Parse the arguments, compare, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the videos")
    parser.add_argument(
        "--ffmpeg", default="ffmpeg", metavar="PATH", help="the program (default: that of PATH)"
    )
    parser.add_argument("--csv", type=Path, help="write the table there, too")
    parser.add_argument(
        "--encodings", action="store_true", help="write generated videos into the folder first, and name them"
    )
    given = parser.parse_args()
    ffmpeg = shutil.which(given.ffmpeg)
    if ffmpeg is None:
        print(f"{given.ffmpeg}: no such program; install ffmpeg, or name it with --ffmpeg", file=sys.stderr)
        return 2
    if given.encodings:
        given.folder.mkdir(parents=True, exist_ok=True)
        videos, failed = write_all(given.folder)
        for name, reason in failed.items():
            print(f"{name}: cannot be written here ({reason})", file=sys.stderr)
    else:
        if not given.folder.is_dir():
            print(f"{given.folder}: no such folder", file=sys.stderr)
            return 2
        videos = {path.relative_to(given.folder).as_posix(): path for path in videos_below(given.folder)}
    if not videos:
        print(f"{given.folder}: no videos", file=sys.stderr)
        return 2
    rows = check(
        videos,
        ffmpeg,
        EXPLAINED if given.encodings else {},
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    print("\n".join(table(rows)))
    counts = Counter(row.verdict for row in rows)
    print(
        f"{len(rows):,} videos, {sum(row.ours for row in rows):,} frames:",
        ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(counts.items())),
    )
    if given.csv is not None:
        write_csv(given.csv, [asdict(row) for row in rows])
    return 1 if BAD & counts.keys() else 0


if __name__ == "__main__":
    sys.exit(run_program("check_frames", main))
