"""Our solvers against diffusers' schedulers: the same network and noise, the same samples, where diffusers is right; and where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser, levels
from pushforward.families.diffusion.schedules import DiscreteDDPM
from pushforward.families.diffusion.solvers import ancestral, ddim, dpmpp_2m, euler, final

diffusers = pytest.importorskip("diffusers", reason="needs the extra hub")

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCHEDULE = DiscreteDDPM()


def network(x: Tensor, timestep: float) -> Tensor:
    """Some smooth function of x and of the index of the level: what an untrained network might say."""
    return torch.tanh(x.roll(1, dims=-1) * 1.3 + 0.2 * x) * (0.5 + timestep / 2000)


class OfNetwork(Denoiser):
    schedule = SCHEDULE

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = levels(SCHEDULE, t, x)
        return (x - sigma * network(x, float(t) * 1000 - 1)) / alpha


def grid_of(timesteps: Tensor) -> Tensor:
    """diffusers' indices as our times, with the end."""
    return torch.cat([(timesteps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])


def theirs(scheduler, x: Tensor, steps: int, **options: object) -> Tensor:  # type: ignore[no-untyped-def]
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), float(t)), t, x, **options).prev_sample
    return x


X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(steps: int, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing")
    want = theirs(scheduler, X, steps, eta=eta, generator=torch.Generator().manual_seed(1))
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    torch.testing.assert_close(grid_of(scheduler.timesteps), grid)
    found = final(ddim(OfNetwork(), X, grid, eta=eta, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance: str) -> None:
    scheduler = diffusers.DDPMScheduler(
        **BETAS, clip_sample=False, timestep_spacing="trailing", variance_type=f"fixed_{variance}"
    )
    # all its levels: with fewer, its last step adds noise to what should be clean ("t > 0" where the next level was meant)
    want = theirs(scheduler, X, 1000, generator=torch.Generator().manual_seed(1))
    grid = torch.linspace(1, 0, 1001, dtype=torch.float64)
    found = final(ancestral(OfNetwork(), X, grid, variance=variance, generator=torch.Generator().manual_seed(1)))  # type: ignore[arg-type]
    assert float((found - want).norm() / want.norm()) < 1e-4


def test_euler() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    alpha = SCHEDULE.levels(torch.ones((), dtype=torch.float64))[0]
    want = theirs(scheduler, X / float(alpha), 20)  # it works in units in which alpha is 1
    found = final(euler(OfNetwork(), X, torch.linspace(1, 0, 21, dtype=torch.float64)))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_dpm_solver_pp_2m() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, solver_order=2, algorithm_type="dpmsolver++", final_sigmas_type="zero", timestep_spacing="trailing"
    )
    want = theirs(scheduler, X, 20)
    found = final(dpmpp_2m(OfNetwork(), X, grid_of(scheduler.timesteps)))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_diffusers_linspace_ddim_does_not_go_where_it_evaluates() -> None:
    """Its default spacings step to t - 1000 // steps, which is the next level only when the spacing is "trailing" (or "leading").

    Under "linspace" (999, 888, ...) each step lands between two levels and is then denoised as if it were at the next one.
    """

    class Black(Denoiser):
        schedule = SCHEDULE

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(10)
    x, noise_there = X.double(), []
    for t in scheduler.timesteps:  # of black images x_t is sigma_t times the first noise, exactly
        sigma = SCHEDULE((t.double() + 1) / 1000)[1]
        noise_there.append(float(x.norm() / X.double().norm() / sigma))
        x = scheduler.step(x / sigma, t, x).prev_sample
    assert noise_there[0] == pytest.approx(1, abs=1e-4)
    assert noise_there[-2] > 1.1  # at index 111 it takes for noise of sigma what has a seventh more
    for step in ddim(Black(), X.double(), grid_of(scheduler.timesteps)):
        sigma = SCHEDULE(torch.tensor(step.t, dtype=torch.float64))[1]
        torch.testing.assert_close(step.x, X.double() * sigma / SCHEDULE(torch.ones((), dtype=torch.float64))[1])
