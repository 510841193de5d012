"""Kill `flow-cache precompute` at random moments, resume it, and compare the cache with one made in one go.

    python tools/kill_precompute.py VIDEOS --kills 10 --seed 0 -- --method tvl1 --rgb

What follows `--` goes to `precompute`. First a reference is made without interruption, and the frames of every video
are counted by another decoder (PyAV, or OpenCV where that is not installed): fields must be frames - step. Then a
second cache is made under SIGKILL: of the whole process group, of the main process alone, or of one worker, spread over
the time that the work takes. After every kill each visible file must be whole, files seen before must be untouched, and
nothing else may lie in the cache; a run that got to work must have cleared what dead ones left. Last, all files must
be equal, byte for byte. Exit status 1, and every broken promise in a line, if there is any. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from benchmarks.process_monitor import (
    PRECOMPUTE,
    checkout_environment,
    session_cpu_seconds,
    session_processes,
)
from benchmarks.report import bullet_list, markdown_table, provenance, write_markdown
from flow_cache import run_program
from flow_cache.cache.index import INDEX_NAME, cache_files, read_index
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import FlowCacheError
from flow_cache.pipeline.inputs import choose_videos
from flow_cache.pipeline.outcome import FAILURES_NAME
from flow_cache.runtime import opencv
from flow_cache.storage.atomic import temporary_files

TARGETS = (
    "process group",
    "process group",
    "process group",
    "main process",
    "a worker",
)  # one is drawn for each kill
LIST_FILES = {INDEX_NAME, FAILURES_NAME}
_MAX_SHARE = 1.4  # of the time left for each kill: the last one must still find work
_ORPHAN_SECONDS = 60.0  # that workers have to notice that the main process is gone


@dataclass(frozen=True)
class Kill:
    """One kill, and what it left."""

    seconds: float
    """After the start of the run."""
    who: str
    files: int
    """Whole files in the cache."""
    unfinished: int
    """Temporary files that it left: videos that have to be done again."""


@dataclass
class Trial:
    """A cache that is made by runs of which some are killed."""

    command: list[str]
    cache: Path
    log: Path
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Inode and time of every file that was found whole."""
    leftovers: set[Path] = field(default_factory=set)
    cpu_seconds: float = 0.0
    """Processor time of all runs."""
    broken: list[str] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a run as leader of a session of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, "--out", str(self.cache)],
                stdout=log, stderr=log, start_new_session=True, env=checkout_environment(),
            )  # fmt: skip

    def end(self, run: subprocess.Popen[bytes]) -> None:
        """Let a run end, as it should."""
        os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)
        self.cpu_seconds += session_cpu_seconds(run.pid)
        if run.wait():
            last = self.log.read_text(errors="replace").splitlines()[-5:]
            self.broken.append("\n".join([f"a run ended with status {run.returncode}:", *last]))

    def inspect(self, when: str) -> None:
        """Check what lies in the cache while no process works on it, or while workers only add to it."""
        if not self.cache.is_dir():
            return
        for name, path in cache_files(self.cache).items():
            status = path.stat()
            identity = status.st_ino, status.st_mtime_ns
            if self.seen.setdefault(name, identity) != identity:
                self.broken.append(f"{when}: {name} was whole and has been replaced")
            try:
                with CacheReader(path) as reader:
                    reader.check()
            except FlowCacheError as error:
                self.broken.append(f"{when}: {error}")
        for folder, _, names in os.walk(self.cache):
            for name in names:
                if not name.endswith((".flow.zip", ".flow.tmp")) and name not in LIST_FILES:
                    self.broken.append(f"{when}: {Path(folder, name)} should not be there")

    def check_cleared(self, when: str, files: int) -> None:
        """Expect what the last dead run left to be gone, if a later one got to work; remember what there is now."""
        now = set(temporary_files(self.cache))
        worked = bool(now - self.leftovers) or len(self.seen) > files
        if worked and now & self.leftovers:
            self.broken.append(f"{when}: {len(now & self.leftovers)} temporary files of a dead run are left")
        self.leftovers = now


def count_frames(path: Path) -> int:
    """Count the frames of a video without `flow_cache`: by PyAV, or by OpenCV where that is not installed."""
    if path.is_dir():
        raise SystemExit(f"{path}: frames are counted of video files only")
    return count_frames_by_pyav(path) if find_spec("av") else count_frames_by_opencv(path)


