"""Derivatives of transport maps: closed forms, central differences, and refusals where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import root

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.compiler.layer import MapOfParameters
from alignkit.errors import BackendRefusedError, NotDifferentiableError, ParameterError, UnboundedTransportError
from alignkit.transport.derivatives import TransportDerivative
from alignkit_torch.layer import TorchAutodiff

RNG = np.random.default_rng(0)
AUTODIFF = TorchAutodiff()
D = 5
X = RNG.normal(size=(4, D)) * 1.5
COTANGENT = RNG.normal(size=(4, D))
ROWS = RNG.normal(size=(3, D))
SLOPE = RNG.normal(size=D)
MATRIX = np.eye(D) + 0.3 * np.ones((D, D))


def derivative(reward, weight, *, cost=None, parameters=()):
    cost = ak.costs.SquaredEuclidean() if cost is None else cost
    return TransportDerivative(compose(reward), reward, weight, AUTODIFF, cost, tuple(parameters))


#: name: from (x, target (3,), matrix (3, 5), scale) to a reward.
REWARDS = {
    "log_sum_exp": lambda x, t, m, a: -a * ak.log_sum_exp(m @ x - t),
    "huber": lambda x, t, m, a: -a * ak.sum(ak.huber(m @ x - t, 0.4)),
    "concave quadratic": lambda x, t, m, a: -a * ak.sum_squares(m @ x - t),
    "quadratic that λ dominates": lambda x, t, m, a: 0.05 * a * ak.sum_squares(m @ x - t) + x[1],
    "norm1": lambda x, t, m, a: -a * ak.norm1(m @ x - t),
    "weighted absolute values": lambda x, t, m, a: -ak.sum(ak.abs(t) * ak.abs(m @ x - t)) * a,
    "min of affine": lambda x, t, m, a: a * ak.min(m @ x - t),
    "max and a linear part": lambda x, t, m, a: -a * ak.max(m @ x - t) + ak.inner(SLOPE, x),
    "norm_inf": lambda x, t, m, a: -a * ak.norm_inf(m @ x - t),
    "pos and neg": lambda x, t, m, a: -a * ak.sum(ak.pos(m @ x - t)) - ak.sum(ak.neg(2 * (m @ x) - t)),
    "maximum": lambda x, t, m, a: -a * ak.sum(ak.maximum(m @ x - t, 0.5, -(m @ x))),
    "logistic": lambda x, t, m, a: -a * ak.sum(ak.logistic(m @ x - t)) + ak.inner(SLOPE, x),
    "kinks beside curvature": lambda x, t, m, a: -a * ak.norm1(m @ x - t) - 0.3 * ak.sum_squares(x - t[0]),
    "parameter in the linear part": lambda x, t, m, a: ak.inner(t, m @ x) - a * ak.square(x[0]) + a * x[2],
    "affine": lambda x, t, m, a: a * ak.inner(t, m @ x),
}
COSTS = {
    "squared": ak.costs.SquaredEuclidean(),
    "Mahalanobis": ak.costs.Mahalanobis(MATRIX),
    "weighted": ak.costs.Weighted(np.arange(1.0, D + 1.0)),
}
ACROSS = [(name, "squared") for name in REWARDS] + [
    (name, cost)
    for name in ("log_sum_exp", "norm1", "min of affine", "parameter in the linear part", "affine")
    for cost in ("Mahalanobis", "weighted")
]


def map_of(build, cost, weight=1.3):
    """A solved problem's map as a function of (x, target, matrix, scale, λ)."""
    parameters = (
        ak.Parameter(3, np.array([0.3, -0.2, 0.5]), name="target"),
        ak.Parameter((3, D), ROWS, name="matrix"),
        ak.Parameter((), 0.7, nonneg=True, name="scale"),
    )
    reward = build(ak.Variable(D), *parameters)
    parameters = tuple(one for one in parameters if one in reward.parameters())
    problem = ak.Problem(reward, ak.base.Gaussian(np.zeros(D), 1.0), ak.Wasserstein(weight=weight, cost=cost))
    plan = problem.compile(tolerance=1e-10)
    found = MapOfParameters(plan, weight, cost, parameters=parameters, takes_weight=True, autodiff=AUTODIFF)
    return found, [one.dense() for one in parameters] + [np.asarray(weight)], parameters


