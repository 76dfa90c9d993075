"""Covering programs against an independent solver, which gives up on some of them."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.tilting.covering import solve_covering


def tilts_and_points(k, rows, columns, seed=0):
    """A program of a cover of ‖w‖ under a standard normal law."""
    rng = np.random.default_rng(seed)
    nodes, points = 2.5 * rng.normal(size=(columns, k)), 2.5 * rng.normal(size=(rows, k))
    exponents = points @ nodes.T - 0.5 * (nodes**2).sum(axis=1) - np.linalg.norm(points, axis=1)[:, None]
    return np.exp(np.minimum(exponents - exponents.max(axis=1).min(), np.log(1e4)))


@pytest.mark.parametrize(("rows", "columns"), [(97, 60), (60, 97), (1, 5), (5, 1), (200, 200)])
def test_an_independent_solver_agrees(rows, columns):
    from scipy.optimize import linprog

    matrix = tilts_and_points(2, rows, columns)
    found = solve_covering(matrix, precision=1e-8)
    reference = linprog(np.ones(columns), A_ub=-matrix, b_ub=-np.ones(rows), method="highs")
    assert found.masses.sum() == pytest.approx(reference.fun, rel=1e-7)
    assert found.prices.sum() == pytest.approx(reference.fun, rel=1e-7)


@pytest.mark.parametrize("precision", [1e-2, 1e-5])
def test_both_solutions_are_feasible_and_as_near_as_asked(precision):
    matrix = tilts_and_points(3, 300, 150)
    found = solve_covering(matrix, precision=precision)
    assert (found.masses >= 0).all() and (found.prices >= 0).all()
    assert (matrix @ found.masses).min() >= 1 - 1e-12 and (matrix.T @ found.prices).max() <= 1 + 1e-12
    assert 0 <= found.gap <= precision


def test_entries_many_orders_apart_and_ties_are_solved():
    rng = np.random.default_rng(1)
    matrix = np.exp(rng.uniform(-60, 9, size=(120, 200)))
    matrix = np.hstack([matrix, matrix[:, :50], np.zeros((120, 3))])
    found = solve_covering(matrix, precision=1e-6)
    assert found.gap <= 1e-6
    assert (matrix @ found.masses).min() >= 1 - 1e-9