def count_frames_by_pyav(path: Path) -> int:
    """Count the frames that PyAV decodes."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def count_frames_by_opencv(path: Path) -> int:
    """Count the frames that OpenCV decodes."""
    capture = opencv().VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    return count


def check_counts(
    cache: Path, root: Path, names: list[str], count: Callable[[Path], int] = count_frames
) -> Iterator[str]:
    """Compare the fields of every file with its video's frames; yields what is wrong."""
    for name in names:
        frames = count(root / name)
        try:
            with CacheReader(cache_path(cache, name)) as reader:
                reader.check()
                if reader.num_fields != frames - reader.meta.step:
                    yield f"{name}: {frames} frames, but {reader.num_fields} fields of step {reader.meta.step}"
        except FlowCacheError as error:
            yield str(error)


def compare(reference: Path, other: Path) -> Iterator[str]:
    """Compare two caches byte for byte; yields what differs."""
    theirs, ours = cache_files(reference), cache_files(other)
    for name in sorted(theirs.keys() ^ ours.keys()):
        yield f"{name} is in one cache only"
    for name in sorted(theirs.keys() & ours.keys()):
        if theirs[name].read_bytes() != ours[name].read_bytes():
            with zipfile.ZipFile(reference / name) as first, zipfile.ZipFile(other / name) as second:
                differ = [
                    member
                    for member in sorted({*first.namelist(), *second.namelist()})
                    if _member(first, member) != _member(second, member)
                ]
            yield f"{name} differs in {', '.join(differ[:3]) or 'the zip itself'}"
    if read_index(reference) != read_index(other):  # but for the time at which each file was written
        yield f"{INDEX_NAME} differs"
    failures = [folder / FAILURES_NAME for folder in (reference, other)]
    if len({path.read_bytes() if path.exists() else b"" for path in failures}) > 1:
        yield f"{FAILURES_NAME} differs"


def _member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    try:
        return archive.read(name) if name in archive.namelist() else None
    except zipfile.BadZipFile:
        return None


def run_killed(
    trial: Trial, kills: int, rng: random.Random, start_up: float, work: float, fields: int
) -> list[Kill]:
    """Kill and resume, then let the last run end. start_up, work: seconds of the reference; fields: of all videos."""
    done: list[Kill] = []
    run = trial.start()
    began = time.monotonic()
    fresh = True
    for number in range(kills):
        who = rng.choice(TARGETS)
        left = work * (1 - _fields_of(trial.cache) / fields)
        delay = rng.uniform(0, _MAX_SHARE * left / (kills - number + 1))
        if fresh:  # one in five while it starts, the others while it works
            delay = rng.uniform(0, start_up) if rng.random() < 0.2 else start_up + delay
        while _ends_within(run, delay):  # all was done before the moment came: once more, and sooner
            trial.end(run)
            run, began, fresh = trial.start(), time.monotonic(), True
            start_up /= 2
            delay = rng.uniform(0, start_up)
        workers = [pid for pid in session_processes(run.pid) if _is_worker(pid)]
        if who == "a worker" and not (workers and fresh):  # one a run: a video may not lose its worker twice
            who = "process group"
        seconds = time.monotonic() - began
        if who == "a worker":
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(rng.choice(workers), signal.SIGKILL)
        else:
            trial.cpu_seconds += session_cpu_seconds(run.pid)
            kill = os.kill if who == "main process" else os.killpg
            kill(run.pid, signal.SIGKILL)
            run.wait()
            _wait_for_orphans(trial, run.pid)
        when, before = f"kill {number + 1} ({who})", len(trial.seen)
        trial.inspect(when)
        unfinished = sum(1 for _ in temporary_files(trial.cache))
        fresh = who != "a worker"
        if fresh:
            trial.check_cleared(when, before)
            run, began = trial.start(), time.monotonic()
        done.append(Kill(seconds, who, len(trial.seen), unfinished))
        print(f"kill {number + 1}: {done[-1]}", file=sys.stderr, flush=True)
    trial.end(run)
    trial.inspect("at the end")
    if left_over := list(temporary_files(trial.cache)):
        trial.broken.append(f"at the end: {len(left_over)} temporary files are left")
    return done


