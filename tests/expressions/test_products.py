"""Products of two expressions that both depend on the variable."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit.expressions as ex
from alignkit.errors import CurvatureError, ShapeError
from alignkit.expressions.atoms.products import Product
from alignkit.expressions.curvature import Monotonicity
from tests.expressions.functions_of_arrays import check_claims, check_gradients, check_libraries, check_values

SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(12, *SHAPE)) * 2.0


def test_values_libraries_and_derivatives() -> None:
    x = ex.Variable(SHAPE)
    check_values(ex.abs(x) * x, lambda p: np.abs(p) * p, X)
    check_values(ex.inner(x, ex.square(x) - 1), lambda p: (p * (p**2 - 1)).sum(), X)
    check_values(x[0] @ (x[1] + 1), lambda p: p[0] @ (p[1] + 1), X)
    check_values(ex.multiply(ex.sin(x), x[0]), lambda p: np.sin(p) * p[0], X)
    check_values(ex.norm2(x) * x, lambda p: np.linalg.norm(p) * p, X)
    for expression in (ex.abs(x) * x, ex.sin(x) * ex.cos(x[:1]), x * ex.norm2(x), x[0] @ ex.tanh(x[1])):
        check_libraries(expression, X)
        check_gradients(expression, X)


@pytest.mark.parametrize("box", [(-2.0, 1.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 1.0)])
def test_claims_over_boxes(box: tuple[float, float]) -> None:
    x = ex.Variable(2)
    check_claims(x[0] * x[1], *box, tight_slope=False)
    check_claims(ex.sin(x[0]) * ex.exp(x[1]), *box, tight_range=False)
    check_claims(ex.inner(x, x - 1.0), *box, tight_range=False)
    check_claims(ex.norm2(x) * x, *box, tight_range=False)
    # Of independent factors the gradient at the far corner is as large as claimed, up to the Euclidean sum of the two.
    independent = (x[0] * x[1]).over(*box)
    steepest = math.hypot(*[max(abs(box[0]), abs(box[1]))] * 2)
    assert steepest <= independent.lipschitz <= math.sqrt(2.0) * steepest * (1 + 1e-12)


def test_bounded_factors_make_a_lipschitz_product() -> None:
    x = ex.Variable(3)
    product = ex.sin(x) * ex.tanh(x)
    assert product.lipschitz == pytest.approx(2.0) and product.range == ex.Interval(-1.0, 1.0)
    assert (ex.sin(x) * x).lipschitz == math.inf
    assert (x * ex.abs(x)).lipschitz == math.inf
    assert ((0.0 * x) * x).lipschitz == 0.0
    assert (ex.sigmoid(x) * ex.clip(x, -1.0, 3.0)).lipschitz == pytest.approx(0.25 * 3.0 + 1.0)
    assert (ex.sigmoid(x) * ex.clip(x, -1.0, 3.0)).range == ex.Interval(-1.0, 3.0)
    assert (ex.abs(x) * ex.exp(x)).sign is ex.Sign.NONNEGATIVE
    assert (ex.abs(x) * -ex.exp(x)).sign is ex.Sign.NONPOSITIVE


def test_a_factor_times_itself_is_its_square() -> None:
    x = ex.Variable(SHAPE)
    tail = ex.abs(x) - 1.0
    assert str(x * x) == "square(x)" and (x * x).is_convex()
    assert str(tail * tail) == "square(abs(x) - 1)"
    assert str(ex.inner(x, x)) == "sum(square(x))" and ex.inner(x, x).is_convex()
    assert str(x[0] @ x[1]) == "sum(x[0] * x[1])"
    assert (ex.abs(x) * (ex.abs(x))).curvature is ex.Curvature.UNKNOWN  # two objects
    assert ex.multiply(x, x).range.lower == 0.0


def test_products_have_no_curvature_and_the_monotonicity_of_the_other_sign() -> None:
    x = ex.Variable(SHAPE)
    product = ex.exp(x) * -ex.abs(x)
    assert isinstance(product, Product)
    assert product.curvature is ex.Curvature.UNKNOWN
    assert "neither convex nor concave" in product.curvature_rule
    assert product.monotonicity(0) is Monotonicity.DECREASING
    assert product.monotonicity(1) is Monotonicity.INCREASING
    assert (x * ex.sin(x)).monotonicity(0) is Monotonicity.UNKNOWN
    assert (x - x * x[0]).curvature is ex.Curvature.UNKNOWN


def test_products_print_as_written() -> None:
    x = ex.Variable(3)
    assert str(ex.abs(x) * x) == "abs(x) * x"
    assert str((x + 1) * ex.sin(x)) == "(x + 1) * sin(x)"
    assert str(ex.sin(x) * (x - 1) / 2) == "sin(x) * (x - 1) / 2"
    assert str(2 * (ex.sin(x) * x)) == "2 * sin(x) * x"
    assert str(-(ex.sin(x) * x)) == "-sin(x) * x"
    assert str(ex.norm2(x) * x) == "norm2(x) * x"


def test_shapes_broadcast_and_matrix_products_are_refused() -> None:
    x = ex.Variable((3, 3), name="pixels")
    assert (x * ex.sin(x[0])).shape == (3, 3)
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(2,\)"):
        x * x[0, :2]
    with pytest.raises(ShapeError, match="inner"):
        ex.inner(x, x[0])
    for left, right in ((x, x), (x, x[0]), (x[0], x)):
        with pytest.raises(CurvatureError, match="pixels") as caught:
            left @ right
        assert any("a * b" in way for way in caught.value.ways_out)


def test_a_quotient_of_expressions_is_a_product_with_a_reciprocal() -> None:
    x = ex.Variable(3)
    quotient = ex.sin(x) / (1.0 + ex.square(x))
    np.testing.assert_allclose(quotient.value([0.0, 1.0, -2.0]), np.sin([0.0, 1.0, -2.0]) / np.array([1.0, 2.0, 5.0]))
    assert quotient.range.upper <= 1.0 and quotient.range.lower >= -1.0
    with pytest.raises(CurvatureError):
        ex.sin(x) / x
