"""The compiled closed form of separable rewards against soft thresholding, a fine grid and bisection."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem
from alignkit_numba.closed_form_session import ClosedFormSession
from alignkit_numba.prox import NumbaProxSolver

K, WEIGHT = 5, 1.5
w = ak.Variable(K)
RANDOM = np.random.default_rng(0)
TARGET = RANDOM.normal(size=K)
REWARDS = {
    "absolute": -ak.norm1(w - TARGET),
    "huber": -ak.sum(ak.huber(2.0 * w - 1.0, M=0.5)) + w[2],
    "many kinks": -sum(ak.norm1(w - place) for place in np.linspace(-2.0, 2.0, 9)) - ak.sum_squares(w),
    "convex in part": 0.5 * ak.sum_squares(w) - ak.sum(ak.pos(w)),
    "flat": -ak.norm1(w[:2]),
}


def objective(reward, v, z):
    return reward.value(z).reshape(-1) - 0.5 * WEIGHT * ((z - v) ** 2).sum(axis=1)


def opened(reward, rows=100, **options):
    problem = ProxProblem(reward, WEIGHT, reward.variables()[0].size, rows, **options)
    bid = NumbaProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.EXACT
    session = NumbaProxSolver().open(problem)
    assert isinstance(session, ClosedFormSession)
    return session


def test_soft_thresholding():
    v = 3.0 * RANDOM.normal(size=(500, K))
    found = opened(REWARDS["absolute"]).solve(v)
    apart = v - TARGET
    np.testing.assert_allclose(found.maximiser, TARGET + np.sign(apart) * np.maximum(np.abs(apart) - 1 / WEIGHT, 0.0))
    np.testing.assert_allclose(found.value, -np.abs(found.maximiser - TARGET).sum(axis=1), atol=1e-12)
    assert not found.unfinished.any() and found.gap.max() < 1e-25


@pytest.mark.parametrize("name", REWARDS)
def test_no_point_of_a_grid_is_better(name):
    reward, v = REWARDS[name], 2.0 * RANDOM.normal(size=(40, K))
    found = opened(reward).solve(v)
    best = objective(reward, v, found.maximiser)
    np.testing.assert_allclose(found.value, reward.value(found.maximiser).reshape(-1), rtol=1e-12, atol=1e-12)
    for i in range(K):
        for place in np.linspace(-6.0, 6.0, 241):
            other = found.maximiser.copy()
            other[:, i] = place
            assert (objective(reward, v, other) <= best + found.gap + 1e-12).all()
    for scale in (1e-6, 1e-3):
        other = found.maximiser + scale * RANDOM.normal(size=v.shape)
        assert (objective(reward, v, other) <= best + found.gap + 1e-14).all()


def test_entries_at_kinks_and_between_breakpoints():
    reward = -ak.norm1(w)
    v = np.array([[0.0, -0.0, 1 / WEIGHT, -1 / WEIGHT, np.nextafter(1 / WEIGHT, 1.0)]])
    found = opened(reward).solve(v)
    assert (found.maximiser[0, :4] == 0.0).all() and 0.0 <= found.maximiser[0, 4] < 1e-15
    assert found.gap[0] < 1e-25 and not found.unfinished[0]


def test_rows_beyond_float64_have_no_bound_and_spoil_no_other():
    v = np.zeros((4, K))
    v[1, 2], v[2, 0] = np.nan, np.inf
    found = opened(REWARDS["many kinks"]).solve(v)
    assert found.unfinished.tolist() == [False, True, True, False]
    assert np.isinf(found.gap[[1, 2]]).all() and np.isfinite(found.gap[[0, 3]]).all()


def test_what_was_dropped_is_allowed_for():
    matrix = np.eye(K)
    matrix[0, 1] = 1e-14
    reward = -ak.norm1(matrix @ w - TARGET)
    v = RANDOM.normal(size=(20, K))
    found = opened(reward).solve(v)
    assert found.value is None
    assert (found.gap > 1e-14 * np.abs(found.maximiser).max(axis=1) * 1e-3).all() and found.gap.max() < 1e-12
    clean = opened(-ak.norm1(w - TARGET)).solve(v)
    assert (objective(reward, v, clean.maximiser) <= objective(reward, v, found.maximiser) + found.gap).all()


def test_a_session_follows_a_weight_and_refuses_another_kind():
    target = ak.Parameter(K, TARGET)
    reward = -ak.norm1(w - target)
    session, v = opened(reward), RANDOM.normal(size=(30, K))
    target.value = TARGET + 1.0
    assert session.update(ProxProblem(reward, 4.0, K, 30))
    apart = v - TARGET - 1.0
    moved = np.sign(apart) * np.maximum(np.abs(apart) - 0.25, 0.0)
    np.testing.assert_allclose(session.solve(v).maximiser, TARGET + 1.0 + moved)
    assert not session.update(ProxProblem(-ak.log_sum_exp(w), 4.0, K, 30))
    np.testing.assert_allclose(session.solve(v).maximiser, TARGET + 1.0 + moved)


def test_progress_and_no_rows():
    told = []
    session = opened(REWARDS["flat"])
    session.solve(np.zeros((7, K)), lambda *step: told.append(step))
    assert told == [("numba", 7, 7)] and session.solve(np.zeros((0, K))).maximiser.shape == (0, K)
