"""Norms of all entries or along axes, the largest singular value, and total variation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.arrays import Array, as_number, constant_like, flat
from alignkit.expressions.atom import Reduction, as_argument, folded
from alignkit.expressions.atoms.elementwise import away_from_zero, clip
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import Expression
from alignkit.expressions.layout import stack
from alignkit.expressions.linear import affine_row_norms
from alignkit.expressions.reductions import diff, sum

__all__ = ["norm", "norm1", "norm2", "norm_inf", "pnorm", "sigma_max", "total_variation"]


class Norm(Reduction):
    """A norm: it grows with the magnitude of entries of one sign."""

    #: The p-norm of the entries is at least as large, and as large where all entries are equal.
    p: float

    @property
    def is_atom_convex(self) -> bool:
        """Always true."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of the argument."""
        return away_from_zero(self.args[0].range)

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude.times(math.pow(self.count, 1.0 / self.p))

    def _gain(self, position: int) -> float:
        return max(1.0, math.pow(self.count, 1.0 / self.p - 0.5))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return self._reduced(xp, values[0], axes) if axes else xp.abs(values[0])

    @abstractmethod
    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        """The norm along axes, of which there is at least one."""

    def conjugate(self, dual: Array) -> Array:
        """0 on the unit ball of the dual norm."""
        self._whole()
        return flat(array_api_compat.array_namespace(dual), dual)[:, 0] * 0.0


class EntryNorm(Norm):
    """A p-norm of the entries, whose Lipschitz constant over an affine argument may come from its rows."""

    def _own_lipschitz(self) -> float:
        general = super()._own_lipschitz()
        rows = affine_row_norms(self.args[0]) if self.size == 1 else None
        if rows is None:
            return general
        # |aᵢ·u| ≤ ‖aᵢ‖‖u‖ in every entry.
        rows = np.broadcast_to(rows, self.args[0].size)
        return min(general, float(rows.max() if self.p == math.inf else p_norm(np, rows, self.p, (0,))))


class Norm1(EntryNorm):
    """Σ |x_i|."""

    name = "norm1"
    p = 1.0

    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        return xp.sum(xp.abs(value), axis=axes)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.sign(value)

    def project_dual(self, dual: Array) -> Array:
        """Clip to the box [−1, 1]."""
        self._whole()
        return clip(dual, -1.0, 1.0)

    def prox(self, points: Array, step: float) -> Array:
        """Soft thresholding: every entry moves towards 0 by the step, and no further."""
        self._whole()
        return points - clip(points, -step, step)


class Norm2(Norm):
    """√Σ x_i²."""

    name = "norm2"
    p = 2.0

    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        return p_norm(xp, value, 2.0, axes)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return value / xp.where(result > 0.0, result, xp.ones_like(result))

    def project_dual(self, dual: Array) -> Array:
        """Scale into the unit ball."""
        self._whole()
        return scaled_into_ball(dual, 2.0)

    def prox(self, points: Array, step: float) -> Array:
        """Block shrinkage: the vector keeps its direction and loses `step` of its length, down to 0."""
        self._whole()
        xp = array_api_compat.array_namespace(points)
        rows = flat(xp, points)
        length = p_norm(xp, rows, 2.0, (1,))[:, None]
        kept = xp.where(length > step, 1.0 - step / xp.where(length > step, length, xp.ones_like(length)), 0.0 * length)
        return xp.reshape(rows * kept, points.shape)


class NormInf(EntryNorm):
    """max |x_i|."""

    name = "norm_inf"
    p = math.inf

    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        return xp.max(xp.abs(value), axis=axes)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return xp.sign(value) * shared(xp, xp.abs(value) == result, self._batch_axes(), value)

    def project_dual(self, dual: Array) -> Array:
        """Project onto the unit ball of ‖·‖₁."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        return xp.reshape(project_l1_ball(flat(xp, dual)), dual.shape)

    def prox(self, points: Array, step: float) -> Array:
        """By Moreau's identity, from the projection onto the unit ball of ‖·‖₁."""
        return points - step * self.project_dual(points / step)


