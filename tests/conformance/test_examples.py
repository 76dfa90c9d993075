"""The published problems: their answers against other solvers, grids and the laws themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import Bid
from alignkit.testing import displaced_examples, prox_examples, tilt_examples
from alignkit_cvxpy.prox import CvxpyProxSolver

PROX = {example.name: example for example in prox_examples(rows=4, seed=3)}
BOUNDED = [name for name, example in PROX.items() if example.is_bounded]
CONCAVE = [name for name in BOUNDED if PROX[name].strength > 0]
WAVY = [name for name in BOUNDED if PROX[name].strength == 0]
DISPLACED = {example.name: example for example in displaced_examples(ak.costs, rows=4, seed=3)}
STEPS = [name for name, example in DISPLACED.items() if example.is_bounded]
TILTS = {example.name: example for example in tilt_examples(seed=3)}


def test_there_are_problems_of_every_kind():
    assert {PROX[name].dimension for name in PROX} >= {1, 2, 3, 4, 5, 8}
    assert {PROX[name].weight for name in PROX} >= {1e-3, 1e3}
    assert max(np.abs(PROX[name].points).max() for name in PROX) > 1e6
    assert sum(not example.is_bounded for example in PROX.values()) >= 3
    assert len(WAVY) >= 9 and len(CONCAVE) >= 30
    assert {PROX[name].dimension for name in WAVY if PROX[name].is_tied is not None} == {1, 2}
    assert {type(example.displacement.cost).__name__ for example in DISPLACED.values()} == {
        "L1",
        "PNorm",
        "Euclidean",
        "ElasticNet",
    }
    assert len(STEPS) == len(DISPLACED) - 2
    assert {example.displacement.rows is None for example in DISPLACED.values()} == {True, False}
    assert {bool(example.displacement.linear.any()) for example in DISPLACED.values()} == {True, False}
    assert sum(PROX[name].dimension == 1 for name in CONCAVE) >= 5


@pytest.mark.parametrize("name", BOUNDED)
def test_nothing_nearby_is_better(name):
    example, rng = PROX[name], np.random.default_rng(0)
    z = example.maximiser
    size = max(1.0, 1e-6 * np.abs(z).max())
    for step in size * 10.0 ** np.arange(-8.0, 1.5, 0.5):
        for _ in range(5):
            other = z + step * rng.standard_normal(z.shape)
            assert (example.objective(other) <= example.supremum + 0.1 * example.rounding(other)).all()


@pytest.mark.parametrize("name", CONCAVE)
def test_certified_bounds_of_another_solver_enclose_the_supremum(name):
    example, solver = PROX[name], CvxpyProxSolver()
    assert isinstance(solver.bid(example.problem()), Bid)
    solution = solver.open(example.problem()).solve(example.points)
    below = example.objective(solution.maximiser)
    rounding = example.rounding(solution.maximiser)
    assert not solution.unfinished.any()
    assert (below - rounding <= example.supremum).all()
    assert (example.supremum <= below + solution.gap + rounding).all()


@pytest.mark.parametrize("name", WAVY)
def test_no_point_far_away_is_better_where_maxima_are_many(name):
    example = PROX[name]
    k = example.dimension
    axes = {1: [20_001], 2: [301, 301], 4: [25] * 4}[k]
    reach = 8.0
    steps = np.stack(
        [grid.ravel() for grid in np.meshgrid(*(np.linspace(-reach, reach, count) for count in axes))], axis=1
    )
    for row in range(len(example.points)):
        here = example.on_rows(np.broadcast_to(example.points[row], steps.shape))
        best = here.objective(example.points[row] + steps).max()
        assert best <= example.supremum[row] + 1e-9
        # The grid comes near, so that the comparison says something.
        assert best >= example.supremum[row] - reach * max(1 / count for count in axes) * 8.0


@pytest.mark.parametrize("name", [name for name in WAVY if PROX[name].is_tied is not None])
def test_ties_have_two_maximisers_of_one_height(name):
    example = PROX[name]
    mirror = np.where(np.arange(example.dimension) == 0, -1.0, 1.0)
    tied = example.is_tied(example.points)
    z = example.maximiser
    assert tied[0] and not tied[1:].any()
    same = example.objective(z * mirror) == example.supremum
    assert (same == tied).all() and (np.abs(z[tied, 0]) > 0.5).all()


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("name", STEPS)
def test_no_displacement_nearby_is_better(name, factor):
    example, rng = DISPLACED[name].with_weight(factor * DISPLACED[name].weight), np.random.default_rng(0)
    best = example.best_displacement
    assert (example.maximiser == example.moved(best)).all()
    for size in 10.0 ** np.arange(-8.0, 1.5, 0.5):
        for chosen in (slice(None), *range(best.shape[1])):
            for _ in range(3):
                other = best.copy()
                other[:, chosen] += size * rng.standard_normal(other[:, chosen].shape)
                z = example.moved(other)
                assert (example.objective(z, other) <= example.supremum + 0.1 * example.rounding(z, other)).all()


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("name", STEPS)
def test_certified_bounds_of_another_solver_enclose_the_supremum_of_displacements(name, factor):
    example, solver = DISPLACED[name].with_weight(factor * DISPLACED[name].weight), CvxpyProxSolver()
    assert isinstance(solver.bid(example.problem()), Bid)
    solution = solver.open(example.problem()).solve(example.points)
    below = example.objective(solution.maximiser, example.dense(solution))
    rounding = example.rounding(solution.maximiser, example.dense(solution))
    assert not solution.unfinished.any()
    assert (below - rounding <= example.supremum).all()
    assert (example.supremum <= below + solution.gap + rounding).all()


@pytest.mark.parametrize("name", [name for name, example in DISPLACED.items() if not example.is_bounded])
def test_unbounded_displacements_grow_without_end(name):
    example = DISPLACED[name]
    rays = np.concatenate([np.eye(example.displacement.size), -np.eye(example.displacement.size)])

    def reached(far):
        steps = [np.broadcast_to(far * ray, (len(example.points), len(ray))) for ray in rays]
        return max(example.objective(example.moved(step), step).min() for step in steps)

    assert reached(1e8) > 10.0 * reached(1e6) > 0
    assert np.isposinf(example.supremum).all()


@pytest.mark.parametrize("name", [name for name, example in PROX.items() if not example.is_bounded])
def test_unbounded_problems_grow_without_end(name):
    example = PROX[name]
    rays = np.concatenate([np.eye(example.dimension), -np.eye(example.dimension)])
    far = max(example.objective(example.points + 1e4 * ray).min() for ray in rays)
    farther = max(example.objective(example.points + 1e6 * ray).min() for ray in rays)
    assert farther > 100.0 * far > 0
    assert np.isposinf(example.supremum).all()
    with pytest.raises(ValueError, match="unbounded"):
        _ = example.maximiser


@pytest.mark.parametrize("name", PROX)
def test_rewards_have_values_and_gradients_at_no_rows(name):
    nothing = np.empty((0, PROX[name].dimension))
    assert PROX[name].reward.value(nothing).shape == (0,)
    assert PROX[name].reward.gradient(nothing).shape == nothing.shape


def test_seeds_and_rows_change_the_problems():
    first, second = prox_examples(rows=3, seed=0), prox_examples(rows=3, seed=1)
    assert all(example.points.shape[0] == 3 for example in first)
    assert all((one.points != other.points).any() for one, other in zip(first, second, strict=True))
    again = prox_examples(rows=3, seed=0)
    assert all((one.points == other.points).all() for one, other in zip(first, again, strict=True))


def test_names_are_unique():
    for examples in ((*prox_examples(), *displaced_examples(ak.costs)), tilt_examples()):
        assert len({example.name for example in examples}) == len(examples)


def test_an_example_with_a_displacement_asks_for_it():
    example = DISPLACED["distance, k = 3"]
    with pytest.raises(ValueError, match="none are given"):
        example.objective(example.maximiser)


@pytest.mark.parametrize("name", TILTS)
def test_tilted_moments_are_those_of_reweighted_draws(name):
    example, rows = TILTS[name], 100_000
    x = example.law.sample(rows, seed=1).reshape(rows, -1)
    for index, coordinates in enumerate(example.coordinates):
        weights = np.exp(x @ (coordinates @ example.directions))
        weights /= weights.sum()
        truth = example.tilted(index)
        deviation = x - truth.mean
        error = np.sqrt((weights**2) @ deviation**2)
        assert (np.abs(weights @ deviation) <= 5.0 * error + 1e-12).all()
        for i, j in itertools.combinations_with_replacement(range(x.shape[1]), 2):
            product = deviation[:, i] * deviation[:, j] - truth.covariance[i, j]
            assert abs(weights @ product) <= 5.0 * np.sqrt(weights**2 @ product**2) + 1e-12


def test_tilts_are_strong_enough_to_be_seen():
    """A sampler that ignored them would be off by twenty standard errors of 4,000 draws or more."""
    for example in TILTS.values():
        for index in range(1, len(example.coordinates)):
            theta = example.coordinates[index] @ example.directions
            spread = np.sqrt(theta @ example.law.covariance @ theta)
            assert theta @ (example.tilted(index).mean - example.law.mean) > 20.0 * spread / np.sqrt(4000)
