"""Rewards and rows that are hard: every backend that takes one finds it out and says so, and answers the other rows.

A truth is a closed form, or bisection to the last digit. Any point's objective is a lower bound of the supremum, so
that a truth that were itself wrong could excuse a backend, and never accuse it.
"""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit import registry
from alignkit.contracts import Bid, ProxProblem, ProxSolution
from alignkit.errors import NonFiniteError, ParameterError, ShapeError, StaleFitError, Status, UnboundedTransportError
from alignkit.noise import fold_seed
from alignkit.testing import prox_examples
from alignkit.transport import fitted
from alignkit.transport.reduction import TransportMap

TOLERANCE = 1e-6
EPS = float(np.finfo(np.float64).eps)
#: Operations that may each round an objective, about.
OPERATIONS = 200
CERTIFIED_ROWS = 16
EXAMPLES = {example.name: example for example in prox_examples(rows=6, seed=3)}
RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 3))
ALL, CVXPY = ("cvxpy", "numba", "torch"), ("cvxpy",)
INSTALLED = registry.offers("prox_solver")


@pytest.fixture(autouse=True)
def few_certified_rows(monkeypatch):
    """A fit moves fewer draws for its certificate, as interior-point programs take a millisecond a row."""
    monkeypatch.setattr(fitted, "_MOST", CERTIFIED_ROWS)


def test_the_backends_examined_here_are_installed():
    """Or a test for every backend would be a test of none."""
    assert set(INSTALLED) >= set(ALL)


def problem_of(reward, weight=1.0, cost=None, base=None):
    """Align a standard Gaussian of the reward's shape."""
    if base is None:
        shape = reward.variables()[0].shape
        base = ak.base.Gaussian(np.zeros(shape), 1.0)
    return ak.Problem(reward, base, ak.Wasserstein(weight=weight, **({} if cost is None else {"cost": cost})))


def bidders(problem):
    """Those of the backends examined here; others come with tests of their own."""
    offers = (answer for answer in problem.backends() if isinstance(answer, Bid))
    return tuple(sorted(offer.backend for offer in offers if offer.backend in ALL))


def objective(reward, weight, cost, x, y):
    """r(y) − λ·c(x, y) in full dimension, −inf outside the domain, with what rounding may take from it."""
    cost = ak.costs.SquaredEuclidean() if cost is None else cost
    with np.errstate(all="ignore"):
        value = np.asarray(reward.value(y), dtype=np.float64).reshape(len(y))
    paid = weight * cost.value(x, y)
    entries = tuple(range(1, x.ndim))
    size = np.abs(y).sum(axis=entries) + np.abs(x).sum(axis=entries)
    slope = reward.lipschitz if np.isfinite(reward.lipschitz) else 0.0
    moved = np.sqrt(np.square(y - x).sum(axis=entries))
    rounding = OPERATIONS * EPS * (1.0 + np.abs(value) + np.abs(paid) + (slope + weight * moved) * size)
    return np.where(np.isnan(value), -np.inf, value) - paid, rounding


def check_certificate(moved, reward, weight, x, *, cost=None, best=None):
    """What `transport` says of its rows is true: their objective, their gap, and which of them are unfinished."""
    found, rounding = objective(reward, weight, cost, x, moved.y)
    finite = np.isfinite(moved.objective)
    assert (np.abs(found - moved.objective)[finite] <= rounding[finite]).all()
    assert (moved.unfinished == ~(moved.relative_gap <= TOLERANCE)).all()
    assert (moved.gap >= 0.0).all() and not np.isnan(moved.relative_gap).any()
    if best is not None:
        supremum, more = objective(reward, weight, cost, x, best)
        slack = moved.gap + rounding + more
        assert (supremum - found <= slack).all(), (supremum - found, moved.gap)


# ---- rewards that outgrow the cost


x3 = ak.Variable(3, name="x")
x2 = ak.Variable(2, name="x")

