"""Functions of one number whose curvature depends on where the argument lies, smooth ones: waves and saturating ones.

Their curvature and Lipschitz constants are those over the range of the argument: sin is concave on [0, π].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import as_argument, folded
from alignkit.expressions.atoms.elementwise import Elementwise
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression

__all__ = ["arctan", "cos", "sigmoid", "sin", "tanh"]

#: Beyond this angle nothing is said of where in its period a wave is: rounding hides it.
LARGEST_ANGLE = 1e6


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


ENTRIES: tuple[Entry, ...] = (
    Entry("sin", "neither", "sin xᵢ", sin, (Sin,), sin),
    Entry("cos", "neither", "cos xᵢ", cos, (Cos,), cos),
    Entry("tanh", "neither", "tanh xᵢ", tanh, (Tanh,), tanh),
    Entry("sigmoid", "neither", "1/(1 + e^(−xᵢ))", sigmoid, (Sigmoid,), sigmoid),
    Entry("arctan", "neither", "arctan xᵢ", arctan, (Arctan,), arctan),
)
