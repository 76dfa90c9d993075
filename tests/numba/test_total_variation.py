"""Taut strings against a bounded least-squares solver, and against what a minimiser must satisfy."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from alignkit.errors import ParameterError
from alignkit_numba.total_variation import _finish as kernel, _pull as pull, solve_total_variation
from alignkit_numba.vectors import WIDTH, scratch


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


def _judged(row, guess, weight, strength):
    """What the certificate says of a row that is not the minimiser."""
    dimension = len(row)
    radii = np.append(np.full(dimension, strength / weight), np.inf)
    radii[dimension - 1] = 0.0
    entries, slopes, levels, lanes = (scratch(size) for size in (dimension + 1, dimension + 2, dimension, 4))
    entries[: WIDTH * dimension] = np.repeat(row, WIDTH)
    slopes[:] = np.nan
    slopes[WIDTH : WIDTH * (dimension + 1)] = np.repeat(guess, WIDTH)
    kernel(radii, entries, slopes, levels, lanes)
    np.testing.assert_array_equal(levels[: WIDTH * dimension : WIDTH], guess)
    return 0.5 * weight * lanes[2 * WIDTH]


def test_the_gap_bounds_what_a_wrong_row_loses():
    rows, weight, strength = _rows("walk", 1, 40), 1.3, 0.9
    strengths = np.full(39, strength)
    best = _objective(rows, solve_total_variation(rows, weight, strength).maximiser, weight, strengths)[0]
    for guess in (rows[0], np.full(40, rows.mean()), rows[0] + 0.1 * np.sin(np.arange(40.0))):
        lost = _objective(rows, guess[None], weight, strengths)[0] - best
        assert lost > 1e-3
        assert _judged(rows[0], guess, weight, strength) >= lost


def test_rows_that_are_not_finite_are_unfinished():
    rows = _rows("noise", 3, 50)
    rows[1, 20] = np.nan
    solution = solve_total_variation(rows, 1.0, 1.0)
    np.testing.assert_array_equal(solution.unfinished, [False, True, False])
    assert solution.gap[1] == np.inf
    assert (solution.gap[[0, 2]] < 1e-12).all()


def test_smooth_rows_change_to_chains():
    """Within the allowance the path of a long ramp is not found: that its gaps close shows that the chains find it."""
    dimension, radius = 20_000, 50.0
    row = np.append(_rows("ramp", 1, dimension)[0], 0.0)
    radii = np.append(np.full(dimension, radius), np.inf)
    radii[dimension - 1] = 0.0
    slopes, lanes = scratch(dimension + 2), scratch(4)
    lanes[:WIDTH] = np.arange(WIDTH)
    pull(radii, np.repeat(row, WIDTH), slopes, lanes)
    assert (lanes[WIDTH : 2 * WIDTH] < dimension / 2).all()
    solution = solve_total_variation(row[None, :-1], 1.0, radius)
    assert solution.gap[0] <= 1e-11
    assert (np.diff(solution.maximiser[0]) >= 0).all()


@pytest.mark.parametrize(("weight", "strength"), [(0.0, 1.0), (np.inf, 1.0), (1.0, -1.0), (1.0, np.nan)])
def test_bad_parameters_are_refused(weight, strength):
    with pytest.raises(ParameterError):
        solve_total_variation(np.zeros((1, 3)), weight, strength)
