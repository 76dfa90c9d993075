"""Costs that are not quadratic: certificates that do not trust the solver, sessions that follow, and refusals."""

import math
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.contracts import Bid, Displacement, Guarantee, ProxProblem, Refusal
from alignkit.errors import UnboundedTransportError
from alignkit.expressions.splitting import split
from alignkit.transport.costs import L1, ElasticNet, Euclidean, PNorm, SquaredEuclidean
from alignkit_cvxpy import sizing
from alignkit_cvxpy.displaced import displacement_penalty
from alignkit_cvxpy.penalty import Majorant
from alignkit_cvxpy.program import Block, BlockProgram
from alignkit_cvxpy.prox import CvxpyProxSolver

RNG = np.random.default_rng(0)
K, SIZE = 3, 7
R = np.linalg.qr(RNG.standard_normal((SIZE, K)))[0].T
G = RNG.standard_normal(SIZE)
G = 0.3 * (G - R.T @ (R @ G))
A, t = RNG.standard_normal((5, K)), RNG.standard_normal(5)
w = ak.Variable(K, name="w")
a = A @ w - t

COSTS = {
    "euclidean": Euclidean(),
    "euclidean 1.5": Euclidean(1.5),
    "euclidean 2": Euclidean(2),
    "euclidean 2.345": Euclidean(2.345),
    "ℓ1": L1(),
    "ℓ1 squared": L1(power=2),
    "ℓ_1.5": PNorm(1.5),
    "ℓ_3 squared": PNorm(3, 2),
    "ℓ_∞": PNorm(math.inf),
    "elastic net": ElasticNet(0.3),
}
#: Rewards that no other test puts together with a cost: every kind of minorant, edges of domains, nesting, quadratics.
REWARDS = {
    "log_sum_exp": -3.0 * ak.log_sum_exp(a),
    "quadratic": -ak.sum_squares(a) + ak.sum(w),
    "quadratic of full rank and a norm": -ak.quad_form(w, A.T @ A) - ak.norm2(w),
    "low rank": -ak.sum_squares(a[:1]) - ak.norm_inf(a),
    "huber and exp": -ak.sum(ak.huber(a, 0.5)) - ak.sum(ak.exp(0.5 * a)),
    "entropy": ak.sum(ak.entr(w + 4.0)),
    "power": -ak.sum(ak.power(ak.abs(a), 1.5)),
    "nested": -ak.sum(ak.square(ak.pos(a))) - ak.max(a),
    "min": ak.min(a) - ak.norm1(w),
}


def problem_of(reward, cost, weight=1.5, *, rows=6, linear=G, matrix=R):
    return ProxProblem(reward, weight, K, rows, displacement=Displacement(cost, matrix, linear))


def objective(problem, points, displacements):
    penalty = problem.displacement
    moved = displacements if penalty.rows is None else displacements @ penalty.rows.T
    value = problem.nonlinear.value(points + moved)
    paid = problem.weight * penalty.cost.of_displacement(displacements) - displacements @ penalty.linear
    return np.where(np.isnan(value), -np.inf, value) - paid


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("name", COSTS)
def test_every_row_is_certified_and_nothing_nearby_is_better(name, reward):
    problem = problem_of(REWARDS[reward], COSTS[name], 3.0)
    bid = CvxpyProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED, bid
    points = RNG.standard_normal((6, K))
    solution = CvxpyProxSolver().open(problem).solve(points)
    best = objective(problem, points, solution.displacement)
    np.testing.assert_array_equal(solution.maximiser, points + solution.displacement @ R.T)
    assert not solution.unfinished.any()
    assert (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(best))).all() and (solution.gap >= 0).all()
    for step in 10.0 ** np.arange(-7.0, 1.0):
        for _ in range(3):
            other = solution.displacement + step * RNG.standard_normal((6, SIZE))
            assert (objective(problem, points, other) <= best + solution.gap + 1e-12).all()
    assert (objective(problem, points, np.zeros((6, SIZE))) <= best + solution.gap + 1e-12).all()


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("name", COSTS)
def test_bounds_hold_for_any_majorant_whatsoever(name, anchored):
    """The bound must not depend on the solver being right: feed it slopes that fit and slopes that do not."""
    f, weight = -ak.norm1(a) - 0.2 * ak.sum_squares(w), 4.0 if name == "ℓ_∞" else 1.5
    penalty = displacement_penalty(split(f), weight, Displacement(COSTS[name], R, G), moves=False)
    if anchored and penalty.has_edge:
        penalty = penalty.anchored_at(np.zeros((1, K)), Majorant(np.zeros((1, K)), np.zeros(1)))
        assert penalty is not None
    points, found = RNG.standard_normal((2, 40, K))
    signs = RNG.uniform(-1.0, 1.0, (40, 5)) * np.repeat([0.05, 0.5, 1.0, 1.0], 10)[:, None]
    atoms = Majorant(-signs @ A, signs @ t)  # |a| ≥ sign·a
    upper, steps = penalty.bound(points, found, atoms)
    assert steps.shape == (40, SIZE)
    problem = problem_of(f, COSTS[name], weight)
    for size in (1e-3, 0.1, 1.0, 10.0, 1e3):
        for _ in range(20):
            tried = objective(problem, points, size * RNG.standard_normal((40, SIZE)))
            assert (tried <= upper + 1e-12 * np.maximum(1.0, np.abs(tried))).all()
    if anchored:
        assert np.isfinite(upper).all()
    elif penalty.has_edge:
        assert 0 < np.isinf(upper).sum() < 40


