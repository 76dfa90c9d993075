"""Predicted times of rows, beside what one core took for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import alignkit.expressions as ex
from alignkit.contracts import Bid, Displacement, ProxProblem
from alignkit.transport.costs import PNorm
from alignkit_pyomo.preparation import prepare
from alignkit_pyomo.prox import PyomoProxSolver
from alignkit_pyomo.sizing import seconds_per_row

#: Predictions of rows that come to an end are right up to this factor.
FACTOR = 3.0


def drawn(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def slopes(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.asarray(drawn(seed, rows, columns) / np.sqrt(columns))


def near(w: ex.Expression, points: int) -> ex.Expression:
    return ex.distance_to_points(w, 2.0 * drawn(1, points, w.size))


def clipped(w: ex.Expression) -> ex.Expression:
    return ex.sum(ex.clip(w, -1.0, 1.0))


def moved_by(p: float, k: int, m: int) -> Displacement:
    return Displacement(PNorm(p), slopes(4, k, m), 0.01 * np.random.default_rng(5).normal(size=m))


def tanh(w: ex.Expression) -> ex.Expression:
    return ex.sum(ex.tanh(2.0 * slopes(2, 1, w.size) @ w))


#: k, f, the mean of two rows in seconds, and another penalty than half the squared distance.
MEASURED: dict[str, tuple[int, Callable[[ex.Expression], ex.Expression], float, Displacement | None]] = {
    "nearest of 3, k = 2": (2, lambda w: -near(w, 3), 0.18, None),
    "nearest of 10, k = 2": (2, lambda w: -near(w, 10), 1.05, None),
    "nearest of 3, k = 8": (8, lambda w: -near(w, 3), 0.67, None),
    "nearest of 10, k = 8": (8, lambda w: -near(w, 10), 1.7, None),
    "nearest of 3, k = 64": (64, lambda w: -near(w, 3), 3.6, None),
    "far from 3, k = 2": (2, lambda w: near(w, 3), 0.039, None),
    "far from 10, k = 8": (8, lambda w: near(w, 10), 0.12, None),
    "far from 3, k = 64": (64, lambda w: near(w, 3), 0.29, None),
    "far from 10, k = 64": (64, lambda w: near(w, 10), 1.5, None),
    "tanh, k = 1": (1, tanh, 0.10, None),
    "tanh, k = 2": (2, tanh, 0.16, None),
    "tanh, k = 16": (16, tanh, 0.40, None),
    "tanh, k = 64": (64, tanh, 9.8, None),
    "wave, k = 1": (1, lambda w: ex.sum(ex.sin(1.5 * w)), 0.095, None),
    "largest of 10, k = 8": (8, lambda w: ex.max(slopes(3, 10, 8) @ w), 1.2, None),
    "largest of 10, k = 64": (64, lambda w: ex.max(slopes(3, 10, 64) @ w), 3.6, None),
    "norm1, k = 2": (2, ex.norm1, 0.25, None),
    "norm1, k = 8": (8, ex.norm1, 0.29, None),
    "norm1, k = 32": (32, ex.norm1, 4.0, None),
    "clip, k = 2": (2, clipped, 0.12, None),
    "clip, k = 8": (8, clipped, 0.47, None),
    "norm2, k = 2": (2, ex.norm2, 0.038, None),
    "norm2, k = 64": (64, ex.norm2, 0.16, None),
    "soft maximum, k = 16": (16, lambda w: -6.0 * ex.log_sum_exp(slopes(3, 10, 16) @ w), 0.017, None),
    "clip, ℓ1, k = 2": (2, lambda w: 8.5 * clipped(w), 0.027, moved_by(1.0, 2, 16)),
    "clip, ℓ1, k = 8": (8, lambda w: 17.0 * clipped(w), 0.12, moved_by(1.0, 8, 256)),
    "clip, ℓ∞, k = 4": (4, lambda w: 0.375 * clipped(w), 0.12, moved_by(np.inf, 4, 64)),
}


@pytest.mark.parametrize("name", MEASURED)
def test_predictions_are_right_up_to_a_factor(name: str) -> None:
    k, reward, took, displacement = MEASURED[name]
    problem = ProxProblem(reward(ex.Variable(k)), 1.0, k, 2, displacement=displacement)
    assert took / FACTOR <= seconds_per_row(prepare(problem)) <= took * FACTOR


def test_a_curve_of_one_argument_in_many_dimensions_is_bid_for() -> None:
    assert isinstance(PyomoProxSolver().bid(ProxProblem(tanh(ex.Variable(64)), 1.0, 64, 2)), Bid)