class PNorm(EntryNorm):
    """(Σ |x_i|^p)^(1/p).

    Arguments:
        arg: the argument.
        p: above 1, finite.
        axis: None for all entries, or the axes.
    """

    name = "pnorm"

    def __init__(self, arg: Expression, p: float, axis: int | tuple[int, ...] | None = None) -> None:
        super().__init__(arg, axis)
        self.p = p

    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        return p_norm(xp, value, self.p, axes)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        ratio = xp.abs(value) / xp.where(result > 0.0, result, xp.ones_like(result))
        return xp.sign(value) * ratio ** (self.p - 1.0)

    def project_dual(self, dual: Array) -> Array:
        """Scale into the unit ball of the q-norm, 1/p + 1/q = 1."""
        self._whole()
        return scaled_into_ball(dual, self.p / (self.p - 1.0))

    def _options(self) -> Sequence[str]:
        return (f"{self.p:.6g}", *super()._options())


class SigmaMax(Norm):
    """The largest singular value of a matrix."""

    name = "sigma_max"
    p = 2.0

    def _reduced(self, xp: Any, value: Array, axes: tuple[int, ...]) -> Array:
        largest = xp.astype(xp.linalg.svdvals(_decomposable(xp, value))[:, 0], value.dtype)
        finite = xp.all(xp.isfinite(value), axis=axes)
        return xp.where(finite, largest, xp.sum(xp.abs(value), axis=axes))

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        left, _, right = xp.linalg.svd(_decomposable(xp, value), full_matrices=False)
        return xp.astype(left[:, :, :1] * right[:, :1, :], value.dtype)

    def project_dual(self, dual: Array) -> Array:
        """Project onto the matrices whose singular values sum to at most 1."""
        xp = array_api_compat.array_namespace(dual)
        left, middle, right = xp.linalg.svd(_decomposable(xp, dual), full_matrices=False)
        inside = xp.sum(middle, axis=1)[:, None, None] <= 1.0
        onto = (left * project_l1_ball(middle)[:, None, :]) @ right
        return xp.where(inside, dual, xp.astype(onto, dual.dtype))

    def prox(self, points: Array, step: float) -> Array:
        """The singular values moved as `norm_inf` moves entries."""
        xp = array_api_compat.array_namespace(points)
        left, middle, right = xp.linalg.svd(_decomposable(xp, points), full_matrices=False)
        moved = middle - step * project_l1_ball(middle / step)
        return xp.astype((left * moved[:, None, :]) @ right, points.dtype)


def _decomposable(xp: Any, matrices: Array) -> Array:
    """Finite, as numpy decomposes nothing else, and in single precision at least, as no library decomposes half."""
    finite = xp.where(xp.isfinite(matrices), matrices, xp.zeros_like(matrices))
    return finite if finite.dtype in (xp.float32, xp.float64) else xp.astype(finite, xp.float32)


def p_norm(xp: Any, values: Array, p: float, axes: tuple[int, ...]) -> Array:
    """(Σ |v|^p)^(1/p) without overflow, with the derivative 0 at 0.

    Arguments:
        xp: the array namespace of `values`.
        values: an array with a floating dtype.
        p: at least 1, finite.
        axes: the axes to reduce, at least one.

    Returns:
        `values` without those axes.
    """
    # Scaled by the largest entry, so that powers neither overflow nor vanish.
    peak = xp.max(xp.abs(values), axis=axes, keepdims=True)
    nonzero = (peak > 0.0) & xp.isfinite(peak)
    scale = xp.where(nonzero, peak, xp.ones_like(peak))
    ratio = values / scale
    total = xp.sum(ratio * ratio if p == 2.0 else xp.abs(ratio) ** p, axis=axes)
    # Not `> 0`: a NaN stays one.
    positive = xp.reshape(peak, total.shape) != 0.0
    safe = xp.where(positive, total, xp.ones_like(total))
    root = (xp.sqrt(safe) if p == 2.0 else safe ** (1.0 / p)) * xp.reshape(scale, total.shape)
    return xp.where(positive, root, xp.zeros_like(root))


def shared(xp: Any, chosen: Array, axes: tuple[int, ...], like: Array) -> Array:
    """Weights that sum to 1 along axes, even over the chosen entries: at ties a subgradient for every one of them."""
    weights = xp.astype(chosen, like.dtype)
    return weights / xp.sum(weights, axis=axes, keepdims=True)


