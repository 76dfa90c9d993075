"""Norms, the largest singular value and total variation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

import alignkit.expressions as ex
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions import norm, norm1, norm2, norm_inf, pnorm, sigma_max, total_variation
from alignkit.expressions.atoms.norms import PNorm, SigmaMax
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
#: Points with zeros, ties, repeated singular values and rank 1.
KINKS = np.array(
    [
        np.zeros(SHAPE),
        np.ones(SHAPE),
        [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[2.0, 2.0, -2.0], [1.0, 1.0, 1.0]],
        [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]],
    ]
)


def variation(x: np.ndarray) -> float:
    return float(
        sum(
            math.hypot(x[i + 1, j] - x[i, j], x[i, j + 1] - x[i, j])
            for i in range(x.shape[0] - 1)
            for j in range(x.shape[1] - 1)
        )
    )


Case = tuple[Callable[[Any], Any], Callable[[np.ndarray], Any], Callable[[Any], Any] | None]
#: name: (alignkit, numpy on one point, cvxpy or None)
NORMS: dict[str, Case] = {
    "norm1": (norm1, lambda x: np.abs(x).sum(), cp.norm1),
    "norm1 axis": (lambda x: norm1(x, 1), lambda x: np.abs(x).sum(axis=1), lambda x: cp.norm1(x, axis=1)),
    "norm2": (norm2, np.linalg.norm, lambda x: cp.norm(x, "fro")),
    "norm2 axis": (lambda x: norm2(x, 0), lambda x: np.linalg.norm(x, axis=0), lambda x: cp.norm2(x, axis=0)),
    "norm_inf": (norm_inf, lambda x: np.abs(x).max(), cp.norm_inf),
    "norm_inf axis": (lambda x: norm_inf(x, 0), lambda x: np.abs(x).max(axis=0), lambda x: cp.norm_inf(x, axis=0)),
    "pnorm 1.5": (
        lambda x: pnorm(x, 1.5),
        lambda x: (np.abs(x) ** 1.5).sum() ** (1 / 1.5),
        lambda x: cp.pnorm(x, 1.5),
    ),
    "pnorm 3": (lambda x: pnorm(x, 3), lambda x: (np.abs(x) ** 3).sum() ** (1 / 3), lambda x: cp.pnorm(x, 3)),
    "pnorm axis": (
        lambda x: pnorm(x, 4, axis=1),
        lambda x: (x**4).sum(axis=1) ** 0.25,
        None,
    ),
    "sigma_max": (sigma_max, lambda x: np.linalg.norm(x, 2), cp.sigma_max),
    "sigma_max wide": (lambda x: sigma_max(x.T), lambda x: np.linalg.norm(x, 2), lambda x: cp.sigma_max(x.T)),
    "total_variation": (total_variation, variation, cp.tv),
    "total_variation 1-d": (
        lambda x: total_variation(ex.vec(x)),
        lambda x: np.abs(np.diff(x.ravel())).sum(),
        lambda x: cp.tv(cp.vec(x, order="C")),
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_values(name: str) -> None:
    build, truth, theirs = NORMS[name]
    expression = build(ex.Variable(SHAPE))
    check_values(expression, truth, np.concatenate([X, KINKS]))
    if theirs is None:
        return
    other = cp.Variable(SHAPE)
    reference = theirs(other)
    for point in X[:3]:
        other.value = point
        np.testing.assert_allclose(
            np.asarray(expression.value(point)).ravel(), np.asarray(reference.value).ravel(), rtol=1e-9
        )
    check_verdicts(expression, reference)


@pytest.mark.parametrize("name", NORMS)
def test_libraries_and_derivatives(name: str) -> None:
    expression = NORMS[name][0](ex.Variable(SHAPE))
    check_libraries(expression, X)
    check_gradients(expression, X)
    check_subgradients(expression, KINKS, np.concatenate([X, KINKS, 0.1 * X]))


@pytest.mark.parametrize("box", [(-2.0, 1.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 1.0)])
@pytest.mark.parametrize("name", NORMS)
def test_claims_over_boxes(name: str, box: tuple[float, float]) -> None:
    expression = NORMS[name][0](ex.Variable(SHAPE))
    simple = "total" not in name
    # The steepest point of a p-norm is where all entries but one are 0, or where all are equal.
    check_claims(expression, *box, tight_range=simple, tight_slope=simple and box[0] <= 0.0 <= box[1])


@pytest.mark.parametrize("p", [1, 1.25, 2, 3, 50, math.inf])
def test_lipschitz_constants_over_affine_arguments(p: float) -> None:
    x = ex.Variable(3)
    rows = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.5]])
    expression = pnorm(rows @ x, p)
    directions = np.random.default_rng(0).normal(size=(20000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    steepest = expression.value(directions).max()  # a norm of a linear map: its own best slope
    assert steepest <= expression.lipschitz * (1 + 1e-12)
    crude = max(1.0, 3 ** (1 / p - 0.5)) * np.linalg.norm(rows, 2)
    exact_by_rows = float(np.linalg.norm(np.linalg.norm(rows, axis=1), p))
    assert expression.lipschitz <= min(crude, exact_by_rows) * (1 + 1e-12)
    # Rows far below 1 do not vanish in a high power.
    assert pnorm(1e-3 * x, 1e4).lipschitz >= 1e-3 * (1 - 1e-12)


def test_huge_and_tiny_entries_neither_overflow_nor_vanish() -> None:
    x = ex.Variable(2)
    for p in (1.5, 3, 17):
        for size in (1e200, 1e-200):
            point = np.array([size, -size])
            assert pnorm(x, p).value(point) == pytest.approx(2 ** (1 / p) * size)
            np.testing.assert_allclose(pnorm(x, p).gradient(point), 2 ** (1 / p - 1) * np.sign(point), rtol=1e-12)
    assert pnorm(x, 3).value([0.0, 0.0]) == 0.0
    matrix = ex.Variable((2, 2))
    assert sigma_max(matrix).value(np.full((2, 2), 1e200)) == pytest.approx(2e200)
    assert sigma_max(matrix).value(np.array([[math.inf, 0.0], [0.0, 0.0]])) == math.inf


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0, 8.0])
def test_the_conjugate_of_a_p_norm_is_the_ball_of_its_dual_norm(p: float) -> None:
    x = ex.Variable(SHAPE)
    atom = pnorm(x, p)
    check_conjugate(atom, X)
    q = p / (p - 1.0)
    moved = atom.project_dual(X * 10.0)
    np.testing.assert_allclose(np.linalg.norm(moved.reshape(len(X), -1), q, axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", ["norm1", "norm2", "norm_inf", "sigma_max"])
def test_conjugates_and_proximal_maps(name: str) -> None:
    build, _, theirs = NORMS[name]
    atom = build(ex.Variable(SHAPE))
    check_conjugate(atom, X)
    check_nearest(atom)
    check_prox(atom, theirs)


def test_soft_thresholding_gives_exact_zeros() -> None:
    atom = norm1(ex.Variable(4))
    assert atom.prox(np.array([[0.3, -0.1, 0.30000001, -2.0]]), 0.3).tolist()[0][:2] == [0.0, 0.0]
    assert norm2(ex.Variable(2)).prox(np.array([[0.3, 0.4], [0.0, 0.0], [3.0, 4.0]]), 1.0).tolist() == [
        [0.0, 0.0],
        [0.0, 0.0],
        [3.0 * (1 - 1 / 5), 4.0 * (1 - 1 / 5)],
    ]


def test_sigma_max_pulls_back_along_its_singular_vectors() -> None:
    x = ex.Variable((4, 3))
    points = np.random.default_rng(2).normal(size=(5, 4, 3))
    left, _, right = np.linalg.svd(points)
    np.testing.assert_allclose(sigma_max(x).gradient(points), left[:, :, :1] * right[:, :1, :], rtol=1e-10, atol=1e-12)
    assert sigma_max(x).gradient(torch.zeros((4, 3), dtype=torch.float16)).dtype == torch.float16
    # The sum of these entries overflows half precision, the singular value does not.
    wide = sigma_max(ex.Variable((64, 64))).value(torch.full((64, 64), 20.0, dtype=torch.float16))
    assert float(wide) == pytest.approx(1280.0, rel=1e-3)


def test_sigma_max_of_nonnegative_convex_entries_is_convex() -> None:
    # Perron and Frobenius: over nonnegative matrices it grows with every entry. cvxpy does not know it.
    x = ex.Variable(SHAPE)
    assert sigma_max(ex.square(x)).is_convex()
    assert not sigma_max(ex.square(x) - 1.0).is_convex()
    check_claims(sigma_max(ex.square(x)), -1.0, 2.0)


COMPOSITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "norm2 of pos": lambda m, x: m.norm2(m.pos(x)),
    "norm2 of shifted": lambda m, x: m.norm2(m.abs(x) - 1),
    "pnorm of square": lambda m, x: m.pnorm(m.square(x), 3),
    "pnorm of concave": lambda m, x: m.pnorm(m.minimum(x, 0), 3),
    "pnorm of mixed": lambda m, x: m.pnorm(m.abs(x) - m.square(x), 3),
    "norm_inf of nonnegative": lambda m, x: m.norm_inf(m.square(x)),
    "minus pnorm": lambda m, x: -m.pnorm(x - 1, 1.5),
    "square of pnorm": lambda m, x: m.square(m.pnorm(x, 4)),
    "square of a shifted pnorm": lambda m, x: m.square(m.pnorm(x, 4) - 1),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_verdicts_are_cvxpys(name: str) -> None:
    check_verdicts(COMPOSITIONS[name](ex, ex.Variable(3)), COMPOSITIONS[name](cp, cp.Variable(3)))


def test_norm_chooses_by_order_and_refuses_what_is_ambiguous() -> None:
    vector, matrix = ex.Variable(3), ex.Variable(SHAPE)
    assert str(norm(vector)) == "norm2(x)"
    assert str(norm(vector, 1)) == "norm1(x)"
    assert str(norm(vector, np.inf)) == str(norm(vector, "inf")) == "norm_inf(x)"
    assert str(norm(vector, 3)) == "pnorm(x, 3)"
    assert str(norm(matrix, 1, axis=0)) == "norm1(x, axis=0)"
    assert str(norm(matrix, "fro")) == "norm2(x)"
    assert str(norm(matrix[:1], 2)) == "norm2(x[:1])"
    assert str(pnorm(matrix, 2.5, axis=1)) == "pnorm(x, 2.5, axis=1)"
    assert isinstance(pnorm(matrix, 2.5), PNorm) and isinstance(sigma_max(matrix), SigmaMax)
    for p in (1, 2, np.inf, 3):
        with pytest.raises(ParameterError, match="more than one meaning") as caught:
            norm(matrix, p)
        assert any("sigma_max" in way for way in caught.value.ways_out)
        assert any("norm1(x)" in way for way in caught.value.ways_out)
    for p in ("fro", "nuc"):
        with pytest.raises(ParameterError, match=p):
            norm(vector, p)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan, "two", True, None])
def test_orders_that_are_no_norms_are_refused(p: Any) -> None:
    x = ex.Variable(3, name="pixels")
    with pytest.raises(ParameterError, match="p ≥ 1") as caught:
        pnorm(x, p)
    assert "pixels" in str(caught.value)
    if isinstance(p, float) and 0 < p < 1:
        assert any("power" in way for way in caught.value.ways_out)
        assert any("geo_mean" in way for way in caught.value.ways_out)


def test_shapes_are_refused_by_name() -> None:
    x = ex.Variable((2, 3, 4))
    with pytest.raises(ShapeError, match=r"sigma_max.*\(2, 3, 4\)"):
        sigma_max(x)
    with pytest.raises(ShapeError, match=r"total_variation.*\(2, 3, 4\)"):
        total_variation(x)
    with pytest.raises(ShapeError, match="neighbours"):
        total_variation(x[0, :1])
    with pytest.raises(ShapeError, match="neighbours"):
        total_variation(ex.Variable(1))
    with pytest.raises(ParameterError, match="conjugate and the proximal map"):
        norm1(x, axis=0).prox(np.zeros((1, 2, 3, 4)), 1.0)
    with pytest.raises(ParameterError, match="proximal"):
        pnorm(x, 3).prox(np.zeros((1, 2, 3, 4)), 1.0)


def test_total_variation_of_an_image_is_affine_inside() -> None:
    image = ex.Variable((5, 4))
    point = np.random.default_rng(3).normal(size=(5, 4))
    assert total_variation(image).value(point) == pytest.approx(variation(point), rel=1e-12)
    assert total_variation(image).value(np.full((5, 4), 3.0)) == 0.0
    directions = np.random.default_rng(4).normal(size=(2000, 5, 4))
    directions /= np.linalg.norm(directions.reshape(2000, -1), axis=1)[:, None, None]
    assert total_variation(image).value(directions).max() <= total_variation(image).lipschitz
