"""sum_squares, quad_form and quad_over_lin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse

import alignkit.expressions as ex
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.atoms.quadratic import QuadForm, QuadOverLin, SumSquares
from tests.expressions.functions_of_arrays import (
    check_bend,
    check_claims,
    check_conjugate,
    check_gradients,
    check_libraries,
    check_prox,
    check_subgradients,
    check_values,
    check_verdicts,
)

SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(12, *SHAPE)) * 2.0
ROOT = np.random.default_rng(1).normal(size=(4, 6))
POSITIVE = ROOT.T @ ROOT
MIXED = np.diag([1.0, -2.0, 0.5, 0.0, 3.0, -1.0]) + 0.25 * (np.ones((6, 6)) - np.eye(6))
BANDED = sparse.diags_array([np.full(5, -1.0), np.full(6, 2.0), np.full(5, -1.0)], offsets=[-1, 0, 1]).tocsr()

FORMS: dict[str, Any] = {"positive": POSITIVE, "negative": -POSITIVE, "mixed": MIXED, "banded": BANDED}
#: x ↦ ‖x[0]‖² / y with y = 2 + x[1, 0], positive on boxes above −2.
DIVISOR = lambda x: ex.quad_over_lin(x[0], x[1, 0] + 2.0)  # noqa: E731


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_sum_squares(axis: Any) -> None:
    expression = ex.sum_squares(ex.Variable(SHAPE), axis=axis)
    check_values(expression, lambda x: (x**2).sum(axis=axis), X)
    check_libraries(expression, X)
    check_gradients(expression, X)
    for box in ((-2.0, 1.0), (1.0, 3.0)):
        check_claims(expression, *box, tight_slope=True)


@pytest.mark.parametrize("name", FORMS)
def test_quad_form(name: str) -> None:
    P = FORMS[name]
    dense = P.toarray() if sparse.issparse(P) else P
    expression = ex.quad_form(ex.Variable(SHAPE), P)
    check_values(expression, lambda x: x.ravel() @ dense @ x.ravel(), X)
    check_libraries(expression, X)
    check_gradients(expression, X)
    for box in ((-2.0, 1.0), (1.0, 3.0), (-3.0, -0.5), (0.0, 1.0)):
        check_claims(expression, *box, tight_range=False)


def test_ranges_of_quad_forms_come_from_their_entries() -> None:
    x = ex.Variable(3)
    assert ex.quad_form(x, np.eye(3)).over(1.0, 2.0).range == ex.Interval(3.0, 12.0)
    assert ex.quad_form(x, np.diag([1.0, -2.0, 0.0])).over(-1.0, 2.0).range == ex.Interval(-8.0, 4.0)
    assert ex.quad_form(x, np.ones((3, 3))).over(1.0, 2.0).range == ex.Interval(9.0, 36.0)
    assert ex.quad_form(x, np.ones((3, 3)) - np.eye(3)).over(0.0, math.inf).range == ex.Interval(0.0, math.inf)
    assert ex.quad_form(x, BANDED[:3, :3]).over(-1.0, 1.0).range.lower == 0.0
    assert ex.quad_form(x, np.zeros((3, 3))).range == ex.Interval(0.0, 0.0)


@pytest.mark.parametrize("name", ["sum_squares", "positive", "negative", "banded"])
def test_proximal_maps(name: str) -> None:
    x = ex.Variable(SHAPE)
    if name == "sum_squares":
        check_prox(ex.sum_squares(x), cp.sum_squares)
        return
    P = FORMS[name]
    check_prox(
        ex.quad_form(x, P),
        lambda z: (
            cp.quad_form(cp.vec(z, order="C"), cp.psd_wrap(P))
            if name != "negative"
            else -cp.quad_form(cp.vec(z, order="C"), cp.psd_wrap(-P))
        ),
    )


def test_conjugates() -> None:
    x = ex.Variable(SHAPE)
    check_conjugate(ex.sum_squares(x), X)
    check_conjugate(ex.quad_form(x, POSITIVE), X)
    check_conjugate(ex.quad_form(x, BANDED), X)
    for indefinite in (ex.quad_form(x, MIXED), ex.quad_form(x, -POSITIVE)):
        assert isinstance(indefinite, QuadForm)
        with pytest.raises(ParameterError, match="positive semidefinite"):
            indefinite.conjugate(np.zeros((1, *SHAPE)))
    mixed = ex.quad_form(x, MIXED)
    assert isinstance(mixed, QuadForm)
    with pytest.raises(ParameterError, match="semidefinite"):
        mixed.prox(np.zeros((1, *SHAPE)), 1.0)


def test_a_form_with_parameters_is_refused_rather_than_frozen() -> None:
    x = ex.Variable(2)
    P = ex.Parameter((2, 2), value=np.eye(2), name="precision")
    for form in (P, 2.0 * P):
        with pytest.raises(ParameterError, match="precision") as caught:
            ex.quad_form(x, form)
        assert any("sum_squares(L @ x)" in way for way in caught.value.ways_out)
    # The way out follows its parameter.
    root = ex.Parameter((2, 2), value=np.eye(2), name="root")
    expression = ex.sum_squares(root @ x)
    assert expression.is_convex()
    assert expression.value([1.0, 2.0]) == 5.0
    root.value = 2.0 * np.eye(2)
    assert expression.value([1.0, 2.0]) == 20.0


# ---- quad_over_lin


def test_quad_over_lin_values() -> None:
    x = ex.Variable(SHAPE)
    expression = DIVISOR(x)
    points = X.copy()
    points[:, 1, 0] = np.abs(points[:, 1, 0]) - 1.0
    check_values(expression, lambda p: (p[0] ** 2).sum() / (p[1, 0] + 2.0), points)
    other = cp.Variable(SHAPE)
    reference = cp.quad_over_lin(other[0], other[1, 0] + 2.0)
    for point in points[:3]:
        other.value = point
        assert expression.value(point) == pytest.approx(float(reference.value), rel=1e-12)
    check_libraries(expression, points)
    check_gradients(expression, points)
    kinks = points.copy()
    kinks[:, 0] = 0.0
    check_subgradients(expression, kinks, points)


def test_quad_over_lin_is_inf_outside_its_domain() -> None:
    x = ex.Variable(2)
    expression = ex.quad_over_lin(x[0], x[1])
    points = np.array([[1.0, 0.0], [1.0, -1.0], [0.0, 0.0], [0.0, -2.0], [3.0, 2.0]])
    assert expression.value(points).tolist() == [np.inf, np.inf, np.inf, np.inf, 4.5]
    (condition,) = expression.domain
    assert str(condition) == "x[1] > 0"
    assert np.isfinite(expression.gradient(points)).all()
    assert isinstance(expression, QuadOverLin)
    # Where the divisor is itself outside its domain, the quotient is inf.
    assert ex.quad_over_lin(x[0], ex.sqrt(x[1])).value([1.0, -1.0]) == np.inf


@pytest.mark.parametrize("box", [(-1.0, 2.0), (0.5, 1.5), (-1.5, -0.5), (0.0, 3.0)])
def test_quad_over_lin_claims(box: tuple[float, float]) -> None:
    # Both arguments share the box here: ranges and slopes are those of independent arguments.
    check_claims(DIVISOR(ex.Variable(SHAPE)), *box)
    separate = ex.quad_over_lin(ex.Variable(SHAPE)[0], ex.Variable(SHAPE, name="y")[1, 0])
    assert separate.range.lower == 0.0 and separate.lipschitz == math.inf


def test_quad_over_lin_claims_at_the_edge() -> None:
    x = ex.Variable(2)
    tight = ex.quad_over_lin(x[0], x[1]).over(1.0, 4.0)
    assert tight.range == ex.Interval(0.25, 16.0)
    # 2·4/1 in x and 16/1 in y.
    assert tight.lipschitz == pytest.approx(24.0)
    touching = ex.quad_over_lin(x[0], x[1]).over(0.0, 4.0)
    assert touching.range == ex.Interval(0.0, math.inf) and touching.lipschitz == math.inf
    still = ex.quad_over_lin(0.0 * x[0], x[1]).over(0.0, 4.0)
    assert still.range == ex.Interval(0.0, 0.0) and still.lipschitz == 0.0
    outside = ex.quad_over_lin(x[0], x[1]).over(-2.0, -1.0)  # an empty domain
    assert not math.isnan(outside.lipschitz) and outside.range.lower == 0.0
    tiny = ex.quad_over_lin(x[0], x[1] * 1e-200).over(1.0, 2.0)
    assert tiny.range.upper == pytest.approx(4e200) and tiny.lipschitz >= 4e200


def test_quad_over_lin_is_jointly_convex() -> None:
    x = ex.Variable(3)
    expression = ex.quad_over_lin(x[:2], x[2])
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(2, 4000, 3)) * 3.0
    draws[:, :, 2] = generator.uniform(1e-3, 4.0, size=(2, 4000))
    check_bend(expression, draws[0], draws[1])


def test_quad_over_lin_of_a_constant_divisor_is_a_quadratic() -> None:
    x = ex.Variable(2)
    expression = ex.quad_over_lin(x, 4.0)
    assert str(expression) == "sum_squares(x) / 4"
    assert isinstance(expression.args[0], SumSquares)
    assert ex.quad_over_lin(x, np.array([4.0])).value([2.0, 0.0]) == 1.0
    weight = ex.Parameter(nonneg=True, value=2.0, name="weight")
    scaled = ex.quad_over_lin(x, weight)
    assert scaled.is_convex() and scaled.value([2.0, 0.0]) == 2.0
    weight.value = 4.0
    assert scaled.value([2.0, 0.0]) == 1.0
    unsigned = ex.Parameter(value=2.0, name="scale")
    free = ex.quad_over_lin(x, unsigned)
    assert free.is_convex() and free.value([2.0, 0.0]) == 2.0
    np.testing.assert_allclose(free.gradient([2.0, 1.0]), [2.0, 1.0])
    unsigned.value = -1.0
    assert free.value([2.0, 0.0]) == np.inf


@pytest.mark.parametrize("divisor", [0.0, -1.0, "nonpositive"])
def test_divisors_that_are_never_positive_are_refused(divisor: Any) -> None:
    x = ex.Variable(2, name="pixels")
    y = -ex.abs(x[0]) if divisor == "nonpositive" else divisor
    with pytest.raises(ParameterError, match="never positive") as caught:
        ex.quad_over_lin(x, y)
    assert "pixels" in str(caught.value) and caught.value.ways_out
    with pytest.raises(ShapeError, match=r"scalar y.*\(2,\)"):
        ex.quad_over_lin(x, x)


COMPOSITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "affine": lambda m, x: m.quad_over_lin(x[:2] - 1, x[2] + 3),
    "nonnegative convex over affine": lambda m, x: m.quad_over_lin(m.abs(x), x[0]),
    "convex over affine": lambda m, x: m.quad_over_lin(m.abs(x) - 1, x[0]),
    "affine over concave": lambda m, x: m.quad_over_lin(x, m.min(x)),
    "affine over convex": lambda m, x: m.quad_over_lin(x, m.max(x)),
    "negative": lambda m, x: -m.quad_over_lin(x, x[0]),
    "nonpositive concave": lambda m, x: m.quad_over_lin(-m.square(x), m.minimum(x[0], 1)),
    "constant over concave": lambda m, x: m.quad_over_lin(np.ones(3), m.min(x)),
    "square of it": lambda m, x: m.square(m.quad_over_lin(x, x[1])),
    "root of it": lambda m, x: m.sqrt(m.quad_over_lin(x, x[1])),
    "form of nonnegative": lambda m, x: m.quad_form(x, np.eye(3)) + m.sum_squares(m.pos(x)),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_verdicts_are_cvxpys(name: str) -> None:
    check_verdicts(COMPOSITIONS[name](ex, ex.Variable(3)), COMPOSITIONS[name](cp, cp.Variable(3)))


def test_forms_of_arguments_outside_their_domain_are_not_nan() -> None:
    x = ex.Variable(2)
    expression = ex.quad_form(ex.inv_pos(x), np.diag([1.0, 2.0]))
    assert expression.is_convex()
    assert expression.value([-1.0, 1.0]) == np.inf
    assert expression.value([2.0, 1.0]) == 2.25
