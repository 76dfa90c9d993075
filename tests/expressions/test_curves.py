"""Waves, saturating curves, clipping and interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import special

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.atoms.piecewise import Clip, PiecewiseLinear
from alignkit.expressions.curvature import Monotonicity
from tests.expressions.functions_of_arrays import (
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
