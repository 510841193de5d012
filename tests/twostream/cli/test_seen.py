"""A run and its checkpoints keep to the split they were begun with, and say what they have seen."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_cache.cli.main import main as flow_cache
from twostream.checkpoints import load_checkpoint
from twostream.cli.evaluate import main as evaluate
from twostream.cli.train import main as train
from twostream.evaluation.files import read_evaluation

Arguments = Callable[..., list[str]]
Capture = pytest.CaptureFixture[str]
CHECKPOINT = "run/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def arguments(tiny_arguments: Arguments) -> list[str]:
    """A training of the flow stream that takes seconds, in the working folder."""
    places = {"data__root": "videos", "data__cache": "cache"}
    return tiny_arguments(Path("run"), **places, model__streams="[flow]", trainer__epochs=1)


@pytest.fixture(scope="module")
def trained(
    tiny_videos: Path, tiny_cache: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("seen") / "work"
    shutil.copytree(tiny_videos, place / "videos", ignore=shutil.ignore_patterns("demo.json"))
    shutil.copytree(tiny_cache, place / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(arguments) == 0
    return place


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own with the videos, their cache and a finished run."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def side(name: str) -> list[str]:
    return [row["video"] for row in rows_of(Path("run/split.csv")) if row["side"] == name]


def predicted() -> set[str]:
    return {row["video"] for row in rows_of(Path("run/evaluation/predictions.csv"))}


def remove(video: str) -> None:
    Path("videos", video).unlink()
    Path("cache", video).with_suffix(".flow.zip").unlink()


def change_videos() -> tuple[str, str]:
    """Delete a test and a training video, and add the training video's class another; gives the first two."""
    gone = side("test")[0], side("train")[0]
    kept = Path("videos", side("train")[1])
    shutil.copy(kept, kept.with_name("new_g09_c01.avi"))
    for video in gone:
        remove(video)
    return gone


def refused(command: Callable[[list[str]], int], arguments: list[str], capsys: Capture) -> str:
    capsys.readouterr()
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_run_and_checkpoint_keep_the_whole_split(work: Path) -> None:
    rows = rows_of(Path("run/split.csv"))
    record = load_checkpoint(CHECKPOINT).card.split
    assert record is not None
    assert [(v.path, record.classes[v.video.label], v.group, v.side, v.sha256) for v in record.videos] == [
        tuple(row.values()) for row in rows
    ]
    assert len(rows) == len({row["sha256"] for row in rows}) == 36
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_evaluation_keeps_to_the_split(work: Path, capsys: Capture) -> None:
    test = set(side("test"))
    gone, _ = change_videos()
    assert evaluate([CHECKPOINT, "--device=cpu"]) == 0
    assert predicted() == test - {gone}
    printed = capsys.readouterr().out
    assert f"test side of {len(test) - 1} videos" in printed
    assert "note: Gone since the split was made: 2 videos (1 of train, 1 of test)" in printed
    assert "note: Came since the split was made, on no side of it: 1 video, " in printed
    for name in ("report.md", "report.html"):
        assert "Gone since the split was made" in Path("run/evaluation", name).read_text()


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_the_same_command_keeps_to_the_split(
    state: str, work: Path, arguments: list[str], capsys: Capture
) -> None:
    test, split = set(side("test")), Path("run/split.csv").read_bytes()
    gone, _ = change_videos()
    if state == "interrupted":  # as if it had been killed after its last epoch
        record = json.loads(Path("run/run.json").read_text())
        Path("run/run.json").write_text(json.dumps({**record, "trained": None}))
    assert train(arguments) == 0
    assert Path("run/split.csv").read_bytes() == split
    assert predicted() == test - {gone}
    assert "note: Gone since the split was made: 2 videos" in capsys.readouterr().out


def test_a_run_whose_split_was_changed_does_not_go_on(
    work: Path, arguments: list[str], capsys: Capture
) -> None:
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**record, "trained": None}))
    path, video = Path("run/split.csv"), side("test")[0]
    text = path.read_text()
    rows = [row.replace(",test,", ",train,") if row.startswith(video) else row for row in text.splitlines()]
    path.write_text("\n".join(rows) + "\n")
    assert f"was trained on another split: {video} (test -> train)" in refused(train, arguments, capsys)
    path.write_text(text.replace(",test,", ",exam,"))
    assert "split.csv cannot be read" in refused(train, arguments, capsys)
    # Without the table a run makes the split anew: of other videos another one.
    path.unlink()
    seen = load_checkpoint(CHECKPOINT).card.split
    assert seen is not None
    for video in seen.side("train")[::3]:
        remove(video.path)
    assert "was trained on another split" in refused(train, arguments, capsys)


