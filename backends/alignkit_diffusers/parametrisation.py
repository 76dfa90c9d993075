"""What a network of diffusers is given, told and predicts, in σ-coordinates.

Every kind of network is an instance of one form (Karras et al., "Elucidating the design space of diffusion-based
generative models", arXiv 2206.00364, equation 7):

    D(x, σ) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x, t(σ)),

with D(x, σ) = E[x₀ | x_σ = x], x_σ = x₀ + σz, F the network and t what it is told of the noise. Families differ in c_in
and t, which say in what coordinates they were trained, and predictions in c_skip and c_out. `parametrisation_of`, in
`alignkit_diffusers.schedulers`, reads both off a scheduler.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "ContinuousVariancePreserving",
    "ElucidatedDiffusion",
    "FlowMatching",
    "Interpolation",
    "Parametrisation",
    "Prediction",
    "VariancePreserving",
]

#: What a network predicts, by diffusers' names.
Prediction = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]

#: What is linear in the timestep between two entries of a scheduler's table: σ itself, or its logarithm.
Interpolation = Literal["linear", "logarithmic"]


@dataclass(frozen=True)
class Parametrisation(ABC):
    """How a network's input, timestep and output belong to its denoiser D(x, σ).

    Levels and timesteps are tensors (n,), one for each row, or one for all. Results have the dtype of the rows they are
    of, and float32 at least; a level beyond the scheduler's own is read as the nearest of them.

    Arguments:
        prediction: what the network predicts: "epsilon" z, "sample" x₀, "v_prediction" (z − σx₀)/√(1 + σ²), or
            "flow_prediction" z − x₀.
        sigma_min, sigma_max: the levels that the network was trained between, in units of x.
    """

    prediction: Prediction
    sigma_min: float
    sigma_max: float

    @abstractmethod
    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told at noise levels σ."""

    @abstractmethod
    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise levels of timesteps, in [sigma_min, sigma_max]; the inverse of `timestep`."""

    @abstractmethod
    def input_scale(self, sigma: Tensor) -> Tensor:
        """c_in(σ): the network's coordinates are c_in·x_σ."""

    def output_weights(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip(σ) and c_out(σ): the denoised is c_skip·x_σ + c_out·output."""
        if self.prediction == "epsilon":
            return torch.ones_like(sigma), -sigma
        if self.prediction == "sample":
            return torch.zeros_like(sigma), torch.ones_like(sigma)
        if self.prediction == "flow_prediction":
            share = 1 / (1 + sigma)
            return share, -sigma * share
        shrinkage = torch.rsqrt(1 + sigma.square())
        return shrinkage.square(), -sigma * shrinkage

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """c_in(σ)·x: rows x_σ (n, *shape) in the network's own coordinates."""
        return x * _beside(self.input_scale(sigma), x)

    def from_network_input(self, sample: Tensor, sigma: Tensor) -> Tensor:
        """x_σ, (n, *shape), of rows in the network's coordinates; the inverse of `network_input`."""
        return sample / _beside(self.input_scale(sigma), sample)

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """E[x₀ | x_σ = x] from the network's output.

        Arguments:
            x: rows x_σ, (n, *shape).
            output: what the network predicts for `network_input(x, sigma)` and `timestep(sigma)`, (n, *shape).
            sigma: (n,) or (1,), in units of x.
        """
        skip, out = (_beside(weight, x) for weight in self.output_weights(sigma))
        return torch.addcmul(skip * x, out, output.to(skip.dtype))

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """What a network whose denoiser gives `denoised` at x predicts, (n, *shape); the inverse of `denoised`."""
        skip, out = (_beside(weight, x) for weight in self.output_weights(sigma))
        return (denoised - skip * x) / out


@dataclass(frozen=True)
class VariancePreserving(Parametrisation):
    """The network sees x_t = (x₀ + σz)/√(1 + σ²) and is told where σ lies in a table of timesteps (DDPM, DDIM …).

    The network learned whole timesteps only; between them it is told a fraction.

    Arguments:
        timesteps: (k,), rising, those of the table.
        levels: σ at each, (k,), rising.
        interpolation: how σ goes on between two entries of the table.
    """

    timesteps: NDArray[np.float64]
    levels: NDArray[np.float64]
    interpolation: Interpolation = "logarithmic"
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def timestep(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.timestep`."""
        timesteps, heights = self._table(sigma.device)
        wide = sigma.to(heights.dtype)
        height = wide.log() if self.interpolation == "logarithmic" else wide
        return _interpolated(height, heights, timesteps).to(_float_type(sigma))

    def sigma(self, timestep: Tensor) -> Tensor:
        """See `Parametrisation.sigma`."""
        timesteps, heights = self._table(timestep.device)
        height = _interpolated(timestep.to(timesteps.dtype), timesteps, heights)
        found = height.exp() if self.interpolation == "logarithmic" else height
        return found.clamp(self.sigma_min, self.sigma_max).to(_float_type(timestep))

    def input_scale(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.input_scale`."""
        return torch.rsqrt(1 + sigma.square())

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Timesteps, and σ or its logarithm, on a device, copied there once."""
        if device not in self._copies:
            heights = np.log(self.levels) if self.interpolation == "logarithmic" else self.levels
            # In double precision where there is one: between two of a thousand timesteps σ changes by little.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._copies[device] = (
                torch.tensor(self.timesteps, dtype=dtype, device=device),
                torch.tensor(heights, dtype=dtype, device=device),
            )
        return self._copies[device]


@dataclass(frozen=True)
class ContinuousVariancePreserving(Parametrisation):
    """The network sees x_t = (x₀ + σz)/√(1 + σ²) and is told ¼·ln σ (Euler with continuous timesteps)."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.timestep`."""
        return _quarter_logarithm(self, sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """See `Parametrisation.sigma`."""
        return _fourth_exponential(self, timestep)

    def input_scale(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.input_scale`."""
        return torch.rsqrt(1 + sigma.square())


@dataclass(frozen=True)
class ElucidatedDiffusion(Parametrisation):
    """EDM's own preconditioning: the network sees x_σ/√(σ² + σ_data²) and is told ¼·ln σ.

    Its prediction is neither z nor v: F = (D − c_skip·x)/c_out with c_skip = σ_data²/(σ² + σ_data²) and c_out =
    ±σ·σ_data/√(σ² + σ_data²), + where diffusers says "epsilon" and − where it says "v_prediction".

    Arguments:
        sigma_data: the standard deviation of the data, in units of x.
    """

    sigma_data: float

    def timestep(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.timestep`."""
        return _quarter_logarithm(self, sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """See `Parametrisation.sigma`."""
        return _fourth_exponential(self, timestep)

    def input_scale(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.input_scale`."""
        return torch.rsqrt(sigma.square() + self.sigma_data**2)

    def output_weights(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Parametrisation.output_weights`."""
        scale = self.input_scale(sigma)
        sign = 1.0 if self.prediction == "epsilon" else -1.0
        return (self.sigma_data * scale).square(), sign * self.sigma_data * sigma * scale


@dataclass(frozen=True)
class FlowMatching(Parametrisation):
    """The network sees x_t = (1 − t)x₀ + tz, t = σ/(1 + σ), and is told t times the number of timesteps.

    A schedule may start at t = 1, where σ is infinite; that is read as sigma_max.

    Arguments:
        train_timesteps: N, how many timesteps the scheduler counts.
    """

    train_timesteps: int

    def timestep(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.timestep`."""
        within = sigma.to(_float_type(sigma)).clamp(self.sigma_min, self.sigma_max)
        return self.train_timesteps * (within / (1 + within))

    def sigma(self, timestep: Tensor) -> Tensor:
        """See `Parametrisation.sigma`."""
        # 1 − t cancels near t = 1, and more so in single precision.
        t = timestep.to(torch.float32 if timestep.device.type == "mps" else torch.float64) / self.train_timesteps
        found = t / (1 - t).clamp_min(1e-12)
        return found.clamp(self.sigma_min, self.sigma_max).to(_float_type(timestep))

    def input_scale(self, sigma: Tensor) -> Tensor:
        """See `Parametrisation.input_scale`."""
        return 1 / (1 + sigma)


def _quarter_logarithm(parametrisation: Parametrisation, sigma: Tensor) -> Tensor:
    """¼·ln σ, σ within the parametrisation's levels."""
    within = sigma.to(_float_type(sigma)).clamp(parametrisation.sigma_min, parametrisation.sigma_max)
    return within.log() / 4


def _fourth_exponential(parametrisation: Parametrisation, timestep: Tensor) -> Tensor:
    """exp(4t), within the parametrisation's levels."""
    low, high = math.log(parametrisation.sigma_min), math.log(parametrisation.sigma_max)
    return (4 * timestep.to(_float_type(timestep))).clamp(low, high).exp()


def _interpolated(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """The piecewise linear function with these values (k,) at rising knots (k,); constant beyond their ends."""
    right = torch.searchsorted(knots, at.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    weight = (at - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(values[left], values[right], weight.clamp(0, 1))


def _float_type(numbers: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if numbers.dtype == torch.float64 else torch.float32


def _beside(weight: Tensor, x: Tensor) -> Tensor:
    """Numbers (n,) to multiply rows x (n, …) with, in the dtype of x, and float32 at least."""
    return weight.reshape(-1, *(1,) * (x.ndim - 1)).to(_float_type(x))
