"""The main job on the shipped diffusion model: a reduced form of `make bench`'s `digits` and `transport`."""

import cvxpy as cp
import numpy as np
import pytest

import alignkit as ak
from alignkit.tilting.annealed import fit_annealed
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.digits import convex_rewards, reweighted

REFERENCE = 12_000


@pytest.fixture(scope="module")
def base():
    return ak.base.digits()


@pytest.fixture(scope="module")
def base_draws(base):
    return base.sample(REFERENCE, seed=2024).astype(np.float64)


def direction(name):
    rows = {"all": slice(None), "top half": slice(None, 4)}[name]
    unit = np.zeros((8, 8))
    unit[rows] = 1.0
    return unit / np.linalg.norm(unit)


class TestTilts:
    @pytest.mark.parametrize(("name", "strength"), [("all", 1.0), ("top half", 2.0)])
    def test_agree_with_reweighted_base_draws(self, base, base_draws, name, strength):
        unit = direction(name)
        scores = (base_draws * unit).sum(axis=(1, 2))
        weights = np.exp(strength * (scores - scores.max()))
        log_z = strength * scores.max() + np.log(weights.mean())
        log_z_error = weights.std() / weights.mean() / np.sqrt(REFERENCE)
        weights /= weights.sum()
        truth = weights @ scores
        truth_error = np.sqrt(weights**2 @ (scores - truth) ** 2)

        x = ak.Variable(base.shape)
        aligned = ak.Problem(strength * ak.inner(unit, x), base, ak.KL(weight=1.0)).solve(seed=0)
        certificate = aligned.certificate
        drawn = (aligned.sample(4096, seed=1).astype(np.float64) * unit).sum(axis=(1, 2))
        # The draws share the fit's particles and add their own randomness to it.
        error = np.hypot(certificate.reward_after.standard_error / strength, drawn.std() / np.sqrt(drawn.size))
        assert abs(drawn.mean() - truth) <= 0.05 * scores.std() + 3 * np.hypot(error, truth_error)
        log_z_joint = np.hypot(aligned.log_partition.standard_error, log_z_error)
        assert abs(float(aligned.log_partition) - log_z) <= 0.05 * strength * scores.std() + 3 * log_z_joint
        assert certificate.calibration is not None
        assert certificate.kl.value > 0

    def test_samples_do_not_depend_on_their_number(self, base):
        x = ak.Variable(base.shape)
        aligned = ak.Problem(ak.sum(x) / 16, base, ak.KL(weight=1.0)).solve(seed=3)
        np.testing.assert_allclose(aligned.sample(64, seed=5)[:7], aligned.sample(7, seed=5), atol=1e-5)


class TestConvexRewards:
    """With fewer particles than `solve` takes."""

    @pytest.mark.parametrize("name", ["quadratic", "max of affine", "log_sum_exp", "huber"])
    def test_agree_with_reweighted_base_draws(self, base, base_draws, name):
        reward, weight = convex_rewards(ak.Variable(base.shape))[name]
        values = reward.value(base_draws)
        truth, truth_error, size = reweighted(values, 1 / weight)
        assert size > 1000

        plan = ak.Problem(reward, base, ak.KL(weight=weight)).compile(backend="torch")
        session = TorchTiltSampler().open(plan.request)
        fitted = fit_annealed(plan.target, session, seed=0, particles=768)
        found = reward.value(fitted.sample(1024, seed=1).numpy().astype(np.float64))
        error = np.hypot(weight * fitted.moments.after.standard_error, found.std() / np.sqrt(found.size))
        assert abs(found.mean() - truth) <= 0.05 * values.std() + 3 * np.hypot(error, truth_error)
        assert error < 0.3 * values.std()

        log_z = np.logaddexp.reduce(values / weight) - np.log(values.size)
        assert abs(fitted.moments.log_partition.value + plan.composition.constant / weight - log_z) <= (
            0.05 * values.std() / weight + 3 * np.hypot(fitted.moments.log_partition.standard_error, size**-0.5)
        )
        calibration = fitted.moments.calibration
        assert 0 < calibration.base_drift.standard_error < 0.1
        assert abs(calibration.base_drift.value) < 0.1 + 3 * calibration.base_drift.standard_error
        assert "the model's own drift" in str(calibration)


class TestTransport:
    def test_rank_4_reward_matches_cvxpy_in_full_dimension(self, base):
        rows, weight = 12, 2.0
        features = np.random.default_rng(0).normal(size=(4, 64)) / 8
        target = np.random.default_rng(1).normal(size=4)
        x = ak.Variable(base.shape)
        reward = -ak.norm1(features @ ak.vec(x) - target)
        aligned = ak.Problem(reward, base, ak.Wasserstein(weight=weight)).solve(seed=0)
        assert aligned.plan.dimension == 4
        assert aligned.status is ak.errors.Status.SOLVED
        assert aligned.certificate.gap_max <= 1e-6

        before = base.sample(rows, seed=1).astype(np.float64)
        after = aligned.transport(before).reshape(rows, 64)
        before = before.reshape(rows, 64)
        point, image = cp.Parameter(64), cp.Variable(64)
        penalty = weight / 2 * cp.sum_squares(image - point)
        full = cp.Problem(cp.Maximize(-cp.norm1(features @ image - target) - penalty))
        for old, new in zip(before, after, strict=True):
            point.value = old
            optimum = full.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
            reached = -np.abs(features @ new - target).sum() - weight / 2 * ((new - old) ** 2).sum()
            assert abs(optimum - reached) <= 1e-6 * max(1.0, abs(optimum))
