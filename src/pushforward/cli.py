"""The command line: parse, call, print. Nothing heavy is imported before a command needs it, so `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pushforward import __version__

if TYPE_CHECKING:
    from pushforward.data.images import ImageSet

app = typer.Typer(
    name="pushforward",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Deep generative models: train them, sample from them, judge them by one protocol.",
    epilog="Start with: `pushforward train gan/lsgan --out runs/first`, then `pushforward evaluate runs/first`, then `pushforward report runs/first`.",
)
recipes_app = typer.Typer(help="List, show and copy recipes.", invoke_without_command=True)
data_app = typer.Typer(help="List, fetch and show data sets.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of the recipe; may be repeated."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", help="A data set's name (`pushforward data`), or the path of a folder, .npz, .npy or IDX file."
    ),
]
DataPath = Annotated[Path | None, typer.Option("--data-path", help="Folder in which the named data set lies.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the samples.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def _complete_recipe(incomplete: str) -> list[str]:
    from pushforward.config import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def _version(value: bool) -> None:
    if value:
        print(f"pushforward {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="""Examples:\n\n
`pushforward train gan/lsgan --out runs/lsgan`\n\n
`pushforward train gan/dcgan --data mnist --set train.steps=20000 --set optimiser.generator.lr=1e-4 --out runs/dcgan`\n\n
`pushforward train my_recipe.toml --data my_images/ --set data.size=32 --out runs/mine --resume`"""
)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            autocompletion=_complete_recipe, help="A recipe's name (`pushforward recipes`) or the path of a TOML file."
        ),
    ],
    settings: Settings = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/RECIPE when absent.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint; start where there is none.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Short for --set train.seed=...")] = None,
    tracker: Annotated[
        str | None, typer.Option(help="Short for --set train.tracker=...: tensorboard, wandb, ...")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe into a run folder: checkpoints, log, sample grids. A killed run goes on with --resume."""
    from pushforward.config import load_recipe

    extra = [f"train.seed={seed}"] if seed is not None else []
    extra += [f'train.tracker="{tracker}"'] if tracker is not None else []
    config = load_recipe(recipe, [*(settings or []), *extra], data=data)
    folder = out or Path("runs") / Path(recipe).with_suffix("").name
    from pushforward import runs

    try:
        runs.train(config, folder, resume=resume, quiet=quiet)
    except KeyboardInterrupt:
        print(f"\nstopped; {folder} is whole. Go on with the same command and --resume.", file=sys.stderr)
        raise typer.Exit(130) from None
    print(folder)


