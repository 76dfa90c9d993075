"""Summands that are affine, concave, convex, distances to points, or of a known Lipschitz constant and no more."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import ParameterError
from alignkit.expressions import Expression
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Huber
from alignkit.expressions.atoms.exponential import Logistic
from alignkit.expressions.atoms.lipschitz import UserFunction
from alignkit.expressions.atoms.order import LogSumExp
from alignkit.expressions.splitting import Term, affine_over
from alignkit_grid.majorant import ROUNDING, Integers, Looseness, Majorant

__all__ = ["SMOOTH", "Affine", "LipschitzAlone", "Nearest", "Tangent", "Vertices", "affine_inside", "corner_signs"]

#: Rounding of a user's function, which may work in float32, relative to its values.
_NOISE = 1e-6
#: The largest third derivative of ‖·‖ at one unit from 0, along unit vectors.
_THIRD = 2.0 / math.sqrt(3.0)
#: Largest table of differences between centres and points, in entries (8 MB).
_LARGEST_TABLE = 2**20
#: Atoms without kinks.
SMOOTH = (Huber, Logistic, LogSumExp)


def corner_signs(dimension: int) -> Floats:
    """The vertices of the cube [−1, 1]^k, (2^k, k)."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=dimension)))


def affine_inside(atom: Atom, dimension: int) -> tuple[Floats, Floats]:
    """M and b of an atom's affine argument Mw + b, (m, k) and (m,)."""
    inside = affine_over(atom.args[0], dimension)
    matrix = inside.matrix @ np.eye(dimension)
    return np.asarray(matrix, dtype=np.float64).reshape(-1, dimension), inside.offset


@dataclass(frozen=True, eq=False)
class Affine:
    """⟨h, w⟩ + c.

    Arguments:
        vector, constant: h (k,) and c.
    """

    vector: Floats
    constant: float
    looseness = Looseness()

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
        total.add_value(centres @ self.vector + self.constant)
        total.size += np.abs(centres) @ np.abs(self.vector)
        total.slope += self.vector


@dataclass(frozen=True, eq=False)
class Tangent:
    """A concave summand, bounded by its tangent.

    Arguments:
        expression: the summand.
        looseness: what makes that loose.
    """

    expression: Expression
    looseness: Looseness

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
        total.add_value(self.expression.value(centres))
        total.slope += self.expression.gradient(centres)


@dataclass(frozen=True, eq=False)
class Vertices:
    """A convex summand, bounded by an affine function that lies above it at the vertices of the cube.

    Arguments:
        expression: the summand.
        looseness: what makes that loose.
    """

    expression: Expression
    looseness: Looseness

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
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
class LipschitzAlone:
    """A summand of which no more than a Lipschitz constant is used.

    Arguments:
        term: the summand.
        lipschitz: L.
    """

    term: Term
    lipschitz: float

    @property
    def looseness(self) -> Looseness:
        """The Lipschitz constant."""
        return Looseness(lipschitz=self.lipschitz)

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
        values = self._value(centres)
        self._check(centres, values)
        total.add_value(values)
        total.excess += self.lipschitz * math.sqrt(centres.shape[1]) * half * (1.0 + ROUNDING)

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
            ways_out=[
                "lipschitz(fn, constant, expression) with a bound on every slope of fn; "
                f"{quotient:.6g} is only the steepest that was met.",
            ],
        )


@dataclass(frozen=True, eq=False)
class Nearest:
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
        away = images - self.points[chosen]
        own = np.sqrt(np.einsum("nm,nm->n", away, away))
        least = np.minimum(own, self._least_distance(images))
        total.add_value(-self.height * least)
        total.size += self.height * (own + np.abs(images).max(axis=1) + np.abs(self.points).max())
        reach = self.norm * math.sqrt(centres.shape[1]) * half
        hopeless = own - least > 2.0 * reach * (1.0 + ROUNDING) + ROUNDING * own
        total.excess += np.where(hopeless, -math.inf, -self.height * (own - least))
        normals = (away / np.where(own > 0.0, own, 1.0)[:, None]) @ self.matrix
        total.slope -= self.height * normals
        self._bend_down(total, normals, own, reach)

    def _least_distance(self, images: Floats) -> Floats:
        """To the nearest point, (n,)."""
        found = np.empty(len(images))
        step = max(1, _LARGEST_TABLE // self.points.size)
        for first in range(0, len(images), step):
            away = images[first : first + step, None, :] - self.points
            found[first : first + step] = np.sqrt(np.einsum("njm,njm->nj", away, away).min(axis=1))
        return found

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
