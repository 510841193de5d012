import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from flow_cache.runtime import (
    available_cores,
    existing_working_folder,
    handlers_kept,
    interruptible,
    leave_signals_to_parent,
    signals_blocked,
    start_worker,
    working_folder_deleted,
)


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """Tests that a shell started in the background inherit an ignored SIGINT; a terminal's command does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("first", ["", "import cv2; "])
def test_opencv_is_silent_also_where_it_was_imported_before(first: str, tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_text("no video")
    code = (
        f"{first}from flow_cache.runtime import opencv; cv2 = opencv();"
        "print(cv2.VideoCapture('a.avi', cv2.CAP_FFMPEG).isOpened(), cv2.imread('none.png'))"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=quiet, capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("False None\n", "")


def test_opencv_is_silent_in_every_command() -> None:
    code = (
        "from flow_cache import run_program\n"
        "def command():\n"
        "    import cv2\n"
        "    return cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT\n"
        "assert run_program('test', command) == 1"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    subprocess.run([sys.executable, "-c", code], env=quiet, check=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that somebody works in")
def test_a_deleted_working_folder_is_left_and_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with existing_working_folder():
        assert Path.cwd() == place
    assert not working_folder_deleted()
    place.rmdir()
    with existing_working_folder():
        assert Path.cwd().is_dir()
        assert working_folder_deleted()
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    assert working_folder_deleted()


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="the folder that stands in is Linux's")
def test_no_relative_path_leads_anywhere_once_the_working_folder_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    with existing_working_folder():
        with pytest.raises(FileNotFoundError):
            Path("new").mkdir()
        with pytest.raises(FileNotFoundError):
            Path("new").write_text("")
        assert not Path("etc").exists()


# --- the signals that ask a process to end ---------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_both_signals_interrupt_and_say_which_they_were(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with interruptible() as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interruption.exit_status == status
    if number == signal.SIGINT:
        assert signal.getsignal(number) is before
    signal.signal(number, before)


def test_a_second_sigterm_that_comes_late_is_no_other_one() -> None:
    """As `timeout` sends them; one that comes when the command has long ended does what it always does."""
    code = (
        "import signal, time\n"
        "from flow_cache import interruptible\n"
        "with interruptible():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('alive', flush=True)\n"
        "time.sleep(1.2)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('still alive')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("alive\n", -signal.SIGTERM)


def test_an_interruption_without_a_signal_is_one_by_ctrl_c() -> None:
    with interruptible() as interruption:
        assert interruption.exit_status == 130


def test_sigterm_that_comes_twice_interrupts_once_and_ctrl_c_always() -> None:
    with interruptible() as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert interruption.exit_status == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_python_drops_comes_again(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    hook = sys.unraisablehook
    with interruptible() as interruption:
        Interrupted()
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(60)
        assert interruption.exit_status == 128 + number
    assert sys.unraisablehook is hook
    assert capsys.readouterr().err == ""


def test_other_errors_that_python_drops_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("lost")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: told.append(str(event.exc_value)))
    with interruptible():
        Broken()
    assert told == ["lost"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("by", [signal.raise_signal, lambda number: os.kill(os.getpid(), number)])
def test_signals_wait_while_they_are_blocked(by: Callable[[int], None], number: signal.Signals) -> None:
    """Also where another thread of the process takes the signal, whose mask is its own."""
    reached = []
    threading.Thread(target=threading.Event().wait, args=(10,), daemon=True).start()

    def start() -> None:
        with signals_blocked():
            by(number)
            threading.Event().wait(0.2)
            reached.append("the end")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        start()
    assert reached == ["the end"]


def test_an_ignored_signal_stays_ignored() -> None:
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with interruptible():
            signal.raise_signal(signal.SIGTERM)


def test_handlers_are_kept() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def serve(connection: Connection) -> None:
    """Be a worker that answers."""
    while True:
        connection.send(connection.recv())


def fork(connection: Connection) -> BaseProcess:
    """Start a worker as torch's loaders do."""

    def work() -> None:
        leave_signals_to_parent()
        serve(connection)

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def spawn(connection: Connection) -> BaseProcess:
    return start_worker(serve, connection, name="worker")


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs to know who has sent a signal")
@pytest.mark.parametrize("start", [spawn, fork])
def test_a_worker_leaves_signals_to_its_parent_and_ends_by_the_parents(
    start: Callable[[Connection], BaseProcess],
) -> None:
    ours, theirs = multiprocessing.Pipe()
    with interruptible():
        worker = start(theirs)
    for name in ("INT", "TERM"):  # also while it starts
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
        ours.send(name)
        assert ours.poll(60)
        assert ours.recv() == name
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0
