"""A training that can be killed at any time and started again."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from twostream.checkpoints import BEST, LAST, UNFINISHED, ModelCard, load_checkpoint, load_streams
from twostream.data.batches import worker_deaths_named
from twostream.data.module import ActionDataModule
from twostream.errors import CheckpointError, ConfigError, one_line
from twostream.models.two_stream import TwoStream
from twostream.training.averaging import AverageWeights
from twostream.training.callbacks import BestAndLast, EpochLog, EpochProgress, KeepSigterm, SeedEachEpoch
from twostream.training.module import TrainingModule
from twostream.training.settings import OptimConfig, TrainerConfig


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        best: the best checkpoint.
        best_epoch: the epoch after which it was written, counted from 1.
        epochs: epochs that were trained.
        interrupted: stopped by Ctrl-C or SIGTERM; the same command goes on.
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
    card: ModelCard,
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
    begun = (checkpoints / UNFINISHED, checkpoints / LAST)
    start = next((path for path in begun if path.exists()), None)
    L.seed_everything(card.seed, verbose=False)
    if start is not None:
        saved = load_checkpoint(start)
        card = saved.resumed(card)
        model = saved.model()
        print(f"resuming after {saved.progress} from {start}", flush=True)
    else:
        model = TwoStream(card.model, len(card.classes), card.stack, card.bound)
        card = load_streams(model, card)
    if data.config.feature_passes:
        model.eval()  # what is kept on disk is what a frozen CNN gives, without dropout
        data.keep_features(model)
    model.train()
    module = TrainingModule(model, card, optim, trainer_config.mixup)
    by_accuracy = trainer_config.monitor == "val_top1"
    monitor = f"val_top1_{module.decision}" if by_accuracy else "val_loss"
    log = EpochLog(run / "metrics.csv", module.outputs, data.waiting)
    keeper = BestAndLast(
        checkpoints,
        monitor if data.has_validation and trainer_config.monitor != "last" else None,
        larger_is_better=by_accuracy,
        then=log.announce,
        minutes=trainer_config.checkpoint_minutes,
    )
    callbacks: list[L.Callback] = [
        SeedEachEpoch(card.seed),
        KeepSigterm(),
        log,
        keeper,
    ]
    if trainer_config.ema:
        callbacks.append(AverageWeights(model, trainer_config.ema))
    if trainer_config.patience and data.has_validation:
        mode = "max" if by_accuracy else "min"
        callbacks.append(EarlyStopping(monitor, patience=trainer_config.patience, mode=mode, verbose=False))
    if trainer_config.progress_bar:
        callbacks.append(EpochProgress(data.waiting))
    logger = TensorBoardLogger(run, name="tensorboard", version="") if trainer_config.tensorboard else False
    trainer = _make_trainer(trainer_config, callbacks, logger)
    try:
        with worker_deaths_named():
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        # Lightning leaves through SystemExit when it is interrupted.
        if not trainer.interrupted:
            raise
    if trainer.is_global_zero and (summary := log.summary()):
        print(summary, flush=True)
    best = checkpoints / BEST
    if not best.exists() and not trainer.interrupted:
        raise CheckpointError(f"training ended without a checkpoint in {checkpoints}")
    return FitResult(best, keeper.best_epoch, trainer.current_epoch, trainer.interrupted)


def _make_trainer(config: TrainerConfig, callbacks: list[L.Callback], logger: Any) -> L.Trainer:
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
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot train on accelerator {config.accelerator!r} with {config.devices} device(s) and"
            f" precision {config.precision!r}: {one_line(error)}"
        ) from error
