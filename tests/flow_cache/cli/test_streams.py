"""Whatever the standard streams are, the work is done, and what must be said is said once in a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import CONDITIONS, Command, Runner, check

from flow_cache.cli.main import main
from flow_cache.cli.streams import run_program

ROOT = Path(__file__).parents[3]
PROGRAM = "flow_cache.cli.main"
COMMANDS = {
    "precompute": Command(
        PROGRAM,
        ["precompute", "{videos}", "--out={out}", "--method=farneback", "--workers=1"],
        status=1,  # one of the videos is none
        answer="videos done       2\n",
        made=["out/a.flow.zip", "out/ű.flow.zip", "out/index.csv", "out/failures.csv"],
        fresh=True,
    ),
    "dry run": Command(
        PROGRAM,
        ["precompute", "{videos}", "--out={out}", "--method=farneback", "--dry-run"],
        status=1,
        answer="cannot be read: ő.avi: ",
    ),
    "info": Command(PROGRAM, ["info", "{cache}"], answer="fields             4 from 6 frames\n", fresh=True),
    "info --json": Command(PROGRAM, ["info", "{cache}", "--json"], answer='"videos": 2,'),
    "verify": Command(PROGRAM, ["verify", "{cache}"], answer="2 files, 4 fields"),
    "verify --videos": Command(
        PROGRAM, ["verify", "{cache}", "--videos={videos}"], status=1, answer="bad: ő.flow.zip: "
    ),
    "export": Command(
        PROGRAM,
        ["export", "{cache}", "--out={out}"],
        answer="2 videos, 4 fields exported",
        made=[f"out/{name}/flow_{axis}_0000{n}.jpg" for name in "aű" for axis in "xy" for n in (1, 2)],
    ),
    "import": Command(
        PROGRAM,
        ["import", "{exported}", "--out={out}"],
        answer="2 videos, 4 fields imported",
        made=["out/a.flow.zip", "out/ű.flow.zip", "out/index.csv"],
    ),
    "view": Command(
        PROGRAM,
        ["view", "{cache}/ű.flow.zip", "--out={out}ű.png"],
        answer="outű.png: full colour is ",
        made=["outű.png"],
    ),
    "help": Command(PROGRAM, ["precompute", "--help"], answer="--short-side"),
    "an unusable argument": Command(
        PROGRAM,
        ["info", "/no/ő"],
        status=2,
        complaint="flow-cache: error: /no/ő: no such cache file or folder\n",
    ),
    "a cache file that is none": Command(
        PROGRAM,
        ["view", "{videos}/ő.avi", "--out={out}.png"],
        status=1,
        complaint="flow-cache: error: {videos}/ő.avi: is not a whole zip file (its end record is missing)\n",
    ),
}

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and POSIX")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner([PROGRAM, "flow_cache.commands.view", "cv2", "av"], [ROOT]) as runner:
        yield runner


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


@pytest.fixture(scope="module")
def exported(cache: Path) -> Path:
    exported = cache.parent / "exported"
    assert main(["export", str(cache), "--out", str(exported)]) == 0
    return exported


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_work_is_done_and_said(
    command: str, condition: str, runner: Runner, videos: Path, cache: Path, exported: Path, tmp_path: Path
) -> None:
    places = {"videos": videos, "cache": cache, "exported": exported, "out": tmp_path / "out"}
    outcome = runner.run(COMMANDS[command], CONDITIONS[condition], tmp_path, places)
    check("flow-cache", COMMANDS[command], CONDITIONS[condition], outcome, places)
    if command == "precompute":
        assert 'ő.avi,"cannot be opened' in (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
        if CONDITIONS[condition].output_heard:
            assert ".avi: cannot be opened as a video" in outcome.output


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


def test_a_text_that_ends_the_program_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise SystemExit("no videos\nbelow the folder")

    with pytest.raises(SystemExit) as end:
        run_program("test", command)
    assert end.value.code == 1
    assert capsys.readouterr().err == "test: error: no videos below the folder\n"


def test_a_defect_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise FileNotFoundError("of a library")

    with pytest.raises(FileNotFoundError, match="of a library"):
        run_program("test", command)
