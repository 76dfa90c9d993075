import math

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings, strategies as st

import alignkit.expressions as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import Displacement
from alignkit.errors import AlignkitError, NonFiniteError, UnboundedTransportError
from alignkit.expressions.growth import Growth
from alignkit.transport.boundedness import (
    check_bounded,
    check_somewhere_finite,
    dominated_by_penalty,
    unseen_slope,
)
from alignkit.transport.costs import L1, Euclidean, PNorm
from alignkit.transport.reduction import check_transport
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


# ---- rewards that are finite nowhere

NOWHERE = {
    "a range": (ak.log(-1.0 - ak.square(w[0])) - ak.norm1(w), ["log(-1 - square(w[0]))"]),
    "a range up to its open end": (ak.log(-ak.abs(w[0])), ["log(-abs(w[0]))"]),
    "two half-lines": (ak.log(w[0]) + w[1] + ak.sqrt(-w[0] - 1e-3), ["log(w[0])", "sqrt(-w[0] - 0.001)"]),
    "three half-planes": (
        ak.log(w[0]) + ak.log(w[1]) + ak.entr(-w[0] - w[1] - 1.0) + ak.log(w[0] - w[1] + 9.0),
        ["log(w[0])", "log(w[1])", "entr(-w[0] - w[1] - 1)"],
    ),
    "entries of a vector": (ak.sum(ak.log(A @ w)) + ak.log(-2.0 - w[0]), ["log([3×2 constant] @ w)", "log(-2 - w[0])"]),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_a_reward_that_is_finite_nowhere_is_refused_by_the_conditions_that_contradict(name):
    f, atoms = NOWHERE[name]
    with pytest.raises(NonFiniteError, match="finite nowhere") as caught:
        check_somewhere_finite(f)
    assert all(f"{atom} needs" in caught.value.message for atom in atoms)
    assert caught.value.message.count(" needs ") == len(atoms)
    points = np.random.default_rng(0).uniform(-20.0, 20.0, (2000, 2))
    with np.errstate(all="ignore"):
        assert not np.isfinite(f.value(points)).any()
    composition = compose(f)
    with pytest.raises(NonFiniteError, match="finite nowhere"):
        check_transport(composition, 1.0, Euclidean(), reward=f)


@pytest.mark.parametrize(
    "f",
    [
        ak.log(w[0]) + ak.sqrt(1e-3 - w[0]),
        ak.sqrt(w[0]) + ak.sqrt(-w[0]),  # finite on a line
        ak.sum(ak.log(A @ w - 1e6)),
        ak.log(w[0] - 1e8) + ak.log(1e8 + 1.0 - w[0]),
        ak.log(1.0 - ak.square(w[0])),
        -ak.maximum(ak.log(-1.0 - ak.square(w[0])), 0.0),  # 0, as the logarithm is −∞
        ak.exp(ak.log(w[0]) + ak.log(-1.0 - w[0])),
        -ak.norm1(w),
    ],
    ids=str,
)
def test_rewards_that_are_finite_somewhere_pass(f):
    check_somewhere_finite(f)


# ---- a linear part under the norm itself

#: With the dual norm as cvxpy names it.
NORMS = {
    "ℓ1": (L1(), "inf"),
    "ℓ_1.5": (PNorm(1.5), 3),
    "ℓ_2": (PNorm(2), 2),
    "euclidean": (Euclidean(), 2),
    "ℓ_3": (PNorm(3), 1.5),
    "ℓ_∞": (PNorm(math.inf), 1),
}


def unseen(number, d, k):
    """R with orthonormal rows, and g beside them."""
    generator = np.random.default_rng(number)
    rows = np.linalg.qr(generator.standard_normal((d, k)))[0].T
    linear = generator.standard_normal(d)
    return rows, linear - rows.T @ (rows @ linear)


@pytest.mark.parametrize("name", NORMS)
def test_the_steepest_unseen_direction_is_that_of_the_dual_program(name):
    """max ⟨g, δ⟩ over N(δ) ≤ 1 and Rδ = 0 is min_s N*(g − Rᵀs)."""
    cost, dual = NORMS[name]
    for number, (d, k) in enumerate([(3, 1), (6, 2), (12, 5), (40, 8)]):
        rows, linear = unseen(number, d, k)
        s = cp.Variable(k)
        least = cp.Problem(cp.Minimize(cp.norm(linear - rows.T @ s, dual))).solve(solver=cp.CLARABEL)
        found = unseen_slope(Displacement(cost, rows, linear), 0.1 * least)
        assert found == pytest.approx(least, rel=1e-6)
        # Where no direction is as steep as λ there is nothing to search for.
        assert unseen_slope(Displacement(cost, rows, linear), 1.01 * float(cost.dual_norm(linear[None])[0])) <= found


def test_where_every_direction_is_seen_or_nothing_is_linear_there_is_no_slope():
    rows, linear = unseen(0, 5, 2)
    assert unseen_slope(Displacement(L1(), None, linear), 0.1) == 0.0
    assert unseen_slope(Displacement(L1(), rows, np.zeros(5)), 0.1) == 0.0


x3 = ak.Variable(3, name="x")
STEEP = {
    "a coordinate beside another": (3.0 * x3[1] - ak.pos(x3[0]), 3.0, 3.0),
    "across what is seen": (1.5 * x3[0] - ak.pos(-x3[0] - x3[1]), 0.75, 1.5),
    "along pieces that rise together": (ak.minimum(2.0 * x3[0] + x3[1], 3.0 * x3[1] + x3[0]), 5.0 / 3.0, 5.0 / 3.0),
}


@pytest.mark.parametrize("name", STEEP)
def test_a_linear_part_too_steep_for_the_l1_distance_is_found_from_structure(name):
    reward, slope, critical = STEEP[name]
    composition = compose(reward)
    with pytest.raises(UnboundedTransportError, match="other summands do not depend on") as caught:
        check_transport(composition, slope * (1 - 1e-6), L1(), reward=reward)
    assert "‖x − y‖_1" in str(caught.value) and f"{slope:.6g}" in str(caught.value)
    assert caught.value.expression == str(reward)
    check_transport(composition, slope * (1 + 1e-6), L1(), reward=reward)
    # It really grows there, and nothing is said of the critical value that is not so.
    assert ("below the critical value" in str(caught.value)) <= (slope == critical)
    far = np.concatenate([np.eye(3), -np.eye(3), [[2.0, 1.0, 0.0], [1.0, -1.0, 0.0]]]) * 1e6
    gain = reward.value(far) - slope * (1 - 1e-3) * np.abs(far).sum(axis=1)
    assert gain.max() > 100.0


def test_a_linear_part_that_only_a_seen_direction_offsets_is_no_false_alarm():
    """x₀ gains 3 and |x₀ + x₁| takes it all back along e₀; along e₀ − e₁, unseen, 3 is gained for a length of 2."""
    reward = 3.0 * x3[0] - 3.0 * ak.abs(x3[0] + x3[1])
    check_transport(compose(reward), 1.51, L1())
    with pytest.raises(UnboundedTransportError):
        check_transport(compose(reward), 1.49, L1())


def test_the_largest_entry_of_a_step():
    reward = x3[0] - 2.0 * x3[1] - ak.abs(x3[2])
    check_transport(compose(reward), 3.01, PNorm(math.inf))
    with pytest.raises(UnboundedTransportError, match=r"the critical value 3\."):
        check_transport(compose(reward), 2.99, PNorm(math.inf))
