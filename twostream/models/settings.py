"""What the network is made of, as settings that can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from twostream.errors import ConfigError
from twostream.settings import STREAMS, StreamName


@dataclass(frozen=True)
class ModelConfig:
    """What the network is made of.

    Attributes:
        streams: streams to build: rgb, flow, or both.
        backbone: torchvision CNN of both streams.
        weights: start of the CNNs: none, imagenet, a torchvision weights name, or the path of a state dict.
        freeze_backbone: train only what follows the CNNs.
        freeze_batch_norm: keep batch norm as loaded while the rest of the CNN is trained.
        hidden: units of each LSTM.
        bidirectional: run the LSTMs in both directions.
        dropout: dropout probability in streams and fusion.
        fusion_hidden: size of the fusion's projections.
        flow_scale: flow, in pixels per step, that becomes 1.0 at the network's input.
        subtract_mean_flow: take away each field's mean (camera motion).
        rgb_checkpoint: trained checkpoint from which the RGB stream is taken.
        flow_checkpoint: trained checkpoint from which the flow stream is taken.
        freeze_streams: train only the fusion head (with the two checkpoints above).
        loss_weight_rgb: weight of the RGB stream's own cross-entropy in the joint loss.
        loss_weight_flow: weight of the flow stream's own cross-entropy in the joint loss.
        label_smoothing: label smoothing of every cross-entropy.

    Example:
        >>> from twostream import ModelConfig
        >>> ModelConfig(streams=["flow"], dropout=0.3).backbone
        'resnet18'
    """

    streams: list[StreamName] = field(default_factory=lambda: list(STREAMS))
    backbone: str = "resnet18"
    weights: str = "imagenet"
    freeze_backbone: bool = False
    freeze_batch_norm: bool = False
    hidden: int = 256
    bidirectional: bool = False
    dropout: float = 0.5
    fusion_hidden: int = 128
    flow_scale: float = 1.0
    subtract_mean_flow: bool = False
    rgb_checkpoint: str | None = None
    flow_checkpoint: str | None = None
    freeze_streams: bool = False
    loss_weight_rgb: float = 0.5
    loss_weight_flow: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if (
            not self.streams
            or len(set(self.streams)) != len(self.streams)
            or not {*self.streams} <= {*STREAMS}
        ):
            raise ConfigError(f"model.streams must name rgb, flow or both once each, got {self.streams}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must lie in [0, 1), got {self.dropout}")
        for name in ("hidden", "fusion_hidden", "flow_scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.{name} must be positive, got {getattr(self, name)}")
        for stream in STREAMS:
            if getattr(self, f"{stream}_checkpoint") and stream not in self.streams:
                raise ConfigError(f"model.{stream}_checkpoint is given, but model.streams is {self.streams}")
        if self.freeze_streams and not all(getattr(self, f"{name}_checkpoint") for name in STREAMS):
            raise ConfigError(
                "model.freeze_streams trains the fusion alone: give both model.rgb_checkpoint and"
                " model.flow_checkpoint"
            )
