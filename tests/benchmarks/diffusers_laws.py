"""A mixture as networks of diffusers, one for each scheduler and prediction, against exact draws.

Bars: the converted denoiser is the exact one to 10⁻⁵ of the law's standard deviation at every level of a schedule of 50
steps; plain and tilted draws (‖θ‖ = 3) of at most 50 NFE are at most 1.15 times as far from the law as exact draws in
mean sliced W2 over 30 seeds (missed only if ratio − 2 standard errors > 1.15).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.mixture import SlicedW2
from tests.diffusers.networks import mixture, mixture_network

DRAWS, SEEDS, REFERENCE, STRENGTH = 1_000, 30, 20_000, 3.0
ERROR_BAR, RATIO_BAR, NFE_BAR = 1e-5, 1.15, 50

Floats = NDArray[np.float64]

PREDICTIONS = ("epsilon", "sample", "v_prediction")
KARRAS = {"use_karras_sigmas": True}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}
NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def cells() -> Iterator[Any]:
    """Schedulers by the predictions they take, then variants of their tables."""
    plain = {"clip_sample": False}
    for prediction in PREDICTIONS:
        kind = {"prediction_type": prediction}
        yield diffusers.DDPMScheduler(**plain, **kind)
        yield diffusers.DDIMScheduler(**plain, **kind)
        yield diffusers.DPMSolverMultistepScheduler(**kind)
        yield diffusers.EulerDiscreteScheduler(**kind)
        if prediction != "sample":
            yield diffusers.PNDMScheduler(**kind)
            yield diffusers.EDMEulerScheduler(**kind)
    yield diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    yield diffusers.DPMSolverMultistepScheduler(**FLOW)
    yield diffusers.DDIMScheduler(**plain, **COSINE)
    yield diffusers.DDIMScheduler(**plain, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    yield diffusers.DDPMScheduler(**plain, **NO_SIGNAL)
    yield diffusers.EulerDiscreteScheduler(**NO_SIGNAL)
    yield diffusers.EulerDiscreteScheduler(**KARRAS)
    yield diffusers.EulerDiscreteScheduler(**KARRAS, **CONTINUOUS)


def label(scheduler: Any) -> str:
    """A scheduler in a few words."""
    config = scheduler.config
    prediction = config.get("prediction_type", "flow_prediction").removesuffix("_prediction")
    extra = {
        "Karras": config.get("use_karras_sigmas"),
        "continuous": config.get("timestep_type") == "continuous",
        "no signal": config.get("rescale_betas_zero_snr"),
        "cosine": config.get("beta_schedule") == "squaredcos_cap_v2",
        "scaled": config.get("beta_schedule") == "scaled_linear",
    }
    words = [type(scheduler).__name__.removesuffix("Scheduler"), prediction]
    return " ".join(words + [word for word, holds in extra.items() if holds])


@dataclass(frozen=True)
class Ratio:
    """How much farther draws are from a law than exact draws of it, by mean sliced W2, and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"

    @property
    def holds(self) -> bool:
        return self.value - 2 * self.error <= RATIO_BAR


class Truth:
    """An exact law, and what exact draws of it reach."""

    def __init__(self, law: ak.base.GaussianMixture, draws: int) -> None:
        self.distance = SlicedW2(_flat(law.sample(REFERENCE, seed=10_000)))
        self.best = np.array([self.distance(_flat(law.sample(draws, seed=1_000 + seed))) for seed in range(SEEDS)])

    def ratio(self, draws: list[Floats]) -> Ratio:
        """Of draws, (n, *shape) for each seed."""
        ours = np.array([self.distance(_flat(part)) for part in draws])
        value = ours.mean() / self.best.mean()
        spread = sum(found.var(ddof=1) / found.mean() ** 2 / len(found) for found in (ours, self.best))
        return Ratio(value, value * np.sqrt(spread))


EXACT = mixture()


@cache
def direction() -> Floats:
    """Of the tilt, a unit vector (1, d)."""
    found = np.random.default_rng(5).normal(size=(1, EXACT.ambient))
    return found / np.linalg.norm(found)


@cache
def truths(draws: int) -> tuple[Truth, Truth]:
    """The mixture, and its tilt."""
    return Truth(EXACT, draws), Truth(EXACT.tilt(STRENGTH * direction()), draws)


def denoiser_error(scheduler: Any) -> float:
    """The largest difference of the converted denoiser to the exact one, in standard deviations of the law."""
    law = ak.base.from_diffusers(mixture_network(EXACT, scheduler), scheduler, exact=True, dtype="float64")
    run = copy.deepcopy(scheduler)
    run.set_timesteps(NFE_BAR)
    levels = law.parametrisation.sigma(run.timesteps.double())
    clean = torch.tensor(EXACT.sample(len(levels), seed=0))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = clean + levels.reshape(-1, 1, 1, 1) * noise
    off = (law.denoise(x, levels) - EXACT.denoise(x, levels)).abs().max()
    return float(off / np.sqrt(np.diag(EXACT.covariance).mean()))


def draw_ratios(law: ak.base.Denoiser, draws: int) -> tuple[Ratio, Ratio]:
    """Of plain and of tilted draws, half a batch each."""
    tilts = np.repeat([[0.0], [STRENGTH]], draws, axis=0)
    session = TorchTiltSampler().open(TiltProgram(law, direction(), tilts, 2 * draws, device="cpu"))
    drawn = [session.draw(tilts, 2 * draws, seed=seed).double().numpy() for seed in range(SEEDS)]
    plain, tilted = truths(draws)
    return plain.ratio([part[:draws] for part in drawn]), tilted.ratio([part[draws:] for part in drawn])


def run(draws: int = DRAWS) -> bool:
    torch.set_num_threads(1)
    held = True
    print(f"{draws} draws, {SEEDS} seeds; NFE of the network for a draw, counted by itself")
    print(f"{'scheduler, prediction':<44} {'σ':<16} denoiser off   {'plain':<16} {'tilted':<16} NFE")
    for scheduler in cells():
        error = denoiser_error(scheduler)
        network = mixture_network(EXACT, scheduler, dtype=torch.float32)
        law = ak.base.from_diffusers(network, scheduler, exact=True, tail=0.25)
        network.rows = 0
        plain, tilted = draw_ratios(law, draws)
        nfe = network.rows / (2 * draws * SEEDS)
        fine = error <= ERROR_BAR and plain.holds and tilted.holds and round(nfe) <= NFE_BAR
        levels = f"{law.sigma_min:.3g} to {law.sigma_max:.4g}"
        print(
            f"{label(scheduler):<44} {levels:<16} {error:.1e}        {plain!s:<16} {tilted!s:<16} {nfe:.1f}  "
            f"{'' if fine else 'MISSED'}",
            flush=True,
        )
        held &= fine
    return held


def _flat(draws: Any) -> Floats:
    return np.asarray(draws, dtype=np.float64).reshape(len(draws), -1)