def check_central_differences(found, values, *, step=1e-4, bar=1e-4):
    """ȳ pulled back against directional differences of ⟨ȳ, T⟩ in x and in each of the values."""
    inputs = [X, *values]
    bars = found.pull_back(X, values, found.forward(X, *values), COTANGENT)
    for place, (given, pulled) in enumerate(zip(inputs, bars, strict=True)):
        assert pulled.shape == given.shape
        direction = np.random.default_rng(place).normal(size=given.shape)
        ahead, behind = (
            np.sum(COTANGENT * found.forward(*inputs[:place], given + sign * step * direction, *inputs[place + 1 :]).y)
            for sign in (1.0, -1.0)
        )
        expected = (ahead - behind) / (2 * step)
        assert abs(np.sum(pulled * direction) - expected) <= bar * max(1.0, abs(expected)), place


@pytest.mark.parametrize(("name", "cost"), ACROSS)
def test_cotangents_are_those_of_central_differences(name, cost):
    found, values, _ = map_of(REWARDS[name], COSTS[cost])
    check_central_differences(found, values)


def length(step, p=2):
    return np.linalg.norm(step, p, axis=-1, keepdims=True)


#: name: the cost, and ∇h.
SMOOTH_COSTS = {
    "Euclidean, power 1.5": (ak.costs.Euclidean(power=1.5), lambda step: step / np.sqrt(length(step))),
    "Euclidean, power 3": (ak.costs.Euclidean(power=3), lambda step: step * length(step)),
    "PNorm, p = 3, power 2": (ak.costs.PNorm(3, power=2), lambda step: np.sign(step) * step**2 / length(step, 3)),
}


@pytest.mark.parametrize("name", SMOOTH_COSTS)
def test_smooth_costs_that_are_not_quadratic(name):
    # The truth solves ∇r(y) = λ∇h(y − x) for each row.
    cost, slope = SMOOTH_COSTS[name]
    t = ak.Parameter(3, np.array([0.3, -0.2, 0.5]))
    x = ak.Variable(D)
    reward = -ak.log_sum_exp(ROWS @ x - t) + ak.inner(SLOPE, x) + ak.inner(t, x[:3])

    def moved(points, weight, target):
        t.value = target
        start = points + 0.5 * reward.gradient(points)
        rows = [
            root(lambda y, row=row: reward.gradient(y) - weight * slope(y - row), first, tol=1e-13).x
            for row, first in zip(points, start, strict=True)
        ]
        return np.array(rows)

    values = [X, np.asarray(2.0), t.dense()]
    y = moved(*values)
    assert np.abs(reward.gradient(y) - 2.0 * slope(y - X)).max() < 1e-10
    for parameters in ((), (t,)):
        found = derivative(reward, 2.0, cost=cost, parameters=parameters).pull_back(X, y, COTANGENT)
        for place, bar in enumerate((found.x, found.weight, *found.parameters)):
            step = 1e-5 * np.random.default_rng(place).normal(size=values[place].shape)
            ahead, behind = (
                np.sum(COTANGENT * moved(*values[:place], values[place] + sign * step, *values[place + 1 :]))
                for sign in (1.0, -1.0)
            )
            t.value = values[2]
            assert np.sum(bar * step) == pytest.approx((ahead - behind) / 2, rel=1e-5, abs=1e-9)


def test_soft_thresholding():
    x = np.array([[2.0, 0.3, -0.9, -3.0]])
    found = derivative(-ak.norm1(ak.Variable(4)), 2.0).pull_back(x, np.array([[1.5, 0.0, -0.4, -2.5]]), x)
    np.testing.assert_allclose(found.x, [[2.0, 0.0, -0.9, -3.0]], atol=1e-12)
    # y = x ∓ 1/λ where it moves.
    assert found.weight == pytest.approx((2.0 + 0.9 + 3.0) / 4.0, abs=1e-12)


