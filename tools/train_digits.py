"""Train the digit encoder that ships inside the package, on the 60,000 MNIST training images.

    PUSHFORWARD_DATA=../shared/data python tools/train_digits.py

Every choice was made without the test images: a fixed schedule, the last weights, one look at the test set at the
end. Augmentations are small affine maps only. The weights are kept in half precision (the file is under 1 MB); the
accuracy printed is that of the file as it ships.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pushforward.data.images import read_idx_pair, to_model
from pushforward.metrics.digits import DigitEncoder
from pushforward.training.memory import keep_freed_memory

TARGET = Path(__file__).parent.parent / "src/pushforward/metrics/weights/digits.safetensors"


def affine(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 12 degrees, scale and shear by up to 0.1, shift by up to 2 pixels; the ground stays black."""
    n = len(x)
    angle, scale, shear, dx, dy = (torch.rand(5, n, generator=generator) * 2 - 1) * torch.tensor(
        [math.radians(12), 0.1, 0.1, 2 / 14, 2 / 14]
    )[:, None]
    c, s = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    theta = torch.stack([torch.stack([c, -s + shear, dx], 1), torch.stack([s, c, dy], 1)], 1)
    return F.grid_sample(x + 1, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False) - 1


def accuracy(model: DigitEncoder, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return sum(
            (model(to_model(a))[1].argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500), strict=True)
        ) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PUSHFORWARD_DATA", "../shared/data")))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    root = args.data / "mnist"
    train = read_idx_pair(root / "train-images-idx3-ubyte.gz", root / "train-labels-idx1-ubyte.gz", "mnist")
    test = read_idx_pair(root / "t10k-images-idx3-ubyte.gz", root / "t10k-labels-idx1-ubyte.gz", "mnist")

    keep_freed_memory()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = DigitEncoder().to(memory_format=torch.channels_last)
    batch, steps = 128, args.epochs * (len(train) // 128)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.15)
    start, step = time.perf_counter(), 0
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(train), generator=generator).split(batch)[: len(train) // batch]:
            x = affine(to_model(train.images[index]), generator).contiguous(memory_format=torch.channels_last)
            features = model.body(x)
            logits = model.head(F.dropout(features, 0.2))
            loss = F.cross_entropy(logits, train.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            total += loss.item()
        print(
            f"epoch {epoch + 1}: loss {total * batch / len(train):.4f}, {time.perf_counter() - start:.0f} s", flush=True
        )

    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, metadata={"trained_on": "MNIST, 60,000 training images", "epochs": str(args.epochs)})
    shipped = DigitEncoder()
    shipped.load_state_dict({k: v.float() for k, v in load_file(args.out).items()})
    score = accuracy(shipped.eval(), test.images, test.labels)
    print(f"{args.out} ({args.out.stat().st_size} bytes): test accuracy {score:.4%}")


if __name__ == "__main__":
    main()
