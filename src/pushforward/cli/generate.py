"""Commands that make something: train, sample, restore, export."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pushforward.cli.options import Data, Quiet, Seed, Settings, app, complete_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.runs import Run


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
            autocompletion=complete_recipe, help="A recipe's name (`pushforward recipes`) or the path of a TOML file."
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
`pushforward sample runs/r3gan --set temperature=1.1`\n\n
`pushforward sample runs/edm --sampler unipc --set steps=8 --set guidance=2 --precision bf16`\n\n
`pushforward sample runs/flow -n 8 --interpolate 12 --out ways.png`\n\n
`pushforward sample runs/pcd -n 8 --frames 10 --set steps=1024 --set start=data --out chains.png`"""
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
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples at a time, 500 when absent; changes memory, not the images.")
    ] = None,
    label: Annotated[int | None, typer.Option(min=0, help="A class, of a run that was trained with labels.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Of a GAN, with the discriminator's help: drs, mh, top, ddls or truncated; says what it cost. Of a diffusion model, its solver: ddpm, ddim, euler, heun, dpmpp-2m, dpmpp-sde, unipc or renoise. Of an energy model, its chain: langevin, mala or hmc."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="bf16: faster where the processor is (U-Nets and energies), the images nearly the same.")
    ] = "no",
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First calibrate the logit on test images, for --sampler drs, mh or top."),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(min=2, max=32, help="Show this many moments of the sampler's way, a row a sample (at most 16)."),
    ] = None,
    interpolate: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=32,
            help="This many images from one to another, a row a pair (at most 16): between test images of a flow or a diffusion model (by DDIM), between latents of a GAN.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="A setting of the sampler; of a plain GAN or flow: temperature."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw samples of a run's averaged weights into a grid, an array or a folder."""
    from pushforward import runs
    from pushforward.errors import ConfigError

    if precision not in ("no", "bf16"):
        raise ConfigError(f"--precision {precision}: it is no or bf16.")
    loaded = runs.load_run(run)
    by_discriminator = loaded.config.model["family"] == "gan" and sampler is not None
    if not by_discriminator and (sampler is not None or settings or calibrate):
        from pushforward.build import change_sampler

        if calibrate:
            raise ConfigError(
                "--calibrate is for drs, mh and top, samplers of GANs: name one by --sampler, or leave it out."
            )
        change_sampler(loaded.model, sampler, settings or [])
        sampler, settings = None, None
    runs.give_data(loaded)
    if not quiet:
        for note in loaded.model.notes():
            print(f"note: {note}", file=sys.stderr)
    if precision == "bf16" and getattr(getattr(loaded.model, "sampler", None), "method", "langevin") != "langevin":
        raise ConfigError("--precision bf16: mala and hmc compare energies, which must be exact. Leave it out.")
    drawn_way = frames is not None or interpolate is not None
    if precision != "no" and (drawn_way or sampler is not None):
        raise ConfigError(
            "--precision is for plain sampling: leave out --frames, --interpolate, and --sampler of a GAN."
        )
    if sampler is not None and batch_size is not None:
        raise ConfigError("--batch-size is for plain sampling: leave it out with --sampler of a GAN.")
    if drawn_way:
        if frames is not None and interpolate is not None:
            raise ConfigError("--frames and --interpolate draw different pictures: give one of them.")
        if sampler is not None or out.suffix != ".png":
            raise ConfigError(
                "--frames and --interpolate draw a picture of the model's own ways: give --out name.png, and no sampler of a GAN."
            )
        from pushforward.pictures import save_frames, save_paths

        if frames is not None:
            save_frames(loaded.model, min(n, 16), frames, out, seed=seed, label=label)
        elif interpolate is not None:
            ends = partial(_test_images, loaded, label)
            save_paths(loaded.model, min(n, 16), interpolate, out, images=ends, seed=seed, label=label)
        print(out)
        return
    if sampler is None:
        x = runs.sample(
            loaded.model, n, seed=seed, batch_size=batch_size or 500, label=label, precision=precision, quiet=quiet
        )
        accepted = getattr(loaded.model, "acceptance", 1.0)
        if accepted < 1:
            still = "; all but standing still, they are where they began: lower step_size" if accepted < 0.01 else ""
            print(f"{accepted:.1%} of the last chains' moves were accepted{still}", file=sys.stderr)
    else:
        from pushforward.build.gan import draw_with

        real = runs.load_data(loaded.config, "test") if calibrate else None
        averaged = loaded.config.train.ema is not None
        drawn = draw_with(
            sampler, loaded.model, n, settings or [], real=real, averaged=averaged, label=label, seed=seed
        )
        x = drawn.x
        if sampler in ("drs", "mh", "top"):
            cost = f"kept {drawn.acceptance:.1%} of the proposals, {drawn.cost:.1f} for each sample"
        else:
            cost = f"{drawn.cost:.1f} evaluations of the generator for each sample"
            cost += "; the logit is taken as it is, uncalibrated" if sampler == "ddls" else ""
        print(f"{sampler}: {cost}", file=sys.stderr)
    write_samples(x, out)
    print(out)


def _test_images(run: Run, label: int | None, n: int) -> Tensor:
    """Up to n test images of a run's data, of one class where a label is given."""
    from pushforward import runs
    from pushforward.data.images import ImageSet, to_model
    from pushforward.errors import NotSupported

    data = runs.load_data(run.config, "test")
    if not isinstance(data, ImageSet):
        raise NotSupported("this is for images, and the run was trained on points.")
    found = data.images
    if label is not None:
        if data.labels is None:
            raise NotSupported("--label: the run's data have no labels.")
        found = found[data.labels == label]
    return to_model(found[runs.spread(len(found), n)])


@app.command(
    epilog="""Examples:\n\n
`pushforward restore runs/edm --operator inpaint-box --method dps --steps 250`\n\n
`pushforward restore runs/edm my_digits/ --operator gaussian-blur --method mmps --noise 0.1 --set sd=2 --set iterations=5`\n\n
`pushforward restore runs/edm --operator gaussian-blur --method diffpir --photons 20`\n\n
`pushforward restore runs/edm digit.png --operator super-resolution --method diffpir --draws 8 --out restored/`"""
)
def restore(
    run: Annotated[Path, typer.Argument(help="A diffusion model's run.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, folders, .npz or .npy files; some test images of the run's data when absent."
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
    noise: Annotated[
        float | None, typer.Option(min=0, help="Standard deviation of the measurement's noise; 0.05 when absent.")
    ] = None,
    photons: Annotated[
        float | None, typer.Option(help="Poisson noise in its place: photons counted where it is brightest.")
    ] = None,
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
    from pushforward.errors import ConfigError

    if noise is not None and photons is not None:
        raise ConfigError("--noise is Gaussian noise and --photons Poisson noise; give one of them.")
    loaded = runs.load_run(run)
    if images:
        truth = restoration.read_images(images, getattr(loaded.model, "shape", ()))[:n]
    else:
        truth = _test_images(loaded, None, n)
    found, a = restoration.restore(
        loaded.model, truth, operator=operator, method=method, steps=steps, noise=0.05 if noise is None else noise, photons=photons,
        draws=draws, settings=settings or [], seed=seed, quiet=quiet,
    )  # fmt: skip
    restoration.write(found, a, out, operator=operator, method=method, seed=seed)
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
    from pushforward.pictures import save_picture
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
