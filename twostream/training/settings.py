"""How the training runs and how parameters are updated, as settings that can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twostream.errors import ConfigError
from twostream.settings import require_at_least


@dataclass(frozen=True)
class TrainerConfig:
    """How the training runs.

    Attributes:
        epochs: passes over the training side.
        accelerator: auto, cpu or gpu.
        devices: number of devices; more than one trains with distributed data parallel.
        num_nodes: number of machines.
        precision: 32-true, bf16-mixed or 16-mixed; auto is bf16-mixed on a GPU that has it, else 32-true.
        accumulate: batches whose gradients are added up before a step.
        clip_norm: largest norm of the gradient; 0 switches clipping off.
        ema: decay of the moving average of the weights that is validated and kept, such as 0.999; it rises to this from
            0.1 as (1 + t) / (10 + t) at step t. 0 keeps the optimiser's weights as they are.
        mixup: training clips are blended in pairs, both streams and the labels with one share, drawn from
            Beta(mixup, mixup), such as 0.2; 0 blends nothing. The training's top-1 counts the label with the larger
            share.
        monitor: what decides the best checkpoint and early stopping; last takes the last epoch, since few validation
            videos tell epochs apart badly.
        patience: epochs without improvement after which training stops; 0 never stops early.
        deterministic: refuse operations that are not reproducible.
        checkpoint_minutes: a run that is killed goes on where it was at most this long before; 0 has it go on after the
            last complete epoch.
        tensorboard: write TensorBoard logs.
        progress_bar: show a live line where standard error is a terminal.

    Example:
        >>> from twostream import TrainerConfig
        >>> TrainerConfig(epochs=10, precision="bf16-mixed").devices
        1
    """

    epochs: int = 30
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accumulate: int = 1
    clip_norm: float = 5.0
    ema: float = 0.0
    mixup: float = 0.0
    monitor: Literal["val_loss", "val_top1", "last"] = "val_loss"
    patience: int = 0
    deterministic: bool = False
    checkpoint_minutes: float = 10.0
    tensorboard: bool = True
    progress_bar: bool = True

    def __post_init__(self) -> None:
        least = {"epochs": 1, "devices": 1, "num_nodes": 1, "accumulate": 1, "patience": 0}
        require_at_least(self, least, "trainer.", ConfigError)
        if self.monitor == "last" and self.patience:
            raise ConfigError(
                "trainer.patience stops by what trainer.monitor measures; with last, give patience 0"
            )
        if self.clip_norm < 0:
            raise ConfigError(f"trainer.clip_norm must not be negative, got {self.clip_norm}")
        if self.checkpoint_minutes < 0:
            raise ConfigError(
                f"trainer.checkpoint_minutes must not be negative, got {self.checkpoint_minutes:g}; 0 writes"
                " checkpoints at the ends of epochs alone"
            )
        if self.mixup < 0:
            raise ConfigError(f"trainer.mixup must not be negative, got {self.mixup}; 0 switches it off")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"trainer.ema must lie in [0, 1), got {self.ema}; 0 switches the average off")


@dataclass(frozen=True)
class OptimConfig:
    """How the parameters are updated.

    Attributes:
        name: sgd (Nesterov momentum), adam or adamw.
        lr: peak learning rate of everything but the CNNs.
        backbone_lr: peak learning rate of the CNNs; the same as lr if not given.
        flow_backbone_lr: peak learning rate of the flow stream's CNN, which starts from weights made for another
            kind of image; the same as backbone_lr if not given.
        flow_first_lr: peak learning rate of the flow stream's first convolution, which is new to flow; the same as that
            of its CNN if not given.
        momentum: momentum of sgd.
        weight_decay: weight decay of matrices and convolutions; biases and norms have none.
        schedule: cosine (down to zero at the last step), plateau (reduce when validation stalls) or constant.
        warmup_epochs: epochs over which the rate rises linearly from zero.
        plateau_factor: factor at each reduction of the plateau schedule.
        plateau_patience: epochs without a better validation loss before a reduction.

    Example:
        >>> from twostream import OptimConfig
        >>> OptimConfig(name="sgd", lr=0.01).momentum
        0.9
    """

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    backbone_lr: float | None = None
    flow_backbone_lr: float | None = None
    flow_first_lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.01
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    plateau_factor: float = 0.1
    plateau_patience: int = 5

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"optim.lr must be positive, got {self.lr}")
        for name in ("backbone_lr", "flow_backbone_lr", "flow_first_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(
                    f"optim.{name} must be positive, got {value}; to keep the CNNs as they are, use"
                    " --model.freeze_backbone true"
                )
        if self.warmup_epochs < 0:
            raise ConfigError(f"optim.warmup_epochs must not be negative, got {self.warmup_epochs}")
        if not 0 < self.plateau_factor < 1:
            raise ConfigError(f"optim.plateau_factor must lie between 0 and 1, got {self.plateau_factor}")
