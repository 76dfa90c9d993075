"""Subspaces and row spaces: orthonormality, rank decisions, three libraries, dense and implicit forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions import Subspace
from alignkit.expressions.rowspace import row_space

GENERATOR = np.random.default_rng(0)
BASIS = np.linalg.qr(GENERATOR.normal(size=(20, 3)))[0].T


def kinds() -> dict[str, Subspace]:
    mix = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, -1.0, 3.0]])
    rows, factor = np.linalg.solve(mix, BASIS), mix
    return {
        "dense": Subspace.dense(BASIS),
        "sparse": Subspace.implicit(sparse.csr_array(rows), factor),
        "operator": Subspace.implicit(aslinearoperator(rows), factor),
    }


@pytest.mark.parametrize("kind", ["dense", "sparse", "operator"])
def test_project_and_embed_are_q_and_its_transpose(kind: str) -> None:
    subspace = kinds()[kind]
    assert (subspace.dimension, subspace.ambient, subspace.is_identity) == (3, 20, False)
    assert subspace.is_implicit == (kind != "dense")
    x, u = GENERATOR.normal(size=(2, 5, 20)), GENERATOR.normal(size=(4, 3))
    np.testing.assert_allclose(subspace.project(x), x @ BASIS.T, atol=1e-12)
    np.testing.assert_allclose(subspace.embed(u), u @ BASIS, atol=1e-12)
    np.testing.assert_allclose(subspace.project(x[0, 0]), BASIS @ x[0, 0], atol=1e-12)
    tensor = torch.tensor(u, dtype=torch.float32, requires_grad=True)
    embedded = subspace.embed(tensor)
    assert embedded.dtype == torch.float32
    embedded.sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), np.tile(BASIS.sum(axis=1), (4, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.asarray(subspace.project(jnp.asarray(x))), x @ BASIS.T, atol=1e-5)
    vector = GENERATOR.normal(size=20)
    rest = vector - BASIS.T @ (BASIS @ vector)
    subspace.remove(vector)
    np.testing.assert_allclose(vector, rest, atol=1e-12)


def test_identity_and_empty() -> None:
    x = GENERATOR.normal(size=(4, 7))
    whole, nothing = Subspace.identity(7), Subspace.empty(7)
    assert whole.is_identity and whole.dimension == 7
    assert whole.project(x) is x
    assert nothing.dimension == 0 and not nothing.is_identity
    assert nothing.project(x).shape == (4, 0)
    assert not nothing.embed(np.zeros((4, 0))).any()
    assert tuple(nothing.embed(torch.zeros((2, 0))).shape) == (2, 7)
    with pytest.raises(ShapeError, match="7"):
        whole.project(np.zeros(3))
    with pytest.raises(ParameterError, match="dense"):
        Subspace.implicit(BASIS, np.eye(3))


def stack(kind: str, rows: np.ndarray) -> list[object]:
    half = len(rows) // 2
    return {
        "dense": [rows.copy()],
        "read-only": [_frozen(rows)],
        "dense pair": [rows[:half], rows[half:]],
        "sparse": [sparse.csr_array(rows)],
        "mixed": [rows[:half], sparse.csr_array(rows[half:])],
        "operator": [aslinearoperator(rows)],
        "operator and sparse": [aslinearoperator(rows[:half]), sparse.csr_array(rows[half:])],
    }[kind]


def _frozen(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


KINDS = ["dense", "read-only", "dense pair", "sparse", "mixed", "operator", "operator and sparse"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [30, 60_000])
@pytest.mark.parametrize("seed", range(4))  # rounding once made a dependent row of one of these an independent one
def test_row_spaces_reproduce_their_rows(kind: str, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = np.where(generator.uniform(size=(6, columns)) < 0.2, generator.normal(size=(6, columns)), 0.0)
    rows[3] = rows[0] - 2.0 * rows[1]
    rows[4] = 0.0
    rows[5] *= 1e6
    matrices = stack(kind, rows)
    space = row_space(matrices, [0.0] * len(matrices), columns, 1e-9)
    assert space.subspace.dimension == 4
    basis = space.subspace.embed(np.eye(4))
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-12)
    scale = np.linalg.norm(rows, axis=1, keepdims=True) + 1e-300
    assert (np.abs(space.coefficients @ basis - rows) <= 1e-9 * scale).all()
    assert not space.coefficients[4].any()
    if columns > 30:
        assert space.subspace.is_implicit == (kind not in ("dense", "read-only", "dense pair"))


@pytest.mark.parametrize("kind", ["dense", "sparse", "operator"])
def test_nearly_dependent_rows_stay_orthonormal(kind: str) -> None:
    rows = np.tile(GENERATOR.normal(size=50_000), (3, 1))
    rows[1] += 1e-5 * GENERATOR.normal(size=50_000)
    rows[2] += 1e-3 * GENERATOR.normal(size=50_000)
    space = row_space(stack(kind, rows), [0.0], 50_000, 1e-9)
    assert space.subspace.dimension == 3
    basis = space.subspace.embed(np.eye(3))
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(space.coefficients @ basis, rows, atol=1e-8)


def test_orthogonal_rows_keep_their_order_and_sign() -> None:
    rows = np.zeros((3, 10))
    rows[0, 4], rows[1, 2], rows[2, 7] = -1.0, 3.0, -2.0
    space = row_space([rows], [0.0], 10, 1e-9)
    assert np.count_nonzero(space.coefficients - np.diag(np.diagonal(space.coefficients))) == 0


def test_rounding_beside_its_scale_is_no_row() -> None:
    rows = GENERATOR.normal(size=(2, 10)) * 1e-15
    assert row_space([rows.copy()], [1.0], 10, 1e-9).subspace.dimension == 0
    assert row_space([rows.copy()], [0.0], 10, 1e-9).subspace.dimension == 2
    assert row_space([aslinearoperator(rows)], [1.0], 10, 1e-9).subspace.dimension == 0
