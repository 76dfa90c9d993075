"""The log-partition by quadrature over an exact denoiser, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import ImproperTargetError
from alignkit.estimates import Estimate
from alignkit.tilting.quadrature import log_partition_at
from alignkit.tilting.tilt_partition import TiltPartition
from alignkit_torch.tilt_sampler import TorchTiltSampler

MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
ONE = np.ones((1, 1))


def program(base, theta):
    return TiltProgram(base, np.atleast_2d(theta), ONE, 1000)


def quadrature(session, sigma_max):
    found = log_partition_at(session, ONE, sigma_max)
    return Estimate(float(found.values[0]), float(found.errors[0]))


def by_quadrature(law, theta, sigma_max=80.0, dtype="float32"):
    base = ak.base.Denoiser(law.denoise, law.shape, sigma_min=0.002, sigma_max=sigma_max, exact=True, dtype=dtype)
    return quadrature(TorchTiltSampler().open(program(base, theta)), sigma_max)


def direction(seed):
    unit = np.random.default_rng(seed).normal(size=16)
    return unit / np.linalg.norm(unit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("strength", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_mixtures_log_partition_is_found_within_its_error(strength, seed, dtype):
    theta = strength * direction(seed)
    found, truth = by_quadrature(MIXTURE, theta, dtype=dtype), MIXTURE.log_partition(theta)[0]
    # The error is numerical, not statistical: a rounding of float32 may come on top.
    assert abs(found.value - truth) < 3 * found.standard_error + 5e-4
    assert found.standard_error < 0.01


def test_the_error_shrinks_as_the_noise_grows_and_stays_honest():
    theta, truth = 2 * direction(5), MIXTURE.log_partition(2 * direction(5))[0]
    found = {sigma: by_quadrature(MIXTURE, theta, sigma, "float64") for sigma in (20.0, 40.0, 80.0)}
    errors = [abs(estimate.value - truth) for estimate in found.values()]
    assert errors[0] > errors[1] > errors[2] or max(errors) < 1e-4
    assert all(
        error < 3 * estimate.standard_error + 1e-4 for error, estimate in zip(errors, found.values(), strict=True)
    )


def test_a_zero_tilt_has_no_log_partition():
    assert float(by_quadrature(MIXTURE, np.zeros(16))) == 0.0


def test_modes_far_apart_need_more_nodes_and_get_them():
    """The tilted mean jumps from one mode to the other along the path."""
    law = ak.base.GaussianMixture([0.999, 0.001], [[-5.0], [5.0]], 0.01)
    found = by_quadrature(law, np.array([2.0]), 200.0, "float64")
    truth = law.log_partition([2.0])[0]
    assert abs(found.value - truth) < 3 * found.standard_error + 1e-4
    assert abs(found.value - truth) < 0.02


def laplace(x, sigma):
    """The posterior mean of the Laplace law of scale 1: two truncated normals."""
    x, s = x.double(), sigma.double()[:, None]
    left, right = (x + s**2) / s, (x - s**2) / s
    logs = torch.stack([x + torch.special.log_ndtr(-left), -x + torch.special.log_ndtr(right)])

    def hazard(t):
        return torch.exp(-0.5 * t**2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(t))

    means = torch.stack([x + s**2 - s * hazard(-left), x - s**2 + s * hazard(right)])
    return (torch.softmax(logs, dim=0) * means).sum(dim=0)


class TestExponentialTails:
    """The Laplace law has log E exp(tx) = −log(1 − t²) for t < 1, and none beyond."""

    BASE = ak.base.Denoiser(laplace, (1,), sigma_min=0.01, sigma_max=100.0, exact=True, dtype="float64")

    @pytest.mark.parametrize("theta", [0.3, -0.7, 0.9])
    def test_proper_tilts(self, theta):
        found = quadrature(TorchTiltSampler().open(program(self.BASE, [theta])), 100.0)
        assert abs(found.value + math.log(1 - theta**2)) < 3 * found.standard_error + 1e-4

    @pytest.mark.parametrize("theta", [1.1, -1.5, 4.0])
    def test_improper_tilts_are_an_error_before_any_draw(self, theta):
        x = ak.Variable((1,))
        with pytest.raises(ImproperTargetError, match="no exponential moment") as caught:
            ak.Problem(theta * x[0], self.BASE, ak.KL(weight=1.0)).solve(seed=0)
        assert any("Raise the weight" in way for way in caught.value.ways_out)


class TestManyTilts:
    def test_laws_know_their_own(self):
        base = ak.base.GaussianMixture([1.0], [[0.0, 0.0]], 1.0)
        partition = TiltPartition(TiltProgram(base, np.eye(2), np.zeros((0, 2)), 1), None)
        tilts = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
        values, errors = partition(tilts)
        np.testing.assert_allclose(values, [0.5, 2.0, 0.5])
        assert partition.method == "closed form" and not errors.any()

    def test_a_tilt_asked_for_again_costs_nothing(self):
        base = ak.base.Denoiser(MIXTURE.denoise, (16,), sigma_min=0.002, sigma_max=80.0, exact=True)
        session = TorchTiltSampler().open(program(base, np.eye(2, 16)))
        partition = TiltPartition(TiltProgram(base, np.eye(2, 16), np.zeros((0, 2)), 1), session)
        first, _ = partition(np.array([[1.0, 0.0], [0.5, 0.5]]))
        spent = session.evaluations
        again, _ = partition(np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]))
        assert session.evaluations == spent and np.array_equal(again, first[[1, 0, 1]])
