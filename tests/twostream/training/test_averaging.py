"""Averaged weights: the formula, what has a copy, and how validation, checkpoints and a resumed run use them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from twostream import TrainConfig, TrainerConfig, load_checkpoint
from twostream.checkpoints import MODEL_PREFIX, load_streams
from twostream.data.module import data_of
from twostream.errors import ConfigError
from twostream.models.two_stream import TwoStream
from twostream.training.averaging import AverageWeights

from .conftest import Train


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[2].requires_grad_(False)
    model[3].requires_grad_(False).eval()
    return model


def take_steps(model: nn.Module, average: AverageWeights, first: int, last: int) -> list[dict[str, Any]]:
    """Change all that a training changes; returns the states after each step."""
    states = []
    for step in range(first, last):
        torch.manual_seed(step)
        model(torch.randn(5, 3))  # batch norm takes statistics
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight += torch.randn_like(weight)
        average.on_train_batch_end(SimpleNamespace(global_step=step + 1))
        states.append(copy.deepcopy(model.state_dict()))
    return states


def saved(model: nn.Module, average: AverageWeights) -> dict[str, Any]:
    """Save a checkpoint as Lightning does."""
    state = {f"{MODEL_PREFIX}{name}": values for name, values in model.state_dict().items()}
    checkpoint = {"state_dict": state, "callback": average.state_dict()}
    average.on_save_checkpoint(None, None, checkpoint)
    return copy.deepcopy(checkpoint)


def test_the_average_follows_its_formula_and_batch_norms_statistics_follow_their_weights() -> None:
    model = make_model()
    expected = {name: values.double() for name, values in model.state_dict().items()}
    average = AverageWeights(model, 0.5)
    for step, state in enumerate(take_steps(model, average, 0, 12)):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {
            name: decay * values + (1 - decay) * state[name].double() for name, values in expected.items()
        }
    found = saved(model, average)["state_dict"]
    for name, values in model.state_dict().items():
        if "num_batches" in name:
            expected[name] = values.double()  # a count has no average
        torch.testing.assert_close(
            found[f"{MODEL_PREFIX}{name}"].double(), expected[name], rtol=1e-5, atol=1e-6
        )
        changes = values.is_floating_point() and name[0] in "01"  # the last two layers are frozen
        assert torch.equal(found[f"{MODEL_PREFIX}{name}"], values) != changes


def test_what_is_frozen_has_no_copy() -> None:
    average = AverageWeights(make_model(), 0.9)
    names = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert average.state_dict()["current"].keys() == names


def test_batches_without_a_step_of_the_optimiser_change_nothing() -> None:
    model = make_model()
    average = AverageWeights(model, 0.9)
    take_steps(model, average, 0, 3)
    before = saved(model, average)["state_dict"]["model.0.weight"]
    with torch.no_grad():
        model[0].weight += 1
    average.on_train_batch_end(SimpleNamespace(global_step=3))
    assert torch.equal(saved(model, average)["state_dict"]["model.0.weight"], before)


def test_validation_sees_the_average_in_the_same_tensors_and_gives_the_weights_back() -> None:
    model = make_model()
    average = AverageWeights(model, 0.9)
    states = take_steps(model, average, 0, 3)
    expected = saved(model, average)["state_dict"]
    places = {name: values.data_ptr() for name, values in model.state_dict().items()}
    average.on_validation_epoch_start(None, None)
    for name, values in model.state_dict().items():
        assert torch.equal(values, expected[f"{MODEL_PREFIX}{name}"])
    average.on_validation_epoch_end(None, None)
    for name, values in model.state_dict().items():
        assert torch.equal(values, states[-1][name])
        assert values.data_ptr() == places[name]
    assert all(torch.equal(expected[name], now) for name, now in saved(model, average)["state_dict"].items())


def test_a_resumed_average_goes_on_bit_for_bit() -> None:
    whole = make_model()
    average = AverageWeights(whole, 0.99)
    take_steps(whole, average, 0, 4)
    checkpoint = saved(whole, average)
    take_steps(whole, average, 4, 9)
    resumed = make_model()
    other = AverageWeights(resumed, 0.99)
    resumed.load_state_dict(
        {name.removeprefix(MODEL_PREFIX): values for name, values in checkpoint["state_dict"].items()}
    )
    other.load_state_dict(checkpoint["callback"])
    other.on_fit_start(None, None)
    take_steps(resumed, other, 4, 9)
    ours, theirs = saved(resumed, other), saved(whole, average)
    assert ours["callback"]["steps"] == theirs["callback"]["steps"] == 9
    for one, two in (
        (ours["state_dict"], theirs["state_dict"]),
        (ours["callback"]["current"], theirs["callback"]["current"]),
    ):
        assert one.keys() == two.keys()
        assert all(torch.equal(values, two[name]) for name, values in one.items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"trainer.ema must lie in \[0, 1\)"):
        TrainerConfig(ema=decay)


# --- with the whole training -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tiny_config: TrainConfig) -> TrainConfig:
    """With mixup, whose draws a resumed run must repeat."""
    return dataclasses.replace(
        tiny_config, trainer=dataclasses.replace(tiny_config.trainer, ema=0.9, mixup=0.4)
    )


@pytest.fixture(scope="module")
def whole(train: Train, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("whole")
    train(config, folder, 2)
    return folder


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    whole: Path,
    config: TrainConfig,
    train: Train,
    tmp_path: Path,
    read_rows: Callable[[Path], list[dict[str, str]]],
) -> None:
    train(config, tmp_path, 1)
    train(config, tmp_path, 2)
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path, whole)
    )
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, values in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], values), name
    current, other = (content["callbacks"]["AverageWeights"]["current"] for content in (ours, theirs))
    assert current.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in current.items())
    assert not torch.equal(
        current["streams.flow.classifier.weight"], ours["state_dict"]["model.streams.flow.classifier.weight"]
    )
    rows, expected = (
        [
            [row[name] for name in ("train_loss", "val_loss", "val_top1")]
            for row in read_rows(folder / "metrics.csv")
        ]
        for folder in (tmp_path, whole)
    )
    assert rows == expected


def test_what_is_measured_is_what_the_checkpoint_gives_and_other_trainings_take_over(
    whole: Path, config: TrainConfig, read_rows: Callable[[Path], list[dict[str, str]]]
) -> None:
    checkpoint = load_checkpoint(whole / "checkpoints" / "last.ckpt")
    model = checkpoint.model()
    total = count = 0.0
    with torch.inference_mode():
        for batch in data_of(config.data, config.model).val_dataloader():
            total += float(model.loss(model(batch), batch["label"])[0]) * len(batch["label"])
            count += len(batch["label"])
    measured = float(read_rows(whole / "metrics.csv")[-1]["val_loss"])
    assert measured == pytest.approx(total / count, rel=1e-4)
    start = dataclasses.replace(config.model, flow_checkpoint=str(checkpoint.path))
    other = TwoStream(start, len(checkpoint.card.classes), 3, 20.0)
    load_streams(other, checkpoint.card)
    names = [name for name in checkpoint.state if name.startswith("streams.flow.")]
    assert all(torch.equal(other.state_dict()[name], checkpoint.state[name]) for name in names)
