"""Norms of all entries or along axes: norm1, norm2, norm_inf."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from alignkit.expressions.arrays import Array, constant_like, flat
from alignkit.expressions.atom import Reduction, as_argument, folded
from alignkit.expressions.atoms.elementwise import away_from_zero, clip
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.expression import Expression
from alignkit.expressions.linear import affine_row_norms

__all__ = ["norm1", "norm2", "norm_inf"]


class Norm(Reduction):
    """A norm, absolute: it grows with the magnitude of every entry."""

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

    def _gain(self, position: int) -> float:
        return 1.0

    def conjugate(self, dual: Array) -> Array:
        """0 on the unit ball of the dual norm."""
        self._whole()
        return flat(array_api_compat.array_namespace(dual), dual)[:, 0] * 0.0


class Norm1(Norm):
    """Σ |x_i|."""

    name = "norm1"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude.times(float(self.count))

    def _gain(self, position: int) -> float:
        return math.sqrt(self.count)

    def _own_lipschitz(self) -> float:
        general = super()._own_lipschitz()
        rows = affine_row_norms(self.args[0]) if self.size == 1 else None
        return general if rows is None else min(general, float(np.sum(np.broadcast_to(rows, self.args[0].size))))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return xp.sum(xp.abs(values[0]), axis=axes) if axes else xp.abs(values[0])

    def project_dual(self, dual: Array) -> Array:
        """Clip to the box [−1, 1]."""
        self._whole()
        return clip(dual, -1.0, 1.0)


class Norm2(Norm):
    """√Σ x_i²."""

    name = "norm2"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude.times(math.sqrt(self.count))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        if not axes:
            return xp.abs(values[0])
        # Scaled by the largest entry, so that squares neither overflow nor vanish; the gradient at 0 is 0, not NaN.
        peak = xp.max(xp.abs(values[0]), axis=axes, keepdims=True)
        nonzero = (peak > 0.0) & xp.isfinite(peak)
        scale = xp.where(nonzero, peak, xp.ones_like(peak))
        total = xp.sum((values[0] / scale) ** 2, axis=axes)
        positive = xp.reshape(peak, total.shape) > 0.0
        root = xp.sqrt(xp.where(positive, total, xp.ones_like(total))) * xp.reshape(scale, total.shape)
        return xp.where(positive, root, xp.zeros_like(root))

    def project_dual(self, dual: Array) -> Array:
        """Scale into the unit ball."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        rows = flat(xp, dual)
        length = xp.sqrt(xp.sum(rows * rows, axis=1, keepdims=True))
        return xp.reshape(rows / xp.where(length > 1.0, length, xp.ones_like(length)), dual.shape)


class NormInf(Norm):
    """max |x_i|."""

    name = "norm_inf"

    def _own_range(self) -> Interval:
        return self.args[0].range.magnitude

    def _own_lipschitz(self) -> float:
        general = super()._own_lipschitz()
        rows = affine_row_norms(self.args[0]) if self.size == 1 else None
        return general if rows is None else min(general, float(rows.max()))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        return xp.max(xp.abs(values[0]), axis=axes) if axes else xp.abs(values[0])

    def project_dual(self, dual: Array) -> Array:
        """Project onto the unit ball of ‖·‖₁."""
        self._whole()
        xp = array_api_compat.array_namespace(dual)
        rows = flat(xp, dual)
        magnitude = xp.abs(rows)
        inside = xp.sum(magnitude, axis=1, keepdims=True) <= 1.0
        onto = xp.sign(rows) * project_simplex(magnitude)
        return xp.reshape(xp.where(inside, rows, onto), dual.shape)


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
