"""Moves under the ℓ1 cost against HiGHS on the linear program in all d dimensions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from alignkit.errors import ParameterError, UnboundedTransportError
from alignkit_numba.bases import record_move
from alignkit_numba.polytope import absolute_polytope, solve_over_polytope, top_polytope


def _truth(matrix, weights, weight, residual):
    """min w·r + λ·Σ(a + b) over a, b, r ≥ 0 with −r ≤ s + A(a − b) ≤ r."""
    k, d = matrix.shape
    cost = np.concatenate([np.full(2 * d, weight), weights])
    above = np.hstack([matrix, -matrix, -np.eye(k)])
    below = np.hstack([-matrix, matrix, -np.eye(k)])
    answer = linprog(cost, np.vstack([above, below]), np.concatenate([-residual, residual]), method="highs")
    assert answer.success
    return answer.fun


def _attained(matrix, weights, weight, residuals, moves):
    rest = residuals + np.einsum("knj,nj->nk", matrix[:, moves.coordinates], moves.amounts)
    return np.abs(rest) @ weights + weight * np.abs(moves.amounts).sum(axis=1)


def _check(matrix, weights, weight, residuals, *, compare=10, tolerance=1e-10):
    moves = solve_over_polytope(absolute_polytope(matrix, weights, weight), residuals)
    scale = np.maximum(1.0, np.abs(residuals) @ weights)
    assert moves.coordinates.shape == moves.amounts.shape == residuals.shape
    assert not moves.unfinished.any()
    assert (moves.gap >= 0).all()
    assert (moves.gap <= tolerance * scale).all()
    np.testing.assert_allclose(
        moves.value, _attained(matrix, weights, weight, residuals, moves), rtol=1e-11, atol=1e-11
    )
    for residual, value in zip(residuals[:compare], moves.value, strict=False):
        assert value == pytest.approx(_truth(matrix, weights, weight, residual), rel=1e-8, abs=1e-8)
    return moves


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 2.0])
def test_random_matrices(k, share):
    random = np.random.default_rng(k)
    matrix, residuals = random.normal(size=(k, 30)), random.normal(size=(200, k)) * 2
    weights = random.uniform(0.5, 2.0, size=k)
    weight = share * np.abs(weights @ (matrix * np.sign(residuals[0])[:, None])).max()
    _check(matrix, weights, weight, residuals)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_ties_of_integers_and_repeated_columns(k, weight):
    random = np.random.default_rng(k)
    matrix = random.integers(-2, 3, size=(k, 12)).astype(float)
    matrix = np.concatenate([matrix, matrix[:, :4], -2 * matrix[:, 4:6], np.zeros((k, 2))], axis=1)
    residuals = random.integers(-3, 4, size=(300, k)).astype(float)
    _check(matrix, np.ones(k), weight, residuals, compare=40)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_rows_that_depend_on_each_other(k):
    random = np.random.default_rng(k)
    matrix = random.normal(size=(k, 1)) @ random.normal(size=(1, 15))
    matrix[-1] = random.normal(size=15)
    residuals = random.normal(size=(50, k))
    for weight in (1e-4, 0.1, 3.0):
        # Here |⟨a_i, p⟩| ≤ λ has rounding of the size of p, not of λ.
        _check(matrix, np.ones(k), weight, residuals, tolerance=max(1e-10, 1e-13 / weight))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_nothing_moves_where_the_cost_exceeds_every_gain(k):
    random = np.random.default_rng(k)
    matrix, residuals = random.normal(size=(k, 20)), random.normal(size=(30, k))
    weight = 1.01 * np.abs(matrix).sum(axis=0).max()
    moves = _check(matrix, np.ones(k), weight, residuals)
    np.testing.assert_array_equal(moves.amounts, 0.0)
    np.testing.assert_array_equal(moves.value, np.abs(residuals).sum(axis=1))


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_everything_is_met_where_movement_is_nearly_free(k):
    random = np.random.default_rng(k)
    matrix, residuals = random.normal(size=(k, 25)), random.normal(size=(30, k))
    moves = _check(matrix, np.ones(k), 1e-6, residuals)
    rest = residuals + np.einsum("knj,nj->nk", matrix[:, moves.coordinates], moves.amounts)
    np.testing.assert_allclose(rest, 0.0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_pivots_agree_with_listed_vertices(k):
    random = np.random.default_rng(k)
    matrix, residuals = random.normal(size=(k, 784)) / 28, random.normal(size=(500, k))
    listed = absolute_polytope(matrix, np.ones(k), 0.05)
    assert listed.listed is not None
    plain = replace(listed, listed=None)
    np.testing.assert_allclose(
        solve_over_polytope(listed, residuals).value, solve_over_polytope(plain, residuals).value, rtol=1e-11
    )


def test_zero_residuals_and_zero_matrices():
    for k in (1, 2, 3, 5):
        moves = _check(np.zeros((k, 4)), np.ones(k), 0.5, np.vstack([np.zeros(k), np.arange(k) - 1.0]))
        np.testing.assert_array_equal(moves.amounts, 0.0)
        matrix = np.random.default_rng(k).normal(size=(k, 9))
        np.testing.assert_array_equal(_check(matrix, np.ones(k), 0.1, np.zeros((3, k))).value, 0.0)


@pytest.mark.parametrize("k", [2, 5])
def test_the_gap_sees_a_basis_that_is_not_optimal(k):
    """At the vertex that suits −s the move of its basis attains more than the minimum, and the gap says how much."""
    random = np.random.default_rng(k)
    matrix, residual = random.normal(size=(k, 20)), random.normal(size=k)
    polytope = absolute_polytope(matrix, np.ones(k), 0.4)
    best = solve_over_polytope(polytope, residual[None]).value[0]
    basis, vertex = np.arange(k), -np.sign(residual)
    coordinates, amounts, rest = np.zeros(k, dtype=np.int64), np.zeros(k), np.empty(k)
    value, gap = record_move(
        residual, 0.0, polytope.constraints, basis, residual, vertex, 10.0, coordinates, amounts, rest
    )
    assert value > best + 1e-3
    assert gap >= value - best


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_a_linear_part_beside_absolute_values(k):
    random = np.random.default_rng(k)
    matrix, residuals, linear = random.normal(size=(k, 20)), random.normal(size=(40, k)), random.normal(size=20)
    matrix[:, -1], linear[-1] = 0.0, 0.3
    weights, weight = random.uniform(0.5, 2.0, size=k), 1.05 * np.abs(linear).max()
    moves = solve_over_polytope(absolute_polytope(matrix, weights, weight, linear), residuals)
    assert not moves.unfinished.any()
    assert (moves.gap <= 1e-11 * np.maximum(1.0, np.abs(residuals) @ weights)).all()
    attained = _attained(matrix, weights, weight, residuals, moves) - (linear[moves.coordinates] * moves.amounts).sum(1)
    np.testing.assert_allclose(moves.value, attained, rtol=1e-11, atol=1e-11)
    cost = np.concatenate([weight - linear, weight + linear, weights])
    above, below = np.hstack([matrix, -matrix, -np.eye(k)]), np.hstack([-matrix, matrix, -np.eye(k)])
    for residual, value in zip(residuals[:10], moves.value, strict=False):
        truth = linprog(cost, np.vstack([above, below]), np.concatenate([-residual, residual]), method="highs")
        assert value == pytest.approx(truth.fun, rel=1e-8, abs=1e-8)
    with pytest.raises(UnboundedTransportError, match="Raise the weight"):
        absolute_polytope(matrix, weights, 0.29, linear)


def _top_truth(matrix, top, weight, residual):
    """min t·z + λ·Σ(a + b) over a, b ≥ 0 and z with s + A(a − b) ≤ z; None where there is no minimum."""
    k, d = matrix.shape
    cost = np.append(np.full(2 * d, weight), top)
    answer = linprog(
        cost,
        np.hstack([matrix, -matrix, -np.ones((k, 1))]),
        -residual,
        bounds=[(0, None)] * (2 * d) + [(None, None)],
        method="highs",
    )
    return answer.fun if answer.success else None


def _check_top(matrix, top, weight, residuals, compare=10):
    moves = solve_over_polytope(top_polytope(matrix, top, weight), residuals)
    scale = np.maximum(1.0, top * np.abs(residuals).sum(axis=1))
    moved = residuals + np.einsum("knj,nj->nk", matrix[:, moves.coordinates], moves.amounts)
    attained = top * moved.max(axis=1) + weight * np.abs(moves.amounts).sum(axis=1)
    assert not moves.unfinished.any()
    assert (moves.gap >= 0).all()
    assert (moves.gap <= 1e-10 * scale).all()
    np.testing.assert_allclose(moves.value, attained, rtol=1e-11, atol=1e-10)
    for residual, value in zip(residuals[:compare], moves.value, strict=False):
        assert value == pytest.approx(_top_truth(matrix, top, weight, residual), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("pieces", [2, 3, 4, 8, 9, 16])
@pytest.mark.parametrize("top", [0.4, 3.0])
def test_the_largest_of_random_pieces(pieces, top):
    random = np.random.default_rng(pieces)
    matrix, residuals = random.normal(size=(pieces, 30)), 2 * random.normal(size=(100, pieces))
    # At this λ some mean of the pieces moves along no column.
    critical = top * np.abs(matrix - matrix.mean(axis=0)).max() + top * np.abs(matrix.mean(axis=0)).max()
    for share in (0.4, 0.7, 1.1):
        if _top_truth(matrix, top, share * critical, residuals[0]) is None:
            with pytest.raises(UnboundedTransportError, match="faster than the ℓ1 cost"):
                top_polytope(matrix, top, share * critical)
        else:
            _check_top(matrix, top, share * critical, residuals)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_ties_among_pieces(pieces):
    random = np.random.default_rng(pieces)
    matrix = random.integers(-2, 3, size=(pieces, 12)).astype(float)
    matrix = np.concatenate([matrix, matrix[:, :3], np.ones((pieces, 1)), np.zeros((pieces, 1))], axis=1)
    residuals = random.integers(-3, 4, size=(100, pieces)).astype(float)
    for weight in (1.5, 2.0, 3.0):
        if _top_truth(matrix, 1.0, weight, residuals[0]) is not None:
            _check_top(matrix, 1.0, weight, residuals, compare=30)


def test_pieces_that_rise_together_without_bound_are_found():
    matrix = np.ones((3, 4))
    top_polytope(matrix, 1.0, 1.0)
    with pytest.raises(UnboundedTransportError, match="Raise the weight"):
        top_polytope(matrix, 1.0, 0.99)
    with pytest.raises(ParameterError, match="two pieces"):
        top_polytope(matrix[:1], 1.0, 2.0)


def test_rows_that_are_not_finite_are_unfinished():
    for k in (2, 5):
        random = np.random.default_rng(k)
        residuals = random.normal(size=(4, k))
        residuals[2, 1] = np.nan
        moves = solve_over_polytope(absolute_polytope(random.normal(size=(k, 9)), np.ones(k), 0.3), residuals)
        np.testing.assert_array_equal(moves.unfinished, [False, False, True, False])
        assert moves.gap[2] == np.inf


@pytest.mark.parametrize("kind", ["dense", "lattice", "repeated"])
@pytest.mark.parametrize(("k", "d"), [(16, 60), (41, 50)])
def test_many_rows_are_priced_by_candidates(k, d, kind):
    random = np.random.default_rng([k, len(kind)])
    matrix, residuals = random.normal(size=(k, d)), 2 * random.normal(size=(12, k))
    if kind == "lattice":
        matrix, residuals = np.round(matrix), np.round(residuals)
    elif kind == "repeated":
        matrix[k // 2 :] = matrix[: k - k // 2]
    for weight in (0.1, 1.0, 5.0):
        polytope = absolute_polytope(matrix, np.ones(k), weight)
        moves = solve_over_polytope(polytope, residuals)
        assert not moves.unfinished.any()
        assert (moves.gap <= 1e-10 * np.maximum(1.0, np.abs(residuals).sum(axis=1))).all()
        truth = _truth(matrix, np.ones(k), weight, residuals[0])
        assert moves.value[0] == pytest.approx(truth, rel=1e-8, abs=1e-8)
        alone = solve_over_polytope(polytope, residuals[5:6])
        np.testing.assert_array_equal(alone.amounts[0], moves.amounts[5])


@pytest.mark.parametrize("k", [5, 16])
def test_what_rows_before_left_changes_nothing(k):
    random = np.random.default_rng(k)
    matrix, residuals = random.normal(size=(k, 60)), random.normal(size=(7, k))
    clean = solve_over_polytope(absolute_polytope(matrix, np.ones(k), 0.7), residuals)
    polytope = absolute_polytope(matrix, np.ones(k), 0.7)
    solve_over_polytope(polytope, np.full((1, k), np.nan))
    solve_over_polytope(polytope, 1e200 * random.normal(size=(3, k)))
    again = solve_over_polytope(polytope, residuals)
    for field in ("coordinates", "amounts", "value", "gap", "unfinished"):
        np.testing.assert_array_equal(getattr(again, field), getattr(clean, field))


def test_rows_of_a_batch_do_not_mix():
    random = np.random.default_rng(0)
    polytope = absolute_polytope(random.normal(size=(6, 40)), np.ones(6), 0.7)
    residuals = random.normal(size=(50, 6))
    together = solve_over_polytope(polytope, residuals)
    for row in (0, 7, 49):
        alone = solve_over_polytope(polytope, residuals[row : row + 1])
        np.testing.assert_array_equal(alone.amounts[0], together.amounts[row])


@pytest.mark.parametrize(("weights", "weight"), [([1.0, 0.0], 1.0), ([1.0, np.nan], 1.0), ([1.0, 1.0], 0.0)])
def test_bad_parameters_are_refused(weights, weight):
    with pytest.raises(ParameterError):
        absolute_polytope(np.ones((2, 3)), np.array(weights), weight)
    with pytest.raises(ParameterError):
        absolute_polytope(np.full((2, 3), np.inf), np.ones(2), 1.0)
