"""A quadratic upper bound on cubes, as the sum of its summands', and what may make it loose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats

__all__ = ["ROUNDING", "Integers", "Looseness", "Majorant", "Summand"]

Integers = NDArray[np.int64]

#: Rounding of a value, relative to the sizes of what it is summed from.
ROUNDING = 128 * float(np.finfo(np.float64).eps)


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
class Looseness:
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
    """A part of f that knows its upper bound on cubes."""

    @property
    def looseness(self) -> Looseness:
        """What makes the bounds loose."""
        ...

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        """Add the bound on the cubes about `centres`, (n, k)."""
        ...
