"""What the network is made of, as settings that can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from twostream.errors import ConfigError
from twostream.settings import STREAMS, StreamName, from_plain, require_at_least

Levels = Literal["both", "local", "semantic"]
Spatial = Literal["average", "motion", "attention"]
Recurrence = Literal["lstm", "none"]
Joint = Literal["none", "gated", "bilinear", "cross_attention"]
Temporal = Literal["average", "additive", "multihead"]
Fusion = Literal["attention", "cross_attention", "calibrated"]


@dataclass(frozen=True)
class StreamConfig:
    """What one stream is made of: CNN, pooling over space, LSTMs, their joint module, pooling over time.

    Every part can be switched off; `levels="semantic", spatial="average", recurrence="none", joint="none",
    temporal="average"` leaves a CNN with average pooling.

    Attributes:
        backbone: the CNN: a name of torchvision, a Kinetics video net of torchvision, or timm:<name>.
        weights: start of the CNN: none, imagenet (kinetics for a video net), a name that the library knows, or the path
            of a state dict.
        freeze_backbone: train only what follows the CNN.
        frozen_bfloat16: compute a frozen CNN in bfloat16: more than twice as fast on a processor that has it.
        freeze_batch_norm: keep batch norm as loaded while the CNN is trained; the same as batch_norm frozen.
        batch_norm: train; frozen; or partial to freeze all but the first (temporal segment networks).
        checkpoint_gradients: compute activations of the CNN's blocks again in the backward pass, to save memory.
        levels: features that are used: local (stride 16), semantic (stride 32), or both, each with an LSTM of its own.
        spatial: how feature maps are pooled over space: average; motion (weighted by the flow's magnitude, camera
            motion removed); attention (scores learned from the features, plus a learned multiple of log magnitude,
            which starts as motion).
        recurrence: lstm, or none to pool the features over time as they are.
        hidden: units of each LSTM and direction.
        layers: layers of each LSTM.
        bidirectional: run the LSTMs in both directions.
        joint: how the two LSTMs' outputs are related step by step: none (side by side), gated, bilinear or
            cross_attention.
        temporal: how steps are pooled: average, additive attention, or multihead attention.
        heads: heads of multihead attention, in time and in the joint module.
        dropout: dropout probability on the LSTMs' inputs and on the embedding.
        level_loss_weight: weight of each LSTM's own cross-entropy in the stream's loss; 0 for none.

    Example:
        >>> from twostream.models.settings import StreamConfig
        >>> StreamConfig(joint="gated").level_names
        ('local', 'semantic')
    """

    backbone: str = "resnet18"
    weights: str = "imagenet"
    freeze_backbone: bool = False
    frozen_bfloat16: bool = False
    freeze_batch_norm: bool = False
    batch_norm: Literal["train", "frozen", "partial"] = "train"
    checkpoint_gradients: bool = False
    levels: Levels = "both"
    spatial: Spatial = "average"
    recurrence: Recurrence = "lstm"
    hidden: int = 256
    layers: int = 1
    bidirectional: bool = False
    joint: Joint = "none"
    temporal: Temporal = "additive"
    heads: int = 4
    dropout: float = 0.5
    level_loss_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must lie in [0, 1), got {self.dropout}")
        if self.level_loss_weight < 0:
            raise ConfigError(f"model.level_loss_weight must not be negative, got {self.level_loss_weight}")
        require_at_least(self, {"hidden": 1, "layers": 1, "heads": 1}, "model.", ConfigError)
        if self.joint != "none" and (self.levels != "both" or self.recurrence == "none"):
            raise ConfigError(
                f"model.joint {self.joint} relates the outputs of two LSTMs: it needs levels both and recurrence lstm,"
                f" got {self.levels} and {self.recurrence}"
            )

    @property
    def level_names(self) -> tuple[Literal["local", "semantic"], ...]:
        """Name the feature levels that are used."""
        return ("local", "semantic") if self.levels == "both" else (self.levels,)


@dataclass(frozen=True)
class ModelConfig(StreamConfig):
    """What the network is made of: streams, what each consists of, and their fusion.

    Attributes:
        streams: streams to build: rgb, flow, or both.
        backbone: CNN of both streams.
        weights: start of the CNNs: none, imagenet, a name of the library's, or the path of a state dict.
        freeze_backbone: train only what follows the CNNs.
        frozen_bfloat16: compute a frozen CNN in bfloat16: more than twice as fast on a processor that has it.
        freeze_batch_norm: keep batch norm as loaded while the CNN is trained; the same as batch_norm frozen.
        batch_norm: train; frozen; or partial to freeze all but the first (temporal segment networks).
        checkpoint_gradients: compute activations of the CNN's blocks again in the backward pass, to save memory.
        levels: features that are used: local (stride 16), semantic (stride 32), or both.
        spatial: how feature maps are pooled over space: average, motion or attention.
        recurrence: lstm, or none to pool the features over time as they are.
        hidden: units of each LSTM and direction.
        layers: layers of each LSTM.
        bidirectional: run the LSTMs in both directions.
        joint: how the two LSTMs' outputs are related: none, gated, bilinear or cross_attention.
        temporal: how steps are pooled: average, additive or multihead.
        heads: heads of multihead attention.
        dropout: dropout probability in streams and fusion.
        level_loss_weight: weight of each LSTM's own cross-entropy in its stream's loss.
        rgb: settings of the RGB stream that differ from those above, by name, such as {backbone: resnet50}.
        flow: settings of the flow stream that differ from those above.
        rgb_window: frames at each step of the RGB stream; more than one for a video net.
        fusion: head that merges the streams: attention (over their embeddings), cross_attention (likewise, once each
            step of one has looked at all steps of the other), or calibrated (a product of their calibrated
            probabilities whose exponents depend on the clip).
        fusion_hidden: size of the attention fusions' projections; a multiple of heads for cross_attention.
        flow_scale: flow, in pixels per step, that becomes 1.0 at the network's input.
        subtract_mean_flow: take away each field's mean (camera motion).
        subtract_median_flow: take away each field's median instead, which moving actors do not shift.
        rgb_checkpoint: trained checkpoint from which the RGB stream is taken.
        flow_checkpoint: trained checkpoint from which the flow stream is taken.
        freeze_streams: train only the fusion head (with the two checkpoints above).
        loss_weight_rgb: weight of the RGB stream's own cross-entropy in the joint loss.
        loss_weight_flow: weight of the flow stream's own cross-entropy in the joint loss.
        label_smoothing: label smoothing of every cross-entropy.

    Example:
        >>> from twostream import ModelConfig
        >>> config = ModelConfig(dropout=0.3, flow={"backbone": "mobilenet_v2"})
        >>> config.stream("rgb").backbone, config.stream("flow").backbone, config.stream("flow").dropout
        ('resnet18', 'mobilenet_v2', 0.3)
    """

    streams: list[StreamName] = field(default_factory=lambda: list(STREAMS))
    rgb: dict[str, Any] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    rgb_window: int = 1
    fusion: Fusion = "attention"
    fusion_hidden: int = 128
    flow_scale: float = 1.0
    subtract_mean_flow: bool = False
    subtract_median_flow: bool = False
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
        super().__post_init__()
        for stream in STREAMS:
            self.stream(stream)  # refuses what differs and cannot be
        for name in ("fusion_hidden", "flow_scale", "rgb_window"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.{name} must be positive, got {getattr(self, name)}")
        if self.fusion == "cross_attention" and self.fusion_hidden % self.heads:
            raise ConfigError(
                f"model.fusion cross_attention has heads of equal size: model.fusion_hidden must be a multiple of"
                f" model.heads, got {self.fusion_hidden} and {self.heads}"
            )
        if self.subtract_mean_flow and self.subtract_median_flow:
            raise ConfigError("give one of model.subtract_mean_flow and model.subtract_median_flow, not both")
        for stream in STREAMS:
            if getattr(self, f"{stream}_checkpoint") and stream not in self.streams:
                raise ConfigError(f"model.{stream}_checkpoint is given, but model.streams is {self.streams}")
        if self.freeze_streams and not all(getattr(self, f"{name}_checkpoint") for name in STREAMS):
            raise ConfigError(
                "model.freeze_streams trains the fusion alone: give both model.rgb_checkpoint and"
                " model.flow_checkpoint"
            )

    def stream(self, name: StreamName) -> StreamConfig:
        """Return what one stream is made of.

        Raises:
            ConfigError: `rgb` or `flow` holds an unknown name or an unusable value.
        """
        common = {entry.name: getattr(self, entry.name) for entry in fields(StreamConfig)}
        changed = getattr(self, name)
        if unknown := sorted(set(changed) - set(common)):
            raise ConfigError(
                f"model.{name} knows no {', '.join(unknown)}; expected some of {', '.join(common)}"
            )
        return from_plain(StreamConfig, {**common, **changed}) if changed else StreamConfig(**common)

    @property
    def needs_motion(self) -> bool:
        """Tell whether the RGB stream wants to know where the picture moves."""
        return "rgb" in self.streams and self.stream("rgb").spatial != "average"