def test_a_largest_entry_of_zeros_beside_a_kink_that_is_left():
    # norm_inf of (y₀, y₁) holds both at 0, by four pieces of which two would do; |y₂| is left at once.
    x = ak.Variable(3)
    reward = -2.0 * ak.norm_inf(x[:2]) - ak.abs(x[2])
    given, moved = np.array([[0.3, -0.4, 1.001]]), np.array([[0.0, 0.0, 0.001]])
    found = derivative(reward, 1.0).pull_back(given, moved, np.ones((1, 3)))
    np.testing.assert_allclose(found.x, [[0.0, 0.0, 1.0]], atol=1e-12)


def test_a_weight_that_is_zero_has_a_derivative():
    # T(x) = x − a·sign(x)/λ.
    a = ak.Parameter((), 0.0, nonneg=True, name="a")
    found = derivative(-a * ak.norm1(ak.Variable(D)), 2.0, parameters=[a]).pull_back(X, X, COTANGENT)
    assert found.parameters[0] == pytest.approx(-(np.sign(X) * COTANGENT).sum() / 2.0, abs=1e-12)
    with pytest.raises(NotDifferentiableError, match=r"norm1\(x\) is at a kink"):
        derivative(-a * ak.norm1(ak.Variable(D)), 2.0, parameters=[a]).pull_back(X * 0.0, X * 0.0, COTANGENT)