@pytest.mark.parametrize("change", ["--data.split.seed=3", "--data.split.kind=kfold"])
def test_another_split_is_refused_or_stamped(change: str, work: Path, capsys: Capture) -> None:
    arguments = [
        CHECKPOINT,
        "--device=cpu",
        "--out=report",
        change,
        *(["--data.split.folds=3"] * ("k" in change)),
    ]
    training = set(side("train") + side("validation"))
    error = refused(evaluate, arguments, capsys)
    assert "was trained or validated on" in error
    assert "by name: " in error
    assert error.partition("by name: ")[2].split(",")[0] in training
    assert not Path("report").exists()
    assert evaluate([*arguments, "--allow-seen"]) == 0
    protocol = read_evaluation("report").protocol
    assert set(protocol.seen) <= training
    assert protocol.seen
    stamp = f"{len(protocol.seen)} of them SEEN in training or validation"
    assert stamp in capsys.readouterr().out
    for name in ("report.md", "per_class.md", "report.html"):
        opening = Path("report", name).read_text().partition("Every class")[0]
        assert stamp in opening
        assert "Not a test on unseen videos." in opening
        assert protocol.seen[0].rpartition("/")[2] in opening
    assert (
        "were seen in training or validation, or share their source" in Path("report/report.md").read_text()
    )


def test_its_own_training_side_is_stamped_too(work: Path) -> None:
    assert evaluate([CHECKPOINT, "--device=cpu", "--part=validation", "--out=report"]) == 0
    assert set(read_evaluation("report").protocol.seen) == set(side("validation"))
    assert "Not a test on unseen videos." in Path("report/report.md").read_text()
    assert not read_evaluation("run/evaluation").protocol.seen


def test_copies_of_training_videos_are_found_under_other_names(work: Path, capsys: Capture) -> None:
    names = {video.parent.name for video in Path("videos").rglob("*.avi")}
    for number, name in enumerate(sorted(names)):
        (work / "other" / name).mkdir(parents=True)
        source = next(video for video in side("train") if video.startswith(name))
        shutil.copy(Path("videos", source), work / "other" / name / f"copy_g{number:02d}_c01.avi")
    assert (
        flow_cache(["precompute", "other", "--out=flow", "--method=farneback", "--rgb", "--workers=1"]) == 0
    )
    arguments = [CHECKPOINT, "--data.root=other", "--data.cache=flow", "--device=cpu"]
    error = refused(evaluate, arguments, capsys)
    assert f"was trained or validated on {len(names)} of these {len(names)} videos" in error
    assert f"(same content as {side('train')[0]})" in error


def test_other_clips_and_other_flow_are_refused_in_a_line(work: Path, capsys: Capture) -> None:
    error = refused(evaluate, [CHECKPOINT, "--data.stack=2"], capsys)
    assert "takes stacks of 3 flow fields, got data.stack 2" in error
    made = ["--method=farneback", "--rgb", "--workers=1", "--bound=10", "--parameters.winsize=9"]
    assert flow_cache(["precompute", "videos", "--out=other", *made]) == 0
    error = refused(evaluate, [CHECKPOINT, "--data.cache=other"], capsys)
    assert "bound 10.0 (trained with: 20.0)" in error
    assert "winsize 9 (trained with: " in error


def test_a_stream_that_has_seen_the_test_side_is_not_built_on(
    work: Path, arguments: list[str], capsys: Capture
) -> None:
    other = [*arguments[:-1], "--out=other", f"--model.flow_checkpoint={CHECKPOINT}", "--data.split.seed=3"]
    error = refused(train, other, capsys)
    assert "best.ckpt has seen " in error
    assert "train the stream on the same split" in error


def test_what_the_lists_name_and_the_disk_lacks_is_said_at_once(
    work: Path, arguments: list[str], capsys: Capture
) -> None:
    rows = [f"{row['video']},{row['class']}" for row in rows_of(Path("run/split.csv"))]
    Path("table.csv").write_text("\n".join(["path,label", *rows, "hop/a.avi,hop", "hop/b.avi,hop", ""]))
    train([*arguments[:-1], "--out=other", "--data.lists=table.csv"])
    output = capsys.readouterr()
    assert re.search(r"2 (of 38 )?listed videos", output.out + output.err)
