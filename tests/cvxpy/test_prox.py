import itertools
import subprocess
import sys
import warnings

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import alignkit.expressions as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit.expressions.splitting import split
from alignkit_cvxpy import sizing
from alignkit_cvxpy.lowering import LOWERINGS
from alignkit_cvxpy.minorants import AT_DUALS, MINORANTS, minorant
from alignkit_cvxpy.program import Block
from alignkit_cvxpy.prox import CvxpyProxSolver
from alignkit_cvxpy.tree import build_tree

RNG = np.random.default_rng(0)
K = 4
A, t = RNG.standard_normal((6, K)), RNG.standard_normal(6)
P = A @ A.T
w = ak.Variable(K, name="w")
a = A @ w - t
grid = ak.reshape(a, (2, 3))

#: Every lowered atom, in every form: alone, weighted, along axes, nested; with the weight λ.
REWARDS = {
    "abs": (-ak.inner(np.arange(1.0, 7.0), ak.abs(a)), 1.0),
    "norm1": (-ak.norm1(a), 2.0),
    "norm1 axis": (-ak.inner([1.0, 2.0, 0.5], ak.norm1(grid, axis=0)), 2.0),
    "norm2": (-3.0 * ak.norm2(a), 1.0),
    "norm2 axis": (-ak.sum(ak.norm2(grid, axis=1)), 1.0),
    "norm_inf": (-ak.norm_inf(a), 1.0),
    "norm_inf axis": (-ak.sum(ak.norm_inf(grid, axis=0)), 1.0),
    "huber": (-ak.sum(ak.huber(a, M=0.5)), 1.0),
    "pos": (-ak.sum(ak.pos(a)), 1.0),
    "square": (-ak.sum(ak.square(a)), 1.0),
    "sum_squares": (-ak.sum_squares(a) + ak.sum(w), 1.0),
    "quad_form": (-ak.quad_form(a, P), 1.0),
    "max": (-2.0 * ak.max(a), 1.0),
    "max axis": (-ak.sum(ak.max(grid, axis=0)), 1.0),
    "min": (ak.min(a), 1.0),
    "min axis": (ak.inner([1.0, 0.0], ak.min(grid, axis=1)), 1.0),
    "maximum": (-ak.sum(ak.maximum(a, t, -w[0])), 1.0),
    "minimum": (ak.sum(ak.minimum(a, 0.5)), 1.0),
    "log_sum_exp": (-ak.log_sum_exp(3.0 * a), 1.0),
    "log_sum_exp axis": (-ak.sum(ak.log_sum_exp(grid, axis=0)), 1.0),
    "neg": (-ak.sum(ak.neg(a)), 1.0),
    "exp": (-ak.sum(ak.exp(a)), 1.0),
    "logistic": (-ak.inner(np.arange(1.0, 7.0), ak.logistic(a)), 1.0),
    "log": (ak.sum(ak.log(a + 1.0)), 1.0),
    "log far from its domain": (ak.sum(ak.log(w - 10.0)), 1.0),
    "log1p": (2.0 * ak.sum(ak.log1p(w)), 1.0),
    "entr": (ak.sum(ak.entr(w)), 1.0),
    "sqrt": (3.0 * ak.sum(ak.sqrt(w)), 1.0),
    "inv_pos": (-ak.sum(ak.inv_pos(w)), 1.0),
    "power 3": (-ak.sum(ak.power(w, 3)), 1.0),
    "power 4": (-ak.sum(ak.power(a, 4)), 1.0),
    "power 6": (-ak.sum(ak.power(a, 6)), 1.0),
    "power 1.5": (-ak.sum(ak.power(w, 1.5)), 1.0),
    "power 2.345": (-ak.sum(ak.power(w, 2.345)), 1.0),
    "power 0.3": (ak.sum(ak.power(w, 0.3)), 1.0),
    "power 0.123": (ak.sum(ak.power(w, 0.123)), 1.0),
    "power -2": (-ak.sum(ak.power(w, -2)), 1.0),
    "power -0.7": (-ak.sum(ak.power(w, -0.7)), 1.0),
    "geo_mean": (3.0 * ak.geo_mean(w), 1.0),
    "weighted geo_mean": (ak.geo_mean(w, [1.0, 2.0, 0.0, 0.3]), 1.0),
    "geo_mean axis": (ak.inner([1.0, 2.0], ak.geo_mean(ak.reshape(w, (2, 2)), [0.3, 0.7], axis=0)), 1.0),
    "pnorm 3": (-2.0 * ak.pnorm(a, 3), 1.0),
    "pnorm 1.3": (-ak.pnorm(a, 1.3), 1.0),
    "pnorm axis": (-ak.inner([1.0, 2.0, 0.5], ak.pnorm(grid, 2.7, axis=0)), 1.0),
    "sigma_max": (-2.0 * ak.sigma_max(grid), 1.0),
    "total_variation": (-ak.total_variation(grid), 1.0),
    "sum_largest": (-ak.sum_largest(a, 2), 1.0),
    "sum_largest of a fraction": (-ak.sum_largest(a, 2.4), 1.0),
    "sum_largest axis": (-ak.sum(ak.sum_largest(grid, 2, axis=1)), 1.0),
    "sum_smallest": (ak.sum_smallest(a, 3), 1.0),
    "sum_smallest axis": (ak.sum(ak.sum_smallest(grid, 1.5, axis=1)), 1.0),
    "quad_over_lin": (-ak.quad_over_lin(w[:2], w[3]), 1.0),
    "quad_over_lin of convex": (-ak.quad_over_lin(ak.abs(a[:3]), ak.sqrt(w[3])), 1.0),
    "piecewise_linear": (ak.sum(ak.piecewise_linear(a, [-1.0, 0.0, 1.0], [-2.0, 0.0, 0.5])), 1.0),
    "convex piecewise_linear": (-ak.sum(ak.piecewise_linear(a, [-1.0, 0.0, 0.3, 1.0], [1.0, 0.0, 0.1, 2.0])), 1.0),
    "piecewise_linear over part": (ak.sum(ak.piecewise_linear(ak.sqrt(w), [-1.0, 0.0, 1.0, 2.0], [5.0, 0, 2, 3])), 1.0),
    "clip from above": (3.0 * ak.sum(ak.clip(ak.sqrt(w), -1.0, 1.0)), 1.0),
    "clip from below": (-ak.sum(ak.clip(-ak.sqrt(w), -1.0, 1.0)) - ak.norm1(w), 1.0),
    "logs and norms": (ak.sum(ak.log(1.0 + w)) - ak.norm2(a) - ak.sum(ak.exp(a)), 1.0),
    "log of geo_mean": (ak.log(ak.geo_mean(w)), 1.0),
    "exp of norm": (-ak.exp(0.3 * ak.norm2(a)), 1.0),
    "inv_pos of sqrt": (-ak.sum(ak.inv_pos(ak.sqrt(w))), 1.0),
    "square of pos": (-ak.sum(ak.square(ak.pos(a))), 0.5),
    "sum_squares of abs": (-ak.sum_squares(ak.abs(a) + ak.pos(w[0])), 1.0),
    "quad_form of abs": (-ak.quad_form(ak.abs(a), np.ones((6, 6)) + np.eye(6)), 1.0),
    "norm2 of convex": (-ak.norm2(ak.pos(a) + ak.abs(w[0])), 1.0),
    "log_sum_exp of squares": (-ak.log_sum_exp(ak.square(a)), 1.0),
    "max of min": (ak.minimum(ak.min(a), ak.min(-a)) - ak.maximum(ak.max(a), ak.square(w[0])), 1.0),
    "pos of minus min": (-ak.pos(-ak.min(a)), 1.0),
    "square below zero": (-ak.square(-ak.norm1(a)), 1.0),
    "dominated": (0.4 * ak.sum_squares(w - 1.0) - ak.norm1(a), 1.0),
    "low rank and norm": (-ak.sum_squares(A[:2] @ w) - ak.norm2(w), 1.0),
    "sparse": (-ak.norm1(sparse.csr_array(A) @ w) - ak.sum_squares(sparse.csr_array(A[:1]) @ w), 1.0),
    "operator": (-ak.norm2(ak.linear_map(aslinearoperator(A), w) - t), 1.0),
}


