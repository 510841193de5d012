"""What the benchmarks share: real frames, timing in turns, where it was measured, tables."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.cores import available_cores
from flow_cache.errors import FlowCacheError
from flow_cache.frames import find_videos, read_frames

Frames = NDArray[np.uint8]


def pick_videos(folder: Path, count: int) -> list[Path]:
    """Choose `count` videos, evenly spread over all that a folder holds by name."""
    try:
        videos = find_videos(folder)
    except FlowCacheError as error:
        raise SystemExit(str(error)) from error
    if not videos:
        raise SystemExit(f"{folder} holds no videos")
    places = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int)
    return [videos[place] for place in places]


def read_pairs(videos: Sequence[Path], width: int, height: int) -> tuple[Frames, Frames]:
    """Read the two grey frames in the middle of each video, resized: two stacks (N, H, W)."""
    firsts, seconds = [], []
    for video in videos:
        greys = [frame.grey for frame in read_frames(video, size=(width, height))]
        if len(greys) < 2:
            raise SystemExit(f"{video} has {len(greys)} frame, a pair needs 2")
        middle = len(greys) // 2
        firsts.append(greys[middle - 1])
        seconds.append(greys[middle])
    return np.stack(firsts), np.stack(seconds)


def time_in_turns(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run every task `repeats` times, one after the other in each round; returns seconds."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return times


def provenance(*libraries: str) -> dict[str, str]:
    """Say what was run, on which commit, machine and versions."""
    commit = _git("rev-parse", "HEAD")
    state = " with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    command = [Path(sys.executable).name, os.path.relpath(sys.argv[0]), *sys.argv[1:]]
    return {
        "command": f"`{shlex.join(command)}`",
        "commit": (commit or "not a git checkout") + state,
        "machine": f"{_processor()}, {available_cores()} cores, {platform.platform()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in libraries)]
        ),
    }


def _git(*arguments: str) -> str:
    """Ask git; nothing where there is none, or no checkout."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, an empty one after it."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