#: reward, weight, cost, the summand at fault and what is said of λ.
OUTGROWN = {
    "a quadratic at λ": (0.5 * ak.sum_squares(x3), 1.0, None, "sum_squares(x)", "equals the critical value 1."),
    "a quadratic above λ": (
        0.6 * ak.sum_squares(x3[:2]) - ak.norm1(x3),
        1.0,
        None,
        "sum_squares(x[:2])",
        "below the critical value 1.2.",
    ),
    "a quadratic of features": (
        ak.square(2.0 * x3[0] + 1.0) - ak.huber(x3[1]),
        7.0,
        None,
        "square(2 * x[0] + 1)",
        "below the critical value 8.",
    ),
    "a quadratic above a weighted cost": (
        0.6 * ak.sum_squares(x3),
        0.5,
        ak.costs.Weighted([2.0, 2.0, 3.0]),
        "sum_squares",
        "below the critical value",
    ),
    "an exponential": (ak.sum(ak.exp(x3)) - ak.sum_squares(x3), 1e6, None, "exp(x)", "for every λ"),
    "a cube": (ak.power(ak.pos(x3[0]), 3), 1e6, None, "power(pos(x[0]), 3)", "for every λ"),
    "a pole": (ak.inv_pos(x3[0]), 10.0, None, "inv_pos(x[0])", "for any λ"),
    "an affine reward under ℓ1": (2.0 * x3[0] - x3[1], 1.0, ak.costs.L1(), "2 * x[0]", "λ = 1"),
    "an affine reward under ℓ∞": (x3[0] - x3[1], 1.5, ak.costs.PNorm(np.inf), "x[0]", "λ = 1.5"),
    "an affine reward under the distance": (
        3.0 * x3[0] + 4.0 * x3[1],
        4.99,
        ak.costs.Euclidean(),
        "3 * x[0]",
        "λ = 4.99",
    ),
    "lines that rise together": (
        ak.minimum(4.0 * x3[0], 4.0 * x3[0] + x3[1]),
        3.9,
        ak.costs.Euclidean(),
        "minimum(",
        "below a lower bound of the critical value, 4.",
    ),
    "a slope that nothing offsets": (
        3.0 * x3[1] - ak.pos(x3[0]),
        2.9,
        ak.costs.Euclidean(),
        "3 * x[1]",
        "below the critical value 3.",
    ),
    "a slope beside a norm under ℓ1": (
        2.0 * x3[1] - ak.norm1(x3[:1] - 1.0),
        1.9,
        ak.costs.L1(),
        "2 * x[1]",
        "below the critical value 2.",
    ),
    "a slope across a hinge under ℓ1": (
        1.5 * x3[0] - ak.pos(-x3[0] - x3[1]),
        0.7,
        ak.costs.L1(),
        "1.5 * x[0]",
        "a lower bound of the critical value, 0.75.",
    ),
    "pieces that rise together under ℓ1": (
        ak.minimum(2.0 * x3[0] + x3[1], 3.0 * x3[1] + x3[0]),
        1.6,
        ak.costs.L1(),
        "minimum(",
        "a lower bound of the critical value, 1.66",
    ),
    "a slope beside a logarithm under ℓ∞": (
        x3[1] - 2.0 * x3[2] + ak.log(x3[0]),
        2.9,
        ak.costs.PNorm(np.inf),
        "x[1]",
        "a lower bound of the critical value, 3.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTGROWN)
@pytest.mark.parametrize("backend", ["auto", *ALL])
def test_structure_shows_that_a_reward_outgrows_the_cost(name, backend):
    reward, weight, cost, summand, words = OUTGROWN[name]
    problem = problem_of(reward, weight, cost)
    with pytest.raises(UnboundedTransportError) as caught:
        problem.compile(backend=backend)
    text = str(caught.value)
    assert summand in text and words in text and caught.value.ways_out


#: Rewards that see every direction in which they rise.
STEEP = {
    "distance, hinges": (4.0 * x3[0] - ak.sum(ak.pos(A @ x3)), ak.costs.Euclidean()),
    "distance, norm": (4.0 * x3[0] - ak.norm2(A @ x3), ak.costs.Euclidean()),
    "ℓ1, hinge": (1.5 * x3[0] - ak.pos(-x3[0]), ak.costs.L1()),
    "ℓ1, absolute values": (4.0 * x3[0] - 0.1 * ak.norm1(A @ x3), ak.costs.L1()),
    "ℓ1, pieces": (ak.min(A @ x3) + 20.0 * ak.sum(x3), ak.costs.L1()),
    "ℓ1, logarithm": (ak.log(x3[0]) + 2.0 * x3[0], ak.costs.L1()),
    "ℓ∞, norm": (3.0 * ak.sum(x3) - ak.norm1(x3), ak.costs.PNorm(np.inf)),
}


@pytest.mark.parametrize("name", STEEP)
def test_what_structure_does_not_show_is_found_by_every_backend(name):
    reward, cost = STEEP[name]
    steep = problem_of(reward, 0.2, cost)
    assert bidders(steep)
    for backend in bidders(steep):
        with pytest.raises(UnboundedTransportError) as caught:
            steep.solve(seed=0, backend=backend)
        assert any("λ" in way for way in caught.value.ways_out), caught.value
    # The same at a λ that dominates is no false alarm.
    calm = problem_of(reward, 50.0, cost)
    x = np.abs(RNG.standard_normal((5, 3))) + 0.1
    for backend in bidders(calm):
        moved = calm.solve(seed=0, backend=backend).transport(x, return_details=True)
        check_certificate(moved, reward, 50.0, x, cost=cost, best=x)
        assert not moved.unfinished.any()


def test_a_slope_that_the_distance_dominates_is_no_false_alarm():
    """x₁ gains 3 a step, which is unbounded for λ < 3, whatever the rest is, and bounded beyond."""
    problem = problem_of(3.0 * x3[1] - ak.pos(x3[0]), 3.1, ak.costs.Euclidean())
    assert bidders(problem)
    for backend in bidders(problem):
        aligned = problem.solve(seed=0, backend=backend)
        assert aligned.status is Status.SOLVED and aligned.certificate.gap_max <= TOLERANCE


@pytest.mark.parametrize("rows", [1, 3])
def test_sessions_raise_by_themselves(rows):
    plan = problem_of(4.0 * x3[0] - 0.1 * ak.norm1(A @ x3), 0.2, ak.costs.L1()).compile()
    assert isinstance(plan.request, ProxProblem)
    for name in INSTALLED:
        solver = registry.require(name, "prox_solver")()
        if getattr(solver, "takes_displacements", False) and isinstance(solver.bid(plan.request), Bid):
            with pytest.raises(UnboundedTransportError):
                solver.open(plan.request).solve(RNG.standard_normal((rows, plan.request.dimension)))


# ---- rows that a backend may not manage


HARD = {
    "norm1": (-ak.norm1(A @ x3 - 1.0), ALL),
    "huber": (-ak.sum(ak.huber(A @ x3, M=0.5)), ALL),
    "log_sum_exp": (-ak.log_sum_exp(A @ x3), ALL),
    "min": (ak.min(A @ x3 + np.arange(5.0)), ALL),
    "separable": (-ak.norm1(x3) - ak.sum(ak.pos(x3 - 1.0)), ALL),
    "quadratic": (-ak.sum_squares(A @ x3 - 1.0), ALL),
    "total variation": (-ak.total_variation(x3), ALL),
    "exponential": (-ak.sum(ak.exp(x3)), CVXPY),
    "norm2": (-ak.norm2(A @ x3 - 1.0), CVXPY),
    "logarithm": (ak.sum(ak.log(x3)), CVXPY),
    "entropy": (ak.sum(ak.entr(x3)), CVXPY),
}


@pytest.mark.parametrize("name", HARD)
def test_rows_beyond_reach_spoil_no_other(name):
    """A row of 1e300 has squares beyond float64, and one of 1e7 exponentials beyond it: both are solved or listed."""
    reward, takers = HARD[name]
    problem = problem_of(reward, 0.7)
    assert set(bidders(problem)) == set(takers)
    x = RNG.standard_normal((6, 3))
    hard = x.copy()
    hard[1], hard[3], hard[4] = 1e300, [1e7, -1e7, 0.0], -1e30
    others = [0, 2, 5]
    for backend in takers:
        aligned = problem.solve(seed=0, backend=backend)
        alone = aligned.transport(x[others], return_details=True)
        assert not alone.unfinished.any()
        with np.errstate(all="ignore"):
            moved = aligned.transport(hard, return_details=True)
        together = moved.objective[others]
        assert not moved.unfinished[others].any(), backend
        assert (np.abs(together - alone.objective) <= moved.gap[others] + alone.gap + 1e-12).all(), backend
        bounded = np.isfinite(moved.gap)
        assert (moved.unfinished | bounded).all() and not np.isnan(moved.gap).any()
        assert (moved.unfinished == ~(moved.relative_gap <= TOLERANCE)).all()


# ---- rewards that are −∞ at x


def bisected(slope):
    """argmax Σ p(z_i) − (λ/2)(z_i − v_i)² over z > 0, from p', which falls from +∞ at 0."""

    def solve(v, weight):
        low, high = np.full_like(v, -700.0), np.log(np.maximum(np.abs(v), 1.0) + 2.0 + 10.0 / weight)
        for _ in range(200):
            middle = 0.5 * (low + high)
            at = np.exp(middle)
            rising = slope(at) - weight * (at - v) > 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return np.exp(0.5 * (low + high))

    return solve


DOMAINS = {
    "log": (ak.sum(ak.log(x3)), bisected(lambda z: 1.0 / z)),
    "sqrt": (ak.sum(ak.sqrt(x3)), bisected(lambda z: 0.5 / np.sqrt(z))),
    "entr": (ak.sum(ak.entr(x3)), bisected(lambda z: -np.log(z) - 1.0)),
    "inv_pos": (-ak.sum(ak.inv_pos(x3)), bisected(lambda z: 1.0 / z**2)),
    "power": (ak.sum(ak.power(x3, 0.3)), bisected(lambda z: 0.3 * z**-0.7)),
}


@pytest.mark.parametrize("weight", [0.1, 10.0])
@pytest.mark.parametrize("name", DOMAINS)
def test_rows_outside_the_domain_are_moved_into_it(name, weight):
    reward, solve = DOMAINS[name]
    x = np.array([[-1.0, 2.0, 0.5], [-3.0, -0.1, -2.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [-50.0, 1e-9, 40.0]])
    problem = problem_of(reward, weight)
    assert bidders(problem) == CVXPY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aligned = problem.solve(seed=0)
        moved = aligned.transport(x, return_details=True)
    assert np.isfinite(moved.gap).all() and np.isfinite(moved.objective).all() and (moved.y >= 0.0).all()
    assert not moved.unfinished.any(), moved.relative_gap
    check_certificate(moved, reward, weight, x, best=solve(x, weight))
    assert aligned.status is Status.SOLVED and aligned.certificate.gap_max <= TOLERANCE
    assert float(aligned.certificate.reward_before) == -np.inf and np.isfinite(float(aligned.certificate.reward_after))
    assert "nan" not in str(aligned.certificate)


def test_a_domain_of_features_in_many_dimensions():
    """Only z = ⟨q, x⟩ matters: z > 0 solves λ(z − v) = 1/z, and x moves along q."""
    d, weight = 40, 2.0
    q = RNG.standard_normal(d)
    q /= np.linalg.norm(q)
    x = ak.Variable(d, name="x")
    aligned = problem_of(ak.log(q @ x), weight).solve(seed=0, backend="cvxpy")
    rows = RNG.standard_normal((20, d)) - 2.0 * q
    v = rows @ q
    assert (v < 0).any()
    z = 2.0 / (weight * (np.sqrt(v**2 + 4.0 / weight) - v))
    moved = aligned.transport(rows, return_details=True)
    assert not moved.unfinished.any()
    np.testing.assert_allclose(moved.y, rows + (z - v)[:, None] * q, atol=2e-3)
    check_certificate(moved, ak.log(q @ x), weight, rows, best=rows + (z - v)[:, None] * q)


EMPTY = {
    "a range": (ak.log(-1.0 - ak.square(x3[0])), "log(-1 - square(x[0])) needs -1 - square(x[0]) > 0"),
    "two half-lines": (
        ak.log(x3[0]) - ak.norm1(x3) + ak.sqrt(-x3[0] - 1.0),
        "log(x[0]) needs x[0] > 0 and sqrt(-x[0] - 1) needs -x[0] - 1 ≥ 0, which never hold together",
    ),
}


@pytest.mark.parametrize("cost", [None, ak.costs.L1(), ak.costs.Weighted([1.0, 2.0, 3.0])], ids=str)
@pytest.mark.parametrize("name", EMPTY)
def test_structure_shows_that_a_domain_is_empty(name, cost):
    reward, words = EMPTY[name]
    with pytest.raises(NonFiniteError, match="finite nowhere") as caught:
        problem_of(reward, 1.0, cost).compile()
    assert words in caught.value.message


@pytest.mark.parametrize("cost", [None, ak.costs.L1(), ak.costs.ElasticNet(0.3)], ids=str)
def test_a_domain_that_a_solver_finds_empty_is_named(cost):
    """x₀ > 0 and x₀ < −1 − x₁²: each holds somewhere, and one of the arguments is not affine."""
    problem = problem_of(ak.log(x3[0]) + ak.log(-x3[0] - 1.0 - ak.square(x3[1])), 5.0, cost)
    with pytest.raises(NonFiniteError, match="No point was found") as caught:
        problem.solve(seed=0, backend="cvxpy")
    assert caught.value.message.count(" > 0") == 2 and caught.value.ways_out


@pytest.mark.parametrize("reward", [ak.log(x3[0]), ak.log(x3[0] - 1e9)], ids=str)
def test_rows_that_do_not_reach_a_domain_that_is_there_are_listed_without_an_error(reward):
    aligned = problem_of(reward).solve(seed=0, backend="cvxpy")
    x = np.full((2, 3), -1e9)
    moved = aligned.transport(x, return_details=True)
    assert moved.unfinished.all() and (moved.objective == -np.inf).all() and np.isinf(moved.gap).all()


# ---- rows that are no numbers


ANY = -ak.norm1(A @ x3 - 1.0)
TWO = RNG.standard_normal((2, 3))


@pytest.fixture(params=ALL)
def aligned(request):
    return problem_of(ANY, 0.7).solve(seed=0, backend=request.param)


def test_rows_that_are_no_numbers_are_refused_by_their_number(aligned):
    for value, row in itertools.product((np.nan, np.inf, -np.inf), (0, 2, 4)):
        x = RNG.standard_normal((5, 3))
        x[row, 1] = value
        for convert in (np.asarray, torch.from_numpy, jnp.asarray):
            with pytest.raises(NonFiniteError, match=rf"Row {row} ") as caught:
                aligned.transport(convert(x))
        assert any('on_error="keep"' in way for way in caught.value.ways_out)
    x[1], x[3] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"Row 1 "):
        aligned.transport(x)
    with pytest.raises(ParameterError, match="on_error"):
        aligned.transport(x, on_error="ignore")


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, jnp.asarray])
def test_rows_that_are_no_numbers_are_kept_on_request(aligned, convert):
    x = RNG.standard_normal((6, 3)).astype(np.float32)
    clean = aligned.transport(x, return_details=True)
    broken = x.copy()
    broken[1, 0], broken[4, 2], broken[5] = np.nan, -np.inf, np.inf
    bad, good = [1, 4, 5], [0, 2, 3]
    moved = aligned.transport(convert(broken), on_error="keep", return_details=True)
    y = np.asarray(moved.y)
    np.testing.assert_array_equal(y[bad], broken[bad])
    np.testing.assert_allclose(y[good], clean.y[good], rtol=1e-5, atol=1e-5)
    assert moved.unfinished.tolist() == [False, True, False, False, True, True]
    assert np.isinf(moved.gap[bad]).all() and np.isnan(moved.objective[bad]).all() and (moved.cost[bad] == 0.0).all()
    assert np.isinf(moved.relative_gap[bad]).all() and (moved.relative_gap[good] <= TOLERANCE).all()


