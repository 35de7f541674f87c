"""The small frozen digit encoder that ships with the package: the yardstick for 28x28 digits.

ImageNet features on digits are "pretty meaningless" in the words of those who printed them; a network that knows
digits is the better judge, and everyone who has this package has the same one. It was trained on the 60,000 MNIST
training images by `tools/train_digits.py` (no noise among its augmentations, so that noise is seen as damage; no batch norm
and no strided convolution either: networks with them took barely visible noise for a disaster). Its 128 features are the
hidden layer behind the convolutions; its 10 logits serve as classifier.
"""

from __future__ import annotations

from torch import Tensor, nn


class DigitEncoder(nn.Module):
    """Two 5x5 convolutions with pooling and two linear layers: (B, 1, 28, 28) in [-1, 1] to features (B, 128), logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return features, self.head(features)
