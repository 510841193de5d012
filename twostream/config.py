"""Every setting of a training run, as typed dataclasses that command line and YAML files share."""

from __future__ import annotations

from dataclasses import dataclass, field

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings
from twostream.data.settings import DataConfig
from twostream.models.settings import ModelConfig
from twostream.training.settings import OptimConfig, TrainerConfig


@dataclass(frozen=True)
class FlowConfig(FlowSettings):
    """How `twostream-train` fills the flow cache, as `flow-cache precompute` does.

    Attributes:
        precompute: fill the cache before training; without, the cache must be complete.
        workers: processes; 0 is one a core.

    Example:
        >>> from twostream import FlowConfig
        >>> FlowConfig(method="tvl1", preset="fast").bound
        20.0
    """

    precompute: bool = True
    workers: int = PrecomputeConfig.workers


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        out: run directory; runs/<name of the data set> if not given. An interrupted run in it is resumed.
        seed: seed of initial weights, order, augmentation and dropout.
        overwrite: start anew where the run directory holds a run.
        demo: generate the embedded demo set at data.root.
        data: the videos, their split, and what a clip is.
        flow: how optical flow is computed.
        storage: how the flow cache stores it; RGB frames are stored where the model has an RGB stream.
        model: the network and its loss.
        optim: the optimiser.
        trainer: the training loop.

    Example:
        >>> from twostream import DataConfig, ModelConfig, TrainConfig
        >>> config = TrainConfig(data=DataConfig(root="videos"), model=ModelConfig(backbone="resnet50"))
        >>> config.trainer.epochs
        30
    """

    out: str | None = None
    seed: int = 0
    overwrite: bool = False
    demo: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    storage: StorageSettings = field(default_factory=StorageSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
