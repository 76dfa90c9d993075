"""Proximal problems whose optima are known: by closed forms, by enumeration, or by bisection to the last digit.

Any point's objective is a lower bound of the supremum. A truth that were itself wrong could therefore excuse a backend,
and never accuse it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignkit.base.law import checked_count
from alignkit.contracts import Floats, ProxProblem
from alignkit.expressions import (
    Expression,
    Variable,
    abs as abs_of,
    cos,
    distance_to_points,
    exp,
    huber,
    log,
    log_sum_exp,
    min as min_of,
    minimum,
    norm1,
    norm2,
    norm_inf,
    pos,
    quad_form,
    sin,
    square,
    stack,
    sum as sum_of,
    sum_largest,
    sum_squares,
    total_variation,
)

__all__ = ["ProxExample", "prox_examples"]

#: From rows v, (n, k), and λ to maximisers z, (n, k).
Maximiser = Callable[[Floats, float], Floats]

_EPS = float(np.finfo(np.float64).eps)
#: Of a bracket, until nothing is left of it in float64.
_HALVINGS = 120
#: Operations that may each round an objective, about.
_OPERATIONS = 64


@dataclass(frozen=True, eq=False)
class ProxExample:
    """A problem of maximising f(z) − (λ/2)‖z − v‖² over z ∈ R^k, with its rows v and its answer.

    Arguments:
        name: what reports call it.
        reward: f, an expression of one variable of shape (k,).
        weight: λ > 0.
        points: the rows v, (n, k), float64.
        solve: (v, λ) ↦ a maximiser of every row, accurate to rounding; None where the objective is unbounded above.
        bend: the least c ≥ 0 for which f − (c/2)‖z‖² is concave; inf where there is none.
        source: where the answer comes from.

    Example:
        >>> example = prox_examples()[0]
        >>> bool((example.supremum >= example.objective(example.points)).all())
        True
    """

    name: str
    reward: Expression
    weight: float
    points: Floats
    solve: Maximiser | None
    bend: float
    source: str

    @property
    def dimension(self) -> int:
        """k."""
        return int(self.points.shape[1])

    @property
    def is_bounded(self) -> bool:
        """Whether there is a maximiser."""
        return self.solve is not None

    @property
    def strength(self) -> float:
        """The objective is μ-strongly concave with this μ = λ − bend; 0 where it need not be concave."""
        return max(self.weight - self.bend, 0.0)

    def problem(self, *, tolerance: float = 1e-6, device: str = "auto") -> ProxProblem:
        """What a backend is asked.

        Arguments:
            tolerance: the largest relative gap wanted.
            device: as the engine names it.

        Returns:
            the problem of f over (k,), λ and the number of rows.
        """
        return ProxProblem(self.reward, self.weight, self.dimension, len(self.points), tolerance, device)

    def objective(self, z: Floats) -> Floats:
        """f(z) − (λ/2)‖z − v‖² of each row.

        Arguments:
            z: (n, k), a point for each row v.

        Returns:
            (n,), in units of reward; −inf outside the domain of f.
        """
        with np.errstate(all="ignore"):
            value = np.asarray(self.reward.value(z), dtype=np.float64)
        penalty: Floats = 0.5 * self.weight * np.sum((z - self.points) ** 2, axis=1)
        return np.where(np.isnan(value), -np.inf, value) - penalty

    @cached_property
    def maximiser(self) -> Floats:
        """A maximiser of each row, (n, k).

        Raises:
            ValueError: there is none.
        """
        if self.solve is None:
            raise ValueError(f"The example {self.name!r} is unbounded above.")
        return self.solve(self.points, self.weight)

    @cached_property
    def supremum(self) -> Floats:
        """The largest objective of each row, (n,), up to `rounding`; infinite where it is unbounded."""
        return self.objective(self.maximiser) if self.is_bounded else np.full(len(self.points), np.inf)

    def rounding(self, z: Floats) -> Floats:
        """A bound on what float64 rounds off the objectives at z and at the maximiser.

        Arguments:
            z: (n, k), a point for each row v.

        Returns:
            (n,), in units of reward.
        """
        total = np.zeros(len(self.points))
        for at in (z, self.maximiser):
            away = np.linalg.norm(at - self.points, axis=1)
            size = np.linalg.norm(at, axis=1) + np.linalg.norm(self.points, axis=1)
            # At a maximiser λ(z − v) is a supergradient of f; a Lipschitz constant holds everywhere.
            slope = self.weight * away + (self.reward.lipschitz if math.isfinite(self.reward.lipschitz) else 0.0)
            value = np.abs(self.objective(at)) + 0.5 * self.weight * away**2
            total += np.where(np.isfinite(value), value + slope * size, 0.0)
        return _OPERATIONS * _EPS * total

    def on_rows(self, points: Floats) -> ProxExample:
        """The same problem on other rows.

        Arguments:
            points: v, (n, k).

        Returns:
            the example, its known optimum computed for these rows.
        """
        return replace(self, points=points)

    def with_weight(self, weight: float) -> ProxExample:
        """The same rows and reward with another weight.

        Arguments:
            weight: λ, at least the example's own.

        Returns:
            the example, its known optimum computed for this λ.
        """
        return replace(self, weight=weight)


def prox_examples(*, rows: int = 12, seed: int = 0) -> tuple[ProxExample, ...]:
    """All published proximal problems: k from 1 to 8, λ from 10⁻³ to 10³, rows near and far, some without a maximum.

    Arguments:
        rows: how many rows v each has.
        seed: fixes the rows and the coefficients.

    Returns:
        the problems, rows (n, k) each; those that have no maximum say so.

    Raises:
        ParameterError: less than one row.

    Example:
        >>> [example.name for example in prox_examples() if not example.is_bounded]
        ['unbounded square', 'unbounded along one axis', 'unbounded at every weight']
    """
    rng = np.random.default_rng(seed)
    rows = checked_count(rows)
    near = (*_on_a_line(rows, rng), *_separable(rows, rng), *_coupled(rows, rng), *_curving_up(rows, rng))
    by_name = {example.name: example for example in near}
    scaled = []
    for name in ("norm1, k = 8", "quadratic, k = 4", "min of affine, k = 4", "log_sum_exp, k = 5", "norm2, k = 3"):
        example = by_name[name]
        scaled += [
            replace(example.with_weight(1e3), name=f"{name}, weight 1000"),
            replace(example.with_weight(1e-3), name=f"{name}, weight 0.001"),
            replace(example.on_rows(1e6 * example.points), name=f"{name}, far out"),
        ]
    return (*near, *scaled, *_unbounded(rows, rng))


def _on_a_line(rows: int, rng: np.random.Generator) -> tuple[ProxExample, ...]:
    w = Variable(1, name="w")
    z = w[0]
    points = np.linspace(-4.0, 4.0, rows)[:, None] + 0.1 * rng.standard_normal((rows, 1))
    lines, offsets = np.array([[1.0], [-1.0], [0.0]]), np.array([0.0, 2.0, 0.5])
    bisection = "bisection on the derivative"
    return (
        ProxExample(
            "absolute value, k = 1",
            -2.0 * abs_of(z - 0.5),
            1.0,
            points,
            _shrink(2.0, 0.5),
            0.0,
            "soft thresholding",
        ),
        ProxExample(
            "huber, k = 1",
            -huber(z + 1.0, M=0.5),
            0.7,
            points,
            _separably(lambda at: -np.clip(2.0 * (at + 1.0), -1.0, 1.0)),
            0.0,
            bisection,
        ),
        ProxExample(
            "softplus, k = 1",
            -log_sum_exp(stack([3.0 * z - 1.0, 0.0 * z])),
            0.5,
            points,
            _separably(lambda at: -3.0 * _logistic(3.0 * at - 1.0)),
            0.0,
            bisection,
        ),
        ProxExample(
            "minimum of lines, k = 1",
            minimum(z, 2.0 - z, 0.5),
            2.0,
            points,
            _lowest_piece(lines, offsets),
            0.0,
            "every active set",
        ),
        ProxExample(
            "square of the positive part, k = 1",
            -square(pos(2.0 * z + 1.0)),
            1.5,
            points,
            _separably(lambda at: -4.0 * np.maximum(2.0 * at + 1.0, 0.0)),
            0.0,
            bisection,
        ),
    )


def _separable(rows: int, rng: np.random.Generator) -> tuple[ProxExample, ...]:
    w2, w3, w4, w8 = (Variable(k, name="w") for k in (2, 3, 4, 8))
    target, centre = rng.standard_normal(8), rng.standard_normal(4)
    slopes = np.array([0.5, -1.0, 0.0])
    return (
        ProxExample(
            "norm1, k = 8",
            -1.5 * norm1(w8 - target),
            1.0,
            3.0 * rng.standard_normal((rows, 8)),
            _shrink(1.5, target),
            0.0,
            "soft thresholding",
        ),
        ProxExample(
            "huber, k = 4",
            -sum_of(huber(2.0 * w4 - centre, M=0.5)),
            1.0,
            3.0 * rng.standard_normal((rows, 4)),
            _separably(lambda at: -2.0 * np.clip(2.0 * (2.0 * at - centre), -1.0, 1.0)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "elastic net, k = 4",
            -norm1(w4) - 0.5 * sum_squares(w4 - centre),
            0.8,
            3.0 * rng.standard_normal((rows, 4)),
            _separably(lambda at: -np.sign(at) - (at - centre)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "norm1 with hinge and slope, k = 3",
            -norm1(w3 + 0.3) - 2.0 * sum_of(pos(w3 - 1.0)) + slopes @ w3,
            1.2,
            2.0 * rng.standard_normal((rows, 3)),
            _separably(lambda at: -np.sign(at + 0.3) - 2.0 * (at > 1.0) + slopes),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "exponential, k = 2",
            -sum_of(exp(w2)),
            0.8,
            2.0 * rng.standard_normal((rows, 2)),
            _separably(lambda at: -np.exp(at)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "logarithm, k = 3",
            sum_of(log(w3)),
            1.0,
            2.0 * rng.standard_normal((rows, 3)),
            _logarithm,
            0.0,
            "the root of a quadratic equation",
        ),
    )


def _coupled(rows: int, rng: np.random.Generator) -> tuple[ProxExample, ...]:
    w2, w3, w4, w5 = (Variable(k, name="w") for k in (2, 3, 4, 5))
    A, t = rng.standard_normal((6, 4)), rng.standard_normal(6)
    pieces, heights = rng.standard_normal((4, 4)), rng.standard_normal(4)
    B, b = rng.standard_normal((7, 5)), rng.standard_normal(7)
    two, shift = rng.standard_normal((2, 3)), rng.standard_normal(2)
    signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    pairs = list(itertools.combinations(range(4), 2))
    centre = rng.standard_normal(3)
    long, offset = rng.standard_normal((5, 3)), rng.standard_normal(5)
    return (
        ProxExample(
            "quadratic, k = 4",
            -sum_squares(A @ w4 - t) + w4[0],
            1.0,
            2.0 * rng.standard_normal((rows, 4)),
            _quadratic(-2.0 * A.T @ A, 2.0 * A.T @ t + np.eye(4)[0]),
            0.0,
            "its linear equations",
        ),
        ProxExample(
            "min of affine, k = 4",
            min_of(pieces @ w4 + heights),
            0.5,
            3.0 * rng.standard_normal((rows, 4)),
            _lowest_piece(pieces, heights),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm1 of affine, k = 3",
            -norm1(two @ w3 - shift),
            1.0,
            2.0 * rng.standard_normal((rows, 3)),
            _lowest_piece(-signs @ two, signs @ shift),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm_inf, k = 3",
            -2.0 * norm_inf(w3),
            1.0,
            3.0 * rng.standard_normal((rows, 3)),
            _lowest_piece(2.0 * np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(6)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "sum_largest, k = 4",
            -sum_largest(w4, 2),
            0.7,
            2.0 * rng.standard_normal((rows, 4)),
            _lowest_piece(-np.array([[i in pair for i in range(4)] for pair in pairs], dtype=float), np.zeros(6)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "total_variation, k = 3",
            -total_variation(w3),
            0.5,
            2.0 * rng.standard_normal((rows, 3)),
            _lowest_piece(-signs @ np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]), np.zeros(4)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm2, k = 3",
            -2.0 * norm2(w3 - centre),
            1.0,
            3.0 * rng.standard_normal((rows, 3)),
            _shrink_together(2.0, centre),
            0.0,
            "block soft thresholding",
        ),
        ProxExample(
            "norm2 of affine, k = 3",
            -norm2(long @ w3 - offset),
            0.6,
            2.0 * rng.standard_normal((rows, 3)),
            _euclidean(long, offset),
            0.0,
            "bisection on the multiplier of the dual",
        ),
        ProxExample(
            "log_sum_exp, k = 5",
            -2.0 * log_sum_exp(B @ w5 + b),
            0.5,
            3.0 * rng.standard_normal((rows, 5)),
            _soft_maximum(2.0, B, b),
            0.0,
            "Newton's method",
        ),
        ProxExample(
            "log_sum_exp, k = 2",
            -log_sum_exp(stack([4.0 * w2[0], -4.0 * w2[0], 4.0 * w2[1]])),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            _soft_maximum(1.0, 4.0 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.zeros(3)),
            0.0,
            "Newton's method",
        ),
    )


def _curving_up(rows: int, rng: np.random.Generator) -> tuple[ProxExample, ...]:
    """Rewards that are not concave: some are once the penalty is subtracted, the others have several local maxima."""
    w1, w2, w4 = (Variable(k, name="w") for k in (1, 2, 4))
    places = 2.0 * rng.standard_normal((5, 2))
    basis = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    indefinite = basis @ np.diag([0.9, 0.2, -1.0, -3.0]) @ basis.T
    indefinite = (indefinite + indefinite.T) / 2.0
    return (
        ProxExample(
            "dominated quadratic, k = 4",
            0.5 * quad_form(w4, indefinite) - w4[1],
            1.0,
            2.0 * rng.standard_normal((rows, 4)),
            _quadratic(indefinite, -np.eye(4)[1]),
            0.9,
            "its linear equations",
        ),
        ProxExample(
            "dominated square with norm1, k = 2",
            0.4 * sum_squares(w2 - 1.0) - norm1(w2),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            _separably(lambda at: 0.8 * (at - 1.0) - np.sign(at), bend=0.8),
            0.8,
            "bisection on the derivative",
        ),
        ProxExample(
            "convex absolute value, k = 1",
            abs_of(w1[0]),
            1.5,
            2.0 * rng.standard_normal((rows, 1)),
            lambda v, weight: v + np.where(v >= 0.0, 1.0, -1.0) / weight,
            math.inf,
            "the better of two lines",
        ),
        ProxExample(
            "convex norm_inf, k = 4",
            norm_inf(w4),
            1.0,
            2.0 * rng.standard_normal((rows, 4)),
            _push_the_largest,
            math.inf,
            "the best of eight lines",
        ),
        ProxExample(
            "two waves, k = 1",
            sin(3.0 * w1[0]) + 2.0 * cos(w1[0]),
            0.3,
            np.linspace(-6.0, 6.0, rows)[:, None] + 0.1 * rng.standard_normal((rows, 1)),
            _highest_wave,
            11.0,
            "a grid, and bisection in its best cell",
        ),
        ProxExample(
            "distance to points, k = 2",
            -2.0 * distance_to_points(w2, places),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            _nearest(2.0, places),
            math.inf,
            "block soft thresholding towards each point",
        ),
    )


def _unbounded(rows: int, rng: np.random.Generator) -> tuple[ProxExample, ...]:
    w2, w3 = Variable(2, name="w"), Variable(3, name="w")
    source = "growth along a ray"
    return (
        ProxExample("unbounded square", sum_squares(w2), 1.0, rng.standard_normal((rows, 2)), None, math.inf, source),
        ProxExample(
            "unbounded along one axis",
            quad_form(w3, np.diag([-1.0, -1.0, 1.5])) - norm1(w3),
            2.0,
            rng.standard_normal((rows, 3)),
            None,
            math.inf,
            source,
        ),
        ProxExample(
            "unbounded at every weight",
            square(sum_squares(w2)),
            100.0,
            rng.standard_normal((rows, 2)),
            None,
            math.inf,
            source,
        ),
    )


# ---- answers


def _shrink(height: float, centre: float | Floats) -> Maximiser:
    """argmax −a‖z − t‖₁ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        away = v - centre
        result: Floats = centre + np.sign(away) * np.maximum(np.abs(away) - height / weight, 0.0)
        return result

    return solve


