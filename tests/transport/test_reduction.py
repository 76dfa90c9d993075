"""The reduction by itself: the solver here is soft thresholding, written out."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit.expressions as ak
from alignkit.contracts import Composition, ProxSolution
from alignkit.errors import NonFiniteError, ParameterError, ShapeError, UnboundedTransportError
from alignkit.transport import reduction, rows
from alignkit.transport.reduction import TransportMap, reduce_transport

SHAPE, WEIGHT = (2, 5), 2.0
RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.standard_normal((10, 3)))[0].T
G = RNG.standard_normal(10)
G -= Q.T @ (Q @ G)
w = ak.Variable(3, name="w")
COMPOSITION = Composition(SHAPE, -ak.norm1(w - 0.5), ak.Subspace.dense(Q), G, 1.5, 3, 1e-9)
AFFINE = Composition(SHAPE, None, ak.Subspace.empty(10), G, 1.5, 0, 1e-9)


class SoftThreshold:
    """argmax −‖z − ½‖₁ − (λ/2)‖z − v‖²; counts its calls and what it was told of progress."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def solve(self, points, progress=None):
        self.batches.append(len(points))
        if progress is not None:
            progress("mine", len(points), len(points))
        z = 0.5 + np.sign(points - 0.5) * np.maximum(np.abs(points - 0.5) - 1 / WEIGHT, 0.0)
        return ProxSolution(z, np.full(len(points), 1e-9), np.zeros(len(points), dtype=bool))


def objective(x, y):
    r = -np.abs(y @ Q.T - 0.5).sum(axis=1) + y @ G + 1.5
    return r - WEIGHT * 0.5 * ((y - x) ** 2).sum(axis=1)


@pytest.fixture
def transport():
    return TransportMap(COMPOSITION, WEIGHT, SoftThreshold())


def test_moves_rows_to_the_maximiser_in_full_dimension(transport):
    x = RNG.standard_normal((40, *SHAPE))
    moved = transport.apply(x)
    flat_x, flat_y = x.reshape(40, 10), moved.y.reshape(40, 10)
    best = objective(flat_x, flat_y)
    np.testing.assert_allclose(moved.objective, best, rtol=1e-12)
    np.testing.assert_allclose(moved.cost, 0.5 * ((flat_y - flat_x) ** 2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moved.relative_gap, 1e-9 / np.maximum(1, np.abs(best)), rtol=1e-4)
    for scale in (1e-4, 1e-2, 1.0):
        assert (objective(flat_x, flat_y + scale * RNG.standard_normal(flat_y.shape)) < best).all()


def test_affine_rewards_need_no_solver():
    assert reduce_transport(AFFINE, WEIGHT, rows=10) is None
    x = RNG.standard_normal((7, *SHAPE))
    moved = TransportMap(AFFINE, WEIGHT, None).apply(x)
    np.testing.assert_allclose(moved.y, x + G.reshape(SHAPE) / WEIGHT)
    np.testing.assert_allclose(moved.objective, x.reshape(7, 10) @ G + G @ G / (2 * WEIGHT) + 1.5)
    assert (moved.gap == 0).all() and not moved.unfinished.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_torch_and_jax_agree_and_keep_their_kind(transport, dtype):
    x = RNG.standard_normal((6, *SHAPE)).astype(dtype)
    y = transport.apply(x).y
    assert y.dtype == dtype and y.shape == x.shape
    as_torch = transport.apply(torch.from_numpy(x).requires_grad_()).y
    assert isinstance(as_torch, torch.Tensor) and as_torch.numpy().dtype == dtype
    np.testing.assert_allclose(as_torch.numpy(), y, rtol=1e-6)
    as_jax = transport.apply(jnp.asarray(x)).y
    assert isinstance(as_jax, jnp.ndarray) and as_jax.dtype == jnp.asarray(x).dtype
    np.testing.assert_allclose(np.asarray(as_jax), y, rtol=2e-6)


def test_narrow_and_integer_inputs(transport):
    half = torch.ones(2, *SHAPE, dtype=torch.bfloat16)
    assert transport.apply(half).y.dtype == torch.bfloat16
    assert transport.apply(np.ones((2, *SHAPE), dtype=np.float16)).y.dtype == np.float16
    whole = transport.apply(np.ones((2, *SHAPE), dtype=np.int64))
    assert whole.y.dtype == np.float64


def test_blocks_change_nothing(transport, monkeypatch):
    x = RNG.standard_normal((23, *SHAPE))
    whole = transport.apply(x)
    monkeypatch.setattr(rows, "_BLOCK_ENTRIES", 40)
    monkeypatch.setattr(reduction, "_SOLVE_ENTRIES", 30)
    seen = []
    session = SoftThreshold()
    parts = TransportMap(COMPOSITION, WEIGHT, session).apply(x, lambda *event: seen.append(event))
    assert session.batches == [10, 10, 3]
    assert all(stage == "transport" and total == 23 for stage, _, total in seen)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen) and seen[-1][1] == 23
    for name in ("y", "objective", "gap", "cost"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_no_rows(transport):
    moved = transport.apply(np.empty((0, *SHAPE)))
    assert moved.y.shape == (0, *SHAPE) and moved.gap.shape == (0,)


def test_the_input_is_left_alone(transport):
    x = RNG.standard_normal((3, *SHAPE))
    before = x.copy()
    transport.apply(x)
    np.testing.assert_array_equal(x, before)


def test_rows_that_miss_the_tolerance_are_unfinished():
    strict = TransportMap(COMPOSITION, WEIGHT, SoftThreshold(), tolerance=1e-12)
    assert strict.apply(RNG.standard_normal((3, *SHAPE))).unfinished.all()


def test_rows_outside_the_domain_of_the_reward_have_no_gap():
    class Lost:
        def solve(self, points, progress=None):
            return ProxSolution(points * np.nan, np.zeros(len(points)), np.zeros(len(points), dtype=bool))

    moved = TransportMap(COMPOSITION, WEIGHT, Lost()).apply(RNG.standard_normal((2, *SHAPE)))
    assert np.isinf(moved.relative_gap).all() and moved.unfinished.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, jnp.asarray])
