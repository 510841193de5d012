"""A training that goes on."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision

from twostream import TrainConfig

from .conftest import Train


def test_a_resumed_run_finds_the_features_of_its_frozen_cnn(
    tiny_config: TrainConfig, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are found by the weights of the CNN, which a checkpoint holds."""
    data = dataclasses.replace(tiny_config.data, feature_passes=1, features=str(tmp_path / "features"))
    torch.manual_seed(7)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights := tmp_path / "weights.pth")
    model = dataclasses.replace(tiny_config.model, weights=str(weights), freeze_backbone=True)
    config = dataclasses.replace(tiny_config, data=data, model=model)
    train(config, tmp_path, 1)
    assert "to compute" in capsys.readouterr().out
    train(config, tmp_path, 2)
    out = capsys.readouterr().out
    assert "resuming after epoch 1" in out
    assert "to compute" not in out
