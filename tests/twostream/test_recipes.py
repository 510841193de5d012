"""The staged recipe: each stream alone, then a fusion fitted on videos that neither has been trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

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
from twostream.models.two_stream import TwoStream

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


STAGES = """
recipe: staged
data: {root: videos}
stages:
  rgb:
    data: {batch_size: 32, augment: {scale_min: 0.7, crop: corners}}
    optim: {lr: 0.005}
  flow:
    data: {batch_size: 8, steps: 3}
    optim: {lr: 0.002, backbone_lr: 0.0003}
    trainer: {epochs: 40}
"""


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--stages.flow.data", '{"batch_size": 4}'], {"data": {"batch_size": 4}}),
        (["--stages.flow.data.batch_size=4"], {"data": {"batch_size": 4, "steps": 3}}),
        (["--stages.flow.data.size", "64"], {"data": {"batch_size": 8, "steps": 3, "size": 64}}),
        (["--stages.flow.optim.lr=0.1", "--stages.flow.trainer.ema", "0.9"],
         {"optim": {"lr": 0.1, "backbone_lr": 0.0003}, "trainer": {"epochs": 40, "ema": 0.9}}),
        (["--stages", '{"flow": {"optim": {"lr": 0.1}}}'], {"optim": {"lr": 0.1}}),
    ],
)  # fmt: skip
def test_a_flag_changes_what_it_names_and_leaves_the_rest_of_the_files_stages(
    flags: list[str], changed: dict, tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text(STAGES)
    before, after = (parse(["--config", str(tmp_path / "base.yaml"), *more]) for more in ([], flags))
    assert after.stages.rgb == before.stages.rgb
    for part in ("data", "optim", "trainer"):
        assert getattr(after.stages.flow, part) == changed.get(part, getattr(before.stages.flow, part))
        for name, value in changed.get(part, {}).items():
            assert getattr(getattr(after.stage("flow"), part), name) == value


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stages.sound.data.steps=4", "stages.sound.data.steps"),
        ("--stages.flow.model.hidden=4", "stages.flow.model.hidden"),
        (
            "--stages.rgb.data.augment.scale_min=0.5",
            "goes too deep for a flag: give --stages.rgb.data.augment '{scale_min: …}', all of it",
        ),
    ],
)
def test_a_flag_that_names_nothing_in_a_stage_is_refused(
    flag: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(STAGES)
    assert main(["--config", str(tmp_path / "base.yaml"), flag]) == 2
    assert message in capsys.readouterr().err


def test_frozen_is_staged_with_frozen_cnns_whose_features_are_kept(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    def settings(**changes: object) -> TrainConfig:
        return parse(arguments(tmp_path / "run", **changes))

    named = settings(**{"recipe": "frozen", "model.rgb.freeze_backbone": "false", "data.feature_passes": 0})
    spelled = settings(**{"model.freeze_backbone": "true", "data.feature_passes": 2})
    spelled.model.rgb.pop("freeze_backbone")
    assert named.spelled_out() == spelled
    assert settings(recipe="frozen", **{"data.feature_passes": 5}).spelled_out().data.feature_passes == 5
    assert spelled.spelled_out() == spelled
    with pytest.raises(ConfigError, match=r"set model\.spatial to average or motion"):
        TrainConfig(recipe="frozen", model=ModelConfig(flow={"spatial": "attention"}))
    with pytest.raises(ConfigError, match="got staged and attention"):
        TrainConfig(recipe="frozen", refit=True)


def test_a_frozen_run_trains_neither_cnn_and_keeps_features_of_both(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    torch.manual_seed(7)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights := tmp_path / "weights.pth")
    run, features = tmp_path / "run", tmp_path / "features"
    changes = {"model.weights": weights, "data.features": features, "refit": "true", "trainer.epochs": 1}
    command = arguments(run, recipe="frozen", **changes, **{"stages.rgb.trainer": '{"epochs": 1}'})
    assert main(command) == 0
    keys = [json.loads(path.read_text()) for path in features.glob("*/key.json")]
    assert {(key["stream"], key["passes"]) for key in keys} >= {("rgb", 2), ("flow", 2)}
    checkpoint = load_checkpoint(run / "checkpoints" / "best.ckpt")
    fresh = TwoStream(checkpoint.card.model, 9, 3, 20.0).state_dict()
    backbones = [name for name in fresh if ".backbone." in name]
    assert {name.split(".")[1] for name in backbones} == {"rgb", "flow"}
    assert all(torch.equal(fresh[name], checkpoint.state[name]) for name in backbones)
    kept = {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")}
    assert main(command) == 0  # the same command finds the run that it has made
    assert {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")} == kept


def test_a_fusion_that_learns_is_trained_on_finished_stages(
    arguments: Callable[..., list[str]], tiny_videos: Path, tmp_path: Path
) -> None:
    """With averaged weights, mixup and balance in every training, on features of one stream and clips of the other."""
    run = tmp_path / "run"
    changes = {
        "model.fusion": "cross_attention",
        "data.eval_clips": 1,
        "data.balance": "true",
        "trainer.ema": 0.9,
        "trainer.mixup": 0.3,
        "stages.rgb.trainer": '{"epochs": 2}',
    }
    evaluation = train(parse(arguments(run, **changes))).evaluation
    assert evaluation is not None
    whole = load_checkpoint(run / "checkpoints" / "best.ckpt")
    for name in ("rgb", "flow"):
        stage = load_checkpoint(run / "stages" / name / "checkpoints" / "best.ckpt")
        assert all(torch.equal(values, whole.state[key]) for key, values in stage.state.items())
    assert float(whole.state["fusion.look.0.out_proj.weight"].abs().sum()) > 0
    prediction = Predictor(whole, device="cpu")(tiny_videos / evaluation.videos[0])
    np.testing.assert_allclose(
        prediction.probabilities["fused"], evaluation.probabilities["fused"][0], atol=1e-3
    )


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
