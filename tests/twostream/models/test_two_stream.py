"""Streams, fusion and the joint loss."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flow_cache import dequantize
from twostream.errors import ConfigError
from twostream.models.attention import TemporalAttention
from twostream.models.fusion import AttentionFusion
from twostream.models.normalize import NormalizeFlow, NormalizeRGB
from twostream.models.settings import ModelConfig
from twostream.models.stream import StreamOutput
from twostream.models.two_stream import TwoStream

BATCH, STEPS, STACK, SIZE, CLASSES = 2, 3, 4, 64, 5


def small_config(**changes: object) -> ModelConfig:
    return ModelConfig(**{"backbone": "mobilenet_v3_small", "weights": "none", "hidden": 16, **changes})


def make_model(**changes: object) -> TwoStream:
    torch.manual_seed(0)
    return TwoStream(small_config(**changes), CLASSES, STACK, bound=20.0).eval()


@pytest.fixture(scope="module")
def clips() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(channels: int) -> torch.Tensor:
        shape = (BATCH, STEPS, channels, SIZE, SIZE)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return {"rgb": draw(3), "flow": draw(2 * STACK)}


def test_output_shapes_and_weights_that_sum_to_one(clips: dict[str, torch.Tensor]) -> None:
    output = make_model()(clips)
    assert output.logits.shape == (BATCH, CLASSES)
    assert output.weights is not None
    torch.testing.assert_close(output.weights.sum(dim=1), torch.ones(BATCH))
    for stream in output.streams.values():
        assert stream.logits.shape == (BATCH, CLASSES)
        assert stream.embedding.shape == (BATCH, 32)
        torch.testing.assert_close(stream.attention.sum(dim=1), torch.ones(BATCH))


def test_untrained_fusion_is_the_average_of_the_streams(clips: dict[str, torch.Tensor]) -> None:
    output = make_model()(clips)
    average = (output.streams["rgb"].logits + output.streams["flow"].logits) / 2
    torch.testing.assert_close(output.logits, average)


def test_a_clips_result_does_not_depend_on_its_batch(clips: dict[str, torch.Tensor]) -> None:
    model = make_model()
    with torch.no_grad():
        together = model(clips).logits
        alone = torch.cat([model({k: v[i : i + 1] for k, v in clips.items()}).logits for i in range(BATCH)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_a_stream_alone_decides_alone(name: str, clips: dict[str, torch.Tensor]) -> None:
    model = make_model(streams=[name])
    output = model({name: clips[name]})
    assert output.weights is None
    assert list(output.streams) == [name]
    assert output.logits is output.streams[name].logits
    loss, parts = model.loss(output, torch.tensor([0, 1]))
    assert list(parts) == [name]
    torch.testing.assert_close(loss, F.cross_entropy(output.logits, torch.tensor([0, 1])))


def test_the_order_of_streams_in_the_settings_means_nothing(clips: dict[str, torch.Tensor]) -> None:
    first, second = make_model(streams=["rgb", "flow"]), make_model(streams=["flow", "rgb"])
    torch.testing.assert_close(first(clips).logits, second(clips).logits)


def test_joint_loss_is_the_weighted_sum(clips: dict[str, torch.Tensor]) -> None:
    model = make_model(loss_weight_rgb=0.25, loss_weight_flow=2.0, label_smoothing=0.1)
    labels = torch.tensor([3, 1])
    output = model(clips)
    loss, parts = model.loss(output, labels)
    expected = (
        F.cross_entropy(output.logits, labels, label_smoothing=0.1)
        + 0.25 * F.cross_entropy(output.streams["rgb"].logits, labels, label_smoothing=0.1)
        + 2.0 * F.cross_entropy(output.streams["flow"].logits, labels, label_smoothing=0.1)
    )
    torch.testing.assert_close(loss, expected)
    assert set(parts) == {"fused", "rgb", "flow"}


def test_every_parameter_learns(clips: dict[str, torch.Tensor]) -> None:
    model = make_model(dropout=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the fusion's zero-initialised layers pass no gradient on before their first step
        optimizer.zero_grad()
        model.loss(model(clips), torch.tensor([0, 1]))[0].backward()
        optimizer.step()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias before a normalisation over its own axis has no effect; every other parameter must move.
    assert silent == []


def test_frozen_streams_leave_only_the_fusion() -> None:
    model = make_model(freeze_streams=True, rgb_checkpoint="a.ckpt", flow_checkpoint="b.ckpt").train()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"fusion"}
    assert not any(module.training for module in model.streams.modules())
    fresh = TwoStream(model.config, CLASSES, STACK, bound=20.0)
    assert fresh.training
    assert not any(module.training for module in fresh.streams.modules())


def test_order_of_steps_matters(clips: dict[str, torch.Tensor]) -> None:
    model = make_model()
    with torch.no_grad():
        forward = model(clips).logits
        backward = model({k: v.flip(1) for k, v in clips.items()}).logits
    assert not torch.allclose(forward, backward)


def test_temporal_attention_ignores_the_order_of_states() -> None:
    attention = TemporalAttention(6)
    states = torch.randn(2, 4, 6)
    context, weights = attention(states)
    order = torch.tensor([2, 0, 3, 1])
    permuted_context, permuted_weights = attention(states[:, order])
    torch.testing.assert_close(permuted_context, context)
    torch.testing.assert_close(permuted_weights, weights[:, order])


def test_fusion_can_learn_what_no_stream_knows_alone() -> None:
    """Four classes, each stream knowing one bit: alone at most 1/2 can be right, fused everything."""
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(16)
    bits = torch.stack([labels // 2, labels % 2], dim=1)
    embeddings = [torch.randn(2, 8)[bits[:, i]] for i in range(2)]
    heads = [torch.nn.Linear(8, 4) for _ in range(2)]
    fusion = AttentionFusion([8, 8], 4, hidden=16, dropout=0.0)
    optimizer = torch.optim.Adam(
        itertools.chain(fusion.parameters(), *(h.parameters() for h in heads)), lr=0.05
    )
    for _ in range(60):
        streams = [StreamOutput(h(e), e, torch.ones(64, 1)) for h, e in zip(heads, embeddings, strict=True)]
        fused = fusion(streams).logits
        loss = F.cross_entropy(fused, labels) + sum(F.cross_entropy(s.logits, labels) for s in streams)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracies = [float((s.logits.argmax(1) == labels).float().mean()) for s in streams]
    assert float((fused.argmax(1) == labels).float().mean()) == 1.0
    assert max(accuracies) <= 0.5


def test_normalised_rgb_has_imagenet_statistics() -> None:
    grey = torch.full((1, 1, 3, 2, 2), 124, dtype=torch.uint8)
    values = NormalizeRGB()(grey)
    expected = [
        (124 / 255 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    torch.testing.assert_close(values[0, 0, :, 0, 0], torch.tensor(expected))


def test_normalised_flow_is_in_units_of_the_scale() -> None:
    quantised = torch.tensor([128, 128 + 51, 128 - 51], dtype=torch.uint8).view(1, 1, 1, 1, 3)
    values = NormalizeFlow(bound=20.0, scale=4.0, offset="none")(quantised)
    torch.testing.assert_close(values.flatten(), torch.tensor([0.0, 2.0, -2.0]))  # 51 * 40 / 255 = 8 px


def test_mean_flow_subtraction_removes_a_pan() -> None:
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(100, 150, (1, 1, 2, 8, 8), dtype=torch.uint8, generator=generator)
    normalize = NormalizeFlow(bound=20.0, scale=1.0, offset="mean")
    torch.testing.assert_close(normalize(still + 17), normalize(still), rtol=1e-4, atol=1e-5)


def test_wrong_inputs_are_named(clips: dict[str, torch.Tensor]) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="missing: flow"):
        model({"rgb": clips["rgb"]})
    with pytest.raises(ValueError, match=r"expected clips \(B, T, 8, H, W\), got shape \(2, 3, 3, 64, 64\)"):
        model({"rgb": clips["rgb"], "flow": clips["rgb"]})
    with pytest.raises(TypeError, match="RGB frames must be quantised bytes"):
        model({"rgb": clips["rgb"].float(), "flow": clips["flow"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streams": []}, "must name rgb, flow or both"),
        ({"streams": ["rgb", "rgb"]}, "must name rgb, flow or both"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden": 0}, "hidden"),
        ({"streams": ["rgb"], "flow_checkpoint": "x"}, "flow_checkpoint is given"),
        ({"freeze_streams": True, "rgb_checkpoint": "x"}, "give both"),
    ],
)
def test_contradicting_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)


@pytest.mark.parametrize("bound", [0.5, 7.25, 20.0, 64.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_flow_is_normalised_as_the_cache_dequantises_it(bound: float, scale: float) -> None:
    """The rule from bytes to pixels stands in both packages, because this room does not import the other package."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 2, 8, 16)
    pixels = NormalizeFlow(bound, scale, offset="none")(torch.from_numpy(levels)) * scale
    np.testing.assert_allclose(pixels.numpy(), dequantize(levels, bound), rtol=1e-6, atol=0)
