"""Minus log-likelihood of test data by whatever kind of density a model has, the kind always named: exact, a bound, along the ODE, or by AIS.

Of images, bits a dimension are those of bytes: a density over [-1, 1] is divided by the 127.5 bytes that a unit of it holds.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pushforward.data.images import ImageSet, to_model
from pushforward.errors import NotSupported
from pushforward.families.diffusion.likelihood import ode_log_prob
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.energy.model import EnergyModel
from pushforward.metrics.likelihood import Kind, Likelihood, likelihood
from pushforward.model import HasLogProb
from pushforward.randomness import SampleStream, derive_seed
from pushforward.runs import Run, load_data, spread
from pushforward.samplers.annealed import LogZ, annealed_log_z

FEW = 500  # test samples of the densities that are dear: along the ODE
CHAINS, LEVELS = 200, 500  # of AIS
FEWEST = 5.0  # effective chains that an estimate may rest on


def likelihood_of(run: Run, n: int, *, seed: int = 0) -> Likelihood | None:
    """Of n test samples of a run's data (fewer where each is dear); None for a model without any density.

    Args:
        run: Any.
        n: Test samples, at most.
        seed: Of dequantising noise, of probes and chains.

    Raises:
        NotSupported: an energy whose training's chains were tempered (exp(-E) is not what they followed) or whose log Z too few chains tell of, or a
            value that is not finite.
    """
    model, data = run.model, load_data(run.config, "test")
    g = torch.Generator().manual_seed(derive_seed(seed, "likelihood"))
    if isinstance(data, ImageSet):
        chosen = spread(len(data), n)  # some sets are sorted by class
        x, offset = to_model(data.images[chosen]), -data.images[0].numel() * math.log(127.5)
        labels = None if data.labels is None else data.labels[chosen]
    else:
        x, offset, labels = (
            data.sample(n, generator=SampleStream(derive_seed(seed, "test"), torch.arange(n))),
            0.0,
            None,
        )
    kind: Kind
    given = ""
    unsure, how = 0.0, ""  # what is added to the standard error, that of log Z, and how it was found
    shared = 1  # samples whose estimates share their draws, and so an error
    if isinstance(model, Diffusion):
        if model.classes is not None and not model.label_dropout:
            raise NotSupported(
                "likelihood: this model was trained with every label shown, and without labels it is no density. Leave the metric out."
            )
        x, kind = x[:FEW], "ODE"
        given = " without labels" if model.classes is not None else ""
        found = (
            torch.cat([ode_log_prob(model.denoiser, b, steps=20, generator=g) for b in _dequantised(x, g).split(100)])
            + offset
        )
    elif isinstance(model, EnergyModel):
        kind = "AIS"
        found, log_z = ais_log_prob(model, _dequantised(x, g), g)
        unsure = (log_z.high - log_z.low) / (2 * 1.96)
        how = f" and of log Z, 95 % interval {log_z.low:.1f} to {log_z.high:.1f} by {CHAINS} chains, in effect {log_z.effective:.0f}"
        found = found + offset
    elif isinstance(model, HasLogProb):
        kind = getattr(model, "kind", "exact")
        known = getattr(model, "classes", None) is not None
        given = " given the label" if known else ""
        with torch.no_grad():
            parts = []
            shared = 20 if getattr(model, "estimated", False) else 1
            for index in torch.arange(len(x)).split(shared if shared > 1 else 250):
                told = {"labels": labels[index]} if known and labels is not None else {}
                parts.append(model.log_prob(x[index], generator=g, **told))  # type: ignore[call-arg]
        found = torch.cat(parts)
    else:
        return None
    out = likelihood(found, dimensions=x[0].numel(), kind=kind)
    if shared > 1 and len(found) >= 2 * shared:  # the error of the mean of what is drawn together
        means = torch.stack([part.double().mean() for part in found[: len(found) // shared * shared].split(shared)])
        own = math.sqrt(max(out.nats.stderr**2, float(means.var()) / len(means)))
        out = replace(out, nats=replace(out.nats, stderr=own))
    fewer = f", n = {len(x)}" if len(x) < n else ""
    method = f"{kind}{given}{fewer}; standard error of the mean{how}"
    nats = replace(out.nats, stderr=math.hypot(out.nats.stderr, unsure), method=method)
    bits = nats.stderr / (x[0].numel() * math.log(2))
    return Likelihood(nats, replace(out.bits_per_dim, stderr=bits, method=method), kind)


def _dequantised(x: Tensor, g: torch.Generator) -> Tensor:
    """Images with uniform noise within their bytes; points as they are."""
    return x + (torch.rand(x.shape, generator=g) - 0.5) / 127.5 if x.ndim == 4 else x


def ais_log_prob(model: EnergyModel, x: Tensor, g: torch.Generator) -> tuple[Tensor, LogZ]:
    """log p of points, (n,), with log Z by annealed importance sampling, and that log Z with its interval.

    Raises:
        NotSupported: exp(-E) is no density that the energy has learned, or too few chains tell of its integral.
    """
    if model.tempered:
        raise NotSupported(
            "likelihood: this energy was trained by a tempered sampler, so that exp(-E) is no density that it has learned. Leave the metric out."
        )
    if model.bounds is not None:
        raise NotSupported(
            "likelihood: the chains of this energy were kept within the range of images, so that exp(-E) over all of space is no density that it has learned. Leave the metric out."
        )
    if any(getattr(t.function, "keywords", {}).get("widest") is not None for t in model.terms):
        raise NotSupported(
            "likelihood: an energy of many levels of noise is known up to a factor, and exp(-E) is no density that it has learned. Leave the metric out."
        )
    d, scale = x[0].numel(), model.scale
    spread = Normal(torch.zeros(x.shape[1:]), scale * torch.ones(x.shape[1:]))
    base = Independent(spread, x.ndim - 1)
    with model.still():
        log_z = annealed_log_z(model.energy, base, CHAINS, levels=LEVELS, step_size=0.3 * scale / d**0.25, generator=g)
        with torch.no_grad():
            energies = torch.cat([model.energy(b) for b in x.split(500)])
    if log_z.effective < FEWEST:
        raise NotSupported(
            f"likelihood: annealed importance sampling rests on {log_z.effective:.1f} of {CHAINS} chains, too few to say what log Z is. Leave the metric out."
        )
    return -energies.double() - log_z.value, log_z
