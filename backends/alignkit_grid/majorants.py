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

import math

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import Expression, inner
from alignkit.expressions.atoms.distances import DistanceToPoints
from alignkit.expressions.atoms.elementwise import Elementwise
from alignkit.expressions.atoms.norms import Norm2
from alignkit.expressions.splitting import Term, split
from alignkit_grid.curve_summands import curve_summands
from alignkit_grid.majorant import ROUNDING, Integers, Looseness, Majorant, Summand
from alignkit_grid.summands import SMOOTH, Affine, LipschitzAlone, Nearest, Tangent, Vertices, affine_inside

__all__ = ["Majorants", "majorants_of"]

#: By k, choices of nearest points, one for each distance in f, that are told apart; beyond, bounds by Lipschitz
#: constants take less work, as measured.
_MOST_ALTERNATIVES = {1: 16, 2: 64, 3: 512}


class Majorants:
    """What f is on cubes: its summands, and the alternatives of which it is the largest.

    Arguments:
        dimension: k.
        summands: those that every alternative has.
        nearest: those of which an alternative chooses a point each.
        steepness: a Lipschitz constant of f.
    """

    def __init__(
        self, dimension: int, summands: tuple[Summand, ...], nearest: tuple[Nearest, ...], steepness: float
    ) -> None:
        self.dimension, self.steepness = dimension, steepness
        self._summands, self._nearest = summands, nearest
        self._counts = tuple(len(one.points) for one in nearest)
        #: How many functions f is the largest of.
        self.alternatives = math.prod(self._counts)

    @property
    def looseness(self) -> tuple[Looseness, ...]:
        """What makes the bounds loose, summand by summand."""
        return tuple(summand.looseness for summand in self._summands)

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
        total.excess += ROUNDING * total.size
        return total


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
    summands: list[Summand] = [Affine(parts.vector, parts.constant)]
    nearest: list[Nearest] = []
    most = _MOST_ALTERNATIVES[dimension]
    if parts.curved:
        raise ValueError(f"{parts.curved[0].atom} has no Lipschitz constant.")
    for term in parts.terms:
        one = _nearest_of(term, dimension)
        if one is not None and math.prod(len(other.points) for other in (*nearest, one)) <= most:
            nearest.append(one)
        else:
            summands.extend(_summands_of(term, dimension))
    return Majorants(dimension, tuple(summands), tuple(nearest), float(nonlinear.lipschitz))


def _nearest_of(term: Term, dimension: int) -> Nearest | None:
    atom, height = term.atom, -float(term.coefficients[0])
    if not isinstance(atom, DistanceToPoints) or not atom.args[0].is_affine() or height <= 0.0:
        return None
    matrix, offset = affine_inside(atom, dimension)
    norm = float(np.linalg.norm(matrix, 2)) * (1.0 + ROUNDING)
    return Nearest(matrix, atom.points.reshape(len(atom.points), -1) - offset, height, norm)


def _summands_of(term: Term, dimension: int) -> list[Summand]:
    atom, coefficients = term.atom, term.coefficients
    steepness = float(np.linalg.norm(coefficients)) * atom.lipschitz
    expression = inner(coefficients.reshape(atom.shape), atom)
    if isinstance(atom, Elementwise) and atom.args[0].is_affine():
        found = curve_summands(atom, coefficients, dimension)
        if found is not None:
            return found
    if term.bends(-1):
        return [Tangent(expression, _kink(term, steepness, dimension))]
    if term.bends(1):
        return [Vertices(expression, Looseness(bend=steepness, typical_bend=steepness))]
    return [LipschitzAlone(term, steepness)]


def _kink(term: Term, steepness: float, dimension: int) -> Looseness:
    """The kink of a concave summand that is no curve."""
    atom = term.atom
    if isinstance(atom, SMOOTH):
        return Looseness()
    along = dimension - 1
    if isinstance(atom, Norm2) and atom.size == 1 and atom.args[0].is_affine():
        along = dimension - int(np.linalg.matrix_rank(affine_inside(atom, dimension)[0]))
    return Looseness(ridge=2.0 * steepness, along=along)
