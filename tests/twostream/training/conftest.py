"""A training of seconds, without the command line around it, so that it may be stopped after any epoch."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from twostream import DataConfig, ModelConfig, OptimConfig, TrainConfig, TrainerConfig
from twostream.checkpoints import ModelCard
from twostream.data.loading import load_data
from twostream.data.module import ActionDataModule, data_of
from twostream.data.settings import AugmentConfig
from twostream.training.fit import FitResult, fit

Train = Callable[..., FitResult]


@pytest.fixture(scope="session")
def tiny_config(tiny_cache: Path) -> TrainConfig:
    """Settings of the flow stream alone on the tiny videos; the rate does not depend on the number of epochs."""
    data = DataConfig(
        cache=str(tiny_cache),
        steps=2,
        stack=3,
        size=32,
        batch_size=4,
        workers=0,
        augment=AugmentConfig(flip=0),
    )
    model = ModelConfig(backbone="mobilenet_v3_small", weights="none", hidden=8, streams=["flow"])
    trainer = TrainerConfig(accelerator="cpu", tensorboard=False, progress_bar=False)
    optim = OptimConfig(schedule="constant", warmup_epochs=0)
    return TrainConfig(data=data, model=model, optim=optim, trainer=trainer)


@pytest.fixture(scope="session")
def train() -> Train:
    """Train in a folder until so many epochs are done; goes on with what is there. Data come from `make_data`."""

    def run(
        config: TrainConfig, folder: Path, epochs: int, make_data: Callable[..., ActionDataModule] = data_of
    ) -> FitResult:
        videos = load_data(config.data, config.model.streams)
        card = ModelCard(
            videos.classes,
            config.model,
            dataclasses.asdict(config.data),
            dict(videos.flow),
            videos.bound,
            config.data.stack,
            config.seed,
        )
        data = make_data(config.data, config.model, config.seed, videos)
        trainer = dataclasses.replace(config.trainer, epochs=epochs)
        return fit(card, data, folder, trainer, config.optim)

    return run
