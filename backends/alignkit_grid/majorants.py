"""Quadratic upper bounds of f on cubes, summand by summand.

On the cube ‖δ‖∞ ≤ r about a centre c,

    f(c + δ) ≤ value + excess + ⟨slope, δ⟩ + ½⟨δ, Hδ⟩,        value = f(c),

where every summand adds what its structure allows:

- a concave one its tangent, without excess;
- a convex one the line between its ends, or an affine function above it at the vertices of the cube, where a convex
  function less an affine one is largest;
- φ(⟨a, w⟩ + b) with a bounded φ'' its Taylor polynomial, H = M·aaᵀ with M ≥ φ'' on the interval that ⟨a, w⟩ + b runs
  through, M < 0 where φ is concave there;
- the distance to the nearest of several points, taken off f, one of these points: it is the least of distances, so that
  f is the largest of functions each of which has a tangent in it;
- all others L·√k·r, L a Lipschitz constant of the summand alone.

Source: C. Adjiman, S. Dallwig, C. Floudas, A. Neumaier, "A global optimization method, αBB, for general
twice-differentiable constrained NLPs", 1998, section 3 (bounds by interval Hessians); B. Shubert, "A sequential method
seeking the global maximum of a function", 1972, equation 3 (bounds by a Lipschitz constant).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import ParameterError
from alignkit.expressions import Expression, Variable, inner
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Elementwise, Huber
from alignkit.expressions.atoms.exponential import Logistic
from alignkit.expressions.atoms.lipschitz import Clip, DistanceToPoints, PiecewiseLinear, UserFunction
from alignkit.expressions.atoms.norms import Norm2
from alignkit.expressions.atoms.order import LogSumExp
from alignkit.expressions.splitting import Term, affine_over, split
from alignkit_grid.curves import (
    bounds_second_derivative,
    is_wave,
    largest_second_derivative,
    largest_value,
    taylor_bend,
)

__all__ = ["Majorant", "Majorants", "Trouble", "corner_signs", "majorants_of"]

Integers = NDArray[np.int64]

#: Rounding of a value, relative to the sizes of what it is summed from.
_ROUNDING = 128 * float(np.finfo(np.float64).eps)
#: Rounding of a user's function, which may work in float32, relative to its values.
_NOISE = 1e-6
#: Share of what a Taylor polynomial adds at most, above which the largest value on the interval takes its place.
_WIDE = 0.4
#: The largest third derivative of ‖·‖ at one unit from 0, along unit vectors.
_THIRD = 2.0 / math.sqrt(3.0)
#: Without kinks.
_SMOOTH = (Huber, Logistic, LogSumExp)
#: Choices of nearest points, one for each distance in f, that are told apart.
_MOST_ALTERNATIVES = 64


@dataclass(eq=False)
class Majorant:
    """Upper bounds of f on n cubes of half-width r, one above the other terms as they are added.

    Arguments:
        value: f at the centres, (n,).
        excess: by how much the bound lies above it there, (n,); −inf where the alternative cannot be the largest.
        slope: (n, k).
        hessian: (n, k, k).
        size: the sum of sizes that rounding is relative to, (n,).
    """

    value: Floats
    excess: Floats
    slope: Floats
    hessian: Floats
    size: Floats

    @staticmethod
    def zero(count: int, dimension: int) -> Majorant:
        """That of f = 0."""
        return Majorant(
            np.zeros(count),
            np.zeros(count),
            np.zeros((count, dimension)),
            np.zeros((count, dimension, dimension)),
            np.zeros(count),
        )

    def add_value(self, value: Floats) -> None:
        """Count a summand's value at the centres."""
        self.value += value
        self.size += np.abs(value)

    @property
    def diagonal(self) -> Floats:
        """κ with ⟨δ, Hδ⟩ ≤ Σ κ_l δ_l², (n, k), by Gershgorin's discs."""
        own = np.einsum("nll->nl", self.hessian)
        return np.asarray(own + np.abs(self.hessian).sum(axis=2) - np.abs(own))


@dataclass(frozen=True)
class Trouble:
    """What makes the bounds of a summand loose, for forecasts.

    Arguments:
        bend: by how much bounds may miss its Hessian: the sum over its parts.
        typical_bend: the root of the sum of squares.
        crests, typical_crests: the same of the heights of waves.
        lipschitz: the Lipschitz constant where they rest on nothing else.
        ridge: by how much its slope falls across a concave kink.
        along: of how many dimensions the kink is.
    """

    bend: float = 0.0
    typical_bend: float = 0.0
    crests: float = 0.0
    typical_crests: float = 0.0
    lipschitz: float = 0.0
    ridge: float = 0.0
    along: int = 0


