"""Atoms that act entry by entry: abs, square, huber, pos, neg."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import Atom, as_argument, folded
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression, operations

__all__ = ["abs", "huber", "neg", "pos", "square"]


class Elementwise(Atom):
    """A function of one number, applied to every entry; subclasses give its slope, and the pullback follows."""

    def __init__(self, arg: Expression) -> None:
        super().__init__(arg.shape, (arg,))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        slope = self._slope(xp, values[0], result)
        # Where either factor overflows and the other is 0, the product is 0 and not NaN.
        idle = (cotangent == 0.0) | (slope == 0.0)
        zero = xp.zeros_like(slope)
        return [xp.where(idle, zero, cotangent) * xp.where(idle, zero, slope)]

    @abstractmethod
    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        """The derivative at every entry, a sub- or supergradient at kinks: (n, *shape).

        Arguments:
            xp: the array namespace.
            value: the argument, (n, *shape).
            result: the value of the atom, (n, *shape).
        """


class ConvexElementwise(Elementwise):
    """A convex function of one number, applied to every entry: what to subclass for one that is not among the atoms.

    A subclass has a `name`, and gives `monotonicity`; `_own_range()`, bounds of its value, and `_gain(position)`, a
    Lipschitz constant, both over the range of the argument; and in the array API `_numeric(xp, values)`, its value at
    values[0], (n, *shape), and `_slope(xp, value, result)`, its derivative there, at kinks a subgradient.

    Arguments:
        arg: the argument.

    Example:
        >>> from alignkit.expressions import Interval, Monotonicity, Variable
        >>> class Excess(ConvexElementwise):
        ...     name = "excess"
        ...
        ...     def monotonicity(self, position):
        ...         return Monotonicity.INCREASING
        ...
        ...     def _own_range(self):
        ...         bounds = self.args[0].range
        ...         return Interval(max(bounds.lower - 1.0, 0.0), max(bounds.upper - 1.0, 0.0))
        ...
        ...     def _gain(self, position):
        ...         return 1.0
        ...
        ...     def _numeric(self, xp, values):
        ...         return xp.where(values[0] > 1.0, values[0] - 1.0, 0.0)
        ...
        ...     def _slope(self, xp, value, result):
        ...         return xp.where(value > 1.0, 1.0, 0.0)
        >>> excess = Excess(Variable(2))
        >>> excess.value([3.0, 0.5]), excess.is_convex(), excess.sign.value
        (array([2., 0.]), True, 'nonnegative')
    """

    @property
    def is_atom_convex(self) -> bool:
        """Always true."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False


class ConcaveElementwise(Elementwise):
    """A concave function of one number, applied to every entry; a subclass gives what that of a convex one does.

    Arguments:
        arg: the argument.

    Example:
        >>> from alignkit.expressions import Interval, Monotonicity, Variable
        >>> class Shortfall(ConcaveElementwise):
        ...     name = "shortfall"
        ...
        ...     def monotonicity(self, position):
        ...         return Monotonicity.INCREASING
        ...
        ...     def _own_range(self):
        ...         bounds = self.args[0].range
        ...         return Interval(min(bounds.lower, 0.0), min(bounds.upper, 0.0))
        ...
        ...     def _gain(self, position):
        ...         return 1.0
        ...
        ...     def _numeric(self, xp, values):
        ...         return xp.where(values[0] < 0.0, values[0], 0.0)
        ...
        ...     def _slope(self, xp, value, result):
        ...         return xp.where(value < 0.0, 1.0, 0.0)
        >>> Shortfall(Variable(2)).is_concave()
        True
    """

    @property
    def is_atom_convex(self) -> bool:
        """Always false."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True


class Even(ConvexElementwise):
    """A convex even function of one number, applied to every entry: it falls left of 0 and rises right of it.

    A subclass gives what that of a `ConvexElementwise` does, but for `monotonicity`.

    Arguments:
        arg: the argument.

    Example:
        >>> from alignkit.expressions import Variable
        >>> class Quartic(Even):
        ...     name = "quartic"
        ...
        ...     def _own_range(self):
        ...         return self.args[0].range.magnitude.power(4)
        ...
        ...     def _gain(self, position):
        ...         return 4.0 * self.args[0].range.magnitude.power(3).upper
        ...
        ...     def _numeric(self, xp, values):
        ...         return values[0] ** 4
        ...
        ...     def _slope(self, xp, value, result):
        ...         return 4.0 * value**3
        >>> quartic = Quartic(Variable())
        >>> quartic.is_convex(), quartic.over(0.0, 2.0).lipschitz
        (True, 32.0)
    """

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of the argument."""
        return away_from_zero(self.args[0].range)


