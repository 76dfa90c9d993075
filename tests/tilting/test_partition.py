"""Partitions from pooled draws, grown to where they are wanted, against closed forms and replicates."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.noise import normal, uniform
from alignkit.tilting.partition import Partition

MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
PLANE = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 2)))[0].T
LINE = np.ones((1, 1))


class Draws:
    """Draws of a law's tilts along directions; remembers what it was asked for."""

    def __init__(self, law, directions, seed=0):
        self.law, self.directions, self.seed, self.asked = law, directions, seed, []

    def __call__(self, coordinates, rows, *, stage, first_row):
        self.asked.append((stage, first_row, rows))
        tilts = coordinates @ self.directions
        draws = self.law.draw_tilted(tilts, rows, seed=self.seed, stage=stage, first_row=first_row)
        return draws.reshape(rows, -1) @ self.directions.T

    def base(self, rows):
        return Partition.of_base(self(np.zeros((1, len(self.directions))), rows, stage=0, first_row=0))


def normal_draws(seed=0):
    return Draws(ak.base.Gaussian([0.0], 1.0), LINE, seed)


def lattice():
    """Tilts with their shares in the mixture that a Gaussian measure makes of the law."""
    along = 0.4 * np.arange(-12, 13)
    tilts = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    log_z = MIXTURE.log_partition(tilts @ PLANE)
    log_masses = log_z - 0.5 * (tilts**2).sum(axis=1)
    return tilts, np.exp(log_masses - np.logaddexp.reduce(log_masses)), log_z


def test_a_lattice_of_tilts_takes_few_nodes():
    tilts, shares, log_z = lattice()
    draw = Draws(MIXTURE, PLANE)
    base = draw.base(512)
    assert base.error(tilts, shares, rows=512) == math.inf
    grown = base.grown(tilts, shares, draw=draw, rows=512, tolerance=0.05, budget=40_000)
    assert grown.error(tilts, shares, rows=512) <= 0.05
    assert len(grown.nodes) <= 25 and len(grown.features) <= 25_000
    values, errors = grown.log_partition(tilts)
    at_zero = ~tilts.any(axis=1)
    assert np.all(np.abs(values - log_z) <= 4 * errors + 1e-9) and values[at_zero] == pytest.approx(0.0, abs=1e-9)
    # The tilts are reached together, so that nodes hang together too.
    assert grown.sizes(tilts).min() >= 0.2 * 512 and grown.pool.spectral_gap > 0.02


def test_nodes_follow_one_another_to_a_far_tilt():
    draw, wanted = normal_draws(), np.array([[9.0]])
    base = draw.base(1000)
    grown = base.grown(wanted, np.ones(1), draw=draw, rows=1000, tolerance=0.1, budget=60_000)
    (value,), (error,) = grown.log_partition(wanted)
    assert abs(value - 40.5) <= 4 * error <= 0.4 + 1e-12
    steps = np.diff(np.sort(grown.nodes[:, 0]))
    # exp(−δ²) of the draws of a node are left δ standard deviations away.
    assert steps.max() < 2.2
    between = grown.pool.overlap[np.arange(len(steps)), np.arange(1, len(steps) + 1)]
    assert between.min() > 0.05


def test_standard_errors_are_those_of_replicates_though_nodes_depend_on_draws():
    law = ak.base.GaussianMixture([0.6, 0.4], [[-2.0], [2.0]], 1.0)
    wanted, shares = np.array([[-3.0], [2.5]]), np.array([0.5, 0.5])
    scores = []
    for seed in range(200):
        draw = Draws(law, LINE, seed)
        grown = draw.base(200).grown(wanted, shares, draw=draw, rows=200, tolerance=0.1, budget=5_000)
        values, errors = grown.log_partition(wanted)
        scores.append((values - law.log_partition(wanted)) / errors)
    assert np.all(np.abs(np.mean(scores, axis=0)) < 4 / np.sqrt(200) + 0.1)
    assert np.all(np.abs(np.std(scores, axis=0) - 1) < 4 / np.sqrt(400))


def test_means_and_log_expectations():
    draw, wanted = normal_draws(), np.array([[2.0]])
    grown = draw.base(4000).grown(wanted, np.ones(1), draw=draw, rows=4000, tolerance=0.02, budget=40_000)
    mean = grown.expectation(grown.features[:, 0], wanted[0])
    assert abs(mean.value - 2.0) <= 4 * mean.standard_error <= 0.2
    # E exp(2·max(x, 0)) under N(0, 1) is e²·Φ(2) + ½.
    found = grown.log_expectation(2 * np.maximum(grown.features[:, 0], 0.0))
    truth = math.log(math.exp(2.0) * 0.5 * math.erfc(-2 / math.sqrt(2)) + 0.5)
    assert abs(found.value - truth) <= 4 * found.standard_error <= 0.1


