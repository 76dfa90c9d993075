"""Largest of affine pieces against closed forms, enumeration, quadratic programs and cvxpy."""

import itertools

import numpy as np
import pytest

from alignkit.transport.canonical import ProximalForm, TopOf
from alignkit_numba.simplex import SimplexProblem, solve_simplex

TOLERANCE = 1e-6


def form_of(matrix, offset, weight=1.0):
    return ProximalForm(matrix, offset, (TopOf(weight),), (len(offset),), None, np.zeros(matrix.shape[1]), 1.0)


def primal(form, centres, scales, y):
    return 0.5 * ((y - centres) ** 2).sum(axis=1) + scales * form.value(y)


def projection(points, total):
    """The nearest point of the simplex of a given sum, by sorting."""
    falling = -np.sort(-points, axis=1)
    levels = (falling.cumsum(axis=1) - total) / np.arange(1, points.shape[1] + 1)
    count = (falling > levels).sum(axis=1)
    return np.maximum(points - np.take_along_axis(levels, count[:, None] - 1, axis=1), 0.0)


def optimum(form, centre, scale):
    """The largest dual value over every support, exact for a few pieces of any rank; and its rounding.

    Every choice is moved into the simplex, so that none exceeds the minimum.
    """
    total = scale * form.blocks[0].weight
    linear = form.matrix @ centre + form.offset
    gram = form.matrix @ form.matrix.T
    best, rows = -np.inf, len(linear)
    for support in itertools.chain.from_iterable(itertools.combinations(range(rows), size + 1) for size in range(rows)):
        some = list(support)
        system = np.ones((len(some) + 1, len(some) + 1))
        system[:-1, :-1], system[-1, -1] = gram[np.ix_(some, some)], 0.0
        p = np.zeros(rows)
        p[some] = np.linalg.lstsq(system, np.append(linear[some], total), rcond=1e-13)[0][:-1]
        p = np.maximum(p, 0.0)
        p *= total / p.sum()
        best = max(best, linear @ p - 0.5 * np.sum((form.matrix.T @ p) ** 2))
    reach = total * np.abs(form.matrix).max(axis=0)
    return best, 1e-15 * (total * np.abs(linear).max() + np.sum(reach**2) + np.sum(centre**2))


def certified(form, centres, scales, tolerance=TOLERANCE):
    """Solve, and check what every answer promises of itself."""
    solved = solve_simplex(SimplexProblem.of(form), centres, scales, tolerance)
    objective = primal(form, centres, scales, solved.solutions)
    assert solved.solutions.shape == centres.shape
    np.testing.assert_allclose(solved.value, form.value(solved.solutions), rtol=1e-12, atol=1e-12)
    assert not solved.unfinished.any()
    assert (solved.gap <= 1.001 * tolerance * np.maximum(1.0, np.abs(objective))).all()
    assert (solved.gap >= 0).all()
    return solved


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("rows", [3, 20, 60])
def test_orthonormal_rows_are_moved_by_a_projection(rows, scale):
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    offset, centres = rng.standard_normal(rows), rng.standard_normal((50, rows))
    form = form_of(basis.T, offset, 2.0)
    moved = projection(centres @ basis + offset, 2.0 * scale)
    solved = certified(form, centres, np.full(50, scale))
    np.testing.assert_allclose(solved.solutions, centres - moved @ basis.T, atol=1e-6)


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 1), (3, 2), (5, 5), (6, 2), (4, 6)])
@pytest.mark.parametrize("kind", ["independent", "repeated", "dependent", "correlated", "mirrored"])
def test_enumeration_of_the_supports(rows, columns, kind):
    rng = np.random.default_rng([rows, columns, len(kind)])
    matrix, offset = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
    if kind == "repeated":
        matrix[-1], offset[-1] = matrix[0], offset[0]
    elif kind == "dependent":
        matrix[-1] = matrix[:-1].mean(axis=0) if rows > 1 else 0.0
    elif kind == "correlated":
        matrix = matrix[:1] + 0.01 * matrix
    elif kind == "mirrored":
        matrix, offset = np.vstack([matrix, -matrix])[-6:], np.append(offset, -offset)[-6:]
    form = form_of(matrix, offset, 1.5)
    centres, scales = 2.0 * rng.standard_normal((40, columns)), 10.0 ** rng.uniform(-3, 3, 40)
    solved = certified(form, centres, scales)
    found = primal(form, centres, scales, solved.solutions)
    for i in range(40):
        least, rounding = optimum(form, centres[i], scales[i])
        assert -rounding <= found[i] - least <= solved.gap[i] + rounding