def test_rows_are_kept_where_the_user_wants_the_result(aligned):
    x = RNG.standard_normal((5, 3))
    x[2, 1] = np.nan
    expected = aligned.transport(x, on_error="keep")
    out = np.full_like(x, 7.0)
    assert aligned.transport(x, on_error="keep", out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-9)
    given = x.copy()
    assert aligned.transport(given, on_error="keep", out=given) is given
    np.testing.assert_allclose(given, expected, rtol=1e-9)
    np.testing.assert_array_equal(given[2], x[2])
    tensor = torch.from_numpy(x.copy())
    assert aligned.transport(tensor, on_error="keep", out=tensor) is tensor
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-9)
    np.testing.assert_array_equal(tensor.numpy()[2], x[2])
    # Half precision goes another way.
    half = torch.from_numpy(x).half()
    before = half.clone()
    assert aligned.transport(half, on_error="keep", out=half) is half
    assert torch.equal(half[2].nan_to_num(7.0), before[2].nan_to_num(7.0)) and not torch.equal(half[3], before[3])


@pytest.mark.parametrize("cost", [None, ak.costs.L1(), ak.costs.Mahalanobis(2.0 * np.eye(3))], ids=str)
def test_rows_are_kept_in_place_under_a_shift_and_under_other_costs(cost):
    """Neither the shift by g nor a step computed for a stand-in touches them."""
    reward = 0.3 * x3[0] - ak.norm1(TWO @ x3 - 1.0)
    x = RNG.standard_normal((4, 3))
    x[1, 2] = np.nan
    for problem in (problem_of(reward, 0.9, cost), problem_of(0.3 * x3[0] - 0.2 * x3[1], 0.9, cost)):
        aligned = problem.solve(seed=0)
        given = x.copy()
        moved = aligned.transport(given, on_error="keep", out=given, return_details=True)
        np.testing.assert_array_equal(given[1], x[1])
        assert moved.unfinished.tolist() == [False, True, False, False]
        with pytest.raises(NonFiniteError):
            aligned.transport(given, out=given)
        np.testing.assert_array_equal(given, moved.y)