@app.command(
    epilog="""Examples:\n\n
`pushforward sample runs/lsgan -n 64 --out grid.png`\n\n
`pushforward sample runs/lsgan -n 10000 --out samples.npz --seed 1`\n\n
`pushforward sample runs/lsgan -n 1000 --out folder/`\n\n
`pushforward sample runs/dcgan --sampler drs --calibrate --set percentile=80`\n\n
`pushforward sample runs/edm --sampler unipc --set steps=8 --set guidance=2`"""
)
def sample(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 64,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="name.png for one grid, name.npz for an array, anything else for a folder of PNG files."
        ),
    ] = Path("samples.png"),
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time; changes memory, not the images.")] = 500,
    label: Annotated[int | None, typer.Option(min=0, help="A class, of a run that was trained with labels.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Of a GAN, with the discriminator's help: drs, mh, top, ddls or truncated; says what it cost. Of a diffusion model, its solver: ddpm, ddim, euler, heun, dpmpp-2m, dpmpp-sde, unipc or renoise."
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First calibrate the logit on test images, for --sampler drs, mh or top."),
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the sampler.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw samples of a run's averaged weights into a grid, an array or a folder."""
    from pushforward import runs
    from pushforward.errors import ConfigError

    loaded = runs.load_run(run)
    if loaded.config.model["family"] == "diffusion" and (sampler is not None or settings):
        from pushforward.build.diffusion import change_sampler

        if calibrate:
            raise ConfigError("--calibrate is for the samplers of GANs. Leave it out.")
        change_sampler(loaded.model, sampler, settings or [])
        sampler, settings = None, None
    if sampler is None:
        if calibrate or settings:
            raise ConfigError("--calibrate and --set belong to --sampler; name one: drs, mh, top, ddls, truncated.")
        x = runs.sample(loaded.model, n, seed=seed, batch_size=batch_size, label=label, quiet=quiet)
    else:
        if label is not None:
            raise ConfigError("--label with --sampler: the samplers are for unconditional models. Leave one out.")
        from pushforward.build.gan import draw_with

        real = runs.load_data(loaded.config, "test") if calibrate else None
        averaged = loaded.config.train.ema is not None
        drawn = draw_with(sampler, loaded.model, n, settings or [], real=real, averaged=averaged, seed=seed)
        x = drawn.x
        if sampler in ("drs", "mh", "top"):
            cost = f"kept {drawn.acceptance:.1%} of the proposals, {drawn.cost:.1f} for each sample"
        else:
            cost = f"{drawn.cost:.1f} evaluations of the generator for each sample"
        print(f"{sampler}: {cost}", file=sys.stderr)
    write_samples(x, out)
    print(out)


@app.command(
    epilog="""Examples:\n\n
`pushforward restore runs/edm --operator inpaint-box --method dps --steps 250`\n\n
`pushforward restore runs/edm my_digits/ --operator gaussian-blur --method mmps --noise 0.1 --set sd=2 --set iterations=5`\n\n
`pushforward restore runs/edm digit.png --operator super-resolution --method diffpir --draws 8 --out restored/`"""
)
def restore(
    run: Annotated[Path, typer.Argument(help="A diffusion model's run.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, folders, .npz or .npy files; the first test images of the run's data when absent."
        ),
    ] = None,
    operator: Annotated[
        str,
        typer.Option(
            help="inpaint-box, inpaint-random, super-resolution, gaussian-blur, motion-blur or phase-retrieval."
        ),
    ] = "inpaint-box",
    method: Annotated[str, typer.Option(help="dps, pigdm, mmps, diffpir, ddrm or repaint.")] = "mmps",
    steps: Annotated[
        int | None, typer.Option(min=2, help="Levels of the solver's grid; the method's own number when absent.")
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Standard deviation of the measurement's noise.")] = 0.05,
    draws: Annotated[int, typer.Option(min=1, max=64, help="Reconstructions of each image.")] = 4,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Images, at most.")] = 8,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for restored.png, restored.json and restored.npz.")
    ] = Path("restored"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="An option of the operator or of the method."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure images, draw what may lie behind by posterior sampling, and say how near it comes to the truth."""
    from pushforward import restoration, runs
    from pushforward.data.images import ImageSet, to_model
    from pushforward.errors import NotSupported

    loaded = runs.load_run(run)
    if images:
        truth = restoration.read_images(images, getattr(loaded.model, "shape", ()))[:n]
    else:
        data = runs.load_data(loaded.config, "test")
        if not isinstance(data, ImageSet):
            raise NotSupported("restoring is for images; this run was trained on points.")
        truth = to_model(data.images[:n])
    found, a = restoration.restore(
        loaded.model, truth, operator=operator, method=method, steps=steps, noise=noise, draws=draws,
        settings=settings or [], seed=seed, quiet=quiet,
    )  # fmt: skip
    restoration.write(found, a, out, operator=operator, method=method, noise=noise, seed=seed)
    for name, values in found.figures(a).items():
        error = f" ± {float(values.std()) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
        print(f"{name}: {float(values.mean()):.4g}{error}")
    print(
        f"{found.evaluations} evaluations a draw, {found.seconds / found.draws.shape[0]:.3g} s for {len(truth)} images"
    )
    print(out / "restored.png")


@app.command(epilog="Example:\n\n`pushforward export runs/mine --out my_pipeline/`")
def export(
    run: Annotated[Path, typer.Argument(help="A diffusion run whose network is diffusers-unet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The pipeline's folder.")] = Path("pipeline"),
) -> None:
    """Write a run as a pipeline that diffusers loads, or say why it is none."""
    from pushforward import runs
    from pushforward.errors import ConfigError, NotSupported
    from pushforward.families.diffusion.bridge import export_diffusers
    from pushforward.families.diffusion.model import Diffusion

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another --out.")
    model = runs.load_run(run).model
    if not isinstance(model, Diffusion):
        raise NotSupported("diffusers has pipelines for diffusion models; this run is another kind.")
    export_diffusers(model, out)
    print(out)


def write_samples(x: Any, out: Path) -> None:
    """Samples as a picture, an array or a folder, by the ending of `out`."""
    import io

    import numpy as np

    from pushforward.data.images import to_bytes, write_folder
    from pushforward.errors import NotSupported
    from pushforward.runs import save_picture
    from pushforward.training.checkpoint import write_atomic

    if out.suffix == ".png":
        save_picture(x, out)
    elif out.suffix == ".npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, images=to_bytes(x).numpy() if x.ndim == 4 else x.numpy())
        write_atomic(out, stream.getvalue())
    elif out.suffix:
        raise NotSupported(f"--out {out}: samples go to a .png grid, an .npz array, or a folder (no ending).")
    elif x.ndim != 4:
        raise NotSupported("points have no image files; use --out name.npz or name.png.")
    else:
        write_folder(to_bytes(x), out)


@app.command(
    epilog="""Examples:\n\n
`pushforward evaluate runs/lsgan`\n\n
`pushforward evaluate runs/lsgan runs/dcgan other_peoples_images/ theirs.npz --data mnist -n 10000`\n\n
`pushforward evaluate runs/lsgan --metrics frechet,kid,memorisation --out judged/`"""
)
def evaluate(
    targets: Annotated[list[str], typer.Argument(help="Runs, folders of images, .npz or .npy files.")],
    data: Data = None,
    data_path: DataPath = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=10, help="Samples on each side; the test set's size, at most 10,000, when absent."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            "-m",
            help="Comma-separated: frechet, frechet-infinity, kid, precision-recall, density-coverage, classes, inception-score, sliced-wasserstein, memorisation.",
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor",
            help="digits, pixels, random-vgg, inception, inception-clean, dinov2, clip or points; the one that fits when absent.",
        ),
    ] = None,
    against: Annotated[str, typer.Option("--against", help="The split to compare with: test or train.")] = "test",
    ranks: Annotated[
        int,
        typer.Option(
            "--ranks", min=1, max=256, help="Processes that share sampling and extraction; each image counts once."
        ),
    ] = 1,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for result.json, result.md, result.svg and pictures of samples with their nearest training images.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Judge runs, folders and arrays: each figure with its standard error, beside the floor and the ladder of noise."""
    import json

    from pushforward import config as configs
    from pushforward import evaluation
    from pushforward.errors import ConfigError, DataError
    from pushforward.runs import is_run
    from pushforward.training.checkpoint import write_atomic

    if against not in ("test", "train"):
        raise ConfigError(f"--against {against}: it is test or train.")
    first = next((Path(t) for t in targets if is_run(Path(t))), None)
    section = configs.DataConfig(name=data or "")
    if data is None:
        if first is None:
            raise DataError("say what these images imitate: --data mnist, --data mnist-5k, --data folder/ ...")
        section = configs.parse(configs.read(first / "config.toml"), str(first)).data
    if data_path is not None:
        section = section.model_copy(update={"path": str(data_path)})
    found = evaluation.evaluate(
        targets,
        data=section,
        n=n,
        metrics=metrics.split(",") if metrics is not None else None,
        by=extractor,
        against=against,
        seed=seed,
        ranks=ranks,
        pictures=out,
        quiet=quiet,
    )
    print_table(found)
    if out is not None:
        from pushforward.report.figures import measurements

        write_atomic(out / "result.json", json.dumps(found, indent=1))
        write_atomic(out / "result.md", evaluation.markdown(found))
        write_atomic(out / "result.svg", measurements(found))
        print(out)


@app.command(
    epilog="""Examples:\n\n
`pushforward compare gan/vanilla gan/lsgan gan/dcgan --seeds 3 --budget 1min`\n\n
`pushforward compare gan/dcgan mine.toml runs/old --data mnist --budget 20000steps --out compared --resume`\n\n
`pushforward compare gan/vanilla gan/lsgan --engine ray --address auto`"""
)
def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            help="Recipes, TOML files, or runs that are judged as they are.", autocompletion=_complete_recipe
        ),
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="What all train on and are judged by.")] = "mnist-5k",
    data_path: DataPath = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each recipe, with the seeds 0, 1, ...")] = 3,
    budget: Annotated[
        str, typer.Option(help="Training of each run: 3min, 20000steps or 1e15flops; turned into steps once.")
    ] = "3min",
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", "-m", help="Comma-separated, as for evaluate; those that apply when absent."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=10, help="Samples judged of each run.")] = None,
    extractor: Annotated[str | None, typer.Option("--extractor", help="As for evaluate.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The comparison's folder.")] = Path("comparison"),
    settings: Settings = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; as many as there are cores when absent.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each run; the cores shared when absent.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of each run, through accelerate: as many as it shall have GPUs.")
    ] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray: each run is a task of a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; one is started here when absent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the comparison in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train many recipes with many seeds under one budget, judge them by one protocol, and make one page."""
    from rich.console import Console
    from rich.markdown import Markdown

    from pushforward import compare as comparisons

    try:
        found = comparisons.compare(
            recipes,
            out,
            data=data,
            data_path=None if data_path is None else str(data_path),
            seeds=seeds,
            budget=budget,
            metrics=metrics.split(",") if metrics is not None else None,
            n=n,
            extractor=extractor,
            settings=settings or [],
            jobs=jobs,
            threads=threads,
            processes=processes,
            engine=engine,
            address=address,
            resume=resume,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        print(f"\nstopped; {out} is whole. Go on with the same command and --resume.", file=sys.stderr)
        raise typer.Exit(130) from None
    text = (out / "table.md").read_text(encoding="utf8")
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)
    print(out / "index.html")
    failed = sum(len(row.failed) for row in found.rows)
    if failed:
        print(
            f"{failed} of {failed + sum(len(row.seeds) for row in found.rows)} runs failed; the table says why. --resume tries them again.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def print_table(found: dict[str, Any]) -> None:
    """Results beside the floor, as a rich table on stdout."""
    from rich.console import Console
    from rich.table import Table

    from pushforward.report.tables import SHOWN, cell

    protocol = found["protocol"]
    title = f"{protocol['data']}: {protocol['n']} against the {protocol['against']} images, extractor {protocol['extractor']} ({protocol['extractor_sha256'][:12]})"
    shown = [k for k in SHOWN if any(k in r["values"] for r in found["results"])]
    table = Table("", *(SHOWN[k] for k in shown), title=title)
    for result in found["results"]:
        table.add_row(result["name"], *(cell(result["values"], k) for k in shown))
    table.add_section()
    for rung, values in found["floor"].items():
        table.add_row(f"[dim]{rung}[/dim]", *(f"[dim]{cell(values, k)}[/dim]" for k in shown))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for note in protocol["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for result in found["results"]:
        for warning in result["warnings"]:
            print(f"{result['name']}: {warning}", file=sys.stderr)


@app.command(epilog="Example:\n\n`pushforward report runs/vanilla runs/lsgan runs/dcgan --out report.html`")
def report(
    run: Annotated[list[Path], typer.Argument(help="Runs, evaluated or not.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; RUN/report.html for a single run when absent.")
    ] = None,
) -> None:
    """Make one self-contained HTML page of runs: samples, figures with error bars, costs, curves."""
    from pushforward.report.page import write_report

    target = out or (run[0] / "report.html" if len(run) == 1 else Path("report.html"))
    write_report(run, target)
    print(target)


@app.command(
    epilog="""Examples:\n\n
