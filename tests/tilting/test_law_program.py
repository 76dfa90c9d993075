"""Programs over the law and the exponential family they live in, against closed forms and an independent solver."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import alignkit as ak
from alignkit.tilting.exponential_family import ClosedForms, WeightedDraws
from alignkit.tilting.law_program import LawProgram, solve_law_program
from alignkit.tilting.separation import separate_box, separate_points

RNG = np.random.default_rng(0)
D, WEIGHT = 5, 0.7
ROOT = RNG.normal(size=(D, D))
S, MU = ROOT @ ROOT.T / D + 0.5 * np.eye(D), RNG.normal(size=D)
GAUSSIAN = ak.base.Gaussian(MU, S)
G, B, TARGET = RNG.normal(size=D), RNG.normal(size=(3, D)), RNG.normal(size=3)
FAMILY = ClosedForms(GAUSSIAN, np.vstack([G, B]))
# Under q_η the moments are M0 + C·η: the program is a quadratic one.
M0, C = B @ MU + B @ S @ G / WEIGHT, B @ S @ B.T / WEIGHT
M = ak.Variable(3, name="m")
POINTS = RNG.normal(size=(300, 4))
DRAWS = WeightedDraws(POINTS, np.full(300, -np.log(300)))


def best_moments(utility, constraints=lambda m: []):
    """The moments that an independent solver finds: KL less ⟨r⟩/λ is (m − M0)ᵀC⁻¹(m − M0)/2 up to a constant."""
    m = cp.Variable(3)
    price = cp.quad_form(m - M0, cp.psd_wrap(np.linalg.inv(C))) / 2
    cp.Problem(cp.Maximize(utility(m) - price), constraints(m)).solve(cp.CLARABEL, tol_gap_rel=1e-10, tol_gap_abs=1e-10)
    return m.value, np.linalg.solve(C, m.value - M0)


def test_equalities_have_the_multipliers_of_the_closed_form():
    found = solve_law_program(FAMILY, LawProgram(equalities=TARGET), WEIGHT)
    np.testing.assert_allclose(found.multipliers, np.linalg.solve(C, TARGET - M0), atol=1e-8)
    np.testing.assert_allclose(found.moments, TARGET, atol=1e-8)
    assert found.is_solved


def test_bounds_have_multipliers_of_one_sign_and_complementary():
    found = solve_law_program(FAMILY, LawProgram(bounds=TARGET), WEIGHT)
    moments, multipliers = best_moments(lambda m: 0, lambda m: [m <= TARGET])
    np.testing.assert_allclose(found.multipliers, multipliers, atol=1e-5)
    assert (found.multipliers <= 0).all() and (found.moments <= TARGET + 1e-8).all()
    np.testing.assert_allclose(found.moments, moments, atol=1e-5)


def test_a_ridge_lets_the_moments_go_at_its_price():
    found = solve_law_program(FAMILY, LawProgram(equalities=TARGET, ridge=0.4), WEIGHT)
    multipliers = np.linalg.solve(C + 0.4 * np.eye(3), TARGET - M0)
    np.testing.assert_allclose(found.multipliers, multipliers, atol=1e-8)
    np.testing.assert_allclose(found.moments, TARGET - 0.4 * multipliers, atol=1e-8)


UTILITIES = {
    "quadratic": (lambda m: -ak.sum_squares(m - 1), lambda m: -cp.sum_squares(m - 1)),
    "logarithms": (lambda m: ak.log(m[0] + 5) + ak.log(m[1] + 4), lambda m: cp.log(m[0] + 5) + cp.log(m[1] + 4)),
    "outside its domain": (lambda m: ak.log(m[0] - 9), lambda m: cp.log(m[0] - 9)),
    "a kink": (lambda m: -5 * ak.norm1(m - TARGET), lambda m: -5 * cp.norm1(m - TARGET)),
    "a cone": (lambda m: -3 * ak.norm2(m - TARGET), lambda m: -3 * cp.norm2(m - TARGET)),
    "the worst": (lambda m: 4 * ak.min(m), lambda m: 4 * cp.min(m)),
    "a kink and a curve": (
        lambda m: -ak.abs(m[0] - 1) - ak.square(m[1]),
        lambda m: -cp.abs(m[0] - 1) - cp.square(m[1]),
    ),
    "linear": (lambda m: 2 * m[0] + m[1] - m[2], lambda m: 2 * m[0] + m[1] - m[2]),
}


@pytest.mark.parametrize("name", UTILITIES)
def test_concave_utilities_agree_with_an_independent_solver(name):
    ours, theirs = UTILITIES[name]
    found = solve_law_program(FAMILY, LawProgram(ours(M), 3), WEIGHT)
    moments, multipliers = best_moments(theirs)
    assert found.is_solved and found.gap <= 1e-6 * WEIGHT
    np.testing.assert_allclose(found.moments, moments, atol=2e-3)
    np.testing.assert_allclose(found.multipliers, multipliers, atol=1e-3)


def test_a_utility_and_constraints_together():
    utility = ak.log(ak.Variable(1, name="m")[0] + 5)
    program = LawProgram(utility, 1, equalities=TARGET[:1], bounds=TARGET[1:2])
    found = solve_law_program(FAMILY, program, WEIGHT)
    moments, multipliers = best_moments(lambda m: cp.log(m[0] + 5), lambda m: [m[1] == TARGET[0], m[2] <= TARGET[1]])
    np.testing.assert_allclose(found.moments, moments, atol=1e-4)
    np.testing.assert_allclose(found.multipliers, multipliers, atol=1e-4)


def test_a_log_that_no_law_reaches_is_not_solved():
    beyond = float(POINTS[:, 1].max()) + 0.1
    utility = ak.log(ak.Variable(1, name="m")[0] - beyond)
    family = WeightedDraws(POINTS[:, :2], DRAWS.log_weights)
    assert not solve_law_program(family, LawProgram(utility, 1), WEIGHT).is_solved
    inside = ak.log(ak.Variable(1, name="m")[0] - (beyond - 0.5))
    assert solve_law_program(family, LawProgram(inside, 1), WEIGHT).is_solved


def test_the_closest_weights_of_draws_agree_with_an_independent_solver():
    wanted = np.array([0.3, -0.2, 0.5])
    found = solve_law_program(DRAWS, LawProgram(equalities=wanted), WEIGHT)
    q = cp.Variable(300, nonneg=True)
    gain = POINTS[:, 0] @ q + WEIGHT * (cp.sum(cp.entr(q)) - np.log(300))
    problem = cp.Problem(cp.Maximize(gain), [POINTS[:, 1:].T @ q == wanted, cp.sum(q) == 1])
    value = problem.solve(cp.CLARABEL)
    assert found.member.mean[0] - WEIGHT * found.member.divergence == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(found.moments, wanted, atol=1e-7)


@pytest.mark.parametrize("case", range(50))
def test_moments_beyond_every_draw_are_detected_and_those_within_are_not(case):
    rng = np.random.default_rng(case)
    points = rng.normal(size=(200, 3))
    direction = rng.normal(size=3)
    outermost = points[np.argmax(points @ direction)]
    beyond = outermost + 1e-3 * direction / np.linalg.norm(direction)
    inside = rng.dirichlet(np.ones(200)) @ points
    equal = np.zeros(3, dtype=bool)
    found = separate_points(points, beyond, equal)
    assert found is not None and (points @ found.direction).min() > beyond @ found.direction
    assert separate_points(points, inside, equal) is None
    family = WeightedDraws(np.hstack([np.zeros((200, 1)), points]), np.full(200, -np.log(200)))
    assert not solve_law_program(family, LawProgram(equalities=beyond), 1.0).is_solved
    assert solve_law_program(family, LawProgram(equalities=inside), 1.0).is_solved


@pytest.mark.parametrize("case", range(20))
def test_moments_outside_a_box_are_detected_and_those_within_are_not(case):
    rng = np.random.default_rng(case)
    rows = rng.normal(size=(3, 6))
    bounds = np.array([False, False, True])
    direction = np.append(rng.normal(size=2), rng.uniform())
    corner = np.where(direction @ rows > 0, 0.0, 1.0)
    beyond = rows @ corner - 1e-3 * direction
    found = separate_box(rows, beyond, bounds, (0.0, 1.0))
    assert found is not None and found.direction[2] >= 0
    least = np.minimum(found.direction @ rows, 0.0).sum()
    assert least > found.direction @ beyond
    assert separate_box(rows, rows @ rng.uniform(size=6), bounds, (0.0, 1.0)) is None
    assert separate_box(rows, beyond, bounds, None) is None


def test_demands_that_contradict_each_other_are_detected_on_every_support():
    rows = np.array([[1.0, 1.0], [2.0, 2.0]])
    equal, bounded = np.array([False, False]), np.array([False, True])
    assert separate_box(rows, np.array([1.0, 3.0]), equal, None) is not None
    assert separate_box(rows, np.array([1.0, 2.0]), equal, None) is None
    assert separate_box(rows, np.array([1.0, 1.0]), bounded, None) is not None
    assert separate_box(rows, np.array([1.0, 2.5]), bounded, None) is None
