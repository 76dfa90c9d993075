"""Values of every atom against numpy, scipy and cvxpy, and the same in torch and jax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import special

import alignkit.expressions as ex

SHAPE = (2, 3)
FORM = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])
LEFT = np.arange(6.0).reshape(3, 2)
X = np.random.default_rng(0).normal(size=(5, *SHAPE)) * 2.0

#: name: (alignkit, numpy on one point, cvxpy or None)
ATOMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]] = {
    "abs": (ex.abs, np.abs, cp.abs),
    "square": (ex.square, np.square, cp.square),
    "power": (lambda x: x**2, np.square, cp.square),
    "huber": (ex.huber, lambda x: 2.0 * special.huber(1.0, x), cp.huber),
    "huber M": (lambda x: ex.huber(x, 0.3), lambda x: 2.0 * special.huber(0.3, x), lambda x: cp.huber(x, 0.3)),
    "pos": (ex.pos, lambda x: np.maximum(x, 0), cp.pos),
    "sum_squares": (ex.sum_squares, lambda x: (x**2).sum(), cp.sum_squares),
    "sum_squares axis": (lambda x: ex.sum_squares(x, axis=1), lambda x: (x**2).sum(axis=1), None),
    "quad_form": (lambda x: ex.quad_form(x[0], FORM), lambda x: x[0] @ FORM @ x[0], lambda x: cp.quad_form(x[0], FORM)),
    "quad_form concave": (
        lambda x: ex.quad_form(x[0], -FORM),
        lambda x: -x[0] @ FORM @ x[0],
        lambda x: cp.quad_form(x[0], -FORM),
    ),
    "norm1": (ex.norm1, lambda x: np.abs(x).sum(), cp.norm1),
    "norm1 axis": (lambda x: ex.norm1(x, axis=0), lambda x: np.abs(x).sum(axis=0), lambda x: cp.norm1(x, axis=0)),
    "norm2": (ex.norm2, lambda x: np.sqrt((x**2).sum()), lambda x: cp.norm2(cp.vec(x, order="C"))),
    "norm2 axis": (
        lambda x: ex.norm2(x, axis=-1),
        lambda x: np.linalg.norm(x, axis=-1),
        lambda x: cp.norm2(x, axis=1),
    ),
    "norm_inf": (ex.norm_inf, lambda x: np.abs(x).max(), cp.norm_inf),
    "norm_inf axis": (lambda x: ex.norm_inf(x, 1), lambda x: np.abs(x).max(axis=1), lambda x: cp.norm_inf(x, axis=1)),
    "max": (ex.max, np.max, cp.max),
    "max axis": (lambda x: ex.max(x, axis=0), lambda x: x.max(axis=0), lambda x: cp.max(x, axis=0)),
    "max axes": (lambda x: ex.max(x, axis=(0, 1)), np.max, cp.max),
    "min": (ex.min, np.min, cp.min),
    "min axis": (lambda x: ex.min(x, axis=1), lambda x: x.min(axis=1), lambda x: cp.min(x, axis=1)),
    "maximum": (
        lambda x: ex.maximum(x, 0.1, -x),
        lambda x: np.maximum(np.abs(x), 0.1),
        lambda x: cp.maximum(x, 0.1, -x),
    ),
    "minimum": (lambda x: ex.minimum(x, 1.0), lambda x: np.minimum(x, 1.0), lambda x: cp.minimum(x, 1.0)),
    "maximum broadcasts": (lambda x: ex.maximum(x, x[0]), lambda x: np.maximum(x, x[0]), None),
    "log_sum_exp": (ex.log_sum_exp, special.logsumexp, cp.log_sum_exp),
    "log_sum_exp axis": (
        lambda x: ex.log_sum_exp(x, axis=1),
        lambda x: special.logsumexp(x, axis=1),
        lambda x: cp.log_sum_exp(x, axis=1),
    ),
    "nested": (
        lambda x: ex.square(ex.norm2(x) + 1.0),
        lambda x: (np.sqrt((x**2).sum()) + 1) ** 2,
        lambda x: cp.square(cp.norm2(cp.vec(x, order="C")) + 1.0),
    ),
}


@pytest.fixture(autouse=True)
def _jax_in_float64() -> Iterator[None]:
    """For these tests alone: others hold what jax does as it comes."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ATOMS)
