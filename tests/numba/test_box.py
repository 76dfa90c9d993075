"""Sums of absolute values against closed forms, enumeration, bounded least squares and cvxpy."""

import itertools

import numpy as np
import pytest

from alignkit.transport.canonical import Absolute, ProximalForm
from alignkit_numba.box import BoxProblem, solve_box

TOLERANCE = 1e-6


def form_of(matrix, offset, weights=None):
    weights = np.ones(len(offset)) if weights is None else weights
    return ProximalForm(matrix, offset, (Absolute(weights),), (len(offset),), None, np.zeros(matrix.shape[1]), 1.0)


def primal(form, centres, scales, y):
    return 0.5 * ((y - centres) ** 2).sum(axis=1) + scales * form.value(y)


def optimum(form, centre, scale):
    """The largest dual value over every choice of free coordinates, exact for a few rows of any rank; and its rounding.

    Every choice is clipped to the box, so that none exceeds the minimum.
    """
    gram = form.matrix @ form.matrix.T
    linear = form.matrix @ centre + form.offset
    bounds = scale * form.blocks[0].weights
    best = -np.inf
    for signs in itertools.product([-1.0, 0.0, 1.0], repeat=len(bounds)):
        p = np.array(signs) * bounds
        free = np.array(signs) == 0
        if free.any():
            right = linear[free] - gram[np.ix_(free, ~free)] @ p[~free]
            p[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right, rcond=1e-13)[0]
            p = np.clip(p, -bounds, bounds)
        best = max(best, linear @ p - 0.5 * np.sum((form.matrix.T @ p) ** 2))
    reach = np.abs(form.matrix).T @ bounds
    return best, 1e-15 * (np.abs(linear) @ bounds + np.sum(reach**2) + np.sum(centre**2))


def certified(form, centres, scales, tolerance=TOLERANCE):
    """Solve, and check what every answer promises of itself."""
    solved = solve_box(BoxProblem.of(form), centres, scales, tolerance)
    objective = primal(form, centres, scales, solved.solutions)
    assert solved.solutions.shape == centres.shape
    np.testing.assert_allclose(solved.value, form.value(solved.solutions), rtol=1e-12, atol=1e-12)
    assert not solved.unfinished.any()
    assert (solved.gap <= 1.001 * tolerance * np.maximum(1.0, np.abs(objective))).all()
    assert (solved.gap >= 0).all()
    return solved


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_orthonormal_rows_are_soft_thresholding(scale):
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((7, 4)))
    weights, offset, centres = rng.uniform(0.5, 2.0, 4), rng.standard_normal(4), rng.standard_normal((50, 7))
    form = form_of(basis.T, offset, weights)
    entries = centres @ basis + offset
    thresholded = np.sign(entries) * np.maximum(np.abs(entries) - scale * weights, 0.0)
    solved = certified(form, centres, np.full(50, scale))
    np.testing.assert_allclose(solved.solutions, centres + (thresholded - entries) @ basis.T, atol=1e-12)


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 1), (3, 2), (4, 4), (4, 2), (3, 5)])
@pytest.mark.parametrize("kind", ["independent", "repeated", "dependent", "correlated"])
def test_enumeration_of_the_free_coordinates(rows, columns, kind):
    rng = np.random.default_rng([rows, columns, len(kind)])
    matrix, offset = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
    if kind == "repeated":
        matrix[-1], offset[-1] = -matrix[0], -offset[0]
    elif kind == "dependent":
        matrix[-1] = matrix[:-1].sum(axis=0)
    elif kind == "correlated":
        matrix = matrix[:1] + 0.01 * matrix
    form = form_of(matrix, offset, rng.uniform(0.2, 2.0, rows))
    centres, scales = 2.0 * rng.standard_normal((40, columns)), 10.0 ** rng.uniform(-3, 3, 40)
    solved = certified(form, centres, scales)
    found = primal(form, centres, scales, solved.solutions)
    for i in range(40):
        least, rounding = optimum(form, centres[i], scales[i])
        assert -rounding <= found[i] - least <= solved.gap[i] + rounding


@pytest.mark.parametrize("rows, columns", [(24, 40), (64, 64), (60, 20)])
@pytest.mark.parametrize("weight", [1e-5, 1.0, 100.0])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_bounded_least_squares(rows, columns, weight, correlation):
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((rows, columns))
    matrix = np.sqrt(correlation) * rng.standard_normal(columns) + np.sqrt(1.0 - correlation) * matrix
    matrix /= np.sqrt(weight)
    shift = rng.standard_normal(columns) * np.sqrt(weight)
    form, centres = form_of(matrix, matrix @ shift), rng.standard_normal((5, columns)) * np.sqrt(weight)
    solved = certified(form, centres, np.ones(5))
    found = primal(form, centres, np.ones(5), solved.solutions)
    for i in range(5):
        truth = lsq_linear(matrix.T, centres[i] + shift, (-1.0, 1.0), method="bvls", tol=1e-14, max_iter=10_000).x
        least = truth @ (matrix @ centres[i] + form.offset) - 0.5 * np.sum((matrix.T @ truth) ** 2)
        assert -1e-9 <= found[i] - least <= solved.gap[i] + 1e-9


