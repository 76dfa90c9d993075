"""Every cost, reduced and solved, against the program in full dimension written out by hand in cvxpy."""

import math

import cvxpy as cp
import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import ProxSolution, SparseRows
from alignkit.errors import ShapeError, UnboundedTransportError
from alignkit.transport.costs import L1, ElasticNet, Euclidean, Mahalanobis, PNorm, SquaredEuclidean, Weighted
from alignkit.transport.lifting import lift
from alignkit.transport.reduction import TransportMap, reduce_transport
from alignkit_cvxpy.prox import CvxpyProxSolver

RNG = np.random.default_rng(0)
SHAPE, D, ROWS = (2, 3), 6, 3
A, t = RNG.standard_normal((2, D)), RNG.standard_normal(2)
C = RNG.standard_normal((2, D))
G = 0.25 * RNG.standard_normal(D)
WEIGHTS = RNG.uniform(0.3, 3.0, D)
M = RNG.standard_normal((D, D))
M = M @ M.T / D + 0.3 * np.eye(D)
ROOT = np.linalg.cholesky(M).T
x = ak.Variable(SHAPE)
a, c = A @ ak.vec(x) - t, C @ ak.vec(x)


def powered(p, power):
    """h for one row in numpy, and in cvxpy."""
    return (
        lambda delta: np.linalg.norm(delta, p) ** power / power,
        lambda delta: cp.power(cp.norm(delta, p), power) / power if power > 1 else cp.norm(delta, p),
    )


#: The cost, then by hand h of a displacement, in numpy and in cvxpy.
COSTS = {
    "squared": (SquaredEuclidean(), lambda e: e @ e / 2, lambda e: cp.sum_squares(e) / 2),
    "weighted": (Weighted(WEIGHTS), lambda e: e**2 @ WEIGHTS / 2, lambda e: WEIGHTS @ cp.square(e) / 2),
    "mahalanobis": (Mahalanobis(M), lambda e: e @ M @ e / 2, lambda e: cp.sum_squares(ROOT @ e) / 2),
    "ℓ1": (L1(), *powered(1, 1)),
    "ℓ1 squared": (L1(power=2), *powered(1, 2)),
    "elastic net": (
        ElasticNet(0.3),
        lambda e: e @ e / 2 + 0.3 * np.abs(e).sum(),
        lambda e: cp.sum_squares(e) / 2 + 0.3 * cp.norm1(e),
    ),
}
COSTS |= {f"euclidean, power {power}": (Euclidean(power), *powered(2, power)) for power in (1, 1.5, 2, 3)}
COSTS |= {
    f"ℓ_{p}, power {power}": (PNorm(p, power), *powered(p, power)) for p in (1.5, 3, math.inf) for power in (1, 2)
}

#: The reward, by hand in numpy and in cvxpy, and k.
REWARDS = {
    "kinks": (
        -ak.norm1(a),
        lambda y: -np.abs(A @ y - t).sum(),
        lambda y: -cp.norm1(A @ y - t),
        2,
    ),
    "kinks + linear": (
        -ak.norm1(a) + ak.inner(G, ak.vec(x)) + 0.7,
        lambda y: -np.abs(A @ y - t).sum() + G @ y + 0.7,
        lambda y: -cp.norm1(A @ y - t) + G @ y + 0.7,
        2,
    ),
    "smooth + linear": (
        -2.0 * ak.sum(ak.logistic(a)) - 0.3 * ak.sum_squares(a) + ak.inner(G, ak.vec(x)),
        lambda y: -2.0 * np.logaddexp(0.0, A @ y - t).sum() - 0.3 * ((A @ y - t) ** 2).sum() + G @ y,
        lambda y: -2.0 * cp.sum(cp.logistic(A @ y - t)) - 0.3 * cp.sum_squares(A @ y - t) + G @ y,
        2,
    ),
    "edge": (
        ak.sum(ak.log(c + 9.0)) - 2.0 * ak.norm2(a),
        lambda y: np.log(C @ y + 9.0).sum() - 2.0 * np.linalg.norm(A @ y - t),
        lambda y: cp.sum(cp.log(C @ y + 9.0)) - 2.0 * cp.norm(A @ y - t),
        4,
    ),
}
WEIGHT = 1.1


def transported(composition, cost, rows, weight=WEIGHT):
    problem = reduce_transport(composition, weight, cost=cost, rows=len(rows))
    session = None if problem is None else CvxpyProxSolver().open(problem)
    return TransportMap(composition, weight, session, cost=cost).apply(rows)


