"""Interval arithmetic at infinity: bounds of functions of t by their leading power, as t → ∞."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.expressions.arrays import Floats, is_sparse

__all__ = ["Bound", "Germ", "Increasing", "snapped", "weighted_sum"]

#: The largest finite number, for values that overflow.
_HUGE = float(np.finfo(np.float64).max)
#: Digits of a degree that count.
_DIGITS = 12
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Bound:
    """The values c·t^|s|, entry by entry, as bounds of functions of t for t → ∞.

    As a lower bound of e it means: for every ε > 0, e(t) ≥ (c − ε)·t^|s| from some t on; as an upper bound, with ≤ and
    c + ε. Bounds compare as the pairs (s, c) do.

    Arguments:
        degree: s, (n, *shape); |s| is the power, and s has the sign of c where |s| > 0, so that with c = 0 it is
            negative in lower bounds and positive in upper ones. Infinite: beyond every power, which in a lower bound
            of degree −∞ and in an upper one of degree ∞ says nothing at all.
        coefficient: c, (n, *shape). Infinite: between c·t^|s| for every finite c and t^(|s| + ε) for every ε > 0.
    """

    degree: Floats
    coefficient: Floats

    @classmethod
    def filled(cls, shape: tuple[int, ...], degree: float, coefficient: float) -> Bound:
        """The same bound for every entry."""
        return cls(np.full(shape, degree), np.full(shape, coefficient))

    def __neg__(self) -> Bound:
        return Bound(-self.degree, -self.coefficient)

    def __getitem__(self, key: Any) -> Bound:
        return Bound(self.degree[key], self.coefficient[key])

    def exceeds(self, other: Bound) -> NDArray[np.bool_]:
        """Where this bound is the larger one."""
        level = self.degree == other.degree
        return np.asarray((self.degree > other.degree) | (level & (self.coefficient > other.coefficient)))

    def chosen(self, where: NDArray[np.bool_], other: Bound) -> Bound:
        """This bound where `where` holds, the other elsewhere."""
        return Bound(np.where(where, self.degree, other.degree), np.where(where, self.coefficient, other.coefficient))

    def maximum(self, other: Bound) -> Bound:
        """The larger of two bounds, entry by entry."""
        return self.chosen(self.exceeds(other), other)

    def largest(self, axes: tuple[int, ...]) -> Bound:
        """The largest bound along axes."""
        degree = self.degree.max(axis=axes, keepdims=True)
        rivals = np.where(self.degree == degree, self.coefficient, -np.inf)
        return Bound(degree.squeeze(axes), rivals.max(axis=axes))

    def reshaped(self, shape: tuple[int, ...]) -> Bound:
        """The same entries in another shape."""
        return Bound(self.degree.reshape(shape), self.coefficient.reshape(shape))

    def power(self, exponent: float) -> Bound:
        """The bound of e^exponent, for a nonnegative e and bound, and a positive exponent."""
        with np.errstate(over="ignore"):
            coefficient = self.coefficient**exponent
        return Bound(snapped(self.degree * exponent), _held(coefficient, np.isfinite(self.coefficient)))


@dataclass(frozen=True)
class Increasing:
    """How an increasing function φ of one number behaves, for the bounds of φ(e) from those of e.

    Arguments:
        finite: φ, on arrays that may hold infinities.
        above: the degree and coefficient of φ(e) where e is c·t^s with s > 0; in upper bounds c may be 0 or infinite,
            and s may be 0 where c is infinite.
        below: the degree and coefficient of φ(e) where e falls to −∞; None where they are unknown.
    """

    finite: Callable[[Floats], Floats]
    above: Callable[[Floats, Floats], tuple[Any, Any]]
    below: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Germ:
    """A lower and an upper bound of an array-valued function of t, as t → ∞.

    Arguments:
        lower: (n, *shape).
        upper: (n, *shape).
    """

    lower: Bound
    upper: Bound

    @classmethod
    def constant(cls, lower: Floats, upper: Floats | None = None) -> Germ:
        """What stays between two values."""
        upper = lower if upper is None else upper
        return cls(Bound(np.zeros_like(lower), lower), Bound(np.zeros_like(upper), upper))

    @classmethod
    def between(cls, shape: tuple[int, ...], lower: tuple[float, float], upper: tuple[float, float]) -> Germ:
        """The same two bounds for every entry, each a degree and a coefficient."""
        return cls(Bound.filled(shape, *lower), Bound.filled(shape, *upper))

    @classmethod
    def unknown(cls, shape: tuple[int, ...]) -> Germ:
        """Nothing is known."""
        return cls.between(shape, (-math.inf, -1.0), (math.inf, 1.0))

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape)."""
        return self.lower.degree.shape

    @property
    def flattened(self) -> Germ:
        """(n, size), in C order."""
        rows = (self.shape[0], -1)
        return Germ(self.lower.reshaped(rows), self.upper.reshaped(rows))

    def __neg__(self) -> Germ:
        return Germ(-self.upper, -self.lower)

    def within(self, other: Germ) -> Germ:
        """Both bounds at their best, of two descriptions of one function."""
        return Germ(self.lower.maximum(other.lower), -(-self.upper).maximum(-other.upper))

    def maximum(self, other: Germ) -> Germ:
        """Of the larger of two functions."""
        return Germ(self.lower.maximum(other.lower), self.upper.maximum(other.upper))

    def largest(self, axes: tuple[int, ...]) -> Germ:
        """Of the largest entry along axes."""
        return Germ(self.lower.largest(axes), self.upper.largest(axes))

    def magnitude(self) -> Germ:
        """Of the absolute value."""
        zero = Bound.filled(self.shape, 0.0, 0.0)
        return Germ(self.lower.maximum(-self.upper).maximum(zero), self.upper.maximum(-self.lower))

    def power(self, exponent: float) -> Germ:
        """Of the power of a nonnegative function, for a positive exponent."""
        zero = Bound.filled(self.shape, 0.0, 0.0)
        return Germ(self.lower.maximum(zero).power(exponent), self.upper.maximum(zero).power(exponent))

    def total(self, axes: tuple[int, ...]) -> Germ:
        """Of the sum along axes."""
        if not axes:
            return self
        kept = tuple(axis for axis in range(len(self.shape)) if axis not in axes)
        order = (*kept, *axes)
        shape = tuple(self.shape[axis] for axis in kept)
        count = math.prod(self.shape[axis] for axis in axes)

        def rows(bound: Bound) -> Bound:
            moved = Bound(bound.degree.transpose(order), bound.coefficient.transpose(order))
            return moved.reshaped((math.prod(shape), count))

        summed = weighted_sum([(Germ(rows(self.lower), rows(self.upper)), np.ones((1, count)))])
        return Germ(summed.lower.reshaped(shape), summed.upper.reshaped(shape))

    def times(self, other: Germ) -> Germ:
        """Of the product, entry by entry."""
        corners = [_product(left, right) for left in (self.lower, self.upper) for right in (other.lower, other.upper)]
        germs = [Germ(lower, upper) for lower, upper in corners]
        lower, upper = germs[0].lower, germs[0].upper
        for germ in germs[1:]:
            lower, upper = -(-lower).maximum(-germ.lower), upper.maximum(germ.upper)
        return Germ(lower, upper)

    def increased(self, function: Increasing) -> Germ:
        """Of φ(e) for an increasing φ."""
        return Germ(_mapped(self.lower, function, is_lower=True), _mapped(self.upper, function, is_lower=False))


