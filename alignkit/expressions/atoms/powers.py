"""Powers of every entry, and their geometric mean: power, sqrt, inv_pos, geo_mean."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.errors import AlignkitError, CurvatureError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, as_finite, is_sparse, shape_text
from alignkit.expressions.atom import Reduction, as_argument, axes_of, folded, normalise_axis
from alignkit.expressions.atoms.elementwise import Elementwise, away_from_zero, clip, lifted, square
from alignkit.expressions.atoms.exponential import exp_of
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import UNARY, Expression, bracketed, operations
from alignkit.expressions.layout import vec
from alignkit.expressions.leaf import Constant

__all__ = ["geo_mean", "inv_pos", "power", "sqrt"]


class Powered(Elementwise):
    """xᵖ with p neither 0 nor 1.

    | p | curvature | domain | outside |
    | --- | --- | --- | --- |
    | 2, 4, 6, … | convex | all x | |
    | other p > 1 | convex | x ≥ 0 | inf |
    | 0 < p < 1 | concave | x ≥ 0 | −inf |
    | p < 0 | convex | x > 0 | inf |
    """

    #: The exponent.
    p: float

    @property
    def is_even(self) -> bool:
        """Whether p is 2, 4, 6, …"""
        return self.p > 0.0 and self.p % 2.0 == 0.0

    @property
    def is_atom_convex(self) -> bool:
        """True for p < 0 and p > 1."""
        return not self.is_atom_concave

    @property
    def is_atom_concave(self) -> bool:
        """True for 0 < p < 1."""
        return 0.0 < self.p < 1.0

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of the argument for p > 1, which left of 0 falls from inf or is even; else by that of p."""
        if self.p > 1.0:
            return away_from_zero(self.args[0].range)
        return Monotonicity.INCREASING if self.p > 0.0 else Monotonicity.DECREASING

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return () if self.is_even else ((0, 0.0, self.p < 0.0),)

    def _inside(self) -> Interval | None:
        """The range of the argument, of its magnitude for even p, inside the domain; None where that is empty."""
        bounds = self.args[0].range
        if self.is_even:
            return bounds.magnitude
        if bounds.upper < 0.0 or (bounds.upper == 0.0 and self.p < 0.0):
            return None
        return Interval(max(bounds.lower, 0.0), bounds.upper)

    def _own_range(self) -> Interval:
        inside = self._inside()
        if inside is None:
            # It is infinite everywhere: above, where it is convex.
            return Interval() if self.is_atom_concave else Interval(0.0, math.inf)
        ends = power_of(inside.lower, self.p), power_of(inside.upper, self.p)
        return Interval(min(*ends, sys.float_info.max), max(ends))

    def _gain(self, position: int) -> float:
        inside = self._inside()
        if inside is None:
            return 0.0
        steepest = inside.upper if self.p > 1.0 else inside.lower
        return abs(self.p) * power_of(steepest, self.p - 1.0)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        value = values[0]
        if self.is_even:
            return self._raised(xp, xp.abs(value))
        if self.p > 1.0:
            raised = self._raised(xp, clip(value, 0.0, None))
            return xp.where(value < 0.0, xp.full_like(raised, math.inf), raised)
        # 1 stands in where the derivative is infinite, so that automatic differentiation finds 0 and not NaN.
        beside = value <= 0.0
        raised = self._raised(xp, xp.where(beside, xp.ones_like(value), value))
        if self.p < 0.0:
            return xp.where(beside, xp.full_like(raised, math.inf), raised)
        edge = xp.where(value < 0.0, xp.full_like(raised, -math.inf), xp.zeros_like(raised))
        return xp.where(beside, edge, raised)

    def _raised(self, xp: Any, base: Array) -> Array:
        """xᵖ for x in the domain."""
        return base**self.p

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        if self.is_even:
            return self.p * xp.sign(value) * xp.abs(value) ** (self.p - 1.0)
        base = clip(value, 0.0, None) if self.p > 1.0 else lifted(xp, value)
        return self.p * base ** (self.p - 1.0)

    def conjugate(self, dual: Array) -> Array:
        """(p − 1)·(y/p)^q with q = p/(p − 1), of |y|/p for even p; for odd and fractional p > 1 it is 0 for y ≤ 0."""
        if self.is_atom_concave:
            return super().conjugate(dual)
        ratio = dual / self.p
        base = abs(ratio) if self.is_even else clip(ratio, 0.0, None)
        return (self.p - 1.0) * base ** (self.p / (self.p - 1.0))

    def project_dual(self, dual: Array) -> Array:
        """Clip to y ≤ 0 for p < 0; everything is feasible for p > 1."""
        if self.is_atom_concave:
            return super().project_dual(dual)
        return clip(dual, None, 0.0) if self.p < 0.0 else dual


