"""Growth at infinity, held against closed forms and against numbers far out along rays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

import alignkit.expressions as ak
from alignkit.errors import AlignkitError
from alignkit.expressions.asymptotics import Bound, Germ, weighted_sum
from alignkit.expressions.growth import Growth, name_summands
from alignkit.expressions.infinity import Ball, Behaviour, Rays
from alignkit.expressions.poles import can_reach_infinity, is_defined_everywhere, outside_points, pole_among
from tests.expressions.numeric_growth import check_lower_bound, check_upper_bound, values
from tests.expressions.random_expressions import SHAPE, recipes

w = ak.Variable(3, name="w")
RNG = np.random.default_rng(4)
A = RNG.normal(size=(4, 3))
NORM = float(np.linalg.norm(A, 2))
HESSIAN = float(np.linalg.eigvalsh(2 * A.T @ A)[-1])
MIXED = float(np.linalg.eigvalsh(2 * A.T @ A - 3 * np.eye(3))[-1])
P = np.diag([2.0, -1.0, 0.5])

EXACT = {
    "a quadratic": (ak.sum_squares(A @ w - 1.0), HESSIAN),
    "a difference of quadratics": (ak.sum_squares(A @ w) - 1.5 * ak.sum_squares(w), MIXED),
    "an indefinite form": (ak.quad_form(w, P), 4.0),
    "linear growth beside it": (ak.sum_squares(A @ w) + 9.0 * ak.norm1(w) - ak.log_sum_exp(w), HESSIAN),
    "linear growth alone": (ak.norm1(A @ w) + ak.logistic(w[0]) - ak.max(w), 0.0),
    "a concave function": (-ak.norm2(w) - ak.exp(w[0]), 0.0),
    "a concave function with a domain": (ak.sqrt(w[0]) + ak.log(w[1]) + ak.entr(w[2]), 0.0),
    "a bounded function": (ak.sum(ak.sin(w)) + ak.tanh(w[0]) * ak.cos(w[1]), 0.0),
    "the square of a norm": (ak.square(ak.norm2(A @ w)), HESSIAN),
    "the square of a norm, less squares": (3.0 * ak.square(ak.norm2(w)) - ak.sum_squares(w), 4.0),
    "the square of a 1-norm": (ak.square(ak.norm1(w)), 6.0),
    "one-sided squares": (ak.square(ak.pos(w[0] - 1.0)) + 3.0 * ak.square(ak.neg(w[1])), 6.0),
    "weighted squares of one node": (ak.inner([1.0, 4.0, 2.0], ak.square(ak.pos(w))), 8.0),
    "a maximum of squares": (ak.maximum(ak.square(w[0]), 3.0 * ak.square(w[1]), ak.norm1(w)), 6.0),
    "log_sum_exp of squares": (ak.log_sum_exp(ak.square(w)), 2.0),
    "the distance to points": (ak.square(ak.distance_to_points(w, RNG.normal(size=(5, 3)))), 2.0),
    "a square times a saturating function": (ak.tanh(w[0]) * ak.square(w[0]), 2.0),
    "the power 3/2": (ak.power(ak.abs(w[0]), 1.5), 0.0),
    "a power of a power": (ak.power(ak.power(ak.abs(w[0]), 3), 2 / 3), 2.0),
    "a square over what stays finite": (ak.quad_over_lin(w[:2], 1.0 + ak.square(ak.tanh(w[2]))), 2.0),
    "exp of a bounded function": (ak.exp(ak.sin(w[0])) + ak.square(w[1]), 2.0),
    "exp of a concave function": (ak.exp(-ak.square(w[0])) + ak.square(w[1]), 2.0),
    "entr of a square": (-ak.entr(1.0 + ak.abs(w[0])) - ak.log1p(ak.abs(w[1])), 0.0),
}


@pytest.mark.parametrize("name", EXACT)
def test_critical_curvatures_in_closed_form(name):
    f, truth = EXACT[name]
    growth = Growth(f)
    assert growth.at_least == pytest.approx(truth, rel=1e-12, abs=1e-12)
    assert growth.at_most == pytest.approx(truth, rel=1e-9, abs=1e-12)
    check_upper_bound(f, growth.at_most, unit(RNG.normal(size=(50, 3))))
    check_lower_bound(f, growth, RNG)


FASTER = {
    "exp": ak.exp(w[0]),
    "exp of less": ak.exp(0.01 * w[0] - 50.0) - 100.0 * ak.sum_squares(w),
    "exp of a norm": ak.exp(ak.norm2(w)),
    "exp of the smaller": ak.exp(ak.min(w)),
    "a cube": ak.power(ak.pos(A[0] @ w), 3),
    "a fourth power less squares": ak.power(w[1], 4) - 7.0 * ak.sum_squares(w),
    "a fourth power of a norm": ak.power(ak.norm1(w), 4),
    "a square of a square": ak.square(ak.square(w[2]) - 5.0),
    "slightly more than a square": ak.power(ak.abs(w[0]), 2.1),
    "a square times its logarithm": ak.square(w[0]) * ak.log1p(ak.square(w[0])),
    "a product of three": w[0] * w[1] * w[2],
    "exp times a square": ak.exp(w[0]) * ak.square(w[1]),
    "a square over exp": ak.quad_over_lin(w[:1], ak.exp(-w[0])),
    "a quadratic form of squares": ak.quad_form(ak.square(w), P),
}


@pytest.mark.parametrize("name", FASTER)
def test_what_outgrows_every_quadratic(name):
    f = FASTER[name]
    growth = Growth(f)
    assert growth.at_least == math.inf == growth.at_most
    assert growth.pole is None and growth.outgrows(1e30) and not growth.stays_below(1e30)
    check_lower_bound(f, growth, RNG)


BRACKETED = {
    "one-sided squares that overlap": (ak.sum_squares(ak.pos(A @ w)), 0.0, HESSIAN),
    "a product": (w[0] * w[1], 1.0, 2.0),
    "a geometric mean of squares": (ak.geo_mean(1.0 + ak.square(w[:2])), 1.0, 2.0),
    "the square of the largest singular value": (ak.square(ak.sigma_max(ak.reshape(A @ w, (2, 2)))), 0.0, HESSIAN),
    "a minimum of squares": (ak.minimum(ak.square(w[0]), 3.0 * ak.square(w[1])), 1.0, 2.0),
}


@pytest.mark.parametrize("name", BRACKETED)
def test_what_is_not_decided_is_enclosed(name):
    f, at_least, at_most = BRACKETED[name]
    growth = Growth(f)
    assert at_least - 1e-12 <= growth.at_least < growth.at_most <= at_most + 1e-12
    far = values(f, 1e6 * unit(RNG.normal(size=(2000, 3)))) * 2e-12
    # Random directions come close to the truth, which lies in between.
    assert growth.at_least - 0.1 <= far.max() <= growth.at_most + 1e-9
    between = (growth.at_least + growth.at_most) / 2
    assert not growth.outgrows(between) and not growth.stays_below(between)


def test_at_the_critical_curvature_an_affine_minorant_decides():
    assert Growth(ak.square(w[0]) + ak.norm1(w)).outgrows(2.0)
    assert Growth(ak.sum_squares(A @ w)).outgrows(HESSIAN)
    growth = Growth(ak.square(w[0]) - ak.abs(w[0]))
    assert not growth.outgrows(2.0) and not growth.stays_below(2.0)


POLES = {
    "inv_pos": (ak.inv_pos(w[0]), "w[0] > 0"),
    "a negative square root": (-ak.sqrt(1.0 - w[1]) - ak.sum_squares(w), "1 - w[1] ≥ 0"),
    "a negative logarithm": (-ak.log(A[0] @ w), None),
    "a cube of any sign": (ak.sum(ak.power(w, 3)), "w ≥ 0"),
    "a divisor of any sign": (ak.quad_over_lin(w[:2], w[2]), "w[2] > 0"),
    "under exp": (ak.exp(ak.inv_pos(w[0])) - 3.0, "w[0] > 0"),
    "beside a logarithm": (ak.log(w[1]) - ak.log(w[0]), "w[0] > 0"),
    "an entropy of the wrong sign": (-ak.sum(ak.entr(w)), "w ≥ 0"),
    "a condition on a norm": (ak.inv_pos(3.0 - ak.norm2(w)), "3 - norm2(w) > 0"),
}


@pytest.mark.parametrize("name", POLES)
def test_poles_are_found_and_named(name):
    f, condition = POLES[name]
    growth = Growth(f)
    assert growth.pole is not None and growth.at_least == math.inf and growth.outgrows(1e30)
    check_lower_bound(f, growth, RNG)
    assert condition is None or str(growth.pole.condition) == condition
    assert can_reach_infinity(f) and not is_defined_everywhere(f)


@pytest.mark.parametrize(
    "f",
    [
        ak.log(w[0]) + ak.sqrt(w[1]) - ak.inv_pos(w[2]),
        -ak.quad_over_lin(w[:2], w[2]),
        ak.inv_pos(1.0 + ak.square(w[0])),
        ak.exp(ak.log(w[0])),
        ak.minimum(ak.inv_pos(w[0]), 5.0) - ak.inv_pos(w[0]),
    ],
)
def test_barriers_and_kept_domains_are_no_poles(f):
    assert Growth(f).pole is None


def test_overflow_is_no_pole():
    f = ak.exp(1e4 * w[0]) + ak.log(w[1])
    assert pole_among(f, np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])) is None


def test_infinity_needs_the_wrong_sign():
    assert not can_reach_infinity(ak.log(w[0])) and can_reach_infinity(-ak.log(w[0]))
    assert not can_reach_infinity(ak.pos(ak.log(w[0]))) and can_reach_infinity(ak.neg(ak.log(w[0])))
    assert not can_reach_infinity(ak.inv_pos(1.0 + ak.abs(w[0])))
    assert can_reach_infinity(ak.square(ak.log(w[0])))


def test_points_outside_in_a_box_reach_the_lowest_corner():
    x = ak.Variable((2, 2))
    f = ak.inv_pos(ak.inner([[1.0, -2.0], [0.0, 3.0]], x) + 1.0)
    (point,) = outside_points(f.over(-1.0, 2.0), -1.0, 2.0)
    np.testing.assert_array_equal(point, [[-1.0, 2.0], [0.5, -1.0]])
    assert f.value(point) == math.inf


@pytest.mark.parametrize(
    ("f", "bounded"),
    [
        (-ak.sum_squares(w), True),
        (ak.clip(w[0], -1.0, 2.0) - ak.norm1(w), True),
        (ak.exp(-ak.square(w[0])), True),
        (ak.log(w[0]), False),
        (ak.log(w[0]) - ak.abs(w[0]), False),
        (ak.inv_pos(1.0 + ak.exp(w[0])), True),
        (ak.inv_pos(w[0]), False),
        (w[0] - w[0] + 3.0 - ak.abs(w[1]), True),
        (ak.norm1(w), False),
    ],
)
def test_upper_bounds(f, bounded):
    # The fourth is bounded, but no rule here weighs a logarithm against a linear function.
    assert Growth(f).is_bounded_above is bounded


def test_large_problems_are_decided_without_a_hessian():
    many = ak.Variable(6000)
    scale = np.linspace(0.5, 2.0, 6000)
    growth = Growth(ak.sum_squares(scale * many) + ak.norm1(many))
    assert growth.at_least == pytest.approx(8.0, rel=1e-9) and growth.at_most == pytest.approx(8.0, rel=1e-7)
    assert growth.at_least <= 8.0 <= growth.at_most
    assert Growth(ak.sum(ak.exp(many))).at_least == math.inf
    assert Growth(ak.sum(ak.logistic(many))).at_most == 0.0


def test_parameters_count_at_their_present_values():
    scale = ak.Parameter((), 2.0, nonneg=True)
    f = scale * ak.square(w[0])
    assert Growth(f).at_least == pytest.approx(4.0)
    scale.value = 5.0
    assert Growth(f).at_least == pytest.approx(10.0)


def test_the_summands_to_blame_are_named():
    f = ak.square(w[0]) + 2.0 * ak.square(w[1]) + ak.norm1(w) + ak.exp(w[2])
    assert name_summands(f, np.array([0.0, 0.0, 1.0])) == "exp(w[2])"
    assert name_summands(f, np.array([1.0, 1.0, 0.0])) == "square(w[0]) + square(w[1])"
    assert name_summands(f, np.array([0.0, 3.0, -4.0])) == "square(w[1])"


# ---- interval arithmetic at infinity


def germ(*pairs):
    lower, upper = zip(*pairs, strict=True)
    return Germ(
        Bound(*(np.array([[one[part] for one in lower]], dtype=float) for part in (0, 1))),
        Bound(*(np.array([[one[part] for one in upper]], dtype=float) for part in (0, 1))),
    )


def test_sums_keep_the_leading_power_of_each_sign():
    quadratic, linear, between = ((2, 3.0), (2, 3.0)), ((1, 5.0), (1, 5.0)), ((-1, -2.0), (1, 2.0))
    total = weighted_sum(
        [(germ(quadratic, linear, between), np.array([[1.0, 9.0, 9.0], [0.0, 1.0, 1.0], [-1.0, 0, 0]]))]
    )
    np.testing.assert_array_equal(total.lower.degree, [[2, 1, -2]])
    np.testing.assert_allclose(total.lower.coefficient, [[3, 3, -3]], rtol=1e-13)
    np.testing.assert_array_equal(total.upper.degree, [[2, 1, -2]])
    np.testing.assert_allclose(total.upper.coefficient, [[3, 7, -3]], rtol=1e-13)


def test_cancelled_powers_leave_rounding_and_no_sign():
    third = 1.0 / 3.0
    total = weighted_sum([(germ(((2, third), (2, third)), ((2, 1.0), (2, 1.0))), np.array([[3.0, -1.0]]))])
    assert total.lower.degree[0, 0] == -2 and total.upper.degree[0, 0] == 2
    assert -1e-14 < total.lower.coefficient[0, 0] <= 0.0 <= total.upper.coefficient[0, 0] < 1e-14


def test_slopes_that_are_zero_by_rounding_alone_are_not_zero():
    direction = np.array([[3.0, -1.0, 0.0]]) / math.sqrt(10.0)
    found = Behaviour(Rays(direction)).of(ak.stack([0.1 * w[0] + 0.3 * w[1], w[2] + 7.0]))
    np.testing.assert_array_equal(found.lower.degree, [[-1, 0]])
    np.testing.assert_array_equal(found.upper.degree, [[1, 0]])
    assert found.lower.coefficient[0, 0] < 0.0 < found.upper.coefficient[0, 0] < 1e-15
    assert found.lower.coefficient[0, 1] == 7.0


def test_over_all_directions_lipschitz_constants_are_used():
    found = Behaviour(Ball()).of(ak.norm2(A @ w) - 2.0 * ak.norm2(w))
    assert found.upper.degree.item() == 1 and found.upper.coefficient.item() == pytest.approx(NORM)
    assert found.lower.degree.item() == -1 and found.lower.coefficient.item() == pytest.approx(-2.0)


# ---- every atom and operation of the table


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


X = ak.Variable(SHAPE)
SETTINGS = settings(
    deadline=None,
    database=None,
    max_examples=300,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("shard", range(4))
def test_enclosures_hold_for_random_expressions(shard):
    decided = {"exact": 0, "faster": 0, "pole": 0, "open": 0}

    @seed(shard)
    @SETTINGS
    @given(recipes((), 4), st.integers(0, 2**30))
    def check(recipe, number):
        try:
            f = recipe.build(X, ours=True)
        except AlignkitError:  # as for a divisor that is never positive
            return
        if not f.depends:
            return
        growth, generator = Growth(f), np.random.default_rng(number)
        assert growth.at_least <= growth.at_most * (1 + 1e-9) + 1e-12
        signs = np.sign(generator.standard_normal((20, 6))) * (generator.uniform(size=(20, 6)) < 0.5)
        directions = np.concatenate([generator.standard_normal((20, 6)), signs[signs.any(axis=1)]])
        directions = np.concatenate([unit(directions), growth.direction[None]])
        if math.isfinite(growth.at_most):
            check_upper_bound(f, growth.at_most, directions)
        if growth.at_least > 0.0:
            check_lower_bound(f, growth, generator)
        kind = "pole" if growth.pole else "faster" if math.isinf(growth.at_least) else "exact"
        decided[kind if kind != "exact" or growth.at_most <= growth.at_least * (1 + 1e-9) else "open"] += 1

    check()
    # Most of what is random is decided from both sides.
    assert decided["open"] < 0.25 * sum(decided.values()) and min(decided.values()) > 0
