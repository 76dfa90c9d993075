"""A problem takes a cvxpy expression as its reward, and the public importer refuses what is none."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import CurvatureError, IntractableError, ParameterError, ShapeError

BASE = ak.base.Gaussian(np.zeros((2, 3)), 1.0)
A = np.random.default_rng(0).normal(size=(2, 6))
ROWS = np.random.default_rng(1).normal(size=(20, 2, 3))


def test_a_cvxpy_reward_is_solved_as_alignkits_own() -> None:
    y, x = cp.Variable((2, 3), name="image"), ak.Variable((2, 3))
    theirs = ak.Problem(-cp.norm1(A @ cp.vec(y, order="C") - 1.0), BASE, ak.Wasserstein(weight=2.0))
    ours = ak.Problem(-ak.norm1(A @ ak.vec(x) - 1.0), BASE, ak.Wasserstein(weight=2.0))
    assert "image" in theirs.explain()
    np.testing.assert_allclose(theirs.solve(seed=0).transport(ROWS), ours.solve(seed=0).transport(ROWS), atol=1e-6)


def test_fortran_order_is_converted() -> None:
    y = cp.Variable((2, 3))
    weights = np.arange(6.0)
    affine = ak.Problem(weights @ cp.vec(y, order="F"), BASE, ak.KL(weight=1.0)).solve(seed=0)
    assert float(affine.log_partition) == pytest.approx(0.5 * weights @ weights)
    np.testing.assert_allclose(
        affine.plan.composition.linear.reshape(2, 3), weights.reshape(2, 3, order="F"), atol=1e-12
    )


def test_what_is_intractable_stays_so() -> None:
    with pytest.raises(IntractableError, match="sqrt"):
        ak.Problem(cp.sum(cp.sqrt(cp.Variable((2, 3)))), BASE, ak.KL(weight=1.0)).compile()


def test_what_cannot_be_imported_is_refused() -> None:
    with pytest.raises(ShapeError, match="A reward is a scalar"):
        ak.Problem(cp.abs(cp.Variable((2, 3))), BASE, ak.KL(weight=1.0))
    with pytest.raises(CurvatureError):
        ak.Problem(cp.sqrt(cp.sum_squares(cp.Variable((2, 3)))), BASE, ak.KL(weight=1.0))
    with pytest.raises(ParameterError, match="need no import"):
        ak.from_cvxpy(ak.Variable(3))
    with pytest.raises(ParameterError, match="not a list"):
        ak.from_cvxpy([1.0])
