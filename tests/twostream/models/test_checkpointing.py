"""Gradient checkpointing changes memory, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from twostream.errors import ConfigError
from twostream.models.backbone import Backbone


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 3), ("mobilenet_v2", 10), ("mc3_18", 12), ("timm:tf_efficientnet_lite0", 3)],
)
def test_gradients_and_statistics_stay(name: str, channels: int) -> None:
    torch.manual_seed(0)
    plain = Backbone(name, channels)
    saving = Backbone(name, channels, checkpoint_gradients=True)
    saving.load_state_dict(plain.state_dict())
    saving = copy.deepcopy(saving)  # as weight averaging does
    images = torch.rand(2, channels, 64, 64)
    for backbone in (plain, saving):
        sum(level.square().mean() for level in backbone.train()(images)).backward()
    for (key, expected), found in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=key)
    for (key, expected), found in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=key)


def kept_for_backward(backbone: nn.Module, images: torch.Tensor) -> int:
    """Count the numbers that a forward pass holds for the backward pass."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        backbone(images)
    return sum(sizes)


def test_less_is_kept() -> None:
    images = torch.rand(2, 3, 64, 64)
    plain, saving = (Backbone("resnet18", checkpoint_gradients=saves) for saves in (False, True))
    assert kept_for_backward(saving, images) < kept_for_backward(plain, images) / 2


def test_a_network_without_blocks_says_so() -> None:
    with pytest.raises(ConfigError, match="vgg16 is a plain chain of layers"):
        Backbone("vgg16", checkpoint_gradients=True)