def _shrink_together(height: float, centre: Floats) -> Maximiser:
    """argmax −a‖z − t‖₂ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        away = v - centre
        length = np.linalg.norm(away, axis=1, keepdims=True)
        result: Floats = centre + away * np.maximum(1.0 - height / (weight * np.maximum(length, 1e-300)), 0.0)
        return result

    return solve


def _nearest(height: float, places: Floats) -> Maximiser:
    """argmax −a·min_i ‖z − p_i‖₂ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        best, found = np.full(len(v), -np.inf), v.copy()
        for place in places:
            z = _shrink_together(height, place)(v, weight)
            value = -height * np.linalg.norm(z - place, axis=1) - 0.5 * weight * np.sum((z - v) ** 2, axis=1)
            best, found = np.where(value > best, value, best), np.where((value > best)[:, None], z, found)
        return found

    return solve


def _separably(slope: Callable[[Floats], Floats], bend: float = 0.0) -> Maximiser:
    """argmax Σ p(z_i) − (λ/2)(z_i − v_i)² from p' (any value between the one-sided ones at a kink).

    p' − λ(z − v) falls at least at the rate λ − bend, so that its value at v says how far away its zero can be.
    """

    def solve(v: Floats, weight: float) -> Floats:
        reach = slope(v) / (weight - bend)
        low, high = np.minimum(v, v + reach), np.maximum(v, v + reach)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rising = slope(middle) - weight * (middle - v) > 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return 0.5 * (low + high)

    return solve


