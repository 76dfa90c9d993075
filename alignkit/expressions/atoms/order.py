"""Largest and smallest entries: max, min, maximum, minimum, and log_sum_exp, the smooth maximum."""

from __future__ import annotations

import builtins
import math
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions.affine import broadcast_pair
from alignkit.expressions.arrays import Array, flat, logsumexp
from alignkit.expressions.atom import Atom, Reduction, as_argument, folded
from alignkit.expressions.atoms.norms import project_simplex
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.expression import Expression
from alignkit.expressions.layout import broadcast_to
from alignkit.expressions.linear import affine_row_norms

__all__ = ["log_sum_exp", "max", "maximum", "min", "minimum"]


class Selecting(Reduction):
    """A reduction with gradient in the simplex: increasing, and moving with a common shift of the entries."""

    @property
    def is_atom_convex(self) -> bool:
        """True unless overridden."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """False unless overridden."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_range(self) -> Interval:
        return self.args[0].range

    def _own_lipschitz(self) -> float:
        general = super()._own_lipschitz()
        rows = affine_row_norms(self.args[0]) if self.size == 1 else None
        return general if rows is None else builtins.min(general, float(rows.max()))


class Max(Selecting):
    """The largest entry."""

    name = "max"

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return xp.max(values[0], axis=axes) if axes else values[0]

    def conjugate(self, dual: Array) -> Array:
        """0 on the simplex."""
        self._whole()
        return flat(array_api_compat.array_namespace(dual), dual)[:, 0] * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Project onto the simplex."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        return xp.reshape(project_simplex(flat(xp, dual)), dual.shape)


class Min(Selecting):
    """The smallest entry; −max(−x)."""

    name = "min"

    @property
    def is_atom_convex(self) -> bool:
        """Always false."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return xp.min(values[0], axis=axes) if axes else values[0]


class LogSumExp(Selecting):
    """log Σ exp x_i."""

    name = "log_sum_exp"

    def _own_range(self) -> Interval:
        bounds, shift = self.args[0].range, math.log(self.count)
        return Interval(bounds.lower + shift, bounds.upper + shift)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return logsumexp(xp, values[0], axes) if axes else values[0]

    def conjugate(self, dual: Array) -> Array:
        """The negative entropy Σ y log y, on the simplex."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        rows = flat(xp, dual)
        safe = xp.where(rows > 0.0, rows, xp.ones_like(rows))
        return xp.sum(safe * xp.log(safe), axis=1)

    def project_dual(self, dual: Array) -> Array:
        """Project onto the simplex."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        return xp.reshape(project_simplex(flat(xp, dual)), dual.shape)


class Maximum(Atom):
    """The larger of several arrays, entry by entry.

    Arguments:
        args: at least two expressions of one shape.
    """

    name = "maximum"

    def __init__(self, args: tuple[Expression, ...]) -> None:
        super().__init__(args[0].shape, args)

    @property
    def is_atom_convex(self) -> bool:
        """Always true here."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false here."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_lipschitz(self) -> float:
        # |max a − max b| ≤ max |a − b| entry by entry, and a maximum of squares is at most their sum.
        constants = [arg.lipschitz for arg in self.args]
        return builtins.max(constants) if self.size == 1 else math.hypot(*constants)

    def _own_range(self) -> Interval:
        ranges = [arg.range for arg in self.args]
        return Interval(builtins.max(one.lower for one in ranges), builtins.max(one.upper for one in ranges))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        largest = values[0]
        for value in values[1:]:
            largest = xp.where(largest >= value, largest, value)
        return largest


class Minimum(Maximum):
    """The smaller of several arrays, entry by entry; −maximum(−x, …)."""

    name = "minimum"

    @property
    def is_atom_convex(self) -> bool:
        """Always false."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True

    def _own_range(self) -> Interval:
        ranges = [arg.range for arg in self.args]
        return Interval(builtins.min(one.lower for one in ranges), builtins.min(one.upper for one in ranges))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        smallest = values[0]
        for value in values[1:]:
            smallest = xp.where(smallest <= value, smallest, value)
        return smallest


def max(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The largest entry; convex and increasing.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(max(Variable(2)).value([3.0, -4.0]))
        3.0
    """
    return folded(Max(_reducible(x, "max"), axis))


def min(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The smallest entry; concave and increasing.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(min(Variable(2)).value([3.0, -4.0]))
        -4.0
    """
    return folded(Min(_reducible(x, "min"), axis))


def log_sum_exp(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """log Σ exp of the entries; convex and increasing.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> round(float(log_sum_exp(Variable(2)).value([1000.0, 1000.0])), 4)
        1000.6931
    """
    return folded(LogSumExp(as_argument(x, "log_sum_exp"), axis))


def maximum(first: Any, second: Any, *others: Any) -> Expression:
    """The larger of two or more arrays, entry by entry, with numpy's broadcasting; convex and increasing.

    Arguments:
        first: an expression or a constant.
        second: an expression or a constant.
        others: any number of further ones.

    Returns:
        An expression of the broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> from alignkit.expressions import Variable
        >>> maximum(Variable(2), 0.0).value([3.0, -4.0])
        array([3., 0.])
    """
    return folded(Maximum(_matched((first, second, *others), "maximum")))


def minimum(first: Any, second: Any, *others: Any) -> Expression:
    """The smaller of two or more arrays, entry by entry, with numpy's broadcasting; concave and increasing.

    Arguments:
        first: an expression or a constant.
        second: an expression or a constant.
        others: any number of further ones.

    Returns:
        An expression of the broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> from alignkit.expressions import Variable
        >>> minimum(Variable(2), 0.0).value([3.0, -4.0])
        array([ 0., -4.])
    """
    return folded(Minimum(_matched((first, second, *others), "minimum")))


def _reducible(x: Any, name: str) -> Expression:
    if isinstance(x, list | tuple) and any(isinstance(entry, Expression) for entry in x):
        raise ParameterError(
            f"{name} takes one array, not a list of expressions.",
            ways_out=(f"{name}(stack([...])) or {name}imum(a, b, ...)",),
        )
    return as_argument(x, name)


def _matched(values: tuple[Any, ...], name: str) -> tuple[Expression, ...]:
    args = [as_argument(value, name) for value in values]
    shape = args[0].shape
    for arg in args[1:]:
        broadcast_pair(args[0], arg, name)
        shape = np.broadcast_shapes(shape, arg.shape)
    return tuple(broadcast_to(arg, shape) for arg in args)