@pytest.mark.parametrize("rows, columns", [(16, 8), (16, 1), (64, 8), (64, 64), (200, 3)])
@pytest.mark.parametrize("weight", [1e-5, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_every_row_is_finished(rows, columns, weight, correlation):
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((rows, columns))
    matrix = np.sqrt(correlation) * rng.standard_normal(columns) + np.sqrt(1.0 - correlation) * matrix
    form = form_of(matrix / np.sqrt(weight), rng.standard_normal(rows))
    certified(form, np.sqrt(weight) * rng.standard_normal((60, columns)), rng.uniform(0.5, 2.0, 60))


@pytest.mark.parametrize("kind", ["dense", "lattice", "repeated", "low rank", "badly scaled"])
def test_random_problems_at_two_tolerances(kind):
    """Each answer lies within its own gap of the other's."""
    rng = np.random.default_rng([10, len(kind)])
    for _ in range(20):
        rows, columns = int(rng.integers(1, 70)), int(rng.integers(1, 20))
        matrix, offset = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
        if kind == "lattice":
            matrix, offset = np.round(matrix), np.round(offset)
        elif kind == "repeated":
            matrix = matrix[rng.integers(0, rows, rows)]
        elif kind == "low rank":
            matrix = matrix[:, :1] @ rng.standard_normal((1, columns)) + 0.01 * matrix
        elif kind == "badly scaled":
            matrix *= 10.0 ** rng.uniform(-1.0, 1.0, (rows, 1))
        weight = 10.0 ** rng.uniform(-5.0, 2.0)
        form = form_of(matrix / np.sqrt(weight), offset, 1.5)
        centres, scales = np.sqrt(weight) * rng.standard_normal((40, columns)), 10.0 ** rng.uniform(-1.0, 1.0, 40)
        loose, tight = certified(form, centres, scales), solve_simplex(SimplexProblem.of(form), centres, scales, 1e-9)
        found = [primal(form, centres, scales, solved.solutions) for solved in (loose, tight)]
        rounding = 1e-13 * (1.0 + np.abs(found[0]) + np.sum(centres**2, axis=1))
        assert (found[0] - found[1] <= loose.gap + rounding).all()
        assert (found[1] - found[0] <= tight.gap + rounding).all()


@pytest.mark.parametrize("rows, columns", [(16, 8), (40, 60)])
def test_against_cvxpy(rows, columns):
    import cvxpy

    rng = np.random.default_rng(3)
    matrix, offset, centres = rng.standard_normal((rows, columns)), rng.standard_normal(rows), np.zeros((4, columns))
    centres[1:] = rng.standard_normal((3, columns))
    form, scales = form_of(matrix, offset), np.array([30.0, 0.1, 1.0, 10.0])
    solved = certified(form, centres, scales)
    for i in range(4):
        y = cvxpy.Variable(columns)
        least = cvxpy.Problem(
            cvxpy.Minimize(0.5 * cvxpy.sum_squares(y - centres[i]) + scales[i] * cvxpy.max(matrix @ y + offset))
        ).solve(solver="CLARABEL")
        found = primal(form, centres, scales, solved.solutions)[i]
        assert abs(found - least) <= solved.gap[i] + 1e-6 * max(1.0, abs(least))


def test_the_largest_magnitude_is_projection_on_the_ball_of_norm_1():
    rng = np.random.default_rng(4)
    centres, scales = rng.standard_normal((50, 5)), rng.uniform(0.1, 4.0, 50)
    form = form_of(np.vstack([np.eye(5), -np.eye(5)]), np.zeros(10))
    solved = certified(form, centres, scales)
    size = np.abs(centres)
    ball = np.where(size.sum(axis=1) <= scales, 1.0, 0.0)[:, None] * size
    outside = size.sum(axis=1) > scales
    for i in np.flatnonzero(outside):
        ball[i] = projection(size[i : i + 1], scales[i])[0]
    np.testing.assert_allclose(solved.solutions, centres - np.sign(centres) * ball, atol=1e-6)


@pytest.mark.parametrize("copies", [2, 5, 9])
def test_equal_pieces_count_once(copies):
    rng = np.random.default_rng(5)
    matrix, offset, centres = rng.standard_normal((4, 3)), rng.standard_normal(4), rng.standard_normal((40, 3))
    many = form_of(np.tile(matrix, (copies, 1)), np.tile(offset, copies))
    answers = [certified(form, centres, np.ones(40), 1e-12).solutions for form in (many, form_of(matrix, offset))]
    np.testing.assert_allclose(*answers, atol=2e-6)
    np.testing.assert_array_equal(
        answers[0], solve_simplex(SimplexProblem.of(many), centres, np.ones(40), 1e-12).solutions
    )


def test_pieces_that_tie_at_the_centre():
    matrix = np.vstack([np.eye(3), -np.eye(3), np.zeros((2, 3))])
    solved = certified(form_of(matrix, np.zeros(8)), np.zeros((3, 3)), np.array([0.0, 1.0, 1e3]))
    np.testing.assert_allclose(solved.solutions, 0.0, atol=1e-12)


def test_constant_pieces_and_scales_of_zero():
    rng = np.random.default_rng(6)
    centres = rng.standard_normal((20, 2))
    flat = certified(form_of(np.zeros((3, 2)), np.array([1.0, 3.0, 2.0])), centres, np.ones(20))
    np.testing.assert_allclose(flat.solutions, centres, atol=1e-15)
    assert (flat.value == 3.0).all()
    still = certified(form_of(rng.standard_normal((4, 2)), np.zeros(4)), centres, np.zeros(20))
    np.testing.assert_array_equal(still.solutions, centres)


@pytest.mark.parametrize("rows, columns", [(5, 5), (16, 4), (40, 6)])
def test_answers_do_not_depend_on_the_batch(rows, columns):
    rng = np.random.default_rng(7)
    form = form_of(rng.standard_normal((rows, columns)), rng.standard_normal(rows))
    centres, scales = rng.standard_normal((70, columns)), rng.uniform(0.0, 3.0, 70)
    together = solve_simplex(SimplexProblem.of(form), centres, scales, TOLERANCE)
    for some in (slice(0, 0), slice(3, 4), slice(30, 65)):
        apart = solve_simplex(SimplexProblem.of(form), centres[some], scales[some], TOLERANCE)
        for name in ("solutions", "gap", "value", "unfinished"):
            np.testing.assert_array_equal(getattr(apart, name), getattr(together, name)[some])


def test_a_row_that_is_no_number_spoils_no_other():
    rng = np.random.default_rng(8)
    form = form_of(rng.standard_normal((6, 4)), rng.standard_normal(6))
    centres = rng.standard_normal((10, 4))
    clean = solve_simplex(SimplexProblem.of(form), centres, np.ones(10), TOLERANCE)
    centres[3, 1] = np.nan
    spoilt = solve_simplex(SimplexProblem.of(form), centres, np.ones(10), TOLERANCE)
    assert spoilt.unfinished[3] and spoilt.gap[3] == np.inf and spoilt.unfinished.sum() == 1
    np.testing.assert_array_equal(np.delete(spoilt.solutions, 3, 0), np.delete(clean.solutions, 3, 0))


def test_a_tolerance_out_of_reach_leaves_rows_unfinished_and_bounded():
    rng = np.random.default_rng(9)
    form = form_of(rng.standard_normal((5, 3)), rng.standard_normal(5))
    centres = rng.standard_normal((20, 3))
    solved = solve_simplex(SimplexProblem.of(form), centres, np.ones(20), 0.0)
    found = primal(form, centres, np.ones(20), solved.solutions)
    least = np.array([optimum(form, centre, 1.0)[0] for centre in centres])
    assert (np.abs(found - least) <= solved.gap + 1e-14).all() and (solved.gap < 1e-12).all()