def _quadratic(hessian: Floats, gradient: Floats) -> Maximiser:
    """argmax ½⟨z, Hz⟩ + ⟨h, z⟩ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        matrix = weight * np.eye(len(hessian)) - hessian
        return np.asarray(np.linalg.solve(matrix, (weight * v + gradient).T).T, dtype=np.float64)

    return solve


def _lowest_piece(slopes: Floats, heights: Floats) -> Maximiser:
    """argmax min_i(⟨a_i, z⟩ + b_i) − (λ/2)‖z − v‖², as the best of the maximisers on every set of equal pieces."""

    def solve(v: Floats, weight: float) -> Floats:
        best, found = np.full(len(v), -np.inf), v.copy()
        count, dimension = slopes.shape
        for size in range(1, min(count, dimension + 1) + 1):
            for chosen in map(list, itertools.combinations(range(count), size)):
                A = slopes[chosen]
                # z = v + Aᵀy/λ with Σy = 1, at which the chosen pieces all have the height τ.
                system = np.block([[A @ A.T / weight, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
                right = np.concatenate([-(v @ A.T + heights[chosen]), np.ones((len(v), 1))], axis=1)
                z = v + (right @ np.linalg.pinv(system).T)[:, :size] @ A / weight
                value = (z @ slopes.T + heights).min(axis=1) - 0.5 * weight * np.sum((z - v) ** 2, axis=1)
                better = value > best
                best, found = np.where(better, value, best), np.where(better[:, None], z, found)
        return found

    return solve


def _euclidean(matrix: Floats, offset: Floats) -> Maximiser:
    """argmax −‖Bz − t‖₂ − (λ/2)‖z − v‖² with t outside the range of B.

    The dual is min ‖Bᵀy‖²/2λ − ⟨y, Bv − t⟩ over ‖y‖ ≤ 1, whose multiplier ν makes ‖(BBᵀ/λ + νI)⁻¹(Bv − t)‖ = 1.
    """

    def solve(v: Floats, weight: float) -> Floats:
        values, vectors = np.linalg.eigh(matrix @ matrix.T / weight)
        values = np.maximum(values, 0.0)
        coefficients = (v @ matrix.T - offset) @ vectors
        low = np.zeros((len(v), 1))
        high = np.linalg.norm(coefficients, axis=1, keepdims=True)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            long = np.linalg.norm(coefficients / (values + middle), axis=1, keepdims=True) > 1.0
            low, high = np.where(long, middle, low), np.where(long, high, middle)
        y = (coefficients / (values + high)) @ vectors.T
        result: Floats = v - y @ matrix / weight
        return result

    return solve


def _soft_maximum(height: float, matrix: Floats, offset: Floats) -> Maximiser:
    """argmax −a·log Σ exp(Bz + b) − (λ/2)‖z − v‖², by Newton's method with halved steps."""

    def loss(z: Floats, v: Floats, weight: float) -> Floats:
        scores = z @ matrix.T + offset
        top = scores.max(axis=1)
        smooth = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        result: Floats = height * smooth + 0.5 * weight * np.sum((z - v) ** 2, axis=1)
        return result

    def solve(v: Floats, weight: float) -> Floats:
        z = v.copy()
        for _ in range(100):
            scores = z @ matrix.T + offset
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            mean = share @ matrix
            curved = np.einsum("nm,mi,mj->nij", share, matrix, matrix) - np.einsum("ni,nj->nij", mean, mean)
            gradient = height * mean + weight * (z - v)
            step = np.linalg.solve(height * curved + weight * np.eye(z.shape[1]), -gradient[:, :, None])[:, :, 0]
            length, before = np.ones((len(z), 1)), loss(z, v, weight)
            for _ in range(30):
                worse = loss(z + length * step, v, weight) > before
                length[worse] /= 2.0
            moved = z + length * step
            better = loss(moved, v, weight) < before
            if not better.any():
                break
            z = np.where(better[:, None], moved, z)
        return z

    return solve


