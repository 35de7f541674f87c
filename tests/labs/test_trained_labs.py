"""Labs of trained models: their verdicts follow from the numbers, their small measures are right, and a contest keeps what it trained."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pushforward import labs, runs
from pushforward.build import change_sampler
from pushforward.config import load_recipe
from pushforward.data.images import to_bytes, to_model
from pushforward.errors import ConfigError
from pushforward.evaluation import reference
from pushforward.families.diffusion.schedules import VP
from pushforward.families.energy.model import EnergyModel, Sampler, Training
from pushforward.families.gan.model import GAN
from pushforward.labs import (
    Finding,
    anomaly,
    bits_per_dim,
    can_you_tell,
    consistency,
    contest,
    energies,
    energy_regulariser,
    exact_posterior,
    langevin_steps,
    memorisation,
    mixture_priors,
    normalisation,
    ood_paradox,
    precision_recall_plane,
    regularisers,
    rejection_sampling,
    solvers_order,
    swish_vs_relu,
    vanilla_vs_lsgan_vs_dcgan,
)
from pushforward.metrics.measurement import Measurement
from pushforward.model import Batch
from pushforward.theory.diffusion import gaussian_flow

YES, NO, MAYBE = "supported", "not supported", "unclear"


def verdicts(found: list[Finding]) -> list[str]:
    return [f.verdict for f in found]


def rows(**means: float | dict[str, float]) -> contest.Rows:
    """Three seeds about each mean, a hundredth apart."""
    out: contest.Rows = {}
    for name, figures in means.items():
        table = figures if isinstance(figures, dict) else {"frechet": figures}
        out[name] = [{"diverged": 0.0, **{k: v * f for k, v in table.items()}} for f in (0.99, 1.0, 1.01)]
    return out


def test_what_differs_is_tested() -> None:
    a, b = [1.0, 1.1, 0.9], [2.0, 2.2, 1.9]
    assert verdicts([contest.above("", b, a), contest.above("", a, b), contest.above("", a, a)]) == [YES, NO, MAYBE]
    assert verdicts([contest.below("", a, b), contest.below("", b, a), contest.below("", [], b)]) == [YES, NO, MAYBE]
    p = stats.ttest_ind(b, a, equal_var=False, alternative="greater").pvalue
    assert contest.above("", b, a).evidence == f"2.03 against 1 over 3 seeds, p = {p:.2g} (Welch, one-sided)."
    assert contest.below("", a, b).evidence == f"1 against 2.03 over 3 seeds, p = {p:.2g} (Welch, one-sided)."
    assert verdicts([contest.above("", [1.0], [0.5]), contest.above("", [1.0, 1.0], [0.5, 0.5])]) == [MAYBE, YES]
    corrected = contest.above("", b, a, tried=200), contest.above("", a, b, tried=200)
    assert verdicts(corrected) == [MAYBE, MAYBE]
    assert contest.above("", [1.0], [0.5, 0.6]).verdict == MAYBE
    q = stats.ttest_rel(b, a, alternative="greater").pvalue
    assert f"p = {q:.2g} (paired t-test, one-sided)" in contest.above("", b, a, paired=True).evidence
    assert contest.above("", [2.0, 3.0], [1.0, 2.0], paired=True).verdict == YES  # one more, each time
    many = contest.above("", b, a, tried=100)
    assert many.verdict == MAYBE and f"p = {100 * p:.2g} (Welch, Bonferroni for 100" in many.evidence
    assert contest.above("", [1.0, 1.2, 0.9], [1.0, 1.1, 0.9], tried=3).verdict == MAYBE  # p = 0.4: neither
    assert verdicts([contest.matters("", [a, b]), contest.matters("", [a, a]), contest.matters("", [a, []])]) == [
        YES,
        MAYBE,
        MAYBE,
    ]
    lost = {"a": [{"diverged": 1.0}] * 3, "b": [{"diverged": 0.0, "frechet": 1.0}] * 3}
    said = [
        contest.more_often("", lost, "a", "b"),
        contest.more_often("", lost, "b", "a"),
        contest.more_often("", lost, "a", "a"),
    ]
    assert verdicts(said) == [YES, NO, MAYBE]
    assert "cannot decide" not in said[0].evidence
    both = contest.more_often("", lost, "a", "b", tried=3)
    assert (
        both.verdict == MAYBE and "cannot decide it: all of one and none of the other have p = 0.15." in both.evidence
    )
    assert np.isnan(contest.figures(lost, "a", "frechet")).all()
    # Those that came through are no fair sample: by them alone a would be far better, or b.
    some = [1.0, 1.1, float("nan")]
    one = contest.below("", some, b)
    assert one.verdict == MAYBE
    assert one.evidence == "1 of 3 and 0 of 3 seeds diverged; of those that came through, 1.05 against 2.03."
    assert verdicts([contest.above("", some, b), contest.above("", some, b, paired=True)]) == [MAYBE, MAYBE]
    assert contest.below("", contest.figures(lost, "a", "frechet"), b).verdict == MAYBE
    assert contest.matters("", [some, b]).verdict == MAYBE
    assert contest.lowest({"a": some, "b": b}, "ab") == "b"


def test_verdicts_of_gan_labs() -> None:
    names = list(normalisation.ENTRIES)
    good = dict(zip(names, (100.0, 150.0, 200.0, 900.0, 180.0), strict=True))
    assert verdicts(normalisation.findings(rows(**good))) == [YES] * 4
    bad = dict(zip(names, (200.0, 150.0, 100.0, 210.0, 100.0), strict=True))
    assert verdicts(normalisation.findings(rows(**bad))) == [NO] * 4

    def three(vanilla: float, lsgan: float, dcgan: float, ones: float) -> contest.Rows:
        each = {"vanilla": vanilla, "lsgan": lsgan, "dcgan": dcgan}
        return rows(**{k: {"frechet": v, "recall": 1 / v, "ones": ones, "sharpness": 1 + v} for k, v in each.items()})

    assert verdicts(vanilla_vs_lsgan_vs_dcgan.findings(three(3.0, 2.0, 1.0, 0.3), 0.1, 1.0)) == [YES] * 5
    assert verdicts(vanilla_vs_lsgan_vs_dcgan.findings(three(1.0, 2.0, 3.0, 0.05), 0.1, 1.0)) == [NO] * 5

    alone = {"none": 100.0, "r1": 50.0, "lecam": 90.0, "bcr": 80.0}
    pairs = {"r1 + lecam": 40.0, "r1 + bcr": 60.0, "lecam + bcr": 80.0}
    assert verdicts(regularisers.findings(rows(**alone, **pairs))) == [YES, YES, YES, YES, NO, MAYBE]

    found = {"none": 100.0, "CR": 90.0, "bCR": 80.0}
    found |= {f"zCR, sigma {s:g}": 100 - 100 * s for s in consistency.SIGMAS} | {
        f"ICR, sigma {s:g}": 150.0 for s in consistency.SIGMAS
    }
    assert verdicts(consistency.findings(rows(**found))) == [YES] * 5 + [MAYBE]
    wrong = (
        {"none": 100.0, "CR": 110.0, "bCR": 120.0}
        | {k: 130.0 for k in found if k.startswith("zCR")}
        | {k: 50.0 for k in found if k.startswith("ICR")}
    )
    assert verdicts(consistency.findings(rows(**wrong))) == [NO, NO, NO, NO, MAYBE, MAYBE]

    def priors(normal: float, circle: float, uniform: float, dynamic: float) -> contest.Rows:
        each = {"normal": normal, "circle": circle, "uniform": uniform, "dynamic": dynamic}
        return rows(**{k: {"frechet": v, "recall": 1 / v} for k, v in each.items()})

    assert verdicts(mixture_priors.findings(priors(100.0, 50.0, 60.0, 70.0))) == [YES] * 5
    assert verdicts(mixture_priors.findings(priors(50.0, 100.0, 60.0, 70.0))) == [NO] * 5


def test_verdicts_of_rejection_and_of_the_plane() -> None:
    def ways(*frechet: float) -> list[rejection_sampling.Ways]:
        return [
            {w: {"frechet": f * e, "precision": e / f, "proposals": 5.0, "acceptance": 0.2} | dict.fromkeys(("recall", "density", "coverage", "class entropy"), 0.5) for w, f in zip(rejection_sampling.WAYS, frechet, strict=True)}
            for e in (0.99, 1.0, 1.01)
        ]  # fmt: skip

    assert verdicts(rejection_sampling.findings(ways(100, 90, 80, 85, 80))) == [YES] * 4
    assert verdicts(rejection_sampling.findings(ways(80, 90, 100, 95, 100))) == [NO] * 4
    lost = [{k: v for k, v in row.items() if k in ("plain", "mh")} for row in ways(100, 90, 80, 85, 80)]
    assert verdicts(rejection_sampling.findings(lost)) == [MAYBE, YES, MAYBE, MAYBE]
    once = [*lost[:2], *ways(100, 90, 80, 85, 80)[2:]]  # the only seed that had a ratio
    found = rejection_sampling.findings(once)[0]
    assert found.verdict == MAYBE and "On 2 of 3 seeds the logit was no density ratio" in found.evidence

    def at(precision: float, recall: float, frechet: float) -> dict[str, Measurement]:
        values = {"precision": precision, "recall": recall, "frechet": frechet}
        return {k: Measurement(v, 2.0 if k == "frechet" else 0.01, "given", 10, 10) for k, v in values.items()}

    turned = {
        k: {"plain": at(0.7, 0.7, 50.0), "1": at(0.75, 0.6, 40.0), "2": at(0.9, 0.3, 90.0)}
        for k in ("truncation", "best of")
    }
    assert verdicts(precision_recall_plane.findings(turned)) == [YES] * 5
    turned = {"truncation": {"plain": at(0.9, 0.3, 50.0), "1": at(0.7, 0.7, 70.0)}}
    assert verdicts(precision_recall_plane.findings(turned)) == [NO, NO, NO]
    wider = {"wider latents": {"plain": at(0.88, 0.8, 50.0), "1.1": at(0.85, 0.84, 37.0), "1.4": at(0.7, 0.9, 90.0)}}
    assert verdicts(precision_recall_plane.findings(wider)) == [YES] * 3


def test_the_plane_lab_turns_its_knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["train.steps=2", "train.batch_size=8", "model.generator.hidden=[8]", "model.discriminator.hidden=[8]"]
    folder = runs.train(load_recipe("gan/vanilla", small, data="mnist-5k"), tmp_path / "run", quiet=True)
    for name, few in (("LIMITS", (1.0,)), ("WIDTHS", (1.2, 1.4)), ("CANDIDATES", (2,)), ("PERCENTILES", (80.0,))):
        monkeypatch.setattr(precision_recall_plane, name, few)
    plain, widths = runs.sample, []

    def watched(model: GAN, *args: int, **options: int) -> torch.Tensor:
        widths.append(model.temperature)
        return plain(model, *args, **options)

    monkeypatch.setattr(runs, "sample", watched)
    found = labs.run_lab("precision-recall-plane", tmp_path / "lab", quiet=True, run=str(folder), n=20)
    assert widths == [1.0, 1.2, 1.4]
    points = json.loads((tmp_path / "lab/plane.json").read_text())["points"]
    assert list(points) == ["truncation", "wider latents", "best of", "rejection"] and len(found) == 9


def test_the_discriminator_goes_on_alone_with_the_steps_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lazy terms come when they are due, and annealed views are where they were."""
    from pushforward.labs.contest import config_of, images_of

    config = config_of("gan/dcgan", ["train.batch_size=4"], data="mnist-5k", seed=0)
    data = images_of(config)
    trainer = runs.make_trainer(config, data)
    for _ in trainer.steps(2):
        pass
    seen: list[int] = []

    class EnoughError(Exception):
        pass

    def keep(model: object, optimiser: object, batches: list[Batch]) -> None:
        seen.extend(b.step for b in batches)
        raise EnoughError

    monkeypatch.setattr(rejection_sampling, "keep_training", keep)
    with pytest.raises(EnoughError):
        rejection_sampling.five_ways(trainer, data, reference("mnist-5k", n=20), n=4, moves=3)
    assert seen == [2, 3, 4]