def test_a_batch_of_nothing_but_broken_rows(aligned):
    x = np.full((3, 3), np.nan)
    moved = aligned.transport(x, on_error="keep", return_details=True)
    assert np.isnan(moved.y).all() and moved.unfinished.all() and np.isinf(moved.gap).all()


# ---- ties


def check_repeats(problem, aligned, backend, x, found):
    """The same rows again have the same value, and in another session the same point: ties are broken the same way."""
    again = aligned.transport(x, return_details=True)
    slack = found.gap + again.gap + 1e-12 * (1.0 + np.abs(found.objective))
    assert (np.abs(found.objective - again.objective) <= slack).all(), backend
    anew = ak.Problem(problem.reward, problem.base, problem.closeness).solve(seed=0, backend=backend)
    assert type(aligned.fitted.map.session) is type(anew.fitted.map.session)
    assert aligned.fitted.map.session is not anew.fitted.map.session
    np.testing.assert_allclose(anew.transport(x), found.y, rtol=1e-9, atol=1e-9)


def repeated(pieces):
    return np.concatenate([pieces, pieces[::-1], pieces[:1]])


PIECES, HEIGHTS = RNG.standard_normal((4, 3)), RNG.standard_normal(4)
DEPENDENT = np.vstack([TWO, TWO[0] - TWO[1], 2.0 * TWO[1], np.zeros(3), TWO])

