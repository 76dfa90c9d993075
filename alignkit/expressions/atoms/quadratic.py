"""Quadratics: sum_squares, quad_form and quad_over_lin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.affine import product_range
from alignkit.expressions.arrays import Array, Floats, as_finite, constant_like, flat, is_sparse, shape_text
from alignkit.expressions.atom import Atom, Reduction, as_argument, folded
from alignkit.expressions.atoms.elementwise import away_from_zero
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed
from alignkit.expressions.layout import reshape
from alignkit.expressions.matrices import Matrix, MovedMatrix, entry_bounds, norm_bound

__all__ = ["quad_form", "quad_over_lin", "sum_squares"]

#: Eigenvalues above −this, relative to the largest magnitude, count as nonnegative: rounding of a Gram matrix.
DEFINITENESS_TOLERANCE = 1e-12
#: Largest matrix whose eigenvalues are computed.
LARGEST_SPECTRUM = 2000


class SumSquares(Reduction):
    """Σ x_i²."""

    name = "sum_squares"

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
        return self.args[0].range.magnitude.power(2).times(float(self.count))

    def _gain(self, position: int) -> float:
        return 2.0 * self.args[0].range.magnitude.upper * math.sqrt(self.count)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        squares = values[0] * values[0]
        return xp.sum(squares, axis=axes) if axes else squares

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        return 2.0 * value

    def conjugate(self, dual: Array) -> Array:
        """‖y‖²/4."""
        self._whole()
        rows = flat(array_api_compat.array_namespace(dual), dual)
        return (rows * rows).sum(axis=1) / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Everything is feasible."""
        self._whole()
        return dual

    def prox(self, points: Array, step: float) -> Array:
        """v/(1 + 2·step)."""
        self._whole()
        return points / (1.0 + 2.0 * step)