def test_verdicts_of_the_posterior_lab() -> None:
    good, biased, narrow = (
        {"bias, seen": 0.01, "width, seen": w, "bias, hidden": b, "width, hidden": 1.0}
        | dict.fromkeys(("uneven, seen", "uneven, hidden", "uneven, directions"), 1 - w)
        for b, w in ((0.01, 0.99), (0.3, 1.0), (0.01, 0.8))
    )
    found = dict.fromkeys([*exact_posterior.NAMES, "mmps, limit", "pigdm, limit", "pigdm, white"], good)
    assert verdicts(exact_posterior.findings(found, 10_000)) == [YES] * 9
    assert verdicts(exact_posterior.findings(found, 400)) == [MAYBE] * 9
    told = verdicts(exact_posterior.findings(found | {"mmps": biased, "ddrm": narrow}, 10_000))
    assert told == [NO, YES, YES, YES, NO, YES, YES, YES, YES]
    uncoupled = good | {"uneven, directions": 0.3}
    assert verdicts(exact_posterior.findings(found | {"mmps": uncoupled}, 10_000))[0] == NO


def test_the_posterior_lab_knows_its_posterior() -> None:
    """Against many draws of image and measurement, those kept whose measurement is near."""
    problem = exact_posterior.Problem(exact_posterior.covariance(1.2), 0.2, 0)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40_000, 36, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(problem.prior).T
    y = problem.seen * (x + 0.2 * torch.randn(40_000, 36, generator=g, dtype=torch.float64))
    left = x - y[:, problem.seen] @ torch.linalg.lstsq(y[:, problem.seen], x).solution  # what y leaves open
    torch.testing.assert_close(left.T.cov(), problem.covariance, rtol=0, atol=0.006)
    guess = problem.y[problem.seen] @ torch.linalg.lstsq(y[:, problem.seen], x).solution
    torch.testing.assert_close(guess, problem.mean, rtol=0, atol=0.02)
    exact = problem.mean + torch.randn(40_000, 36, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(problem.covariance).T  # fmt: skip
    uneven = ("uneven, seen", "uneven, hidden", "uneven, directions")
    right = {"bias, seen": 0, "width, seen": 1, "bias, hidden": 0, "width, hidden": 1} | dict.fromkeys(uneven, 0)
    assert problem.judge(exact) == pytest.approx(right, abs=0.015)
    alone = (
        problem.mean + torch.randn(40_000, 36, generator=g, dtype=torch.float64) * problem.covariance.diagonal().sqrt()
    )
    told = problem.judge(alone)  # every pixel's law is right, their couplings are lost
    assert max(told["uneven, seen"], told["uneven, hidden"]) < 0.015 and told["uneven, directions"] > 0.1


def test_verdicts_of_diffusion_and_judging_labs() -> None:
    stated = {k: float(order) for k, (_, order) in solvers_order.STATED.items()}
    few = {"DDIM": 0.1, "Euler": 0.1, "Heun": 0.2, "DPM-Solver++(2M)": 0.01, "UniPC-1": 0.05, "UniPC-2": 0.02}
    assert set(verdicts(solvers_order.findings(stated, few))) == {YES}
    assert set(verdicts(solvers_order.findings({k: v - 0.5 for k, v in stated.items()}, few | {"Heun": 0.001}))) == {NO}
    real = {16: 0.0, 4096: 0.0}
    assert verdicts(memorisation.findings({16: 0.9, 4096: 0.0}, real, 200)) == [YES] * 3
    assert verdicts(memorisation.findings({16: 0.1, 4096: 0.4}, real, 200)) == [NO] * 3
    assert verdicts(memorisation.findings({16: 0.5, 64: 0.52, 4096: 0.0}, real, 200)) == [MAYBE, YES, YES]
    assert verdicts(memorisation.findings({16: 0.75, 4096: 0.5}, real, 4)) == [MAYBE] * 3

    def told(control: float, good: float, bad: float, features: float, seen: float = 0.9) -> can_you_tell.Table:
        return {
            can_you_tell.CONTROL: {"classifier": control, "neighbours": 0.5, "frechet": 3.0},
            can_you_tell.NOISY: {"classifier": seen, "neighbours": 0.5, "frechet": 40.0},
            "good": {"classifier": good, "neighbours": features, "frechet": 50.0},
            "bad": {"classifier": bad, "neighbours": features, "frechet": 90.0},
        }

    assert verdicts(can_you_tell.findings(told(0.5, 0.8, 0.9, 0.6), 1000)) == [YES] * 4
    assert verdicts(can_you_tell.findings(told(0.7, 0.9, 0.51, 0.9), 1000)) == [NO, MAYBE, NO, NO]
    assert verdicts(can_you_tell.findings(told(0.5, 0.9, 0.51, 0.9), 1000))[:2] == [YES, NO]
    blind = can_you_tell.findings(told(0.5, 0.5, 0.5, 0.5, seen=0.5), 1000)  # a judge that learned nothing is not fair
    assert verdicts(blind) == [NO, MAYBE, NO, MAYBE]


def test_verdicts_of_energy_labs() -> None:
    def energy(**frechet: float) -> contest.Rows:
        return rows(**{k: {"frechet": v, "drift": v, "size of the energy": v} for k, v in frechet.items()})

    assert verdicts(swish_vs_relu.findings(energy(swish=50.0, relu=80.0))) == [MAYBE, YES, YES]
    assert verdicts(swish_vs_relu.findings(energy(swish=80.0, relu=50.0))) == [MAYBE, NO, NO]
    assert verdicts(energy_regulariser.findings(energy(none=80.0, **{"0.1": 5.0, "1": 9.0}))) == [MAYBE, YES, YES, YES]
    assert verdicts(energy_regulariser.findings(energy(none=4.0, **{"0.1": 5.0, "1": 3.0}))) == [MAYBE, NO, NO, NO]

    def watched(share: float, chains: int, late: float) -> langevin_steps.Found:
        return {str(d): {"chains": chains if d == 4 else 50, "in time": share, "0.5": 100.0} for d in range(10)} | {
            "9": {"chains": 50, "in time": share, "0.5": late}
        }

    spoilt = {"256": {"frechet": 50.0}, "2048": {"frechet": 80.0}}
    assert verdicts(langevin_steps.findings(spoilt, watched(0.99, 50, 100.0), {2048: 3.0})) == [YES] * 4
    better = {"256": {"frechet": 80.0}, "2048": {"frechet": 50.0}}
    assert verdicts(langevin_steps.findings(better, watched(0.5, 0, 100.0), {2048: 11.5})) == [NO] * 4
    slow = watched(0.9, 50, 300.0)
    slow["9"]["in time"] = 0.4
    assert verdicts(langevin_steps.findings(better, slow, {2048: 11.5}))[1] == NO
    turned = {"16": {"frechet": 40.0}, "256": {"frechet": 80.0}, "1024": {"frechet": 50.0}, "2048": {"frechet": 60.0}}
    assert verdicts(langevin_steps.findings(turned, slow, {2048: 11.5}))[2] == YES  # the best is between
    same = {"256": {"frechet": 50.0}, "2048": {"frechet": 51.0}}
    assert verdicts(langevin_steps.findings(same, watched(0.9, 50, 100.0), {2048: 3.0})) == [MAYBE, YES, MAYBE, YES]

    good = dict.fromkeys(anomaly.GOALS, 0.99)
    sure = {m: dict.fromkeys(good, 0.01) for m in ("energy", "flow")}
    assert verdicts(anomaly.findings({"energy": good, "flow": dict.fromkeys(good, 0.4)}, sure)) == [YES] * 3
    assert verdicts(anomaly.findings({"energy": dict.fromkeys(good, 0.6), "flow": good}, sure)) == [NO] * 3
    assert verdicts(anomaly.findings({"energy": dict.fromkeys(good, 0.49), "flow": good}, sure))[2] == NO  # chance
    few = good | dict.fromkeys(list(good)[:3], 0.98)  # ahead by a hair, within the error: no win
    assert verdicts(anomaly.findings({"energy": good, "flow": few}, sure))[1] == MAYBE


def test_verdicts_of_flow_labs() -> None:
    def flows(one: float, two: float, gap: float, cool: float) -> contest.Rows:
        return rows(
            **{
                k: {"test bits": v, "train bits": v - gap, "frechet": 100.0, "cool frechet": cool}
                for k, v in (("one scale", one), ("two scales", two))
            }
        )

    assert verdicts(bits_per_dim.findings(flows(1.5, 1.2, 0.1, 50.0), 1.8)) == [YES] * 4
    assert verdicts(bits_per_dim.findings(flows(1.5, 1.9, -0.1, 150.0), 1.8)) == [NO] * 4

    def scored(likelihood: float, typicality: float, ratio: float) -> dict[str, float]:
        four = {"likelihood": likelihood, "typicality": typicality, "ratio": ratio, "less complexity": 0.8}
        return {"bits": 1.0, "error": 0.01, **four}

    table = {"black": scored(0.0, 0.99, 0.95), "fog": scored(1.0, 1.0, 1.0)}
    assert verdicts(ood_paradox.findings(table, 1.5)) == [YES, YES, YES, NO]
    assert verdicts(ood_paradox.findings(table | {"mnist": scored(0.49, 0.5, 0.5)}, 1.5, "mnist")) == [
        YES,
        NO,
        YES,
        YES,
        NO,
    ]
    assert verdicts(ood_paradox.findings(table | {"half size": scored(0.1, 0.5, 0.4)}, 1.5)) == [YES, NO, NO, NO]
    assert verdicts(ood_paradox.findings({"fog": scored(1.0, 1.0, 1.0)}, 1.5)) == [NO, MAYBE, MAYBE, MAYBE]


# --- small measures ---------------------------------------------------------------------------------------------


def test_judges_tell_what_differs_and_only_that() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randint(256, (300, 1, 28, 28), generator=g, dtype=torch.uint8) for _ in range(2))
    assert abs(can_you_tell.classifier_accuracy(a, b, steps=60) - 0.5) < 4 * 0.5 / 300**0.5
    assert can_you_tell.classifier_accuracy(a, b // 2, steps=60) > 0.95
    x, y = (torch.randn(400, 5, generator=g) for _ in range(2))
    assert abs(can_you_tell.neighbour_accuracy(x, y) - 0.5) < 4 * 0.5 / 800**0.5
    assert can_you_tell.neighbour_accuracy(x, y + 20) == 1.0


def test_a_judge_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    x = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    can_you_tell.classifier_accuracy(x, x, steps=2)
    assert torch.equal(torch.rand(2), expected)


def test_independent_bits_is_the_entropy_of_independent_pixels() -> None:
    g = torch.Generator().manual_seed(0)
    share = torch.tensor([0.5, 0.1]).view(2, 1, 1)
    train, test = ((torch.rand(20_000, 2, 1, 1, generator=g) < share).to(torch.uint8) * 200 for _ in range(2))
    entropy = np.mean([stats.entropy([p, 1 - p], base=2) for p in (0.5, 0.1)])
    assert bits_per_dim.independent_bits(train, test) == pytest.approx(entropy, abs=0.01)
    assert bits_per_dim.independent_bits(train[:0], test) == pytest.approx(8.0)  # nothing seen: every byte alike


def test_neighbours_and_sharpness_by_hand() -> None:
    images = torch.tensor([0, 255, 51]).to(torch.uint8).view(3, 1, 1, 1)
    nearest, which = memorisation.neighbours(images[2:] - 10, images)
    assert nearest.item() == pytest.approx(10 / 255) and which.item() == 2
    point = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    point[0, 0, 2, 2] = 255
    # second differences of a unit point over the 3 x 3 middle: -4 and four ones, mean square 20 / 9; mean square 1 / 25
    assert contest.sharpness(point) == pytest.approx(20 / 9 * 25, rel=1e-4)


def test_the_gaussian_flow_solves_its_ode() -> None:
    schedule, mean, variance = VP(), torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 4.0]).double()
    x = torch.tensor([[0.5, -1.0], [2.0, 0.1]]).double()

    def slope(
        t: float, flat: np.ndarray
    ) -> np.ndarray:  # f(t) x - g(t)^2 / 2 score, from d alpha / dt and d sigma^2 / dt
        h = 1e-5
        (a, s), (a1, s1), (a0, s0) = (schedule(torch.tensor(v).double()) for v in (t, t + h, t - h))
        drift = (a1 - a0) / (2 * h) / a
        g2 = (s1**2 - s0**2) / (2 * h) - 2 * drift * s**2
        z = torch.from_numpy(flat).view(-1, 2)
        return (drift * z + g2 / 2 * (z - a * mean) / (a**2 * variance + s**2)).flatten().numpy()

    solved = integrate.solve_ivp(slope, (0.8, 0.2), x.flatten().numpy(), rtol=1e-10, atol=1e-10).y[:, -1]
    high, low = (tuple(float(v) for v in schedule(torch.tensor(t).double())) for t in (0.8, 0.2))
    assert gaussian_flow(mean, variance, x, high=high, low=low).flatten().numpy() == pytest.approx(solved, abs=1e-6)


