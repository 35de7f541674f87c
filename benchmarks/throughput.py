"""Training throughput against the usual scripts: the same networks, the same batch, one run, ratios.

    python benchmarks/throughput.py [--rounds 3] [--seconds 12] [--json docs/results/throughput.json]

Each peer is a small re-creation, written by us, of the training step that people run (named below): its networks, its loader of PIL images,
its unfused Adam, its `.item()` a step. Ours trains the same networks through `Trainer`. Each measurement is a
process of its own (our allocator setting must not help the peer), peer and ours in turn, medians of the rounds.
The limit is the step's multiplications over the machine's own float32 GEMM rate, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 64


# --- the networks, as the usual scripts have them -------------------------------------------------------------


def mlp_pair() -> tuple[nn.Module, nn.Module]:
    """PyTorch-GAN's gan.py: 100-128-256-512-1024-784 with batch norm against 784-512-256-1, as logits."""
    layers: list[nn.Module] = [nn.Linear(100, 128), nn.LeakyReLU(0.2, inplace=True)]
    for a, b in ((128, 256), (256, 512), (512, 1024)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(0.2, inplace=True)]
    g = nn.Sequential(*layers, nn.Linear(1024, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
    d = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.LeakyReLU(0.2, inplace=True), nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(256, 1), nn.Flatten(0),
    )  # fmt: skip
    return g, d


class Upsampled(nn.Module):
    """Nearest upsampling and a 3x3 convolution, as two operations."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2))


def upsampling_pair(up: Callable[[int, int], nn.Module] = Upsampled) -> tuple[nn.Module, nn.Module]:
    """PyTorch-GAN's dcgan.py at 32x32: upsampling generator (128, 128, 64), discriminator 16-32-64-128 with dropout."""
    g = nn.Sequential(
        nn.Linear(100, 128 * 64), nn.Unflatten(1, (128, 8, 8)), nn.BatchNorm2d(128),
        up(128, 128), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, inplace=True),
        up(128, 64), nn.BatchNorm2d(64), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 1, 3, 1, 1), nn.Tanh(),
    )  # fmt: skip
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.25)]
        layers += [nn.BatchNorm2d(b)] if a > 1 else []
    return g, nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4, 1), nn.Flatten(0))


