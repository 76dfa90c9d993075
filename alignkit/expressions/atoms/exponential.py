"""Exponentials and logarithms of every entry: exp, logistic, log, log1p, entr."""

from __future__ import annotations

import math
import sys
from typing import Any

import array_api_compat

from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import as_argument, folded
from alignkit.expressions.atoms.elementwise import ConcaveElementwise, ConvexElementwise, clip, lifted
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression

__all__ = ["entr", "exp", "log", "log1p", "logistic"]


class Exp(ConvexElementwise):
    """eˣ."""

    name = "exp"

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(min(exp_of(bounds.lower), sys.float_info.max), exp_of(bounds.upper))

    def _gain(self, position: int) -> float:
        return exp_of(self.args[0].range.upper)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.exp(values[0])

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return result

    def conjugate(self, dual: Array) -> Array:
        """y·log y − y for y ≥ 0."""
        return x_log_x(array_api_compat.array_namespace(dual), dual) - dual

    def project_dual(self, dual: Array) -> Array:
        """Clip to y ≥ 0."""
        return clip(dual, 0.0, None)

    def prox(self, points: Array, step: float) -> Array:
        """z + t·eᶻ = v, solved by the Wright ω function: t·eᶻ = ω(v + log t)."""
        xp = array_api_compat.array_namespace(points)
        moved = wright_omega(xp, points + math.log(step))
        # Both forms are z; far out the first cancels, far in the second.
        return xp.where(moved > 1.0, xp.log(lifted(xp, moved)) - math.log(step), points - moved)


class Logistic(ConvexElementwise):
    """log(1 + eˣ)."""

    name = "logistic"

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(self._at(bounds.lower), self._at(bounds.upper))

    def _at(self, number: float) -> float:
        return max(number, 0.0) + math.log1p(math.exp(-abs(number)))

    def _gain(self, position: int) -> float:
        upper = self.args[0].range.upper
        small = math.exp(-abs(upper))
        return (1.0 if upper >= 0.0 else small) / (1.0 + small)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.logaddexp(values[0], xp.zeros_like(values[0]))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        small = xp.exp(-xp.abs(value))
        return xp.where(value >= 0.0, xp.ones_like(small), small) / (1.0 + small)

    def conjugate(self, dual: Array) -> Array:
        """y·log y + (1 − y)·log(1 − y) on [0, 1]."""
        xp = array_api_compat.array_namespace(dual)
        return x_log_x(xp, dual) + x_log_x(xp, 1.0 - dual)

    def project_dual(self, dual: Array) -> Array:
        """Clip to [0, 1]."""
        return clip(dual, 0.0, 1.0)


class Log(ConcaveElementwise):
    """log x, −inf for x ≤ 0."""

    name = "log"

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return ((0, 0.0, True),)

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        if bounds.upper <= 0.0:
            return Interval()
        return Interval(-math.inf if bounds.lower <= 0.0 else math.log(bounds.lower), math.log(bounds.upper))

    def _gain(self, position: int) -> float:
        lower = self.args[0].range.lower
        return 1.0 / lower if lower > 0.0 else math.inf

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        outside = values[0] <= 0.0
        inside = xp.where(outside, xp.ones_like(values[0]), values[0])
        return xp.where(outside, xp.full_like(inside, -math.inf), xp.log(inside))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 1.0 / lifted(xp, value)

    def prox(self, points: Array, step: float) -> Array:
        """The positive root of z² − vz − t; of −log."""
        return log_prox(points, step)


class Log1p(ConcaveElementwise):
    """log(1 + x), −inf for x ≤ −1."""

    name = "log1p"

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return ((0, -1.0, True),)

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        if bounds.upper <= -1.0:
            return Interval()
        return Interval(-math.inf if bounds.lower <= -1.0 else math.log1p(bounds.lower), math.log1p(bounds.upper))

    def _gain(self, position: int) -> float:
        lower = self.args[0].range.lower
        return 1.0 / (1.0 + lower) if lower > -1.0 else math.inf

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        outside = values[0] <= -1.0
        inside = xp.where(outside, xp.zeros_like(values[0]), values[0])
        return xp.where(outside, xp.full_like(inside, -math.inf), xp.log1p(inside))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 1.0 / lifted(xp, 1.0 + value)

    def prox(self, points: Array, step: float) -> Array:
        """That of −log, moved by 1."""
        return log_prox(points + 1.0, step) - 1.0


