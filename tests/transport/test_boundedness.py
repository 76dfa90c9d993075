import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings, strategies as st

import alignkit.expressions as ak
from alignkit.compiler.composition import compose
from alignkit.errors import AlignkitError, UnboundedTransportError
from alignkit.expressions.growth import Growth
from alignkit.transport.boundedness import check_bounded, dominated_by_penalty
from tests.expressions.numeric_growth import FAR, rounding, values
from tests.expressions.random_expressions import SHAPE, recipes

A = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
w = ak.Variable(2, name="w")
CRITICAL = float(np.linalg.eigvalsh(2 * A.T @ A)[-1])


@pytest.mark.parametrize("lipschitz", [0.0, -5.0 * ak.norm1(w), 5.0 * ak.norm1(w), ak.max(w), -ak.sum(ak.huber(w))])
def test_quadratics_are_decided_exactly_whatever_grows_linearly_beside_them(lipschitz):
    f = ak.sum_squares(A @ w - 1.0) + lipschitz
    check_bounded(f, CRITICAL * (1 + 1e-9))
    with pytest.raises(UnboundedTransportError) as caught:
        check_bounded(f, CRITICAL * (1 - 1e-9))
    assert f"{CRITICAL:.10g}" in str(caught.value)
    assert "sum_squares([3×2 constant] @ w" in caught.value.expression
    assert any("weight" in way for way in caught.value.ways_out)


def test_the_supremum_really_is_infinite_below_the_critical_weight_and_finite_above():
    f = ak.sum_squares(A @ w)
    direction = np.linalg.eigh(A.T @ A)[1][:, -1]
    far = np.array([[1e3], [1e4]]) * direction
    below, above = (f.value(far) - 0.5 * weight * np.sum(far**2, axis=1) for weight in (CRITICAL - 0.1, CRITICAL + 0.1))
    assert below[1] > below[0] > 0 > above[0] > above[1]


def test_at_the_critical_weight_a_drift_decides():
    with pytest.raises(UnboundedTransportError, match="equals"):
        check_bounded(ak.square(w[0]) + w[0], 2.0)
    # −|w₀| stops rows with |λv₀| ≤ 1: structure alone does not decide.
    check_bounded(ak.square(w[0]) - ak.abs(w[0]), 2.0)


def test_concave_quadratics_offset_convex_ones():
    check_bounded(2.0 * ak.square(w[0] - 1.0) - 1.5 * ak.square(w[0]), 1.1)
    with pytest.raises(UnboundedTransportError):
        check_bounded(2.0 * ak.square(w[0] - 1.0) - 1.5 * ak.square(w[0]), 0.9)


@pytest.mark.parametrize("f", [ak.norm1(w), -ak.sum_squares(w), ak.log_sum_exp(w), -ak.square(ak.pos(w[0])), ak.min(w)])
def test_lipschitz_and_concave_rewards_are_bounded_for_every_weight(f):
    check_bounded(f, 1e-9)


def test_squares_of_convex_functions_are_decided_by_their_growth():
    f = ak.square(ak.norm2(A @ w))
    check_bounded(f, CRITICAL * (1 + 1e-9))
    with pytest.raises(UnboundedTransportError, match="square") as caught:
        check_bounded(f, CRITICAL * (1 - 1e-9))
    assert f"{CRITICAL:.9g}"[:-1] in str(caught.value)


FASTER = {
    "exp(w[0])": ak.exp(w[0]) + ak.norm1(w),
    "power(pos(w[1]), 3)": -9.0 * ak.sum_squares(w) + ak.power(ak.pos(w[1]), 3),
    "exp(norm2(w))": ak.exp(ak.norm2(w)),
    "power(w[0] - w[1], 4)": ak.power(w[0] - w[1], 4) + w[0],
    "square(square(w[0]))": ak.square(ak.square(w[0])) - ak.exp(w[1]),
}


@pytest.mark.parametrize("name", FASTER)
def test_what_outgrows_every_quadratic_is_refused_for_every_weight(name):
    f = FASTER[name]
    for weight in (1e-3, 1.0, 1e9):
        with pytest.raises(UnboundedTransportError, match="for every λ") as caught:
            check_bounded(f, weight)
        assert caught.value.expression == name and "faster than every quadratic" in caught.value.message
    direction = Growth(f).direction
    far = values(f, FAR[:40, None] * direction) - 0.5e9 * FAR[:40] ** 2
    assert far.max() > 1e12


