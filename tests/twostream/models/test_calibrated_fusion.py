"""The calibrated fusion starts as the product of the streams, and is fitted without being trained."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twostream.evaluation.fusion_fit import minimise
from twostream.models.fusion import CalibratedFusion, describe_confidence
from twostream.models.stream import StreamOutput


def draw(seed: int, clips: int, classes: int) -> torch.Tensor:
    return 3 * torch.randn(clips, 2, classes, generator=torch.Generator().manual_seed(seed))


def test_it_starts_as_the_product_of_probabilities_and_no_training_moves_it() -> None:
    logits, fusion = draw(0, 6, 5), CalibratedFusion(2)
    streams = [StreamOutput(logits[:, s], torch.zeros(6, 1), torch.ones(6, 1)) for s in range(2)]
    fused = fusion(streams)
    product = logits.softmax(dim=-1).prod(dim=1)
    torch.testing.assert_close(fused.logits.softmax(dim=-1), product / product.sum(dim=-1, keepdim=True))
    torch.testing.assert_close(fused.weights, torch.full((6, 2), 0.5))
    assert not any(parameter.requires_grad for parameter in fusion.parameters())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_confidence_lies_in_its_range_and_ignores_shifts(seed: int, classes: int) -> None:
    logits = draw(seed, 4, classes)
    told = describe_confidence(logits)
    assert told.shape == (4, 3)
    assert (told[:, :2].abs() <= 1 + 1e-5).all()
    assert ((told[:, 2] >= -1e-5) & (told[:, 2] <= 1 + 1e-5)).all()
    torch.testing.assert_close(told, describe_confidence(logits + 7), atol=1e-4, rtol=0)


def test_sure_unsure_and_disagreeing_streams_are_told_apart() -> None:
    sure, other, unsure = torch.tensor([40.0, 0, 0]), torch.tensor([0, 40.0, 0]), torch.zeros(3)
    told = describe_confidence(
        torch.stack([torch.stack(pair) for pair in ((sure, unsure), (sure, other), (sure, sure))])
    )
    torch.testing.assert_close(told[:, 0], torch.tensor([-1.0, -1, -1]))
    torch.testing.assert_close(told[:, 1], torch.tensor([1.0, -1, -1]))
    torch.testing.assert_close(told[1:, 2], torch.tensor([1.0, 0.0]))


def evidence(seed: int, clips: int, strengths: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of two streams that know the label so well, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (clips,), generator=generator)
    logits = torch.randn(clips, 2, 5, generator=generator)
    for stream, strength in enumerate(strengths):
        logits[torch.arange(clips), stream, labels] += strength
    return logits.log_softmax(dim=-1), labels


def test_a_stream_that_knows_nothing_loses_its_weight() -> None:
    logits, labels = evidence(0, 300, (3.0, 0.0))
    fusion = CalibratedFusion(2)
    before, after = minimise(fusion, logits, labels)
    assert after < before
    weights = fusion.fuse(logits).weights.mean(dim=0)
    assert weights[1] < 0.25
    held_logits, held_labels = evidence(1, 300, (3.0, 0.0))
    fused = fusion.fuse(held_logits).logits
    product = CalibratedFusion(2).fuse(held_logits).logits
    assert (fused.argmax(dim=1) == held_labels).float().mean() > (
        product.argmax(dim=1) == held_labels
    ).float().mean()


def test_two_streams_that_know_as_much_stay_near_their_product_even_with_few_videos() -> None:
    logits, labels = evidence(2, 40, (2.0, 2.0))
    fusion = CalibratedFusion(2)
    minimise(fusion, logits, labels)
    held_logits, held_labels = evidence(3, 2000, (2.0, 2.0))
    top1 = {
        name: float((head.fuse(held_logits).logits.argmax(dim=1) == held_labels).float().mean())
        for name, head in (("fitted", fusion), ("product", CalibratedFusion(2)))
    }
    assert top1["fitted"] > top1["product"] - 0.02


def test_overconfident_streams_are_calibrated() -> None:
    logits, labels = evidence(4, 500, (1.5, 1.5))
    fusion = CalibratedFusion(2)
    minimise(fusion, 4 * logits, labels)
    assert float(fusion.exponent.exp().max()) < 0.7
    assert math.isfinite(float(fusion.from_clip.abs().max()))
    assert np.isclose(float(fusion.fuse(4 * logits).weights.sum(dim=1).mean()), 1, atol=1e-5)
