"""The leaves of expressions: variables and constants."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, as_finite, is_operator, is_sparse, shape_text
from alignkit.expressions.curvature import Curvature, Interval
from alignkit.expressions.expression import CALL, UNARY, Expression, Printed, linear_map_needed
from alignkit.expressions.matrices import entry_bounds
from alignkit.expressions.present_value import PresentValue

__all__ = ["Constant", "Parameter", "Variable", "as_expression", "entries_of"]


def _lengths(shape: object, what: str) -> tuple[int, ...]:
    """A shape given as an int or as a tuple of ints.

    Raises:
        ShapeError: it is neither, or has an entry below 1.
    """
    try:
        lengths = (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        try:
            lengths = tuple(operator.index(length) for length in shape)  # type: ignore[attr-defined, assignment]
        except TypeError as error:
            raise ShapeError(f"{what} has a shape that is neither an int nor a tuple of ints: {shape!r}.") from error
    if any(length <= 0 for length in lengths):
        raise ShapeError(f"{what} has shape {lengths}: every axis needs at least one entry.")
    return lengths


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
        lengths = _lengths(shape, f"The variable {name}")
        super().__init__(lengths)
        self._depends = True
        self.name = name
        self._bounds = Interval()

    def _own_curvature(self) -> Curvature:
        return Curvature.AFFINE

    def _within(self, bounds: Interval) -> Variable:
        """A variable of the same name and shape that is known to lie in a box."""
        bounded = Variable(self.shape, self.name)
        bounded._bounds = bounds
        return bounded

    def _own_range(self) -> Interval:
        return self._bounds

    def _own_lipschitz(self) -> float:
        return 1.0

    def _own_rule(self) -> str:
        return f"{self.name} is the variable."

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        raise AssertionError("a variable has no arguments")

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
        """The value beside an array.

        Arguments:
            x: an array of numpy, torch or jax.

        Returns:
            (1, *shape), in x's namespace, device and dtype.
        """
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

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        raise AssertionError("a constant has no arguments")

    def _format(self, parts: Sequence[Printed]) -> Printed:
        if self.shape == ():
            number = float(self._value)
            return f"{number:.6g}", (UNARY if number < 0 else CALL)
        return f"[{shape_text(self.shape)} constant]", CALL


class Parameter(Expression):
    """A constant whose value may change between solves: a target, a weight, a matrix, or λ itself.

    Assign to `.value`; read it as an array, or by `.value()` as that of any expression. Curvature is decided from the
    declared sign alone, so that a new value never changes the verdict, and what was compiled stays valid.

    Arguments:
        shape: an int, or a tuple of ints; () is a scalar.
        value: the first value, of that shape; may be given later.
        nonneg: declares that every value has nonnegative entries only.
        nonpos: declares that every value has nonpositive entries only.
        name: how it prints.

    Raises:
        ShapeError: the shape is empty, or the value has another.
        ParameterError: the value breaks the declared sign or is not real; or both signs are declared.
        NonFiniteError: the value holds a NaN or an infinity.

    Example:
        >>> target = Parameter(2, value=[1.0, -1.0], name="target")
        >>> residual = Variable(2) - target
        >>> target.value = [0.0, 5.0]
        >>> residual.value([0.0, 0.0])
        array([ 0., -5.])
    """

    def __init__(
        self,
        shape: int | tuple[int, ...] = (),
        value: Any = None,
        *,
        nonneg: bool = False,
        nonpos: bool = False,
        name: str = "parameter",
    ) -> None:
        super().__init__(_lengths(shape, f"The parameter {name}"))
        if nonneg and nonpos:
            raise ParameterError(f"The parameter {name} cannot be declared both nonneg and nonpos.")
        self._parameters = (self,)
        self.name = name
        self._declared = Interval(0.0 if nonneg else -math.inf, 0.0 if nonpos else math.inf)
        self._value: Floats | None = None
        self._moved: MovedConstant | None = None
        self.version = 0
        if value is not None:
            self._assign(value)

    @property
    def is_unset(self) -> bool:
        """True until a value has been given."""
        return self._value is None

    @property
    def value(self) -> PresentValue:
        """The present value, read as an array or by a call, `parameter.value()`; assign to it to change the value."""
        return PresentValue(self)

    @value.setter
    def value(self, value: Any) -> None:
        self._assign(value)

    def _assign(self, value: Any) -> None:
        found = as_finite(value, f"The value of the parameter {self.name}")
        found = found.toarray() if is_sparse(found) else found
        if found.shape != self.shape:
            raise ShapeError(f"The parameter {self.name} has shape {self.shape}, and the value has {found.shape}.")
        if found.min() < self._declared.lower or found.max() > self._declared.upper:
            sign = "nonneg" if self._declared.lower == 0.0 else "nonpos"
            raise ParameterError(
                f"The parameter {self.name} is declared {sign}, and the value has an entry "
                f"{float(found.min() if sign == 'nonneg' else found.max()):.6g}.",
                ways_out=(f"declare it without {sign}=True, if no curvature depends on it",),
            )
        if self._value is None or not np.array_equal(found, self._value):
            self._value, self._moved = found, MovedConstant(found)
            self.version += 1

    def dense(self) -> Floats:
        """The present value.

        Raises:
            ParameterError: there is none yet.
        """
        if self._value is None:
            raise ParameterError(
                f"The parameter {self.name} has no value yet.",
                ways_out=(f"{self.name}.value = … of shape {self.shape}",),
            )
        return self._value

    def like(self, x: Array) -> Array:
        """The present value beside an array.

        Arguments:
            x: an array of numpy, torch or jax.

        Returns:
            (1, *shape), in x's namespace, device and dtype.

        Raises:
            ParameterError: there is no value yet.
        """
        self.dense()
        assert self._moved is not None
        return self._moved.like(x)[None, ...]

    def _own_curvature(self) -> Curvature:
        return Curvature.CONSTANT

    def _own_range(self) -> Interval:
        return self._declared

    def _own_lipschitz(self) -> float:
        return 0.0

    def _own_rule(self) -> str:
        return f"{self.name} is a parameter, constant in the variable."

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        raise AssertionError("parameters are moved, not computed")

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        raise AssertionError("a parameter has no arguments")

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return self.name, CALL


def entries_of(constant: Expression) -> Any:
    """The present entries of an expression without a variable: an ndarray, or the csr array of a sparse constant.

    Raises:
        ParameterError: a parameter in it has no value yet.
    """
    if isinstance(constant, Constant):
        return constant.array
    if isinstance(constant, Parameter):
        return constant.dense()
    return np.asarray(constant.value())


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
