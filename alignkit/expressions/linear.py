"""The affine map of an expression: its matrix and offset, by left multiplication from the output side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignkit.errors import CurvatureError, ParameterError
from alignkit.expressions.arrays import Floats
from alignkit.expressions.atom import AffineAtom, chain
from alignkit.expressions.expression import Expression, topological
from alignkit.expressions.leaf import Constant, Variable
from alignkit.expressions.matrices import Matrix, identity, norm_bound, plus, row_norms

__all__ = ["AffineMap", "LinearForm", "affine_map", "linear_form"]


@dataclass(frozen=True, eq=False)
class AffineMap:
    """vec(expr) = matrix @ vec(x) + offset, both flattened in C order.

    Arguments:
        matrix: (size, d): ndarray, scipy csr array or `LinearOperator`. It may share memory with the user's constants:
            read-only where it does.
        offset: (size,), float64.
    """

    matrix: Matrix
    offset: Floats


@dataclass(frozen=True, eq=False)
class LinearForm:
    """vec(expr) = Σ matrix_j @ vec(node_j) + offset over nodes where the traversal stopped.

    Arguments:
        parts: pairs of a node and its matrix (size, node.size); None is the identity.
        offset: (size,), float64.
    """

    parts: tuple[tuple[Expression, Matrix | None], ...]
    offset: Floats


def linear_form(
    expression: Expression, stop: Callable[[Expression], bool] = lambda node: not isinstance(node, AffineAtom)
) -> LinearForm:
    """Write an expression as a linear combination of the nodes at which affine structure ends.

    Arguments:
        expression: any expression.
        stop: where the traversal ends; by default at variables and nonlinear atoms.

    Returns:
        The combination; constants are in its offset.
    """
    left: dict[int, Matrix | None] = {id(expression): None}
    totals: set[int] = set()  # sums made here, which nothing else shares while their node waits
    offset = np.zeros(expression.size)
    parts: list[tuple[Expression, Matrix | None]] = []
    for node in reversed(topological(expression, stop)):
        if id(node) not in left:
            continue
        matrix = left.pop(id(node))
        if not node.depends:
            entries = (node.dense() if isinstance(node, Constant) else node.value()).ravel()
            offset = offset + (entries if matrix is None else matrix @ entries)
        elif stop(node):
            parts.append((node, matrix))
        else:
            assert isinstance(node, AffineAtom)
            for position, arg in enumerate(node.args):
                pulled = node._pull(position, matrix)
                if id(arg) not in left:
                    left[id(arg)] = pulled
                elif id(arg) in totals and isinstance(left[id(arg)], np.ndarray) and isinstance(pulled, np.ndarray):
                    left[id(arg)] += pulled
                else:
                    left[id(arg)] = plus(left[id(arg)], pulled, arg.size)
                    totals.add(id(arg))
    return LinearForm(tuple(parts[::-1]), np.asarray(offset, dtype=np.float64).ravel())


def affine_map(expression: Expression) -> AffineMap:
    """The matrix and offset of an affine expression in its variable.

    Arguments:
        expression: an affine expression of one variable.

    Returns:
        The map, with a matrix of shape (expression.size, d): sparse constants give a sparse matrix and operators an
        operator. Nothing of d×d is formed, unless the expression has a dense map of that size.

    Raises:
        CurvatureError: the expression is not affine.
        ParameterError: it has no variable, or more than one.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable(2)
        >>> affine_map(np.array([[1.0, 2.0]]) @ x + 3.0).matrix
        array([[1., 2.]])
    """
    variables = expression.variables()
    if len(variables) != 1:
        raise ParameterError(
            f"An affine map needs exactly one variable, and there are {len(variables)}.", expression=str(expression)
        )
    if not expression.is_affine():
        raise CurvatureError(f"{expression} is not affine: {expression.curvature_rule}", expression=str(expression))
    form = linear_form(expression)
    columns = variables[0].size
    if not form.parts:
        return AffineMap(_zero(expression.size, columns), form.offset)
    matrix = form.parts[0][1]
    return AffineMap(identity(columns) if matrix is None else matrix, form.offset)


def _zero(rows: int, columns: int) -> Matrix:
    from scipy import sparse

    return sparse.csr_array((rows, columns))


def affine_norm(expression: Expression) -> float:
    """An upper bound of the spectral norm of an affine expression's matrix, over all its variables together."""
    bounds = [norm_bound(matrix) for _, matrix in linear_form(expression).parts]
    return _chained_norm(expression) if np.inf in bounds else math.hypot(*bounds)


def _chained_norm(expression: Expression) -> float:
    # The product of the norms along each path, summed over paths.
    found: dict[int, float] = {}
    for node in topological(expression):
        if isinstance(node, AffineAtom):
            found[id(node)] = sum(chain(node._gain(place), found[id(arg)]) for place, arg in enumerate(node.args))
        else:
            found[id(node)] = 1.0 if isinstance(node, Variable) else 0.0
    return found[id(expression)]


def affine_row_norms(expression: Expression) -> Floats | None:
    """Euclidean norms of the rows of an affine expression's matrix, (size,), or None where they are unknown.

    They are upper bounds where the expression has several variables.
    """
    if not expression.is_affine():
        return None
    squares = np.zeros(expression.size)
    for _, matrix in linear_form(expression).parts:
        norms = row_norms(matrix)
        if norms is None:
            return None
        squares = squares + norms**2
    return np.asarray(np.sqrt(squares))
