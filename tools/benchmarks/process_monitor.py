"""Run a command and measure the processor time and memory of all its processes. Reads /proc: Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import ROOT
from flow_cache.runtime import available_cores

PRECOMPUTE = [sys.executable, str(ROOT / "tools" / "precompute_flow.py")]
# Positions in /proc/PID/stat behind the name: the session, and user and system time, own and of children waited for.
_SESSION, _CPU_TIMES = 3, slice(11, 15)


@dataclass(frozen=True)
class Sample:
    """What all processes of a command used, at one time."""

    time: float
    """Seconds since the epoch, as files are dated."""
    cpu_seconds: float
    """Processor time used so far."""
    largest: float
    """Peak resident memory so far of the process that has the highest, MiB."""
    together: float
    """Resident memory of all, pages that several share counted once, MiB; 0 where it was not asked for."""


@dataclass(frozen=True)
class MonitoredRun:
    """A command that has ended."""

    started: float
    """Seconds since the epoch."""
    ended: float
    cpu_seconds: float
    """Processor time of all its processes."""
    samples: list[Sample]
    output: str
    cores: int = field(default_factory=available_cores)
    """How many the command could use."""

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
            return self.cpu_seconds / (self.seconds * self.cores)
        times = [sample.time for sample in self.samples]
        used = np.interp([start, end], times, [sample.cpu_seconds for sample in self.samples])
        return float(used[1] - used[0]) / ((end - start) * self.cores)


def checkout_environment() -> dict[str, str]:
    """Return an environment in which a script finds the packages of this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def run_monitored(command: Sequence[str], *, memory: bool = False, interval: float = 0.1) -> MonitoredRun:
    """Run a command in a session of its own until it ends, and look at it every `interval` seconds.

    Raises:
        SystemExit: The command failed; the message holds what it printed.
    """
    started = time.time()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=checkout_environment(),
    ) as run:
        assert run.stdout is not None
        samples = [Sample(started, 0.0, 0.0, 0.0)]
        while True:
            samples.append(_sample(run.pid, samples[-1], memory))
            # Not reaped before its processor time has been read, which covers all children that it has waited for.
            status = os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if status is not None:
                break
            time.sleep(interval)
        ended = time.time()
        samples.append(_sample(run.pid, samples[-1], False))
        output = run.stdout.read().decode(errors="replace")
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {run.returncode}:\n{output}")
    return MonitoredRun(started, ended, samples[-1].cpu_seconds, samples, output)


def session_processes(session: int) -> list[int]:
    """List the processes of a session."""
    return [pid for pid in _processes() if (stat := _stat(pid)) and int(stat[_SESSION]) == session]


def session_cpu_seconds(session: int) -> float:
    """Return the processor time of a session's processes, and of all children that they have waited for."""
    ticks = 0
    for pid in _processes():
        stat = _stat(pid)
        if stat and int(stat[_SESSION]) == session:
            ticks += sum(map(int, stat[_CPU_TIMES]))
    return ticks / os.sysconf("SC_CLK_TCK")


def own_memory(name: str) -> float:
    """Return a field of this process's /proc/self/status in MiB: VmRSS, VmHWM (the peak of VmRSS), VmSize."""
    kibibytes = _kibibytes("self", "status", name)
    if kibibytes is None:
        raise SystemExit(f"/proc/self/status has no {name}: memory is measured on Linux only")
    return kibibytes / 1024


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _stat(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat behind the name, which may hold blanks; nothing if the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _sample(session: int, last: Sample, memory: bool) -> Sample:
    now, cpu_seconds = time.time(), session_cpu_seconds(session)
    largest = together = 0.0
    for pid in session_processes(session) if memory else []:
        largest = max(largest, (_kibibytes(pid, "status", "VmHWM") or 0) / 1024)
        together += (_kibibytes(pid, "smaps_rollup", "Pss") or 0) / 1024
    # A process that is waited for between two looks at /proc may be missed by both: time used never becomes less.
    return Sample(now, max(cpu_seconds, last.cpu_seconds), max(largest, last.largest), together)


def _kibibytes(process: int | str, file: str, name: str) -> int | None:
    """Read a figure of /proc/PROCESS/FILE; None if the process has gone or there is no such figure."""
    try:
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    except OSError:
        pass
    return None
