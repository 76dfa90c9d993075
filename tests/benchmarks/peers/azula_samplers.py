"""azula's guided samplers (https://azula.readthedocs.io), given r/λ for a log-likelihood.

Guidance by gradient is diffusion posterior sampling (Chung et al., arXiv 2209.14687) with log E[exp(r/λ) | x_t] taken
at the denoised point: azula's own class has a Gaussian likelihood inside, so the gradient enters through the denoiser
of its DDPM sampler. TDS is azula's class, with r/λ at the denoised point as the twist. Both may be damped by
1/(1 + cσ²), which is 1 in the end. A convex quadratic is a Gaussian likelihood of negative variance, which MMPS, TMPD,
JFPS and DiffPIR take as they take any other; other rewards are none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.kl_exact import Counted
from tests.benchmarks.peers.peer import Drawn, Sampler
from tests.benchmarks.problems import Case

if TYPE_CHECKING:
    from azula.denoise import Denoiser
    from azula.sample import Sampler as Reverse

SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
STRENGTHS, DAMPINGS = (0.25, 0.5, 1.0), (0.0, 1.0, 4.0)


def _schedule() -> Any:
    from azula.noise import VESchedule

    return VESchedule(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)


def _plain(denoiser: Counted) -> Denoiser:
    from azula.denoise import Denoiser, DiracPosterior

    class Plain(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = _schedule()

        def forward(self, x_t: Any, t: Any, **_: Any) -> Any:
            return DiracPosterior(mean=denoiser(x_t, self.schedule(t)[1].to(x_t.dtype).expand(len(x_t))))

    return Plain()


def _drawn(case: Case, sampler: Reverse, copies: int = 1) -> Sampler:
    """As many rows as asked for out of `copies` times as many that were drawn together."""
    import torch

    def sample(rows: int, seed: int) -> Drawn:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = sampler.init((copies * rows, *case.law.shape), dtype=torch.float32)
            found = sampler(start).numpy()
        return Drawn(found[np.random.default_rng(seed).permutation(len(found))[:rows]])

    return sample


def _options(steps: int) -> dict[str, Any]:
    return {"steps": steps, "silent": True}


def guided(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """DDPM with the denoiser moved by ζσ²·∇r(x̂)/λ, the gradient taken through the denoiser."""
    import torch
    from azula.denoise import Denoiser, DiracPosterior
    from azula.sample import DDPMSampler

    class Guided(Denoiser):
        def __init__(self, strength: float, damping: float) -> None:
            super().__init__()
            self.plain = _plain(denoiser)
            self.schedule = self.plain.schedule
            self.strength, self.damping = strength, damping

        def forward(self, x_t: Any, t: Any, **_: Any) -> Any:
            variance = self.schedule(t)[1] ** 2
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                mean = self.plain(x_t, t).mean
                gradient = torch.autograd.grad(case.exponent(mean).sum(), x_t)[0]
            return DiracPosterior(
                mean=mean.detach() + self.strength * variance / (1 + self.damping * variance) * gradient
            )

    return {
        f"ζ = {strength:g}, c = {damping:g}": _drawn(case, DDPMSampler(Guided(strength, damping), **_options(budget)))
        for strength, damping in itertools.product(STRENGTHS, DAMPINGS)
    }


def twisted(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """Twisted diffusion sampling (Wu et al., arXiv 2306.17775); fewer steps pay for more particles."""
    from azula.guidance import TDSSampler

    def made(damping: float, copies: int) -> Sampler:
        def twist(mean: Any, sigma: Any) -> Any:
            return case.exponent(mean)[:, None] / (1 + damping * sigma**2)

        return _drawn(case, TDSSampler(_plain(denoiser), twist, **_options(budget // copies)), copies)

    return {
        f"c = {damping:g}, {budget // copies} steps": made(damping, copies)
        for damping, copies in itertools.product(DAMPINGS, (1, 2, 4))
    }


def gaussian(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """The samplers that are made for Gaussian likelihoods, on quadratics."""
    import torch
    from azula.guidance import DiffPIRDenoiser, JFPSDenoiser, MMPSDenoiser, TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    square = case.square
    assert square is not None
    variance = torch.tensor(-square.variance)
    offset = -square.seen.value(torch.zeros(1, *case.law.shape))

    def seen(x: Any) -> Any:
        return square.seen.value(x) + offset

    plain, noise = _plain(denoiser), IsotropicCovariance(variance)
    denoisers: dict[str, Denoiser] = {
        f"MMPS, {steps} steps of GMRES": MMPSDenoiser(plain, offset, seen, noise, iterations=steps) for steps in (1, 2)
    }
    denoisers["TMPD"] = TMPDenoiser(plain, offset, seen, variance)
    for spread in (0.1, 0.25):
        prior = IsotropicCovariance(torch.tensor(spread))
        denoisers[f"JFPS, variance {spread:g}"] = JFPSDenoiser(plain, offset, seen, noise, prior, solver="gmres")
    for strength in (10.0, 100.0):
        denoisers[f"DiffPIR, λ = {strength:g}"] = DiffPIRDenoiser(plain, offset, seen, variance, lmbda=strength)
    return {name: _drawn(case, DDPMSampler(made, **_options(budget))) for name, made in denoisers.items()}