def test_against_cvxpy_with_many_more_rows_than_columns():
    import cvxpy

    rng = np.random.default_rng(4)
    matrix, offset, centres = rng.standard_normal((150, 3)), rng.standard_normal(150), rng.standard_normal((4, 3))
    form = form_of(matrix, offset)
    scales = np.array([1e-3, 1e-2, 0.1, 10.0])
    solved = certified(form, centres, scales)
    for i in range(4):
        y = cvxpy.Variable(3)
        least = cvxpy.Problem(
            cvxpy.Minimize(0.5 * cvxpy.sum_squares(y - centres[i]) + scales[i] * cvxpy.norm1(matrix @ y + offset))
        ).solve(solver="CLARABEL")
        assert abs(primal(form, centres, scales, solved.solutions)[i] - least) <= solved.gap[i] + 1e-6 * abs(least)


def test_repeated_rows_weigh_as_one():
    rng = np.random.default_rng(5)
    matrix, offset, centres = rng.standard_normal((6, 6)), rng.standard_normal(6), rng.standard_normal((33, 6))
    twice = form_of(np.vstack([matrix, matrix, -matrix]), np.concatenate([offset, offset, -offset]))
    once = form_of(matrix, offset, np.full(6, 3.0))
    answers = [certified(form, centres, np.ones(33), 1e-12).solutions for form in (twice, once)]
    np.testing.assert_allclose(*answers, atol=2e-6)


def test_rows_of_zeros_and_scales_of_zero():
    rng = np.random.default_rng(6)
    matrix, offset = np.vstack([np.eye(2), np.zeros((2, 2))]), np.array([0.0, 0.0, -3.0, 0.0])
    centres = rng.standard_normal((40, 2))
    scales = np.where(np.arange(40) % 2, 0.0, 0.5)
    solved = certified(form_of(matrix, offset), centres, scales)
    thresholded = np.sign(centres) * np.maximum(np.abs(centres) - scales[:, None], 0.0)
    np.testing.assert_allclose(solved.solutions, thresholded, atol=1e-15)
    np.testing.assert_array_equal(solved.solutions[1::2], centres[1::2])


@pytest.mark.parametrize("rows, columns", [(5, 5), (30, 4), (40, 40)])
def test_answers_do_not_depend_on_the_batch(rows, columns):
    rng = np.random.default_rng(7)
    form = form_of(rng.standard_normal((rows, columns)), rng.standard_normal(rows))
    centres, scales = rng.standard_normal((70, columns)), rng.uniform(0.0, 3.0, 70)
    together = solve_box(BoxProblem.of(form), centres, scales, TOLERANCE)
    for some in (slice(0, 0), slice(3, 4), slice(30, 65)):
        apart = solve_box(BoxProblem.of(form), centres[some], scales[some], TOLERANCE)
        for name in ("solutions", "gap", "value", "unfinished"):
            np.testing.assert_array_equal(getattr(apart, name), getattr(together, name)[some])


def test_a_row_that_is_no_number_spoils_no_other():
    rng = np.random.default_rng(8)
    form = form_of(rng.standard_normal((4, 4)), rng.standard_normal(4))
    centres = rng.standard_normal((10, 4))
    clean = solve_box(BoxProblem.of(form), centres, np.ones(10), TOLERANCE)
    centres[3, 1] = np.nan
    spoilt = solve_box(BoxProblem.of(form), centres, np.ones(10), TOLERANCE)
    assert spoilt.unfinished[3] and spoilt.gap[3] == np.inf and spoilt.unfinished.sum() == 1
    np.testing.assert_array_equal(np.delete(spoilt.solutions, 3, 0), np.delete(clean.solutions, 3, 0))


def test_a_tolerance_out_of_reach_leaves_rows_unfinished_and_bounded():
    rng = np.random.default_rng(9)
    form = form_of(rng.standard_normal((3, 3)), rng.standard_normal(3))
    centres = rng.standard_normal((20, 3))
    solved = solve_box(BoxProblem.of(form), centres, np.ones(20), 0.0)
    found = primal(form, centres, np.ones(20), solved.solutions)
    least = np.array([optimum(form, centre, 1.0)[0] for centre in centres])
    assert (np.abs(found - least) <= solved.gap + 1e-14).all() and (solved.gap < 1e-12).all()
