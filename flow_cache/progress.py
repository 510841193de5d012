"""The progress that a run shows: one live line on a terminal, else a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import rich.progress

_PLAIN_EVERY = 30.0  # seconds between plain lines
_RATE_SPAN = 30.0  # seconds over which the rate is averaged


@dataclass(frozen=True)
class FieldsDone:
    """Some flow fields of a video are done.

    Attributes:
        fields: how many, since the last report.
        seconds: time that each stage took for them, by the stage's name.
    """

    fields: int
    seconds: Mapping[str, float]


class _Line:
    """A line on stderr that changes while work lasts, and is gone afterwards; a context manager.

    On a terminal that cannot take a line back, and where there is none, nothing is shown.

    Args:
        total: how many things there are to do.
        done: how many of them are done already.
        enabled: False shows nothing.
        clock: current time in seconds.
    """

    def __init__(self, total: int, done: int, enabled: bool, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._total = total
        self._kept = done
        self._finished = 0
        self._failed = 0
        self._started = clock()
        self._enabled = enabled and total > done
        self._live: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def describe(self, now: float) -> str:
        """Return the line's text at the time `now`, in seconds of the clock."""
        raise NotImplementedError

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the line back for as long as something else is printed."""
        live = self._live is not None
        self._stop()
        try:
            yield
        finally:
            if live:
                self._start()

    def __enter__(self) -> Self:
        if sys.stderr is None:  # closed; print(file=None) would write to standard output
            self._enabled = False
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        """Show the line, if the terminal can."""
        if not self._enabled or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        console = Console(stderr=True)
        if console.is_dumb_terminal:  # which cannot take a line back
            return
        self._live = Progress(
            SpinnerColumn("line"),  # which every encoding can show
            BarColumn(bar_width=30),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,  # what is printed there is for somebody else
        )
        self._task = self._live.add_task("", total=self._total)
        self._show()
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _show(self) -> None:
        """Bring the live line up to date."""
        if self._live is not None and self._task is not None:
            text = self.describe(self._clock())
            self._live.update(self._task, description=text, completed=self._kept + self._finished)


class Progress(_Line):
    """Show how many things are done, how fast, and how long the others will take, in a line on stderr.

    The line is gone afterwards. On a terminal that cannot take a line back, and where there is none, nothing is shown.

    Args:
        total: how many things there are to do.
        unit: what they are, in the plural.
        before: the beginning of the line.
        after: gives the end of the line each time that it is shown.
        enabled: False shows nothing.
        clock: current time in seconds.

    Example:
        >>> from flow_cache import Progress
        >>> with Progress(3, "videos") as progress:
        ...     for video in ("a.avi", "b.avi", "c.avi"):
        ...         with progress.paused():  # the line makes room
        ...             print(video)
        ...         progress.finished()
        a.avi
        b.avi
        c.avi
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        before: str = "",
        after: Callable[[], str] | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(total, 0, enabled, clock)
        self._unit = unit
        self._before = before
        self._after = after

    def finished(self, *, failed: bool = False) -> None:
        """Count one that is done, or has failed."""
        self._finished += 1
        self._failed += failed
        self._show()

    def describe(self, now: float) -> str:
        """Return the line's text at the time `now`, in seconds of the clock."""
        parts = [f"{self._before}{self._finished}/{self._total} {self._unit}"]
        elapsed = now - self._started
        if self._finished and elapsed > 0:
            parts.append(f"{self._finished / elapsed:.2f} {self._unit}/s")
            left = elapsed * (self._total - self._finished) / self._finished
            parts.append(f"{format_seconds(left)} left")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._after is not None:
            parts.append(self._after())
        return ", ".join(parts)


class ProgressLine(_Line):
    """Show videos, pairs per second, time left and failures on stderr while a run lasts.

    Where no live line can be shown, there is a plain line now and then.

    Args:
        videos: how many there are.
        size: bytes of the videos that are not done yet; the time left is estimated from them.
        kept: how many of the videos are done already.
        enabled: False shows nothing.
        clock: current time in seconds.
    """

    def __init__(
        self,
        videos: int,
        size: int,
        kept: int,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(videos, kept, enabled, clock)
        self._size = size
        self._size_done = 0
        self._fields = 0
        self._shown = self._started
        self._workers, self._nodes = 1, 0
        self._stages: dict[str, float] = {}
        self._recent: list[tuple[float, int, dict[str, float]]] = [(self._started, 0, {})]

    def set_workers(self, workers: int, nodes: int) -> None:
        """Set how many processes work, and on how many nodes of a cluster (0 = on this machine)."""
        self._workers, self._nodes = max(workers, 1), nodes

    def advance(self, done: FieldsDone) -> None:
        """Count fields that were computed, and the time that each stage took."""
        self._fields += done.fields
        for stage, seconds in done.seconds.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        self._show()

    def finished(self, size: int, *, failed: bool) -> None:
        """Count a video of `size` bytes that is done, or has failed."""
        self._finished += 1
        self._failed += failed
        self._size_done += size
        self._show()

    def describe(self, now: float) -> str:
        """Return the line's text at the time `now`, in seconds of the clock."""
        videos = self._kept + self._finished
        since, fields, stages = self._span(now)
        span = max(now - since, 1e-9)
        parts = [f"{videos}/{self._total} videos", f"{(self._fields - fields) / span:,.1f} pairs/s"]
        busy = [
            f"{stage} {100 * min((seconds - stages.get(stage, 0.0)) / (span * self._workers), 1):.0f} %"
            for stage, seconds in self._stages.items()
        ]
        if busy:
            parts.append(" ".join(busy))
        elapsed = now - self._started
        if self._size_done and self._size > self._size_done:
            left = elapsed * (self._size - self._size_done) / self._size_done
            parts.append(f"{format_seconds(left)} left")
        parts.append(f"{self._failed} failed")
        if self._nodes:
            parts.append(
                f"{self._workers} worker{'s' * (self._workers != 1)} on {self._nodes} node{'s' * (self._nodes != 1)}"
            )
        return ", ".join(parts)

    def _show(self) -> None:
        """Refresh the live line, or print a plain line if the last one is long enough ago."""
        now = self._clock()
        if self._live is not None:
            super()._show()
        elif self._enabled and now - self._shown >= _PLAIN_EVERY:
            self._shown = now
            print(f"flow-cache: {self.describe(now)}", file=sys.stderr, flush=True)

    def _span(self, now: float) -> tuple[float, int, dict[str, float]]:
        """Return when the last half minute began, and the fields and stage times up to then."""
        if now - self._recent[-1][0] >= 1.0:
            self._recent.append((now, self._fields, dict(self._stages)))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RATE_SPAN:
            self._recent.pop(0)
        return self._recent[0]


def format_seconds(seconds: float) -> str:
    """Format a duration for people: `8.4 s`, `3:07` (minutes) or `2:15:00` (hours).

    Example:
        >>> from flow_cache import format_seconds
        >>> format_seconds(8.42), format_seconds(187), format_seconds(8100)
        ('8.4 s', '3:07', '2:15:00')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
