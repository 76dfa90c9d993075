"""How fast a function grows at infinity, held against the quadratics ½κ‖w‖², and where it is infinite before that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from alignkit.expressions.arrays import Floats, is_operator, is_sparse
from alignkit.expressions.asymptotics import Bound, Germ, weighted_sum
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Elementwise, Square
from alignkit.expressions.atoms.order import Maximum
from alignkit.expressions.atoms.quadratic import QuadForm, SumSquares
from alignkit.expressions.expression import Expression, topological
from alignkit.expressions.infinity import Ball, Behaviour, Rays
from alignkit.expressions.leaf import Variable
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import Matrix, norm_bound, row_norms, row_of
from alignkit.expressions.poles import Pole, is_defined_everywhere, outside_points, pole_among
from alignkit.expressions.splitting import Curved, Split, Term, affine_over, split, spread

__all__ = ["EQUAL", "Growth", "name_summands"]

#: Relative distance at which two numbers computed in float64 count as equal.
EQUAL = 1e-12
#: Relative rounding of a sum of products.
_ROUNDING = 16 * float(np.finfo(np.float64).eps)
#: Relative error allowed for an eigenvalue found by iteration.
_ITERATED = 5e-10
#: Summands that grow by less than this, relative to the fastest, are not named.
_NEGLIGIBLE = 1e-6
#: How many rows of one affine map are tried as directions, and how many directions in all.
_ROWS, _DIRECTIONS = 16, 256
#: Largest array of directions, in entries (32 MB).
_LARGEST = 2**22


class Growth:
    """How fast a function grows: its critical curvature κ*, the least κ for which f(w) − ½κ‖w‖² stays bounded above.

    κ* is enclosed by proof from both sides. Linear growth is of no account: κ* is 0 for it, and for concave functions.

    Arguments:
        nonlinear: f, a scalar expression of one variable w with k entries.

    Example:
        >>> from alignkit.expressions import Variable, norm1, norm2, square, sum_squares
        >>> w = Variable(2)
        >>> growth = Growth(3.0 * square(norm2(w)) - sum_squares(w) + norm1(w))
        >>> round(growth.at_least, 9), round(growth.at_most, 9)
        (4.0, 4.0)
    """

    def __init__(self, nonlinear: Expression) -> None:
        self.nonlinear = nonlinear

    @cached_property
    def parts(self) -> Split:
        """f as its quadratic summands and the rest."""
        return split(self.nonlinear)

    @property
    def at_most(self) -> float:
        """An upper bound of κ*; infinite where none is known."""
        return self._enclosure[0]

    @cached_property
    def at_least(self) -> float:
        """A lower bound of κ*; infinite where f outgrows every quadratic, or is +∞ around some point."""
        return math.inf if self.pole is not None else self._fastest[0]

    @property
    def direction(self) -> Floats:
        """A unit vector u, (k,), along which f grows like ½·at_least·t², or faster than every quadratic."""
        return self._fastest[1]

    @cached_property
    def pole(self) -> Pole | None:
        """A point around which f is +∞, where one was found."""
        if is_defined_everywhere(self.nonlinear):
            return None
        outside = outside_points(self.nonlinear)
        others = np.concatenate([4.0 * self._directions, np.zeros((1, self.parts.dimension))])
        return pole_among(self.nonlinear, np.concatenate([outside, others.reshape(-1, *outside.shape[1:])]))

    @cached_property
    def is_bounded_above(self) -> bool:
        """Whether f is proved to have a finite supremum."""
        upper = self._everywhere.of(self.nonlinear).upper
        degree, coefficient = float(upper.degree.item()), float(upper.coefficient.item())
        return degree < 0.0 or (degree == 0.0 and coefficient < math.inf)

    def stays_below(self, curvature: float) -> bool:
        """Whether f(w) − ½κ‖w‖² is proved to fall to −∞ like a quadratic; so it does with any linear function added.

        Arguments:
            curvature: κ > 0.
        """
        return self.nonlinear.is_concave() or self.at_most < curvature * (1 - EQUAL)

    def outgrows(self, curvature: float) -> bool:
        """Whether f(w) − ½κ‖w‖² is proved unbounded above on a thin tube; so it is with most linear functions added.

        At κ = κ* it is so where f has an affine minorant beside its quadratic part.

        Arguments:
            curvature: κ > 0.
        """
        if curvature < self.at_least * (1 - EQUAL):
            return True
        level = self.parts.critical_weight
        return 0.0 < curvature <= level * (1 + EQUAL) and all(term.bends(1) for term in self.parts.terms)

    def recession(self, directions: Floats) -> Floats:
        """Upper bounds of limsup f(tu)/t as t → ∞, which for convex f is its recession function at u.

        Arguments:
            directions: u, (n, k), of any length but 0.

        Returns:
            (n,); infinite where f may grow faster than linearly.

        Example:
            >>> from alignkit.expressions import Variable, huber, norm2
            >>> Growth(norm2(Variable(2))).recession(np.array([[3.0, 4.0]]))
            array([5.])
        """
        lengths = np.linalg.norm(directions, axis=1)
        upper = self._along(directions / lengths[:, None]).upper
        degree, coefficient = upper.degree[:, 0], upper.coefficient[:, 0]
        rates = np.where(degree > 1.0, math.inf, np.where(degree < 1.0, 0.0, coefficient))
        return np.asarray(np.where(degree < 0.0, np.where(degree == -1.0, coefficient, 0.0), rates) * lengths)

    # ---- from above

    @cached_property
    def _everywhere(self) -> Behaviour:
        return Behaviour(Ball())

    @cached_property
    def _enclosure(self) -> tuple[float, Floats | None]:
        """An upper bound of κ*, and a unit vector along which it would be reached."""
        f, parts = self.nonlinear, self.parts
        if math.isfinite(f.lipschitz) and is_defined_everywhere(f):
            return 0.0, None
        bounds = [self._bound(term) for term in parts.terms]
        growing = [term for term, bound in zip(parts.terms, bounds, strict=True) if bound > 0.0]
        curvature = 0.0 if all(part.is_concave for part in parts.curved) else parts.steepest[0]
        if not parts.has_small_hessian:
            curvature += _ITERATED * abs(curvature)
        simple = max(0.0, sum(bounds) + curvature)
        hessian = self._majorant(growing) if growing else None
        if hessian is None:
            return simple, None
        values, vectors = np.linalg.eigh(hessian)
        return min(simple, max(0.0, float(values[-1]))), vectors[:, -1]

    def _bound(self, term: Term) -> float:
        """An upper bound of limsup 2·summand/‖w‖², at least 0."""
        if term.bends(-1):
            return 0.0
        upper = _weighted(self._everywhere.of(term.atom), term.coefficients[None]).upper
        degree, coefficient = float(upper.degree.item()), float(upper.coefficient.item())
        if degree < 2.0:
            bound = 0.0
        else:
            bound = 2.0 * coefficient if degree == 2.0 else math.inf
        return min(bound, self._quadratic_bound(term))

    def _quadratic_bound(self, term: Term) -> float:
        """The same for squares of functions with a Lipschitz constant."""
        atom = term.atom
        if not isinstance(atom, Square | SumSquares | QuadForm) or not self._everywhere.is_defined_everywhere(atom):
            return math.inf
        if isinstance(atom, QuadForm):
            scale = abs(float(term.coefficients[0])) * norm_bound(atom.P)
        else:
            scale = max(float(term.coefficients.max()), 0.0)
        slope = atom.args[0].lipschitz
        return 0.0 if scale == 0.0 or slope == 0.0 else 2.0 * scale * slope**2

    def _majorant(self, terms: list[Term]) -> Floats | None:
        """The Hessian of a quadratic that f stays below up to lower order, (k, k); None where none is found."""
        parts = self.parts
        if not parts.has_small_hessian:
            return None
        total = parts.quadratic.matrix.copy()
        for term in terms:
            atom = term.atom
            if not isinstance(atom, Square | SumSquares) or not self._everywhere.is_defined_everywhere(atom):
                return None
            weights = np.maximum(spread(atom, term.coefficients), 0.0)
            total += 2.0 * _gram(atom.args[0], weights, parts.dimension)
        return (total + total.T) / 2.0 if np.isfinite(total).all() else None

    # ---- from below

    @cached_property
    def _fastest(self) -> tuple[float, Floats]:
        """The largest lower bound of κ* over the directions tried, and its direction."""
        directions = self._directions
        lower = self._along(directions).lower
        degree, coefficient = lower.degree[:, 0], lower.coefficient[:, 0]
        with np.errstate(over="ignore"):
            rates = np.where(degree == 2.0, 2.0 * coefficient, np.where(degree > 2.0, math.inf, 0.0))
        best = int(np.lexsort((coefficient, degree, rates))[-1])
        return float(rates[best]), directions[best]

    def _along(self, directions: Floats) -> Germ:
        """f along rays, (n, 1)."""
        parts, rays = self.parts, Rays(directions)
        behaviour = Behaviour(rays)
        affine = rays.affine(parts.vector[None], np.array([parts.constant]))
        return weighted_sum(
            [
                (affine, None),
                *((_along_curved(part, directions), None) for part in parts.curved),
                *((behaviour.of(term.atom).flattened, term.coefficients[None]) for term in parts.terms),
            ]
        )

    @cached_property
    def _directions(self) -> Floats:
        """Unit vectors along which growth is looked for, (n, k)."""
        parts = self.parts
        limit = max(2, min(_DIRECTIONS, _LARGEST // parts.dimension))
        found: list[Floats] = []
        if any(not part.is_concave for part in parts.curved):
            found.append(parts.steepest[1])
        top = self._enclosure[1]
        if top is not None:
            found.append(top)
        for vector in _leaf_directions(self.nonlinear, parts.dimension):
            if 2 * len(found) >= limit:
                break
            found.append(vector)
        if not found:
            found.append(np.eye(1, parts.dimension)[0])
        rows = np.array(found)
        return np.concatenate([rows, -rows])


def _along_curved(part: Curved, directions: Floats) -> Germ:
    """A quadratic summand along rays, (n, 1), with its rounding."""
    matrix, weights = part.inside.matrix, part.weights
    inside = np.asarray(matrix @ directions.T)
    sizes = np.abs(inside) if is_operator(matrix) else np.asarray(abs(matrix) @ np.abs(directions).T)
    value = np.sum(inside * part.weigh(inside), axis=0)
    size = np.sum(sizes * (abs(weights) @ sizes if weights.ndim == 2 else np.abs(weights)[:, None] * sizes), axis=0)
    # Where nothing cancels no slack is needed, and critical values are met to the last digits.
    slack = np.where(np.abs(value) == size, 0.0, _ROUNDING * size)
    low, high = (value - slack)[:, None], (value + slack)[:, None]
    level = size[:, None] == 0.0
    return Germ(
        Bound(np.where(level, 0.0, np.where(low > 0.0, 2.0, -2.0)), low),
        Bound(np.where(level, 0.0, np.where(high < 0.0, -2.0, 2.0)), high),
    )


def _gram(expression: Expression, weights: Floats, dimension: int) -> Floats:
    """G, (k, k), with Σ_j weights_j·e_j² ≤ ⟨w, Gw⟩ up to lower order, for nonnegative weights.

    Entries of an atom are weighted one by one where it acts entry by entry; otherwise by the largest weight.
    """
    if not expression.depends or not weights.any():
        return np.zeros((dimension, dimension))
    if expression.is_affine():
        matrix = affine_over(expression, dimension).matrix
        if is_operator(matrix):
            matrix = np.asarray(matrix @ np.eye(dimension))
        if is_sparse(matrix):
            return np.asarray((matrix.T @ matrix.multiply(weights[:, None])).toarray())
        return np.asarray(matrix.T @ (weights[:, None] * matrix))
    largest = float(weights.max())
    slope = expression.lipschitz
    crude = np.diag(np.full(dimension, largest * slope**2))
    if isinstance(expression, Atom):
        moving = [position for position, arg in enumerate(expression.args) if arg.depends]
        gain = expression._gain(moving[0])
        if len(moving) > 1 or not math.isfinite(gain):
            return crude
        arg = expression.args[moving[0]]
        inner = weights if isinstance(expression, Elementwise | Maximum) else np.full(arg.size, largest)
        return gain**2 * _gram(arg, inner, dimension)
    form = linear_form(expression)
    if len(form.parts) != 1 or is_operator(form.parts[0][1]):
        return crude
    node, matrix = form.parts[0]
    if matrix is None:
        return _gram(node, weights, dimension)
    squares = matrix.multiply(matrix).tocsr() if is_sparse(matrix) else np.square(matrix)
    if int(np.asarray((squares > 0).sum(axis=1)).max()) > 1:
        return crude
    return _gram(node, np.asarray(squares.T @ weights).ravel(), dimension)


# ---- where to look


def _leaf_directions(expression: Expression, dimension: int) -> Iterator[Floats]:
    """Unit vectors along which arguments of atoms move: rows of their matrices, and sums of rows."""
    everything = np.zeros(dimension)
    for node in topological(expression):
        if not isinstance(node, Atom) or not node.depends:
            continue
        totals = []
        for leaf, matrix in (part for arg in node.args if arg.depends for part in linear_form(arg).parts):
            if isinstance(leaf, Variable):
                rows, total = _rows(matrix, dimension)
                totals.append(total)
                yield from _units(*rows, total)
        if len(totals) > 1:
            # Arguments that rise together, and the first against the others.
            rest = sum(totals[1:], np.zeros(dimension))
            yield from _units(totals[0] + rest, totals[0] - rest)
        everything = everything + sum(totals, np.zeros(dimension))
    yield from _units(everything)


def _rows(matrix: Matrix | None, dimension: int) -> tuple[list[Floats], Floats]:
    """The longest rows, (k,) each, and the sum of all rows at length one."""
    if matrix is None:
        count = min(dimension, _ROWS)
        return list(np.eye(count, dimension)), np.ones(dimension)
    norms = row_norms(matrix)
    if norms is None:
        return [], np.ravel(matrix.T @ np.ones(matrix.shape[0]))
    total = np.ravel(matrix.T @ np.where(norms > 0.0, 1.0 / np.where(norms > 0.0, norms, 1.0), 0.0))
    longest = np.argsort(-norms, kind="stable")[:_ROWS]
    return [row_of(matrix, int(place)) for place in longest], total


def _units(*vectors: Floats) -> Iterator[Floats]:
    for vector in vectors:
        length = float(np.linalg.norm(vector))
        if 0.0 < length < math.inf:
            yield vector / length


# ---- for messages


def name_summands(expression: Expression, direction: Floats) -> str:
    """The nonlinear summands that grow fastest along a direction, as they print; the whole where there is none.

    Arguments:
        expression: a scalar expression of one variable.
        direction: of the variable's size.

    Example:
        >>> from alignkit.expressions import Variable, norm1, square
        >>> x = Variable(2)
        >>> name_summands(square(x[0]) + 5.0 * norm1(x) + square(x[1]), np.array([1.0, 0.0]))
        'square(x[0])'
    """
    behaviour = Behaviour(Rays(direction.reshape(1, -1) / np.linalg.norm(direction)))
    grades: list[tuple[float, float, Expression]] = []
    for node, matrix in linear_form(expression).parts:
        if isinstance(node, Atom) and not is_operator(matrix):
            lower = _weighted(behaviour.of(node), matrix).lower
            grades.append((float(lower.degree.item()), float(lower.coefficient.item()), node))
    fastest, largest, _ = max(grades, key=lambda grade: grade[:2], default=(0.0, 0.0, expression))
    found = [str(node) for degree, size, node in grades if degree == fastest and size > _NEGLIGIBLE * largest > 0.0]
    return " + ".join(found[:3]) + (" + …" if len(found) > 3 else "") if found else str(expression)


def _weighted(germ: Germ, matrix: Matrix | None) -> Germ:
    """matrix @ vec(e), (n, m)."""
    return weighted_sum([(germ.flattened, matrix)])
