"""Quadratics in closed form against dense solves, and what the compiled solver promises of them."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit.expressions import splitting
from alignkit_numba.prox import NumbaProxSolver


def problem_of(k, *, rank=None, weight=1.7, rows=50, tolerance=1e-6):
    """A quadratic with negative eigenvalues, and some up to 0.9 λ; H, h and f(0)."""
    rng = np.random.default_rng(k)
    w = ak.Variable(k)
    root = rng.standard_normal((rank or k, k)) / np.sqrt(k)
    hessian = -root.T @ root
    direction = rng.standard_normal(k)
    direction /= np.linalg.norm(direction)
    hessian += 0.9 * weight * np.outer(direction, direction)
    vector = rng.standard_normal(k)
    reward = -0.5 * ak.sum_squares(root @ w) + 0.45 * weight * ak.square(direction @ w) + ak.inner(vector, w) - 3.0
    problem = ProxProblem(reward, weight, k, rows, tolerance=tolerance)
    return problem, hessian, vector


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 9, 16, 33, 64])
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 50])
def test_against_dense_solves(k, rows):
    problem, hessian, vector = problem_of(k, rank=max(1, k // 2))
    points = 3.0 * np.random.default_rng(1).standard_normal((rows, k))
    bid = NumbaProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.EXACT and "closed form" in bid.method
    found = NumbaProxSolver().open(problem).solve(points)
    truth = np.linalg.solve(problem.weight * np.eye(k) - hessian, (problem.weight * points + vector).T).T
    np.testing.assert_allclose(found.maximiser, truth, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found.value, problem.nonlinear.value(found.maximiser), rtol=1e-12, atol=1e-11)
    assert not found.unfinished.any() and (found.gap >= 0).all() and (found.gap <= 1e-20).all()


@pytest.mark.parametrize("k", [3, 8])
def test_the_gap_bounds_how_far_an_answer_is_from_the_best(k):
    """A λ that hardly exceeds the curvature magnifies rounding; the truth is in extended precision."""
    wide = np.longdouble
    w = ak.Variable(k)
    curvature = 1.0 - 1e-7
    problem = ProxProblem(0.5 * curvature * ak.sum_squares(w) + ak.sum(w), 1.0, k, 20)
    points = np.random.default_rng(2).standard_normal((20, k))
    found = NumbaProxSolver().open(problem).solve(points)

    def objective(z):
        v = points.astype(wide)
        return wide(curvature) / 2 * (z**2).sum(axis=1) + z.sum(axis=1) - ((z - v) ** 2).sum(axis=1) / 2

    best = (points.astype(wide) + 1) / (1 - wide(curvature))
    short = objective(best) - objective(found.maximiser.astype(wide))
    # Sums as large as these lose some of their last digits in extended precision too.
    slack = 100 * np.finfo(wide).eps * (best.astype(float) ** 2).sum(axis=1)
    assert (short <= found.gap + slack).all() and (found.gap > 0).all()
    assert (found.gap <= 1e-6 * np.abs(objective(best))).all() and not found.unfinished.any()


def test_rows_do_not_depend_on_their_batch_and_broken_ones_spoil_no_other():
    problem, _, _ = problem_of(5)
    session = NumbaProxSolver().open(problem)
    points = np.random.default_rng(3).standard_normal((40, 5))
    whole = session.solve(points)
    for some in (slice(3, 4), slice(20, 40)):
        part = session.solve(points[some])
        for name in ("maximiser", "gap", "value"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[some])
    points[7, 2], points[9, 0] = np.nan, 1e200
    broken = session.solve(points)
    np.testing.assert_array_equal(np.flatnonzero(broken.unfinished), [7, 9])
    assert np.isinf(broken.gap[[7, 9]]).all()
    rest = np.delete(np.arange(40), [7, 9])
    np.testing.assert_array_equal(broken.maximiser[rest], whole.maximiser[rest])


def test_a_tolerance_below_rounding_lists_its_rows():
    problem, _, _ = problem_of(4, tolerance=1e-40)
    found = NumbaProxSolver().open(problem).solve(np.random.default_rng(4).standard_normal((20, 4)))
    assert found.unfinished.all() and (found.gap < 1e-20).all()


def test_sessions_follow_parameters_and_weights():
    strength = ak.Parameter(nonneg=True, value=1.0)
    w = ak.Variable(3)
    reward = -strength * ak.sum_squares(w - 1.0)
    session = NumbaProxSolver().open(ProxProblem(reward, 1.0, 3, 10))
    points, told = np.ones((10, 3)) * 4.0, []
    np.testing.assert_allclose(session.solve(points).maximiser, (4.0 + 2.0) / 3.0)
    strength.value = 3.0
    assert session.update(ProxProblem(reward, 2.0, 3, 10))
    np.testing.assert_allclose(session.solve(points, lambda *step: told.append(step)).maximiser, 14.0 / 8.0)
    assert told == [("numba", 10, 10)]
    assert not session.update(ProxProblem(ak.sum_squares(w), 2.0, 3, 10))
    assert not session.update(ProxProblem(reward, 2.0, 3, 10, device="cuda"))
    np.testing.assert_allclose(session.solve(points).maximiser, 14.0 / 8.0)


def test_a_quadratic_whose_hessian_is_too_dear_to_form_has_no_closed_form(monkeypatch):
    operator = aslinearoperator(np.random.default_rng(6).standard_normal((5, 2)))
    problem = ProxProblem(-ak.sum_squares(ak.linear_map(operator, ak.Variable(2))), 1.0, 2, 10)
    assert NumbaProxSolver().bid(problem).guarantee is Guarantee.EXACT
    monkeypatch.setattr(splitting, "_LARGEST_DENSE", 8)
    answer = NumbaProxSolver().bid(problem)
    assert isinstance(answer, Refusal) and "Hessian" in answer.reason
