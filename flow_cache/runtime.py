"""What this process runs on: cores, OpenCV and PyAV with their messages off, and the signals that ask it to end.

Ctrl-C (SIGINT) and a scheduler's SIGTERM mean the same here: end now, in order, and lose nothing. `interruptible` turns
both into KeyboardInterrupt in the main process of a command. Terminals and schedulers often signal every process that
they know of, so worker processes leave the decision to the one that started them: `start_worker` sees to that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

_NOWHERE = Path("/proc/self/fdinfo")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TWIN_WITHIN = 1.0  # seconds between two SIGTERM that mean one
_AGAIN_AFTER = 0.1  # seconds
_GRACE = 5.0  # seconds that a worker gives its parent to end


def silence_opencv() -> bool:
    """Switch the messages of OpenCV and its FFmpeg off, unless the environment asks for them; returns whether they are.

    They would break the progress line, and what matters in them is raised as an error anyway.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT") == "SILENT"


@functools.cache
def opencv() -> ModuleType:
    """Return the `cv2` module, silent."""
    silent = silence_opencv()
    import cv2

    if silent:  # also where it was imported before, which is when it reads the environment
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    module: ModuleType = cv2
    return module


@functools.cache
def pyav() -> ModuleType:
    """Return the `av` module, whose messages are off unless a program asks PyAV for them."""
    import av
    import av.video.reformatter

    module: ModuleType = av
    return module


def available_cores() -> int:
    """Return the number of processor cores that this process may use.

    Example:
        >>> from flow_cache import available_cores
        >>> available_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def existing_working_folder() -> Iterator[bool]:
    """Leave a working folder that has been deleted for one that exists, and return to it afterwards.

    Too much asks for its name: `multiprocessing` when it starts a process, torch when it is imported; and oneMKL, which
    torch computes with, ends the process where there is no answer. In the folder that stands in on Linux nothing can be
    made, and nothing is found but files whose names are numbers: relative paths stay errors there.

    Yields:
        Whether the working folder has been deleted.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        deleted = os.open(".", os.O_RDONLY)
        try:
            os.chdir(_NOWHERE if _NOWHERE.is_dir() else "/")
            yield True
        finally:
            os.fchdir(deleted)
            os.close(deleted)
    else:
        yield False


def working_folder_deleted() -> bool:
    """Return whether the working folder has been deleted, also while `existing_working_folder` has left it."""
    try:
        return _NOWHERE.is_dir() and _NOWHERE.samefile(Path.cwd())
    except FileNotFoundError:
        return True


@dataclass
class Interruption:
    """The request to end that a command has got.

    Attributes:
        signal: number of the last signal; that of Ctrl-C as long as there was none.
    """

    signal: int = signal.SIGINT

    @property
    def exit_status(self) -> int:
        """What shells report for a command that a signal has ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does; a context manager for the main function of a command.

    A signal that the command was started to ignore stays ignored. In other threads than the main one nothing changes,
    because only that one can handle signals.

    Yields:
        Which of the two signals came, and the exit status for it.

    Example:
        >>> import signal
        >>> from flow_cache import interruptible
        >>> with interruptible() as interruption:
        ...     try:
        ...         signal.raise_signal(signal.SIGTERM)  # as a scheduler does when the time is over
        ...     except KeyboardInterrupt:
        ...         print("exit status", interruption.exit_status)
        exit status 143
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    process, hook = os.getpid(), sys.unraisablehook
    inside, ending = True, False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if os.getpid() != process:
            return  # a forked worker, which has not yet said that it leaves signals to its parent
        # `timeout` and some schedulers send SIGTERM twice; the second one must not cut short how the first one ends.
        again = ending and number == signal.SIGTERM
        interruption.signal, ending = number, True
        if not again:
            raise KeyboardInterrupt

    def interrupt_again() -> None:
        nonlocal ending
        ending = False
        if inside:
            os.kill(process, interruption.signal)

    def handle_dropped(event: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised while an object is deleted: interrupt again, once that is over."""
        if event.exc_type is KeyboardInterrupt:
            timer = threading.Timer(_AGAIN_AFTER, interrupt_again)
            timer.daemon = True
            timer.start()
        else:
            hook(event)

    with handlers_kept() as before:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        sys.unraisablehook = handle_dropped
        try:
            yield interruption
        finally:
            inside = False
            sys.unraisablehook = hook
            if ending and interruption.signal == signal.SIGTERM and before[signal.SIGTERM] == signal.SIG_DFL:
                before[signal.SIGTERM] = _ignoring_twins(time.monotonic() + _TWIN_WITHIN)


