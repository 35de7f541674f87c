"""Images that data is not: each shift does what its name says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, to_model
from pushforward.data.shifts import CONSTANTS, SHIFTS, affine, blurred, impulses, moved, noisy, shot, smeared


def digits(n: int = 50) -> Tensor:
    data = load("mnist-5k", "test")
    assert isinstance(data, ImageSet)
    return data.images[:n]


def made(name: str, x: Tensor, seed: int = 0) -> Tensor:
    return SHIFTS[name](x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SHIFTS)
def test_every_shift_gives_bytes_of_the_same_shape_and_changes_them(name: str) -> None:
    for x in (digits(), digits().expand(-1, 3, -1, -1).contiguous()):
        before = x.clone()
        y = made(name, x)
        assert y.dtype == torch.uint8
        assert y.shape == x.shape
        assert torch.equal(x, before), "the input was changed"
        assert torch.equal(y, made(name, x)), "the same seed gave other images"
        assert ((y != x).flatten(1).any(dim=1)).float().mean() > 0.95


def test_noise_has_its_strength() -> None:
    grey = torch.full((200, 1, 28, 28), 128, dtype=torch.uint8)
    g = torch.Generator().manual_seed(0)
    for sd in (0.1, 0.3):
        assert float(to_model(noisy(sd)(grey, g)).std()) == pytest.approx(sd, rel=0.03)
    counts = shot(6.0)(grey // 2, g).float() / 255
    assert float(counts.mean()) == pytest.approx(64 / 255, rel=0.01)  # Poisson of mean 1.5, over 6
    assert float(counts.var()) == pytest.approx(64 / 255 / 6, rel=0.03)
    assert float((impulses(0.2)(grey, g) != 128).float().mean()) == pytest.approx(0.2, rel=0.05)


def test_named_strengths() -> None:
    """What a name promises, of the sets themselves and not of what they are made by."""
    grey = torch.full((400, 1, 28, 28), 128, dtype=torch.uint8)
    black = torch.zeros_like(grey)
    for name, sd in (("noise 0.1", 0.1), ("noise 0.3", 0.3)):
        assert float(to_model(made(name, grey)).std()) == pytest.approx(sd, rel=0.02)
    for name, sd in (
        ("noise 0.5", 0.5),
        ("gaussian noise", 1.0),
    ):  # cut at black and at white, which are 1 / sd deviations away
        beyond = math.erfc(1 / sd / 2**0.5) / 2
        noise = to_model(made(name, grey))
        assert float((noise == 1).float().mean()) == pytest.approx(beyond, abs=0.005)
        assert float((noise == -1).float().mean()) == pytest.approx(beyond, abs=0.005)
    assert torch.equal(made("gaussian noise", black), made("gaussian noise", grey))  # whatever it is made of
    dot = black[:1].clone()
    dot[0, 0, 10, 10] = 255
    for name, at in (("shift 2", (10, 12)), ("shift 4", (10, 14)), ("shift up 4", (6, 10))):
        assert made(name, dot).nonzero().tolist() == [[0, 0, *at]]
    # three octaves of uniform clouds, 1 + 1/2 + 1/4 times a mean of a half, at half their strength; white stays white
    assert float(made("fog", black).float().mean()) / 255 == pytest.approx(0.5 * 1.75 * 0.5, rel=0.03)
    assert int(made("fog", torch.full_like(grey, 255)).min()) == 255
    # drops where the mean of nine standard normals, of deviation a third, passes .55; as bright as .85
    drops = made("spatter", black)[:, :, 1:-1, 1:-1]
    assert drops.unique().tolist() == [0, round(0.85 * 255)]
    assert float((drops > 0).float().mean()) == pytest.approx(math.erfc(3 * 0.55 / 2**0.5) / 2, rel=0.1)


def test_moves_by_hand() -> None:
    x = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    x[0, 0, 0, 1] = 9
    g = torch.Generator()
    assert moved(1, 2)(x, g).nonzero().tolist() == [[0, 0, 1, 3]]
    assert int(moved(0, 3)(x, g).sum()) == int(moved(-1, 0)(x, g).sum()) == 0  # it left the picture
    assert moved(2, -1)(x, g).nonzero().tolist() == [[0, 0, 2, 0]]
    assert made("hflip", x).nonzero().tolist() == [[0, 0, 0, 2]]
    assert made("rot180", x).nonzero().tolist() == [[0, 0, 3, 2]]
    assert made("rot90", x).nonzero().tolist() == [[0, 0, 2, 0]]
    assert torch.equal(made("inverted", made("inverted", x)), x)
    assert made("shuffled pixels", x).sum() == 9
    assert {name: int(made(name, x)[0, 0, 0, 0]) for name in CONSTANTS} == {"black": 0, "grey": 128, "white": 255}


def test_half_size_keeps_the_middle_and_a_quarter_of_the_ink() -> None:
    x = digits()
    small = made("half size", x).float()
    assert float(small.sum()) == pytest.approx(float(x.float().sum()) / 4, rel=0.01)
    assert not small[:, :, :7].any() and not small[:, :, 21:].any() and not small[..., :7].any()


def test_affine_turns_by_its_degrees_and_not_at_all_by_none() -> None:
    x = digits(4)
    g = torch.Generator().manual_seed(0)
    assert (affine()(x, g).int() - x.int()).abs().max() <= 1
    quarter = affine(degrees=90)(x, g)
    ways = torch.stack([(quarter.int() - x.rot90(k, (2, 3)).int()).abs().flatten(1).max(dim=1).values for k in (1, 3)])
    assert (ways.min(dim=0).values <= 1).all()
    assert float(affine(scale=0.5)(x, g).float().sum()) == pytest.approx(float(x.float().sum()) / 4, rel=0.05)
    assert float(made("scale 0.7", x).float().sum()) == pytest.approx(0.49 * float(x.float().sum()), rel=0.05)
    turned = affine(degrees=30)(x, torch.Generator().manual_seed(5))
    assert torch.equal(made("rotate 30", x, seed=5), turned)
    stick = torch.zeros(1, 1, 29, 29, dtype=torch.uint8)
    stick[0, 0, :, 14] = 255
    slanted = affine(shear=0.5)(stick, g)[0, 0].float()
    top, bottom = slanted[2].argmax(), slanted[26].argmax()
    assert abs(abs(int(top) - int(bottom)) - 12) <= 1  # half of 24 rows


def test_damage_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    black = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    striped = made("stripe", black)[0, 0, :, 0]
    assert striped.tolist() == [255] * 7 + [0] * 14 + [255] * 7
    square = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    square[..., 8:20, 8:20] = 255
    outline = made("edges", square)[0, 0] > 0
    assert not outline[10:18, 10:18].any() and not outline[:6].any()  # neither inside nor far outside
    assert outline[8:20, 8].all() and outline[7, 10:18].all()
    # glass: ink is kept in the mean and goes no further than two pixels and the blur's one
    glass = made("glass blur", square.expand(200, -1, -1, -1).contiguous()).float()
    assert float(glass.mean()) == pytest.approx(float(square.float().mean()), rel=0.02)
    assert not glass[..., :5, :].any() and glass[..., 6, 14].any() and (glass[..., 11:17, 11:17] == 255).all()
    # zigzag: teeth of three pixels each way about a straight line
    lines = made("zigzag", black)
    rows = (torch.arange(28.0)[:, None] * lines[:, 0].float()).sum(1) / lines[:, 0].float().sum(1)
    trend = torch.stack([rows[:, :6].mean(1), rows[:, 22:].mean(1)], 1)
    straight = trend[:, :1] + (trend[:, 1:] - trend[:, :1]) * (torch.arange(28) - 2.5) / 22
    assert 1.2 < float((rows - straight)[:, 3:25].std()) < 3.5
    dots = made("dotted line", black)
    assert ((dots > 0).any(dim=2).sum(dim=(1, 2)) == 14).all()  # half of the columns
    level = SHIFTS["uniform noise 0.3"](torch.full((50, 1, 28, 28), 128, dtype=torch.uint8), g).float() / 255
    assert float(level.std()) == pytest.approx(0.3 / 12**0.5, rel=0.02)


def test_blur_keeps_the_ink_and_spreads_it() -> None:
    stick, dot = torch.zeros(2, 1, 1, 27, 27, dtype=torch.uint8)
    stick[0, 0, :, 13] = 255
    dot[0, 0, 13, 13] = 255
    g = torch.Generator()
    across = blurred(1.5)(stick, g)[0, 0, 13].double() / 255
    assert float(across.sum()) == pytest.approx(1.0, abs=0.01)
    assert float((across * (torch.arange(27) - 13) ** 2).sum()) == pytest.approx(1.5**2, rel=0.03)  # cut at 3 sd
    assert smeared(7)(dot, g)[0, 0].nonzero().tolist() == [[k, k] for k in range(10, 17)]
