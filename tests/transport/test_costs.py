"""Every cost against its formula, its conjugate against a search, and both against Fenchel's inequality."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from alignkit.errors import ParameterError, ShapeError
from alignkit.transport.costs import L1, ElasticNet, Euclidean, Mahalanobis, PNorm, SquaredEuclidean, Weighted

RNG = np.random.default_rng(0)
D = 5
M = RNG.standard_normal((D, D))
M = M @ M.T + 0.3 * np.eye(D)
WEIGHTS = RNG.uniform(0.2, 4.0, D)


def p_norm(delta, p):
    return np.abs(delta).max(axis=1) if math.isinf(p) else (np.abs(delta) ** p).sum(axis=1) ** (1 / p)


def of_norm(p, power):
    return lambda delta: p_norm(delta, p) ** power / power


#: A cost of points in R^d, and its formula.
COSTS = {
    "squared": (lambda d: SquaredEuclidean(), lambda delta: 0.5 * (delta**2).sum(axis=1)),
    "weighted": (
        lambda d: Weighted(WEIGHTS[:d]),
        lambda delta: 0.5 * (WEIGHTS[: delta.shape[1]] * delta**2).sum(axis=1),
    ),
    "mahalanobis": (
        lambda d: Mahalanobis(M[:d, :d]),
        lambda delta: 0.5 * np.array([row @ M[: len(row), : len(row)] @ row for row in delta]),
    ),
    "elastic net": (
        lambda d: ElasticNet(0.3),
        lambda delta: 0.5 * (delta**2).sum(axis=1) + 0.3 * np.abs(delta).sum(axis=1),
    ),
    "elastic net without ℓ1": (lambda d: ElasticNet(0), lambda delta: 0.5 * (delta**2).sum(axis=1)),
    "ℓ1": (lambda d: L1(), of_norm(1, 1)),
    "ℓ1 squared": (lambda d: L1(power=2), of_norm(1, 2)),
}
COSTS |= {
    f"euclidean, power {power}": (lambda d, power=power: Euclidean(power), of_norm(2, power))
    for power in (1, 1.2, 1.5, 2, 3, 7)
}
COSTS |= {
    f"ℓ_{p}, power {power}": (lambda d, p=p, power=power: PNorm(p, power), of_norm(p, power))
    for p in (1, 1.5, 2, 3, 10.5, math.inf)
    for power in (1, 1.5, 2, 3)
}
#: Those whose conjugate is an indicator.
EDGED = [name for name, (make, _) in COSTS.items() if getattr(make(2), "power", None) == 1]
SMOOTHED = [name for name in COSTS if name not in EDGED]


def searched(function, w):
    """sup_δ ⟨w, δ⟩ − h(δ) in the plane: over radii for each angle, and over angles around the best of a grid."""

    def loss(radius, angle):
        delta = radius * np.array([[np.cos(angle), np.sin(angle)]])
        return float(function(delta)[0] - delta[0] @ w)

    def at(angle, radii):
        values = [loss(radius, angle) for radius in radii]
        place = int(np.argmin(values))
        ends = radii[max(place - 1, 0)], radii[min(place + 1, len(radii) - 1)]
        options = {"xatol": 1e-12 * ends[1]}
        return minimize_scalar(loss, args=(angle,), bounds=ends, method="bounded", options=options).fun

    angles, radii = np.linspace(0, 2 * np.pi, 49), np.append(0.0, np.geomspace(1e-3, 1e4, 30))
    best = angles[np.argmin([at(angle, radii[::3]) for angle in angles])]
    bounds = best - angles[1], best + angles[1]
    found = minimize_scalar(at, args=(radii,), bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return -found.fun


@pytest.mark.parametrize("name", COSTS)
def test_values_are_those_of_the_formula(name):
    make, formula = COSTS[name]
    delta = 2.0 * RNG.standard_normal((7, D))
    delta[0] = 0.0
    delta[1] = np.eye(D)[2]
    cost = make(D)
    np.testing.assert_allclose(cost.of_displacement(delta), formula(delta), rtol=1e-13, atol=1e-300)
    x = RNG.standard_normal((7, D))
    np.testing.assert_allclose(cost.value(x, x + delta), formula(delta), rtol=1e-11, atol=1e-14)
    assert cost.formula and isinstance(cost.formula, str)


@pytest.mark.parametrize("name", COSTS)
def test_values_are_even_and_stay_in_their_library_and_dtype(name):
    make, formula = COSTS[name]
    delta = RNG.standard_normal((4, D)).astype(np.float32)
    cost = make(D)
    found = cost.of_displacement(torch.from_numpy(delta))
    assert isinstance(found, torch.Tensor) and found.dtype is torch.float32
    assert cost.of_displacement(delta).dtype == np.float32
    np.testing.assert_allclose(found.numpy(), formula(delta.astype(np.float64)), rtol=3e-5)
    np.testing.assert_array_equal(cost.of_displacement(-delta), cost.of_displacement(delta))


@pytest.mark.parametrize("name", SMOOTHED)
def test_conjugates_are_suprema(name):
    make, formula = COSTS[name]
    duals = RNG.uniform(0.3, 2.0, (2, 1)) * RNG.standard_normal((2, 2))
    expected = np.array([searched(formula, w) for w in duals])
    np.testing.assert_allclose(make(2).conjugate(duals), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", EDGED)
def test_conjugates_of_norms_are_indicators_of_where_the_supremum_is_zero(name):
    make, formula = COSTS[name]
    angles = np.linspace(0, 2 * np.pi, 100_001)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gains = circle / formula(circle)[:, None]
    duals = 1.5 * RNG.uniform(-1.0, 1.0, (60, 2))
    # By homogeneity the supremum is 0 or infinite, as no direction or some gains more than it costs.
    steepest = (duals @ gains.T).max(axis=1)
    clear = np.abs(steepest - 1.0) > 1e-4
    expected = np.where(steepest > 1.0, np.inf, 0.0)
    assert 0 < np.isinf(expected[clear]).sum() < clear.sum()
    np.testing.assert_array_equal(make(2).conjugate(duals[clear]), expected[clear])


@pytest.mark.parametrize("name", COSTS)
def test_best_displacements_attain_the_conjugate(name):
    make, formula = COSTS[name]
    duals = RNG.standard_normal((12, D))
    duals[0] = 0.0
    duals[1, ::2] = 0.0
    duals[2] = np.sign(duals[2])  # ties for ℓ1
    cost = make(D)
    best, earned = cost.best_displacement(duals), cost.conjugate(duals)
    assert best.shape == duals.shape and (best[0] == 0.0).all() and earned[0] == 0.0
    if name in EDGED:
        assert (best == 0.0).all()
        return
    np.testing.assert_allclose((duals * best).sum(axis=1) - formula(best), earned, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", EDGED)
def test_aligned_displacements_attain_the_dual_norm(name):
    make, formula = COSTS[name]
    cost, duals = make(D), RNG.standard_normal((9, D))
    along = cost._aligned(duals)
    np.testing.assert_allclose(formula(along), 1.0, rtol=1e-12)
    np.testing.assert_allclose((along * duals).sum(axis=1), cost.dual_norm(duals), rtol=1e-12)
    others = RNG.standard_normal((4000, D))
    assert (duals @ (others / formula(others)[:, None]).T <= cost.dual_norm(duals)[:, None] * (1 + 1e-12)).all()


FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: 0.0 if abs(number) < 1e-6 else number)


@given(name=st.sampled_from(sorted(COSTS)), delta=arrays(float, (1, D), elements=FINITE), data=st.data())
def test_fenchels_inequality(name, delta, data):
    cost = COSTS[name][0](D)
    dual = data.draw(arrays(float, (1, D), elements=st.floats(-30.0, 30.0).map(lambda w: 0.0 if abs(w) < 1e-9 else w)))
    product = float((dual * delta).sum())
    total = float(cost.of_displacement(delta)[0] + cost.conjugate(dual)[0])
    assert total >= product - 1e-12 * float((np.abs(dual) * np.abs(delta)).sum()) - 1e-11 * abs(product)


@pytest.mark.parametrize("name", ["ℓ_3, power 1", "ℓ_10.5, power 1", "ℓ_1.5, power 1"])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_powers_neither_overflow_nor_vanish(name, size):
    make, formula = COSTS[name]
    delta = RNG.standard_normal((3, D))
    np.testing.assert_allclose(make(D).of_displacement(size * delta), size * formula(delta), rtol=1e-12)


def test_costs_that_are_the_same_agree():
    delta, duals = RNG.standard_normal((2, 6, D))
    same = [
        (SquaredEuclidean(), Euclidean(2)),
        (SquaredEuclidean(), Weighted(np.ones(D))),
        (SquaredEuclidean(), Mahalanobis(np.eye(D))),
        (SquaredEuclidean(), ElasticNet(0.0)),
        (Weighted(WEIGHTS), Mahalanobis(np.diag(WEIGHTS))),
        (Euclidean(1.7), PNorm(2, 1.7)),
        (L1(), PNorm(1)),
        (L1(power=2.5), PNorm(1, 2.5)),
    ]
    for one, other in same:
        for function in ("of_displacement", "conjugate", "best_displacement"):
            given_rows = delta if function == "of_displacement" else duals
            np.testing.assert_allclose(getattr(one, function)(given_rows), getattr(other, function)(given_rows))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Euclidean(0.9), "at least 1"),
        (lambda: Euclidean(math.nan), "at least 1"),
        (lambda: Euclidean(math.inf), "at least 1"),
        (lambda: Euclidean("2"), "at least 1"),
        (lambda: PNorm(0.5), "at least 1"),
        (lambda: PNorm(math.nan), "at least 1"),
        (lambda: PNorm(2, 0.5), "at least 1"),
        (lambda: PNorm(2, math.nan), "at least 1"),
        (lambda: PNorm(-math.inf), "at least 1"),
        (lambda: L1(2.0), r"p|power"),
        (lambda: L1(power=0.0), "at least 1"),
        (lambda: ElasticNet(-0.1), "at least 0"),
        (lambda: ElasticNet(math.nan), "at least 0"),
        (lambda: ElasticNet(math.inf), "at least 0"),
        (lambda: ElasticNet(None), "at least 0"),
        (lambda: Weighted([1.0, 0.0]), "positive"),
        (lambda: Weighted([1.0, -2.0]), "positive"),
        (lambda: Weighted([1.0, math.nan]), "finite"),
        (lambda: Weighted([1.0, math.inf]), "finite"),
        (lambda: Weighted([]), "at least one"),
        (lambda: Weighted("ab"), "numbers"),
        (lambda: Mahalanobis(np.ones(3)), "square"),
        (lambda: Mahalanobis(np.ones((2, 3))), "square"),
        (lambda: Mahalanobis([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Mahalanobis([[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Mahalanobis([[1.0, 1.0], [1.0, 1.0]]), "positive definite"),
        (lambda: Mahalanobis(np.zeros((2, 2))), "positive definite"),
        (lambda: Mahalanobis([[math.nan]]), "finite"),
    ],
)
def test_bad_parameters_are_refused_by_name(make, words):
    with pytest.raises(ParameterError, match=words):
        make()


def test_arrays_of_parameters_are_copied():
    weights = np.ones(2)
    cost = Weighted(weights)
    weights[0] = 7.0
    assert cost.value(np.zeros((1, 2)), np.ones((1, 2)))[0] == 1.0


def test_weights_may_have_the_shape_of_the_variable():
    assert Weighted(np.ones((2, 3))).ambient == 6 and Mahalanobis(np.eye(4)).ambient == 4 and L1().ambient is None


def test_half_the_squared_distance_of_each_row():
    x, y = np.zeros((2, 2, 2)), np.array([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_array_equal(SquaredEuclidean().value(x, y), [12.5, 2.0])


@pytest.mark.parametrize(("left", "right"), [((2, 3), (2, 4)), ((3,), (1, 3)), ((), ())])
def test_names_both_shapes(left, right):
    with pytest.raises(ShapeError) as caught:
        SquaredEuclidean().value(np.zeros(left), np.zeros(right))
    assert str(left) in str(caught.value) and str(right) in str(caught.value)


def test_costs_compare_by_value():
    assert SquaredEuclidean() == SquaredEuclidean() and Euclidean(2) == Euclidean(2.0) and PNorm(3) != PNorm(4)
