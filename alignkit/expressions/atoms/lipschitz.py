"""Atoms with a Lipschitz constant and, in general, no curvature, down to functions of the user's own.

Their curvature and Lipschitz constants are those over the range of the argument: sin is concave on [0, π].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import (
    Array,
    Floats,
    MovedConstant,
    as_finite,
    constant_like,
    flat,
    is_sparse,
    shape_text,
    to_numpy,
)
from alignkit.expressions.atom import Atom, as_argument, folded
from alignkit.expressions.atoms.elementwise import Elementwise, away_from_zero
from alignkit.expressions.atoms.norms import norm2, p_norm
from alignkit.expressions.atoms.order import maximum, minimum
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed

__all__ = ["arctan", "clip", "cos", "distance_to_points", "lipschitz", "piecewise_linear", "sigmoid", "sin", "tanh"]

#: Beyond this angle nothing is said of where in its period a wave is: rounding hides it.
LARGEST_ANGLE = 1e6
#: Neighbouring slopes that differ by less than this, relative to the steeper, count as equal: rounding of a line.
SLOPE_TOLERANCE = 1e-12
#: Up to this many coordinates distances are summed directly; beyond, points are compared by a matrix product.
LONGEST_LOOP = 16
#: Largest table of distances, in entries (128 MB).
LARGEST_TABLE = 2**24


class Curve(Elementwise):
    """A function of one number, applied to every entry, with the curvature that it has over the argument's range."""

    @property
    def is_atom_convex(self) -> bool:
        """Whether it is convex over the argument's range."""
        return self._is_convex_over(self.args[0].range)

    @property
    def is_atom_concave(self) -> bool:
        """Whether it is concave over the argument's range; where it is both, it is called convex."""
        # Only affine nodes may be both: what is called affine has its linear part read off.
        return not self.is_atom_convex and self._is_concave_over(self.args[0].range)

    @abstractmethod
    def _is_convex_over(self, bounds: Interval) -> bool: ...

    @abstractmethod
    def _is_concave_over(self, bounds: Interval) -> bool: ...

    @abstractmethod
    def _applied(self, xp: Any, value: Array) -> Array:
        """The function of every entry."""

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        value, arg = values[0], self.args[0]
        result = self._applied(xp, value)
        if arg.is_affine() or not (self.is_atom_convex or self.is_atom_concave):
            return result
        # An argument outside its domain is infinite, beyond its range: there, what is convex is inf, not the limit.
        outside = xp.isinf(value) & ((value < arg.range.lower) | (value > arg.range.upper))
        return xp.where(outside, xp.full_like(result, math.inf if self.is_atom_convex else -math.inf), result)


