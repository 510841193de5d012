"""Attention over space and time, and the joint module: weights that sum to one, starts that change nothing, masks."""

import pytest
import torch
from torch import nn

from twostream.models.attention import (
    JointModule,
    SpatialAttention,
    TemporalAttention,
    TemporalAverage,
    make_temporal,
)

KINDS = ("none", "gated", "bilinear", "cross_attention")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def stir(module: nn.Module) -> None:
    """Give every parameter a value that it does not start with."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))


def test_motion_guides_where_to_look() -> None:
    maps, motion = draw(2, 5, 3, 4), draw(2, 3, 4).abs()
    for kind in ("motion", "attention"):
        pooled, weights = SpatialAttention(5, kind)(maps, motion)
        expected = (motion + 0.05) / (motion + 0.05).sum(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(weights, expected)
        torch.testing.assert_close(pooled, (maps * expected.unsqueeze(1)).sum(dim=(2, 3)))


def test_where_nothing_moves_or_motion_is_unknown_all_places_count_alike() -> None:
    maps = draw(2, 5, 3, 4)
    for kind in ("average", "motion", "attention"):
        for motion in (None, torch.zeros(2, 6, 8)):
            pooled, _ = SpatialAttention(5, kind)(maps, motion)
            torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))


def test_learned_scores_and_motion_make_weights_that_sum_to_one() -> None:
    attention = SpatialAttention(5, "attention")
    stir(attention)
    maps = draw(2, 5, 3, 4)
    alone, guided = (attention(maps, motion)[1] for motion in (None, draw(2, 9, 9).abs()))
    for weights in (alone, guided):
        assert weights is not None
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))
    assert not torch.allclose(alone, guided)
    assert not torch.allclose(alone, torch.full_like(alone, 1 / 12), atol=1e-3)


def test_a_motion_map_of_another_size_is_averaged_to_the_places() -> None:
    maps, motion = (
        draw(1, 2, 2, 2),
        torch.tensor([[[8.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]),
    )
    _, weights = SpatialAttention(2, "motion")(maps, motion)
    assert weights is not None
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor(2.05 / 2.2))


@pytest.mark.parametrize("kind", ["average", "additive", "multihead"])
def test_padding_does_not_count_in_time(kind: str) -> None:
    pool = make_temporal(kind, 8, heads=2)
    stir(pool)
    states, valid = draw(3, 5, 8), torch.arange(5) < torch.tensor([[5], [3], [1]])
    context, weights = pool(states, valid)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert not weights[~valid].any()
    for row, length in enumerate((5, 3, 1)):
        alone = pool(states[row : row + 1, :length])
        torch.testing.assert_close(context[row : row + 1], alone[0])
        torch.testing.assert_close(weights[row : row + 1, :length], alone[1])


def test_heads_weigh_slices_of_their_own() -> None:
    pool = TemporalAttention(4, heads=2)
    stir(pool)
    states = draw(1, 3, 4)
    context, _ = pool(states)
    scores = pool.score(states).softmax(dim=1)
    torch.testing.assert_close(context[0, :2], scores[0, :, 0] @ states[0, :, :2])
    torch.testing.assert_close(context[0, 2:], scores[0, :, 1] @ states[0, :, 2:])
    assert isinstance(make_temporal("average", 4, 1), TemporalAverage)


@pytest.mark.parametrize("kind", KINDS)
def test_every_joint_module_starts_as_the_two_side_by_side(kind: str) -> None:
    local, semantic = draw(2, 4, 8), draw(2, 4, 8) + 1
    joined = JointModule(kind, 8, heads=2)(local, semantic)
    torch.testing.assert_close(joined, torch.cat([local, semantic], dim=-1))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_joint_module_relates_both_levels_and_learns(kind: str) -> None:
    joint = JointModule(kind, 8, heads=2)
    joint(draw(2, 4, 8), draw(2, 4, 8) + 1).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in joint.parameters())
    stir(joint)
    local, semantic = draw(2, 4, 8).requires_grad_(), (draw(2, 4, 8) + 1).requires_grad_()
    for half, other in ((slice(0, 8), semantic), (slice(8, 16), local)):
        (gradient,) = torch.autograd.grad(joint(local, semantic)[..., half].sum(), other, retain_graph=True)
        assert gradient.any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_reach_valid_steps(kind: str) -> None:
    joint = JointModule(kind, 8, heads=2)
    stir(joint)
    local, semantic = draw(2, 5, 8), draw(2, 5, 8) + 1
    valid = torch.arange(5) < torch.tensor([[5], [2]])
    joined = joint(local, semantic, valid)
    torch.testing.assert_close(joined[1:, :2], joint(local[1:, :2], semantic[1:, :2]))
