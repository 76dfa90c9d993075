"""Stochastic solvers: each step draws x at the next noise level from its posterior, given x here and what is denoised.

Given x₀, the path x_σ has a Gaussian posterior, x_σ' | x_σ, x₀ ~ N(x₀ + (σ'²/σ²)(x_σ − x₀), σ'²(1 − σ'²/σ²)) for σ' < σ
(Ho, Jain and Abbeel, arXiv 2006.11239, equations 6 and 7, in σ-coordinates). A step draws from it with a denoised x in
the place of x₀, and so leaves out how far x₀ is spread around that: what comes out is too narrow, and in the limit of
many steps right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from alignkit.noise import fold_seed, normal
from alignkit_torch.schedule import Denoise, Step, tilted_denoise

__all__ = ["StepNoise", "ancestral", "ancestral_step", "sde", "sde_step", "step_noise"]

#: Standard normal numbers of a step, by its number from 0, for rows x (n, *shape); of x's shape, dtype and device.
StepNoise = Callable[[int, torch.Tensor], torch.Tensor]


def step_noise(seed: int, *, stage: int = 0, first_row: int = 0) -> StepNoise:
    """The noise of all steps of some rows: a function of (seed, stage, row, step), whatever the batch.

    Arguments:
        seed, stage, first_row: number the noise, as in `alignkit.noise.normal`. The start's own noise has the seed
            itself, a step's one folded from it.
    """

    def noise(step: int, x: torch.Tensor) -> torch.Tensor:
        folded = fold_seed(seed, f"sampler step {step}")
        size = x.shape[1:].numel()
        found: torch.Tensor = normal(folded, x.shape[0], size, stage=stage, first_row=first_row, like=x)
        return found.reshape(x.shape)

    return noise


def ancestral(
    denoise: Denoise,
    x: torch.Tensor,
    steps: Sequence[Step],
    tilt: torch.Tensor | None = None,
    *,
    noise: StepNoise,
) -> torch.Tensor:
    """Ancestral sampling, the sampler of DDPM: first order at one evaluation a step (arXiv 2006.11239, algorithm 2).

    Arguments:
        denoise: D(x, σ) with x (n, *shape) and σ (n,).
        x: (n, *shape), noisy at the first step's σ; not modified.
        steps: from `lay_out`.
        tilt: θ, to broadcast against x, in units of 1/x; None for the base itself.
        noise: from `step_noise`.

    Returns:
        (n, *shape), noise free.
    """
    for number, step in enumerate(steps[:-1]):
        x = ancestral_step(denoise, x, step, tilt, noise=noise(number, x))
    # The last step is on what is denoised exactly, without noise.
    return tilted_denoise(denoise, x, steps[-1], tilt)


def ancestral_step(
    denoise: Denoise, x: torch.Tensor, step: Step, tilt: torch.Tensor | None, *, noise: torch.Tensor
) -> torch.Tensor:
    """One step of `ancestral`, the same operations in all of them; may be compiled.

    Arguments:
        denoise, x, tilt: as for `ancestral`.
        step: its numbers.
        noise: standard normal numbers, (n, *shape).

    Returns:
        x at the next noise level.
    """
    return _posterior(x, tilted_denoise(denoise, x, step, tilt), step, noise)


def sde(
    denoise: Denoise,
    x: torch.Tensor,
    steps: Sequence[Step],
    tilt: torch.Tensor | None = None,
    *,
    noise: StepNoise,
) -> torch.Tensor:
    """SDE-DPM-Solver++(2M): second order in the drift at one evaluation a step (arXiv 2211.01095, equation 18).

    Arguments and result as for `ancestral`, of which it is the multistep method: what is denoised is extrapolated to
    the middle of the step from the step before, as in `dpm_solver_2m`.
    """
    previous = x
    for number, step in enumerate(steps[:-1]):
        x, previous = sde_step(denoise, x, previous, step, tilt, noise=noise(number, x))
    return tilted_denoise(denoise, x, steps[-1], tilt)


def sde_step(
    denoise: Denoise,
    x: torch.Tensor,
    previous: torch.Tensor,
    step: Step,
    tilt: torch.Tensor | None,
    *,
    noise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of `sde`, the same operations in all of them; may be compiled.

    Arguments:
        denoise, x, tilt: as for `ancestral`.
        previous: what the denoiser gave in the step before, (n, *shape); anything finite in the first.
        step: its numbers.
        noise: standard normal numbers, (n, *shape).

    Returns:
        x at the next noise level, and what the denoiser gave.
    """
    denoised = tilted_denoise(denoise, x, step, tilt)
    return _posterior(x, torch.lerp(denoised, previous, step.memory), step, noise), denoised


def _posterior(x: torch.Tensor, denoised: torch.Tensor, step: Step, noise: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(torch.lerp(x, denoised, step.posterior_pull), noise, step.posterior_sd)
