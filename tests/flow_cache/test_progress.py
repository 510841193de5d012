import contextlib
import io
import os
import pty
import sys
import termios

import pytest

from flow_cache.progress import FieldsDone, Progress, ProgressLine, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_line_counts_rates_and_estimates(clock: Clock) -> None:
    with ProgressLine(10, 1000, kept=4, enabled=False, clock=clock) as line:
        assert line.describe(clock.now) == "4/10 videos, 0.0 pairs/s, 0 failed"
        clock.now += 10
        line.advance(FieldsDone(50, {}))
        line.finished(250, failed=False)
        assert line.describe(clock.now) == "5/10 videos, 5.0 pairs/s, 30.0 s left, 0 failed"
        line.finished(750, failed=True)
        assert line.describe(clock.now) == "6/10 videos, 5.0 pairs/s, 1 failed"


def test_line_says_how_busy_the_stages_are(clock: Clock) -> None:
    with ProgressLine(10, 0, kept=0, enabled=False, clock=clock) as line:
        line.set_workers(2, 0)
        clock.now += 10
        line.advance(FieldsDone(20, {"decode": 1.0, "flow": 12.0}))
        line.advance(FieldsDone(20, {"decode": 1.0, "flow": 3.0, "store": 2.0}))
        expected = "0/10 videos, 4.0 pairs/s, decode 10 % flow 75 % store 10 %, 0 failed"
        assert line.describe(clock.now) == expected
        line.set_workers(2, 1)
        assert line.describe(clock.now) == f"{expected}, 2 workers on 1 node"


def test_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    line = ProgressLine(10, 1000, kept=0, enabled=False, clock=clock)
    for _ in range(100):
        clock.now += 1
        line.advance(FieldsDone(2, {}))
        line.describe(clock.now)
    for _ in range(40):
        clock.now += 1
        line.advance(FieldsDone(10, {}))
        text = line.describe(clock.now)
    assert "10.0 pairs/s" in text


def test_plain_lines_come_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(2, 10, kept=0, clock=clock) as line:
        line.advance(FieldsDone(1, {}))
        assert capsys.readouterr().err == ""
        clock.now += 31
        line.advance(FieldsDone(1, {}))
        line.advance(FieldsDone(1, {}))
    assert capsys.readouterr().err == "flow-cache: 0/2 videos, 0.1 pairs/s, 0 failed\n"


def test_nothing_is_shown_when_there_is_nothing_to_do(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressLine(3, 0, kept=3, clock=clock) as line:
        clock.now += 100
        line.advance(FieldsDone(1, {}))
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_line_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressLine(2, 10, kept=1, clock=clock) as line:
        line.advance(FieldsDone(7, {}))
        line.finished(10, failed=True)
    assert "2/2 videos" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()


def test_plain_lines_on_a_terminal_that_takes_no_line_back(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with ProgressLine(2, 10, kept=0, clock=clock) as line:
        clock.now += 31
        line.advance(FieldsDone(1, {}))
    assert terminal.getvalue() == "flow-cache: 0/2 videos, 0.0 pairs/s, 0 failed\n"


def test_the_line_of_a_library_never_goes_to_standard_output(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as it is where standard error is closed
    with ProgressLine(2, 10, kept=0, clock=clock) as line:
        clock.now += 31
        line.advance(FieldsDone(1, {}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.42, "8.4 s"), (187, "3:07"), (8100, "2:15:00"), (59.94, "59.9 s"), (3599.7, "1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


# --- what counts other things than flow -------------------------------------------------------------------------------


def test_the_line_says_how_many_how_fast_and_how_long(clock: Clock) -> None:
    progress = Progress(10, "videos", before="now: ", clock=clock)
    assert progress.describe(clock.now) == "now: 0/10 videos"
    for failed in (False, True):
        clock.now += 2
        progress.finished(failed=failed)
    assert progress.describe(clock.now) == "now: 2/10 videos, 0.50 videos/s, 16.0 s left, 1 failed"


def test_the_line_is_gone_while_something_is_printed_and_comes_back(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(2, "videos", clock=clock) as progress:
        progress.finished()
        with progress.paused():
            shown = terminal.getvalue()
            print("a.avi: walk")
            assert terminal.getvalue() == shown
        assert terminal.getvalue().count("1/2 videos") > shown.count("1/2 videos")
    erase = "\r\x1b[1A\x1b[2K"
    assert shown.endswith(erase)
    assert terminal.getvalue().endswith(erase)
    assert capsys.readouterr().out == "a.avi: walk\n"


@pytest.mark.parametrize(
    ("stream", "terminal", "enabled"),
    [
        (io.StringIO(), "xterm", True),
        (Terminal(), "dumb", True),
        (Terminal(), "xterm", False),
        (None, "xterm", True),
    ],
)
def test_other_streams_get_no_line(
    stream: io.StringIO | None, terminal: str, enabled: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", terminal)
    with Progress(2, "videos", enabled=enabled, clock=clock) as progress:
        clock.now += 100
        progress.finished()
        with progress.paused():
            progress.finished()
    assert stream is None or stream.getvalue() == ""


def everything_from(reader: int) -> bytes:
    """Read what a closed terminal was sent; it comes in pieces, and then fails (Linux) or ends (elsewhere)."""
    pieces = []
    with os.fdopen(reader, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while piece := file.read(100_000):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("columns", [0, 1, 12])
def test_the_line_leaves_nothing_on_a_narrow_terminal(
    columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(2, "videos", clock=clock) as progress:
            progress.finished()
    shown = everything_from(reader).decode()
    below = shown.replace("\r\n", "\n").rpartition("\n")[2]
    # back over each line that it took, then the cursor again
    assert below.count("\x1b[1A\x1b[2K") >= 1
