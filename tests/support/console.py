"""Run a command under a broken stream, an odd terminal or in a deleted folder, and say what came of it.

A command runs in a fresh interpreter, or in a fork of one that has imported the packages already, which saves the
seconds that torch takes. What a command finds when it starts is made in the child process, in the same way for both.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pty
import re
import runpy
import signal
import subprocess
import sys
import termios
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120  # for one command

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Condition:
    """What a command finds when it starts.

    Attributes:
        stdin, stdout, stderr: "" (read or kept), "closed", "full" (a device without space), "left" (a pipe that nobody
            reads), "head" (a pipe that is read for one line), "reading" (open for reading only), or "terminal" (of one
            column).
        variables: of the environment.
        deleted: the working folder is.
        lost: why what is printed is lost, where that is an error.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    lost: str = ""

    @property
    def output_heard(self) -> bool:
        """Whether all of standard output reaches somebody."""
        return self.stdout == ""

    @property
    def error_heard(self) -> bool:
        """Whether standard error reaches somebody."""
        return self.stderr in ("", "terminal")

    @property
    def live(self) -> bool:
        """Whether a line that changes may be shown."""
        return self.stderr == "terminal" and self.variables.get("TERM") != "dumb"

    def shown(self, text: str) -> str:
        """Return a text as the encoding can show it."""
        encoding = self.variables.get("PYTHONIOENCODING", "utf-8")
        return text.encode(encoding, "backslashreplace").decode(encoding)


FULL, NOT_FOR_WRITING = "No space left on device", "Bad file descriptor"
CONDITIONS = {
    "nothing special": Condition(),
    "input closed": Condition(stdin="closed"),
    "output closed": Condition(stdout="closed"),
    "error closed": Condition(stderr="closed"),
    "output and error closed": Condition(stdout="closed", stderr="closed"),
    "all closed": Condition("closed", "closed", "closed"),
    "reader left": Condition(stdout="left"),
    "reader leaves after a line": Condition(stdout="head"),
    "output full": Condition(stdout="full", lost=FULL),
    "error full": Condition(stderr="full"),
    "both full": Condition(stdout="full", stderr="full", lost=FULL),
    "output for reading only": Condition(stdout="reading", lost=NOT_FOR_WRITING),
    "ascii": Condition(variables={"PYTHONIOENCODING": "ascii"}),
    "C locale": Condition(variables={"LC_ALL": "C"}),
    "unbuffered": Condition(stdout="full", variables={"PYTHONUNBUFFERED": "1"}, lost=FULL),
    "one column": Condition(variables={"COLUMNS": "1"}),
    "no columns": Condition(variables={"COLUMNS": "0"}),
    "narrow terminal": Condition(stderr="terminal", variables={"TERM": "xterm"}),
    "dumb terminal": Condition(stderr="terminal", variables={"TERM": "dumb"}),
    "folder deleted": Condition(deleted=True),
}


@dataclass(frozen=True)
class Command:
    """A command, and what holds for it whatever the streams are.

    Attributes:
        module: that is run; or a script, the path of a file.
        arguments: in which {name} stands for a place.
        status: its exit status where all that it prints can be written.
        answer: a part of what it prints to standard output.
        complaint: all that it prints to standard error, in which {name} stands for a place.
        made: the files that it leaves, below the folder of the test.
        fresh: whether it runs in a fresh interpreter.
    """

    module: str
    arguments: Sequence[str]
    status: int = 0
    answer: str = ""
    complaint: str = ""
    made: Sequence[str] = ()
    fresh: bool = False


@dataclass(frozen=True)
class Outcome:
    """The exit status of a command, and what it wrote."""

    status: int
    output: str
    error: str


def check(
    program: str, command: Command, condition: Condition, outcome: Outcome, places: Mapping[str, Any]
) -> None:
    """Assert that the work is done, and that what must be said is said once in a line."""
    lost = bool(condition.lost and command.answer)
    assert outcome.status == (command.status or int(lost)), outcome
    assert "Traceback" not in outcome.output + outcome.error
    if condition.output_heard:
        assert condition.shown(command.answer) in outcome.output
    elif condition.stdout != "head":
        assert outcome.output == ""
    if condition.error_heard:
        complaint = condition.shown(command.complaint.format_map(places))
        if lost:
            complaint += (
                f"{program}: error: cannot write standard output: {condition.lost}; the rest of it is lost\n"
            )
        if condition.live:  # beside a line that is taken back
            assert all(outcome.error.count(line) == 1 for line in complaint.splitlines())
        else:
            assert outcome.error == complaint
    folder = Path(places["out"]).parent
    for name in command.made:
        assert (folder / name).is_file(), name
        assert (folder / name).stat().st_size > 0


