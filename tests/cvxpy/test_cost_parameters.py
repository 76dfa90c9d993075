"""Every parameter of every cost over a range of values, against programs in full dimension, written out in cvxpy."""

import dataclasses
import math

import cvxpy as cp
import numpy as np
import pytest

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.transport.reduction import TransportMap, reduce_transport
from alignkit_cvxpy.prox import CvxpyProxSolver

RNG = np.random.default_rng(0)
D, ROWS = 4, 2
A, t = RNG.standard_normal((2, D)), RNG.standard_normal(2)
G = 0.2 * RNG.standard_normal(D)
DUALS = RNG.standard_normal((ROWS, D))
POINTS = 1.5 * RNG.standard_normal((ROWS, D))
WEIGHT = 1.1
PRECISE = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-10)


def powered(p, power):
    return lambda e: cp.power(cp.norm(e, p), power) / power if power > 1 else cp.norm(e, p)


def conditioned(number):
    """A symmetric matrix of that condition number, of largest eigenvalue 2."""
    basis = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    found = basis @ np.diag(np.geomspace(2.0 / number, 2.0, D)) @ basis.T
    return (found + found.T) / 2.0


def mahalanobis(matrix):
    root = np.linalg.cholesky(matrix).T
    return ak.costs.Mahalanobis(matrix), lambda e: cp.sum_squares(root @ e) / 2


def weighted(weights):
    return ak.costs.Weighted(weights), lambda e: np.ravel(weights) @ cp.square(e) / 2


#: By class and parameter the values examined: the cost, and h as cvxpy has it.
SWEPT = {
    ("Euclidean", "power"): {
        power: (ak.costs.Euclidean(power), powered(2, power)) for power in (1, 1.2, 1.5, 2, 2.5, 4)
    },
    ("PNorm", "p"): {p: (ak.costs.PNorm(p, 1.5), powered(p, 1.5)) for p in (1, 1.25, 2, 4, math.inf)},
    ("PNorm", "power"): {
        (p, power): (ak.costs.PNorm(p, power), powered(p, power)) for p in (1.5, 3, math.inf) for power in (1, 1.3, 3)
    },
    ("L1", "power"): {power: (ak.costs.L1(power=power), powered(1, power)) for power in (1, 1.5, 2, 3)},
    ("ElasticNet", "gamma"): {
        gamma: (ak.costs.ElasticNet(gamma), lambda e, gamma=gamma: cp.sum_squares(e) / 2 + gamma * cp.norm1(e))
        for gamma in (0.0, 0.05, 0.5, 3.0)
    },
    ("Weighted", "weights"): {
        "alike": weighted(np.full(D, 0.7)),
        "apart": weighted(np.geomspace(0.05, 20.0, D)),
        "of a matrix": weighted(np.array([[0.5, 2.0], [1.0, 4.0]])),
    },
    ("Mahalanobis", "matrix"): {number: mahalanobis(conditioned(number)) for number in (1.0, 10.0, 1e3)},
}
CASES = [(*key, value) for key, values in SWEPT.items() for value in values]

x = ak.Variable(D)
REWARD = -ak.norm1(A @ x - t) - 0.3 * ak.sum_squares(A @ x - t) + ak.inner(G, x)


def reward_in_cvxpy(y):
    return -cp.norm1(A @ y - t) - 0.3 * cp.sum_squares(A @ y - t) + G @ y


def test_every_parameter_of_every_cost_is_swept():
    classes = [
        cost for cost in (getattr(ak.costs, name) for name in ak.costs.__all__) if dataclasses.is_dataclass(cost)
    ]
    assert {cost.__name__ for cost in classes} >= {"SquaredEuclidean", *(name for name, _ in SWEPT)}
    # p of L1 is fixed: another value is refused.
    fields = {(cost.__name__, field.name) for cost in classes for field in dataclasses.fields(cost) if field.init}
    assert fields - {("L1", "p")} == set(SWEPT)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter", "value"), CASES)
def test_values_and_conjugates_are_those_of_cvxpy(name, parameter, value):
    cost, price = SWEPT[name, parameter][value]
    expected = [float(price(cp.Constant(row)).value) for row in POINTS]
    np.testing.assert_allclose(cost.of_displacement(POINTS), expected, rtol=1e-12)
    for dual in DUALS:
        step = cp.Variable(D)
        if np.isinf(cost.conjugate(dual[None])[0]):
            # For a norm: within the ball of steps of length 1 something is gained.
            gained = cp.Problem(cp.Maximize(dual @ step - price(step)), [price(step) <= 1.0]).solve(solver=cp.CLARABEL)
            assert gained > 1e-6
            continue
        program = cp.Problem(cp.Maximize(dual @ step - price(step)))
        best = program.solve(solver=cp.CLARABEL, accept_unknown=True, **PRECISE)
        assert cost.conjugate(dual[None])[0] == pytest.approx(best, rel=1e-6, abs=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter", "value"), CASES)
def test_maps_are_those_of_the_program_in_full_dimension(name, parameter, value):
    cost, price = SWEPT[name, parameter][value]
    composition = compose(REWARD)
    problem = reduce_transport(composition, WEIGHT, cost=cost, rows=ROWS)
    moved = TransportMap(composition, WEIGHT, CvxpyProxSolver().open(problem), cost=cost).apply(POINTS)
    assert not moved.unfinished.any()
    y = cp.Variable((ROWS, D))
    total = sum(reward_in_cvxpy(y[i]) - WEIGHT * price(y[i] - row) for i, row in enumerate(POINTS))
    cp.Problem(cp.Maximize(total)).solve(solver=cp.CLARABEL, accept_unknown=True, **PRECISE)
    truth = REWARD.value(y.value) - WEIGHT * cost.of_displacement(y.value - POINTS)
    scale = np.maximum(1.0, np.abs(truth))
    found = REWARD.value(moved.y) - WEIGHT * cost.of_displacement(moved.y - POINTS)
    np.testing.assert_allclose(moved.objective, found, rtol=1e-10, atol=1e-10)
    # What the program in full dimension reached is below the supremum, by no more than its own tolerance.
    assert (truth <= moved.objective + moved.gap + 1e-12 * scale).all()
    assert (moved.objective <= truth + 1e-6 * scale).all()
