"""Annealed Monte Carlo on noise, for rewards of which nothing is known but their values."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import BackendRefusedError, NonFiniteError, ParameterError, ShapeError
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.heuristic import fit_heuristic
from alignkit_torch.tilt_sampler import TorchTiltSampler

D = 5
RNG = np.random.default_rng(3)
ROOT = np.tril(RNG.normal(size=(D, D))) / 3 + np.eye(D)
MEAN, COVARIANCE = RNG.normal(size=D), ROOT @ ROOT.T
GAUSSIAN = ak.base.Gaussian(MEAN, COVARIANCE)
A = RNG.normal(size=(2, D))
SAMPLERS = {"exact": ExactTiltSampler, "torch": TorchTiltSampler}


def fit(base, reward, weight=1.0, sampler="exact", **options):
    program = TiltProgram(base, np.zeros((1, base.ambient)), np.zeros((1, 1)), 1000)
    options = {"seed": 0, "particles": 2048} | options
    return fit_heuristic(program, SAMPLERS[sampler]().open(program), reward, weight, **options)


def minus_half_square(x):
    return -0.5 * ((np.asarray(x, dtype=np.float64) @ A.T) ** 2).sum(axis=1)


def tilted_gaussian(weight):
    """Mean, covariance, log Z and E_q[r/λ] of N(m, S)·exp(−½‖Ax‖²/λ)."""
    precision = np.linalg.inv(COVARIANCE)
    covariance = np.linalg.inv(precision + A.T @ A / weight)
    mean = covariance @ precision @ MEAN
    log_z = 0.5 * (mean @ np.linalg.solve(covariance, mean) - MEAN @ precision @ MEAN)
    log_z += 0.5 * (np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(COVARIANCE)[1])
    return mean, covariance, log_z, -0.5 * (np.sum((A @ mean) ** 2) + np.trace(A @ covariance @ A.T)) / weight


class TestAConcaveQuadraticOfAGaussian:
    # Beside standard errors, what 31 evaluations leave of the law that the denoiser's sampler has.
    @pytest.mark.parametrize(("sampler", "bias"), [("exact", 0.0), ("torch", 0.01)])
    def test_moments_are_the_closed_forms(self, sampler, bias):
        weight, rows = 0.5, 4000
        mean, covariance, log_z, exponent = tilted_gaussian(weight)
        fitted = fit(GAUSSIAN, minus_half_square, weight, sampler)
        truth = {"log_partition": log_z, "after": exponent, "kl": exponent - log_z}
        for name, value in truth.items():
            estimate = getattr(fitted.moments, name)
            assert 0 < estimate.standard_error < 0.1
            assert abs(estimate.value - value) <= 4.5 * estimate.standard_error + bias, name
        drawn = np.asarray(fitted.sample(rows, seed=1), dtype=np.float64)
        sd = np.sqrt(np.diag(covariance))
        # Draws share particles: they are worth fewer than they are.
        noise = 4.5 * math.sqrt(1 / rows + 3 / fitted.particles.exponents.size)
        assert (abs(drawn.mean(axis=0) - mean) < (noise + bias) * sd).all()
        assert (abs(np.cov(drawn.T) - covariance) < (1.5 * noise + bias) * np.outer(sd, sd)).all()

    def test_standard_errors_are_those_of_replicates(self):
        _, _, log_z, exponent = tilted_gaussian(0.5)
        found = [fit(GAUSSIAN, minus_half_square, 0.5, seed=seed, particles=512).moments for seed in range(60)]
        for name, value in {"log_partition": log_z, "after": exponent, "kl": exponent - log_z}.items():
            estimates = [getattr(moments, name) for moments in found]
            scores = np.array([(estimate.value - value) / estimate.standard_error for estimate in estimates])
            # Student's t with 15 degrees of freedom; log Ẑ is low by half its variance besides.
            assert abs(scores.mean()) < 0.5 and 0.75 < scores.std() < 1.4, name

    def test_the_certificate_says_what_happened(self):
        fitted = fit(GAUSSIAN, minus_half_square, 0.2)
        details = fitted.moments.details
        assert {"annealing", "ancestors", "Metropolis", "settling"} <= set(details)
        assert "smallest ESS" in details["annealing"] and "acceptance" in details["Metropolis"]
        assert 0.01 < fitted.size < 1.0
        assert 1 < fitted.moments.ess <= 2048


def test_a_sine_reward_on_a_mixture_is_the_quadrature():
    law = ak.base.GaussianMixture([0.3, 0.7], [[-2.0], [1.5]], 0.4)
    grid = np.linspace(-8, 8, 200_001)
    density = sum(w * np.exp(-((grid - m) ** 2) / 0.8) / math.sqrt(0.8 * math.pi) for w, m in ((0.3, -2.0), (0.7, 1.5)))
    exponent = 2.0 * np.sin(3.0 * grid)
    mass = density * np.exp(exponent)
    z = np.trapezoid(mass, grid)
    truth = {"log_partition": math.log(z), "after": np.trapezoid(mass * exponent, grid) / z}
    truth["kl"] = truth["after"] - truth["log_partition"]
    fitted = fit(law, lambda x: np.sin(3.0 * x[:, 0]), 0.5)
    for name, value in truth.items():
        estimate = getattr(fitted.moments, name)
        assert abs(estimate.value - value) <= 4.5 * estimate.standard_error, name
    drawn = fitted.sample(4000, seed=2)[:, 0]
    left = np.trapezoid(mass[grid < 0], grid[grid < 0]) / z
    # The share of a mode rests on the particles.
    assert abs((drawn < 0).mean() - left) < 4.5 * math.sqrt(left * (1 - left) * (1 / 4000 + 2 / 2048))


def test_data_points_are_reweighted():
    data = np.arange(4.0)[:, None]
    fitted = fit(ak.base.Empirical(data), lambda x: x[:, 0] ** 2, 3.0)
    weights = np.exp(data[:, 0] ** 2 / 3.0)
    assert fitted.moments.log_partition.value == pytest.approx(
        math.log(weights.mean()), abs=4.5 * fitted.moments.log_partition.standard_error
    )
    drawn = np.bincount(fitted.sample(4000, seed=1)[:, 0].astype(int), minlength=4) / 4000
    np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.05)


class TestForbiddenDraws:
    def test_minus_infinity_cuts_the_law_off(self):
        law = ak.base.Gaussian([0.0], 1.0)
        fitted = fit(law, lambda x: np.where(x[:, 0] > 0, -x[:, 0], -np.inf))
        # ∫₀^∞ φ(x)·e^{−x} dx = e^½·Φ(−1)
        truth = 0.5 + math.log(0.5 * math.erfc(1 / math.sqrt(2)))
        found = fitted.moments.log_partition
        assert abs(found.value - truth) <= 4.5 * found.standard_error
        assert (fitted.sample(1000, seed=0) > 0).all()
        assert fitted.moments.before.value == -math.inf
        share = float(re.search(r"([\d.]+)% of the base draws", fitted.moments.details["forbidden"]).group(1))
        assert abs(share - 50) < 450 * math.sqrt(0.25 / 2048)

    def test_too_few_allowed_draws_are_an_error(self):
        with pytest.raises(ParameterError, match=r"−∞ at 2048 of 2048"):
            fit(GAUSSIAN, lambda x: np.full(len(x), -np.inf))


class TestDraws:
    def test_rows_do_not_depend_on_their_number(self):
        fitted = fit(GAUSSIAN, minus_half_square)
        whole = fitted.sample(50, seed=4)
        np.testing.assert_array_equal(fitted.sample(7, seed=4), whole[:7])
        assert (fitted.sample(50, seed=5) != whole).any(axis=1).mean() > 0.9

    def test_a_fit_repeats(self):
        first, second = (fit(GAUSSIAN, minus_half_square, sampler="torch", particles=64) for _ in range(2))
        assert first.moments == second.moments
        assert (first.sample(5, seed=0) == second.sample(5, seed=0)).all()

    def test_more_draws_than_particles_are_mostly_different(self):
        fitted = fit(GAUSSIAN, minus_half_square, particles=64)
        drawn = fitted.sample(1000, seed=0)
        assert len(np.unique(drawn, axis=0)) > 700

    def test_progress_is_told(self):
        told = []
        fitted = fit(GAUSSIAN, minus_half_square, progress=lambda *event: told.append(event))
        assert told[-1] == ("annealing", 100, 100)
        told.clear()
        fitted.sample(10, seed=0, progress=lambda *event: told.append(event))
        assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
        assert told[-1] == ("sampling", 10, 10)


class TestDigits:
    def test_a_linear_black_box_agrees_with_reweighted_draws(self):
        """The law of the sampler itself, reweighted, is what the steps on its noise are exact for."""
        base = ak.base.digits()
        theta = 2.0 * np.ones(64) / 8
        kinds = set()

        def reward(x):
            kinds.add((type(x), x.dtype))
            return (x.reshape(len(x), -1) @ torch.full((64,), 0.25)).double().numpy()

        fitted = fit(base, reward, sampler="torch", particles=512)
        assert kinds == {(torch.Tensor, torch.float32)}
        scores = base.sample(5000, seed=77).reshape(-1, 64).astype(np.float64) @ theta
        weights = np.exp(scores - scores.max())
        log_z, log_z_error = scores.max() + math.log(weights.mean()), weights.std() / weights.mean() / math.sqrt(5000)
        weights /= weights.sum()
        mean = weights @ scores
        mean_error = math.sqrt(weights**2 @ (scores - mean) ** 2)
        after, found = fitted.moments.after, fitted.moments.log_partition
        assert abs(after.value - mean) <= 4 * math.hypot(after.standard_error, mean_error)
        assert abs(found.value - log_z) <= 4 * math.hypot(found.standard_error, log_z_error)
        assert after.value > fitted.moments.before.value + scores.std() / 2
        assert fitted.moments.nfe_per_sample == 6 * 63


class TestBadInput:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_rewards_that_are_no_number_name_the_row(self, value):
        def reward(x):
            out = np.zeros(len(x))
            out[7] = value
            return out

        with pytest.raises(NonFiniteError, match="at 1 of 2048 draws, the first at row 7, among draws of the base"):
            fit(GAUSSIAN, reward)

    def test_rewards_that_fail_later_name_the_stage(self):
        calls = []

        def reward(x):
            calls.append(1)
            return minus_half_square(x) if len(calls) < 3 else np.full(len(x), np.nan)

        with pytest.raises(NonFiniteError, match="in stage 1 of annealing"):
            fit(GAUSSIAN, reward, 0.1)

    def test_rewards_of_another_shape(self):
        with pytest.raises(ShapeError, match=r"\(2048, 5\)"):
            fit(GAUSSIAN, lambda x: x)

    def test_sessions_without_a_map_from_noise(self):
        class DrawsAlone:
            nfe_per_draw = 0

        program = TiltProgram(GAUSSIAN, np.zeros((1, D)), np.zeros((1, 1)), 10)
        with pytest.raises(BackendRefusedError, match="no map from noise"):
            fit_heuristic(program, DrawsAlone(), minus_half_square, 1.0, seed=0)

    @pytest.mark.parametrize("particles", [0, 16, 100])
    def test_numbers_of_particles_that_do_not_fill_islands(self, particles):
        with pytest.raises(ParameterError, match="multiple of 16"):
            fit(GAUSSIAN, minus_half_square, particles=particles)

    def test_rewards_too_strong_to_reach(self):
        with pytest.raises(ParameterError, match="too strong"):
            fit(GAUSSIAN, lambda x: 1e12 * x[:, 0] ** 2, particles=32)


LAWS = {
    "mixture": ak.base.GaussianMixture(
        [0.2, 0.8], RNG.normal(size=(2, 3)), np.stack([np.eye(3), np.diag([0.1, 2.0, 0.5])])
    ),
    "data": ak.base.Empirical(RNG.normal(size=(9, 2, 2))),
    "shaped": ak.base.Gaussian(np.ones((2, 2)), 0.5),
}


class TestMapsFromNoise:
    @pytest.mark.parametrize("name", LAWS)
    def test_laws_are_pushed_forward(self, name):
        law, rows = LAWS[name], 20_000
        session = ExactTiltSampler().open(TiltProgram(law, np.zeros((1, law.ambient)), np.zeros((1, 1)), rows))
        x = session.from_noise(session.noise(rows, seed=0))
        assert x.shape == (rows, *law.shape)
        flat, sd = x.reshape(rows, -1), np.sqrt(np.diag(law.covariance))
        np.testing.assert_allclose(flat.mean(axis=0), law.mean, atol=4.5 * sd.max() / math.sqrt(rows))
        np.testing.assert_allclose(np.cov(flat.T), law.covariance, atol=9 * sd.max() ** 2 / math.sqrt(rows))

    def test_the_denoisers_map_is_its_draw(self):
        session = TorchTiltSampler().open(TiltProgram(GAUSSIAN, np.zeros((1, D)), np.zeros((1, 1)), 10))
        noise = session.noise(9, seed=3, stage=2, first_row=4)
        drawn = session.draw(np.zeros((1, 1)), 9, seed=3, stage=2, first_row=4)
        torch.testing.assert_close(session.from_noise(noise), drawn)
        torch.testing.assert_close(session.from_noise(noise[5:]), drawn[5:])
