"""Parameter groups, optimisers, and a learning-rate schedule whose state fits in a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from twostream.errors import ConfigError
from twostream.training.settings import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser over the parameters that are to be trained.

    Parameters below a module named `backbone` get `config.backbone_lr`, or `config.flow_backbone_lr` if it lies below
    one named `flow`, whose first convolution gets `config.flow_first_lr`; those with
    fewer than two dimensions get no weight decay. Each group remembers its peak rate as `peak_lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    first = _first_convolutions(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = _peak_lr(name, name.rpartition(".")[0] in first, config)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    if not groups:
        raise ConfigError("nothing is left to train: every part of the model is frozen")
    options: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(options, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    if config.name == "adam":
        return torch.optim.Adam(options, lr=config.lr)
    return torch.optim.AdamW(options, lr=config.lr)


def _first_convolutions(model: nn.Module) -> set[str]:
    """Name the first convolution of each module called `backbone`."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        before, backbone, _ = f".{name}.".partition(".backbone.")
        if backbone and isinstance(module, nn.Conv2d | nn.Conv3d):
            found.setdefault(before, name)
    return set(found.values())


def _peak_lr(name: str, is_first: bool, config: OptimConfig) -> float:
    path = name.split(".")
    rates: list[float | None] = [config.lr]
    if "backbone" in path:
        rates.append(config.backbone_lr)
        if "flow" in path:
            rates.append(config.flow_backbone_lr)
            rates.append(config.flow_first_lr if is_first else None)
    return [rate for rate in rates if rate is not None][-1]


class Schedule:
    """The learning rate at each optimiser step, as a share of each group's peak.

    Warm-up and cosine are pure functions of the step. Only the plateau schedule remembers anything, and
    `state_dict` is all of it, so that a resumed run follows the same curve.

    Args:
        config: the settings.
        total_steps: optimiser steps of the whole run.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(self, config: OptimConfig, total_steps: int, steps_per_epoch: float) -> None:
        self.config = config
        self.total_steps = max(total_steps, 1)
        self.warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), self.total_steps - 1)
        self._reduction = 1.0
        self._best = math.inf
        self._stalled = 0

    def factor(self, step: int) -> float:
        """Compute the share of the peak rate at optimiser step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.config.schedule == "cosine":
            progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self._reduction

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the rate of every parameter group for optimiser step `step`."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def end_epoch(self, validation_loss: float) -> None:
        """Tell the plateau schedule how an epoch ended."""
        if self.config.schedule != "plateau":
            return
        if validation_loss < self._best:
            self._best, self._stalled = validation_loss, 0
            return
        self._stalled += 1
        if self._stalled > self.config.plateau_patience:
            self._reduction *= self.config.plateau_factor
            self._stalled = 0

    def state_dict(self) -> dict[str, float]:
        """Return what the schedule remembers."""
        return {"reduction": self._reduction, "best": self._best, "stalled": self._stalled}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore a saved state."""
        self._reduction, self._best = state["reduction"], state["best"]
        self._stalled = int(state["stalled"])