class Wave(Curve):
    """A sine of some phase."""

    #: Where the first crest is; there the derivative falls through 0.
    crest: float

    @staticmethod
    @abstractmethod
    def at(angle: float) -> float:
        """The value at one angle."""

    @staticmethod
    @abstractmethod
    def slope_at(angle: float) -> float:
        """The derivative at one angle."""

    def _is_convex_over(self, bounds: Interval) -> bool:
        return _in_half_turn(bounds, self.crest + math.pi / 2.0)

    def _is_concave_over(self, bounds: Interval) -> bool:
        return _in_half_turn(bounds, self.crest - math.pi / 2.0)

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing or decreasing where the argument stays between a trough and a crest."""
        if _in_half_turn(self.args[0].range, self.crest - math.pi):
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if _in_half_turn(self.args[0].range, self.crest) else Monotonicity.UNKNOWN

    def _own_range(self) -> Interval:
        return _wave_range(self.at, self.args[0].range, self.crest)

    def _gain(self, position: int) -> float:
        return _wave_range(self.slope_at, self.args[0].range, self.crest - math.pi / 2.0).magnitude.upper


class Sin(Wave):
    """sin x."""

    name = "sin"
    crest = math.pi / 2.0

    @staticmethod
    def at(angle: float) -> float:
        """From the standard library."""
        return math.sin(angle)

    @staticmethod
    def slope_at(angle: float) -> float:
        """cos."""
        return math.cos(angle)

    def _applied(self, xp: Any, value: Array) -> Array:
        return xp.sin(value)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.cos(value)


class Cos(Wave):
    """cos x."""

    name = "cos"
    crest = 0.0

    @staticmethod
    def at(angle: float) -> float:
        """From the standard library."""
        return math.cos(angle)

    @staticmethod
    def slope_at(angle: float) -> float:
        """−sin."""
        return -math.sin(angle)

    def _applied(self, xp: Any, value: Array) -> Array:
        return xp.cos(value)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return -xp.sin(value)


def _slack(bounds: Interval) -> float:
    return 1e-12 * max(1.0, bounds.magnitude.upper)


def _in_half_turn(bounds: Interval, start: float) -> bool:
    """Whether the angles lie in [start, start + π], up to whole turns and rounding."""
    if bounds.magnitude.upper > LARGEST_ANGLE:
        return False
    slack = _slack(bounds)
    turns = math.floor((bounds.lower - start + slack) / math.tau)
    return bounds.upper <= start + turns * math.tau + math.pi + slack


def _wave_range(at: Callable[[float], float], bounds: Interval, crest: float) -> Interval:
    """The bounds of a wave of amplitude 1 over angles."""
    if bounds.magnitude.upper > LARGEST_ANGLE:
        return Interval(-1.0, 1.0)
    ends = at(bounds.lower), at(bounds.upper)
    highest = 1.0 if _meets(bounds, crest) else max(ends)
    return Interval(-1.0 if _meets(bounds, crest + math.pi) else min(ends), highest)


def _meets(bounds: Interval, angle: float) -> bool:
    """Whether an angle, up to whole turns, lies within bounds."""
    slack = _slack(bounds)
    return math.floor((bounds.upper - angle + slack) / math.tau) >= math.ceil((bounds.lower - angle - slack) / math.tau)


class Saturating(Curve):
    """A bounded increasing function that is convex left of 0 and concave right of it, with an even derivative."""

    @staticmethod
    @abstractmethod
    def at(number: float) -> float:
        """The value at one number, possibly infinite."""

    @staticmethod
    @abstractmethod
    def slope_at(magnitude: float) -> float:
        """The derivative at a number of this magnitude."""

    def _is_convex_over(self, bounds: Interval) -> bool:
        return bounds.upper <= 0.0

    def _is_concave_over(self, bounds: Interval) -> bool:
        return bounds.lower >= 0.0

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(self.at(bounds.lower), self.at(bounds.upper))

    def _gain(self, position: int) -> float:
        return self.slope_at(self.args[0].range.magnitude.lower)


class Tanh(Saturating):
    """tanh x."""

    name = "tanh"

    @staticmethod
    def at(number: float) -> float:
        """From the standard library."""
        return math.tanh(number)

    @staticmethod
    def slope_at(magnitude: float) -> float:
        """1/cosh², which does not round to 0 where 1 − tanh² does."""
        return math.cosh(min(magnitude, 350.0)) ** -2

    def _applied(self, xp: Any, value: Array) -> Array:
        return xp.tanh(value)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 1.0 - result * result


class Sigmoid(Saturating):
    """1/(1 + e^(−x))."""

    name = "sigmoid"

    @staticmethod
    def at(number: float) -> float:
        """e^min(x, 0) / (1 + e^(−|x|)), which does not overflow."""
        return math.exp(min(number, 0.0)) / (1.0 + math.exp(-abs(number)))

    @staticmethod
    def slope_at(magnitude: float) -> float:
        """A quarter of the slope of tanh at half the number."""
        return 0.25 * Tanh.slope_at(magnitude / 2.0)

    def _applied(self, xp: Any, value: Array) -> Array:
        positive = value >= 0.0
        right = xp.where(positive, value, xp.zeros_like(value))
        left = xp.where(positive, xp.zeros_like(value), value)
        return xp.exp(left) / (1.0 + xp.exp(left - right))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return result * (1.0 - result)


class Arctan(Saturating):
    """arctan x."""

    name = "arctan"

    @staticmethod
    def at(number: float) -> float:
        """From the standard library."""
        return math.atan(number)

    @staticmethod
    def slope_at(magnitude: float) -> float:
        """1/(1 + x²)."""
        return 1.0 / (1.0 + magnitude * magnitude)

    def _applied(self, xp: Any, value: Array) -> Array:
        return xp.atan(value)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 1.0 / (1.0 + value * value)


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


class DistanceToPoints(Atom):
    """min_j ‖x − p_j‖, Euclidean over all entries.

    Arguments:
        arg: the argument.
        points: (m, *arg.shape), float64.
    """

    name = "distance_to_points"

    def __init__(self, arg: Expression, points: Floats) -> None:
        super().__init__((), (arg,))
        self.points = points
        rows = points.reshape(len(points), -1)
        # Squared distances lose the fewest digits about the points' own centre.
        centre = rows.mean(axis=0)
        self._centre, self._rows = MovedConstant(centre), MovedConstant(rows - centre)

    @property
    def is_atom_convex(self) -> bool:
        """Always false: the distance to a single point is norm2."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Known where the argument lies beyond all points in every entry."""
        bounds = self.args[0].range
        return away_from_zero(
            Interval(bounds.lower - float(self.points.max()), bounds.upper - float(self.points.min()))
        )

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_range(self) -> Interval:
        bounds, rows = self.args[0].range, self.points.reshape(len(self.points), -1)
        nearest = np.maximum(np.maximum(bounds.lower - rows, rows - bounds.upper), 0.0)
        farthest = np.maximum(np.abs(bounds.lower - rows), np.abs(bounds.upper - rows))
        return Interval(*(float(np.linalg.norm(offsets, axis=1).min()) for offsets in (nearest, farthest)))

    def _nearest(self, xp: Any, value: Array) -> Array:
        """x less the nearest point, (n, d)."""
        rows, points = flat(xp, value) - self._centre.like(value), self._rows.like(value)
        block = max(1, LARGEST_TABLE // max(1, rows.shape[0]))
        least, place = _closest(xp, rows, points[:block])
        for start in range(block, points.shape[0], block):
            found, where = _closest(xp, rows, points[start : start + block])
            place = xp.where(found < least, where + start, place)
            least = xp.where(found < least, found, least)
        return rows - xp.take(points, place, axis=0)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return p_norm(xp, self._nearest(xp, values[0]), 2.0, (1,))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        scale = cotangent / xp.where(result > 0.0, result, xp.ones_like(result))
        return [xp.reshape(scale[:, None] * self._nearest(xp, values[0]), values[0].shape)]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.name}({parts[0][0]}, [{shape_text(self.points.shape)} constant])", CALL


