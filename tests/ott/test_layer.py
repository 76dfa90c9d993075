"""Transport maps that jax differentiates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.errors import NotDifferentiableError

RNG = np.random.default_rng(0)
D = 4
x = ak.Variable(D)
ROWS = RNG.normal(size=(2, D))
POINTS = RNG.normal(size=(3, D))
COTANGENT = RNG.normal(size=(3, D))
VALUES = (POINTS, np.array([0.31, -0.25]), 1.02 * ROWS, np.asarray(1.4))


def solved(reward, weight=1.5):
    problem = ak.Problem(reward, ak.base.Gaussian(np.zeros(D), 1.0), ak.Wasserstein(weight=weight))
    return problem.solve(seed=0, tolerance=1e-10)


@pytest.fixture(scope="module")
def layers():
    t, m = ak.Parameter(2, [0.3, -0.2], name="t"), ak.Parameter((2, D), ROWS, name="m")
    aligned = solved(-ak.norm1(m @ x - t) - 0.3 * ak.sum_squares(x - t[0]))
    return tuple(aligned.layer(engine, parameters=[t, m], weight=True) for engine in ("jax", "torch"))


@pytest.fixture(scope="module")
def expected(layers):
    tensors = [torch.tensor(value, requires_grad=True) for value in VALUES]
    (layers[1](*tensors) * torch.from_numpy(COTANGENT)).sum().backward()
    return [tensor.grad.numpy() for tensor in tensors]


def check(found, expected, unit):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, atol=unit, rtol=unit)


def test_gradients_are_torchs_and_those_of_central_differences(layers, expected):
    with jax.enable_x64(True):
        values = [jnp.asarray(value) for value in VALUES]
        found = jax.grad(lambda *given: (layers[0](*given) * COTANGENT).sum(), argnums=(0, 1, 2, 3))(*values)
        assert all(one.dtype == jnp.float64 for one in found)
        check(found, expected, 1e-12)
        for place, bar in enumerate(found):
            step = 1e-4 * np.random.default_rng(place).normal(size=VALUES[place].shape)
            ahead, behind = (
                float((layers[0](*values[:place], values[place] + sign * step, *values[place + 1 :]) * COTANGENT).sum())
                for sign in (1.0, -1.0)
            )
            slope = float((bar * step).sum())
            assert abs(slope - (ahead - behind) / 2) <= 1e-4 * max(1e-4, abs(slope))


def test_vector_products_compilation_and_batches_agree(layers, expected):
    moved, pull_back = jax.vjp(layers[0], *VALUES)
    assert moved.dtype == jnp.float32
    check(pull_back(jnp.asarray(COTANGENT)), expected, 2e-6)
    gradient = jax.grad(lambda *given: (layers[0](*given) * COTANGENT).sum(), argnums=(0, 1, 2, 3))
    check(jax.jit(gradient)(*VALUES), expected, 2e-6)
    by_row = jax.vmap(layers[0], in_axes=(0, None, None, None))(POINTS[:, None], *VALUES[1:])
    np.testing.assert_allclose(by_row[:, 0], moved, atol=1e-6)


def test_refusals():
    layer = solved(-ak.norm1(x), weight=2.0).layer("jax")
    rows = np.array([[0.5, 2.0, 2.0, 2.0], [0.4, 2.0, 2.0, 2.0], [3.0, 2.0, 2.0, 2.0]])
    gradient = jax.grad(lambda rows: layer(rows).sum())
    with pytest.raises(NotDifferentiableError, match=r"row 0: norm1\(x\) is at a kink"):
        gradient(rows)
    with pytest.raises(jax.errors.JaxRuntimeError, match="is at a kink"):
        jax.jit(gradient)(rows)
    found = jax.grad(lambda rows: layer(rows)[1:].sum())(rows)
    assert (jax.grad(lambda rows: layer(rows).sum())(100.7 * jnp.ones((3, D), jnp.bfloat16)) == 1.0).all()
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]], atol=1e-6)
