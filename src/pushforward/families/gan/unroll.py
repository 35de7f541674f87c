r"""The generator's look ahead: the discriminator after k more updates, as a differentiable function of the fakes.

.. math:: \theta_{i+1} = \theta_i + u(\nabla_\theta L_D(\theta_i, G)), \qquad
   \frac{dL}{dG} = \frac{\partial L_G(\theta_k, G)}{\partial G} - \frac{\partial L_D(\theta_k, G)}{\partial \theta_k} \frac{d \theta_k}{dG}

Directly G lowers its own loss, and through the updates it raises the discriminator's, on data and on fakes. With the saddle loss and Wasserstein's that is the slope
of the whole game's value after the updates, the paper's equation 10; with every objective the second part vanishes where the discriminator is at its best. The
update u is a plain gradient step, or D's own: Adam with the moments that it has gathered, as in the authors' code.

Reference: Metz et al. 2017, equations 7 to 10, arXiv 1611.02163; Kingma and Ba 2014, algorithm 1, arXiv 1412.6980.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pushforward.errors import ConfigError

Parameters = Mapping[str, Tensor]
Update = Callable[[Parameters, Parameters], dict[str, Tensor]]
"""Parameters and their gradients, by name, to the next parameters."""
_MORE = ("weight_decay", "amsgrad", "maximize")  # options of PyTorch's Adam that ours has not


def unrolled(
    start: Parameters, loss: Callable[[Parameters], Tensor], *, steps: int, update: Update
) -> dict[str, Tensor]:
    """Parameters after some updates, with the graph through all of them.

    Args:
        start: Parameters by name, of which the graph begins at copies.
        loss: Parameters -> the discriminator's loss, a number.
        steps: How many updates.
        update: One of them.

    Example:
        >>> end = unrolled({"w": torch.tensor(1.0)}, lambda p: p["w"] ** 2, steps=2, update=descent(0.25))  # w <- w / 2
        >>> end["w"].item()
        0.25
    """
    current = {name: p.detach().requires_grad_() for name, p in start.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(current), list(current.values()), create_graph=True)
        current = update(current, dict(zip(current, gradients, strict=True)))
    return current


def descent(rate: float) -> Update:
    """Plain gradient steps."""
    return lambda parameters, gradients: {name: p - rate * gradients[name] for name, p in parameters.items()}


def adam(optimiser: torch.optim.Optimizer, module: nn.Module) -> Update:
    """The next updates of an Adam optimiser, from the moments that it holds; the optimiser itself does not move.

    Args:
        optimiser: Of the module's parameters.
        module: Names them.

    Raises:
        ConfigError: it is no Adam, one with options that the look ahead does not know, or not of all the module's weights.
    """
    groups = {p: group for group in optimiser.param_groups for p in group["params"]}
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    more = [o for o in _MORE if any(group.get(o) for group in groups.values())]
    if type(optimiser) is not torch.optim.Adam or more or any(p not in groups for p in own.values()):
        raise ConfigError(
            f'model.unroll_update = "adam" foresees a plain Adam of all the discriminator\'s weights, and its optimiser is another one{f" (with {more[0]})" if more else ""}. Set optimiser.discriminator.name = "adam", or model.unroll_update = "descent".'
        )
    held = {}  # of each parameter: its group, both moments, updates so far
    for name, p in own.items():
        state = optimiser.state.get(p) or {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p), "step": 0}
        held[name] = groups[p], state["exp_avg"], state["exp_avg_sq"], int(state["step"])

    def update(parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        following = {}
        for name, p in parameters.items():
            group, mean, square, count = held[name]
            first, second = group["betas"]
            g, count = gradients[name], count + 1
            mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g.square()
            held[name] = group, mean, square, count
            # A unit that never fired has no second moment, and the root no slope there.
            root = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt() / (1 - second**count) ** 0.5
            following[name] = p - group["lr"] / (1 - first**count) * mean / (root + group["eps"])
        return following

    return update
