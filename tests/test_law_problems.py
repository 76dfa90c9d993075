"""Utilities of expectations, constraints and radii under KL, from the declaration to draws, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.compiler.formula import plan_latex
from alignkit.errors import (
    CurvatureError,
    ImproperTargetError,
    InfeasibleError,
    IntractableError,
    ParameterError,
    ShapeError,
    StaleFitError,
    Status,
)

D, WEIGHT, ROWS = 5, 0.7, 4000
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(D, D))
S, MU = ROOT @ ROOT.T / D + 0.5 * np.eye(D), RNG.normal(size=D)
GAUSSIAN = ak.base.Gaussian(MU, S)
G, B, TARGET = RNG.normal(size=D), RNG.normal(size=(2, D)), np.array([1.0, 2.0])
X = ak.Variable(D)
MIXTURE = ak.base.GaussianMixture([0.3, 0.7], RNG.normal(size=(2, D)) * 1.5, 0.3)
NETWORK = ak.base.Denoiser(MIXTURE.denoise, (D,), sigma_min=0.002, sigma_max=80.0, exact=True, tail=0.3, name="network")
DATA = ak.base.Empirical(RNG.normal(size=(300, D)))


def solve(reward, base, closeness, constraints=(), **options):
    return ak.Problem(reward, base, closeness, constraints).solve(**({"seed": 0} | options))


class TestAgainstClosedForms:
    def test_multipliers_of_equalities_on_a_gaussian(self):
        aligned = solve(ak.inner(G, X) + 3.0, GAUSSIAN, ak.KL(weight=WEIGHT), [ak.E(B @ X) == TARGET])
        found = aligned.certificate
        dual = np.linalg.solve(B @ S @ B.T, WEIGHT * (TARGET - B @ MU) - B @ S @ G)
        np.testing.assert_allclose(found.duals[0], dual, atol=1e-3)
        theta = (G + B.T @ dual) / WEIGHT
        assert found.kl.value == pytest.approx(theta @ S @ theta / 2, abs=1e-6)
        assert found.reward_after.value == pytest.approx(G @ (MU + S @ theta) + 3.0, abs=1e-6)
        log_z = theta @ MU + theta @ S @ theta / 2 + 3.0 / WEIGHT
        assert found.log_partition.value == pytest.approx(log_z, abs=1e-6)
        assert aligned.status is Status.SOLVED and found.weight == WEIGHT
        draws = aligned.sample(ROWS, seed=1)
        errors = np.sqrt(np.diag(B @ S @ B.T) / ROWS)
        assert (np.abs((draws @ B.T).mean(axis=0) - TARGET) <= 4 * errors).all()

    def test_the_multiplier_is_what_the_bound_is_worth(self):
        """The best value falls by η for every unit that the right side is raised by."""

        def best(bound):
            certificate = solve(
                ak.inner(G, X), GAUSSIAN, ak.KL(weight=WEIGHT), [ak.E(X[0]) <= bound, ak.E(X[1]) >= 0.3]
            ).certificate
            return certificate.reward_after.value - WEIGHT * certificate.kl.value, certificate.duals

        (value, duals), (raised, _) = best(-1.0), best(-0.999)
        assert duals[0] < 0 <= duals[1]
        assert (raised - value) / 0.001 == pytest.approx(-float(duals[0]), rel=1e-2)

    def test_the_closest_law_with_a_moment_needs_no_reward(self):
        found = solve(0.0, GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 2.0]).certificate
        assert found.kl.value == pytest.approx((2.0 - MU[0]) ** 2 / (2 * S[0, 0]), abs=1e-6)

    def test_a_concave_utility_has_its_slope_as_multiplier(self):
        utility = ak.log(ak.E(ak.inner(B[0], X)) + 6) - ak.square(ak.E(X[0]) - 1)
        found = solve(ak.inner(G, X) + utility, GAUSSIAN, ak.KL(weight=WEIGHT)).certificate
        first, second = found.moments
        assert float(first.dual) == pytest.approx(1 / (float(first.achieved) + 6), abs=1e-5)
        assert float(second.dual) == pytest.approx(-2 * (float(second.achieved) - 1), abs=1e-5)
        rows = np.stack([B[0], np.eye(D)[0]])
        mean = MU + S @ (G + rows.T @ np.array([first.dual, second.dual])) / WEIGHT
        np.testing.assert_allclose([first.achieved, second.achieved], rows @ mean, atol=1e-5)

    def test_an_affine_function_of_expectations_is_that_of_the_draws(self):
        plain = solve(ak.inner(G, X), GAUSSIAN, ak.KL(weight=WEIGHT)).certificate
        moved = solve(ak.E(ak.inner(G, X)) + 0.0, GAUSSIAN, ak.KL(weight=WEIGHT)).certificate
        assert moved.kl.value == pytest.approx(plain.kl.value)

    def test_a_radius_is_reached_at_the_weight_of_the_closed_form(self):
        aligned = solve(ak.inner(G, X), GAUSSIAN, ak.KL(radius=2.0))
        assert aligned.certificate.kl.value == pytest.approx(2.0, rel=1e-6)
        assert aligned.certificate.weight == pytest.approx(math.sqrt(G @ S @ G / 4), rel=1e-6)
        assert aligned.status is Status.SOLVED

    def test_a_ridge_relaxes_constraints_at_its_price(self):
        found = solve(ak.inner(G, X), GAUSSIAN, ak.KL(weight=WEIGHT), [ak.E(B @ X) == TARGET], ridge=0.5).certificate
        np.testing.assert_allclose(found.moments[0].achieved, -0.5 * found.duals[0], atol=1e-6)

    def test_finite_data_are_a_finite_program(self):
        aligned = solve(ak.square(X[0]), DATA, ak.KL(weight=2.0), [ak.E(X[:2]) == [0.4, -0.2], ak.E(X[2]) <= 0.0])
        scores = DATA.data[:, 0] ** 2 + DATA.data[:, :3] @ np.concatenate(
            [duals.ravel() for duals in aligned.certificate.duals]
        )
        weights = np.exp(scores / 2.0 - scores.max() / 2.0)
        weights /= weights.sum()
        np.testing.assert_allclose(weights @ DATA.data[:, :2], [0.4, -0.2], atol=1e-4)
        assert weights @ DATA.data[:, 2] <= 1e-4
        draws = aligned.sample(ROWS, seed=1)
        assert {row.tobytes() for row in draws} <= {row.tobytes() for row in DATA.data}


class TestByDraws:
    def check(self, aligned, rows, target):
        certificate = aligned.certificate
        assert aligned.status is Status.SOLVED
        assert all(moment.z_score <= 3 for moment in certificate.moments)
        draws = aligned.sample(ROWS, seed=7).reshape(ROWS, -1) @ rows.T
        worth = min(ROWS, certificate.ess)
        # Beside the error of these draws there is that of the multipliers, which were found by no fewer.
        errors = draws.std(axis=0) * math.sqrt(1 / worth + 1 / ROWS)
        assert (np.abs(draws.mean(axis=0) - target) <= 3 * errors).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_constraints_hold_for_a_convex_reward_of_a_mixture(self, seed):
        reward = ak.norm2(X[:2]) + X[2]
        aligned = solve(reward, MIXTURE, ak.KL(weight=1.0), [ak.E(X[:2]) == [0.0, 0.5]], seed=seed)
        self.check(aligned, np.eye(2, D), [0.0, 0.5])

    def test_multipliers_of_a_known_law_are_found_through_its_denoiser_alone(self):
        constraints = [ak.E(X[:2]) == [0.0, 0.5]]
        truth = solve(X[2], MIXTURE, ak.KL(weight=1.0), constraints).certificate
        aligned = solve(X[2], NETWORK, ak.KL(weight=1.0), constraints)
        np.testing.assert_allclose(aligned.certificate.duals[0], truth.duals[0], atol=5e-3)
        assert aligned.certificate.kl.value == pytest.approx(truth.kl.value, abs=5e-3)
        self.check(aligned, np.eye(2, D), [0.0, 0.5])

    def test_a_denoiser_without_a_promise_is_sampled_by_rounds_of_annealing(self):
        learned = ak.base.Denoiser(MIXTURE.denoise, (D,), sigma_min=0.002, sigma_max=80.0, tail=0.3, name="learned")
        constraints = [ak.E(X[:2]) == [0.0, 0.5]]
        truth = solve(X[2], MIXTURE, ak.KL(weight=1.0), constraints).certificate
        aligned = solve(X[2], learned, ak.KL(weight=1.0), constraints)
        self.check(aligned, np.eye(2, D), [0.0, 0.5])
        found = aligned.certificate
        for mine, known in ((found.kl, truth.kl), (found.reward_after, truth.reward_after)):
            assert abs(mine.value - known.value) <= 4 * mine.standard_error + 0.03

    def test_a_utility_of_a_convex_reward_has_its_slope_as_multiplier(self):
        aligned = solve(ak.abs(X[0]) + ak.log(ak.E(X[3]) + 5), MIXTURE, ak.KL(weight=0.5))
        (moment,) = aligned.certificate.moments
        assert float(moment.dual) == pytest.approx(
            1 / (float(moment.achieved) + 5), abs=4 * moment.standard_error.max()
        )

    def test_a_radius_is_reached_within_two_percent(self):
        aligned = solve(ak.norm2(X[:2]) + X[2], MIXTURE, ak.KL(radius=0.7))
        found = aligned.certificate
        assert found.kl.value == pytest.approx(0.7, rel=0.02)
        # The same weight, solved by itself on other draws, is the same law.
        again = solve(ak.norm2(X[:2]) + X[2], MIXTURE, ak.KL(weight=found.weight), seed=5).certificate
        assert abs(again.kl.value - 0.7) <= 0.02 * 0.7 + 3 * again.kl.standard_error


class TestRadius:
    def test_beyond_the_best_law_of_all_it_is_inactive(self):
        aligned = solve(ak.square(X[0]), DATA, ak.KL(radius=20.0))
        assert aligned.status is Status.RADIUS_INACTIVE and "inactive" in str(aligned)
        assert aligned.certificate.kl.value == pytest.approx(math.log(300), abs=1e-6)
        assert (aligned.sample(10, seed=0)[:, 0] ** 2 == (DATA.data[:, 0] ** 2).max()).all()

    def test_a_divergence_that_no_law_of_the_family_has_is_a_status(self):
        aligned = solve(ak.Variable(()) + 0.0, HeavyTail(), ak.KL(radius=50.0))
        assert aligned.status is Status.RADIUS_NOT_ATTAINED
        assert aligned.certificate.weight == pytest.approx(1.0, rel=1e-3)
        assert 0 < aligned.certificate.kl.value < 50.0

    def test_it_may_be_a_parameter(self):
        radius = ak.Parameter(value=1.0, name="radius")
        problem = ak.Problem(ak.inner(G, X), GAUSSIAN, ak.KL(radius=radius))
        first = problem.solve(seed=0)
        radius.value = 4.0
        assert problem.solve(seed=0).certificate.kl.value == pytest.approx(4.0, rel=1e-6)
        with pytest.raises(StaleFitError, match="radius"):
            first.sample(1, seed=0)

    @pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan, True, "1", [1.0]])
    def test_it_is_a_positive_number(self, radius):
        with pytest.raises(ParameterError, match="radius"):
            ak.KL(radius=radius)

    def test_it_stands_in_place_of_a_weight(self):
        for arguments in ({}, {"weight": 1.0, "radius": 1.0}):
            with pytest.raises(ParameterError, match="either weight=λ") as caught:
                ak.KL(**arguments)
            assert len(caught.value.ways_out) == 2

    def test_a_radius_that_excludes_the_constraints_is_refused_with_the_least_that_does_not(self):
        least = 81 / (2 * S[0, 0])
        with pytest.raises(InfeasibleError, match=f"{least:.4g}"[:4]):
            solve(X[1], GAUSSIAN, ak.KL(radius=least / 2), [ak.E(X[0]) == MU[0] + 9])

    @pytest.mark.parametrize("radius", [0.5, 2.0])
    def test_a_quadratic_reaches_it_above_its_critical_weight(self, radius):
        """N(0, 1)·exp(x²/2λ) has the variance v = λ/(λ − 1) and the divergence (v − 1 − log v)/2."""
        normal = ak.base.Gaussian(np.zeros(2), 1.0)
        x = ak.Variable(2)
        found = solve(ak.square(x[0]) / 2, normal, ak.KL(radius=radius)).certificate
        variance = found.weight / (found.weight - 1)
        assert (variance - 1 - math.log(variance)) / 2 == pytest.approx(radius, rel=0.02)
        assert found.kl.value == pytest.approx(radius, rel=0.02)

    def test_rewards_that_no_weight_makes_proper_are_refused(self):
        with pytest.raises(IntractableError, match="exp"):
            solve(ak.exp(X[0]), GAUSSIAN, ak.KL(radius=1.0))


class HeavyTail(ak.base.law.ExactLaw):
    """A law on x > 1 of density ∝ e^{−x}/x⁵."""

    shape, name, tail, noise_size = (), "heavy tail", None, 1

    def __init__(self, slope: float = 0.0) -> None:
        self._slope = slope
        self.sigma_min, self.sigma_max = 0.01, 80.0

    def _moment(self, power, slope):
        from scipy.special import expn

        return float(expn(5 - power, 1 - slope)) if slope <= 1 else math.inf

    @property
    def mean(self):
        return np.array([self._moment(1, self._slope) / self._moment(0, self._slope)])

    @property
    def covariance(self):
        return np.array([[self._moment(2, self._slope) / self._moment(0, self._slope) - self.mean[0] ** 2]])

    def tilt(self, theta):
        return HeavyTail(self._slope + float(np.ravel(theta)[0]))

    def log_partition(self, theta):
        slopes = np.ravel(theta)
        now = self._moment(0, self._slope)
        return np.array([math.log(self._moment(0, self._slope + slope) / now) for slope in slopes])

    def draw_tilted(self, theta, rows, *, seed, stage=0, first_row=0):
        from alignkit.noise import uniform

        grid = np.concatenate([np.linspace(1, 20, 4000), np.geomspace(20.1, 1e4, 4000)])
        slope = self._slope + float(np.ravel(theta)[0])
        density = np.exp((slope - 1) * grid) / grid**5
        mass = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid)))
        points = uniform(seed, rows, 1, stage=stage, first_row=first_row)[:, 0]
        return np.interp(points, mass / mass[-1], grid)

    def from_noise(self, noise):
        raise NotImplementedError

    def denoise(self, x, sigma):
        raise NotImplementedError


class TestInfeasible:
    @pytest.mark.parametrize("case", range(50))
    def test_moments_outside_the_data_are_detected_by_proof(self, case):
        rng = np.random.default_rng(case)
        rows = rng.normal(size=(2, D))
        direction = rng.normal(size=2)
        outermost = (DATA.data @ rows.T)[np.argmax(DATA.data @ rows.T @ direction)]
        beyond = outermost + 0.01 * direction
        with pytest.raises(InfeasibleError, match="proved") as caught:
            solve(X[0], DATA, ak.KL(weight=1.0), [ak.E(rows @ X) == beyond])
        assert caught.value.is_proof
        # The direction is a certificate that the reader can check.
        gained = (DATA.data @ rows.T - beyond) @ caught.value.direction
        assert gained.min() > 0

    def test_moments_outside_the_range_of_the_data(self):
        box = ak.base.Denoiser(
            MIXTURE.denoise, (D,), sigma_min=0.01, sigma_max=80.0, data_range=(-6.0, 6.0), name="box"
        )
        with pytest.raises(InfeasibleError, match=r"proved.*data range of 'box'"):
            solve(X[0], box, ak.KL(weight=1.0), [ak.E(X[0] + X[1]) >= 12.5])

    def test_constraints_that_contradict_each_other(self):
        for constraints in ([ak.E(X[0]) == 1, ak.E(2 * X[0]) == 1], [ak.E(X[0]) >= 1, ak.E(X[0]) <= 0.5]):
            with pytest.raises(InfeasibleError, match="contradict each other") as caught:
                solve(X[1], GAUSSIAN, ak.KL(weight=1.0), constraints)
            assert any("ridge" in way for way in caught.value.ways_out)

    def test_draws_are_evidence_where_the_support_is_unknown(self):
        cloud = ak.base.Empirical(np.random.default_rng(3).normal(size=(20, D)))
        law = ak.base.Denoiser(
            cloud.denoise, (D,), sigma_min=0.01, sigma_max=20.0, exact=True, tail="bounded", name="cloud"
        )
        with pytest.raises(InfeasibleError, match="evidence, not proof") as caught:
            solve(X[0], law, ak.KL(weight=1.0), [ak.E(X[0]) == 7.0])
        assert not caught.value.is_proof and caught.value.direction[0] < 0

    def test_a_utility_whose_domain_no_law_reaches(self):
        beyond = float(DATA.data[:, 0].max()) + 0.1
        with pytest.raises(InfeasibleError, match="domain of the utility"):
            solve(X[1] + ak.log(ak.E(X[0]) - beyond), DATA, ak.KL(weight=1.0))

    def test_a_ridge_makes_them_feasible(self):
        aligned = solve(X[0], DATA, ak.KL(weight=1.0), [ak.E(X) == 9.0], ridge=1.0)
        assert aligned.status is Status.SOLVED and (aligned.certificate.moments[0].achieved < 0).all()


class TestRefusals:
    def test_comparisons_without_an_expectation(self):
        with pytest.raises(ParameterError, match=r"constraints\[1\] is False") as caught:
            ak.Problem(X[0], GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 1, X[0] == 1])
        assert "ak.E(x[0]) == 1" in caught.value.ways_out[0]

    @pytest.mark.parametrize("constraints", [[1.0], "E", [ak.E(X)], 3])
    def test_what_is_no_constraint(self, constraints):
        with pytest.raises(ParameterError, match="constraints"):
            ak.Problem(X[0], GAUSSIAN, ak.KL(weight=1.0), constraints)

    def test_convex_utilities(self):
        with pytest.raises(CurvatureError, match=r"square\(E\(x\[0\]\)\) is convex in E\(x\[0\]\)") as caught:
            ak.Problem(X[1] + ak.square(ak.E(X[0])), GAUSSIAN, ak.KL(weight=1.0))
        assert any("square(x[0])" in way for way in caught.value.ways_out)

    def test_utilities_of_unknown_curvature(self):
        with pytest.raises(CurvatureError, match="of unknown curvature"):
            ak.Problem(X[1] + ak.sin(ak.E(X[0])), GAUSSIAN, ak.KL(weight=1.0))

    def test_functions_of_draws_and_law_at_once(self):
        with pytest.raises(CurvatureError, match="mixes the variable with"):
            ak.Problem(ak.square(X[0] - ak.E(X[0])), GAUSSIAN, ak.KL(weight=1.0))

    def test_two_variables(self):
        with pytest.raises(ParameterError, match="one variable"):
            ak.Problem(X[0], GAUSSIAN, ak.KL(weight=1.0), [ak.E(ak.Variable(D, "y")[0]) == 1])

    def test_a_variable_of_another_shape(self):
        other = ak.Variable(3)
        with pytest.raises(ShapeError, match="base law"):
            ak.Problem(0.0, GAUSSIAN, ak.KL(weight=1.0), [ak.E(other) == 1])

    def test_transport_has_no_law(self):
        for reward, constraints in ((X[0], [ak.E(X[1]) == 1]), (X[0] + ak.log(ak.E(X[1])), [])):
            with pytest.raises(ParameterError, match="Wasserstein closeness moves each draw by itself") as caught:
                ak.Problem(reward, GAUSSIAN, ak.Wasserstein(weight=1.0), constraints)
            assert "ak.KL" in caught.value.ways_out[0]

    @pytest.mark.parametrize("ridge", [-0.1, math.nan, math.inf, "1", True])
    def test_a_ridge_out_of_range(self, ridge):
        with pytest.raises(ParameterError, match="ridge"):
            solve(X[0], GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 1], ridge=ridge)

    def test_a_ridge_without_constraints(self):
        with pytest.raises(ParameterError, match="ridge= relaxes constraints"):
            solve(X[0], GAUSSIAN, ak.KL(weight=1.0), ridge=0.1)

    def test_concave_rewards_of_draws_stay_intractable(self):
        with pytest.raises(IntractableError):
            solve(-ak.norm1(X), GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 1])

    def test_the_heuristic_takes_no_constraints(self):
        with pytest.raises(ParameterError, match="no expectation, constraint or radius"):
            solve(-ak.norm1(X), GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 1], heuristic=True)

    def test_an_improper_reward_stays_improper(self):
        with pytest.raises(ImproperTargetError):
            solve(10 * ak.sum_squares(X), GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == 1])


class TestPrinting:
    PROBLEM = ak.Problem(
        ak.inner(G, X) + ak.log(ak.E(X[1]) + 9), GAUSSIAN, ak.KL(radius=2.0), [ak.E(X[0]) == 1, ak.E(X[2:]) <= 3]
    )

    def test_the_explanation_says_what_is_asked_of_the_law(self):
        text = self.PROBLEM.explain()
        for words in ("utility     log(E(x[1]) + 9)", "subject to  E(x[0]) == 1", "E(x[2:]) <= 3", "KL(q‖p) ≤ 2"):
            assert words in text
        assert "dual" in text and "E(x[2:])" in text._repr_html_()

    def test_in_latex(self):
        text = self.PROBLEM.to_latex()
        assert r"\mathrm{KL}\left(q \,\|\, p\right) \le 2" in text
        assert r"\mathbb{E}_{q}\left[x_{0}\right] = 1" in text
        assert text.count("{") == text.count("}")

    def test_the_formula_of_the_plan_has_the_multipliers(self, tmp_path):
        aligned = self.PROBLEM.solve(seed=0)
        text = plan_latex(aligned.plan, aligned.declared)
        # One of the utility, one of the equality and three of the bound.
        theta = r"\frac{1}{\lambda} \left(\underset{5}{g} + \underset{5\times 5}{B}^{\top} \eta\right)"
        assert rf"\theta = {theta} \\ \eta &\text{{: the multipliers of" in text
        assert "multipliers of the expectations" in aligned.report(tmp_path / "a.html", n=20).read_text("utf-8")

    def test_multipliers_stand_beside_nonlinear_rewards_and_alone(self):
        constraints = [ak.E(X[0]) == 1]
        mixture = solve(ak.norm1(X[:2]), GAUSSIAN, ak.KL(weight=2.0), constraints)
        shift = r"\left\langle \frac{1}{2} \underset{1\times 5}{B}^{\top} \eta,\, x\right\rangle"
        assert rf"Q}} x\right\rangle + {shift}\right) d\mu" in plan_latex(mixture.plan, mixture.declared)
        closest = solve(ak.Constant(0.0), GAUSSIAN, ak.KL(weight=1.0), constraints)
        assert r"\theta = \underset{1\times 5}{B}^{\top} \eta \\" in plan_latex(closest.plan, closest.declared)

    def test_the_certificate_lists_constraints_in_their_order_and_then_utilities(self):
        certificate = self.PROBLEM.solve(seed=0).certificate
        assert [moment.text for moment in certificate.moments] == ["E(x[0]) == 1", "E(x[2:]) <= 3", "E(x[1])"]
        assert [dual.shape for dual in certificate.duals] == [(), (3,)]
        for words in ("E(x[0]) == 1", "left − right", "multiplier", "program over the law"):
            assert words in str(certificate)

    def test_bounds_that_are_parameters_are_followed(self):
        bound = ak.Parameter(value=1.0, name="bound")
        problem = ak.Problem(X[1], GAUSSIAN, ak.KL(weight=1.0), [ak.E(X[0]) == bound])
        first = problem.solve(seed=0)
        bound.value = 2.0
        second = problem.solve(seed=0)
        assert abs(second.certificate.moments[0].achieved) < 1e-6
        draws = second.sample(ROWS, seed=0)[:, 0]
        assert abs(draws.mean() - 2.0) <= 4 * draws.std() / math.sqrt(ROWS)
        with pytest.raises(StaleFitError):
            first.sample(1, seed=0)
