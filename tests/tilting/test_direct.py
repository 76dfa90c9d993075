"""The direct engine: moments and draws of one tilt, in closed form and by an exact denoiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.tilting.direct import fit_direct
from alignkit.tilting.exact import ExactTiltSampler
from alignkit_torch.tilt_sampler import TorchTiltSampler

LAWS = {
    "Gaussian": ak.base.Gaussian([1.0, -1.0], [[1.0, 0.5], [0.5, 2.0]]),
    "mixture": ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0]),
    "data": ak.base.Empirical(np.random.default_rng(0).normal(size=(200, 2))),
}
THETA = np.array([0.8, -0.4])


def program(base):
    return TiltProgram(base, THETA[None], np.ones((1, 1)), 1000)


def by_denoiser(law):
    return ak.base.Denoiser(law.denoise, law.shape, sigma_min=0.01, sigma_max=100.0, exact=True, dtype="float64")


def truth(law):
    return THETA @ law.mean, THETA @ law.tilt(THETA).mean, law.log_partition(THETA)[0]


@pytest.mark.parametrize("name", LAWS)
class TestMoments:
    def test_closed_forms_have_no_error(self, name):
        law = LAWS[name]
        fitted = fit_direct(program(law), ExactTiltSampler().open(program(law)), seed=0)
        moments = fitted.moments
        for found, expected in zip((moments.before, moments.after, moments.log_partition), truth(law), strict=True):
            assert found.value == pytest.approx(expected, rel=1e-12) and found.standard_error == 0
        assert moments.nfe_per_sample == 0 and math.isinf(moments.ess) and moments.calibration is None

    @pytest.mark.parametrize("known_by", ["law", "denoiser"])
    def test_an_ode_finds_them_within_its_errors(self, name, known_by):
        law = LAWS[name]
        base = law if known_by == "law" else by_denoiser(law)
        moments = fit_direct(program(base), TorchTiltSampler().open(program(base)), seed=0).moments
        before, after, log_partition = truth(law)
        sd = math.sqrt(THETA @ law.tilt(THETA).covariance @ THETA)
        assert abs(moments.before.value - before) < 4 * moments.before.standard_error + 0.02 * sd
        assert abs(moments.after.value - after) < 4 * moments.after.standard_error + 0.02 * sd
        assert abs(moments.log_partition.value - log_partition) < 3 * moments.log_partition.standard_error + 1e-4
        assert moments.after.standard_error == pytest.approx(sd / math.sqrt(1024), rel=0.2)
        assert moments.nfe_per_sample == 31

    def test_draws_follow_the_tilted_law(self, name):
        law, n = LAWS[name], 8000
        fitted = fit_direct(program(law), ExactTiltSampler().open(program(law)), seed=0)
        scores = fitted.sample(n, seed=1).reshape(n, -1) @ THETA
        sd = math.sqrt(THETA @ law.tilt(THETA).covariance @ THETA)
        assert abs(scores.mean() - truth(law)[1]) < 4.5 * sd / math.sqrt(n)


def test_pilots_and_samples_share_no_noise():
    base = by_denoiser(LAWS["Gaussian"])
    session = TorchTiltSampler().open(program(base))
    seen = []

    class Recording:
        nfe_per_draw = session.nfe_per_draw

        def __getattr__(self, name):
            return getattr(session, name)

        def draw(self, coordinates, rows, *, seed, **options):
            seen.append(seed)
            return session.draw(coordinates, rows, seed=seed, **options)

    fit_direct(program(base), Recording(), seed=7).sample(3, seed=7)
    assert len(set(seen)) == 3


def test_the_seed_of_the_fit_changes_the_pilots_alone():
    base = by_denoiser(LAWS["mixture"])
    fits = [fit_direct(program(base), TorchTiltSampler().open(program(base)), seed=seed) for seed in (0, 1)]
    assert fits[0].moments.after != fits[1].moments.after
    assert fits[0].moments.log_partition == fits[1].moments.log_partition
    assert torch.equal(fits[0].sample(4, seed=5), fits[1].sample(4, seed=5))
