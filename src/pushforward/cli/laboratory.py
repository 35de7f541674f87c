"""Commands about the labs: list, run, open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pushforward.cli.options import Quiet, complete_lab, lab_app

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of its figures; labs/NAME when absent, labs with --all.")
]


@lab_app.callback()
def lab(context: typer.Context) -> None:
    """Repeat the field's textbook experiments: each states claims, measures them and says whether the evidence supports them."""
    if context.invoked_subcommand is None:
        list_labs()


@lab_app.command("list")
def list_labs() -> None:
    """The labs, one a line; on a terminal with their questions, by theme."""
    from pushforward import labs

    theme = ""
    for name, entry in labs.LABS.items():
        if not sys.stdout.isatty():
            print(name)
            continue
        if entry.theme != theme:
            theme = entry.theme
            print(f"\n{theme}")
        print(f"  {name:<22} {entry.question}")


@lab_app.command(
    "run",
    epilog="""Examples:\n\n
`pushforward lab run dirac-gan`\n\n
`pushforward lab run fid-under-corruption --set data=mnist --set n=10000`\n\n
`pushforward lab run --all --quick`""",
)
def run_lab(
    name: Annotated[str | None, typer.Argument(help="A lab.", autocompletion=complete_lab)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, one after another.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With settings that take seconds, for a first look.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of the lab; may be repeated."),
    ] = None,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Run a lab, or all: figures, findings as claims.json and lab.md, and with --all one page."""
    from pushforward import labs
    from pushforward.errors import ConfigError

    if everything == (name is not None):
        raise ConfigError("name one lab, or give --all (`pushforward lab list` shows them).")
    if everything and settings:
        raise ConfigError("--set is for one lab; leave it out, or name the lab.")
    for each in labs.LABS if name is None else [name]:
        given = labs.parse_settings(each, settings or [])
        chosen = (dict(labs.LABS[each].quick) if quick else {}) | given
        folder = (out or Path("labs")) / each if name is None else out or Path("labs") / each
        if name is None:
            print(f"{each}: {labs.LABS[each].question}", flush=True)
        found = labs.run_lab(each, folder, quiet=quiet or name is None, quick=quick, **chosen)
        for f in found:
            print(f"{f.verdict.upper()}: {f.claim} {f.evidence}", flush=True)
        if name is not None:
            print(folder)
    if quick and not quiet:
        print(labs.QUICK, file=sys.stderr)
    if name is None:
        print(labs.write_page(out or Path("labs")))


@lab_app.command("open", epilog="Example:\n\n`pushforward lab open`")
def open_labs(
    folder: Annotated[Path, typer.Argument(help="Where labs were run.")] = Path("labs"),
    show: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
) -> None:
    """Make one page of the labs that were run, and open it."""
    import webbrowser

    from pushforward import labs

    page = labs.write_page(folder)
    print(page)
    if show:
        webbrowser.open(page.resolve().as_uri())
