"""Tilts of the shipped digits model against reweighted draws of the model itself.

Bar: E_q⟨θ, x⟩ within 0.05 base standard deviations plus three joint standard errors of the reference, whose ESS is
at least 10⁴. Reference draws are cached under .bench/, keyed by the weights.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import alignkit as ak
from alignkit.tilting.weighting import effective_size
from alignkit_torch.devices import device_named
from alignkit_torch.tilt_session import TorchTiltSession

CACHE = Path(".bench")
BLOCK = 1 << 15
REFERENCE_ESS = 10_000
STRENGTHS = (1.0, 2.0, 4.0)
BAR = 0.05

Floats = NDArray[np.float64]


def directions() -> dict[str, Floats]:
    top = np.zeros((8, 8))
    top[:4] = 1.0
    return {"all": np.full((8, 8), 1 / 8), "top half": top / np.linalg.norm(top)}


def reference_scores(base: ak.base.Denoiser, units: Floats) -> Floats:
    """⟨unit, x⟩ of as many base draws as the strongest tilt needs, (n, directions)."""
    weights = resources.files("alignkit_torch").joinpath("weights", "digits.safetensors").read_bytes()
    cached = CACHE / f"digits-{hashlib.sha256(weights).hexdigest()[:16]}.npy"
    scores = np.load(cached) if cached.exists() else np.empty((0, len(units)))
    session = TorchTiltSession(base, units, device_named("auto"))
    while len(scores) < BLOCK or min(effective_size(STRENGTHS[-1] * column) for column in scores.T) < REFERENCE_ESS:
        draws = session.draw(np.zeros((1, len(units))), BLOCK, seed=2024, first_row=len(scores))
        scores = np.concatenate([scores, session.features(draws)])
        CACHE.mkdir(exist_ok=True)
        np.save(cached, scores)
        print(f"  reference: {len(scores)} base draws", flush=True)
    return scores


def reweighted(scores: Floats, strength: float) -> tuple[float, float, float]:
    """Mean, standard error and ESS of scores under weights exp(strength·scores)."""
    log_weights = strength * scores
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = float(weights @ scores)
    return mean, float(np.sqrt(weights**2 @ (scores - mean) ** 2)), effective_size(log_weights)


def run() -> bool:
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    named = directions()
    scores = reference_scores(base, np.stack([unit.ravel() for unit in named.values()]))
    held = True
    print(
        "direction  ‖θ‖  truth ± se          aligned ± se        "
        "deviation  allowed  naive   (base sd)   log Z (truth)    ESS of truth"
    )
    for column, (name, unit) in zip(scores.T, named.items(), strict=True):
        spread = column.std()
        for strength in STRENGTHS:
            truth, truth_error, size = reweighted(column, strength)
            log_z = float(np.logaddexp.reduce(strength * column) - np.log(column.size))
            aligned = ak.Problem(strength * ak.inner(unit, x), base, ak.KL(weight=1.0)).solve(seed=0)
            draws = aligned.sample(8192, seed=1).astype(np.float64)
            achieved = float((draws * unit).sum(axis=(1, 2)).mean())
            # Draws share the fit's particles, so the error is the certificate's, not that of independent draws.
            error = aligned.certificate.reward_after.standard_error / strength
            deviation = (achieved - truth) / spread
            allowed = BAR + 3 * np.hypot(error, truth_error) / spread
            naive = (_naive(base, unit, strength) - truth) / spread
            print(
                f"{name:<9}  {strength:<3g}  {truth:.4f} ± {truth_error:.4f}   {achieved:.4f} ± {error:.4f}   "
                f"{deviation:+.3f}     {allowed:.3f}    {naive:+.3f}              "
                f"{aligned.log_partition} ({log_z:.3f})   {size:.0f}",
                flush=True,
            )
            held &= abs(deviation) <= allowed and size >= REFERENCE_ESS
    return held


def _naive(base: ak.base.Denoiser, unit: Floats, strength: float) -> float:
    """E⟨unit, x⟩ of draws started at σ_max with the tilted denoiser."""
    session = TorchTiltSession(base, unit.reshape(1, -1), device_named("auto"))
    return float(session.features(session.draw(np.full((1, 1), strength), 8192, seed=3)).mean())
