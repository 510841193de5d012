"""The progress line of a command."""

import io
import os
import pty
import termios

import pytest

from twostream.cli.progress import VideoProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_says_how_many_how_fast_and_how_long() -> None:
    clock = Clock()
    progress = VideoProgress(10, None, clock)
    assert progress.describe() == "0/10 videos, 0 failed"
    for failed in (False, True):
        clock.now += 2
        progress.finished(failed=failed)
    assert progress.describe() == "2/10 videos, 0.50 videos/s, 16.0 s left, 1 failed"


def test_the_line_is_gone_when_something_is_printed() -> None:
    terminal = Terminal()
    progress = VideoProgress(2, terminal, Clock())
    with progress.shown():
        assert terminal.getvalue().endswith("0/2 videos, 0 failed")
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("total", "stream"), [(1, Terminal()), (5, io.StringIO()), (5, None)])
def test_one_video_and_other_streams_get_no_line(total: int, stream: io.StringIO | None) -> None:
    progress = VideoProgress(total, stream, Clock())
    with progress.shown():
        progress.finished(failed=False)
    assert stream is None or stream.getvalue() == ""


@pytest.mark.parametrize(("columns", "text"), [(0, "0/2 videos, 0 failed"), (12, "0/2 videos,"), (1, "")])
def test_the_line_is_no_longer_than_the_terminal(columns: int, text: str) -> None:
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with os.fdopen(terminal, "w") as stream, VideoProgress(2, stream, Clock()).shown():
        assert os.read(reader, 1000).decode() == f"\r\x1b[K{text}"
    os.close(reader)
