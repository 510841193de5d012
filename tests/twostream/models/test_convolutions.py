"""Folding batch norm: what is folded, what must not be, and that neither changes the function."""

import pytest
import torch
from torch import Tensor, nn

from twostream.models.convolutions import fold_batch_norm


class Branching(nn.Module):
    """The convolution's output also goes around the batch norm, as in networks that normalise first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return x + self.norm(x).relu()


class OutOfOrder(nn.Module):
    """Layers stand in another order than they are used in."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3)
        self.second_norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second_norm(self.second(self.first_norm(self.first(images))))


def trained(network: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norm statistics."""
    network.train()
    for _ in range(3):
        network(images)
    return network.eval()


def norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 9, 9)),
        (nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU()), (2, 3, 5, 9, 9)),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4, affine=False)), (2, 3, 5, 5)),
        (OutOfOrder(), (2, 3, 9, 9)),
    ],
    ids=["plain", "3d", "nested", "out of order"],
)
def test_what_a_convolution_feeds_is_folded(network: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    expected = trained(network, images)(images)
    assert fold_batch_norm(network, images)
    assert not norms(network)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_an_output_used_twice_is_not_folded() -> None:
    images = torch.rand(2, 3, 9, 9)
    network = trained(Branching(), images)
    expected = network(images)
    assert not fold_batch_norm(network, images)
    assert len(norms(network)) == 1
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


def test_the_outcome_depends_on_no_weights_and_draws_no_random_numbers() -> None:
    """An untrained network is folded like the trained one whose weights it will be given."""
    before = torch.get_rng_state()
    network = Branching()
    torch.set_rng_state(before)
    assert not fold_batch_norm(network, torch.zeros(1, 3, 9, 9))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_can_be_kept() -> None:
    network = OutOfOrder()
    assert fold_batch_norm(network, torch.zeros(1, 3, 9, 9), keep_first=True)
    assert norms(network) == [network.first_norm]
