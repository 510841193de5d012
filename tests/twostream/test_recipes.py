"""The staged recipe: each stream alone, then a fusion fitted on videos that neither has been trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from twostream import (
    ConfigError,
    DataConfig,
    ModelConfig,
    Predictor,
    SplitConfig,
    TrainConfig,
    load_checkpoint,
    read_evaluation,
    train,
)
from twostream.cli.train import main, parse

STAGED = {
    "recipe": "staged",
    "model.fusion": "calibrated",
    "model.spatial": "motion",
    "model.rgb.freeze_backbone": "true",
    "data.feature_passes": 2,
    "data.rgb.steps": 3,
    "data.rgb.eval_clips": 1,
    "data.split.val_fraction": 0.3,
    "stages.rgb.trainer": '{"epochs": 3}',
    "stages.flow.optim": '{"lr": 0.002}',
}


@pytest.fixture(scope="module")
def arguments(
    tiny_arguments: Callable[..., list[str]], tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    cache = tmp_path_factory.mktemp("staged") / "cache"
    shutil.copytree(tiny_cache, cache)

    def make(out: Path, **changes: object) -> list[str]:
        return tiny_arguments(out, **{**STAGED, "data.cache": cache, **changes})

    return make


@pytest.fixture(scope="module")
def staged(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(arguments(run)) == 0
    return run


def test_each_stage_trains_with_its_own_settings(staged: Path, read_rows: Callable[[Path], list]) -> None:
    rows = {name: read_rows(staged / "stages" / name / "metrics.csv") for name in ("rgb", "flow")}
    assert {name: len(epochs) for name, epochs in rows.items()} == {"rgb": 3, "flow": 2}
    assert max(float(row["lr"]) for row in rows["flow"]) > max(float(row["lr"]) for row in rows["rgb"])
    rgb, flow, whole = (
        load_checkpoint(path / "checkpoints" / "best.ckpt")
        for path in (staged / "stages/rgb", staged / "stages/flow", staged)
    )
    for name, stage in (("rgb", rgb), ("flow", flow)):
        own = {key: values for key, values in whole.state.items() if key.startswith(f"streams.{name}.")}
        assert own.keys() == stage.state.keys()
        assert all(torch.equal(values, stage.state[key]) for key, values in own.items())


def test_the_fusion_is_fitted_and_what_the_report_shows(staged: Path) -> None:
    record = json.loads((staged / "run.json").read_text())
    assert record["fusion"]["videos"] > 0
    assert record["fusion"]["loss_after"] <= record["fusion"]["loss_before"]
    model = load_checkpoint(staged / "checkpoints" / "best.ckpt").model()
    assert any(values.any() for values in model.fusion.parameters())
    evaluation = read_evaluation(staged / "evaluation")
    logs = torch.from_numpy(np.stack([evaluation.probabilities[name] for name in ("rgb", "flow")], axis=1))
    fused = model.fusion.fuse(logs.clamp_min(1e-7).log())
    np.testing.assert_allclose(
        fused.logits.softmax(dim=1).detach(), evaluation.probabilities["fused"], atol=1e-5
    )
    np.testing.assert_allclose(fused.weights.detach(), evaluation.stream_weights, atol=1e-5)


def test_a_video_predicted_alone_gets_the_reports_answer(staged: Path, tiny_videos: Path) -> None:
    evaluation = read_evaluation(staged / "evaluation")
    predictor = Predictor(load_checkpoint(staged / "checkpoints" / "best.ckpt"), device="cpu")
    for place, video in enumerate(evaluation.videos[:3]):
        prediction = predictor(tiny_videos / video)
        for name, values in prediction.probabilities.items():
            # the report's features were kept in float16
            np.testing.assert_allclose(values, evaluation.probabilities[name][place], atol=1e-3)


def test_a_finished_run_and_one_that_was_stopped_between_stages_come_to_the_same(
    staged: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(staged, stopped)
    for left in (stopped / "checkpoints", stopped / "stages" / "flow", stopped / "evaluation"):
        shutil.rmtree(left)
    (stopped / "run.json").unlink()
    before = (stopped / "stages" / "rgb" / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    assert main(arguments(stopped)) == 0
    assert (stopped / "stages" / "rgb" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before
    again, first = (read_evaluation(run / "evaluation").probabilities for run in (stopped, staged))
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)


def test_other_settings_in_the_same_directory_are_refused(
    staged: Path, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(staged, **{"stages.rgb.trainer": '{"epochs": 4}'})) == 2
    assert "holds a run with other settings (stages.rgb.trainer.epochs 3 -> 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"sound": {}}, "stages knows no sound; expected rgb or flow"),
        ({"rgb": {"model": {}}}, "stages.rgb knows no model; a stage may change data, optim and trainer"),
        ({"rgb": {"trainer": {"epochs": "long"}}}, "unusable TrainerConfig"),
        ({"rgb": {"trainer": {"epohcs": 3}}}, "unusable TrainerConfig"),
    ],
)
def test_unusable_stages_are_refused(stages: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(recipe="staged", stages=stages)


def test_without_validation_videos_the_fusion_is_the_product(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"data.split.val_fraction": 0, "trainer.epochs": 1, "stages.rgb.trainer": '{"epochs": 1}'}
    evaluation = train(parse(arguments(tmp_path / "run", **changes))).evaluation
    assert evaluation is not None
    assert "stays the product of the streams" in capsys.readouterr().out
    product = evaluation.probabilities["rgb"] * evaluation.probabilities["flow"]
    np.testing.assert_allclose(
        evaluation.probabilities["fused"], product / product.sum(axis=1, keepdims=True), atol=1e-5
    )


def test_a_refit_trains_on_all_videos_under_the_fusion_that_was_fitted_before(
    staged: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evaluation = train(parse(arguments(run, refit="true"))).evaluation
    assert evaluation is not None
    held_out = load_checkpoint(staged / "checkpoints" / "best.ckpt")
    refitted = load_checkpoint(run / "checkpoints" / "best.ckpt")
    for name, values in held_out.state.items():
        same = torch.equal(values, refitted.state[name])
        if name.startswith("fusion."):
            assert same
        elif "lstm" in name:
            assert not same
    record = json.loads((run / "run.json").read_text())
    validation = record["fusion"]["videos"]
    assert record["refitted"]["videos"] == evaluation.protocol.num_train
    first = read_evaluation(staged / "evaluation").protocol
    assert evaluation.protocol.num_train == first.num_train + validation
    # The held-out videos have been seen now: nothing may be fitted on them any more.
    assert evaluation.protocol.num_validation == 0
    assert evaluation.validation_probabilities is None
    split, before = refitted.card.split, held_out.card.split
    assert split is not None
    assert before is not None
    assert not split.side("validation")
    assert {video.path for video in split.seen} == {video.path for video in before.seen}
    assert "validation side included" in split.notes[-1]
    again = train(parse(arguments(run, refit="true"))).evaluation
    assert again is not None
    np.testing.assert_array_equal(again.probabilities["fused"], evaluation.probabilities["fused"])


def test_the_same_seed_gives_the_same_whether_or_not_features_are_there_already(
    staged: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(parse(arguments(staged)).data.cache, cache)
    shutil.rmtree(cache / "features")
    evaluation = train(parse(arguments(tmp_path / "run", **{"data.cache": cache}))).evaluation
    assert evaluation is not None
    for name, values in read_evaluation(staged / "evaluation").probabilities.items():
        np.testing.assert_array_equal(evaluation.probabilities[name], values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "joint", "model": ModelConfig(fusion="calibrated")}, "got joint and calibrated"),
        ({"recipe": "staged"}, "got staged and attention"),
        (
            {
                "recipe": "staged",
                "model": ModelConfig(fusion="calibrated"),
                "data": DataConfig(split=SplitConfig(val_fraction=0)),
            },
            "set data.split.val_fraction above 0",
        ),
    ],
)
def test_a_refit_that_makes_no_sense_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(refit=True, **settings)
