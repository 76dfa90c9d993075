"""Estimates from islands against what they estimate, over replicates."""

import math

import numpy as np
import pytest

from alignkit.tilting.islands import Islands


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
