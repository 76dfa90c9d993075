"""Waves, saturating curves, clipping, interpolation, distances to points, and functions of the user's own."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import special

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.atoms import lipschitz as module
from alignkit.expressions.atoms.lipschitz import Clip, DistanceToPoints, PiecewiseLinear, UserFunction
from alignkit.expressions.curvature import Monotonicity
from tests.expressions.functions_of_arrays import (
    check_claims,
    check_conjugate,
    check_gradients,
    check_libraries,
    check_values,
)

SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(12, *SHAPE)) * 2.0
KNOTS = np.array([-2.0, -0.5, 0.0, 1.0, 3.0])
HEIGHTS = np.array([1.0, -1.0, 0.5, 0.5, 4.0])
CONVEX = np.array([2.0, 0.0, -0.5, 0.0, 4.0])


def interpolated(x: np.ndarray, values: np.ndarray = HEIGHTS) -> np.ndarray:
    inside = np.interp(x, KNOTS, values)
    slopes = np.diff(values) / np.diff(KNOTS)
    left = values[0] + slopes[0] * (x - KNOTS[0])
    right = values[-1] + slopes[-1] * (x - KNOTS[-1])
    return np.where(x < KNOTS[0], left, np.where(x > KNOTS[-1], right, inside))


def knotted(x: Any) -> ex.Expression:
    return ex.piecewise_linear(x, KNOTS, HEIGHTS)


def convex_knots(x: Any) -> ex.Expression:
    return ex.piecewise_linear(x, KNOTS, CONVEX)


def concave_knots(x: Any) -> ex.Expression:
    return ex.piecewise_linear(x, KNOTS, -CONVEX)


Curve = tuple[Callable[[Any], ex.Expression], Callable[[np.ndarray], np.ndarray]]
CURVES: dict[str, Curve] = {
    "sin": (ex.sin, np.sin),
    "cos": (ex.cos, np.cos),
    "tanh": (ex.tanh, np.tanh),
    "sigmoid": (ex.sigmoid, special.expit),
    "arctan": (ex.arctan, np.arctan),
    "clip": (lambda x: ex.clip(x, -0.75, 1.5), lambda x: np.clip(x, -0.75, 1.5)),
    "piecewise_linear": (knotted, interpolated),
    "piecewise_linear convex": (convex_knots, lambda x: interpolated(x, CONVEX)),
    "piecewise_linear concave": (concave_knots, lambda x: interpolated(x, -CONVEX)),
}
PI = math.pi
#: Boxes with whole periods, half and quarter ones, short ones about crests and kinks, single points and tiny widths.
BOXES = [
    (-10.0, 10.0),
    (0.0, PI),
    (-PI, 0.0),
    (PI, 2 * PI),
    (-PI / 2, PI / 2),
    (PI / 2, 3 * PI / 2),
    (0.0, 2 * PI - 0.01),
    (1.5, 1.65),
    (-1.6, -1.5),
    (3.0, 3.3),
    (0.1, 0.7),
    (-0.7, -0.1),
    (-2.0, 0.5),
    (100 * PI, 101 * PI),
    (101.25 * PI, 101.5 * PI),
    (1.0, 3.0),
    (-0.5, 0.0),
    (0.0, 1.0),
    (-0.5, 1.0),
    (2.0, 9.0),
    (-9.0, -2.5),
    (-0.75, 1.5),
    (1.5, 2.0),
    (0.4, 0.4),
    (0.0, 0.0),
    (0.3, 0.3 + 1e-9),
    (40.0, 50.0),
    (-800.0, -30.0),
]


@pytest.mark.parametrize("name", CURVES)
def test_values_libraries_and_derivatives(name: str) -> None:
    build, truth = CURVES[name]
    expression = build(ex.Variable(SHAPE))
    check_values(expression, truth, np.concatenate([X, X * 20.0, np.zeros((1, *SHAPE))]))
    check_libraries(expression, X)
    check_gradients(expression, X)
    origin = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    expression.value(origin).sum().backward()
    if name not in ("clip",) and "piecewise" not in name:
        np.testing.assert_allclose(ex.sum(expression).gradient(np.zeros(SHAPE)), origin.grad.numpy(), rtol=1e-14)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", CURVES)
def test_claims_over_intervals_are_sound_and_tight(name: str, box: tuple[float, float]) -> None:
    build, truth = CURVES[name]
    lower, upper = box
    claimed = build(ex.Variable()).over(lower, upper)
    points = np.unique(np.concatenate([np.linspace(lower, upper, 20001), KNOTS[(lower <= KNOTS) & (upper >= KNOTS)]]))
    values = truth(points)
    bounds = claimed.range
    slack = 1e-12 * (1.0 + np.abs(points).max())
    assert bounds.lower - slack <= values.min() and values.max() <= bounds.upper + slack
    assert bounds.lower >= values.min() - 1e-5 and bounds.upper <= values.max() + 1e-5
    if upper == lower:
        assert claimed.lipschitz < math.inf
        return
    slopes = np.abs(np.diff(values) / np.diff(points))
    noise = 1e-12 * (1.0 + np.abs(points).max()) / np.diff(points).min()
    assert slopes.max() <= claimed.lipschitz + noise
    assert claimed.lipschitz <= slopes.max() + 1e-3 + noise
    bends = np.diff(np.diff(values) / np.diff(points))
    if claimed.is_convex():
        assert bends.min() >= -4 * noise
    if claimed.is_concave():
        assert bends.max() <= 4 * noise
    rises = np.diff(values)
    claim = claimed.monotonicity(0)
    if claim is Monotonicity.INCREASING:
        assert rises.min() >= -slack
    elif claim is Monotonicity.DECREASING:
        assert rises.max() <= slack
    elif noise < 1e-6:
        assert rises.min() < 0.0 < rises.max()
    if noise < 1e-6 and not claimed.is_convex() and not claimed.is_concave():
        assert bends.min() < 0.0 < bends.max()


@pytest.mark.parametrize("name", CURVES)
def test_claims_hold_on_random_intervals(name: str) -> None:
    build, truth = CURVES[name]
    generator = np.random.default_rng(8)
    for centre, width in zip(generator.normal(size=150) * 5, 10.0 ** generator.uniform(-3, 1.2, size=150), strict=True):
        claimed = build(ex.Variable()).over(centre - width, centre + width)
        points = np.linspace(centre - width, centre + width, 801)
        values = truth(points)
        assert claimed.range.lower - 1e-12 <= values.min() and values.max() <= claimed.range.upper + 1e-12
        slopes = np.diff(values) / np.diff(points)
        assert np.abs(slopes).max() <= claimed.lipschitz + 1e-11 * (1.0 + abs(centre)) / width
        middle = (values[:-2] + values[2:]) / 2.0 - values[1:-1]
        assert not claimed.is_convex() or middle.min() >= -1e-12
        assert not claimed.is_concave() or middle.max() <= 1e-12


def test_curvature_follows_the_range_of_the_argument() -> None:
    x = ex.Variable()
    assert ex.sin(x).over(0.0, PI).is_concave() and ex.sin(x).over(PI, 2 * PI).is_convex()
    assert ex.cos(x).over(-PI / 2, PI / 2).is_concave() and ex.cos(x).over(PI / 2, 1.5 * PI).is_convex()
    for build in (ex.tanh, ex.sigmoid, ex.arctan):
        assert build(x).curvature is ex.Curvature.UNKNOWN
        assert build(x).over(-1.0, 0.0).is_convex() and build(x).over(0.0, 1.0).is_concave()
        assert build(ex.minimum(x, 0.0)).curvature is ex.Curvature.UNKNOWN  # convex and increasing of a concave
        assert build(-ex.abs(x)).curvature is ex.Curvature.UNKNOWN
        assert build(ex.pos(x)).curvature is ex.Curvature.UNKNOWN
        assert build(-ex.pos(x)).curvature is ex.Curvature.UNKNOWN
    # Concave and increasing on [0, π/2] of what is concave and stays there.
    inside = ex.minimum(x, 1.5)
    assert ex.sin(inside).over(0.0, 9.0).is_concave()
    assert ex.tanh(ex.sqrt(x)).is_concave()
    # Convex and decreasing right of the crest of cos, up to its trough.
    assert ex.cos(inside + PI / 2 + 1.6).over(0.0, 9.0).curvature is ex.Curvature.UNKNOWN
    assert ex.clip(x, 0.0, 1.0).curvature is ex.Curvature.UNKNOWN
    assert ex.clip(x, 0.0, 1.0).over(0.5, 3.0).is_concave() and ex.clip(x, 0.0, 1.0).over(-3.0, 0.5).is_convex()
    assert ex.clip(ex.square(x) + 2.0, 0.0, 3.0).curvature is ex.Curvature.UNKNOWN
    assert ex.clip(ex.minimum(x, 1.0), -1.0, 2.0).curvature is ex.Curvature.UNKNOWN
    assert ex.clip(-ex.square(x), -1.0, 2.0).curvature is ex.Curvature.UNKNOWN  # max(−x², −1)
    assert ex.clip(ex.square(x), -1.0, 2.0).curvature is ex.Curvature.UNKNOWN  # min(x², 2)
    assert ex.clip(ex.square(x), 0.0, 2.0).over(-1.0, 1.0).is_convex()
    # Nothing but an affine node is called affine: its linear part is read off.
    for build, box in ((ex.sin, (0.0, 0.0)), (knotted, (1.5, 2.5)), (lambda y: ex.clip(y, 0.0, 1.0), (0.2, 0.8))):
        assert build(x).over(*box).curvature is ex.Curvature.CONVEX


def test_curved_values_outside_the_domain_of_the_argument_are_infinite() -> None:
    x = ex.Variable(3)
    point = np.array([-1.0, 0.0, 4.0])
    expression = ex.tanh(ex.sqrt(x))
    assert expression.is_concave()
    np.testing.assert_allclose(expression.value(point), [-np.inf, 0.0, np.tanh(2.0)])
    assert ex.clip(-ex.sqrt(x), -5.0, -1.0).curvature is ex.Curvature.UNKNOWN
    convex = ex.clip(-ex.sqrt(x), -1.5, 0.5)
    assert convex.is_convex()
    np.testing.assert_allclose(convex.value(point), [np.inf, 0.0, -1.5])


def test_angles_too_large_to_place_get_the_widest_claims() -> None:
    wide = ex.sin(ex.Variable()).over(1e9, 1e9 + 0.1)
    assert wide.range == ex.Interval(-1.0, 1.0) and wide.lipschitz == 1.0 and wide.curvature is ex.Curvature.UNKNOWN
    free = ex.cos(ex.Variable())
    assert free.range == ex.Interval(-1.0, 1.0) and free.lipschitz == 1.0


def test_slopes_that_round_to_zero_are_not_zero() -> None:
    # 1 − tanh² is 0 in double precision at 30; the function still moves.
    assert 0.0 < ex.tanh(ex.Variable()).over(30.0, 31.0).lipschitz < 1e-25
    assert 0.0 < ex.sigmoid(ex.Variable()).over(-700.0, -600.0).lipschitz < 1e-250
    extremes = np.array([-1e300, -800.0, 800.0, 1e300, np.inf, -np.inf])
    for build in (ex.tanh, ex.sigmoid, ex.arctan):
        found = build(ex.Variable(6)).value(extremes)
        assert np.isfinite(found).all()
        with np.errstate(over="ignore"):
            assert np.isfinite(ex.sum(build(ex.Variable(6))).gradient(extremes)).all()


def test_lipschitz_constants_chain() -> None:
    x = ex.Variable(4)
    rows = np.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert ex.sum(ex.sin(rows @ x)).lipschitz == pytest.approx(5.0 * math.sqrt(2.0))
    assert ex.sigmoid(rows[0] @ x).lipschitz == pytest.approx(1.25)
    assert ex.sin(ex.square(x[0])).lipschitz == math.inf
    assert ex.clip(ex.square(x[0]), 0.0, 1.0).lipschitz == math.inf
    assert ex.square(ex.clip(x[0], -1.0, 3.0)).lipschitz == 6.0
    assert ex.square(ex.sin(x[0])).range == ex.Interval(0.0, 1.0)
    assert (2.0 * ex.tanh(x) - 1.0).range == ex.Interval(-3.0, 1.0)


# ---- clip


def test_clip_with_one_end_is_a_maximum_or_a_minimum() -> None:
    x = ex.Variable(2)
    assert str(ex.clip(x, 0.0)) == "maximum(x, 0)"
    assert str(ex.clip(x, None, 2)) == "minimum(x, 2)"
    assert str(ex.clip(x, -np.inf, 2)) == "minimum(x, 2)"
    assert str(ex.clip(x, -1, 2.5)) == "clip(x, -1, 2.5)"
    level = ex.clip(x, 1.0, 1.0)
    assert level.is_affine() and level.value([3.0, -3.0]).tolist() == [1.0, 1.0]
    assert isinstance(ex.clip(x, 0.0, 1.0), Clip)
    assert ex.clip([0.0, 5.0], 1.0, 2.0).value().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("ends", [(1.0, 0.0), (None, None), ("a", 1.0), (0.0, math.nan), (True, 2.0), (math.inf, None)])
def test_ends_that_are_no_interval_are_refused(ends: tuple[Any, Any]) -> None:
    with pytest.raises(ParameterError, match="clip") as caught:
        ex.clip(ex.Variable(2, name="pixels"), *ends)
    assert "pixels" in str(caught.value)


# ---- piecewise_linear


def test_two_points_make_a_line() -> None:
    x = ex.Variable(2)
    line = ex.piecewise_linear(x, [0.0, 2.0], [1.0, 5.0])
    assert line.is_affine()
    assert line.value([1.0, -1.0]).tolist() == [3.0, -1.0]


def test_curvature_of_interpolation_is_that_of_its_slopes() -> None:
    x = ex.Variable(2)
    assert convex_knots(x).is_convex() and concave_knots(x).is_concave()
    assert knotted(x).curvature is ex.Curvature.UNKNOWN
    assert knotted(x).over(-0.5, 0.9).is_concave() and knotted(x).over(0.1, 9.0).is_convex()
    assert ex.sum(concave_knots(ex.norm1(x) - 9)).curvature is ex.Curvature.UNKNOWN
    assert ex.piecewise_linear(ex.square(x), KNOTS, np.array([0.0, 0.0, 0.0, 1.0, 7.0])).is_convex()
    # Points of a parabola and of a line, with their rounding.
    grid = np.linspace(-3.0, 4.0, 101)
    assert ex.piecewise_linear(x, grid, grid**2).is_convex()
    assert ex.piecewise_linear(x, grid, 0.1 * grid + 1 / 3).is_convex()
    assert not ex.piecewise_linear(x, grid, np.where(grid > 0, grid * (1 - 1e-9), grid)).is_convex()
    assert knotted(x).range == ex.Interval(-1.0, math.inf)
    level = ex.piecewise_linear(x, [0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 1.0])
    assert level.range == ex.Interval(0.0, 1.0) and level.lipschitz == pytest.approx(math.sqrt(1.0))
    assert level.value(np.array([-np.inf, np.inf])).tolist() == [0.0, 1.0]


def test_conjugate_of_a_convex_interpolation() -> None:
    x = ex.Variable()
    atom = convex_knots(x)
    assert isinstance(atom, PiecewiseLinear)
    points = np.linspace(-6.0, 8.0, 701)
    duals = atom.project_dual(np.linspace(-5.0, 5.0, 101))
    assert (duals.min(), duals.max()) == (atom.slopes[0], atom.slopes[-1])
    supremum = (points[:, None] * duals[None] - atom.value(points)[:, None]).max(axis=0)
    np.testing.assert_allclose(atom.conjugate(duals), supremum, atol=1e-12)
    scalar = np.random.default_rng(0).normal(size=20) * 3
    check_conjugate(atom, scalar)
    for other in (knotted(x), concave_knots(x)):
        assert isinstance(other, PiecewiseLinear)
        with pytest.raises(ParameterError, match="slopes"):
            other.conjugate(np.zeros(1))
    shifted = knotted(x)
    assert isinstance(shifted, PiecewiseLinear)
    with pytest.raises(ParameterError, match="slopes"):
        shifted.prox(np.zeros(1), 1.0)


def _as_maximum(z: Any, values: np.ndarray) -> Any:
    slopes = np.diff(values) / np.diff(KNOTS)
    return cp.sum(cp.maximum(*[values[j] + slopes[j] * (z - KNOTS[j]) for j in range(len(slopes))]))


def test_proximal_maps_of_interpolation() -> None:
    x = ex.Variable(3)
    for build, sign in ((convex_knots, 1.0), (concave_knots, -1.0)):
        atom = build(x)
        assert isinstance(atom, PiecewiseLinear)
        for step in (0.1, 1.0, 5.0):
            points = np.random.default_rng(1).normal(size=(4, 3)) * 3.0
            found = atom.prox(points, step)
            for row, mine in zip(points, found, strict=True):
                z = cp.Variable(3)
                cp.Problem(cp.Minimize(_as_maximum(z, CONVEX) + cp.sum_squares(z - row) / (2 * step))).solve(
                    solver=cp.CLARABEL
                )
                np.testing.assert_allclose(mine, z.value, atol=1e-5)
                assert sign * build(x).value(mine).sum() == pytest.approx(interpolated(mine, CONVEX).sum())
            np.testing.assert_allclose(atom.prox(torch.tensor(points), step).numpy(), found, rtol=1e-13)
    # Exactly on the breakpoint, and not near it.
    assert convex_knots(ex.Variable()).prox(np.array([0.1]), 2.0).tolist() == [0.0]


@pytest.mark.parametrize(
    ("breakpoints", "values", "error", "word"),
    [
        ([0.0, 0.0, 1.0], [0.0, 1.0, 2.0], ParameterError, "strictly increasing"),
        ([1.0, 0.0], [0.0, 1.0], ParameterError, "strictly increasing"),
        ([0.0], [1.0], ShapeError, "at least 2"),
        ([0.0, 1.0], [1.0, 2.0, 3.0], ShapeError, r"\(2,\) and \(3,\)"),
        ([[0.0, 1.0]], [[1.0, 2.0]], ShapeError, r"\(1, 2\)"),
        ([0.0, math.nan], [1.0, 2.0], NonFiniteError, "NaN"),
        ([0.0, 1e-300, 1.0], [0.0, 1e300, 0.0], NonFiniteError, "overflow"),
        (ex.Variable(2), [1.0, 2.0], ParameterError, "constants"),
    ],
)
def test_breakpoints_out_of_order_are_refused(breakpoints: Any, values: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        ex.piecewise_linear(ex.Variable(2), breakpoints, values)


# ---- distance_to_points


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


# ---- functions of the user's own


def roughness(values: Any) -> Any:
    """max |difference| along rows, √2-Lipschitz in each library."""
    steps = abs(values[:, 1:] - values[:, :-1])
    return steps.amax(1) if isinstance(steps, torch.Tensor) else steps.max(axis=1)


def smooth(values: Any) -> Any:
    return module.sum_of_sines(values)


def smooth_slopes(values: Any) -> Any:
    return module.cosines(values)


def test_a_users_function_takes_part_in_expressions() -> None:
    x = ex.Variable(SHAPE)
    expression = ex.lipschitz(smooth, math.sqrt(6.0), x, gradient=smooth_slopes, range=(-6.0, 6.0))
    assert isinstance(expression, UserFunction)
    check_values(expression, lambda p: np.sin(p).sum(), X)
    check_libraries(expression, X)
    check_gradients(expression, X)
    check_claims(expression, -2.0, 2.0, tight_range=False)
    assert expression.range == ex.Interval(-6.0, 6.0) and expression.lipschitz == math.sqrt(6.0)
    reward = 2.0 * expression - ex.norm1(x)
    assert str(reward) == "2 * smooth(x) - norm1(x)" and reward.curvature is ex.Curvature.UNKNOWN
    check_gradients(reward, X)
    assert ex.lipschitz(smooth, 1.0, 3.0 * x[0]).lipschitz == pytest.approx(3.0)
    assert ex.lipschitz(smooth, 0.0, ex.square(x)).lipschitz == 0.0
    assert "smooth is neither convex nor concave" in expression.curvature_rule


def test_a_users_function_is_differentiated_by_torch_and_jax_alone() -> None:
    x = ex.Variable(4)
    expression = ex.lipschitz(roughness, math.sqrt(2.0), x)
    point = np.array([0.0, 3.0, 1.0, 1.0])
    with pytest.raises(ParameterError, match="roughness") as caught:
        expression.gradient(point)
    assert any("gradient=" in way for way in caught.value.ways_out) and any(
        "torch" in way for way in caught.value.ways_out
    )
    tensor = torch.tensor(point, requires_grad=True)
    expression.value(tensor).backward()
    assert tensor.grad.tolist() == [-1.0, 1.0, 0.0, 0.0]
    with jax.enable_x64(True):
        assert jax.jit(jax.grad(expression.value))(jnp.asarray(point)).tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert torch.func.vmap(expression.value)(torch.tensor(np.stack([point] * 2))).tolist() == [
        3.0,
        3.0,
    ]


def test_wrong_shapes_of_a_users_function_are_named() -> None:
    x = ex.Variable(SHAPE, name="pixels")
    cases: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
        (lambda v: v.sum(), ShapeError, r"shape \(\).*\(5, 2, 3\).*\(5,\)"),
        (lambda v: v.sum(axis=1), ShapeError, r"shape \(5, 3\)"),
        (lambda v: v.reshape(len(v), -1).sum(axis=1, keepdims=True), ShapeError, r"\(5, 1\)"),
        (lambda v: [0.0] * len(v), ParameterError, "list"),
        (lambda v: torch.zeros(len(v)), ParameterError, "Tensor"),
    ]
    for fn, error, word in cases:
        with pytest.raises(error, match=word) as caught:
            ex.lipschitz(fn, 1.0, x).value(np.zeros((5, *SHAPE)))
        assert "pixels" in str(caught.value)
    with pytest.raises(ShapeError, match="gradient of smooth"):
        ex.lipschitz(smooth, 1.0, x, gradient=lambda v: v[:, 0]).gradient(np.zeros(SHAPE))


def test_a_nan_of_a_users_function_names_its_first_row() -> None:
    x = ex.Variable(3, name="pixels")

    def broken(values: Any) -> Any:
        return (values[:, 0] - 1.0) ** 0.5

    expression = ex.lipschitz(broken, 1.0, x)
    rows = np.array([[2.0, 0.0, 0.0], [0.25, 7.0, -1.0], [0.0, 0.0, 0.0]])
    for batch in (rows, torch.tensor(rows)):
        with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError) as caught:
            expression.value(batch)
        assert "broken returned nan in row 1" in str(caught.value) and "0.25" in str(caught.value)
        assert "broken(pixels)" in str(caught.value)
    big = ex.lipschitz(lambda v: v[:, 0] * np.inf, 1.0, ex.Variable(5000))
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError) as caught:
        big.value(np.ones((1, 5000)))
    assert len(str(caught.value)) < 500
    # Under a trace there are no values to look at.
    traced = jax.jit(expression.value)(jnp.asarray(rows))
    assert bool(jnp.isnan(traced[1]))
    # An input outside the domain of the argument is not the function's fault.
    outside = ex.lipschitz(lambda v: v.sum(axis=1), 1.0, ex.log(x))
    assert outside.value([-1.0, 1.0, 1.0]) == -np.inf


def test_dtypes_of_a_users_function_follow_the_point() -> None:
    counting = ex.lipschitz(lambda v: (v > 0).sum(axis=1), 1.0, ex.Variable(3))
    assert counting.value(np.ones((2, 3))).dtype == np.float64
    wide = ex.lipschitz(lambda v: v.astype(np.float64).sum(axis=1), 1.0, ex.Variable(3))
    assert wide.value(np.ones((2, 3), dtype=np.float32)).dtype == np.float32


def test_names_and_pickles_of_users_functions() -> None:
    x = ex.Variable(3)
    expression = ex.lipschitz(roughness, 2.0, x)
    assert str(expression) == "roughness(x)"
    assert str(ex.lipschitz(functools.partial(roughness), 2.0, x)) == "partial(x)"
    assert str(ex.lipschitz(torch.nn.Flatten(0), 2.0, x)) == "Flatten(x)"
    assert pickle.loads(pickle.dumps(expression)).value([0.0, 3.0, 1.0]) == 3.0
    assert ex.lipschitz(roughness, 2.0, [0.0, 3.0, 1.0]).value() == 3.0


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        ((3.0, 1.0), {}, "function first"),
        ((smooth, -1.0), {}, "not negative"),
        ((smooth, math.inf), {}, "finite constant"),
        ((smooth, math.nan), {}, "finite constant"),
        ((smooth, "1"), {}, "finite constant"),
        ((smooth, True), {}, "finite constant"),
        ((smooth, 1.0), {"range": (2.0, 1.0)}, "range"),
        ((smooth, 1.0), {"range": 2.0}, "range"),
        ((smooth, 1.0), {"range": (0.0, 1.0, 2.0)}, "range"),
        ((smooth, 1.0), {"gradient": 3.0}, "gradient"),
    ],
)
def test_what_is_no_function_with_a_constant_is_refused(arguments: Any, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ParameterError, match=word) as caught:
        ex.lipschitz(*arguments, ex.Variable(3, name="pixels"), **options)
    assert "pixels" in str(caught.value)


def test_arguments_of_lipschitz_in_another_order_are_refused() -> None:
    with pytest.raises(ParameterError, match="function first, not pixels"):
        ex.lipschitz(ex.Variable(3, name="pixels"), 1.0, smooth)  # type: ignore[arg-type]
