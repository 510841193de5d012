"""Measure the memory that precomputing and reading take, for a long video against a short one.

    python tools/benchmark_memory.py --out reports/benchmarks

Generates two videos of 320x240 and 30 frames a second, of 10 seconds and 20 minutes, and runs `flow-cache precompute
--rgb` on each: peak resident memory of the largest process and of all processes together, sampled from /proc. Then
opens each cache file, and reads a window of 10 fields and a frame, in a fresh process: what that adds to its memory.
Writes memory.md and memory.csv. The cheapest method will do: memory for a chunk is the same in both. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.process_monitor import PRECOMPUTE, checkout_environment, own_memory, run_monitored
from benchmarks.report import bullet_list, markdown_table, provenance, write_csv, write_markdown
from flow_cache import run_program
from flow_cache.cache.reader import CacheReader
from flow_cache.runtime import opencv

FPS, WINDOW = 30, 10
LIBRARIES = ("numpy", "numba", "opencv-contrib-python", "imagecodecs")


@dataclass(frozen=True)
class Row:
    """One video; memory in MiB."""

    seconds: int
    """Length of the video."""
    fields: int
    megabytes: float
    """Size of the cache file."""
    largest: float
    """Peak resident memory of the largest process of `precompute`."""
    together: float
    """The same of all its processes, shared pages counted once."""
    open: float
    """What opening the cache file adds to a process."""
    read: float
    """What opening it and reading a window adds."""
    opening: float
    """Time of opening in multiples of reading the window."""


def write_video(path: Path, frames: int, width: int, height: int) -> None:
    """Write a video of a soft texture that drifts to and fro, frame by frame."""
    cv2 = opencv()
    noise = np.random.default_rng(0).integers(0, 256, (height + 64, width + 64, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 6)
    texture = cv2.normalize(texture, None, 20, 235, cv2.NORM_MINMAX)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    if not writer.isOpened():
        raise SystemExit(f"{path}: this OpenCV cannot write videos")
    for t in range(frames):
        x, y = (32 + 31 * np.sin([t / 40, t / 57])).round().astype(int)
        writer.write(np.ascontiguousarray(texture[y : y + height, x : x + width]))
    writer.release()


def measure(folder: Path, seconds: int, size: tuple[int, int], options: list[str]) -> Row:
    """Generate one video, precompute it and read from its cache."""
    videos, cache = folder / f"{seconds} s", folder / f"cache of {seconds} s"
    videos.mkdir()
    write_video(videos / "video.mp4", seconds * FPS, *size)
    # Two workers are asked for, as with more videos; one video has one.
    run = run_monitored(
        [*PRECOMPUTE, str(videos), "--out", str(cache), "--workers", "2", "--rgb", *options],
        memory=True, interval=0.2,
    )  # fmt: skip
    path = cache / "video.flow.zip"
    command = [sys.executable, __file__, "--measure-reading", str(path)]
    reading = subprocess.run(command, check=True, capture_output=True, text=True, env=checkout_environment())
    with CacheReader(path) as reader:
        if reader.num_frames != seconds * FPS:
            raise SystemExit(f"{path}: {reader.num_frames} frames, {seconds * FPS} were written")
        fields, megabytes = reader.num_fields, reader.file_size / 1e6
    return Row(seconds, fields, megabytes, run.largest, run.together, **json.loads(reading.stdout))


def measure_reading(path: Path) -> dict[str, float]:
    """Open a cache file and read a window of it in this process, which must be fresh."""
    np.empty(0)
    before = own_memory("VmHWM")
    reader = CacheReader(path)
    opened = own_memory("VmHWM")
    middle = reader.num_fields // 2 - WINDOW // 2
    reader.flow(range(middle, middle + WINDOW))
    reader.rgb([middle])
    read = own_memory("VmHWM")
    reader.close()
    opening, window = [], []
    for _ in range(5):
        started = time.perf_counter()
        with CacheReader(path) as reader:
            opening.append(time.perf_counter() - started)
            started = time.perf_counter()
            reader.flow(range(middle, middle + WINDOW))
            window.append(time.perf_counter() - started)
    return {"open": opened - before, "read": read - before, "opening": min(opening) / min(window)}


def report(out: Path, rows: list[Row], size: tuple[int, int], options: list[str]) -> None:
    """Write the tables."""
    write_csv(out / "memory.csv", [asdict(row) for row in rows])
    short, long = rows
    head = ("video", "fields", "cache file, MB", "largest process, MiB", "all processes, MiB", "opening adds, MiB",
            "a window adds, MiB", "opening / window")  # fmt: skip
    table = [
        (f"{r.seconds:,} s", f"{r.fields:,}", f"{r.megabytes:.1f}", f"{r.largest:.0f}", f"{r.together:.0f}",
         f"{r.open:.1f}", f"{r.read:.1f}", f"{r.opening:.2f}")
        for r in rows
    ]  # fmt: skip
    write_markdown(
        out / "memory.md",
        "Memory of the flow cache",
        [
            f"Generated videos of {size[0]}x{size[1]}, {FPS} frames a second; `flow-cache precompute --rgb",
            f"{' '.join(options)}`. A window is {WINDOW} fields and a frame.",
            "",
            *bullet_list(provenance(*LIBRARIES)),
            "",
            *markdown_table(head, table),
            f"The long video takes {long.largest / short.largest:.2f} times the memory of the short one by the largest",
            f"process, {long.together / short.together:.2f} times by all together.",
            "",
        ],
    )


def main() -> int:
    """Parse the arguments, measure, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument(
        "--seconds", type=int, nargs=2, default=(10, 1200), help="lengths of the videos (default: 10 1200)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 240), help="width and height (default: 320 240)"
    )
    parser.add_argument("--method", default="farneback", help="default: %(default)s")
    parser.add_argument("--preset", default="opencv", help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, default=None, help="where videos and caches are written")
    parser.add_argument("--measure-reading", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_reading:
        print(json.dumps(measure_reading(arguments.measure_reading)))
        return 0
    if arguments.out is None:
        parser.error("--out: name a folder for the report")
    options = ["--method", arguments.method, "--preset", arguments.preset]
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for seconds in arguments.seconds:
            rows.append(measure(Path(scratch), seconds, tuple(arguments.size), options))
            row = rows[-1]
            print(f"{seconds} s: {row.largest:.0f} MiB, all {row.together:.0f} MiB", flush=True)
    report(arguments.out, rows, tuple(arguments.size), options)
    print(f"report: {arguments.out / 'memory.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program("benchmark_memory", main))