def in_full_dimension(reward, price, rows, weight=WEIGHT):
    """Points near the maximisers of r(y) − λh(y − x), from one program for all rows."""
    points = cp.Variable(rows.shape)
    total = sum(reward(points[i]) - weight * price(points[i] - row) for i, row in enumerate(rows))
    options = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-10)
    cp.Problem(cp.Maximize(total)).solve(solver=cp.CLARABEL, accept_unknown=True, **options)
    return points.value


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("name", COSTS)
def test_agrees_with_the_program_in_full_dimension(name, reward):
    cost, price, price_in_cvxpy = COSTS[name]
    expression, by_hand, in_cvxpy, k = REWARDS[reward]
    composition = compose(expression)
    assert composition.dimension == k
    rows = 1.5 * RNG.standard_normal((ROWS, *SHAPE))
    moved = transported(composition, cost, rows)
    assert not moved.unfinished.any() and (moved.relative_gap <= 1e-6).all()

    flat, y = rows.reshape(ROWS, D), moved.y.reshape(ROWS, D)
    paid = np.array([price(to - at) for at, to in zip(flat, y, strict=True)])
    objective = np.array([by_hand(to) for to in y]) - WEIGHT * paid
    scale = np.maximum(1.0, np.abs(objective))
    np.testing.assert_allclose(moved.cost, paid, rtol=1e-9, atol=1e-9)
    assert (np.abs(moved.objective - objective) <= 1e-9 * scale).all()

    points = in_full_dimension(in_cvxpy, price_in_cvxpy, flat)
    truth = np.array([by_hand(to) - WEIGHT * price(to - at) for at, to in zip(flat, points, strict=True)])
    # What the program in full dimension reached is below the supremum, by no more than its own tolerance.
    assert (truth <= moved.objective + moved.gap + 1e-12 * scale).all()
    assert (moved.objective <= truth + 1e-6 * scale).all()

    # Nothing nearby is better, in any direction of R^d.
    for step in 10.0 ** np.arange(-6.0, 1.0):
        for delta in step * RNG.standard_normal((4, ROWS, D)):
            with np.errstate(invalid="ignore"):
                near = np.array([by_hand(to) - WEIGHT * price(to - at) for at, to in zip(flat, y + delta, strict=True)])
            assert not (near > moved.objective + moved.gap + 1e-12 * scale).any()


@pytest.mark.parametrize("name", [name for name, (cost, *_) in COSTS.items() if getattr(cost, "power", 2) > 1])
def test_displacements_are_those_of_the_gradient_where_the_reward_is_smooth(name):
    """∇r(y) ∈ λ∂h(y − x), as the gap in Fenchel's inequality."""
    cost, price, _ = COSTS[name]
    rows = 1.5 * RNG.standard_normal((ROWS, *SHAPE))
    moved = transported(compose(REWARDS["smooth + linear"][0]), cost, rows)
    y = moved.y.reshape(ROWS, D)
    inside = y @ A.T - t
    gradient = G - (2.0 / (1.0 + np.exp(-inside)) + 0.6 * inside) @ A
    delta = y - rows.reshape(ROWS, D)
    paid = np.array([price(row) for row in delta])
    missing = paid + cost.conjugate(gradient / WEIGHT) - np.einsum("nd,nd->n", gradient / WEIGHT, delta)
    # A point of gap ε has a gradient within about √ε of that of the maximiser.
    assert (missing >= -1e-12).all() and (missing <= 1e-4).all()


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Euclidean(2), SquaredEuclidean()),
        (ElasticNet(0.0), SquaredEuclidean()),
        (PNorm(2, 2), SquaredEuclidean()),
        (Mahalanobis(np.diag(WEIGHTS)), Weighted(WEIGHTS)),
        (Mahalanobis(2.0 * np.eye(D)), Weighted(np.full(SHAPE, 2.0))),
        (PNorm(2, 1.5), Euclidean(1.5)),
        (PNorm(1), L1()),
    ],
    ids=lambda cost: cost.formula,
)
def test_costs_that_are_the_same_move_rows_alike(one, other, reward):
    composition, rows = compose(REWARDS[reward][0]), RNG.standard_normal((ROWS, *SHAPE))
    first, second = (transported(composition, cost, rows) for cost in (one, other))
    difference = np.abs(first.objective - second.objective)
    assert (difference <= first.gap + second.gap).all()
    if one.formula != "‖x − y‖_1":  # ℓ1 has ties
        np.testing.assert_allclose(first.y, second.y, atol=2e-3)


#: Those of degree 1, with the λ above which an affine reward ⟨G, y⟩ has a map.
CRITICAL = {
    name: float(cost.dual_norm(G[None])[0]) for name, (cost, *_) in COSTS.items() if getattr(cost, "power", 2) == 1
}


