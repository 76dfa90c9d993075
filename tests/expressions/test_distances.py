"""Distances to the nearest of several points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.atoms import distances as module
from alignkit.expressions.atoms.distances import DistanceToPoints
from tests.expressions.functions_of_arrays import (
    check_claims,
    check_gradients,
    check_libraries,
    check_values,
)

SHAPE = (2, 3)


def distances(x: np.ndarray, points: np.ndarray) -> float:
    return min(float(np.linalg.norm(x - point)) for point in points)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (30, 2)])
def test_distances(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(7, *shape)) + 100.0
    rows = generator.normal(size=(12, *shape)) * 1.5 + 100.0
    expression = ex.distance_to_points(ex.Variable(shape), points)
    check_values(expression, lambda x: distances(x, points), rows)
    check_libraries(expression, rows)
    check_gradients(expression, rows)
    np.testing.assert_allclose(expression.value(points), 0.0, atol=1e-13)


def test_gradients_at_the_points_are_finite() -> None:
    points = np.random.default_rng(0).normal(size=(5, 2, 3))
    expression = ex.distance_to_points(ex.Variable(SHAPE), points)
    assert np.isfinite(expression.gradient(points)).all()
    tensor = torch.tensor(points, requires_grad=True)
    expression.value(tensor).sum().backward()
    assert torch.isfinite(tensor.grad).all()
    with jax.enable_x64(True):
        assert bool(jnp.isfinite(jax.grad(lambda x: expression.value(x).sum())(jnp.asarray(points))).all())


@pytest.mark.parametrize("box", [(-1.0, 1.0), (2.0, 3.0), (-3.0, -2.5), (0.2, 0.3)])
def test_distance_claims(box: tuple[float, float]) -> None:
    points = np.random.default_rng(3).uniform(-1.5, 1.5, size=(4, 3))
    expression = ex.distance_to_points(ex.Variable(3), points)
    check_claims(expression, *box, tight_range=False)
    claimed = expression.over(*box)
    grid = np.stack(np.meshgrid(*[np.linspace(*box, 41)] * 3), axis=-1).reshape(-1, 3)
    values = claimed.value(grid)
    assert claimed.range.lower == pytest.approx(values.min(), abs=5e-2)
    assert claimed.range.upper >= values.max() - 1e-12
    assert expression.lipschitz == 1.0 and expression.sign is ex.Sign.NONNEGATIVE
    assert expression.curvature is ex.Curvature.UNKNOWN


def test_distance_to_one_point_is_a_norm() -> None:
    x = ex.Variable(2)
    expression = ex.distance_to_points(x, [[1.0, 2.0]])
    assert expression.is_convex() and str(expression) == "norm2(x - [2 constant])"
    assert expression.value([4.0, 6.0]) == 5.0


def test_the_table_of_distances_is_built_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for size in (3, 40):
        points, rows = generator.normal(size=(53, size)), generator.normal(size=(20, size))
        expression = ex.distance_to_points(ex.Variable(size), points)
        whole, slopes = expression.value(rows), expression.gradient(rows)
        monkeypatch.setattr(module, "LARGEST_TABLE", 200)
        np.testing.assert_allclose(expression.value(rows), whole, rtol=1e-14)
        np.testing.assert_allclose(expression.gradient(rows), slopes, rtol=1e-14)
        np.testing.assert_allclose(whole, [distances(row, points) for row in rows], rtol=1e-12)
        monkeypatch.undo()
    assert expression.value(np.zeros((0, 40))).shape == (0,)


def test_large_clouds_cost_no_table_of_differences() -> None:
    import tracemalloc

    points = np.random.default_rng(0).normal(size=(400, 3000))
    rows = np.random.default_rng(1).normal(size=(100, 3000))
    expression = ex.distance_to_points(ex.Variable(3000), points)
    expression.value(rows)
    tracemalloc.start()
    expression.value(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 3000 * 8 * 10  # n·m·d would be 960 MB


def test_points_of_another_shape_are_refused() -> None:
    x = ex.Variable(SHAPE, name="pixels")
    with pytest.raises(ShapeError, match=r"pixels.*\(2, 3\).*\(5, 3\)"):
        ex.distance_to_points(x, np.zeros((5, 3)))
    with pytest.raises(ShapeError, match=r"points\[None\]"):
        ex.distance_to_points(x, np.zeros(SHAPE))
    with pytest.raises(ParameterError, match="constants"):
        ex.distance_to_points(x, ex.Parameter((4, *SHAPE)))
    with pytest.raises(NonFiniteError):
        ex.distance_to_points(x, np.full((2, *SHAPE), np.nan))
    assert str(ex.distance_to_points(x, np.zeros((4, *SHAPE)))) == "distance_to_points(pixels, [4×2×3 constant])"
    assert isinstance(ex.distance_to_points(x, ex.Constant(np.eye(6).reshape(6, *SHAPE))), DistanceToPoints)
