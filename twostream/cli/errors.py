"""How every command ends: one line for a user's mistake, and the exit status that says what kind it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from jsonargparse import ArgumentError

from flow_cache import ArgumentError as FlowArgumentError
from flow_cache import CacheMismatchError, FlowCacheError, interruptible
from twostream.errors import TwoStreamError, one_line

INPUT_FAILED, UNUSABLE = 1, 2


def run_command(program: str, command: Callable[[], int]) -> int:
    """Run a command and turn its errors into one line on standard error and an exit status.

    Returns:
        What the command returns; 1 for an input that failed, 2 for arguments, data, splits, caches or checkpoints that
        cannot be used, 130 after Ctrl-C, 143 after SIGTERM.
    """
    with interruptible() as interruption:
        try:
            return command()
        except (TwoStreamError, FlowArgumentError, CacheMismatchError, ArgumentError) as error:
            return complain(program, error, UNUSABLE)
        except FlowCacheError as error:
            return complain(program, error, INPUT_FAILED)
        except KeyboardInterrupt:
            text = "interrupted; the same command goes on from there"
            return complain(program, text, interruption.exit_status)
        except BrokenPipeError:
            # The reader of our output has gone; keep the interpreter's last flush from complaining about it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INPUT_FAILED


def complain(program: str, what: Exception | str, status: int) -> int:
    """Print one line of complaint on standard error; returns the exit status."""
    print(f"{program}: error: {one_line(what)}", file=sys.stderr)
    return status
