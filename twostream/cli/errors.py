"""How every command runs and ends: streams that cannot break it, one line for a user's mistake, an exit status."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from jsonargparse import ArgumentError

from flow_cache import ArgumentError as FlowArgumentError
from flow_cache import CacheMismatchError, FlowCacheError, interruptible, print_line, run_program
from twostream.errors import DataWarning, TwoStreamError, one_line

INPUT_FAILED, UNUSABLE = 1, 2


def run_command(program: str, command: Callable[[], int]) -> int:
    """Run a command and turn its errors into one line on standard error and an exit status.

    Returns:
        What the command returns; 1 for an input that failed, 2 for arguments, data, splits, caches or checkpoints that
        cannot be used, 130 after Ctrl-C, 143 after SIGTERM; 1 instead of 0 if the output could not be written, see
        `run_program`.
    """
    return run_program(program, lambda: _run(program, command))


def _run(program: str, command: Callable[[], int]) -> int:
    with interruptible() as interruption, _warnings_as_lines(program):
        try:
            return command()
        except (TwoStreamError, FlowArgumentError, CacheMismatchError, ArgumentError) as error:
            return complain(program, error, UNUSABLE)
        except FlowCacheError as error:
            return complain(program, error, INPUT_FAILED)
        except KeyboardInterrupt as interrupt:
            text = str(interrupt) or "interrupted; the same command goes on from there"
            return complain(program, text, interruption.exit_status)


@contextlib.contextmanager
def _warnings_as_lines(program: str) -> Iterator[None]:
    """Print what a person should know about the data as a line on standard error; leave other warnings as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        shown = warnings.showwarning
        said: set[str] = set()

        def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
            if issubclass(category, DataWarning):
                if (text := one_line(message)) not in said:
                    print_line(f"{program}: warning: {text}", file=sys.stderr)
                said.add(text)
            else:
                shown(message, category, *more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def complain(program: str, what: Exception | str, status: int) -> int:
    """Print one line of complaint on standard error; returns the exit status."""
    print_line(f"{program}: error: {one_line(what)}", file=sys.stderr)
    return status
