"""Random expressions: claimed curvature, Lipschitz constants, ranges and compositions hold at random points."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

import alignkit.expressions as ex
from alignkit.compiler.composition import compose

SHAPE = (2, 3)
common = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def constant(seed: int, *shape: int, sign: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-3, 4, size=shape) / 2.0
    return values if sign == 0 else sign * np.abs(values)


seeds = st.integers(0, 10_000)
signs = st.sampled_from([-1, 0, 1])


@st.composite
def vectors(draw: st.DrawFn, x: ex.Variable, depth: int) -> ex.Expression:
    """Expressions of shape (3,)."""
    if depth == 0:
        matrix = constant(draw(seeds), 3, 6)
        return draw(st.sampled_from([x[0], x[:, 1:].T[0:1, :].T[:, 0][[0, 1, 1]], matrix @ ex.vec(x) - constant(7, 3)]))
    inner = draw(vectors(x, depth - 1))
    other = draw(vectors(x, draw(st.integers(0, depth - 1))))
    scalar = draw(scalars(x, depth - 1))
    weight = constant(draw(seeds), 3, sign=draw(signs))
    matrix = constant(draw(seeds), 3, 3, sign=draw(signs))
    build = draw(
        st.sampled_from(
            [
                lambda: ex.abs(inner),
                lambda: ex.square(inner),
                lambda: ex.huber(inner, 1.5),
                lambda: ex.pos(inner),
                lambda: -inner,
                lambda: inner + other,
                lambda: inner - other,
                lambda: inner * weight,
                lambda: inner / (np.abs(weight) + 0.5),
                lambda: matrix @ inner,
                lambda: inner @ matrix,
                lambda: inner + scalar,
                lambda: ex.cumsum(inner),
                lambda: ex.concatenate([ex.diff(inner), ex.reshape(scalar, 1)]),
                lambda: ex.stack([scalar, inner[0], other[2]]),
                lambda: ex.maximum(inner, other, 0.5),
                lambda: ex.minimum(inner, scalar),
                lambda: ex.linear_map(matrix, inner),
                lambda: ex.max(ex.stack([inner, other]), axis=0),
                lambda: ex.norm2(ex.stack([inner, other]), axis=0),
                lambda: ex.minimum(ex.maximum(inner, -1.0), 1.0),
            ]
        )
    )
    return build()


@st.composite
def scalars(draw: st.DrawFn, x: ex.Variable, depth: int) -> ex.Expression:
    """Expressions of shape ()."""
    inner = draw(vectors(x, max(depth - 1, 0)))
    root = constant(draw(seeds), 2, 3)
    sign = draw(signs)
    form = root.T @ root * sign if sign else (root[:, :1] @ root[:1]).T @ np.eye(2)[:, :1] @ np.ones((1, 3))
    form = (form + form.T) / 2
    names = ["sum", "mean", "max", "min", "norm1", "norm2", "norm_inf", "log_sum_exp", "sum_squares"]
    build = draw(
        st.sampled_from(
            [lambda name=name: getattr(ex, name)(inner) for name in names]
            + [
                lambda: ex.quad_form(inner, form),
                lambda: ex.inner(root[0], inner),
                lambda: ex.trace(ex.stack([inner, inner * 2.0, -inner])),
            ]
        )
    )
    return build()


@st.composite
def expressions(draw: st.DrawFn) -> tuple[ex.Variable, ex.Expression]:
    x = ex.Variable(SHAPE)
    depth = draw(st.integers(0, 4))
    found = draw(scalars(x, depth) if draw(st.booleans()) else vectors(x, depth))
    return x, found


def points(seed: int, rows: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, *SHAPE)) * 10.0 ** generator.uniform(-2, 1, size=(rows, 1, 1))


def slack(*values: np.ndarray) -> float:
    return 1e-9 * (1.0 + max(float(np.abs(value).max()) for value in values))


@common
@given(expressions(), seeds)
def test_claims_hold_at_random_points(pair: tuple[ex.Variable, ex.Expression], seed: int) -> None:
    _, expression = pair
    rows = 16
    a, b = points(seed, rows), points(seed + 1, rows)
    b[rows // 2 :] = a[rows // 2 :] + 1e-2 * b[rows // 2 :]  # half of the pairs are close
    t = np.random.default_rng(seed).uniform(size=(rows, 1, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        at_a, at_b, between = (expression.value(point).reshape(rows, -1) for point in (a, b, t * a + (1 - t) * b))
    if not (np.isfinite(at_a).all() and np.isfinite(at_b).all()):
        return
    weight = t[:, :, 0]
    chord = weight * at_a + (1 - weight) * at_b
    allowed = slack(at_a, at_b)
    if expression.is_convex():
        assert (between <= chord + allowed).all(), str(expression)
    if expression.is_concave():
        assert (between >= chord - allowed).all(), str(expression)
    if math.isfinite(expression.lipschitz):
        moved = np.linalg.norm(at_a - at_b, axis=1)
        distance = np.linalg.norm((a - b).reshape(rows, -1), axis=1)
        assert (moved <= expression.lipschitz * distance * (1 + 1e-9) + allowed).all(), str(expression)
    bounds = expression.range
    for values in (at_a, at_b, between):
        assert (values >= bounds.lower - slack(values)).all(), str(expression)
        assert (values <= bounds.upper + slack(values)).all(), str(expression)


@common
@given(expressions(), seeds)
def test_compositions_reproduce_the_reward(pair: tuple[ex.Variable, ex.Expression], seed: int) -> None:
    x, expression = pair
    reward = ex.inner(constant(seed, *expression.shape, sign=1) + 0.5, expression) + 0.25 * ex.mean(x)
    composition = compose(reward)
    x_rows = points(seed, 8)
    flat = x_rows.reshape(8, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        truth = reward.value(x_rows)
        found = flat @ composition.linear + composition.constant
        if composition.nonlinear is not None:
            found = found + composition.nonlinear.value(composition.subspace.project(flat))
            basis = composition.subspace.embed(np.eye(composition.dimension))
            np.testing.assert_allclose(basis @ basis.T, np.eye(composition.dimension), atol=1e-12)
            assert np.abs(composition.subspace.project(composition.linear)).max() <= 1e-12
            if reward.is_convex():
                assert composition.nonlinear.is_convex(), str(reward)
            if reward.is_concave():
                assert composition.nonlinear.is_concave(), str(reward)
    if np.isfinite(truth).all():
        assert np.abs(found - truth).max() <= slack(truth, flat), str(reward)
    assert composition.dimension <= min(6, composition.rows)
    assert not expression.is_affine() or composition.dimension == 0


@common
@given(expressions())
def test_an_affine_expression_equals_its_affine_map(pair: tuple[ex.Variable, ex.Expression]) -> None:
    _, expression = pair
    if not expression.is_affine():
        return
    found = ex.affine_map(expression)
    matrix = found.matrix.toarray() if hasattr(found.matrix, "toarray") else found.matrix
    x_rows = points(3, 5)
    expected = x_rows.reshape(5, -1) @ matrix.T + found.offset
    np.testing.assert_allclose(expression.value(x_rows).reshape(5, -1), expected, atol=1e-9)
    # Exact for a matrix this small.
    assert math.isclose(expression.lipschitz, np.linalg.norm(matrix, 2), rel_tol=1e-6, abs_tol=1e-7)