def problem_of(name, rows=10, **options):
    f, weight = REWARDS[name]
    return ProxProblem(f, weight, K, rows, **options)


def objective(problem, points, z):
    return problem.nonlinear.value(z) - 0.5 * problem.weight * np.sum((z - points) ** 2, axis=1)


@pytest.mark.parametrize("name", REWARDS)
def test_every_row_is_certified_and_nothing_nearby_is_better(name):
    problem = problem_of(name)
    bid = CvxpyProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED, bid
    points = 2.0 * RNG.standard_normal((10, K))
    solution = CvxpyProxSolver().open(problem).solve(points)
    best = objective(problem, points, solution.maximiser)
    assert not solution.unfinished.any()
    assert (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(best))).all() and (solution.gap >= 0).all()
    for step in 10.0 ** np.arange(-8.0, 1.0):
        for _ in range(5):
            other = solution.maximiser + step * RNG.standard_normal(points.shape)
            assert (objective(problem, points, other) <= best + solution.gap + 1e-12).all()


@pytest.mark.parametrize("name", [name for name, (f, _) in REWARDS.items() if f.domain])
def test_rows_far_outside_the_domain_are_moved_into_it_and_certified(name):
    f, _ = REWARDS[name]
    problem = ProxProblem(f, 100.0, K, 4)
    points = -30.0 * np.abs(RNG.standard_normal((4, K)))
    solution = CvxpyProxSolver().open(problem).solve(points)
    assert np.isfinite(f.value(solution.maximiser)).all()
    best = objective(problem, points, solution.maximiser)
    assert not solution.unfinished.any()
    assert (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(best))).all()


