"""Rearrangement of entries: slices, reshapes, transposes, broadcasts, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, flat, integers_like, is_operator, is_sparse, shape_text
from alignkit.expressions.atom import AffineAtom, as_argument, folded
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed, enclosed, operations
from alignkit.expressions.leaf import Constant
from alignkit.expressions.matrices import Factor, Matrix, times

__all__ = ["concatenate", "reshape", "stack", "vec"]


class Layout(AffineAtom):
    """A node whose entries are entries of its arguments."""

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        for arg in self.args[1:]:
            bounds = bounds.union(arg.range)
        return bounds


class Reshape(Layout):
    """The same entries in C order under another shape."""

    name = "reshape"

    def __init__(self, arg: Expression, shape: tuple[int, ...]) -> None:
        super().__init__(shape, (arg,))

    def _factors(self) -> tuple[Factor, ...]:
        return (None,)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.reshape(values[0], (values[0].shape[0], *self.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"reshape({parts[0][0]}, {self.shape})", CALL


class Vec(Reshape):
    """The C-order flattening."""

    name = "vec"

    def __init__(self, arg: Expression) -> None:
        super().__init__(arg, (arg.size,))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"vec({parts[0][0]})", CALL


class Transpose(Layout):
    """All axes in reverse order."""

    name = "transposition"

    def __init__(self, arg: Expression) -> None:
        super().__init__(arg.shape[::-1], (arg,))

    def _factors(self) -> tuple[Factor, ...]:
        return (_selection(np.arange(self.size).reshape(self.args[0].shape).T.ravel(), self.size),)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if not isinstance(left, np.ndarray):
            return times(left, self._factors()[0])
        backwards = (0, *range(self.ndim, 0, -1))
        return left.reshape(-1, *self.shape).transpose(backwards).reshape(left.shape)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.permute_dims(values[0], (0, *range(self.ndim, 0, -1)))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [xp.permute_dims(cotangent, (0, *range(self.ndim, 0, -1)))]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{enclosed(parts[0], CALL)}.T", CALL


class BroadcastTo(Layout):
    """numpy's broadcasting, made explicit; it prints as its argument."""

    name = "broadcasting"

    def __init__(self, arg: Expression, shape: tuple[int, ...]) -> None:
        super().__init__(shape, (arg,))

    def _factors(self) -> tuple[Factor, ...]:
        arg = self.args[0]
        return (_selection(np.broadcast_to(np.arange(arg.size).reshape(arg.shape), self.shape).ravel(), arg.size),)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if not isinstance(left, np.ndarray):
            return times(left, self._factors()[0])
        wide = left.reshape(-1, *self.shape)
        return wide.sum(axis=self._repeated_axes()).reshape(left.shape[0], self.args[0].size)

    def _repeated_axes(self) -> tuple[int, ...]:
        """The axes of (n, *shape) along which entries are repeated."""
        padded = (1,) * (self.ndim - self.args[0].ndim) + self.args[0].shape
        return tuple(axis + 1 for axis in range(self.ndim) if padded[axis] != self.shape[axis])

    def _gain(self, position: int) -> float:
        return math.sqrt(self.size / self.args[0].size)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        value = values[0]
        padding = (1,) * (self.ndim - self.args[0].ndim)
        padded = xp.reshape(value, (value.shape[0], *padding, *self.args[0].shape))
        return xp.broadcast_to(padded, (value.shape[0], *self.shape))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        repeated = self._repeated_axes()
        total = xp.sum(cotangent, axis=repeated) if repeated else cotangent
        return [xp.reshape(total, (cotangent.shape[0], *self.args[0].shape))]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return parts[0]


