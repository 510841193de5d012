"""Standard output and standard error that cannot break a command: its work is done, whoever listens.

Both streams are replaced while a command runs. What a name holds and the encoding does not is escaped (`\\u0151`). A
stream that is closed swallows what is printed, and so does one whose reader has left (`| head`): that was the user's
choice. Standard output that fails otherwise, on a full device say, is said once, and the exit status is 1.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from flow_cache.errors import one_line
from flow_cache.runtime import existing_working_folder, silence_opencv

INPUT_FAILED, UNUSABLE = 1, 2
_READER_LEFT = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


def run_program(program: str, command: Callable[[], int]) -> int:
    """Run a command with standard streams that cannot break it.

    Args:
        program: its name, for messages.
        command: does the work, prints, and returns the exit status.

    Returns:
        The command's exit status; 1 instead of 0 if its output was lost; 2 if it needs the working folder, and that has
        been deleted: a command then runs in another one, where relative paths lead nowhere.

    Raises:
        SystemExit: as raised by the command, with a status for a text, which is printed as an error, and with 1 instead
            of 0 if its output was lost.

    Example:
        >>> from flow_cache import run_program
        >>> def hello():
        ...     print("hello")
        ...     return 0
        >>> run_program("hello", hello)
        hello
        0
    """
    _fill_closed_descriptors()
    silence_opencv()  # whoever imports it in this process
    with _guarded("stdout") as output, _guarded("stderr"), existing_working_folder() as deleted:
        end: SystemExit | None = None
        try:
            if deleted and any(".." in re.split("[/=]", argument) for argument in sys.argv[1:]):
                raise FileNotFoundError  # which from where the process is now would lead somewhere else
            status = command()
        except SystemExit as early:  # --help and --version, and errors of the arguments
            end = early
            if early.code is None or isinstance(early.code, int):
                status = early.code or 0
            else:  # a text, which the interpreter would print
                complain(program, early.code)
                status = INPUT_FAILED
        except FileNotFoundError:
            if not deleted:
                raise
            complain(
                program, "the working folder has been deleted: change to another, or give absolute paths"
            )
            status = UNUSABLE
        sys.stdout.flush()
        if output.failure is not None and output.failure.errno not in _READER_LEFT:
            complain(
                program, f"cannot write standard output: {output.failure.strerror}; the rest of it is lost"
            )
            status = status or INPUT_FAILED
    if end is not None:
        raise SystemExit(status)
    return status


def complain(program: str, message: object) -> None:
    """Print an error to standard error, in one line."""
    print_line(f"{program}: error: {one_line(message)}", file=sys.stderr)


def print_line(text: str, file: TextIO | None = None) -> None:
    r"""Print a text in one line, to standard output by default.

    File names may hold anything: line breaks, and sequences that change a terminal's state. They are escaped.

    Example:
        >>> from flow_cache import print_line
        >>> print_line("walk\a\nrun.avi")
        walk\x07\nrun.avi
    """
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    print(line, file=file or sys.stdout)


class _Outlet(io.RawIOBase):
    """Pass bytes on until that fails once, then swallow them.

    Args:
        name: of the stream.
        raw: where the bytes go; None swallows them at once.

    Attributes:
        name: of the stream.
        failure: why they cannot be written; None as long as they can.
    """

    def __init__(self, name: str, raw: io.RawIOBase | None) -> None:
        self.name = f"<{name}>"
        self.raw = raw
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the bytes, or swallow them; returns their number."""
        view = memoryview(data).cast("B")
        size = len(view)
        while view and self.raw is not None and self.failure is None:
            try:
                # None: the pipe is full, and another process has made it non-blocking
                view = view[self.raw.write(view) or self._wait() :]
            except OSError as error:
                self.failure = error
        return size

    def _wait(self) -> int:
        """Wait until bytes can be written; returns 0."""
        select.select([], [self.fileno()], [])
        return 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the bytes go to a terminal."""
        return self.raw is not None and self.raw.isatty()

    def fileno(self) -> int:
        """Return the file descriptor; raises OSError if the stream was closed."""
        if self.raw is None:
            raise io.UnsupportedOperation("the stream is closed")
        return self.raw.fileno()


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[_Outlet]:
    """Replace a standard stream by one that takes every text and never fails; yields what it writes to."""
    before: TextIO | None = getattr(sys, name)
    buffer = getattr(before, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # the buffer itself with PYTHONUNBUFFERED
    if before is not None and not isinstance(raw, io.RawIOBase):  # a test's or a notebook's own stream
        yield _Outlet(name, None)
        return
    outlet = _Outlet(name, raw)
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    stream = io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=name == "stderr" or outlet.isatty() or buffer is raw,
    )
    setattr(sys, name, stream)
    try:
        yield outlet
    finally:
        with contextlib.suppress(ValueError):  # somebody has closed it
            stream.flush()
        setattr(sys, name, before)


def _fill_closed_descriptors() -> None:
    """Open the null device where a standard stream is closed.

    Otherwise the next file or pipe gets its number, and what is printed, also by a worker process, goes into that.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(null, True)
