"""Fusion by attention between the streams in time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from twostream.errors import ConfigError
from twostream.models.fusion import AttentionFusion, CrossAttentionFusion
from twostream.models.settings import ModelConfig
from twostream.models.stream import StreamOutput
from twostream.models.two_stream import TwoStream

BATCH, CLASSES, DIMS = 4, 5, (6, 10)
STEPS = (7, 3)  # the streams may differ
LENGTHS = (torch.tensor([7, 2, 5, 1]), torch.tensor([3, 3, 1, 2]))


def make_fusion(seed: int | None = 0) -> CrossAttentionFusion:
    """Make one; with a seed, as if it had been trained: nothing in it is zero."""
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(DIMS, CLASSES, hidden=8, dropout=0.0, heads=2).eval()
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in fusion.parameters():
                weight += 0.5 * torch.randn_like(weight)
    return fusion


def make_streams(padded: bool, seed: int = 1) -> list[StreamOutput]:
    generator = torch.Generator().manual_seed(seed)
    streams = []
    for dim, steps, lengths in zip(DIMS, STEPS, LENGTHS, strict=True):
        states = torch.randn((BATCH, steps, dim), generator=generator)
        valid = torch.arange(steps) < lengths[:, None] if padded else torch.ones((BATCH, steps)).bool()
        scores = torch.randn((BATCH, steps), generator=generator).masked_fill(~valid, float("-inf"))
        attention = scores.softmax(dim=1)
        logits = torch.randn((BATCH, CLASSES), generator=generator)
        embedding = torch.einsum("bt,btd->bd", attention, states)
        streams.append(
            StreamOutput(logits, embedding, attention, states=states, valid=valid if padded else None)
        )
    return streams


def cut(stream: StreamOutput, place: int, length: int) -> StreamOutput:
    """Take one clip without the steps that pad."""
    assert stream.states is not None
    one = slice(place, place + 1)
    return stream._replace(
        logits=stream.logits[one],
        embedding=stream.embedding[one],
        attention=stream.attention[one, :length],
        states=stream.states[one, :length],
        valid=None,
    )


def test_padded_equals_unpadded() -> None:
    fusion, streams = make_fusion(), make_streams(padded=True)
    padded = fusion(streams)
    for place in range(BATCH):
        alone = fusion(
            [cut(s, place, int(lengths[place])) for s, lengths in zip(streams, LENGTHS, strict=True)]
        )
        torch.testing.assert_close(padded.logits[place], alone.logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(padded.weights[place], alone.weights[0], rtol=0, atol=1e-5)


def test_what_padding_holds_does_not_matter() -> None:
    fusion, streams = make_fusion(), make_streams(padded=True)
    others = [
        stream._replace(states=torch.where(stream.valid.unsqueeze(-1), stream.states, 100.0))
        for stream in streams
    ]
    torch.testing.assert_close(fusion(others).logits, fusion(streams).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_all_weights_sum_to_one_and_are_zero_on_padding(padded: bool) -> None:
    fusion, streams = make_fusion(), make_streams(padded)
    torch.testing.assert_close(fusion(streams).weights.sum(dim=1), torch.ones(BATCH))
    for own, (seen, weights) in enumerate(fusion.relate(streams)):
        other = streams[1 - own]
        assert seen.shape == (BATCH, STEPS[own], 8)
        assert weights.shape == (BATCH, STEPS[own], STEPS[1 - own])
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(BATCH, STEPS[own]))
        if other.valid is not None:
            assert not weights.masked_select(~other.valid.unsqueeze(1)).any()


def test_it_starts_as_the_average_of_the_streams() -> None:
    streams = make_streams(padded=True)
    output = make_fusion(seed=None)(streams)
    torch.testing.assert_close(output.logits, (streams[0].logits + streams[1].logits) / 2)
    torch.testing.assert_close(output.weights, torch.full((BATCH, 2), 0.5))


def test_when_something_happens_in_the_other_stream_matters() -> None:
    """Exchanging two steps of one stream, and what they weigh, changes nothing for attention over embeddings."""
    streams = make_streams(padded=False)
    order = torch.tensor([0, 1, 5, 3, 4, 2, 6])
    assert streams[0].states is not None
    moved = [
        streams[0]._replace(states=streams[0].states[:, order], attention=streams[0].attention[:, order]),
        streams[1],
    ]
    plain = AttentionFusion(DIMS, CLASSES, hidden=8).eval()
    torch.testing.assert_close(plain(moved).logits, plain(streams).logits)
    fusion = make_fusion()
    assert not torch.allclose(fusion(moved).logits, fusion(streams).logits, atol=1e-3)


def clips(valid: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    steps = {"rgb": (4, 3), "flow": (3, 4)}  # steps and channels
    drawn = {
        name: torch.randint(0, 256, (2, count, channels, 32, 32), dtype=torch.uint8, generator=generator)
        for name, (count, channels) in steps.items()
    }
    if valid:
        drawn |= {
            f"{name}_valid": torch.arange(count) < torch.tensor([[count], [2]])
            for name, (count, _) in steps.items()
        }
    return drawn


@pytest.mark.parametrize("valid", [False, True])
def test_the_whole_network_learns_through_it(valid: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="mobilenet_v3_small", weights="none", hidden=8, fusion="cross_attention", fusion_hidden=8
    )
    model = TwoStream(config, CLASSES, 2, bound=20.0)
    with torch.no_grad():
        for look in model.fusion.look:
            look.out_proj.weight.normal_()
        model.fusion.score.weight.normal_()
        model.fusion.combine.weight.normal_()
    output = model(clips(valid))
    model.loss(output, torch.tensor([1, 3]))[0].backward()
    for name, weight in model.fusion.named_parameters():
        assert weight.grad is not None, name
        assert name.endswith("in_proj_bias") or weight.grad.abs().sum() > 0, name


def test_heads_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"must be a multiple of model\.heads, got 10 and 4"):
        ModelConfig(fusion="cross_attention", fusion_hidden=10)
