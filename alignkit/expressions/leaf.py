"""The leaves of expressions: variables and constants."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, as_finite, is_operator, is_sparse, shape_text
from alignkit.expressions.curvature import Curvature, Interval
from alignkit.expressions.expression import CALL, UNARY, Expression, Printed, linear_map_needed
from alignkit.expressions.matrices import entry_bounds

__all__ = ["Constant", "Variable", "as_expression"]


class Variable(Expression):
    """The unknown x, of the base law's shape.

    Arguments:
        shape: an int, or a tuple of ints; () is a scalar.
        name: how it prints.

    Raises:
        ShapeError: the shape is empty or not made of positive integers.

    Example:
        >>> Variable((8, 8)).shape
        (8, 8)
    """

    def __init__(self, shape: int | tuple[int, ...] = (), name: str = "x") -> None:
        try:
            lengths = (operator.index(shape),)  # type: ignore[arg-type]
        except TypeError:
            try:
                lengths = tuple(operator.index(length) for length in shape)  # type: ignore[union-attr, assignment]
            except TypeError as error:
                raise ShapeError(f"A variable's shape is an int or a tuple of ints, not {shape!r}.") from error
        if any(length <= 0 for length in lengths):
            raise ShapeError(f"The variable {name} has shape {lengths}: every axis needs at least one entry.")
        super().__init__(lengths)
        self._depends = True
        self.name = name

    def _own_curvature(self) -> Curvature:
        return Curvature.AFFINE

    def _own_range(self) -> Interval:
        return Interval()

    def _own_lipschitz(self) -> float:
        return 1.0

    def _own_rule(self) -> str:
        return f"{self.name} is the variable."

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        raise AssertionError("a variable has no value of its own")

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return self.name, CALL


class Constant(Expression):
    """A constant array inside an expression.

    Arguments:
        value: a number, nested sequence, numpy, torch or jax array, or scipy sparse matrix; copied into float64.

    Raises:
        ParameterError: complex or object entries.
        NonFiniteError: a NaN or an infinity.
        ShapeError: an empty shape.

    Example:
        >>> Constant([1.0, -2.0]).range
        Interval(lower=-2.0, upper=1.0)
    """

    def __init__(self, value: Any, *, what: Callable[[], str] | None = None) -> None:
        self._value = as_finite(value, what or (lambda: f"The constant {_describe(value)}"))
        super().__init__(tuple(self._value.shape))
        self._moved = MovedConstant(self._value)

    @property
    def array(self) -> Any:
        """The value: a read-only float64 ndarray, or a csr array."""
        return self._value

    def dense(self) -> Floats:
        """The value as an ndarray."""
        return self._value.toarray() if self.is_sparse else self._value  # type: ignore[no-any-return]

    @property
    def is_sparse(self) -> bool:
        """True when the value is a sparse matrix."""
        return is_sparse(self._value)

    def like(self, x: Array) -> Array:
        """The value as (1, *shape), in x's namespace, device and dtype."""
        return self._moved.like(x)[None, ...]

    def _own_curvature(self) -> Curvature:
        return Curvature.CONSTANT

    def _own_range(self) -> Interval:
        return Interval(*entry_bounds(self._value))

    def _own_lipschitz(self) -> float:
        return 0.0

    def _own_rule(self) -> str:
        return f"{self} is a constant."

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        raise AssertionError("constants are moved, not computed")

    def _format(self, parts: Sequence[Printed]) -> Printed:
        if self.shape == ():
            number = float(self._value)
            return f"{number:.6g}", (UNARY if number < 0 else CALL)
        return f"[{shape_text(self.shape)} constant]", CALL


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is None:
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return f"[{shape_text(tuple(shape))} constant]" if len(shape) else str(value)


def as_expression(value: Any, beside: Expression | None = None) -> Expression:
    """An expression as it is, anything else as a `Constant`.

    Arguments:
        value: an expression or a constant.
        beside: the expression it is combined with, for messages.

    Returns:
        An expression.

    Raises:
        ParameterError: the value is neither, for example a string or a `LinearOperator`.
        NonFiniteError: the constant holds a NaN or an infinity; the message names `beside`.
    """
    if isinstance(value, Expression):
        return value
    if is_operator(value):
        if beside is None:
            raise ParameterError(
                "A scipy LinearOperator is not an expression.", ways_out=("apply it with linear_map(operator, x)",)
            )
        raise linear_map_needed(beside)
    if beside is None:
        return Constant(value)
    return Constant(value, what=lambda: f"The constant {_describe(value)} beside {beside}")
