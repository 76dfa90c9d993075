"""The annealed engine: against exact tilts where the denoiser is right, and found out where it is wrong."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import NonFiniteError, ParameterError, Status
from alignkit.tilting.annealed import fit_annealed, particle_count
from alignkit.tilting.calibration import calibrate
from alignkit.tilting.engines import fit_tilt
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.measures import FiniteMeasure
from alignkit.tilting.path import TiltPath
from alignkit.tilting.target import TiltTarget
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.rank_eight import RankEight

MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
SMALL = ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0])
GAUSSIAN = ak.base.Gaussian(np.zeros(16), 1.0)
ONE = np.ones((1, 1))
UNIT = np.full(16, 0.25)


def learned(law, **options):
    """A law known through its denoiser, without the promise that it is exact."""
    is_law = isinstance(law, ak.base.BaseLaw)
    denoise, shape = (law.denoise, law.shape) if is_law else (law, (16,))
    return ak.base.Denoiser(denoise, shape, sigma_min=0.002, sigma_max=80.0, **options)


def linear(base, theta):
    """The target of one linear tilt."""
    return TiltTarget(TiltProgram(base, np.atleast_2d(theta), ONE, 1000), None, 1.0, np.ones(1))


def fit(base, theta, seed=0, **options):
    target = linear(base, theta)
    return fit_annealed(target, TorchTiltSampler().open(target.program), seed=seed, **options)


def ignoring(limit):
    """The denoiser of N(0, I) that takes no notice of inputs outside the typical set, as networks do."""

    def denoise(x, sigma):
        width = torch.sqrt(1 + sigma[:, None] ** 2)
        length = torch.linalg.vector_norm(x / width, dim=1, keepdim=True)
        return torch.where(length < limit * math.sqrt(x.shape[1]), x / width**2, 0 * x)

    return denoise


class TestAgainstExactTilts:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize(
        ("law", "theta"),
        [(SMALL, [0.8, -0.4]), (SMALL, [-3.0, 1.0]), (MIXTURE, 2 * UNIT), (GAUSSIAN, 3 * UNIT)],
        ids=["gentle", "to the other mode", "16-d mixture", "Gaussian"],
    )
    def test_log_z_and_the_mean_are_within_four_errors(self, law, theta, seed):
        theta = np.asarray(theta)
        moments = fit(learned(law, dtype="float64"), theta, seed).moments
        spread = math.sqrt(theta @ law.covariance @ theta)
        for found, truth in (
            (moments.before, theta @ law.mean),
            (moments.log_partition, law.log_partition(theta)[0]),
            (moments.after, theta @ law.tilt(theta).mean),
        ):
            # The solver's own error, a hundredth of a base standard deviation, is not statistical.
            assert abs(found.value - truth) < 4 * found.standard_error + 0.01 * spread
            assert 0 < found.standard_error < 0.15 * spread

    def test_errors_are_neither_too_small_nor_too_large(self):
        theta = np.array([0.8, -0.4])
        fits = [fit(learned(SMALL, dtype="float64"), theta, seed).moments for seed in range(12)]
        for name, truth in (
            ("log_partition", SMALL.log_partition(theta)[0]),
            ("after", theta @ SMALL.tilt(theta).mean),
        ):
            scores = [(getattr(m, name).value - truth) / getattr(m, name).standard_error for m in fits]
            # Mean squares of 12 scores with errors on 16 islands.
            assert 0.2 < np.mean(np.square(scores)) < 3.0

    def test_draws_follow_the_tilted_law(self):
        theta, n = np.array([0.8, -0.4]), 8000
        fitted = fit(learned(SMALL, dtype="float64"), theta)
        scores = fitted.sample(n, seed=1).numpy() @ theta
        truth = SMALL.tilt(theta)
        sd = math.sqrt(theta @ truth.covariance @ theta)
        error = math.hypot(fitted.moments.after.standard_error, sd / math.sqrt(n))
        assert abs(scores.mean() - theta @ truth.mean) < 4.5 * error + 0.01 * sd
        assert abs(scores.std() / sd - 1) < 0.05

    def test_a_zero_tilt_is_the_base(self):
        moments = fit(learned(SMALL), np.zeros(2)).moments
        assert moments.log_partition.value == pytest.approx(0, abs=1e-12) and moments.after.value == 0.0
        assert moments.calibration.holds and moments.calibration.z_score == 0


class TestSamples:
    FITTED = fit(learned(SMALL), [0.8, -0.4])

    def test_the_same_seed_gives_the_same_fit_and_draws(self):
        again = fit(learned(SMALL), [0.8, -0.4])
        assert again.moments.after == self.FITTED.moments.after
        assert torch.equal(again.sample(9, seed=3), self.FITTED.sample(9, seed=3))

    def test_another_seed_gives_another_fit(self):
        assert fit(learned(SMALL), [0.8, -0.4], seed=1).moments.after != self.FITTED.moments.after

    def test_draw_i_does_not_depend_on_n(self):
        np.testing.assert_allclose(self.FITTED.sample(40, seed=3)[:5], self.FITTED.sample(5, seed=3), atol=1e-5)

    def test_draws_are_more_than_the_particles(self):
        """A draw is a particle moved afresh, so two of one particle differ."""
        draws = self.FITTED.sample(9000, seed=0).numpy()
        assert np.unique(draws, axis=0).shape[0] == 9000

    def test_the_particles_weights_sum_to_one(self):
        assert self.FITTED.weights.sum() == pytest.approx(1) and (self.FITTED.weights > 0).all()
        assert len(self.FITTED.weights) == len(self.FITTED.particles)


class TestMoments:
    def test_fields(self):
        moments = fit(learned(MIXTURE), 3 * UNIT).moments
        assert 100 < moments.ess <= 4096
        assert moments.nfe_per_sample == 31
        calibration = moments.calibration
        assert 0 < calibration.strength < 1 and calibration.sigma > 0 and calibration.standard_error > 0
        assert {"annealing", "ancestors"} <= moments.details.keys()
        assert "stages of 4096 particles" in moments.details["annealing"]

    def test_stronger_tilts_take_more_stages(self):
        def stages(strength):
            return int(fit(learned(GAUSSIAN), strength * UNIT).moments.details["annealing"].split()[0])

        assert stages(0.5) == 1
        assert stages(1.0) <= stages(3.0) < stages(6.0)

    def test_progress_reaches_the_whole_tilt(self):
        told = []
        fit(learned(SMALL), [3.0, 0.0], progress=lambda *report: told.append(report))
        annealing = [done for stage, done, total in told if stage == "annealing" and total == 100]
        assert annealing == sorted(annealing) and annealing[-1] == 100


class TestCalibration:
    """The check must pass where the denoiser is right, and fail where it is wrong."""

    def calibrated(self, base, theta, seed=0):
        target = linear(base, theta)
        session = TorchTiltSampler().open(target.program)
        x = session.draw(np.zeros((1, 1)), 4096, seed=seed)
        return calibrate(TiltPath(target, None), session, x, session.features(x), seed=seed, nfe=31)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_right_denoisers_pass_and_keep_the_boldest_move(self, seed):
        found = self.calibrated(learned(GAUSSIAN), 2 * UNIT, seed)
        assert found.holds and abs(found.z_score) < 4
        assert found.sigma == pytest.approx(4.0, rel=0.05)
        # The one-shot start is right there, too.
        assert abs(found.naive_residual) < 0.15

    @pytest.mark.parametrize("limit", [1.5, 2.0])
    def test_networks_that_ignore_moved_inputs_show_in_the_naive_start(self, limit):
        found = self.calibrated(learned(ignoring(limit)), 2 * UNIT)
        assert found.naive_residual < -0.15

    def test_a_gentler_move_is_chosen_where_the_bold_one_is_wrong(self):
        found = self.calibrated(learned(ignoring(1.4)), 2 * UNIT)
        assert found.sigma < 3.0 and found.holds

    def test_denoisers_that_contradict_their_own_draws_are_found_out(self):
        """Half the pull of the tilt: no noise scale is gentle enough."""

        def halved(x, sigma):
            shift = x @ torch.full((16, 1), 0.25) * 0.25
            return GAUSSIAN.denoise(x - 0.5 * shift, sigma)

        found = self.calibrated(learned(halved), 2 * UNIT)
        assert not found.holds and abs(found.z_score) > 5

    def test_what_breaks_beyond_the_reach_of_reweighting_is_found_on_the_way(self):
        """At a quarter of the tilt all is well; at the whole of it the network is lost."""
        x = ak.Variable((16,))
        base = learned(ignoring(2.0))
        aligned = ak.Problem(ak.inner(5 * UNIT, x), base, ak.KL(weight=1.0)).solve(seed=0)
        calibration = aligned.certificate.calibration
        assert calibration.strength < 0.4 and abs(calibration.residual) < 0.05 + 3 * calibration.standard_error
        assert aligned.status is Status.INACCURATE
        assert abs(calibration.drift.value) > 3 * calibration.drift.standard_error
        assert f"{calibration.drift.value:+.3f}" in str(aligned.certificate)

    def test_moves_get_gentler_on_the_way(self):
        gentle, strong = (fit(learned(ignoring(2.0)), strength * UNIT).moments for strength in (0.5, 4.0))
        assert strong.calibration.sigma < 0.5 * gentle.calibration.sigma
        # With the bold move all along, the mean reached 10.8 of 16.
        assert strong.after.value > 13.5

    def test_a_law_without_spread_needs_no_calibration(self):
        constant = learned(lambda x, sigma: torch.ones_like(x))
        moments = fit(constant, UNIT).moments
        assert moments.after.value == pytest.approx(4.0) and moments.log_partition.value == pytest.approx(4.0)
        assert moments.calibration.holds


GRID = np.stack(np.meshgrid(np.linspace(-9, 14, 461), np.linspace(-9, 12, 421), indexing="ij"), axis=-1).reshape(-1, 2)
SLOPE = np.array([0.3, -0.2])
W = ak.Variable(2)
REWARDS = {
    "quadratic": ak.quad_form(W, np.array([[0.4, 0.1], [0.1, 0.2]])) / 2,
    "max of affine": ak.norm_inf(2 * W + np.array([1.0, 0.0])),
    "labels": 2 * ak.log_sum_exp(np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]) @ W),
    "labels, a bound": 1.4 * ak.log_sum_exp(np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]) @ W),
    "cover": 1.5 * ak.norm2(W),
    "product": ak.square(W[0]) / 8 + ak.sum(ak.huber(W)) / 2,
}


STRONG_GRID = np.stack(np.meshgrid(*[np.arange(-13, 15, 0.05)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


def convex(base, reward, slope=SLOPE):
    """The target of f(x) + ⟨slope, x⟩ on the plane, at λ = 1."""
    program = TiltProgram(base, np.vstack([np.eye(2), slope]), np.zeros((1, 3)), 1000)
    return TiltTarget(program, reward, 1.0, np.ones(1))


def truth(reward, slope=SLOPE):
    """log Z, E_p[e], E_q[e] and E_q[x] for SMALL, by a sum over a grid."""
    law_logs = [
        np.log(weight) - ((GRID - mean) ** 2).sum(axis=1) / (2 * variance) - np.log(2 * np.pi * variance)
        for weight, mean, variance in zip([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0], strict=True)
    ]
    cell = 0.05**2
    density = np.exp(np.logaddexp(*law_logs)) * cell
    exponent = reward.value(GRID) + GRID @ slope
    tilted = density * np.exp(exponent)
    return np.log(tilted.sum()), density @ exponent, tilted @ exponent / tilted.sum(), tilted @ GRID / tilted.sum()


class TestConvexRewards:
    """Against sums over a grid, for measures that are the reward's and measures that bound it."""

    @pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS.keys())
    @pytest.mark.parametrize(
        ("base", "sampler"),
        [(SMALL, ExactTiltSampler()), (learned(SMALL, dtype="float64"), TorchTiltSampler())],
        ids=["exact draws", "learned"],
    )
    def test_log_z_means_and_draws(self, base, sampler, reward):
        target = convex(base, reward)
        fitted = fit_annealed(target, sampler.open(target.program), seed=0)
        log_z, before, after, mean = truth(reward)
        moments, n = fitted.moments, 8000
        draws = np.asarray(fitted.sample(n, seed=1))
        # The solver widens a draw by some thousandths, which the strongest of these rewards multiplies.
        slack = 0.0 if sampler.__class__ is ExactTiltSampler else 0.03
        for found, wanted in ((moments.before, before), (moments.log_partition, log_z), (moments.after, after)):
            assert abs(found.value - wanted) < 4 * found.standard_error + slack
            assert 0 < found.standard_error < 0.15
        assert abs(moments.kl.value - (after - log_z)) < 4 * moments.kl.standard_error + slack
        error = draws.std(axis=0) * math.hypot(1 / math.sqrt(n), 1 / math.sqrt(moments.ess))
        assert (abs(draws.mean(axis=0) - mean) < 4 * error + slack).all()
        assert moments.acceptance > 0.3 and "violated by 0 of" in moments.details.get("bound", "violated by 0 of")

    @pytest.mark.parametrize("name", ["max of affine", "cover"])
    def test_draw_i_does_not_depend_on_n_where_draws_are_rejected(self, name):
        target = convex(SMALL, REWARDS[name])
        fitted = fit_annealed(target, ExactTiltSampler().open(target.program), seed=0)
        assert fitted.moments.acceptance < 1.0
        np.testing.assert_array_equal(fitted.sample(300, seed=3)[:7], fitted.sample(7, seed=3))

    @pytest.mark.parametrize("name", ["labels", "max of affine"])
    def test_draws_know_the_islands_they_come_from(self, name):
        target = convex(SMALL, REWARDS[name])
        fitted = fit_annealed(target, ExactTiltSampler().open(target.program), seed=0)
        draws, islands = fitted.sample_by_island(2000, seed=3)
        np.testing.assert_array_equal(draws, fitted.sample(2000, seed=3))
        shares = fitted.weights.reshape(16, -1).sum(axis=1)
        assert (np.abs(np.bincount(islands, minlength=16) / 2000 - shares) < 4 * np.sqrt(shares / 2000) + 0.01).all()
        # Particles of the fifth island alone.
        weights = np.where(np.repeat(np.arange(16), fitted.weights.size // 16) == 4, fitted.weights, 0.0)
        _, islands = replace(fitted, weights=weights / weights.sum()).sample_by_island(50, seed=3)
        assert (islands == 4).all()

    def test_the_observed_acceptance_is_the_one_predicted(self):
        # Base draws barely reach where the tilt leads, so that the first cover is loose there.
        reward, target = 2.5 * ak.norm2(W), convex(SMALL, 2.5 * ak.norm2(W))
        fitted = fit_annealed(target, ExactTiltSampler().open(target.program), seed=0)
        found = fitted.moments.details["acceptance"]
        predicted, observed = float(found.split()[0]), float(found.split()[2])
        assert predicted > 0.8 and abs(observed / predicted - 1) < 0.1
        log_z = truth(reward)[0]
        assert abs(fitted.moments.log_partition.value - log_z) < 4 * fitted.moments.log_partition.standard_error

    @pytest.mark.parametrize("exact", [True, False], ids=["exact", "inexact"])
    def test_covers_follow_a_strong_reward_to_where_it_leads(self, exact):
        """Base draws are worth one or two where the reward leads: a cover chosen from them keeps next to nothing."""
        wide = ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], 1.0)
        options = {"exact": True, "tail": 1.0} if exact else {}
        reward = 4 * ak.norm2(W)
        target = convex(learned(wide, dtype="float64", **options), reward)
        fitted = fit_tilt(target, TorchTiltSampler(), engine="annealed", particles=2048, seed=0)
        logs = [
            math.log(share / (2 * np.pi)) - ((STRONG_GRID - mean) ** 2).sum(axis=1) / 2
            for share, mean in zip([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], strict=True)
        ]
        exponent = reward.value(STRONG_GRID) + STRONG_GRID @ SLOPE
        masses = np.logaddexp(*logs) + exponent + 2 * math.log(0.05)
        log_z = np.logaddexp.reduce(masses)
        moments = fitted.moments
        assert abs(moments.log_partition.value - log_z) < 3 * moments.log_partition.standard_error < 0.5
        after = np.exp(masses - log_z) @ exponent
        assert abs(moments.after.value - after) < 3 * moments.after.standard_error < 0.5
        assert moments.acceptance > 0.8 and "violated by 0 of" in moments.details["bound"]

    def test_a_wrong_bound_is_counted(self):
        target = convex(SMALL, ak.norm1(W), np.zeros(2))
        low = FiniteMeasure([[1.0, 1.0], [-1.0, -1.0]], [0.0, 0.0])
        fitted = fit_annealed(target, ExactTiltSampler().open(target.program), seed=0, measure=low)
        assert "violated by 0 of" not in fitted.moments.details["bound"]

    def test_rank_eight_in_64_dimensions(self):
        problem = RankEight.drawn()
        target = problem.target()
        session = TorchTiltSampler().open(target.program)
        fitted = fit_annealed(target, session, seed=0, measure=problem.measure())
        found = fitted.moments.log_partition
        assert problem.log_partition > 15
        assert abs(found.value - problem.log_partition) < min(0.2, 3 * found.standard_error + 0.05)
        assert found.standard_error < 0.15
        shares = problem.weights_of(fitted.sample(4000, seed=1).numpy().astype(np.float64))
        assert abs(shares - problem.weights).max() < 0.05
        assert session.evaluations / 10_000 + fitted.moments.nfe_per_sample <= 120

    def test_a_bound_that_keeps_nothing_is_refused(self):
        target = convex(SMALL, ak.norm2(W))
        loose = FiniteMeasure([[0.0, 0.0]], [60.0])
        with pytest.raises(ParameterError, match="too loose"):
            fit_annealed(target, ExactTiltSampler().open(target.program), seed=0, measure=loose)


def test_networks_that_return_nan_under_a_tilt():
    def denoise(x, sigma):
        far = torch.linalg.vector_norm(x, dim=1, keepdim=True) / torch.sqrt(1 + sigma[:, None] ** 2) > 11
        return torch.where(far, math.nan, GAUSSIAN.denoise(x, sigma))

    with pytest.raises(NonFiniteError, match="NaN") as caught:
        fit(learned(denoise), 6 * UNIT)
    # The naive start fails as well, and is only reported.
    assert re.search(r"in stage \d+ of annealing, at \d+\.\d% of r/λ", str(caught.value))


def test_large_draws_are_carried_by_fewer_particles():
    assert particle_count(64) == 4096
    assert particle_count(3 * 512 * 512) == 336
    assert particle_count(10**9) == 256
    wide = ak.base.Gaussian(np.zeros(2), 1.0)
    moments = fit(learned(wide), [1.0, 0.0], particles=256).moments
    assert "256 particles" in moments.details["annealing"]
    assert abs(moments.log_partition.value - 0.5) < 4 * moments.log_partition.standard_error
