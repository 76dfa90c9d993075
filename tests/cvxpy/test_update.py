"""Sessions that follow parameters and λ without compiling again, against sessions opened anew."""

import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.contracts import ProxProblem
from alignkit.errors import StaleFitError
from alignkit_cvxpy import sizing
from alignkit_cvxpy.prox import CvxpyProxSolver

RNG = np.random.default_rng(0)
K, M = 4, 6
A, t = RNG.standard_normal((M, K)), RNG.standard_normal(M)
w = ak.Variable(K, name="w")


def target():
    p = ak.Parameter(M, t, name="t")
    return -ak.norm2(A @ w - p) - ak.sum(ak.abs(A @ w + p)), {p: lambda: RNG.standard_normal(M)}


def matrix():
    p = ak.Parameter((M, K), A, name="A")
    return -ak.norm1(p @ w - t) - ak.sum_squares(w), {p: lambda: RNG.standard_normal((M, K))}


def matrix_from_zero():
    p = ak.Parameter((M, K), np.zeros((M, K)), name="A")
    return -ak.norm1(p @ w - t), {p: lambda: RNG.standard_normal((M, K))}


def coefficient():
    p = ak.Parameter((), 0.7, nonneg=True, name="c")
    return -p * ak.norm2(A @ w - t) - ak.norm1(w), {p: lambda: RNG.uniform(0.0, 3.0)}


def coefficients():
    p = ak.Parameter(M, -np.ones(M), nonpos=True, name="c")
    return ak.inner(p, ak.abs(A @ w - t)) + ak.min(w), {p: lambda: -RNG.uniform(0.0, 3.0, M)}


def linear():
    p = ak.Parameter(K, np.zeros(K), name="g")
    return ak.inner(p, w) - ak.norm_inf(A @ w), {p: lambda: RNG.standard_normal(K)}


def quadratic_target():
    p = ak.Parameter(M, t, name="t")
    return -ak.sum_squares(A @ w - p) - ak.norm1(w), {p: lambda: RNG.standard_normal(M)}


def quadratic_matrix():
    p = ak.Parameter((2, K), A[:2], name="A")
    return -ak.sum_squares(p @ w - t[:2]) - ak.norm1(w), {p: lambda: RNG.standard_normal((2, K))}


def quadratic_weight():
    p = ak.Parameter((), 1.0, nonneg=True, name="c")
    return -p * ak.sum_squares(A @ w - t) - ak.norm1(w), {p: lambda: RNG.uniform(0.1, 3.0)}


def dominated():
    p = ak.Parameter((), 0.1, nonneg=True, name="c")
    return p * ak.sum_squares(w - 1.0) - ak.norm1(A @ w), {p: lambda: RNG.uniform(0.0, 0.3)}


def nested():
    p = ak.Parameter((), 1.0, nonneg=True, name="c")
    q = ak.Parameter((M, M), np.eye(M), nonneg=True, name="F")
    inside = q @ ak.pos(A @ w - t) + p * ak.abs(w[0])
    return -ak.norm2(inside), {p: lambda: RNG.uniform(0.0, 2.0), q: lambda: RNG.uniform(0.0, 1.0, (M, M))}


def constant_argument():
    p = ak.Parameter(M, t, name="t")
    return -ak.sum(ak.maximum(A @ w, p)), {p: lambda: RNG.standard_normal(M)}


def everything():
    c, p, q = ak.Parameter((), 1.0, nonneg=True), ak.Parameter((M, K), A), ak.Parameter(M, t)
    f = -c * ak.norm2(p @ w - q) - ak.log_sum_exp(p @ w) - ak.sum_squares(p @ w) + ak.inner(q[:K], w)
    values = {
        c: lambda: RNG.uniform(0.0, 2.0),
        p: lambda: RNG.standard_normal((M, K)),
        q: lambda: RNG.standard_normal(M),
    }
    return f, values


REWARDS = (
    target,
    matrix,
    matrix_from_zero,
    coefficient,
    coefficients,
    linear,
    quadratic_target,
    quadratic_matrix,
    quadratic_weight,
    dominated,
    nested,
    constant_argument,
    everything,
)


