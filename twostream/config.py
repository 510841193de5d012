"""Every setting of a training run, as typed dataclasses that command line and YAML files share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings
from twostream.data.settings import DataConfig
from twostream.errors import ConfigError
from twostream.models.settings import ModelConfig
from twostream.settings import STREAMS, StreamName, from_plain
from twostream.training.settings import OptimConfig, TrainerConfig

# Settings that change how a run is carried out, not what comes out: a resumed run may change them.
FREE_SETTINGS = (
    "out",
    "overwrite",
    "data.workers",
    "flow.device",
    "flow.workers",
    "trainer.checkpoint_minutes",
    "trainer.progress_bar",
    "trainer.tensorboard",
)


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
class StageChanges:
    """What the stage of one stream changes, by name, such as {epochs: 60}.

    Attributes:
        data: changes of the settings of the same name.
        optim: likewise.
        trainer: likewise.
    """

    data: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StagesConfig:
    """What the stages of the staged recipe change.

    Attributes:
        rgb: in the RGB stream's stage.
        flow: in the flow stream's stage.

    Example:
        >>> from twostream.config import StagesConfig
        >>> StagesConfig.of({"rgb": {"optim": {"lr": 0.01}}}).rgb.optim
        {'lr': 0.01}
    """

    rgb: StageChanges = field(default_factory=StageChanges)
    flow: StageChanges = field(default_factory=StageChanges)

    @classmethod
    def of(cls, plain: Mapping[str, Mapping[str, Any]]) -> StagesConfig:
        """Read plain values.

        Raises:
            ConfigError: unknown names.
        """
        if unknown := sorted(set(plain) - set(STREAMS)):
            raise ConfigError(f"stages knows no {', '.join(unknown)}; expected {' or '.join(STREAMS)}")
        parts = [entry.name for entry in fields(StageChanges)]
        for name, changes in plain.items():
            if unknown := sorted(set(changes) - set(parts)):
                raise ConfigError(
                    f"stages.{name} knows no {', '.join(unknown)}; a stage may change data, optim and trainer"
                )
        return cls(**{name: StageChanges(**changes) for name, changes in plain.items()})


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        out: run directory; runs/<name of the data set> if not given. An interrupted run in it is resumed.
        seed: seed of initial weights, order, augmentation and dropout.
        overwrite: start anew where the run directory holds a run.
        demo: generate the embedded demo set at data.root.
        recipe: joint: all streams and their fusion at once. staged: each stream alone in a stage of its own, with the
            settings that `stages` changes, then their fusion. frozen: staged, with the CNNs of all streams as loaded
            and their features kept on disk (two passes where `data.feature_passes` is 0).
        stages: what a stage changes, by stream and part, such as {rgb: {trainer: {epochs: 60}, optim: {lr: 0.001}}}.
        refit: with the staged recipe, train the stages once more on all videos of the training side, once the fusion
            has been fitted on those that were held out for it (the validation side).
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
    recipe: Literal["joint", "staged", "frozen"] = "joint"
    stages: StagesConfig = field(default_factory=StagesConfig)
    refit: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    storage: StorageSettings = field(default_factory=StorageSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if isinstance(self.stages, Mapping):
            object.__setattr__(self, "stages", StagesConfig.of(self.stages))
        if self.recipe == "frozen":
            self.spelled_out()  # refuses what cannot be
            return
        if self.refit and (self.recipe != "staged" or self.model.fusion != "calibrated"):
            raise ConfigError(
                "refit trains the stages again under a fitted fusion: it needs recipe staged and model.fusion"
                f" calibrated, got {self.recipe} and {self.model.fusion}"
            )
        if self.refit and self.data.split.val_fraction == 0:
            raise ConfigError(
                "refit fits the fusion on held-out videos first; set data.split.val_fraction above 0"
            )
        if self.recipe == "staged":
            for name in self.model.streams:
                self.stage(name)  # refuses what cannot be

    def spelled_out(self) -> TrainConfig:
        """Return the settings that the name of a recipe stands for: frozen is staged with these and those settings.

        Raises:
            ConfigError: the settings contradict the recipe.
        """
        if self.recipe != "frozen":
            return self
        own: dict[str, Any] = {
            name: {key: value for key, value in getattr(self.model, name).items() if key != "freeze_backbone"}
            for name in STREAMS
        }
        model = replace(self.model, freeze_backbone=True, **own)
        for name in model.streams:
            if model.stream(name).spatial == "attention":
                raise ConfigError(
                    f"recipe frozen keeps the features of the {name} CNN on disk, pooled over space; attention over"
                    " space, which learns, would change them: set model.spatial to average or motion"
                )
        data = replace(self.data, feature_passes=self.data.feature_passes or 2)
        return replace(self, recipe="staged", model=model, data=data)

    def stage(self, name: StreamName) -> TrainConfig:
        """Return the settings of the stage that trains one stream alone.

        Raises:
            ConfigError: the stage changes an unknown setting, or to an unusable value.
        """
        parts: dict[str, Any] = {}
        for part, values in asdict(getattr(self.stages, name)).items():
            if values:
                kind: type[Any] = type(getattr(self, part))
                parts[part] = from_plain(kind, _changed(asdict(getattr(self, part)), values))
        others: dict[str, Any] = {f"{other}_checkpoint": None for other in STREAMS if other != name}
        model = replace(self.model, streams=[name], freeze_streams=False, **others)
        return replace(self, recipe="joint", refit=False, stages=StagesConfig(), model=model, **parts)


def _changed(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return plain settings with some of them changed, at any depth."""
    return {
        **plain,
        **{
            key: _changed(plain[key], value)
            if isinstance(value, dict) and isinstance(plain.get(key), dict)
            else value
            for key, value in changes.items()
        },
    }
