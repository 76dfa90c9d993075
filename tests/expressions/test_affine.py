"""Affine functions: values against numpy in three libraries, affine maps against values, sparse and operators."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import alignkit.expressions as ex
from alignkit.errors import CurvatureError, ParameterError

SHAPE = (4, 3)
GENERATOR = np.random.default_rng(0)
LEFT, RIGHT = GENERATOR.normal(size=(2, 4)), GENERATOR.normal(size=(3, 2))
WHOLE = GENERATOR.normal(size=(5, 12))
THIN = sparse.random(5, 12, density=0.2, random_state=1, format="csr")
MASK = GENERATOR.normal(size=SHAPE) > 0
X = GENERATOR.normal(size=(6, *SHAPE))
BLOCK = GENERATOR.normal(size=(2, 4, 3))

#: name: (alignkit, numpy on one point)
MAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "variable": (lambda x: x, lambda x: x),
    "plus": (lambda x: x + 1.0 + x, lambda x: 2 * x + 1),
    "minus": (lambda x: 3.0 - x - x[0], lambda x: 3 - x - x[0]),
    "cancelled": (lambda x: x - x, lambda x: 0 * x),
    "times": (lambda x: x * BLOCK[0], lambda x: x * BLOCK[0]),
    "over": (lambda x: x / 4.0, lambda x: x / 4),
    "outer": (lambda x: x[:, :1] * np.arange(3.0), lambda x: x[:, :1] * np.arange(3)),
    "left product": (lambda x: LEFT @ x, lambda x: LEFT @ x),
    "right product": (lambda x: x @ RIGHT, lambda x: x @ RIGHT),
    "both products": (lambda x: LEFT @ x @ RIGHT, lambda x: LEFT @ x @ RIGHT),
    "vector left": (lambda x: LEFT[0] @ x, lambda x: LEFT[0] @ x),
    "vector right": (lambda x: x @ RIGHT[:, 0], lambda x: x @ RIGHT[:, 0]),
    "whole": (lambda x: WHOLE @ ex.vec(x), lambda x: WHOLE @ x.ravel()),
    "sparse": (lambda x: THIN @ ex.vec(x) - 1.0, lambda x: THIN @ x.ravel() - 1),
    "sparse left": (lambda x: sparse.csr_array(LEFT) @ x, lambda x: LEFT @ x),
    "sparse right": (lambda x: x @ sparse.coo_array(RIGHT), lambda x: x @ RIGHT),
    "sparse coo matrix": (lambda x: sparse.coo_matrix(LEFT) @ x, lambda x: LEFT @ x),
    "index": (lambda x: x[1, 2], lambda x: x[1, 2]),
    "slices": (lambda x: x[1:, ::2], lambda x: x[1:, ::2]),
    "negative step": (lambda x: x[::-1, 1], lambda x: x[::-1, 1]),
    "ellipsis": (lambda x: x[..., None, 0], lambda x: x[..., None, 0]),
    "integer array": (lambda x: x[[0, 0, 3]], lambda x: x[[0, 0, 3]]),
    "mask": (lambda x: x[MASK], lambda x: x[MASK]),
    "pairs": (lambda x: x[[0, 1], [2, 2]], lambda x: x[[0, 1], [2, 2]]),
    "transpose": (lambda x: x.T, lambda x: x.T),
    "sum": (ex.sum, np.sum),
    "sum axis": (lambda x: ex.sum(x, axis=0), lambda x: x.sum(axis=0)),
    "sum axes": (lambda x: ex.sum(x, axis=(0, 1)), np.sum),
    "mean": (ex.mean, np.mean),
    "mean axis": (lambda x: ex.mean(x, axis=-1), lambda x: x.mean(axis=-1)),
    "vec": (ex.vec, np.ravel),
    "reshape": (lambda x: ex.reshape(x, (2, -1)), lambda x: x.reshape(2, -1)),
    "multiply": (lambda x: ex.multiply(x, BLOCK[1]), lambda x: x * BLOCK[1]),
    "inner": (lambda x: ex.inner(BLOCK[0], x), lambda x: (BLOCK[0] * x).sum()),
    "concatenate": (lambda x: ex.concatenate([x, LEFT[:1].T @ np.ones((1, 3)), -x]), None),
    "concatenate axis": (lambda x: ex.concatenate([x, 2 * x], axis=1), lambda x: np.concatenate([x, 2 * x], axis=1)),
    "stack": (lambda x: ex.stack([x[0], -x[1], np.ones(3)]), lambda x: np.stack([x[0], -x[1], np.ones(3)])),
    "stack axis": (lambda x: ex.stack([x, 2 * x], axis=-1), lambda x: np.stack([x, 2 * x], axis=-1)),
    "stack scalars": (lambda x: ex.stack([x[0, 0], 1.0]), lambda x: np.array([x[0, 0], 1.0])),
    "diff": (ex.diff, lambda x: np.diff(x, axis=0)),
    "diff twice": (lambda x: ex.diff(x, k=2, axis=1), lambda x: np.diff(x, n=2, axis=1)),
    "cumsum": (ex.cumsum, lambda x: np.cumsum(x, axis=0)),
    "cumsum axis": (lambda x: ex.cumsum(x, axis=1), lambda x: np.cumsum(x, axis=1)),
    "trace": (lambda x: ex.trace(x[:3]), lambda x: np.trace(x[:3])),
    "linear_map dense": (lambda x: ex.linear_map(WHOLE, x), lambda x: WHOLE @ x.ravel()),
    "linear_map sparse": (lambda x: ex.linear_map(THIN, x), lambda x: THIN @ x.ravel()),
    "linear_map operator": (lambda x: ex.linear_map(aslinearoperator(WHOLE), x), lambda x: WHOLE @ x.ravel()),
    "linear_map functions": (
        lambda x: 2.0 * ex.linear_map((lambda v: v.reshape(SHAPE)[:2], lambda u: np.pad(u, (0, 6)), (2, 3)), x),
        lambda x: 2 * x[:2],
    ),
    "sum after operator": (
        lambda x: ex.sum(ex.linear_map(aslinearoperator(WHOLE), 2 * x)) - 1,
        lambda x: (2 * WHOLE @ x.ravel()).sum() - 1,
    ),
}
MAPS["concatenate"] = (
    MAPS["concatenate"][0],
    lambda x: np.concatenate([x, LEFT[:1].T @ np.ones((1, 3)), -x]),
)


@pytest.fixture(autouse=True)
def _jax_in_float64() -> Iterator[None]:
    """For these tests alone: others hold what jax does as it comes."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", MAPS)