def test_background_images_have_some_pixels_replaced() -> None:
    from pushforward.data.images import ImageSet

    data = ImageSet(torch.full((200, 1, 28, 28), 100, dtype=torch.uint8), None, "grey")
    share = float((ood_paradox.mutated(data).images != 100).double().mean())
    assert share == pytest.approx(ood_paradox.MUTATED, abs=0.01)


def test_squeezed_images_come_back() -> None:
    from pushforward.data.images import ImageSet, to_bytes, to_model

    data = ImageSet(torch.arange(256).repeat(4)[: 28 * 28].to(torch.uint8).view(1, 1, 28, 28), None, "ramp")
    half = normalisation._squeezed("[0, 1], tanh", data)
    assert float(to_model(half.images).min()) > 0
    back = to_bytes(normalisation._back("[0, 1], tanh", to_model(half.images)))
    assert (back.int() - data.images.int()).abs().max() <= 2


# --- contests ---------------------------------------------------------------------------------------------------


def test_a_contest_keeps_what_it_trained(tmp_path: Path) -> None:
    entries = {"a": ("gan/vanilla",), "b": ("gan/vanilla", "model.generator.hidden=[32]")}
    how = {"data": "mnist-5k", "seeds": 2, "cpu_seconds": 0.05, "n": 40, "quiet": True}
    found = contest.contest(tmp_path, entries, **how)
    assert [len(v) for v in found.values()] == [2, 2]
    assert found["a"][0]["frechet"] != found["a"][1]["frechet"]
    files = sorted((tmp_path / "cells").iterdir())
    assert [f.name for f in files] == ["a-0.json", "a-1.json", "b-0.json", "b-1.json"]
    before = [f.stat().st_mtime_ns for f in files]
    assert contest.contest(tmp_path, entries, **how) == found
    assert [f.stat().st_mtime_ns for f in files] == before
    assert json.loads((tmp_path / "contest.json").read_text())["rows"] == found
    other = entries | {"b": ("gan/vanilla", "model.generator.hidden=[48]")}
    contest.contest(tmp_path, other, **how)
    assert [f.stat().st_mtime_ns == t for f, t in zip(files, before, strict=True)] == [True, True, False, False]
    told = contest.contest(tmp_path, entries, **how, look=lambda *_: {"answer": 42.0}, protocol="another look")
    assert told["a"][0]["answer"] == 42.0
    with pytest.raises(ConfigError, match="at least 2"):
        contest.contest(tmp_path, entries, **how | {"seeds": 1})
    with pytest.raises(ConfigError, match="above 0"):
        contest.contest(tmp_path, entries, **how | {"cpu_seconds": 0.0})