@pytest.mark.parametrize("name", REWARDS)
def test_minorants_hold_for_any_duals_whatsoever(name):
    """The bound must not depend on the solver being right: feed it noise."""
    parts = split(REWARDS[name][0])
    tree = build_tree(REWARDS[name][0], parts)
    points = RNG.standard_normal((8, K))
    others = 3.0 * RNG.standard_normal((200, K))
    for scale in (0.0, 0.3, 10.0):
        duals = [scale * RNG.standard_normal((8, link.size)) for link in tree.links]
        for (coefficients, node), rules in itertools.product(tree.terms, (MINORANTS, AT_DUALS)):
            weights = np.broadcast_to(np.abs(coefficients), (8, len(coefficients)))
            slopes, constants = minorant(node, weights, points, duals, rules=rules)
            sign = 1.0 if node.is_convex else -1.0
            values = sign * np.reshape(node.atom.value(others), (200, -1)) @ weights[0]
            assert np.isfinite(constants).all()
            assert (slopes @ others.T + constants[:, None] <= values + 1e-9 * (1 + np.abs(values))).all()


@pytest.mark.parametrize("name", ["norm1", "norm2", "max axis", "square of pos", "norm2 of convex", "dominated"])
def test_the_certificate_grows_with_the_error(name):
    """Spoil the solver's answer: the gap must grow to at least the true error, or the check is no check."""
    problem = problem_of(name)
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((8, K))
    solution = session.solve(points)
    best = objective(problem, points, solution.maximiser)
    program = session._programs[8]
    for size in (1e-3, 1e-1):
        answer = program.solve(Block(session.tree, session.penalty, points))
        answer.step[:] += size * RNG.standard_normal(points.shape)
        answer.duals[:] = [dual + size * RNG.standard_normal(dual.shape) for dual in answer.duals]
        spoilt = session._certify(points, answer)
        error = best - spoilt.objective
        assert error.max() > 1e-9
        assert (spoilt.gap >= error - solution.gap).all()


def test_every_lowering_has_a_minorant():
    assert set(LOWERINGS) == set(MINORANTS)


@pytest.mark.parametrize("rows", [0, 1, 3, 8, 131])
def test_blocks_of_any_size_give_the_same_answer(rows):
    problem = problem_of("norm1", rows)
    points = RNG.standard_normal((rows, K))
    solution = CvxpyProxSolver().open(problem).solve(points)
    assert solution.maximiser.shape == (rows, K) and not solution.unfinished.any()
    single = CvxpyProxSolver().open(problem)
    for row in range(0, rows, 40):
        alone = single.solve(points[row : row + 1])
        difference = np.linalg.norm(alone.maximiser[0] - solution.maximiser[row])
        # Strong concavity: a point of gap ε lies within √(2ε/λ) of the maximiser.
        assert difference <= np.sqrt(alone.gap[0]) + np.sqrt(solution.gap[row])


def test_programs_are_compiled_once(monkeypatch):
    session = CvxpyProxSolver().open(problem_of("norm2", 8))
    session.solve(RNG.standard_normal((8, K)))
    (program,) = session._programs.values()
    assert program.problem.is_dpp()
    cached = program.problem._cache.param_prog
    assert cached is not None
    session.solve(RNG.standard_normal((8, K)))
    assert program.problem._cache.param_prog is cached and list(session._programs.values()) == [program]