def scaled_into_ball(dual: Array, q: float) -> Array:
    """Points outside the unit ball of the q-norm scaled onto it; (n, *shape)."""
    xp = array_api_compat.array_namespace(dual)
    rows = flat(xp, dual)
    length = p_norm(xp, rows, q, (1,))[:, None]
    return xp.reshape(rows / xp.where(length > 1.0, length, xp.ones_like(length)), dual.shape)


def project_l1_ball(rows: Array) -> Array:
    """Project each row (n, m) onto {‖y‖₁ ≤ 1}."""
    xp = array_api_compat.array_namespace(rows)
    magnitude = xp.abs(rows)
    inside = xp.sum(magnitude, axis=1, keepdims=True) <= 1.0
    return xp.where(inside, rows, xp.sign(rows) * project_simplex(magnitude))


def project_simplex(rows: Array) -> Array:
    """Project each row onto {y ≥ 0, Σy = 1}.

    Arguments:
        rows: (n, m).

    Returns:
        (n, m).

    Source: J. Duchi et al., "Efficient projections onto the ℓ1-ball for learning in high dimensions", 2008.
    """
    xp = array_api_compat.array_namespace(rows)
    ordered = xp.sort(rows, axis=1, descending=True)
    counts = constant_like(np.arange(1.0, rows.shape[1] + 1.0), rows)
    excess = (xp.cumulative_sum(ordered, axis=1) - 1.0) / counts
    # The largest support for which the last kept entry still exceeds its threshold.
    support = xp.sum(xp.astype(ordered > excess, xp.int64), axis=1, keepdims=True)
    threshold = xp.take_along_axis(excess, support - 1, axis=1)
    return (rows - threshold).clip(0.0, None)


