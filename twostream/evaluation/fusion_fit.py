"""The calibrated fusion, fitted on videos that the streams have not been trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twostream.checkpoints import Checkpoint, update_weights
from twostream.data.module import ActionDataModule
from twostream.errors import ConfigError
from twostream.inference.clips import LEAST, choose_device, predict_clips
from twostream.models.fusion import CalibratedFusion

_RIDGE = 0.02
"""Weight of the squared parameters: they leave the product only for what many videos say."""


@dataclass(frozen=True)
class FusionFit:
    """How a fusion was fitted.

    Attributes:
        videos: how many videos it was fitted on.
        loss_before: mean cross-entropy of the product of the streams on them.
        loss_after: mean cross-entropy of the fitted fusion on them.
    """

    videos: int
    loss_before: float
    loss_after: float


def fit_fusion(checkpoint: Checkpoint, data: ActionDataModule, device: str = "auto") -> FusionFit:
    """Fit a checkpoint's calibrated fusion on the validation side, and write it into the checkpoint.

    Raises:
        ConfigError: there is no such fusion, or the split has no validation videos.
    """
    model = checkpoint.model().to(choose_device(device))
    if not isinstance(model.fusion, CalibratedFusion):
        raise ConfigError(f"{checkpoint.path} has no calibrated fusion to fit")
    if not data.has_validation:
        raise ConfigError(
            "a calibrated fusion is fitted on the validation side; set data.split.val_fraction above 0"
        )
    data.keep_features(model)
    outputs, labels = [], []
    for batch in data.evaluation_dataloader("validation"):
        predicted = predict_clips(model, batch)
        outputs.append(np.stack([predicted[name] for name in model.names], axis=1))
        labels.append(batch["label"])
    logits = torch.from_numpy(np.concatenate(outputs)).clamp_min(LEAST).log()
    fusion = model.fusion.cpu()
    before, after = minimise(fusion, logits, torch.cat(labels))
    update_weights(
        checkpoint.path, {f"fusion.{name}": values for name, values in fusion.state_dict().items()}
    )
    return FusionFit(len(logits), before, after)


def minimise(fusion: CalibratedFusion, logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Fit a fusion, in place, to minimum cross-entropy with a ridge around the product of the streams.

    Args:
        fusion: the fusion, whose parameters start anew.
        logits: (N, S, K) float32, logarithms of the streams' probabilities.
        labels: (N,) int64.

    Returns:
        Mean cross-entropy of the product and of the fitted fusion.
    """
    parameters = [fusion.exponent, fusion.from_clip]
    for parameter in parameters:
        parameter.data.zero_()
        parameter.requires_grad_(True)
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def cross_entropy() -> Tensor:
        return F.cross_entropy(fusion.fuse(logits).logits, labels)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy() + _RIDGE * sum(
            (parameter.square().sum() for parameter in parameters), torch.zeros(())
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = float(cross_entropy().detach())
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return before, float(cross_entropy().detach())
