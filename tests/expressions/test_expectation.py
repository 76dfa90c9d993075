"""Expectations and constraints on them: what may be written, what it means, and what is refused with a reason."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import CurvatureError, NonFiniteError, ParameterError, ShapeError
from alignkit.expressions import Curvature, Expectation, affine_map, expectations, without_expectations

X = ak.Variable(3)
B = np.random.default_rng(0).normal(size=(2, 3))
ONE = ak.E(X[0])
RELATIONS = {"==": operator.eq, "<=": operator.le, ">=": operator.ge}
SWAPPED = {"==": "==", "<=": ">=", ">=": "<="}


def test_an_expectation_is_an_affine_leaf_of_the_shape_of_its_expression():
    found = ak.E(B @ X)
    assert isinstance(found, Expectation) and found.shape == (2,) and found.args == ()
    assert found.curvature is Curvature.AFFINE and found.has_expectation and found.depends
    assert not found.variables() and str(found) == "E([2×3 constant] @ x)"
    assert not X.has_expectation and (2 * found[0] + 1).has_expectation


def test_concave_functions_of_it_are_concave_and_find_it_again():
    utility = ak.log(ak.E(ak.inner([1.0, 2.0, 3.0], X))) - ak.square(ONE - 1)
    assert utility.is_concave() and expectations(utility)[1] is ONE
    assert expectations(ak.norm1(X)) == ()


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_comparison_is_a_constraint_whichever_side_it_stands_on(relation):
    bound = np.array([1.0, -2.0])
    for constraint in (RELATIONS[relation](ak.E(B @ X), bound), RELATIONS[SWAPPED[relation]](bound, ak.E(B @ X))):
        assert isinstance(constraint, ak.Constraint) and constraint.relation == relation
        found = affine_map(constraint.residual)
        np.testing.assert_allclose(found.matrix, B)
        np.testing.assert_allclose(found.offset, -bound)


def test_differences_of_expectations_are_expectations_of_differences():
    for constraint in (2 * ak.E(X[0]) - ak.E(X[1]) == 0, 2 * ak.E(X[0]) == ak.E(X[1])):
        found = affine_map(constraint.residual)
        np.testing.assert_allclose(np.asarray(found.matrix.toarray()), [[2.0, -1.0, 0.0]])
        assert not found.offset.any()
    many = ak.E(X) <= ak.E(X[0])
    assert many.residual.shape == (3,)


def test_a_bound_may_be_a_parameter():
    bound = ak.Parameter(name="bound", value=2.0)
    constraint = ak.E(X) <= bound
    assert constraint.parameters() == (bound,) and str(constraint) == "E(x) <= bound"


def test_expressions_without_an_expectation_still_compare_by_identity():
    other = ak.Variable(3)
    same = X
    assert same == X and other != X and (X == 3) is False and X in [other, X]
    assert {X: 1}[X] == 1 and len({X, other, ONE}) == 3


def test_their_expectation_is_that_of_the_expression_without_them():
    points = np.random.default_rng(1).normal(size=(5, 3))
    found = without_expectations(3 * ONE - ak.E(B @ X)[1] + X[2])
    np.testing.assert_allclose(found.value(points), 3 * points[:, 0] - points @ B[1] + points[:, 2])


def test_they_write_themselves_in_latex():
    assert ak.log(ONE).to_latex() == r"\log\left(\mathbb{E}_{q}\left[x_{0}\right]\right)"
    assert (ak.E(B @ X) >= 1).to_latex().endswith(r"\right] \ge 1")
    assert (ONE == 1)._repr_latex_().startswith("$")


REFUSED = {
    "not affine": (lambda: ak.E(ak.square(X)), CurvatureError, "square"),
    "of itself": (lambda: ak.E(ONE + 1), ParameterError, "of an expectation"),
    "of a constant": (lambda: ak.E(3.0), ParameterError, "exactly one variable"),
    "of two variables": (lambda: ak.E(X + ak.Variable(3, "y")), ParameterError, "exactly one variable"),
    "of text": (lambda: ak.E("x"), ParameterError, "E"),
    "a constraint on draws": (lambda: X[0] <= 1, ParameterError, r"E\(x\[0\]\) <="),
    "a strict inequality": (lambda: ONE < 1, ParameterError, "write <="),
    "a strict inequality on draws": (lambda: X[0] > 1, ParameterError, r"E\(x\[0\]\) >="),
    "a variable outside": (lambda: ONE + X[1] == 0, ParameterError, r"E\(x\[0\] \+ x\[1\]\)"),
    "a nonlinear side": (lambda: ak.square(ONE) <= 1, CurvatureError, "utility"),
    "a NaN": (lambda: np.float64("nan") == ONE, NonFiniteError, "E"),
    "an infinite bound": (lambda: np.inf >= ONE, NonFiniteError, "E"),
    "shapes": (lambda: ak.E(X) == np.ones(2), ShapeError, r"\(3,\) and \(2,\)"),
    "one for many": (lambda: np.ones(3) == ONE, ShapeError, "3 numbers at once"),
    "a value": (lambda: ak.log(ONE).value(np.ones(3)), ParameterError, r"mean\(axis=0\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name):
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        make()


def test_a_chain_of_inequalities_is_refused():
    with pytest.raises(TypeError, match="two constraints"):
        0 <= ONE <= 1  # noqa: B015
