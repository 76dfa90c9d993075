"""Rewards that penalise the differences of neighbours along a chain of coordinates, recognised by structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, ProxProblem
from alignkit.expressions.arrays import is_operator, is_sparse
from alignkit.expressions.atoms.elementwise import Abs
from alignkit.expressions.atoms.norms import Norm1
from alignkit.expressions.splitting import Term, affine_over, split, spread

__all__ = ["TotalVariationForm", "total_variation_form"]


@dataclass(frozen=True, eq=False)
class TotalVariationForm:
    """f(w) = −Σ_j c_j|u_{j+1} − u_j| + ⟨h, w⟩ + constant, u = w − origin: its proximal map is that of total variation.

    Arguments:
        strengths: c_j ≥ 0, (k − 1,).
        origin: (k,), the rows that the variation does not see.
        vector: h, (k,).
        constant: in units of the reward.
        weight: λ of the proximal problem.
    """

    strengths: Floats
    origin: Floats
    vector: Floats
    constant: float
    weight: float

    def centres(self, points: Floats) -> Floats:
        """The rows x whose proximal map of total variation gives u, of rows v, (n, k) to (n, k)."""
        return np.asarray(points + (self.vector / self.weight - self.origin))

    def maximisers(self, solutions: Floats) -> Floats:
        """z of rows u, (n, k) to (n, k)."""
        return np.asarray(solutions + self.origin)

    def value(self, solutions: Floats) -> Floats:
        """f(z) of rows u, (n, k) to (n,)."""
        variation = np.abs(np.diff(solutions, axis=1)) @ self.strengths
        return np.asarray(self.maximisers(solutions) @ self.vector - variation + self.constant)


def total_variation_form(problem: ProxProblem) -> TotalVariationForm | None:
    """Write a reward as the total variation of a chain.

    Arguments:
        problem: f.

    Returns:
        the form, where f is a sum of affine terms and of concave `abs` and `norm1` of differences of consecutive
        coordinates, and no two of them place the kink of one difference apart; else None.

    Example:
        >>> from alignkit.expressions import Variable, total_variation
        >>> w = Variable(3)
        >>> form = total_variation_form(ProxProblem(w[0] - 2 * total_variation(w), weight=1.0, dimension=3, rows=1))
        >>> form.strengths, form.vector
        (array([2., 2.]), array([1., 0., 0.]))
    """
    parts = split(problem.nonlinear)
    if parts.curved or not parts.terms:
        return None
    chain = _Chain(parts.dimension)
    if not all(chain.add(term) for term in parts.terms):
        return None
    origin = np.concatenate([np.zeros(1), np.cumsum(chain.kinks)])
    constant = parts.constant + chain.constant
    return TotalVariationForm(chain.strengths, origin, parts.vector, constant, float(problem.weight))


class _Chain:
    """Σ_j strengths[j]·|w_{j+1} − w_j − kinks[j]| under construction."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.strengths, self.kinks = np.zeros((2, dimension - 1))
        self.constant = 0.0

    def add(self, term: Term) -> bool:
        """Subtract a summand; False where it is none of a chain."""
        atom = term.atom
        if not (isinstance(atom, Abs | Norm1) and atom.args[0].is_affine()):
            return False
        inside = affine_over(atom.args[0], self.dimension)
        weights = -spread(atom, term.coefficients)
        if is_operator(inside.matrix) or (weights < 0).any():
            return False
        if is_sparse(inside.matrix):
            entries = inside.matrix.tocoo()
            rows, columns, slopes = entries.row, entries.col, entries.data
        else:
            rows, columns = np.nonzero(inside.matrix)
            slopes = inside.matrix[rows, columns]
        kept = (slopes != 0.0) & (weights[rows] > 0)
        order = np.lexsort((columns[kept], rows[kept]))
        rows, columns, slopes = (array[kept][order] for array in (rows, columns, slopes))
        counts = np.bincount(rows, minlength=len(weights))
        self.constant -= float(weights[counts == 0] @ np.abs(inside.offset[counts == 0]))
        if not np.isin(counts, (0, 2)).all():
            return False
        left, right, slope = columns[::2], columns[1::2], slopes[1::2]
        if (right != left + 1).any() or (slopes[::2] != -slope).any():
            return False
        return self._put(left, weights[rows[::2]] * np.abs(slope), -inside.offset[rows[::2]] / slope)

    def _put(self, places: NDArray[np.int64], strengths: Floats, kinks: Floats) -> bool:
        """Add strengths·|w_{j+1} − w_j − kinks| at places j; False where a place has another kink already."""
        known = self.strengths[places] > 0
        if (self.kinks[places][known] != kinks[known]).any():
            return False
        self.kinks[places] = kinks
        np.add.at(self.strengths, places, strengths)
        return bool((self.kinks[places] == kinks).all())
