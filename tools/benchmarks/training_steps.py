"""Training steps that are compared: ours, ours with one choice undone, and a plain loop of the same network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from twostream.data.dataset import Clip, ClipKey
from twostream.models.convolutions import BATCH_NORM
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream
from twostream.settings import STREAMS
from twostream.training.optimization import make_optimizer
from twostream.training.settings import OptimConfig

PLAIN = "plain loop"
OURS = "ours"
BOUND = 20.0
CLASSES = 21


@dataclass(frozen=True)
class Step:
    """How a training step is done.

    Attributes:
        channels_last: layout of images and convolutions.
        folded: batch norm, which is frozen, is part of the convolutions.
        bfloat16: convolutions compute in bfloat16.
        apart: the streams run one after the other on a GPU, too, and bytes become floats before they reach it.
    """

    channels_last: bool = True
    folded: bool = True
    bfloat16: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Setting:
    """What is trained: all of the network, or what follows frozen CNNs; and how we do it."""

    name: str
    frozen: bool
    ours: Step
    steps: dict[str, Step] = field(init=False)

    def __post_init__(self) -> None:
        ours = self.ours
        steps = {
            OURS: ours,
            "ours, channels first": replace(ours, channels_last=False),
            "ours, batch norm not folded": replace(ours, folded=False),
            f"ours, {'float32' if ours.bfloat16 else 'bfloat16'}": replace(ours, bfloat16=not ours.bfloat16),
            PLAIN: Step(channels_last=False, folded=False, apart=True),
        }
        object.__setattr__(self, "steps", steps)


def settings(on_gpu: bool) -> list[Setting]:
    """List what is compared, with the precision that our recipes use."""
    return [
        Setting("frozen CNNs", True, Step(bfloat16=True)),
        Setting("fine-tuned CNNs", False, Step(bfloat16=on_gpu)),
    ]


def model_config(backbone: str) -> ModelConfig:
    """Return the network: two streams with their LSTMs and attention, and the fusion; no dropout, to compare losses."""
    return ModelConfig(backbone=backbone, weights="none", dropout=0.0, hidden=128)


class Trainer:
    """A network that is trained by one kind of step.

    Args:
        config: the network.
        stack: L, flow fields a step.
        frozen: its CNNs are frozen.
        step: how steps are done.
        device: where.
    """

    def __init__(
        self, config: ModelConfig, stack: int, frozen: bool, step: Step, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        if step.folded:
            config = replace(
                config,
                freeze_backbone=frozen,
                freeze_batch_norm=True,
                frozen_bfloat16=frozen and step.bfloat16,
            )
        model = TwoStream(config, CLASSES, stack, BOUND)
        self._norms: list[nn.Module] = []
        for name in STREAMS:
            backbone = model.stream(name).backbone
            if not step.folded:
                self._norms += [module for module in backbone.modules() if isinstance(module, BATCH_NORM)]
                (backbone if frozen else nn.ModuleList(self._norms)).requires_grad_(False)
            if not step.channels_last:
                backbone._network.memory_format = torch.contiguous_format
                backbone.to(memory_format=torch.contiguous_format)
            if step.apart:
                model.stream(name).normalize = nn.Identity()
        self.model = model.to(device).train()
        for norm in self._norms:
            norm.eval()
        self._optimizer = make_optimizer(model, OptimConfig(lr=1e-4))
        self._step = step
        self._frozen = frozen
        self._device = device

    def train(self, batch: Mapping[str, Tensor]) -> float:
        """Do one step on a batch; returns the loss."""
        loss = self.loss(batch)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self._optimizer.step()
        return loss.item()

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute the loss of a batch."""
        clips = {name: values.to(self._device, non_blocking=True) for name, values in batch.items()}
        with self._precision():
            if self._step.apart:
                outputs = [self.model.run_stream(name, self.model.clips_of(name, clips)) for name in STREAMS]
                assert self.model.fusion is not None
                logits = [self.model.fusion(outputs).logits, *(output.logits for output in outputs)]
                fused, rgb, flow = (nn.functional.cross_entropy(values, clips["label"]) for values in logits)
                loss = (
                    fused
                    + self.model.config.loss_weight_rgb * rgb
                    + self.model.config.loss_weight_flow * flow
                )
            else:
                loss = self.model.loss(self.model(clips), clips["label"])[0]
        return loss

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        # Of frozen CNNs the stream itself sees to it, if its settings say so.
        wanted = self._step.bfloat16 and not (self._frozen and self._step.folded)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=wanted):
            yield


class NormalizedClips(Dataset[Clip]):
    """Clips as float32, normalised where they are read, as most scripts have it.

    Args:
        clips: the clips, as bytes.
        model: whose normalisation is used.
    """

    training = True

    def __init__(self, clips: Dataset[Clip], model: TwoStream) -> None:
        self._clips = clips
        self._normalize = {name: model.stream(name).normalize.cpu() for name in STREAMS}

    def __len__(self) -> int:
        return len(self._clips)  # type: ignore[arg-type]

    def __getitem__(self, key: ClipKey) -> Clip:
        """Read and normalise a clip."""
        clip = self._clips[key]
        return {**clip, **{name: self._normalize[name](clip[name]) for name in STREAMS}}