def test_the_first_row_that_is_not_finite_is_named(transport, bad, convert):
    x = RNG.standard_normal((9, *SHAPE))
    x[4, 1, 3] = x[7, 0, 0] = bad
    with pytest.raises(NonFiniteError, match="Row 4"):
        transport.apply(convert(x))


@pytest.mark.parametrize("shape", [(2, 5), (3, 5, 2), (4,), (2, 2, 5, 1), ()])
def test_both_shapes_are_named(transport, shape):
    with pytest.raises(ShapeError) as caught:
        transport.apply(np.zeros(shape))
    assert str(shape) in str(caught.value) and "(n, 2, 5)" in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_weights_are_positive_and_finite(weight):
    with pytest.raises(ParameterError, match="λ"):
        reduce_transport(COMPOSITION, weight, rows=1)
    with pytest.raises(ParameterError, match="λ"):
        TransportMap(COMPOSITION, weight, SoftThreshold())


def test_the_problem_that_backends_see():
    problem = reduce_transport(COMPOSITION, WEIGHT, rows=12, tolerance=1e-4, device="cpu")
    assert problem.nonlinear is COMPOSITION.nonlinear
    assert (problem.weight, problem.dimension, problem.rows) == (WEIGHT, 3, 12)
    assert (problem.tolerance, problem.device) == (1e-4, "cpu")


def test_unbounded_rewards_are_refused_before_any_solver_is_asked():
    f = ak.sum_squares(w)
    with pytest.raises(UnboundedTransportError, match="critical"):
        reduce_transport(Composition(SHAPE, f, ak.Subspace.dense(Q), G, 0.0, 3, 1e-9), 1.9, rows=1)


@pytest.mark.parametrize("tolerance", [0.0, -1e-6, 1.0, np.nan])
def test_tolerances_are_relative_gaps(tolerance):
    with pytest.raises(ParameterError, match="tolerance"):
        reduce_transport(COMPOSITION, WEIGHT, rows=1, tolerance=tolerance)


