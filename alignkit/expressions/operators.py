"""Linear maps given as operators, matrices or pairs of functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, as_finite, flat, is_operator, shape_text
from alignkit.expressions.atom import AffineAtom, as_argument, folded
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed
from alignkit.expressions.matrices import Factor, Matrix, MovedMatrix

__all__ = ["linear_map"]


class LinearMap(AffineAtom):
    """A linear map of the C-order flattening of its argument.

    Arguments:
        matrix: (prod(shape), arg.size), ndarray, csr array or `LinearOperator`.
        arg: the argument.
        shape: the shape of the values.
    """

    name = "linear_map"

    def __init__(self, matrix: Matrix, arg: Expression, shape: tuple[int, ...]) -> None:
        super().__init__(shape, (arg,))
        self.matrix = matrix
        self._moved = MovedMatrix(matrix)

    def _factors(self) -> tuple[Factor, ...]:
        return (self.matrix,)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return xp.reshape(self._moved.apply(xp, flat(xp, values[0])), (values[0].shape[0], *self.shape))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        kind = "operator" if is_operator(self.matrix) else "constant"
        return f"linear_map([{shape_text(tuple(self.matrix.shape))} {kind}], {parts[0][0]})", CALL


def linear_map(operator: Any, x: Any) -> Expression:
    """A linear map of all entries of x, flattened in C order.

    Arguments:
        operator: a scipy `LinearOperator`, sparse or dense matrix (m, x.size), or a tuple `(forward, adjoint, shape)`:
            `forward` takes a float64 numpy vector (x.size,) to the values, flat or of `shape`; `adjoint` takes a
            vector (prod(shape),) back to (x.size,).
        x: an expression.

    Returns:
        An expression of shape (m,), or `shape`.

    Raises:
        ShapeError: the operator does not fit x, or a function returns the wrong number of entries.
        ParameterError: `adjoint` is not the adjoint of `forward`, or the operator is of no known kind.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable((2, 2))
        >>> total = linear_map((lambda v: v.sum(keepdims=True), lambda u: np.full(4, u[0]), (1,)), x)
        >>> total.value(np.ones((2, 2)))
        array([4.])
    """
    arg = as_argument(x, "linear_map")
    if isinstance(operator, tuple):
        return folded(_from_functions(operator, arg))
    if isinstance(operator, Expression):
        raise ParameterError(
            f"linear_map takes the operator first, then the expression: the operator is the expression {operator}.",
            ways_out=(f"linear_map(operator, {operator})",),
        )
    matrix = operator if is_operator(operator) else as_finite(operator, "The matrix of linear_map")
    if is_operator(matrix) and np.dtype(matrix.dtype or float).kind == "c":
        raise ParameterError("The operator of linear_map is complex; expressions are real.")
    if len(matrix.shape) != 2 or matrix.shape[1] != arg.size:
        raise ShapeError(
            f"linear_map does not fit: the operator has shape {tuple(matrix.shape)}, {arg} has shape {arg.shape} "
            f"and {arg.size} entries."
        )
    if is_operator(matrix):
        _check_adjoint(matrix, arg, f"linear_map([{shape_text(tuple(matrix.shape))} operator], {arg})")
    return folded(LinearMap(matrix, arg, (int(matrix.shape[0]),)))


def _from_functions(functions: tuple[Any, ...], arg: Expression) -> LinearMap:
    if len(functions) != 3 or not callable(functions[0]) or not callable(functions[1]):
        raise ParameterError(
            "linear_map takes a tuple (forward, adjoint, output_shape) of two functions and a shape.",
            expression=str(arg),
        )
    forward, adjoint, output = functions
    shape = (int(output),) if isinstance(output, int | np.integer) else tuple(int(length) for length in output)
    size = math.prod(shape)
    if size < 1:
        raise ShapeError(f"linear_map: the output shape {shape} is empty.", expression=str(arg))
    from scipy.sparse.linalg import LinearOperator

    matrix = LinearOperator(
        (size, arg.size),
        matvec=_checked(forward, size, "forward", arg),
        rmatvec=_checked(adjoint, arg.size, "adjoint", arg),
        dtype=np.float64,
    )
    _check_adjoint(matrix, arg, f"linear_map((forward, adjoint, {shape}), {arg})")
    return LinearMap(matrix, arg, shape)


def _checked(function: Callable[..., Any], size: int, which: str, arg: Expression) -> Callable[[Any], Any]:
    def call(vector: Any) -> Any:
        result = np.asarray(function(np.asarray(vector, dtype=np.float64).ravel()), dtype=np.float64)
        if result.size != size:
            raise ShapeError(
                f"linear_map: {which} returned shape {result.shape}, and {size} entries are needed.",
                expression=f"linear_map(({which}, ...), {arg})",
            )
        return result.ravel()

    return call


def _check_adjoint(matrix: Any, arg: Expression, text: str) -> None:
    # ⟨Au, v⟩ = ⟨u, A*v⟩ at a fixed random pair: a wrong adjoint would give wrong results silently.
    generator = np.random.default_rng(20260511)
    there, back = generator.standard_normal(matrix.shape[1]), generator.standard_normal(matrix.shape[0])
    try:
        image, preimage = matrix.matvec(there), matrix.rmatvec(back)
    except NotImplementedError:
        raise ParameterError(
            "linear_map: the operator has no adjoint.",
            expression=text,
            ways_out=("LinearOperator(shape, matvec=…, rmatvec=…)", "linear_map((forward, adjoint, shape), x)"),
        ) from None
    if not (np.isfinite(image).all() and np.isfinite(preimage).all()):
        raise NonFiniteError("linear_map: a function returned a NaN or an infinity.", expression=str(arg))
    scale = np.linalg.norm(image) * np.linalg.norm(back) + np.linalg.norm(there) * np.linalg.norm(preimage)
    if abs(image @ back - there @ preimage) > 1e-5 * scale:
        raise ParameterError(
            "linear_map: adjoint is not the adjoint of forward: ⟨forward(u), v⟩ = ⟨u, adjoint(v)⟩ fails.",
            expression=text,
            ways_out=("check the adjoint: ⟨A u, v⟩ = ⟨u, Aᵀ v⟩ for random u and v",),
        )


ENTRIES = (
    Entry(
        "linear_map",
        "affine",
        "A vec(x), A a matrix, an operator, or two functions",
        lambda x: linear_map(np.arange(12.0).reshape(2, 6), x),
        (LinearMap,),
        linear_map,
    ),
)
