"""Exact mixtures as networks of diffusers: what a perfectly trained network would answer, in its scheduler's own terms.

Nothing here uses `alignkit_diffusers`: the formulas are those of the definitions, x_t = a·x₀ + s·z.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

import alignkit as ak

# 1 − t and ᾱ of noise without end, as a number that can be divided by.
SMALLEST = 1e-7


def mixture(shape: tuple[int, ...] = (1, 4, 4), components: int = 4, seed: int = 0) -> ak.base.GaussianMixture:
    """Components of variance 1/4 whose means lie about 2 apart in each coordinate."""
    means = np.random.default_rng(seed).normal(size=(components, *shape)) * 2
    weights = np.linspace(1.0, 2.0, components)
    return ak.base.GaussianMixture(weights, means, 0.25, name="exact mixture")


class MixtureNetwork(ModelMixin, ConfigMixin):
    """The network of an exact mixture for a scheduler: (sample, timestep) → the scheduler's own prediction.

    Made by `mixture_network`. `calls` and `rows` count what it was asked.
    """

    @register_to_config
    def __init__(self, in_channels: int = 1, out_channels: int = 1, sample_size: Any = 4) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))
        self.calls = self.rows = 0

    def forward(self, sample: torch.Tensor, timestep: Any, return_dict: bool = True) -> Any:
        self.calls += 1
        self.rows += len(sample)
        answer = self.answer(sample.double(), torch.as_tensor(timestep, device=sample.device).double())
        answer = answer.to(sample.dtype)
        if self.config.out_channels == 2 * self.config.in_channels:
            answer = torch.cat([answer, torch.full_like(answer, 7.0)], dim=1)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)

    def answer(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The prediction, float64."""
        n = len(sample)
        a, s = (part.expand(n) for part in self.noising(timestep.reshape(-1)))
        a, s = (part.reshape(-1, *(1,) * (sample.ndim - 1)) for part in (a, s))
        if self.kind == "edm":
            # a is EDM's c_in, and s is c_in·σ.
            sigma = s / a
            x = sample / a
            denoised = self.law.denoise(x, sigma.reshape(n))
            data = self.scheduler.config.sigma_data
            kept = data**2 / (sigma**2 + data**2)
            sign = 1 if self.prediction == "epsilon" else -1
            return (denoised - kept * x) / (sign * sigma * data / (sigma**2 + data**2) ** 0.5)
        clean = self.law.denoise(sample / a, (s / a).reshape(n))
        noise = (sample - a * clean) / s
        return {
            "sample": clean,
            "epsilon": noise,
            "v_prediction": a * noise - s * clean,
            "flow_prediction": noise - clean,
        }[self.prediction]

    def noising(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """a and s of x_t = a·x₀ + s·z, at timesteps."""
        config = self.scheduler.config
        if self.kind == "flow":
            t = timestep / config.num_train_timesteps
            return (1 - t).clamp_min(SMALLEST), t
        if self.kind in {"edm", "continuous"}:
            sigma = torch.exp(4 * timestep)
            a = 1 / (sigma**2 + (config.sigma_data if self.kind == "edm" else 1.0) ** 2) ** 0.5
            return a, a * sigma
        retained = np.maximum(self.scheduler.alphas_cumprod.double().cpu().numpy(), SMALLEST**2)
        levels = np.sqrt((1 - retained) / retained)
        at = timestep.cpu().numpy()
        grid = np.arange(len(levels))
        if self.straight:
            sigma = np.interp(at, grid, levels)
        else:
            sigma = np.exp(np.interp(at, grid, np.log(levels)))
        sigma = torch.tensor(sigma, device=timestep.device)
        return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5


def mixture_network(
    law: ak.base.GaussianMixture, scheduler: Any, *, learned_variance: bool = False, dtype: torch.dtype = torch.float64
) -> MixtureNetwork:
    """The exact network of a mixture of shape (c, h, w) for a scheduler.

    `learned_variance` doubles the channels of the answer, `dtype` is what the network says it is kept in.
    """
    channels, height, width = law.shape
    side = height if height == width else (height, width)
    network = MixtureNetwork(channels, channels * (2 if learned_variance else 1), side).eval()
    network.anchor = network.anchor.to(dtype)
    name = type(scheduler).__name__
    config = scheduler.config
    network.law, network.scheduler = law, scheduler
    network.prediction = config.get("prediction_type", "flow_prediction")
    continuous = config.get("timestep_type") == "continuous" and network.prediction == "v_prediction"
    flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas")
    network.kind = "edm" if name.startswith("EDM") else "flow" if flow else "continuous" if continuous else "table"
    # Between whole timesteps these schedulers take σ itself to be linear, the others its logarithm.
    own = any(config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
    network.straight = name.startswith(("Euler", "Heun", "LMS")) and not own
    return network
