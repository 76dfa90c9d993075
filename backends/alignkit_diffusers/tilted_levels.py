"""Outputs of a tilted law's network in closed form, from those of the network before the tilt.

With D(x, σ) = c_skip·x + c_out·F the network's denoiser, the tilted law's is D(x + σ²θ, σ) (design.md, section 4), so
that its network answers F(x + σ²θ) + σ²θ·c_skip/c_out, whatever F predicts:

    noise       ε(x + σ²θ) − σθ
    velocity    v(x + σ²θ) − σθ/√(1 + σ²)
    flow        u(x + σ²θ) − σθ
    x₀          x₀(x + σ²θ)

Nothing goes through x₀, in which half precision would lose the noise that σ multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit_diffusers.parametrisation import FlowMatching, Parametrisation
from alignkit_diffusers.run_levels import visit

__all__ = ["Levels", "levels_at", "wide"]

# Noise without end, as a number whose square single precision still holds.
_ENDLESS = 1e6


@dataclass(frozen=True, eq=False)
class Levels:
    """Where a call of a network stands, in units of x, for each row or for all: (n,) or (1,).

    A scheduler that rounds timesteps gives the network samples of another σ than the network is told. The tilt of a
    network is at the σ it believes, the output that stands for x₀ at the σ the scheduler has.

    Arguments:
        parametrisation: of the network.
        known: σ of the samples; may be infinite.
        sigma: the same on the samples' device, at most 10⁶.
        believed: σ as the network is told, at most the last that it can see a tilt in: with noise without end its
            answer hangs on no input.
        kept: how much of the sample the network is given.
        timestep: what the network is told.
    """

    parametrisation: Parametrisation
    known: tuple[float, ...]
    sigma: Tensor
    believed: Tensor
    kept: Tensor | None
    timestep: Any

    def moved(self, sample: Tensor, theta: Tensor) -> Tensor:
        """The sample of x_σ + σ²θ, in the network's coordinates and the sample's dtype."""
        shift = self.parametrisation.network_input(self._shift(theta), self.believed)
        return (self._left(sample) + shift).to(sample.dtype)

    def tilted(self, output: Tensor, sample: Tensor, theta: Tensor) -> Tensor:
        """The tilted law's output, from the network's for `moved(sample, theta)`."""
        output = output.to(wide(sample.dtype))
        shift = self._shift(theta)
        if self.kept is None:
            return output + self.parametrisation.output(-shift, torch.zeros_like(shift), self.believed)
        x = self.parametrisation.from_network_input(self._left(sample).to(output.dtype), self.believed) + shift
        return self._of_denoised(self.parametrisation.denoised(x, output, self.believed), sample)

    def of_denoiser(self, denoise: Callable[[Any, Any], Any], sample: Tensor) -> Tensor:
        """The output of a network whose denoiser is `denoise(x (n, *shape), sigma (n,))`."""
        x = self.parametrisation.from_network_input(sample.to(wide(sample.dtype)), self.sigma)
        return self._of_denoised(denoise(x, self.sigma.expand(len(x))), sample)

    def _of_denoised(self, denoised: Tensor, sample: Tensor) -> Tensor:
        x = self.parametrisation.from_network_input(sample.to(wide(sample.dtype)), self.sigma)
        return self.parametrisation.output(x, denoised, self.sigma)

    def _shift(self, theta: Tensor) -> Tensor:
        return self.believed.square().reshape(-1, *(1,) * (theta.ndim - 1)) * theta

    def _left(self, sample: Tensor) -> Tensor:
        return sample if self.kept is None else sample * self.kept.reshape(-1, *(1,) * (sample.ndim - 1))


def levels_at(
    timestep: Any, sample: Tensor, parametrisation: Parametrisation, scheduler: Any, *, exact: bool = False
) -> Levels:
    """The levels of a call.

    Arguments:
        timestep: what the pipeline tells the network, a number or (), (1,) or (n,).
        sample: (n, *shape), in the network's coordinates.
        parametrisation: of the network.
        scheduler: whose run the call may be part of.
        exact: whether the network is an exact posterior mean, so that in noise without end it may be shown the tilt
            without the noise, which says nothing. A trained one has never seen that.
    """
    told = torch.as_tensor(timestep)
    values = [float(value) for value in told.reshape(-1).tolist()]
    found = {value: _Level.at(value, parametrisation, scheduler) for value in set(values)}
    # One level for all rows is the common case, and spares as many copies of θ.
    rows = [found[value] for value in (values[:1] if len(found) == 1 else values)]
    like = torch.empty(0, dtype=wide(sample.dtype), device=sample.device)
    known = tuple(level.sigma for level in rows)
    sigma = like.new_tensor(known).clamp(max=_ENDLESS)
    endless = [math.isinf(level.believed) for level in rows]
    if not any(endless):
        return Levels(
            parametrisation, known, sigma, like.new_tensor([level.believed for level in rows]), None, timestep
        )
    # The last level a network sees a tilt at is that of its last timestep.
    believed = like.new_tensor([min(level.believed, parametrisation.sigma_max) for level in rows])
    kept = like.new_tensor([0.0 if exact and end else 1.0 for end in endless])
    last = _last_timestep(parametrisation)
    seen = [last / found[value].unit if math.isinf(found[value].believed) else value for value in values]
    replaced = torch.tensor(seen, dtype=like.dtype, device=told.device).reshape(told.shape)
    return Levels(parametrisation, known, sigma, believed, kept, replaced)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: at high noise σ²θ does not fit into half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class _Level:
    """σ of a sample, σ as the network is told, and what its timesteps are multiples of; both σ may be infinite."""

    sigma: float
    believed: float
    unit: float

    @classmethod
    def at(cls, timestep: float, parametrisation: Parametrisation, scheduler: Any) -> _Level:
        stop = visit(scheduler, timestep, parametrisation)
        unit = 1.0 if stop is None else stop.unit
        believed = _believed(unit * timestep, parametrisation)
        return cls(believed if stop is None else stop.level, believed, unit)


def _believed(timestep: float, parametrisation: Parametrisation) -> float:
    if isinstance(parametrisation, FlowMatching):
        rest = parametrisation.train_timesteps - timestep
        return timestep / rest if rest > 0 else math.inf
    last = _last_timestep(parametrisation)
    if timestep > last + 1e-3 * abs(last):
        return math.inf
    return float(parametrisation.sigma(torch.tensor([timestep], dtype=torch.float64)).item())


def _last_timestep(parametrisation: Parametrisation) -> float:
    """What the network is told at its highest noise."""
    return float(parametrisation.timestep(torch.tensor([parametrisation.sigma_max], dtype=torch.float64)).item())
