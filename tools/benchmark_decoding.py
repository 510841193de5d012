"""Compare our decoding of videos with OpenCV's: short clips, a 1080p file, and videos on a server.

    python tools/benchmark_decoding.py VIDEOS --remote --out reports/benchmarks

First agreement: the same number of frames, and by how many levels they differ at most. Then time: each contestant runs
in a process of its own, so that none profits from the memory that another one keeps; they take turns in every round,
and all files have been read before. With one thread it is the processor time, with all threads the time that passes.
OpenCV gets its number of threads through CAP_PROP_N_THREADS. Times are multiples of OpenCV's in the same round. Without
VIDEOS the clips are generated, as the 1080p file always is. `benchmarks/remote_reading.py` is the part of `--remote`.
Writes decoding.md, decoding.csv and decoding_remote.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.process_monitor import checkout_environment
from benchmarks.remote_reading import RemoteRow, measure_remote
from benchmarks.report import bullet_list, format_range, provenance, section, write_csv, write_markdown
from benchmarks.timing import ratios
from benchmarks.videos import Frames, pick_videos
from flow_cache import run_program
from flow_cache.runtime import available_cores, opencv, pyav
from flow_cache.video.container import read_header
from flow_cache.video.decoder import decode_file

LIBRARIES = ("numpy", "av", "opencv-contrib-python", "fsspec", "aiohttp")
OPENCV = "OpenCV"
ABOUT = """\
`ours` is what `precompute` and `predict` decode with, damage detection included. The others tell where the time goes:
PyAV in a bare loop that looks for no damage, and opening alone. Lower is quicker; in brackets the lowest and the
highest round.
"""
ABOUT_REMOTE = """\
Time that passes, in multiples of what is done today: the video is copied, hashed and decoded from the copy. The other
ways hash fsspec's file and open it with PyAV, with each of its caches. The server is on this machine, waits before
each answer and sends at most {speed:g} MB/s a connection.
"""


@dataclass(frozen=True)
class Row:
    """One contestant on one set of files; time is in multiples of OpenCV's."""

    files: str
    frames: int
    threads: int
    contestant: str
    time: float
    low: float
    high: float
    difference: int
    """Levels by which ours differs from OpenCV at most."""


def ours(path: Path, threads: int) -> None:
    """Decode a file as the packages do."""
    for _ in decode_file(path, threads):
        pass


def opencv_frames(path: Path, threads: int) -> Iterator[Frames]:
    """Decode a file with OpenCV."""
    cv = opencv()
    capture = cv.VideoCapture(str(path), cv.CAP_FFMPEG, [cv.CAP_PROP_N_THREADS, threads])
    while (taken := capture.read())[0]:
        yield taken[1]
    capture.release()


def with_opencv(path: Path, threads: int) -> None:
    """Decode a file with OpenCV."""
    for _ in opencv_frames(path, threads):
        pass


def bare_pyav(path: Path, threads: int) -> None:
    """Decode and convert as we do, without looking for damage."""
    with pyav().open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = "NONE" if threads == 1 else "FRAME"
        for frame in container.decode(stream):
            _REFORMATTER.reformat(frame, format="bgr24", interpolation=4, threads=threads)


def open_ours(path: Path, threads: int) -> None:
    """Open a file and read its header."""
    read_header(path)


def open_opencv(path: Path, threads: int) -> None:
    """Open a file with OpenCV."""
    cv = opencv()
    cv.VideoCapture(str(path), cv.CAP_FFMPEG, [cv.CAP_PROP_N_THREADS, threads]).release()


_REFORMATTER = pyav().video.reformatter.VideoReformatter()
CONTESTANTS: dict[str, Callable[[Path, int], None]] = {
    OPENCV: with_opencv,
    "ours": ours,
    "PyAV in a bare loop": bare_pyav,
    "ours, opening only": open_ours,
    "OpenCV, opening only": open_opencv,
}


