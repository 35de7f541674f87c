from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pushforward.randomness import SampleStream, derive_seed, draw_integers, draw_normal, draw_uniform


def splitmix64(x: int) -> int:
    """The published finaliser in Python's own integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_bits_are_splitmix64() -> None:
    stream = SampleStream(5, torch.tensor([0, 3]))
    bits = stream._bits(2)
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    for row, index in enumerate([0, 3]):
        key = splitmix64((index * golden + derive_seed(5)) & mask)
        for j in (1, 2):
            assert bits[row, j - 1].item() % 2**64 == splitmix64((key + j * golden) & mask)


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_rows_do_not_depend_on_the_batch(draw: str) -> None:
    whole = getattr(SampleStream(1, torch.arange(50)), draw)((50, 7))
    index = torch.tensor([40, 3, 17])
    assert torch.equal(getattr(SampleStream(1, index), draw)((3, 7)), whole[index])


def test_successive_draws_differ_and_follow_the_cursor() -> None:
    stream = SampleStream(1, torch.arange(4))
    first, second = stream.normal((4, 2)), stream.normal((4, 2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second], 1), SampleStream(1, torch.arange(4)).normal((4, 4)))


def test_normals_are_normal() -> None:
    x = SampleStream(2, torch.arange(400)).normal((400, 500)).flatten().double()
    n = len(x)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-4


def test_neighbouring_streams_and_numbers_are_uncorrelated() -> None:
    x = SampleStream(2, torch.arange(2000)).normal((2000, 64)).double()
    bound = 4.5 / math.sqrt(x[1:].numel())
    assert abs((x[1:] * x[:-1]).mean()) < bound
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < bound
    other = SampleStream(3, torch.arange(2000)).normal((2000, 64)).double()
    assert abs((x * other).mean()) < bound


def test_uniforms_are_uniform_and_open() -> None:
    u = SampleStream(4, torch.arange(300)).uniform((300, 500)).flatten()
    assert u.min() > 0 and u.max() <= 1
    assert stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-4


def test_integers_are_even() -> None:
    k = SampleStream(4, torch.arange(1000)).integers(7, (1000, 20)).flatten()
    assert stats.chisquare(torch.bincount(k, minlength=7).numpy()).pvalue > 1e-4


def test_seeds_differ_by_every_part() -> None:
    seeds = {derive_seed(a, b, c) for a in (0, 1) for b in ("generator", "discriminator") for c in range(50)}
    assert len(seeds) == 200
    assert all(0 <= s < 2**63 for s in seeds)


def test_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="3 samples"):
        SampleStream(0, torch.arange(3)).normal((4, 2))


def test_both_kinds_of_generator_serve() -> None:
    for generator in (torch.Generator().manual_seed(0), SampleStream(0, torch.arange(5))):
        assert draw_normal((5, 2), generator=generator).shape == (5, 2)
        assert draw_uniform((5, 2), generator=generator).shape == (5, 2)
        assert draw_integers(3, (5, 2), generator=generator).max() < 3
