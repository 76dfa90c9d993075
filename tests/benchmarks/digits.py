"""Tilts and convex rewards of the shipped digits model against reweighted draws of the model itself.

Bar: the expected reward within 0.05 base standard deviations plus three joint standard errors of the reference, whose
ESS is at least 10⁴. Reference draws are cached under .bench/, keyed by the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import alignkit as ak
from alignkit.base import BaseLaw
from alignkit.certificates import KLCertificate
from alignkit.tilting.weighting import effective_size
from alignkit_torch.devices import device_named
from alignkit_torch.digits_data import load_digits
from alignkit_torch.tilt_session import TorchTiltSession

CACHE = Path(".bench")
BLOCK = 1 << 15
REFERENCE_ESS = 10_000
STRENGTHS = (1.0, 2.0, 4.0)
BAR = 0.05

Floats = NDArray[np.float64]

_WEIGHTS = ("alignkit_torch", "weights", "digits.safetensors")


def directions() -> dict[str, Floats]:
    top = np.zeros((8, 8))
    top[:4] = 1.0
    return {"all": np.full((8, 8), 1 / 8), "top half": top / np.linalg.norm(top)}


def templates() -> tuple[Floats, Floats]:
    """The mean digit, (64,), and a unit vector from it towards the mean of each class, (10, 64)."""
    data = load_digits()
    images = data.train.numpy().astype(np.float64).reshape(-1, 64)
    mean = images.mean(axis=0)
    away = np.stack([images[data.train_labels == label].mean(axis=0) - mean for label in range(10)])
    return mean, away / np.linalg.norm(away, axis=1, keepdims=True)


def convex_rewards(x: ak.Variable) -> dict[str, tuple[ak.Expression, float]]:
    """Rewards of each kind with their weights λ, as strong as reweighted base draws can follow."""
    mean, classes = templates()
    halves = np.zeros((2, 8, 8))
    halves[0, :4], halves[1, :, :4] = 1 / np.sqrt(32), 1 / np.sqrt(32)
    seen = halves.reshape(2, 64) @ (ak.vec(x) - mean)
    scores = classes @ ak.vec(x)
    return {
        "quadratic": (ak.sum_squares(seen), 2.75),
        "max of affine": (ak.max(scores), 0.4),
        "log_sum_exp": (ak.log_sum_exp(2 * scores), 0.75),
        "huber": (ak.sum(ak.huber(2 * seen)), 3.5),
    }


def weights_key(package: str, *path: str) -> str:
    """Names the draws of a shipped model by its weights."""
    return hashlib.sha256(resources.files(package).joinpath(*path).read_bytes()).hexdigest()[:16]


def reference_draws(base: BaseLaw, logs: Callable[[NDArray[np.float32]], list[Floats]]) -> NDArray[np.float32]:
    """As many base draws as it takes for each of the log-weights made of them to have the ESS wanted."""
    cached = CACHE / f"digits-draws-{weights_key(*_WEIGHTS)}.npy"
    draws = np.load(cached) if cached.exists() else np.empty((0, *base.shape), dtype=np.float32)
    session = TorchTiltSession(base, np.zeros((1, base.ambient)), device_named("auto"))
    while len(draws) < BLOCK or min(map(effective_size, logs(draws))) < REFERENCE_ESS:
        more = session.draw(np.zeros((1, 1)), BLOCK, seed=2025, first_row=len(draws))
        draws = np.concatenate([draws, more.numpy(force=True)])
        CACHE.mkdir(exist_ok=True)
        np.save(cached, draws)
        print(f"  reference: {len(draws)} base draws", flush=True)
    return draws


def reference_scores(base: BaseLaw, units: Floats, strongest: float, key: str) -> Floats:
    """⟨unit, x⟩ of as many base draws as the strongest tilt needs, (n, directions)."""
    cached = CACHE / f"digits-{key}.npy"
    scores = np.load(cached) if cached.exists() else np.empty((0, len(units)))
    session = TorchTiltSession(base, units, device_named("auto"))
    while len(scores) < BLOCK or min(effective_size(strongest * column) for column in scores.T) < REFERENCE_ESS:
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
    tilts_held = run_tilts(base, STRENGTHS, weights_key(*_WEIGHTS))
    return _run_convex(base) and tilts_held


def _run_convex(base: BaseLaw) -> bool:
    x = ak.Variable(base.shape)
    rewards = convex_rewards(x)
    draws = reference_draws(base, lambda some: [reward.value(some) / weight for reward, weight in rewards.values()])
    held = True
    print(
        "reward         k  λ     truth ± se          aligned ± se        deviation  allowed  (base sd)   "
        "log Z (truth)             acceptance  ESS of truth  calibration"
    )
    for name, (reward, weight) in rewards.items():
        values = np.asarray(reward.value(draws), dtype=np.float64)
        spread = values.std()
        truth, truth_error, size = reweighted(values, 1 / weight)
        log_z = float(np.logaddexp.reduce(values / weight) - np.log(values.size))
        aligned = ak.Problem(reward, base, ak.KL(weight=weight)).solve(seed=0)
        certificate = aligned.certificate
        assert isinstance(certificate, KLCertificate)
        found = np.asarray(reward.value(aligned.sample(8192, seed=1)), dtype=np.float64)
        # Draws share the fit's particles, and each adds a randomness of its own.
        error = float(np.hypot(certificate.reward_after.standard_error, found.std() / np.sqrt(found.size)))
        deviation = (found.mean() - truth) / spread
        allowed = BAR + 3 * np.hypot(error, truth_error) / spread
        print(
            f"{name:<13}  {aligned.plan.dimension}  {weight:<4g}  {truth:.4f} ± {truth_error:.4f}   "
            f"{found.mean():.4f} ± {error:.4f}   {deviation:+.3f}     {allowed:.3f}                "
            f"{aligned.log_partition} ({log_z:.3f})   {certificate.acceptance:.3f}       {size:.0f}         "
            f"{certificate.calibration}",
            flush=True,
        )
        held &= abs(deviation) <= allowed and size >= REFERENCE_ESS
    return held


def run_tilts(base: BaseLaw, strengths: Sequence[float], key: str) -> bool:
    x = ak.Variable(base.shape)
    named = {name: unit.reshape(base.shape) for name, unit in directions().items()}
    scores = reference_scores(base, np.stack([unit.ravel() for unit in named.values()]), max(strengths), key)
    held = True
    print(
        "direction  ‖θ‖  truth ± se          aligned ± se        "
        "deviation  allowed  naive   (base sd)   log Z (truth)    ESS of truth"
    )
    for column, (name, unit) in zip(scores.T, named.items(), strict=True):
        spread = column.std()
        for strength in strengths:
            truth, truth_error, size = reweighted(column, strength)
            log_z = float(np.logaddexp.reduce(strength * column) - np.log(column.size))
            aligned = ak.Problem(strength * ak.inner(unit, x), base, ak.KL(weight=1.0)).solve(seed=0)
            draws = aligned.sample(8192, seed=1).astype(np.float64)
            achieved = float((draws * unit).reshape(len(draws), -1).sum(axis=1).mean())
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


def _naive(base: BaseLaw, unit: Floats, strength: float) -> float:
    """E⟨unit, x⟩ of draws started at σ_max with the tilted denoiser."""
    session = TorchTiltSession(base, unit.reshape(1, -1), device_named("auto"))
    return float(session.features(session.draw(np.full((1, 1), strength), 8192, seed=3)).mean())