#: The reward, and one without ties that has the same values.
TIED = {
    "repeated pieces of min": (
        ak.min(repeated(PIECES) @ x3 + repeated(HEIGHTS)),
        ak.min(PIECES @ x3 + HEIGHTS),
    ),
    "repeated pieces of max": (
        -ak.max(repeated(PIECES) @ x3 + repeated(HEIGHTS)),
        -ak.max(PIECES @ x3 + HEIGHTS),
    ),
    "pieces between others": (
        ak.min(np.vstack([PIECES, PIECES[:2].mean(axis=0)]) @ x3 + np.append(HEIGHTS, HEIGHTS[:2].mean())),
        ak.min(PIECES @ x3 + HEIGHTS),
    ),
    "repeated rows of norm1": (-ak.norm1(np.vstack([A, A, -A]) @ x3), -3.0 * ak.norm1(A @ x3)),
    "dependent rows of norm1": (
        -ak.norm1(DEPENDENT @ x3 - np.array([1.0, 1.0, 0.0, 2.0, 3.0, 1.0, 1.0])),
        -2.0 * ak.norm1(TWO @ x3 - 1.0) - 2.0 * ak.abs(TWO[1] @ x3 - 1.0) - ak.abs((TWO[0] - TWO[1]) @ x3) - 3.0,
    ),
    "a zero row of norm_inf": (
        -ak.norm_inf(np.vstack([np.zeros(3), A, A[:2]]) @ x3),
        -ak.norm_inf(A @ x3),
    ),
    "all pieces but one alike": (
        ak.min(PIECES[[0, 0, 0, 1]] @ x3 + 1.0),
        ak.minimum(PIECES[0] @ x3 + 1.0, PIECES[1] @ x3 + 1.0),
    ),
    "repeated rows of log_sum_exp": (
        -ak.log_sum_exp(np.vstack([A, A]) @ x3),
        -ak.log_sum_exp(A @ x3) - float(np.log(2.0)),
    ),
    "dependent rows of huber": (
        -ak.sum(ak.huber(np.vstack([TWO, TWO, np.zeros((1, 3))]) @ x3)),
        -2.0 * ak.sum(ak.huber(TWO @ x3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIED)
def test_ties_change_no_value(name):
    tied, plain = TIED[name]
    weight = 0.4
    x = np.concatenate([np.zeros((1, 3)), np.ones((1, 3)), 2.0 * RNG.standard_normal((4, 3))])
    one, other = problem_of(tied, weight), problem_of(plain, weight)
    assert set(bidders(one)) == set(ALL) and set(bidders(other)) == set(ALL)
    for backend in ALL:
        aligned = one.solve(seed=0, backend=backend)
        assert aligned.status is Status.SOLVED
        found, expected = (
            problem.transport(x, return_details=True) for problem in (aligned, other.solve(seed=0, backend=backend))
        )
        assert not found.unfinished.any(), backend
        check_certificate(found, tied, weight, x, best=expected.y)
        slack = found.gap + expected.gap + 1e-12 * (1.0 + np.abs(found.objective))
        assert (np.abs(found.objective - expected.objective) <= slack).all(), backend
        check_repeats(one, aligned, backend, x, found)


SEVERAL = {
    "ℓ1": (-ak.norm1(np.array([[1.0, 1.0, 1.0]]) @ x3 - 5.0), 0.5, ak.costs.L1()),
    "ℓ1, as steep as λ": (-ak.norm1(x3 - 5.0), 1.0, ak.costs.L1()),
    "ℓ1, sums": (-ak.norm1(np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]) @ x3 - 2.0), 0.7, ak.costs.L1()),
    "ℓ∞": (-2.0 * ak.norm1(x3[:1] - 5.0), 1.0, ak.costs.PNorm(np.inf)),
    "ℓ∞, as steep as λ": (-ak.norm1(x3 - 5.0), 3.0, ak.costs.PNorm(np.inf)),
    "distance, as steep as λ": (-ak.abs(x3[0] - 5.0), 1.0, ak.costs.Euclidean()),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_maximisers_that_are_not_unique_have_one_value(name):
    reward, weight, cost = SEVERAL[name]
    x = np.concatenate([np.zeros((1, 3)), np.full((1, 3), 5.0), RNG.standard_normal((3, 3))])
    problem = problem_of(reward, weight, cost)
    assert "cvxpy" in bidders(problem)
    values = {}
    for backend in bidders(problem):
        aligned = problem.solve(seed=0, backend=backend)
        found = aligned.transport(x, return_details=True)
        assert not found.unfinished.any(), (backend, found.relative_gap)
        check_certificate(found, reward, weight, x, cost=cost, best=x)
        check_repeats(problem, aligned, backend, x, found)
        values[backend] = found.objective, found.gap
    for (one, gap), (other, rival) in itertools.combinations(values.values(), 2):
        assert (np.abs(one - other) <= gap + rival + 1e-12 * (1.0 + np.abs(one))).all()


def test_sparse_moves_are_taken_by_the_compiled_solver_too():
    """Or the comparison above would be of one backend with itself."""
    assert "numba" in bidders(problem_of(*SEVERAL["ℓ1"][:2], SEVERAL["ℓ1"][2]))


# ---- scales


SCALED = ("absolute value, k = 1", "norm1, k = 8", "min of affine, k = 4", "huber, k = 4", "log_sum_exp, k = 5")


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("weight", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("name", SCALED)
def test_certificates_claim_no_more_than_is_true_at_any_scale(name, weight, units):
    """Rows near and of size 1e6 in one batch; λ and the units of the reward over twelve orders of magnitude."""
    example = EXAMPLES[name]
    reward = example.reward if units == 1.0 else units * example.reward
    x = np.concatenate([example.points, 1e6 * example.points, np.zeros_like(example.points[:1])])
    problem = problem_of(reward, units * weight)
    assert set(bidders(problem)) == set(ALL)
    best = example.solve(x, weight)
    for backend in ALL:
        aligned = problem.solve(seed=0, backend=backend)
        moved = aligned.transport(x, return_details=True)
        check_certificate(moved, reward, units * weight, x, best=best)
        check_status(aligned)
        # What misses the tolerance is a row or two whose objective float64 cannot resolve any better.
        assert moved.unfinished.mean() <= 0.25, (backend, moved.relative_gap)


def check_status(aligned):
    """The certificate counts the rows that miss the tolerance among its own draws, and the status follows."""
    base = aligned.plan.base
    x = base.sample(CERTIFIED_ROWS, seed=fold_seed(0, "transport certificate"))
    moved = aligned.transport(x, return_details=True)
    certificate = aligned.certificate
    assert certificate.rows_unfinished == moved.unfinished.sum()
    # A session that starts warm may end elsewhere within the tolerance.
    reached = certificate.gap_max if aligned.plan.backend != "cvxpy" else moved.relative_gap.max()
    assert reached == pytest.approx(moved.relative_gap.max(), rel=1e-9, abs=1e-15)
    done = not moved.unfinished.any() and moved.relative_gap.max() <= aligned.plan.tolerance
    assert aligned.status is (Status.SOLVED if done else Status.INACCURATE)


@pytest.mark.parametrize("name", ["softplus, k = 1", "exponential, k = 2", "logarithm, k = 3", "norm2, k = 3"])
def test_far_rows_of_curved_rewards_are_certified_or_listed(name):
    example = EXAMPLES[name]
    x = np.concatenate([example.points, 1e6 * example.points])
    near = len(example.points)
    problem = problem_of(example.reward, example.weight)
    best = example.solve(x, example.weight)
    for backend in bidders(problem):
        with np.errstate(all="ignore"):
            moved = problem.solve(seed=0, backend=backend).transport(x, return_details=True)
        check_certificate(moved, example.reward, example.weight, x, best=best)
        assert not moved.unfinished[:near].any(), backend


@pytest.mark.parametrize("backend", ALL)
def test_a_tolerance_below_rounding_lists_its_rows(backend):
    reward = -ak.log_sum_exp(A @ x3) - ak.sum(ak.huber(x3))
    aligned = problem_of(reward, 0.7).solve(seed=0, backend=backend, tolerance=1e-16)
    certificate = aligned.certificate
    assert aligned.status is Status.INACCURATE and "certificate" in aligned.status.value
    assert certificate.rows_unfinished > 0 and 1e-16 < certificate.gap_max < 1e-6
    check_status(aligned)


# ---- solvers that fail


class Careful:
    """Fails on rows with a positive first coordinate, as solvers do: it stops half-way, and says how far it came."""

    def __init__(self, weight):
        self.weight = weight

    def solve(self, points, progress=None):
        best = np.sign(points) * np.maximum(np.abs(points) - 1.0 / self.weight, 0.0)
        stopped = points[:, 0] > 0.0
        z = np.where(stopped[:, None], 0.5 * (points + best), best)
        return ProxSolution(z, self.lacking(points, z, best), stopped)

    def lacking(self, points, z, best):
        def value(at):
            return -np.abs(at).sum(axis=1) - 0.5 * self.weight * ((at - points) ** 2).sum(axis=1)

        return np.maximum(value(best) - value(z), 0.0)


class Silent(Careful):
    """Does not know that it failed: its gap alone says so."""

    def solve(self, points, progress=None):
        return replace(super().solve(points, progress), unfinished=np.zeros(len(points), dtype=bool))


class Lost(Careful):
    """Has no bound for the rows it fails on, and no point of the domain."""

    def solve(self, points, progress=None):
        found = super().solve(points, progress)
        return replace(found, gap=np.where(found.unfinished, np.inf, found.gap))


@pytest.mark.parametrize("session", [Careful, Silent, Lost])
def test_rows_that_a_solver_fails_on_are_listed_with_their_best_iterate(session):
    weight = 2.0
    w = ak.Variable(3, name="w")
    composition = problem_of(-ak.norm1(w), weight).compile().composition
    assert composition.subspace.is_identity or composition.dimension == 3
    transport = TransportMap(composition, weight, session(weight))
    x = np.array([[1.0, 2.0, -3.0], [-1.0, 2.0, -3.0], [-4.0, 0.2, 0.0], [2.0, -2.0, 2.0]])
    v = composition.subspace.project(x)
    failed = v[:, 0] > 0.0
    assert failed.any() and not failed.all()
    moved = transport.apply(x)
    np.testing.assert_array_equal(moved.unfinished, failed)
    np.testing.assert_allclose(composition.subspace.project(moved.y), session(weight).solve(v).maximiser, atol=1e-12)
    assert (moved.relative_gap[failed] > TOLERANCE).all() and (moved.relative_gap[~failed] <= TOLERANCE).all()
    certificate = fitted.FittedTransport(ak.base.Gaussian(np.zeros(3), 1.0), transport).certify(
        -ak.norm1(w), "as found", seconds=0.0, seed=0
    )
    assert 0 < certificate.rows_unfinished < CERTIFIED_ROWS
    assert certificate.gap_max == (np.inf if session is Lost else pytest.approx(certificate.gap_max))
    # The mean of the gaps, too, is over all rows.
    assert certificate.gap_mean >= certificate.gap_max / CERTIFIED_ROWS


THIRD_PARTY = """
    import numpy as np

    from alignkit.contracts import Bid, Guarantee, ProxSolution
    from alignkit.registry import Manifest

    manifest = Manifest(name="limited", engines=("numpy",), prox_solver="limited_steps:Solver")


    class Solver:
        def bid(self, problem):
            return Bid("limited", "ten steps of the gradient", Guarantee.CERTIFIED, 1e-3)

        def open(self, problem):
            return Session(problem)


    class Session:
        '''−Σ log(1 + exp z) by ten steps; the objective is λ-strongly concave, and so ‖gradient‖²/2λ bounds the gap.'''

        def __init__(self, problem):
            self.problem = problem

        def slope(self, z, points):
            return -1.0 / (1.0 + np.exp(-z)) - self.problem.weight * (z - points)

        def solve(self, points, progress=None):
            z = points.copy()
            for _ in range(10):
                z += self.slope(z, points) / (self.problem.weight + 0.25)
            gap = (self.slope(z, points) ** 2).sum(axis=1) / (2.0 * self.problem.weight)
            return ProxSolution(z, gap, gap > self.problem.tolerance)
"""


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """A third party's solver, installed where this process looks, that stops after ten steps."""
    (tmp_path / "limited_steps.py").write_text(textwrap.dedent(THIRD_PARTY))
    info = tmp_path / "limited_steps-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: limited-steps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nlimited = limited_steps:manifest\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "limited"
    sys.modules.pop("limited_steps", None)


def test_a_third_partys_solver_that_stops_early_makes_the_solve_inaccurate(limited):
    reward, weight = -ak.sum(ak.logistic(x3)), 0.02
    x = RNG.standard_normal((30, 3)) * np.array([0.01, 1.0, 30.0])
    problem = problem_of(reward, weight)
    aligned = problem.solve(seed=0, backend=limited)
    assert aligned.status is Status.INACCURATE and "INACCURATE" in repr(aligned)
    check_status(aligned)
    assert aligned.certificate.rows_unfinished > 0
    assert re.search(rf"rows unfinished +{aligned.certificate.rows_unfinished}\n", str(aligned.certificate))
    moved = aligned.transport(x, return_details=True)
    reference = problem.solve(seed=0, backend="torch").transport(x, return_details=True)
    assert moved.unfinished.any() and not reference.unfinished.any()
    check_certificate(moved, reward, weight, x, best=reference.y)
    # The best iterates are nearer than where they started.
    assert (moved.objective > objective(reward, weight, None, x, x)[0]).all()


def test_a_third_partys_solver_that_finishes_is_solved(limited):
    aligned = problem_of(-ak.sum(ak.logistic(x3)), 5.0).solve(seed=0, backend=limited)
    assert aligned.status is Status.SOLVED and aligned.certificate.rows_unfinished == 0


# ---- arrays of every kind


IMAGE = ak.Variable((8, 8), name="image")
STENCIL = RNG.standard_normal((3, 64)) / 8.0
SHAPES = {
    "images": (-ak.norm1(STENCIL @ ak.vec(IMAGE) - 1.0), (8, 8)),
    "k = d": (-ak.norm1(A @ x3 - 1.0), (3,)),
    "d = 1": (-ak.abs(ak.Variable(1, name="x")[0] - 1.0), (1,)),
    "pairs": (-ak.log_sum_exp(STENCIL[:, :6] @ ak.vec(ak.Variable((2, 3), name="x"))), (2, 3)),
}


#: What a session that starts warm may move a point by, √(2·gap/λ), and one that does not.
ATOL = {"cvxpy": 2e-3, "numba": 1e-9, "torch": 1e-9}


@pytest.fixture(scope="module", params=[(name, backend) for name in SHAPES for backend in ALL], ids=str)
def shaped(request):
    name, backend = request.param
    reward, shape = SHAPES[name]
    return problem_of(reward, 0.8).solve(seed=0, backend=backend), reward, shape


def test_batches_of_any_number_of_rows(shaped):
    aligned, reward, shape = shaped
    for rows in (0, 1, 2, 9, 17):
        x = RNG.standard_normal((rows, *shape))
        moved = aligned.transport(x, return_details=True)
        assert moved.y.shape == x.shape and moved.gap.shape == (rows,) and not moved.unfinished.any()
        check_certificate(moved, reward, 0.8, x)
    x = RNG.standard_normal((6, *shape))
    whole = aligned.transport(x, return_details=True)
    for row in range(6):
        single = aligned.transport(x[row : row + 1], return_details=True)
        assert abs(single.objective[0] - whole.objective[row]) <= single.gap[0] + whole.gap[row] + 1e-12
    with pytest.raises(ShapeError):
        aligned.transport(x[0])
    for empty in (np.empty((0, *shape), np.float32), torch.empty(0, *shape), jnp.empty((0, *shape))):
        found = aligned.transport(empty)
        assert type(found) is type(empty) and found.shape == empty.shape and found.dtype == empty.dtype


def test_any_memory_layout(shaped):
    aligned, _, shape = shaped
    x = RNG.standard_normal((6, *shape))
    expected = aligned.transport(x)
    spread = np.full((12, *shape, 2), np.nan)
    spread[::2, ..., 1] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    layouts = {
        "Fortran order": np.asfortranarray(x),
        "strides": spread[::2, ..., 1],
        "backwards": np.ascontiguousarray(x[::-1])[::-1],
        "read only": frozen,
        "other axes": np.ascontiguousarray(np.moveaxis(x, 0, -1)),
        "byte order": x.astype(x.dtype.newbyteorder()),
    }
    for name, given in layouts.items():
        rows = np.moveaxis(given, -1, 0) if name == "other axes" else given
        before = np.array(rows)
        found = aligned.transport(rows)
        assert isinstance(found, np.ndarray) and found.flags.writeable and not np.shares_memory(found, given), name
        np.testing.assert_allclose(found, expected, atol=ATOL[aligned.plan.backend], err_msg=name)
        np.testing.assert_array_equal(rows, before)
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, 0, -1))).movedim(-1, 0)
    assert not tensor.is_contiguous() or shape == (1,)
    np.testing.assert_allclose(aligned.transport(tensor).numpy(), expected, atol=ATOL[aligned.plan.backend])


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        (torch.float64, 1e-9),
        (torch.float32, 2e-6),
        (torch.float16, 2e-3),
        (torch.bfloat16, 2e-2),
    ],
    ids=str,
)
def test_any_precision(shaped, dtype, unit):
    aligned, _, shape = shaped
    x = torch.from_numpy(RNG.standard_normal((6, *shape))).to(dtype)
    expected = aligned.transport(x.double()).numpy()
    allowed = unit * (1.0 + np.abs(expected).max()) + ATOL[aligned.plan.backend]
    tracked = x.clone().requires_grad_()
    for given in (x, tracked):
        found = aligned.transport(given)
        assert found.dtype == dtype and found.requires_grad == given.requires_grad
        np.testing.assert_allclose(found.detach().double().numpy(), expected, atol=allowed)
    assert tracked.grad is None and torch.equal(tracked.detach(), x)
    out = torch.empty_like(x)
    assert aligned.transport(x, out=out) is out and torch.equal(out, aligned.transport(x))
    if dtype is not torch.bfloat16:
        given = x.numpy()
        found = aligned.transport(given)
        assert found.dtype == given.dtype
        np.testing.assert_allclose(found.astype(np.float64), expected, atol=allowed)
    if dtype is not torch.float64:
        array = jnp.asarray(x.float().numpy()).astype(str(dtype).removeprefix("torch."))
        moved = aligned.transport(array)
        assert isinstance(moved, jnp.ndarray) and moved.dtype == array.dtype
        np.testing.assert_allclose(np.asarray(moved, dtype=np.float64), expected, atol=2 * allowed)


