"""Averaged weights: what is validated and kept is an exponential moving average of what the optimiser has made."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from twostream.checkpoints import MODEL_PREFIX


class AverageWeights(Callback):
    """Average the weights over the steps of the optimiser (Polyak and Juditsky, 1992), newer ones counting more.

    After step t, counted from 0, with weights w:

        a <- d a + (1 - d) w,   d = min(decay, (1 + t) / (10 + t))

    so that the first steps, whose weights are worth little, are soon forgotten. The statistics of a batch norm that
    is trained are averaged with the weights they belong to; a frozen part has no copy. Validation sees the averaged
    weights, and a checkpoint holds them in the place of the model's, so that whoever reads it gets them; those that
    the optimiser goes on from are in the callback's own state.

    Args:
        model: the network.
        decay: largest d, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self._steps = 0
        self._current = _changing(model)
        self._average = {name: values.clone() for name, values in self._current.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's weights, and how many of its steps are in the average."""
        return {"steps": self._steps, "current": self._current}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose averaged weights are in the model by now."""
        self._steps = state_dict["steps"]
        _copy(self._current, self._average)
        _copy(state_dict["current"], self._current)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the averaged weights in the place of the model's."""
        checkpoint["state_dict"] |= {
            f"{MODEL_PREFIX}{name}": values for name, values in self._average.items()
        }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the model to its device, where its weights are other tensors."""
        self._current = _changing(self.model)
        self._average = {
            name: values.to(self._current[name].device) for name, values in self._average.items()
        }

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Take a step of the optimiser into the average; there is one in a few batches where gradients are added up."""
        if trainer.global_step == self._steps:
            return
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        for name, values in self._current.items():
            self._average[name].lerp_(values, 1 - decay)
        self._steps = trainer.global_step

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the averaged weights be validated."""
        self._swap()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the optimiser its own weights back."""
        self._swap()

    def _swap(self) -> None:
        # Values, not tensors: LSTMs and processes that train together hold on to the tensors.
        kept = {name: values.clone() for name, values in self._current.items()}
        _copy(self._average, self._current)
        _copy(kept, self._average)


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Return what a training changes: weights that are trained, and statistics of batch norms in training mode."""
    found = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    for path, module in model.named_modules():
        if module.training:
            for name, values in module.named_buffers(path, recurse=False):
                if (
                    values.is_floating_point()
                    and name.rpartition(".")[2] not in module._non_persistent_buffers_set
                ):
                    found[name] = values
    return found


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, values in source.items():
        target[name].copy_(values)
