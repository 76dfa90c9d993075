"""The solver in jax: against closed forms and cvxpy, what it refuses, and what it finds out about divergence."""

import subprocess
import sys

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry import costs, regularizers

import alignkit as ak
from alignkit.contracts import Bid, Displacement, Guarantee, ProxProblem, Refusal
from alignkit.errors import NonFiniteError, UnboundedTransportError
from alignkit_ott.certificate import account
from alignkit_ott.compiled import compiled_solver
from alignkit_ott.prox import OttProxSolver

RNG = np.random.default_rng(0)
K, M = 3, 6
MATRIX, OFFSET = RNG.standard_normal((4, K)), RNG.standard_normal(4)
ROWS = np.linalg.qr(RNG.standard_normal((M, K)))[0].T
LINEAR = 0.3 * RNG.standard_normal(M)
LINEAR -= ROWS.T @ (ROWS @ LINEAR)
POINTS = RNG.standard_normal((12, K)) * np.array([0.5, 2.0, 30.0])[np.arange(12) % 3, None]
TARGET = ak.Parameter(4, OFFSET, name="target")
SCALES = ak.Parameter((4, K), MATRIX, name="scales")
W = ak.Variable(K, name="w")
#: One reward for most tests: it is compiled once for each cost, and its parameters and λ are arguments.
REWARD = -ak.log_sum_exp(SCALES @ W - TARGET) - 0.5 * ak.sum(ak.huber(SCALES @ W - TARGET))

ELASTIC = costs.RegTICost(regularizers.L1(), lam=0.4, rho=2.0)
ELASTIC_COST = ak.costs.from_ott(ELASTIC)


def problem(f=REWARD, weight=1.3, *, cost=None, rows=ROWS, linear=LINEAR, k=K, device="auto", tolerance=1e-6):
    displacement = None if cost is None else Displacement(cost, rows, linear)
    return ProxProblem(f, weight, k, len(POINTS), tolerance, device, displacement)


def solved(given, points=POINTS):
    bid = OttProxSolver().bid(given)
    assert isinstance(bid, Bid), bid
    return OttProxSolver().open(given).solve(points)


def step_of(given, points, solution):
    return solution.maximiser - points if given.displacement is None else solution.displacement


def objective(given, points, solution):
    step = step_of(given, points, solution)
    value = given.nonlinear.value(solution.maximiser)
    if given.displacement is None:
        return value - 0.5 * given.weight * (step**2).sum(axis=1)
    return value + step @ given.displacement.linear - given.weight * given.displacement.cost.of_displacement(step)


# ---- the truth by cvxpy, in full dimension


PRICES = {
    "half squared": (None, None),
    **{f"ℓ_{p}^{p}": (ak.costs.PNorm(p, p), lambda d, p=p: cp.sum(cp.power(cp.abs(d), p)) / p) for p in (1.5, 3.0)},
    "distance^1.5": (ak.costs.Euclidean(1.5), lambda d: cp.power(cp.norm2(d), 1.5) / 1.5),
    **{
        f"elastic {gamma}": (
            ak.costs.ElasticNet(gamma),
            lambda d, gamma=gamma: 0.5 * cp.sum_squares(d) + gamma * cp.norm1(d),
        )
        for gamma in (0.1, 1.0)
    },
    "elastic, ρ = 2": (ELASTIC_COST, lambda d: cp.sum_squares(d) + 0.4 * cp.norm1(d)),
}


def by_cvxpy(price, weight, point, matrix, offset):
    delta = cp.Variable(K if price is None else M)
    z = matrix @ (point + (delta if price is None else ROWS @ delta)) - offset
    reward = -cp.log_sum_exp(z) - 0.5 * cp.sum(cp.huber(z))
    paid = 0.5 * cp.sum_squares(delta) if price is None else price(delta)
    earned = 0.0 if price is None else LINEAR @ delta
    return cp.Problem(cp.Maximize(reward + earned - weight * paid)).solve(solver=cp.CLARABEL)


@pytest.fixture(autouse=True)
def _same_parameters():
    TARGET.value, SCALES.value = OFFSET, MATRIX


