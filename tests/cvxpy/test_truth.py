"""Certified solves of concave rewards against solvers that share nothing with them.

Rewards that are sums over entries are held against a search over each entry by scipy; all others are written in cvxpy,
imported, composed and solved in their intrinsic dimension, and held against cvxpy's own solve in full dimension.
"""

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import alignkit.expressions as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import Bid, Guarantee, ProxProblem
from alignkit.transport.reduction import TransportMap, reduce_transport
from alignkit_cvxpy.importer import from_cvxpy
from alignkit_cvxpy.prox import CvxpyProxSolver

# cvxpy says what its cones cost, and that it is not sure of a last digit.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
K = 3
w = ak.Variable(K, name="w")

#: The atom, the sign that makes it concave, the function of a number, and where its domain begins.
SEPARABLE = {
    "abs": (ak.abs(w), -1, np.abs, -np.inf),
    "square": (ak.square(w), -1, np.square, -np.inf),
    "huber": (ak.huber(w, 0.5), -1, lambda z: z**2 if abs(z) < 0.5 else abs(z) - 0.25, -np.inf),
    "pos": (ak.pos(w), -1, lambda z: max(z, 0.0), -np.inf),
    "neg": (ak.neg(w), -1, lambda z: max(-z, 0.0), -np.inf),
    "exp": (ak.exp(w), -1, np.exp, -np.inf),
    "logistic": (ak.logistic(w), -1, lambda z: np.logaddexp(z, 0.0), -np.inf),
    "log": (ak.log(w), 1, np.log, 0.0),
    "log1p": (ak.log1p(w), 1, np.log1p, -1.0),
    "entr": (ak.entr(w), 1, lambda z: -z * np.log(z), 0.0),
    "sqrt": (ak.sqrt(w), 1, np.sqrt, 0.0),
    "inv_pos": (ak.inv_pos(w), -1, lambda z: 1.0 / z, 0.0),
    "power 3": (ak.power(w, 3), -1, lambda z: z**3, 0.0),
    "power 1.7": (ak.power(w, 1.7), -1, lambda z: z**1.7, 0.0),
    "power 4": (ak.power(w, 4), -1, lambda z: z**4, -np.inf),
    "power 6": (ak.power(w, 6), -1, lambda z: z**6, -np.inf),
    "power 0.3": (ak.power(w, 0.3), 1, lambda z: z**0.3, 0.0),
    "power -2": (ak.power(w, -2), -1, lambda z: z**-2.0, 0.0),
    "piecewise_linear": (
        ak.piecewise_linear(w, [-1.0, 0.0, 1.0], [-2.0, 0.0, 0.5]),
        1,
        lambda z: min(2.0 * z, 0.5 * z),
        -np.inf,
    ),
    "minimum": (ak.minimum(w, 0.3, -w), 1, lambda z: min(z, 0.3, -z), -np.inf),
    "maximum": (ak.maximum(w, -0.5 * w), -1, lambda z: max(z, -0.5 * z), -np.inf),
}


def best(function, start, v, weight):
    """max_z function(z) − (λ/2)(z − v)², by golden sections after a scan."""

    def loss(z):
        return -function(z) + weight / 2 * (z - v) ** 2

    # The maximiser lies in the domain, no farther from v than its square root allows the reward to reach.
    lowest = max(start, v - 60.0)
    grid = lowest + (v + 60.0 - lowest) * np.concatenate(
        [np.geomspace(1e-14, 1e-4, 400), np.linspace(1e-4, 1, 4000)[1:]]
    )
    place = int(np.argmin([loss(z) for z in grid]))
    bounds = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-13, "maxiter": 500})
    return -min(found.fun, loss(grid[place]))


@pytest.mark.parametrize("weight", [0.3, 2.0])
@pytest.mark.parametrize("name", SEPARABLE)
def test_sums_over_entries_against_a_search_over_each(name, weight):
    atom, sign, function, start = SEPARABLE[name]
    points = 2.0 * RNG.standard_normal((4, K))
    problem = ProxProblem(sign * ak.sum(atom), weight, K, 4)
    solution = CvxpyProxSolver().open(problem).solve(points)
    value = problem.nonlinear.value(solution.maximiser) - weight / 2 * np.sum(
        (solution.maximiser - points) ** 2, axis=1
    )
    with np.errstate(all="ignore"):
        truth = np.array([sum(best(lambda z: sign * function(z), start, v, weight) for v in row) for row in points])
    scale = np.maximum(1.0, np.abs(value))
    assert not solution.unfinished.any() and (solution.gap <= 1e-6 * scale).all()
    # The search is good to rounding, from below.
    assert (truth <= value + solution.gap + 1e-12 * scale).all()
    assert (value <= truth + 1e-9 * scale).all()


SHAPE, D = (4, 5), 20
A, B, t = RNG.standard_normal((4, D)), RNG.standard_normal((4, D)), RNG.standard_normal(4)
G = RNG.standard_normal(D)
RELATED = A[:3] @ A[:3].T + 0.1 * np.eye(3)

