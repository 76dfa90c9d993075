"""r(x) = f(Qx) + ⟨g, x⟩ + c: exact, minimal in rank, orthonormal, and cheap for large images."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import alignkit.expressions as ex
from alignkit.compiler.composition import compose
from alignkit.contracts import Composition
from alignkit.errors import ParameterError, ShapeError

SHAPE = (8, 5)
GENERATOR = np.random.default_rng(0)
B, b = GENERATOR.normal(size=(3, 40)), GENERATOR.normal(size=3)
H = GENERATOR.normal(size=SHAPE)
THIN = sparse.random(4, 40, density=0.2, random_state=1, format="csr")
X = GENERATOR.normal(size=(20, *SHAPE))

#: name: (reward, intrinsic dimension)
REWARDS: dict[str, tuple[Callable[[ex.Variable], ex.Expression], int]] = {
    "affine": (lambda x: ex.inner(H, x) + 3.0, 0),
    "affine through sparse": (lambda x: ex.sum(THIN @ ex.vec(x)) - 1.0, 0),
    "one row": (lambda x: ex.square(ex.inner(H, x)), 1),
    "example of the design": (lambda x: ex.square(4 * ex.mean(x[:4, :])) + 2 * ex.mean(x), 1),
    "quadratic": (lambda x: ex.sum_squares(B @ ex.vec(x) - b), 3),
    "quadratic of low rank": (lambda x: ex.quad_form(ex.vec(x), B.T @ B), 3),
    "concave": (lambda x: -ex.norm1(B @ ex.vec(x) - b) + ex.mean(x), 3),
    "three pieces": (lambda x: ex.max(B @ ex.vec(x) + b), 2),
    "three pieces, min": (lambda x: ex.min(B @ ex.vec(x) + b), 2),
    "three pieces, smooth": (lambda x: 0.5 * ex.log_sum_exp(B @ ex.vec(x) + b) - 1.0, 2),
    "pieces by maximum": (lambda x: ex.maximum(x[0, 0], x[1, 1], x[2, 2] - x[0, 0]), 2),
    "pieces with a constant": (lambda x: ex.maximum(ex.inner(H, x), 0.0), 1),
    "pieces along an axis": (lambda x: ex.sum(ex.max(x[:3, :3], axis=1)), 6),
    "the largest two": (lambda x: ex.sum_largest(B @ ex.vec(x) + b, 2), 2),
    "the smallest two, weighted": (lambda x: 1.5 * ex.sum_smallest(B @ ex.vec(x), 2) + ex.mean(x), 2),
    "parallel pieces": (lambda x: ex.max(np.ones((3, 1)) @ (B[:1] @ ex.vec(x)) + b), 0),
    "equal pieces": (lambda x: ex.maximum(ex.sum(x), ex.sum(x)), 0),
    "sum inside": (lambda x: ex.sum(ex.abs(B @ ex.vec(x)) + 2 * (B @ ex.vec(x)) + 1.0), 3),
    "weighted sum": (lambda x: np.array([1.0, 2.0, 3.0]) @ ex.square(B @ ex.vec(x)), 3),
    "mean of atoms": (lambda x: ex.mean(ex.huber(x[0]) - x[1]), 5),
    "dependent rows": (lambda x: ex.norm2(np.vstack([B, B, B[:1] - B[1:2]]) @ ex.vec(x)), 3),
    "repeated rows": (lambda x: ex.norm1(B @ ex.vec(x)) + ex.norm2(-2.0 * (B @ ex.vec(x))[1:]) + ex.norm1(x[0, :2]), 5),
    "zero rows": (lambda x: ex.norm1(np.diag([1.0, 0.0, 1.0]) @ (B @ ex.vec(x)) - b), 2),
    "constant atoms": (lambda x: ex.abs(ex.inner(0 * H, x) + 2.0) + ex.mean(x), 0),
    "cancelled atoms": (lambda x: ex.abs(x[0, 0]) - ex.abs(x[0, 0] - x[1, 1] + x[1, 1]) + ex.mean(x), 1),
    "sparse": (lambda x: ex.log_sum_exp(THIN @ ex.vec(x)) + ex.norm1(THIN @ ex.vec(x) - 1.0), 4),
    "operator": (lambda x: ex.max(ex.linear_map(aslinearoperator(B), x)) + ex.mean(x), 2),
    "mixed kinds": (
        lambda x: ex.norm2(B[:1] @ ex.vec(x)) + ex.norm1(THIN[[0]] @ ex.vec(x)) + ex.norm1(x[0, :2]),
        4,
    ),
    "affine beside atoms": (lambda x: ex.norm2(ex.abs(B @ ex.vec(x)) + B @ ex.vec(x) - b), 3),
    "affine at two depths": (
        lambda x: ex.square(2.0 * (ex.abs(ex.inner(H, x)) + x[0, 0]) - 2.0 * x[0, 0] + x[1, 0]),
        2,
    ),
    "shared atom": (lambda x: ex.sum(ex.square(ex.abs(B @ ex.vec(x)) + 1)) + ex.norm1(B @ ex.vec(x)), 3),
    "full": (lambda x: ex.norm1(x) + ex.mean(x), 40),
    "one entry": (lambda x: ex.reshape(ex.norm2(B @ ex.vec(x)), (1, 1)), 3),
}


def assert_exact(reward: ex.Expression, composition: Composition) -> None:
    flat = X.reshape(len(X), -1)
    found = flat @ composition.linear + composition.constant
    if composition.nonlinear is not None:
        assert composition.nonlinear.shape == ()
        (w,) = composition.nonlinear.variables()
        assert w.shape == (composition.dimension,)
        found = found + composition.nonlinear.value(composition.subspace.project(flat))
    truth = reward.value(X).ravel()
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", REWARDS)
def test_compositions_are_exact_and_minimal(name: str) -> None:
    build, dimension = REWARDS[name]
    reward = build(ex.Variable(SHAPE))
    composition = compose(reward)
    assert_exact(reward, composition)
    assert composition.dimension == dimension
    assert composition.rows >= dimension
    assert (composition.shape, composition.ambient) == (SHAPE, 40)
    assert composition.linear.shape == (40,) and composition.linear.dtype == np.float64
    if composition.nonlinear is None:
        assert dimension == 0 or name == "cancelled atoms"
        return
    basis = composition.subspace.embed(np.eye(dimension))
    np.testing.assert_allclose(basis @ basis.T, np.eye(dimension), atol=1e-12)
    assert np.abs(composition.subspace.project(composition.linear)).max() <= 1e-12
    # What is proved of the reward is proved of f.
    assert composition.nonlinear.is_convex() >= reward.is_convex()
    assert composition.nonlinear.is_concave() >= reward.is_concave()


def test_the_linear_part_moves_into_f_where_it_lies_in_the_row_space() -> None:
    x = ex.Variable(SHAPE)
    composition = compose(ex.sum_squares(B @ ex.vec(x)) + ex.inner((b @ B).reshape(SHAPE), x))
    assert composition.dimension == 3
    assert not composition.linear.any()
    assert "inner" in str(composition.nonlinear)
    apart = compose(ex.square(x[0, 0]) + x[1, 1])
    assert str(apart.nonlinear) == "square(reshape(w, ()))"
    assert apart.linear[6] == 1.0


def test_orthogonal_rows_stay_separable() -> None:
    x = ex.Variable(10)
    composition = compose(ex.norm1(x[[7, 2, 5]] * np.array([1.0, -2.0, 3.0]) - 1.0))
    matrix = ex.affine_map(composition.nonlinear.args[0]).matrix
    assert np.count_nonzero(np.asarray(matrix)) == 3


def test_many_rows_are_not_factorised() -> None:
    x = ex.Variable((20, 20))
    reward = ex.norm1(x) + ex.mean(x)
    composition = compose(reward)
    assert composition.subspace.is_identity
    assert composition.dimension == composition.rows == 400
    assert not composition.linear.any() and composition.constant == 0.0
    point = GENERATOR.normal(size=(3, 400))
    np.testing.assert_allclose(composition.nonlinear.value(point), reward.value(point.reshape(3, 20, 20)))
    small = compose(ex.norm1(x[:2, :10]), dimension_max=19)
    assert small.subspace.is_identity
    assert compose(ex.norm1(x[:2, :10]), dimension_max=20).dimension == 20
    assert compose(ex.sum(x) * 2.0, dimension_max=0).dimension == 0


def test_scalar_and_single_entry_variables() -> None:
    for shape in ((), (1,), (1, 1)):
        x = ex.Variable(shape)
        composition = compose(ex.reshape(ex.square(x), ()) + ex.sum(x) + 1.0)
        assert composition.dimension == 1
        value = composition.nonlinear.value(composition.subspace.project(np.array([[2.0]])))
        assert value[0] + 2.0 * composition.linear[0] + composition.constant == pytest.approx(7.0)


def test_what_cannot_be_composed_is_refused() -> None:
    x = ex.Variable(3)
    with pytest.raises(ShapeError, match=r"ak.sum"):
        compose(ex.abs(x))
    with pytest.raises(ParameterError, match="does not depend on a variable"):
        compose(ex.Constant(1.0))
    with pytest.raises(ParameterError, match=r"x of shape .* y of shape"):
        compose(ex.norm1(x) + ex.norm1(ex.Variable(2, name="y")))


def test_operators_are_never_formed() -> None:
    size = 100_000
    calls = []

    def forward(v: np.ndarray) -> np.ndarray:
        calls.append("forward")
        return np.add.reduceat(v.ravel(), [0, size // 3, size // 2])

    def adjoint(u: np.ndarray) -> np.ndarray:
        calls.append("adjoint")
        return np.repeat(u.ravel(), [size // 3, size // 2 - size // 3, size - size // 2])

    operator = LinearOperator((3, size), matvec=forward, rmatvec=adjoint, dtype=np.float64)
    x = ex.Variable(size)
    composition = compose(ex.norm1(ex.linear_map(operator, x) / size) + x[0])
    assert composition.dimension == 3 and composition.subspace.is_implicit
    assert len(calls) < 40
    points = GENERATOR.normal(size=(2, size))
    truth = ex.norm1(ex.linear_map(operator, x) / size).value(points) + points[:, 0]
    found = composition.nonlinear.value(composition.subspace.project(points)) + points @ composition.linear
    np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "dense max", "sparse", "sparse max"])
def test_large_images_cost_less_than_four_times_their_matrix(kind: str) -> None:
    x = ex.Variable((3, 1024, 1024))
    if kind.startswith("dense"):
        matrix = np.random.default_rng(1).standard_normal((3, x.size))
        held = matrix.nbytes
    else:
        matrix = sparse.random(3, x.size, density=1e-3, format="csr", random_state=1)
        held = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    affine = matrix @ ex.vec(x) - np.ones(3)
    reward = ex.max(affine) if kind.endswith("max") else ex.norm1(affine)
    compose(ex.norm1(ex.Variable(2)))  # imports
    tracemalloc.start()
    composition = compose(reward)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Every composition holds g, d numbers; the rest is counted.
    assert peak - composition.linear.nbytes < 4 * held
    assert composition.dimension == (2 if kind.endswith("max") else 3)
    assert composition.subspace.is_implicit == kind.startswith("sparse")
    point = np.random.default_rng(2).standard_normal((1, x.size))
    found = composition.nonlinear.value(composition.subspace.project(point)) + point @ composition.linear
    np.testing.assert_allclose(found + composition.constant, reward.value(point.reshape(1, *x.shape)), rtol=1e-9)


def test_differences_of_neighbours_keep_single_entries():
    x = ex.Variable(64)
    found = compose(-ex.total_variation(x) + ex.sum(x))
    assert found.subspace.is_identity and found.dimension == 64
    rows = np.random.default_rng(0).normal(size=(3, 64))
    assert found.nonlinear.value(rows) == pytest.approx(-np.abs(np.diff(rows)).sum(axis=1) + rows.sum(axis=1))


def test_pieces_that_add_up_to_nothing_leave_no_linear_part():
    slopes = np.random.default_rng(0).normal(size=(5, 20))
    found = compose(ex.max((slopes - slopes.mean(axis=0)) @ ex.Variable(20)))
    assert found.dimension == 4 and not found.linear.any()