@pytest.mark.parametrize("name", PRICES)
def test_it_agrees_with_cvxpy_at_every_value_of_the_parameters(name):
    cost, price = PRICES[name]
    session = OttProxSolver().open(problem(cost=cost))
    solver = compiled_solver(REWARD, session.plan.method, cost)
    for weight, shift, stretch in ((1.3, 0.0, 1.0), (0.2, 0.0, 1.0), (20.0, 1.0, 1.0), (1.3, -1.0, 0.3)):
        TARGET.value, SCALES.value = OFFSET + shift, stretch * MATRIX
        given = problem(weight=weight, cost=cost)
        assert session.update(given)
        solution = session.solve(POINTS)
        found = objective(given, POINTS, solution)
        assert not solution.unfinished.any()
        np.testing.assert_allclose(solution.value, REWARD.value(solution.maximiser), rtol=1e-12)
        for row in (0, 1, 2):
            truth = by_cvxpy(price, weight, POINTS[row], stretch * MATRIX, OFFSET + shift)
            scale = max(1.0, abs(truth))
            assert abs(found[row] - truth) <= 1e-5 * scale
            assert truth <= found[row] + solution.gap[row] + 1e-6 * scale  # up to Clarabel's own accuracy
    assert solver._cache_size() == 1


def test_any_batch_and_any_value_of_a_parameter_is_answered_by_one_compiled_function():
    session = OttProxSolver().open(problem())
    solver = compiled_solver(REWARD, session.plan.method, None)
    every = session.solve(np.tile(POINTS, (200, 1)))
    assert every.maximiser.shape == (2400, K) and not every.unfinished.any()
    for count in (0, 1, 5, 12):
        some = session.solve(POINTS[:count])
        np.testing.assert_allclose(some.maximiser, every.maximiser[:count], rtol=0.0, atol=1e-9)
    TARGET.value = OFFSET + 1.0
    assert np.abs(session.solve(POINTS).maximiser - every.maximiser[:12]).max() > 1e-2
    assert solver._cache_size() == 1


def test_another_reward_cost_or_method_is_opened_anew():
    session = OttProxSolver().open(problem())
    assert not session.update(problem(-ak.sum_squares(W)))
    assert not session.update(problem(cost=ak.costs.ElasticNet(0.1)))
    assert not session.update(problem(-ak.norm1(W)))
    squared = OttProxSolver().open(problem(cost=ak.costs.PNorm(3.0, 2.0)))
    assert not squared.update(problem(cost=ak.costs.PNorm(3.0, 3.0)))
    assert squared.update(problem(cost=ak.costs.PNorm(3.0, 2.0), linear=0.0 * LINEAR))


def test_quadratics_have_their_closed_form():
    """Half squared distance, at every λ that dominates a convex summand: (λI − H)⁻¹(λv + h)."""
    f = 0.5 * ak.quad_form(W, np.diag([0.5, -1.0, -4.0])) + W[0] - 2.0 * W[2]
    session = OttProxSolver().open(problem(f))
    for weight in (0.51, 1.0, 1e3):
        assert session.update(problem(f, weight))
        hessian = weight * np.eye(K) - np.diag([0.5, -1.0, -4.0])
        truth = np.linalg.solve(hessian, (weight * POINTS + np.array([1.0, 0.0, -2.0])).T).T
        solution = session.solve(POINTS)
        allowed = np.sqrt(2.0 * solution.gap / (weight - 0.5))
        assert not solution.unfinished.any()
        assert (np.linalg.norm(solution.maximiser - truth, axis=1) <= allowed).all()
    assert not session.update(problem(f, 0.49))


def test_costs_of_otts_own_against_a_fine_grid():
    """h = ρ/2·δ² + γ·STVS(δ) in one dimension, for ρ other than 1."""
    cost = ak.costs.from_ott(costs.RegTICost(regularizers.STVS(0.5), lam=1.5, rho=2.0))
    w = ak.Variable(1, name="w")
    f = -ak.logistic(2.0 * w[0]) - ak.square(w[0] - 1.0)
    points = np.linspace(-3.0, 3.0, 61)[:, None]
    given = problem(f, 0.7, cost=cost, rows=None, linear=np.zeros(1), k=1)
    solution = solved(given, points)
    grid = np.linspace(-6.0, 6.0, 40_001)[:, None]
    paid = cost.of_displacement(grid)
    for row, point in enumerate(points):
        best = (f.value(point + grid) - 0.7 * paid).max()
        found = objective(given, points, solution)[row]
        assert best <= found + solution.gap[row] and found <= best + 1e-6
    # Small displacements are not worth their price: STVS keeps them at 0.
    assert (np.abs(solution.displacement) < 1e-9).any() and (np.abs(solution.displacement) > 0.1).any()


