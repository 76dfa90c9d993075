"""alignkit's atoms in cvxpy, for a block of rows at once.

An argument is a cvxpy expression of shape (b, m): row i holds the C-order flattening of the atom's argument at row i of
the block. A lowering returns (b, atom.size) in the same layout, and may add constraints to a list. The cvxpy module is
passed in, so that looking at the table costs no import of it. The domain of an atom is imposed by whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.expressions import Atom
from alignkit.expressions.atom import axes_of
from alignkit.expressions.atoms import (
    curves,
    distances,
    elementwise,
    exponential,
    lipschitz,
    norms,
    order,
    piecewise,
    powers,
    products,
    quadratic,
)

__all__ = ["LOWERINGS", "UNLOWERED", "Lowering", "groups", "has_simple_power", "lower_p_norms", "pieces"]

#: From (cvxpy, atom, arguments, constraints to add to) to the values.
Lowering = Callable[[Any, Any, list[Any], list[Any]], Any]

#: Exponents with a denominator up to this become second-order cones, which are more accurate; others power cones.
_LARGEST_DENOMINATOR = 8


def groups(atom: Atom) -> NDArray[np.int64]:
    """The entries of a reduction's argument by result: (atom.size, count), row j reduces to entry j."""
    shape = atom.args[0].shape
    gone = axes_of(atom.axis, len(shape))
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    return np.arange(atom.args[0].size).reshape(shape).transpose([*kept, *gone]).reshape(atom.size, -1)


def pieces(atom: piecewise.Clip | piecewise.PiecewiseLinear) -> piecewise.PiecewiseLinear:
    """What an atom is over the range of its argument, where it is convex or concave: linear between breakpoints."""
    arg = atom.args[0]
    if isinstance(atom, piecewise.Clip):
        ends = np.array([atom.lower - 1.0, atom.lower, atom.upper, atom.upper + 1.0])
        atom = piecewise.PiecewiseLinear(arg, ends, ends.clip(atom.lower, atom.upper))
    met = atom._segments(arg.range)
    kept = slice(met.start, met.stop + 1)
    return piecewise.PiecewiseLinear(arg, atom.breakpoints[kept], atom.values[kept])


def _entrywise(function: Callable[[Any, Any, Any], Any]) -> Lowering:
    """A lowering from a function of (cvxpy, atom, argument)."""
    return lambda cp, atom, args, constraints: function(cp, atom, args[0])


def _reduced(reduce: Callable[[Any, Any, Any, list[Any]], Any]) -> Lowering:
    """A lowering from a function of (cvxpy, atom, rows (j, r), constraints) to (j,), for every group of every row."""

    def lower(cp: Any, atom: Any, args: list[Any], constraints: list[Any]) -> Any:
        (arg,) = args
        block, members = arg.shape[0], groups(atom)
        if atom.size > 1:
            selected = arg[:, members.ravel()] if not _is_sorted(members) else arg
            arg = cp.reshape(selected, (block * atom.size, members.shape[1]), order="C")
        return cp.reshape(reduce(cp, atom, arg, constraints), (block, atom.size), order="C")

    return lower


def _along_rows(function: Callable[[Any, Any, Any], Any]) -> Lowering:
    """A reduction that cvxpy has along axes: a function of (cvxpy, atom, rows)."""
    return _reduced(lambda cp, atom, rows, constraints: function(cp, atom, rows))


def _is_sorted(members: NDArray[np.int64]) -> bool:
    return bool((np.diff(members.ravel()) == 1).all())


def _lower_power(cp: Any, atom: Any, arg: Any) -> Any:
    # cvxpy has powers of two on all reals, other even powers for x ≥ 0 only.
    base = cp.abs(arg) if atom.is_even else arg
    return cp.power(base, atom.p, approx=has_simple_power(atom.p))


def has_simple_power(p: float) -> bool:
    """Whether a power is better written with second-order cones."""
    return float(Fraction(p).limit_denominator(_LARGEST_DENOMINATOR)) == p and abs(p) <= _LARGEST_DENOMINATOR


def lower_p_norms(cp: Any, p: float, rows: Any, constraints: list[Any]) -> Any:
    """‖·‖_p of each row, (j, r) to (j,)."""
    if p in (1.0, 2.0, np.inf):
        return cp.norm(rows, p, axis=1)
    # |x_i| ≤ s_i^(1/p) t^(1 − 1/p) and Σ s_i = t: cvxpy's own has no axis.
    shares, total = cp.Variable(rows.shape), cp.Variable(rows.shape[0])
    wide = cp.reshape(total, (rows.shape[0], 1), order="C") @ np.ones((1, rows.shape[1]))
    constraints += [
        cp.sum(shares, axis=1) == total,
        cp.PowCone3D(*(cp.vec(part, order="C") for part in (shares, wide, rows)), 1.0 / p),
    ]
    return total


def _lower_geo_mean(cp: Any, atom: Any, rows: Any, constraints: list[Any]) -> Any:
    weights = atom.weights
    if (weights == weights[0]).all():
        return cp.geo_mean(rows, axis=1)
    # One entry more at a time, as Clarabel's cone for all at once stops at failed assertions.
    mean, total = rows[:, 0], weights[0]
    for place in range(1, len(weights)):
        longer, total = cp.Variable(rows.shape[0]), total + weights[place]
        constraints.append(cp.PowCone3D(mean, rows[:, place], longer, 1.0 - weights[place] / total))
        mean = longer
    return mean