def _ignoring_twins(until: float) -> Callable[[int, FrameType | None], None]:
    """Return a handler of SIGTERM that ends the process as ever, but lets one pass that comes before a time.

    The second of two SIGTERM may come when the first one has done its work and the interpreter is on its way out; the
    exit status must still be that of a command that ended in order.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > until:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def leave() -> None:
        """Keep the interpreter, which puts the usual handler back on its way out, from being ended meanwhile."""
        if signal.getsignal(signal.SIGTERM) is handle and time.monotonic() <= until:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    atexit.register(leave)
    return handle


@contextlib.contextmanager
def handlers_kept() -> Iterator[dict[int, Any]]:
    """Restore in the end what Ctrl-C and SIGTERM do, whatever a library has put there meanwhile.

    Yields:
        What they do, by their numbers; nothing in another thread than the main one.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_worker(work: Callable[..., object], *args: object, name: str) -> SpawnProcess:
    """Start a process that works for this one, ends with it, and leaves signals to it from the first moment.

    It is a new interpreter: a fork would copy locks that threads of OpenCV hold, and the state of CUDA.

    Args:
        work: what it runs, a function that can be pickled.
        args: arguments of `work`.
        name: of the process.

    Raises:
        OSError: it cannot be started.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(work, args), name=name, daemon=True
    )
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # otherwise `start` does it, and unblocks the signals
    with signals_blocked(), existing_working_folder():
        process.start()
    return process


def _work(work: Callable[..., object], args: tuple[object, ...]) -> None:
    leave_signals_to_parent()
    work(*args)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end, and for good from worker processes that are started meanwhile.

    In another thread than the main one they are held back from worker processes only.

    Example:
        >>> import signal
        >>> from flow_cache import interruptible, signals_blocked
        >>> with interruptible():
        ...     try:
        ...         with signals_blocked():
        ...             signal.raise_signal(signal.SIGTERM)
        ...             print("all workers are started")
        ...     except KeyboardInterrupt:
        ...         print("interrupted")
        all workers are started
        interrupted
    """
    arrived: list[int] = []
    can_mask = hasattr(signal, "pthread_sigmask")
    # The mask is for the processes that are started. In this one, another thread may take the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if can_mask else set()
    try:
        with handlers_kept() as before:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, lambda number, frame: arrived.append(number))
            try:
                yield
            finally:
                if can_mask:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        for number in arrived:
            signal.raise_signal(number)


def leave_signals_to_parent() -> None:
    """Ignore Ctrl-C in this worker process, and let SIGTERM from others than its parent wait for some seconds.

    Otherwise a worker may die, or print a traceback, before the process that started it knows that it has to end.

    Example:
        >>> from flow_cache import leave_signals_to_parent
        >>> from torch.utils.data import DataLoader  # doctest: +SKIP
        >>> DataLoader(
        ...     clips, num_workers=4, worker_init_fn=lambda number: leave_signals_to_parent()
        ... )  # doctest: +SKIP
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not say who has sent a signal
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parents_signal, daemon=True).start()


def _end_with_parents_signal() -> None:
    """End this process, without an error, at the parent's SIGTERM, or some seconds after that of another process.

    The parent's signal is lost if another one waits to be taken, as signals do not queue: hence the limit.
    """
    received: signal.struct_siginfo | None = signal.sigwaitinfo([signal.SIGTERM])
    deadline = time.monotonic() + _GRACE
    while received is not None and received.si_pid != os.getppid():
        received = signal.sigtimedwait([signal.SIGTERM], max(deadline - time.monotonic(), 0))
    os._exit(0)