def test_otts_own_h_transform_agrees_and_says_nothing_of_divergence():
    """min_y ‖x − y‖² − f(y) is less the supremum for λ = 2; where there is no minimum OTT returns a large number."""
    given = problem(weight=2.0)
    solution = solved(given, POINTS[:2])
    with jax.enable_x64(True):
        transform = costs.SqEuclidean().h_transform(lambda y: REWARD.value(y[None])[0])
        compiled = jax.jit(lambda x: transform(x, max_iter=200, tol=1e-8))
        for row in range(2):
            otts = float(compiled(jnp.asarray(POINTS[row])))
            assert objective(given, POINTS[:2], solution)[row] == pytest.approx(-otts, abs=1e-6)
        divergent = jax.jit(costs.SqEuclidean().h_transform(lambda y: 2.0 * jnp.sum(y**2)))
        assert float(divergent(jnp.asarray(POINTS[1]))) < -1e6
    assert isinstance(OttProxSolver().bid(problem(2.0 * ak.sum_squares(W), 2.0)), Refusal)


# ---- certificates and residuals


@pytest.mark.parametrize("cost", [None, ak.costs.PNorm(3.0, 3.0), ak.costs.ElasticNet(0.1), ELASTIC_COST])
def test_the_gap_bounds_what_any_point_lacks(cost):
    given = problem(cost=cost)
    best = solved(given)
    supremum = objective(given, POINTS, best)
    rng = np.random.default_rng(1)
    for size in (0.0, 1e-4, 1e-2, 1.0):
        step = step_of(given, POINTS, best)
        step = step + size * rng.standard_normal(step.shape)
        moved = POINTS + (step if cost is None else step @ ROWS.T)
        value, slope = REWARD.value(moved), REWARD.gradient(moved)
        found = account(given, step, value, slope, strength=1.3, is_concave=True)
        assert (supremum - found.objective <= found.gap).all()
        assert (found.gap >= 0.0).all()


def test_the_residual_is_the_gradient_of_the_objective():
    given = problem()
    session = OttProxSolver().open(given)
    solution = session.solve(POINTS)
    residual = session.residual(POINTS, solution)
    gradient = REWARD.gradient(solution.maximiser) - 1.3 * (solution.maximiser - POINTS)
    np.testing.assert_allclose(residual, np.linalg.norm(gradient, axis=1), rtol=1e-6, atol=1e-12)
    assert (residual**2 / (2.0 * 1.3) <= solution.gap).all()
    elastic = OttProxSolver().open(problem(cost=ak.costs.ElasticNet(0.1), linear=LINEAR))
    assert elastic.residual(POINTS, elastic.solve(POINTS)).max() < 1e-2


# ---- several local maxima


def test_many_starts_find_what_a_grid_finds_and_promise_nothing():
    w = ak.Variable(1, name="w")
    f = 2.0 * ak.sin(3.0 * w[0]) - ak.distance_to_points(w, [[-2.0], [0.3], [4.0]])
    points = np.linspace(-5.0, 5.0, 40)[:, None]
    given = problem(f, 0.4, k=1)
    bid = OttProxSolver().bid(given)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.HEURISTIC and "32 starts" in bid.method
    solution = solved(given, points)
    assert np.isinf(solution.gap).all() and not solution.unfinished.any()
    grid = np.linspace(-25.0, 25.0, 50_001)[:, None]
    value = f.value(grid)
    best = np.array([(value - 0.2 * (grid[:, 0] - v) ** 2).max() for v in points[:, 0]])
    assert (objective(given, points, solution) >= best - 1e-5).all()