def test_a_norm_away_from_its_kink():
    # y = x − (x − t)/(λ‖x − t‖).
    target = ak.Parameter(D, RNG.normal(size=D))
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (X, 3.0, target.dense())]
    x, weight, t = inputs
    y = x - (x - t) / (weight * torch.linalg.norm(x - t, dim=1, keepdim=True))
    expected = torch.autograd.grad((y * torch.from_numpy(COTANGENT)).sum(), inputs)
    made = derivative(-ak.norm2(ak.Variable(D) - target), 3.0, parameters=[target])
    found = made.pull_back(X, y.detach().numpy(), COTANGENT)
    for one, other in zip((found.x, found.weight, found.parameters[0]), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


def test_a_quadratic_solves_the_adjoint_system():
    t = ak.Parameter(3, [0.1, 0.2, 0.3])
    reward, weight = -ak.sum_squares(ROWS @ ak.Variable(D) - t), 1.7
    inverse = np.linalg.inv(weight * np.eye(D) + 2.0 * ROWS.T @ ROWS)
    y = (weight * X + 2.0 * t.dense() @ ROWS) @ inverse
    found = derivative(reward, weight, parameters=[t]).pull_back(X, y, COTANGENT)
    s = COTANGENT @ inverse
    np.testing.assert_allclose(found.x, weight * s, atol=1e-11)
    assert found.weight == pytest.approx(-(s * (y - X)).sum(), abs=1e-11)
    np.testing.assert_allclose(found.parameters[0], 2.0 * (s @ ROWS.T).sum(axis=0), atol=1e-10)


@pytest.mark.parametrize("kind", ["dense", "sparse", "operator"])
def test_few_rows_in_many_dimensions(kind):
    d = 20_000
    rows = sparse.random_array((2, d), density=0.01, format="csr", rng=np.random.default_rng(1))
    x = np.random.default_rng(2).normal(size=(3, d))
    cotangent = np.random.default_rng(3).normal(size=(3, d))
    variable = ak.Variable(d)
    matrix = rows.toarray() if kind == "dense" else rows
    inside = matrix @ variable
    if kind == "operator":
        inside = ak.linear_map(sparse.linalg.aslinearoperator(rows), variable)
    weight, dense = 1.5, rows.toarray()
    small = np.linalg.inv(weight * np.eye(2) + 2.0 * dense @ dense.T)
    y = x - 2.0 * (x @ dense.T) @ small @ dense
    found = derivative(-ak.sum_squares(inside), weight).pull_back(x, y, cotangent)
    np.testing.assert_allclose(found.x, cotangent - 2.0 * (cotangent @ dense.T) @ small @ dense, atol=1e-7)


def test_a_maximiser_that_a_solver_left_inaccurate_is_made_stationary_first():
    found, values, _ = map_of(REWARDS["norm1"], COSTS["squared"])
    moved = found.forward(X, *values)
    exact = found.pull_back(X, values, moved, COTANGENT)
    off = type(moved)(moved.y + 1e-4 * RNG.normal(size=X.shape), moved.gap + 1e-7, moved.refused)
    for one, other in zip(found.pull_back(X, values, off, COTANGENT), exact, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


def test_total_variation_moves_its_level_sets():
    # The level sets {0, 1}, {2, 3} move as a whole, by the mean of what is asked of them.
    x = np.array([[0.1, 0.0, 2.0, 2.1]])
    y = np.array([[0.05 + 0.5, 0.05 + 0.5, 2.05 - 0.5, 2.05 - 0.5]])
    found = derivative(-ak.total_variation(ak.Variable(4)), 1.0).pull_back(x, y, np.array([[1.0, 0.0, 0.0, 3.0]]))
    np.testing.assert_allclose(found.x, [[0.5, 0.5, 1.5, 1.5]], atol=1e-12)


def test_pieces_that_are_written_twice_share_their_multiplier():
    x = ak.Variable(2)
    reward = -ak.norm1(x) - 2.0 * ak.abs(x[0])
    found = derivative(reward, 1.0).pull_back(np.array([[0.5, 3.0]]), np.array([[0.0, 2.0]]), np.ones((1, 2)))
    np.testing.assert_allclose(found.x, [[0.0, 1.0]], atol=1e-12)


def test_a_function_of_the_users_own():
    x = ak.Variable(D)
    reward = ak.lipschitz(lambda z: torch.cos(z[:, 0]), 1.0, (ROWS[:1] / np.linalg.norm(ROWS[0])) @ x)
    made, same = derivative(reward, 2.0), derivative(ak.cos((ROWS[0] / np.linalg.norm(ROWS[0])) @ x), 2.0)
    y = X.copy()
    for _ in range(200):
        y = X + ak.cos((ROWS[0] / np.linalg.norm(ROWS[0])) @ x).gradient(y) / 2.0
    np.testing.assert_allclose(made.pull_back(X, y, COTANGENT).x, same.pull_back(X, y, COTANGENT).x, atol=1e-10)


def refused(reward, weight, x, y, match, **options):
    x, y = np.atleast_2d(np.asarray(x, dtype=float)), np.atleast_2d(np.asarray(y, dtype=float))
    with pytest.raises(NotDifferentiableError, match=match) as caught:
        derivative(reward, weight, **options).pull_back(x, y, np.ones_like(y))
    assert caught.value.ways_out
    return caught.value


class TestRefusals:
    x = ak.Variable(2)

    def test_a_kink_exactly_at_its_switch(self):
        # Soft thresholding at |x| = 1/λ.
        error = refused(-ak.norm1(self.x), 2.0, [[3.0, 0.1], [3.0, 0.5]], [[2.5, 0.0], [2.5, 0.0]], "kink that the")
        assert error.rows == (1,) and "row 1: norm1(x)" in str(error)

    def test_pieces_that_meet_without_holding(self):
        refused(ak.min(self.x), 1.0, [1.0, 2.0], [2.0, 2.0], "min.x. is at a kink")

    def test_huber_at_its_threshold(self):
        refused(-ak.sum(ak.huber(self.x)), 2.0, [2.0, 0.3], [1.0, 0.15], "huber.x. is not twice differentiable")

    def test_a_norm_at_its_kink(self):
        refused(-ak.norm2(self.x), 2.0, [0.1, 0.1], [0.0, 0.0], "norm2.x. is not twice")

    def test_a_kink_inside_another_atom(self):
        reward = -ak.sum_squares(ak.pos(self.x))
        refused(reward, 1.0, [0.0, 1.0], [0.0, 1.0 / 3.0], "pos.x. is not twice")
        found = derivative(reward, 1.0).pull_back(np.array([[-1.0, 1.0]]), np.array([[-1.0, 1 / 3]]), np.ones((1, 2)))
        np.testing.assert_allclose(found.x, [[1.0, 1.0 / 3.0]], atol=1e-12)

    def test_an_objective_that_is_flat_at_the_maximiser(self):
        # cos(y) − ½(y − π)² has no curvature at y = π.
        refused(ak.cos(self.x[0]), 1.0, [np.pi, 0.0], [np.pi, 0.0], "not unique|no maximiser")

    def test_a_convex_kink(self):
        refused(ak.sum(ak.abs(self.x)), 1.0, [0.0, 2.0], [0.0, 3.0], "abs.x. is at a kink|far from a stationary")

    def test_rows_that_a_search_found_tied(self):
        with pytest.raises(NotDifferentiableError, match="row 0: another point is as good") as caught:
            derivative(ak.sin(self.x[0]), 1.0).pull_back(
                np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2)), refused=np.array([True, False])
            )
        assert caught.value.rows[0] == 0

    def test_symmetric_wells(self):
        # The maximisers of cos(3y) − ½·0.1·(y − π/3)² lie near 0 and 2π/3.
        reward = ak.cos(3.0 * self.x[0])
        problem = ak.Problem(reward, ak.base.Gaussian([0.0, 0.0], 1.0), ak.Wasserstein(weight=0.1))
        moved = problem.solve(seed=0).transport(np.array([[np.pi / 3, 0.0], [0.1, 0.0]]), return_details=True)
        assert moved.tied.tolist() == [True, False]
        made = derivative(reward, 0.1)
        x = np.array([[np.pi / 3, 0.0], [0.1, 0.0]])
        with pytest.raises(NotDifferentiableError, match="row 0: another point is as good"):
            made.pull_back(x, moved.y, np.ones((2, 2)), gap=moved.gap, refused=moved.tied)
        # A row that is not asked about does not matter; the other moves by λ/(λ + 9cos(3y)).
        found = made.pull_back(x, moved.y, np.array([[0.0, 0.0], [1.0, 1.0]]), gap=moved.gap, refused=moved.tied)
        y = 0.1 * 0.1 / 9.1
        assert found.x[1, 0] == pytest.approx(0.1 / (0.1 + 9.0 * np.cos(3.0 * y)), abs=1e-6)
        assert (found.x[0] == 0.0).all() and found.x[1, 1] == 1.0

    def test_costs_with_kinks(self):
        for cost in (ak.costs.L1(), ak.costs.ElasticNet(1.0), ak.costs.Euclidean()):
            error = refused(-ak.norm1(self.x), 2.0, [1.0, 1.0], [1.0, 1.0], "is not smooth", cost=cost)
            assert "SquaredEuclidean" in error.ways_out[0]

    def test_pieces_that_part_when_a_parameter_moves(self):
        # Both kinks hold y₀ at 0; which of them does so when p moves depends on its sign.
        p, q = ak.Parameter((), 0.0, name="p"), ak.Parameter((), 0.0, name="q")
        x, y = [0.1, 3.0], [0.0, 2.0]
        refused(-ak.norm1(self.x) - ak.abs(self.x[0] - p), 1.0, x, y, "do not meet any more", parameters=[p])
        # Two kinks that move alike stay together.
        reward = -ak.norm1(ak.stack([self.x[0] - q, self.x[1]])) - ak.abs(self.x[0] - q)
        found = derivative(reward, 1.0, parameters=[q]).pull_back(np.array([x]), np.array([y]), np.array([[5.0, 7.0]]))
        assert found.parameters[0] == pytest.approx(5.0, abs=1e-10)
        np.testing.assert_allclose(found.x, [[0.0, 7.0]], atol=1e-10)

    def test_an_operator_in_full_dimension(self):
        inside = ak.linear_map(sparse.linalg.aslinearoperator(sparse.eye_array(300, format="csr")), ak.Variable(300))
        with pytest.raises(NotDifferentiableError, match="linear_map of an operator"):
            derivative(-ak.sum_squares(inside), 1.0)

    def test_parameters_beside_an_operator(self):
        t = ak.Parameter(2, [0.0, 0.0])
        inside = ak.linear_map(sparse.linalg.aslinearoperator(sparse.eye_array(2, format="csr")), self.x)
        with pytest.raises(NotDifferentiableError, match="linear_map"):
            derivative(-ak.sum_squares(inside - t), 1.0, parameters=[t])

    def test_rows_that_are_not_finite(self):
        refused(-ak.norm1(self.x), 2.0, [np.nan, 1.0], [np.nan, 0.5], "NaN")

    def test_too_many_unknowns(self):
        with pytest.raises(NotDifferentiableError, match="3000 unknowns"):
            derivative(-ak.norm1(ak.Variable(3000)), 1.0)


