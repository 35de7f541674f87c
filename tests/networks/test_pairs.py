from __future__ import annotations

import pytest
import torch
from torch import nn

from pushforward.networks.dcgan import DCGANDiscriminator, DCGANGenerator, pyramid
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("upsample", ["transposed", "nearest"])
def test_dcgan_pair_is_native_at_its_size(shape: tuple[int, int, int], upsample: str) -> None:
    g = DCGANGenerator(latent=10, shape=shape, width=8, upsample=upsample)  # type: ignore[arg-type]
    d = DCGANDiscriminator(shape=shape, width=8)
    x = g(torch.randn(4, 10))
    assert x.shape == (4, *shape)
    assert x.abs().max() <= 1
    assert d(x).shape == (4,)


@pytest.mark.parametrize("shape", [(1, 27, 27), (1, 28, 32), (5,), (1, 11, 11), (1, 22, 22)], ids=str)
def test_shapes_that_do_not_halve_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"square images|do not halve"):
        pyramid(shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (2,), (1,)], ids=str)
def test_mlp_pair(shape: tuple[int, ...]) -> None:
    x = MLPGenerator(latent=3, shape=shape, hidden=(8,), output="identity")(torch.randn(5, 3))
    assert x.shape == (5, *shape)
    assert MLPDiscriminator(shape=shape, hidden=(8,))(x).shape == (5,)


def test_the_classic_mlp_pair_has_its_published_size() -> None:
    g = MLPGenerator(latent=100, shape=(1, 28, 28))
    d = MLPDiscriminator(shape=(1, 28, 28))
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(g) == 101 * 256 + 257 * 512 + 513 * 1024 + 1025 * 784
    assert count(d) == 785 * 1024 + 1025 * 512 + 513 * 256 + 257


def test_maxout_takes_the_largest_of_its_pieces() -> None:
    d = MLPDiscriminator(shape=(2,), hidden=(3,), pieces=4).requires_grad_(False)
    linear, x = d.body[1], torch.randn(5, 2)
    by_hand = [
        [
            max(float(linear.weight[4 * unit + k] @ row + linear.bias[4 * unit + k]) for k in range(4))
            for unit in range(3)
        ]
        for row in x
    ]
    torch.testing.assert_close(d.features(x), torch.tensor(by_hand))
    deep = MLPDiscriminator(shape=(2,), hidden=(3, 5), pieces=4).requires_grad_(False)
    first = deep.body[1](x).reshape(5, 3, 4).max(dim=2).values
    second = deep.body[3](first).reshape(5, 5, 4).max(dim=2).values
    torch.testing.assert_close(deep(x), deep.head(second).squeeze(1))
    with pytest.raises(ValueError, match="pieces = 0"):
        MLPDiscriminator(shape=(2,), pieces=0)
    with pytest.raises(ValueError, match="would not be read"):
        MLPDiscriminator(shape=(2,), pieces=2, slope=0.0)


def test_discriminators_give_logits_not_probabilities() -> None:
    for d in (MLPDiscriminator(shape=(1, 28, 28)), DCGANDiscriminator(shape=(1, 28, 28), width=8)):
        assert not any(isinstance(m, (nn.Sigmoid, nn.Tanh)) for m in d.modules())


def test_batch_norm_uses_the_usual_epsilon() -> None:
    """A famous collection of GANs wrote BatchNorm(n, 0.8), which sets eps, not momentum."""
    for net in (DCGANGenerator(latent=4, shape=(1, 28, 28), width=8), MLPGenerator(latent=4, shape=(2,), norm="batch")):
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms and all(m.eps == 1e-5 for m in norms)
