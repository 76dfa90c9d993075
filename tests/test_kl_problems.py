"""Convex rewards under KL closeness, from the declaration to draws, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import (
    DimensionError,
    ImproperTargetError,
    IntractableError,
    NonFiniteError,
    ParameterError,
    StaleFitError,
    Status,
)

D = 6
RNG = np.random.default_rng(7)
ROOT = np.tril(RNG.normal(size=(D, D))) / 3 + np.eye(D)
MEAN, COVARIANCE = RNG.normal(size=D), ROOT @ ROOT.T
BASE = ak.base.Gaussian(MEAN, COVARIANCE)
X = ak.Variable(D)
A, TILT = RNG.normal(size=(D, D)) / 3, RNG.normal(size=D) / 2
ROWS = 4000


def aligned_gaussian(matrix, tilt, weight):
    """Mean, covariance and log Z of N(m, S)·exp((½‖Ax‖² + ⟨g, x⟩)/λ)."""
    precision = np.linalg.inv(COVARIANCE)
    changed = precision - matrix.T @ matrix / weight
    covariance = np.linalg.inv(changed)
    vector = precision @ MEAN + tilt / weight
    mean = covariance @ vector
    log_z = 0.5 * (vector @ mean - MEAN @ precision @ MEAN)
    log_z += 0.5 * (np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(COVARIANCE)[1])
    return mean, covariance, log_z


@pytest.mark.parametrize("engine", ["auto", "annealed"])
@pytest.mark.parametrize("rank", [1, 2, 3, D])
def test_quadratic_rewards_of_a_gaussian_are_gaussian(rank, engine):
    matrix = A[:rank]
    weight = 4.0 * np.linalg.eigvalsh(matrix @ COVARIANCE @ matrix.T)[-1]
    mean, covariance, log_z = aligned_gaussian(matrix, TILT, weight)
    reward = 0.5 * ak.sum_squares(matrix @ X) + ak.inner(TILT, X) + 1.0
    aligned = ak.Problem(reward, BASE, ak.KL(weight=weight)).solve(seed=3, engine=engine)
    found = aligned.certificate
    assert aligned.status is Status.SOLVED
    truth = {
        "log_partition": log_z + 1.0 / weight,
        "reward_after": 0.5 * (np.sum((matrix @ mean) ** 2) + np.trace(matrix @ covariance @ matrix.T))
        + TILT @ mean
        + 1.0,
    }
    truth["kl"] = truth["reward_after"] / weight - truth["log_partition"]
    for name, value in truth.items():
        estimate = getattr(found, name)
        assert abs(estimate.value - value) <= 4.5 * estimate.standard_error + 1e-6, name
        assert estimate.standard_error < 0.1 * max(1.0, abs(value)), name
    draws = aligned.sample(ROWS, seed=5)
    # Particles are shared between annealed draws, which are worth no more than the certificate says.
    worth = min(ROWS, found.ess)
    errors = np.sqrt(np.diag(covariance) / worth)
    assert np.all(np.abs(draws.mean(axis=0) - mean) <= 4.5 * errors)
    spread = draws.var(axis=0) / np.diag(covariance)
    assert np.all(np.abs(spread - 1) <= 4.5 * np.sqrt(2 / worth))


def test_draws_go_on_without_a_new_fit_and_do_not_depend_on_how_many_are_asked():
    aligned = ak.Problem(ak.norm1(A[:2] @ X), BASE, ak.KL(weight=1.0)).solve(seed=0)
    assert 0 < aligned.certificate.acceptance <= 1
    many, few = aligned.sample(300, seed=2), aligned.sample(17, seed=2)
    assert np.array_equal(many[:17], few)
    assert not np.array_equal(aligned.sample(17, seed=3), few)


def test_a_new_weight_is_solved_again_with_the_same_plan_and_the_old_fit_is_stale():
    weight = ak.Parameter(value=4.0)
    problem = ak.Problem(ak.huber(X[0]) + ak.sum(X), BASE, ak.KL(weight=weight))
    first = problem.solve(seed=0)
    weight.value = 2.0
    second = problem.solve(seed=0)
    assert second.certificate.kl.value > first.certificate.kl.value
    with pytest.raises(StaleFitError):
        first.sample(1, seed=0)


class TestRefusals:
    def test_below_the_critical_weight_the_target_is_improper(self):
        matrix = A[:2]
        critical = np.linalg.eigvalsh(matrix @ COVARIANCE @ matrix.T)[-1]
        reward = 0.5 * ak.sum_squares(matrix @ X)
        with pytest.raises(ImproperTargetError, match=f"{critical:.6g}"[:-1]):
            ak.Problem(reward, BASE, ak.KL(weight=0.99 * critical)).solve(seed=0)
        ak.Problem(reward, BASE, ak.KL(weight=1.01 * critical)).compile()

    def test_unknown_tails_warn(self):
        law = ak.base.Denoiser(BASE.denoise, (D,), sigma_min=0.01, sigma_max=80.0, exact=True, name="net")
        plan = ak.Problem(ak.square(X[0]), law, ak.KL(weight=50.0)).compile()
        assert any("tail of 'net' is unknown" in warning for warning in plan.warnings)

    @pytest.mark.parametrize("rows", [1, 2])
    def test_what_explain_could_not_decide_is_said_where_the_fit_finds_it_improper(self, rows):
        law = ak.base.Denoiser(
            ak.base.Gaussian([0.0, 0.0], 1.0).denoise, (2,), sigma_min=0.002, sigma_max=80.0, exact=True, tail=1.0
        )
        problem = ak.Problem(ak.sum_squares(ak.Variable((2,))[:rows]), law, ak.KL(weight=1.5))
        (warning,) = problem.compile().warnings
        assert "it is for λ > 2" in warning and warning in problem.explain()
        with pytest.raises(ImproperTargetError) as caught:
            problem.solve(seed=0)
        assert warning[1:] in str(caught.value) and "Raise the weight λ." in caught.value.ways_out
        # The tail variance is a bound: along what varies less, the same λ may do.
        narrow = ak.base.Denoiser(
            ak.base.Gaussian([0.0, 0.0], np.diag([0.25, 1.0])).denoise, (2,), sigma_min=0.002, sigma_max=80.0,
            exact=True, tail=1.0,
        )  # fmt: skip
        ak.Problem(ak.square(ak.Variable((2,))[0]), narrow, ak.KL(weight=1.5)).solve(seed=0)

    def test_growth_between_linear_and_quadratic_needs_bounded_data(self):
        with pytest.raises(IntractableError) as caught:
            ak.Problem(ak.power(ak.abs(X[0]), 1.5), BASE, ak.KL(weight=1.0)).compile()
        assert type(caught.value) is IntractableError and "power(" in str(caught.value)
        assert any("huber" in way or "data_range" in way for way in caught.value.ways_out)

    def test_a_norm_of_many_features_is_refused_for_its_dimension(self):
        with pytest.raises(DimensionError, match="norm2"):
            ak.Problem(ak.norm2(A[:5] @ X), BASE, ak.KL(weight=1.0)).compile()

    def test_the_direct_engine_is_refused_where_k_forbids_it(self):
        problem = ak.Problem(ak.sum_squares(X) / 100, BASE, ak.KL(weight=1.0))
        with pytest.raises(ParameterError, match=f"k = {D}"):
            problem.solve(seed=0, engine="direct")

    def test_concave_rewards_are_refused_with_the_heuristic_among_the_ways_out(self):
        with pytest.raises(IntractableError, match="hard in the worst case") as caught:
            ak.Problem(-ak.norm1(X), BASE, ak.KL(weight=1.0)).solve(seed=0)
        assert any("heuristic=True" in way for way in caught.value.ways_out)

    def test_a_black_box_is_refused_without_the_heuristic(self):
        problem = ak.Problem(lambda x: x[:, 0] ** 3, BASE, ak.KL(weight=1.0))
        assert not problem.is_tractable()
        with pytest.raises(IntractableError):
            problem.solve(seed=0)

    def test_a_network_that_gives_nan_is_named_with_step_and_scale(self):
        import torch

        def broken(x, sigma):
            found = BASE.denoise(x, sigma)
            return torch.where(sigma.reshape(-1, 1) < 1.0, torch.nan, found)

        law = ak.base.Denoiser(
            broken, (D,), sigma_min=0.01, sigma_max=80.0, exact=True, tail="bounded", name="broken network"
        )
        with pytest.raises(NonFiniteError, match="σ = ") as caught:
            ak.Problem(ak.norm1(X[:2]), law, ak.KL(weight=1.0)).solve(seed=0)
        assert "step" in str(caught.value)


class TestWithoutABound:
    def test_a_concave_quadratic_of_a_gaussian_is_gaussian(self):
        weight, matrix = 1.0, A[:2]
        precision = np.linalg.inv(COVARIANCE)
        covariance = np.linalg.inv(precision + matrix.T @ matrix / weight)
        mean = covariance @ precision @ MEAN
        reward = -0.5 * ak.sum_squares(matrix @ X)
        aligned = ak.Problem(reward, BASE, ak.KL(weight=weight)).solve(seed=1, heuristic=True)
        assert aligned.plan.is_heuristic and "no bound" in aligned.certificate.guarantee
        truth = -0.5 * (np.sum((matrix @ mean) ** 2) + np.trace(matrix @ covariance @ matrix.T))
        found = aligned.certificate.reward_after
        # Beside the standard error, the sampler's own law is off by half a percent of a standard deviation.
        assert abs(found.value - truth) <= 4.5 * found.standard_error + 0.01 * abs(truth)

    def test_a_tractable_reward_does_not_take_the_heuristic(self):
        plan = ak.Problem(ak.norm1(X[:2]), BASE, ak.KL(weight=1.0)).compile(heuristic=True)
        assert not plan.is_heuristic and plan.route == "mixture of tilts"

    def test_a_black_box_in_torch(self):
        def brightness(x):
            return x[:, 0].clamp(-1.0, 1.0)

        law = ak.base.Denoiser(BASE.denoise, (D,), sigma_min=0.01, sigma_max=80.0, exact=True, tail=3.0, name="net")
        aligned = ak.Problem(brightness, law, ak.KL(weight=0.5)).solve(seed=1, heuristic=True)
        assert aligned.sample(10, seed=0).shape == (10, D)
        assert aligned.certificate.reward_after.value > aligned.certificate.reward_before.value
