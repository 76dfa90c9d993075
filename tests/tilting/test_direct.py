"""The direct engine: moments and draws of one tilt and of mixtures of few, in closed form and by an exact denoiser."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.tilting import rejection
from alignkit.tilting.direct import RejectionTilt, fit_direct
from alignkit.tilting.exact import ExactTiltSampler, ExactTiltSession
from alignkit.tilting.measures import FiniteMeasure
from alignkit.tilting.target import TiltTarget
from alignkit_torch.tilt_sampler import TorchTiltSampler

LAWS = {
    "Gaussian": ak.base.Gaussian([1.0, -1.0], [[1.0, 0.5], [0.5, 2.0]]),
    "mixture": ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0]),
    "data": ak.base.Empirical(np.random.default_rng(0).normal(size=(200, 2))),
}
THETA = np.array([0.8, -0.4])


def affine(base):
    return TiltTarget(TiltProgram(base, THETA[None], np.ones((1, 1)), 1000), None, 1.0, np.ones(1))


def convex(base, reward, weight, rows=None, linear=None):
    """The target of f(w)/λ + ⟨h, x⟩ with w = rows @ x; all of x where no rows are given."""
    rows = np.eye(base.ambient) if rows is None else np.asarray(rows, dtype=float)
    linear = np.zeros(base.ambient) if linear is None else np.asarray(linear)
    k = len(rows)
    program = TiltProgram(base, np.vstack([rows, linear]), np.eye(1, k + 1, k), 1000)
    return TiltTarget(program, reward(ak.Variable(k)), weight, np.ones(1))


def fit(target, seed=0, sampler=ExactTiltSampler):
    return fit_direct(target, sampler().open(target.program), seed=seed)


def by_denoiser(law, denoise=None):
    return ak.base.Denoiser(
        denoise or law.denoise, law.shape, sigma_min=0.01, sigma_max=100.0, exact=True, dtype="float64"
    )


def truth(law):
    return THETA @ law.mean, THETA @ law.tilt(THETA).mean, law.log_partition(THETA)[0]


def near(estimate, value, slack=1e-6):
    return abs(estimate.value - value) <= 4 * estimate.standard_error + slack


@pytest.mark.parametrize("name", LAWS)
class TestOneTilt:
    def test_closed_forms_have_no_error(self, name):
        law = LAWS[name]
        moments = fit(affine(law)).moments
        for found, expected in zip((moments.before, moments.after, moments.log_partition), truth(law), strict=True):
            assert found.value == pytest.approx(expected, rel=1e-12) and found.standard_error == 0
        assert moments.nfe_per_sample == 0 and math.isinf(moments.ess) and moments.calibration is None
        assert moments.acceptance == 1

    @pytest.mark.parametrize("known_by", ["law", "denoiser"])
    def test_an_ode_finds_them_within_its_errors(self, name, known_by):
        law = LAWS[name]
        base = law if known_by == "law" else by_denoiser(law)
        moments = fit(affine(base), sampler=TorchTiltSampler).moments
        before, after, log_partition = truth(law)
        sd = math.sqrt(THETA @ law.tilt(THETA).covariance @ THETA)
        assert abs(moments.before.value - before) < 4 * moments.before.standard_error + 0.02 * sd
        assert abs(moments.after.value - after) < 4 * moments.after.standard_error + 0.02 * sd
        assert abs(moments.log_partition.value - log_partition) < 3 * moments.log_partition.standard_error + 1e-4
        assert moments.after.standard_error == pytest.approx(sd / math.sqrt(1024), rel=0.2)
        assert moments.nfe_per_sample == 31

    def test_draws_follow_the_tilted_law(self, name):
        law, n = LAWS[name], 8000
        scores = fit(affine(law)).sample(n, seed=1).reshape(n, -1) @ THETA
        sd = math.sqrt(THETA @ law.tilt(THETA).covariance @ THETA)
        assert abs(scores.mean() - truth(law)[1]) < 4.5 * sd / math.sqrt(n)

    def test_several_linear_features_are_one_tilt(self, name):
        law = LAWS[name]
        target = TiltTarget(TiltProgram(law, np.eye(2), THETA[None], 1000), None, 1.0, THETA)
        moments = fit(target).moments
        for found, expected in zip((moments.before, moments.after, moments.log_partition), truth(law), strict=True):
            assert found.value == pytest.approx(expected, rel=1e-12)


def test_pilots_and_samples_share_no_noise():
    base = by_denoiser(LAWS["Gaussian"])
    target = affine(base)
    session = TorchTiltSampler().open(target.program)
    seen = []

    class Recording:
        nfe_per_draw = session.nfe_per_draw

        def __getattr__(self, name):
            return getattr(session, name)

        def draw(self, coordinates, rows, *, seed, **options):
            seen.append(seed)
            return session.draw(coordinates, rows, seed=seed, **options)

    fit_direct(target, Recording(), seed=7).sample(3, seed=7)
    assert len(set(seen)) == 3


def test_the_seed_of_the_fit_changes_the_pilots_alone():
    base = by_denoiser(LAWS["mixture"])
    fits = [fit(affine(base), seed, TorchTiltSampler) for seed in (0, 1)]
    assert fits[0].moments.after != fits[1].moments.after
    assert fits[0].moments.log_partition == fits[1].moments.log_partition
    assert torch.equal(fits[0].sample(4, seed=5), fits[1].sample(4, seed=5))


# Quadratics of Gaussian mixtures: q is a mixture again.

QUADRATIC = np.array([[1.2, 0.4], [-0.3, 0.8]])
WEIGHT, LINEAR = 6.0, np.array([0.3, -0.5])


def aligned_mixture(weights, means, covariances):
    """log Z, weights, means and covariances of p·exp(½‖Qx‖²/λ + ⟨h, x⟩), Gaussian by Gaussian."""
    log_z, centres, spreads = [], [], []
    for mean, covariance in zip(means, covariances, strict=True):
        inverse = np.linalg.inv(covariance)
        spread = np.linalg.inv(inverse - QUADRATIC.T @ QUADRATIC / WEIGHT)
        vector = inverse @ mean + LINEAR
        centre = spread @ vector
        log_z.append(
            0.5 * (vector @ centre - mean @ inverse @ mean)
            + 0.5 * (np.linalg.slogdet(spread)[1] - np.linalg.slogdet(covariance)[1])
        )
        centres.append(centre)
        spreads.append(spread)
    masses = np.log(weights) + log_z
    total = np.logaddexp.reduce(masses)
    return total, np.exp(masses - total), np.array(centres), np.array(spreads)


GAUSSIANS = {
    "Gaussian": ([1.0], [[1.0, -1.0]], [[[1.0, 0.5], [0.5, 2.0]]]),
    "mixture": ([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25 * np.eye(2), np.eye(2)]),
}


@pytest.mark.parametrize("known_by", ["law", "denoiser"])
@pytest.mark.parametrize("name", GAUSSIANS)
def test_quadratic_rewards_of_gaussian_mixtures(name, known_by):
    law = LAWS[name]
    sampler = ExactTiltSampler if known_by == "law" else TorchTiltSampler
    base = law if known_by == "law" else by_denoiser(law)
    fitted = fit(convex(base, lambda w: 0.5 * ak.sum_squares(QUADRATIC @ w), WEIGHT, linear=LINEAR), 0, sampler)
    log_z, weights, centres, spreads = aligned_mixture(*GAUSSIANS[name])
    mean = weights @ centres
    second = np.einsum("c,cij->ij", weights, spreads + centres[:, :, None] * centres[:, None, :])
    exponent = 0.5 * np.trace(QUADRATIC @ second @ QUADRATIC.T) / WEIGHT + LINEAR @ mean
    found = fitted.moments
    assert near(found.log_partition, log_z, 1e-4) and found.log_partition.standard_error < 0.02
    assert near(found.after, exponent, 0.01) and near(found.kl, exponent - log_z, 0.01)
    assert found.acceptance > 0.999
    n = 6000 if known_by == "law" else 2000
    draws = np.asarray(fitted.sample(n, seed=1))
    covariance = second - np.outer(mean, mean)
    errors = np.sqrt(np.diag(covariance) / n)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * errors + 0.02 * np.sqrt(np.diag(covariance)))
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.1 * np.trace(covariance))


def density_of(law, exponent):
    """The normaliser of p·exp(e) and E_q[e] of a one-dimensional mixture, by quadrature."""
    means, sds, weights = np.array([-1.0, 1.5]), np.array([0.5, 0.8]), np.array([0.4, 0.6])

    def weighted(x):
        return float(weights @ stats.norm.pdf(x, means, sds)) * math.exp(exponent(x))

    def integral(function):
        return integrate.quad(function, -25, 25, points=[-1.0, 0.0, 0.4, 1.5], limit=400, epsabs=1e-12)[0]

    normaliser = integral(weighted)
    return weighted, normaliser, integral(lambda x: exponent(x) * weighted(x)) / normaliser


LINE = ak.base.GaussianMixture([0.4, 0.6], [[-1.0], [1.5]], [0.25, 0.64])
ON_THE_LINE = {
    "abs": (ak.norm1, abs, 0.4),
    "pieces": (
        lambda w: ak.max(ak.concatenate([-w, 0.5 * w - 0.2, 2 * w - 3.0])),
        lambda x: max(-x, 0.5 * x - 0.2, 2 * x - 3),
        0.5,
    ),
    "huber": (lambda w: ak.sum(ak.huber(w)), lambda x: x * x if abs(x) < 1 else 2 * abs(x) - 1, 0.7),
    "log_sum_exp": (lambda w: ak.log_sum_exp(ak.concatenate([-w, 2 * w])), lambda x: np.logaddexp(-x, 2 * x), 0.4),
    "square": (ak.sum_squares, lambda x: x * x, 3.0),
}


@pytest.mark.parametrize("name", ON_THE_LINE)
class TestOnTheLine:
    def test_moments_against_quadrature(self, name):
        declared, value, weight = ON_THE_LINE[name]
        _, normaliser, exponent = density_of(LINE, lambda x: value(x) / weight)
        found = fit(convex(LINE, declared, weight)).moments
        assert near(found.log_partition, math.log(normaliser)) and found.log_partition.standard_error < 0.02
        assert near(found.after, exponent) and near(found.kl, exponent - math.log(normaliser))

    def test_draws_follow_the_density(self, name):
        declared, value, weight = ON_THE_LINE[name]
        density, normaliser, _ = density_of(LINE, lambda x: value(x) / weight)
        draws = fit(convex(LINE, declared, weight)).sample(4000, seed=3)[:, 0]
        grid = np.linspace(-25, 25, 20001)
        cumulative = integrate.cumulative_simpson([density(x) / normaliser for x in grid], x=grid, initial=0)
        assert stats.kstest(draws, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3

    def test_no_proposal_is_beyond_the_bound_and_as_many_are_accepted_as_stated(self, name):
        declared, _, weight = ON_THE_LINE[name]
        target = convex(LINE, declared, weight)
        session, drawn = Counting(LINE, target.program.directions), 4000
        fitted = fit_direct(target, session, seed=0)
        assert violations(fitted) == 0
        session.rows = 0
        fitted.sample(drawn, seed=1)
        share = fitted.moments.acceptance
        assert abs(drawn / session.rows - share) <= 5 * math.sqrt(share * (1 - share) / drawn) + 1 / drawn


class Counting(ExactTiltSession):
    rows = 0

    def draw(self, coordinates, rows, **options):
        self.rows += rows
        return super().draw(coordinates, rows, **options)


def violations(fitted):
    return int(re.search(r"(\d+) beyond the bound", fitted.moments.details["proposals"])[1])


class TestRows:
    TARGET = convex(LAWS["mixture"], ak.norm1, 0.9)

    def test_a_row_does_not_depend_on_how_many_are_drawn(self):
        fitted = fit(self.TARGET)
        many = fitted.sample(500, seed=2)
        for rows in (1, 2, 37, 499):
            assert np.allclose(fitted.sample(rows, seed=2), many[:rows], rtol=0, atol=1e-12)
        assert not np.allclose(fitted.sample(500, seed=3), many)

    def test_nor_on_the_batches_of_proposals(self, monkeypatch):
        fitted = fit(self.TARGET)
        whole = fitted.sample(300, seed=2)
        monkeypatch.setattr(rejection, "_ROWS", 13)
        reported = []
        parts = fitted.sample(300, seed=2, progress=lambda stage, done, total: reported.append((done, total)))
        assert np.allclose(parts, whole, rtol=0, atol=1e-12)
        assert len(reported) >= 300 / 13 and {total for _, total in reported} == {300}
        assert all(0 <= done <= 300 for done, _ in reported)

    def test_the_same_seed_fits_the_same(self):
        assert fit(self.TARGET, 4).moments == fit(self.TARGET, 4).moments
        assert fit(self.TARGET, 4).moments.after != fit(self.TARGET, 5).moments.after


class TestMeasures:
    """What the engine makes of measures given by hand."""

    TARGET = convex(LINE, ak.norm1, 0.4)

    def fit(self, nodes, log_weights):
        measure = FiniteMeasure(
            np.array(nodes, dtype=float)[:, None], np.array(log_weights, dtype=float), tempered=False
        )
        session = ExactTiltSampler().open(self.TARGET.program)
        return fit_direct(self.TARGET, session, seed=0, measure=measure)

    def test_any_bound_gives_the_same_law(self):
        _, normaliser, exponent = density_of(LINE, lambda x: abs(x) / 0.4)
        for nodes, log_weights in (([-2.5, 2.5], [0.0, 0.0]), ([-2.5, 2.5, 0.0], [0.7, 0.2, 1.0])):
            found = self.fit(nodes, log_weights).moments
            assert near(found.log_partition, math.log(normaliser)) and near(found.after, exponent)

    def test_violations_are_counted_and_weighted_right(self):
        _, normaliser, exponent = density_of(LINE, lambda x: abs(x) / 0.4)
        fitted = self.fit([-2.5, 2.5], [-0.5, -0.5])
        assert violations(fitted) > 1000
        assert near(fitted.moments.log_partition, math.log(normaliser)) and near(fitted.moments.after, exponent)

    def test_hopeless_acceptance_is_refused(self):
        with pytest.raises(ParameterError, match="would keep") as caught:
            self.fit([-2.5, 2.5], [9.0, 9.0])
        assert any("annealed" in way for way in caught.value.ways_out)


def test_a_denoiser_that_fails_under_a_tilt_is_named():
    law = LAWS["mixture"]

    def denoise(x, sigma):
        found = law.denoise(x, sigma)
        return torch.where(sigma[:, None] < 0.1, torch.nan, found)

    with pytest.raises(NonFiniteError):
        fit(convex(by_denoiser(law, denoise), ak.norm1, 2.0), 0, TorchTiltSampler)


def test_the_evaluations_of_the_fit_and_of_a_sample_are_those_of_the_denoiser():
    law, rows = LAWS["mixture"], []

    def denoise(x, sigma):
        rows.append(x.shape[0])
        return law.denoise(x, sigma)

    target = convex(by_denoiser(law, denoise), ak.norm1, 2.0)
    session = TorchTiltSampler().open(target.program)
    rows.clear()
    fitted = fit_direct(target, session, seed=0)
    assert isinstance(fitted, RejectionTilt)
    assert fitted.moments.details["fit"].startswith(f"{sum(rows)} NFE")
    rows.clear()
    fitted.sample(3000, seed=1)
    assert sum(rows) / 3000 == pytest.approx(fitted.moments.nfe_per_sample, rel=0.05)


def test_a_law_of_one_point_is_what_it_is():
    law = ak.base.Empirical(np.array([[2.0]]))
    found = fit(convex(law, ak.norm1, 1.0)).moments
    assert found.log_partition.value == pytest.approx(2.0) and found.kl.value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["abs", "huber"])
def test_stated_intervals_cover_the_truth(name):
    """100 fits; the limits are those of a binomial law that 93 to 97 % of 1,000 correspond to."""
    declared, value, weight = ON_THE_LINE[name]
    _, normaliser, exponent = density_of(LINE, lambda x: value(x) / weight)
    log_z = math.log(normaliser)
    target = convex(LINE, declared, weight)
    covered = np.zeros(3)
    for seed in range(100):
        found = fit(target, seed).moments
        for place, (estimate, expected) in enumerate(
            ((found.log_partition, log_z), (found.kl, exponent - log_z), (found.after, exponent))
        ):
            covered[place] += abs(estimate.value - expected) <= 1.96 * estimate.standard_error
    tail = stats.binom.cdf(929, 1000, 0.95)
    least, most = stats.binom.ppf([tail, 1 - tail], 100, 0.95)
    assert np.all((covered >= least) & (covered <= most))
