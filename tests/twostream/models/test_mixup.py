"""Mixup blends everything that a clip consists of with one share, and its labels too."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twostream.errors import ConfigError
from twostream.models.mixup import Mixup
from twostream.models.settings import ModelConfig
from twostream.models.two_stream import TwoStream, TwoStreamOutput
from twostream.training.settings import TrainerConfig

BATCH, STEPS, STACK, SIZE, CLASSES = 3, 4, 2, 32, 5
MIXUP = Mixup(torch.tensor([2, 0, 1]), 0.7)


def make_model(**changes: object) -> TwoStream:
    torch.manual_seed(0)
    settings = {
        "backbone": "mobilenet_v3_small",
        "weights": "none",
        "hidden": 8,
        "rgb": {"spatial": "motion"},
    }
    return TwoStream(ModelConfig(**{**settings, **changes}), CLASSES, STACK, bound=20.0).eval()


def make_clips(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> Tensor:
        shape = (BATCH, STEPS, channels, SIZE, SIZE)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    motion = 5 * torch.rand((BATCH, STEPS, 2, 2), generator=generator)
    return {"rgb": draw(3), "flow": draw(2 * STACK), "motion": motion}


def by_hand(values: Tensor) -> Tensor:
    return MIXUP.share * values + (1 - MIXUP.share) * values[MIXUP.partner]


def logits(output: TwoStreamOutput) -> dict[str, Tensor]:
    return {"fused": output.logits, **{name: stream.logits for name, stream in output.streams.items()}}


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, rtol=0, atol=1e-5, msg=name)


def test_a_whole_share_changes_nothing_and_none_gives_the_partner() -> None:
    model, clips = make_model(), make_clips()
    plain = logits(model(clips))
    same(logits(model(clips, Mixup(MIXUP.partner, 1.0))), plain)
    same(
        logits(model(clips, Mixup(MIXUP.partner, 0.0))),
        {name: values[MIXUP.partner] for name, values in plain.items()},
    )


def test_the_cnns_see_both_streams_blended_with_one_share_once_they_are_normalised() -> None:
    model, clips = make_model(subtract_median_flow=True), make_clips()
    seen: dict[str, Tensor] = {}
    for name in ("rgb", "flow"):
        model.stream(name).backbone.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.update({name: inputs[0]})
        )
    model(clips, MIXUP)
    for name, images in seen.items():
        normalised = model.stream(name).normalize(clips[name].flatten(0, 1))
        torch.testing.assert_close(
            images.unflatten(0, (BATCH, STEPS)), by_hand(normalised.unflatten(0, (BATCH, STEPS)))
        )


def test_flow_and_the_opposite_flow_cancel() -> None:
    model = make_model(streams=["flow"])
    flow = make_clips()["flow"].clamp(1, 255)[:1]
    seen: list[Tensor] = []
    model.stream("flow").backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model({"flow": torch.cat([flow, (256 - flow.int()).byte()])}, Mixup(torch.tensor([1, 0]), 0.5))
    assert not seen[0].any()


def test_the_motion_that_guides_rgb_is_blended() -> None:
    model, clips = make_model(), make_clips()
    still = {**clips, "rgb": clips["rgb"][:1].expand(BATCH, -1, -1, -1, -1)}  # only motion differs
    expected = model({**still, "motion": by_hand(clips["motion"])}).streams["rgb"].logits
    torch.testing.assert_close(model(still, MIXUP).streams["rgb"].logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_that_are_kept_on_disk_are_blended(dtype: torch.dtype) -> None:
    model, clips = make_model(), make_clips()
    stream = model.stream("rgb")
    with torch.inference_mode():
        features = stream.features(clips["rgb"], clips["motion"])
        kept = {"rgb_local": features.local.to(dtype), "rgb_semantic": features.semantic.to(dtype)}
        ours = model({**kept, "flow": clips["flow"]}, MIXUP)
        blended = {name: by_hand(values.float()) for name, values in kept.items()}
        theirs = model({**blended, "flow": clips["flow"]})
        flow = model(clips, MIXUP).streams["flow"].logits
    torch.testing.assert_close(ours.streams["rgb"].logits, theirs.streams["rgb"].logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.streams["flow"].logits, flow, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_steps_of_a_blend_count_where_they_count_in_both_and_padding_is_never_seen(name: str) -> None:
    model = make_model(temporal="multihead", joint="cross_attention", bidirectional=True)
    lengths = torch.tensor([2, 4, 3])
    valid = torch.arange(STEPS) < lengths[:, None]
    clips, other = make_clips(1), make_clips(2)
    masks = {"rgb_valid": valid, "flow_valid": valid}
    first = model({**clips, **masks}, MIXUP).streams[name]
    for kind in clips:  # other padding
        shape = (BATCH, STEPS, *[1] * (clips[kind].ndim - 2))
        other[kind] = torch.where(valid.view(shape), clips[kind], other[kind])
    second = model({**other, **masks}, MIXUP).streams[name]
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=1e-5)
    for place, length in enumerate(torch.minimum(lengths, lengths[MIXUP.partner]).tolist()):
        assert not first.attention[place, length:].any()
        torch.testing.assert_close(first.attention[place].sum(), torch.ones(()))
        cut = {kind: values[:, :length] for kind, values in clips.items()}
        unpadded = model(cut, MIXUP).streams[name]
        torch.testing.assert_close(first.logits[place], unpadded.logits[place], rtol=0, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_loss_is_the_share_of_the_losses_against_either_label(smoothing: float) -> None:
    model = make_model(label_smoothing=smoothing, level_loss_weight=0.3)
    labels = torch.tensor([1, 4, 0])
    output = model(make_clips(), MIXUP)
    total, parts = model.loss(output, MIXUP.targets(labels, CLASSES))
    ours, theirs = model.loss(output, labels), model.loss(output, labels[MIXUP.partner])

    def share(one: Tensor, other: Tensor) -> Tensor:
        return MIXUP.share * one + (1 - MIXUP.share) * other

    torch.testing.assert_close(total, share(ours[0], theirs[0]))
    assert parts.keys() == {"rgb", "flow", "fused"}
    for name, loss in parts.items():
        torch.testing.assert_close(loss, share(ours[1][name], theirs[1][name]))
    hard = F.one_hot(labels, CLASSES).float()
    torch.testing.assert_close(model.loss(output, hard)[0], ours[0])


def test_the_label_with_the_larger_share_is_the_one_that_is_counted() -> None:
    labels = torch.tensor([1, 4, 0])
    assert MIXUP.largest(labels).tolist() == [1, 4, 0]
    assert MIXUP._replace(share=0.3).largest(labels).tolist() == [0, 1, 4]


def test_draws_are_permutations_that_follow_torchs_seed() -> None:
    torch.manual_seed(3)
    drawn = [Mixup.draw(6, 0.2) for _ in range(200)]
    torch.manual_seed(3)
    for mixup in drawn:
        again = Mixup.draw(6, 0.2)
        assert again.share == mixup.share
        assert torch.equal(again.partner, mixup.partner)
        assert sorted(mixup.partner.tolist()) == list(range(6))
        assert 0 <= mixup.share <= 1
    shares = torch.tensor([mixup.share for mixup in drawn])
    assert abs(float(shares.mean()) - 0.5) < 0.1
    assert float(((shares < 0.1) | (shares > 0.9)).float().mean()) > 0.5  # small alpha: mostly one of the two


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer.mixup must not be negative, got -1"):
        TrainerConfig(mixup=-1.0)
