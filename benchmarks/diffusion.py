"""Diffusion against diffusers and denoising-diffusion-pytorch: images/s of a training step, image-evaluations/s of DDIM, networks of equal FLOPs.

    python -m pip install --no-deps --target PEERS denoising-diffusion-pytorch einops ema-pytorch
    PYTHONPATH=PEERS python benchmarks/diffusion.py [--rounds 3] [--seconds 15] [--json docs/results/diffusion-speed.json]

diffusers: the training loop of its tutorial for unconditional models (UNet2DModel of 1.6 M parameters at 32 x 32, AdamW, clipped gradients, `.item()` a
step; its data come from memory, not through PIL) and its DDIMScheduler. denoising-diffusion-pytorch: its Unet, its GaussianDiffusion, and the step of its
Trainer (Adam, clipped gradients, `.item()`, its EMA); what it imports of torchvision and pytorch-fid for files and judging is not touched here and is replaced by
empty modules. Ours is `diffusion/ddpm` through `Trainer` with our U-Net as wide as gives the same FLOPs. All in float32; then ours and diffusers' in bfloat16
too, which `precision = "auto"` takes where a trial finds it faster. Each measurement is a process of its own, in turn; medians.
The limit is the step's multiplications over the machine's float32 GEMM rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

BATCH, SIDE, STEPS, DRAWN = 64, 32, 50, 16


def peer_network() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIDE, in_channels=1, out_channels=1, block_out_channels=(32, 64, 64), layers_per_block=2, norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def images() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4096, 1, SIDE, SIDE), generator=g, dtype=torch.uint8)


def peer_training(low: bool = False) -> Callable[[], int]:
    from diffusers import DDPMScheduler

    model, scheduler = peer_network().train(), DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, step / 500))
    data = torch.utils.data.TensorDataset(images().float() / 127.5 - 1)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    state = {"batches": iter(loader)}

    def step() -> int:
        try:
            (clean,) = next(state["batches"])
        except StopIteration:
            state["batches"] = iter(loader)
            (clean,) = next(state["batches"])
        noise = torch.randn(clean.shape)
        t = torch.randint(0, 1000, (len(clean),))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.mse_loss(model(scheduler.add_noise(clean, noise, t), t).sample.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rates.step()
        optimiser.zero_grad()
        loss.detach().item()
        return len(clean)

    return step


def peer_sampling(low: bool = False) -> Callable[[], int]:
    from diffusers import DDIMScheduler

    model, scheduler = peer_network().eval(), DDIMScheduler(num_train_timesteps=1000)

    @torch.no_grad()
    def draw() -> int:
        scheduler.set_timesteps(STEPS)
        x = torch.randn(DRAWN, 1, SIDE, SIDE)
        for t in scheduler.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                eps = model(x, t).sample
            x = scheduler.step(eps.float(), t, x).prev_sample
        return DRAWN * STEPS

    return draw


def second_peer() -> Any:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception"):  # fmt: skip
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
    sys.modules["pytorch_fid.fid_score"].calculate_frechet_distance = None  # type: ignore[attr-defined]
    sys.modules["pytorch_fid.inception"].InceptionV3 = None  # type: ignore[attr-defined]
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    network = Unet(dim=32, dim_mults=(1, 2, 2), channels=1)
    return GaussianDiffusion(network, image_size=SIDE, timesteps=1000, sampling_timesteps=STEPS)


def second_training() -> Callable[[], int]:
    model = second_peer().train()
    from ema_pytorch import EMA

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(model, beta=0.995, update_every=10)
    data = torch.utils.data.TensorDataset(images().float() / 255)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)

    def batches() -> Any:
        while True:
            yield from loader

    each = batches()

    def step() -> int:
        (x,) = next(each)
        loss = model(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update()
        loss.item()
        return len(x)

    return step


def second_sampling() -> Callable[[], int]:
    model = second_peer().eval()
    import denoising_diffusion_pytorch.denoising_diffusion_pytorch as theirs

    theirs.tqdm = lambda x, **_: x  # its progress bar would be written 50 times

    def draw() -> int:
        model.sample(batch_size=DRAWN)
        return DRAWN * STEPS

    return draw


def our_trainer(precision: str = "no") -> Any:
    from pushforward import build, runs
    from pushforward.config import load_recipe
    from pushforward.data.images import ImageSet

    settings = [
        "model.network.width=88",
        "model.network.blocks=2",
        f"train.batch_size={BATCH}",
        f"train.precision={precision}",
        "train.device=cpu",
    ]
    settings += ["model.sampler.solver=ddim", f"model.sampler.steps={STEPS}"]
    return runs.make_trainer(build.resolve(load_recipe("diffusion/ddpm", settings)), ImageSet(images()))


def our_training(precision: str = "no") -> Callable[[], int]:
    trainer = our_trainer(precision)
    reports = trainer.steps(10**9)

    def step() -> int:
        next(reports)
        return BATCH

    return step


def our_sampling(precision: str = "no") -> Callable[[], int]:
    from pushforward import runs

    model = our_trainer().model.eval()

    def draw() -> int:
        runs.sample(model, DRAWN, precision=precision)
        return DRAWN * STEPS

    return draw


WORKS: dict[str, Callable[[], Callable[[], int]]] = {
    "diffusers training": peer_training,
    "denoising-diffusion-pytorch training": second_training,
    "ours training": our_training,
    "diffusers training, bfloat16": partial(peer_training, low=True),
    "ours training, bfloat16": partial(our_training, precision="bf16"),
    "diffusers sampling": peer_sampling,
    "denoising-diffusion-pytorch sampling": second_sampling,
    "ours sampling": our_sampling,
    "diffusers sampling, bfloat16": partial(peer_sampling, low=True),
    "ours sampling, bfloat16": partial(our_sampling, precision="bf16"),
}
PAIRS = [  # kind, in bfloat16, peer, forward passes' worth of FLOPs, goal
    ("training", "", "diffusers", 3, 2.0),
    ("training", "", "denoising-diffusion-pytorch", 3, 2.0),
    ("training", ", bfloat16", "diffusers", 3, 2.0),
    ("sampling", "", "diffusers", 1, 1.8),
    ("sampling", "", "denoising-diffusion-pytorch", 1, 1.8),
    ("sampling", ", bfloat16", "diffusers", 1, 1.8),
]


def one(name: str, seconds: float) -> float:
    """Images, or evaluations, a second."""
    work = WORKS[name]()
    for _ in range(2):
        work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)


def gemm() -> float:
    """GFLOP/s of a float32 product, the best of ten."""
    x, best = torch.randn(1024, 1024), 0.0
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(5):
            x @ x
        best = max(best, 5 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
    return best


def flops() -> dict[str, float]:
    """Of one forward pass of an image."""
    from pushforward.compare.budget import Flops

    x, found = torch.zeros(1, 1, SIDE, SIDE), {}
    networks = {"diffusers": peer_network(), "denoising-diffusion-pytorch": second_peer().model, "ours": our_trainer().model.denoiser.network}  # fmt: skip
    for name, network in networks.items():
        with torch.no_grad(), Flops() as counter:
            network(x, torch.zeros(1))
        found[name] = counter.total
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=WORKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(one(args.one, args.seconds))
        return
    rates: dict[str, list[float]] = {name: [] for name in WORKS}
    peaks = []
    for _ in range(args.rounds):
        for name in WORKS:
            words = [sys.executable, __file__, "--one", name, "--seconds", str(args.seconds)]
            found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            rates[name].append(float(found))
            peaks.append(gemm())
            print(f"{name}: {rates[name][-1]:.1f} a second, GEMM {peaks[-1]:.0f} GFLOP/s", flush=True)
    size, peak = flops(), statistics.median(peaks)
    rows = []
    for kind, low, peer, factor, goal in PAIRS:
        theirs, ours = (statistics.median(rates[f"{who} {kind}{low}"]) for who in (peer, "ours"))
        limit = peak * 1e9 / (factor * size["ours"])
        rows.append({"kind": kind + low, "peer": peer, "theirs": theirs, "ours": ours, "ratio": ours / theirs, "goal": goal, "limit": limit, "share": None if low else ours / limit})  # fmt: skip
        print(f"{kind}{low}: {peer} {theirs:.0f}, ours {ours:.0f}, ratio {ours / theirs:.2f} (goal {goal})" + ("" if low else f", {ours / limit:.0%} of the limit {limit:.0f}"))  # fmt: skip
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "command": " ".join(sys.argv),
                    "threads": torch.get_num_threads(),
                    "flops": size,
                    "gemm": peak,
                    "rows": rows,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