def test_a_rate_that_falls_does_so_over_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that goes on by a twentieth of the time at each look: the rate of each step is what is left of the time, 0 in the last."""
    ticks = count()
    monkeypatch.setattr(contest.time, "process_time", lambda: next(ticks) / 20)
    settings = ["train.schedule='linear'", "train.warmup=2", "model.generator.hidden=[32]"]
    config = contest.config_of("gan/vanilla", settings, data="mnist-5k", seed=0)
    images = contest.images_of(config)
    rates: list[float] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    trainer = contest.train_for(config, images, 1.0)
    left = [0.95 / 2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # half in the first step of the warm-up
    assert rates[::2] == pytest.approx([4e-4 * v for v in left])
    with pytest.raises(ConfigError, match="train anew"):
        contest.train_for(config, images, 1.0, trainer)


def test_training_goes_on_where_the_rate_is_constant() -> None:
    config = contest.config_of("gan/vanilla", ["model.generator.hidden=[32]"], data="mnist-5k", seed=0)
    images = contest.images_of(config)
    trainer = contest.train_for(config, images, 0.2)
    before = trainer.step
    assert contest.train_for(config, images, 0.2, trainer) is trainer
    assert trainer.step >= before + 2
    assert {g["lr"] for o in trainer.optimisers.values() for g in o.param_groups} == {4e-4}


def test_runs_are_trained_anew_when_the_settings_change(tmp_path: Path) -> None:
    def weights(**changes: float) -> torch.Tensor:
        how = {"data": "mnist-5k", "cpu_seconds": 0.3, "seed": 0, "out": tmp_path} | changes
        (found,) = contest.trained("", ["gan/vanilla"], **how).values()
        return torch.cat([p.flatten() for p in found.model.parameters()])

    first = weights()
    assert torch.equal(weights(), first)
    second = weights(seed=1, cpu_seconds=0.05)  # fewer steps: the newest checkpoint would be the old one
    assert not torch.equal(second, first)
    folder = str(tmp_path / "runs/gan-vanilla")
    given = contest.trained(f" {folder} ,", [], data="", cpu_seconds=0, seed=0, out=tmp_path)
    assert list(given) == [folder]
    for wrong in (",", f"{folder},{folder}"):
        with pytest.raises(ConfigError, match="at least one folder"):
            contest.trained(wrong, [], data="", cpu_seconds=0, seed=0, out=tmp_path)


def test_slices_of_a_sorted_set_hold_every_class() -> None:
    """mnist-5k is sorted by class: its head and its tail are a digit or two."""
    data = contest.images_of(contest.config_of("gan/vanilla", (), data="mnist-5k", seed=0), "test")
    assert data.labels is not None
    assert len(data.labels[:50].unique()) < 10
    picked = contest.some(data, 100)
    which = [int(data.labels[(data.images == x).flatten(1).all(dim=1)][0]) for x in picked]
    assert np.bincount(which, minlength=10).min() >= 5


@pytest.mark.parametrize("name", list(labs.LABS))
def test_no_lab_slices_the_head_of_a_set(name: str) -> None:
    text = Path(labs.lab(name).__code__.co_filename).read_text()
    assert not re.search(r"(train|test|seen|whole)\.images\[:", text)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("memorisation", {"sizes": "4,x"}, "whole numbers"),
        ("memorisation", {"sizes": "4,99999"}, "between 3 and 4000"),
        ("memorisation", {"n": 0}, "at least 2"),
        ("solvers-order", {"points": 0}, "at least 1"),
        ("solvers-order", {"longest": 8}, "at least 64"),
        ("exact-posterior", {"n": 10}, "at least 100"),
        ("exact-posterior", {"steps": 0.0}, "above 0"),
        ("precision-recall-plane", {"n": 0}, "at least 2"),
        ("langevin-steps", {"run": ","}, "at least one folder"),
        ("langevin-steps", {"longest": 100}, "at least 256"),
        ("normalisation", {"n": 0}, "at least 2"),
        ("can-you-tell", {"run": ","}, "at least one folder"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, name: str, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        labs.run_lab(name, tmp_path, quiet=True, **settings)


def test_chains_drift_as_their_energy_says_and_digits_are_recognised() -> None:
    """On E = 5 |x - a|^2 / 2 with eta = 0.1 and no noise a move takes a quarter of the way to a."""
    test = contest.images_of(contest.config_of("gan/vanilla", (), data="mnist-5k", seed=0), "test")
    target = to_model(test.images[:1])

    class Bowl(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = torch.nn.Parameter(target.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2.5 * (x - self.at).flatten(1).square().sum(dim=1)

    model = EnergyModel(
        network=Bowl(),
        shape=(1, 28, 28),
        terms=(),
        sampler=Sampler(steps=1, step_size=0.1, noise=0.0),
        training=Training(),
        rows=1,
    ).eval()
    start = torch.zeros(3, 1, 28, 28)
    far = float((target - start[:1]).norm())
    found = energies.drift(model, start, [1, 4])
    assert found == {1: pytest.approx(0.25 * far, rel=1e-3), 4: pytest.approx((1 - 0.75**4) * far, rel=1e-3)}
    last, when = energies.recognised(model, 5, 64)
    assert set(last.tolist()) == {int(test.labels[0])}  # type: ignore[index]
    assert ((when > 0) & (when <= 48)).all()
    with torch.no_grad():
        model.network.at.zero_()  # type: ignore[union-attr, operator]
    spread = 0.1 * 28 / (1 - 0.75**2) ** 0.5  # at rest, of a chain with noise .1 that is pulled back by a quarter
    assert energies.drift(model, start, [60], noise=0.1)[60] == pytest.approx(spread, rel=0.05)


def test_a_digit_that_is_lost_again_was_not_recognised_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sure of a 3 from the second look on, but for the third, where it was sure of a 5: recognised at the fourth, and so is a chain that is a 3 all along."""
    looks = [[0, 3], [3, 3], [5, 3], [3, 3], [3, 3]]

    class Known:
        def __init__(self) -> None:
            self.at = 0

        def __call__(self, x: torch.Tensor) -> object:
            digits = torch.tensor(looks[self.at])
            self.at += 1
            sure = 20.0 * torch.nn.functional.one_hot(digits, 10)
            if self.at == 1:
                sure[0] = 0.0
            return type("Found", (), {"logits": sure})

    monkeypatch.setattr(energies, "extractor", lambda name: Known())
    model = linear_energy()
    last, when = energies.recognised(model, 2, 4 * energies.EVERY)
    assert last.tolist() == [3, 3]
    assert when.tolist() == [3 * energies.EVERY, 0]


