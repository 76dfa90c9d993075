"""Standard errors of what is made of a law whose draws share what they come from, against closed forms."""

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.tilting.shared_draws import shared_errors

WORTH = 50.0
#: r = x²/2 over λ = 1/SHARE is a tilt of N(0, 1) to N(0, 1/(1 − SHARE)).
SHARE = 0.2


class Few(ak.base.Gaussian):
    """N(0, 1) as if all of its draws came from a few."""

    ess = WORTH


LAW = Few([0.0], 1.0)
REWARD = ak.sum_squares(ak.Variable((1,))) / 2


def closed_form():
    """Standard errors of E_p[r], E_q[r], log Z and KL over so many draws of N(0, 1), by the delta method.

    p·(dq/dp)² is E_p[(dq/dp)²] times N(0, 1/(1 − 2·SHARE)), under which e = SHARE·x²/2 is a multiple of χ².
    """
    log_z, of_square = (-math.log(1 - share) / 2 for share in (SHARE, 2 * SHARE))
    inflation = math.exp(of_square - 2 * log_z)
    after, twice = (SHARE / 2 / (1 - share) for share in (SHARE, 2 * SHARE))
    spread = 2 * twice**2
    variances = np.array([
        1 / 2,
        inflation * (spread + (twice - after) ** 2) / SHARE**2,
        inflation - 1,
        inflation * (spread + (twice - after - 1) ** 2) - 1,
    ])  # fmt: skip
    return np.sqrt(variances / WORTH)


def check_against_closed_form(certificate):
    names = ("reward_before", "reward_after", "log_partition", "kl")
    ratios = np.array([getattr(certificate, name).standard_error for name in names]) / closed_form()
    # Of the error of KL the tail of r counts most, of which draws tell least.
    assert (abs(ratios - 1) < [0.05, 0.15, 0.1, 0.3]).all(), ratios


def test_errors_are_those_of_replicates():
    """log E exp(θx), E_q[x] and KL over 200 draws of N(0, 1), and what draws of q say of their errors."""
    theta, count = 0.5, 200
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, count))
    log_z = np.log(np.exp(theta * x).mean(axis=1))
    means = (np.exp(theta * x) * x).mean(axis=1) / np.exp(log_z)
    draws = rng.normal(theta, 1.0, size=20_000)
    errors = shared_errors(
        count, theta * draws, np.full(draws.size, 1 / draws.size), draws[:, None], log_partition=theta**2 / 2
    )
    spreads = [log_z.std(), (theta * means - log_z).std(), means.std()]
    # Over 2,000 replicates a standard deviation is known within 1.6 %.
    np.testing.assert_allclose(np.hstack(errors), spreads, rtol=0.08)


def test_huge_ratios_do_not_overflow():
    errors = shared_errors(10.0, np.array([900.0, 1000.0]), np.array([0.5, 0.5]), np.ones((2, 1)), log_partition=0.0)
    assert errors[0] > 1e200 and errors[2][0] == 0.0
    assert math.isinf(shared_errors(10.0, np.array([1e4]), np.ones(1), np.ones((1, 1)), log_partition=0.0)[0])


def test_weightless_draws_count_for_nothing():
    some = shared_errors(10.0, np.array([0.1, 0.3]), np.array([0.5, 0.5]), np.eye(2), log_partition=0.2)
    more = shared_errors(
        10.0, np.array([0.1, 0.3, 5.0]), np.array([0.5, 0.5, 0.0]), np.eye(3)[:, :2], log_partition=0.2
    )
    np.testing.assert_allclose(np.hstack(some), np.hstack(more))


@pytest.mark.parametrize("closeness", ["weight", "radius"])
def test_annealing_takes_them_in(closeness):
    kl = SHARE / 2 / (1 - SHARE) + math.log(1 - SHARE) / 2
    choice = ak.KL(weight=1 / SHARE) if closeness == "weight" else ak.KL(radius=kl)
    certificate = ak.Problem(REWARD, LAW, choice).solve(seed=0, engine="annealed").certificate
    check_against_closed_form(certificate)
    assert "together are worth 50 independent ones" in certificate.rows["base law"]


def test_the_heuristic_takes_them_in():
    problem = ak.Problem(lambda x: (x[:, 0] ** 2) / 2, LAW, ak.KL(weight=1 / SHARE))
    certificate = problem.solve(seed=0, heuristic=True).certificate
    check_against_closed_form(certificate)
    assert certificate.ess < WORTH


@pytest.mark.parametrize("closeness", [ak.Wasserstein(weight=4.0), ak.Wasserstein(radius=0.5)])
def test_transport_takes_them_in(closeness):
    """At λ = 4 x² moves x to 2x, at a cost of x²/2, of mean ½."""
    certificate = ak.Problem(2 * REWARD, LAW, closeness).solve(seed=0).certificate
    rows = 512 if closeness.radius is None else int(certificate.details["rows"].split()[0])
    expected = math.sqrt(2 * (1 / rows + 1 / WORTH)) * np.array([1.0, 4.0, 0.5])
    found = (certificate.reward_before, certificate.reward_after, certificate.transport_cost)
    np.testing.assert_allclose([estimate.standard_error for estimate in found], expected, rtol=0.25)
    if certificate.radius is not None:
        assert certificate.radius.costs[0].standard_error == certificate.transport_cost.standard_error
        assert certificate.radius.dual.standard_error > 0.1
    assert "together are worth 50 independent ones" in certificate.rows["base law"]


def test_laws_of_independent_draws_say_nothing_of_it():
    law = ak.base.Gaussian([0.0], 1.0)
    certificate = ak.Problem(REWARD, law, ak.KL(weight=1 / SHARE)).solve(seed=0).certificate
    assert law.ess == math.inf and "base law" not in certificate.rows
