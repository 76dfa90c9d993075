"""Sampler loops as users of k-diffusion write them, run unchanged on tilted laws.

Their convention: `model(x, sigma, **extra_args)` gives the denoised, sigma holds a level for each row, levels fall from
σ_max to 0, and x starts as noise times the first of them. Nothing in the loops knows of alignkit.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.tilting import annealed
from tests.benchmarks import mixture
from tests.benchmarks.digits import reweighted

pytestmark = pytest.mark.usefixtures("one_thread")


def karras_levels(n, sigma_min, sigma_max, rho=7.0):
    ramp = torch.linspace(0, 1, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])


@torch.no_grad()
def sample_euler(model, x, sigmas, extra_args=None):
    extra_args = extra_args or {}
    s_in = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * s_in, **extra_args)
        d = (x - denoised) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


@torch.no_grad()
def sample_heun(model, x, sigmas, extra_args=None):
    extra_args = extra_args or {}
    s_in = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        step = sigmas[i + 1] - sigmas[i]
        d = (x - model(x, sigmas[i] * s_in, **extra_args)) / sigmas[i]
        guess = x + d * step
        if sigmas[i + 1] > 0:
            after = (guess - model(guess, sigmas[i + 1] * s_in, **extra_args)) / sigmas[i + 1]
            d = (d + after) / 2
        x = x + d * step
    return x


@torch.no_grad()
def sample_dpmpp_2m(model, x, sigmas, extra_args=None):
    extra_args = extra_args or {}
    s_in = x.new_ones([x.shape[0]])
    before = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * s_in, **extra_args)
        if sigmas[i + 1] == 0:
            return denoised
        h = (sigmas[i] / sigmas[i + 1]).log()
        estimate = denoised
        if before is not None:
            ratio = (sigmas[i - 1] / sigmas[i]).log() / h
            estimate = denoised + (denoised - before) / (2 * ratio)
        x = sigmas[i + 1] / sigmas[i] * x - torch.expm1(-h) * estimate
        before = denoised
    return x


#: The loop, and how many levels above 0 make about 31 evaluations, or what a first-order method needs in their place.
LOOPS = {"euler": (sample_euler, 80), "heun": (sample_heun, 24), "dpmpp_2m": (sample_dpmpp_2m, 31)}


def run(name, law, rows, seed):
    sampler, levels = LOOPS[name]
    sigmas = karras_levels(levels, law.sigma_min, law.sigma_max)
    x = torch.randn(rows, *law.shape, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    return sampler(law, x, sigmas, extra_args={}).double().numpy()


class TestMixture:
    ROWS, SEEDS = 2000, 3

    @pytest.mark.parametrize("name", LOOPS)
    def test_draws_are_as_near_the_tilt_as_exact_draws(self, name):
        exact = mixture.law()
        direction = np.random.default_rng(5).normal(size=16)
        theta = 2.0 * direction / np.linalg.norm(direction)
        law, closed = ak.tilt(mixture.known_by_denoiser(exact), theta), exact.tilt(theta)
        distance = mixture.SlicedW2(closed.sample(100_000, seed=123))
        ours = np.array([distance(run(name, law, self.ROWS, seed)) for seed in range(self.SEEDS)])
        theirs = np.array([distance(closed.sample(self.ROWS, seed=seed)) for seed in range(30)])
        error = math.hypot(ours.std() / math.sqrt(ours.size), 1.15 * theirs.std() / math.sqrt(theirs.size))
        assert ours.mean() - 2 * error <= 1.15 * theirs.mean()
        # And the tilt is far beyond that: what is drawn of the base is somewhere else.
        assert distance(exact.sample(self.ROWS, seed=1)) > 5 * theirs.mean()


ROWS, REFERENCE, PARTICLES = 768, 4000, 1024
UNIT = np.full((8, 8), 1 / 8)
THETA = 2 * UNIT


def scores(x):
    return (np.asarray(x, dtype=np.float64) * UNIT).sum(axis=(1, 2))


@pytest.fixture(scope="module")
def digits():
    return ak.base.digits()


@pytest.fixture(scope="module")
def law(digits):
    """A quarter of the particles that a user has: their error is part of what is compared."""
    return ak.tilt(digits, THETA, seed=0, particles=PARTICLES)


@pytest.fixture(scope="module")
def native(digits):
    """Two samples of the native solution, which has the same particles."""
    x = ak.Variable(digits.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annealed, "_PARTICLES_MAX", PARTICLES)
        aligned = ak.Problem(ak.inner(THETA, x), digits, ak.KL(weight=1.0)).solve(seed=0)
    return [aligned.sample(ROWS, seed=seed).astype(np.float64) for seed in (1, 2)]


@pytest.fixture(scope="module")
def base_draws(digits):
    return digits.sample(REFERENCE, seed=2024).astype(np.float64)


@pytest.fixture(scope="module")
def draws(law):
    return {name: run(name, law, ROWS, seed=7) for name in LOOPS}


class TestDigits:
    @pytest.mark.parametrize("name", LOOPS)
    def test_they_meet_the_bar_of_reweighted_base_draws(self, law, base_draws, draws, name):
        before, found = scores(base_draws), scores(draws[name])
        truth, truth_error, size = reweighted(before, 2.0)
        assert size > 500
        error = found.std() * math.sqrt(1 / ROWS + 1 / law.ess)
        assert abs(found.mean() - truth) <= 0.05 * before.std() + 3 * math.hypot(error, truth_error)
        assert truth - before.mean() > 0.8 * before.std()

    @pytest.mark.parametrize("name", LOOPS)
    def test_they_agree_with_the_native_solution(self, native, draws, name):
        ours, theirs = scores(draws[name]), scores(np.concatenate(native))
        # The particles are the same, so that draws alone tell them apart, and a hundredth that steps of a solver leave.
        error = math.sqrt(ours.var() / ours.size + theirs.var() / theirs.size)
        assert abs(ours.mean() - theirs.mean()) <= 0.01 * theirs.std() + 3 * error
        assert abs(ours.std() / theirs.std() - 1) <= 0.05 + 3 * math.sqrt(0.75 / ROWS)

    @pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
    def test_they_are_as_near_native_draws_as_those_are_to_each_other(self, native, draws, name):
        first, second = (rows.reshape(ROWS, 64) for rows in native)
        distance = mixture.SlicedW2(first)
        assert distance(draws[name].reshape(ROWS, 64)) <= 1.3 * distance(second)

    def test_so_does_the_laws_own_sampler(self, law, native):
        ours, theirs = scores(law.sample(ROWS, seed=3)), scores(np.concatenate(native))
        error = math.sqrt(ours.var() / ours.size + theirs.var() / theirs.size)
        assert abs(ours.mean() - theirs.mean()) <= 0.01 * theirs.std() + 3 * error


class TestAsABase:
    """The tilted digits under rewards of their own."""

    def test_under_kl(self, law, base_draws, monkeypatch):
        monkeypatch.setattr(annealed, "_PARTICLES_MAX", 512)
        top = np.zeros((8, 8))
        top[:4] = 1 / math.sqrt(32)
        x = ak.Variable(law.shape)
        certificate = ak.Problem(ak.inner(top, x), law, ak.KL(weight=1.0)).solve(seed=1).certificate
        values = (base_draws * top).sum(axis=(1, 2))
        weights = np.exp(2 * scores(base_draws) + values)
        weights /= weights.sum()
        truth = weights @ values
        assert 1 / (weights**2).sum() > 300
        truth_error = math.sqrt(weights**2 @ (values - truth) ** 2)
        error = math.hypot(certificate.reward_after.standard_error, truth_error)
        assert abs(certificate.reward_after.value - truth) <= 0.05 * values.std() + 3 * error
        assert certificate.calibration.holds

    def test_under_wasserstein(self, law):
        x = ak.Variable(law.shape)
        aligned = ak.Problem(-ak.norm1(x[:, :2] + 1.0), law, ak.Wasserstein(weight=4.0)).solve(seed=0)
        assert aligned.status is ak.errors.Status.SOLVED and aligned.certificate.gap_max <= 1e-6
        before, after = (rows.astype(np.float64) for rows in aligned.sample(64, seed=2, return_base=True))
        edge = np.sign(before[:, :, :2] + 1) * np.maximum(abs(before[:, :, :2] + 1) - 0.25, 0.0) - 1
        np.testing.assert_allclose(after[:, :, :2], edge, atol=1e-5)
        np.testing.assert_allclose(after[:, :, 2:], before[:, :, 2:], atol=1e-5)
