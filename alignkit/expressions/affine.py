"""Arithmetic on expressions: sums, products with constants, and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import CurvatureError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, flat, is_operator, is_sparse
from alignkit.expressions.atom import AffineAtom, as_argument, folded
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.expression import (
    CALL,
    PRODUCT,
    SUM,
    UNARY,
    Expression,
    Printed,
    bracketed,
    enclosed,
    linear_map_needed,
    operations,
)
from alignkit.expressions.layout import broadcast_to
from alignkit.expressions.leaf import Constant, as_expression
from alignkit.expressions.matrices import Factor, Matrix, MovedMatrix, entry_bounds, norm_bound, times

__all__ = ["inner", "multiply"]


class Add(AffineAtom):
    """The sum of any number of terms of one shape."""

    name = "a sum"

    def __init__(self, terms: tuple[Expression, ...]) -> None:
        super().__init__(terms[0].shape, terms)

    def _factors(self) -> tuple[Factor, ...]:
        return (None,) * len(self.args)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def _format(self, parts: Sequence[Printed]) -> Printed:
        text = parts[0][0]
        for term, _ in parts[1:]:
            text += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
        return text, SUM


class Negate(AffineAtom):
    """The negative of an expression."""

    name = "negation"

    def __init__(self, arg: Expression) -> None:
        super().__init__(arg.shape, (arg,))

    def _factors(self) -> tuple[Factor, ...]:
        return (_diagonal(np.full(self.size, -1.0)),)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        return self._factors()[0] if left is None else -1.0 * left

    def monotonicity(self, position: int) -> Monotonicity:
        """Decreasing."""
        return Monotonicity.DECREASING

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_range(self) -> Interval:
        return -self.args[0].range

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return -values[0]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"-{enclosed(parts[0], PRODUCT)}", UNARY


class Multiply(AffineAtom):
    """An expression times a constant, entry by entry.

    Arguments:
        constant: a `Constant` that broadcasts to the expression's shape.
        arg: the expression.
    """

    name = "multiplication"

    def __init__(self, constant: Constant, arg: Expression) -> None:
        super().__init__(arg.shape, (arg,))
        self.constant = constant
        self._moved = MovedConstant(self._weights(constant.dense()))
        self.name = f"multiplication by {constant}"

    def _weights(self, entries: Floats) -> Floats:
        return entries

    @property
    def weights(self) -> Floats:
        """What each entry is multiplied by, broadcastable to the shape."""
        return self._moved.value  # type: ignore[no-any-return]

    def _factors(self) -> tuple[Factor, ...]:
        return (_diagonal(self._flat_weights()),)

    def _flat_weights(self) -> Floats:
        return np.broadcast_to(self.weights, self.shape).ravel()

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if left is None or (is_operator(left) and self.weights.size > 1):
            return times(left, self._factors()[0])
        if self.weights.size == 1:
            return left * float(self.weights.ravel()[0])
        if is_sparse(left):
            return left.multiply(self._flat_weights()[None, :]).tocsr()
        return left * self._flat_weights()

    def monotonicity(self, position: int) -> Monotonicity:
        """By the signs of the constant's entries."""
        if self.weights.min() >= 0:
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if self.weights.max() <= 0 else Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return float(np.abs(self.weights).max())

    def _own_range(self) -> Interval:
        inner = self.args[0].range
        corners = [
            0.0 if weight == 0.0 else weight * bound
            for weight in (float(self.weights.min()), float(self.weights.max()))
            for bound in (inner.lower, inner.upper)
        ]
        return Interval(min(corners), max(corners))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        weights = self._moved.like(values[0])
        return values[0] * xp.reshape(weights, (1,) * (len(self.shape) + 1 - weights.ndim) + tuple(weights.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.constant} * {enclosed(parts[0], PRODUCT)}", PRODUCT


class Divide(Multiply):
    """An expression over a constant without zeros, entry by entry."""

    def __init__(self, constant: Constant, arg: Expression) -> None:
        super().__init__(constant, arg)
        self.name = f"division by {constant}"

    def _weights(self, entries: Floats) -> Floats:
        return np.asarray(1.0 / entries)

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{enclosed(parts[0], PRODUCT)} / {self.constant}", PRODUCT


class AxisMap(AffineAtom):
    """A matrix applied along one axis.

    Arguments:
        matrix: (p, q), ndarray or csr array.
        arg: an expression whose `axis` has length q.
        axis: counted from the front.
        keep: whether the axis stays, with length p, or goes (p = 1).
    """

    def __init__(self, matrix: Matrix, arg: Expression, axis: int, *, keep: bool = True) -> None:
        before, after = arg.shape[:axis], arg.shape[axis + 1 :]
        super().__init__((*before, *((matrix.shape[0],) if keep else ()), *after), (arg,))
        self.matrix, self.along = matrix, axis
        self._before, self._after = math.prod(before), math.prod(after)
        self._moved = MovedMatrix(matrix)

    def _factors(self) -> tuple[Factor, ...]:
        if self._before == self._after == 1:
            return (self.matrix,)
        from scipy import sparse

        matrix = sparse.csr_array(self.matrix)
        right = sparse.kron(matrix, sparse.eye_array(self._after), format="csr") if self._after > 1 else matrix
        return (sparse.kron(sparse.eye_array(self._before), right, format="csr") if self._before > 1 else right,)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if isinstance(left, np.ndarray) and isinstance(self.matrix, np.ndarray) and self._before * self._after > 1:
            blocks = left.reshape(left.shape[0], self._before, self.matrix.shape[0], self._after)
            return np.matmul(self.matrix.T, blocks).reshape(left.shape[0], self.args[0].size)
        return times(left, self._factors()[0])

    def monotonicity(self, position: int) -> Monotonicity:
        """By the signs of the matrix's entries."""
        lower, upper = entry_bounds(self.matrix)
        if lower >= 0.0:
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if upper <= 0.0 else Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return norm_bound(self.matrix)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        rows, length = values[0].shape[0], self.matrix.shape[1]
        last = xp.permute_dims(xp.reshape(values[0], (rows, self._before, length, self._after)), (0, 1, 3, 2))
        product = self._moved.apply(xp, xp.reshape(last, (-1, length)))
        product = xp.reshape(product, (rows, self._before, self._after, self.matrix.shape[0]))
        return xp.reshape(xp.permute_dims(product, (0, 1, 3, 2)), (rows, *self.shape))


class MatMul(AxisMap):
    """A matrix product with a constant of one or two axes, on either side.

    Arguments:
        constant: a `Constant`.
        arg: the expression.
        side: the side the constant stands on, "left" or "right".
    """

    def __init__(self, constant: Constant, arg: Expression, side: str) -> None:
        self.constant, self.side = constant, side
        array = constant.array
        if side == "left":
            super().__init__(
                array if array.ndim == 2 else array[None, :],
                arg,
                max(arg.ndim - 2, 0),
                keep=array.ndim == 2,
            )
        else:
            super().__init__(array.T if array.ndim == 2 else array[None, :], arg, arg.ndim - 1, keep=array.ndim == 2)
        if is_sparse(self.matrix):
            self.matrix = self.matrix.tocsr()
            self._moved = MovedMatrix(self.matrix)
        self.name = f"the product with {constant}"

    def _format(self, parts: Sequence[Printed]) -> Printed:
        if self.side == "left":
            return f"{self.constant} @ {enclosed(parts[0], UNARY)}", PRODUCT
        return f"{enclosed(parts[0], PRODUCT)} @ {self.constant}", PRODUCT


class Inner(AffineAtom):
    """⟨h, x⟩ over all entries."""

    name = "inner"

    def __init__(self, constant: Constant, arg: Expression) -> None:
        super().__init__((), (arg,))
        self.constant = constant
        self._moved = MovedMatrix(constant.dense().reshape(1, -1))

    def _factors(self) -> tuple[Factor, ...]:
        return (self._moved.matrix,)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.reshape(self._moved.apply(xp, flat(xp, values[0])), (values[0].shape[0],))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"inner({self.constant}, {parts[0][0]})", CALL


def _diagonal(entries: Floats) -> Matrix:
    from scipy import sparse

    count = entries.size
    return sparse.csr_array((np.asarray(entries, dtype=np.float64), np.arange(count), np.arange(count + 1)))


def _pair(left: object, right: object) -> tuple[Expression, Expression]:
    if isinstance(left, Expression):
        return left, as_expression(right, left)
    return as_expression(left, right if isinstance(right, Expression) else None), as_expression(right)


def broadcast_pair(left: Expression, right: Expression, symbol: str) -> tuple[int, ...]:
    """The common shape by numpy's broadcasting.

    Raises:
        ShapeError: there is none.
    """
    try:
        return np.broadcast_shapes(left.shape, right.shape)
    except ValueError:
        raise ShapeError(
            f"{symbol} does not fit: {left} has shape {left.shape}, {right} has shape {right.shape}.",
            ways_out=("shapes broadcast as in numpy; use reshape or vec on one side",),
        ) from None


def _is_zero(expression: Expression) -> bool:
    return isinstance(expression, Constant) and expression.shape == () and float(expression.array) == 0.0


def _add(left: Any, right: Any) -> Expression:
    first, second = _pair(left, right)
    shape = broadcast_pair(first, second, "+")
    # Python's sum() starts from 0.
    if _is_zero(first) and second.shape == shape:
        return second
    if _is_zero(second) and first.shape == shape:
        return first
    terms: list[Expression] = []
    for side in (first, second):
        wide = broadcast_to(side, shape)
        terms.extend(wide.args if isinstance(wide, Add) else (wide,))
    return folded(Add(tuple(terms)))


def _subtract(left: Any, right: Any) -> Expression:
    left, right = _pair(left, right)
    shape = broadcast_pair(left, right, "-")
    if isinstance(left, Constant) or isinstance(right, Negate):
        return _add(left, _negate(right))
    # Negation and broadcasting of a constant stay unevaluated, so that `x - 1` prints as it was written.
    return _add(left, right if _is_zero(right) else Negate(broadcast_to(right, shape)))


def _negate(arg: Expression) -> Expression:
    if isinstance(arg, Negate):
        return arg.args[0]
    return folded(Negate(arg))


def multiply(left: Any, right: Any) -> Expression:
    """The product entry by entry, with numpy's broadcasting; the operator `*`.

    Arguments:
        left: an expression or a constant.
        right: an expression or a constant; one of the two must be constant.

    Returns:
        The product, of the broadcast shape.

    Raises:
        CurvatureError: both factors depend on the variable.
        ShapeError: the shapes do not broadcast.

    Example:
        >>> from alignkit.expressions import Variable
        >>> str(multiply(2.0, Variable(3)))
        '2 * x'
    """
    left, right = _pair(left, right)
    shape = broadcast_pair(left, right, "*")
    if isinstance(right, Constant):
        left, right = right, left
    if not isinstance(left, Constant):
        raise _product_error(left, right, "*")
    return folded(Multiply(left, broadcast_to(right, shape)))


def _divide(left: Any, right: Any) -> Expression:
    left, right = _pair(left, right)
    shape = broadcast_pair(left, right, "/")
    if not isinstance(right, Constant):
        raise CurvatureError(
            f"The denominator of {bracketed(left, PRODUCT)} / {bracketed(right, UNARY)} depends on the variable; "
            "only constants may divide.",
            expression=f"{left} / {bracketed(right, UNARY)}",
        )
    if (right.dense() == 0.0).any():
        raise ParameterError(f"Division by zero: {right} has zero entries.", expression=f"{left} / {right}")
    return folded(Divide(right, broadcast_to(left, shape)))


def _product_error(left: Expression, right: Expression, symbol: str) -> CurvatureError:
    text = f"{bracketed(left, PRODUCT)} {symbol} {bracketed(right, PRODUCT)}"
    return CurvatureError(
        f"{text} multiplies two expressions that both depend on the variable: {left} and {right}. "
        "A product is allowed only with a constant.",
        expression=text,
        ways_out=(
            "square(e) or sum_squares(e) for the product of an expression with itself",
            "quad_form(e, P) for a quadratic with a constant matrix",
        ),
    )


def _matmul(left: Any, right: Any) -> Expression:
    for side, other in ((left, right), (right, left)):
        if is_operator(side):
            raise linear_map_needed(other)
    left, right = _pair(left, right)
    if not left.shape or not right.shape or left.shape[-1] != right.shape[-2 if right.ndim > 1 else -1]:
        raise ShapeError(
            f"@ does not fit: {left} has shape {left.shape}, {right} has shape {right.shape}.",
            ways_out=("B @ vec(x) for a map of the whole variable", "* for a scalar factor"),
        )
    constant, arg, side = (left, right, "left") if isinstance(left, Constant) else (right, left, "right")
    if not isinstance(constant, Constant):
        raise _product_error(left, right, "@")
    if constant.ndim > 2:
        raise ShapeError(
            f"@ takes constants of one or two axes, and {constant} has shape {constant.shape}.",
            expression=f"{left} @ {right}",
            ways_out=("linear_map(operator, x) for any other linear map",),
        )
    return folded(MatMul(constant, arg, side))


def inner(left: Any, right: Any) -> Expression:
    """The inner product ⟨h, x⟩ over all entries of two arrays of one shape.

    Arguments:
        left: an expression or a constant.
        right: an expression or a constant of the same shape; one of the two must be constant.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: the shapes differ.
        CurvatureError: both sides depend on the variable.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(inner([1.0, 2.0], Variable(2)).value([3.0, 4.0]))
        11.0
    """
    left, right = as_argument(left, "inner"), as_argument(right, "inner")
    if left.shape != right.shape:
        raise ShapeError(f"inner does not fit: {left} has shape {left.shape}, {right} has shape {right.shape}.")
    if isinstance(right, Constant):
        left, right = right, left
    if not isinstance(left, Constant):
        raise CurvatureError(
            f"inner({left}, {right}) multiplies two expressions that both depend on the variable.",
            ways_out=("sum_squares(e) for the inner product of an expression with itself",),
        )
    return folded(Inner(left, right))


operations.update(add=_add, subtract=_subtract, multiply=multiply, divide=_divide, matmul=_matmul, negate=_negate)
