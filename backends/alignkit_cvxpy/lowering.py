"""alignkit's atoms in cvxpy, for a block of rows at once.

An argument is a cvxpy expression of shape (b, m): row i holds the C-order flattening of the atom's argument at row i of
the block. A lowering returns (b, atom.size) in the same layout. The cvxpy module is passed in, so that looking at the
table costs no import of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.expressions import Atom
from alignkit.expressions.atom import axes_of
from alignkit.expressions.atoms import elementwise, norms, order, quadratic

__all__ = ["LOWERINGS", "Lowering", "groups"]

Lowering = Callable[[Any, Any, list[Any]], Any]


def groups(atom: Atom) -> NDArray[np.int64]:
    """The entries of a reduction's argument by result: (atom.size, count), row j reduces to entry j."""
    shape = atom.args[0].shape
    gone = axes_of(atom.axis, len(shape))
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    return np.arange(atom.args[0].size).reshape(shape).transpose([*kept, *gone]).reshape(atom.size, -1)


def _reduced(reduce: Callable[[Any, Any], Any]) -> Lowering:
    """A lowering from a function of (cvxpy, rows (j, r)) to (j,), applied to every group of every row of the block."""

    def lower(cp: Any, atom: Any, args: list[Any]) -> Any:
        (arg,) = args
        block, members = arg.shape[0], groups(atom)
        if atom.size > 1:
            selected = arg[:, members.ravel()] if not _is_sorted(members) else arg
            arg = cp.reshape(selected, (block * atom.size, members.shape[1]), order="C")
        return cp.reshape(reduce(cp, arg), (block, atom.size), order="C")

    return lower


def _is_sorted(members: NDArray[np.int64]) -> bool:
    return bool((np.diff(members.ravel()) == 1).all())


def _lower_quad_form(cp: Any, atom: Any, args: list[Any]) -> Any:
    values, vectors = atom.spectrum
    sign = 1.0 if atom.is_atom_convex else -1.0
    factor = vectors * np.sqrt(np.maximum(sign * values, 0.0))
    return sign * cp.sum(cp.square(args[0] @ factor), axis=1, keepdims=True)


#: From an atom's class to a function of (cvxpy, atom, arguments) that gives the cvxpy expression.
LOWERINGS: dict[type[Atom], Lowering] = {
    elementwise.Abs: lambda cp, atom, args: cp.abs(args[0]),
    elementwise.Square: lambda cp, atom, args: cp.square(args[0]),
    elementwise.Huber: lambda cp, atom, args: cp.huber(args[0], atom.M),
    elementwise.Pos: lambda cp, atom, args: cp.pos(args[0]),
    norms.Norm1: _reduced(lambda cp, rows: cp.norm1(rows, axis=1)),
    norms.Norm2: _reduced(lambda cp, rows: cp.norm(rows, 2, axis=1)),
    norms.NormInf: _reduced(lambda cp, rows: cp.norm_inf(rows, axis=1)),
    order.Max: _reduced(lambda cp, rows: cp.max(rows, axis=1)),
    order.Min: _reduced(lambda cp, rows: cp.min(rows, axis=1)),
    order.LogSumExp: _reduced(lambda cp, rows: cp.log_sum_exp(rows, axis=1)),
    order.Maximum: lambda cp, atom, args: cp.maximum(*args),
    order.Minimum: lambda cp, atom, args: cp.minimum(*args),
    quadratic.SumSquares: _reduced(lambda cp, rows: cp.sum(cp.square(rows), axis=1)),
    quadratic.QuadForm: _lower_quad_form,
}