def _closest(xp: Any, rows: Array, points: Array) -> tuple[Array, Array]:
    """The least ‖x − p‖² over points less ‖x‖² or a constant, and which point it is; (n,) each."""
    if rows.shape[1] <= LONGEST_LOOP:
        squares = (rows[:, :1] - points[:, 0]) ** 2
        for column in range(1, rows.shape[1]):
            squares = squares + (rows[:, column : column + 1] - points[:, column]) ** 2
    else:
        squares = xp.sum(points * points, axis=1) - 2.0 * (rows @ points.T)
    return xp.min(squares, axis=1), xp.argmin(squares, axis=1)


class UserFunction(Atom):
    """A function of the user's own, of which a Lipschitz constant is declared.

    Arguments:
        arg: the argument.
        function: from (n, *arg.shape) to (n,).
        constant: the declared Lipschitz constant.
        derivative: from (n, *arg.shape) to the gradients, of the same shape; or None.
        bounds: the declared range.
    """

    def __init__(
        self,
        arg: Expression,
        function: Callable[[Any], Any],
        constant: float,
        derivative: Callable[[Any], Any] | None,
        bounds: Interval,
    ) -> None:
        super().__init__((), (arg,))
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.function, self.derivative = function, derivative
        self.declared_lipschitz, self.declared_range = constant, bounds

    @property
    def is_atom_convex(self) -> bool:
        """Always false: nothing is known."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Unknown."""
        return Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return self.declared_lipschitz

    def _own_range(self) -> Interval:
        return self.declared_range

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        result = self._checked(xp, self.function(values[0]), (values[0].shape[0],), self.name)
        if _is_true(~xp.all(xp.isfinite(result))):
            self._refuse_nonfinite(values[0], result)
        return xp.astype(result, values[0].dtype)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        if self.derivative is None:
            raise ParameterError(
                f"{self.name} has no derivative here: it is a function of your own.",
                expression=str(self),
                ways_out=(
                    f"lipschitz({self.name}, constant, expression, gradient=…)",
                    "automatic differentiation of expression.value(x) by torch or jax",
                ),
            )
        gradient = self._checked(xp, self.derivative(values[0]), tuple(values[0].shape), f"gradient of {self.name}")
        wide = xp.reshape(cotangent, (cotangent.shape[0],) + (1,) * self.args[0].ndim)
        return [wide * xp.astype(gradient, values[0].dtype)]

    def _checked(self, xp: Any, result: Any, shape: tuple[int, ...], what: str) -> Array:
        if not array_api_compat.is_array_api_obj(result) or array_api_compat.array_namespace(result) is not xp:
            raise ParameterError(
                f"The {what} returned a {type(result).__name__}: it takes and returns arrays of one library.",
                expression=str(self),
            )
        if tuple(result.shape) != shape:
            raise ShapeError(
                f"The {what} returned shape {tuple(result.shape)} for a batch of shape "
                f"{(shape[0], *self.args[0].shape)}, and {shape} is needed.",
                expression=str(self),
                ways_out=("the first axis is the batch: reduce all others",) if len(shape) == 1 else (),
            )
        return result

    def _refuse_nonfinite(self, value: Array, result: Array) -> None:
        points, found = to_numpy(value).reshape(len(value), -1), to_numpy(result)
        # Where the argument itself is outside its domain the function is not to blame.
        at_fault = np.flatnonzero(~np.isfinite(found) & np.isfinite(points).all(axis=1))
        if at_fault.size:
            row = int(at_fault[0])
            point = points[row].reshape(self.args[0].shape)
            shown = np.array2string(point, precision=6, threshold=8, edgeitems=2)
            raise NonFiniteError(
                f"{self.name} returned {found[row]} in row {row} of the batch, for the input {shown}.",
                expression=str(self),
                ways_out=("a Lipschitz function is finite at every finite point",),
            )

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.name}({parts[0][0]})", CALL


