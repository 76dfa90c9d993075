"""Solvers of the probability flow: order of convergence on a Gaussian, whose flow is known, and bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from alignkit.errors import NonFiniteError, ParameterError
from alignkit_torch.solvers import (
    SOLVERS,
    ddim,
    dpm_solver_2m,
    heun,
    karras_schedule,
    lay_out,
    solve_flow,
    step_noise,
)

MAPS = [name for name, solver in SOLVERS.items() if not solver.is_stochastic]
NOISE = step_noise(0)
MEAN, SD, HIGH, LOW = 0.5, 0.7, 10.0, 1e-3


def gaussian(x, sigma):
    variance = sigma[:, None] ** 2
    return (SD**2 * x + variance * MEAN) / (SD**2 + variance)


def exact_flow(x, sigma):
    """The flow keeps the number of standard deviations: (x₀ − m)/s = (x_σ − m)/√(s² + σ²)."""
    return MEAN + SD / math.sqrt(SD**2 + sigma**2) * (x - MEAN)


X = torch.linspace(-30.0, 30.0, 7, dtype=torch.float64)[:, None]


def error(method, steps):
    # The last step, from LOW to 0, has an error of its own of order LOW².
    found = method(gaussian, X, lay_out(karras_schedule(steps, LOW, HIGH), X))
    return float((found - exact_flow(X, HIGH)).abs().max())


class TestOrder:
    @pytest.mark.parametrize(("method", "order"), [(heun, 2), (dpm_solver_2m, 2), (ddim, 1)])
    def test_doubling_the_steps_divides_the_error_by_two_to_the_order(self, method, order):
        rates = [math.log2(error(method, steps) / error(method, 2 * steps)) for steps in (32, 64, 128)]
        assert all(order - 0.35 < rate < order + 0.6 for rate in rates), rates

    @pytest.mark.parametrize(("name", "within"), [("heun", 2e-4), ("dpm_solver_2m", 2e-4), ("ddim", 4e-3)])
    def test_many_steps_reach_the_exact_flow(self, name, within):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=2001, solver=name)
        np.testing.assert_allclose(found, exact_flow(X, HIGH), atol=within)

    @pytest.mark.parametrize(("name", "within"), [("heun", 0.04), ("dpm_solver_2m", 0.04), ("ddim", 0.08)])
    def test_31_evaluations_are_within_a_few_per_cent(self, name, within):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=31, solver=name)
        np.testing.assert_allclose(found - MEAN, exact_flow(X, HIGH) - MEAN, rtol=within, atol=1e-6)


class TestEvaluations:
    @pytest.mark.parametrize("name", SOLVERS)
    @pytest.mark.parametrize("nfe", [1, 3, 15, 31, 63])
    def test_no_more_evaluations_are_made_than_asked_for(self, name, nfe):
        levels = []

        def counting(x, sigma):
            levels.append(float(sigma[0]))
            return gaussian(x, sigma)

        solve_flow(counting, X, LOW, HIGH, nfe=nfe, solver=name, noise=NOISE)
        assert len(levels) == nfe
        # Both ends exactly: a network may refuse what lies beyond them.
        assert max(levels) == HIGH and (nfe == 1 or min(levels) == LOW)

    @pytest.mark.parametrize("name", SOLVERS)
    def test_one_evaluation_is_the_denoiser_itself(self, name):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=1, solver=name, noise=NOISE)
        np.testing.assert_allclose(found, gaussian(X, torch.full((7,), HIGH, dtype=torch.float64)))

    @pytest.mark.parametrize("name", SOLVERS)
    def test_the_start_is_not_modified(self, name):
        start = X.clone()
        solve_flow(gaussian, start, LOW, HIGH, nfe=9, solver=name, noise=NOISE)
        assert (start == X).all()


class TestSchedule:
    @settings(deadline=None)
    @given(st.integers(2, 200), st.floats(1e-4, 1.0), st.floats(1.5, 1e5), st.floats(1.0, 9.0))
    def test_levels_fall_from_the_first_to_the_last_and_then_to_zero(self, steps, low, ratio, rho):
        levels = karras_schedule(steps, low, low * ratio, rho)
        assert len(levels) == steps + 1 and levels[-1] == 0.0
        assert levels[0] == low * ratio and levels[-2] == low
        assert all(now > after for now, after in itertools.pairwise(levels))

    def test_karras_formula(self):
        levels = karras_schedule(5, 0.002, 80.0)
        expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
        np.testing.assert_allclose(levels, [*expected, 0.0])

    def test_one_step_goes_straight_to_zero(self):
        assert karras_schedule(1, 0.1, 5.0) == [5.0, 0.0]


class TestBadInput:
    def test_unknown_solvers_name_the_known(self):
        with pytest.raises(ParameterError, match="euler") as caught:
            solve_flow(gaussian, X, LOW, HIGH, nfe=3, solver="euler")
        assert all(name in str(caught.value) for name in SOLVERS)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("name", SOLVERS)
    def test_networks_that_return_no_number_anywhere_on_the_way(self, name, value):
        def broken(x, sigma):
            out = gaussian(x, sigma)
            out[3] = torch.where(sigma[3] < 1.0, value, out[3])
            return out

        solver = SOLVERS[name]
        sigmas = karras_schedule(solver.steps(15), LOW, HIGH)
        # The first level below 1 that the denoiser sees: Heun sees it in the second evaluation of the step before.
        failed = next(number for number, sigma in enumerate(sigmas) if sigma < 1.0)
        step = failed if name == "heun" else failed + 1
        where = rf"'net' gave NaN .* in 1 rows, in step {step} of {len(sigmas) - 1}, at σ = {sigmas[failed]:.4g}, idly"
        with pytest.raises(NonFiniteError, match=where):
            solve_flow(broken, X, LOW, HIGH, nfe=15, solver=name, noise=NOISE, name="'net'", occasion="idly")

    def test_networks_that_fail_once_are_told_from_those_that_always_do(self):
        calls = []

        def flaky(x, sigma):
            calls.append(1)
            return gaussian(x, sigma) * (math.nan if len(calls) == 4 else 1.0)

        with pytest.raises(NonFiniteError, match="none when asked again"):
            solve_flow(flaky, X, LOW, HIGH, nfe=5)

    @pytest.mark.parametrize("name", sorted(set(SOLVERS) - set(MAPS)))
    def test_stochastic_solvers_need_noise(self, name):
        with pytest.raises(ParameterError, match=f"{name} draws noise in every step"):
            solve_flow(gaussian, X, LOW, HIGH, nfe=3, solver=name)

    def test_tilts_that_are_no_number_are_not_blamed_on_the_network(self):
        with pytest.raises(NonFiniteError, match=r"input of the denoiser is NaN or infinite in step 1 of 5, at σ = 10"):
            solve_flow(gaussian, X, LOW, HIGH, nfe=5, tilt=torch.tensor(math.inf, dtype=torch.float64))


class TestStart:
    """A start around the wrong centre is put right by the first evaluation, which counts as the first step's."""

    THETA = torch.tensor([4.0], dtype=torch.float64)

    @pytest.mark.parametrize(("name", "within"), [("heun", 2e-3), ("dpm_solver_2m", 2e-3), ("ddim", 0.02)])
    @pytest.mark.parametrize("centre", [-3.0, 5.0])
    def test_the_centre_does_not_matter(self, name, within, centre):
        noise = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]
        centre = torch.tensor([centre], dtype=torch.float64)
        calls = []

        def counting(x, sigma):
            calls.append(float(sigma[0]))
            return gaussian(x, sigma)

        found = solve_flow(
            counting, centre + 80 * noise, LOW, 80.0, nfe=401, solver=name, tilt=self.THETA, centre=centre
        )
        assert len(calls) == 401
        np.testing.assert_allclose(found, MEAN + SD**2 * 4.0 + SD * noise, atol=within)

    def test_without_it_the_mean_moves(self):
        noise = torch.zeros(1, 1, dtype=torch.float64)
        found = solve_flow(gaussian, noise + 5.0, LOW, 80.0, nfe=401, tilt=self.THETA)
        target = MEAN + SD**2 * 4.0
        assert float(found) - target == pytest.approx((5.0 - target) * SD / 80.0, rel=0.05)