def test_rows_with_two_maximisers_are_marked_and_the_same_one_is_taken():
    """|z − 1| and |z + 1| away from the nearer of two points: v = 0 is torn between them."""
    w = ak.Variable(1, name="w")
    f = -2.0 * ak.distance_to_points(w, [[-1.0], [1.0]])
    points = np.array([[-0.5], [0.0], [0.5], [0.0]])
    solution = solved(problem(f, 0.5, k=1), points)
    assert solution.tied.tolist() == [False, True, False, True]
    np.testing.assert_allclose(np.abs(solution.maximiser), 1.0, atol=1e-6)
    assert solution.maximiser[1] == solution.maximiser[3]
    assert solved(problem()).tied is None


# ---- no maximum, no value


def test_a_wrong_sign_is_refused_or_ends_in_an_error():
    refusal = OttProxSolver().bid(problem(ak.sum_squares(W), 1.0))
    assert isinstance(refusal, Refusal) and "grows faster" in refusal.reason
    with pytest.raises(UnboundedTransportError, match="outgrows"):
        ak.Problem(
            ak.sum_squares(ak.Variable(K)),
            ak.base.Gaussian(np.zeros(K), 1.0),
            ak.Wasserstein(weight=0.5, cost=costs.SqEuclidean()),
        ).solve(seed=0, backend="ott")


def test_one_row_that_diverges_is_found_among_others_at_local_maxima():
    """w₀⁴ outgrows ‖δ‖³, but most rows lie in the basin of a local maximum, where any solver would stop content."""
    f = 1e-3 * ak.square(ak.square(W[0])) - ak.sum_squares(W[1:])
    given = problem(f, 50.0, cost=ak.costs.Euclidean(3.0), rows=None, linear=np.zeros(K))
    points = np.concatenate([0.1 * POINTS, [[0.0, 0.0, 0.0]]])
    with pytest.raises(UnboundedTransportError, match=r"row \d+.*rises without end"):
        OttProxSolver().open(given).solve(points)
    with pytest.raises(UnboundedTransportError, match="row 0"):
        OttProxSolver().open(given).solve(points[-1:])


def test_a_row_that_runs_away_ends_in_an_error():
    f = ak.sum_squares(W)
    given = problem(f, 1.0, cost=ak.costs.PNorm(1.5, 1.5), rows=None, linear=np.zeros(K))
    with pytest.raises(UnboundedTransportError, match="Check its sign"):
        OttProxSolver().open(given).solve(POINTS)


def test_a_value_that_is_none_is_found_with_its_row():
    f = ak.lipschitz(lambda rows: jnp.where(rows[:, 0] > 5.0, jnp.nan, jnp.sin(rows[:, 0])), 1.0, W)
    points = np.zeros((4, K))
    points[2, 0] = 6.0
    with pytest.raises(NonFiniteError, match="row 2"):
        solved(problem(f), points)


@pytest.mark.parametrize("cost", [None, ak.costs.PNorm(3.0, 3.0)])
def test_rows_beyond_float64_spoil_no_others(cost):
    given = problem(-ak.sum_squares(MATRIX @ W - OFFSET), cost=cost)
    points = POINTS.copy()
    points[1], points[4] = 1e200, -1e300
    solution = solved(given, points)
    assert np.flatnonzero(solution.unfinished).tolist() == [1, 4] and np.isinf(solution.gap[[1, 4]]).all()
    assert np.isfinite(solution.maximiser).all()
    others = np.delete(np.arange(12), [1, 4])
    alone = solved(given, points[others])
    np.testing.assert_allclose(solution.maximiser[others], alone.maximiser, atol=1e-9)


