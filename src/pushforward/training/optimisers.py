"""Optimisers by name, fused where PyTorch has a fused kernel (one pass over the weights instead of ten)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import Parameter


def adam(
    params: Iterable[Parameter], *, lr: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999), eps: float = 1e-8
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2014); the defaults are DCGAN's."""
    return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps, fused=True)


def adamw(
    params: Iterable[Parameter],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def rmsprop(
    params: Iterable[Parameter], *, lr: float = 5e-5, alpha: float = 0.99, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """RMSProp (Tieleman and Hinton 2012), as WGAN was published with; no fused kernel, so several tensors at a time."""
    return torch.optim.RMSprop(params, lr=lr, alpha=alpha, eps=eps, foreach=True)


def sgd(params: Iterable[Parameter], *, lr: float = 1e-2, momentum: float = 0.0) -> torch.optim.Optimizer:
    """Gradient descent, with momentum if asked."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, fused=True)
