"""cvxpy's convex and concave atoms as compositions of alignkit's that prove the same curvature."""

from __future__ import annotations

from typing import Any

import cvxpy
import numpy as np

import alignkit.expressions as ak
from alignkit.expressions import Expression
from alignkit.expressions.atom import axes_of
from alignkit_cvxpy.imported_affine import Translator, is_zero

__all__ = ["ATOMS", "Inexpressible"]

cp: Any = cvxpy  # typed in part only


class Inexpressible(Exception):
    """An atom that alignkit's cannot express.

    Arguments:
        rule: why, in a sentence.
        ways_out: what to write instead.
    """

    def __init__(self, rule: str, ways_out: list[str] | None = None) -> None:
        super().__init__(rule)
        self.rule, self.ways_out = rule, ways_out or []


def _entrywise(function: str) -> Translator:
    return lambda _node, args: getattr(ak, function)(args[0])


def _along_axes(function: str) -> Translator:
    return lambda node, args: getattr(ak, function)(args[0], axis=node.axis)


# ---- entry by entry


def _power(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    if not isinstance(node.p, cp.Constant):
        raise Inexpressible("the exponent is a parameter, and decides the curvature.", ["A number as the exponent."])
    p = float(node.p.value)
    if p == 0.0:
        return ak.as_expression(np.ones(arg.shape))
    if p == 1.0:
        return arg
    if p > 1.0 and arg.is_convex() and not arg.is_affine() and not node.args[0].is_nonneg():
        # cvxpy takes the power for increasing, as it is where the argument is not negative: its domain.
        arg = arg if float(np.log2(p)).is_integer() else ak.pos(arg)
    return ak.square(arg) if p == 2.0 else ak.power(arg, p)


def _huber(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    M = node.M
    if M.parameters():
        raise Inexpressible(
            "its width M is a parameter.", ["cp.multiply(M**2, cp.huber(e / M)), the same function, with M outside."]
        )
    return ak.huber(arg, float(np.asarray(M.value).item()))


def _maximum(node: Any, args: list[Expression]) -> Expression:
    for arg, other in (args, args[::-1]) if len(args) == 2 else ():
        if is_zero(other) and arg.shape == node.shape:
            return ak.pos(arg)
    return args[0] if len(args) == 1 else ak.maximum(*args)


def _minimum(_node: Any, args: list[Expression]) -> Expression:
    return args[0] if len(args) == 1 else ak.minimum(*args)


def _kl_div(node: Any, args: list[Expression]) -> Expression:
    x, y = args
    return _rel_entr(node, args) - x + y


def _rel_entr(node: Any, args: list[Expression]) -> Expression:
    x, y = args
    x_moves, y_moves = (not arg.is_constant() for arg in node.args)
    if x_moves and y_moves:
        raise Inexpressible(
            "it is jointly convex in two arguments that both depend on the variable, and alignkit's entropy has one.",
            ["A constant as one of the two."],
        )
    return -ak.entr(x) - (ak.log(y) * x if x_moves else x * ak.log(y))


def _xexp(_node: Any, _args: list[Expression]) -> Expression:
    raise Inexpressible("x·exp(x) is no composition of alignkit's atoms that is provably convex.", ["cp.exp(e)"])


# ---- reductions


def _pnorm(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    p = float(node.p)
    if p < 1.0:
        raise Inexpressible(
            f"alignkit has p-norms for p ≥ 1, and p is {p:.6g}, as in a harmonic mean.",
            ["cp.geo_mean(e) or cp.min(e) for another concave mean."],
        )
    return ak.norm2(arg, axis=node.axis) if p == 2.0 else ak.pnorm(arg, p, axis=node.axis)


def _geo_mean(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    gone = axes_of(node.axis, arg.ndim)
    weights = np.zeros(arg.size // max(node.size, 1))
    weights[node._keep] = [float(weight) for weight in node.w]
    # cvxpy's weights are in Fortran order of the axes as they were named, alignkit's in C order of the axes in order.
    named = weights.reshape([arg.shape[axis] for axis in gone], order="F")
    return ak.geo_mean(arg, named.transpose(np.argsort(gone)).ravel(), axis=node.axis)


def _sum_largest(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    count = arg.size // max(node.size, 1)
    return ak.sum_largest(arg, min(float(node.k), float(count)), axis=node.axis)


def _dotsort(node: Any, args: list[Expression]) -> Expression:
    arg = ak.vec(args[0])
    if node.args[1].parameters():
        raise Inexpressible("its weights are a parameter, which must be sorted.", ["A constant array of weights."])
    weights = np.zeros(arg.size)
    given = np.asarray(cp.Constant(node.args[1].value).value, dtype=np.float64)
    weights[: given.size] = given.ravel()
    weights = np.sort(weights)[::-1]
    # Summed by parts: what weight k has above weight k + 1 belongs to all k largest entries.
    total: Expression = weights[-1] * ak.sum(arg)
    for k in np.flatnonzero(weights[:-1] > weights[1:]):
        total = total + float(weights[k] - weights[k + 1]) * ak.sum_largest(arg, int(k) + 1)
    return total


def _cummax(node: Any, args: list[Expression]) -> Expression:
    (arg,) = args
    before = (slice(None),) * node.axis
    running = [ak.max(arg[(*before, slice(0, end))], axis=node.axis) for end in range(1, arg.shape[node.axis] + 1)]
    return ak.stack(running, axis=node.axis)


# ---- quadratics and matrices


def _quad_form(node: Any, args: list[Expression]) -> Expression:
    if node.args[1].parameters():
        raise Inexpressible(
            "its matrix has parameters, and its eigenvalues decide the curvature.",
            ["cp.sum_squares(L @ e) with a parameter L, for P = LᵀL."],
        )
    return ak.quad_form(ak.vec(args[0]), args[1])


def _quad_over_lin(node: Any, args: list[Expression]) -> Expression:
    arg, divisor = args[0], ak.reshape(args[1], ())
    if isinstance(divisor, ak.Constant):
        squares = ak.sum_squares(arg, axis=node.axis)
        value = float(divisor.dense())
        return squares if value == 1.0 else squares / value
    if node.axis is None:
        return ak.quad_over_lin(arg, divisor)
    kept = [axis for axis in range(arg.ndim) if axis not in axes_of(node.axis, arg.ndim)]
    places = np.ndindex(*(arg.shape[axis] for axis in kept))
    groups = [arg[_place(dict(zip(kept, place, strict=True)), arg.ndim)] for place in places]
    return ak.stack([ak.quad_over_lin(group, divisor) for group in groups])


def _place(fixed: dict[int, int], ndim: int) -> tuple[Any, ...]:
    return tuple(fixed.get(axis, slice(None)) for axis in range(ndim))


def _matrix_frac(node: Any, args: list[Expression]) -> Expression:
    arg, matrix = args
    if not isinstance(matrix, ak.Constant):
        raise Inexpressible(
            "its matrix is not a constant, and alignkit has no inverse of a matrix.", ["A constant matrix P."]
        )
    columns = arg if arg.ndim == 2 else ak.reshape(arg, (arg.size, 1))
    try:
        lower = np.linalg.cholesky((matrix.dense() + matrix.dense().T) / 2.0)
    except np.linalg.LinAlgError:
        raise Inexpressible("its matrix is not positive definite.") from None
    return ak.sum_squares(np.linalg.inv(lower) @ columns)


def _no_such_atom(what: str, *ways_out: str) -> Translator:
    def refuse(_node: Any, _args: list[Expression]) -> Expression:
        raise Inexpressible(f"alignkit has no atom for {what}.", list(ways_out))

    return refuse


_SYMMETRIC = "cp.sigma_max(e), the largest singular value: for positive semidefinite matrices the largest eigenvalue."

#: From a class of cvxpy's to its translation; a class that is in no table is refused by its name.
ATOMS: dict[type, Translator] = {
    cp.abs: _entrywise("abs"),
    cp.exp: _entrywise("exp"),
    cp.log: _entrywise("log"),
    cp.log1p: _entrywise("log1p"),
    cp.entr: _entrywise("entr"),
    cp.logistic: _entrywise("logistic"),
    cp.huber: _huber,
    cp.Power: _power,
    cp.maximum: _maximum,
    cp.minimum: _minimum,
    cp.kl_div: _kl_div,
    cp.rel_entr: _rel_entr,
    cp.xexp: _xexp,
    cp.norm1: _along_axes("norm1"),
    cp.norm_inf: _along_axes("norm_inf"),
    cp.Pnorm: _pnorm,
    cp.max: _along_axes("max"),
    cp.min: _along_axes("min"),
    cp.log_sum_exp: _along_axes("log_sum_exp"),
    cp.sum_largest: _sum_largest,
    cp.dotsort: _dotsort,
    cp.cummax: _cummax,
    cp.GeoMean: _geo_mean,
    cp.QuadForm: _quad_form,
    cp.quad_over_lin: _quad_over_lin,
    cp.MatrixFrac: _matrix_frac,
    cp.sigma_max: _entrywise("sigma_max"),
    cp.normNuc: _no_such_atom("the sum of singular values", "cp.sigma_max(e) or cp.norm(e, 'fro')."),
    cp.lambda_max: _no_such_atom("the largest eigenvalue", _SYMMETRIC),
    cp.lambda_sum_largest: _no_such_atom("sums of the largest eigenvalues", _SYMMETRIC),
    cp.log_det: _no_such_atom("the logarithm of a determinant", "cp.sum(cp.log(cp.diag(e))) for diagonal matrices."),
    cp.tr_inv: _no_such_atom("the trace of an inverse", "cp.sum(cp.inv_pos(cp.diag(e))) for diagonal matrices."),
    cp.von_neumann_entr: _no_such_atom("the entropy of a matrix", "cp.sum(cp.entr(e)) of a vector."),
    cp.quantum_rel_entr: _no_such_atom("the relative entropy of matrices", "cp.sum(cp.entr(e)) of a vector."),
    cp.perspective: _no_such_atom("perspectives", "cp.quad_over_lin(e, s), the perspective of a square."),
    cp.atoms.suppfunc.SuppFuncAtom: _no_such_atom(
        "support functions", "cp.norm1(e), cp.norm2(e) or cp.norm_inf(e): of the unit balls of the dual norms."
    ),
}
