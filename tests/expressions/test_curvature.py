"""The curvature calculus: composition rules with signs and ranges, as cvxpy finds them, and the sentences for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import alignkit.expressions as ex

MIXED = np.array([[1.0, -2.0], [0.5, 3.0]])

CASES: dict[str, Callable[[Any, Any], Any]] = {
    "convex times positive": lambda m, x: 2 * m.abs(x),
    "convex times negative": lambda m, x: -2 * m.abs(x),
    "convex times mixed": lambda m, x: m.multiply(np.array([1.0, -1.0]), m.abs(x)),
    "positive matrix of convex": lambda m, x: np.abs(MIXED) @ m.abs(x),
    "negative matrix of convex": lambda m, x: -np.abs(MIXED) @ m.square(x),
    "mixed matrix of convex": lambda m, x: MIXED @ m.abs(x),
    "mixed matrix of affine": lambda m, x: MIXED @ (x - 1),
    "convex plus concave": lambda m, x: m.abs(x) + m.minimum(x, 1),
    "convex minus concave": lambda m, x: m.abs(x) - m.minimum(x, 1),
    "square of nonnegative convex": lambda m, x: m.square(m.abs(x)),
    "square of shifted convex": lambda m, x: m.square(m.abs(x) - 1),
    "square of positive shift": lambda m, x: m.square(m.abs(x) + 1),
    "square of nonpositive concave": lambda m, x: m.square(-m.abs(x)),
    "square of clipped below": lambda m, x: m.square(m.maximum(x, 0)),
    "abs of convex": lambda m, x: m.abs(m.square(x)),
    "abs of concave": lambda m, x: m.abs(m.minimum(x, 0)),
    "norm of nonnegative": lambda m, x: m.norm1(m.pos(x)),
    "norm of concave": lambda m, x: m.norm_inf(m.minimum(x, 1)),
    "max of concave": lambda m, x: m.max(m.minimum(x, 1)),
    "max of convex": lambda m, x: m.max(m.abs(x)),
    "min of concave": lambda m, x: m.min(-m.abs(x)),
    "log_sum_exp of convex": lambda m, x: m.log_sum_exp(m.square(x)),
    "pos of convex": lambda m, x: m.pos(m.abs(x) - 1),
    "huber of nonnegative": lambda m, x: m.huber(m.norm1(x)),
    "sum_squares of nonnegative": lambda m, x: m.sum_squares(m.pos(x)),
    "maximum of concave and affine": lambda m, x: m.maximum(m.minimum(x, 1), x),
    "cumsum of convex": lambda m, x: m.cumsum(m.abs(x)),
    "diff of convex": lambda m, x: m.diff(m.abs(x)),
    "division": lambda m, x: m.abs(x) / -2,
    "slices": lambda m, x: m.abs(x)[0] - m.square(x)[1],
}


@pytest.mark.parametrize("name", CASES)
def test_the_calculus_is_cvxpys(name: str) -> None:
    expression, other = CASES[name](ex, ex.Variable(2)), CASES[name](cp, cp.Variable(2))
    assert expression.is_convex() == other.is_convex()
    assert expression.is_concave() == other.is_concave()
    assert expression.is_affine() == other.is_affine()
    assert (expression.range.lower >= 0) == other.is_nonneg()
    assert (expression.range.upper <= 0) == other.is_nonpos()


def test_quad_form_has_the_curvature_of_its_matrix() -> None:
    x = ex.Variable(2)
    assert ex.quad_form(x, np.eye(2)).curvature is ex.Curvature.CONVEX
    assert ex.quad_form(x, -np.eye(2)).curvature is ex.Curvature.CONCAVE
    assert ex.quad_form(x, np.diag([1.0, -1.0])).curvature is ex.Curvature.UNKNOWN
    assert ex.quad_form(x, [[0.0, 1.0], [1.0, 0.0]]).curvature is ex.Curvature.UNKNOWN
    root = np.random.default_rng(0).normal(size=(3, 50))
    assert ex.quad_form(ex.Variable(50), root.T @ root).is_convex()
    assert not ex.quad_form(ex.Variable(50), root.T @ root - 1e-6 * np.eye(50)).is_convex()


def test_quad_form_of_a_large_sparse_matrix_is_checked_by_factorisation() -> None:
    from scipy import sparse

    size = 3000
    steps = sparse.diags_array([np.full(size - 1, -1.0), np.full(size, 1.0)], offsets=[-1, 0]).tocsr()
    cubes = steps @ steps @ steps
    gram = (cubes.T @ cubes).tocsr()
    x = ex.Variable(size)
    assert ex.quad_form(x, gram).is_convex()
    assert ex.quad_form(x, -gram).is_concave()
    assert ex.quad_form(x, gram - 0.5 * sparse.eye_array(size)).curvature is ex.Curvature.UNKNOWN


def test_rules_are_sentences_that_name_the_failing_argument() -> None:
    x = ex.Variable(2)
    assert "norm1 is convex" in ex.norm1(x - 1).curvature_rule
    failing = ex.square(ex.abs(x) - 1).curvature_rule
    assert "not monotone" in failing and "abs(x) - 1" in failing
    mixed = (MIXED @ ex.abs(x)).curvature_rule
    assert "[2×2 constant]" in mixed and "abs(x)" in mixed
    clash = (ex.abs(x) + ex.minimum(x, 1)).curvature_rule
    assert "abs(x)" in clash and "minimum(x, 1)" in clash


def test_lipschitz_constants_of_known_functions() -> None:
    x = ex.Variable(4)
    rows = np.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert ex.norm2(x).lipschitz == pytest.approx(1.0)
    assert ex.norm1(x).lipschitz == pytest.approx(2.0)
    assert ex.max(rows @ x).lipschitz == pytest.approx(5.0)
    assert ex.log_sum_exp(rows @ x).lipschitz == pytest.approx(5.0)
    assert ex.norm1(rows @ x).lipschitz == pytest.approx(6.0)
    assert ex.norm_inf(rows @ x - 3).lipschitz == pytest.approx(5.0)
    assert ex.maximum(x[0], 3 * x[1], 0).lipschitz == pytest.approx(3.0)
    assert ex.huber(x[0], 2).lipschitz == pytest.approx(4.0)
    assert ex.square(x[0]).lipschitz == math.inf
    assert ex.square(ex.minimum(ex.maximum(x[0], -1), 2)).lipschitz == pytest.approx(4.0)
    assert (0 * ex.square(x[0])).lipschitz == 0.0


def test_ranges_of_bounded_expressions() -> None:
    x = ex.Variable(3)
    clipped = ex.minimum(ex.maximum(x, -1), 2)
    assert clipped.range == ex.Interval(-1, 2)
    assert ex.square(clipped).range == ex.Interval(0, 4)
    assert ex.sum(clipped).range == ex.Interval(-3, 6)
    assert (np.array([[1.0, -1.0, 0.0]]) @ clipped).range == ex.Interval(-3, 3)
    assert (np.array([0.0, 0.0, 2.0]) @ ex.abs(x) - 1).range == ex.Interval(-1, math.inf)
    assert (x - x).curvature is ex.Curvature.AFFINE
    assert ex.abs(x).sign is ex.Sign.NONNEGATIVE
    assert (0 * ex.abs(x)).sign is ex.Sign.ZERO


def test_constants_fold() -> None:
    x = ex.Variable(2)
    assert isinstance(ex.abs([-1.0, 2.0]), ex.Constant)
    assert str(ex.norm2([3.0, 4.0]) * x) == "5 * x"
    assert ex.abs([-1.0, 2.0]).curvature is ex.Curvature.CONSTANT
    assert ex.sum([ex.abs(x), 1.0][1]).value() == 1.0
