"""Whatever the standard streams are, the work is done, and what must be said is said once in a line."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console import CONDITIONS, Command, Runner, check

ROOT = Path(__file__).parents[3]
LOST = "{}: error: cannot write standard output: No space left on device; the rest of it is lost\n"
BAD = "twostream-predict: error: {videos}/text.avi: cannot be opened as a video (damaged, or not a video file)\n"
FAILED = "twostream-predict: error: 1 of 3 failed: {videos}/text.avi\n"
PREDICT = ["{checkpoint}", "{videos}", "--device=cpu"]
COMMANDS = {
    "predict": Command(
        "twostream.cli.predict",
        PREDICT,
        status=1,  # one of the videos is none
        answer="ő.avi: ",
        complaint=BAD + FAILED,
    ),
    "predict --json": Command(
        "twostream.cli.predict",
        [*PREDICT, "--json"],
        status=1,
        answer='\\u0151.avi", "class": ',  # JSON's own way to write it
        complaint=BAD + FAILED,
    ),
    "predict --out": Command(
        "twostream.cli.predict",
        [*PREDICT, "--out={out}ő.csv"],
        status=1,
        complaint=BAD + FAILED + "twostream-predict: {out}ő.csv: 2 videos predicted, 0 kept from before\n",
        made=["outő.csv"],
    ),
    "evaluate": Command(
        "twostream.cli.evaluate",
        ["{checkpoint}", "--device=cpu", "--out={out}"],
        answer="report: ",
        made=["out/report.md", "out/report.html", "out/summary.csv", "out/predictions.csv"],
    ),
    "compare": Command(
        "twostream.cli.compare",
        ["ő={run}", "--out={out}"],
        answer="report: ",
        made=["out/comparison.md", "out/comparison.csv", "out/comparison_pairs.csv", "out/comparison.png"],
    ),
    "train": Command(
        "twostream.cli.train",
        [],  # those of the tiny run
        answer="report: ",
        made=["out/checkpoints/last.ckpt", "out/metrics.csv", "out/evaluation/report.html"],
    ),
    "an unusable argument": Command(
        "twostream.cli.predict",
        ["/no/ő.ckpt", "{videos}"],
        status=2,
        complaint="twostream-predict: error: checkpoint /no/ő.ckpt does not exist\n",
    ),
}
# These take seconds: the conditions that reach furthest.
FEW = {
    "predict --json": ("all closed", "output full", "ascii", "reader leaves after a line"),
    "evaluate": ("output closed", "all closed", "reader left", "output full", "ascii", "dumb terminal"),
    "compare": ("output closed", "all closed", "reader left", "output full", "ascii", "one column"),
    "train": ("both full", "narrow terminal", "folder deleted"),
}

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a POSIX shell")

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    modules = [f"twostream.cli.{name}" for name in ("train", "evaluate", "predict", "compare")]
    modules += ["twostream.run", "twostream.reports.comparison.write"]
    with Runner([*modules, "twostream.inference.predictor", "cv2", "av"], [ROOT]) as runner:
        yield runner


@pytest.fixture(scope="module")
def videos(tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good videos and a bad one; ASCII cannot show one name."""
    folder = tmp_path_factory.mktemp("streams") / "videos"
    folder.mkdir()
    source = sorted(tiny_videos.rglob("*.avi"))[0]
    for name in ("a", "ő"):
        shutil.copy(source, folder / f"{name}.avi")
    (folder / "text.avi").write_text("no video")
    return folder


