"""Arithmetic on expressions: sums, products with constants, and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import CurvatureError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, flat, is_operator, is_sparse
from alignkit.expressions.atom import AffineAtom, as_argument, folded
from alignkit.expressions.coefficient import Coefficient
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
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
    united,
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

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [cotangent] * len(self.args)

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

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [-cotangent]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"-{enclosed(parts[0], PRODUCT)}", UNARY


class Multiply(AffineAtom):
    """An expression times a constant, entry by entry.

    Arguments:
        constant: an expression without a variable that broadcasts to the expression's shape.
        arg: the expression.
    """

    name = "multiplication"

    def __init__(self, constant: Expression, arg: Expression) -> None:
        super().__init__(arg.shape, (arg,))
        self.constant = constant
        self._coefficient = Coefficient(constant, lambda entries: self._weights(_as_dense(entries)))
        self._parameters = united((constant, arg))
        self.name = f"multiplication by {constant}"

    def _constants(self) -> tuple[Expression, ...]:
        return (self.constant,)

    def _weights(self, entries: Floats) -> Floats:
        return entries

    @property
    def coefficient(self) -> Coefficient:
        """What the expression is multiplied by."""
        return self._coefficient

    @property
    def weights(self) -> Floats:
        """What each entry is multiplied by, broadcastable to the shape."""
        return self._coefficient.matrix  # type: ignore[no-any-return]

    def _bounds(self) -> Interval:
        """Bounds of the weights, for every value of the parameters."""
        if self._coefficient.is_fixed:
            return Interval(float(self.weights.min()), float(self.weights.max()))
        return self.constant.range

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
        return of_sign(self._bounds())

    def _gain(self, position: int) -> float:
        return float(np.abs(self.weights).max())

    def _own_range(self) -> Interval:
        return product_range(self._bounds(), self.args[0].range)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return values[0] * self._wide(xp, values[0])

    def _numeric_with(self, xp: Any, values: list[Array], constants: list[Array]) -> Array:
        return values[0] * self._beside_arg(xp, constants[0])

    def _beside_arg(self, xp: Any, constant: Array) -> Array:
        """Rows of the constant, (n, *constant.shape), that broadcast to rows of the shape."""
        padding = (1,) * (self.ndim + 1 - constant.ndim)
        return xp.reshape(constant, (constant.shape[0], *padding, *constant.shape[1:]))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [cotangent * self._wide(xp, cotangent)]

    def _wide(self, xp: Any, beside: Array) -> Array:
        weights = self._coefficient.moved.like(beside)
        return xp.reshape(weights, (1,) * (len(self.shape) + 1 - weights.ndim) + tuple(weights.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{bracketed(self.constant, PRODUCT)} * {enclosed(parts[0], PRODUCT)}", PRODUCT


class Divide(Multiply):
    """An expression over a constant without zeros, entry by entry."""

    def __init__(self, constant: Expression, arg: Expression) -> None:
        super().__init__(constant, arg)
        self.name = f"division by {constant}"

    def _weights(self, entries: Floats) -> Floats:
        if (entries == 0.0).any():
            raise ParameterError(f"Division by zero: {self.constant} has zero entries.", expression=str(self))
        return np.asarray(1.0 / entries)

    def _numeric_with(self, xp: Any, values: list[Array], constants: list[Array]) -> Array:
        return values[0] / self._beside_arg(xp, constants[0])

    def _bounds(self) -> Interval:
        if self._coefficient.is_fixed:
            return super()._bounds()
        sign = self.constant.range
        return Interval(0.0 if sign.lower >= 0.0 else -math.inf, 0.0 if sign.upper <= 0.0 else math.inf)

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{enclosed(parts[0], PRODUCT)} / {bracketed(self.constant, UNARY)}", PRODUCT


class AxisMap(AffineAtom):
    """A matrix applied along one axis.

    Arguments:
        coefficient: its matrix is (p, q), ndarray or csr array.
        rows: p.
        arg: an expression whose `axis` has length q.
        axis: counted from the front.
        keep: whether the axis stays, with length p, or goes (p = 1).
    """

    def __init__(self, coefficient: Coefficient, rows: int, arg: Expression, axis: int, *, keep: bool = True) -> None:
        before, after = arg.shape[:axis], arg.shape[axis + 1 :]
        super().__init__((*before, *((rows,) if keep else ()), *after), (arg,))
        self.coefficient, self.along = coefficient, axis
        self._parameters = united((coefficient.constant, arg))
        self._rows, self._before, self._after = rows, math.prod(before), math.prod(after)

    def _constants(self) -> tuple[Expression, ...]:
        return (self.coefficient.constant,)

    @property
    def matrix(self) -> Matrix:
        """The present matrix, (p, q)."""
        return self.coefficient.matrix

    def _factors(self) -> tuple[Factor, ...]:
        if self._before == self._after == 1:
            return (self.matrix,)
        from scipy import sparse

        matrix = sparse.csr_array(self.matrix)
        right = sparse.kron(matrix, sparse.eye_array(self._after), format="csr") if self._after > 1 else matrix
        return (sparse.kron(sparse.eye_array(self._before), right, format="csr") if self._before > 1 else right,)

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        if isinstance(left, np.ndarray) and isinstance(self.matrix, np.ndarray) and self._before * self._after > 1:
            blocks = left.reshape(left.shape[0], self._before, self._rows, self._after)
            return np.matmul(self.matrix.T, blocks).reshape(left.shape[0], self.args[0].size)
        return times(left, self._factors()[0])

    def monotonicity(self, position: int) -> Monotonicity:
        """By the signs of the matrix's entries."""
        if not self.coefficient.is_fixed:
            return of_sign(self.coefficient.bounds)
        return of_sign(Interval(*entry_bounds(self.matrix)))

    def _gain(self, position: int) -> float:
        return norm_bound(self.matrix)

    def _own_range(self) -> Interval:
        if self.coefficient.is_fixed:
            return super()._own_range()
        return product_range(self.coefficient.bounds, self.args[0].range).times(float(self.args[0].shape[self.along]))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return self._applied(xp, self.coefficient.moved, values[0], self._rows, self.shape)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        arg = self.args[0]
        return [self._applied(xp, self.coefficient.adjoint, cotangent, arg.shape[self.along], arg.shape)]

    def _applied(self, xp: Any, matrix: MovedMatrix, value: Array, rows: int, shape: tuple[int, ...]) -> Array:
        count, length = value.shape[0], matrix.matrix.shape[1]
        last = xp.permute_dims(xp.reshape(value, (count, self._before, length, self._after)), (0, 1, 3, 2))
        product = matrix.apply(xp, xp.reshape(last, (-1, length)))
        product = xp.reshape(product, (count, self._before, self._after, rows))
        return xp.reshape(xp.permute_dims(product, (0, 1, 3, 2)), (count, *shape))


