"""Proximal problems whose optima are known: by closed forms, by enumeration, or by bisection to the last digit.

Any point's objective is a lower bound of the supremum. A truth that were itself wrong could therefore excuse a backend,
and never accuse it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import checked_count
from alignkit.contracts import Floats
from alignkit.expressions import (
    Variable,
    abs as abs_of,
    cos,
    distance_to_points,
    exp,
    huber,
    log,
    log_sum_exp,
    maximum,
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
from alignkit.testing.maximisers import (
    double_well,
    euclidean,
    highest_of_many,
    logarithm,
    logistic,
    lowest_piece,
    nearest,
    push_the_largest,
    quadratic,
    separably,
    shrink,
    shrink_together,
    soft_maximum,
)
from alignkit.testing.prox_example import ProxExample

__all__ = ["ProxExample", "prox_examples"]


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
    return (*near, *scaled, *_with_several_maxima(rows, seed), *_unbounded(rows, rng))


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
            shrink(2.0, 0.5),
            0.0,
            "soft thresholding",
        ),
        ProxExample(
            "huber, k = 1",
            -huber(z + 1.0, M=0.5),
            0.7,
            points,
            separably(lambda at: -np.clip(2.0 * (at + 1.0), -1.0, 1.0)),
            0.0,
            bisection,
        ),
        ProxExample(
            "softplus, k = 1",
            -log_sum_exp(stack([3.0 * z - 1.0, 0.0 * z])),
            0.5,
            points,
            separably(lambda at: -3.0 * logistic(3.0 * at - 1.0)),
            0.0,
            bisection,
        ),
        ProxExample(
            "minimum of lines, k = 1",
            minimum(z, 2.0 - z, 0.5),
            2.0,
            points,
            lowest_piece(lines, offsets),
            0.0,
            "every active set",
        ),
        ProxExample(
            "square of the positive part, k = 1",
            -square(pos(2.0 * z + 1.0)),
            1.5,
            points,
            separably(lambda at: -4.0 * np.maximum(2.0 * at + 1.0, 0.0)),
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
            shrink(1.5, target),
            0.0,
            "soft thresholding",
        ),
        ProxExample(
            "huber, k = 4",
            -sum_of(huber(2.0 * w4 - centre, M=0.5)),
            1.0,
            3.0 * rng.standard_normal((rows, 4)),
            separably(lambda at: -2.0 * np.clip(2.0 * (2.0 * at - centre), -1.0, 1.0)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "elastic net, k = 4",
            -norm1(w4) - 0.5 * sum_squares(w4 - centre),
            0.8,
            3.0 * rng.standard_normal((rows, 4)),
            separably(lambda at: -np.sign(at) - (at - centre)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "norm1 with hinge and slope, k = 3",
            -norm1(w3 + 0.3) - 2.0 * sum_of(pos(w3 - 1.0)) + slopes @ w3,
            1.2,
            2.0 * rng.standard_normal((rows, 3)),
            separably(lambda at: -np.sign(at + 0.3) - 2.0 * (at > 1.0) + slopes),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "exponential, k = 2",
            -sum_of(exp(w2)),
            0.8,
            2.0 * rng.standard_normal((rows, 2)),
            separably(lambda at: -np.exp(at)),
            0.0,
            "bisection on the derivative",
        ),
        ProxExample(
            "logarithm, k = 3",
            sum_of(log(w3)),
            1.0,
            2.0 * rng.standard_normal((rows, 3)),
            logarithm,
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
            quadratic(-2.0 * A.T @ A, 2.0 * A.T @ t + np.eye(4)[0]),
            0.0,
            "its linear equations",
        ),
        ProxExample(
            "min of affine, k = 4",
            min_of(pieces @ w4 + heights),
            0.5,
            3.0 * rng.standard_normal((rows, 4)),
            lowest_piece(pieces, heights),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm1 of affine, k = 3",
            -norm1(two @ w3 - shift),
            1.0,
            2.0 * rng.standard_normal((rows, 3)),
            lowest_piece(-signs @ two, signs @ shift),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm_inf, k = 3",
            -2.0 * norm_inf(w3),
            1.0,
            3.0 * rng.standard_normal((rows, 3)),
            lowest_piece(2.0 * np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(6)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "sum_largest, k = 4",
            -sum_largest(w4, 2),
            0.7,
            2.0 * rng.standard_normal((rows, 4)),
            lowest_piece(-np.array([[i in pair for i in range(4)] for pair in pairs], dtype=float), np.zeros(6)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "total_variation, k = 3",
            -total_variation(w3),
            0.5,
            2.0 * rng.standard_normal((rows, 3)),
            lowest_piece(-signs @ np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]), np.zeros(4)),
            0.0,
            "every active set",
        ),
        ProxExample(
            "norm2, k = 3",
            -2.0 * norm2(w3 - centre),
            1.0,
            3.0 * rng.standard_normal((rows, 3)),
            shrink_together(2.0, centre),
            0.0,
            "block soft thresholding",
        ),
        ProxExample(
            "norm2 of affine, k = 3",
            -norm2(long @ w3 - offset),
            0.6,
            2.0 * rng.standard_normal((rows, 3)),
            euclidean(long, offset),
            0.0,
            "bisection on the multiplier of the dual",
        ),
        ProxExample(
            "log_sum_exp, k = 5",
            -2.0 * log_sum_exp(B @ w5 + b),
            0.5,
            3.0 * rng.standard_normal((rows, 5)),
            soft_maximum(2.0, B, b),
            0.0,
            "Newton's method",
        ),
        ProxExample(
            "log_sum_exp, k = 2",
            -log_sum_exp(stack([4.0 * w2[0], -4.0 * w2[0], 4.0 * w2[1]])),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            soft_maximum(1.0, 4.0 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.zeros(3)),
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
            quadratic(indefinite, -np.eye(4)[1]),
            0.9,
            "its linear equations",
        ),
        ProxExample(
            "dominated square with norm1, k = 2",
            0.4 * sum_squares(w2 - 1.0) - norm1(w2),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            separably(lambda at: 0.8 * (at - 1.0) - np.sign(at), bend=0.8),
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
            push_the_largest,
            math.inf,
            "the best of eight lines",
        ),
        ProxExample(
            "two waves, k = 1",
            sin(3.0 * w1[0]) + 2.0 * cos(w1[0]),
            0.3,
            np.linspace(-6.0, 6.0, rows)[:, None] + 0.1 * rng.standard_normal((rows, 1)),
            highest_of_many(
                lambda at: np.sin(3.0 * at) + 2.0 * np.cos(at),
                lambda at: 3.0 * np.cos(3.0 * at) - 2.0 * np.sin(at),
                5.0,
            ),
            11.0,
            "a grid, and bisection in its best cell",
        ),
        ProxExample(
            "distance to points, k = 2",
            -2.0 * distance_to_points(w2, places),
            1.0,
            2.0 * rng.standard_normal((rows, 2)),
            nearest(2.0, places),
            math.inf,
            "block soft thresholding towards each point",
        ),
    )


def _with_several_maxima(rows: int, seed: int) -> tuple[ProxExample, ...]:
    """Rewards for a global search; the first row of the symmetric ones has two maximisers."""
    rng = np.random.default_rng([seed, 1])
    w1, w2 = Variable(1, name="w"), Variable(2, name="w")
    line = np.linspace(-2.5, 2.5, rows)[:, None] + 0.1 * rng.standard_normal((rows, 1))
    plane = 1.5 * rng.standard_normal((rows, 2))
    line[0], plane[0] = 0.0, [0.0, 0.4]
    pair = np.array([[1.0], [-1.0]])
    ends = np.array([[1.5, 0.0], [-1.5, 0.0]])
    towards_each, best_root = "soft thresholding towards each point", "the roots of a cubic"

    def on_the_axis(v: Floats) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = v[:, 0] == 0.0
        return found

    return (
        ProxExample(
            "two kinks, k = 1",
            maximum(-2.0 * abs_of(w1[0] - 1.0), -2.0 * abs_of(w1[0] + 1.0)),
            1.0,
            line,
            nearest(2.0, pair),
            math.inf,
            towards_each,
            is_tied=on_the_axis,
        ),
        ProxExample(
            "two points, k = 2",
            -1.5 * distance_to_points(w2, ends),
            1.0,
            plane,
            nearest(1.5, ends),
            math.inf,
            towards_each,
            is_tied=on_the_axis,
        ),
        ProxExample(
            "double well, k = 1",
            -square(square(w1[0]) - 1.0),
            1.0,
            line,
            double_well,
            4.0,
            best_root,
            is_tied=on_the_axis,
        ),
        ProxExample(
            "double well, k = 2",
            -square(square(w2[0]) - 1.0) - square(w2[1]),
            1.0,
            plane,
            double_well,
            4.0,
            best_root,
            is_tied=on_the_axis,
        ),
        ProxExample(
            "wave with a slope, k = 1",
            sin(2.0 * w1[0]) + 0.5 * w1[0],
            0.4,
            2.0 * line,
            highest_of_many(lambda at: np.sin(2.0 * at) + 0.5 * at, lambda at: 2.0 * np.cos(2.0 * at) + 0.5, 2.5),
            4.0,
            "a grid, and bisection in its best cell",
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
