"""Estimates from islands against what they estimate, over replicates."""

import math

import numpy as np
import pytest

from alignkit.errors import ParameterError
from alignkit.tilting.islands import ISLANDS, IslandResampling, Islands, by_island


def test_equal_islands_have_no_error():
    islands = Islands(np.full(8, 3.0))
    assert islands.log_partition.value == pytest.approx(3.0) and islands.log_partition.standard_error < 1e-12
    np.testing.assert_allclose(islands.weights, 1 / 8)


def test_means_weigh_islands_by_their_share():
    islands = Islands(np.log([1.0, 3.0]))
    assert islands.mean(np.array([0.0, 4.0])).value == pytest.approx(3.0)
    assert islands.log_partition.value == pytest.approx(math.log(2.0))
    assert islands.divergence(np.array([0.0, 4.0])).value == pytest.approx(3.0 - math.log(2.0))


def test_huge_log_partitions_do_not_overflow():
    assert Islands(np.array([1e4, 1e4 + math.log(3.0)])).log_partition.value == pytest.approx(1e4 + math.log(2.0))


def test_standard_errors_are_those_of_replicates():
    """Reweighted draws of N(0, 1) under e = θx: log Z = θ²/2, E_q[e] = θ², KL = θ²/2."""
    theta, replicates, count, each = 0.7, 400, 16, 200
    exponents = theta * np.random.default_rng(0).normal(size=(replicates, count, each))
    weights = np.exp(exponents)
    means = (weights * exponents).sum(axis=2) / weights.sum(axis=2)
    truth = {"log_partition": theta**2 / 2, "mean": theta**2, "divergence": theta**2 / 2}
    scores = {name: [] for name in truth}
    for log_z, mean in zip(np.log(weights.mean(axis=2)), means, strict=True):
        islands = Islands(log_z)
        estimates = (islands.log_partition, islands.mean(mean), islands.divergence(mean))
        for name, estimate in zip(truth, estimates, strict=True):
            scores[name].append((estimate.value - truth[name]) / estimate.standard_error)
    for name, values in scores.items():
        # Student's t with 15 degrees of freedom has standard deviation 1.07.
        assert 0.93 < np.std(values) < 1.21, name
        assert abs(np.mean(values)) < 0.25, name


class TestResampling:
    def test_one_stage_is_plain_importance_sampling_on_every_island(self):
        logs = np.random.default_rng(1).normal(size=ISLANDS * 40)
        resampling = IslandResampling(logs.size, seed=0)
        chosen = resampling(logs, stage=1)
        np.testing.assert_allclose(np.exp(resampling.islands.log_partitions), by_island(np.exp(logs)).mean(axis=1))
        np.testing.assert_array_equal(by_island(chosen) // 40, np.arange(ISLANDS)[:, None] * np.ones(40))
        assert resampling.survivors == np.unique(chosen).size
        assert resampling.weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(by_island(resampling.weights).sum(axis=1), resampling.islands.weights)

    def test_stages_add_up_and_ancestors_are_those_of_the_first_stage(self):
        count = ISLANDS * 8
        only = np.where(np.arange(count) % 8 == 3, 0.0, -np.inf)
        resampling = IslandResampling(count, seed=0)
        resampling(only, stage=1)
        resampling(np.full(count, 2.0), stage=2)
        resampling.scale(5.0)
        np.testing.assert_allclose(resampling.islands.log_partitions, 7.0 - np.log(8))
        assert resampling.survivors == ISLANDS and resampling.smallest == pytest.approx(ISLANDS)

    @pytest.mark.parametrize("count", [0, 16, 100])
    def test_particles_fill_the_islands(self, count):
        with pytest.raises(ParameterError, match="multiple of 16"):
            IslandResampling(count, seed=0)
