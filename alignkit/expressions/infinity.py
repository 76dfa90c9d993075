"""How expressions behave at infinity: along rays, and over all directions at once.

Along a ray means on a thin tube: bounds hold at tu + z for all small z, so what they prove large is large on a set
of positive volume. Over all directions they hold wherever ‖w‖ ≤ t.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from alignkit.expressions.arrays import Floats, is_operator
from alignkit.expressions.asymptotics import Bound, Germ, Increasing, snapped, weighted_sum
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.curves import Arctan, Curve, Sigmoid, Tanh
from alignkit.expressions.atoms.distances import DistanceToPoints
from alignkit.expressions.atoms.elementwise import Abs, Huber, Neg, Pos, Square
from alignkit.expressions.atoms.exponential import Entr, Exp, Log, Log1p, Logistic
from alignkit.expressions.atoms.norms import Norm1, Norm2, NormInf, PNorm, SigmaMax
from alignkit.expressions.atoms.order import (
    LogSumExp,
    Max,
    Maximum,
    Min,
    Minimum,
    SumLargest,
    SumSmallest,
)
from alignkit.expressions.atoms.piecewise import Clip
from alignkit.expressions.atoms.powers import GeoMean, InvPos, Power, Powered, Sqrt
from alignkit.expressions.atoms.products import Product
from alignkit.expressions.atoms.quadratic import QuadForm, QuadOverLin, SumSquares
from alignkit.expressions.expression import Expression, topological
from alignkit.expressions.leaf import Variable
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import Matrix, norm_bound, row_norms
from alignkit.expressions.poles import condition_holds, is_defined, is_defined_everywhere

__all__ = ["Ball", "Behaviour", "Rays"]

_EPS = float(np.finfo(np.float64).eps)


class Approach(ABC):
    """A way to infinity.

    Attributes:
        count: n, how many ways are looked at together.
    """

    count: int

    @abstractmethod
    def affine(self, matrix: Matrix | None, offset: Floats) -> Germ:
        """Of matrix @ vec(w) + offset, (n, m); None is the identity."""


class Rays(Approach):
    """Along w = tu.

    Arguments:
        directions: u, unit vectors, (n, k).
    """

    def __init__(self, directions: Floats) -> None:
        self.count, self._directions = directions.shape[0], directions

    def affine(self, matrix: Matrix | None, offset: Floats) -> Germ:
        """See `Approach.affine`; slopes carry their rounding."""
        directions = self._directions
        if matrix is None:
            slopes, sizes = directions, np.abs(directions)
        else:
            slopes = np.asarray(matrix @ directions.T).T
            if is_operator(matrix):
                sizes = np.full_like(slopes, max(float(np.abs(slopes).max()), np.finfo(np.float64).tiny))
            else:
                sizes = np.asarray(abs(matrix) @ np.abs(directions).T).T
        # Only where every product is zero is a slope known to be zero.
        level = sizes == 0.0
        slack = (0.0 if matrix is None else 4 * _EPS * math.sqrt(directions.shape[1])) * sizes
        low, high = slopes - slack, slopes + slack
        offsets = np.broadcast_to(offset, slopes.shape)
        return Germ(
            Bound(np.where(level, 0.0, np.where(low > 0.0, 1.0, -1.0)), np.where(level, offsets, low)),
            Bound(np.where(level, 0.0, np.where(high < 0.0, -1.0, 1.0)), np.where(level, offsets, high)),
        )


class Ball(Approach):
    """Wherever ‖w‖ ≤ t."""

    count = 1

    def affine(self, matrix: Matrix | None, offset: Floats) -> Germ:
        """See `Approach.affine`."""
        norms = row_norms(matrix)
        norms = np.full(offset.size, norm_bound(matrix)) if norms is None else np.broadcast_to(norms, offset.size)
        level = (norms == 0.0)[None]
        return Germ(
            Bound(np.where(level, 0.0, -1.0), np.where(level, offset, -norms)),
            Bound(np.where(level, 0.0, 1.0), np.where(level, offset, norms)),
        )


class Behaviour:
    """What is known at infinity of expressions of one variable; each atom is looked at once.

    Arguments:
        approach: the way there.

    Example:
        >>> from alignkit.expressions import Variable, square
        >>> w = Variable(2)
        >>> found = Behaviour(Rays(np.eye(2))).of(square(w[0]))
        >>> found.lower.degree.ravel(), found.lower.coefficient.ravel()
        (array([2., 0.]), array([1., 0.]))
    """

    def __init__(self, approach: Approach) -> None:
        self._approach = approach
        self._known: dict[int, Germ] = {}
        self._alive: list[Expression] = []  # identities stay unique while their owners live
        self._defined: dict[int, bool] = {}

    def of(self, expression: Expression) -> Germ:
        """The bounds of an expression of the same variable, (n, *shape)."""
        self._look_at(expression)
        known = self._known.get(id(expression))
        return self._combined(expression) if known is None else known

    def is_defined_everywhere(self, expression: Expression) -> bool:
        """Whether the ranges of arguments prove that no condition of its domain can fail."""
        self._look_at(expression)
        return self._defined[id(expression)]

    def _look_at(self, root: Expression) -> None:
        self._alive.append(root)
        for node in topological(root):
            if id(node) in self._defined:
                continue
            self._defined[id(node)] = is_defined(node, self._defined)
            if isinstance(node, Atom) and node.depends:
                self._known[id(node)] = self._atom(node)

    def _combined(self, expression: Expression) -> Germ:
        """An affine function of atoms and the variable."""
        if not expression.depends:
            values = np.asarray(expression.value(), dtype=np.float64)
            return Germ.constant(np.broadcast_to(values, (self._approach.count, *expression.shape)))
        form = linear_form(expression)
        parts: list[tuple[Germ, Matrix | None]] = []
        offset = form.offset
        for node, matrix in form.parts:
            if isinstance(node, Variable):
                parts.append((self._approach.affine(matrix, offset), None))
                offset = np.zeros_like(offset)
            else:
                parts.append((self._known[id(node)].flattened, matrix))
        if offset.any():
            parts.append((Germ.constant(np.broadcast_to(offset, (self._approach.count, offset.size))), None))
        total = _summed(parts)
        shape = (self._approach.count, *expression.shape)
        return Germ(total.lower.reshaped(shape), total.upper.reshaped(shape))

    def _atom(self, atom: Atom) -> Germ:
        args = [self._known[id(arg)] if id(arg) in self._known else self._combined(arg) for arg in atom.args]
        inside = np.ones(self._approach.count, dtype=bool)
        for position, bound, strict in atom._domain():
            arg, floor = args[position], Bound.filled(args[position].shape, 0.0, bound)
            if self._defined[id(atom.args[position])] and condition_holds(atom.args[position], bound, strict):
                continue
            inside &= arg.lower.exceeds(floor).reshape(arg.shape[0], -1).all(axis=1)
            args[position] = Germ(arg.lower.maximum(floor), arg.upper.maximum(floor))
        if isinstance(atom, Curve) and not self._defined[id(atom.args[0])]:
            # What is convex or concave over the range of its argument is infinite for infinite ones beyond it.
            known = (args[0].lower.degree > -math.inf) & (args[0].upper.degree < math.inf)
            inside &= known.reshape(self._approach.count, -1).all(axis=1)
        germ = self._by_rule(atom, args)
        # Outside its domain a convex atom is ∞ and a concave one −∞.
        outside = ~inside.reshape(-1, *(1,) * len(atom.shape))
        unknown = Germ.unknown(germ.shape)
        lower, upper = germ.lower, germ.upper
        if not atom.is_atom_convex:
            lower = unknown.lower.chosen(outside, lower)
        if not atom.is_atom_concave:
            upper = unknown.upper.chosen(outside, upper)
        return Germ(lower, upper).within(self._calculus(atom, germ.shape))

    def _by_rule(self, atom: Atom, args: list[Germ]) -> Germ:
        found = RULES[type(atom)](atom, args) if type(atom) in RULES else Germ.unknown(_outer(atom, args))
        # Gains hold over the ranges of arguments, and those inside their domains.
        return found.within(_by_gain(atom, args)) if all(self._defined[id(arg)] for arg in atom.args) else found

    def _calculus(self, atom: Atom, shape: tuple[int, ...]) -> Germ:
        """What range, Lipschitz constant and curvature say."""
        known = Germ.unknown(shape)
        # A convex function lies above an affine one, a concave one below.
        if atom.is_convex():
            known = known.within(Germ.between(shape, (-1.0, -math.inf), (math.inf, 1.0)))
        if atom.is_concave():
            known = known.within(Germ.between(shape, (-math.inf, -1.0), (1.0, math.inf)))
        if not self._defined[id(atom)]:
            return known
        slope = atom.lipschitz
        if math.isfinite(slope):
            known = known.within(Germ.between(shape, (-1.0, -slope), (1.0, slope)))
        lower, upper = atom.range.lower, atom.range.upper
        return known.within(
            Germ.between(
                shape,
                (0.0, lower) if lower > -math.inf else (-math.inf, -1.0),
                (0.0, upper) if upper < math.inf else (math.inf, 1.0),
            )
        )


def _summed(parts: list[tuple[Germ, Matrix | None]]) -> Germ:
    if len(parts) == 1 and parts[0][1] is None:
        return parts[0][0]
    return weighted_sum(
        [(_through(germ, matrix), None) if is_operator(matrix) else (germ, matrix) for germ, matrix in parts]
    )


def _through(germ: Germ, operator: Any) -> Germ:
    """What an operator makes of a germ: its entries are not known, so their signs may be anything."""
    degree = _power(germ)[:, None] * np.ones((1, operator.shape[0]))
    extreme = np.where(np.isinf(degree), 1.0, math.inf)
    return Germ(Bound(-degree, -extreme), Bound(degree, extreme))


def _power(germ: Germ) -> Floats:
    """The highest degree that bounds every entry, (n,)."""
    rows = (germ.shape[0], -1)
    return np.asarray(np.maximum(np.abs(germ.lower.degree), np.abs(germ.upper.degree)).reshape(rows).max(axis=1))


def _leading(germ: Germ) -> tuple[Floats, Floats, Floats]:
    """Entries as (middle ± radius)·t^p, flattened: p (n,), middle (n, m), radius (n, m), infinite where unknown."""
    power = _power(germ)
    rows = (germ.shape[0], -1)
    bounds = []
    for bound in (germ.lower, germ.upper):
        there = np.abs(bound.degree.reshape(rows)) == power[:, None]
        bounds.append(np.where(there, bound.coefficient.reshape(rows), 0.0))
    clear = np.isfinite(bounds[0]) & np.isfinite(bounds[1]) & np.isfinite(power)[:, None]
    lower, upper = (np.where(clear, bound, 0.0) for bound in bounds)
    return power, (lower + upper) / 2.0, np.where(clear, np.maximum(upper - lower, 0.0) / 2.0, math.inf)


def _around(power: Floats, middle: Floats, radius: Floats) -> Germ:
    """(middle ± radius)·t^p, each (n,); an infinite radius stands for anything up to t^(p + ε)."""
    endless = np.isinf(power) | np.isnan(radius)
    extreme = np.where(endless, 1.0, math.inf)
    power = np.where(endless, math.inf, power)
    vague = endless | np.isinf(radius)
    lower, upper = np.where(vague, -extreme, middle - radius), np.where(vague, extreme, middle + radius)
    return Germ(
        Bound(np.where((lower > 0.0) | (power == 0.0), power, -power), lower),
        Bound(np.where((upper < 0.0) & (power > 0.0), -power, power), upper),
    )


def _outer(atom: Atom, args: list[Germ]) -> tuple[int, ...]:
    return (args[0].shape[0], *atom.shape)


def _by_gain(atom: Atom, args: list[Germ]) -> Germ:
    """|φ(a) − φ(0)| ≤ Σ gain·‖a‖, over the ranges of the arguments."""
    shape = _outer(atom, args)
    powers, sizes = [], []
    for position, (arg, germ) in enumerate(zip(atom.args, args, strict=True)):
        gain = atom._gain(position) if arg.depends else 0.0
        if gain == 0.0:
            continue
        if math.isinf(gain):
            return Germ.unknown(shape)
        power, middle, radius = _leading(germ)
        powers.append(power)
        sizes.append(gain * np.linalg.norm(np.abs(middle) + radius, axis=1))
    power = np.max(powers, axis=0) if powers else np.zeros(shape[0])
    size = sum(
        (np.where(one == power, width, 0.0) for one, width in zip(powers, sizes, strict=True)), np.zeros(shape[0])
    )
    # At degree 0 the value of φ at the origin, which is not looked at, counts too.
    size = np.where(power == 0.0, math.inf, size)
    germ = _around(power, np.zeros(shape[0]), size)
    wide = (shape[0], *(1,) * len(atom.shape))

    def spread(bound: Bound) -> Bound:
        return Bound(
            np.broadcast_to(bound.degree.reshape(wide), shape), np.broadcast_to(bound.coefficient.reshape(wide), shape)
        )

    return Germ(spread(germ.lower), spread(germ.upper))


# ---- what each atom does to the germs of its arguments, inside its domain

_POSITIVE_PART = Increasing(lambda value: np.maximum(value, 0.0), lambda s, c: (s, c), (0.0, 0.0))
_MINUS_RECIPROCAL = Increasing(lambda value: -1.0 / value, lambda s, c: (0.0, 0.0), (0.0, 0.0))


def _exp_above(s: Floats, c: Floats) -> tuple[Any, Any]:
    return math.inf, 1.0


def _log_above(s: Floats, c: Floats) -> tuple[Any, Any]:
    # Slower than every power of t, but without end; of what has no bound, none is known.
    return np.where(np.isinf(s), math.inf, 0.0), np.where(np.isinf(s), 1.0, math.inf)


_EXP = Increasing(np.exp, _exp_above, (0.0, 0.0))
_LOGISTIC = Increasing(lambda value: np.logaddexp(value, 0.0), lambda s, c: (s, c), (0.0, 0.0))
_LOG = Increasing(np.log, _log_above)
_LOG1P = Increasing(np.log1p, _log_above)


def _entr(atom: Entr, args: list[Germ]) -> Germ:
    """−e·log e is concave: on an interval it is least at one of the ends, and falls from 1/e on."""

    def negated(value: Floats) -> Floats:
        inside = np.maximum(value, 1.0 / math.e)
        return inside * np.log(inside)

    falling = -args[0].increased(Increasing(negated, lambda s, c: (s, np.where(np.isinf(s), 1.0, math.inf))))
    return falling.within(Germ.between(falling.shape, (-math.inf, -1.0), (0.0, Entr.peak)))


def _powered(atom: Powered, args: list[Germ]) -> Germ:
    if atom.is_even:
        return args[0].magnitude().power(atom.p)
    return args[0].power(atom.p) if atom.p > 0.0 else _reciprocal(args[0].power(-atom.p))


def _geo_mean(atom: GeoMean, args: list[Germ]) -> Germ:
    """Degrees and logarithms of coefficients are averaged, for nonnegative bounds."""
    axes = _axes(atom)
    shape = (1, *(length if axis + 1 in axes else 1 for axis, length in enumerate(atom.args[0].shape)))
    weights = atom.weights.reshape(shape)
    inside = args[0].power(1.0)
    means = []
    for bound in (inside.lower, inside.upper):
        with np.errstate(divide="ignore", invalid="ignore"):
            coefficient = np.exp(np.sum(weights * np.log(bound.coefficient), axis=axes))
        degree = snapped(np.sum(weights * bound.degree, axis=axes))
        # 0·∞ is open: at least 0, at most anything of this order.
        means.append(Bound(degree, np.where(np.isnan(coefficient), math.inf, coefficient)))
    zero = Bound.filled(means[0].degree.shape, 0.0, 0.0)
    vanishes = (inside.lower.coefficient == 0.0).any(axis=axes)
    endless = np.isinf(means[1].degree)
    upper = Bound(means[1].degree, np.where(endless, 1.0, means[1].coefficient))
    lower = Bound(means[0].degree, np.where(np.isinf(means[0].degree), 1.0, means[0].coefficient))
    return Germ(zero.chosen(vanishes, lower), upper)


def _levelled(atom: Curve, args: list[Germ]) -> Germ:
    """Of an increasing function that has a limit at both ends."""

    def finite(value: Floats) -> Floats:
        return np.asarray(atom._applied(array_api_compat.array_namespace(value), value))

    ends = finite(np.array([-math.inf, math.inf]))
    return args[0].increased(Increasing(finite, lambda s, c: (0.0, ends[1]), (0.0, float(ends[0]))))


def _distance(atom: DistanceToPoints, args: list[Germ]) -> Germ:
    """‖x − p‖ and ‖x‖ differ by at most ‖p‖."""
    length = args[0].magnitude().power(2.0).total(tuple(range(1, len(args[0].shape)))).power(0.5)
    unclear = length.lower.degree == 0.0
    zero = Bound.filled(length.shape, 0.0, 0.0)
    open_ended = Bound(length.upper.degree, np.where(length.upper.degree == 0.0, math.inf, length.upper.coefficient))
    return Germ(zero.chosen(unclear, length.lower), open_ended)


def _axes(atom: Any) -> tuple[int, ...]:
    return tuple(atom._batch_axes())


def _huber(atom: Huber, args: list[Germ]) -> Germ:
    width = atom.M

    def finite(value: Floats) -> Floats:
        return np.where(value <= width, value * value, 2.0 * width * value - width**2)

    return args[0].magnitude().increased(Increasing(finite, lambda s, c: (s, 2.0 * width * c)))


def _p_norm(p: float) -> Callable[[Any, list[Germ]], Germ]:
    def rule(atom: Any, args: list[Germ]) -> Germ:
        order = atom.p if p == 0.0 else p
        return args[0].magnitude().power(order).total(_axes(atom)).power(1.0 / order)

    return rule


def _sigma_max(atom: SigmaMax, args: list[Germ]) -> Germ:
    power, middle, radius = _leading(args[0])
    values = np.linalg.svd(middle.reshape(-1, *atom.args[0].shape), compute_uv=False)
    largest = np.asarray(values[:, 0], dtype=np.float64)
    return _around(power, largest, np.linalg.norm(radius, axis=1)).within(
        Germ.between((len(power),), (0.0, 0.0), (math.inf, 1.0))
    )


def _sum_largest(atom: SumLargest | SumSmallest, germ: Germ) -> Germ:
    """The k largest lower bounds are below the k largest entries, and those below the k largest upper bounds."""
    axes, count = _axes(atom), math.ceil(atom.k)
    kept = tuple(axis for axis in range(len(germ.shape)) if axis not in axes)
    weights = np.ones((1, count))
    weights[0, -1] -= count - atom.k

    def leading(bound: Bound) -> Bound:
        order = (*kept, *axes)
        moved = Bound(bound.degree.transpose(order), bound.coefficient.transpose(order)).reshaped((-1, atom.count))
        ranks = np.lexsort((moved.coefficient, moved.degree), axis=1)[:, ::-1][:, :count]
        return moved[np.arange(len(ranks))[:, None], ranks]

    total = weighted_sum([(Germ(leading(germ.lower), leading(germ.upper)), weights)])
    shape = tuple(germ.shape[axis] for axis in kept)
    return Germ(total.lower.reshaped(shape), total.upper.reshaped(shape))


def _log_sum_exp(atom: LogSumExp, args: list[Germ]) -> Germ:
    largest = args[0].largest(_axes(atom))
    level = largest.upper.degree == 0.0
    raised = np.where(level, largest.upper.coefficient + math.log(atom.count), largest.upper.coefficient)
    return Germ(largest.lower, Bound(largest.upper.degree, raised))


def _quad_form(atom: QuadForm, args: list[Germ]) -> Germ:
    power, middle, radius = _leading(args[0])
    moved = np.asarray(atom.P @ middle.T).T
    value = np.einsum("ni,ni->n", middle, moved)
    with np.errstate(invalid="ignore"):
        slack = 2.0 * np.linalg.norm(moved, axis=1) * np.linalg.norm(radius, axis=1)
        slack = slack + norm_bound(atom.P) * np.sum(radius**2, axis=1)
    slack = slack + 16 * _EPS * norm_bound(atom.P) * np.sum(middle**2, axis=1)
    germ = _around(2.0 * power, value, slack)
    zero, free = (0.0, 0.0), (math.inf, 1.0)
    if atom.definiteness > 0:
        return germ.within(Germ.between(germ.shape, zero, free))
    return germ.within(-Germ.between(germ.shape, zero, free)) if atom.definiteness < 0 else germ


def _reciprocal(germ: Germ) -> Germ:
    """Of 1/e for e > 0."""
    return -germ.increased(_MINUS_RECIPROCAL)


def _sum_squares(arg: Expression, germ: Germ, axes: tuple[int, ...]) -> Germ:
    total = germ.magnitude().power(2.0).total(axes)
    if len(axes) < arg.ndim or not is_defined_everywhere(arg):
        return total
    # Of all entries together, ‖e‖ ≤ L·t is more than the same of each.
    slope = arg.lipschitz
    return total.within(Germ.between(total.shape, (0.0, 0.0), (2.0, slope**2) if slope < math.inf else (math.inf, 1.0)))


def _quad_over_lin(atom: QuadOverLin, args: list[Germ]) -> Germ:
    squares = _sum_squares(atom.args[0], args[0], tuple(range(1, len(args[0].shape))))
    return squares.times(_reciprocal(args[1]))


def _pairwise(args: list[Germ]) -> Germ:
    largest = args[0]
    for germ in args[1:]:
        largest = largest.maximum(germ)
    return largest


RULES: dict[type[Atom], Callable[[Any, list[Germ]], Germ]] = {
    Abs: lambda atom, args: args[0].magnitude(),
    Square: lambda atom, args: args[0].magnitude().power(2.0),
    Huber: _huber,
    Pos: lambda atom, args: args[0].increased(_POSITIVE_PART),
    Neg: lambda atom, args: (-args[0]).increased(_POSITIVE_PART),
    Exp: lambda atom, args: args[0].increased(_EXP),
    Logistic: lambda atom, args: args[0].increased(_LOGISTIC),
    Log: lambda atom, args: args[0].increased(_LOG),
    Log1p: lambda atom, args: args[0].increased(_LOG1P),
    Entr: _entr,
    Power: _powered,
    Sqrt: _powered,
    InvPos: _powered,
    GeoMean: _geo_mean,
    Tanh: _levelled,
    Sigmoid: _levelled,
    Arctan: _levelled,
    Clip: _levelled,
    DistanceToPoints: _distance,
    Norm1: _p_norm(1.0),
    Norm2: _p_norm(2.0),
    NormInf: lambda atom, args: args[0].magnitude().largest(_axes(atom)),
    PNorm: _p_norm(0.0),
    SigmaMax: _sigma_max,
    Max: lambda atom, args: args[0].largest(_axes(atom)),
    Min: lambda atom, args: -(-args[0]).largest(_axes(atom)),
    Maximum: lambda atom, args: _pairwise(args),
    Minimum: lambda atom, args: -_pairwise([-arg for arg in args]),
    LogSumExp: _log_sum_exp,
    SumLargest: lambda atom, args: _sum_largest(atom, args[0]),
    SumSmallest: lambda atom, args: -_sum_largest(atom, -args[0]),
    SumSquares: lambda atom, args: _sum_squares(atom.args[0], args[0], _axes(atom)),
    QuadForm: _quad_form,
    QuadOverLin: _quad_over_lin,
    Product: lambda atom, args: args[0].times(args[1]),
}
