"""Sums and running sums: sum, mean, trace, diff, cumsum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.affine import AxisMap
from alignkit.expressions.arrays import Array, flat
from alignkit.expressions.atom import (
    AffineAtom,
    as_argument,
    batch_axes,
    folded,
    kept_shape,
    normalise_axis,
    reduced_shape,
)
from alignkit.expressions.coefficient import Coefficient
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression, operations
from alignkit.expressions.leaf import Constant
from alignkit.expressions.matrices import Factor, Matrix, times

__all__ = ["cumsum", "diff", "mean", "sum", "trace"]

#: Longest axis whose running sums are kept as a triangular matrix.
LONGEST_TRIANGLE = 1024


class Sum(AffineAtom):
    """The sum over some axes, or over all entries.

    Arguments:
        arg: the argument.
        axis: None for all entries, or the axes.
    """

    name = "sum"

    def __init__(self, arg: Expression, axis: int | tuple[int, ...] | None = None) -> None:
        self.axis = normalise_axis(axis, arg, self.name)
        super().__init__(reduced_shape(arg.shape, self.axis), (arg,))

    @property
    def count(self) -> int:
        """How many entries each result is made of."""
        return self.args[0].size // self.size

    @property
    def weight(self) -> float:
        """What each entry is multiplied by."""
        return 1.0

    def _spread(self, entries: Any) -> Any:
        """(m, size) to (m, arg.size): each column repeated where its summands are."""
        arg = self.args[0]
        kept = kept_shape(arg.shape, self.axis)
        wide = np.broadcast_to(entries.reshape(-1, *kept), (entries.shape[0], *arg.shape))
        return wide.reshape(entries.shape[0], arg.size)

    def _factors(self) -> tuple[Factor, ...]:
        size = self.args[0].size
        if self.size == 1:
            return (np.full((1, size), self.weight),)
        from scipy import sparse

        rows = self._spread(np.arange(self.size)[None, :]).ravel()
        matrix = sparse.coo_array((np.full(size, self.weight), (rows, np.arange(size))), shape=(self.size, size))
        return (matrix.tocsr(),)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if isinstance(left, np.ndarray):
            return self._spread(left * self.weight)
        return times(left, self._factors()[0])

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _gain(self, position: int) -> float:
        return math.sqrt(self.count) * self.weight

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        arg = self.args[0]
        kept = kept_shape(arg.shape, self.axis)
        wide = xp.reshape(cotangent * self.weight, (cotangent.shape[0], *kept))
        return [xp.broadcast_to(wide, (cotangent.shape[0], *arg.shape))]

    def _own_range(self) -> Interval:
        return self.args[0].range.times(float(self.count))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = batch_axes(self.axis, self.args[0].ndim)
        return xp.sum(values[0], axis=axes) if axes else values[0]

    def _options(self) -> Sequence[str]:
        return () if self.axis is None else (f"axis={self.axis}",)


class Mean(Sum):
    """The mean over some axes, or over all entries."""

    name = "mean"

    @property
    def weight(self) -> float:
        """One over the count."""
        return 1.0 / self.count

    def _own_range(self) -> Interval:
        return self.args[0].range

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = batch_axes(self.axis, self.args[0].ndim)
        return xp.mean(values[0], axis=axes) if axes else values[0]


class Trace(AffineAtom):
    """The sum of the diagonal of a square matrix."""

    name = "trace"

    def __init__(self, arg: Expression) -> None:
        super().__init__((), (arg,))

    def _factors(self) -> tuple[Factor, ...]:
        from scipy import sparse

        arg = self.args[0]
        places = np.arange(arg.shape[0]) * (arg.shape[1] + 1)
        return (sparse.csr_array((np.ones(places.size), places, [0, places.size]), shape=(1, arg.size)),)

    def _gain(self, position: int) -> float:
        return math.sqrt(self.args[0].shape[0])

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        return self.args[0].range.times(float(self.args[0].shape[0]))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.sum(flat(xp, values[0])[:, :: self.args[0].shape[1] + 1], axis=1)


class Diff(AxisMap):
    """Differences of neighbours along an axis, k times."""

    name = "diff"

    def __init__(self, arg: Expression, order: int, axis: int) -> None:
        from scipy import sparse

        length = arg.shape[axis]
        matrix = sparse.eye_array(length, format="csr")
        for step in range(order):
            short = length - step - 1
            ones = np.ones(short)
            matrix = sparse.diags_array([-ones, ones], offsets=[0, 1], shape=(short, short + 1), format="csr") @ matrix
        matrix = Constant(matrix.tocsr())
        super().__init__(Coefficient(matrix, lambda entries: entries), matrix.shape[0], arg, axis)
        self.order, self.axis = order, axis

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        value = values[0]
        before = (slice(None),) * (self.axis + 1)
        for _ in range(self.order):
            value = value[(*before, slice(1, None))] - value[(*before, slice(0, -1))]
        return value

    def _options(self) -> Sequence[str]:
        order = (f"k={self.order}",) if self.order != 1 else ()
        return (*order, f"axis={self.axis}") if self.axis else order


class Cumsum(AffineAtom):
    """Running sums along an axis."""

    name = "cumsum"

    def __init__(self, arg: Expression, axis: int) -> None:
        super().__init__(arg.shape, (arg,))
        self.axis = axis

    def _factors(self) -> tuple[Factor, ...]:
        length = self.shape[self.axis]
        if length > LONGEST_TRIANGLE:
            from scipy.sparse.linalg import LinearOperator

            return (
                LinearOperator(
                    (self.size, self.size),
                    matvec=lambda v: self._run(v.ravel()),
                    rmatvec=lambda v: self._run(v.ravel(), backwards=True),
                    dtype=np.float64,
                ),
            )
        triangle = Constant(np.tril(np.ones((length, length))))
        return AxisMap(Coefficient(triangle, lambda entries: entries), length, self.args[0], self.axis)._factors()

    def _run(self, entries: Any, *, backwards: bool = False) -> Any:
        values = entries.reshape(self.shape)
        if backwards:
            return np.flip(np.cumsum(np.flip(values, self.axis), axis=self.axis), self.axis).ravel()
        return np.cumsum(values, axis=self.axis).ravel()

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if isinstance(left, np.ndarray):
            wide, along = left.reshape(-1, *self.shape), self.axis + 1
            return np.flip(np.cumsum(np.flip(wide, along), axis=along), along).reshape(left.shape)
        return times(left, self._factors()[0])

    def _gain(self, position: int) -> float:
        # The triangle of ones of order n has norm 1 / (2 sin(π / (4n + 2))).
        return 0.5 / math.sin(math.pi / (4 * self.shape[self.axis] + 2))

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return bounds.union(bounds.times(float(self.shape[self.axis])))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        if hasattr(xp, "cumulative_sum"):
            return xp.cumulative_sum(values[0], axis=self.axis + 1)
        return xp.cumsum(values[0], axis=self.axis + 1)

    def _options(self) -> Sequence[str]:
        return (f"axis={self.axis}",) if self.axis else ()


def sum(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The sum over axes.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to sum over.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> sum(Variable((2, 3)), axis=0).shape
        (3,)
    """
    return folded(Sum(as_argument(x, "sum"), axis))


