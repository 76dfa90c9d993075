"""The price of a displacement whose cost is not quadratic, with its bound by the cost's conjugate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.contracts import Displacement, Floats
from alignkit.expressions.splitting import Split
from alignkit.transport.costs import Euclidean, PNorm
from alignkit_cvxpy.penalty import (
    ROUNDING,
    Factor,
    Majorant,
    concave_factors,
    form_of,
    gradient_of,
    rounded_up,
    value_of,
)

__all__ = ["DisplacementPenalty", "displacement_penalty"]


@dataclass(frozen=True, eq=False)
class DisplacementPenalty:
    """q(v + Rδ) + ⟨g, δ⟩ − λ·h(δ), q being the quadratic part of f, concave.

    For f(z) ≤ ⟨s, z⟩ + c the supremum of the objective is at most ⟨s, v⟩ + c + λ·h*((g + Rᵀs)/λ), by the definition of
    the conjugate. Where h is a norm N, h* is 0 on N* ≤ 1 and infinite beyond, and a solver's s misses N* ≤ 1 by its
    tolerance. Convex combinations of majorants are majorants: a little of one with N* < 1, the anchor, mends that.

    Arguments:
        weight: λ.
        split: f as its quadratic part and the rest.
        factors: of −½H.
        displacement: h, R and g.
        anchor: a majorant of f, one row, with N*((g + Rᵀs)/λ) < 1; None where none is known.
    """

    weight: float
    split: Split
    factors: tuple[Factor, ...]
    displacement: Displacement
    anchor: Majorant | None = None

    @property
    def size(self) -> int:
        """m."""
        return self.displacement.size

    @property
    def has_edge(self) -> bool:
        """Whether h is a norm: h* is the indicator of a ball, and the bound infinite beyond it."""
        cost = self.displacement.cost
        return isinstance(cost, Euclidean | PNorm) and cost.power == 1

    def has_form_of(self, other: Any) -> bool:
        """Whether the penalties differ in numbers only, and those in places that may change."""
        if not isinstance(other, DisplacementPenalty) or form_of(self.factors) != form_of(other.factors):
            return False
        mine, theirs = self.displacement, other.displacement
        return (
            mine.cost == theirs.cost and mine.linear.any() == theirs.linear.any() and _are_same(mine.rows, theirs.rows)
        )

    def gradient(self, points: Floats) -> Floats:
        """Hv + h of each row, (n, k)."""
        return gradient_of(self.split, points)

    def moved(self, steps: Floats) -> Floats:
        """Rδ of each row, (n, k)."""
        rows = self.displacement.rows
        return steps if rows is None else steps @ rows.T

    def price(self, steps: Floats, moved: Floats) -> Floats:
        """λ·h(δ) − ⟨g, δ⟩, (n,)."""
        paid: Floats = self.weight * self.displacement.cost.of_displacement(steps) - steps @ self.displacement.linear
        return paid

    def bound(self, points: Floats, found: Floats, atoms: Majorant) -> tuple[Floats, Floats]:
        """The supremum with q replaced by its tangent at z, and the displacement that attains it."""
        whole = self._anchored(self._with_tangent(found, atoms))
        cost: Any = self.displacement.cost
        dual, size = self._dual(whole.slopes)
        steps = cost.best_displacement(dual)
        with np.errstate(over="ignore"):
            earned = self.weight * cost.conjugate(dual)
        # What rounding the dual may take from its conjugate, whose gradient the step is.
        slack = np.einsum("nm,nm->n", np.abs(steps), size)
        upper = rounded_up((np.einsum("nk,nk->n", whole.slopes, points), whole.constants, earned))
        return upper + ROUNDING * slack, steps

    def relaxed(self, share: float) -> DisplacementPenalty:
        """The same at a part of λ, whose majorants lie inside the ball."""
        return replace(self, weight=share * self.weight, anchor=None)

    def anchored_at(self, found: Floats, atoms: Majorant) -> DisplacementPenalty | None:
        """The same with an anchor, if the first of the majorants of f at z can be one.

        Arguments:
            found: z, (n, k).
            atoms: a majorant of the summands of f that are not quadratic.
        """
        whole = self._with_tangent(found[:1], Majorant(atoms.slopes[:1], atoms.constants[:1]))
        over = self._overshoot(whole.slopes)
        if not (np.isfinite(whole.constants).all() and (over < 0.0).all()):
            return None
        return replace(self, anchor=whole)

    def _with_tangent(self, found: Floats, atoms: Majorant) -> Majorant:
        """A majorant of f: that of the atoms and the tangent of q at z."""
        slopes = self.gradient(found)
        level, product = value_of(self.split, found), np.einsum("nk,nk->n", slopes, found)
        return Majorant(atoms.slopes + slopes, rounded_up((atoms.constants, level, -product)))

    def _anchored(self, whole: Majorant) -> Majorant:
        """Each majorant with as much of the anchor as brings it into the ball; without one, no bound beyond it."""
        if not self.has_edge:
            return whole
        over = self._overshoot(whole.slopes)
        if self.anchor is None:
            return replace(whole, constants=np.where(over <= 0.0, whole.constants, np.inf))
        outside, inside = np.maximum(over, 0.0), -self._overshoot(self.anchor.slopes)
        # What is kept of each, and not what is added: beside slopes of 1e9 the rounding of 1 − share leaves the ball.
        kept = inside / (outside + inside)
        # Of a majorant that is none nothing is kept.
        kept = np.where(np.isfinite(whole.constants) & np.isfinite(kept), kept, 0.0)
        constants = np.where(kept > 0.0, whole.constants, 0.0)
        return Majorant(
            kept[:, None] * np.nan_to_num(whole.slopes) + (1.0 - kept)[:, None] * self.anchor.slopes,
            rounded_up((kept * constants, (1.0 - kept) * self.anchor.constants)),
        )

    def _overshoot(self, slopes: Floats) -> Floats:
        """How far N*((g + Rᵀs)/λ) exceeds 1, rounded up, (n,)."""
        cost: Any = self.displacement.cost
        dual, size = self._dual(slopes)
        rounding: Floats = 2.0 * ROUNDING * (1.0 + cost.dual_norm(size / self.weight))
        return np.asarray(cost.dual_norm(dual) - 1.0 + rounding)

    def _dual(self, slopes: Floats) -> tuple[Floats, Floats]:
        """(g + Rᵀs)/λ of each row, and the sizes of what is summed there, (n, m)."""
        rows, linear = self.displacement.rows, self.displacement.linear
        spread = slopes if rows is None else slopes @ rows
        size = np.abs(slopes) if rows is None else np.abs(slopes) @ np.abs(rows)
        return (linear + spread) / self.weight, np.abs(linear) + size


def displacement_penalty(
    split: Split, weight: float, displacement: Displacement, *, moves: bool
) -> DisplacementPenalty:
    """Factorise the quadratic part of f, which has to be concave.

    Arguments:
        split: f as its quadratic part and the rest.
        weight: λ.
        displacement: h, R and g.
        moves: whether H depends on parameters.
    """
    return DisplacementPenalty(weight, split, concave_factors(split, moves=moves), displacement)


def _are_same(one: Floats | None, other: Floats | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)
