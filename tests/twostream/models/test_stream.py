"""A stream and its parts: each can be switched off, padded clips equal unpadded ones, features stand for clips."""

import pytest
import torch
from torch import nn

from twostream.errors import ConfigError
from twostream.models.settings import ModelConfig, StreamConfig
from twostream.models.stream import Stream, StreamFeatures
from twostream.models.two_stream import TwoStream

LOCAL, SEMANTIC, CLASSES = 6, 10, 4


class Halves(nn.Module):
    """Stands in for a CNN: maps of two levels from the clip's own pixels."""

    local_dim, semantic_dim, in_channels = LOCAL, SEMANTIC, 3

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        local = images.repeat(1, LOCAL // 3, 1, 1)
        return local, nn.functional.avg_pool2d(images.repeat(1, 4, 1, 1)[:, :SEMANTIC], 2)


def make(**settings: object) -> Stream:
    torch.manual_seed(0)
    stream = Stream(nn.Identity(), Halves(), CLASSES, StreamConfig(hidden=8, **settings))  # type: ignore[arg-type]
    for parameter in stream.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn_like(parameter)
    return stream.eval()


def clip(batch: int = 3, steps: int = 5) -> torch.Tensor:
    return torch.rand(batch, steps, 3, 8, 8, generator=torch.Generator().manual_seed(1))


FULL = {
    "spatial": "attention",
    "layers": 2,
    "bidirectional": True,
    "joint": "cross_attention",
    "temporal": "multihead",
    "level_loss_weight": 0.3,
}
OFF = {"levels": "semantic", "recurrence": "none", "temporal": "average"}
VARIANTS = [
    {},
    FULL,
    OFF,
    *({**FULL, "joint": kind} for kind in ("none", "gated", "bilinear")),
    {**FULL, "levels": "local", "joint": "none"},
    {"recurrence": "none"},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_padded_clips_equal_unpadded_ones(settings: dict[str, object]) -> None:
    stream, images, motion = make(**settings), clip(), torch.rand(3, 5, 8, 8)
    lengths = (5, 3, 1)
    valid = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    together = stream(images, motion, valid)
    torch.testing.assert_close(together.attention.sum(dim=1), torch.ones(3))
    assert not together.attention[~valid].any()
    for row, length in enumerate(lengths):
        alone = stream(images[row : row + 1, :length], motion[row : row + 1, :length])
        torch.testing.assert_close(together.logits[row : row + 1], alone.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.embedding[row : row + 1], alone.embedding, rtol=0, atol=1e-5)
        if alone.level_logits is not None:
            torch.testing.assert_close(
                together.level_logits[:, row : row + 1], alone.level_logits, rtol=0, atol=1e-5
            )


def test_all_parts_off_is_a_cnn_with_average_pooling() -> None:
    stream, images = make(**OFF), clip()
    _, maps = Halves()(images.flatten(0, 1))
    means = stream.semantic_norm(maps.mean(dim=(2, 3))).view(3, 5, -1).mean(dim=1)
    torch.testing.assert_close(stream(images).logits, stream.classifier(means))
    parts = {name.split(".")[0] for name, _ in stream.named_parameters()}
    assert parts == {"semantic_norm", "classifier"}


def test_features_stand_for_the_clip() -> None:
    stream, images, motion = make(**FULL), clip(), torch.rand(3, 5, 8, 8)
    features = stream.features(images, motion)
    assert features.local.shape == (3, 5, LOCAL)
    assert features.semantic.shape == (3, 5, SEMANTIC)
    assert features.spatial is not None
    torch.testing.assert_close(features.spatial.sum(dim=(2, 3)), torch.ones(3, 5))
    kept = StreamFeatures(features.local, features.semantic)
    torch.testing.assert_close(stream.classify(kept).logits, stream(images, motion).logits)


@pytest.mark.parametrize(("frozen", "bfloat16"), [(True, True), (True, False), (False, True)])
def test_a_frozen_cnn_and_nothing_else_computes_in_bfloat16(frozen: bool, bfloat16: bool) -> None:
    class Convolutions(Halves):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, LOCAL, 1)
            self.seen: list[torch.dtype] = []

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            local = self.convolution(images)
            self.seen.append(local.dtype)
            return local, local.repeat(1, 2, 1, 1)[:, :SEMANTIC]

    cnn = Convolutions()
    config = StreamConfig(hidden=8, freeze_backbone=frozen, frozen_bfloat16=bfloat16)
    stream = Stream(nn.Identity(), cnn, CLASSES, config).eval()  # type: ignore[arg-type]
    features = stream.features(clip())
    assert cnn.seen == [torch.bfloat16 if frozen and bfloat16 else torch.float32]
    assert features.local.dtype == features.semantic.dtype == torch.float32
    assert stream.classify(features).logits.dtype == torch.float32


def test_each_lstm_has_a_loss_of_its_own() -> None:
    config = ModelConfig(
        streams=["rgb"], backbone="mobilenet_v3_small", weights="none", hidden=8, level_loss_weight=0.5
    )
    model = TwoStream(config, CLASSES, stack=1, bound=20.0).eval()
    clips = {"rgb": torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)}
    labels = torch.tensor([0, 3])
    output = model(clips)
    total, parts = model.loss(output, labels)
    levels = output.streams["rgb"].level_logits
    assert levels is not None
    assert levels.shape == (2, 2, CLASSES)
    own = sum(nn.functional.cross_entropy(logits, labels) for logits in levels) / 2
    torch.testing.assert_close(total, parts["rgb"] + 0.5 * own)


def test_streams_differ_where_the_settings_say_so() -> None:
    config = ModelConfig(
        backbone="mobilenet_v3_small",
        weights="none",
        hidden=8,
        rgb={"hidden": 4, "temporal": "average"},
        flow={"levels": "semantic", "recurrence": "none", "backbone": "resnet18"},
    )
    model = TwoStream(config, CLASSES, stack=2, bound=20.0).eval()
    assert (model.stream("rgb").embedding_dim, model.stream("flow").embedding_dim) == (8, 512)
    output = model(
        {"rgb": torch.zeros(1, 5, 3, 32, 32).byte(), "flow": torch.full((1, 2, 4, 64, 48), 128).byte()}
    )
    assert [output.streams[name].attention.shape for name in ("rgb", "flow")] == [(1, 5), (1, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": {"hiden": 3}}, "model.rgb knows no hiden; expected some of backbone, "),
        ({"flow": {"hidden": "many"}}, "unusable StreamConfig"),
        (
            {"joint": "gated", "recurrence": "none"},
            "it needs levels both and recurrence lstm, got both and none",
        ),
        ({"flow": {"joint": "gated", "levels": "local"}}, "got local and lstm"),
        ({"level_loss_weight": -1}, "model.level_loss_weight must not be negative, got -1"),
        ({"subtract_mean_flow": True, "subtract_median_flow": True}, "give one of"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]
