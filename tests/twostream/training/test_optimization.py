"""Parameter groups and the learning-rate schedule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from twostream.errors import ConfigError
from twostream.training.optimization import Schedule, make_optimizer
from twostream.training.settings import OptimConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.head = nn.Linear(3, 4)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_groups_have_their_own_rate_and_decay(name: str) -> None:
    net = Net()
    optimizer = make_optimizer(net, OptimConfig(name=name, lr=1.0, backbone_lr=0.1, weight_decay=0.5))
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        id(net.backbone.weight): (0.1, 0.5),
        id(net.backbone.bias): (0.1, 0.0),
        id(net.head.weight): (1.0, 0.5),
        id(net.head.bias): (1.0, 0.0),
    }


def test_the_flow_backbone_may_have_a_rate_of_its_own() -> None:
    net = nn.ModuleDict({"rgb": Net(), "flow": Net()})
    rates = {"lr": 1.0, "backbone_lr": 0.1}
    for changes, expected in (({}, 0.1), ({"flow_backbone_lr": 0.4}, 0.4)):
        optimizer = make_optimizer(net, OptimConfig(**rates, **changes))
        found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert found[id(net["flow"].backbone.weight)] == expected
        assert found[id(net["rgb"].backbone.weight)] == 0.1
        assert found[id(net["flow"].head.weight)] == 1.0


def test_the_first_convolution_of_the_flow_cnn_may_have_a_rate_of_its_own() -> None:
    cnn = nn.Sequential(nn.Conv2d(10, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    net = nn.ModuleDict(
        {"rgb": nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3)}), "flow": nn.ModuleDict({"backbone": cnn})}
    )
    config = OptimConfig(lr=1.0, backbone_lr=0.1, flow_backbone_lr=0.2, flow_first_lr=0.5)
    found = {
        id(p): group["lr"] for group in make_optimizer(net, config).param_groups for p in group["params"]
    }
    assert [found[id(layer.weight)] for layer in (cnn[0], cnn[1][0], net["rgb"]["backbone"])] == [
        0.5,
        0.2,
        0.1,
    ]
    assert found[id(cnn[0].bias)] == 0.5


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.backbone.requires_grad_(False)
    optimizer = make_optimizer(net, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    net.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        make_optimizer(net, OptimConfig())


@given(
    total=st.integers(1, 500),
    epochs=st.integers(1, 50),
    warmup=st.floats(0, 5),
    kind=st.sampled_from(["cosine", "constant", "plateau"]),
)
def test_rate_rises_then_never_rises_again(total: int, epochs: int, warmup: float, kind: str) -> None:
    schedule = Schedule(OptimConfig(schedule=kind, warmup_epochs=warmup), total, total / epochs)
    factors = [schedule.factor(step) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = schedule.warmup_steps
    assert factors[peak] == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = Schedule(OptimConfig(warmup_epochs=0), 100, 10)
    assert schedule.factor(50) == pytest.approx(0.5)
    assert schedule.factor(100) == pytest.approx(0.0)


def test_plateau_reduces_after_patience_and_survives_a_checkpoint() -> None:
    config = OptimConfig(schedule="plateau", warmup_epochs=0, plateau_patience=1, plateau_factor=0.5)
    schedule = Schedule(config, 100, 10)
    for loss in (1.0, 0.9, 0.95):
        schedule.end_epoch(loss)
    assert schedule.factor(30) == 1.0
    resumed = Schedule(config, 100, 10)
    resumed.load_state_dict(schedule.state_dict())
    resumed.end_epoch(0.9)  # no better than the best: the second stalled epoch
    assert resumed.factor(40) == 0.5
    resumed.end_epoch(0.8)
    assert resumed.factor(50) == 0.5


def test_apply_sets_each_groups_share_of_its_peak() -> None:
    optimizer = make_optimizer(Net(), OptimConfig(name="sgd", lr=1.0, backbone_lr=0.1, warmup_epochs=1))
    schedule = Schedule(OptimConfig(warmup_epochs=1), 100, 10)
    schedule.apply(optimizer, 4)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.1 * 5 / 11, 5 / 11])
    assert isinstance(optimizer, torch.optim.SGD)


@pytest.mark.parametrize(
    "changes", [{"lr": 0.0}, {"backbone_lr": 0.0}, {"warmup_epochs": -1.0}, {"plateau_factor": 1.0}]
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        OptimConfig(**changes)
