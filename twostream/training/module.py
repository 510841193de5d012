"""The Lightning module: the joint loss, what is logged, and what goes into a checkpoint beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from twostream.checkpoints import CARD_KEY, ModelCard
from twostream.models.mixup import Mixup
from twostream.models.two_stream import TwoStream
from twostream.training.optimization import Schedule, make_optimizer
from twostream.training.settings import OptimConfig


class TrainingModule(L.LightningModule):
    """Joint training of what `TwoStream` holds.

    Args:
        model: the network.
        card: what goes into every checkpoint beside the weights.
        optim: the optimiser's settings.
        mixup: alpha of the mixup of training clips; 0 for none.
    """

    def __init__(self, model: TwoStream, card: ModelCard, optim: OptimConfig, mixup: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.card = card
        self.optim = optim
        self.mixup = mixup
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

    def _step(self, batch: Mapping[str, Tensor], side: str, mixup: Mixup | None = None) -> Tensor:
        labels = batch["label"]
        output = self.model(batch, mixup)
        targets = labels if mixup is None else mixup.targets(labels, output.logits.shape[1])
        loss, parts = self.model.loss(output, targets)
        labels = labels if mixup is None else mixup.largest(labels)
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
        """Compute the joint loss of a batch, whose clips are blended in pairs if asked for."""
        labels = batch["label"]
        mixup = Mixup.draw(len(labels), self.mixup, labels.device) if self.mixup else None
        return self._step(batch, "train", mixup)

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
        """Restore the schedule's state."""
        self._schedule_state = checkpoint["schedule"]
