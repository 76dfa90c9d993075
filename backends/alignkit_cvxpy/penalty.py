"""What the solver minimises beside the atoms of f: the price of a step, and the part of f that is quadratic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from alignkit.contracts import Displacement, Floats
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.splitting import Split

__all__ = ["Factor", "Majorant", "Penalty", "QuadraticPenalty", "concave_factors", "form_of", "quadratic_penalty"]


@dataclass(frozen=True, eq=False)
class Factor:
    """B = scale·matrix, one of the factors of ½⟨u, Mu⟩ = Σ ‖Bu‖².

    Arguments:
        scale: a positive number, which may change with λ.
        matrix: (m, k); None for the identity.
        moves: whether the matrix may change, with λ or with a parameter.
    """

    scale: float
    matrix: Any = None
    moves: bool = False


@dataclass(frozen=True, eq=False)
class Majorant:
    """An affine function above a concave one, for each row: z ↦ ⟨slopes, z⟩ + constants.

    Arguments:
        slopes: (n, k).
        constants: (n,); infinite where there is no bound.
    """

    slopes: Floats
    constants: Floats


class Penalty(Protocol):
    """What is no atom of the objective: −(the price of a step) + the quadratic part of f, concave in the step.

    It is frozen: what a session changes, it replaces.
    """

    @property
    def weight(self) -> float:
        """λ."""
        ...

    @property
    def split(self) -> Split:
        """f as its quadratic part and the rest."""
        ...

    @property
    def factors(self) -> tuple[Factor, ...]:
        """What is quadratic in u = z − v, −½⟨u, Mu⟩, as factors of M."""
        ...

    @property
    def displacement(self) -> Displacement | None:
        """The price of a step where it is not quadratic; None where the step is u itself, priced by the factors."""
        ...

    @property
    def size(self) -> int:
        """How many entries a step has."""
        ...

    @property
    def has_edge(self) -> bool:
        """Whether a step costs no more than in proportion to its length, so that some concave f outgrow it."""
        ...

    def has_form_of(self, other: Any) -> bool:
        """Whether the penalties differ in numbers only, and those in places that may change."""
        ...

    def gradient(self, points: Floats) -> Floats:
        """The gradient of the quadratic part of f at rows v, (n, k)."""
        ...

    def moved(self, steps: Floats) -> Floats:
        """u = z − v of rows of steps, (n, size) to (n, k)."""
        ...

    def price(self, steps: Floats, moved: Floats) -> Floats:
        """What steps cost, (n,), `moved` being u as it was rounded."""
        ...

    def bound(self, points: Floats, found: Floats, atoms: Majorant) -> tuple[Floats, Floats]:
        """The supremum of the objective with a majorant in place of the atoms, at most, and a step that comes near it.

        Arguments:
            points: rows v, (n, k).
            found: z, (n, k), where the bound should be tight.
            atoms: a majorant of the summands of f that are not quadratic.

        Returns:
            (n,), infinite without a bound, and (n, size).
        """
        ...


@dataclass(frozen=True, eq=False)
class QuadraticPenalty:
    """f's own quadratic part less (λ/2)‖u‖², in u = z − v: −½⟨u, Mu⟩ + ⟨Hv + h, u⟩ + q(v).

    Arguments:
        weight: λ.
        split: f as its quadratic part and the rest.
        factors: of M.
    """

    weight: float
    split: Split
    factors: tuple[Factor, ...]
    _inverse: list[Floats] = field(default_factory=list, repr=False)

    displacement = None
    has_edge = False

    @property
    def size(self) -> int:
        """k."""
        return self.split.dimension

    def has_form_of(self, other: Any) -> bool:
        """Whether the penalties differ in numbers only, and those in places that may change."""
        return isinstance(other, QuadraticPenalty) and form_of(self.factors) == form_of(other.factors)

    def gradient(self, points: Floats) -> Floats:
        """Hv + h of each row, (n, k)."""
        return gradient_of(self.split, points)

    def moved(self, steps: Floats) -> Floats:
        """The steps."""
        return steps

    def price(self, steps: Floats, moved: Floats) -> Floats:
        """(λ/2)‖u‖², (n,)."""
        found: Floats = 0.5 * self.weight * np.sum(moved**2, axis=1)
        return found

    def bound(self, points: Floats, found: Floats, atoms: Majorant) -> tuple[Floats, Floats]:
        """The exact supremum with the majorant, rounded up, and the step that attains it."""
        slopes = self.gradient(points) + atoms.slopes
        step = self._best_step(slopes)
        parts = (
            value_of(self.split, points),
            np.einsum("ni,ni->n", atoms.slopes, points),
            atoms.constants,
            0.5 * np.einsum("ni,ni->n", slopes, step),
        )
        return rounded_up(parts), step

    def _best_step(self, slopes: Floats) -> Floats:
        """argmax_u ⟨slopes, u⟩ − ½⟨u, Mu⟩ of each row: M⁻¹slopes, (n, k)."""
        if not self.split.curved:
            return slopes / self.weight
        if not self._inverse:
            from scipy.linalg import cho_factor, cho_solve

            matrix = self.weight * np.eye(self.split.dimension) - self.split.quadratic.matrix
            self._inverse.append(cho_solve(cho_factor(matrix), np.eye(len(matrix))))
        inverse = self._inverse[0]
        step = slopes @ inverse
        # One step of refinement: the error of the inverse enters the certificate squared.
        residual = slopes - self.weight * step + step @ self.split.quadratic.matrix
        return step + residual @ inverse


#: Float64 rounding of a bound, relative to the numbers it is a sum of.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


def rounded_up(parts: tuple[Floats, ...]) -> Floats:
    """A sum of rows of numbers, at least what it would be without rounding; infinite where it is no number."""
    with np.errstate(invalid="ignore"):
        total = np.sum(parts, axis=0) + ROUNDING * np.sum(np.abs(parts), axis=0)
    return np.where(np.isnan(total), np.inf, total)


def gradient_of(split: Split, points: Floats) -> Floats:
    """Hv + h of each row, (n, k), of the quadratic part ½⟨v, Hv⟩ + ⟨h, v⟩ + c."""
    if not split.curved:
        return np.broadcast_to(split.vector, points.shape)
    return points @ split.quadratic.matrix + split.quadratic.vector


def value_of(split: Split, points: Floats) -> Floats:
    """The quadratic part at each row, (n,)."""
    if not split.curved:
        return points @ split.vector + split.constant
    return split.quadratic.value(points)


def form_of(factors: tuple[Factor, ...]) -> list[Any]:
    """What of factors cannot change without compiling anew."""
    return [(None if factor.matrix is None else factor.matrix.shape, factor.moves) for factor in factors]


def quadratic_penalty(split: Split, weight: float, *, moves: bool) -> QuadraticPenalty:
    """Factorise ½M = ½(λI − H), by the quadratic summands themselves where they are concave and of low rank.

    Arguments:
        split: f as its quadratic part and the rest.
        weight: λ, above the largest eigenvalue of H.
        moves: whether H depends on parameters.
    """
    summands = _summands(split, moves=moves)
    if summands is not None:
        return QuadraticPenalty(weight, split, (Factor(float(np.sqrt(weight / 2.0))), *summands))
    matrix = weight * np.eye(split.dimension) - split.quadratic.matrix
    return QuadraticPenalty(weight, split, (Factor(1.0, np.linalg.cholesky(matrix / 2.0).T, moves=True),))


def concave_factors(split: Split, *, moves: bool) -> tuple[Factor, ...]:
    """Factors of −½H, by the quadratic summands themselves where they are of low rank.

    Arguments:
        split: f as its quadratic part, concave, and the rest.
        moves: whether H depends on parameters.
    """
    summands = _summands(split, moves=moves)
    if summands is not None:
        return summands
    values, vectors = np.linalg.eigh(-split.quadratic.matrix / 2.0)
    return (Factor(1.0, (vectors * np.sqrt(np.maximum(values, 0.0))).T, moves),)


def _summands(split: Split, *, moves: bool) -> tuple[Factor, ...] | None:
    """Factors of −½H, one for each quadratic summand; None where a summand is convex, or they have many rows."""
    low_rank = all(part.is_concave and part.weights.ndim == 1 for part in split.curved) and not any(
        is_operator(part.inside.matrix) for part in split.curved
    )
    if not low_rank or sum(len(part.weights) for part in split.curved) >= max(split.dimension, 2):
        return None
    scaled = [np.sqrt(-part.weights)[:, None] * _dense(part.inside.matrix) for part in split.curved]
    return tuple(Factor(1.0, matrix, moves) for matrix in scaled)


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())