class Index(Layout):
    """A selection of entries by numpy's indexing, basic or with integer and Boolean arrays."""

    name = "indexing"

    def __init__(self, arg: Expression, key: Any) -> None:
        self.key = key if isinstance(key, tuple) else (key,)
        self.is_basic = all(_is_basic(part) for part in self.key)
        try:
            # A broadcast zero has no memory, whatever its shape.
            shape = np.broadcast_to(np.zeros(()), arg.shape)[self.key].shape
        except IndexError as error:
            raise ShapeError(
                f"The index [{_key_text(self.key)}] does not fit {arg} of shape {arg.shape}: {error}."
            ) from None
        if 0 in shape:
            raise ShapeError(f"The index [{_key_text(self.key)}] selects nothing from {arg} of shape {arg.shape}.")
        super().__init__(shape, (arg,))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each entry comes from, in the argument's C-order flattening; (size,)."""
        arg = self.args[0]
        return np.arange(arg.size).reshape(arg.shape)[self.key].ravel()

    def _factors(self) -> tuple[Factor, ...]:
        return (_selection(self.positions, self.args[0].size),)

    def _gain(self, position: int) -> float:
        if self.is_basic:
            return 1.0
        return math.sqrt(float(np.bincount(self.positions).max()))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        value = values[0]
        steps = (part.step for part in self.key if isinstance(part, slice))
        if self.is_basic and all(step is None or step > 0 for step in steps):
            return value[(slice(None), *self.key)]
        chosen = integers_like(self.positions, value)
        return xp.reshape(xp.take(flat(xp, value), chosen, axis=1), (value.shape[0], *self.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{enclosed(parts[0], CALL)}[{_key_text(self.key)}]", CALL


class Concatenate(Layout):
    """Arrays joined along an existing axis."""

    name = "concatenate"

    def __init__(self, args: tuple[Expression, ...], axis: int) -> None:
        lengths = [arg.shape[axis] for arg in args]
        shape = (*args[0].shape[:axis], sum(lengths), *args[0].shape[axis + 1 :])
        super().__init__(shape, args)
        self.axis = axis
        self._ends = np.cumsum([0, *lengths])

    def _rows(self, position: int) -> NDArray[np.int64]:
        window = [slice(None)] * self.ndim
        window[self.axis] = slice(int(self._ends[position]), int(self._ends[position + 1]))
        return np.arange(self.size).reshape(self.shape)[tuple(window)].ravel()

    def _factors(self) -> tuple[Factor, ...]:
        return tuple(_selection(self._rows(position), self.size).T.tocsr() for position in range(len(self.args)))

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if left is None or is_operator(left):
            return times(left, _selection(self._rows(position), self.size).T.tocsr())
        return left[:, self._rows(position)]

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        rows = max(value.shape[0] for value in values)
        wide = [xp.broadcast_to(value, (rows, *value.shape[1:])) for value in values]
        return xp.concat(wide, axis=self.axis + 1)

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.name}([{', '.join(text for text, _ in parts)}]{self._axis_text()})", CALL

    def _axis_text(self) -> str:
        return f", axis={self.axis}" if self.axis else ""


class Stack(Concatenate):
    """Arrays of one shape joined along a new axis."""

    name = "stack"

    def __init__(self, args: tuple[Expression, ...], axis: int) -> None:
        shape = (*args[0].shape[:axis], len(args), *args[0].shape[axis:])
        AffineAtom.__init__(self, shape, args)
        self.axis = axis
        self._ends = np.arange(len(args) + 1)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        rows = max(value.shape[0] for value in values)
        wide = [xp.broadcast_to(value, (rows, *value.shape[1:])) for value in values]
        return xp.stack(wide, axis=self.axis + 1)


def _selection(positions: NDArray[np.int64], size: int) -> Matrix:
    from scipy import sparse

    count = positions.size
    return sparse.csr_array((np.ones(count), positions, np.arange(count + 1)), shape=(count, size))


def _is_basic(part: Any) -> bool:
    return part is None or part is Ellipsis or isinstance(part, int | np.integer | slice)


def _key_text(key: tuple[Any, ...]) -> str:
    parts = []
    for part in key:
        if isinstance(part, slice):
            ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
            parts.append(":".join(ends) + ("" if part.step is None else f":{part.step}"))
        elif part is Ellipsis:
            parts.append("...")
        elif part is None or isinstance(part, int | np.integer):
            parts.append(str(part))
        elif part.dtype.kind == "b":
            parts.append(f"[{shape_text(part.shape)} mask]")
        else:
            parts.append(f"[{shape_text(part.shape)} indices]")
    return ", ".join(parts)


def _clean_key(key: Any, arg: Expression) -> tuple[Any, ...]:
    parts = []
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, (bool, Expression)):
            raise ParameterError(f"{part!s} cannot index {arg}.", ways_out=("integers, slices and numpy arrays can",))
        if _is_basic(part):
            parts.append(part)
            continue
        array = np.asarray(part)
        if array.dtype.kind not in "iub":
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NonFiniteError(f"An index of {arg} holds a NaN or an infinity.")
            raise ParameterError(
                f"An index of {arg} has dtype {array.dtype}; integers, slices and Boolean masks can index.",
            )
        parts.append(array.copy())
    return tuple(parts)


def _index(arg: Expression, key: Any) -> Expression:
    return folded(Index(arg, _clean_key(key, arg)))


def _transpose(arg: Expression) -> Expression:
    return arg if arg.ndim < 2 else folded(Transpose(arg))


def broadcast_to(arg: Expression, shape: tuple[int, ...]) -> Expression:
    """The expression repeated to a shape it broadcasts to, or itself.

    Constants stay unevaluated: they print as they were written, and cost no memory.
    """
    return arg if arg.shape == shape else BroadcastTo(arg, shape)


def vec(x: Any) -> Expression:
    """All entries in one axis, in C order.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of shape (x.size,).

    Example:
        >>> from alignkit.expressions import Variable
        >>> vec(Variable((2, 3))).shape
        (6,)
    """
    arg = as_argument(x, "vec")
    return folded(Vec(arg))


