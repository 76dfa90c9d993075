"""abs, square, huber, pos and neg against closed forms: values, slopes, boxes, conjugates and proximal maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest
from scipy import special

import alignkit.expressions as ex
from alignkit.expressions.atoms.elementwise import ENTRIES, neg
from tests.expressions.functions_of_a_number import (
    Truth,
    check_boxes,
    check_conjugate,
    check_extremes,
    check_gradients,
    check_libraries,
    check_prox,
    check_subgradients,
    check_values,
    check_verdict,
)

FUNCTIONS = {
    "abs": Truth(ex.abs, np.abs, np.sign, kinks=(0.0,)),
    "square": Truth(ex.square, np.square, lambda x: 2.0 * x),
    "huber": Truth(
        lambda x: ex.huber(x, 0.7),
        lambda x: 2.0 * special.huber(0.7, x),
        lambda x: 2.0 * np.clip(x, -0.7, 0.7),
        kinks=(-0.7, 0.7),
    ),
    "pos": Truth(ex.pos, lambda x: np.maximum(x, 0.0), lambda x: np.heaviside(x, 0.0), kinks=(0.0,)),
    "neg": Truth(neg, lambda x: np.maximum(-x, 0.0), lambda x: -np.heaviside(-x, 0.0), kinks=(0.0,)),
}
CHECKS = (
    check_values,
    check_libraries,
    check_gradients,
    check_subgradients,
    check_extremes,
    check_boxes,
    check_conjugate,
    check_prox,
)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_closed_forms(name: str, check: Callable[[Truth], None]) -> None:
    check(FUNCTIONS[name])


@pytest.mark.parametrize(
    "build",
    [
        lambda f, x: f.neg(x),
        lambda f, x: f.neg(f.neg(x)),
        lambda f, x: f.neg(f.square(x)),
        lambda f, x: f.neg(-f.square(x)),
        lambda f, x: f.square(f.neg(x)),
        lambda f, x: f.square(-f.neg(x)),
        lambda f, x: f.huber(f.neg(-f.abs(x)), 2.0),
        lambda f, x: f.pos(f.neg(x) - 1.0),
        lambda f, x: -f.neg(f.minimum(x, 0.0)),
    ],
)
def test_verdicts_are_cvxpys(build: Callable[..., object]) -> None:
    check_verdict(build, ENTRIES)


def test_neg_is_pos_of_the_negative() -> None:
    x = ex.Variable((2, 3))
    points = np.random.default_rng(0).normal(size=(7, 2, 3))
    np.testing.assert_array_equal(neg(x).value(points), ex.pos(-x).value(points))
    assert str(neg(x - 1.0)) == "neg(x - 1)"
    assert neg([-2.0, 3.0]).value().tolist() == [2.0, 0.0]


def test_gradients_of_batches_of_matrices_chain_through_affine_maps() -> None:
    x = ex.Variable((2, 3))
    matrix = np.random.default_rng(1).normal(size=(4, 2))
    points = np.random.default_rng(2).normal(size=(5, 2, 3))
    expression = ex.sum(neg(matrix @ x)) + ex.sum(ex.square(ex.abs(x) - 1.0))
    images = matrix @ points
    expected = np.swapaxes(-(images < 0.0).astype(float), 1, 2) @ matrix
    expected = np.swapaxes(expected, 1, 2) + 2.0 * (np.abs(points) - 1.0) * np.sign(points)
    np.testing.assert_allclose(expression.gradient(points), expected, rtol=1e-12)


def test_slopes_that_overflow_do_not_meet_a_zero() -> None:
    # minimum(x⁴, 1) is 1 at 1e200: nothing depends on x there, though the slope of the square of the square overflows.
    expression = ex.minimum(ex.square(ex.square(ex.Variable())), 1.0)
    with np.errstate(over="ignore"):
        assert expression.value(1e200) == 1.0
        assert expression.gradient(np.array([1e200, 0.5])).tolist() == [0.0, 0.5]
        # And |x| is flat at 0, however steep what is built on it.
        assert ((ex.abs(ex.Variable()) ** 0.3) ** 0.3).gradient(np.array([0.0])).tolist() == [0.0]


def test_bounds_that_overflow_are_infinite_above_and_finite_below() -> None:
    x = ex.Variable()
    for build in (ex.square, lambda one: ex.huber(one, 1e300), lambda one: ex.square(ex.huber(one, 1e200))):
        bounds = build(x).over(1e200, 1e250).range
        assert math.isfinite(bounds.lower) and bounds.lower > 1e100
        assert bounds.upper == math.inf


def test_functions_cvxpy_has_bear_its_names() -> None:
    assert all(hasattr(cp, row.name) for row in ENTRIES)
    assert [row.name for row in ENTRIES] == [row.function.__name__ for row in ENTRIES if row.function]