def test_values_are_numpys_and_cvxpys(name: str) -> None:
    build, truth, reference = ATOMS[name]
    expression = build(ex.Variable(SHAPE))
    found = expression.value(X)
    assert found.shape == (len(X), *expression.shape)
    np.testing.assert_allclose(found, np.stack([np.asarray(truth(x)) for x in X]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(expression.value(X[0]), found[0], rtol=1e-12)
    if reference is not None:
        variable = cp.Variable(SHAPE)
        other = reference(variable)
        variable.value = X[0]
        np.testing.assert_allclose(np.asarray(found[0]).ravel(), np.asarray(other.value).ravel(), rtol=1e-9)


@pytest.mark.parametrize("name", ATOMS)
def test_curvature_and_sign_are_cvxpys(name: str) -> None:
    build, _, reference = ATOMS[name]
    if reference is None:
        return
    expression, other = build(ex.Variable(SHAPE)), reference(cp.Variable(SHAPE))
    assert expression.is_convex() == other.is_convex()
    assert expression.is_concave() == other.is_concave()
    assert (expression.sign in (ex.Sign.NONNEGATIVE, ex.Sign.ZERO)) == other.is_nonneg()


@pytest.mark.parametrize("name", ATOMS)
def test_torch_and_jax_agree_with_numpy(name: str) -> None:
    expression = ATOMS[name][0](ex.Variable(SHAPE))
    truth = expression.value(X)
    tensor = torch.tensor(X, requires_grad=True)
    value = expression.value(tensor)
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.detach().numpy(), truth, rtol=1e-12)
    value.sum().backward()
    gradient = jax.grad(lambda x: expression.value(x).sum())(jnp.asarray(X))
    np.testing.assert_allclose(tensor.grad.numpy(), np.asarray(gradient), rtol=1e-9, atol=1e-12)
    # Finite differences, away from kinks.
    direction = np.random.default_rng(1).normal(size=X.shape)
    step = 1e-6
    slope = (expression.value(X + step * direction).sum() - expression.value(X - step * direction).sum()) / (2 * step)
    np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("name", ATOMS)
def test_dtypes_are_kept_and_kinks_have_finite_gradients(name: str) -> None:
    expression = ATOMS[name][0](ex.Variable(SHAPE))
    assert expression.value(X.astype(np.float32)).dtype == np.float32
    assert expression.value(torch.tensor(X, dtype=torch.float32)).dtype == torch.float32
    assert expression.value(jnp.asarray(X, dtype=jnp.float32)).dtype == jnp.float32
    assert expression.value(np.ones(SHAPE, dtype=int)).dtype == np.float64
    origin = torch.zeros(SHAPE, requires_grad=True)
    expression.value(origin).sum().backward()
    assert torch.isfinite(origin.grad).all()


@pytest.mark.parametrize("name", ATOMS)
def test_constants_follow_the_point_to_its_device(name: str) -> None:
    # The meta device computes no numbers, but refuses operands of another device.
    expression = ATOMS[name][0](ex.Variable(SHAPE) * np.ones(3) + 1.0)
    value = expression.value(torch.zeros((4, *SHAPE), device="meta", dtype=torch.bfloat16))
    assert (value.device.type, value.dtype, value.shape) == ("meta", torch.bfloat16, (4, *expression.shape))


def test_expressions_can_be_traced_by_jax() -> None:
    x = ex.Variable(SHAPE)
    expression = ex.norm2(LEFT @ x) + ex.log_sum_exp(x[::-1]) + ex.max(ex.abs(x - 1.0))
    traced = jax.jit(expression.value)(jnp.asarray(X))
    np.testing.assert_allclose(np.asarray(traced), expression.value(X), rtol=1e-12)


def test_large_values_do_not_overflow() -> None:
    x = ex.Variable(2)
    big = np.array([1e200, -1e200])
    assert ex.norm2(x).value(big) == pytest.approx(np.sqrt(2.0) * 1e200)
    assert ex.log_sum_exp(x).value(big) == pytest.approx(1e200)
    assert np.isfinite(ex.huber(x).value(big)).all()
    assert ex.norm2(x).value(np.full(2, 1e-200)) == pytest.approx(np.sqrt(2.0) * 1e-200)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_batches_are_told_from_points_by_their_axes(shape: tuple[int, ...]) -> None:
    x = ex.Variable(shape)
    expression = ex.square(x) + 1.0
    assert expression.value(np.zeros(shape)).shape == shape
    assert expression.value(np.zeros((4, *shape))).shape == (4, *shape)


def test_constants_of_torch_jax_and_lists_mix_with_operators() -> None:
    x = ex.Variable(3)
    for weights in (np.ones(3), torch.ones(3), jnp.ones(3)):
        for expression in (weights * x, x * weights, weights + x, weights - x, x / weights, weights @ x):
            assert isinstance(expression, ex.Expression)
            assert np.isfinite(expression.value(np.ones(3))).all()
    assert (x * [1.0, 2.0, 3.0]).value(np.ones(3)).tolist() == [1.0, 2.0, 3.0]


def test_constants_are_copied_when_the_expression_is_built() -> None:
    weights = np.ones(3)
    expression = weights @ ex.Variable(3)
    weights[:] = 0.0
    assert expression.value(np.ones(3)) == 3.0


def test_deep_sums_do_not_exhaust_the_stack() -> None:
    x = ex.Variable(2)
    expression = ex.abs(x)
    for _ in range(1500):
        expression = ex.maximum(expression, 0.0) * 1.0
    assert len(str(expression)) < 10_000
    assert expression.is_convex()
    assert expression.lipschitz >= 1.0
    assert expression.value(np.ones(2)).tolist() == [1.0, 1.0]