def contest(name: str, files: Sequence[Path], threads: int) -> None:
    """Do the work of one contestant, once for each line of standard input; prints the seconds it took."""
    work = CONTESTANTS[name]
    opencv().setNumThreads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    for path in files:
        work(path, threads)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = clock()
        for path in files:
            work(path, threads)
        print(clock() - started, flush=True)


class Contestant:
    """A process that works when it is told to."""

    def __init__(self, name: str, files: Sequence[Path], threads: int) -> None:
        request = json.dumps([name, list(map(str, files)), threads])
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--contest", request],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=checkout_environment(),
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"a contestant ended: {self._process.args!r}")
        return line

    def seconds(self) -> float:
        """Let it work once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def agreement(files: Sequence[Path]) -> tuple[int, int]:
    """Return the number of frames of all files, and how many levels ours differ from OpenCV's at most."""
    count = difference = 0
    for path in files:
        theirs = opencv_frames(path, 1)
        for image in decode_file(path, 1):
            other = next(theirs, None)
            if other is None or other.shape != image.shape:
                raise SystemExit(f"{path}: OpenCV gives fewer frames, or of another size")
            difference = max(difference, int(opencv().absdiff(image, other).max()))
            count += 1
        if next(theirs, None) is not None:
            raise SystemExit(f"{path}: OpenCV gives more frames")
    return count, difference


def measure(name: str, files: Sequence[Path], threads: int, repeats: int) -> list[Row]:
    """Compare the contestants on some files."""
    count, difference = agreement(files)
    contestants = {contestant: Contestant(contestant, files, threads) for contestant in CONTESTANTS}
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(repeats):
        for contestant, process in contestants.items():
            times[contestant].append(process.seconds())
    for process in contestants.values():
        process.end()
    rows = [
        Row(name, count, threads, contestant, *ratios(seconds, times[OPENCV]), difference)
        for contestant, seconds in times.items()
    ]
    for row in rows:
        print(f"{name}, {threads} threads: {row.contestant} {row.time:.3f}", flush=True)
    return rows


def write_video(
    path: Path, codec: str, frames: int, size: tuple[int, int], seed: int, rate: int = 0, movflags: str = ""
) -> None:
    """Write a video of a soft texture that drifts, with the noise of a camera."""
    cv, rng, (width, height) = opencv(), np.random.default_rng(seed), size
    large = rng.normal(size=(height + 128, width + 128, 3)).astype(np.float32)
    soft = sum(sigma * cv.GaussianBlur(large, (0, 0), sigma) for sigma in (1, 3, 8))
    texture = cv.normalize(soft, None, 10, 245, cv.NORM_MINMAX).astype(np.uint8)
    noise = rng.normal(0, 2, size=(8, height, width, 3)).astype(np.int8)
    with pyav().open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = width, height
        stream.pix_fmt = "uyvy422" if codec == "rawvideo" else "yuv420p"
        if rate:
            stream.bit_rate = rate
            stream.codec_context.max_b_frames = 2 * (seed % 3 == 2)
        if codec == "libx264":
            stream.options = {"preset": "veryfast"}
        for t in range(frames):
            x, y = (64 + 63 * np.sin([t / 40, t / 57 + seed])).astype(int)
            picture = cv.add(texture[y : y + height, x : x + width], noise[t % 8], dtype=cv.CV_8U)
            frame = pyav().VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = t, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def generate_clips(folder: Path, count: int) -> list[Path]:
    """Write clips as JHMDB's: MPEG-4 in AVI, 320x240, 15 to 40 frames."""
    folder.mkdir()
    lengths = np.random.default_rng(0).integers(15, 41, count)
    for number, frames in enumerate(lengths):
        write_video(folder / f"{number}.avi", "mpeg4", int(frames), (320, 240), number, 800_000)
    return sorted(folder.iterdir())