class Summand(Protocol):
    """A part of f that knows its upper bound on cubes.

    Attributes:
        trouble: what makes its bounds loose.
    """

    @property
    def trouble(self) -> Trouble: ...

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
        ...


@dataclass(frozen=True, eq=False)
class _Affine:
    """⟨h, w⟩ + c."""

    vector: Floats
    constant: float
    trouble = Trouble()

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        total.add_value(centres @ self.vector + self.constant)
        total.size += np.abs(centres) @ np.abs(self.vector)
        total.slope += self.vector


@dataclass(frozen=True, eq=False)
class _Tangent:
    """A concave summand."""

    expression: Expression
    trouble: Trouble

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        total.add_value(self.expression.value(centres))
        total.slope += self.expression.gradient(centres)


@dataclass(frozen=True, eq=False)
class _Vertices:
    """A convex summand."""

    expression: Expression
    trouble: Trouble

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        count, dimension = centres.shape
        signs = corner_signs(dimension)
        corners = (centres[:, None, :] + half * signs).reshape(-1, dimension)
        heights = np.asarray(self.expression.value(corners)).reshape(count, len(signs))
        slope = heights @ signs / (len(signs) * half)
        value = np.asarray(self.expression.value(centres))
        total.add_value(value)
        total.size += np.abs(heights).max(axis=1)
        total.slope += slope
        total.excess += np.maximum((heights - half * slope @ signs.T).max(axis=1) - value, 0.0)


@dataclass(frozen=True, eq=False)
class _Curves:
    """Σ_i c_i·φ(⟨a_i, w⟩ + b_i).

    Arguments:
        atom: φ, of a variable of shape `shape`.
        matrix, offset, coefficients: a (m, k), b (m,) and c (m,).
    """

    atom: Atom
    matrix: Floats
    offset: Floats
    coefficients: Floats

    @property
    def trouble(self) -> Trouble:
        return Trouble()

    @property
    def _steepest(self) -> float:
        """The largest slope of a summand, where φ has a Lipschitz constant."""
        return self.atom.lipschitz * float((np.abs(self.coefficients) * np.linalg.norm(self.matrix, axis=1)).max())

    def _arguments(self, centres: Floats, half: float) -> tuple[Floats, Floats]:
        """⟨a, c⟩ + b, (n, m), and how far it moves on the cube, (m,)."""
        reach = half * np.abs(self.matrix).sum(axis=1)
        return centres @ self.matrix.T + self.offset, reach * (1.0 + _ROUNDING)

    def _values(self, arguments: Floats) -> Floats:
        """c_i·φ, (n, m)."""
        shaped = arguments.reshape(len(arguments), *self.atom.shape)
        return np.asarray(self.atom.value(shaped)).reshape(arguments.shape) * self.coefficients

    def _slopes(self, arguments: Floats) -> Floats:
        """c_i·φ', (n, m)."""
        weighed = inner(self.coefficients.reshape(self.atom.shape), self.atom)
        shaped = arguments.reshape(len(arguments), *self.atom.shape)
        return np.asarray(weighed.gradient(shaped)).reshape(arguments.shape)

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        arguments, reach = self._arguments(centres, half)
        values = self._values(arguments)
        slopes = self._bounded(total, arguments, reach, values)
        total.value += values.sum(axis=1)
        total.size += np.abs(values).sum(axis=1)
        total.size += (np.abs(slopes) * (np.abs(arguments) + np.abs(self.offset) + reach)).sum(axis=1)
        total.slope += slopes @ self.matrix

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        """Add all but the value and the slopes, which are returned, (n, m)."""
        raise NotImplementedError