def away_from_zero(bounds: Interval) -> Monotonicity:
    """The monotonicity of a function that grows with the magnitude of its argument."""
    if bounds.lower >= 0.0:
        return Monotonicity.INCREASING
    return Monotonicity.DECREASING if bounds.upper <= 0.0 else Monotonicity.UNKNOWN


class Abs(Even):
    """|x|."""

    name = "abs"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude

    def _gain(self, position: int) -> float:
        return 1.0

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.abs(values[0])

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.sign(value)

    def conjugate(self, dual: Array) -> Array:
        """0 on [−1, 1]."""
        return dual * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [−1, 1]."""
        return clip(dual, -1.0, 1.0)

    def prox(self, points: Array, step: float) -> Array:
        """Soft thresholding."""
        return points - clip(points, -step, step)


class Square(Even):
    """x²."""

    name = "square"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude.power(2)

    def _gain(self, position: int) -> float:
        return 2.0 * self.args[0].range.magnitude.upper

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return values[0] * values[0]

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 2.0 * value

    def conjugate(self, dual: Array) -> Array:
        """y²/4."""
        return dual * dual / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Everything is feasible."""
        return dual

    def prox(self, points: Array, step: float) -> Array:
        """v/(1 + 2t)."""
        return points / (1.0 + 2.0 * step)


class Huber(Even):
    """x² for |x| ≤ M, 2M|x| − M² beyond.

    Arguments:
        arg: the argument.
        M: where the quadratic ends.
    """

    name = "huber"

    def __init__(self, arg: Expression, M: float) -> None:
        super().__init__(arg)
        self.M = M

    def _own_range(self) -> Interval:
        bounds = self.args[0].range.magnitude
        return Interval(min(self._at(bounds.lower), sys.float_info.max), self._at(bounds.upper))

    def _at(self, magnitude: float) -> float:
        return magnitude * magnitude if magnitude <= self.M else self.M * (2.0 * magnitude - self.M)

    def _gain(self, position: int) -> float:
        return 2.0 * min(self.M, self.args[0].range.magnitude.upper)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        # With s = min(|x|, M): s² + 2M(|x| − s), which does not overflow where the square would.
        magnitude = xp.abs(values[0])
        small = xp.where(magnitude < self.M, magnitude, xp.full_like(magnitude, self.M))
        return small * small + 2.0 * self.M * (magnitude - small)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 2.0 * clip(value, -self.M, self.M)

    def _options(self) -> Sequence[str]:
        return () if self.M == 1.0 else (f"M={self.M:.6g}",)

    def conjugate(self, dual: Array) -> Array:
        """y²/4 on [−2M, 2M]."""
        return dual * dual / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [−2M, 2M]."""
        return clip(dual, -2.0 * self.M, 2.0 * self.M)

    def prox(self, points: Array, step: float) -> Array:
        """v/(1 + 2t), or a move by 2Mt where that leaves the quadratic."""
        return points - 2.0 * step * clip(points / (1.0 + 2.0 * step), -self.M, self.M)


class Pos(ConvexElementwise):
    """max(x, 0)."""

    name = "pos"

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(max(bounds.lower, 0.0), max(bounds.upper, 0.0))

    def _gain(self, position: int) -> float:
        return 1.0 if self.args[0].range.upper > 0.0 else 0.0

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.where(values[0] <= 0.0, xp.zeros_like(values[0]), values[0])

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.astype(value > 0.0, value.dtype)

    def conjugate(self, dual: Array) -> Array:
        """0 on [0, 1]."""
        return dual * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [0, 1]."""
        return clip(dual, 0.0, 1.0)

    def prox(self, points: Array, step: float) -> Array:
        """Positive points move left by t, as far as 0."""
        return points - clip(points, 0.0, step)