def test_rows_of_wildly_different_scale_share_a_block():
    problem = problem_of("norm1", 8)
    points = RNG.standard_normal((8, K)) * 10.0 ** np.arange(-4, 4)[:, None]
    solution = CvxpyProxSolver().open(problem).solve(points)
    assert not solution.unfinished.any()


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["norm1", "square of pos", "log_sum_exp", "dominated"])
def test_the_units_of_the_reward_do_not_matter(name, unit):
    f, weight = REWARDS[name]
    points = 10.0 * RNG.standard_normal((8, K))
    solution = CvxpyProxSolver().open(ProxProblem(unit * f, unit * weight, K, 8)).solve(points)
    expected = CvxpyProxSolver().open(ProxProblem(f, weight, K, 8)).solve(points)
    assert not solution.unfinished.any()
    distance = np.linalg.norm(solution.maximiser - expected.maximiser, axis=1)
    reach = np.sqrt(solution.gap / unit) + np.sqrt(expected.gap)
    assert (distance <= np.sqrt(2 / (0.2 * weight)) * reach).all()


def test_large_problems_are_built_row_by_row(monkeypatch):
    points = RNG.standard_normal((3, K))
    for name in ("norm2 of convex", "dominated"):
        expected = CvxpyProxSolver().open(problem_of(name)).solve(points)
        with monkeypatch.context() as patch:
            patch.setattr(sizing, "_PARAMETRISED_ENTRIES", 1)
            patch.setattr(sizing, "_BLOCK_ENTRIES", 1)
            session = CvxpyProxSolver().open(problem_of(name))
            solution = session.solve(points)
            assert not session._programs
        assert not solution.unfinished.any()
        np.testing.assert_allclose(solution.maximiser, expected.maximiser, atol=1e-3)


@pytest.mark.parametrize("name", ["norm1", "min", "pos", "log_sum_exp"])
def test_rows_far_from_every_kink_are_not_held_infeasible(name):
    points = 1e6 * np.random.default_rng(3).standard_normal((5, K))
    solution = CvxpyProxSolver().open(problem_of(name)).solve(points)
    assert not solution.unfinished.any()


