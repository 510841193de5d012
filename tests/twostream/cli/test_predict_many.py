"""`twostream-predict` over many videos: bad ones are named, the others go on, and nothing done is lost."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flow_cache import DeviceError, VideoError
from twostream.cli.errors import run_command
from twostream.cli.predict import Tally, predict_all
from twostream.cli.predict import main as predict
from twostream.errors import DataError
from twostream.inference.predictor import Prediction

Capture = pytest.CaptureFixture[str]
ODD = ["a\\b.avi", ".h.avi", "C:x.avi", "..avi", "no suffix", "two\nlines.avi"]


@pytest.fixture
def checkpoint(tiny_run: Path) -> str:
    return str(tiny_run / "checkpoints" / "best.ckpt")


@pytest.fixture
def few(tiny_videos: Path, tmp_path: Path) -> Path:
    """A folder with three good videos and a bad one."""
    folder = tmp_path / "few"
    for number, video in enumerate(sorted(tiny_videos.rglob("*.avi"))[:3]):
        (folder / str(number)).mkdir(parents=True)
        shutil.copy(video, folder / str(number) / "v.avi")
    (folder / "1" / "bad.mp4").write_text("no video")
    return folder


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_name_of_a_video_does_not_matter(
    checkpoint: str, few: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "odd").mkdir()
    names = [str(tmp_path / "odd" / name) for name in ODD]
    for name in names:
        shutil.copy(few / "0" / "v.avi", name)
    assert predict([checkpoint, *names, "--json"]) == 0
    found = answers(capsys.readouterr().out)
    assert [answer["video"] for answer in found] == names
    assert all({**answer, "video": ""} == {**found[0], "video": ""} for answer in found)


def test_folders_and_lists_name_videos(checkpoint: str, few: Path, tmp_path: Path, capsys: Capture) -> None:
    good = [str(few / str(number) / "v.avi") for number in range(3)]
    assert predict([checkpoint, str(few), "--json"]) == 1
    output = capsys.readouterr()
    assert [answer["video"] for answer in answers(output.out)] == good
    assert "bad.mp4" in output.err.splitlines()[0]
    assert output.err.splitlines()[1].endswith(f"1 of 4 failed: {few / '1' / 'bad.mp4'}")

    (few / "list.txt").write_text("0/v.avi\n./1/v.avi\n\n")
    (tmp_path / "table.csv").write_text("label,path\nx,2/v.avi\nx,1/v.avi\n")
    lists = [str(few / "list.txt"), str(tmp_path / "table.csv")]
    assert predict([checkpoint, *lists, "--json", f"--root={few}"]) == 0
    assert [answer["video"] for answer in answers(capsys.readouterr().out)] == good


def test_arguments_without_videos_are_named_and_end_the_run_if_there_are_no_others(
    checkpoint: str, few: Path, tmp_path: Path, capsys: Capture
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = [str(empty), str(tmp_path / "none.txt")]
    assert predict([checkpoint, *bad, str(few / "0")]) == 1
    output = capsys.readouterr()
    assert output.out.startswith(str(few / "0" / "v.avi"))
    errors = output.err.splitlines()
    assert "empty: no videos found" in errors[0]
    assert "none.txt: No such file" in errors[1]
    assert errors[2].endswith(f"2 of 3 failed: {bad[0]}, {bad[1]}")
    assert predict([checkpoint, *bad]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
def test_an_interrupted_run_goes_on_and_tries_failures_again(
    name: str, checkpoint: str, few: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new" / name
    command = [checkpoint, str(few), f"--out={out}", "--device=cpu"]
    assert predict(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].endswith(f"{out}: 3 videos predicted, 0 kept from before")
    whole = out.read_bytes()

    out.write_bytes(whole[: whole.rindex(b"v.avi")])  # in the middle of the last line
    assert predict(command) == 1
    output = capsys.readouterr()
    assert out.read_bytes() == whole
    assert "bad.mp4" in output.err.splitlines()[0]
    assert output.err.splitlines()[-1].endswith("1 videos predicted, 2 kept from before")

    shutil.copy(few / "0" / "v.avi", few / "1" / "bad.mp4")  # mended
    assert predict([*command, "--json"]) == 0
    assert [answer["video"] for answer in answers(capsys.readouterr().out)] == [str(few / "1" / "bad.mp4")]
    assert out.read_bytes().startswith(whole)
    assert predict([*command, "--top=2"]) == 2
    assert "use --overwrite" in capsys.readouterr().err
    assert predict([*command, "--top=2", "--overwrite"]) == 0


def test_both_formats_and_standard_output_agree(
    checkpoint: str, few: Path, tmp_path: Path, capsys: Capture
) -> None:
    video = str(few / "0" / "v.avi")
    lines, table = tmp_path / "p.jsonl", tmp_path / "p.csv"
    assert predict([checkpoint, video, f"--out={lines}", "--json"]) == 0
    printed = answers(capsys.readouterr().out)
    found = answers(lines.read_text())
    assert printed == [{key: value for key, value in found[0].items() if key != "checkpoint"}]
    assert predict([checkpoint, video, f"--out={table}"]) == 0
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["video"], row["prediction"]) == (video, printed[0]["class"])
    assert float(row["confidence"]) == pytest.approx(printed[0]["confidence"], abs=1e-5)
    assert row["checkpoint"] == found[0]["checkpoint"]


def test_an_output_that_cannot_be_written_is_refused(
    checkpoint: str, few: Path, tmp_path: Path, capsys: Capture
) -> None:
    for option, message in (("--out=p.txt", "must end in"), ("--overwrite", "needs --out")):
        assert predict([checkpoint, str(few), option]) == 2
        assert message in capsys.readouterr().err


def fake(actions: dict[str, BaseException]) -> Callable[[Path], Prediction]:
    def predictor(video: Path) -> Prediction:
        if video.name in actions:
            raise actions[video.name]
        return Prediction(video, {"flow": np.ones(1, np.float32)}, None)

    return predictor


VIDEOS = [Path(name) for name in "abcde"]


def test_no_error_of_one_video_ends_the_run(capsys: Capture) -> None:
    actions = {
        "a": VideoError("a", "damaged"),
        "b": DataError("b is too short"),
        "c": MemoryError(),
        "d": RuntimeError("of\nsome library"),
    }
    done: list[Path] = []
    tally = Tally()
    assert predict_all(fake(actions), VIDEOS, lambda p: done.append(p.video), tally, None) == 1
    assert done == [Path("e")]
    assert tally.failed == ["a", "b", "c", "d"]
    assert [
        line.removeprefix("twostream-predict: error: ") for line in capsys.readouterr().err.splitlines()
    ] == [
        "a: damaged",
        "b is too short",
        "c: MemoryError:",
        "d: RuntimeError: of some library",
        "4 of 5 failed: a, b, c, d",
    ]


def test_a_lost_device_ends_the_run() -> None:
    with pytest.raises(DeviceError):
        predict_all(fake({"b": DeviceError("gone")}), VIDEOS, lambda p: None, Tally(), None)


def test_an_interruption_says_what_is_done(capsys: Capture) -> None:
    actions = {"b": VideoError("b", "damaged"), "d": KeyboardInterrupt()}
    done: list[Path] = []
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted: 2 videos are done, 1 failed, 2 remain$"):
        predict_all(fake(actions), VIDEOS, lambda p: done.append(p.video), Tally(), None)
    assert done == [Path("a"), Path("c")]
    errors = capsys.readouterr().err.splitlines()
    assert errors[1].endswith("1 of 5 failed: b")


def test_the_message_of_an_interruption_is_said_once(capsys: Capture) -> None:
    def command() -> int:
        raise KeyboardInterrupt("interrupted: 2 videos are done")

    assert run_command("twostream-predict", command) == 130
    assert capsys.readouterr().err == "twostream-predict: error: interrupted: 2 videos are done\n"
