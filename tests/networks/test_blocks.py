from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pushforward.networks.blocks import UpsampleConv, has_batch_norm, maybe_spectral


@pytest.mark.parametrize("side", [1, 2, 7])
def test_upsample_conv_is_exactly_upsample_then_conv(side: int) -> None:
    torch.manual_seed(0)
    block = UpsampleConv(3, 5).double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), block.weight, block.bias, padding=1)
    torch.testing.assert_close(block(x), plain, rtol=0, atol=1e-12)
    probe = torch.randn_like(plain)
    ours = torch.autograd.grad((block(x) * probe).sum(), [x, block.weight])
    theirs = torch.autograd.grad((plain * probe).sum(), [x, block.weight])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_spectral_norm_bounds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = maybe_spectral(nn.Linear(20, 30), "spectral")
    for _ in range(100):  # power iterations
        layer(torch.randn(2, 20))
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_batch_norm_is_found_where_it_hides() -> None:
    assert has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2))))
    assert not has_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
