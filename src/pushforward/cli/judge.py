"""Commands that judge and show: evaluate, compare, score, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pushforward.cli.options import Data, DataPath, Quiet, Seed, Settings, app, complete_recipe

if TYPE_CHECKING:
    pass


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
            help="Comma-separated: frechet, frechet-infinity, kid, precision-recall, density-coverage, classes, inception-score, sliced-wasserstein, memorisation, likelihood.",
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
    from pushforward.errors import ConfigError, DataError, NotSupported
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
    if not any(r["values"] for r in found["results"]):
        raise NotSupported(f"--metrics {metrics}: none of these has any of it; a GAN has no likelihood, for one.")
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
            help="Recipes, TOML files, or runs that are judged as they are.", autocompletion=complete_recipe
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
    title = f"{protocol['data']}: {protocol['n']} against the {protocol['against']} data, extractor {protocol['extractor']} ({protocol['extractor_sha256'][:12]})"
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


@app.command(
    epilog="""Examples:\n\n
`pushforward score runs/pcd --suite mnist`\n\n
`pushforward score runs/pcd runs/vanilla my_images/ --out scored/`\n\n
`pushforward score runs/flow --background runs/background --suite shifts`"""
)
def score(
    targets: Annotated[
        list[Path], typer.Argument(help="Runs to score by; folders or arrays of images are outlier sets of your own.")
    ],
    suite: Annotated[
        str,
        typer.Option(
            help="mnist: noise, moves, constants, damage, other data sets; shifts: without the last; none: only your own."
        ),
    ] = "mnist",
    n: Annotated[
        int, typer.Option("-n", min=10, help="Inliers, and images of each set; at most half the test images.")
    ] = 5000,
    background: Annotated[
        Path | None, typer.Option(help="A run whose score is subtracted: the likelihood ratio.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for scores.json, scores.md and scores.png of each run.")
    ] = Path("scores"),
    quiet: Quiet = False,
) -> None:
    """Can a run tell its data from what is none? AUROC, AUPR and FPR95 by its energy, density or discriminator."""
    from pushforward import anomaly, runs
    from pushforward.errors import ConfigError

    found = [t for t in targets if runs.is_run(t)]
    files = [t for t in targets if not runs.is_run(t)]
    if not found:
        raise ConfigError("name at least one run to score by.")
    names = [t.resolve().name for t in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two runs are named {name}, and their scores would go to one folder; score them one by one, each with its --out."
            )
    behind = None if background is None else runs.load_run(background)
    for target in found:
        report = anomaly.score(
            runs.load_run(target), suite=suite, files=files, n=n, background=behind, seed=seed, quiet=quiet
        )
        folder = out if len(found) == 1 else out / target.resolve().name
        print(anomaly.write(report, folder, target.resolve().name))
        print(folder)


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
