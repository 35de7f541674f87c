from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.build import build_model, build_optimisers, resolve
from pushforward.config import RunConfig, dump, load_recipe, override, parse, recipe_names
from pushforward.errors import ConfigError, NotSupported, PushforwardError

MINIMAL = {
    "model": {
        "family": "gan",
        "objective": "hinge",
        "generator": {"name": "mlp", "hidden": [8]},
        "discriminator": {"name": "mlp", "hidden": [8]},
    },
    "optimiser": {"discriminator": {}, "generator": {"name": "sgd"}},
}


def minimal(*settings_: str) -> RunConfig:
    return resolve(parse(override(MINIMAL, settings_), "test"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_builds_and_says_what_it_is(name: str) -> None:
    config = resolve(load_recipe(name))
    assert config.about and set(config.expect) == {"quality", "cost"}
    shape = (2,) if config.data.name == "ring-8" else (1, 28, 28)
    model = build_model(config, shape)
    assert set(build_optimisers(config, model)) == {p.name for p in model.phases()}


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_config_survives_toml(name: str) -> None:
    config = resolve(load_recipe(name, ["train.ema=false"]))
    again = resolve(parse(tomllib.loads(dump(config)), "again"))
    assert dump(again) == dump(config)
    assert again.train.ema is None


def test_defaults_come_from_signatures() -> None:
    config = minimal()
    assert config.model["prior"] == {"name": "normal", "dim": 100}
    assert config.model["generator"]["slope"] == 0.2
    assert config.optimiser["generator"] == {"name": "sgd", "lr": 1e-2, "momentum": 0.0}
    assert config.model["discriminator_steps"] == 1


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("train.stepz=3", r"'train\.stepz': did you mean 'steps'"),
        ("trian.steps=3", r"'trian': did you mean 'train'"),
        ("train.steps=many", r"train\.steps = 'many'.*valid integer"),
        ("train.steps=0", r"train\.steps = 0.*greater than or equal to 1"),
        ("train.ema=1.5", r"train\.ema = 1\.5"),
        ("model.generator.hiden=[8]", r"'model\.generator\.hiden': did you mean 'hidden'"),
        ("model.generator.hidden=8", r"model\.generator\.hidden = 8"),
        ("model.generator.norm=bach", r"model\.generator\.norm = 'bach'.*'none' or 'batch'"),
        ("model.generator.name=mpl", r"nothing is called 'mpl': did you mean 'mlp'"),
        ("model.objective=hinges", "did you mean 'hinge'"),
        ("model.objective.c=2", r"'model\.objective\.c'.*no options"),
        ("model.prior.dim=2.5", r"model\.prior\.dim = 2\.5"),
        ("model.discriminator_step=2", "did you mean 'discriminator_steps'"),
        ("model.discriminator_steps=0", "at least 1"),
        ("model.family=gans", "did you mean 'gan'"),
        ("model.generator.latent=5", r"'model\.generator\.latent'"),
        ("optimiser.generator.lr=fast", r"optimiser\.generator\.lr = 'fast'"),
        ("optimiser.generator.name=adm", "did you mean 'adam'"),
        ("optimiser.genrator.lr=1", r"'optimiser\.genrator': did you mean 'generator'"),
        ('model.terms=["r11"]', "did you mean 'r1'"),
        ('model.terms=[{name="r1", every=0}]', "at least 1"),
        ('model.terms=[{name="r1", player="generator"}]', "belongs to the discriminator"),
        ('model.terms=["r1", "r1"]', "listed twice"),
        ('model.terms=[{name="r1", wieght=2}]', "wieght"),
        ('model.terms=["os:getcwd"]', "say whose loss"),
        ("model.generator.name=nowhere:Net", "cannot be imported"),
        ("model.generator.name=os:Net", "has no 'Net'"),
        ("train.steps", "write it as key=value"),
        ("model.generator.hidden.0.x=5", "is a value, not a table"),
        ("model.weight_clip=0", "above 0"),
        ("model.weight_clip=nan", "above 0"),
        ("model.objective=math:pi", "no class or function"),
        ("train.steps=true", "valid integer"),
        ("data.name.deeper=3", r"data\.name = "),
    ],
)
def test_a_mistake_is_named_with_the_way_out(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        table = {**MINIMAL, "data": {"name": "mnist-5k"}}
        resolve(parse(override(table, [setting]), "test"))


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gan/lsgan'"):
        load_recipe("gan/lsgn")


@pytest.mark.parametrize("text", ["", "model = 3", "[model", "[model]\nfamily = 'gan'"])
def test_a_broken_recipe_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError):
        resolve(load_recipe(str(tmp_path / "mine.toml")))


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_setting_works_or_is_refused_in_words(key: str, value: str) -> None:
    try:
        resolve(parse(override(MINIMAL, [f"{key}={value}"]), "test"))
    except ConfigError as error:
        assert str(error)


