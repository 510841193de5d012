"""A run that an earlier version began, and its checkpoints, serve as they did that version (see record.py)."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from twostream.checkpoints import load_checkpoint
from twostream.cli.train import main
from twostream.data.module import ActionDataModule
from twostream.evaluation.predictions import evaluate
from twostream.inference.clips import predict_clips
from twostream.inference.predictor import Predictor

FOLDER = Path(__file__).parent / "training"
READ: dict[str, Any] = json.loads((FOLDER / "read.json").read_text(encoding="utf-8"))
VIDEO = "videos/left/left_g01_c01"

# Weights are compared bit for bit. What a network makes of them depends on the processor's instructions and on the
# order in which the libraries sum: probabilities were seen to differ by up to 2.4e-7 with other instructions or more
# threads, while flow whose levels are all wrong by one changes them by 4e-4.
ROUNDING = 1e-6

both = pytest.mark.parametrize("name", ["last", "best"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sum in one order, whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def outputs() -> Mapping[str, np.ndarray]:
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)


def path_of(training: Path, name: str) -> Path:
    return training / "run" / "checkpoints" / f"{name}.ckpt"


def assert_holds(found: Any, recorded: Any, name: str) -> None:
    """Compare all that was recorded; settings that are new may stand beside it."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            assert_holds(found[key], value, f"{name}.{key}")
        return
    found = list(found) if isinstance(found, tuple) else found
    assert (type(found), found) == (type(recorded), recorded), name


def assert_close(found: Mapping[str, Any], outputs: Mapping[str, Any], prefix: str) -> None:
    recorded = {key.removeprefix(prefix): value for key, value in outputs.items() if key.startswith(prefix)}
    assert set(found) == set(recorded) == {"fused", "rgb", "flow", "weights"}
    for name, values in recorded.items():
        assert found[name].dtype == values.dtype
        assert np.isfinite(found[name]).all()
        np.testing.assert_allclose(
            found[name], values, rtol=0, atol=ROUNDING, err_msg=prefix + name, strict=True
        )


@both
def test_card_epoch_and_weights_are_read_whole(name: str, training: Path, digest_of) -> None:
    checkpoint = load_checkpoint(path_of(training, name))
    recorded = READ[name]
    assert checkpoint.epoch == recorded["epoch"] == {"last": 2, "best": 1}[name]
    assert_holds(checkpoint.card.to_plain(), recorded["card"], "card")
    assert digest_of(checkpoint.state) == recorded["state"]
    assert digest_of(checkpoint.model().state_dict()) == recorded["state"]


@both
def test_data_settings_survive_a_round_trip(name: str, training: Path) -> None:
    predictor = Predictor(load_checkpoint(path_of(training, name)), "cpu")
    assert_holds(dataclasses.asdict(predictor.data), READ[name]["card"]["data"], "data")


@both
def test_generated_clips_get_the_recorded_answers(name: str, training: Path, clips, outputs) -> None:
    model = Predictor(load_checkpoint(path_of(training, name)), "cpu").model
    assert_close(predict_clips(model, clips), outputs, f"{name}/clips/")


@pytest.mark.parametrize("part", ["train", "test"])
@both
def test_evaluation_of_the_recorded_cache(name: str, part: str, training: Path, outputs) -> None:
    checkpoint = load_checkpoint(path_of(training, name))
    settings = Predictor(checkpoint, "cpu").data
    data = ActionDataModule(settings, checkpoint.card.model.streams, checkpoint.card.seed)
    found = evaluate(checkpoint, data, part, "cpu")
    assert_close({**found.probabilities, "weights": found.stream_weights}, outputs, f"{name}/{part}/")


@both
def test_a_video_gets_the_recorded_answer(name: str, training: Path, outputs) -> None:
    found = Predictor(load_checkpoint(path_of(training, name)), "cpu")(Path(VIDEO))
    assert_close({**found.probabilities, "weights": found.stream_weights}, outputs, f"{name}/video/")


def test_answers_depend_on_checkpoint_and_clips(outputs) -> None:
    """The recordings can tell a wrong reading from a right one: what differs in them differs by far more."""
    for output in ("fused", "rgb", "flow"):
        last, best = (outputs[f"{name}/clips/{output}"] for name in ("last", "best"))
        assert np.abs(last - best).max() > 1000 * ROUNDING
        assert np.abs(last[0] - last[1]).max() > 1000 * ROUNDING


@pytest.mark.parametrize("how", ["arguments", "config.yaml"])
def test_an_interrupted_run_goes_on(how: str, training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its last epoch, by the command that began it or by the settings that it wrote down."""
    run = training / "run"
    rows_before = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    best_before = path_of(training, "best").read_bytes()
    split = (run / "split.csv").read_bytes()
    cache = {path: path.read_bytes() for path in (training / "cache").rglob("*.flow.zip")}
    assert not (run / "evaluation").exists()

    arguments = READ["arguments"] if how == "arguments" else ["--config", "run/config.yaml"]
    assert main(arguments) == 0

    printed = capsys.readouterr().out
    assert "0 videos done, 6 already there, 0 failed" in printed
    assert "resuming after epoch 2 from run/checkpoints/last.ckpt" in printed
    assert {path: path.read_bytes() for path in cache} == cache
    assert (run / "split.csv").read_bytes() == split
    rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    # Columns that are newer than the run come last, and stay empty in its own rows.
    newer = len(rows[0].split(",")) - len(rows_before[0].split(","))
    assert [line.rsplit(",", newer)[0] for line in rows[:-1]] == rows_before
    row = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert row["epoch"] == "3"
    for key, value in READ["resumed"]["row"].items():
        assert float(row[key]) == pytest.approx(value, rel=1e-3), key
    # The best epoch so far is in the checkpoint, too: the third is no better.
    assert path_of(training, "best").read_bytes() == best_before
    assert load_checkpoint(path_of(training, "last")).epoch == 3
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["trained"] == READ["resumed"]["trained"]
    assert len(record["commands"]) == 2
    assert (run / "evaluation" / "report.md").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--optim.lr=0.5", "optim.lr 0.001 -> 0.5"),
        ("--flow.bound=4", "flow.bound 8.0 -> 4.0"),
        ("--data.stack=2", "data.stack 3 -> 2"),
    ],
)
def test_other_settings_are_still_refused(
    change: str, named: str, training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path_of(training, "last").read_bytes()
    assert main([*READ["arguments"], change]) == 2
    assert f"run holds a run with other settings ({named})" in capsys.readouterr().err
    assert path_of(training, "last").read_bytes() == before


def test_recorded_settings_are_those_of_the_command(training: Path) -> None:
    """What `test_an_interrupted_run_goes_on` rests on: the recording itself says what it was made with."""
    written = yaml.safe_load((training / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert written["data"]["root"] == "videos"
    assert (written["flow"]["method"], written["flow"]["short_side"], written["flow"]["bound"]) == (
        "farneback",
        24,
        8,
    )
    with (training / "run" / "split.csv").open(newline="", encoding="utf-8") as file:
        sides = {row["video"]: row["side"] for row in csv.DictReader(file)}
    assert len(sides) == 6
    assert set(sides.values()) == {"train", "validation", "test"}