def norm(x: Any, p: Any = 2, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The p-norm of a vector, or of the entries along axes; convex.

    Arguments:
        x: an expression or a constant.
        p: at least 1, math.inf or "inf"; "fro" for the Euclidean norm of all entries of a matrix.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ParameterError: p is below 1 or unknown; or x is a matrix, whose norm for a number p is the largest singular
            value or the largest sum of a row or a column to some, and a norm of the entries to others.
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> str(norm(Variable(2)))
        'norm2(x)'
    """
    arg = as_argument(x, "norm")
    if p == "fro" and axis is None and arg.ndim == 2:
        return norm2(arg)
    if p in ("fro", "nuc"):
        raise ParameterError(
            f"norm: {p!r} is {'a norm of whole matrices' if p == 'fro' else 'not among the norms here'}.",
            expression=f"norm({arg}, {p!r})",
            ways_out=("norm2(x, axis) for the Euclidean norm", "sigma_max(x) for the largest singular value"),
        )
    # Of a single row or column, the Euclidean norm and the largest singular value are the same.
    if axis is None and arg.ndim == 2 and not (p == 2 and 1 in arg.shape):
        raise ParameterError(
            f"norm: {arg} of shape {arg.shape} is a matrix, and its norm for p = {p!r} has more than one meaning.",
            expression=f"norm({arg}, {p!r})",
            ways_out=(
                "norm1(x), norm2(x), norm_inf(x) or pnorm(x, p) for the norm of its entries",
                "sigma_max(x) for the largest singular value",
                "max(norm1(x, axis=0)) or max(norm1(x, axis=1)) for the largest sum of a column or of a row",
            ),
        )
    return _p_norm_of(arg, p, axis, "norm")


def norm1(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The sum of absolute values, entrywise for matrices too; convex.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(norm1(Variable(2)).value([-1.0, 2.0]))
        3.0
    """
    return folded(Norm1(as_argument(x, "norm1"), axis))


def norm2(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The Euclidean norm, entrywise for matrices too; convex.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(norm2(Variable(2)).value([3.0, -4.0]))
        5.0
    """
    return folded(Norm2(as_argument(x, "norm2"), axis))


def norm_inf(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The largest absolute value, entrywise for matrices too; convex.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(norm_inf(Variable(2)).value([3.0, -4.0]))
        4.0
    """
    return folded(NormInf(as_argument(x, "norm_inf"), axis))


def pnorm(x: Any, p: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The p-norm (Σ |x_i|^p)^(1/p), entrywise for matrices too; convex.

    Arguments:
        x: an expression or a constant.
        p: at least 1, math.inf or "inf"; 1, 2 and inf give `norm1`, `norm2` and `norm_inf`.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ParameterError: p is below 1, where the function is not convex, or not a number.
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> round(float(pnorm(Variable(2), 3).value([1.0, -2.0])), 6)
        2.080084
    """
    return _p_norm_of(as_argument(x, "pnorm"), p, axis, "pnorm")


def _p_norm_of(arg: Expression, p: Any, axis: int | tuple[int, ...] | None, name: str) -> Expression:
    order = math.inf if isinstance(p, str) and p in {"inf", "Inf"} else as_number(p)
    if not order >= 1.0:
        ways = (
            ("geo_mean(x), concave", "sum(power(x, p)), concave for 0 < p < 1")
            if order < 1.0
            else ("p is a number from 1 on, or math.inf",)
        )
        reason = "it is not convex below" if order < 1.0 else "nothing else is a norm"
        raise ParameterError(
            f"{name} needs p ≥ 1, and {reason}: p = {p!r}.", expression=f"{name}({arg}, {p!r})", ways_out=ways
        )
    if order == 1.0:
        return norm1(arg, axis)
    if order == 2.0:
        return norm2(arg, axis)
    return norm_inf(arg, axis) if order == math.inf else folded(PNorm(arg, order, axis))


def sigma_max(x: Any) -> Expression:
    """The largest singular value of a matrix; convex.

    Arguments:
        x: a matrix, expression or constant.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: x has not two axes.

    Example:
        >>> from alignkit.expressions import Variable
        >>> round(float(sigma_max(Variable((2, 2))).value([[3.0, 0.0], [0.0, -4.0]])), 6)
        4.0
    """
    arg = as_argument(x, "sigma_max")
    if arg.ndim != 2:
        raise ShapeError(
            f"sigma_max takes a matrix, and {arg} has shape {arg.shape}.",
            ways_out=("reshape(x, (rows, columns))", "norm2(x) for a vector"),
        )
    return folded(SigmaMax(arg))


def total_variation(x: Any) -> Expression:
    """How much neighbours differ: Σ |xᵢ₊₁ − xᵢ| of a vector; isotropic for an image; convex. It is cvxpy's `tv`.

    Arguments:
        x: an expression or a constant with one axis, or with two, (rows, columns).

    Returns:
        A scalar expression; of an image Σ √(dx² + dy²), the differences to the next column and to the next row, over
        all entries that have both.

    Raises:
        ShapeError: x has another number of axes, or an axis has a single entry.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(total_variation(Variable(3)).value([0.0, 2.0, 1.0]))
        3.0

    Source: L. Rudin, S. Osher, E. Fatemi, "Nonlinear total variation based noise removal algorithms", 1992.
    """
    arg = as_argument(x, "total_variation")
    if arg.ndim not in (1, 2):
        raise ShapeError(
            f"total_variation takes one or two axes, and {arg} has shape {arg.shape}.",
            ways_out=("reshape(x, (rows, columns))", "the sum of the total variations of x[0], x[1], …"),
        )
    if 1 in arg.shape:
        raise ShapeError(
            f"total_variation: {arg} of shape {arg.shape} has an axis without neighbours.",
            ways_out=("vec(x), for a single row or column",),
        )
    if arg.ndim == 1:
        return norm1(diff(arg))
    return sum(norm2(stack([diff(arg, axis=0)[:, :-1], diff(arg, axis=1)[:-1]]), axis=0))


ENTRIES: tuple[Entry, ...] = (
    Entry("norm", "convex", "(Σ |xᵢ|^p)^(1/p) of a vector", lambda x: norm(x[0], 2), (), norm),
    Entry("norm1", "convex", "Σ |xᵢ|", norm1, (Norm1,), norm1),
    Entry("norm2", "convex", "√Σ xᵢ²", norm2, (Norm2,), norm2),
    Entry("norm_inf", "convex", "max |xᵢ|", norm_inf, (NormInf,), norm_inf),
    Entry("pnorm", "convex", "(Σ |xᵢ|^p)^(1/p), p ≥ 1", lambda x: pnorm(x, 3), (PNorm,), pnorm),
    Entry("sigma_max", "convex", "the largest singular value", sigma_max, (SigmaMax,), sigma_max),
    Entry("total_variation", "convex", "Σ √(dx² + dy²), or Σ |xᵢ₊₁ − xᵢ|", total_variation, (), total_variation),
)