class Neg(ConvexElementwise):
    """max(−x, 0)."""

    name = "neg"

    def monotonicity(self, position: int) -> Monotonicity:
        """Decreasing."""
        return Monotonicity.DECREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval(max(0.0, -bounds.upper), max(0.0, -bounds.lower))

    def _gain(self, position: int) -> float:
        return 1.0 if self.args[0].range.lower < 0.0 else 0.0

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.where(values[0] >= 0.0, xp.zeros_like(values[0]), -values[0])

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return -xp.astype(value < 0.0, value.dtype)

    def conjugate(self, dual: Array) -> Array:
        """0 on [−1, 0]."""
        return dual * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [−1, 0]."""
        return clip(dual, -1.0, 0.0)

    def prox(self, points: Array, step: float) -> Array:
        """Negative points move right by t, as far as 0."""
        return points - clip(points, -step, 0.0)


def clip(values: Array, lower: float | None, upper: float | None) -> Array:
    """Entries moved into [lower, upper]; a method of all three libraries' arrays, as the standard's is recent."""
    return values.clip(lower, upper)


def lifted(xp: Any, values: Array) -> Array:
    """Entries below the smallest positive normal number moved up to it.

    Slopes that are infinite at 0 are taken beside it: they are large then, but come through matrices without NaN.
    """
    least = xp.full_like(values, float(xp.finfo(values.dtype).smallest_normal))
    return xp.where(values < least, least, values)


def abs(x: Any) -> Expression:
    """The absolute value of every entry; convex.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> abs(Variable(2)).value([-1.0, 2.0])
        array([1., 2.])
    """
    return folded(Abs(as_argument(x, "abs")))


def square(x: Any) -> Expression:
    """The square of every entry; convex.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> square(Variable(2)).value([-1.0, 2.0])
        array([1., 4.])
    """
    return folded(Square(as_argument(x, "square")))


def huber(x: Any, M: float = 1.0) -> Expression:
    """Huber's function of every entry, as cvxpy scales it: x² for |x| ≤ M, 2M|x| − M² beyond; convex.

    Arguments:
        x: an expression or a constant.
        M: where the quadratic ends, positive.

    Returns:
        An expression of the same shape.

    Raises:
        ParameterError: M is not a positive number.

    Example:
        >>> from alignkit.expressions import Variable
        >>> huber(Variable(2)).value([0.5, 2.0])
        array([0.25, 3.  ])
    """
    arg = as_argument(x, "huber")
    try:
        width = float(np.asarray(M).item())
    except (TypeError, ValueError):
        width = math.nan
    if not (width > 0.0 and math.isfinite(width)):
        raise ParameterError(f"huber needs a positive number M, not {M!r}.", expression=f"huber({arg}, M={M!r})")
    return folded(Huber(arg, width))


def pos(x: Any) -> Expression:
    """The positive part max(x, 0) of every entry; convex and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> pos(Variable(2)).value([-1.0, 2.0])
        array([0., 2.])
    """
    return folded(Pos(as_argument(x, "pos")))


def neg(x: Any) -> Expression:
    """The negative part max(−x, 0) of every entry; convex and decreasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Example:
        >>> from alignkit.expressions import Variable
        >>> neg(Variable(2)).value([-1.0, 2.0])
        array([1., 0.])
    """
    return folded(Neg(as_argument(x, "neg")))


operations.update(abs=abs, square=square)

ENTRIES = (
    Entry("abs", "convex", "|x|", abs, (Abs,), abs),
    Entry("square", "convex", "x²", square, (Square,), square),
    Entry("huber", "convex", "x² for |x| ≤ M, 2M|x| − M² beyond", lambda x: huber(x, 0.5), (Huber,), huber),
    Entry("pos", "convex", "max(x, 0)", pos, (Pos,), pos),
    Entry("neg", "convex", "max(−x, 0)", neg, (Neg,), neg),
)