class Power(Powered):
    """xᵖ for the exponents that have no class of their own.

    Arguments:
        arg: the argument.
        p: the exponent; not −1, 0, ½, 1 or 2.
    """

    name = "power"

    def __init__(self, arg: Expression, p: float) -> None:
        super().__init__(arg)
        self.p = p

    def _options(self) -> Sequence[str]:
        return (f"{self.p:.6g}",)

    def prox(self, points: Array, step: float) -> Array:
        """The root of z + t·p·z^(p−1) = v where that is a quadratic or a cubic without a square: p = 3/2, 3 and 4."""
        if self.p not in PROXES:
            return super().prox(points, step)
        return PROXES[self.p](array_api_compat.array_namespace(points), points, step)


class Sqrt(Powered):
    """√x."""

    name = "sqrt"
    p = 0.5

    def _raised(self, xp: Any, base: Array) -> Array:
        return xp.sqrt(base)

    def prox(self, points: Array, step: float) -> Array:
        """z = s² with s³ − vs = t/2; of −√."""
        xp = array_api_compat.array_namespace(points)
        scale = math.cbrt(step / 2.0)
        root = scale * cubic_root(xp, points / -(scale * scale))
        return root * root


class InvPos(Powered):
    """1/x."""

    name = "inv_pos"
    p = -1.0

    def _raised(self, xp: Any, base: Array) -> Array:
        return 1.0 / base

    def prox(self, points: Array, step: float) -> Array:
        """z = 1/u with t·u³ + vu = 1."""
        xp = array_api_compat.array_namespace(points)
        scale = math.cbrt(step)
        return scale / cubic_root(xp, points / scale)


