"""Which samplers of a flow-matching model preserve its law: on a mixture whose velocity is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak

diffusers = pytest.importorskip("diffusers")

#: Eight modes in 16 dimensions, far apart against their standard deviation of ½: √(16·¼) = 2 within a mode.
CENTRES = np.random.default_rng(0).normal(size=(8, 16)) * 2
MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), CENTRES, 0.25)
ROWS = 1000
#: Five standard errors of that root mean square over as many rows: 0.056.
SAMPLING = 5 * 2.0 / math.sqrt(2 * 16 * ROWS)


def velocity(x, t):
    """E[z − x₀] at x = (1 − t)x₀ + tz, (n, 16), by the exact denoiser at σ = t/(1 − t); at t = 1 that of σ = 10⁴."""
    sigma = (t / (1 - t).clamp(min=1e-4))[:, None]
    noisy = x * (1 + sigma)
    denoised = MIXTURE.denoise(noisy, sigma[:, 0])
    return (noisy - denoised) / sigma - denoised


def within_modes(draws):
    """The root mean square distance to the nearest mode."""
    return math.sqrt(((np.asarray(draws)[:, None] - CENTRES) ** 2).sum(axis=2).min(axis=1).mean())


def drawn(steps, **options):
    """Rows from a number of a scheduler's own steps, as its pipelines make them."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 16, generator=generator, dtype=torch.float64)
    for timestep in scheduler.timesteps:
        output = velocity(x, (timestep.double() / 1000).expand(ROWS))
        x = scheduler.step(output, timestep, x, generator=generator, return_dict=False)[0]
    return x.numpy()


def test_a_scheduler_that_draws_all_noise_afresh_does_not():
    """x' = (1 − t')x₀ + t'z with what is denoised for x₀: its spread around that is left out again in every step."""
    widths = {steps: within_modes(drawn(steps, stochastic_sampling=True)) for steps in (50, 200)}
    # Measured: 1.29, 1.35, 1.38, 1.40 and 1.41 at 16, 50, 100, 200 and 400 steps.
    assert widths[50] == pytest.approx(1.35, abs=SAMPLING) and widths[200] == pytest.approx(1.40, abs=SAMPLING)


def test_the_same_scheduler_without_noise_does():
    # Its first order leaves modes 1.5 % too narrow at 50 steps, and 0.4 % at 100.
    assert within_modes(drawn(100)) == pytest.approx(2.0, abs=SAMPLING + 0.01)


@pytest.mark.parametrize("solver", ["dpm_solver_2m", "heun", "sde"])
def test_solvers_of_second_order_do(solver):
    base = ak.base.Denoiser(
        velocity,
        (16,),
        prediction="velocity",
        coordinates="flow",
        sigma_min=0.002,
        sigma_max=80.0,
        dtype="float64",
        solver=solver,
        nfe=61,
    )
    assert within_modes(base.sample(ROWS, seed=0)) == pytest.approx(2.0, abs=SAMPLING + 0.04)


def test_ancestral_sampling_does_in_the_limit():
    """Its noise is that of a path's posterior: what it leaves out falls with the steps."""
    network = {"prediction": "velocity", "coordinates": "flow", "sigma_min": 0.002, "sigma_max": 80.0}
    missing = [
        2.0
        - within_modes(ak.base.Denoiser(velocity, (16,), solver="ancestral", nfe=nfe, **network).sample(ROWS, seed=0))
        for nfe in (50, 200)
    ]
    # A quarter, but for five standard errors and what is left of 200 steps' second order.
    assert 0.15 < missing[0] < 0.3 and missing[1] < missing[0] / 4 + SAMPLING + 0.02