class QuadForm(Atom):
    """⟨x, Px⟩ with P symmetric, on the C-order flattening of x.

    Arguments:
        arg: the argument, n entries.
        P: (n, n), symmetric, ndarray or csr array.
    """

    name = "quad_form"

    def __init__(self, arg: Expression, P: Matrix) -> None:
        super().__init__((), (arg,))
        self.P = P
        self._moved = MovedMatrix(P)

    @cached_property
    def definiteness(self) -> int:
        """1 for positive semidefinite, −1 for negative semidefinite, 0 for neither or unknown."""
        lower, upper = _spectrum_signs(self.P)
        return 1 if lower else -1 if upper else 0

    @cached_property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Nonzero eigenvalues (r,) and their eigenvectors (n, r)."""
        dense = self.P.toarray() if is_sparse(self.P) else self.P
        values, vectors = np.linalg.eigh(dense)
        kept = np.abs(values) > DEFINITENESS_TOLERANCE * np.abs(values).max()
        return values[kept], vectors[:, kept]

    @property
    def is_atom_convex(self) -> bool:
        """True when P is positive semidefinite."""
        return self.definiteness > 0

    @property
    def is_atom_concave(self) -> bool:
        """True when P is negative semidefinite."""
        return self.definiteness < 0

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of the gradient 2Px, where x and the entries of P have one sign."""
        lower, upper = entry_bounds(self.P)
        steady = away_from_zero(self.args[0].range)
        if lower >= 0.0:
            return steady
        if upper <= 0.0:
            opposite = {
                Monotonicity.INCREASING: Monotonicity.DECREASING,
                Monotonicity.DECREASING: Monotonicity.INCREASING,
            }
            return opposite.get(steady, steady)
        return Monotonicity.UNKNOWN

    def _own_range(self) -> Interval:
        bounds, count = self.args[0].range, self.args[0].size
        squares = _weighted(bounds.magnitude.power(2), self.P.diagonal())
        products = _weighted(product_range(bounds, bounds), _off_diagonal(self.P))
        entrywise = Interval(squares.lower + products.lower, squares.upper + products.upper)
        largest = Interval(0.0, bounds.magnitude.power(2).upper).times(norm_bound(self.P) * count).upper
        return Interval(
            max(entrywise.lower, 0.0 if self.definiteness > 0 else -largest),
            min(entrywise.upper, 0.0 if self.definiteness < 0 else largest),
        )

    def _gain(self, position: int) -> float:
        strength = 2.0 * norm_bound(self.P) * math.sqrt(self.args[0].size)
        return 0.0 if strength == 0.0 else strength * self.args[0].range.magnitude.upper

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        rows = flat(xp, values[0])
        if self.args[0].is_affine() or not self.definiteness:
            return xp.sum(rows * self._moved.apply(xp, rows), axis=1)
        # An argument outside its domain is infinite, and zeros of P would make that a NaN.
        infinite = xp.isinf(rows)
        rows = xp.where(infinite, xp.zeros_like(rows), rows)
        total = xp.sum(rows * self._moved.apply(xp, rows), axis=1)
        return xp.where(xp.any(infinite, axis=1), xp.full_like(total, self.definiteness * math.inf), total)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        slope = 2.0 * self._moved.apply(xp, flat(xp, values[0]))
        return [xp.reshape(cotangent[:, None] * slope, (cotangent.shape[0], *self.args[0].shape))]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"quad_form({parts[0][0]}, [{shape_text(tuple(self.P.shape))} constant])", CALL

    def conjugate(self, dual: Array) -> Array:
        """¼⟨y, P⁺y⟩ on the range of P."""
        self._need_convex()
        xp = array_api_compat.array_namespace(dual)
        values, vectors = self.spectrum
        coordinates = flat(xp, dual) @ constant_like(vectors / np.sqrt(values), dual)
        return xp.sum(coordinates * coordinates, axis=1) / 4.0

    def project_dual(self, dual: Array) -> Array:
        """Project onto the range of P."""
        self._need_convex()
        xp = array_api_compat.array_namespace(dual)
        vectors = constant_like(self.spectrum[1], dual)
        return xp.reshape((flat(xp, dual) @ vectors) @ vectors.T, dual.shape)

    def prox(self, points: Array, step: float) -> Array:
        """(I + 2·step·|P|)⁻¹v, through the spectrum of P."""
        if not self.definiteness:
            raise ParameterError("quad_form has a proximal map only for a semidefinite P.", expression=str(self))
        xp = array_api_compat.array_namespace(points)
        values, vectors = self.spectrum
        rows, basis = flat(xp, points), constant_like(vectors, points)
        pull = 2.0 * step * constant_like(np.abs(values), points)
        return xp.reshape(rows - ((rows @ basis) * (pull / (1.0 + pull))) @ basis.T, points.shape)

    def _need_convex(self) -> None:
        if not self.is_atom_convex:
            raise ParameterError("quad_form has a conjugate only for a positive semidefinite P.", expression=str(self))


class QuadOverLin(Atom):
    """Σ x_i²/y for y > 0, inf elsewhere.

    Arguments:
        arg: x, of any shape.
        divisor: y, a scalar expression.
    """

    name = "quad_over_lin"

    def __init__(self, arg: Expression, divisor: Expression) -> None:
        super().__init__((), (arg, divisor))

    @property
    def is_atom_convex(self) -> bool:
        """Always true, jointly."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of x; decreasing in y."""
        return Monotonicity.DECREASING if position else away_from_zero(self.args[0].range)

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return ((1, 0.0, True),)

    def _squares(self) -> Interval:
        return self.args[0].range.magnitude.power(2).times(float(self.args[0].size))

    def _least_divisor(self) -> float:
        return max(self.args[1].range.lower, 0.0)

    def _gain(self, position: int) -> float:
        length, least = math.sqrt(self._squares().upper), self._least_divisor()
        if length == 0.0:
            return 0.0
        steepest = length / least if least > 0.0 else math.inf
        return steepest * steepest if position else 2.0 * steepest

    def _own_range(self) -> Interval:
        squares, least, greatest = self._squares(), self._least_divisor(), self.args[1].range.upper
        largest = squares.upper / least if least > 0.0 else math.inf
        return Interval(squares.lower / greatest if greatest > 0.0 else 0.0, largest if squares.upper > 0.0 else 0.0)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        rows, divisor = flat(xp, values[0]), values[1]
        positive = divisor > 0.0
        safe = xp.where(positive, divisor, xp.ones_like(divisor))
        total = xp.sum(rows * (rows / safe[:, None]), axis=1)
        return xp.where(positive, total, xp.full_like(total, math.inf))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        arg = self.args[0]
        divisor = xp.where(values[1] > 0.0, values[1], xp.ones_like(values[1]))
        ratio = flat(xp, values[0]) / divisor[:, None]
        slope = xp.reshape(cotangent[:, None] * (2.0 * ratio), (cotangent.shape[0], *arg.shape))
        return [slope, -cotangent * xp.sum(ratio * ratio, axis=1)]


