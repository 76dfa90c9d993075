"""Largest and smallest entries, sums of several of them, and log_sum_exp."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import array_api_compat
import cvxpy as cp
import numpy as np
import pytest
from scipy import special

import alignkit.expressions as ex
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.atoms.order import (
    LogSumExp,
    Max,
    Maximum,
    Min,
    Minimum,
    SumLargest,
    SumSmallest,
    project_capped_simplex,
)
from tests.expressions.functions_of_arrays import (
    check_claims,
    check_conjugate,
    check_gradients,
    check_libraries,
    check_nearest,
    check_prox,
    check_subgradients,
    check_values,
    check_verdicts,
)

SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(12, *SHAPE)) * 2.0
#: Ties among all entries, among the largest, among the smallest, and in the middle.
KINKS = np.array(
    [
        np.zeros(SHAPE),
        [[1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]],
        [[2.0, 1.0, 1.0], [1.0, 0.0, -3.0]],
        [[0.0, 0.0, 5.0], [0.0, 4.0, 4.0]],
        [[-1.0, -1.0, -1.0], [7.0, 7.0, 6.0]],
    ]
)


def partial_sum(values: np.ndarray, k: float, *, largest: bool) -> float:
    ordered = np.sort(values.ravel())
    ordered = ordered[::-1] if largest else ordered
    weights = np.clip(k - np.arange(ordered.size), 0.0, 1.0)
    return float(weights @ ordered)


Case = tuple[Callable[[Any], Any], Callable[[np.ndarray], Any], Callable[[Any], Any]]
#: name: (alignkit, numpy on one point, cvxpy)
ATOMS: dict[str, Case] = {
    "max": (ex.max, np.max, cp.max),
    "max axis": (lambda x: ex.max(x, axis=0), lambda x: x.max(axis=0), lambda x: cp.max(x, axis=0)),
    "min": (ex.min, np.min, cp.min),
    "min axis": (lambda x: ex.min(x, axis=1), lambda x: x.min(axis=1), lambda x: cp.min(x, axis=1)),
    "log_sum_exp": (ex.log_sum_exp, special.logsumexp, cp.log_sum_exp),
    "log_sum_exp axis": (
        lambda x: ex.log_sum_exp(x, axis=0),
        lambda x: special.logsumexp(x, axis=0),
        lambda x: cp.log_sum_exp(x, axis=0),
    ),
    "maximum": (
        lambda x: ex.maximum(x[0], x[1], 0.5),
        lambda x: np.maximum(x.max(axis=0), 0.5),
        lambda x: cp.maximum(x[0], x[1], 0.5),
    ),
    "minimum": (
        lambda x: ex.minimum(x[0], 2 * x[1], 0.5),
        lambda x: np.minimum(np.minimum(x[0], 2 * x[1]), 0.5),
        lambda x: cp.minimum(x[0], 2 * x[1], 0.5),
    ),
    "sum_largest": (
        lambda x: ex.sum_largest(x, 3),
        lambda x: partial_sum(x, 3, largest=True),
        lambda x: cp.sum_largest(x, 3),
    ),
    "sum_largest 1": (
        lambda x: ex.sum_largest(x, 1),
        lambda x: partial_sum(x, 1, largest=True),
        lambda x: cp.sum_largest(x, 1),
    ),
    "sum_largest part": (
        lambda x: ex.sum_largest(x, 2.25),
        lambda x: partial_sum(x, 2.25, largest=True),
        lambda x: cp.sum_largest(x, 2.25),
    ),
    "sum_largest below 1": (
        lambda x: ex.sum_largest(x, 0.5),
        lambda x: partial_sum(x, 0.5, largest=True),
        lambda x: cp.sum_largest(x, 0.5),
    ),
    "sum_largest axis": (
        lambda x: ex.sum_largest(x, 2, axis=1),
        lambda x: np.array([partial_sum(row, 2, largest=True) for row in x]),
        lambda x: cp.sum_largest(x, 2, axis=1),
    ),
    "sum_largest first axis": (
        lambda x: ex.sum_largest(x, 1.5, axis=0),
        lambda x: np.array([partial_sum(row, 1.5, largest=True) for row in x.T]),
        lambda x: cp.sum_largest(x, 1.5, axis=0),
    ),
    "sum_smallest": (
        lambda x: ex.sum_smallest(x, 4),
        lambda x: partial_sum(x, 4, largest=False),
        lambda x: cp.sum_smallest(x, 4),
    ),
    "sum_smallest part": (
        lambda x: ex.sum_smallest(x, 2.5),
        lambda x: partial_sum(x, 2.5, largest=False),
        lambda x: cp.sum_smallest(x, 2.5),
    ),
}


@pytest.mark.parametrize("name", ATOMS)
def test_values(name: str) -> None:
    build, truth, theirs = ATOMS[name]
    expression = build(ex.Variable(SHAPE))
    check_values(expression, truth, np.concatenate([X, KINKS]))
    other = cp.Variable(SHAPE)
    reference = theirs(other)
    for point in (X[0], X[1], KINKS[2]):
        other.value = point
        if "below" not in name:
            np.testing.assert_allclose(expression.value(point).ravel(), np.asarray(reference.value).ravel(), rtol=1e-9)
    check_verdicts(expression, reference)


@pytest.mark.parametrize("name", ATOMS)
def test_libraries_and_derivatives(name: str) -> None:
    expression = ATOMS[name][0](ex.Variable(SHAPE))
    check_libraries(expression, X)
    check_gradients(expression, X)
    check_subgradients(expression, KINKS, np.concatenate([X, KINKS, 0.1 * X]))


@pytest.mark.parametrize("box", [(-2.0, 1.0), (0.5, 2.0), (-3.0, -1.0)])
@pytest.mark.parametrize("name", ATOMS)
def test_claims_over_boxes(name: str, box: tuple[float, float]) -> None:
    check_claims(ATOMS[name][0](ex.Variable(SHAPE)), *box, tight_slope="sum_exp" not in name)


@pytest.mark.parametrize("name", ["max", "sum_largest", "sum_largest 1", "sum_largest part", "sum_largest below 1"])
def test_conjugates_and_proximal_maps(name: str) -> None:
    build, _, theirs = ATOMS[name]
    atom = build(ex.Variable(SHAPE))
    check_conjugate(atom, X)
    check_nearest(atom)
    check_prox(atom, theirs)


@pytest.mark.parametrize("name", ["min", "sum_smallest", "sum_smallest part"])
def test_concave_atoms_have_the_proximal_map_of_their_negative_and_no_conjugate(name: str) -> None:
    build, _, theirs = ATOMS[name]
    atom = build(ex.Variable(SHAPE))
    check_prox(atom, theirs)
    with pytest.raises(ParameterError, match="conjugate"):
        atom.conjugate(np.zeros((1, *SHAPE)))


@pytest.mark.parametrize("k", [1.0, 2.0, 3.7, 6.999, 7.0 - 1e-9, 0.01])
def test_projection_onto_the_capped_simplex_is_exact(k: float) -> None:
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(300, 7)) * 10.0 ** generator.uniform(-6, 6, size=(300, 1))
    rows[::5] = np.round(rows[::5])  # ties
    rows[::7] = 0.0
    found = project_capped_simplex(rows, k)
    assert found.min() >= 0.0 and found.max() <= 1.0
    np.testing.assert_allclose(found.sum(axis=1), k, rtol=1e-9)
    # Optimality: one threshold t with y = clip(v − t, 0, 1).
    for row, point in zip(rows, found, strict=True):
        free = (point > 0.0) & (point < 1.0)
        slack = 1e-9 * (1.0 + np.abs(row).max())
        least = max((row[point == 0.0]).max(initial=-np.inf), (row - point)[free].max(initial=-np.inf))
        greatest = min((row[point == 1.0] - 1.0).min(initial=np.inf), (row - point)[free].min(initial=np.inf))
        assert least <= greatest + slack


def test_lipschitz_constants_over_affine_arguments_take_the_longest_rows() -> None:
    x = ex.Variable(4)
    rows = np.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5], [0.1, 0.0, 0.0, 0.0]])
    assert ex.sum_largest(rows @ x, 1).lipschitz == pytest.approx(5.0)
    assert ex.sum_largest(rows @ x, 2).lipschitz <= 6.0 + 1e-12
    assert ex.sum_largest(rows @ x, 2.5).lipschitz <= 6.25 + 1e-12
    assert ex.sum_largest(x, 2.5).lipschitz == pytest.approx(math.sqrt(2.25))
    for k in (1, 1.5, 2, 3):
        for build in (ex.sum_largest, ex.sum_smallest):
            check_claims(build(rows @ x, k), -2.0, 3.0, tight_range=False)


def test_a_sum_of_all_entries_is_affine() -> None:
    x = ex.Variable(SHAPE)
    assert str(ex.sum_largest(x, 6)) == str(ex.sum_smallest(x, 6)) == "sum(x)"
    assert ex.sum_largest(x, 3, axis=1).is_affine()
    assert str(ex.sum_largest(x, 2, axis=1)) == "sum_largest(x, 2, axis=1)"
    assert str(ex.sum_smallest(x, 2.5)) == "sum_smallest(x, 2.5)"
    assert float(ex.sum_largest([3.0, 1.0, 2.0], 2).value()) == 5.0


@pytest.mark.parametrize("k", [0, -1, 7, 6.1, math.nan, math.inf, True, "2", None])
def test_counts_out_of_range_are_refused(k: Any) -> None:
    x = ex.Variable(SHAPE, name="pixels")
    for build, name in ((ex.sum_largest, "sum_largest"), (ex.sum_smallest, "sum_smallest")):
        with pytest.raises(ParameterError, match=rf"{name}.*0 < k ≤ 6") as caught:
            build(x, k)
        assert "pixels" in str(caught.value)
    with pytest.raises(ShapeError, match="axis 2"):
        ex.sum_largest(x, 1, axis=2)


def test_common_shifts_are_known() -> None:
    x = ex.Variable(SHAPE)
    moving: list[ex.Expression] = [
        ex.max(x, axis=1),
        ex.min(x),
        ex.maximum(x, 2 * x),
        ex.minimum(x, x - 1),
        ex.log_sum_exp(x, axis=0),
        ex.sum_largest(x, 2.5),
        ex.sum_smallest(x, 2, axis=1),
    ]
    kinds = [Max, Min, Maximum, Minimum, LogSumExp, SumLargest, SumSmallest]
    for expression, kind in zip(moving, kinds, strict=True):
        assert isinstance(expression, kind)
        values = [arg.value(X) for arg in expression.args]
        shifted = [value + 0.75 for value in values]
        xp = array_api_compat.array_namespace(X)
        expected = expression._numeric(xp, values) + 0.75 * expression.common_shift
        np.testing.assert_allclose(expression._numeric(xp, shifted), expected, rtol=1e-12, atol=1e-12)
    for still in (ex.norm2(x), ex.abs(x)):
        assert isinstance(still, ex.Atom) and still.common_shift is None


def test_entries_outside_their_domain_do_not_spoil_the_rest() -> None:
    # Convex entries are inf there and concave ones −inf; the sum of the others is not a NaN.
    x = ex.Variable(4)
    point = np.array([np.inf, 1.0, 2.0, -np.inf])
    assert ex.sum_largest(x, 2).value(point) == np.inf
    assert ex.sum_smallest(x, 2).value(point) == -np.inf
    assert ex.sum_largest(x, 2).value(np.array([3.0, 1.0, -np.inf, -np.inf])) == 4.0
    assert ex.sum_smallest(x, 1.5).value(np.array([3.0, 1.0, np.inf, np.inf])) == 2.5


COMPOSITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum_largest of convex": lambda m, x: m.sum_largest(m.square(x), 2),
    "sum_largest of concave": lambda m, x: m.sum_largest(m.minimum(x, 1), 2),
    "sum_smallest of concave": lambda m, x: m.sum_smallest(-m.abs(x), 2),
    "sum_smallest of convex": lambda m, x: m.sum_smallest(m.abs(x), 2),
    "square of sum_largest": lambda m, x: m.square(m.sum_largest(m.abs(x), 2)),
    "max of sum_largest": lambda m, x: m.maximum(m.sum_largest(x, 2), m.norm2(x)),
    "min of sum_smallest": lambda m, x: m.minimum(m.sum_smallest(x, 2), 3),
    "sum_largest minus sum_smallest": lambda m, x: m.sum_largest(x, 2) - m.sum_smallest(x, 1),
    "sum_largest plus sum_smallest": lambda m, x: m.sum_largest(x, 2) + m.sum_smallest(x, 1),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_verdicts_are_cvxpys(name: str) -> None:
    check_verdicts(COMPOSITIONS[name](ex, ex.Variable(3)), COMPOSITIONS[name](cp, cp.Variable(3)))
