"""Inception v3 as the Frechet inception distance means it: the network of 2015-12-05, with that graph's own pooling.

It differs from the usual Inception v3 in its poolings alone: averages leave the padding out of their count, and the last block pools by the
maximum. State-dict names are those that the published weights use, so they load unchanged.

Reference: Szegedy et al. 2015, arXiv 1512.00567 (architecture); Heusel et al. 2017, arXiv 1706.08500 (its use).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = dict[str, Any]


class ConvNorm(nn.Module):
    """Convolution, batch norm (eps 0.001), ReLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35x35: 1x1, 5x5, double 3x3, pool."""

    def __init__(self, c_in: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(c_in, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvNorm(c_in, 48, 1), ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(c_in, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = ConvNorm(64, 96, 3, padding=1), ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(c_in, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), triple, self.branch_pool(_average(x))], 1
        )


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(c_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(c_in, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = ConvNorm(64, 96, 3, padding=1), ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), triple, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17x17: 7x7 factorised."""

    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        row: Shape = {"kernel": (1, 7), "padding": (0, 3)}
        column: Shape = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(c_in, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = ConvNorm(c_in, c, 1), ConvNorm(c, c, **row)
        self.branch7x7_3 = ConvNorm(c, 192, **column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = ConvNorm(c_in, c, 1), ConvNorm(c, c, **column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = ConvNorm(c, c, **row), ConvNorm(c, c, **column)
        self.branch7x7dbl_5 = ConvNorm(c, 192, **row)
        self.branch_pool = ConvNorm(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvNorm(c_in, 192, 1), ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(c_in, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8x8: branches that end in 1x3 and 3x1 side by side."""

    def __init__(self, c_in: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        row: Shape = {"kernel": (1, 3), "padding": (0, 1)}
        column: Shape = {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvNorm(c_in, 320, 1)
        self.branch3x3_1 = ConvNorm(c_in, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = ConvNorm(384, 384, **row), ConvNorm(384, 384, **column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(c_in, 448, 1), ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = ConvNorm(384, 384, **row), ConvNorm(384, 384, **column)
        self.branch_pool = ConvNorm(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.branch3x3_1(x)
        b = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else _average(x)
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(a),
            self.branch3x3_2b(a),
            self.branch3x3dbl_3a(b),
            self.branch3x3dbl_3b(b),
        ]
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


class InceptionV3(nn.Module):
    """Images (B, 3, 299, 299) in [-1, 1] to features (B, 2048) and logits (B, 1008).

    The logits leave the bias out, as the published inception scores do (Salimans et al. 2016, the authors' code).
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean(dim=(2, 3))
        return features, F.linear(features, self.fc.weight)