def _logarithm(v: Floats, weight: float) -> Floats:
    """argmax Σ log z_i − (λ/2)‖z − v‖², where 1/z = λ(z − v)."""
    root = np.sqrt(v**2 + 4.0 / weight)
    # The form without cancellation on either side.
    result: Floats = np.where(v > 0.0, 0.5 * (v + root), 2.0 / (weight * (root + np.abs(v))))
    return result


def _highest_wave(v: Floats, weight: float) -> Floats:
    """argmax sin 3z + 2 cos z − (λ/2)(z − v)², which lies within 5/λ of v."""
    grid = v + np.linspace(-5.0 / weight, 5.0 / weight, 4001)
    top = np.argmax(np.sin(3.0 * grid) + 2.0 * np.cos(grid) - 0.5 * weight * (grid - v) ** 2, axis=1)[:, None]
    low = np.take_along_axis(grid, np.maximum(top - 1, 0), axis=1)
    high = np.take_along_axis(grid, np.minimum(top + 1, grid.shape[1] - 1), axis=1)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        rising = 3.0 * np.cos(3.0 * middle) - 2.0 * np.sin(middle) - weight * (middle - v) > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return 0.5 * (low + high)


def _push_the_largest(v: Floats, weight: float) -> Floats:
    """argmax ‖z‖_∞ − (λ/2)‖z − v‖²."""
    z, rows = v.copy(), np.arange(len(v))
    largest = np.abs(v).argmax(axis=1)
    z[rows, largest] += np.where(v[rows, largest] >= 0.0, 1.0, -1.0) / weight
    return z


def _logistic(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0.0, 1.0, small) / (1.0 + small)
    return result
