"""Training: the Lightning module of the joint loss, and a trainer that can be killed and started again."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from twostream.callbacks import BEST, LAST, BestAndLast, EpochLog, SeedEachEpoch
from twostream.checkpoints import CARD_KEY, Card, load_checkpoint, load_streams
from twostream.data.module import ActionDataModule
from twostream.errors import CheckpointError, ConfigError
from twostream.models import TwoStream
from twostream.optimization import OptimConfig, Schedule, make_optimizer


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
        monitor: what decides the best checkpoint and early stopping.
        patience: epochs without improvement after which training stops; 0 never stops early.
        deterministic: refuse operations that are not reproducible.
        tensorboard: write TensorBoard logs.
        progress_bar: show a live bar where standard error is a terminal.
    """

    epochs: int = 30
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accumulate: int = 1
    clip_norm: float = 5.0
    monitor: Literal["val_loss", "val_top1"] = "val_loss"
    patience: int = 0
    deterministic: bool = False
    tensorboard: bool = True
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("devices", 1),
            ("num_nodes", 1),
            ("accumulate", 1),
            ("patience", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"trainer.{name} must be at least {least}, got {getattr(self, name)}")
        if self.clip_norm < 0:
            raise ConfigError(f"trainer.clip_norm must not be negative, got {self.clip_norm}")


class TrainingModule(L.LightningModule):
    """Joint training of what `TwoStream` holds.

    Args:
        model: the network.
        card: what goes into every checkpoint beside the weights.
        optim: the optimiser's settings.
    """

    def __init__(self, model: TwoStream, card: Card, optim: OptimConfig) -> None:
        super().__init__()
        self.model = model
        self.card = card
        self.optim = optim
        self._schedule: Schedule | None = None
        self._schedule_state: dict[str, float] | None = None
        self.outputs = (*model.names, "fused") if model.fusion is not None else model.names
        top1 = {
            f"{side}_{name}": MulticlassAccuracy(len(card.classes), average="micro")
            for side in ("train", "val")
            for name in self.outputs
        }
        self.top1 = torch.nn.ModuleDict(top1)

    @property
    def decision(self) -> str:
        """Name the output that decides."""
        return self.outputs[-1]

    @property
    def schedule(self) -> Schedule:
        """The learning-rate schedule, built once the trainer knows its length."""
        if self._schedule is None:
            steps = int(self.trainer.estimated_stepping_batches)
            epochs = self.trainer.max_epochs or 1
            self._schedule = Schedule(self.optim, steps, steps / epochs)
            if self._schedule_state is not None:
                self._schedule.load_state_dict(self._schedule_state)
        return self._schedule

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser; the schedule is applied by this module itself."""
        return make_optimizer(self.model, self.optim)

    def on_train_batch_start(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Set the learning rate of the coming step."""
        optimizer = self.trainer.optimizers[0]
        self.schedule.apply(optimizer, self.trainer.global_step)

    def _step(self, batch: Mapping[str, Tensor], side: str) -> Tensor:
        labels = batch["label"]
        output = self.model(batch)
        loss, parts = self.model.loss(output, labels)
        options = {"on_step": False, "on_epoch": True, "batch_size": len(labels)}
        self.log(f"{side}_loss", loss, sync_dist=True, **options)
        logits = {name: stream.logits for name, stream in output.streams.items()}
        if self.model.fusion is not None:
            logits["fused"] = output.logits
        for name, values in logits.items():
            metric = self.top1[f"{side}_{name}"]
            metric(values, labels)
            self.log(f"{side}_top1_{name}", metric, **options)
            self.log(f"{side}_loss_{name}", parts[name], sync_dist=True, **options)
        return loss

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the joint loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Measure a batch."""
        self._step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Tell the schedule how the epoch went."""
        self.schedule.end_epoch(float(self.trainer.callback_metrics["val_loss"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, and the schedule's state."""
        checkpoint[CARD_KEY] = self.card.to_plain()
        checkpoint["schedule"] = self.schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the schedule's state."""
        self._schedule_state = checkpoint["schedule"]


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        best: the best checkpoint.
        best_epoch: the epoch after which it was written, counted from 1.
        epochs: epochs that were trained.
        interrupted: stopped by the user; the same command goes on.
    """

    best: Path
    best_epoch: int
    epochs: int
    interrupted: bool


def resolve_precision(config: TrainerConfig) -> str:
    """Choose the precision that "auto" means on this machine."""
    if config.precision != "auto":
        return config.precision
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def fit(
    card: Card,
    data: ActionDataModule,
    run: Path,
    trainer_config: TrainerConfig,
    optim: OptimConfig,
) -> FitResult:
    """Train, from the start or from the run's last checkpoint.

    Args:
        card: architecture, classes and provenance.
        data: gives the training and validation loaders.
        run: the run directory; checkpoints/, metrics.csv and tensorboard/ are written below it.
        trainer_config: how to train.
        optim: the optimiser's settings.

    Raises:
        CheckpointError: the run's last checkpoint is damaged, or trained streams do not fit.
        ConfigError: contradicting settings, or a device that is not there.
    """
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = checkpoints / LAST
    L.seed_everything(card.seed, verbose=False)
    if last.exists():
        saved = load_checkpoint(last)
        saved.require_classes(card.classes)
        model = saved.card.build_model()
        print(f"resuming after epoch {saved.epoch} from {last}", flush=True)
    else:
        model = TwoStream(card.model, len(card.classes), card.stack, card.bound)
        load_streams(model, card)
    module = TrainingModule(model, card, optim)
    by_accuracy = trainer_config.monitor == "val_top1"
    monitor = f"val_top1_{module.decision}" if by_accuracy else "val_loss"
    keeper = BestAndLast(checkpoints, monitor if data.has_validation else None, larger_is_better=by_accuracy)
    callbacks: list[L.Callback] = [
        SeedEachEpoch(card.seed),
        EpochLog(run / "metrics.csv", module.outputs),
        keeper,
    ]
    if trainer_config.patience and data.has_validation:
        mode = "max" if by_accuracy else "min"
        callbacks.append(EarlyStopping(monitor, patience=trainer_config.patience, mode=mode, verbose=False))
    show_bar = trainer_config.progress_bar and sys.stderr.isatty()
    if show_bar:
        callbacks.append(TQDMProgressBar(leave=False))
    logger = TensorBoardLogger(run, name="tensorboard", version="") if trainer_config.tensorboard else False
    trainer = _make_trainer(trainer_config, callbacks, logger, show_bar)
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    best = checkpoints / BEST
    if not best.exists() and not trainer.interrupted:
        raise CheckpointError(f"training ended without a checkpoint in {checkpoints}")
    return FitResult(best, keeper.best_epoch, trainer.current_epoch, trainer.interrupted)


def _make_trainer(
    config: TrainerConfig, callbacks: list[L.Callback], logger: Any, show_bar: bool
) -> L.Trainer:
    for message in (
        ".*does not have many workers.*",  # the loader's workers are the user's choice
        ".*The number of training batches.*",  # about step logs, of which there are none
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # how a run is resumed
        ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts are meant to be
        ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices and tips on every start
    try:
        return L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            precision=resolve_precision(config),
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_norm or None,
            deterministic=config.deterministic or None,
            callbacks=callbacks,
            logger=logger,
            enable_checkpointing=True,
            enable_progress_bar=show_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot train on accelerator {config.accelerator!r} with {config.devices} device(s) and"
            f" precision {config.precision!r}: {' '.join(str(error).split())}"
        ) from error