def test_integers_are_moved_in_float64(shaped):
    aligned, _, shape = shaped
    x = RNG.integers(-3, 4, (4, *shape))
    found = aligned.transport(x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, aligned.transport(x.astype(np.float64)), atol=ATOL[aligned.plan.backend])


# ---- parameters


def test_sessions_follow_the_weight_and_the_reward():
    weight, centre = ak.Parameter((), 2.0, name="λ"), ak.Parameter(3, np.zeros(3), name="centre")
    reward = -ak.norm1(x3 - centre)
    x = 3.0 * RNG.standard_normal((5, 3))

    def truth():
        away = x - np.asarray(centre.value())
        return np.asarray(centre.value()) + np.sign(away) * np.maximum(np.abs(away) - 1.0 / float(weight.value()), 0.0)

    for backend in ALL:
        weight.value, centre.value = 2.0, np.zeros(3)
        problem = problem_of(reward, weight)
        aligned, sessions = problem.solve(seed=0, backend=backend), []
        for value, place in ((2.0, 0.5), (1e-3, -1.0), (1e3, 2.0), (0.5, 1e6)):
            stale = aligned
            weight.value, centre.value = value, np.linspace(place, 1.0, 3)
            with pytest.raises(StaleFitError, match="centre"):
                stale.transport(x)
            aligned = problem.solve(seed=0, backend=backend)
            sessions.append(aligned.fitted.map.session)
            moved = aligned.transport(x, return_details=True)
            assert not moved.unfinished.any(), (backend, value, place)
            check_certificate(moved, reward, value, x, best=truth())
        assert all(session is sessions[0] for session in sessions), backend


