"""Piecewise linear functions of one number, with the curvature that they have over the range of the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, as_number, constant_like, shape_text
from alignkit.expressions.atom import as_argument, constant_argument, folded
from alignkit.expressions.atoms.curves import Curve
from alignkit.expressions.atoms.order import maximum, minimum
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed

__all__ = ["clip", "piecewise_linear"]

#: Neighbouring slopes that differ by less than this, relative to the steeper, count as equal: rounding of a line.
SLOPE_TOLERANCE = 1e-12


class Clip(Curve):
    """min(max(x, lower), upper).

    Arguments:
        arg: the argument.
        lower: finite.
        upper: finite, above `lower`.
    """

    name = "clip"

    def __init__(self, arg: Expression, lower: float, upper: float) -> None:
        super().__init__(arg)
        self.lower, self.upper = lower, upper

    def _is_convex_over(self, bounds: Interval) -> bool:
        return bounds.upper <= self.upper or bounds.lower >= self.upper

    def _is_concave_over(self, bounds: Interval) -> bool:
        return bounds.lower >= self.lower or bounds.upper <= self.lower

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(
            min(max(bounds.lower, self.lower), self.upper),
            min(max(bounds.upper, self.lower), self.upper),
        )

    def _gain(self, position: int) -> float:
        bounds = self.args[0].range
        return 1.0 if bounds.lower < self.upper and bounds.upper > self.lower else 0.0

    def _applied(self, xp: Any, value: Array) -> Array:
        return value.clip(self.lower, self.upper)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.astype((value >= self.lower) & (value <= self.upper), value.dtype)

    def _options(self) -> Sequence[str]:
        return (f"{self.lower:.6g}", f"{self.upper:.6g}")


class PiecewiseLinear(Curve):
    """Linear interpolation between breakpoints; the first and the last slope go on beyond them.

    Arguments:
        arg: the argument.
        breakpoints: (m,), m ≥ 2, strictly increasing, float64.
        values: the function there, (m,), float64.
    """

    name = "piecewise_linear"

    def __init__(self, arg: Expression, breakpoints: Floats, values: Floats) -> None:
        super().__init__(arg)
        self.breakpoints, self.values = breakpoints, values
        #: The slope of every segment, (m − 1,).
        self.slopes = np.diff(values) / np.diff(breakpoints)
        self._kinks = MovedConstant(breakpoints[1:-1])
        self._starts = MovedConstant(np.stack([breakpoints[:-1], values[:-1], self.slopes]))

    def _segments(self, bounds: Interval) -> slice:
        """The segments that the argument can be in."""
        inner = self.breakpoints[1:-1]
        first = int(np.searchsorted(inner, bounds.lower, side="right"))
        last = int(np.searchsorted(inner, bounds.upper, side="left"))
        return slice(first, max(first, last) + 1)

    def _bends(self, slopes: Floats, direction: float) -> bool:
        """Whether slopes rise (direction 1) or fall (−1) throughout."""
        magnitude = np.abs(slopes)
        slack = SLOPE_TOLERANCE * np.maximum(magnitude[1:], magnitude[:-1])
        return bool((direction * np.diff(slopes) >= -slack).all())

    def _is_convex_over(self, bounds: Interval) -> bool:
        return self._bends(self.slopes[self._segments(bounds)], 1.0)

    def _is_concave_over(self, bounds: Interval) -> bool:
        return self._bends(self.slopes[self._segments(bounds)], -1.0)

    def monotonicity(self, position: int) -> Monotonicity:
        """By the signs of the slopes that the argument can meet."""
        slopes = self.slopes[self._segments(self.args[0].range)]
        if (slopes >= 0.0).all():
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if (slopes <= 0.0).all() else Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return float(np.abs(self.slopes[self._segments(self.args[0].range)]).max())

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        within = (self.breakpoints > bounds.lower) & (self.breakpoints < bounds.upper)
        met = [self._at(bounds.lower), self._at(bounds.upper), *self.values[within].tolist()]
        return Interval(min(met), max(met))

    def _at(self, number: float) -> float:
        segment = int(np.searchsorted(self.breakpoints[1:-1], number, side="right"))
        start, value, slope = (float(row[segment]) for row in self._starts.value)
        return value if slope == 0.0 else value + slope * (number - start)

    def _found(self, xp: Any, value: Array) -> tuple[Array, Array, Array]:
        """For every entry its segment's start, the value there, and its slope."""
        entries = xp.reshape(value, (-1,))
        place = xp.searchsorted(self._kinks.like(value), entries, side="right")
        starts = self._starts.like(value)
        start, level, slope = (xp.reshape(xp.take(starts[row], place, axis=0), value.shape) for row in range(3))
        return start, level, slope

    def _applied(self, xp: Any, value: Array) -> Array:
        start, level, slope = self._found(xp, value)
        # On a level segment an infinite entry has a value too.
        return level + slope * xp.where(slope == 0.0, xp.zeros_like(value), value - start)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return self._found(xp, value)[2]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        constant = f"[{shape_text(self.breakpoints.shape)} constant]"
        return f"{self.name}({parts[0][0]}, {constant}, {constant})", CALL

    def conjugate(self, dual: Array) -> Array:
        """y·b − φ(b) at the breakpoint b where the slopes pass y."""
        self._need_bend(1.0, "a conjugate only where its slopes rise")
        xp = array_api_compat.array_namespace(dual)
        rising = constant_like(np.maximum.accumulate(self.slopes), dual)
        entries = xp.reshape(dual, (-1,))
        place = xp.searchsorted(rising, entries, side="left")
        start, value = (xp.take(constant_like(row, dual), place, axis=0) for row in (self.breakpoints, self.values))
        return xp.reshape(entries * start - value, dual.shape)

    def project_dual(self, dual: Array) -> Array:
        """Clip to the first and the last slope."""
        self._need_bend(1.0, "a conjugate only where its slopes rise")
        return dual.clip(float(self.slopes[0]), float(self.slopes[-1]))

    def prox(self, points: Array, step: float) -> Array:
        """On a segment of slope s, v − step·s; v stops at a breakpoint where it would pass it from both sides."""
        sign = 1.0 if self._bends(self.slopes, 1.0) else -1.0
        self._need_bend(sign, "a proximal map only where its slopes rise, or fall, throughout")
        xp = array_api_compat.array_namespace(points)
        slopes = constant_like(np.maximum.accumulate(sign * self.slopes), points)
        breakpoints = constant_like(self.breakpoints[1:], points)
        # The points from which a breakpoint is reached are an interval; between those intervals lie the segments.
        ends = xp.stack([breakpoints[:-1] + step * slopes[:-1], breakpoints[:-1] + step * slopes[1:]], axis=1)
        entries = xp.reshape(points, (-1,))
        place = xp.searchsorted(xp.reshape(ends, (-1,)), entries, side="right")
        segment = place // 2
        moved = entries - step * xp.take(slopes, segment, axis=0)
        return xp.reshape(xp.where(place % 2 == 1, xp.take(breakpoints, segment, axis=0), moved), points.shape)

    def _need_bend(self, direction: float, what: str) -> None:
        if not self._bends(self.slopes, direction):
            raise ParameterError(
                f"{self.name} has {what}, and they are {self.slopes}.",
                expression=str(self),
            )


