"""The forms that stand for operations that ONNX lacks give what PyTorch's own give."""

import pytest
import torch
from torch import nn

from twostream.models.onnx_forms import attend, average_to, plain_attend, plain_average_to, plain_lower_median


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_lower_median(count: int) -> None:
    values = torch.randint(0, 9, (5, count)).float()
    assert torch.equal(plain_lower_median(values), values.median(dim=-1).values)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 7), (9, 16)])
def test_pooling_to_parts_of_unequal_size(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 5, 7)
    torch.testing.assert_close(plain_average_to(maps, *size), average_to(maps, *size))


@pytest.mark.parametrize("padded", [False, True])
def test_attention(padded: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    query, key, value = torch.rand(3, 4, 8), torch.rand(3, 5, 8), torch.rand(3, 5, 8)
    valid = torch.arange(5) < torch.tensor([[5], [2], [1]]) if padded else None
    found, expected = (form(attention, query, key, value, valid) for form in (plain_attend, attend))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
