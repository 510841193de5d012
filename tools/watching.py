"""Run a command and watch it, with all processes that it starts: processor time and memory. Reads /proc: Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow_cache.cores import available_cores

ROOT = Path(__file__).resolve().parents[1]
PRECOMPUTE = [sys.executable, str(ROOT / "tools" / "precompute_flow.py")]
_TICKS = os.sysconf("SC_CLK_TCK")
_SESSION, _CPU = (
    3,
    slice(11, 15),
)  # places in /proc/PID/stat behind the name: user, system, and those of dead children


@dataclass(frozen=True)
class Sample:
    """All processes of a command at one time."""

    at: float
    """Seconds since the epoch, as files are dated."""
    busy: float
    """Processor time that they had used by then, seconds."""
    largest: float
    """Peak resident memory so far of the process that has the highest, MiB."""
    together: float
    """Resident memory of all, pages that several share counted once, MiB; 0 where it was not asked for."""


@dataclass(frozen=True)
class Watched:
    """A command that has ended."""

    started: float
    ended: float
    busy: float
    """Processor time of all its processes, seconds."""
    samples: list[Sample]
    output: str

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.ended - self.started

    @property
    def largest(self) -> float:
        """Peak resident memory of the largest process, MiB."""
        return max(sample.largest for sample in self.samples)

    @property
    def together(self) -> float:
        """Peak resident memory of all processes together, MiB."""
        return max(sample.together for sample in self.samples)

    def utilisation(self, start: float | None = None, end: float | None = None) -> float:
        """Return the share of all cores' time that was used from `start` to `end`; default: the whole command."""
        if start is None or end is None:
            return self.busy / (self.seconds * available_cores())
        times = [sample.at for sample in self.samples]
        used = np.interp([start, end], times, [sample.busy for sample in self.samples])
        return float(used[1] - used[0]) / ((end - start) * available_cores())


def environment() -> dict[str, str]:
    """Return an environment in which a script finds the packages of this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def watch(command: Sequence[str], *, memory: bool = False, every: float = 0.1) -> Watched:
    """Run a command in a session of its own until it ends; raises SystemExit with its complaint if it fails."""
    started = time.time()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment()
    ) as run:
        assert run.stdout is not None
        samples = [Sample(started, 0.0, 0.0, 0.0)]
        while True:
            samples.append(_sample(run.pid, samples[-1], memory))
            # Not reaped before its processor time has been read, which covers all children that it has waited for.
            status = os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if status is not None:
                break
            time.sleep(every)
        ended = time.time()
        samples.append(_sample(run.pid, samples[-1], False))
        output = run.stdout.read().decode(errors="replace")
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {run.returncode}:\n{output}")
    return Watched(started, ended, samples[-1].busy, samples, output)


def members(session: int) -> list[int]:
    """List the processes of a session."""
    return [pid for pid in _processes() if (status := _status(pid)) and int(status[_SESSION]) == session]


def processor_seconds(session: int) -> float:
    """Return the processor time of a session's processes, and of all children that they have waited for."""
    ticks = 0
    for pid in _processes():
        status = _status(pid)
        if status and int(status[_SESSION]) == session:
            ticks += sum(map(int, status[_CPU]))
    return ticks / _TICKS


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _status(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat behind the name, which may hold blanks; nothing if the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _sample(session: int, last: Sample, memory: bool) -> Sample:
    at, busy = time.time(), processor_seconds(session)
    largest = together = 0.0
    for pid in members(session) if memory else []:
        largest = max(largest, _kibibytes(pid, "status", "VmHWM") / 1024)
        together += _kibibytes(pid, "smaps_rollup", "Pss") / 1024
    # A process that is waited for between two looks at /proc may be missed by both: time used never becomes less.
    return Sample(at, max(busy, last.busy), max(largest, last.largest), together)


def _kibibytes(pid: int, file: str, name: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    except OSError:
        pass  # it has gone
    return 0
