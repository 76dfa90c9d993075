"""Pools of tilts against closed forms and sums over a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.tilting import pooled
from alignkit.tilting.annealed import AnnealedTilt
from alignkit.tilting.engines import fit_tilt
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure, LabelsMeasure, ProductMeasure
from alignkit.tilting.pooled import PooledTilt, fit_pooled
from alignkit.tilting.target import TiltTarget
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.rank_eight import AMBIENT, MODES, RANK, VARIANCE, RankEight

EIGHT = RankEight.drawn()
MIXTURE = ak.base.GaussianMixture(np.full(MODES, 1 / MODES), EIGHT.means, VARIANCE)
SMALL = ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0])
SLOPE = np.array([0.3, -0.2])
W = ak.Variable(2)


def eight():
    """The benchmark's law on the mixture itself, whose tilts are drawn and normalised in closed form."""
    reward = EIGHT.strength / 2 * ak.sum_squares(ak.Variable(RANK))
    directions = np.vstack([EIGHT.rows, np.zeros((1, AMBIENT))])
    return TiltTarget(TiltProgram(MIXTURE, directions, np.zeros((1, RANK + 1)), 1000), reward, 1.0, np.ones(1))


def fit(target, seed=0, sampler=ExactTiltSampler, **options):
    return fit_pooled(target, sampler().open(target.program), seed=seed, **options)


def planar(base, reward):
    """The target of f(x) + ⟨slope, x⟩ on the plane, at λ = 1."""
    program = TiltProgram(base, np.vstack([np.eye(2), SLOPE]), np.zeros((1, 3)), 1000)
    return TiltTarget(program, reward, 1.0, np.ones(1))


class TestRankEight:
    def test_log_z_is_right_and_so_is_its_error(self):
        found = [fit(eight(), seed).moments for seed in range(6)]
        scores = []
        for moments in found:
            log_z = moments.log_partition
            assert abs(log_z.value - EIGHT.log_partition) < 0.03 and log_z.standard_error < 0.01
            scores.append((log_z.value - EIGHT.log_partition) / log_z.standard_error)
            assert 0.8 * 8192 < moments.ess <= 8192
        # Mean squares of six scores with errors on 16 islands.
        assert 0.1 < np.mean(np.square(scores)) < 4.0

    def test_modes_have_their_weights_and_draws_their_mean(self):
        fitted = fit(eight())
        draws = fitted.sample(10_000, seed=1)
        assert abs(EIGHT.weights_of(draws) - EIGHT.weights).max() < 0.02
        # Mode i moves to m_i + s·B'Bm_i/(1 − s·v)·v.
        left = 1 - EIGHT.strength * VARIANCE
        moved = EIGHT.means + EIGHT.strength * VARIANCE / left * EIGHT.seen @ EIGHT.rows
        mean = EIGHT.weights @ moved
        assert (abs(draws.mean(axis=0) - mean) < 5 * draws.std(axis=0) * math.hypot(0.01, 1 / 64)).all()

    def test_weighing_puts_few_particles_right(self, monkeypatch):
        """128 particles leave log Z and the weights of modes far off; their tilts do not."""
        monkeypatch.setattr(pooled, "_PARTICLES", 128)
        errors, shares = [], []
        for seed in range(4):
            fitted = fit(eight(), seed)
            assert isinstance(fitted, PooledTilt)
            errors.append(fitted.moments.log_partition.value - EIGHT.log_partition)
            shares.append(EIGHT.weights_of(fitted.sample(4000, seed=1)))
        assert max(map(abs, errors)) < 0.05
        assert abs(np.array(shares) - EIGHT.weights).max() < 0.03

    def test_a_denoiser_alone_is_enough(self):
        target = EIGHT.target()
        session = TorchTiltSampler().open(target.program)
        fitted = fit_pooled(target, session, seed=0, tilts=1024)
        log_z = fitted.moments.log_partition
        assert abs(log_z.value - EIGHT.log_partition) < 4 * log_z.standard_error < 0.1
        shares = EIGHT.weights_of(fitted.sample(1000, seed=1).numpy().astype(np.float64))
        assert abs(shares - EIGHT.weights).max() < 4 * math.sqrt(0.25 / 1000 + 0.25 / fitted.moments.ess)
        assert fitted.moments.nfe_per_sample == session.nfe_per_draw
        assert {"annealing", "ancestors", "pool of tilts", "tilt measure"} <= fitted.moments.details.keys()


