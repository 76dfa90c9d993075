"""Solvers of the probability flow: order of convergence on a Gaussian, whose flow is known, and bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from alignkit.errors import NonFiniteError, ParameterError
from alignkit_torch.solvers import SOLVERS, dpm_solver_2m, heun, karras_schedule, solve_flow

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
    found = method(gaussian, X, karras_schedule(steps, LOW, HIGH))
    return float((found - exact_flow(X, HIGH)).abs().max())


class TestOrder:
    @pytest.mark.parametrize(("method", "order"), [(heun, 2), (dpm_solver_2m, 2)])
    def test_doubling_the_steps_divides_the_error_by_four(self, method, order):
        rates = [math.log2(error(method, steps) / error(method, 2 * steps)) for steps in (32, 64, 128)]
        assert all(order - 0.35 < rate < order + 0.6 for rate in rates), rates

    @pytest.mark.parametrize("name", SOLVERS)
    def test_many_steps_reach_the_exact_flow(self, name):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=2001, solver=name)
        np.testing.assert_allclose(found, exact_flow(X, HIGH), atol=2e-4)

    @pytest.mark.parametrize("name", SOLVERS)
    def test_31_evaluations_are_within_four_per_cent(self, name):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=31, solver=name)
        np.testing.assert_allclose(found - MEAN, exact_flow(X, HIGH) - MEAN, rtol=0.04, atol=1e-6)


class TestEvaluations:
    @pytest.mark.parametrize("name", SOLVERS)
    @pytest.mark.parametrize("nfe", [1, 3, 15, 31, 63])
    def test_no_more_evaluations_are_made_than_asked_for(self, name, nfe):
        levels = []

        def counting(x, sigma):
            levels.append(float(sigma[0]))
            return gaussian(x, sigma)

        solve_flow(counting, X, LOW, HIGH, nfe=nfe, solver=name)
        assert len(levels) == nfe
        # Both ends exactly: a network may refuse what lies beyond them.
        assert max(levels) == HIGH and (nfe == 1 or min(levels) == LOW)

    @pytest.mark.parametrize("name", SOLVERS)
    def test_one_evaluation_is_the_denoiser_itself(self, name):
        found = solve_flow(gaussian, X, LOW, HIGH, nfe=1, solver=name)
        np.testing.assert_allclose(found, gaussian(X, torch.full((7,), HIGH, dtype=torch.float64)))

    @pytest.mark.parametrize("name", SOLVERS)
    def test_the_start_is_not_modified(self, name):
        start = X.clone()
        solve_flow(gaussian, start, LOW, HIGH, nfe=9, solver=name)
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

        with pytest.raises(NonFiniteError, match=r"σ = 10 to 0"):
            solve_flow(broken, X, LOW, HIGH, nfe=15, solver=name)