@pytest.mark.parametrize("weight", [0.1, 0.8])
@pytest.mark.parametrize("scale", [1e6, 3e6, 1e7, -1e7, 1e8])
def test_rows_far_out_are_never_called_unbounded_under_a_cost_that_grows_faster(scale, weight):
    """−Σ exp is concave, so that half the squared distance outgrows it; Clarabel holds far rows infeasible."""
    z2 = ak.Variable(2, name="z")
    problem = ProxProblem(-ak.sum(ak.exp(z2)), weight, 2, 6)
    points = scale * (1.0 + 0.1 * np.random.default_rng(0).standard_normal((6, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = CvxpyProxSolver().open(problem).solve(points)
    low, high = np.minimum(points, 0.0) - 800.0, np.maximum(points, 0.0)
    for _ in range(200):
        middle = 0.5 * (low + high)
        rising = -np.exp(np.minimum(middle, 700.0)) - weight * (middle - points) > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    best = objective(problem, points, low)
    with np.errstate(over="ignore"):
        missing = best - objective(problem, points, solution.maximiser)
    assert (missing <= solution.gap + 1e-12 * np.abs(best)).all()
    assert (solution.unfinished | (solution.gap <= 1e-6 * np.abs(best))).all()
    if abs(scale) <= 1e6:
        assert 2 * solution.unfinished.sum() < 6


class Failing:
    """A program whose solver gives up on every block of more than one row."""

    def __init__(self, program, error) -> None:
        self.program, self.error = program, error

    def solve(self, block):
        return self.program.no_answer(block, self.error)


def test_a_panic_of_the_solver_is_a_failed_block_and_no_more(monkeypatch):
    class PanicException(BaseException):
        """As pyo3 raises it: no Exception."""

    problem = problem_of("norm1", 8)
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((8, K))
    session.solve(points)
    program = session._programs[8].problem
    calls = []

    def solve(**options):
        calls.append(options["warm_start"])
        if len(calls) == 1:
            raise PanicException("assertion failed")
        return cp.Problem.solve(program, **options)

    monkeypatch.setattr(program, "solve", solve)
    assert not session.solve(points).unfinished.any()
    # What the panic left behind is not used again.
    assert calls == [True, False]
    monkeypatch.setattr(program, "solve", lambda **options: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        session.solve(points)


def test_a_failed_block_is_solved_again_row_by_row():
    session = CvxpyProxSolver().open(problem_of("norm1", 8))
    points = RNG.standard_normal((8, K))
    session.solve(points)
    session._programs[8] = Failing(session._programs[8], "solver_error")
    solution = session.solve(points)
    assert sorted(session._programs) == [1, 8]
    assert not solution.unfinished.any()


def test_rows_that_no_attempt_solves_keep_a_point_and_an_honest_gap():
    problem = problem_of("norm1", 1)
    session = CvxpyProxSolver().open(problem)
    points = RNG.standard_normal((1, K))
    good = session.solve(points)
    session._programs[1] = Failing(session._programs[1], "solver_error")
    solution = session.solve(points)
    assert solution.unfinished.all()
    error = objective(problem, points, good.maximiser) - objective(problem, points, solution.maximiser)
    assert error[0] > 0 and solution.gap[0] >= error[0]


@pytest.mark.parametrize("status", [cp.UNBOUNDED, cp.INFEASIBLE])
def test_a_certificate_refutes_a_solver_that_cries_unbounded(status):
    session = CvxpyProxSolver().open(problem_of("norm1", 1))
    points = RNG.standard_normal((1, K))
    session.solve(points)
    session._programs[1] = Failing(session._programs[1], status)
    solution = session.solve(points)
    assert solution.unfinished.all() and np.isfinite(solution.gap).all()
    # Without one it is not believed either: the cost outgrows every concave f.
    session._certified = False
    solution = session.solve(points)
    assert solution.unfinished.all() and np.isinf(solution.gap).all()


def test_without_a_minorant_the_solver_is_trusted_and_says_so(monkeypatch):
    monkeypatch.delitem(MINORANTS, type(ak.norm2(w)))
    problem = problem_of("norm2")
    bid = CvxpyProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.HEURISTIC
    solution = CvxpyProxSolver().open(problem).solve(RNG.standard_normal((3, K)))
    assert np.isinf(solution.gap).all() and not solution.unfinished.any()


def test_without_a_lowering_it_refuses(monkeypatch):
    monkeypatch.delitem(LOWERINGS, type(ak.norm2(w)))
    refusal = CvxpyProxSolver().bid(problem_of("norm2"))
    assert isinstance(refusal, Refusal) and "no lowering to cvxpy: norm2 is unknown" in refusal.reason


def test_progress_counts_rows():
    seen = []
    CvxpyProxSolver().open(problem_of("norm1", 2)).solve(RNG.standard_normal((2, K)), lambda *event: seen.append(event))
    assert seen == [("cvxpy", 2, 2)]


def test_a_loose_tolerance_is_met_and_reported():
    solution = CvxpyProxSolver().open(problem_of("norm1", tolerance=1e-3)).solve(RNG.standard_normal((4, K)))
    assert not solution.unfinished.any()


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (ak.norm1(w), "norm1(w) is not concave"),
        (ak.max(w) - ak.norm2(w), "max(w) is not concave"),
        (ak.sum_squares(w), "sum_squares(w) is convex"),
        (ak.inner([1.0, -1.0, 0.0, 0.0], ak.abs(w)), "abs(w) is not concave"),
        (-ak.square(ak.norm1(w) - 1.0), "square"),
    ],
)
def test_refusals_name_the_summand(f, word):
    refusal = CvxpyProxSolver().bid(ProxProblem(f, 1.0, K, 10))
    assert isinstance(refusal, Refusal) and word in refusal.reason
    with pytest.raises(ValueError, match="refuses"):
        CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 10))


def test_bids_count_multiplications_that_sparse_maps_do_not_take():
    x = ak.Variable(2000, name="x")

    def seconds(f):
        return CvxpyProxSolver().bid(ProxProblem(f, 1.0, 2000, 2)).seconds

    dense = -ak.norm1(RNG.standard_normal((2000, 2000)) @ x)
    assert seconds(dense) > 30 * seconds(-ak.norm1(x[1:] - x[:-1]))
    assert seconds(-ak.norm1(x - 1.0)) < 5.0


def test_a_bid_does_not_import_cvxpy():
    program = (
        "import sys, alignkit.expressions as ak\n"
        "from alignkit.contracts import ProxProblem\n"
        "from alignkit_cvxpy.prox import CvxpyProxSolver\n"
        "bid = CvxpyProxSolver().bid(ProxProblem(-ak.norm2(ak.Variable(3)), 1.0, 3, 10))\n"
        "print(bid.backend, 'cvxpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cvxpy", "False"]