def test_a_weight_that_falls_below_the_critical_one_is_found():
    weight = ak.Parameter((), 2.0, name="λ")
    problem = problem_of(0.5 * ak.sum_squares(x3) - ak.norm1(A @ x3), weight)
    assert problem.solve(seed=0).status is Status.SOLVED
    weight.value = 0.9
    with pytest.raises(UnboundedTransportError, match="critical value"):
        problem.solve(seed=0)
    weight.value = 1.5
    assert problem.solve(seed=0).status is Status.SOLVED


@pytest.mark.parametrize("backend", CVXPY)
def test_a_weight_that_falls_below_the_slope_is_found(backend):
    weight = ak.Parameter((), 20.0, name="λ")
    problem = problem_of(4.0 * x3[0] - ak.norm1(A @ x3), weight, ak.costs.Euclidean())
    assert problem.solve(seed=0, backend=backend).status is Status.SOLVED
    weight.value = 0.1
    with pytest.raises(UnboundedTransportError):
        problem.solve(seed=0, backend=backend)
    weight.value = 20.0
    aligned = problem.solve(seed=0, backend=backend)
    assert aligned.status is Status.SOLVED and aligned.certificate.gap_max <= TOLERANCE


def test_a_reward_that_turns_convex_is_refused_and_comes_back():
    bend = ak.Parameter((), -1.0, name="bend")
    reward = bend * ak.sum_squares(x2) - ak.norm1(x2)
    problem = problem_of(reward, 1.0)
    for value in (-1.0, 0.4, -2.0):
        bend.value = value
        aligned = problem.solve(seed=0)
        x = RNG.standard_normal((4, 2))
        moved = aligned.transport(x, return_details=True)
        best = np.sign(x) * np.maximum(np.abs(x) - 1.0, 0.0) / (1.0 - 2.0 * value)
        check_certificate(moved, reward, 1.0, x, best=best)
    bend.value = 0.6
    with pytest.raises(UnboundedTransportError, match=r"critical value 1\.2"):
        problem.solve(seed=0)