class _SmoothCurves(_Curves):
    """φ with a bounded second derivative."""

    @property
    def trouble(self) -> Trouble:
        steep = np.abs(self.coefficients) * np.einsum("mk,mk->m", self.matrix, self.matrix)
        steep *= largest_second_derivative(self.atom)
        heights = np.abs(self.coefficients) if is_wave(self.atom) else np.zeros(1)
        return Trouble(
            float(steep.sum()), float(np.linalg.norm(steep)), float(heights.sum()), float(np.linalg.norm(heights))
        )

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        sign = np.where(self.coefficients > 0.0, 1.0, -1.0)
        height = np.abs(self.coefficients)
        bends = height * taylor_bend(self.atom, sign, arguments, reach)
        slopes = self._slopes(arguments)
        # Where the interval is long the largest value says more.
        top = height * largest_value(self.atom, sign, arguments - reach, arguments + reach) - values
        wide = _WIDE * (np.abs(slopes) + 0.5 * np.maximum(bends, 0.0) * reach) * reach > top
        total.excess += np.where(wide, top, 0.0).sum(axis=1)
        outer = np.einsum("mi,mj->mij", self.matrix, self.matrix).reshape(len(self.matrix), -1)
        total.hessian += (np.where(wide, 0.0, bends) @ outer).reshape(total.hessian.shape)
        return np.where(wide, 0.0, slopes)


class _TangentCurves(_Curves):
    """c·φ concave."""

    @property
    def trouble(self) -> Trouble:
        if isinstance(self.atom, _SMOOTH):
            return Trouble()
        return Trouble(ridge=2.0 * self._steepest, along=self.matrix.shape[1] - 1)

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        return self._slopes(arguments)


class _Chords(_Curves):
    """c·φ convex."""

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        lower, upper = self._values(arguments - reach), self._values(arguments + reach)
        total.size += (np.abs(lower) + np.abs(upper)).sum(axis=1)
        total.excess += np.maximum(0.5 * (lower + upper) - values, 0.0).sum(axis=1)
        found: Floats = (upper - lower) / np.where(reach > 0.0, 2.0 * reach, 1.0)
        return found


@dataclass(frozen=True, eq=False)
class _Polygons(_Curves):
    """φ linear between breakpoints, (p,): the line between its ends, lifted above the breakpoints in between."""

    breakpoints: Floats

    @property
    def trouble(self) -> Trouble:
        return Trouble(ridge=2.0 * self._steepest, along=self.matrix.shape[1] - 1)

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        lower, upper = self._values(arguments - reach), self._values(arguments + reach)
        slopes: Floats = (upper - lower) / np.where(reach > 0.0, 2.0 * reach, 1.0)
        above = 0.5 * (lower + upper) - values
        total.size += (np.abs(lower) + np.abs(upper)).sum(axis=1)
        for place in self.breakpoints:
            height = self._values(np.full((1, arguments.shape[1]), place))
            lifted = height - slopes * (place - arguments) - values
            above = np.where(np.abs(place - arguments) < reach, np.maximum(above, lifted), above)
        total.excess += np.maximum(above, 0.0).sum(axis=1)
        return slopes