class Runner:
    """Run commands; a context manager.

    Args:
        modules: to import once, for the commands that need no fresh interpreter.
        paths: where Python finds modules.
    """

    def __init__(self, modules: Sequence[str], paths: Sequence[Path]) -> None:
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("OPENCV_", "COLUMNS"))},
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }
        self._modules = modules
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.communicate()

    def run(self, command: Command, condition: Condition, folder: Path, places: Mapping[str, Any]) -> Outcome:
        """Run a command in a folder `work` below `folder`."""
        arguments = [argument.format_map(places) for argument in command.arguments]
        (folder / "work").mkdir(exist_ok=True)
        with _streams(condition, folder) as (streams, texts):
            request = {"folder": str(folder / "work"), "condition": vars(condition), "streams": streams}
            if command.fresh:
                started = [command.module] if command.module.endswith(".py") else ["-m", command.module]
                status = subprocess.run(
                    [sys.executable, *started, *arguments], timeout=SECONDS, check=False,
                    env={**self._environment, **condition.variables}, preexec_fn=lambda: _enter(request),
                ).returncode  # fmt: skip
            else:
                status = self._fork({**request, "module": command.module, "arguments": arguments})
        return Outcome(status, *texts)

    def _fork(self, request: Mapping[str, Any]) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, *self._modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=self._environment,
            )  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


@contextlib.contextmanager
def _streams(condition: Condition, folder: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Make the files that a command writes to; yields their names, and afterwards what was written."""
    names: list[str] = []
    readers: list[threading.Thread] = []
    slaves: list[int] = []
    texts = ["", ""]

    def read(index: int, kind: str, source: Any) -> None:
        if kind == "head":
            with Path(source).open() as pipe:
                texts[index] = pipe.readline()
            return
        data = b""
        with contextlib.suppress(OSError):  # a terminal that everybody has left
            while some := os.read(source, 1000):
                data += some
        os.close(source)
        texts[index] = _ESCAPES.sub("", data.decode().replace("\r\n", "\n"))
        texts[index] += "".join(_ESCAPES.findall(data.decode())) if not condition.live else ""

    for index, kind in enumerate((condition.stdout, condition.stderr)):
        name: Any = str(folder / f"stream{index}")
        source: Any = name
        Path(name).unlink(missing_ok=True)
        if kind == "terminal":
            source, slave = pty.openpty()
            termios.tcsetwinsize(slave, (24, 1))
            slaves.append(slave)
            name = os.ttyname(slave)
        elif kind == "head":
            os.mkfifo(name)
        if kind in ("terminal", "head"):
            readers.append(threading.Thread(target=read, args=(index, kind, source), daemon=True))
            readers[-1].start()
        names.append(name)
    yield names, texts
    for slave in slaves:
        os.close(slave)
    for reader in readers:
        reader.join(SECONDS)
    for index, kind in enumerate((condition.stdout, condition.stderr)):
        if kind == "":
            texts[index] = Path(names[index]).read_text(encoding="utf-8", errors="surrogateescape")


def _enter(request: Mapping[str, Any]) -> None:
    """Make the condition, in the process of the command."""
    condition = Condition(**request["condition"])
    os.chdir(request["folder"])
    if condition.deleted:
        Path(request["folder"]).rmdir()
    kinds = condition.stdin, condition.stdout, condition.stderr
    opened = [_open(kind, name) for kind, name in zip(kinds, [os.devnull, *request["streams"]], strict=True)]
    for number, descriptor in enumerate(opened):
        if descriptor is None:
            os.close(number)
        else:
            os.dup2(descriptor, number)
            os.close(descriptor)


def _open(kind: str, name: str) -> int | None:
    if kind == "closed":
        return None
    if kind == "left":
        left, descriptor = os.pipe()
        os.close(left)
        return descriptor
    if kind == "reading" or name == os.devnull:
        return os.open(os.devnull, os.O_RDONLY)
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o600)


def _serve() -> None:
    """Import the modules that are named, then run a command for each line that comes."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(request: Mapping[str, Any]) -> None:
    """Run a command as an interpreter does that has just been started, and end the process."""
    signal.alarm(SECONDS)
    os.environ.update(request["condition"]["variables"])
    _enter(request)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        setattr(sys, name, _as_python_opens(number, mode))
    sys.argv = [request["module"], *request["arguments"]]
    try:
        if request["module"].endswith(".py"):
            runpy.run_path(request["module"], run_name="__main__")  # which ends by itself
        status = importlib.import_module(request["module"]).main(request["arguments"])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = 120
    os._exit(status or 0)


def _as_python_opens(number: int, mode: str) -> Any:
    try:
        os.fstat(number)
    except OSError:
        return None
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    errors = "backslashreplace" if number == 2 else "strict"
    raw = open(number, f"{mode}b", buffering=0, closefd=False)  # noqa: SIM115
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=number == 2)


if __name__ == "__main__":
    _serve()
