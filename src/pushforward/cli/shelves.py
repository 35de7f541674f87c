"""Commands about what there is: recipes and data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pushforward.cli.options import Seed, complete_recipe, data_app, recipes_app

if TYPE_CHECKING:
    from pushforward.data.images import ImageSet


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
    name: Annotated[str, typer.Argument(autocompletion=complete_recipe, help="A recipe.")],
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
    name: Annotated[str, typer.Argument(autocompletion=complete_recipe, help="A recipe.")],
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
    from pushforward.pictures import save_picture

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