def report(out: Path, clips: str, rows: Sequence[Row], remote: Sequence[RemoteRow], speed: float) -> None:
    """Write the tables."""
    write_csv(out / "decoding.csv", [asdict(row) for row in rows])
    head = ("files", "frames", "threads", "contestant", "time / OpenCV's", "levels apart, at most")
    table = [
        (row.files, f"{row.frames:,}", str(row.threads), row.contestant,
         format_range(row.time, row.low, row.high, 2), str(row.difference) if row.contestant == "ours" else "")
        for row in rows
    ]  # fmt: skip
    parts = [
        [f"Clips: {clips}.", "", *bullet_list(provenance(*LIBRARIES)), ""],
        section("Decoding", ABOUT, head, table),
    ]
    if remote:
        write_csv(out / "decoding_remote.csv", [asdict(row) for row in remote])
        head = ("files", "latency, ms", "way", "time / copying", "requests", "MB")
        table = [
            (row.files, f"{row.latency:g}", row.way, format_range(row.time, row.low, row.high, 2),
             str(row.requests), f"{row.megabytes:.1f}")
            for row in remote
        ]  # fmt: skip
        parts.append(section("Videos on a server", ABOUT_REMOTE.format(speed=speed), head, table))
    write_markdown(out / "decoding.md", "Decoding", *parts)


def main() -> int:
    """Parse the arguments, measure, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, nargs="?", help="folder of clips (default: generated ones)")
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--clips", type=int, default=60, help="how many clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=90, help="of the 1080p file (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--remote", action="store_true", help="videos on a server, too")
    parser.add_argument(
        "--latency", type=float, nargs="+", default=(0, 5, 50), help="of a request, ms (default: 0 5 50)"
    )
    parser.add_argument("--speed", type=float, default=100, help="of the server, MB/s (default: %(default)s)")
    parser.add_argument(
        "--large", type=float, default=100, help="size of the large remote file, MB (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="few small files: to try the tool itself")
    parser.add_argument("--scratch", type=Path, default=None, help="where videos are written")
    parser.add_argument("--contest", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contest:
        name, files, threads = json.loads(arguments.contest)
        contest(name, list(map(Path, files)), threads)
        return 0
    if arguments.out is None:
        parser.error("--out: name a folder for the report")
    quick = arguments.quick
    count, repeats = (3, 2) if quick else (arguments.clips, arguments.repeats)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        if arguments.videos is None:
            clips = generate_clips(folder / "clips", count)
            about = f"{count} generated, MPEG-4 in AVI, 320x240"
        else:
            clips = pick_videos(arguments.videos, count)
            about = f"{len(clips)} of {arguments.videos}"
        large = folder / "1080p.mp4"
        size = (320, 180) if quick else (1920, 1080)
        write_video(large, "libx264", 20 if quick else arguments.frames, size, 2, 8_000_000)
        rows = measure("clips", clips, 1, repeats)
        for threads in sorted({1, available_cores()}):
            rows += measure("H.264, 1080p", [large], threads, repeats)
        report(arguments.out, about, rows, [], arguments.speed)  # the rest takes long
        if arguments.remote:
            few = 2 if quick else 20
            sets = {f"{few} clips": generate_clips(folder / "remote", few)}
            sets |= large_files(folder / "large", 0.2 if quick else arguments.large)
            latencies = (0.0, 1.0) if quick else arguments.latency
            remote = measure_remote(sets, latencies, arguments.speed, 2 if quick else min(repeats, 3))
            report(arguments.out, about, rows, remote, arguments.speed)
    print(f"report: {arguments.out / 'decoding.md'}")
    return 0


def large_files(folder: Path, megabytes: float) -> dict[str, list[Path]]:
    """Write a large file whose index stands at its end, and one with it at the beginning; both cheap to decode."""
    found, size = {}, (640, 360)
    frames = max(2, round(megabytes * 1e6 / (2 * size[0] * size[1])))
    for place, movflags in (("end", ""), ("beginning", "faststart")):
        path = folder / f"index at the {place}" / "a.mov"
        path.parent.mkdir(parents=True)
        write_video(path, "rawvideo", frames, size, 0, movflags=movflags)
        found[f"{path.stat().st_size / 1e6:.1f} MB, index at the {place}"] = [path]
    return found


if __name__ == "__main__":
    sys.exit(run_program("benchmark_decoding", main))