def objective(problem, points, z):
    return problem.nonlinear.value(z) - 0.5 * problem.weight * np.sum((z - points) ** 2, axis=1)


def compiled(session):
    return {rows: program.problem._cache.param_prog for rows, program in session._programs.items()}


@pytest.mark.parametrize("make", REWARDS, ids=lambda make: make.__name__)
def test_a_session_follows_its_parameters_and_weight_without_compiling(make):
    f, values = make()
    points = 2.0 * RNG.standard_normal((8, K))
    session = CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 8))
    session.solve(points)
    before = compiled(session)
    (program,) = session._programs.values()
    assert program.problem.is_dpp() and before[8] is not None
    for weight in (1.0, 0.8, 20.0):
        for parameter, draw in values.items():
            parameter.value = draw()
        problem = ProxProblem(f, weight, K, 8)
        assert session.update(problem)
        found, expected = session.solve(points), CvxpyProxSolver().open(problem).solve(points)
        assert compiled(session) == before
        for solution in (found, expected):
            best = objective(problem, points, solution.maximiser)
            assert not solution.unfinished.any()
            assert (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(best))).all()
        difference = objective(problem, points, found.maximiser) - objective(problem, points, expected.maximiser)
        assert (difference >= -found.gap - 1e-12).all() and (difference <= expected.gap + 1e-12).all()


@pytest.mark.parametrize("make", REWARDS, ids=lambda make: make.__name__)
def test_solving_reads_the_present_values_unasked(make):
    f, values = make()
    points = RNG.standard_normal((4, K))
    session = CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 4))
    session.solve(points)
    before = compiled(session)
    for parameter, draw in values.items():
        parameter.value = draw()
    found = session.solve(points)
    expected = CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 4)).solve(points)
    assert compiled(session) == before and not found.unfinished.any()
    distance = np.linalg.norm(found.maximiser - expected.maximiser, axis=1)
    # A point of gap ε lies within √(2ε/μ) of the maximiser; μ ≥ 0.4 in every reward here.
    assert (distance <= np.sqrt(found.gap / 0.2) + np.sqrt(expected.gap / 0.2)).all()


def test_programs_for_fixed_rows_follow_too(monkeypatch):
    monkeypatch.setattr(sizing, "_PARAMETRISED_ENTRIES", 1)
    f, values = everything()
    points = RNG.standard_normal((2, K))
    session = CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 2))
    session.solve(points)
    for parameter, draw in values.items():
        parameter.value = draw()
    assert session.update(ProxProblem(f, 2.0, K, 2))
    solution = session.solve(points)
    assert not solution.unfinished.any()


def test_another_reward_needs_a_new_session():
    session = CvxpyProxSolver().open(ProxProblem(-ak.norm1(w), 1.0, K, 1))
    assert not session.update(ProxProblem(-ak.norm1(w), 1.0, K, 1))


def test_a_quadratic_that_outgrows_the_weight_needs_a_new_session_and_is_refused_there():
    f, values = dominated()
    (p,) = values
    problem = ProxProblem(f, 1.0, K, 3)
    session = CvxpyProxSolver().open(problem)
    points = 5.0 * RNG.standard_normal((3, K))
    expected = session.solve(points)
    assert not session.update(ProxProblem(f, 0.1, K, 3))
    # It still answers what it did before.
    np.testing.assert_allclose(session.solve(points).maximiser, expected.maximiser, atol=1e-8)
    p.value = 0.6
    assert not session.update(problem)
    with pytest.raises(StaleFitError, match="sum_squares"):
        session.solve(points)
    with pytest.raises(ValueError, match="does not exceed the largest curvature"):
        CvxpyProxSolver().open(problem)


def test_a_sign_that_was_not_declared_may_turn_and_is_noticed():
    p = ak.Parameter((), 1.0, name="c")
    f = -p * ak.norm1(w)
    session = CvxpyProxSolver().open(ProxProblem(f, 1.0, K, 3))
    p.value = 2.0
    assert session.update(ProxProblem(f, 1.0, K, 3))
    p.value = -1.0
    assert not session.update(ProxProblem(f, 1.0, K, 3))