`pushforward lab` lists them\n\n
`pushforward lab corruption --out labs/corruption --set data=mnist --set n=10000`"""
)
def lab(
    name: Annotated[str | None, typer.Argument(help="A lab; all of them are listed when absent.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of the lab; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of its figures; labs/NAME when absent.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Repeat a textbook experiment: it states claims, measures them and says whether the evidence supports them."""
    from pushforward import labs

    if name is None:
        for known, (_, question) in labs.LABS.items():
            print(f"{known:<16} {question}" if sys.stdout.isatty() else known)
        return
    folder = out or Path("labs") / name
    for found in labs.run_lab(name, folder, quiet=quiet, **labs.parse_settings(name, settings or [])):
        print(f"{found.verdict.upper()}: {found.claim} {found.evidence}")
    print(folder)


# --- recipes --------------------------------------------------------------------------------------------------


@recipes_app.callback()
def recipes(context: typer.Context) -> None:
    """The recipes that ship, one a line."""
    if context.invoked_subcommand is None:
        list_recipes()


@recipes_app.command("list")
def list_recipes() -> None:
    """The recipes that ship, one a line; on a terminal with what they are."""
    from pushforward.config import recipe_names, recipe_text

    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        if not sys.stdout.isatty():
            print(name)
            continue
        import tomllib

        print(f"{name:<{width}}  {tomllib.loads(recipe_text(name)).get('about', '')}")