LABELS = np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]])
SIGNS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) / 2
CURVED = np.array([[0.4, 0.1], [0.1, 0.2]])
#: Rewards with measures that are theirs, or bound them.
REWARDS = {
    "quadratic": (ak.quad_form(W, CURVED) / 2, GaussianMeasure(CURVED)),
    "max of affine": (ak.norm1(W) / 2, FiniteMeasure(SIGNS, np.zeros(4), tempered=True)),
    "labels, a bound": (1.4 * ak.log_sum_exp(LABELS @ W), LabelsMeasure(LABELS, np.zeros(3), 1.4)),
    "product": (
        ak.square(W[0]) / 8 + ak.norm1(W) / 2,
        ProductMeasure([GaussianMeasure(np.diag([0.25, 0.0])), FiniteMeasure(SIGNS, np.zeros(4), tempered=True)]),
    ),
}
GRID = np.stack(np.meshgrid(np.linspace(-9, 14, 461), np.linspace(-9, 12, 421), indexing="ij"), axis=-1).reshape(-1, 2)


def moments_on_grid(reward):
    """log Z, E_q[e] and E_q[x] for SMALL."""
    logs = [
        np.log(weight) - ((GRID - mean) ** 2).sum(axis=1) / (2 * variance) - np.log(2 * np.pi * variance)
        for weight, mean, variance in zip([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0], strict=True)
    ]
    exponent = reward.value(GRID) + GRID @ SLOPE
    tilted = np.exp(np.logaddexp(*logs) + exponent) * 0.05**2
    return np.log(tilted.sum()), tilted @ exponent / tilted.sum(), tilted @ GRID / tilted.sum()


@pytest.mark.parametrize(("reward", "measure"), REWARDS.values(), ids=REWARDS.keys())
def test_any_measure_may_be_pooled(reward, measure):
    fitted = fit(planar(SMALL, reward), measure=measure)
    log_z, after, mean = moments_on_grid(reward)
    moments = fitted.moments
    assert isinstance(fitted, PooledTilt)
    for found, wanted in ((moments.log_partition, log_z), (moments.after, after), (moments.kl, after - log_z)):
        assert abs(found.value - wanted) < 4 * found.standard_error + 1e-3 < 0.3
    draws = fitted.sample(4000, seed=1)
    error = draws.std(axis=0) * math.hypot(1 / math.sqrt(4000), 1 / math.sqrt(moments.ess))
    assert (abs(draws.mean(axis=0) - mean) < 4 * error).all()


class TestSamples:
    def test_draws_are_fresh_and_do_not_depend_on_how_many(self):
        reward, measure = REWARDS["max of affine"]
        fitted = fit(planar(SMALL, reward), measure=measure)
        assert fitted.moments.acceptance < 1.0
        draws = fitted.sample(400, seed=3)
        assert np.unique(draws, axis=0).shape[0] == 400
        np.testing.assert_array_equal(draws[:7], fitted.sample(7, seed=3))
        assert np.unique(fitted.sample_by_island(400, seed=3)[1]).size == 16


class TestWhereItIsInVain:
    def test_many_dimensions_fall_back_on_particles_and_say_so(self):
        k = 60
        law = ak.base.GaussianMixture([0.5, 0.5], np.array([[0.3], [-0.3]]) * np.ones(k), 1.0)
        directions = np.vstack([np.eye(k), np.zeros((1, k))])
        target = TiltTarget(
            TiltProgram(law, directions, np.zeros((1, k + 1)), 100),
            0.4 * ak.sum_squares(ak.Variable(k)),
            1.0,
            np.ones(1),
        )
        fitted = fit(target)
        assert isinstance(fitted, AnnealedTilt)
        assert fitted.moments.details["pool of tilts"].startswith("none: 256 of them are worth")

    def test_a_small_sigma_max_falls_back_on_particles(self):
        base = ak.base.Denoiser(
            SMALL.denoise, SMALL.shape, sigma_min=0.01, sigma_max=4.0, exact=True, tail=1.0, dtype="float64"
        )
        fitted = fit(planar(base, 0.4 * ak.sum_squares(W)), sampler=TorchTiltSampler)
        assert isinstance(fitted, AnnealedTilt) and "σ_max" in fitted.moments.details["pool of tilts"]

    def test_one_tilt_needs_no_pool(self):
        program = TiltProgram(SMALL, SLOPE[None], np.zeros((1, 1)), 100)
        fitted = fit_tilt(TiltTarget(program, None, 1.0, np.ones(1)), ExactTiltSampler(), engine="annealed", seed=0)
        assert isinstance(fitted, AnnealedTilt)


def test_a_problem_of_high_rank_on_an_exact_denoiser_takes_it():
    x = ak.Variable((AMBIENT,))
    base = EIGHT.target().program.base
    problem = ak.Problem(EIGHT.strength / 2 * ak.sum_squares(EIGHT.rows @ x), base, ak.KL(weight=1.0))
    certificate = problem.solve(seed=0).certificate
    assert "worth" in certificate.details["pool of tilts"]
    log_z = certificate.log_partition
    assert abs(log_z.value - EIGHT.log_partition) < 4 * log_z.standard_error < 0.1