def _is_true(flag: Array) -> bool:
    try:
        return bool(flag)
    except (
        RuntimeError,
        TypeError,
    ):  # under a jax or torch transformation, and on the meta device, there are no values
        return False


def sin(x: Any) -> Expression:
    """The sine of every entry; Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant, in radians.

    Returns:
        An expression of the same shape; convex or concave where the range of x stays in such a half period.

    Example:
        >>> from alignkit.expressions import Variable
        >>> sin(Variable()).over(0.0, 3.0).curvature
        <Curvature.CONCAVE: 'concave'>
    """
    return folded(Sin(as_argument(x, "sin")))


def cos(x: Any) -> Expression:
    """The cosine of every entry; Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant, in radians.

    Returns:
        An expression of the same shape; convex or concave where the range of x stays in such a half period.

    Example:
        >>> from alignkit.expressions import Variable
        >>> cos(Variable()).over(-1.0, 1.0).curvature
        <Curvature.CONCAVE: 'concave'>
    """
    return folded(Cos(as_argument(x, "cos")))


def tanh(x: Any) -> Expression:
    """The hyperbolic tangent of every entry; increasing, Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape; convex where x ≤ 0, concave where x ≥ 0.

    Example:
        >>> from alignkit.expressions import Variable
        >>> tanh(Variable()).range
        Interval(lower=-1.0, upper=1.0)
    """
    return folded(Tanh(as_argument(x, "tanh")))


