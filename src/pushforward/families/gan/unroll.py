r"""The generator's look ahead: the discriminator after k more updates, as a differentiable function of the fakes.

.. math:: \theta_{i+1} = \theta_i - \eta \nabla_\theta L_D(\theta_i, G), \qquad \text{G minimises } L_G(\theta_k(G), G)

Reference: Metz et al. 2017, equations 7 to 10, arXiv 1611.02163 (with plain gradient steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def unrolled(start: Parameters, loss: Callable[[Parameters], Tensor], *, steps: int, rate: float) -> dict[str, Tensor]:
    """Parameters after some gradient steps, with the graph through all of them.

    Args:
        start: Parameters by name; constants to the result's graph.
        loss: Parameters -> the discriminator's loss, a number.
        steps: How many updates.
        rate: Their step size.

    Example:
        >>> end = unrolled({"w": torch.tensor(1.0)}, lambda p: p["w"] ** 2, steps=2, rate=0.25)  # w <- w / 2
        >>> end["w"].item()
        0.25
    """
    current = {name: p.detach().requires_grad_() for name, p in start.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(current), list(current.values()), create_graph=True)
        current = {name: p - rate * g for (name, p), g in zip(current.items(), gradients, strict=True)}
    return current