def test_values_are_numpys_in_three_libraries(name: str) -> None:
    build, truth = MAPS[name]
    expression = build(ex.Variable(SHAPE))
    assert expression.is_affine()
    expected = np.stack([np.asarray(truth(x)) for x in X])
    assert expression.shape == expected.shape[1:]
    np.testing.assert_allclose(expression.value(X), expected, atol=1e-12)
    np.testing.assert_allclose(expression.value(X[0]), expected[0], atol=1e-12)
    tensor = torch.tensor(X, requires_grad=True)
    value = expression.value(tensor)
    np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(np.asarray(expression.value(jnp.asarray(X))), expected, atol=1e-12)
    if value.requires_grad:
        dual = np.random.default_rng(1).normal(size=expected.shape)
        (value * torch.tensor(dual)).sum().backward()
        matrix = dense(ex.affine_map(expression).matrix)
        np.testing.assert_allclose(
            tensor.grad.numpy().reshape(len(X), -1), dual.reshape(len(X), -1) @ matrix, atol=1e-12
        )


@pytest.mark.parametrize("name", MAPS)
def test_constants_follow_the_point_to_its_device(name: str) -> None:
    expression = MAPS[name][0](ex.Variable(SHAPE))
    if "linear_map([" in str(expression) and "operator" in str(expression):
        return  # these run on the host
    value = expression.value(torch.zeros((2, *SHAPE), device="meta", dtype=torch.float32))
    assert (value.device.type, value.dtype, value.shape) == ("meta", torch.float32, (2, *expression.shape))


def test_sparse_maps_can_be_traced_by_jax() -> None:
    wide = sparse.random(5, 1200, density=0.02, random_state=1, format="csr")
    expression = ex.norm1(wide @ ex.Variable(1200)[::-1])
    point = GENERATOR.normal(size=(3, 1200))
    np.testing.assert_allclose(np.asarray(jax.jit(expression.value)(jnp.asarray(point))), expression.value(point))


def dense(matrix: Any) -> np.ndarray:
    if isinstance(matrix, LinearOperator):
        return matrix @ np.eye(matrix.shape[1])
    return matrix.toarray() if sparse.issparse(matrix) else matrix