def strided_pair() -> tuple[nn.Module, nn.Module]:
    """The PyTorch examples' DCGAN, cut to 32x32: 64 filters, transposed convolutions."""
    g = nn.Sequential(
        nn.Unflatten(1, (100, 1, 1)), nn.ConvTranspose2d(100, 256, 4, 1, 0, bias=False), nn.BatchNorm2d(256), nn.ReLU(True),
        nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
        nn.ConvTranspose2d(64, 1, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    d = nn.Sequential(
        nn.Conv2d(1, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(256, 1, 4, 1, 0, bias=False), nn.Flatten(0),
    )  # fmt: skip
    return g, d


CASES = {
    "mlp": (mlp_pair, 28, 3.5),
    "mlp-wgan-gp": (mlp_pair, 28, 3.5),
    "dcgan-upsampling": (upsampling_pair, 32, 3.3),
    "dcgan-strided": (strided_pair, 32, 1.5),
}


# --- the peer: the step as people run it ----------------------------------------------------------------------


class PILImages(torch.utils.data.Dataset):
    """What torchvision's MNIST with Resize, ToTensor and Normalize does to each image."""

    def __init__(self, images: Tensor, side: int) -> None:
        self.images, self.side, self.labels = images, side, torch.zeros(len(images), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        picture = Image.fromarray(self.images[i, 0].numpy(), mode="L")
        if picture.size != (self.side, self.side):  # Resize
            picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(picture, np.uint8, copy=True))  # ToTensor
        x = x.view(self.side, self.side, 1).permute((2, 0, 1)).contiguous().to(dtype=torch.get_default_dtype()).div(255)
        x = x.clone()  # Normalize: not in place, its constants made anew, a look for a zero deviation
        mean, sd = torch.as_tensor([0.5], dtype=x.dtype), torch.as_tensor([0.5], dtype=x.dtype)
        if (sd == 0).any():
            raise ValueError
        return x.sub_(mean.view(-1, 1, 1)).div_(sd.view(-1, 1, 1)), int(self.labels[i])


def peer_steps(case: str, images: Tensor) -> Iterator[int]:
    make, side, _ = CASES[case]
    g, d = make()
    loader = torch.utils.data.DataLoader(PILImages(images, side), batch_size=BATCH, shuffle=True, drop_last=True)
    g_optimiser = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimiser = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    real_target, fake_target = torch.ones(BATCH), torch.zeros(BATCH)
    step = 0
    while True:
        for x, _ in loader:
            z = torch.tensor(np.random.normal(0, 1, (BATCH, 100)), dtype=torch.float32)
            if case == "mlp-wgan-gp":
                d_optimiser.zero_grad()
                fake = g(z)
                epsilon = torch.tensor(np.random.random((BATCH, 1, 1, 1)), dtype=torch.float32)
                between = (epsilon * x + (1 - epsilon) * fake).requires_grad_(True)
                values = d(between)
                slope = torch.autograd.grad(
                    values, between, torch.ones_like(values), create_graph=True, retain_graph=True
                )[0]
                penalty = ((slope.view(BATCH, -1).norm(2, dim=1) - 1) ** 2).mean()
                loss = -d(x).mean() + d(fake).mean() + 10 * penalty
                loss.backward()
                d_optimiser.step()
                g_optimiser.zero_grad()
                step += 1
                if step % 5 == 0:
                    generator_loss = -d(g(z)).mean()
                    generator_loss.backward()
                    g_optimiser.step()
                loss.item()
            else:
                g_optimiser.zero_grad()
                fake = g(z)
                generator_loss = bce(d(fake), real_target)
                generator_loss.backward()
                g_optimiser.step()
                d_optimiser.zero_grad()
                loss = (bce(d(x), real_target) + bce(d(fake.detach()), fake_target)) / 2
                loss.backward()
                d_optimiser.step()
                loss.item(), generator_loss.item()
            yield BATCH


# --- ours: the same networks through the trainer --------------------------------------------------------------


def our_steps(case: str, images: Tensor, *, share: bool, compiled: bool = False) -> Iterator[int]:
    from pushforward.data.batches import ImageBatches
    from pushforward.data.images import ImageSet
    from pushforward.families.gan import losses, terms
    from pushforward.families.gan.model import GAN
    from pushforward.networks.blocks import UpsampleConv, prefer_channels_last
    from pushforward.priors import Normal
    from pushforward.training.optimisers import adam
    from pushforward.training.trainer import Trainer

    make, side, _ = CASES[case]
    g, d = upsampling_pair(UpsampleConv) if case == "dcgan-upsampling" else make()
    prefer_channels_last(g), prefer_channels_last(d)
    if side != images.shape[-1]:
        images = (
            F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
        )
    wgan = case == "mlp-wgan-gp"
    penalty = terms.Term("interpolate-penalty", terms.interpolate_penalty, "discriminator", weight=10.0)
    model = GAN(
        generator=g,
        discriminator=d,
        prior=Normal(dim=100),
        objective=losses.wasserstein() if wgan else losses.non_saturating(),
        terms=(penalty,) if wgan else (),
        discriminator_steps=5 if wgan else 1,
        share_fakes=share,
    )
    batches = ImageBatches(ImageSet(images), batch_size=BATCH, seed=0, channels_last="dcgan" in case)
    trainer = Trainer(model, batches, {"generator": adam(g.parameters()), "discriminator": adam(d.parameters())})
    if compiled:
        print(trainer.compile())
    for _ in trainer.steps(10**9):
        yield BATCH * (5 if wgan else 1)


def measure(case: str, who: str, seconds: float) -> float:
    """Images a second: data images through one whole step of both players."""
    from pushforward.data.fetch import load_mnist_5k

    images = load_mnist_5k("train").images
    torch.manual_seed(0)
    if who == "peer-malloc":
        from pushforward.training.memory import keep_freed_memory

        assert keep_freed_memory()
    # The upsampling script makes fakes once a step, used by both players: so do we, by `share_fakes`.
    # A compiled move hands nothing on, so there they are made twice.
    compiled = who == "ours-compiled"
    share = case != "mlp-wgan-gp" and not compiled
    steps = (
        peer_steps(case, images) if who.startswith("peer") else our_steps(case, images, share=share, compiled=compiled)
    )
    for _ in range(15):
        next(steps)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += next(steps)
    return count / (time.perf_counter() - start)


def gemm_rate() -> float:
    """Float32 GFLOP/s of a large product."""
    a = torch.randn(2048, 2048)
    rates = []
    for _ in range(12):
        start = time.perf_counter()
        a @ a
        rates.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def flop_per_image(case: str) -> float:
    """FLOPs of one step per data image, by PyTorch's counter, without optimisers and pointwise work.

    Counted on the cheapest form that we know: fakes made once, upsampling folded into the kernel.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from pushforward.networks.blocks import UpsampleConv

    make, side, _ = CASES[case]
    g, d = upsampling_pair(UpsampleConv) if case == "dcgan-upsampling" else make()
    x = torch.randn(BATCH, 1, side, side)
    with FlopCounterMode(display=False) as counter:
        fake = g(torch.randn(BATCH, 100))
        if case == "mlp-wgan-gp":
            between = fake.detach().requires_grad_() * 1  # the counter cannot follow a gradient to a leaf
            (slope,) = torch.autograd.grad(d(between).sum(), between, create_graph=True)
            torch.autograd.backward(d(x).sum() + d(fake.detach()).sum() + slope.square().sum())
            critic = counter.get_total_flops()
        else:
            (d(x).sum() + d(fake.detach()).sum()).backward()
        for p in d.parameters():
            p.requires_grad_(False)
        d(fake).sum().backward()
    total = counter.get_total_flops()
    return ((total - critic) / 5 + critic) / BATCH if case == "mlp-wgan-gp" else total / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(measure(args.one[0], args.one[1], args.seconds))
        return
    rows = []
    for case in args.cases:
        found: dict[str, list[float]] = {"peer": [], "peer-malloc": [], "ours": [], "ours-compiled": []}
        rates = []
        for turn in range(args.rounds):
            rates.append(gemm_rate())
            for who, values in found.items():
                if who == "ours-compiled" and turn > 0:
                    continue  # compiling takes longer than measuring: once is enough
                done = subprocess.run(
                    [sys.executable, __file__, "--one", case, who, "--seconds", str(args.seconds)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                values.append(float(done.stdout.split()[-1]))
        peer, tuned, ours, compiled = (statistics.median(v) for v in found.values())
        ratio = statistics.median([b / a for a, b in zip(found["peer"], found["ours"], strict=True)])
        limit = statistics.median(rates) * 1e9 / flop_per_image(case)
        rows.append(
            {
                "case": case,
                "peer": peer,
                "peer_malloc": tuned,
                "ours": ours,
                "ours_compiled": compiled,
                "ratio": ratio,
                "goal": CASES[case][2],
                "gemm": statistics.median(rates),
                "limit": limit,
                "share": ours / limit,
                "raw": found,
            }
        )
        print(
            f"{case:18} peer {peer:7.0f}  with malloc {tuned:7.0f}  ours {ours:7.0f}, compiled {compiled:7.0f} images/s  ratio {ratio:.2f} (goal {CASES[case][2]})  limit {limit:7.0f}, share {ours / limit:.0%}",
            flush=True,
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
