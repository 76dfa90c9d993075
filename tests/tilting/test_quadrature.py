"""log Z of many tilts from an exact denoiser, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import ImproperTargetError
from alignkit.tilting.quadrature import PartitionQuadrature, log_partition_at
from alignkit_torch.tilt_sampler import TorchTiltSampler

MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
PLANE = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 2)))[0].T


def session(directions, dtype, law=MIXTURE):
    base = ak.base.Denoiser(law.denoise, law.shape, sigma_min=0.002, sigma_max=80.0, exact=True, dtype=dtype)
    return TorchTiltSampler().open(TiltProgram(base, directions, np.zeros((0, len(directions))), 1))


def lattice(spacing, count):
    along = spacing * np.arange(-count, count + 1)
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 5e-3), ("float64", 1e-4)])
def test_a_lattice_of_tilts_costs_few_evaluations_each(dtype, bar):
    tilts = lattice(0.4, 12)
    opened = session(PLANE, dtype)
    before = opened.evaluations
    found = log_partition_at(opened, tilts, 80.0)
    errors = np.abs(found.values - MIXTURE.log_partition(tilts @ PLANE))
    assert errors.max() <= bar
    # A rounding of float32 may come on top of the numerical error.
    assert np.all(errors <= 3 * found.errors + bar / 2)
    assert found.nfe == opened.evaluations - before <= 10 * len(tilts)


def test_directions_of_different_lengths_and_tilts_out_of_order():
    directions = PLANE * np.array([[0.01], [3.0]])
    tilts = np.random.default_rng(0).normal(size=(40, 2)) * [100.0, 0.5]
    found = log_partition_at(session(directions, "float64"), tilts, 80.0)
    errors = np.abs(found.values - MIXTURE.log_partition(tilts @ directions))
    assert np.all(errors <= 3 * found.errors + 1e-4) and found.errors.max() < 0.01


def test_the_tilt_0_has_none_and_costs_no_error():
    found = log_partition_at(session(PLANE, "float32"), np.array([[0.0, 0.0], [1.0, 0.0]]), 80.0)
    assert found.values[0] == 0.0 and found.errors[0] == 0.0


def test_one_improper_tilt_among_proper_ones_is_found():
    # At any noise the denoiser of N(0, 100²) is far from its limit, so that V grows with σ.
    wide = ak.base.Gaussian(np.zeros(2), 1e4)
    with pytest.raises(ImproperTargetError, match="keeps growing"):
        log_partition_at(session(np.eye(2), "float64", wide), np.array([[0.001, 0.0], [0.5, 0.5]]), 80.0)


def test_what_was_found_helps_with_tilts_further_out():
    quadrature = PartitionQuadrature(session(PLANE, "float64"), 80.0)
    tilts = lattice(0.4, 12)
    order = np.argsort(np.linalg.norm(tilts, axis=1), kind="stable")
    parts = [quadrature(tilts[part]) for part in np.array_split(order, 8)]
    found = np.concatenate([part.values for part in parts])
    assert quadrature.nfe == sum(part.nfe for part in parts[1:]) + parts[0].nfe <= 10 * len(tilts)
    np.testing.assert_allclose(found, MIXTURE.log_partition(tilts[order] @ PLANE), atol=1e-3)
