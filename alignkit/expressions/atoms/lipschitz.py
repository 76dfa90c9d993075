"""Functions of the user's own, of which a Lipschitz constant is declared or nothing at all is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, as_number, flat, to_numpy
from alignkit.expressions.atom import Atom, as_argument, folded
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed

__all__ = ["lipschitz"]


class UserFunction(Atom):
    """A function of the user's own, of which a Lipschitz constant is declared.

    Arguments:
        arg: the argument.
        function: from (n, *arg.shape) to (n,).
        constant: the declared Lipschitz constant.
        derivative: from (n, *arg.shape) to the gradients, of the same shape; or None.
        bounds: the declared range.
    """

    def __init__(
        self,
        arg: Expression,
        function: Callable[[Any], Any],
        constant: float,
        derivative: Callable[[Any], Any] | None,
        bounds: Interval,
    ) -> None:
        super().__init__((), (arg,))
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.function, self.derivative = function, derivative
        self.declared_lipschitz, self.declared_range = constant, bounds

    @property
    def is_atom_convex(self) -> bool:
        """Always false: nothing is known."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Unknown."""
        return Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return self.declared_lipschitz

    def _own_range(self) -> Interval:
        return self.declared_range

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        result = self._checked(xp, self.function(values[0]), (values[0].shape[0],), self.name)
        if _is_true(~xp.all(xp.isfinite(result))):
            self._refuse_nonfinite(values[0], result)
        return xp.astype(result, values[0].dtype)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        if self.derivative is None:
            raise ParameterError(
                f"{self.name} has no derivative here: it is a function of your own.",
                expression=str(self),
                ways_out=(
                    f"lipschitz({self.name}, constant, expression, gradient=…)",
                    "automatic differentiation of expression.value(x) by torch or jax",
                ),
            )
        gradient = self._checked(xp, self.derivative(values[0]), tuple(values[0].shape), f"gradient of {self.name}")
        wide = xp.reshape(cotangent, (cotangent.shape[0],) + (1,) * self.args[0].ndim)
        return [wide * xp.astype(gradient, values[0].dtype)]

    def _checked(self, xp: Any, result: Any, shape: tuple[int, ...], what: str) -> Array:
        if not array_api_compat.is_array_api_obj(result) or array_api_compat.array_namespace(result) is not xp:
            raise ParameterError(
                f"The {what} returned a {type(result).__name__}: it takes and returns arrays of one library.",
                expression=str(self),
            )
        if tuple(result.shape) != shape:
            raise ShapeError(
                f"The {what} returned shape {tuple(result.shape)} for a batch of shape "
                f"{(shape[0], *self.args[0].shape)}, and {shape} is needed.",
                expression=str(self),
                ways_out=("the first axis is the batch: reduce all others",) if len(shape) == 1 else (),
            )
        return result

    def _refuse_nonfinite(self, value: Array, result: Array) -> None:
        points, found = to_numpy(value).reshape(len(value), -1), to_numpy(result)
        # Where the argument itself is outside its domain the function is not to blame.
        at_fault = np.flatnonzero(~np.isfinite(found) & np.isfinite(points).all(axis=1))
        if at_fault.size:
            row = int(at_fault[0])
            point = points[row].reshape(self.args[0].shape)
            shown = np.array2string(point, precision=6, threshold=8, edgeitems=2)
            raise NonFiniteError(
                f"{self.name} returned {found[row]} in row {row} of the batch, for the input {shown}.",
                expression=str(self),
                ways_out=("a Lipschitz function is finite at every finite point",),
            )

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.name}({parts[0][0]})", CALL


def _is_true(flag: Array) -> bool:
    try:
        return bool(flag)
    except (
        RuntimeError,
        TypeError,
    ):  # under a jax or torch transformation, and on the meta device, there are no values
        return False


def lipschitz(
    fn: Callable[[Any], Any],
    constant: float,
    expression: Any,
    *,
    gradient: Callable[[Any], Any] | None = None,
    range: tuple[float, float] | None = None,
) -> Expression:
    """A function of your own, with a Lipschitz constant that you vouch for: nothing here can check it.

    Arguments:
        fn: takes a batch (n, *expression.shape) of numpy, torch or jax arrays, as it comes, and returns (n,) in the
            same library.
        constant: L with |fn(a) − fn(b)| ≤ L‖a − b‖, Euclidean over all entries; finite, not negative.
        expression: what fn is applied to.
        gradient: takes the same batch to the gradients (n, *expression.shape). Without it `.gradient()` is refused,
            while torch and jax differentiate fn as they do any code.
        range: bounds (lower, upper) of fn, possibly infinite.

    Returns:
        A scalar expression of unknown curvature, which prints under fn's own name.

    Raises:
        ParameterError: fn is not callable, the constant is not a nonnegative number, or the range is not in order.
        ShapeError, NonFiniteError: when evaluated, fn returns another shape, or a NaN or infinity for a finite input.

    Example:
        >>> from alignkit.expressions import Variable
        >>> def roughness(x):
        ...     return abs(x[:, 1:] - x[:, :-1]).max(1)
        >>> reward = lipschitz(roughness, 2.0**0.5, Variable(3))
        >>> str(reward), float(reward.value([0.0, 3.0, 1.0]))
        ('roughness(x)', 3.0)
    """
    if not callable(fn):
        raise ParameterError(
            f"lipschitz(fn, constant, expression) takes a function first, not {fn}.", expression=str(expression)
        )
    arg = as_argument(expression, "lipschitz")
    if gradient is not None and not callable(gradient):
        raise ParameterError(f"lipschitz: gradient is a function, not {gradient!r}.", expression=str(arg))
    rate = as_number(constant)
    if not 0.0 <= rate < math.inf:
        raise ParameterError(
            f"lipschitz needs a finite constant that is not negative, not {constant!r}.",
            expression=f"lipschitz({getattr(fn, '__name__', fn)}, {constant!r}, {arg})",
        )
    bounds = Interval()
    if range is not None:
        ends = [as_number(end) for end in range] if isinstance(range, tuple | list) else []
        if len(ends) != 2 or not ends[0] <= ends[1]:
            raise ParameterError(f"lipschitz: range is (lower, upper) in order, not {range!r}.", expression=str(arg))
        bounds = Interval(ends[0], ends[1])
    return folded(UserFunction(arg, fn, rate, gradient, bounds))


def black_box(fn: Callable[[Any], Any], expression: Expression) -> Expression:
    """A function of the user's own of which nothing at all is known.

    Arguments:
        fn: takes a batch (n, *expression.shape) of numpy, torch or jax arrays, and returns (n,) in the same library.
        expression: what it is applied to.

    Example:
        >>> from alignkit.expressions import Variable
        >>> black_box(lambda x: x[:, 0] ** 3, Variable(2)).lipschitz
        inf
    """
    return UserFunction(expression, fn, math.inf, None, Interval())


def sum_of_sines(values: Array) -> Array:
    """Σ sin xᵢ of each row of a batch, for the example of `lipschitz`."""
    xp = array_api_compat.array_namespace(values)
    return xp.sum(xp.sin(flat(xp, values)), axis=1)


def cosines(values: Array) -> Array:
    """The gradient of `sum_of_sines`."""
    return array_api_compat.array_namespace(values).cos(values)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "lipschitz",
        "neither",
        "fn(x), with |fn(x) − fn(y)| ≤ L‖x − y‖",
        lambda x: lipschitz(sum_of_sines, math.sqrt(x.size), x, gradient=cosines),
        (UserFunction,),
        lipschitz,
    ),
)
