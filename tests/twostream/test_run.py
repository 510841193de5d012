"""A training run from Python."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twostream import ConfigError, TrainConfig, evaluate, load_checkpoint, read_evaluation, train
from twostream.cli.train import parse


@pytest.fixture
def finished(tiny_run: Path, tiny_arguments: Callable[..., list[str]], tmp_path: Path) -> TrainConfig:
    """The settings of a run that is finished, in a directory of its own."""
    shutil.copytree(tiny_run, tmp_path / "run")
    return parse(tiny_arguments(tmp_path / "run"))


def test_a_run_says_where_it_is_and_what_it_found(finished: TrainConfig) -> None:
    result = train(finished)
    assert result.directory == Path(str(finished.out))
    assert (result.failures, result.interrupted) == (0, False)
    assert result.evaluation is not None
    stored = read_evaluation(result.directory / "evaluation")
    assert stored.protocol == result.evaluation.protocol
    for output, values in result.evaluation.probabilities.items():
        np.testing.assert_array_equal(values, stored.probabilities[output])
    command = json.loads((result.directory / "run.json").read_text())["commands"][-1]
    assert command == stored.protocol.command
    program, *arguments = shlex.split(command)
    assert program == "twostream-train"
    repeated = dataclasses.replace(parse(arguments), out=finished.out)
    assert repeated == finished


def test_a_run_needs_videos() -> None:
    with pytest.raises(ConfigError, match="no videos are given"):
        train(TrainConfig())


def test_data_are_those_of_the_training_unless_others_are_given(finished: TrainConfig) -> None:
    checkpoint = load_checkpoint(Path(str(finished.out)) / "checkpoints" / "best.ckpt")
    own = evaluate(checkpoint, device="cpu")
    assert own.protocol.clips_per_video == finished.data.eval_clips
    given = evaluate(checkpoint, dataclasses.replace(finished.data, eval_clips=1), device="cpu")
    assert given.protocol.clips_per_video == 1
    assert own.videos == given.videos


def test_the_weighted_baseline_is_fitted_on_the_predicted_validation_side(finished: TrainConfig) -> None:
    checkpoint = load_checkpoint(Path(str(finished.out)) / "checkpoints" / "best.ckpt")
    test = evaluate(checkpoint, device="cpu")
    validation = evaluate(checkpoint, part="validation", device="cpu")
    assert test.validation_labels is not None
    assert test.validation_probabilities is not None
    np.testing.assert_array_equal(test.validation_labels, validation.labels)
    for output, values in validation.probabilities.items():
        np.testing.assert_array_equal(test.validation_probabilities[output], values)
    assert test.weighted_fusion is not None
    assert test.weighted_fusion.num_videos == test.protocol.num_validation == len(validation.videos)
    assert list(test.baselines()) == ["product", "mean", "weighted"]
    assert validation.validation_labels is None
    assert list(validation.baselines()) == ["product", "mean"]


def test_without_a_validation_side_there_is_no_weighted_baseline(finished: TrainConfig) -> None:
    checkpoint = load_checkpoint(Path(str(finished.out)) / "checkpoints" / "best.ckpt")
    split = dataclasses.replace(finished.data.split, val_fraction=0)
    found = evaluate(checkpoint, dataclasses.replace(finished.data, split=split), device="cpu")
    assert found.protocol.num_validation == 0
    assert list(found.baselines()) == ["product", "mean"]
