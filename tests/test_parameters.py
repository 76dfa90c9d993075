"""Solving again after a parameter changed: right, without compiling anew, and with stale fits found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import IntractableError, ParameterError, StaleFitError, UnboundedTransportError

BASE = ak.base.GaussianMixture([0.3, 0.7], np.random.default_rng(0).normal(size=(2, 4)), [0.5, 1.0])
A = np.random.default_rng(1).normal(size=(2, 4))
B = np.random.default_rng(2).normal(size=(2, 4))
ROWS = np.random.default_rng(3).normal(size=(20, 4))

#: name: a concave reward of x, a target (2,), a matrix (2, 4) and a nonnegative weight.
REWARDS: dict[str, Callable[..., Any]] = {
    "ℓ1": lambda x, t, m, a: -ak.norm1(m @ x - t),
    "weighted": lambda x, t, m, a: -a * ak.norm2(m @ x - t) + ak.sum(x),
    "quadratic": lambda x, t, m, a: -a * ak.sum_squares(m @ x - t),
    "smooth": lambda x, t, m, a: -ak.log_sum_exp(m @ x - t) - ak.sum(ak.huber(A @ x)),
    "affine": lambda x, t, m, a: ak.inner(t, x[:2]) + a * ak.sum(x),
    "separable": lambda x, t, m, a: -ak.sum(ak.abs(x[:2] - t)),
    "full": lambda x, t, m, a: -ak.norm1(x) - a * ak.norm_inf(x),
}
VALUES = ((np.zeros(2), A, 1.0, 1.5), (np.array([1.0, -2.0]), A, 0.5, 1.5), (np.array([0.3, 0.2]), B, 2.0, 4.0))


@pytest.mark.parametrize("name", REWARDS)
def test_solving_again_gives_what_a_problem_of_constants_gives(name: str) -> None:
    x = ak.Variable((4,))
    t, m = ak.Parameter(2, name="t"), ak.Parameter((2, 4), name="m")
    a, weight = ak.Parameter((), nonneg=True, name="a"), ak.Parameter((), name="λ")
    problem = ak.Problem(REWARDS[name](x, t, m, a), BASE, ak.Wasserstein(weight=weight))
    assert set(problem.parameters) <= {t, m, a, weight}
    for values in VALUES:
        t.value, m.value, a.value, weight.value = values
        moved = problem.solve(seed=0).transport(ROWS)
        fixed = ak.Problem(REWARDS[name](x, *values[:3]), BASE, ak.Wasserstein(weight=values[3])).solve(seed=0)
        np.testing.assert_allclose(moved, fixed.transport(ROWS), atol=2e-5)


def test_solving_again_asks_no_backend_and_compiles_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    x = ak.Variable((4,))
    t, weight = ak.Parameter(2, np.zeros(2)), ak.Parameter((), 1.0)
    problem = ak.Problem(-ak.norm1(A @ x - t) - ak.norm2(B @ x), BASE, ak.Wasserstein(weight=weight))
    first = problem.solve(seed=0)
    assert first.plan.backend == "cvxpy"
    monkeypatch.setattr("alignkit.problem.make_plan", lambda *_, **__: pytest.fail("planned anew"))
    monkeypatch.setattr("alignkit.problem.Recipe", lambda *_, **__: pytest.fail("composed anew"))
    t.value, weight.value = [1.0, 1.0], 3.0
    again = problem.solve(seed=0)
    assert again.plan is not first.plan and again.fitted.map.session is first.fitted.map.session
    assert again.plan.composition.nonlinear is first.plan.composition.nonlinear


def test_under_kl_new_values_make_new_tilts() -> None:
    x = ak.Variable((4,))
    slope, weight = ak.Parameter(4, [1.0, 0.0, 0.0, 0.0], name="slope"), ak.Parameter((), 2.0)
    problem = ak.Problem(ak.inner(slope, x), BASE, ak.KL(weight=weight))
    problem.solve(seed=0)
    slope.value, weight.value = [0.0, 2.0, 0.0, 1.0], 0.5
    found = problem.solve(seed=0).log_partition
    assert float(found) == pytest.approx(BASE.log_partition(slope.value() / 0.5)[0], rel=1e-10)


def test_a_stale_fit_is_found_out_and_its_certificate_stays() -> None:
    x = ak.Variable((4,))
    t, weight = ak.Parameter(2, np.zeros(2), name="target"), ak.Parameter((), 1.0, name="λ")
    problem = ak.Problem(-ak.norm1(A @ x - t), BASE, ak.Wasserstein(weight=weight))
    aligned = problem.solve(seed=0)
    before = aligned.transport(ROWS)
    t.value = np.zeros(2)  # no change
    np.testing.assert_allclose(aligned.transport(ROWS), before, atol=1e-9)
    t.value, weight.value = np.ones(2), 2.0
    for use in (lambda: aligned.transport(ROWS), lambda: aligned.sample(3, seed=0), aligned.plot.samples):
        with pytest.raises(StaleFitError, match=r"target, λ changed(.|\n)*norm1(.|\n)*problem.solve"):
            use()
    assert "gap" in str(aligned.certificate)
    again = problem.solve(seed=0)
    assert np.abs(again.transport(ROWS) - before).max() > 0.1
    # The old value makes the old result no younger: its solver follows the new one.
    t.value, weight.value = np.zeros(2), 1.0
    with pytest.raises(StaleFitError):
        aligned.transport(ROWS)
    np.testing.assert_allclose(problem.solve(seed=0).transport(ROWS), before, atol=1e-5)


def test_a_problem_may_be_declared_before_its_parameters_have_values() -> None:
    x = ak.Variable((4,))
    t = ak.Parameter(2, name="target")
    problem = ak.Problem(-ak.norm1(A @ x - t), BASE, ak.Wasserstein(weight=1.0))
    with pytest.raises(ParameterError, match=r"target has no value yet(.|\n)*target.value = "):
        problem.solve(seed=0)
    t.value = np.ones(2)
    assert problem.is_tractable()


def test_values_that_change_the_verdict_are_judged_again() -> None:
    x = ak.Variable((4,))
    a = ak.Parameter((), 1.0, nonneg=True, name="a")
    problem = ak.Problem(a * ak.sum_squares(x[:2]), BASE, ak.Wasserstein(weight=3.0))
    moved = problem.solve(seed=0).transport(ROWS)
    np.testing.assert_allclose(moved[:, :2], ROWS[:, :2] * 3.0, atol=1e-6)
    a.value = 2.0
    with pytest.raises((UnboundedTransportError, IntractableError), match="λ"):
        problem.solve(seed=0)
    a.value = 0.75
    np.testing.assert_allclose(problem.solve(seed=0).transport(ROWS)[:, :2], ROWS[:, :2] * 2.0, atol=1e-6)


def test_a_rank_that_changes_is_composed_anew() -> None:
    x = ak.Variable((4,))
    m = ak.Parameter((2, 4), A)
    problem = ak.Problem(-ak.norm1(m @ x), BASE, ak.Wasserstein(weight=1.0))
    assert problem.solve(seed=0).plan.dimension == 2
    m.value = np.vstack([A[0], 2 * A[0]])
    again = problem.solve(seed=0)
    assert again.plan.dimension == 1
    fixed = ak.Problem(-ak.norm1(m.value() @ x), BASE, ak.Wasserstein(weight=1.0)).solve(seed=0)
    np.testing.assert_allclose(again.transport(ROWS), fixed.transport(ROWS), atol=1e-6)


@pytest.mark.parametrize("closeness", [ak.KL, ak.Wasserstein])
def test_the_weight_may_be_a_scalar_parameter_of_positive_value(closeness: Any) -> None:
    x = ak.Variable((4,))
    weight = ak.Parameter((), 1.0, name="strength")
    problem = ak.Problem(ak.sum(x), BASE, closeness(weight=weight))
    assert "strength" in repr(problem)
    weight.value = -1.0
    with pytest.raises(ParameterError, match=r"0 < λ < ∞"):
        problem.solve(seed=0)
    with pytest.raises(ParameterError, match="scalar"):
        closeness(weight=ak.Parameter(2, np.ones(2)))
