"""Largest and smallest entries: max, min, maximum, minimum, sums of several, and log_sum_exp, the smooth maximum."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions.affine import broadcast_pair
from alignkit.expressions.arrays import Array, as_number, constant_like, flat, logsumexp
from alignkit.expressions.atom import Atom, Reduction, as_argument, axes_of, folded
from alignkit.expressions.atoms.norms import project_simplex, shared
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression
from alignkit.expressions.layout import broadcast_to
from alignkit.expressions.linear import affine_row_norms
from alignkit.expressions.reductions import sum

__all__ = ["log_sum_exp", "max", "maximum", "min", "minimum", "sum_largest", "sum_smallest"]


class Selecting(Reduction):
    """A reduction with gradient in the simplex: increasing, and moving with a common shift of the entries."""

    common_shift = 1.0

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

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return shared(xp, value == result, self._batch_axes(), value)

    def conjugate(self, dual: Array) -> Array:
        """0 on the simplex."""
        self._whole()
        return flat(array_api_compat.array_namespace(dual), dual)[:, 0] * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Project onto the simplex."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        return xp.reshape(project_simplex(flat(xp, dual)), dual.shape)

    def prox(self, points: Array, step: float) -> Array:
        """By Moreau's identity, from the projection onto the simplex."""
        return points - step * self.project_dual(points / step)


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

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return shared(xp, value == result, self._batch_axes(), value)

    def prox(self, points: Array, step: float) -> Array:
        """The mirror image of that of the largest entry."""
        self._whole()
        xp = array_api_compat.array_namespace(points)
        return points + step * xp.reshape(project_simplex(flat(xp, -points / step)), points.shape)


class LogSumExp(Selecting):
    """log Σ exp x_i."""

    name = "log_sum_exp"

    def _own_range(self) -> Interval:
        bounds, shift = self.args[0].range, math.log(self.count)
        return Interval(bounds.lower + shift, bounds.upper + shift)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return logsumexp(xp, values[0], axes) if axes else values[0]

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        # 0 where the sum has overflowed, so that a slope of 0 further up stays 0.
        return xp.where(xp.isfinite(result), xp.exp(value - result), xp.zeros_like(value))

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


class SumOfSome(Reduction):
    """The sum of k entries, chosen by their order; a k between integers counts a part of the next entry.

    Arguments:
        arg: the argument.
        k: positive and below the number of entries.
        axis: None for all entries, or the axes.
    """

    #: Whether the largest entries come first.
    descending: bool

    def __init__(self, arg: Expression, k: float, axis: int | tuple[int, ...] | None = None) -> None:
        super().__init__(arg, axis)
        self.k = k
        self.common_shift = k

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _gain(self, position: int) -> float:
        part, whole = math.modf(self.k)
        return math.sqrt(whole + part**2)

    def _own_range(self) -> Interval:
        return self.args[0].range.times(self.k)

    def _own_lipschitz(self) -> float:
        general = super()._own_lipschitz()
        rows = affine_row_norms(self.args[0]) if self.size == 1 else None
        if rows is None:
            return general
        # A subgradient is Σ yᵢaᵢ with 0 ≤ y ≤ 1 and Σ yᵢ = k, whichever rows are chosen.
        ordered = np.sort(np.broadcast_to(rows, self.args[0].size))[::-1]
        return builtins.min(general, float(_leading(np, ordered, self.k)))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        total = _leading(xp, self._ordered(xp, values[0]), self.k)
        return xp.reshape(total, (values[0].shape[0], *self.shape))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        # Where the last counted entry has equals, they share what remains.
        last = self._ordered(xp, value)[:, :, math.ceil(self.k) - 1]
        last = self._widened(xp, xp.reshape(last, (value.shape[0], *self.shape)))
        before = xp.astype(value > last if self.descending else value < last, value.dtype)
        axes = self._batch_axes()
        rest = self.k - xp.sum(before, axis=axes, keepdims=True)
        return before + rest * shared(xp, value == last, axes, value)

    def _ordered(self, xp: Any, value: Array) -> Array:
        """The entries that make up each result, in order: (n, size, count)."""
        arg = self.args[0]
        gone = axes_of(self.axis, arg.ndim)
        kept = tuple(axis for axis in range(arg.ndim) if axis not in gone)
        grouped = xp.permute_dims(value, (0, *(axis + 1 for axis in (*kept, *gone))))
        grouped = xp.reshape(grouped, (value.shape[0], self.size, self.count))
        return xp.sort(grouped, axis=2, descending=self.descending)

    def _options(self) -> Sequence[str]:
        return (f"{self.k:.6g}", *super()._options())


class SumLargest(SumOfSome):
    """The sum of the k largest entries."""

    name = "sum_largest"
    descending = True

    @property
    def is_atom_convex(self) -> bool:
        """Always true."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def conjugate(self, dual: Array) -> Array:
        """0 on the capped simplex {0 ≤ y ≤ 1, Σy = k}."""
        self._whole()
        return flat(array_api_compat.array_namespace(dual), dual)[:, 0] * 0.0

    def project_dual(self, dual: Array) -> Array:
        """Project onto the capped simplex."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        return xp.reshape(project_capped_simplex(flat(xp, dual), self.k), dual.shape)

    def prox(self, points: Array, step: float) -> Array:
        """By Moreau's identity, from the projection onto the capped simplex."""
        return points - step * self.project_dual(points / step)


