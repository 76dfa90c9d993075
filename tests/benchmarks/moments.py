"""Constraints and radii on a mixture, known in closed form and through its denoiser, and on the digits.

Bars: E_q[Bx] meets the constraint within 3 standard errors; multipliers of the denoiser are those of the closed form to
5e-3; a radius is reached within 2 %, or three standard errors of KL on the digits.
"""

from __future__ import annotations

import math
import time

import numpy as np

import alignkit as ak

MOMENT_BAR, DUAL_BAR, RADIUS_BAR = 3.0, 5e-3, 0.02
D, SEEDS, ROWS = 6, 5, 4000
RADII = (0.2, 0.7, 2.0)


def _mixture() -> tuple[ak.base.GaussianMixture, ak.base.Denoiser]:
    exact = ak.base.GaussianMixture([0.3, 0.7], np.random.default_rng(0).normal(size=(2, D)) * 1.5, 0.3)
    known = ak.base.Denoiser(
        exact.denoise, (D,), sigma_min=0.002, sigma_max=80.0, exact=True, tail=0.3, name="denoiser"
    )
    return exact, known


def _worst(aligned: ak.Aligned, seed: int, rows: np.ndarray, target: np.ndarray) -> float:
    """By how many joint standard errors fresh draws, and those of the certificate, miss the constraint."""
    draws = aligned.sample(ROWS, seed=seed).reshape(ROWS, -1) @ rows.T
    worth = min(ROWS, aligned.certificate.ess)
    # The multipliers come from draws too.
    errors = draws.std(axis=0) * math.sqrt(1 / worth + 1 / ROWS)
    fresh = float((np.abs(draws.mean(axis=0) - target) / errors).max())
    return max(fresh, *(moment.z_score for moment in aligned.certificate.moments))


def run() -> bool:
    held = True

    def say(name: str, text: str, fine: bool, start: float) -> None:
        nonlocal held
        held &= fine
        print(f"{name:<44} {text:<44} {time.perf_counter() - start:6.1f} s  {'' if fine else 'MISSED'}", flush=True)

    exact, known = _mixture()
    x = ak.Variable(D)
    constraints, target = [ak.E(x[:2]) == [0.0, 0.5]], np.array([0.0, 0.5])
    truth = ak.Problem(x[2], exact, ak.KL(weight=1.0), constraints).solve(seed=0).certificate
    for seed in range(SEEDS):
        start = time.perf_counter()
        aligned = ak.Problem(x[2], known, ak.KL(weight=1.0), constraints).solve(seed=seed)
        off = float(np.abs(aligned.certificate.duals[0] - truth.duals[0]).max())
        worst = _worst(aligned, seed, np.eye(2, D), target)
        say(
            f"mixture by denoiser, seed {seed}",
            f"z {worst:.2f}, multipliers off by {off:.1e}",
            worst <= MOMENT_BAR and off <= DUAL_BAR,
            start,
        )
        start = time.perf_counter()
        aligned = ak.Problem(ak.norm2(x[:2]) + x[2], exact, ak.KL(weight=1.0), constraints).solve(seed=seed)
        worst = _worst(aligned, seed, np.eye(2, D), target)
        say(f"convex reward of the mixture, seed {seed}", f"z {worst:.2f}", worst <= MOMENT_BAR, start)
    for radius in RADII:
        for name, base, reward in (
            ("convex reward", exact, ak.norm2(x[:2]) + x[2]),
            ("by denoiser", known, x[2] + x[3]),
        ):
            start = time.perf_counter()
            found = ak.Problem(reward, base, ak.KL(radius=radius)).solve(seed=0).certificate
            off = abs(found.kl.value / radius - 1)
            say(f"radius {radius:g}, {name}", f"KL {found.kl}, off by {off:.1%}", off <= RADIUS_BAR, start)

    digits = ak.base.digits()
    image = ak.Variable(digits.shape)
    top = ak.mean(image[:4])
    rows = np.repeat([1 / 32, 0.0], 32)[None]
    before = digits.sample(ROWS, seed=9).reshape(ROWS, -1) @ rows.T
    for shift in (-0.1, 0.1):
        start = time.perf_counter()
        wanted = float(before.mean()) + shift
        aligned = ak.Problem(2 * ak.mean(image), digits, ak.KL(weight=1.0), [ak.E(top) == wanted]).solve(seed=0)
        worst = _worst(aligned, 3, rows, np.array([wanted]))
        say(f"digits, top half {shift:+g}", f"z {worst:.2f}", worst <= MOMENT_BAR, start)
    start = time.perf_counter()
    found = ak.Problem(8 * top, digits, ak.KL(radius=0.5)).solve(seed=0).certificate
    off = abs(found.kl.value - 0.5)
    fine = off <= max(RADIUS_BAR * 0.5, 3 * found.kl.standard_error)
    say("digits, radius 0.5", f"KL {found.kl}", fine, start)
    return held
