"""The program that all commands join, and the options that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pushforward import __version__

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
lab_app = typer.Typer(help="Repeat textbook experiments, each a claim that is checked.", invoke_without_command=True)
data_app = typer.Typer(help="List, fetch and show data sets.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")
app.add_typer(lab_app, name="lab")

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


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes that begin so, for the shell."""
    from pushforward.config import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_lab(incomplete: str) -> list[str]:
    """Labs that begin so, for the shell."""
    from pushforward.labs import LABS

    return [name for name in LABS if name.startswith(incomplete)]


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