class GeoMean(Reduction):
    """Π x_i^w_i, 0 where an entry is 0 and −inf where one is negative.

    Arguments:
        arg: the argument.
        weights: w, positive with sum 1, in C order of the reduced axes.
        axis: None for all entries, or the axes to reduce.
    """

    name = "geo_mean"

    def __init__(self, arg: Expression, weights: Floats, axis: int | tuple[int, ...] | None = None) -> None:
        super().__init__(arg, axis)
        self.weights = weights
        gone = axes_of(self.axis, arg.ndim)
        kept = tuple(length if one in gone else 1 for one, length in enumerate(arg.shape))
        self._moved = MovedConstant(weights.reshape(1, *kept))

    @property
    def is_atom_convex(self) -> bool:
        """Always false."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing."""
        return Monotonicity.INCREASING

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        return ((0, 0.0, False),)

    def _own_range(self) -> Interval:
        bounds = self.args[0].range
        return Interval() if bounds.upper < 0.0 else Interval(max(bounds.lower, 0.0), bounds.upper)

    def _gain(self, position: int) -> float:
        """A bound of √Σ w_i²(g/x_i)² over l ≤ x ≤ u, g the mean.

        It is convex in the logarithms of x, so largest at a vertex of the box: with ρ = u/l, T = Σ w_i², and W and s
        the sums of w and w² over the entries at l, it is ρ^(1−W)·√(T/ρ² + (1 − 1/ρ²)s) there. If v is the largest
        weight at l, then v ≤ W, and s is at most Wv and the sum of all squares up to v². The bound is the largest
        over v and W, and √T where no entry is at l.
        """
        bounds = self.args[0].range
        if bounds.lower <= 0.0 or bounds.upper == math.inf:
            return 0.0 if bounds.upper < 0.0 else math.inf
        heaviest, counts = np.unique(self.weights, return_counts=True)
        squares = np.cumsum(counts * heaviest**2)
        none_low = math.sqrt(float(squares[-1]))
        stretch = math.log(bounds.upper) - math.log(bounds.lower)
        if stretch == 0.0:
            return none_low
        level, slants = math.exp(-2.0 * stretch) * float(squares[-1]), -math.expm1(-2.0 * stretch) * heaviest
        low = np.clip(0.5 / stretch - level / slants, heaviest, squares / heaviest)
        logs = stretch * (1.0 - low) + 0.5 * np.log(level + slants * low)
        return max(none_low, exp_of(float(logs.max())))

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        axes = self._batch_axes()
        value = values[0]
        inside = xp.where(value <= 0.0, xp.ones_like(value), value)
        mean = xp.exp(xp.sum(self._moved.like(value) * xp.log(inside), axis=axes))
        least = xp.min(value, axis=axes)
        edge = xp.where(least < 0.0, xp.full_like(mean, -math.inf), xp.zeros_like(mean))
        return xp.where(least <= 0.0, edge, mean)

    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        weights = self._moved.like(value)
        logs = xp.log(clip(lifted(xp, value), None, float(xp.finfo(value.dtype).max)))
        return weights * xp.exp(xp.sum(weights * logs, axis=self._batch_axes(), keepdims=True) - logs)

    def _options(self) -> Sequence[str]:
        uniform = bool(np.all(self.weights == self.weights[0]))
        weights = () if uniform else (f"[{shape_text(self.weights.shape)} constant]",)
        return (*weights, *super()._options())