def _mapped(bound: Bound, function: Increasing, *, is_lower: bool) -> Bound:
    nothing = (-math.inf, -1.0) if is_lower else (math.inf, 1.0)
    degree, coefficient = bound.degree, bound.coefficient
    # Slow growth without end counts as growth in an upper bound only, and slow decline in a lower one.
    slow = (degree == 0.0) & (coefficient == (-math.inf if is_lower else math.inf))
    grows = (degree > 0.0) | (slow & (not is_lower))
    falls = (degree < 0.0) | (slow & is_lower)
    with np.errstate(all="ignore"):
        value = function.finite(np.where(grows | falls, 1.0, coefficient))
        above = function.above(np.where(grows, degree, 1.0), np.where(grows, coefficient, 1.0))
    below = nothing if function.below is None else function.below
    # An infinite value at a finite argument is an overflow or a pole: on one side it still bounds, on the other not.
    infinite = np.isinf(value) & np.isfinite(coefficient)
    useless = np.isnan(value) | (infinite & ((value < 0.0) == is_lower))
    value = np.where(infinite, np.clip(value, -_HUGE, _HUGE), value)
    level = np.where(useless, nothing[0], 0.0), np.where(useless, nothing[1], value)
    return Bound(
        np.where(grows, above[0], np.where(falls, below[0], level[0])),
        np.where(grows, above[1], np.where(falls, below[1], level[1])),
    )