def sigmoid(x: Any) -> Expression:
    """The logistic function 1/(1 + e^(−x)) of every entry; increasing, Lipschitz with constant 1/4.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape; convex where x ≤ 0, concave where x ≥ 0.

    Example:
        >>> from alignkit.expressions import Variable
        >>> sigmoid(Variable()).lipschitz
        0.25
    """
    return folded(Sigmoid(as_argument(x, "sigmoid")))


def arctan(x: Any) -> Expression:
    """The inverse tangent of every entry; increasing, Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape; convex where x ≤ 0, concave where x ≥ 0.

    Example:
        >>> from alignkit.expressions import Variable
        >>> arctan(Variable()).over(2.0, 3.0).lipschitz
        0.2
    """
    return folded(Arctan(as_argument(x, "arctan")))


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
    low = -math.inf if lower is None else _number(lower)
    high = math.inf if upper is None else _number(upper)
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
    places = _entries(breakpoints, "piecewise_linear: the breakpoints")
    heights = _entries(values, "piecewise_linear: the values")
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


def distance_to_points(x: Any, points: Any) -> Expression:
    """The Euclidean distance to the nearest of several points, min_j ‖x − p_j‖; Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant.
        points: constants (m, *x.shape).

    Returns:
        A scalar expression; norm2(x − p) for a single point.

    Raises:
        ShapeError: the points are not of x's shape.
        ParameterError: the points are not constant.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(distance_to_points(Variable(2), [[0.0, 0.0], [5.0, 5.0]]).value([5.0, 4.0]))
        1.0
    """
    arg = as_argument(x, "distance_to_points")
    found = _entries(points, "distance_to_points: the points")
    if found.shape[1:] != arg.shape or found.ndim != arg.ndim + 1:
        shape = ", ".join(["m", *(str(length) for length in arg.shape)])
        raise ShapeError(
            f"distance_to_points: {arg} has shape {arg.shape}, and the points have {found.shape}, not ({shape}).",
            ways_out=("points[None] for a single point",) if found.shape == arg.shape else (),
        )
    return norm2(arg - found[0]) if len(found) == 1 else folded(DistanceToPoints(arg, found))


def lipschitz(
    fn: Callable[[Any], Any],
    constant: float,
    expression: Any,
    *,
    gradient: Callable[[Any], Any] | None = None,
    range: tuple[float, float] | None = None,
) -> Expression:
    """A function of your own, with a Lipschitz constant that you vouch for: nothing here can check it.

    Arguments:
        fn: takes a batch (n, *expression.shape) of numpy, torch or jax arrays, as it comes, and returns (n,) in the
            same library.
        constant: L with |fn(a) − fn(b)| ≤ L‖a − b‖, Euclidean over all entries; finite, not negative.
        expression: what fn is applied to.
        gradient: takes the same batch to the gradients (n, *expression.shape). Without it `.gradient()` is refused,
            while torch and jax differentiate fn as they do any code.
        range: bounds (lower, upper) of fn, possibly infinite.

    Returns:
        A scalar expression of unknown curvature, which prints under fn's own name.

    Raises:
        ParameterError: fn is not callable, the constant is not a nonnegative number, or the range is not in order.
        ShapeError, NonFiniteError: when evaluated, fn returns another shape, or a NaN or infinity for a finite input.

    Example:
        >>> from alignkit.expressions import Variable
        >>> def roughness(x):
        ...     return abs(x[:, 1:] - x[:, :-1]).max(1)
        >>> reward = lipschitz(roughness, 2.0**0.5, Variable(3))
        >>> str(reward), float(reward.value([0.0, 3.0, 1.0]))
        ('roughness(x)', 3.0)
    """
    if not callable(fn):
        raise ParameterError(
            f"lipschitz(fn, constant, expression) takes a function first, not {fn}.", expression=str(expression)
        )
    arg = as_argument(expression, "lipschitz")
    if gradient is not None and not callable(gradient):
        raise ParameterError(f"lipschitz: gradient is a function, not {gradient!r}.", expression=str(arg))
    rate = _number(constant)
    if not 0.0 <= rate < math.inf:
        raise ParameterError(
            f"lipschitz needs a finite constant that is not negative, not {constant!r}.",
            expression=f"lipschitz({getattr(fn, '__name__', fn)}, {constant!r}, {arg})",
        )
    bounds = Interval()
    if range is not None:
        ends = [_number(end) for end in range] if isinstance(range, tuple | list) else []
        if len(ends) != 2 or not ends[0] <= ends[1]:
            raise ParameterError(f"lipschitz: range is (lower, upper) in order, not {range!r}.", expression=str(arg))
        bounds = Interval(ends[0], ends[1])
    return folded(UserFunction(arg, fn, rate, gradient, bounds))