def reshape(x: Any, shape: int | tuple[int, ...]) -> Expression:
    """The same entries in C order under another shape.

    Arguments:
        x: an expression or a constant.
        shape: the new shape; one length may be −1.

    Returns:
        An expression of that shape.

    Raises:
        ShapeError: the number of entries differs.

    Example:
        >>> from alignkit.expressions import Variable
        >>> reshape(Variable(6), (2, -1)).shape
        (2, 3)
    """
    arg = as_argument(x, "reshape")
    wanted = (int(shape),) if isinstance(shape, int | np.integer) else tuple(int(length) for length in shape)
    try:
        found = np.broadcast_to(np.zeros(()), (arg.size,)).reshape(wanted).shape
    except ValueError:
        raise ShapeError(f"reshape: {arg} of shape {arg.shape} has {arg.size} entries; {wanted} has not.") from None
    return arg if found == arg.shape else folded(Reshape(arg, found))


def concatenate(arrays: Sequence[Any], axis: int = 0) -> Expression:
    """Arrays joined along an existing axis.

    Arguments:
        arrays: expressions or constants, of equal shapes except along `axis`.
        axis: the axis they are joined along.

    Returns:
        The joined expression.

    Raises:
        ShapeError: the shapes do not fit, or the axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable(4)
        >>> concatenate([x[:2], -x]).shape
        (6,)
    """
    args = _sequence(arrays, "concatenate")
    first = args[0]
    if not first.shape:
        raise ShapeError(f"concatenate: {first} is a scalar.", ways_out=("stack joins scalars along a new axis",))
    place = _checked_axis(axis, first.ndim, first, "concatenate")
    for arg in args[1:]:
        if arg.ndim != first.ndim or any(
            arg.shape[one] != first.shape[one] for one in range(first.ndim) if one != place
        ):
            raise ShapeError(
                f"concatenate along axis {axis}: {first} has shape {first.shape}, {arg} has shape {arg.shape}."
            )
    return first if len(args) == 1 else folded(Concatenate(args, place))


def stack(arrays: Sequence[Any], axis: int = 0) -> Expression:
    """Arrays of one shape joined along a new axis.

    Arguments:
        arrays: expressions or constants of one shape.
        axis: where the new axis goes.

    Returns:
        The joined expression.

    Raises:
        ShapeError: the shapes differ, or the axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable, max
        >>> x = Variable(2)
        >>> str(max(stack([x[0], -x[1], 1.0])))
        'max(stack([x[0], -x[1], 1]))'
    """
    args = _sequence(arrays, "stack")
    first = args[0]
    for arg in args[1:]:
        if arg.shape != first.shape:
            raise ShapeError(f"stack: {first} has shape {first.shape}, {arg} has shape {arg.shape}.")
    return folded(Stack(args, _checked_axis(axis, first.ndim + 1, first, "stack")))


def _sequence(arrays: Sequence[Any], name: str) -> tuple[Expression, ...]:
    if isinstance(arrays, Expression) or is_sparse(arrays):
        raise ParameterError(f"{name} takes a list of expressions, not one: {arrays}.")
    args = tuple(as_argument(array, name) for array in arrays)
    if not args:
        raise ParameterError(f"{name} needs at least one expression.")
    return tuple(Constant(arg.dense()) if isinstance(arg, Constant) and arg.is_sparse else arg for arg in args)


def _checked_axis(axis: int, ndim: int, arg: Expression, name: str) -> int:
    if not isinstance(axis, int | np.integer) or not -ndim <= axis < ndim:
        raise ShapeError(f"{name}: axis {axis!r} is out of range for {arg} of shape {arg.shape}.")
    return int(axis) % ndim


operations.update(index=_index, transpose=_transpose)

ENTRIES = (
    Entry("x[…]", "affine", "entries, by numpy's basic and advanced indexing", lambda x: x[1, ::-1], (Index,)),
    Entry(".T", "affine", "all axes in reverse order", lambda x: x.T, (Transpose,)),
    Entry(
        "broadcasting", "affine", "entries repeated along new axes", lambda x: x[0] + np.ones((4, 1)), (BroadcastTo,)
    ),
    Entry("vec", "affine", "all entries in one axis, in C order", vec, (Vec,), vec),
    Entry(
        "reshape",
        "affine",
        "the entries in C order in another shape",
        lambda x: reshape(x, (3, 2)),
        (Reshape,),
        reshape,
    ),
    Entry(
        "concatenate",
        "affine",
        "arrays joined along an axis",
        lambda x: concatenate([x, 2.0 * x[:1]]),
        (Concatenate,),
        concatenate,
    ),
    Entry("stack", "affine", "arrays joined along a new axis", lambda x: stack([x[0], -x[1]], axis=1), (Stack,), stack),
)
