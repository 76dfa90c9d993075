"""The quadratic part of a proximal problem: what the solver minimises beside the atoms, with its closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.splitting import Split

__all__ = ["Factor", "Penalty", "make_penalty"]


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
class Penalty:
    """What is quadratic in the step u = z − v: f's own quadratic part less (λ/2)‖u‖², −½⟨u, Mu⟩ + ⟨Hv + h, u⟩ + q(v).

    Arguments:
        weight: λ.
        split: f as its quadratic part and the rest.
        factors: of M.
    """

    weight: float
    split: Split
    factors: tuple[Factor, ...]
    _inverse: list[Floats] = field(default_factory=list, repr=False)

    @property
    def is_curved(self) -> bool:
        """Whether f has a quadratic part, so that M is not λI."""
        return bool(self.split.curved)

    def has_form_of(self, other: Penalty) -> bool:
        """Whether the penalties differ in numbers only, and those in places that may change."""
        return [_form(factor) for factor in self.factors] == [_form(factor) for factor in other.factors]

    def gradient(self, points: Floats) -> Floats:
        """Hv + h of each row, (n, k)."""
        if not self.is_curved:
            return np.broadcast_to(self.split.vector, points.shape)
        return points @ self.split.quadratic.matrix + self.split.quadratic.vector

    def value(self, points: Floats) -> Floats:
        """q(v) of each row, (n,)."""
        if not self.is_curved:
            return points @ self.split.vector + self.split.constant
        return self.split.quadratic.value(points)

    def best_step(self, slopes: Floats) -> Floats:
        """argmax_u ⟨slopes, u⟩ − ½⟨u, Mu⟩ of each row: M⁻¹slopes, (n, k)."""
        if not self.is_curved:
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


def make_penalty(split: Split, weight: float, *, moves: bool) -> Penalty:
    """Factorise ½M = ½(λI − H), by the quadratic summands themselves where they are concave and of low rank.

    Arguments:
        split: f as its quadratic part and the rest.
        weight: λ, above the largest eigenvalue of H.
        moves: whether H depends on parameters.
    """
    identity = Factor(float(np.sqrt(weight / 2.0)))
    low_rank = all(part.is_concave and part.weights.ndim == 1 for part in split.curved) and not any(
        is_operator(part.inside.matrix) for part in split.curved
    )
    if low_rank and sum(len(part.weights) for part in split.curved) < max(split.dimension, 2):
        scaled = [np.sqrt(-part.weights)[:, None] * _dense(part.inside.matrix) for part in split.curved]
        return Penalty(weight, split, (identity, *(Factor(1.0, matrix, moves) for matrix in scaled)))
    matrix = weight * np.eye(split.dimension) - split.quadratic.matrix
    return Penalty(weight, split, (Factor(1.0, np.linalg.cholesky(matrix / 2.0).T, moves=True),))


def _form(factor: Factor) -> tuple[Any, ...]:
    return None if factor.matrix is None else factor.matrix.shape, factor.moves


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())