def _weighted(bounds: Interval, weights: Floats) -> Interval:
    """Bounds of Σ wᵢtᵢ for numbers tᵢ between bounds."""
    ahead = bounds.times(float(weights[weights > 0.0].sum()))
    behind = -bounds.times(-float(weights[weights < 0.0].sum()))
    return Interval(ahead.lower + behind.lower, ahead.upper + behind.upper)


def _off_diagonal(P: Matrix) -> Floats:
    """The entries off the diagonal; of a sparse matrix, those that are stored."""
    if is_sparse(P):
        entries = P.tocoo()
        return np.asarray(entries.data[entries.row != entries.col])
    return np.asarray(P[~np.eye(P.shape[0], dtype=bool)])


def _spectrum_signs(P: Matrix) -> tuple[bool, bool]:
    """Whether P is positive, and negative, semidefinite up to rounding."""
    diagonal = P.diagonal()
    may_be = bool((diagonal >= 0).all()), bool((diagonal <= 0).all())
    if not any(may_be):
        return False, False
    scale = norm_bound(P)
    radius = np.asarray(abs(P).sum(axis=1)).ravel() - np.abs(diagonal)
    if (np.abs(diagonal) >= radius).all():  # Gershgorin's discs
        return may_be
    if not is_sparse(P) and P.shape[0] <= LARGEST_SPECTRUM:
        values = np.linalg.eigvalsh(P)
        slack = DEFINITENESS_TOLERANCE * np.abs(values).max()
        return bool(values[0] >= -slack), bool(values[-1] <= slack)
    sign = 1.0 if may_be[0] else -1.0
    definite = _factorises(sign * P, 1e3 * DEFINITENESS_TOLERANCE * scale)
    return definite and sign > 0, definite and sign < 0


def _factorises(P: Matrix, shift: float) -> bool:
    """Whether P + shift·I has a Cholesky factorisation."""
    if not is_sparse(P):
        try:
            np.linalg.cholesky(P + shift * np.eye(P.shape[0]))
        except np.linalg.LinAlgError:
            return False
        return True
    from scipy import sparse
    from scipy.sparse.linalg import splu

    # An LU factorisation that never pivots off the diagonal is LDLᵀ; positive pivots prove definiteness.
    shifted = (P + shift * sparse.eye_array(P.shape[0])).tocsc()
    options = {"SymmetricMode": True}
    try:
        factors = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError:  # exactly singular
        return False
    return bool((factors.perm_r == factors.perm_c).all() and (factors.U.diagonal() > 0).all())


