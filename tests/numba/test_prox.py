"""The compiled proximal solver against cvxpy, and what it promises of batches."""

import subprocess
import sys

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit_cvxpy.prox import CvxpyProxSolver
from alignkit_numba.prox import NumbaProxSolver
from tests.transport.agreement import absolute, problem_of, separable

K, ROWS = 4, 8
_random = np.random.default_rng(0)
MATRIX, OFFSET = _random.normal(size=(6, K)), _random.normal(size=6)
ROOT = _random.normal(size=(K, K))
POINTS = 2 * _random.normal(size=(ROWS, K))
w = ak.Variable(K)
a = MATRIX @ w + OFFSET

REWARDS = {
    "log_sum_exp": -ak.log_sum_exp(a),
    "log_sum_exp, linear and constant": -2.5 * ak.log_sum_exp(3 * a) + ak.sum(w) - 7.0,
    "two log_sum_exp": -ak.log_sum_exp(a) - 2 * ak.log_sum_exp(-a),
    "huber": -ak.inner(np.arange(1.0, 7.0), ak.huber(a, 0.5)),
    "logistic": -ak.inner(np.arange(1.0, 7.0), ak.logistic(a)) + 4 * w[0],
    "all": -ak.log_sum_exp(a) - ak.sum(ak.huber(w, 0.3)) - ak.sum(ak.logistic(2 * a)),
    "norm1": -2 * ak.norm1(a) + ak.sum(w) + 3.0,
    "pos and abs": -ak.sum(ak.pos(a)) - 3 * ak.sum(ak.abs(w)),
    "min": 3 * ak.min(a) - w[2],
    "norm_inf and quadratics": -ak.norm_inf(a) - 0.5 * ak.quad_form(w, ROOT @ ROOT.T) + 0.2 * ak.square(w[0]),
    "concave quadratic": -0.5 * ak.quad_form(w, ROOT @ ROOT.T) - ak.log_sum_exp(a),
    "convex quadratic": 0.3 * ak.sum_squares(w - 1.0) - ak.sum(ak.logistic(a)),
}  # fmt: skip


def solve(reward, weight, points, **options):
    problem = ProxProblem(reward, weight, points.shape[1], len(points), **options)
    bid = NumbaProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED and bid.seconds > 0, bid
    solution = NumbaProxSolver().open(problem).solve(points)
    assert not solution.unfinished.any()
    return solution


def objective(reward, weight, points, z):
    return reward.value(z) - 0.5 * weight * ((z - points) ** 2).sum(axis=1)


@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_agrees_with_cvxpy_within_both_gaps(reward, weight):
    solution = solve(reward, weight, POINTS)
    other = CvxpyProxSolver().open(ProxProblem(reward, weight, K, ROWS)).solve(POINTS)
    found, reference = (objective(reward, weight, POINTS, each.maximiser) for each in (solution, other))
    slack = 1e-12 * np.maximum(1, np.abs(found))
    assert (found <= reference + other.gap + slack).all()
    assert (reference <= found + solution.gap + slack).all()
    assert (solution.gap <= 1e-6 * np.maximum(1, np.abs(found))).all()
    assert solution.value == pytest.approx(reward.value(solution.maximiser), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["log_sum_exp", "logistic", "huber", "all", "concave quadratic", "norm1", "min"])
def test_small_weights(name):
    solution = solve(REWARDS[name], 1e-5, POINTS)
    reached = objective(REWARDS[name], 1e-5, POINTS, solution.maximiser)
    assert (solution.gap <= 1e-6 * np.maximum(1, np.abs(reached))).all()
    random = np.random.default_rng(1)
    for size in (1e-6, 1e-2, 1e2):
        moved = solution.maximiser + size * random.normal(size=solution.maximiser.shape)
        assert (objective(REWARDS[name], 1e-5, POINTS, moved) <= reached + solution.gap + 1e-9).all()


def test_memory_order_does_not_matter():
    reward, wide = REWARDS["all"], np.zeros((ROWS, 2 * K))
    wide[:, ::2] = POINTS
    expected = solve(reward, 1.0, POINTS).maximiser
    read_only = POINTS.copy()
    read_only.flags.writeable = False
    for points in (np.asfortranarray(POINTS), wide[:, ::2], read_only):
        assert (solve(reward, 1.0, points).maximiser == expected).all()