@pytest.mark.parametrize("name", ["euclidean", "ℓ1", "ℓ_∞", "elastic net", "euclidean 1.5"])
def test_the_certificate_grows_with_the_error(name):
    """Spoil the solver's answer: the gap must grow to at least the true error, or the check is no check."""
    problem = problem_of(-ak.norm1(a), COSTS[name], rows=8)
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((8, K))
    solution = session.solve(points)
    best = objective(problem, points, solution.displacement)
    program = session._programs[8]
    for size in (1e-3, 1e-1):
        answer = program.solve(Block(session.tree, session.penalty, points))
        answer.step[:] += size * RNG.standard_normal(answer.step.shape)
        answer.duals[:] = [dual + size * RNG.standard_normal(dual.shape) for dual in answer.duals]
        spoilt = session._certify(points, answer)
        error = best - spoilt.objective
        assert error.max() > 1e-7
        assert (spoilt.gap >= error - solution.gap).all()


@pytest.mark.parametrize("reward", ["quadratic", "min"])
@pytest.mark.parametrize("name", ["euclidean", "ℓ1", "elastic net"])
def test_where_every_direction_is_seen_the_displacement_is_the_step(name, reward):
    points = RNG.standard_normal((4, K))
    problem = problem_of(REWARDS[reward], COSTS[name], linear=np.zeros(K), matrix=None)
    solution = CvxpyProxSolver().open(problem).solve(points)
    assert not solution.unfinished.any()
    np.testing.assert_array_equal(solution.maximiser, points + solution.displacement)


@pytest.mark.parametrize("reward", [ak.sum(ak.log(w)), 2.0 * ak.sum(ak.sqrt(w)) - ak.norm1(w), ak.sum(ak.entr(w))])
@pytest.mark.parametrize("name", COSTS)
def test_rows_outside_the_domain_are_moved_into_it_and_certified(name, reward):
    problem = problem_of(reward, COSTS[name], 5.0)
    points = -10.0 * np.abs(RNG.standard_normal((6, K)))
    assert np.isneginf(objective(problem, points, np.zeros((6, SIZE)))).all()
    solution = CvxpyProxSolver().open(problem).solve(points)
    best = objective(problem, points, solution.displacement)
    assert np.isfinite(best).all() and not solution.unfinished.any()
    assert (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(best))).all()


@pytest.mark.parametrize("name", ["ℓ1", "ℓ_1.5", "elastic net"])
def test_rows_too_large_for_a_block_are_built_one_by_one(name, monkeypatch):
    problem, points = problem_of(-ak.norm2(a), COSTS[name], rows=3), RNG.standard_normal((3, K))
    expected = CvxpyProxSolver().open(problem).solve(points)
    monkeypatch.setattr(sizing, "_PARAMETRISED_ENTRIES", 1)
    monkeypatch.setattr(sizing, "_BLOCK_ENTRIES", 1)
    session = CvxpyProxSolver().open(problem)
    solution = session.solve(points)
    assert not session._programs and not solution.unfinished.any()
    difference = objective(problem, points, solution.displacement) - objective(problem, points, expected.displacement)
    assert (np.abs(difference) <= solution.gap + expected.gap).all()