def sum_squares(x: Any, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The sum of squares; convex.

    Arguments:
        x: an expression or a constant.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ShapeError: an axis is out of range.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(sum_squares(Variable(2)).value([3.0, -4.0]))
        25.0
    """
    return folded(SumSquares(as_argument(x, "sum_squares"), axis))


def quad_form(x: Any, P: Any) -> Expression:
    """The quadratic form ⟨x, Px⟩: convex for P positive semidefinite, concave for negative, else of unknown curvature.

    Arguments:
        x: an expression with n entries; of more than one axis, it is flattened in C order.
        P: a symmetric constant (n, n), dense or sparse.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: P does not fit x.
        ParameterError: P is not symmetric, not constant, or has parameters: their values would be frozen.

    Example:
        >>> from alignkit.expressions import Variable
        >>> quad_form(Variable(2), [[2.0, 1.0], [1.0, 2.0]]).curvature
        <Curvature.CONVEX: 'convex'>
    """
    arg = as_argument(x, "quad_form")
    if isinstance(P, Expression):
        if not P.is_constant():
            raise ParameterError(f"quad_form(x, P) takes a constant P, not {P}.", ways_out=("swap the arguments",))
        if P.parameters():
            raise ParameterError(
                f"quad_form(x, P) takes a fixed P, and {P} has parameters: its eigenvalues decide the curvature.",
                expression=f"quad_form({arg}, {P})",
                ways_out=("sum_squares(L @ x) with a Parameter L, for P = LᵀL", "-sum_squares(L @ x) for P = −LᵀL"),
            )
        P = P.value()
    matrix = as_finite(P, "The matrix P of quad_form")
    if matrix.ndim != 2 or matrix.shape != (arg.size, arg.size):
        raise ShapeError(f"quad_form does not fit: {arg} has shape {arg.shape}, P has shape {tuple(matrix.shape)}.")
    skew = float(abs(matrix - matrix.T).max())
    if skew > 1e-10 * max(float(abs(matrix).max()), np.finfo(np.float64).tiny):
        raise ParameterError(
            f"quad_form takes a symmetric P; entries differ from the transpose by up to {skew:.3g}.",
            expression=f"quad_form({arg}, [{shape_text(tuple(matrix.shape))} constant])",
            ways_out=("(P + P.T) / 2 has the same form",),
        )
    symmetric = (matrix + matrix.T) / 2.0 if skew else matrix
    return folded(QuadForm(arg, symmetric))


def quad_over_lin(x: Any, y: Any) -> Expression:
    """The sum of squares over a positive number, Σ x_i²/y; jointly convex, decreasing in y.

    Arguments:
        x: an expression or a constant, of any shape.
        y: a scalar expression or a constant; where it is not positive the function is inf. A constant gives
            sum_squares(x) / y.

    Returns:
        A scalar expression.

    Raises:
        ShapeError: y is not a scalar.
        ParameterError: y is never positive.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable(3)
        >>> float(quad_over_lin(x[:2], x[2]).value([3.0, 4.0, 5.0]))
        5.0
    """
    arg, divisor = as_argument(x, "quad_over_lin"), as_argument(y, "quad_over_lin")
    if divisor.size != 1:
        raise ShapeError(
            f"quad_over_lin(x, y) takes a scalar y, and {divisor} has shape {divisor.shape}.",
            expression=f"quad_over_lin({arg}, {divisor})",
            ways_out=("the sum of quad_over_lin(x[i], y[i]) over rows", "sum(square(x) / y) for a constant y"),
        )
    divisor = reshape(divisor, ())
    if divisor.range.upper <= 0.0:
        raise ParameterError(
            f"quad_over_lin(x, y) needs y > 0, and {divisor} is never positive.",
            expression=f"quad_over_lin({arg}, {divisor})",
            ways_out=("-quad_over_lin(x, -y)",),
        )
    if not divisor.depends and divisor.range.lower >= 0.0:
        return sum_squares(arg) / divisor
    return folded(QuadOverLin(arg, divisor))


#: A positive definite matrix, for the example.
_FORM = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])

ENTRIES: tuple[Entry, ...] = (
    Entry("sum_squares", "convex", "Σ xᵢ²", sum_squares, (SumSquares,), sum_squares),
    Entry(
        "quad_form",
        "convex",
        "⟨x, Px⟩, P ≽ 0; concave for P ≼ 0",
        lambda x: quad_form(x[0], _FORM),
        (QuadForm,),
        quad_form,
    ),
    Entry(
        "quad_over_lin",
        "convex",
        "Σ xᵢ²/y, y > 0",
        lambda x: quad_over_lin(x[0], x[1, 0]),
        (QuadOverLin,),
        quad_over_lin,
    ),
)
