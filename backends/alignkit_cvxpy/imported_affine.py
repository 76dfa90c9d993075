"""cvxpy's affine atoms as alignkit's: the common ones one to one, all others as linear maps.

cvxpy flattens in Fortran order where it is not told otherwise, alignkit in C order; the matrices read from cvxpy are
permuted from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import alignkit.expressions as ak
from alignkit.expressions import Expression
from alignkit.expressions.layout import BroadcastTo, broadcast_to

__all__ = ["AFFINE", "Translator", "as_linear_map", "is_zero"]

cp: Any = cvxpy  # typed in part only
affine: Any = cp.atoms.affine

#: From a cvxpy node and its arguments, already translated, to an expression of its shape, or one that reshapes to it.
Translator = Callable[[Any, list[Expression]], Expression]


def _sum_of_terms(_node: Any, args: list[Expression]) -> Expression:
    total = args[0]
    for arg in args[1:]:
        total = total + arg
    return total


def _multiply(node: Any, args: list[Expression]) -> Expression:
    return _zero(node) if any(map(is_zero, args)) else args[0] * args[1]


def _matmul(node: Any, args: list[Expression]) -> Expression:
    left, right = args
    if not left.shape or not right.shape:
        return _multiply(node, args)
    if left.ndim <= 2 and right.ndim <= 2:
        return _zero(node) if any(map(is_zero, args)) else left @ right
    return as_linear_map(node, args)


def is_zero(arg: Expression) -> bool:
    """Whether an expression is zero: a product with it is constant, whatever the curvature of the other factor."""
    while isinstance(arg, BroadcastTo):
        (arg,) = arg.args
    return isinstance(arg, ak.Constant) and not abs(arg.array).max()


def _zero(node: Any) -> Expression:
    return ak.as_expression(np.zeros(node.shape))


def _index(node: Any, args: list[Expression]) -> Expression:
    # The key as it was written: the one cvxpy keeps beside it has negative steps resolved in its own way.
    return args[0][node.get_data()[1]]


def _reshape(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    _, order = node.get_data()
    if order == "C" or _is_flat_either_way(arg.shape, node.shape):
        return ak.reshape(arg, node.shape)
    return ak.reshape(arg.T, node.shape[::-1]).T


def _is_flat_either_way(*shapes: tuple[int, ...]) -> bool:
    """Whether C and Fortran order agree: at most one axis of each shape is longer than 1."""
    return all(sum(length > 1 for length in shape) <= 1 for shape in shapes)


def _transpose(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    axes = range(arg.ndim)[::-1] if node.axes is None else [axis % arg.ndim for axis in node.axes]
    return arg.T if tuple(axes) == tuple(range(arg.ndim)[::-1]) else as_linear_map(node, args)


def _hstack(_node: Any, args: list[Expression]) -> Expression:
    parts = [arg if arg.shape else ak.reshape(arg, (1,)) for arg in args]
    return ak.concatenate(parts, axis=0 if parts[0].ndim == 1 else 1)


def _vstack(_node: Any, args: list[Expression]) -> Expression:
    return ak.concatenate([arg if arg.ndim > 1 else ak.reshape(arg, (1, arg.size)) for arg in args], axis=0)


def _concatenate(node: Any, args: list[Expression]) -> Expression:
    if node.axis is None:
        return ak.concatenate([ak.vec(arg) for arg in args])
    return ak.concatenate(args, axis=node.axis)


def _cumsum(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    if not arg.shape:
        return arg
    return ak.cumsum(ak.vec(arg)) if node.axis is None else ak.cumsum(arg, axis=node.axis)


def _trace(node: Any, args: list[Expression]) -> Expression:
    return ak.trace(args[0]) if args[0].ndim == 2 else as_linear_map(node, args)


def _nonneg_wrap(_node: Any, args: list[Expression]) -> Expression:
    # What is known to be nonnegative is its own positive part, whose sign the calculus knows.
    (arg,) = args
    return ak.pos(arg) if arg.is_convex() else arg


#: From a class of cvxpy's to its translation; the affine atoms that are not here become linear maps.
AFFINE: dict[type, Translator] = {
    affine.add_expr.AddExpression: _sum_of_terms,
    affine.unary_operators.NegExpression: lambda _node, args: -args[0],
    affine.binary_operators.multiply: _multiply,
    affine.binary_operators.MulExpression: _matmul,
    affine.binary_operators.DivExpression: lambda _node, args: args[0] / args[1],
    affine.promote.Promote: lambda node, args: broadcast_to(ak.reshape(args[0], ()), node.shape),
    affine.broadcast_to.broadcast_to: lambda node, args: broadcast_to(args[0], node.shape),
    affine.index.index: _index,
    affine.index.special_index: lambda node, args: args[0][node.key],
    affine.reshape.reshape: _reshape,
    affine.transpose.transpose: _transpose,
    affine.hstack.Hstack: _hstack,
    affine.vstack.Vstack: _vstack,
    affine.concatenate.Concatenate: _concatenate,
    affine.sum.Sum: lambda node, args: ak.sum(args[0], axis=node.axis),
    affine.cumsum.cumsum: _cumsum,
    affine.trace.Trace: _trace,
    affine.wraps.Wrap: lambda _node, args: args[0],
    affine.wraps.nonneg_wrap: _nonneg_wrap,
}


# ---- all others, by their matrices

#: Atoms that are affine in each of two arguments, not in both.
_PRODUCTS = (
    affine.binary_operators.MulExpression,
    affine.conv.conv,
    affine.conv.convolve,
    affine.kron.kron,
)


def as_linear_map(node: Any, args: list[Expression]) -> Expression:
    """Any affine atom of cvxpy's: the matrices cvxpy itself would hand to a solver, applied to the arguments.

    Arguments:
        node: an affine atom.
        args: its arguments, translated.
    """
    moving = [place for place, arg in enumerate(node.args) if not _is_fixed(arg)]
    if isinstance(node, _PRODUCTS) and len(moving) == 2:
        return _bilinear(node, args)
    twin, stand_ins = _twin(node, moving)
    total: Expression = _at_zero(twin)
    for place in moving:
        total = _apply(_matrix(twin, stand_ins[place]), args[place], node.shape) + total
    return total


def _bilinear(node: Any, args: list[Expression]) -> Expression:
    """Σ_j p_j·(A_j x) for a product of a parameter p and an expression x, A_j being the product with e_j."""
    place, other = (0, 1) if node.args[0].is_constant() else (1, 0)
    shape, size = node.args[place].shape, node.args[place].size
    maps = []
    for j in range(size):
        unit = np.zeros(size)
        unit[j] = 1.0
        twin, stand_ins = _twin(node, [other], {place: unit.reshape(shape)})
        maps.append(_matrix(twin, stand_ins[other]))
    # Row (i, j) of the tall map is row i of A_j.
    tall = sparse.vstack(maps, format="csr")
    order = np.arange(tall.shape[0]).reshape(size, -1).T.ravel()
    products = ak.reshape(ak.linear_map(tall[order], args[other]), (node.size, size))
    return ak.reshape(products @ ak.vec(args[place]), node.shape)


def _is_fixed(arg: Any) -> bool:
    return arg.is_constant() and not arg.parameters()


def _twin(node: Any, moving: list[int], values: dict[int, Any] | None = None) -> tuple[Any, dict[int, Any]]:
    """The atom over fresh variables, at zero, in the place of some of its arguments, and constants in others'."""
    stand_ins = {place: cp.Variable(node.args[place].shape) for place in moving}
    for variable in stand_ins.values():
        variable.value = np.zeros(variable.shape)
    constants = {place: cp.Constant(value) for place, value in (values or {}).items()}
    return node.copy([{**stand_ins, **constants}.get(place, arg) for place, arg in enumerate(node.args)]), stand_ins


def _at_zero(twin: Any) -> Any:
    value = twin.value
    value = np.asarray(value.toarray() if sparse.issparse(value) else value, dtype=np.float64).reshape(twin.shape)
    return value if value.any() else 0.0


def _matrix(twin: Any, stand_in: Any) -> sparse.csr_array:
    """The matrix of an affine atom in one of its arguments, both flattened in C order."""
    gradient = sparse.csr_array(sparse.csc_array(twin.grad[stand_in]).T)
    return gradient[_c_order(twin.shape)][:, _c_order(stand_in.shape)]


def _c_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the entries of the C-order flattening are in the Fortran-order one."""
    return np.arange(math.prod(shape)).reshape(shape, order="F").ravel()


def _apply(matrix: sparse.csr_array, arg: Expression, shape: tuple[int, ...]) -> Expression:
    counts = np.diff(matrix.indptr)
    if (counts == 1).all() and (matrix.data == 1.0).all():
        return ak.reshape(ak.vec(arg)[matrix.indices], shape)
    return ak.reshape(ak.linear_map(matrix, arg), shape)