class Entr(ConcaveElementwise):
    """−x·log x for x ≥ 0, 0 at 0, −inf for x < 0."""

    name = "entr"

    #: Where the maximum lies; its value is the same number.
    peak = math.exp(-1.0)

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing up to 1/e, decreasing beyond."""
        bounds = self.args[0].range
        if bounds.upper <= self.peak:
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if bounds.lower >= self.peak else Monotonicity.UNKNOWN

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return ((0, 0.0, False),)

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        if bounds.upper < 0.0:
            return Interval()
        ends = self._at(max(bounds.lower, 0.0)), self._at(bounds.upper)
        return Interval(min(ends), self.peak if bounds.lower <= self.peak <= bounds.upper else max(ends))

    def _at(self, number: float) -> float:
        return 0.0 if number == 0.0 else -number * math.log(number)

    def _gain(self, position: int) -> float:
        bounds = self.args[0].range
        if bounds.lower <= 0.0:
            return math.inf
        return max(abs(1.0 + math.log(bounds.lower)), abs(1.0 + math.log(bounds.upper)))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        beside = values[0] <= 0.0
        inside = xp.where(beside, xp.ones_like(values[0]), values[0])
        edge = xp.where(values[0] < 0.0, xp.full_like(inside, -math.inf), xp.zeros_like(inside))
        return xp.where(beside, edge, -inside * xp.log(inside))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return -1.0 - xp.log(lifted(xp, value))

    def prox(self, points: Array, step: float) -> Array:
        """z/t + log(z/t) = v/t − 1 − log t, solved by the Wright ω function; of −entr."""
        xp = array_api_compat.array_namespace(points)
        return step * wright_omega(xp, points / step - 1.0 - math.log(step))


def exp_of(number: float) -> float:
    """eᵗ of a number, inf where it overflows."""
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf


def x_log_x(xp: Any, values: Array) -> Array:
    """x·log x of every entry, 0 for x ≤ 0."""
    inside = xp.where(values > 0.0, values, xp.ones_like(values))
    return inside * xp.log(inside)


def log_prox(points: Array, step: float) -> Array:
    """The positive root of z² − vz − t for every entry v."""
    xp = array_api_compat.array_namespace(points)
    larger = (xp.abs(points) + xp.hypot(points, xp.full_like(points, 2.0 * math.sqrt(step)))) / 2.0
    # The product of the roots is −t: for v < 0 the positive one is t over the magnitude of the other.
    return xp.where(points > 0.0, larger, step / larger)


def wright_omega(xp: Any, values: Array) -> Array:
    """The positive root of w + log w = a for every entry a.

    Newton's method for this increasing concave function: after the first step it rises to the root.

    Arguments:
        xp: the array namespace.
        values: a.

    Returns:
        w, of the same shape.

    Example:
        >>> import numpy as np
        >>> wright_omega(np, np.array([1.0]))
        array([1.])

    Source: R. Corless, D. Jeffrey, "The Wright ω function", 2002.
    """
    # Far to the left w is eᵃ to every digit, which may underflow.
    tail = values < -40.0
    body = xp.where(tail, xp.zeros_like(values), values)
    root = xp.logaddexp(body, xp.zeros_like(body))
    for _ in range(6):
        root = root / (1.0 + root) * (1.0 + body - xp.log(root))
    return xp.where(tail, xp.exp(xp.where(tail, values, xp.zeros_like(values))), root)


def exp(x: Any) -> Expression:
    """The exponential of every entry; convex and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> exp(Variable(2)).value([0.0, 1.0]).round(4)
        array([1.    , 2.7183])
    """
    return folded(Exp(as_argument(x, "exp")))


def logistic(x: Any) -> Expression:
    """log(1 + eˣ) of every entry, the smooth positive part; convex and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> logistic(Variable(2)).value([0.0, 1000.0]).round(4)
        array([6.931e-01, 1.000e+03])
    """
    return folded(Logistic(as_argument(x, "logistic")))


def log(x: Any) -> Expression:
    """The natural logarithm of every entry, for x > 0, −inf elsewhere; concave and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Raises:
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> log(Variable(2)).value([1.0, 0.0])
        array([  0., -inf])
    """
    return folded(Log(as_argument(x, "log")))


def log1p(x: Any) -> Expression:
    """log(1 + x) of every entry, for x > −1, −inf elsewhere, exact for small x; concave and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Raises:
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> log1p(Variable(2)).value([0.0, 1e-20])
        array([0.e+00, 1.e-20])
    """
    return folded(Log1p(as_argument(x, "log1p")))


def entr(x: Any) -> Expression:
    """The entropy −x·log x of every entry, for x ≥ 0, 0 at 0 and −inf elsewhere.

    Concave; increasing up to x = 1/e, where it is largest, and decreasing beyond.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Raises:
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> entr(Variable(3)).value([0.0, 0.5, -1.0]).round(4)
        array([0.    , 0.3466,   -inf])
    """
    return folded(Entr(as_argument(x, "entr")))


ENTRIES = (
    Entry("exp", "convex", "eˣ", exp, (Exp,), exp),
    Entry("logistic", "convex", "log(1 + eˣ)", logistic, (Logistic,), logistic),
    Entry("log", "concave", "log x, for x > 0", log, (Log,), log),
    Entry("log1p", "concave", "log(1 + x), for x > −1", log1p, (Log1p,), log1p),
    Entry("entr", "concave", "−x·log x, for x ≥ 0", entr, (Entr,), entr),
)
