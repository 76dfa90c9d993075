"""Taut strings against a bounded least-squares solver, and against what a minimiser must satisfy."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from alignkit.errors import ParameterError
from alignkit_numba.total_variation import _finish, _pull, seconds_per_row, solve_total_variation


def _truth(row, weight, strengths):
    """The minimiser x − Dᵀp/λ, with p from the dual box-constrained least-squares problem."""
    # The solver loses its way where a bound is 0.
    differences = np.diff(np.eye(len(row)), axis=0)[strengths > 0]
    if not len(differences):
        return row
    bounds = -strengths[strengths > 0], strengths[strengths > 0]
    answer = lsq_linear(differences.T / weight, row, bounds, method="bvls", tol=1e-14, max_iter=10_000)
    return row - differences.T @ answer.x / weight


def _objective(rows, y, weight, strengths):
    return np.abs(np.diff(y, axis=1)) @ strengths + 0.5 * weight * ((y - rows) ** 2).sum(axis=1)


def _rows(kind, count, dimension):
    random = np.random.default_rng([count, dimension])
    noise = random.normal(size=(count, dimension))
    return {
        "noise": noise,
        "walk": np.cumsum(noise, axis=1),
        "integers": random.integers(-2, 3, size=(count, dimension)).astype(float),
        "constant": np.ones((count, dimension)),
        "ramp": np.linspace(0.0, 1.0, dimension) + np.zeros((count, 1)),
        "waves": np.sin(np.linspace(0.0, 9.0, dimension) * (1 + random.random((count, 1)))),
    }[kind]


KINDS = ("noise", "walk", "integers", "constant", "ramp", "waves")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.05, 0.7, 30.0])
def test_rows_match_bounded_least_squares(kind, strength):
    rows = _rows(kind, 4, 25)
    solution = solve_total_variation(rows, 1.7, strength)
    truth = np.array([_truth(row, 1.7, np.full(24, strength)) for row in rows])
    np.testing.assert_allclose(solution.maximiser, truth, atol=1e-8)
    np.testing.assert_allclose(solution.value, -strength * np.abs(np.diff(truth, axis=1)).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_difference_may_have_its_own_strength(kind):
    rows = _rows(kind, 6, 30)
    strengths = np.random.default_rng(3).exponential(size=29)
    strengths[::5] = 0.0
    solution = solve_total_variation(rows, 0.6, strengths)
    truth = np.array([_truth(row, 0.6, strengths) for row in rows])
    np.testing.assert_allclose(solution.maximiser, truth, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 64, 784, 5000])
def test_gaps_are_those_of_rounding(kind, dimension):
    rows = _rows(kind, 5, dimension)
    for strength in (1e-6, 0.3, 5.0, 1e4):
        strengths = np.full(dimension - 1, strength)
        solution = solve_total_variation(rows, 2.0, strengths)
        objective = _objective(rows, solution.maximiser, 2.0, strengths)
        assert not solution.unfinished.any()
        assert (solution.gap >= 0).all()
        assert (solution.gap <= 1e-11 * np.maximum(1.0, objective)).all()
        # Constants cost nothing: each row keeps its sum.
        np.testing.assert_allclose(solution.maximiser.sum(axis=1), rows.sum(axis=1), rtol=1e-9, atol=1e-8)


def test_rows_of_a_batch_do_not_mix():
    rows = np.concatenate([_rows(kind, 2, 300) for kind in KINDS])
    together = solve_total_variation(rows, 1.0, 0.8)
    for row, answer in zip(rows, together.maximiser, strict=True):
        np.testing.assert_array_equal(solve_total_variation(row[None], 1.0, 0.8).maximiser[0], answer)


def test_the_gap_bounds_what_a_wrong_row_loses():
    rows = _rows("walk", 1, 40)
    strengths, weight = np.full(40, 0.9), 1.3
    strengths[-1] = 0.0
    best = _objective(rows, solve_total_variation(rows, weight, 0.9).maximiser, weight, strengths[:-1])
    wrong, gap, value = np.empty(40), np.empty(1), np.empty(1)
    for guess in (rows[0], np.full(40, rows.mean()), rows[0] + 0.1 * np.sin(np.arange(40.0))):
        _finish(rows[0], weight, strengths, strengths / weight, guess, np.ones(40, dtype=bool), wrong, gap, value, 0)
        np.testing.assert_array_equal(wrong, guess)
        lost = _objective(rows, wrong[None], weight, strengths[:-1]) - best
        assert lost[0] > 1e-3
        assert gap[0] >= lost[0]


def test_rows_that_are_not_finite_are_unfinished():
    rows = _rows("noise", 3, 50)
    rows[1, 20] = np.nan
    solution = solve_total_variation(rows, 1.0, 1.0)
    np.testing.assert_array_equal(solution.unfinished, [False, True, False])
    assert solution.gap[1] == np.inf
    assert (solution.gap[[0, 2]] < 1e-12).all()


def test_smooth_rows_change_to_chains_before_they_take_quadratic_time():
    row, radii = _rows("ramp", 1, 20_000)[0], np.full(20_000, 50.0)
    radii[-1] = 0.0
    reciprocals = 1 / np.arange(1, row.size + 1)
    first, _ = _pull(row, radii, reciprocals, np.empty_like(row), np.zeros(row.size, dtype=bool))
    assert 0 < first < 2_000
    solution = solve_total_variation(row[None], 1.0, 50.0)
    assert solution.gap[0] <= 1e-11
    assert (np.diff(solution.maximiser[0]) >= 0).all()


def test_the_cost_model_grows_with_the_row():
    assert 0 < seconds_per_row(64) < seconds_per_row(784) < 1e-4


@pytest.mark.parametrize(("weight", "strength"), [(0.0, 1.0), (np.inf, 1.0), (1.0, -1.0), (1.0, np.nan)])
def test_bad_parameters_are_refused(weight, strength):
    with pytest.raises(ParameterError):
        solve_total_variation(np.zeros((1, 3)), weight, strength)
