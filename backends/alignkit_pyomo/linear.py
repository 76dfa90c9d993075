"""Linear functions of numbered columns, and many of them at once over the coordinates and the outputs of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignkit.contracts import Floats

__all__ = ["Affine", "Linear", "combined"]


@dataclass(frozen=True)
class Linear:
    """Σ coefficient·column + constant.

    Arguments:
        terms: from a column's number to its coefficient.
        constant: a number.
    """

    terms: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    @staticmethod
    def of(column: int) -> Linear:
        """One column."""
        return Linear({column: 1.0})

    @property
    def column(self) -> int | None:
        """The column that this is, if it is one."""
        if self.constant != 0.0 or len(self.terms) != 1:
            return None
        ((column, coefficient),) = self.terms.items()
        return column if coefficient == 1.0 else None

    def __add__(self, other: Linear | float) -> Linear:
        return combined(((1.0, self), (1.0, other if isinstance(other, Linear) else Linear({}, other))))

    def __sub__(self, other: Linear | float) -> Linear:
        return combined(((1.0, self), (-1.0, other if isinstance(other, Linear) else Linear({}, other))))

    def __mul__(self, factor: float) -> Linear:
        return combined(((factor, self),))

    def __neg__(self) -> Linear:
        return self * -1.0


def combined(parts: Iterable[tuple[float, Linear]]) -> Linear:
    """Σ weight·linear function.

    Arguments:
        parts: pairs of a weight and a linear function.
    """
    terms: dict[int, float] = {}
    constant = 0.0
    for weight, part in parts:
        constant += weight * part.constant
        for column, coefficient in part.terms.items():
            terms[column] = terms.get(column, 0.0) + weight * coefficient
    return Linear({column: coefficient for column, coefficient in terms.items() if coefficient != 0.0}, constant)


@dataclass(frozen=True, eq=False)
class Affine:
    """m affine functions of z ∈ R^k and of the outputs t that were computed before.

    Arguments:
        points: of z, (m, k).
        outputs: of t, (m, j).
        constant: (m,).
    """

    points: Floats
    outputs: Floats
    constant: Floats

    @staticmethod
    def of(entries: Sequence[Linear], dimension: int, outputs: int) -> Affine:
        """Linear functions of columns 0, …, k − 1 for z and k, … for t, as matrices.

        Arguments:
            entries: m of them.
            dimension: k.
            outputs: j.
        """
        found = np.zeros((len(entries), dimension + outputs))
        for row, entry in zip(found, entries, strict=True):
            row[list(entry.terms)] = list(entry.terms.values())
        constant = np.array([entry.constant for entry in entries])
        return Affine(found[:, :dimension].copy(), found[:, dimension:].copy(), constant)

    def interval(self, centres: Floats, radii: Floats, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Bounds for z in a ball and t in a box, for n rows.

        Arguments:
            centres: of the balls, (n, k).
            radii: (n,), possibly infinite.
            lower, upper: of t, (n, at least j).

        Returns:
            (n, m) each.
        """
        middle = centres @ self.points.T + self.constant
        size = np.linalg.norm(self.points, axis=1)
        with np.errstate(invalid="ignore"):
            reach = np.where(size > 0.0, radii[:, None] * size, 0.0)
        low, high = middle - reach, middle + reach
        used = np.flatnonzero(self.outputs.any(axis=0))
        if used.size:
            weights = self.outputs[:, used]
            least, most = lower[:, None, used], upper[:, None, used]
            with np.errstate(invalid="ignore"):
                ends = np.where(weights != 0.0, weights * least, 0.0), np.where(weights != 0.0, weights * most, 0.0)
            low = low + np.minimum(*ends).sum(axis=2)
            high = high + np.maximum(*ends).sum(axis=2)
        return low, high

    def at(self, row: int, centre: Floats, scale: Floats) -> Linear:
        """One of the functions over y with z = centre + scale·y, and over the outputs.

        Arguments:
            row: which.
            centre: (k,).
            scale: (k, k).
        """
        k = len(centre)
        over = self.points[row] @ scale
        terms = {place: float(over[place]) for place in np.flatnonzero(over).tolist()}
        terms |= {k + place: float(self.outputs[row, place]) for place in np.flatnonzero(self.outputs[row]).tolist()}
        return Linear(terms, float(self.constant[row] + self.points[row] @ centre))
