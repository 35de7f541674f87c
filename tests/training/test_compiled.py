from __future__ import annotations

import pytest
import torch

from pushforward.data.batches import DensityBatches
from pushforward.data.toy import Ring
from pushforward.errors import NotSupported
from pushforward.families.gan import losses, terms
from pushforward.families.gan.model import GAN
from pushforward.families.gan.terms import Term
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator
from pushforward.priors import Normal
from pushforward.training.compiled import PayBack
from pushforward.training.optimisers import sgd
from pushforward.training.trainer import Trainer


def make(**options: bool) -> Trainer:
    torch.manual_seed(0)
    gan = GAN(
        generator=MLPGenerator(latent=4, shape=(2,), hidden=(16, 16), norm="batch", output="identity"),
        discriminator=MLPDiscriminator(shape=(2,), hidden=(16,)),
        prior=Normal(dim=4),
        objective=losses.non_saturating(),
        terms=(
            Term("interpolate-penalty", terms.interpolate_penalty, "discriminator"),
            Term("r1", terms.r1, "discriminator", every=2, needs=frozenset({"real_slope"})),
        ),
        **options,
    )
    optimisers = {p.name: sgd(p.module.parameters(), lr=0.05) for p in gan.phases()}
    return Trainer(gan, DensityBatches(Ring().draw, batch_size=16, seed=0), optimisers)


@pytest.mark.slow
def test_compiled_steps_are_the_eager_steps() -> None:
    """Double backward, lazy terms, batch statistics and per-sample draws included."""
    eager, compiled = make(), make()
    verdict = compiled.compile()
    assert verdict.compile_seconds > 0 and "compiled in" in str(verdict)
    for a, b in zip(eager.steps(6), compiled.steps(6), strict=True):
        assert a.terms.keys() == b.terms.keys()
        for name in a.terms:
            torch.testing.assert_close(b.terms[name], a.terms[name], rtol=1e-4, atol=1e-5)
    for name, weight in eager.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled_says_why() -> None:
    with pytest.raises(NotSupported, match="share_fakes"):
        make(share_fakes=True).compile()


def test_pay_back_by_hand() -> None:
    assert PayBack(30.0, 0.020, 0.015).steps == pytest.approx(6000)
    assert "does not pay" in str(PayBack(30.0, 0.010, 0.015))
