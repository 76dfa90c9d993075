"""The weight at which a program over the law reaches a radius, against closed forms and finite data."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.tilting.exponential_family import ClosedForms, Member, WeightedDraws
from alignkit.tilting.law_program import LawProgram
from alignkit.tilting.radius import RadiusOutcome, solve_radius

RNG = np.random.default_rng(0)
D = 4
ROOT = RNG.normal(size=(D, D))
S, MU = ROOT @ ROOT.T / D + 0.5 * np.eye(D), RNG.normal(size=D)
G, B = RNG.normal(size=D), RNG.normal(size=(1, D))
GAUSSIAN = ak.base.Gaussian(MU, S)
ALONE, BOTH = ClosedForms(GAUSSIAN, G[None]), ClosedForms(GAUSSIAN, np.vstack([G, B]))
DATA = RNG.integers(-3, 4, size=200).astype(float)
DRAWS = WeightedDraws(DATA[:, None], np.full(200, -np.log(200)))
#: −log P(argmax r), the divergence of the best law there is.
LARGEST = -math.log((DATA.max() == DATA).mean())


@pytest.mark.parametrize("radius", [1e-3, 0.5, 5.0, 50.0])
def test_a_gaussian_reaches_it_at_the_weight_of_the_closed_form(radius):
    found = solve_radius(ALONE, LawProgram(), radius)
    assert found.outcome is RadiusOutcome.REACHED
    assert found.solution.weight == pytest.approx(math.sqrt(G @ S @ G / (2 * radius)), rel=1e-6)
    assert found.solution.member.divergence == pytest.approx(radius, rel=1e-6)


def test_constraints_take_their_share_of_the_radius():
    target = B @ MU + 0.5
    least = 0.125 / (B @ S @ B.T).item()
    found = solve_radius(BOTH, LawProgram(equalities=target), 2 * least)
    assert found.outcome is RadiusOutcome.REACHED
    np.testing.assert_allclose(found.solution.moments, target, atol=1e-7)
    assert found.solution.member.divergence == pytest.approx(2 * least, rel=1e-6)
    # What is left of the radius moves r along what B does not see.
    free = G @ S @ G - ((G @ S @ B.T) ** 2 / (B @ S @ B.T)).item()
    assert found.solution.weight == pytest.approx(math.sqrt(free / (2 * least)), rel=1e-5)
    assert solve_radius(BOTH, LawProgram(equalities=target), 0.9 * least).outcome is RadiusOutcome.TOO_SMALL


@pytest.mark.parametrize("radius", [0.1, 1.0, LARGEST - 0.01])
def test_finite_data_reach_it_up_to_the_best_law_of_all(radius):
    found = solve_radius(DRAWS, LawProgram(), radius)
    assert found.outcome is RadiusOutcome.REACHED
    assert found.solution.member.divergence == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("radius", [LARGEST + 0.01, 20.0])
def test_beyond_the_best_law_of_all_it_is_inactive(radius):
    found = solve_radius(DRAWS, LawProgram(), radius)
    assert found.outcome is RadiusOutcome.INACTIVE
    assert found.solution.member.divergence == pytest.approx(LARGEST, abs=1e-6)
    assert found.solution.member.mean[0] == pytest.approx(DATA.max(), abs=1e-6)


def test_a_utility_whose_best_law_lies_inside_leaves_it_inactive():
    utility = -ak.square(ak.Variable(1, name="m")[0] - (B @ MU).item() - 0.5)
    still = ClosedForms(GAUSSIAN, np.vstack([0 * G, B]))
    least = 0.125 / (B @ S @ B.T).item()
    found = solve_radius(still, LawProgram(utility, 1), 2 * least)
    assert found.outcome is RadiusOutcome.INACTIVE
    assert found.solution.member.divergence == pytest.approx(least, rel=1e-4)
    reached = solve_radius(still, LawProgram(utility, 1), least / 2)
    assert reached.outcome is RadiusOutcome.REACHED
    assert reached.solution.member.divergence == pytest.approx(least / 2, rel=1e-6)


class HeavyTail:
    """A law on x > 1 of density ∝ e^{−x}/x⁵: at the slope 1 it has a mean, and beyond it no normaliser."""

    size, scale, precision = 1, np.ones(1), 1e-7

    def at(self, slopes):
        from scipy.special import expn

        a = float(slopes[0])
        if a > 1:
            return Member(slopes, math.inf, np.full(1, np.nan), np.full((1, 1), np.nan))
        first, second, third = expn(5, 1 - a), expn(4, 1 - a), expn(3, 1 - a)
        mean = second / first
        return Member(slopes, math.log(first / expn(5, 1.0)), np.array([mean]), np.array([[third / first - mean**2]]))

    def reach(self, direction):
        return math.inf


def test_a_divergence_that_stays_finite_at_the_critical_weight_ends_there():
    law = HeavyTail()
    largest = law.at(np.ones(1)).divergence
    assert math.isfinite(largest)
    found = solve_radius(law, LawProgram(), 2 * largest)
    assert found.outcome is RadiusOutcome.NOT_ATTAINED
    assert found.solution.weight == pytest.approx(1.0, rel=1e-6)
    assert found.solution.member.divergence == pytest.approx(largest, rel=1e-3)
    inside = solve_radius(law, LawProgram(), largest / 2)
    assert inside.outcome is RadiusOutcome.REACHED
    assert inside.solution.member.divergence == pytest.approx(largest / 2, rel=1e-6)