@pytest.mark.parametrize("name", COSTS)
def test_affine_rewards_shift_every_row_alike(name):
    cost, price, price_in_cvxpy = COSTS[name]
    weight = 1.3 * CRITICAL[name] if name in CRITICAL else 0.4
    composition, rows = compose(ak.inner(G, ak.vec(x)) - 2.0), RNG.standard_normal((ROWS, *SHAPE))
    moved = transported(composition, cost, rows, weight)
    delta = (moved.y - rows).reshape(ROWS, D)
    np.testing.assert_allclose(delta, np.broadcast_to(delta[0], delta.shape), atol=1e-12)
    paid = price(delta[0])
    np.testing.assert_allclose(moved.cost, paid, atol=1e-12)
    np.testing.assert_allclose(moved.objective, moved.y.reshape(ROWS, D) @ G - 2.0 - weight * paid, atol=1e-11)
    assert (moved.gap == 0.0).all() and not moved.unfinished.any()
    best = cp.Variable(D)
    problem = cp.Problem(cp.Maximize(G @ best - weight * price_in_cvxpy(best)))
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, accept_unknown=True)
    assert abs(problem.value - (G @ delta[0] - weight * paid)) <= 1e-7
    if name in CRITICAL:
        assert (delta == 0.0).all()


@pytest.mark.parametrize("name", CRITICAL)
def test_affine_rewards_that_outgrow_a_norm_have_no_map(name):
    with pytest.raises(UnboundedTransportError, match="outgrows") as caught:
        reduce_transport(compose(ak.inner(G, ak.vec(x))), 0.99 * CRITICAL[name], cost=COSTS[name][0], rows=1)
    assert any("Raise λ" in way for way in caught.value.ways_out)


@pytest.mark.parametrize("name", CRITICAL)
@pytest.mark.parametrize("reward", ["kinks + linear", "smooth + linear"])
def test_concave_rewards_that_outgrow_a_norm_have_no_map(name, reward):
    composition = compose(REWARDS[reward][0])
    expected = composition.linear
    # Less than any minorant's slope leaves over: ‖g − Qᵀp‖ is least among all p.
    p = cp.Variable(composition.dimension)
    rows = composition.subspace.embed(np.eye(composition.dimension))
    exponent = {"ℓ_1.5": 3, "ℓ_3": 1.5, "ℓ_inf": 1, "ℓ1": "inf"}.get(name.split(",")[0], 2)
    least = cp.Problem(cp.Minimize(cp.norm(expected - rows.T @ p, exponent))).solve(solver=cp.CLARABEL)
    with pytest.raises(UnboundedTransportError, match=r"outgrows|unbounded|infeasible"):
        transported(composition, COSTS[name][0], RNG.standard_normal((ROWS, *SHAPE)), 0.9 * least)


@pytest.mark.parametrize("cost", [Weighted(np.ones(5)), Mahalanobis(np.eye(7))])
def test_costs_for_points_of_another_size_are_refused(cost):
    with pytest.raises(ShapeError, match="6"):
        reduce_transport(compose(REWARDS["kinks"][0]), 1.0, cost=cost, rows=1)


def test_radial_costs_move_within_the_rows_and_the_linear_part_only():
    rows = RNG.standard_normal((ROWS, *SHAPE))
    composition = compose(REWARDS["kinks + linear"][0])
    lifted = lift(composition, WEIGHT, Euclidean())
    assert lifted.displacement.size == 3 and lifted.up.shape == (3, D)
    moved = transported(composition, Euclidean(1.5), rows)
    within = np.vstack([A, G])
    delta = (moved.y - rows).reshape(ROWS, D)
    np.testing.assert_allclose(delta @ np.linalg.pinv(within) @ within, delta, atol=1e-12)
    assert lift(compose(REWARDS["kinks"][0]), WEIGHT, Euclidean()).displacement.size == 2


def test_quadratic_costs_reduce_to_half_the_squared_distance_in_k_dimensions():
    for cost in (Weighted(WEIGHTS), Mahalanobis(M)):
        problem = reduce_transport(compose(REWARDS["smooth + linear"][0]), WEIGHT, cost=cost, rows=1)
        assert problem.dimension == 2 and problem.displacement is None


def test_sparse_displacements_are_embedded_like_dense_ones():
    """A session may answer with few entries for each row; the map must not care."""
    composition, rows = compose(REWARDS["kinks + linear"][0]), RNG.standard_normal((ROWS, *SHAPE))
    problem = reduce_transport(composition, WEIGHT, cost=L1(), rows=ROWS)
    inner = CvxpyProxSolver().open(problem)

    class Sparse:
        def solve(self, points, progress=None):
            found = inner.solve(points, progress)
            coordinates = np.tile(np.arange(D)[::-1], (len(points), 1))
            amounts = np.take_along_axis(found.displacement, coordinates, axis=1)
            # The same entry twice adds up.
            twice = SparseRows(np.hstack([coordinates, coordinates]), np.hstack([0.25 * amounts, 0.75 * amounts]))
            return ProxSolution(found.maximiser, found.gap, found.unfinished, displacement=twice)

    sparse = TransportMap(composition, WEIGHT, Sparse(), cost=L1()).apply(rows)
    dense = TransportMap(composition, WEIGHT, CvxpyProxSolver().open(problem), cost=L1()).apply(rows)
    np.testing.assert_allclose(sparse.y, dense.y, atol=1e-6)
    np.testing.assert_allclose(sparse.cost, dense.cost, atol=1e-6)