def test_settings_build_what_they_say() -> None:
    config = minimal(
        "model.generator.hidden=[5, 6]",
        "model.prior={name='uniform', dim=3}",
        "model.terms=[{name='r1', weight=2}]",
        "optimiser.generator.lr=0.5",
    )
    model = build_model(config, (2,))
    assert [tuple(p.shape) for p in model.generator.parameters()][::2] == [(5, 3), (6, 5), (2, 6)]  # type: ignore[union-attr, operator]
    assert model.terms[0].weight == 2.0  # type: ignore[union-attr, index]
    assert build_optimisers(config, model)["generator"].param_groups[0]["lr"] == 0.5


def test_weights_are_drawn_from_the_seed() -> None:
    a, b, c = (build_model(minimal(f"train.seed={s}"), (2,)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


OWN = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, *, shape, width: int = 4):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0], width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.net(x).squeeze(1)

def small_logits(context, *, power: float = 2.0):
    return context.real_logits.abs() ** power
"""


SLOPES = """
def told(context):
    return context.real_slope.flatten(1).square().sum(1)
told.needs = {"real_slope"}
def silent(context):
    return context.real_slope.flatten(1).square().sum(1)
"""


def test_an_own_term_says_which_slope_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With that it is R1; without, the way out is told, and packs are refused as for R1."""
    from pushforward import runs

    (tmp_path / "my_slopes_for_tests.py").write_text(SLOPES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def trained(term: str, *more: str) -> dict[str, torch.Tensor]:
        settings = [
            "data.name=ring-8",
            "train.steps=3",
            f"model.terms=[{{name='{term}', player='discriminator'}}]",
            *more,
        ]
        out = runs.train(
            parse(override(MINIMAL, settings), "own"), tmp_path / f"run-{term.rpartition(chr(58))[2]}", quiet=True
        )
        return dict(runs.load_run(out).model.state_dict())

    own, shipped = trained("my_slopes_for_tests:told"), trained("r1")
    assert all(torch.equal(own[k], shipped[k]) for k in own)
    with pytest.raises(NotSupported, match=r'my_term.needs = {"real_slope"}'):
        trained("my_slopes_for_tests:silent")
    with pytest.raises(ConfigError, match="no slope of one sample"):
        trained("my_slopes_for_tests:told", "model.pack=2")


def test_own_term_and_network_need_no_change_to_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward import runs

    (tmp_path / "my_module_for_tests.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parse(
        override(
            MINIMAL,
            [
                "data.name=ring-8",
                "train.steps=3",
                "train.log_every=1",
                "model.discriminator={name='my_module_for_tests:Tiny', width=7}",
                "model.terms=[{name='my_module_for_tests:small_logits', player='discriminator', weight=0.1, power=4}]",
            ],
        ),
        "own",
    )
    out = runs.train(config, tmp_path / "run", quiet=True)
    run = runs.load_run(out)
    assert run.config.model["discriminator"] == {"name": "my_module_for_tests:Tiny", "width": 7}
    assert '"discriminator/my_module_for_tests:small_logits"' in (out / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("optimiser.generator.lr=-1", r"optimiser\.generator"),
        ("optimiser.generator.lr=nan", "finite"),
        ("optimiser.generator={name='adam', lr=true}", r"optimiser\.generator\.lr = True.*number"),
        ("optimiser.generator={name='adam', lr='0.1'}", r"optimiser\.generator\.lr.*number"),
        ("optimiser.generator={name='adam', betas=[2, 3]}", r"optimiser\.generator"),
        ("model.generator.hidden=[-1]", "at least 1"),
        ("model.generator.hidden=[0]", "at least 1"),
        ("model.discriminator.slope=nan", "finite"),
        ("model.prior.dim=0", "at least 1"),
    ],
)
def test_values_out_of_range_are_refused_when_built(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        config = minimal(setting)
        build_optimisers(config, build_model(config, (2,)))


def test_a_term_named_in_short_takes_settings() -> None:
    table = override({**MINIMAL, "model": {**MINIMAL["model"], "terms": ["r1"]}}, ["model.terms.0.weight=2"])
    assert resolve(parse(table, "test")).model["terms"][0]["weight"] == 2


@pytest.mark.parametrize(
    ("settings_", "match"),
    [
        (["train.device=cuda"], "there is none here"),
        (["train.tracker=nonsense"], "no such tracker"),
        (["data.name=mnist-5k", "data.size=64"], "for folders of images"),
        (["data.path=/nonexistent"], "needs none"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path: Path, settings_: list[str], match: str) -> None:
    from pushforward import runs

    if settings_ == ["train.device=cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = parse(override(MINIMAL, ["data.name=ring-8", "train.steps=1", *settings_]), "test")
    with pytest.raises(PushforwardError, match=match):
        runs.train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_fewer_steps_than_taken_are_refused_on_resume(tmp_path: Path) -> None:
    from pushforward import runs

    table = override(MINIMAL, ["data.name=ring-8", "train.steps=4"])
    runs.train(parse(table, "test"), tmp_path / "run", quiet=True)
    before = (tmp_path / "run/config.toml").read_text()
    with pytest.raises(ConfigError, match="4 steps already"):
        runs.train(parse(override(table, ["train.steps=2"]), "test"), tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run/config.toml").read_text() == before


PUBLISHED = [
    ("gan/wgan", "discriminator_steps=5 weight_clip=0.01", "rmsprop lr=5e-05"),
    ("gan/wgan-gp", "discriminator_steps=5 interpolate-penalty.weight=10", "adam lr=0.0004 betas=0.5,0.9"),
    ("gan/lsgan", "objective.factor=0.5", "adam lr=0.0004"),
    ("gan/cn-lsgan", "objective.factor=1 interpolate-penalty.weight=0.01 data-anchor.weight=0.001", "adam"),
    ("gan/bcr", "consistency-real.weight=10 consistency-fake.weight=10", "adam"),
    ("gan/zcr", "latent-consistency.weight=5 latent-diversity.weight=0.5 latent-diversity.sd=0.03", "adam"),
    ("gan/icr", "consistency-real.weight=10 consistency-fake.weight=10 latent-consistency.weight=5 latent-diversity.weight=0.5 latent-consistency.sd=0.03", "adam"),
    ("gan/gm-gan", "prior.components=8 prior.layout=circle prior.spread=2 prior.sd=1 prior.dim=100", "adam"),
    ("gan/gm-gan-uniform", "prior.components=10 prior.layout=uniform prior.spread=0.1 prior.sd=0.15", "adam"),
    ("gan/gm-gan-dynamic", "prior.learned=True", "adam"),
]  # fmt: skip
"""Constants of the papers and of the reference runs: recipe, what the model has, what the discriminator's optimiser has."""


@pytest.mark.parametrize(("recipe", "model", "optimiser"), PUBLISHED, ids=[r for r, *_ in PUBLISHED])
def test_recipes_have_their_papers_constants(recipe: str, model: str, optimiser: str) -> None:
    config = resolve(load_recipe(recipe, data="mnist-5k"))
    terms = {t["name"]: t for t in config.model["terms"]}
    for pair in model.split():
        path, _, text = pair.partition("=")
        *parents, key = path.split(".")
        table = config.model if not parents else terms.get(parents[0]) or config.model[parents[0]]
        assert table[key] == (text if key == "layout" else ast.literal_eval(text)), pair
    name, *options = optimiser.split()
    assert config.optimiser["discriminator"]["name"] == name
    for pair in options:
        key, _, text = pair.partition("=")
        value = config.optimiser["discriminator"][key]
        assert (list(value) if key == "betas" else value) == (
            [float(v) for v in text.split(",")] if key == "betas" else float(text)
        )