def power_of(number: float, exponent: float) -> float:
    """tᵖ of a number t ≥ 0: inf where it overflows, and at 0 for p < 0."""
    try:
        return float(number**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


def cubic_root(xp: Any, values: Array) -> Array:
    """The positive root of r³ + a·r = 1 for every entry a, by Newton's method from its right, where it only falls.

    Arguments:
        xp: the array namespace.
        values: a.

    Returns:
        r, of the same shape.

    Example:
        >>> cubic_root(np, np.array([0.0, -3.0])).round(4)
        array([1.    , 1.8794])
    """
    against = clip(-values, 0.0, None)
    size = clip(xp.abs(values), 1.0, None)
    far = xp.where(values > 0.0, 1.0 / size, xp.sqrt(size) + 0.5 / size)
    root = xp.where(xp.abs(values) > 1.0, far, 1.0 + against / 2.0)
    for _ in range(6):
        root = (2.0 * root**3 + 1.0) / (3.0 * root * root + values)
    return root


def _prox_three_halves(xp: Any, points: Array, step: float) -> Array:
    inside = clip(points, 0.0, None)
    # √z solves s² + 1.5·t·s = v.
    root = 2.0 * inside / (1.5 * step + xp.sqrt(2.25 * step * step + 4.0 * inside))
    return root * root


def _prox_cube(xp: Any, points: Array, step: float) -> Array:
    inside = clip(points, 0.0, None)
    return 2.0 * inside / (1.0 + xp.sqrt(1.0 + 12.0 * step * inside))


def _prox_fourth(xp: Any, points: Array, step: float) -> Array:
    # sinh 3a = 3·sinh a + 4·sinh³ a, with √(3t)·z = sinh a.
    scale = math.sqrt(3.0 * step)
    return xp.sinh(xp.asinh(3.0 * scale * points) / 3.0) / scale


#: The proximal maps of xᵖ in closed form, by p.
PROXES: dict[float, Callable[[Any, Array, float], Array]] = {
    1.5: _prox_three_halves,
    3.0: _prox_cube,
    4.0: _prox_fourth,
}


def power(x: Any, p: Any) -> Expression:
    """xᵖ of every entry; also written x ** p.

    For p = 2, 4, 6, … convex, increasing for x ≥ 0 and decreasing for x ≤ 0. For other p > 1 convex and increasing for
    x ≥ 0, inf elsewhere: write power(pos(x), p) or power(abs(x), p) for functions of all x. For 0 < p < 1 concave
    and increasing for x ≥ 0, −inf elsewhere. For p < 0 convex and decreasing for x > 0, inf elsewhere.
    For p = 1 it is x itself, for p = 0 constant 1.

    Unlike cvxpy, which takes x⁶ for x ≥ 0 only, every even exponent has all x as its domain; and a convex argument that
    may be negative leaves power(x, 3) without curvature, as its domain need not be convex then.

    Arguments:
        x: an expression or a constant.
        p: a number.

    Returns:
        An expression of the same shape.

    Raises:
        CurvatureError: p is an expression.
        ParameterError: p is not a finite number.
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> power(Variable(3), 3).value([-1.0, 0.5, 2.0])
        array([  inf, 0.125, 8.   ])
    """
    arg = as_argument(x, "power")
    exponent = _exponent(p, arg)
    if exponent == 0.0:
        return Constant(np.ones(arg.shape))
    if exponent == 1.0:
        return arg
    if exponent == 2.0:
        return square(arg)
    if exponent == Sqrt.p:
        return sqrt(arg)
    if exponent == InvPos.p:
        return inv_pos(arg)
    return folded(Power(arg, exponent))


def _exponent(p: Any, arg: Expression) -> float:
    if isinstance(p, Expression) and not isinstance(p, Constant):
        text = bracketed(p, UNARY)
        raise CurvatureError(
            f"The exponent of {bracketed(arg, UNARY)}**{text} is an expression, and rules exist for numbers only.",
            expression=f"{bracketed(arg, UNARY)}**{text}",
            ways_out=("exp(e) with the expression inside, as exp(log(b) * e) for b**e with a constant b > 0",)
            if p.depends
            else (f"its present value, float({p}.value())",),
        )
    number = _number(p)
    if not math.isfinite(number):
        raise ParameterError(
            f"power needs a finite number as its exponent, not {p!r}.", expression=f"{bracketed(arg, UNARY)}**{p!r}"
        )
    return number


def _number(value: Any) -> float:
    """A number, or an array or constant of one entry, as a float; NaN for anything else."""
    if isinstance(value, Constant):
        value = value.dense()
    try:
        if isinstance(value, Real):  # fractions too
            return float(value)
        entries = as_finite(value, "The exponent")
    except (AlignkitError, OverflowError):
        return math.nan
    return math.nan if is_sparse(entries) or entries.size != 1 else float(entries.item())


def sqrt(x: Any) -> Expression:
    """The square root of every entry, for x ≥ 0, −inf elsewhere; concave and increasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Raises:
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> sqrt(Variable(3)).value([4.0, 0.0, -1.0])
        array([  2.,   0., -inf])
    """
    return folded(Sqrt(as_argument(x, "sqrt")))


def inv_pos(x: Any) -> Expression:
    """1/x of every entry, for x > 0, inf elsewhere; convex and decreasing.

    Arguments:
        x: an expression or a constant.

    Returns:
        An expression of the same shape.

    Raises:
        NonFiniteError: x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> inv_pos(Variable(2)).value([4.0, 0.0])
        array([0.25,  inf])
    """
    return folded(InvPos(as_argument(x, "inv_pos")))


def geo_mean(x: Any, p: Any = None, axis: int | tuple[int, ...] | None = None) -> Expression:
    """The geometric mean Π x_i^w_i with w = p/Σp, for x ≥ 0, −inf elsewhere; concave and increasing.

    Entries of weight zero take no part and may be negative. A single entry of positive weight is returned as it is, as
    in cvxpy: affine, and without a domain. Weights are exact, where cvxpy rounds them to fractions.

    Arguments:
        x: an expression or a constant.
        p: nonnegative weights, one for each entry reduced, in C order; None for equal ones.
        axis: None for all entries, or the axes to reduce.

    Returns:
        An expression without those axes.

    Raises:
        ParameterError: a weight is negative, all are zero, or they depend on the variable or a parameter.
        ShapeError: there are not as many weights as entries, or an axis is out of range.
        NonFiniteError: a weight is NaN or infinite, or x is a constant outside the domain.

    Example:
        >>> from alignkit.expressions import Variable
        >>> round(float(geo_mean(Variable(2)).value([2.0, 8.0])), 12)
        4.0
    """
    arg = as_argument(x, "geo_mean")
    reduced = normalise_axis(axis, arg, "geo_mean")
    weights = _weights(p, math.prod(arg.shape[one] for one in axes_of(reduced, arg.ndim)), arg)
    taken = np.flatnonzero(weights)
    if len(taken) < len(weights) or len(taken) == 1:
        columns = _columns(arg.shape, reduced)[taken]
        if len(taken) == 1:
            return vec(arg)[columns[0]]
        # The entries that count, along one axis before those that stay.
        arg, reduced = vec(arg)[columns], None if columns.ndim == 1 else 0
    return folded(GeoMean(arg, weights[taken], reduced))


def _columns(shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> NDArray[np.int64]:
    """Where the reduced entries lie in the flattening: (count, *the axes that stay)."""
    gone = axes_of(axis, len(shape))
    places = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), gone, range(len(gone)))
    return places.reshape(-1, *places.shape[len(gone) :])