@recipes_app.command("show", epilog="Example:\n\n`pushforward recipes show gan/lsgan --all`")
def show_recipe(
    name: Annotated[str, typer.Argument(autocompletion=_complete_recipe, help="A recipe.")],
    everything: Annotated[bool, typer.Option("--all", help="With every default filled in.")] = False,
) -> None:
    """Print a recipe's TOML."""
    from pushforward.config import dump, load_recipe, recipe_text

    if not everything:
        print(recipe_text(name), end="")
        return
    from pushforward.build import resolve

    print(dump(resolve(load_recipe(name))), end="")


@recipes_app.command("copy", epilog="Example:\n\n`pushforward recipes copy gan/lsgan mine.toml`")
def copy_recipe(
    name: Annotated[str, typer.Argument(autocompletion=_complete_recipe, help="A recipe.")],
    target: Annotated[Path, typer.Argument(help="The new file, ending in .toml.")],
) -> None:
    """Copy a recipe to a file of your own, to change it and train it by its path."""
    from pushforward.config import recipe_text
    from pushforward.errors import ConfigError

    text = recipe_text(name)
    if target.suffix != ".toml":
        raise ConfigError(f"{target}: a recipe's file ends in .toml.")
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf8")
    print(target)


# --- data -----------------------------------------------------------------------------------------------------


