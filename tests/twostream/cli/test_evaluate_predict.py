"""`twostream-evaluate` and `twostream-predict` agree with the report of the training run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from twostream.cli.evaluate import main as evaluate
from twostream.cli.predict import main as predict
from twostream.demo.generate import demo_classes

Arguments = Callable[..., list[str]]
ReadRows = Callable[[Path], list[dict[str, str]]]


@pytest.fixture
def checkpoint(tiny_run: Path) -> Path:
    return tiny_run / "checkpoints" / "best.ckpt"


def test_evaluation_of_the_checkpoint_repeats_the_runs_report(
    tiny_run: Path, checkpoint: Path, tmp_path: Path, read_rows: ReadRows
) -> None:
    assert evaluate([str(checkpoint), f"--out={tmp_path}", "--device=cpu"]) == 0
    for name in ("summary.csv", "predictions.csv", "per_class.csv"):
        assert read_rows(tmp_path / name) == read_rows(tiny_run / "evaluation" / name)


def test_other_sides_and_data_settings_can_be_evaluated(checkpoint: Path, tmp_path: Path) -> None:
    settings = ["--part=validation", "--data.protocol=1x2", "--data.augment.flip=0.5"]
    assert evaluate([str(checkpoint), f"--out={tmp_path}", *settings]) == 0
    report = (tmp_path / "report.md").read_text()
    assert "validation side" in report
    assert "2 clips per video (1x2: clips x views), probabilities averaged" in report


def test_a_checkpoint_of_other_classes_is_refused(
    checkpoint: Path, tiny_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(tiny_videos, videos, ignore=shutil.ignore_patterns("demo.json"))
    name = demo_classes()[-1]
    (videos / name).rename(videos / "something_else")
    cache = tmp_path / "cache"
    from flow_cache.cli.main import main as flow_cache

    assert flow_cache(["precompute", str(videos), "--out", str(cache), "--method", "farneback", "--rgb"]) == 0
    capsys.readouterr()
    assert evaluate([str(checkpoint), f"--data.root={videos}", f"--data.cache={cache}"]) == 2
    error = capsys.readouterr().err
    assert f"only in the checkpoint: {name}; only in the data: something_else" in error


def test_prediction_agrees_with_the_report(
    checkpoint: Path,
    tiny_run: Path,
    tiny_videos: Path,
    capsys: pytest.CaptureFixture[str],
    read_rows: ReadRows,
) -> None:
    rows = read_rows(tiny_run / "evaluation" / "predictions.csv")[:3]
    videos = [str(tiny_videos / row["video"]) for row in rows]
    capsys.readouterr()
    assert predict([str(checkpoint), *videos, "--json", "--device=cpu"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, answer in zip(rows, answers, strict=True):
        assert answer["class"] == row["prediction"]
        assert answer["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-4)
        assert answer["stream_weights"]["rgb"] + answer["stream_weights"]["flow"] == pytest.approx(1)


def test_prediction_in_plain_words(
    checkpoint: Path, tiny_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = sorted(tiny_videos.rglob("*.avi"))[0]
    assert predict([str(checkpoint), str(video), "--top=2"]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{video}: ")
    assert line.count("%") == 2


def test_a_bad_video_is_named_and_the_others_go_on(
    checkpoint: Path, tiny_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.avi"
    text.write_text("no video")
    good = sorted(tiny_videos.rglob("*.avi"))[0]
    assert predict([str(checkpoint), str(tmp_path / "none.avi"), str(text), str(good)]) == 1
    output = capsys.readouterr()
    errors = output.err.splitlines()
    assert len(errors) == 3
    assert "none.avi: no such file" in errors[0]
    assert "text.avi" in errors[1]
    assert f"2 of 3 failed: {tmp_path / 'none.avi'}, {text}" in errors[2]
    assert output.out.startswith(str(good))


@pytest.mark.real_data
def test_a_video_is_predicted_or_named_if_it_decodes_nothing(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenCV before 5.1 decodes no AV1."""
    video = Path(__file__).parents[4] / "shared" / "data" / "clips" / "av1_video.mkv"
    if not video.exists():
        pytest.skip(f"{video} is not on this machine")
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    decodes = capture.read()[0]
    capture.release()
    status = predict([str(checkpoint), str(video)])
    output = capsys.readouterr()
    if decodes:
        assert status == 0
        assert output.out.startswith(f"{video}: ")
    else:
        assert status == 1
        errors = output.err.splitlines()
        assert len(errors) == 1
        assert "av1_video.mkv: no frame could be decoded (codec AV01, header announces 125" in errors[0]


@pytest.mark.parametrize("command", [evaluate, predict])
def test_unusable_checkpoints_are_refused(
    command: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["some.avi"] if command is predict else []
    text, foreign = tmp_path / "text.ckpt", tmp_path / "foreign.ckpt"
    text.write_text("no checkpoint")
    torch.save({"weights": torch.zeros(2)}, foreign)
    for path, expected in (
        (tmp_path / "none.ckpt", "does not exist"),
        (text, "not a readable checkpoint"),
        (foreign, "was not written by twostream-train"),
    ):
        assert command([str(path), *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert expected in error


def test_a_device_that_is_not_there_is_refused(
    checkpoint: Path, tiny_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(checkpoint), "x.avi", "--device=warp"]) == 2
    assert "device 'warp' cannot be used" in capsys.readouterr().err