class TestLayout:
    def test_numbers_are_those_of_the_schedule_in_the_dtype_of_the_rows(self):
        x = torch.zeros(3, 2)
        sigmas = karras_schedule(6, 0.01, 10.0)
        steps = lay_out(sigmas, x)
        assert len(steps) == 6
        for step, (now, after) in zip(steps, itertools.pairwise(sigmas), strict=True):
            assert step.sigma.shape == (3,) and all(number.dtype == torch.float32 for number in step)
            np.testing.assert_allclose(step.sigma, now, rtol=1e-6)
            assert float(step.variance) == pytest.approx(now**2) and float(step.pull) == pytest.approx(1 - after / now)
            kept = (after / now) ** 2
            assert float(step.posterior_pull) == pytest.approx(1 - kept)
            assert float(step.posterior_sd) == pytest.approx(after * math.sqrt(1 - kept))
        assert float(steps[0].memory) == float(steps[-1].memory) == float(steps[-1].correction) == 0.0
        assert float(steps[-1].pull) == float(steps[-1].posterior_pull) == 1.0
        assert float(steps[-1].posterior_sd) == 0.0

    def test_a_network_may_write_into_its_levels(self):
        def rude(x, sigma):
            found = gaussian(x, sigma)
            sigma.fill_(math.nan)
            return found

        found = solve_flow(rude, X, LOW, HIGH, nfe=9)
        np.testing.assert_array_equal(found, solve_flow(gaussian, X, LOW, HIGH, nfe=9))
