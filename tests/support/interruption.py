"""Interrupt a command by a real signal while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
"""The signals that ask a command to end, and its exit status then."""

_SECONDS = 240  # for one command
_ATTEMPTS = 5


@dataclass(frozen=True)
class Ended:
    """How a command ended that was interrupted.

    Attributes:
        out: the place that it was given to write to.
        status: its exit status.
        output, error: what it wrote.
    """

    out: Path
    status: int
    output: str
    error: str


def interrupt(
    module: str,
    arguments: Callable[[Path], Sequence[object]],
    number: int,
    works: Callable[[int, Path], bool],
    folder: Path,
) -> Ended:
    """Start a command, and send a signal to it and its workers, as a terminal does, once it works.

    On a busy machine the command may be done before the signal comes: then it is started again, with another place to
    write to.

    Args:
        module: that is run.
        arguments: of the command, made from the place that it writes to.
        number: of the signal.
        works: tells by the process and that place whether the work has begun.
        folder: where the places are made.
    """
    for attempt in range(_ATTEMPTS):
        out = folder / f"out{attempt}"
        out.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments(out))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            start_new_session=True,
            # Tests that a shell started in the background inherit an ignored SIGINT; a terminal's command does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + _SECONDS
        while process.poll() is None and not _holds(works, process.pid, out):
            if time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the work has not begun: {process.communicate()}")
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, number)
        output, error = process.communicate(timeout=_SECONDS)
        if process.returncode:
            return Ended(out, process.returncode, output, error)
    raise AssertionError(f"{module} was done before the signal came, {_ATTEMPTS} times")


def _holds(works: Callable[[int, Path], bool], process: int, out: Path) -> bool:
    try:
        return works(process, out)
    except OSError:  # what it looks at has gone meanwhile
        return False


def reads(suffix: str) -> Callable[[int, Path], bool]:
    """Return a function that tells whether a process has a file with this suffix open (Linux)."""

    def works(process: int, out: Path) -> bool:
        return any(file.readlink().suffix == suffix for file in Path(f"/proc/{process}/fd").iterdir())

    return works


def has_workers(count: int) -> Callable[[int, Path], bool]:
    """Return a function that tells whether a process has started as many others (Linux)."""

    def works(process: int, out: Path) -> bool:
        return len(Path(f"/proc/{process}/task/{process}/children").read_text().split()) == count

    return works


def holds(pattern: str) -> Callable[[int, Path], bool]:
    """Return a function that tells whether a file or folder below the command's place has a name, and is not empty."""
    return lambda process, out: any(path.stat().st_size for path in out.rglob(pattern))