@pytest.mark.parametrize("name", MAPS)
def test_affine_maps_reproduce_the_values(name: str) -> None:
    build, truth = MAPS[name]
    expression = build(ex.Variable(SHAPE))
    found = ex.affine_map(expression)
    assert found.matrix.shape == (expression.size, 12)
    assert found.offset.shape == (expression.size,)
    expected = np.stack([np.asarray(truth(x)).ravel() for x in X])
    np.testing.assert_allclose(X.reshape(len(X), -1) @ dense(found.matrix).T + found.offset, expected, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_factors_are_the_derivative_in_each_argument(name: str) -> None:
    expression = MAPS[name][0](ex.Variable(SHAPE))
    if not isinstance(expression, ex.AffineAtom):
        return
    factors = expression._factors()
    assert len(factors) == len(expression.args)
    flats = [np.random.default_rng(i).normal(size=(1, *arg.shape)) for i, arg in enumerate(expression.args)]
    base = expression._numeric(np, [np.zeros_like(flat) for flat in flats]).reshape(-1)
    total = expression._numeric(np, flats).reshape(-1)
    parts = [flat.ravel() if f is None else f @ flat.ravel() for f, flat in zip(factors, flats, strict=True)]
    np.testing.assert_allclose(total - base, sum(parts), atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_lipschitz_constants_are_spectral_norms(name: str) -> None:
    expression = MAPS[name][0](ex.Variable(SHAPE))
    norm = np.linalg.norm(dense(ex.affine_map(expression).matrix), 2)
    assert expression.lipschitz == pytest.approx(norm, rel=1e-9, abs=1e-12)


def test_sparse_stays_sparse_and_operators_stay_operators() -> None:
    x = ex.Variable(1000)
    thin = sparse.random(5, 1000, density=0.01, random_state=0, format="csr")
    weights = np.arange(25.0).reshape(5, 5)
    assert sparse.issparse(ex.affine_map(thin @ x).matrix)
    assert sparse.issparse(ex.affine_map(weights @ (thin @ (2.0 * x)) + 1.0).matrix)
    assert sparse.issparse(ex.affine_map(x - 1.0).matrix)
    assert sparse.issparse(ex.affine_map(ex.diff(x)).matrix)
    operator = aslinearoperator(thin)
    assert isinstance(ex.affine_map(weights @ ex.linear_map(operator, x)).matrix, LinearOperator)


def test_three_dense_rows_of_a_large_image_cost_no_copy() -> None:
    x = ex.Variable((3, 1024, 1024))
    matrix = np.ones((3, x.size))
    shared = matrix @ ex.vec(x) - np.ones(3)
    scaled = 2.0 * (matrix @ ex.vec(x))
    ex.affine_map(shared)
    tracemalloc.start()
    start = time.perf_counter()
    assert ex.affine_map(shared).matrix.shape == (3, x.size)
    assert tracemalloc.get_traced_memory()[1] < 0.1 * matrix.nbytes
    ex.affine_map(scaled)
    assert time.perf_counter() - start < 5.0
    assert tracemalloc.get_traced_memory()[1] < 1.5 * matrix.nbytes
    tracemalloc.stop()


def test_long_running_sums_never_form_their_triangle() -> None:
    x = ex.Variable(200_000)
    found = ex.affine_map(ex.cumsum(x)[-1] / 2.0)
    point = np.ones(x.size)
    np.testing.assert_allclose(found.matrix @ point, [100_000.0])
    assert ex.cumsum(x).lipschitz >= x.size / 2


def test_affine_map_refuses_what_is_not_affine() -> None:
    x = ex.Variable(2)
    with pytest.raises(CurvatureError, match="abs"):
        ex.affine_map(ex.abs(x) + x)
    with pytest.raises(ParameterError, match="variable"):
        ex.affine_map(x + ex.Variable(2, name="y"))


def test_sparse_gathers_follow_uneven_rows() -> None:
    rows = sparse.lil_array((4, 5000))
    rows[0, ::7] = 1.5
    rows[1, 3] = 2.0
    rows[3, :2] = 1.0
    expression = rows.tocsr() @ ex.Variable(5000)
    point = GENERATOR.normal(size=(2, 5000))
    np.testing.assert_allclose(expression.value(torch.tensor(point)).numpy(), (rows @ point.T).T, atol=1e-12)
