"""Total variation and sparse moves, from the reward as declared to rows moved in full dimension."""

import cvxpy as cp
import numpy as np
import pytest

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.errors import UnboundedTransportError
from alignkit.transport.chains import total_variation_form
from alignkit.transport.reduction import TransportMap, reduce_transport
from alignkit_numba.chain_session import ChainSession
from alignkit_numba.polytope_session import PolytopeSession, SparseForm, sparse_form

RANDOM = np.random.default_rng(0)
D, ROWS = 20, 6
X = np.cumsum(RANDOM.normal(size=(ROWS, D)), axis=1)
A, T = RANDOM.normal(size=(3, D)), RANDOM.normal(size=3)
H = 0.04 * RANDOM.uniform(-1, 1, size=D)


def _optimum(reward, penalty, x):
    y = cp.Variable(D)
    program = cp.Problem(cp.Maximize(reward(y) - penalty(y - x)))
    return program.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_total_variation_in_full_dimension(weight):
    x, h = ak.Variable(D), RANDOM.normal(size=D)
    composition = compose(-ak.total_variation(x) + ak.inner(h, x) + 2.0)
    problem = reduce_transport(composition, weight, rows=ROWS)
    form = total_variation_form(problem)
    assert form is not None
    moved = TransportMap(composition, weight, ChainSession(form)).apply(X)
    for row, found, gap in zip(X, moved.objective, moved.gap, strict=True):
        best = _optimum(lambda y: -cp.tv(y) + h @ y + 2.0, lambda step: weight / 2 * cp.sum_squares(step), row)
        assert found == pytest.approx(best, abs=1e-7)
        assert gap <= 1e-10 * max(1.0, abs(best))


@pytest.mark.parametrize("weight", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_sparse_moves_in_full_dimension(weight, count):
    x = ak.Variable(D)
    composition = compose(-2.0 * ak.norm1(A[:count] @ x - T[:count]) + ak.inner(H, x) + 1.0)
    cost = ak.costs.L1()
    form = sparse_form(reduce_transport(composition, weight, cost=cost, rows=ROWS))
    assert isinstance(form, SparseForm)
    moved = TransportMap(composition, weight, PolytopeSession(form), cost=cost).apply(X)
    assert ((moved.y != X).sum(axis=1) <= count).all()
    np.testing.assert_allclose(moved.cost, np.abs(moved.y - X).sum(axis=1), rtol=1e-12, atol=1e-12)
    reached = -2.0 * np.abs(moved.y @ A[:count].T - T[:count]).sum(axis=1) + moved.y @ H + 1.0 - weight * moved.cost
    np.testing.assert_allclose(moved.objective, reached, rtol=1e-10, atol=1e-12)
    for row, found, gap in zip(X, moved.objective, moved.gap, strict=True):
        best = _optimum(
            lambda y: -2.0 * cp.norm1(A[:count] @ y - T[:count]) + H @ y + 1.0,
            lambda step: weight * cp.norm1(step),
            row,
        )
        assert found == pytest.approx(best, abs=1e-7)
        assert gap <= 1e-10 * max(1.0, abs(best))


@pytest.mark.parametrize("weight", [2.5, 6.0])
def test_sparse_moves_to_the_least_of_affine_pieces(weight):
    random = np.random.default_rng(1)
    slopes, offsets, h = random.normal(size=(5, D)), random.normal(size=5), 0.1 * random.normal(size=D)
    x, cost = ak.Variable(D), ak.costs.L1()
    composition = compose(2.0 * ak.min(slopes @ x + offsets) + ak.inner(h, x))
    form = sparse_form(reduce_transport(composition, weight, cost=cost, rows=ROWS))
    assert isinstance(form, SparseForm)
    moved = TransportMap(composition, weight, PolytopeSession(form), cost=cost).apply(X)
    for row, found, gap in zip(X, moved.objective, moved.gap, strict=True):
        best = _optimum(lambda y: 2.0 * cp.min(slopes @ y + offsets) + h @ y, lambda step: weight * cp.norm1(step), row)
        assert found == pytest.approx(best, abs=1e-7)
        assert gap <= 1e-10 * max(1.0, abs(best))


def test_pieces_that_outgrow_the_cost_are_unbounded():
    slopes = np.outer([10.0, 20.0, 30.0], np.ones(D))
    problem = reduce_transport(compose(ak.min(slopes @ ak.Variable(D))), 1.0, cost=ak.costs.L1(), rows=ROWS)
    with pytest.raises(UnboundedTransportError):
        PolytopeSession(sparse_form(problem))


def test_sparse_moves_where_every_entry_is_seen():
    composition = compose(-ak.norm1(ak.Variable(D) - 1.0))
    assert composition.subspace.is_identity
    cost = ak.costs.L1()
    form = sparse_form(reduce_transport(composition, 0.5, cost=cost, rows=ROWS))
    moved = TransportMap(composition, 0.5, PolytopeSession(form), cost=cost).apply(X)
    np.testing.assert_allclose(moved.y, 1.0)


@pytest.mark.parametrize(
    ("reward", "cost", "reason"),
    [
        (lambda x: -ak.sum(ak.huber(A @ x)), ak.costs.L1(), "absolute values"),
        (lambda x: -ak.norm1(A @ x) - ak.sum_squares(A @ x), ak.costs.L1(), "absolute values"),
        (lambda x: -ak.norm1(A @ x), ak.costs.Euclidean(), "neither quadratic nor the ℓ1 distance"),
    ],
)
def test_others_are_refused_with_the_reason(reward, cost, reason):
    problem = reduce_transport(compose(reward(ak.Variable(D))), 1.0, cost=cost, rows=ROWS)
    assert reason in sparse_form(problem)


def test_rows_that_are_not_finite_have_no_bound():
    problem = reduce_transport(compose(-ak.total_variation(ak.Variable(D))), 1.0, rows=2)
    points = np.array([X[0], np.where(np.arange(D) == 3, np.nan, X[0])])
    found = ChainSession(total_variation_form(problem)).solve(points)
    assert found.unfinished.tolist() == [False, True] and np.isinf(found.gap[1])


def test_sessions_follow_their_weight():
    composition = compose(-ak.total_variation(ak.Variable(D)))
    session = ChainSession(total_variation_form(reduce_transport(composition, 1.0, rows=2)))
    assert session.update(reduce_transport(composition, 3.0, rows=2))
    fresh = ChainSession(total_variation_form(reduce_transport(composition, 3.0, rows=2)))
    np.testing.assert_array_equal(session.solve(X).maximiser, fresh.solve(X).maximiser)
    assert not session.update(reduce_transport(compose(-ak.norm2(ak.Variable(D))), 1.0, rows=2))
