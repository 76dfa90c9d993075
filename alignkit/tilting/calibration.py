"""Calibration of the tilted denoiser: its draws against reweighted draws of the base, where both can be had."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.certificates import Calibration
from alignkit.contracts import DenoisingTiltSession
from alignkit.noise import uniform
from alignkit.tilting.weighting import effective_size, largest_step, systematic_resampling

__all__ = ["DRIFT", "GENTLEST", "calibrate"]

Floats = NDArray[np.float64]

# The reference keeps this share of its draws' worth: a stronger tilt would be compared with noise.
_ESS_SHARE = 0.25
#: The least noise scale of a move, in standard deviations of an entry of x.
GENTLEST = 0.5
# Those to try, the best mixing first.
_SCALES = (4.0, 2.0, 1.0, GENTLEST)
#: A move may drift by this much of a base standard deviation, beside its standard error, before a gentler one is tried.
DRIFT = 0.01
_NAIVE_ROWS = 1024


def calibrate(session: DenoisingTiltSession, x: Any, scores: Floats, *, seed: int, nfe: int) -> Calibration:
    """Choose the noise scale of the renoising move, and measure what the move gets wrong.

    Base draws are reweighted to the strongest tilt tθ, t ≤ 1, that keeps a quarter of their effective size,
    resampled, and moved once under tθ. The move leaves q_{tθ} invariant if the denoiser is right, so the change of
    the mean of ⟨θ, x⟩ is the denoiser's error; draws started at σ_max under tθ show the naive error beside it.

    Arguments:
        session: a sampler of the one direction θ.
        x: (n, *shape), draws of the base.
        scores: (n,), ⟨θ, x⟩ of them.
        seed: fixes the moves.
        nfe: evaluations per move.
    """
    spread = float(scores.std())
    entry = session.spread(x)
    strength = largest_step(scores, _ESS_SHARE, at_most=1.0)
    tilt = np.full((1, 1), strength)
    log_weights = strength * scores
    weights = np.exp(log_weights - log_weights.max())
    target = float(weights @ scores / weights.sum())
    size = effective_size(log_weights)
    if spread == 0:
        return Calibration(0.0, 0.0, strength, entry * _SCALES[0], 0.0)

    chosen = systematic_resampling(log_weights[None], uniform(seed, 1, 1))
    start = session.take(x, chosen)
    best: Calibration | None = None
    naive = float(session.features(session.draw(tilt, _NAIVE_ROWS, seed=seed, stage=1)).mean()) - target
    for number, scale in enumerate(_SCALES):
        moved = session.features(
            session.renoise(start, tilt, sigma=scale * entry, nfe=nfe, seed=seed, stage=2 + number)
        )[:, 0]
        change = moved - scores[chosen]
        residual = float(moved.mean()) - target
        error = float(change.std()) / math.sqrt(size)
        candidate = Calibration(residual / spread, error / spread, strength, scale * entry, naive / spread)
        if abs(residual) <= DRIFT * spread + 2 * error:
            return candidate
        if best is None or abs(candidate.residual) < abs(best.residual):
            best = candidate
    assert best is not None
    return best