class MatMul(AxisMap):
    """A matrix product with a constant of one or two axes, on either side.

    Arguments:
        constant: an expression without a variable.
        arg: the expression.
        side: the side the constant stands on, "left" or "right".
    """

    def __init__(self, constant: Expression, arg: Expression, side: str) -> None:
        self.constant, self.side = constant, side
        keep = constant.ndim == 2
        if side == "left":
            coefficient, axis = Coefficient(constant, _as_matrix), max(arg.ndim - 2, 0)
        else:
            coefficient, axis = Coefficient(constant, _as_transposed_matrix), arg.ndim - 1
        rows = (constant.shape[0] if side == "left" else constant.shape[1]) if keep else 1
        super().__init__(coefficient, rows, arg, axis, keep=keep)
        self.name = f"the product with {constant}"

    def _numeric_with(self, xp: Any, values: list[Array], constants: list[Array]) -> Array:
        matrix, value = constants[0], values[0]
        if matrix.ndim == 2:
            matrix = matrix[:, None, :]
        elif self.side == "right":
            matrix = xp.permute_dims(matrix, (0, 2, 1))
        stacked = xp.reshape(value, (value.shape[0], self._before, self.args[0].shape[self.along], self._after))
        product = xp.matmul(matrix[:, None, :, :], stacked)
        return xp.reshape(product, (product.shape[0], *self.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        constant = bracketed(self.constant, UNARY)
        if self.side == "left":
            return f"{constant} @ {enclosed(parts[0], UNARY)}", PRODUCT
        return f"{enclosed(parts[0], PRODUCT)} @ {constant}", PRODUCT


class Inner(AffineAtom):
    """⟨h, x⟩ over all entries."""

    name = "inner"

    def __init__(self, constant: Expression, arg: Expression) -> None:
        super().__init__((), (arg,))
        self.constant = constant
        self.coefficient = Coefficient(constant, lambda entries: _as_dense(entries).reshape(1, -1))
        self._parameters = united((constant, arg))

    def _constants(self) -> tuple[Expression, ...]:
        return (self.constant,)

    def _factors(self) -> tuple[Factor, ...]:
        return (self.coefficient.matrix,)

    def monotonicity(self, position: int) -> Monotonicity:
        """By the signs of h's entries."""
        if not self.coefficient.is_fixed:
            return of_sign(self.coefficient.bounds)
        return super().monotonicity(position)

    def _own_range(self) -> Interval:
        if self.coefficient.is_fixed:
            return super()._own_range()
        return product_range(self.coefficient.bounds, self.args[0].range).times(float(self.args[0].size))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.reshape(self.coefficient.moved.apply(xp, flat(xp, values[0])), (values[0].shape[0],))

    def _numeric_with(self, xp: Any, values: list[Array], constants: list[Array]) -> Array:
        return xp.sum(flat(xp, constants[0]) * flat(xp, values[0]), axis=1)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        row = self.coefficient.moved.like(cotangent)
        return [xp.reshape(cotangent[:, None] * row, (cotangent.shape[0], *self.args[0].shape))]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"inner({self.constant}, {parts[0][0]})", CALL


def _as_dense(entries: Any) -> Floats:
    return entries.toarray() if is_sparse(entries) else entries  # type: ignore[no-any-return]


def _as_matrix(entries: Any) -> Matrix:
    return entries if entries.ndim == 2 else entries[None, :]


def _as_transposed_matrix(entries: Any) -> Matrix:
    if is_sparse(entries):
        return entries.T.tocsr()
    return entries.T if entries.ndim == 2 else entries[None, :]


def _diagonal(entries: Floats) -> Matrix:
    from scipy import sparse

    count = entries.size
    return sparse.csr_array((np.asarray(entries, dtype=np.float64), np.arange(count), np.arange(count + 1)))


def _pair(left: object, right: object) -> tuple[Expression, Expression]:
    if isinstance(left, Expression):
        return left, as_expression(right, left)
    return as_expression(left, right if isinstance(right, Expression) else None), as_expression(right)


def of_sign(bounds: Interval) -> Monotonicity:
    """How a product with weights between these bounds moves with the other factor."""
    if bounds.lower >= 0.0:
        return Monotonicity.INCREASING
    return Monotonicity.DECREASING if bounds.upper <= 0.0 else Monotonicity.UNKNOWN


def product_range(first: Interval, second: Interval) -> Interval:
    """Bounds of a product of numbers between bounds, with 0·inf = 0."""
    corners = [
        0.0 if left == 0.0 or right == 0.0 else left * right
        for left in (first.lower, first.upper)
        for right in (second.lower, second.upper)
    ]
    return Interval(min(corners), max(corners))


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


def _is_one(expression: Expression) -> bool:
    return isinstance(expression, Constant) and expression.shape == () and float(expression.array) == 1.0


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
        right: an expression or a constant. Where both depend on the variable, the curvature is unknown (but for e * e,
            which is square(e)), and the Lipschitz constant finite for bounded factors.

    Returns:
        The product, of the broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> from alignkit.expressions import Variable
        >>> str(multiply(2.0, Variable(3)))
        '2 * x'
    """
    left, right = _pair(left, right)
    shape = broadcast_pair(left, right, "*")
    if not right.depends:
        left, right = right, left
    if left.depends:
        return operations["product"](broadcast_to(left, shape), broadcast_to(right, shape))
    return folded(Multiply(left, broadcast_to(right, shape)))


def _divide(left: Any, right: Any) -> Expression:
    left, right = _pair(left, right)
    shape = broadcast_pair(left, right, "/")
    if right.depends:
        if right.range.lower > 0.0:
            reciprocal = operations["reciprocal"](right)
            return reciprocal if _is_one(left) else multiply(left, reciprocal)
        raise CurvatureError(
            f"The denominator of {bracketed(left, PRODUCT)} / {bracketed(right, UNARY)} depends on the variable, "
            f"and its range {right.range} does not exclude 0.",
            expression=f"{left} / {bracketed(right, UNARY)}",
            ways_out=("inv_pos(e) for 1/e on e > 0", "a denominator that is positive everywhere, as 1 + square(e)"),
        )
    if isinstance(right, Constant) and (right.dense() == 0.0).any():
        raise ParameterError(f"Division by zero: {right} has zero entries.", expression=f"{left} / {right}")
    return folded(Divide(right, broadcast_to(left, shape)))


def _product_error(left: Expression, right: Expression, symbol: str) -> CurvatureError:
    text = f"{bracketed(left, PRODUCT)} {symbol} {bracketed(right, PRODUCT)}"
    return CurvatureError(
        f"{text} multiplies two expressions that both depend on the variable: {left} and {right}. "
        "A matrix product is allowed only with a constant.",
        expression=text,
        ways_out=(
            "square(e) or sum_squares(e) for the product of an expression with itself",
            "quad_form(e, P) for a quadratic with a constant matrix",
            "the entrywise product a * b",
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
    constant, arg, side = (right, left, "right") if left.depends else (left, right, "left")
    if constant.depends:
        if left.ndim == right.ndim == 1:
            return inner(left, right)
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
        right: an expression or a constant of the same shape. Where both depend on the variable, the curvature is
            unknown, and the Lipschitz constant finite for bounded factors.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: the shapes differ.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(inner([1.0, 2.0], Variable(2)).value([3.0, 4.0]))
        11.0
    """
    left, right = as_argument(left, "inner"), as_argument(right, "inner")
    if left.shape != right.shape:
        raise ShapeError(f"inner does not fit: {left} has shape {left.shape}, {right} has shape {right.shape}.")
    if not right.depends:
        left, right = right, left
    if left.depends:
        return operations["sum"](operations["product"](left, right))
    return folded(Inner(left, right))


operations.update(add=_add, subtract=_subtract, multiply=multiply, divide=_divide, matmul=_matmul, negate=_negate)

ENTRIES = (
    Entry("+", "affine", "a + b, with numpy's broadcasting", lambda x: x + 1.0, (Add,)),
    Entry("-", "affine", "a − b and −a", lambda x: 1.0 - x, (Negate,)),
    Entry("*", "affine", "aᵢ·xᵢ, with numpy's broadcasting", lambda x: 2.0 * x, (Multiply,)),
    Entry("/", "affine", "xᵢ/aᵢ, a without zeros", lambda x: x / 2.0, (Divide,)),
    Entry(
        "@", "affine", "the matrix product of numpy", lambda x: Constant(np.arange(6.0).reshape(3, 2)) @ x, (MatMul,)
    ),
    Entry("multiply", "affine", "aᵢ·xᵢ, with numpy's broadcasting", lambda x: multiply(-1.5, x), (), multiply),
    Entry("inner", "affine", "⟨h, x⟩ = Σ hᵢxᵢ over all entries", lambda x: inner(np.ones(x.shape), x), (Inner,), inner),
)