def _wait_for_orphans(trial: Trial, session: int) -> None:
    """Wait until no process of a dead run is left, as must be soon; else end them."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while left := session_processes(session):
        if time.monotonic() > deadline:
            trial.broken.append(f"{len(left)} processes outlived the main one by {_ORPHAN_SECONDS:.0f} s")
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            deadline += _ORPHAN_SECONDS
        time.sleep(0.02)


def _ends_within(run: subprocess.Popen[bytes], seconds: float) -> bool:
    """Tell whether a run ends within a time; it is not reaped, so that its processor time can still be read."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(0.02, max(deadline - time.monotonic(), 0)))
    return True


def _is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _fields_of(cache: Path) -> int:
    total = 0
    for path in cache_files(cache).values():
        with CacheReader(path) as reader:
            total += reader.num_fields
    return total


def _start_up(cache: Path, began: float) -> float:
    """Return the seconds until the first file of a finished run, a little more than its start-up."""
    return min(path.stat().st_mtime for path in cache_files(cache).values()) - began


def prove(
    videos: Path, kills: int, seed: int, options: list[str], folder: Path
) -> tuple[list[str], list[Kill], list[str]]:
    """Run everything in a folder; returns the findings as lines of text, the kills, and the broken promises."""
    inputs = choose_videos(videos)
    root, names = inputs.root, inputs.names
    command = [*PRECOMPUTE, str(videos), *options]
    reference = folder / "reference"
    began, started = time.time(), time.monotonic()
    first = Trial(command, reference, folder / "log of the reference")
    first.end(first.start())
    seconds = time.monotonic() - started
    if first.broken:
        return [], [], first.broken
    print(f"reference: {seconds:.0f} s", file=sys.stderr, flush=True)
    fields = _fields_of(reference)
    broken = list(check_counts(reference, Path(str(root)), names))
    decoder = "PyAV" if find_spec("av") else "OpenCV (PyAV is not installed)"
    print(f"frames counted by {decoder}: {len(broken)} differ", file=sys.stderr, flush=True)
    found = [
        f"{len(names):,} videos, {fields:,} fields; `{' '.join(options)}`; seed {seed}",
        f"fields = frames - step by {decoder}: {len(names) - len(broken):,} of {len(names):,} videos",
    ]
    trial = Trial(command, folder / "killed", folder / "log")
    start_up = _start_up(reference, began)
    work = max(seconds - start_up, 0.0)
    record = run_killed(trial, kills, random.Random(seed), start_up, work, fields)
    differences = list(compare(reference, trial.cache))
    ratio = trial.cpu_seconds / first.cpu_seconds
    found += [
        f"killed {len(record)} times; all runs took {ratio:.2f} times the processor time of one",
        f"files that differ from the uninterrupted run's: {len(differences):,} of {len(names):,}",
        f"broken promises: {len(broken) + len(trial.broken) + len(differences):,}",
    ]
    return found, record, [*broken, *trial.broken, *differences]


@contextlib.contextmanager
def _folder(parent: Path | None, keep: bool) -> Iterator[Path]:
    """Make a folder, and remove it at the end unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def main() -> int:
    """Parse the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder or list of video files")
    parser.add_argument("--kills", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, default=None, help="where the caches are made")
    parser.add_argument("--keep", action="store_true", help="keep the caches")
    parser.add_argument("--out", type=Path, default=None, help="folder of the report killed.md")
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:place])
    with _folder(arguments.scratch, arguments.keep) as scratch:
        found, record, broken = prove(
            arguments.videos, arguments.kills, arguments.seed, sys.argv[place + 1 :], scratch
        )
        if arguments.keep:
            found.append(f"kept in {scratch}")
    table = [
        (str(number), f"{kill.seconds:.1f} s", kill.who, f"{kill.files:,}", str(kill.unfinished))
        for number, kill in enumerate(record, 1)
    ]
    head = ("kill", "after", "of", "whole files", "unfinished")
    lines = [*(f"- {line}" for line in found), "", *markdown_table(head, table), *broken]
    print("\n".join(lines))
    if arguments.out is not None:
        write_markdown(
            arguments.out / "killed.md",
            "Precompute, killed and resumed",
            [*bullet_list(provenance()), *lines, ""],
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(run_program("kill_precompute", main))