@data_app.callback()
def data(context: typer.Context) -> None:
    """The data sets by name."""
    if context.invoked_subcommand is None:
        list_data()


@data_app.command("list")
def list_data() -> None:
    """Names of all data sets, and for images where each would be found now."""
    from pushforward.data.fetch import NAMES, whereabouts

    for name in NAMES:
        print(f"{name:<16} {whereabouts(name)}" if sys.stdout.isatty() else name)


@data_app.command("fetch", epilog="Example:\n\n`pushforward data fetch fashion-mnist`")
def fetch_data(name: Annotated[str, typer.Argument(help="A data set.")]) -> None:
    """Download a data set into the cache, unless it is on this machine already, and check it."""
    from pushforward.data.fetch import load

    for split in ("train", "test"):
        print(f"{split}: {_describe(load(name, split))}")


@data_app.command("show", epilog="Example:\n\n`pushforward data show mnist-5k --out digits.png`")
def show_data(
    name: Annotated[str, typer.Argument(help="A data set or a path.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture.")] = Path("data.png"),
    n: Annotated[int, typer.Option("-n", min=1, max=10_000, help="How many images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Draw a random sample of a data set and say what is in it."""
    import torch

    from pushforward.data.fetch import load
    from pushforward.data.images import ImageSet, save_grid
    from pushforward.runs import save_picture

    found = load(name)
    print(_describe(found))
    chosen = torch.Generator().manual_seed(seed)
    if isinstance(found, ImageSet):
        save_grid(found.images[torch.randperm(len(found), generator=chosen)[:n]], out)
    else:
        save_picture(found.sample(max(n, 2000), generator=chosen), out)
    print(out)


def _describe(found: ImageSet | Any) -> str:
    from pushforward.data.images import ImageSet

    if not isinstance(found, ImageSet):
        return f"{type(found).__name__}: a density in {found.dim} dimension{'s' if found.dim > 1 else ''}, fresh draws without end"
    text = f"{found.name}: {len(found)} images of {' x '.join(map(str, found.shape))}, sha256 {found.sha256[:12]}"
    if found.labels is not None:
        counts = found.labels.bincount().tolist()
        text += f", {len(found.classes)} classes ({min(counts)} to {max(counts)} images each)"
    return text