def black_box(fn: Callable[[Any], Any], expression: Expression) -> Expression:
    """A function of the user's own of which nothing at all is known.

    Arguments:
        fn: takes a batch (n, *expression.shape) of numpy, torch or jax arrays, and returns (n,) in the same library.
        expression: what it is applied to.

    Example:
        >>> from alignkit.expressions import Variable
        >>> black_box(lambda x: x[:, 0] ** 3, Variable(2)).lipschitz
        inf
    """
    return UserFunction(expression, fn, math.inf, None, Interval())


def _number(value: Any) -> float:
    """A real number as a float, NaN for anything else."""
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if is_real else math.nan


def _entries(value: Any, what: str) -> Floats:
    if isinstance(value, Expression):
        if value.depends or value.parameters():
            raise ParameterError(f"{what} are constants, and {value} is not.")
        value = value.value()
    found = as_finite(value, what)
    return found.toarray() if is_sparse(found) else found  # type: ignore[no-any-return]


def sum_of_sines(values: Array) -> Array:
    """Σ sin xᵢ of each row of a batch, for the example of `lipschitz`."""
    xp = array_api_compat.array_namespace(values)
    return xp.sum(xp.sin(flat(xp, values)), axis=1)


def cosines(values: Array) -> Array:
    """The gradient of `sum_of_sines`."""
    return array_api_compat.array_namespace(values).cos(values)


ENTRIES: tuple[Entry, ...] = (
    Entry("sin", "neither", "sin xᵢ", sin, (Sin,), sin),
    Entry("cos", "neither", "cos xᵢ", cos, (Cos,), cos),
    Entry("tanh", "neither", "tanh xᵢ", tanh, (Tanh,), tanh),
    Entry("sigmoid", "neither", "1/(1 + e^(−xᵢ))", sigmoid, (Sigmoid,), sigmoid),
    Entry("arctan", "neither", "arctan xᵢ", arctan, (Arctan,), arctan),
    Entry("clip", "neither", "min(max(xᵢ, l), u)", lambda x: clip(x, -0.5, 1.0), (Clip,), clip),
    Entry(
        "piecewise_linear",
        "neither",
        "interpolation between points (b, v)",
        lambda x: piecewise_linear(x, [-1.0, 0.0, 0.5, 2.0], [0.0, 1.0, -1.0, 0.5]),
        (PiecewiseLinear,),
        piecewise_linear,
    ),
    Entry(
        "distance_to_points",
        "neither",
        "min ‖x − pⱼ‖ over points",
        lambda x: distance_to_points(x, np.stack([np.zeros(x.shape), np.ones(x.shape)])),
        (DistanceToPoints,),
        distance_to_points,
    ),
    Entry(
        "lipschitz",
        "neither",
        "fn(x), with |fn(x) − fn(y)| ≤ L‖x − y‖",
        lambda x: lipschitz(sum_of_sines, math.sqrt(x.size), x, gradient=cosines),
        (UserFunction,),
        lipschitz,
    ),
)