POLES = {
    "inv_pos(w[0] + 1)": (ak.inv_pos(w[0] + 1.0) - ak.sum_squares(w), "w[0] + 1 > 0"),
    "quad_over_lin(w, w[0] - w[1])": (ak.quad_over_lin(w, w[0] - w[1]), "w[0] - w[1] > 0"),
    "log(w[1])": (-ak.log(w[1]) + ak.log(5.0 - w[1]), "w[1] > 0"),
    "sqrt(w)": (-ak.sum(ak.sqrt(w)), "w ≥ 0"),
}


@pytest.mark.parametrize("name", POLES)
def test_infinite_rewards_are_refused_by_the_condition_that_fails(name):
    f, condition = POLES[name]
    with pytest.raises(UnboundedTransportError, match="for any λ") as caught:
        check_bounded(f, 1e9)
    assert caught.value.expression == name
    assert f"+∞ where {condition} fails" in caught.value.message
    assert any("barrier" in way for way in caught.value.ways_out)


@pytest.mark.parametrize("f", [-ak.inv_pos(w[0] + 1.0), ak.log(w[1]) - ak.quad_over_lin(w, w[0]), ak.sum(ak.sqrt(w))])
def test_barriers_are_bounded(f):
    check_bounded(f, 1e-9)


def test_the_reward_is_named_as_it_was_written():
    x = ak.Variable((3, 2))
    reward = ak.sum_squares(x[0] - 1.0) + ak.norm1(x[1])
    composition = compose(reward)
    known = {"reward": reward, "subspace": composition.subspace}
    with pytest.raises(UnboundedTransportError) as caught:
        check_bounded(composition.nonlinear, 1.5, **known)
    assert caught.value.expression == "sum_squares(x[0] - 1)" and "critical value 2." in caught.value.message
    barrier = compose(ak.inv_pos(x[2, 1]))
    with pytest.raises(UnboundedTransportError) as caught:
        check_bounded(barrier.nonlinear, 1.5, reward=ak.inv_pos(x[2, 1]), subspace=barrier.subspace)
    assert "x[2, 1] > 0" in caught.value.message


def test_a_bound_from_below_alone_says_so():
    with pytest.raises(UnboundedTransportError, match="a lower bound of the critical value") as caught:
        check_bounded(w[0] * w[1], 0.9)
    assert "λ > 2" in caught.value.ways_out[0]
    check_bounded(w[0] * w[1], 1.5)
    check_bounded(w[0] * w[1], 2.1)


@seed(3)
@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(recipes((), 3), st.floats(-2.0, 2.0), st.integers(0, 2**30))
def test_verdicts_on_random_rewards_agree_with_far_points(recipe, exponent, number):
    weight = 10.0**exponent
    try:
        f = recipe.build(ak.Variable(SHAPE), ours=True)
    except AlignkitError:  # as for a divisor that is never positive
        return
    if not f.depends:
        return
    generator, growth = np.random.default_rng(number), Growth(f)
    start = generator.standard_normal(6)

    def objective(points):
        return values(f, points) - 0.5 * weight * np.sum((points - start) ** 2, axis=1)

    try:
        check_bounded(f, weight)
    except UnboundedTransportError:
        ray = FAR[:, None] * growth.direction if growth.pole is None else growth.pole.point.reshape(1, 6)
        usable = np.isfinite(rounding(f, ray))
        reached = objective(ray)[usable]
        # Critical values are met in the limit only; near them the objective is small at any finite distance.
        near = math.isfinite(growth.at_least) and weight > 0.99 * growth.at_least
        assert near or not usable.any() or np.nanmax(reached) > 1e6, f"{f} is called unbounded at λ = {weight}"
        return
    if not growth.stays_below(0.99 * weight):
        return
    directions = generator.standard_normal((30, 6))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    falls = np.zeros(len(directions), dtype=bool)
    for t in (1e6, 1e20):
        points = t * directions
        found = objective(points)
        falls |= ~(found > rounding(f, points))
    assert falls.all(), f"{f} is called bounded at λ = {weight}"


def test_dominated_by_penalty():
    assert dominated_by_penalty(ak.sum_squares(w) - ak.norm1(w), 2.1)
    assert not dominated_by_penalty(ak.sum_squares(w) - ak.norm1(w), 2.0)
    assert dominated_by_penalty(ak.sum(ak.huber(w)), 2.1)
    assert not dominated_by_penalty(ak.sum(ak.huber(w)), 1.9)
    assert not dominated_by_penalty(ak.norm1(w), 100.0)
    assert dominated_by_penalty(-ak.norm2(w), 1e-3)