def linear_energy() -> EnergyModel:
    return EnergyModel(
        network=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1), torch.nn.Flatten(0)),
        shape=(1, 8, 8),
        terms=(),
        sampler=Sampler(step_size=1.0, noise=0.1),
        training=Training(),
        rows=1,
    ).eval()


def test_samples_along_one_walk_are_those_of_each_length() -> None:
    torch.manual_seed(0)
    model = linear_energy()
    found = energies.along(model, 7, [3, 8], seed=5, batch_size=4)
    for moves, x in found.items():
        change_sampler(model, None, [f"steps={moves}"])
        assert torch.equal(x, to_bytes(runs.sample(model, 7, seed=5, batch_size=4)))


def test_the_paradoxs_scores() -> None:
    """By bits: strange is what costs many, what is far from the usual cost on either side, and what costs more than the background, or than a PNG."""
    from pushforward.labs.ood_paradox import scored

    flow, background = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 3.0, 3.0])
    found = scored(flow, background, torch.tensor([4.0, 2.0, 1.0]), 2.0)
    assert found["likelihood"].tolist() == [1.0, 2.0, 4.0]
    assert found["typicality"].tolist() == [1.0, 0.0, 2.0]
    assert found["ratio"].tolist() == [0.5, -1.0, 1.0]
    assert found["less complexity"].tolist() == [-3.0, 0.0, 3.0]
