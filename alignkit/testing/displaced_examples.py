"""Proximal problems whose penalty is on displacements, λ·h(δ) − ⟨g, δ⟩ with z = v + Rδ, and their optima.

Where f has few kinks along a line, or h depends on few numbers, the candidates are enumerated; the others are closed
forms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alignkit.base.law import checked_count
from alignkit.contracts import Displacement, Floats
from alignkit.expressions import Variable, abs as abs_of, inner, minimum, norm1, norm2, square, sum_squares
from alignkit.testing.maximisers import Map
from alignkit.testing.prox_example import Maximiser, ProxExample

__all__ = ["displaced_examples"]


def displaced_examples(costs: Any, *, rows: int = 12, seed: int = 0) -> tuple[ProxExample, ...]:
    """All published problems under other costs than half the squared distance, some without a maximum.

    A solver that takes displacements is examined on them beside those of `prox_examples`.

    Arguments:
        costs: `ak.costs`, whose classes solvers know the costs by. It is given, as the suite stands beside the package
            and imports none of its upper floors.
        rows: how many rows v each has.
        seed: fixes the rows and the coefficients.

    Returns:
        the problems, rows (n, k) each; those that have no maximum say so.

    Raises:
        ParameterError: less than one row.

    Example:
        >>> import alignkit as ak
        >>> displaced_examples(ak.costs)[0].displacement.cost
        L1(p=1.0, power=1.0)
    """
    rows = checked_count(rows)
    rng = np.random.default_rng([seed, 2])
    w1, w2, w3, w4 = (Variable(k, name="w") for k in (1, 2, 3, 4))
    target = rng.standard_normal(4)
    # Two coordinates pay for the way, two do not, also at twice the λ.
    heights = np.array([5.0, 0.5, 4.0, 0.8])
    direction = np.array([[0.4, -1.3, 0.9, 0.2, -0.6]])
    slopes = np.array([0.3, -0.2, 0.1, 0.4, -0.5])
    beside = np.eye(2, 3)

    def near(k: int) -> Floats:
        return 2.0 * rng.standard_normal((rows, k))

    def plain(k: int) -> Floats:
        return np.zeros(k)

    return (
        ProxExample(
            "ℓ1 cost, k = 4",
            -inner(heights, abs_of(w4 - target)),
            1.2,
            near(4),
            lambda v, weight: np.where(heights > weight, target - v, 0.0),
            math.inf,
            "one decision for each coordinate",
            Displacement(costs.L1(), None, plain(4)),
        ),
        ProxExample(
            "ℓ1 cost, m = 5, k = 1",
            -2.0 * abs_of(w1[0] - 0.5),
            1.0,
            near(1),
            _along_the_cheapest(direction[0], slopes, lambda z: -2.0 * np.abs(z - 0.5), 0.5),
            math.inf,
            "the kinks along the cheapest coordinates",
            Displacement(costs.L1(), direction, slopes),
        ),
        ProxExample(
            "ℓ∞ cost, k = 4",
            -norm1(w4 - target),
            1.5,
            near(4),
            _cube_towards(target),
            math.inf,
            "the radius at every kink",
            Displacement(costs.PNorm(math.inf), None, plain(4)),
        ),
        ProxExample(
            "distance, k = 3",
            -2.0 * norm2(w3 - target[:3]),
            1.3,
            near(3),
            lambda v, weight: (target[:3] - v) * (weight < 2.0),
            math.inf,
            "all the way or none of it",
            Displacement(costs.Euclidean(), None, plain(3)),
        ),
        ProxExample(
            "distance beside a slope, k = 2",
            -0.5 * sum_squares(w2 - target[:2]),
            1.0,
            near(2),
            _ball_beside(target[:2], 0.8),
            math.inf,
            "block soft thresholding",
            Displacement(costs.Euclidean(), beside, np.array([0.0, 0.0, 0.8])),
        ),
        ProxExample(
            "distance to the power 1.5, k = 3",
            -0.5 * sum_squares(w3 - target[:3]),
            0.9,
            near(3),
            _power_towards(target[:3]),
            math.inf,
            "a quadratic equation for the root of the length",
            Displacement(costs.Euclidean(1.5), None, plain(3)),
        ),
        ProxExample(
            "elastic net cost beside a slope, k = 2",
            -2.0 * norm1(w2 - target[:2]),
            1.0,
            near(2),
            _elastic_towards(target[:2], 2.0, 0.3, 0.9),
            math.inf,
            "one coordinate at a time",
            Displacement(costs.ElasticNet(0.3), beside, np.array([0.0, 0.0, 0.9])),
        ),
        ProxExample(
            "squared ℓ_3 cost, m = 5, k = 1",
            -0.5 * square(w1[0] - 1.0),
            1.0,
            near(1),
            _dual_direction(direction[0], 3.0, 1.0),
            math.inf,
            "Hölder's inequality",
            Displacement(costs.PNorm(3, 2), direction, plain(5)),
        ),
        ProxExample(
            "ℓ1 cost, pieces too steep",
            minimum(2.0 * w2[0] + w2[1], 3.0 * w2[1] + w2[0]),
            0.5,
            near(2),
            None,
            math.inf,
            "growth along a ray",
            Displacement(costs.L1(), None, plain(2)),
        ),
        ProxExample(
            "distance, slope too steep",
            -norm1(w2),
            1.0,
            near(2),
            None,
            math.inf,
            "growth along a ray",
            Displacement(costs.Euclidean(), beside, np.array([0.0, 0.0, 1.1])),
        ),
    )


def _along_the_cheapest(direction: Floats, slopes: Floats, reward: Map, kink: float) -> Maximiser:
    """argmax f(v + ⟨r, δ⟩) + ⟨g, δ⟩ − λ‖δ‖₁ for f of one kink, |g_j| ≤ λ.

    To move z by u one entry of δ is enough: that which costs least, (λ − g_j·sign δ_j)/|r_j| per unit. Along it the
    objective is piecewise linear, and its maximum is at the kink or where δ = 0.
    """

    def solve(v: Floats, weight: float) -> Floats:
        best, found = reward(v[:, 0]), np.zeros((len(v), len(direction)))
        u = kink - v[:, 0]
        for place, (rate, slope) in enumerate(zip(direction, slopes, strict=True)):
            step = u / rate
            value = reward(v[:, 0] + u) + slope * step - weight * np.abs(step)
            better = value > best
            best = np.where(better, value, best)
            found[better] = 0.0
            found[better, place] = step[better]
        return found

    return solve


def _cube_towards(target: Floats) -> Maximiser:
    """argmax −‖v + δ − t‖₁ − λ‖δ‖_∞: each entry goes to its target, or as far as the largest goes."""

    def solve(v: Floats, weight: float) -> Floats:
        away = target - v
        best, found = np.full(len(v), -np.inf), np.zeros_like(v)
        for radius in np.hstack([np.zeros((len(v), 1)), np.abs(away)]).T[:, :, None]:
            step = np.sign(away) * np.minimum(np.abs(away), radius)
            value = -np.abs(away - step).sum(axis=1) - weight * np.abs(step).max(axis=1)
            best, found = np.maximum(value, best), np.where((value > best)[:, None], step, found)
        return found

    return solve


def _ball_beside(target: Floats, slope: float) -> Maximiser:
    """argmax −½‖v + u − t‖² + γτ − λ√(‖u‖² + τ²) over δ = (u, τ).

    The best τ is γ‖u‖/μ with μ = √(λ² − γ²), and leaves −μ‖u‖.
    """

    def solve(v: Floats, weight: float) -> Floats:
        left = math.sqrt(weight**2 - slope**2)
        away = target - v
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        u = away * np.maximum(1.0 - left / np.maximum(distance, 1e-300), 0.0)
        return np.hstack([u, slope / left * np.linalg.norm(u, axis=1, keepdims=True)])

    return solve


def _power_towards(target: Floats) -> Maximiser:
    """argmax −½‖v + δ − t‖² − λ‖δ‖^1.5/1.5: with s² the length of δ, s² + λs = ‖t − v‖."""

    def solve(v: Floats, weight: float) -> Floats:
        away = target - v
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        # The root without cancellation.
        root = 2.0 * distance / (weight + np.sqrt(weight**2 + 4.0 * distance))
        return np.asarray(away / np.maximum(distance, 1e-300) * root**2)

    return solve


def _elastic_towards(target: Floats, height: float, gamma: float, slope: float) -> Maximiser:
    """argmax −a‖v + u − t‖₁ + γ'τ − λ(½‖δ‖² + γ‖δ‖₁) over δ = (u, τ)."""

    def solve(v: Floats, weight: float) -> Floats:
        away = target - v
        u = np.sign(away) * np.minimum(np.abs(away), max(height / weight - gamma, 0.0))
        return np.hstack([u, np.full((len(v), 1), max(slope / weight - gamma, 0.0))])

    return solve


def _dual_direction(direction: Floats, p: float, target: float) -> Maximiser:
    """argmax −½(v + ⟨r, δ⟩ − t)² − (λ/2)‖δ‖_p².

    To move z by u the least ‖δ‖_p is |u|/‖r‖_q, 1/p + 1/q = 1, for δ in proportion to sign(r)·|r|^(q−1).
    """
    q = p / (p - 1.0)
    dual = float((np.abs(direction) ** q).sum() ** (1.0 / q))
    along = np.sign(direction) * np.abs(direction) ** (q - 1.0)
    along = along / float(direction @ along)

    def solve(v: Floats, weight: float) -> Floats:
        return np.asarray((target - v) / (1.0 + weight / dual**2) * along)

    return solve
