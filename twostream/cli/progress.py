"""How far a command is with its videos: one line on a terminal, which makes room for what is printed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from flow_cache import format_seconds

_ERASE = "\r\x1b[K"


class VideoProgress:
    """Show how many videos are done, how fast, and how long the others will take.

    Args:
        total: how many videos there are; one alone needs no line.
        stream: where the line is shown, if that is a terminal.
        clock: current time in seconds.
    """

    def __init__(
        self, total: int, stream: TextIO | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._stream = stream if stream is not None and total > 1 and stream.isatty() else None
        self._clock = clock
        self._started = clock()
        self._done = self._failed = 0

    def describe(self) -> str:
        """Return the line's text."""
        parts = [f"{self._done}/{self._total} videos"]
        elapsed = self._clock() - self._started
        if self._done and elapsed > 0:
            parts.append(f"{self._done / elapsed:.2f} videos/s")
            parts.append(f"{format_seconds(elapsed * (self._total - self._done) / self._done)} left")
        parts.append(f"{self._failed} failed")
        return ", ".join(parts)

    def finished(self, *, failed: bool) -> None:
        """Count a video that is done, or has failed."""
        self._done += 1
        self._failed += failed

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line for as long as something is computed; afterwards there is room to print."""
        self._write(_ERASE + self.describe()[: self._columns() - 1])
        try:
            yield
        finally:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()

    def _columns(self) -> int:
        """Return the width of the terminal; 80 for one that does not know."""
        try:
            columns = 0 if self._stream is None else os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return columns or 80