def mean(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The mean over axes.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to average over.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(mean(Variable(4)).value([1.0, 2.0, 3.0, 4.0]))
        2.5
    """
    return folded(Mean(as_argument(x, "mean"), axis))


def trace(x: Any) -> Expression:
    """The sum of the diagonal.

    Arguments:
        x: a square matrix, expression or constant.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: x is not a square matrix.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(trace(Variable((2, 2))).value([[1.0, 2.0], [3.0, 4.0]]))
        5.0
    """
    arg = as_argument(x, "trace")
    if arg.ndim != 2 or arg.shape[0] != arg.shape[1]:
        raise ShapeError(f"trace takes a square matrix, and {arg} has shape {arg.shape}.")
    return folded(Trace(arg))


def diff(x: Any, k: int = 1, axis: int = 0) -> Expression:
    """Differences of neighbours along an axis.

    Arguments:
        x: an expression or a constant.
        k: how many times differences are taken.
        axis: the axis.

    Returns:
        An expression whose axis is shorter by k.

    Raises:
        ShapeError: the axis is out of range or has no more than k entries.
        ParameterError: k is not a nonnegative integer.

    Example:
        >>> from alignkit.expressions import Variable
        >>> diff(Variable(3)).value([1.0, 4.0, 9.0])
        array([3., 5.])
    """
    arg = as_argument(x, "diff")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
        raise ParameterError(f"diff: k is a nonnegative integer, not {k!r}.", expression=str(arg))
    place = _one_axis(axis, arg, "diff")
    if arg.shape[place] <= k:
        raise ShapeError(f"diff: axis {axis} of {arg} of shape {arg.shape} is too short for k = {k} differences.")
    return arg if k == 0 else folded(Diff(arg, int(k), place))


def cumsum(x: Any, axis: int = 0) -> Expression:
    """Running sums along an axis.

    Arguments:
        x: an expression or a constant.
        axis: the axis.

    Returns:
        An expression of the same shape.

    Raises:
        ShapeError: the axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> cumsum(Variable(3)).value([1.0, 2.0, 3.0])
        array([1., 3., 6.])
    """
    arg = as_argument(x, "cumsum")
    return folded(Cumsum(arg, _one_axis(axis, arg, "cumsum")))


def _one_axis(axis: int, arg: Expression, name: str) -> int:
    if not isinstance(axis, int | np.integer):
        raise ShapeError(f"{name}: axis {axis!r} is not an integer.", expression=str(arg))
    found = normalise_axis(int(axis), arg, name)
    assert isinstance(found, int)
    return found


operations.update(sum=sum)

ENTRIES = (
    Entry("sum", "affine", "Σ xᵢ over axes", lambda x: sum(x, axis=0), (Sum,), sum),
    Entry("mean", "affine", "Σ xᵢ / n over axes", lambda x: mean(x, axis=1), (Mean,), mean),
    Entry("trace", "affine", "Σ xᵢᵢ of a square matrix", lambda x: trace(x[:, :2]), (Trace,), trace),
    Entry("diff", "affine", "xᵢ₊₁ − xᵢ along an axis, k times", lambda x: diff(x, axis=1), (Diff,), diff),
    Entry("cumsum", "affine", "x₁ + … + xᵢ along an axis", lambda x: cumsum(x, axis=1), (Cumsum,), cumsum),
)
