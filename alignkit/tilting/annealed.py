"""The annealed engine: particles carried from p to q_θ through intermediate tilts, for learned denoisers.

A network never saw its inputs moved by σ²θ at large σ, so starting the tilted denoiser at σ_max is wrong there. Base
draws are right, and so is a small move: particles are reweighted by exp((t' − t)⟨θ, x⟩), resampled, then noised to a
moderate σ and denoised under t'θ, which leaves q_{t'θ} invariant. This is sequential Monte Carlo (Del Moral, Doucet and
Jasra, "Sequential Monte Carlo samplers", J. R. Stat. Soc. B 68, 2006), its temperatures chosen by effective sample
size.

Particles live on islands that resample apart, so that the spread between islands is an honest standard error: it
holds the randomness of weights, of shared ancestors and of the moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import DenoisingTiltSession, Progress
from alignkit.estimates import Estimate
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.calibration import calibrate
from alignkit.tilting.fitted import TiltMoments
from alignkit.tilting.weighting import effective_size, largest_step, systematic_resampling

__all__ = ["AnnealedTilt", "fit_annealed"]

Floats = NDArray[np.float64]

_PARTICLES = 4096
_ISLANDS = 16
_ESS_SHARE = 0.5
# From σ = 2 a Gaussian comes out 0.3 to 0.5 % too wide after 31 evaluations; after 15 it was 1 to 2 %, at every move.
_MOVE_NFE = 31


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


def fit_annealed(session: DenoisingTiltSession, *, seed: int, progress: Progress = None) -> AnnealedTilt:
    """Fit one tilt by annealing.

    Arguments:
        session: a sampler of the one direction θ, wanted at coordinate 1.
        seed: fixes the particles.
        progress: told how far it is, as the share of the path from 0 to θ in percent.
    """
    seed = fold_seed(seed, "annealing")
    x = session.draw(np.zeros((1, 1)), _PARTICLES, seed=seed, progress=progress)
    scores = session.features(x)[:, 0]
    before = Estimate.of_mean(scores)
    calibration = calibrate(session, x, scores, seed=fold_seed(seed, "calibration"), nfe=_MOVE_NFE)

    island_log_z = np.zeros(_ISLANDS)
    ancestors = np.arange(_PARTICLES)
    strength, stage, smallest = 0.0, 0, math.inf
    while strength < 1.0:
        stage += 1
        step = largest_step(scores, _ESS_SHARE, at_most=1.0 - strength)
        increments = (step * scores).reshape(_ISLANDS, -1)
        island_log_z += np.logaddexp.reduce(increments, axis=1) - math.log(increments.shape[1])
        smallest = min(smallest, effective_size(increments.ravel()))
        strength = min(1.0, strength + step)
        chosen = systematic_resampling(increments, uniform(seed, _ISLANDS, 1, stage=2 * stage + 1))
        ancestors = ancestors[chosen]
        x = session.renoise(
            session.take(x, chosen),
            np.full((1, 1), strength),
            sigma=calibration.sigma,
            nfe=_MOVE_NFE,
            seed=seed,
            stage=2 * stage,
        )
        scores = session.features(x)[:, 0]
        if progress is not None:
            progress("annealing", round(100 * strength), 100)

    island_weights = np.exp(island_log_z - np.logaddexp.reduce(island_log_z))
    # The certificate is about what `sample` returns, and that is one more move away.
    returned = session.renoise(
        x, np.ones((1, 1)), sigma=calibration.sigma, nfe=_MOVE_NFE, seed=seed, stage=2 * stage + 2
    )
    after = _over_islands(session.features(returned)[:, 0].reshape(_ISLANDS, -1).mean(axis=1), island_weights)
    spread = float(np.var(scores))
    ess = spread / after.standard_error**2 if after.standard_error > 0 else float(_PARTICLES)
    moments = TiltMoments(
        before=before,
        after=after,
        log_partition=_log_mean(island_log_z),
        ess=min(ess, float(_PARTICLES)),
        nfe_per_sample=_MOVE_NFE,
        calibration=calibration,
        details={
            "annealing": f"{stage} stages of {_PARTICLES} particles, smallest ESS {smallest:.0f}",
            "ancestors": f"{np.unique(ancestors).size} base draws survive",
        },
    )
    weights = np.repeat(island_weights / (_PARTICLES // _ISLANDS), _PARTICLES // _ISLANDS)
    return AnnealedTilt(session, x, weights, calibration.sigma, moments)


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