@pytest.mark.parametrize(
    ("command", "condition"),
    [(command, condition) for command in COMMANDS for condition in FEW.get(command, CONDITIONS)],
)
def test_the_work_is_done_and_said(
    command: str,
    condition: str,
    runner: Runner,
    checkpoint: Path,
    videos: Path,
    tiny_arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    wanted = COMMANDS[command]
    places = {
        "checkpoint": checkpoint,
        "run": checkpoint.parents[1],
        "videos": videos,
        "out": tmp_path / "out",
    }
    if command == "train":
        arguments = tiny_arguments(tmp_path / "out", trainer__epochs=1)
        wanted = dataclasses.replace(wanted, arguments=arguments)
    outcome = runner.run(wanted, CONDITIONS[condition], tmp_path, places)
    check(f"twostream-{wanted.module.rpartition('.')[2]}", wanted, CONDITIONS[condition], outcome, places)
    if command == "predict --out":
        assert len((tmp_path / "outő.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run a command, given its name, arguments, a shell's redirections and variables of the environment."""
    place = tmp_path / "work"
    place.mkdir()

    def run(
        name: str, arguments: list[object], streams: str = "", before: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        quiet = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
        return subprocess.run(
            [
                *("bash", "-c", f'{before} exec "$0" "$@" {streams}', sys.executable),
                *("-m", f"twostream.cli.{name}", *map(str, arguments)),
            ],
            capture_output=True, text=True, encoding="utf-8", errors="surrogateescape", timeout=300, check=False,
            cwd=place, env={**quiet, "PYTHONPATH": str(Path(__file__).parents[3]), **variables},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def checkpoint(tiny_run: Path) -> Path:
    return tiny_run / "checkpoints" / "best.ckpt"


@pytest.fixture
def video(tiny_videos: Path, tmp_path: Path) -> Path:
    """A video whose name ASCII cannot show."""
    return Path(shutil.copy(sorted(tiny_videos.rglob("*.avi"))[0], tmp_path / "ő.avi"))


@pytest.mark.parametrize(
    ("streams", "variables", "shown"),
    [
        ("2>&-", {}, "ő.avi: "),
        ("", {"PYTHONIOENCODING": "ascii"}, "\\u0151.avi: "),
        ("", {"LC_ALL": "C", "COLUMNS": "1"}, "ő.avi: "),
    ],
)
def test_predictions_reach_the_reader(
    start: Start, checkpoint: Path, video: Path, streams: str, variables: dict[str, str], shown: str
) -> None:
    bad = video.with_name("text.avi")
    bad.write_text("no video")
    run = start("predict", [checkpoint, bad, video, "--device=cpu"], streams, **variables)
    assert run.returncode == 1  # one of the videos is none
    (line,) = run.stdout.splitlines()
    assert shown in line
    assert line.count("%") == 3
    if not streams:  # that the bad video is named, and nothing else: no warning of a library
        error, count = run.stderr.splitlines()
        assert error.startswith(f"twostream-predict: error: {bad}: ")
        assert count.startswith("twostream-predict: error: 1 of 2 failed: ")


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("> >(exec <&-)", 0, ""),  # a reader that leaves at once
        (">/dev/full", 1, LOST.format("twostream-evaluate")),
    ],
)
def test_an_evaluation_is_written_though_nobody_listens(
    start: Start, checkpoint: Path, tmp_path: Path, streams: str, status: int, said: str
) -> None:
    run = start("evaluate", [checkpoint, "--device=cpu", f"--out={tmp_path / 'out'}"], streams)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", said)
    assert (tmp_path / "out" / "report.md").stat().st_size > 1000


def test_the_table_shows_its_figures_on_a_narrow_terminal(
    start: Start, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [checkpoint, "--device=cpu", f"--out={tmp_path / 'out'}"]
    run = start("evaluate", arguments, COLUMNS="1", PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    (fused,) = (line for line in run.stdout.splitlines() if "fused " in line and "%" in line)
    assert fused.count(" %") == 4
    assert run.stdout.isascii()


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "compare"])
@pytest.mark.parametrize("streams", [">/dev/full", ">&-", ""])
def test_help(start: Start, name: str, streams: str) -> None:
    run = start(name, ["--help"], streams, COLUMNS="1", PYTHONIOENCODING="ascii")
    full = streams == ">/dev/full"
    said = LOST.format(f"twostream-{name}") if full else ""
    assert (run.returncode, run.stderr) == (int(full), said)
    assert bool(streams) != ("--version" in run.stdout)


def test_a_deleted_working_folder_does_not_matter(start: Start, checkpoint: Path, video: Path) -> None:
    """Importing torch asks for its name, and oneMKL ends the process where there is no answer."""
    run = start("predict", [checkpoint, video, "--device=cpu"], before="rmdir ../work;")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"{video}: ")


@pytest.mark.parametrize("name", ["best.ckpt", "../best.ckpt"])
def test_a_relative_path_in_a_deleted_folder_is_refused(start: Start, name: str, video: Path) -> None:
    run = start("predict", [name, video], before="rmdir ../work;")
    assert run.returncode == 2
    (error,) = run.stderr.splitlines()
    assert error in (
        "twostream-predict: error: checkpoint best.ckpt does not exist",
        "twostream-predict: error: the working folder has been deleted: change to another, or give absolute paths",
    )


@pytest.mark.parametrize(("streams", "status", "said"), [("<&- >&- 2>&-", 0, "")])
def test_a_run_is_finished_though_nobody_listens(
    start: Start,
    tiny_arguments: Callable[..., list[object]],
    tmp_path: Path,
    streams: str,
    status: int,
    said: str,
) -> None:
    arguments = tiny_arguments(tmp_path / "run", trainer__epochs=1, data__workers=1)
    run = start("train", arguments, streams)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", said)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert (tmp_path / "run" / "evaluation" / "report.html").exists()