class TestMapOfParameters:
    def test_neither_the_problem_nor_its_result_changes(self):
        t = ak.Parameter(2, [0.5, -0.5], name="t")
        problem = ak.Problem(
            -ak.norm1(ak.Variable(2) - t), ak.base.Gaussian([0.0, 0.0], 1.0), ak.Wasserstein(weight=1.0)
        )
        aligned = problem.solve(seed=0)
        before, version = aligned.transport(np.ones((1, 2))), t.version
        found = MapOfParameters(aligned.plan, 1.0, ak.costs.SquaredEuclidean(), parameters=[t], autodiff=AUTODIFF)
        moved = found.forward(np.zeros((1, 2)), np.array([0.2, 5.0]))
        np.testing.assert_allclose(moved.y, [[0.2, 1.0]], atol=1e-9)
        assert t.version == version and (t.dense() == [0.5, -0.5]).all()
        np.testing.assert_array_equal(aligned.transport(np.ones((1, 2))), before)
        np.testing.assert_allclose(found.forward(np.zeros((1, 2)), t.dense()).y, [[0.5, -0.5]], atol=1e-9)

    def test_a_rank_that_changes_is_composed_anew(self):
        m = ak.Parameter((2, 3), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], name="m")
        problem = ak.Problem(
            -ak.norm1(m @ ak.Variable(3)), ak.base.Gaussian(np.zeros(3), 1.0), ak.Wasserstein(weight=1.0)
        )
        found = MapOfParameters(problem.compile(), 1.0, ak.costs.SquaredEuclidean(), parameters=[m], autodiff=AUTODIFF)
        x = np.array([[3.0, 3.0, 3.0]])
        np.testing.assert_allclose(found.forward(x, m.dense()).y, [[2.0, 2.0, 3.0]], atol=1e-6)
        np.testing.assert_allclose(found.forward(x, np.eye(2, 3)[[0, 0]]).y, [[1.0, 3.0, 3.0]], atol=1e-6)

    def test_values_out_of_range_are_refused(self):
        a = ak.Parameter((), 1.0, nonneg=True, name="a")
        x = ak.Variable(2)
        reward = a * ak.sum_squares(x)
        problem = ak.Problem(reward, ak.base.Gaussian(np.zeros(2), 1.0), ak.Wasserstein(weight=4.0))
        found = MapOfParameters(
            problem.compile(), 4.0, ak.costs.SquaredEuclidean(), parameters=[a], takes_weight=True, autodiff=AUTODIFF
        )
        with pytest.raises(ParameterError, match="nonneg"):
            found.forward(X[:, :2], np.asarray(-1.0), np.asarray(4.0))
        with pytest.raises((UnboundedTransportError, BackendRefusedError)):
            found.forward(X[:, :2], np.asarray(2.5), np.asarray(4.0))
        with pytest.raises(ParameterError, match="takes x and 2 values"):
            found.forward(X[:, :2], np.asarray(2.5))
        np.testing.assert_allclose(found.forward(X[:, :2], np.asarray(1.0), np.asarray(4.0)).y, 2.0 * X[:, :2])
