"""Deterministic solvers: the probability-flow ODE dx/dσ = (x − D(x, σ))/σ, a map from noise to draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from alignkit_torch.schedule import Denoise, Step, tilted_denoise

__all__ = ["ddim", "dpm_solver_2m", "dpm_solver_2m_step", "heun"]


def heun(
    denoise: Denoise,
    x: torch.Tensor,
    steps: Sequence[Step],
    tilt: torch.Tensor | None = None,
) -> torch.Tensor:
    """Heun's second-order method: two evaluations a step, one in the last (arXiv 2206.00364, algorithm 1).

    Arguments:
        denoise: D(x, σ) with x (n, *shape) and σ (n,).
        x: (n, *shape), noisy at the first step's σ; not modified.
        steps: from `lay_out`.
        tilt: θ, to broadcast against x, in units of 1/x; None for the base itself.

    Returns:
        (n, *shape), noise free.
    """
    for step, following in itertools.pairwise(steps):
        denoised = tilted_denoise(denoise, x, step, tilt)
        # (x − D)/σ times the step, written as a pull towards D so that the last step lands on D exactly.
        predicted = torch.lerp(x, denoised, step.pull)
        slope = predicted - tilted_denoise(denoise, predicted, following, tilt)
        x = torch.addcmul(torch.lerp(x, denoised, step.pull / 2), slope, step.correction)
    return tilted_denoise(denoise, x, steps[-1], tilt)


def dpm_solver_2m(
    denoise: Denoise,
    x: torch.Tensor,
    steps: Sequence[Step],
    tilt: torch.Tensor | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M): second order at one evaluation a step (Lu et al., arXiv 2211.01095, algorithm 2).

    Arguments and result as for `heun`. At equal evaluations its steps are half as long as Heun's: on the 16-dimensional
    mixture of the benchmarks, tilted by ‖θ‖ = 5, 31 evaluations leave the variance 2 % too large against Heun's 12 %.
    """
    previous = x
    for step in steps:
        x, previous = dpm_solver_2m_step(denoise, x, previous, step, tilt)
    return x


def dpm_solver_2m_step(
    denoise: Denoise, x: torch.Tensor, previous: torch.Tensor, step: Step, tilt: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of `dpm_solver_2m`, the same operations in all of them; may be compiled.

    Arguments:
        denoise, x, tilt: as for `heun`.
        previous: what the denoiser gave in the step before, (n, *shape); anything finite in the first.
        step: its numbers.

    Returns:
        x at the next noise level, and what the denoiser gave.
    """
    denoised = tilted_denoise(denoise, x, step, tilt)
    target = torch.lerp(denoised, previous, step.memory)
    return torch.lerp(x, target, step.pull), denoised


def ddim(
    denoise: Denoise,
    x: torch.Tensor,
    steps: Sequence[Step],
    tilt: torch.Tensor | None = None,
) -> torch.Tensor:
    """DDIM: first order, Euler's method in σ (Song, Meng and Ermon, arXiv 2010.02502, equation 13).

    Arguments and result as for `heun`.
    """
    for step in steps:
        x = torch.lerp(x, tilted_denoise(denoise, x, step, tilt), step.pull)
    return x
