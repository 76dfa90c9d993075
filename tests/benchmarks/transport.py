"""Wasserstein alignment of the digits model to ℓ1 rewards of rank 4, against cvxpy in full dimension.

Bar: the largest relative gap between the objective at T(x) and cvxpy's optimum over all of R⁶⁴ is at most 1e-6.
"""

from __future__ import annotations

import time

import cvxpy as cp
import numpy as np

import alignkit as ak

ROWS, WEIGHT, BAR = 200, 2.0, 1e-6


def run() -> bool:
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    features = np.random.default_rng(0).normal(size=(4, 64)) / 8
    target = np.random.default_rng(1).normal(size=4)
    problem = ak.Problem(-ak.norm1(features @ ak.vec(x) - target), base, ak.Wasserstein(weight=WEIGHT))
    held = True
    print("backend  largest gap to full-dimensional cvxpy   largest certified gap   µs a row   cvxpy loop µs a row")
    aligned = problem.solve(seed=0)
    before, after = aligned.sample(ROWS, seed=1, return_base=True)
    rows, moved = (batch.reshape(ROWS, -1).astype(np.float64) for batch in (before, after))
    # Float64 input keeps the rounding of float32 pictures out of the comparison.
    start = time.perf_counter()
    moved = aligned.transport(before.astype(np.float64)).reshape(ROWS, -1)
    ours_seconds = time.perf_counter() - start
    point, image = cp.Parameter(64), cp.Variable(64)
    full = cp.Problem(cp.Maximize(-cp.norm1(features @ image - target) - WEIGHT / 2 * cp.sum_squares(image - point)))
    start = time.perf_counter()
    optimum = np.empty(ROWS)
    for number, row in enumerate(rows):
        point.value = row
        optimum[number] = full.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    peer_seconds = time.perf_counter() - start
    objective = -np.abs(moved @ features.T - target).sum(axis=1) - WEIGHT / 2 * ((moved - rows) ** 2).sum(axis=1)
    gap = np.max(np.abs(optimum - objective) / np.maximum(1, np.abs(optimum)))
    print(
        f"{aligned.plan.backend:<8} {gap:.2e}                               {aligned.certificate.gap_max:.2e}"
        f"                {ours_seconds / ROWS * 1e6:.0f}         {peer_seconds / ROWS * 1e6:.0f}"
    )
    held &= gap <= BAR and aligned.certificate.gap_max <= BAR
    return held