def _product(left: Bound, right: Bound) -> tuple[Bound, Bound]:
    """The product of two corners, as a lower and as an upper bound."""
    power = snapped(np.abs(left.degree) + np.abs(right.degree))
    with np.errstate(invalid="ignore", over="ignore"):
        value = left.coefficient * right.coefficient
    value = _held(value, np.isfinite(left.coefficient) & np.isfinite(right.coefficient))
    # 0·∞: anything between, since 0 stands for every small number.
    open_ended = np.isnan(value) | (np.isinf(power) & (value == 0.0))
    value = np.where(np.isinf(power) & ~open_ended, np.sign(value), value)
    extreme = np.where(np.isinf(power), 1.0, math.inf)
    lower, upper = np.where(open_ended, -extreme, value), np.where(open_ended, extreme, value)
    return (
        Bound(np.where((lower > 0.0) | (power == 0.0), power, -power), lower),
        Bound(np.where((upper < 0.0) & (power > 0.0), -power, power), upper),
    )


def snapped(degree: Floats) -> Floats:
    """Degrees without the rounding of exponents, so that (t³)^⅔ is of degree 2."""
    return np.round(degree, _DIGITS)


def _held(values: Floats, finite: NDArray[np.bool_]) -> Floats:
    """Values that overflowed, where they are known to be finite, at the largest number."""
    return np.where(finite & np.isinf(values), np.copysign(_HUGE, values), values)


def weighted_sum(parts: Sequence[tuple[Germ, Any]]) -> Germ:
    """Of Σ_j matrix_j @ e_j.

    Arguments:
        parts: germs (n, m_j) with matrices (m, m_j): ndarray, csr array, or None for the identity.

    Returns:
        A germ (n, m).
    """
    lower: list[tuple[Bound, Any]] = []
    upper: list[tuple[Bound, Any]] = []
    for germ, matrix in parts:
        for sign, part in _signed_parts(matrix):
            one = germ if sign > 0 else -germ
            lower.append((one.lower, part))
            upper.append((-one.upper, part))
    return Germ(_least_sum(lower), -_least_sum(upper))


def _signed_parts(matrix: Any) -> list[tuple[int, Any]]:
    """A matrix as its positive part less its negative part, with their signs; the latter only where there is one."""
    entries = matrix.data if is_sparse(matrix) else matrix
    if matrix is None or not (entries < 0.0).any():
        return [(1, matrix)]
    if is_sparse(matrix):
        return [(1, matrix.maximum(0)), (-1, -matrix.minimum(0))]
    return [(1, np.maximum(matrix, 0.0)), (-1, -np.minimum(matrix, 0.0))]


def _least_sum(parts: list[tuple[Bound, Any]]) -> Bound:
    """The lower bound of Σ_j matrix_j @ e_j from lower bounds of e_j, for nonnegative matrices."""
    bound, matrix = parts[0]
    rows, size = bound.degree.shape[0], bound.degree.shape[1] if matrix is None else matrix.shape[0]
    levels = np.unique(np.concatenate([np.abs(bound.degree).ravel() for bound, _ in parts]))[::-1]
    power, coefficient = np.zeros((rows, size)), np.zeros((rows, size))
    settled = np.zeros((rows, size), dtype=bool)
    for level in levels:
        total, spread = np.zeros((rows, size)), np.zeros((rows, size))
        counts = np.zeros((3, rows, size))
        for bound, matrix in parts:
            here = np.abs(bound.degree) == level
            if not here.any():
                continue
            endless = np.isinf(bound.coefficient) | (level == math.inf)
            pattern = None if matrix is None else (matrix > 0).astype(np.float64)
            kinds = (here, here & endless & (bound.coefficient > 0), here & endless & (bound.coefficient <= 0))
            counts += np.stack([_applied(pattern, kind.astype(np.float64)) for kind in kinds])
            finite = np.where(here & ~endless, bound.coefficient, 0.0)
            with np.errstate(over="ignore", invalid="ignore"):
                total += _applied(matrix, finite)
                spread += _applied(matrix, np.abs(finite))
        # Where coefficients cancel, their difference is not known beyond rounding, and nothing where they overflow.
        mixed = np.abs(total) < spread * (1 - 1e-12)
        total = np.where(np.isinf(spread), np.where(total == math.inf, _HUGE, -math.inf), total)
        total = np.where(mixed & np.isfinite(spread), total - 16 * _EPS * np.minimum(spread, _HUGE), total)
        extreme = 1.0 if level == math.inf else math.inf
        total = np.where(counts[2] > 0, -extreme, np.where(counts[1] > 0, extreme, total))
        fresh = (counts[0] > 0) & ~settled
        power, coefficient = np.where(fresh, level, power), np.where(fresh, total, coefficient)
        settled |= fresh
    return Bound(np.where((coefficient > 0.0) | (power == 0.0), power, -power), coefficient)


def _applied(matrix: Any, values: Floats) -> Floats:
    return values if matrix is None else np.asarray((matrix @ values.T).T)
