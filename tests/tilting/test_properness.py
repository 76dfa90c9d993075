"""Properness, held against quadrature, Gaussian integrals in closed form, and data."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.linalg import eigh

import alignkit as ak
from alignkit.base.law import BaseLaw
from alignkit.compiler.composition import compose
from alignkit.errors import ImproperTargetError, IntractableError
from alignkit.tilting.properness import check_proper

RNG = np.random.default_rng(11)
D = 16
FACTOR = RNG.normal(size=(D, D))
SIGMA = FACTOR @ FACTOR.T / D + 0.1 * np.eye(D)
A = RNG.normal(size=(2, D))
X = ak.Variable((D,))
x = ak.Variable(())
GAUSSIAN = ak.base.Gaussian(RNG.normal(size=D), SIGMA)


def check(reward, base, weight):
    return check_proper(reward, compose(reward), base, weight)


def refused(reward, base, weight):
    with pytest.raises(ImproperTargetError) as caught:
        check(reward, base, weight)
    return caught.value


def critical_of(error):
    """The number in the message, which is printed to ten digits."""
    (number,) = re.findall(r"critical value (\S+?)\.?(?: |$)", error.message)
    return float(number)


def is_finite(reward, base, weight):
    """∫ p·exp(r/λ) over the line by the trapezoidal rule: whether it settles as the ends move out."""
    logs = []
    for end in (2e3, 2e4, 2e5):
        steps = np.linspace(-math.asinh(end), math.asinh(end), 300_001)
        grid = np.sinh(steps)
        log_density = np.logaddexp.reduce(
            [
                math.log(mass) - 0.5 * (grid - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)
                for mass, mean, variance in zip(base.weights, base.means[:, 0], variances(base), strict=True)
            ],
            axis=0,
        )
        with np.errstate(all="ignore"):
            exponent = log_density + reward.value(grid) / weight + np.log(np.cosh(steps))
        if np.isposinf(exponent).any():
            return False
        peak = exponent.max()
        logs.append(peak + math.log(np.sum(np.exp(exponent - peak)) * (steps[1] - steps[0])))
    return abs(logs[2] - logs[1]) < 0.1


def variances(base):
    return np.broadcast_to(base._variances[:, 0], base.weights.shape)


NARROW = ak.base.Gaussian(0.3, 0.5)
MIXTURE = ak.base.GaussianMixture([0.9, 0.1], [-1.0, 4.0], [0.25, 2.0])
LINE = {
    "a square": 1.5 * ak.square(x - 1.0) + 7.0 * x,
    "a square and kinks": ak.square(x) + 3.0 * ak.abs(x - 2.0) + ak.huber(x),
    "a one-sided square": ak.square(ak.pos(2.0 * x + 1.0)),
    "the steeper side": ak.maximum(0.5 * ak.square(x), ak.square(ak.pos(x))),
    "a difference": 2.0 * ak.square(x) - 1.5 * ak.square(x - 3.0),
    "nothing but lines": ak.max(ak.stack([3.0 * x, -x, 5.0 * x - 2.0])),
    "log_sum_exp": ak.log_sum_exp(ak.stack([4.0 * x, -2.0 * x])),
    "exp": ak.exp(x),
    "a slow exp against a square": ak.exp(0.1 * x) - ak.square(x),
    "a cube": ak.power(ak.pos(x), 3),
    "a fourth power": 1e-3 * ak.power(x, 4) + x,
    "the power 3/2": 2.0 * ak.power(ak.abs(x), 1.5),
    "a wave": 40.0 * ak.sin(x) + ak.square(x),
    "a pole": ak.inv_pos(x),
    "a pole of a logarithm": -ak.log(x + 2.0),
}
CRITICAL = {
    "a square": 3.0,
    "a square and kinks": 2.0,
    "a one-sided square": 8.0,
    "the steeper side": 2.0,
    "a difference": 1.0,
    "a wave": 2.0,
}


class TestOnTheLine:
    @pytest.mark.parametrize("base", [NARROW, MIXTURE], ids=["Gaussian", "mixture"])
    @pytest.mark.parametrize("name", LINE)
    def test_the_verdict_is_that_of_quadrature(self, name, base):
        reward = LINE[name]
        weights = [0.1, 1.0, 20.0]
        if name in CRITICAL:
            critical = CRITICAL[name] * variances(base).max()
            weights = [0.3 * critical, 0.95 * critical, 1.05 * critical, 3.0 * critical]
        for weight in weights:
            if is_finite(reward, base, weight):
                assert check(reward, base, weight) == ()
            else:
                refused(reward, base, weight)

    @pytest.mark.parametrize("base", [NARROW, MIXTURE], ids=["Gaussian", "mixture"])
    @pytest.mark.parametrize("name", CRITICAL)
    def test_the_critical_weight_is_met_to_nine_digits(self, name, base):
        critical = CRITICAL[name] * variances(base).max()
        assert check(LINE[name], base, critical * (1 + 1e-9)) == ()
        error = refused(LINE[name], base, critical * (1 - 1e-9))
        assert critical_of(error) == pytest.approx(critical, rel=1e-9)
        assert f"λ > {critical:.6g}" in error.ways_out[0]

    @given(
        square=st.floats(-2, 2),
        one_sided=st.floats(0, 2),
        kink=st.floats(-3, 3),
        slope=st.floats(-5, 5),
        weight=st.floats(0.2, 5),
    )
    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def test_sums_of_squares_are_decided_on_both_sides(self, square, one_sided, kink, slope, weight):
        reward = square * ak.square(x) + one_sided * ak.square(ak.pos(x - kink)) + slope * x
        critical = 2.0 * 0.5 * max(square, square + one_sided, 0.0)
        if abs(weight - critical) < 0.05 * critical + 1e-9:
            return
        if weight > critical:
            assert check(reward, NARROW, weight) == ()
            assert is_finite(reward, NARROW, weight)
        else:
            refused(reward, NARROW, weight)
            assert not is_finite(reward, NARROW, weight)


class TestInManyDimensions:
    def test_rank_two_quadratics_under_a_correlated_covariance(self):
        critical = float(eigh(A @ SIGMA @ A.T, eigvals_only=True)[-1])
        reward = 0.5 * ak.sum_squares(A @ X) + ak.inner(RNG.normal(size=D), X)
        assert check(reward, GAUSSIAN, critical * (1 + 1e-9)) == ()
        error = refused(reward, GAUSSIAN, critical * (1 - 1e-9))
        assert critical_of(error) == pytest.approx(critical, rel=1e-9)
        assert "sum_squares([2×16 constant] @ x)" in error.message and error.expression == str(reward)
        # The Gaussian integral E exp(½‖Ax‖²/λ) = det(I − AΣAᵀ/λ)^−½ exists exactly while that matrix is definite.
        for weight, exists in ((critical * (1 + 1e-9), True), (critical * (1 - 1e-9), False)):
            assert (np.linalg.eigvalsh(np.eye(2) - A @ SIGMA @ A.T / weight)[0] > 0) is np.bool_(exists)

    def test_full_rank_quadratics(self):
        form = RNG.normal(size=(D, D))
        form = form @ form.T
        critical = float(eigh(2 * form, np.linalg.inv(SIGMA), eigvals_only=True)[-1])
        assert check(ak.quad_form(X, form), GAUSSIAN, critical * (1 + 1e-9)) == ()
        refused(ak.quad_form(X, form), GAUSSIAN, critical * (1 - 1e-9))

    def test_indefinite_quadratics(self):
        form = A.T @ np.diag([1.0, -3.0]) @ A
        critical = float(eigh(2 * form, np.linalg.inv(SIGMA), eigvals_only=True)[-1])
        assert critical > 0
        assert check(ak.quad_form(X, form), GAUSSIAN, critical * (1 + 1e-8)) == ()
        refused(ak.quad_form(X, form), GAUSSIAN, critical * (1 - 1e-8))
        assert check(ak.quad_form(X, -A.T @ A), GAUSSIAN, 1e-6) == ()

    def test_squares_of_norms(self):
        critical = 2.0 * float(eigh(A @ SIGMA @ A.T, eigvals_only=True)[-1])
        reward = ak.square(ak.norm2(A @ X - 1.0)) + 5.0 * ak.norm1(X[:3])
        assert check(reward, GAUSSIAN, critical * (1 + 1e-9)) == ()
        assert critical_of(refused(reward, GAUSSIAN, critical * (1 - 1e-9))) == pytest.approx(critical, rel=1e-9)

    def test_a_mixture_is_as_heavy_as_its_heaviest_component(self):
        turned = SIGMA[::-1, ::-1]
        laws = [ak.base.Gaussian(np.zeros(D), covariance) for covariance in (SIGMA, turned)]
        both = ak.base.GaussianMixture([0.999, 0.001], np.zeros((2, D)), np.stack([SIGMA, turned]))
        reward = 0.5 * ak.sum_squares(A @ X)
        each = [float(eigh(A @ covariance @ A.T, eigvals_only=True)[-1]) for covariance in (SIGMA, turned)]
        for law, critical in (*zip(laws, each, strict=True), (both, max(each))):
            assert check(reward, law, critical * (1 + 1e-9)) == ()
            refused(reward, law, critical * (1 - 1e-9))

    def test_components_without_weight_do_not_count(self):
        law = ak.base.GaussianMixture([1.0, 0.0], np.zeros((2, 2)), [1.0, 100.0])
        reward = ak.sum_squares(ak.Variable((2,)))
        assert check(reward, law, 2.1) == ()
        refused(reward, law, 1.9)

    @pytest.mark.parametrize("covariance", [2.0, np.linspace(1.0, 2.0, 12).reshape(3, 4)])
    def test_numbers_and_diagonals_are_covariances_too(self, covariance):
        law = ak.base.Gaussian(np.zeros((3, 4)), covariance)
        image = ak.Variable((3, 4))
        weights = RNG.normal(size=(2, 12))
        full = np.diag(np.broadcast_to(covariance, (3, 4)).ravel())
        critical = 2.0 * float(eigh(weights @ full @ weights.T, eigvals_only=True)[-1])
        reward = ak.sum_squares(weights @ ak.vec(image))
        assert check(reward, law, critical * (1 + 1e-9)) == ()
        refused(reward, law, critical * (1 - 1e-9))
        # The coordinates w are x itself where every entry counts.
        assert check(ak.sum_squares(image), law, 4.0 * (1 + 1e-9)) == ()
        refused(ak.sum_squares(image), law, 4.0 * (1 - 1e-9))

    def test_many_entries_with_variances_of_their_own(self):
        variances = np.linspace(0.5, 3.0, 3000)
        law, image = ak.base.Gaussian(np.zeros(3000), variances), ak.Variable((3000,))
        assert check(ak.sum_squares(image), law, 6.0 * (1 + 1e-6)) == ()
        assert "critical value" in refused(ak.sum_squares(image), law, 6.0 * (1 - 1e-6)).message

    def test_exponentials_and_powers_are_refused_for_every_weight(self):
        for growing in (ak.exp(A[0] @ X), ak.power(X[3], 4), ak.sum(ak.power(ak.pos(A @ X), 2.5))):
            error = refused(growing - 50.0 * ak.sum_squares(X[:2]), GAUSSIAN, 1e12)
            assert (
                "for every λ" in error.message and str(growing).removeprefix("sum(").removesuffix(")") in error.message
            )
            assert any("logistic" in way for way in error.ways_out)

    def test_a_rescue_is_seen(self):
        # −‖x‖² makes up for what the one-sided square would do, though no longer for twice of it.
        small = ak.Variable((2,))
        law = ak.base.Gaussian([0.0, 0.0], 1.0)
        reward = ak.square(ak.pos(small[0])) - 0.9 * ak.sum_squares(small)
        assert check(reward, law, 0.2 * (1 + 1e-9)) == ()
        refused(reward, law, 0.2 * (1 - 1e-9))


class TestAtTheCriticalWeight:
    law = ak.base.Gaussian([0.0, 0.0], 1.0)
    y = ak.Variable((2,))

    @pytest.mark.parametrize("extra", [0.0, 1.0, 3.0])
    def test_an_affine_minorant_keeps_the_integral_infinite(self, extra):
        error = refused(ak.square(self.y[0]) + extra * ak.abs(self.y[0] - 1.0) + self.y[1], self.law, 2.0)
        assert "equals the critical value 2" in error.message

    def test_a_kink_downwards_is_not_decided(self):
        # ∫ exp(−|x|/λ) is finite, and no rule here knows that.
        reward = ak.square(self.y[0]) - ak.abs(self.y[0])
        (warning,) = check(reward, self.law, 2.0)
        assert "λ > 2" in warning


class Shelf(BaseLaw):
    """A law of which nothing is known but its tail."""

    name = "shelf"

    def __init__(self, shape, tail=None, data_range=None):
        self.shape, self.tail, self.data_range = shape, tail, data_range

    def sample(self, n, *, seed, progress=None):
        raise NotImplementedError

    def denoise(self, x, sigma):
        raise NotImplementedError


class TestTailsKnownFromAboveOnly:
    y = ak.Variable((2,))

    def test_a_tail_variance_suffices_above_and_warns_below(self):
        reward = ak.sum_squares(self.y) + ak.norm1(self.y)
        assert check(reward, Shelf((2,), tail=1.5), 3.0 * (1 + 1e-9)) == ()
        (warning,) = check(reward, Shelf((2,), tail=1.5), 2.9)
        assert "λ > 3" in warning and "'shelf'" in warning

    def test_affine_rewards_need_no_more(self):
        assert check(self.y[0] - 2.0 * self.y[1], Shelf((2,), tail=1.5), 1e-3) == ()
        assert check(ak.max(self.y) + self.y[0], Shelf((2,), tail=1.5), 1e-3) == ()

    def test_fast_growth_warns(self):
        (warning,) = check(ak.exp(self.y[0]), Shelf((2,), tail=1.5), 1.0)
        assert "may outgrow" in warning and "huber" in warning

    def test_an_unknown_tail_warns_unless_the_reward_is_bounded(self):
        for reward in (self.y[0], ak.norm1(self.y), ak.tanh(self.y[0]) + self.y[1]):
            (warning,) = check(reward, Shelf((2,)), 1.0)
            assert "unknown" in warning and "tail='bounded'" in warning
        for reward in (
            -ak.norm1(self.y),
            ak.exp(-ak.square(self.y[0])),
            ak.sum(ak.clip(self.y, -1, 1)),
            0.0 * self.y[0],
        ):
            assert check(reward, Shelf((2,)), 1.0) == ()

    def test_a_third_party_law_may_declare_gaussian_tails(self):
        law = Shelf((2,), tail=4.0)
        law.tail_covariances = lambda: iter([np.diag([1.0, 4.0])])
        assert check(ak.square(self.y[0]), law, 2.1) == ()
        refused(ak.square(self.y[0]), law, 1.9)


class TestBoundedData:
    y = ak.Variable((2,))
    DATA = np.array([[0.5, -1.0], [2.0, 0.0], [0.25, 3.0]])

    @pytest.mark.parametrize(
        "base", [ak.base.Empirical(DATA), Shelf((2,), tail="bounded"), Shelf((2,), data_range=(-1.0, 3.0))]
    )
    def test_what_is_finite_everywhere_is_proper(self, base):
        for reward in (ak.sum_squares(self.y), ak.exp(self.y[0]), ak.power(self.y[1], 4), self.y[0], ak.log(self.y[0])):
            assert check(reward, base, 1e-3) == ()

    def test_data_points_are_looked_at_one_by_one(self):
        base = ak.base.Empirical(self.DATA)
        assert check(ak.inv_pos(self.y[0]) - ak.log(self.y[0]), base, 0.1) == ()
        error = refused(ak.inv_pos(self.y[1]), base, 10.0)
        assert "2 of the 3 data points" in error.message and "index 0" in error.message
        assert error.expression == "inv_pos(x[1])"

    def test_poles_inside_a_data_range_are_refused(self):
        base = Shelf((2,), data_range=(-1.0, 3.0))
        error = refused(ak.inv_pos(self.y[0] + 0.5), base, 1.0)
        assert "x[0] + 0.5 > 0 fails" in error.message and "[-1, 3]" in error.message and "'shelf'" in error.message
        refused(-ak.log(ak.sum(self.y) - 5.9), base, 1.0)
        assert check(ak.inv_pos(self.y[0] + 1.5), base, 1.0) == ()
        assert check(-ak.sqrt(self.y[0] + 1.0), base, 1.0) == ()

    def test_a_pole_on_the_boundary_is_not_decided(self):
        # x^(−1/λ) is integrable at 0 for λ > 1, and exp(1/(λx)) is not.
        for reward in (-ak.log(self.y[0] + 1.0), ak.inv_pos(self.y[0] + 1.0)):
            (warning,) = check(reward, Shelf((2,), data_range=(-1.0, 3.0)), 1.0)
            assert "x[0] + 1 > 0" in warning

    def test_without_a_range_poles_are_not_decided(self):
        (warning,) = check(ak.inv_pos(self.y[0]), Shelf((2,), tail="bounded"), 1.0)
        assert "x[0] > 0" in warning


class TestPoles:
    @pytest.mark.parametrize(
        ("reward", "condition"),
        [
            (ak.inv_pos(X[0] - 3.0), "x[0] - 3 > 0"),
            (-ak.sqrt(A[0] @ X), "≥ 0"),
            (ak.quad_over_lin(X[:2], X[2]) + ak.norm1(X[3:5]), "x[2] > 0"),
            (-ak.entr(X[1]), "x[1] ≥ 0"),
        ],
    )
    def test_gaussians_reach_every_pole(self, reward, condition):
        error = refused(reward, GAUSSIAN, 1e9)
        assert "for every λ" in error.message and condition in error.message and "'Gaussian'" in error.message


class TestInPlans:
    def test_improper_targets_have_no_plan(self):
        problem = ak.Problem(ak.exp(X[0]), GAUSSIAN, ak.KL(weight=1.0))
        with pytest.raises(ImproperTargetError, match="exp\\(x\\[0\\]\\)") as caught:
            problem.compile()
        assert caught.value.expression == "exp(x[0])"
        assert not problem.is_tractable() and "for every λ" in problem.explain()

    def test_hard_problems_are_called_hard_first(self):
        reward = ak.exp(X[0]) - ak.exp(X[1])
        refused(reward, GAUSSIAN, 1.0)
        with pytest.raises(IntractableError):
            ak.Problem(reward, GAUSSIAN, ak.KL(weight=1.0)).compile()

    def test_warnings_reach_the_plan(self):
        law = ak.base.Denoiser(GAUSSIAN.denoise, (D,), sigma_min=0.01, sigma_max=10.0, name="net")
        plan = ak.Problem(X[0], law, ak.KL(weight=1.0)).compile(backend="torch")
        assert len(plan.warnings) == 1 and "'net'" in plan.warnings[0]
        bounded = ak.base.Denoiser(GAUSSIAN.denoise, (D,), sigma_min=0.01, sigma_max=10.0, data_range=(-9.0, 9.0))
        assert ak.Problem(X[0], bounded, ak.KL(weight=1.0)).compile(backend="torch").warnings == ()


def test_tail_covariances_of_mixtures():
    matrices = np.stack([np.eye(2), np.diag([1.0, 3.0]) + 0.5])
    full = list(ak.base.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), matrices).tail_covariances())
    np.testing.assert_allclose(full, matrices)
    shared = list(ak.base.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), 3.0).tail_covariances())
    assert [float(one) for one in shared] == [3.0]
    diagonal = ak.base.GaussianMixture([0.5, 0.5, 0.0], np.zeros((3, 2)), [[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    np.testing.assert_allclose(list(diagonal.tail_covariances()), [[1.0, 2.0], [3.0, 4.0]])
    assert list(ak.base.Empirical(np.eye(2)).tail_covariances()) == []