@pytest.mark.parametrize("name", COSTS)
def test_a_session_follows_its_parameters_and_weight_without_compiling(name):
    shift, scale, matrix = ak.Parameter(5, t), ak.Parameter((), 1.0, nonneg=True), ak.Parameter((2, K), A[:2])
    f = -scale * ak.norm2(A @ w - shift) - ak.norm1(w) - ak.sum_squares(matrix @ w)
    points = RNG.standard_normal((4, K))
    session = CvxpyProxSolver().open(problem_of(f, COSTS[name], 2.0))
    session.solve(points)
    (program,) = {session._programs[4]}
    before = program.problem._cache.param_prog
    assert program.problem.is_dpp() and before is not None
    for weight, linear in ((3.0, G), (1.2, -0.5 * G), (8.0, 0.1 * G)):
        shift.value, scale.value = RNG.standard_normal(5), RNG.uniform(0.2, 2.0)
        matrix.value = RNG.standard_normal((2, K))
        problem = problem_of(f, COSTS[name], weight, linear=linear)
        assert session.update(problem)
        found, expected = session.solve(points), CvxpyProxSolver().open(problem).solve(points)
        assert program.problem._cache.param_prog is before and session._programs[4] is program
        assert not found.unfinished.any() and not expected.unfinished.any()
        difference = objective(problem, points, found.displacement) - objective(problem, points, expected.displacement)
        assert (difference >= -found.gap - 1e-12).all() and (difference <= expected.gap + 1e-12).all()


def test_another_cost_matrix_or_kind_of_displacement_needs_a_new_session():
    f = -ak.norm1(a)
    session = CvxpyProxSolver().open(problem_of(f, Euclidean()))
    assert session.update(problem_of(f, Euclidean(), 9.0))
    assert not session.update(problem_of(f, Euclidean(1.5)))
    assert not session.update(problem_of(f, Euclidean(), linear=np.zeros(SIZE)))
    assert not session.update(problem_of(f, Euclidean(), matrix=R[:, ::-1].copy()))
    assert not session.update(problem_of(f, Euclidean(), matrix=None, linear=np.zeros(K)))
    assert not session.update(ProxProblem(f, 1.5, K, 6))
    assert not CvxpyProxSolver().open(ProxProblem(f, 1.5, K, 6)).update(problem_of(f, Euclidean()))


@pytest.mark.parametrize("name", ["euclidean", "ℓ1", "ℓ_1.5", "ℓ_∞"])
def test_duals_that_miss_the_ball_are_mended_by_an_anchor(name):
    problem, points = problem_of(-2.0 * ak.norm2(a), COSTS[name], rows=8), np.random.default_rng(0).normal(size=(8, K))
    session = CvxpyProxSolver().open(problem)
    session._seeks_anchor = False
    block = Block(session.tree, session.penalty, points)
    answer = session._program(block).solve(block)
    # The ball of a slightly smaller λ, which duals on the edge of this one miss whatever the solver's rounding was.
    session.penalty = replace(session.penalty, weight=(1 - 2e-9) * session.penalty.weight)
    assert np.isinf(session._certify(points, answer).gap).any()
    session._seeks_anchor = True
    mended = session._certify(points, answer)
    assert session.penalty.anchor is not None
    assert (mended.gap <= 1e-7 * np.maximum(1.0, np.abs(mended.objective))).all()


@pytest.mark.parametrize("reward", ["log_sum_exp", "quadratic", "min", "entropy"])
@pytest.mark.parametrize("name", ["euclidean", "ℓ1", "ℓ_1.5", "ℓ_∞"])
def test_a_linear_part_that_outgrows_a_norm_is_unbounded(name, reward):
    # ⟨g, δ⟩ grows along g, which f does not see.
    weight = 0.9 * float(G @ G / COSTS[name].of_displacement(G[None])[0])
    session = CvxpyProxSolver().open(problem_of(REWARDS[reward], COSTS[name], weight))
    with pytest.raises(UnboundedTransportError, match=r"unbounded|infeasible") as caught:
        session.solve(RNG.standard_normal((6, K)))
    assert any("grows faster" in way for way in caught.value.ways_out)