def _weights(p: Any, count: int, arg: Expression) -> Floats:
    """Nonnegative weights of sum 1."""
    if p is None:
        return np.full(count, 1.0 / count)
    if isinstance(p, Expression) and not isinstance(p, Constant):
        raise ParameterError(
            f"geo_mean takes constant weights, and they are the expression {p}.",
            expression=f"geo_mean({arg}, {p})",
            ways_out=() if p.depends else ("its present value, p.value()",),
        )
    given: Any = p.dense() if isinstance(p, Constant) else as_finite(p, f"The weights of geo_mean({arg})")
    weights: Floats = np.ravel(given.toarray() if is_sparse(given) else given)
    if weights.size != count:
        raise ShapeError(
            f"geo_mean({arg}) is over {count} entries, and there are {weights.size} weights.",
            ways_out=("one weight for each entry, in C order",),
        )
    if weights.min() < 0.0 or weights.max() == 0.0:
        wrong = "all are 0" if weights.max() == 0.0 else f"one is {weights.min():.6g}"
        raise ParameterError(
            f"geo_mean needs nonnegative weights that are not all zero, and {wrong}.",
            expression=f"geo_mean({arg}, [{shape_text(weights.shape)} constant])",
        )
    scaled = weights / weights.max()
    return np.asarray(scaled / scaled.sum())


operations.update(power=power, reciprocal=inv_pos)

ENTRIES = (
    Entry("power", "convex", "xᵖ, for x ≥ 0 unless p is even", lambda x: power(x, 3), (Power,), power),
    Entry("sqrt", "concave", "√x, for x ≥ 0", sqrt, (Sqrt,), sqrt),
    Entry("inv_pos", "convex", "1/x, for x > 0", inv_pos, (InvPos,), inv_pos),
    Entry("geo_mean", "concave", "Π xᵢ^wᵢ with Σ wᵢ = 1, for x ≥ 0", geo_mean, (GeoMean,), geo_mean),
)
