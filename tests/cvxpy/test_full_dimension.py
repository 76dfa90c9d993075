"""The whole path, compose → reduce → solve → embed, against cvxpy in full dimension, written out by hand."""

import cvxpy as cp
import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import Bid, Refusal
from alignkit.transport.reduction import TransportMap, reduce_transport
from alignkit_cvxpy.prox import CvxpyProxSolver
from alignkit_torch.prox import TorchProxSolver

RNG = np.random.default_rng(0)
SHAPE, D = (6, 8), 48
A, B, t = RNG.standard_normal((4, D)), RNG.standard_normal((4, D)), RNG.standard_normal(4)
ORTHOGONAL = np.linalg.qr(A.T)[0].T * np.array([[1.0], [2.0], [0.5], [3.0]])
G = RNG.standard_normal(D)
x = ak.Variable(SHAPE)
a, b, o = A @ ak.vec(x) - t, B @ ak.vec(x), ORTHOGONAL @ ak.vec(x) - t
linear = ak.inner(G, ak.vec(x)) + 0.7

#: alignkit's reward and cvxpy's, k, and the backends that must take it.
REWARDS = {
    "norm1": (-ak.norm1(a), lambda y: -cp.norm1(A @ y - t), 4, "c"),
    "norm1 + linear": (-ak.norm1(a) + linear, lambda y: -cp.norm1(A @ y - t) + G @ y + 0.7, 4, "c"),
    "norm1, orthogonal rows": (-ak.norm1(o) + linear, lambda y: -cp.norm1(ORTHOGONAL @ y - t) + G @ y + 0.7, 4, "tc"),
    "log_sum_exp": (-2 * ak.log_sum_exp(a), lambda y: -2 * cp.log_sum_exp(A @ y - t), 3, "c"),
    "huber": (-ak.sum(ak.huber(a, M=0.5)) + linear, lambda y: -cp.sum(cp.huber(A @ y - t, 0.5)) + G @ y + 0.7, 4, "c"),
    "quadratic": (-ak.sum_squares(a) + linear, lambda y: -cp.sum_squares(A @ y - t) + G @ y + 0.7, 4, "tc"),
    "quadratic + norm1": (
        -0.1 * ak.sum_squares(a) - ak.norm1(b),
        lambda y: -0.1 * cp.sum_squares(A @ y - t) - cp.norm1(B @ y),
        8,
        "c",
    ),
    "min of affine": (ak.min(a) + linear, lambda y: cp.min(A @ y - t) + G @ y + 0.7, 3, "c"),
    "minimum": (ak.sum(ak.minimum(a, b)), lambda y: cp.sum(cp.minimum(A @ y - t, B @ y)), 4, "c"),
    "norm2": (-5 * ak.norm2(a), lambda y: -5 * cp.norm2(A @ y - t), 4, "c"),
    "norm_inf": (-5 * ak.norm_inf(a) + linear, lambda y: -5 * cp.norm_inf(A @ y - t) + G @ y + 0.7, 4, "c"),
    "nested": (
        -ak.sum(ak.square(ak.pos(a))) - ak.max(b),
        lambda y: -cp.sum(cp.square(cp.pos(A @ y - t))) - cp.max(B @ y),
        7,
        "c",
    ),
    "nested norm": (
        -ak.norm2(ak.pos(a) + ak.abs(b)),
        lambda y: -cp.norm2(cp.pos(A @ y - t) + cp.abs(B @ y)),
        8,
        "c",
    ),
    "every pixel": (-ak.norm1(x - 1.0), lambda y: -cp.norm1(y - 1.0), 48, "tc"),
    "every pixel and a norm": (-ak.norm1(x) - ak.norm2(a), lambda y: -cp.norm1(y) - cp.norm2(A @ y - t), 48, "c"),
}
SOLVERS = {"t": TorchProxSolver, "c": CvxpyProxSolver}


def in_full_dimension(reward, weight, rows):
    """Optimal values and points of max r(y) − (λ/2)‖y − x‖², row by row."""
    values, points = [], []
    for row in rows:
        y = cp.Variable(D)
        problem = cp.Problem(cp.Maximize(reward(y) - weight / 2 * cp.sum_squares(y - row)))
        values.append(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11))
        points.append(y.value)
    return np.array(values), np.array(points)