def _lower_sigma_max(cp: Any, atom: Any, args: list[Any], constraints: list[Any]) -> Any:
    shape = atom.args[0].shape
    rows = [cp.sigma_max(cp.reshape(args[0][row], shape, order="C")) for row in range(args[0].shape[0])]
    return cp.reshape(cp.hstack(rows), (len(rows), 1), order="C")


def _lower_quad_form(cp: Any, atom: Any, args: list[Any], constraints: list[Any]) -> Any:
    values, vectors = atom.spectrum
    sign = 1.0 if atom.is_atom_convex else -1.0
    factor = vectors * np.sqrt(np.maximum(sign * values, 0.0))
    return sign * cp.sum(cp.square(args[0] @ factor), axis=1, keepdims=True)


def _lower_quad_over_lin(cp: Any, atom: Any, args: list[Any], constraints: list[Any]) -> Any:
    # Σ x²/y ≤ t where ‖(2x, t − y)‖ ≤ t + y: cvxpy's own takes a single divisor for all rows.
    rows, divisor = args[0], cp.vec(args[1], order="C")
    total = cp.Variable(rows.shape[0])
    constraints.append(cp.SOC(total + divisor, cp.vstack([2.0 * rows.T, total - divisor]), axis=0))
    return cp.reshape(total, (rows.shape[0], 1), order="C")


def _lower_pieces(cp: Any, atom: Any, args: list[Any], constraints: list[Any]) -> Any:
    linear = pieces(atom)
    starts = zip(linear.slopes, linear.breakpoints[:-1], linear.values[:-1], strict=True)
    lines = [float(slope) * args[0] + float(value - slope * start) for slope, start, value in starts]
    if len(lines) == 1:
        return lines[0]
    return cp.maximum(*lines) if atom.is_atom_convex else cp.minimum(*lines)


#: From an atom's class to its lowering.
LOWERINGS: dict[type[Atom], Lowering] = {
    elementwise.Abs: _entrywise(lambda cp, atom, arg: cp.abs(arg)),
    elementwise.Square: _entrywise(lambda cp, atom, arg: cp.square(arg)),
    elementwise.Huber: _entrywise(lambda cp, atom, arg: cp.huber(arg, atom.M)),
    elementwise.Pos: _entrywise(lambda cp, atom, arg: cp.pos(arg)),
    elementwise.Neg: _entrywise(lambda cp, atom, arg: cp.neg(arg)),
    exponential.Exp: _entrywise(lambda cp, atom, arg: cp.exp(arg)),
    exponential.Logistic: _entrywise(lambda cp, atom, arg: cp.logistic(arg)),
    exponential.Log: _entrywise(lambda cp, atom, arg: cp.log(arg)),
    exponential.Log1p: _entrywise(lambda cp, atom, arg: cp.log1p(arg)),
    exponential.Entr: _entrywise(lambda cp, atom, arg: cp.entr(arg)),
    powers.Power: _entrywise(_lower_power),
    powers.Sqrt: _entrywise(lambda cp, atom, arg: cp.sqrt(arg)),
    powers.InvPos: _entrywise(lambda cp, atom, arg: cp.inv_pos(arg)),
    powers.GeoMean: _reduced(_lower_geo_mean),
    norms.Norm1: _along_rows(lambda cp, atom, rows: cp.norm1(rows, axis=1)),
    norms.Norm2: _along_rows(lambda cp, atom, rows: cp.norm(rows, 2, axis=1)),
    norms.NormInf: _along_rows(lambda cp, atom, rows: cp.norm_inf(rows, axis=1)),
    norms.PNorm: _reduced(lambda cp, atom, rows, constraints: lower_p_norms(cp, atom.p, rows, constraints)),
    norms.SigmaMax: _lower_sigma_max,
    order.Max: _along_rows(lambda cp, atom, rows: cp.max(rows, axis=1)),
    order.Min: _along_rows(lambda cp, atom, rows: cp.min(rows, axis=1)),
    order.LogSumExp: _along_rows(lambda cp, atom, rows: cp.log_sum_exp(rows, axis=1)),
    order.SumLargest: _along_rows(lambda cp, atom, rows: cp.sum_largest(rows, atom.k, axis=1)),
    order.SumSmallest: _along_rows(lambda cp, atom, rows: cp.sum_smallest(rows, atom.k, axis=1)),
    order.Maximum: lambda cp, atom, args, constraints: cp.maximum(*args),
    order.Minimum: lambda cp, atom, args, constraints: cp.minimum(*args),
    quadratic.SumSquares: _along_rows(lambda cp, atom, rows: cp.sum(cp.square(rows), axis=1)),
    quadratic.QuadForm: _lower_quad_form,
    quadratic.QuadOverLin: _lower_quad_over_lin,
    piecewise.Clip: _lower_pieces,
    piecewise.PiecewiseLinear: _lower_pieces,
}

_PARTLY = "is convex or concave over part of its range only, and no cone of cvxpy's describes that part"
_NEITHER = "is neither convex nor concave"

#: From the class of every other atom to why it has no lowering.
UNLOWERED: dict[type[Atom], str] = {
    curves.Sin: _PARTLY,
    curves.Cos: _PARTLY,
    curves.Tanh: _PARTLY,
    curves.Sigmoid: _PARTLY,
    curves.Arctan: _PARTLY,
    distances.DistanceToPoints: _NEITHER,
    lipschitz.UserFunction: _NEITHER,
    products.Product: _NEITHER,
}