@pytest.mark.parametrize("name", ["euclidean", "ℓ1", "ℓ_∞"])
def test_rows_far_out_are_refuted_by_a_majorant_from_the_origin(name):
    """The slope of −‖w‖² at 10⁷ misses the ball by as much, and the solver calls such rows unbounded."""
    z2 = ak.Variable(2, name="z")
    problem = ProxProblem(-ak.sum_squares(z2), 0.8, 2, 6, displacement=Displacement(COSTS[name], None, np.zeros(2)))
    for seed in (7, 30, 38):
        points = 1e7 * np.random.default_rng(seed).standard_normal((6, 2))
        solution = CvxpyProxSolver().open(problem).solve(points)
        assert np.isfinite(solution.gap).all()
        at_the_origin = objective(problem, points, -points)
        assert (at_the_origin <= objective(problem, points, solution.displacement) + solution.gap).all()


def test_rows_just_below_the_critical_weight_are_bounded():
    """λ a hundredth above ‖g‖: the displacement is long, the bound finite."""
    problem = problem_of(-ak.norm1(a), Euclidean(), 1.01 * float(np.linalg.norm(G)))
    solution = CvxpyProxSolver().open(problem).solve(RNG.standard_normal((6, K)))
    assert not solution.unfinished.any()


@pytest.mark.parametrize("status", [cp.UNBOUNDED, cp.INFEASIBLE])
def test_an_anchor_refutes_a_solver_that_cries_unbounded(status):
    problem = problem_of(-ak.norm1(a), L1(), rows=1)
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((1, K))
    session.solve(points)
    program = session._programs[1]

    class Failing:
        def solve(self, block):
            return program.solve(block) if block.penalty.weight < 1.5 else program.no_answer(block, status)

    session._programs[1] = Failing()
    solution = session.solve(points)
    assert solution.unfinished.all() and np.isfinite(solution.gap).all()


def test_a_solver_that_runs_away_is_not_believed():
    problem = problem_of(-ak.sum_squares(a), Euclidean(), 0.999 * float(np.linalg.norm(G)))
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((1, K))
    program = BlockProgram(Block(session.tree, session.penalty, points))

    class RunsAway:
        def solve(self, block):
            answer = program.no_answer(block, "optimal_inaccurate")
            return replace(answer, step=1e12 * G[None], solved=True)

    session._programs[1] = RunsAway()
    with pytest.raises(UnboundedTransportError, match="unbounded"):
        session.solve(points)


@pytest.mark.parametrize(
    ("reward", "cost", "words"),
    [
        (0.1 * ak.sum_squares(w) - ak.norm1(w), Euclidean(), "convex, and only a quadratic cost dominates"),
        (ak.norm1(w), L1(), "not concave"),
        (-ak.norm1(w), SquaredEuclidean(), "SquaredEuclidean has no lowering"),
        (-ak.sum(ak.sin(w)), L1(), "sin"),
    ],
)
def test_refusals_say_why(reward, cost, words):
    refusal = CvxpyProxSolver().bid(problem_of(reward, cost))
    assert isinstance(refusal, Refusal) and words in refusal.reason
    with pytest.raises(ValueError, match="refuses"):
        CvxpyProxSolver().open(problem_of(reward, cost))


def test_a_convex_quadratic_that_another_dominates_is_taken():
    problem = problem_of(-ak.sum_squares(w) + 0.5 * ak.square(w[0] - 1.0), L1())
    solution = CvxpyProxSolver().open(problem).solve(RNG.standard_normal((4, K)))
    assert not solution.unfinished.any()


def test_bids_count_the_entries_of_a_displacement():
    def seconds(cost, size):
        matrix = np.linalg.qr(RNG.standard_normal((size, K)))[0].T
        return (
            CvxpyProxSolver()
            .bid(problem_of(-ak.norm1(a), cost, rows=1000, linear=np.zeros(size), matrix=matrix))
            .seconds
        )

    for cost in (L1(), PNorm(1.5), ElasticNet(0.3)):
        assert seconds(cost, 400) > 5 * seconds(cost, 40)
    assert seconds(PNorm(1.5), 400) > seconds(L1(), 400)
    refusal = CvxpyProxSolver().bid(
        problem_of(-ak.norm1(a), L1(), linear=np.zeros(150_000), matrix=np.ones((K, 150_000)))
    )
    assert isinstance(refusal, Refusal) and "conic variables" in refusal.reason
