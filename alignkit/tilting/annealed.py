"""The annealed engine: particles carried from p to q_θ through intermediate tilts, for learned denoisers.

A network never saw its inputs moved by σ²θ at large σ, so starting the tilted denoiser at σ_max is wrong there. Base
draws are right, and so is a small move: particles are reweighted by exp((t' − t)⟨θ, x⟩), resampled, then noised to a
moderate σ and denoised under t'θ, which leaves q_{t'θ} invariant. This is sequential Monte Carlo (Del Moral, Doucet and
Jasra, "Sequential Monte Carlo samplers", J. R. Stat. Soc. B 68, 2006), its temperatures chosen by effective sample
size.

Every move is a test: it must leave the mean of ⟨θ, x⟩ where the resampled particles have it. Where it does not, the
tilt has left what the network knows at that noise, and a gentler move is tried.

Particles live on islands that resample apart, so that the spread between islands is an honest standard error: it
holds the randomness of weights, of shared ancestors and of the moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import DenoisingTiltSession, Progress
from alignkit.errors import ParameterError
from alignkit.estimates import Estimate
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.calibration import DRIFT, GENTLEST, calibrate
from alignkit.tilting.fitted import TiltMoments
from alignkit.tilting.weighting import effective_size, largest_step, systematic_resampling

__all__ = ["AnnealedTilt", "fit_annealed", "particle_count"]

Floats = NDArray[np.float64]

_PARTICLES_MAX = 4096
_ISLANDS = 16
# Particles of very large draws are fewer, so that they fit in memory (1 GiB of float32), but never fewer than these.
_PARTICLE_ENTRIES = 1 << 28
_PARTICLES_MIN = 256
_ESS_SHARE = 0.5
# From σ = 2 a Gaussian comes out 0.3 to 0.5 % too wide after 31 evaluations; after 15 it was 1 to 2 %, at every move.
_MOVE_NFE = 31
# A path this long leads far beyond anything the network was trained on.
_STAGES_MAX = 64


@dataclass(frozen=True, eq=False)
class AnnealedTilt:
    """Draws of q_θ: a particle chosen by the sample's seed, noised and denoised afresh; see `FittedTilt`.

    Arguments:
        session: the sampler.
        particles: (N, *shape), on its device, distributed as q_θ once weighted.
        weights: (N,), summing to 1.
        sigma: the noise scale of the fresh move, in units of x.
        moments: what the fit measured.
    """

    session: DenoisingTiltSession
    particles: Any
    weights: Floats
    sigma: float
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays."""
        ancestors = categorical(self.weights[None], uniform(seed, rows, 1, stage=1)[:, 0])
        start = self.session.take(self.particles, ancestors)
        return self.session.renoise(
            start, np.ones((1, 1)), sigma=self.sigma, nfe=_MOVE_NFE, seed=seed, stage=2, progress=progress
        )


def particle_count(ambient: int) -> int:
    """How many particles are carried when a draw has `ambient` entries; a multiple of the number of islands.

    Example:
        >>> particle_count(64), particle_count(3 * 512 * 512)
        (4096, 336)
    """
    fitting = _PARTICLE_ENTRIES // ambient // _ISLANDS * _ISLANDS
    return min(_PARTICLES_MAX, max(_PARTICLES_MIN, fitting))


