"""Whatever the standard streams are, the work is done, and what must be said is said once in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flow_cache.cli.main import main
from flow_cache.cli.streams import run_program

LOST = "flow-cache: error: cannot write standard output: No space left on device; the rest of it is lost\n"


@dataclass(frozen=True)
class Condition:
    """What a command finds when it starts.

    Attributes:
        streams: redirections of a shell.
        variables: of the environment.
        heard: whether standard output reaches somebody.
        reader_left: standard output is a pipe that nobody reads.
        deleted: the working folder is.
        said: what standard error must hold, or None where it does not get out.
        status: exit status where all went well otherwise.
    """

    streams: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    heard: bool = True
    reader_left: bool = False
    deleted: bool = False
    said: str = ""
    status: int = 0


CONDITIONS = {
    "output closed": Condition(">&-", heard=False),
    "error closed": Condition("2>&-"),
    "all closed": Condition("<&- >&- 2>&-", heard=False),
    "reader left": Condition(reader_left=True, heard=False),
    "output full": Condition(">/dev/full", heard=False, said=LOST, status=1),
    "error full": Condition("2>/dev/full"),
    "both full": Condition(">/dev/full 2>&1", heard=False, status=1),
    "output for reading only": Condition(
        "1</dev/null", heard=False, said=LOST.replace("No space left on device", "Bad file descriptor"), status=1
    ),
    "ascii": Condition(variables={"PYTHONIOENCODING": "ascii"}),
    "C locale": Condition(variables={"LC_ALL": "C"}),
    "unbuffered": Condition(">/dev/full", {"PYTHONUNBUFFERED": "1"}, heard=False, said=LOST, status=1),
    "one column": Condition(variables={"COLUMNS": "1"}),
    "folder deleted": Condition(deleted=True),
}  # fmt: skip

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a POSIX shell")


@pytest.fixture(params=CONDITIONS)
def condition(request: pytest.FixtureRequest) -> Condition:
    return CONDITIONS[request.param]


@pytest.fixture
def start(
    condition: Condition, tmp_path: Path
) -> Callable[[Sequence[str]], subprocess.CompletedProcess[str]]:
    """Run `flow-cache` with arguments under the condition."""

    def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        place = tmp_path / "work"
        place.mkdir(exist_ok=True)
        enter = f"rmdir '{place}';" if condition.deleted else ""
        output: int = subprocess.PIPE
        if condition.reader_left:
            left, output = os.pipe()
            os.close(left)
        try:
            done = subprocess.run(
                [
                    *("bash", "-c", f'{enter} exec "$0" "$@" {condition.streams}'),
                    *(sys.executable, "-m", "flow_cache.cli.main", *arguments),
                ],
                stdout=output, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="surrogateescape",
                cwd=place, env={**os.environ, **condition.variables}, timeout=120, check=False,
            )  # fmt: skip
        finally:
            if condition.reader_left:
                os.close(output)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout or "", done.stderr)

    return run


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    """Two good videos and a bad one; ASCII cannot show two of their names."""
    folder = tmp_path_factory.mktemp("streams") / "videos"
    for name in ("a", "ű"):
        make_video(folder / f"{name}.avi", frames=3)
    (folder / "ő.avi").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def cache(videos: Path) -> Path:
    cache = videos.parent / "cache"
    made = main(["precompute", str(videos), "--out", str(cache), "--method", "farneback", "--workers", "1"])
    assert made == 1
    return cache


def test_a_cache_is_filled(condition: Condition, start, videos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = start(["precompute", str(videos), "--out", str(cache), "--method", "farneback", "--workers", "1"])
    assert run.returncode == 1  # one of the videos is none
    assert run.stderr == condition.said
    assert {path.name for path in cache.iterdir()} == {
        "a.flow.zip",
        "ű.flow.zip",
        "index.csv",
        "failures.csv",
    }
    assert 'ő.avi,"cannot be opened' in (cache / "failures.csv").read_text(encoding="utf-8")
    assert condition.heard == ("videos done       2\n" in run.stdout)
    assert condition.heard == (".avi: cannot be opened as a video" in run.stdout)


def test_a_cache_is_described_checked_and_exported(
    condition: Condition, start, cache: Path, tmp_path: Path
) -> None:
    for arguments, answer in (
        (["info", str(cache)], "fields             4 from 6 frames\n"),
        (["verify", str(cache)], "2 files, 4 fields"),
        (["export", str(cache), "--out", str(tmp_path / "out")], "2 videos, 4 fields exported"),
    ):
        run = start(arguments)
        assert (run.returncode, run.stderr) == (condition.status, condition.said)
        assert condition.heard == (answer in run.stdout)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "ű"}
    assert len(list((tmp_path / "out" / "ű").iterdir())) == 4


@pytest.mark.parametrize(
    "condition", [CONDITIONS[name] for name in ("output closed", "reader left", "output full", "one column")]
)
def test_help_that_cannot_be_written_is_no_success(condition: Condition, start) -> None:
    run = start(["precompute", "--help"])
    assert (run.returncode, run.stderr) == (condition.status, condition.said)
    assert condition.heard == ("--short-side" in run.stdout)


@pytest.mark.parametrize(
    "condition",
    [CONDITIONS[name] for name in ("all closed", "error full", "ascii", "C locale", "one column")],
)
def test_errors_are_a_line_with_every_name(condition: Condition, start) -> None:
    run = start(["info", "/no/ő"])
    assert run.returncode == 2
    assert run.stdout == ""
    if "2>" not in condition.streams:
        name = "\\u0151" if "PYTHONIOENCODING" in condition.variables else "ő"
        assert run.stderr == f"flow-cache: error: /no/{name}: no such cache file or folder\n"


def test_json_is_whole_whatever_the_terminal(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(cache), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 2


def test_a_relative_path_in_a_deleted_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], videos: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["precompute", str(videos), "--out", "cache"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flow-cache: error: the working folder has been deleted: ")
    assert error.count("\n") == 1


def test_streams_are_given_back_and_lone_surrogates_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr

    def command() -> int:
        print("caf\udce9")
        print("na\udcefve", file=sys.stderr)
        return 7

    assert run_program("test", command) == 7
    assert (sys.stdout, sys.stderr) == before
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("caf\\udce9\n", "na\\udcefve\n")


def test_a_name_cannot_break_a_line_or_a_terminal(
    make_video, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    make_video(tmp_path / "videos" / "a.avi", frames=3)
    (tmp_path / "videos" / "b\n\x1b[31m  c.avi").write_text("no video")
    arguments = ["precompute", str(tmp_path / "videos"), "--out", str(cache), "--method", "farneback"]
    assert main([*arguments, "--workers", "1"]) == 1
    assert "failed: b\\n\\x1b[31m  c.avi: cannot be opened" in capsys.readouterr().out


def test_a_defect_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise FileNotFoundError("of a library")

    with pytest.raises(FileNotFoundError, match="of a library"):
        run_program("test", command)
