"""Networks: backbones, CNN-LSTM streams, and their fusion. Tensors in, tensors out; no files, no data sets."""

from twostream.models.backbone import BACKBONES, Backbone
from twostream.models.fusion import AttentionFusion, FusionOutput
from twostream.models.stream import Stream, StreamOutput, TemporalAttention
from twostream.models.two_stream import STREAMS, ModelConfig, StreamName, TwoStream, TwoStreamOutput

__all__ = [
    "BACKBONES",
    "STREAMS",
    "AttentionFusion",
    "Backbone",
    "FusionOutput",
    "ModelConfig",
    "Stream",
    "StreamName",
    "StreamOutput",
    "TemporalAttention",
    "TwoStream",
    "TwoStreamOutput",
]
