"""Compiled passes over rows against matrix products in float64, through the map and by themselves."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import SparseRows
from alignkit.transport.lifting import lift
from alignkit.transport.rows import CompiledRows, Factors, HostRows
from alignkit_numba.rows import CompiledRowPasses

PASSES = CompiledRowPasses()
EPS = {np.float32: float(np.finfo(np.float32).eps), np.float64: float(np.finfo(np.float64).eps)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_products_and_sums(dtype, rows, count):
    generator = np.random.default_rng(count + 100 * rows)
    x = generator.standard_normal((rows, 37)).astype(dtype)
    directions = generator.standard_normal((count, 37))
    found = np.full((rows, count), np.nan)
    PASSES.read(x, directions, found)
    size = np.abs(x.astype(np.float64)) @ np.abs(directions).T
    assert (np.abs(found - x.astype(np.float64) @ directions.T) <= 40 * EPS[np.float64] * size).all()
    steps, up, y = generator.standard_normal((rows, count)).astype(dtype), directions.astype(dtype), np.empty_like(x)
    PASSES.write(x, steps, up, y, False)
    wide = x.astype(np.float64) + steps.astype(np.float64) @ up.astype(np.float64)
    size = np.abs(x) + np.abs(steps) @ np.abs(up)
    assert (np.abs(y - wide) <= (count + 2) * EPS[dtype] * size).all()
    own = x.copy()
    PASSES.write(own, steps, up, own, False)
    np.testing.assert_array_equal(own, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0, 1, 7, 15])
@pytest.mark.parametrize("d", [1, 5, 16, 41, 130])
def test_stores_past_the_caches_write_the_same(dtype, start, d):
    """Wherever in a cache line a row begins and ends, and not an entry beyond it."""
    generator = np.random.default_rng(d)
    rows, count = 7, 3
    x = generator.standard_normal((rows, d)).astype(dtype)
    steps, up = (
        generator.standard_normal((rows, count)).astype(dtype),
        generator.standard_normal((count, d)).astype(dtype),
    )
    moves = SparseRows(generator.integers(0, d, (rows, 1)), generator.standard_normal((rows, 1)))
    around = np.full(start + rows * d + 9, np.nan, dtype)
    y = around[start : start + rows * d].reshape(rows, d)
    for write, arguments in ((PASSES.write, (steps, up)), (PASSES.write_entries, (moves,))):
        wanted = np.empty_like(x)
        write(x, *arguments, wanted, False)
        y[:] = np.nan
        write(x, *arguments, y, True)
        np.testing.assert_array_equal(y, wanted)
        own = x.copy()
        write(own, *arguments, own, True)
        np.testing.assert_array_equal(own, wanted)
        assert np.isnan(around[:start]).all() and np.isnan(around[start + rows * d :]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_even_where_it_is_multiplied_by_zero(bad):
    x = np.zeros((5, 20), np.float32)
    x[3, 7] = bad
    found = np.empty((5, 1))
    PASSES.read(x, np.zeros((1, 20)), found)
    assert np.isfinite(found).ravel().tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    "reward",
    [
        lambda x: -ak.norm1(x[:2]),
        lambda x: -ak.norm1(x[:2]) + 3 * x[4],
        lambda x: -ak.square(x[0] - 1) - 2 * x[5],
    ],
)
def test_rows_are_read_and_written_as_numpy_does(reward):
    composition = compose(reward(ak.Variable((6,))))
    generator = np.random.default_rng(0)
    for cost in (ak.costs.SquaredEuclidean(), ak.costs.Weighted(np.arange(1.0, 7.0)), ak.costs.L1()):
        reduction = lift(composition, 2.0, cost)
        x = generator.standard_normal((50, 6))
        x[7, 3] = np.inf
        factors = Factors.of(reduction, composition.linear, x.dtype)
        ys = np.empty((2, *x.shape))
        part, kept = slice(5, 31), np.array([2])
        step = generator.standard_normal((26, composition.dimension if reduction.up is not None else 6))
        assert CompiledRows.takes(x, ys[0], factors, PASSES)
        for y, rows in zip(ys, (CompiledRows(x, ys[0], factors, PASSES), HostRows(x, ys[1], factors)), strict=True):
            points, earned, bad = rows.read(part)
            assert bad.tolist() == [2]
            fine = np.delete(np.arange(26), 2)
            wide = x[part][fine]
            np.testing.assert_allclose(points[fine], wide @ reduction.down.T + reduction.offset, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(earned[fine], wide @ composition.linear, rtol=1e-12, atol=1e-12)
            rows.write(part, step, kept)
            moved = step if reduction.up is None else step @ reduction.up
            wanted = x[part] + reduction.shift + moved
            wanted[2] = x[7]
            np.testing.assert_allclose(y[part], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_entries_move(dtype):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((9, 12)).astype(dtype)
    places = np.stack([generator.permutation(12)[:3] for _ in range(9)])
    steps = SparseRows(places, generator.standard_normal((9, 3)))
    wanted = x + steps.dense(12)
    y = np.empty_like(x)
    PASSES.write_entries(x, steps, y, False)
    np.testing.assert_allclose(y, wanted, rtol=4 * EPS[dtype], atol=4 * EPS[dtype])
    PASSES.write_entries(x, steps, x, False)
    np.testing.assert_array_equal(x, y)


def test_large_batches_take_the_passes_and_agree_with_small_ones():
    x = ak.Variable((2048,))
    problem = ak.Problem(
        -ak.norm1(x[:3] - 0.5) + x[9], ak.base.Gaussian(np.zeros(2048), 1.0), ak.Wasserstein(weight=2.0)
    )
    aligned = problem.solve(seed=0, backend="torch")
    rows = np.random.default_rng(0).standard_normal((2100, 2048)).astype(np.float32)
    whole = aligned.transport(rows)
    np.testing.assert_allclose(whole[:5], aligned.transport(rows[:5]), rtol=0, atol=1e-6)
    strided = np.asfortranarray(rows[:50])
    np.testing.assert_allclose(aligned.transport(strided), whole[:50], rtol=0, atol=1e-6)