@dataclass(frozen=True, eq=False)
class _LipschitzAlone:
    """A summand of which no more than a Lipschitz constant is used.

    Arguments:
        term: the summand.
        lipschitz: L.
    """

    term: Term
    lipschitz: float

    @property
    def trouble(self) -> Trouble:
        return Trouble(lipschitz=self.lipschitz)

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        values = self._value(centres)
        self._check(centres, values)
        total.add_value(values)
        total.excess += self.lipschitz * math.sqrt(centres.shape[1]) * half * (1.0 + _ROUNDING)

    def _value(self, points: Floats) -> Floats:
        found = np.asarray(self.term.atom.value(points)).reshape(len(points), -1)
        return np.asarray(found @ self.term.coefficients)

    def _check(self, centres: Floats, values: Floats) -> None:
        """Raise where two points contradict the constant; siblings stand beside each other."""
        count = len(values)
        for step in {1, 2, count // 2}:
            if not 0 < step < count:
                continue
            apart = np.linalg.norm(centres[step:] - centres[:-step], axis=1)
            change = np.abs(values[step:] - values[:-step])
            slack = _NOISE * (np.abs(values[step:]) + np.abs(values[:-step]))
            bad = np.flatnonzero(change > self.lipschitz * apart * (1.0 + 1e-9) + slack)
            if bad.size:
                raise self._contradiction(centres[[bad[0], bad[0] + step]])

    def _contradiction(self, pair: Floats) -> ParameterError:
        atom = self.term.atom
        points, constant, values = pair, self.lipschitz, self._value(pair)
        if isinstance(atom, UserFunction):
            points = np.asarray(atom.args[0].value(pair)).reshape(2, -1)
            constant, values = atom.declared_lipschitz, np.asarray(atom.value(pair)).reshape(2)
        apart = float(np.linalg.norm(points[1] - points[0]))
        quotient = abs(float(values[1] - values[0])) / apart
        shown = [np.array2string(point, precision=6, threshold=8, edgeitems=3) for point in points]
        return ParameterError(
            f"{atom.name} is not Lipschitz with the constant {constant:.6g}: it is {values[0]:.6g} at {shown[0]} and "
            f"{values[1]:.6g} at {shown[1]}, a quotient of {quotient:.6g}.",
            expression=str(atom),
            ways_out=[f"lipschitz(fn, constant, expression) with a constant of {quotient:.6g} or more."],
        )


@dataclass(frozen=True, eq=False)
class _Nearest:
    """−c·min_j ‖Mw + b − p_j‖ with c > 0, the largest of −c·‖Mw + b − p_j‖ over j.

    Arguments:
        matrix: M, (m, k).
        points: p_j − b, (j, m).
        height: c.
        norm: of M, at least.
    """

    matrix: Floats
    points: Floats
    height: float
    norm: float

    def add(self, total: Majorant, centres: Floats, half: float, chosen: Integers) -> None:
        """Add the bound by the point `chosen`, (n,), where it can be the nearest in the cube."""
        images = centres @ self.matrix.T
        away = images[:, None, :] - self.points
        distances = np.sqrt(np.einsum("njm,njm->nj", away, away))
        rows = np.arange(len(centres))
        own, least = distances[rows, chosen], distances.min(axis=1)
        total.add_value(-self.height * least)
        total.size += self.height * (own + np.abs(images).max(axis=1) + np.abs(self.points).max())
        reach = self.norm * math.sqrt(centres.shape[1]) * half
        hopeless = own - least > 2.0 * reach * (1.0 + _ROUNDING) + _ROUNDING * own
        total.excess += np.where(hopeless, -math.inf, -self.height * (own - least))
        normals = (away[rows, chosen] / np.where(own > 0.0, own, 1.0)[:, None]) @ self.matrix
        total.slope -= self.height * normals
        self._bend_down(total, normals, own, reach)

    def _bend_down(self, total: Majorant, normals: Floats, distance: Floats, reach: float) -> None:
        """Add −(MᵀM − nnᵀ)/‖·‖ far from the point, where it varies little on a cube."""
        dimension = self.matrix.shape[1]
        nearest = np.maximum(distance - reach, 1e-100)
        varying = self.norm**2 * _THIRD * reach / (3.0 * nearest * nearest)
        across = self.matrix.T @ self.matrix - normals[:, :, None] * normals[:, None, :]
        bent = varying[:, None, None] * np.eye(dimension) - across / np.maximum(distance, 1e-100)[:, None, None]
        # Elsewhere the tangent alone is the better bound.
        falls = np.einsum("nll->n", bent) < 0.0
        total.hessian += np.where(falls[:, None, None], self.height * bent, 0.0)


class Majorants:
    """What f is on cubes: its summands, and the alternatives of which it is the largest.

    Arguments:
        dimension: k.
        summands: those that every alternative has.
        nearest: those of which an alternative chooses a point each.
        steepness: a Lipschitz constant of f.
    """

    def __init__(
        self, dimension: int, summands: tuple[Summand, ...], nearest: tuple[_Nearest, ...], steepness: float
    ) -> None:
        self.dimension, self.steepness = dimension, steepness
        self._summands, self._nearest = summands, nearest
        self._counts = tuple(len(one.points) for one in nearest)
        #: How many functions f is the largest of.
        self.alternatives = math.prod(self._counts)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What makes the bounds loose, summand by summand."""
        return tuple(summand.trouble for summand in self._summands)

    def on_cubes(self, centres: Floats, half: float, alternatives: Integers) -> Majorant:
        """The bounds on cubes of one size.

        Arguments:
            centres: (n, k).
            half: r.
            alternatives: which function to bound on each, (n,), below `self.alternatives`.

        Raises:
            ParameterError: two centres contradict a declared Lipschitz constant.
            NonFiniteError: a user's function returned a NaN or an infinity.
        """
        total = Majorant.zero(len(centres), self.dimension)
        for summand in self._summands:
            summand.add(total, centres, half)
        if self._nearest:
            for one, chosen in zip(self._nearest, np.unravel_index(alternatives, self._counts), strict=True):
                one.add(total, centres, half, np.asarray(chosen))
        total.size += np.abs(total.slope) @ np.full(self.dimension, half)
        total.size += np.abs(total.hessian).sum(axis=(1, 2)) * half * half
        total.excess += _ROUNDING * total.size
        return total


def corner_signs(dimension: int) -> Floats:
    """The vertices of the cube [−1, 1]^k, (2^k, k)."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=dimension)))


def majorants_of(nonlinear: Expression) -> Majorants:
    """Take f apart.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,), finite everywhere, with a finite Lipschitz
            constant.

    Raises:
        ValueError: f has quadratic summands.

    Example:
        >>> from alignkit.expressions import Variable, sin
        >>> bound = majorants_of(sin(Variable(1)[0])).on_cubes(np.zeros((1, 1)), 0.5, np.zeros(1, dtype=np.int64))
        >>> float(bound.slope[0, 0]), bool(bound.hessian[0, 0, 0] < 0.25)
        (1.0, True)
    """
    parts = split(nonlinear)
    dimension = parts.dimension
    summands: list[Summand] = [_Affine(parts.vector, parts.constant)]
    nearest: list[_Nearest] = []
    if parts.curved:
        raise ValueError(f"{parts.curved[0].atom} has no Lipschitz constant.")
    for term in parts.terms:
        one = _nearest_of(term, dimension)
        if one is not None and math.prod(len(other.points) for other in (*nearest, one)) <= _MOST_ALTERNATIVES:
            nearest.append(one)
        else:
            summands.extend(_summands_of(term, dimension))
    return Majorants(dimension, tuple(summands), tuple(nearest), float(nonlinear.lipschitz))


def _inside(atom: Atom, dimension: int) -> tuple[Floats, Floats]:
    inside = affine_over(atom.args[0], dimension)
    matrix = inside.matrix @ np.eye(dimension)
    return np.asarray(matrix, dtype=np.float64).reshape(-1, dimension), inside.offset


def _nearest_of(term: Term, dimension: int) -> _Nearest | None:
    atom, height = term.atom, -float(term.coefficients[0])
    if not isinstance(atom, DistanceToPoints) or not atom.args[0].is_affine() or height <= 0.0:
        return None
    matrix, offset = _inside(atom, dimension)
    norm = float(np.linalg.norm(matrix, 2)) * (1.0 + _ROUNDING)
    return _Nearest(matrix, atom.points.reshape(len(atom.points), -1) - offset, height, norm)


def _summands_of(term: Term, dimension: int) -> list[Summand]:
    atom, coefficients = term.atom, term.coefficients
    steepness = float(np.linalg.norm(coefficients)) * atom.lipschitz
    expression = inner(coefficients.reshape(atom.shape), atom)
    if isinstance(atom, Elementwise) and atom.args[0].is_affine():
        found = _curves_of(atom, coefficients, dimension)
        if found is not None:
            return found
    if term.bends(-1):
        return [_Tangent(expression, _kink(term, steepness, dimension))]
    if term.bends(1):
        return [_Vertices(expression, Trouble(bend=steepness, typical_bend=steepness))]
    return [_LipschitzAlone(term, steepness)]


def _kink(term: Term, steepness: float, dimension: int) -> Trouble:
    """The kink of a concave summand that is no curve."""
    atom = term.atom
    if isinstance(atom, _SMOOTH):
        return Trouble()
    along = dimension - 1
    if isinstance(atom, Norm2) and atom.size == 1 and atom.args[0].is_affine():
        along = dimension - int(np.linalg.matrix_rank(_inside(atom, dimension)[0]))
    return Trouble(ridge=2.0 * steepness, along=along)


def _curves_of(atom: Elementwise, coefficients: Floats, dimension: int) -> list[Summand] | None:
    matrix, offset = _inside(atom, dimension)
    curve = atom.with_args((Variable(atom.args[0].shape),))
    assert isinstance(curve, Elementwise)
    if bounds_second_derivative(curve):
        return [_SmoothCurves(curve, matrix, offset, coefficients)]
    convex, concave = curve.is_atom_convex, curve.is_atom_concave
    if convex or concave:
        up = np.maximum(coefficients, 0.0) if convex else np.minimum(coefficients, 0.0)
        down = coefficients - up
        found: list[Summand] = [_Chords(curve, matrix, offset, up)] if up.any() else []
        return [*found, _TangentCurves(curve, matrix, offset, down)] if down.any() else found
    if isinstance(curve, Clip):
        return [_Polygons(curve, matrix, offset, coefficients, np.array([curve.lower, curve.upper]))]
    if isinstance(curve, PiecewiseLinear):
        return [_Polygons(curve, matrix, offset, coefficients, curve.breakpoints[1:-1])]
    return None