class SumSmallest(SumOfSome):
    """The sum of the k smallest entries; −sum_largest(−x)."""

    name = "sum_smallest"
    descending = False

    @property
    def is_atom_convex(self) -> bool:
        """Always false."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True

    def prox(self, points: Array, step: float) -> Array:
        """The mirror image of that of the sum of the largest entries."""
        self._whole()
        xp = array_api_compat.array_namespace(points)
        mirrored = project_capped_simplex(flat(xp, -points / step), self.k)
        return points + step * xp.reshape(mirrored, points.shape)


def _leading(xp: Any, ordered: Array, k: float) -> Array:
    """The sum of the first k entries along the last axis."""
    part, whole = math.modf(k)
    total = xp.sum(ordered[..., : int(whole)], axis=-1)
    return total + part * ordered[..., int(whole)] if part else total


def project_capped_simplex(rows: Array, k: float) -> Array:
    """Project each row onto {0 ≤ y ≤ 1, Σy = k}: the row less a threshold, clipped.

    Arguments:
        rows: (n, m).
        k: between 0 and m.

    Returns:
        (n, m).

    Source: W. Wang, C. Lu, "Projection onto the capped simplex", 2015.
    """
    xp = array_api_compat.array_namespace(rows)
    size = rows.shape[1]
    # As a function of the threshold t, Σ clip(v − t, 0, 1) falls from m to 0, steeper by one entry from each v − 1 on,
    # and less steep from each v on.
    kinks = xp.concat([rows - 1.0, rows], axis=1)
    turns = constant_like(np.repeat([-1.0, 1.0], size), rows)
    order = xp.argsort(kinks, axis=1)
    kinks = xp.take_along_axis(kinks, order, axis=1)
    turns = xp.reshape(xp.take(turns, xp.reshape(order, (-1,)), axis=0), order.shape)
    slopes = xp.cumulative_sum(turns, axis=1)
    drops = slopes[:, :-1] * (kinks[:, 1:] - kinks[:, :-1])
    levels = size + xp.concat([xp.zeros_like(kinks[:, :1]), xp.cumulative_sum(drops, axis=1)], axis=1)
    place = xp.sum(xp.astype(levels >= k, xp.int64), axis=1, keepdims=True) - 1
    start, level, slope = (xp.take_along_axis(table, place, axis=1) for table in (kinks, levels, slopes))
    threshold = start + (k - level) / xp.where(slope < 0.0, slope, -xp.ones_like(slope))
    # The running sums have rounded; one more of Newton's steps, inside the piece found, removes that.
    inside = xp.astype((rows - threshold < 1.0) & (rows > threshold), rows.dtype)
    moving = xp.sum(inside, axis=1, keepdims=True)
    surplus = xp.sum((rows - threshold).clip(0.0, 1.0), axis=1, keepdims=True) - k
    threshold = threshold + surplus / xp.where(moving > 0.0, moving, xp.ones_like(moving))
    return (rows - threshold).clip(0.0, 1.0)


class Maximum(Atom):
    """The larger of several arrays, entry by entry.

    Arguments:
        args: at least two expressions of one shape.
    """

    name = "maximum"
    common_shift = 1.0

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

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        # At ties the chosen arrays share evenly.
        chosen = [xp.astype(value == result, cotangent.dtype) for value in values]
        share = cotangent / builtins.sum(chosen[1:], start=chosen[0])
        return [share * one for one in chosen]


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


def sum_largest(x: Any, k: float, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The sum of the k largest entries; convex and increasing.

    Arguments:
        x: an expression or a constant.
        k: how many, positive and at most the number of entries; between integers, a part of the next entry counts.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes; sum(x, axis) where k is the number of entries.

    Raises:
        ParameterError: k is out of range.
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(sum_largest(Variable(3), 2).value([3.0, -4.0, 1.0]))
        4.0
    """
    return _sum_of_some(SumLargest, x, k, axis)


def sum_smallest(x: Any, k: float, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The sum of the k smallest entries; concave and increasing.

    Arguments:
        x: an expression or a constant.
        k: how many, positive and at most the number of entries; between integers, a part of the next entry counts.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes; sum(x, axis) where k is the number of entries.

    Raises:
        ParameterError: k is out of range.
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(sum_smallest(Variable(3), 2).value([3.0, -4.0, 1.0]))
        -3.0
    """
    return _sum_of_some(SumSmallest, x, k, axis)


def _sum_of_some(kind: type[SumOfSome], x: Any, k: Any, axis: int | tuple[int, ...] | None) -> Expression:
    arg = _reducible(x, kind.name)
    whole = sum(arg, axis)
    count = arg.size // whole.size
    if not 0.0 < as_number(k) <= count:
        raise ParameterError(
            f"{kind.name}(x, k) needs a number k with 0 < k ≤ {count}, the number of entries, not {k!r}.",
            expression=f"{kind.name}({arg}, {k!r})",
        )
    return whole if k == count else folded(kind(arg, float(k), axis))


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


ENTRIES: tuple[Entry, ...] = (
    Entry("max", "convex", "max xᵢ", max, (Max,), max),
    Entry("min", "concave", "min xᵢ", min, (Min,), min),
    Entry("maximum", "convex", "max(xᵢ, yᵢ, …)", lambda x: maximum(x, 0.5 - x), (Maximum,), maximum),
    Entry("minimum", "concave", "min(xᵢ, yᵢ, …)", lambda x: minimum(x, 0.5 - x), (Minimum,), minimum),
    Entry("log_sum_exp", "convex", "log Σ exp xᵢ", log_sum_exp, (LogSumExp,), log_sum_exp),
    Entry(
        "sum_largest", "convex", "the sum of the k largest xᵢ", lambda x: sum_largest(x, 2), (SumLargest,), sum_largest
    ),
    Entry(
        "sum_smallest",
        "concave",
        "the sum of the k smallest xᵢ",
        lambda x: sum_smallest(x, 2),
        (SumSmallest,),
        sum_smallest,
    ),
)