class TestWhatIsDrawn:
    def test_nothing_within_the_tolerance(self):
        draw = normal_draws()
        base = draw.base(2000)
        draw.asked.clear()
        assert base.grown(np.array([[0.3]]), np.ones(1), draw=draw, rows=500, tolerance=0.1, budget=5000) is base
        assert not draw.asked

    def test_never_more_than_the_budget_and_no_row_twice(self):
        draw, wanted = normal_draws(), np.array([[4.0], [-4.0]])
        grown = draw.base(300)
        for budget in (1000, 2500):
            before = len(grown.features)
            grown = grown.grown(wanted, np.array([0.7, 0.3]), draw=draw, rows=300, tolerance=1e-3, budget=budget)
            assert before < len(grown.features) <= before + budget
        rows = [(stage, first + row) for stage, first, count in draw.asked for row in range(count)]
        assert len(set(rows)) == len(rows) == len(grown.features)

    def test_the_same_draws_make_the_same_partition(self):
        tilts, shares, _ = lattice()
        found = []
        for _ in range(2):
            draw = Draws(MIXTURE, PLANE, seed=3)
            found.append(draw.base(256).grown(tilts, shares, draw=draw, rows=256, tolerance=0.2, budget=10_000))
        np.testing.assert_array_equal(found[0].nodes, found[1].nodes)
        np.testing.assert_array_equal(found[0].features, found[1].features)

    def test_a_spent_budget_shows_in_the_error(self):
        draw, wanted = normal_draws(), np.array([[9.0]])
        grown = draw.base(500).grown(wanted, np.ones(1), draw=draw, rows=500, tolerance=0.1, budget=1000)
        assert len(grown.nodes) == 3 and grown.error(wanted, np.ones(1), rows=500) == math.inf

    def test_tilts_without_a_share_are_not_waited_for(self):
        draw, wanted = normal_draws(), np.array([[0.5], [50.0]])
        base = draw.base(2000)
        assert base.grown(wanted, np.array([1.0, 0.0]), draw=draw, rows=500, tolerance=0.1, budget=5000) is base

    def test_draws_in_groups_keep_theirs(self):
        draw, wanted = normal_draws(), np.array([[1.5]])
        alone = draw.base(400)
        each = np.repeat(np.arange(400), 2)
        base = Partition.of_base(alone.features[each], groups=each)
        grown = base.grown(wanted, np.ones(1), draw=draw, rows=800, tolerance=0.06, budget=4000)
        assert np.array_equal(grown.groups[:800], each) and np.unique(grown.groups[800:]).size == len(grown.laws) - 800
        (value,), (error,) = grown.log_partition(wanted)
        assert abs(value - 1.125) < 4 * error <= 0.24


def test_an_infinite_log_partition_is_never_reached():
    """The Laplace law has E exp(tx) = 1/(1 − t²) for t < 1, and its tilts are two exponential laws side by side."""

    def draw(coordinates, rows, *, stage, first_row):
        tilt = float(coordinates[0, 0])
        sides, lengths = uniform(0, rows, 2, stage=stage, first_row=first_row).T
        is_right = sides < (1 + tilt) / 2
        return np.where(is_right, -np.log(lengths) / (1 - tilt), np.log(lengths) / (1 + tilt))[:, None]

    base = Partition.of_base(draw(np.zeros((1, 1)), 500, stage=0, first_row=0))
    proper = base.grown(np.array([[0.7]]), np.ones(1), draw=draw, rows=500, tolerance=0.05, budget=20_000)
    (value,), (error,) = proper.log_partition(np.array([[0.7]]))
    assert abs(value + math.log(1 - 0.49)) < 4 * error <= 0.2
    wanted = np.array([[3.0]])
    grown = base.grown(wanted, np.ones(1), draw=draw, rows=500, tolerance=0.05, budget=4000)
    assert grown.error(wanted, np.ones(1), rows=500) == math.inf
    # Steps shorten towards the last tilt that exists.
    assert len(grown.features) == 4500 and 0.9 < grown.nodes.max() < 1.0


class TestRefusals:
    def test_the_first_node_is_the_base(self):
        with pytest.raises(ParameterError, match="first node"):
            Partition(np.ones((1, 1)), np.zeros((3, 1)), np.zeros(3, dtype=np.int64))

    def test_shapes_fit(self):
        with pytest.raises(ParameterError, match="share m"):
            Partition(np.zeros((1, 2)), np.zeros((3, 1)), np.zeros(3, dtype=np.int64))

    @pytest.mark.parametrize("shares", [[0.5, 0.6], [1.5, -0.5]])
    def test_shares_sum_to_1(self, shares):
        draw = normal_draws()
        with pytest.raises(ParameterError, match="sum to 1"):
            draw.base(10).grown(np.ones((2, 1)), np.array(shares), draw=draw, rows=10, tolerance=1.0, budget=100)

    def test_rows_are_positive(self):
        draw = normal_draws()
        with pytest.raises(ParameterError, match="rows"):
            draw.base(10).grown(np.ones((1, 1)), np.ones(1), draw=draw, rows=0, tolerance=1.0, budget=100)

    def test_a_nan_names_its_tilt(self):
        def broken(coordinates, rows, *, stage, first_row):
            return np.full((rows, 1), np.nan)

        base = Partition.of_base(normal(0, 100, 1))
        with pytest.raises(NonFiniteError, match=r"coordinates \[1"):
            base.grown(np.array([[3.0]]), np.ones(1), draw=broken, rows=100, tolerance=0.01, budget=1000)