def clip(x: Any, lower: float | None = None, upper: float | None = None) -> Expression:
    """Every entry moved into an interval; increasing, Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant.
        lower: the lower end, or None for maximum's mirror image, minimum(x, upper).
        upper: the upper end, or None for maximum(x, lower).

    Returns:
        An expression of the same shape.

    Raises:
        ParameterError: an end is not a number, both are missing, or they are not in order.

    Example:
        >>> from alignkit.expressions import Variable
        >>> clip(Variable(3), -1.0, 1.0).value([-2.0, 0.5, 2.0])
        array([-1. ,  0.5,  1. ])
    """
    arg = as_argument(x, "clip")
    low = -math.inf if lower is None else as_number(lower)
    high = math.inf if upper is None else as_number(upper)
    if not low <= high or low == math.inf or high == -math.inf or (low == -math.inf and high == math.inf):
        raise ParameterError(
            f"clip(x, lower, upper) takes one number or two in order, not {lower!r} and {upper!r}.",
            expression=f"clip({arg}, {lower!r}, {upper!r})",
        )
    if high == math.inf:
        return maximum(arg, low)
    if low == -math.inf:
        return minimum(arg, high)
    return 0.0 * arg + low if low == high else folded(Clip(arg, low, high))


def piecewise_linear(x: Any, breakpoints: Any, values: Any) -> Expression:
    """Linear interpolation of every entry between breakpoints; the first and the last slope go on beyond them.

    Arguments:
        x: an expression or a constant.
        breakpoints: constants (m,), m ≥ 2, strictly increasing.
        values: the function there, constants (m,).

    Returns:
        An expression of the same shape: convex where the slopes rise, concave where they fall, over the range of x.

    Raises:
        ParameterError: the breakpoints do not increase, or are not constant.
        ShapeError: the two have not one axis of the same length, at least 2.
        NonFiniteError: a constant or a slope is not finite.

    Example:
        >>> from alignkit.expressions import Variable
        >>> piecewise_linear(Variable(3), [0.0, 1.0, 3.0], [0.0, 2.0, 0.0]).value([-1.0, 0.5, 4.0])
        array([-2.,  1., -1.])
    """
    arg = as_argument(x, "piecewise_linear")
    places = constant_argument(breakpoints, "piecewise_linear: the breakpoints")
    heights = constant_argument(values, "piecewise_linear: the values")
    if places.ndim != 1 or places.shape != heights.shape or places.size < 2:
        raise ShapeError(
            "piecewise_linear takes breakpoints and values of one axis and one length, at least 2, not of shapes "
            f"{places.shape} and {heights.shape}.",
            expression=f"piecewise_linear({arg}, …)",
        )
    if not (np.diff(places) > 0.0).all():
        raise ParameterError(
            f"piecewise_linear takes strictly increasing breakpoints, not {places}.",
            expression=f"piecewise_linear({arg}, …)",
            ways_out=("sort them, with their values", "two breakpoints close together for a jump"),
        )
    with np.errstate(over="ignore"):
        node = PiecewiseLinear(arg, places, heights)
    if not np.isfinite(node.slopes).all():
        raise NonFiniteError(f"piecewise_linear: the slopes {node.slopes} overflow.", expression=str(node))
    if places.size == 2:
        return float(node.slopes[0]) * (arg - float(places[0])) + float(heights[0])
    return folded(node)


ENTRIES: tuple[Entry, ...] = (
    Entry("clip", "neither", "min(max(xᵢ, l), u)", lambda x: clip(x, -0.5, 1.0), (Clip,), clip),
    Entry(
        "piecewise_linear",
        "neither",
        "interpolation between points (b, v)",
        lambda x: piecewise_linear(x, [-1.0, 0.0, 0.5, 2.0], [0.0, 1.0, -1.0, 0.5]),
        (PiecewiseLinear,),
        piecewise_linear,
    ),
)