@pytest.mark.parametrize("name", ["log_sum_exp, linear and constant", "norm1", "min"])
def test_a_weight_for_each_row(name):
    reward = REWARDS[name]
    session = NumbaProxSolver().open(ProxProblem(reward, 0.7, K, ROWS))
    weights = 10 ** np.linspace(-3, 3, ROWS)
    weighted = session.solve_weighted(POINTS, weights)
    assert not weighted.unfinished.any()
    for row, weight in enumerate(weights):
        point = POINTS[row : row + 1]
        alone = solve(reward, weight, point)
        reached = objective(reward, weight, point, weighted.maximiser[row : row + 1])[0]
        other = objective(reward, weight, point, alone.maximiser)[0]
        slack = 1e-12 * max(1, abs(reached))
        assert reached - alone.gap[0] - slack <= other <= reached + weighted.gap[row] + slack
        assert weighted.gap[row] <= 1e-6 * max(1, abs(reached))
    assert weighted.value == pytest.approx(reward.value(weighted.maximiser))


@pytest.mark.parametrize(("kind", "seed"), [(separable, 106), (absolute, 125)])
def test_a_row_whose_objective_is_small_beside_the_kernels_is_finished(kind, seed):
    """The kernel's objective is about 20 times the session's, and its first gap well within what it was asked for."""
    problem, points = problem_of(kind, seed)
    found = NumbaProxSolver().open(problem).solve(points.copy())
    reached = objective(problem.nonlinear, problem.weight, points, found.maximiser)
    assert not found.unfinished.any()
    assert (found.gap <= 1e-6 * np.maximum(1, np.abs(reached))).all()


def test_a_weight_for_each_row_needs_one_change_of_variables():
    session = NumbaProxSolver().open(ProxProblem(REWARDS["concave quadratic"], 1.0, K, ROWS))
    with pytest.raises(ValueError, match="without quadratic summands"):
        session.solve_weighted(POINTS, np.ones(ROWS))


def test_sessions_follow_parameters_and_weights():
    strength = ak.Parameter(nonneg=True, value=1.0)
    reward = -strength * ak.log_sum_exp(a)
    session = NumbaProxSolver().open(ProxProblem(reward, 1.0, K, ROWS))
    before = session.solve(POINTS).maximiser
    strength.value = 3.0
    assert session.update(ProxProblem(reward, 2.0, K, ROWS))
    assert session.solve(POINTS).maximiser == pytest.approx(solve(-3 * ak.log_sum_exp(a), 2.0, POINTS).maximiser)
    assert not np.allclose(session.solve(POINTS).maximiser, before)
    assert not session.update(ProxProblem(reward, 1.0, K, ROWS, device="cuda"))


def test_progress_reaches_the_last_row():
    told = []
    session = NumbaProxSolver().open(ProxProblem(REWARDS["huber"], 1.0, K, 70_000))
    points = np.random.default_rng(0).normal(size=(70_000, K))
    session.solve(points, lambda *step: told.append(step))
    assert len(told) > 1 and told[-1] == ("numba", 70_000, 70_000)
    assert session.solve(points[:0]).maximiser.shape == (0, K)


@pytest.mark.parametrize(
    ("reward", "options", "reason"),
    [
        (REWARDS["huber"], {"device": "cuda"}, "runs on the CPU alone"),
        (-ak.sum_squares(np.tri(65) @ ak.Variable(65)), {}, "needs no iteration"),
        (-ak.norm2(a), {}, "norm2"),
        (ak.sum_squares(w) - ak.log_sum_exp(a), {}, "largest curvature"),
    ],
)
def test_others_are_refused_by_name(reward, options, reason):
    problem = ProxProblem(reward, 1.0, reward.variables()[0].size, ROWS, **options)
    refusal = NumbaProxSolver().bid(problem)
    assert isinstance(refusal, Refusal) and reason in refusal.reason
    with pytest.raises(ValueError, match=reason):
        NumbaProxSolver().open(problem)


def test_a_bid_imports_no_engine():
    code = """
import sys, alignkit as ak
from alignkit.contracts import Bid, ProxProblem
from alignkit_numba.prox import NumbaProxSolver
assert isinstance(NumbaProxSolver().bid(ProxProblem(-ak.log_sum_exp(ak.Variable(3)), 1.0, 3, 10)), Bid)
assert "numba" not in sys.modules and "llvmlite" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