# ---- bids


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (problem(-ak.norm1(W - 1.0)), "norm1(w - 1) has a kink"),
        (problem(ak.sum(ak.log(W))), "not defined everywhere"),
        (problem(cost=ak.costs.L1()), "not strictly convex"),
        (problem(cost=ak.costs.Euclidean()), "not strictly convex"),
        (problem(cost=ak.costs.PNorm(np.inf, 2.0)), "has kinks"),
        (problem(ak.sin(W[0]), cost=ak.costs.ElasticNet(0.1)), "not concave"),
        (problem(ak.lipschitz(lambda rows: np.sin(rows[:, 0]), 1.0, W)), "jax cannot trace <lambda>"),
        (problem(device="cuda:99"), "jax cannot use the device 'cuda:99'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_taken_is_refused_with_the_reason(given, words):
    refusal = OttProxSolver().bid(given)
    assert isinstance(refusal, Refusal) and words in refusal.reason, refusal
    with pytest.raises(ValueError, match="ott backend refuses"):
        OttProxSolver().open(given)


def test_kinks_that_squares_smooth_are_none():
    assert isinstance(OttProxSolver().bid(problem(-ak.sum_squares(ak.pos(W)) - ak.square(ak.norm2(W)))), Bid)
    assert isinstance(OttProxSolver().bid(problem(-ak.square(ak.norm1(W)))), Refusal)


def test_jax_is_left_as_it_was():
    solved(problem(device="cpu"))
    assert jnp.zeros(1).dtype == jnp.float32 and not jax.config.jax_enable_x64


def test_a_bid_imports_no_jax_and_counts_its_import():
    code = """
import sys
import alignkit as ak
from alignkit.contracts import ProxProblem
from alignkit_ott.prox import OttProxSolver
w = ak.Variable(2)
given = ProxProblem(-ak.log_sum_exp(w), 1.0, 2, 100)
before = OttProxSolver().bid(given).seconds
assert "jax" not in sys.modules and "ott" not in sys.modules
import jax
assert before > OttProxSolver().bid(given).seconds > 0.0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- through the front door


def test_a_problem_under_an_ott_cost_is_solved_and_certified():
    x = ak.Variable(M)
    directions = MATRIX @ ROWS
    reward = -ak.log_sum_exp(directions @ x - OFFSET) + ak.inner(LINEAR, x)
    base = ak.base.Gaussian(np.zeros(M), 1.0)
    closeness = ak.Wasserstein(weight=0.8, cost=costs.RegTICost(regularizers.L1(), lam=0.4, rho=2.0))
    posed = ak.Problem(reward, base, closeness)
    assert "ott" in str(posed.explain()) and "L1" in closeness.objective
    aligned = posed.solve(seed=0)
    assert aligned.certificate.gap_max <= 1e-6 and aligned.certificate.rows_unfinished == 0
    rows = np.random.default_rng(2).standard_normal((3, M))
    moved = aligned.transport(rows)
    for row, found in zip(rows, moved, strict=True):
        delta = cp.Variable(M)
        price = cp.sum_squares(delta) + 0.4 * cp.norm1(delta)
        gained = -cp.log_sum_exp(directions @ (row + delta) - OFFSET) + LINEAR @ (row + delta)
        truth = cp.Problem(cp.Maximize(gained - 0.8 * price)).solve(solver=cp.CLARABEL)
        mine = reward.value(found[None])[0] - 0.8 * closeness.cost.value(row[None], found[None])[0]
        assert mine == pytest.approx(truth, abs=1e-5)


def test_what_has_no_bound_is_called_certified_nowhere():
    x = ak.Variable(2)
    posed = ak.Problem(ak.sum(ak.sin(3 * x)), ak.base.Gaussian(np.zeros(2), 1.0), ak.Wasserstein(weight=1.0))
    plan, certificate = posed.compile(backend="ott"), posed.solve(seed=0, backend="ott").certificate
    for said in (str(plan.explain()), str(certificate)):
        assert "ott: no bound" in said and "certified" not in said
    assert certificate.rows["largest gap"] == certificate.rows["mean gap"] == "no bound"
    within = ak.Problem(posed.reward, posed.base, ak.Wasserstein(radius=0.1)).solve(seed=0, backend="ott").certificate
    assert within.rows["dual value"] == "no bound" and within.rows["largest gap"] == "no bound"


def test_a_linear_reward_under_an_ott_cost_is_a_shift():
    """argmax ⟨g, δ⟩ − λ(ρ/2·‖δ‖² + γ‖δ‖₁) is soft thresholding of g/(λρ) at γ/ρ."""
    x = ak.Variable(M)
    base = ak.base.Gaussian(np.zeros(M), 1.0)
    slope = np.linspace(-2.0, 2.0, M)
    aligned = ak.Problem(ak.inner(slope, x), base, ak.Wasserstein(weight=0.8, cost=ELASTIC)).solve(seed=0)
    shift = np.sign(slope) * np.maximum(np.abs(slope) / 0.8 - 0.4, 0.0) / 2.0
    np.testing.assert_allclose(aligned.transport(np.zeros((1, M)))[0], shift, atol=1e-7)
