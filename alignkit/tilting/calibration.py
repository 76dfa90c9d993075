"""Calibration of the tilted denoiser: its draws against reweighted draws of the base, where both can be had."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.certificates import Calibration
from alignkit.contracts import DenoisingTiltSession
from alignkit.errors import NonFiniteError
from alignkit.estimates import Estimate
from alignkit.noise import fold_seed, uniform
from alignkit.tilting.gibbs import GibbsSweep
from alignkit.tilting.path import TiltPath
from alignkit.tilting.weighting import effective_size, largest_share, systematic_resampling

__all__ = ["BOLDEST", "DRIFT", "GENTLEST", "calibrate"]

Floats = NDArray[np.float64]

# The reference keeps this share of its draws' worth: a stronger tilt would be compared with noise.
_ESS_SHARE = 0.25
#: The largest noise scale of a move, in standard deviations of an entry of x: it mixes best.
BOLDEST = 4.0
#: The least.
GENTLEST = 0.5
_SCALES = (BOLDEST, 2.0, 1.0, GENTLEST)
#: A move may drift by this much of a base standard deviation, beside its standard error, before a gentler one is tried.
DRIFT = 0.01
_NAIVE_ROWS = 1024


def calibrate(
    path: TiltPath, session: DenoisingTiltSession, x: Any, features: Floats, *, seed: int, nfe: int
) -> Calibration:
    """Choose the noise scale of the renoising move, and measure what the move gets wrong.

    Base draws are reweighted to the law at the largest β ≤ 1 that keeps a quarter of their effective size, resampled,
    and swept once. The sweep leaves that law invariant if the denoiser is right, so the change of the mean of r/λ is
    the denoiser's error; draws started at σ_max under the same tilts show the naive error beside it, and base draws
    moved without a tilt show what the model gets wrong of its own law.

    Arguments:
        path: the laws, and the target whose exponent r/λ is compared.
        session: opened on their program.
        x: (n, *shape), draws of the base.
        features: (n, m), of x.
        seed: fixes the moves.
        nfe: evaluations per move.
    """
    exponents = path.target.exponent(features)
    spread, entry = float(exponents.std()), session.spread(x)
    at_base = path.log_density(features, 0.0)
    share = largest_share(lambda share: path.log_density(features, share) - at_base, _ESS_SHARE, at_most=path.reach)
    if spread == 0:
        return Calibration(0.0, 0.0, share, entry * BOLDEST, 0.0)

    log_weights = path.log_density(features, share) - at_base
    weights = np.exp(log_weights - log_weights.max())
    truth = float(weights @ exponents / weights.sum())
    size = effective_size(log_weights)
    chosen = systematic_resampling(log_weights[None], uniform(fold_seed(seed, "resampling"), 1, 1))
    start, start_features = session.take(x, chosen), features[chosen]

    naive = _naive(path, session, start_features, share, seed=fold_seed(seed, "naive")) - truth

    best: tuple[float, float, float] | None = None
    for number, scale in enumerate(_SCALES):
        moved = GibbsSweep(path, session, scale * entry, nfe)(start, start_features, share, seed=seed, stage=number)
        found = path.target.exponent(session.features(moved))
        residual = float(found.mean()) - truth
        error = float((found - exponents[chosen]).std()) / math.sqrt(size)
        if best is None or abs(residual) < abs(best[0]):
            best = (residual, error, scale * entry)
        if abs(residual) <= DRIFT * spread + 2 * error:
            best = (residual, error, scale * entry)
            break
    assert best is not None
    residual, error, sigma = best
    moved = session.renoise(
        x, np.zeros((1, features.shape[1])), sigma=sigma, nfe=nfe, seed=fold_seed(seed, "base"), stage=0
    )
    change = Estimate.of_mean((path.target.exponent(session.features(moved)) - exponents) / spread)
    return Calibration(residual / spread, error / spread, share, sigma, naive / spread, base_drift=change)


def _naive(path: TiltPath, session: DenoisingTiltSession, start: Floats, share: float, *, seed: int) -> float:
    """The mean of r/λ over draws started at σ_max; NaN where the denoiser fails there, which no move goes near."""
    # Resampled rows are in the order of the draws they come from, so every s-th stands for all of them.
    some = start[:: max(1, len(start) // _NAIVE_ROWS)]
    tilts = path.draw_tilts(some, share, seed=fold_seed(seed, "tilts"))
    try:
        fresh = session.draw(tilts, len(some), seed=seed)
    except NonFiniteError:
        return math.nan
    return float(path.target.exponent(session.features(fresh)).mean())