#: Concave rewards of an image Y of shape SHAPE, as cvxpy's users write them; a is Ay − t and b is By, with y = vec(Y).
REWARDS = {
    "log": lambda Y, a, b: cp.sum(cp.log(a + 8.0)) - cp.norm1(b),
    "log of affine minus a norm": lambda Y, a, b: cp.log(10.0 + a[0]) - cp.norm(a),
    "log1p": lambda Y, a, b: cp.sum(cp.log1p(cp.minimum(a + 6.0, 3.0))),
    "entr": lambda Y, a, b: cp.sum(cp.entr(a + 5.0)),
    "sqrt": lambda Y, a, b: 3.0 * cp.sum(cp.sqrt(a + 9.0)) + G @ cp.vec(Y, order="C"),
    "geo_mean": lambda Y, a, b: 5.0 * cp.geo_mean(a + 6.0),
    "weighted geo_mean": lambda Y, a, b: cp.geo_mean(a + 6.0, [1, 2, 3, 1], approx=False),
    "exp": lambda Y, a, b: -cp.sum(cp.exp(0.3 * a)),
    "logistic": lambda Y, a, b: -2.0 * cp.sum(cp.logistic(a)),
    "inv_pos": lambda Y, a, b: -cp.sum(cp.inv_pos(a + 9.0)),
    "power": lambda Y, a, b: -cp.sum(cp.power(cp.abs(a), 1.5)) - cp.norm1(b),
    "odd power": lambda Y, a, b: -cp.sum(cp.power(a + 5.0, 3)),
    "small power": lambda Y, a, b: cp.sum(cp.power(a + 9.0, 0.3)),
    "pnorm": lambda Y, a, b: -3.0 * cp.pnorm(a, 3),
    "pnorm and a norm": lambda Y, a, b: -cp.pnorm(a, 1.5) - cp.norm_inf(b),
    "sigma_max": lambda Y, a, b: -2.0 * cp.sigma_max(Y[:3, :3]),
    "nuclear's dual with rows": lambda Y, a, b: -cp.sum(cp.norm(Y, 2, axis=1)),
    "total variation": lambda Y, a, b: -0.5 * cp.tv(Y),
    "sum_largest": lambda Y, a, b: -cp.sum_largest(a, 2.5),
    "sum_smallest": lambda Y, a, b: cp.sum_smallest(cp.hstack([a, b]), 3),
    "cvar": lambda Y, a, b: -cp.cvar(a, 0.6),
    "dotsort": lambda Y, a, b: -cp.dotsort(a, [3.0, 2.0, 1.0]),
    "quad_over_lin": lambda Y, a, b: -cp.quad_over_lin(a, b[0] + 9.0),
    "matrix_frac": lambda Y, a, b: -cp.matrix_frac(a[:3], RELATED) - cp.norm1(b),
    "relative entropy": lambda Y, a, b: -cp.sum(cp.kl_div(a + 6.0, np.arange(1.0, 5.0))),
    "standard deviation": lambda Y, a, b: -4.0 * cp.std(a),
    "log_normcdf": lambda Y, a, b: cp.sum(cp.log_normcdf(a)),
    "loggamma": lambda Y, a, b: -cp.sum(cp.loggamma(a + 9.0)),
    "huber and max": lambda Y, a, b: -cp.sum(cp.huber(a, 0.5)) - cp.max(b),
    "log_sum_exp of norms": lambda Y, a, b: -cp.log_sum_exp(cp.hstack([cp.norm(a), cp.norm1(b)])),
    "log of geo_mean": lambda Y, a, b: cp.log(cp.geo_mean(a + 7.0)),
    "exp of max": lambda Y, a, b: -cp.exp(0.5 * cp.max(a)),
    "inv_pos of concave": lambda Y, a, b: -cp.inv_pos(cp.min(cp.minimum(a, b)) + 12.0),
    "square of pos": lambda Y, a, b: -cp.sum(cp.square(cp.pos(a))) + cp.min(b),
}


def written(name, Y):
    y = cp.vec(Y, order="C")
    return REWARDS[name](Y, A @ y - t, B @ y)


@pytest.mark.parametrize("name", REWARDS)
def test_imported_rewards_against_cvxpy_in_full_dimension(name):
    weight, rows = 1.7, 1.5 * RNG.standard_normal((3, *SHAPE))
    values, points = [], []
    for row in rows:
        Y = cp.Variable(SHAPE)
        problem = cp.Problem(cp.Maximize(written(name, Y) - weight / 2 * cp.sum_squares(Y - row)))
        options = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
        values.append(problem.solve(solver=cp.CLARABEL, accept_unknown=True, **options))
        points.append(Y.value)
    composition = compose(from_cvxpy(written(name, cp.Variable(SHAPE, name="Y"))))
    assert composition.dimension <= D
    problem = reduce_transport(composition, weight, rows=3)
    bid = CvxpyProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED
    moved = TransportMap(composition, weight, CvxpyProxSolver().open(problem)).apply(rows)
    assert not moved.unfinished.any() and (moved.relative_gap <= 1e-6).all()
    scale = np.maximum(1.0, np.abs(values))
    np.testing.assert_allclose(moved.objective, values, rtol=2e-6, atol=2e-6)
    # cvxpy's value is known to about 1e-8 of its own scale.
    assert (np.array(values) <= moved.objective + moved.gap + 3e-8 * scale * D).all()
    distance = np.linalg.norm((moved.y - points).reshape(3, D), axis=1)
    assert (distance <= np.sqrt(2 * moved.gap / weight) + 2e-3).all()