def fit_annealed(
    session: DenoisingTiltSession, *, seed: int, particles: int = _PARTICLES_MAX, progress: Progress = None
) -> AnnealedTilt:
    """Fit one tilt by annealing.

    Arguments:
        session: a sampler of the one direction θ, wanted at coordinate 1.
        seed: fixes the particles.
        particles: how many, a multiple of 16; see `particle_count`.
        progress: told how far it is, as the share of the path from 0 to θ in percent.

    Raises:
        ParameterError: the tilt is so strong that the path to it does not end.
        NonFiniteError: the denoiser returned a NaN or an infinity.
    """
    seed = fold_seed(seed, "annealing")
    x = session.draw(np.zeros((1, 1)), particles, seed=seed, progress=progress)
    scores = session.features(x)[:, 0]
    before = Estimate.of_mean(scores)
    calibration = calibrate(session, x, scores, seed=fold_seed(seed, "calibration"), nfe=_MOVE_NFE)
    mover = _Mover(session, seed, float(scores.std()), GENTLEST * session.spread(x), calibration.sigma)

    island_log_z = np.zeros(_ISLANDS)
    ancestors = np.arange(particles)
    strength, stage, smallest = 0.0, 0, math.inf
    while strength < 1.0:
        stage += 1
        if stage > _STAGES_MAX:
            raise ParameterError(
                f"The tilt θ = g/λ is too strong for this base law: {_STAGES_MAX} stages of annealing reached "
                f"{strength:.1%} of it.",
                ways_out=[f"Multiply the weight λ by {1 / max(strength, 1e-9):.3g} or more.", "Scale the reward down."],
            )
        step = largest_step(scores, _ESS_SHARE, at_most=1.0 - strength)
        increments = (step * scores).reshape(_ISLANDS, -1)
        island_log_z += np.logaddexp.reduce(increments, axis=1) - math.log(increments.shape[1])
        smallest = min(smallest, effective_size(increments.ravel()))
        strength = min(1.0, strength + step)
        chosen = systematic_resampling(increments, uniform(seed, _ISLANDS, 1, stage=2 * stage + 1))
        ancestors = ancestors[chosen]
        x, scores = mover.move(session.take(x, chosen), scores[chosen], strength, stage=2 * stage)
        if progress is not None:
            progress("annealing", round(100 * strength), 100)

    island_weights = np.exp(island_log_z - np.logaddexp.reduce(island_log_z))
    # The certificate is about what `sample` returns, and that is one more move away.
    _, returned = mover.move(x, scores, 1.0, stage=2 * stage + 2)
    after = _over_islands(returned.reshape(_ISLANDS, -1).mean(axis=1), island_weights)
    spread = float(np.var(scores))
    ess = spread / after.standard_error**2 if after.standard_error > 0 else float(particles)
    moments = TiltMoments(
        before=before,
        after=after,
        log_partition=_log_mean(island_log_z),
        ess=min(ess, float(particles)),
        nfe_per_sample=_MOVE_NFE,
        calibration=replace(calibration, sigma=mover.sigma, drift=mover.drift),
        details={
            "annealing": f"{stage} stages of {particles} particles, smallest ESS {smallest:.0f}",
            "ancestors": f"{np.unique(ancestors).size} base draws survive",
        },
    )
    weights = np.repeat(island_weights / (particles // _ISLANDS), particles // _ISLANDS)
    return AnnealedTilt(session, x, weights, mover.sigma, moments)


class _Mover:
    """Renoising moves whose noise scale falls when they drift.

    Arguments:
        session: a sampler of the one direction θ.
        seed: fixes the moves.
        unit: the base standard deviation of ⟨θ, x⟩.
        gentlest: the least noise scale to fall to, in units of x.
        sigma: the noise scale to begin with.

    Attributes:
        sigma: the noise scale of the next move.
        drift: what all moves changed of the mean of ⟨θ, x⟩, in base standard deviations.
    """

    def __init__(self, session: DenoisingTiltSession, seed: int, unit: float, gentlest: float, sigma: float) -> None:
        self.session, self.seed, self.unit, self.gentlest, self.sigma = session, seed, unit, gentlest, sigma
        self.drift = Estimate(0.0)

    def move(self, start: Any, scores: Floats, strength: float, *, stage: int) -> tuple[Any, Floats]:
        """Move particles that follow q_{tθ}: their new places and scores."""
        while True:
            tilt = np.full((1, 1), strength)
            x = self.session.renoise(start, tilt, sigma=self.sigma, nfe=_MOVE_NFE, seed=self.seed, stage=stage)
            moved = self.session.features(x)[:, 0]
            change = Estimate.of_mean((moved - scores).reshape(_ISLANDS, -1).mean(axis=1))
            if abs(change.value) <= DRIFT * self.unit + 2 * change.standard_error or self.sigma <= self.gentlest:
                unit = self.unit or 1.0
                self.drift = Estimate(
                    self.drift.value + change.value / unit,
                    math.hypot(self.drift.standard_error, change.standard_error / unit),
                )
                return x, moved
            self.sigma = max(self.sigma / 2, self.gentlest)


def _over_islands(means: Floats, weights: Floats) -> Estimate:
    """The weighted mean over islands, with the standard error of a ratio estimator."""
    mean = float(weights @ means)
    count = means.size
    error = math.sqrt(float(weights**2 @ (means - mean) ** 2) * count / (count - 1))
    return Estimate(mean, error)


def _log_mean(logs: Floats) -> Estimate:
    """The logarithm of the islands' mean estimate of Z, with its standard error by the delta method."""
    count = logs.size
    value = float(np.logaddexp.reduce(logs) - math.log(count))
    relative = np.exp(logs - value)
    return Estimate(value, float(relative.std(ddof=1) / math.sqrt(count)))