def test_a_session_comes_exactly_with_a_nonlinear_part():
    with pytest.raises(ParameterError, match="session"):
        TransportMap(COMPOSITION, WEIGHT, None)
    with pytest.raises(ParameterError, match="session"):
        TransportMap(AFFINE, WEIGHT, SoftThreshold())


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.from_numpy, jnp.asarray, lambda x: torch.from_numpy(x).bfloat16()]
)
def test_rows_that_are_not_finite_are_kept_on_request(transport, convert):
    x = RNG.standard_normal((9, *SHAPE)).astype(np.float32)
    whole = transport.apply(convert(x))
    x[4, 1, 3], x[7, 0, 0] = np.nan, np.inf
    found = transport.apply(convert(x), on_error="keep")
    assert np.flatnonzero(found.unfinished).tolist() == [4, 7] and np.isinf(found.gap[[4, 7]]).all()
    others = [0, 1, 2, 3, 5, 6, 8]

    def as_numpy(array):
        return np.asarray(array.float() if isinstance(array, torch.Tensor) else array)

    np.testing.assert_array_equal(as_numpy(found.y)[others], as_numpy(whole.y)[others])
    np.testing.assert_array_equal(as_numpy(found.y)[[4, 7]], as_numpy(convert(x))[[4, 7]])
    with pytest.raises(ParameterError, match="on_error"):
        transport.apply(x, on_error="drop")


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_rows_move_alike_where_nothing_is_accounted_for(transport, on_error):
    x = RNG.standard_normal((9, *SHAPE)).astype(np.float32)
    if on_error == "keep":
        x[4, 1, 3] = np.nan
    np.testing.assert_array_equal(
        transport.move(x, on_error=on_error), transport.apply(x, on_error=on_error).y, strict=True
    )
    x[7, 0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="Row"):
        transport.move(x)


def test_rows_without_an_iterate_stay():
    class Lost:
        def solve(self, points, progress=None):
            z = points + 1.0
            z[1, 2] = np.nan
            return ProxSolution(z, np.zeros(len(points)), np.zeros(len(points), dtype=bool))

    x = RNG.standard_normal((3, *SHAPE))
    transport = TransportMap(COMPOSITION, WEIGHT, Lost())
    moved = transport.apply(x)
    np.testing.assert_array_equal(moved.y, transport.move(x))
    np.testing.assert_allclose(moved.y[1].ravel(), x[1].ravel() + G / WEIGHT)
    assert moved.objective[1] == -np.inf and moved.unfinished.tolist() == [False, True, False]
    np.testing.assert_allclose(moved.cost, 0.5 * ((moved.y - x) ** 2).sum(axis=(1, 2)))


def test_rows_that_are_kept_are_not_tied():
    class Search(SoftThreshold):
        def solve(self, points, progress=None):
            found = super().solve(points, progress)
            return replace(found, tied=np.ones(len(points), bool), evaluations=np.full(len(points), 7))

    x = RNG.standard_normal((4, *SHAPE))
    x[2, 1, 1] = np.nan
    found = TransportMap(COMPOSITION, WEIGHT, Search()).apply(x, on_error="keep")
    assert found.tied.tolist() == [True, True, False, True] and found.evaluations.tolist() == [7, 7, 0, 7]


def test_huge_entries_are_finite(transport):
    x = np.full((2, *SHAPE), 1e308)
    assert np.isfinite(transport.apply(x, on_error="keep").y).all()


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_results_are_written_where_the_user_says(transport, convert):
    x = convert(RNG.standard_normal((5, *SHAPE)))
    wanted, out = transport.apply(x).y, convert(np.zeros((5, *SHAPE)))
    assert transport.apply(x, out=out).y is out and (out == wanted).all()
    transport.apply(x, out=x)
    assert (x == wanted).all()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((4, *SHAPE)),
        np.zeros((5, *SHAPE), np.float32),
        torch.zeros(5, *SHAPE),
        np.zeros((*SHAPE, 5)).T.copy("F"),
    ],
    ids=["shape", "dtype", "library", "order"],
)
def test_where_results_cannot_be_written(transport, out):
    with pytest.raises(ParameterError, match="out is"):
        transport.apply(RNG.standard_normal((5, *SHAPE)), out=out)


def test_a_linear_part_and_a_plain_matrix_of_rank_one():
    composition = Composition(
        (4,), -ak.norm1(ak.Variable(1)), ak.Subspace.dense(np.eye(1, 4)), np.eye(4)[1], 0.0, 1, 1e-9
    )
    x = np.array([[3.0, 1.0, 2.0, 0.0], [0.1, 0.0, 0.0, 0.0]])

    class Shrink:
        def solve(self, points, progress=None):
            z = np.sign(points) * np.maximum(np.abs(points) - 1 / WEIGHT, 0.0)
            return ProxSolution(z, np.zeros(len(points)), np.zeros(len(points), dtype=bool))

    moved = TransportMap(composition, WEIGHT, Shrink()).apply(x)
    np.testing.assert_allclose(moved.y, [[2.5, 1.5, 2.0, 0.0], [0.0, 0.5, 0.0, 0.0]])
    np.testing.assert_allclose(moved.objective, [-2.5 + 1.5 - 0.5, 0.5 - 0.25 - 0.01])