@pytest.mark.parametrize("name", REWARDS)
def test_agrees_with_the_program_in_full_dimension(name):
    reward, by_hand, dimension, backends = REWARDS[name]
    weight = 1.7
    rows = RNG.standard_normal((5, *SHAPE))
    values, points = in_full_dimension(by_hand, weight, rows.reshape(5, D))
    composition = compose(reward)
    assert composition.dimension == dimension
    problem = reduce_transport(composition, weight, rows=5)
    for letter, solver in SOLVERS.items():
        bid = solver().bid(problem)
        assert isinstance(bid, Bid) or letter not in backends, (letter, bid)
        if isinstance(bid, Refusal):
            continue
        moved = TransportMap(composition, weight, solver().open(problem)).apply(rows)
        assert not moved.unfinished.any() and (moved.relative_gap <= 1e-6).all()
        np.testing.assert_allclose(moved.objective, values, rtol=3e-7, atol=3e-7)
        # The bound is a bound: the truth, known to 1e-8, is not above it.
        assert (values <= moved.objective + moved.gap + 1e-7 * np.maximum(1.0, np.abs(values))).all()
        distance = np.linalg.norm(moved.y.reshape(5, D) - points, axis=1)
        assert (distance <= np.sqrt(2 * moved.gap / weight) + 2e-3).all()


def random_reward(generator, w, k):
    """A separable concave reward that both backends take."""
    scales, centres = generator.uniform(0.2, 3.0, k), generator.standard_normal(k)
    pieces = [
        -ak.inner(scales, ak.abs(w - centres)),
        -generator.uniform(0.5, 2.0)
        * ak.sum(ak.huber(ak.multiply(scales, w) + centres, M=generator.uniform(0.2, 2.0))),
        -ak.sum(ak.pos(ak.multiply(centres, w) - scales)),
        ak.sum(ak.minimum(w, centres, -ak.multiply(scales, w))),
        -ak.sum_squares(ak.multiply(scales, w) - centres),
        ak.inner(centres, w),
        0.05 * ak.sum_squares(w),
    ]
    chosen = generator.choice(len(pieces), size=generator.integers(1, 5), replace=False)
    total = -ak.norm1(w)
    for place in chosen:
        total = total + pieces[place]
    return total


def random_quadratic(generator, w, k):
    matrix = generator.standard_normal((k, k))
    return -0.5 * ak.quad_form(w, matrix @ matrix.T) + ak.inner(generator.standard_normal(k), w) + 0.1 * ak.square(w[0])


@pytest.mark.parametrize("seed", range(60))
def test_torch_and_cvxpy_agree_within_their_certificates(seed):
    generator = np.random.default_rng(seed)
    k = int(generator.integers(1, 7))
    w = ak.Variable(k)
    f = (random_quadratic if seed % 3 == 0 else random_reward)(generator, w, k)
    weight = float(10.0 ** generator.uniform(-0.5, 1.0))
    points = 3.0 * generator.standard_normal((4, k))
    problem = reduce_transport(compose(f), weight, rows=4)
    if problem.dimension < k:  # composed onto a subspace: take the reward as it is
        problem = type(problem)(f, weight, k, 4)
    exact, certified = (solver().open(problem).solve(points) for solver in (TorchProxSolver, CvxpyProxSolver))
    best = [
        problem.nonlinear.value(found.maximiser) - weight / 2 * np.sum((found.maximiser - points) ** 2, axis=1)
        for found in (exact, certified)
    ]
    scale = np.maximum(1.0, np.abs(best[0]))
    assert (certified.gap <= 1e-6 * scale).all()
    assert (best[1] <= best[0] + exact.gap + 1e-12 * scale).all()
    assert (best[0] <= best[1] + certified.gap + 1e-12 * scale).all()
    strength = weight - max(0.0, 0.1 + 0.2 * (seed % 3 == 0))
    distance = np.linalg.norm(exact.maximiser - certified.maximiser, axis=1)
    assert (distance <= np.sqrt(2 * certified.gap / strength) + 1e-6).all()
