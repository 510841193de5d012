"""The Lightning module: the joint loss, what is logged, and what goes into a checkpoint beside the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from twostream.checkpoints import BATCHES_KEY, CARD_KEY, ModelCard
from twostream.models.mixup import Mixup
from twostream.models.two_stream import TwoStream
from twostream.training.optimization import Schedule, make_optimizer
from twostream.training.settings import OptimConfig


class _Mean(Metric):
    """The mean over the clips of an epoch; a NaN stays one, which torchmetrics' own either drops or does not weight."""

    total: Tensor
    clips: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("clips", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, value: Tensor, clips: int) -> None:
        """Take in the mean over some clips."""
        self.total = self.total + value * clips
        self.clips = self.clips + clips

    def compute(self) -> Tensor:
        """Compute the mean over all clips."""
        return self.total / self.clips


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
        # All that is measured over an epoch is kept in metrics of ours: Lightning's own means do not outlive a process.
        metrics: dict[str, Metric] = {}
        for side in ("train", "val"):
            metrics[f"{side}_loss"] = _Mean()
            for name in self.outputs:
                metrics[f"{side}_top1_{name}"] = MulticlassAccuracy(len(card.classes), average="micro")
                metrics[f"{side}_loss_{name}"] = _Mean()
        self.metrics = torch.nn.ModuleDict(metrics)

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
        self._measure(f"{side}_loss", loss, len(labels))
        logits = {name: stream.logits for name, stream in output.streams.items()}
        if self.model.fusion is not None:
            logits["fused"] = output.logits
        for name, values in logits.items():
            self._measure(f"{side}_top1_{name}", values, labels)
            self._measure(f"{side}_loss_{name}", parts[name], len(labels))
        return loss

    def _measure(self, name: str, *values: Tensor | int) -> None:
        """Take a batch into what is measured over an epoch."""
        metric = self._metric(name)
        metric.update(*values)
        self.log(name, metric, on_step=False, on_epoch=True)

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

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
        """Add the card, the schedule's state, and what the training has measured of an epoch that is not over."""
        checkpoint[CARD_KEY] = self.card.to_plain()
        checkpoint["schedule"] = self.schedule.state_dict()
        if checkpoint.get(BATCHES_KEY):
            checkpoint["measured"] = measured = {}
            for name in self.metrics:
                if name.startswith("train_"):
                    metric = self._metric(name)
                    with metric.sync_context():  # of all processes that train together
                        measured[name] = copy.deepcopy(metric.metric_state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the schedule's state, and what was measured: once, in the first of all processes."""
        self._schedule_state = checkpoint["schedule"]
        if self.global_rank == 0:
            for name, state in checkpoint.get("measured", {}).items():
                for key, value in state.items():
                    setattr(self._metric(name), key, value.to(self.device))
