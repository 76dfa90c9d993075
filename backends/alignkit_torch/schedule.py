"""The steps of a solver: Karras' schedule of noise levels, laid out as numbers on the device before the first step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

__all__ = ["Denoise", "Step", "karras_schedule", "lay_out", "tilted_denoise"]

#: D(x, σ): x (n, *shape) and σ (n,) to (n, *shape).
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def karras_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Noise levels from sigma_max down to sigma_min, then 0 (Karras et al., arXiv 2206.00364, equation 5).

    Arguments:
        steps: how many steps, at least 1.
        sigma_min, sigma_max: the last level above 0 and the first, in units of x.
        rho: the exponent; 7 is the paper's choice.

    Returns:
        steps + 1 levels, falling, the last 0; two where there is nothing between the first and the last.

    Example:
        >>> karras_schedule(2, 1.0, 4.0, rho=1.0)
        [4.0, 1.0, 0.0]
    """
    if steps == 1 or sigma_max <= sigma_min:
        return [sigma_max, 0.0]
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = [(high + i / (steps - 1) * (low - high)) ** rho for i in range(1, steps - 1)]
    # The ends as given, not rounded past what a network was trained on.
    return [sigma_max, *inner, sigma_min, 0.0]


class Step(NamedTuple):
    """One step's numbers on the device, as tensors; a tuple, which torch.compile takes apart.

    Attributes:
        sigma: σ_i, (n,), once for each row, in units of x.
        variance: σ_i²; this and all below of no dimension, if they say no other.
        pull: 1 − σ_{i+1}/σ_i, the share of the way to the denoised that the step goes.
        memory: how far the multistep method extrapolates from the step before; 0 in the first step and the last.
        correction: (1 − σ_i/σ_{i+1})/2, the weight of Heun's second slope; 0 in the last step.
        posterior_pull: 1 − σ_{i+1}²/σ_i², the share of the way to x₀ at which x_{σ_{i+1}} has its mean, given x_{σ_i}
            and x₀.
        posterior_sd: σ_{i+1}·√(1 − σ_{i+1}²/σ_i²), its standard deviation there, in units of x; 0 in the last step.
    """

    sigma: torch.Tensor
    variance: torch.Tensor
    pull: torch.Tensor
    memory: torch.Tensor
    correction: torch.Tensor
    posterior_pull: torch.Tensor
    posterior_sd: torch.Tensor


def lay_out(sigmas: Sequence[float], x: torch.Tensor) -> list[Step]:
    """The steps of a schedule as numbers beside x (n, …), in its dtype.

    Arguments:
        sigmas: falling noise levels, the last 0.
        x: the rows that the steps are for.
    """
    lengths = [math.log(now / after) for now, after in itertools.pairwise(sigmas) if after > 0]
    memories = [0.0] * (len(sigmas) - 1)
    for i, (before, length) in enumerate(itertools.pairwise(lengths), start=1):
        memories[i] = -length / (2 * before)
    rows = []
    for (now, after), memory in zip(itertools.pairwise(sigmas), memories, strict=True):
        correction = (1 - now / after) / 2 if after > 0 else 0.0
        renewed = 1 - (after / now) ** 2
        rows.append((now, now**2, 1 - after / now, memory, correction, renewed, after * math.sqrt(renewed)))
    # Worked out in double precision on the host, then moved in one piece.
    table = torch.tensor(rows, dtype=x.dtype, device=x.device)
    # Each step has levels of its own in memory: a network may write into what it is given.
    levels = table[:, :1].repeat(1, x.shape[0])
    return [Step(sigma, *numbers[1:].unbind()) for sigma, numbers in zip(levels.unbind(), table.unbind(), strict=True)]


def tilted_denoise(denoise: Denoise, x: torch.Tensor, step: Step, tilt: torch.Tensor | None = None) -> torch.Tensor:
    """The denoiser of p·exp⟨θ, x⟩, D(x + σ²θ, σ), at one noise level for all rows; arguments as for `heun`."""
    return denoise(x if tilt is None else torch.addcmul(x, tilt, step.variance), step.sigma)
