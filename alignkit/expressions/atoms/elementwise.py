"""Atoms that act entry by entry: abs, square, huber, pos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import Atom, as_argument, folded
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.expression import Expression, operations

__all__ = ["abs", "huber", "pos", "square"]


class Elementwise(Atom):
    """A convex function of one number, applied to every entry."""

    def __init__(self, arg: Expression) -> None:
        super().__init__(arg.shape, (arg,))

    @property
    def is_atom_convex(self) -> bool:
        """Always true."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False


class Even(Elementwise):
    """A convex even function: it increases right of 0 and decreases left of it."""

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

    def conjugate(self, dual: Array) -> Array:
        """0 on [−1, 1]."""
        return dual * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [−1, 1]."""
        return clip(dual, -1.0, 1.0)


class Square(Even):
    """x²."""

    name = "square"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude.power(2)

    def _gain(self, position: int) -> float:
        return 2.0 * self.args[0].range.magnitude.upper

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return values[0] * values[0]

    def conjugate(self, dual: Array) -> Array:
        """y²/4."""
        return dual * dual / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Everything is feasible."""
        return dual


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
        return Interval(self._at(bounds.lower), self._at(bounds.upper))

    def _at(self, magnitude: float) -> float:
        return magnitude**2 if magnitude <= self.M else 2.0 * self.M * magnitude - self.M**2

    def _gain(self, position: int) -> float:
        return 2.0 * min(self.M, self.args[0].range.magnitude.upper)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        # With s = min(|x|, M): s² + 2M(|x| − s), which does not overflow where the square would.
        magnitude = xp.abs(values[0])
        small = xp.where(magnitude < self.M, magnitude, xp.full_like(magnitude, self.M))
        return small * small + 2.0 * self.M * (magnitude - small)

    def _options(self) -> Sequence[str]:
        return () if self.M == 1.0 else (f"M={self.M:.6g}",)

    def conjugate(self, dual: Array) -> Array:
        """y²/4 on [−2M, 2M]."""
        return dual * dual / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [−2M, 2M]."""
        return clip(dual, -2.0 * self.M, 2.0 * self.M)


class Pos(Elementwise):
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
        return xp.where(values[0] > 0.0, values[0], xp.zeros_like(values[0]))

    def conjugate(self, dual: Array) -> Array:
        """0 on [0, 1]."""
        return dual * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Clip to [0, 1]."""
        return clip(dual, 0.0, 1.0)


def clip(values: Array, lower: float, upper: float) -> Array:
    """Entries moved into [lower, upper]; a method of all three libraries' arrays, as the standard's is recent."""
    return values.clip(lower, upper)


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


operations.update(abs=abs, square=square)
