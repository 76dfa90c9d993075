"""How many cubes a search visits, before it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alignkit_grid.majorants import Majorants

__all__ = ["MOST_EVALUATIONS", "Forecast"]

#: Cubes a row, beyond which a search is refused: about a hundredth of a second each.
MOST_EVALUATIONS = 200_000.0

#: The curvature of f about its highest points, over what is typical of it elsewhere; fitted, as all factors here.
_OWN_BEND = 0.055


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to visit.

    With quadratic bounds, cubes of half-width r miss f by about C·k·r²/2, C what the bounds may miss of a Hessian. The
    objective falls by its own curvature, λ and that of f, about a maximiser, so that within √(Ck/(λ + c))·r cubes are
    cut, whatever their size. With a Lipschitz constant L alone they miss it by L√k·r, which has to fall to the
    tolerance ε: those within √(2ε/λ) are left, in cubes of half-width ε/(L√k). So they miss it across a concave kink,
    where cubes along the kink are left.

    Arguments:
        majorants: of f.
        weight: λ.
        tolerance: ε.

    Example:
        >>> from alignkit.expressions import Variable, sin
        >>> from alignkit_grid.majorants import majorants_of
        >>> 20 < Forecast(majorants_of(sin(3.0 * Variable(1)[0])), 1.0, 1e-3).evaluations < 200
        True
    """

    majorants: Majorants
    weight: float
    tolerance: float

    @property
    def evaluations(self) -> float:
        """Cubes a row."""
        return self._at(self.tolerance)

    @property
    def feasible_tolerance(self) -> float | None:
        """The least tolerance, to one digit, that needs no more than `MOST_EVALUATIONS`; None if none below 1 does."""
        candidates = (digit * 10.0**exponent for exponent in range(-12, 0) for digit in (1.0, 2.0, 5.0))
        return next((tolerance for tolerance in candidates if self._at(tolerance) <= MOST_EVALUATIONS), None)

    def _at(self, tolerance: float) -> float:
        majorants, weight = self.majorants, self.weight
        k, looseness = majorants.dimension, majorants.looseness
        bend = sum(one.bend for one in looseness)
        lipschitz = sum(one.lipschitz for one in looseness)
        levels = max(4.0, math.log2(max(4.0 * majorants.steepness / weight, 1e-12) / math.sqrt(tolerance)))
        own = _OWN_BEND * math.sqrt(sum(one.typical_bend**2 for one in looseness))
        cut = levels * ((1.0 + math.sqrt(k * (1.0 + bend / (weight + own)))) ** k + 2.0**k)
        # In large cubes every point may be the nearest.
        cut += 2.0 * 4.0**k * (majorants.alternatives - 1)
        left = 1.5 * self._along(lipschitz, k, tolerance)
        left += self._unresolved()
        for one in looseness:
            left += 0.125 * self._along(one.ridge, one.along, tolerance)
        return cut + left

    def _unresolved(self) -> float:
        """Cubes in which waves are not told apart: the sum of crests, all that is known there, is seldom reached."""
        looseness = [one for one in self.majorants.looseness if one.crests > 0.0]
        crests = sum(one.crests for one in looseness)
        reached = 2.0 * math.sqrt(sum(one.typical_crests**2 for one in looseness))
        if crests <= reached:
            return 0.0
        frequency = math.sqrt(sum(one.bend for one in looseness) / crests)
        return (math.sqrt(2.0 * (crests - reached) / self.weight) * frequency) ** self.majorants.dimension

    def _along(self, lipschitz: float, dimension: int, tolerance: float) -> float:
        """Cubes left in so many dimensions, at all sizes down to the least."""
        if lipschitz == 0.0 or dimension == 0:
            return 0.0
        return (lipschitz * math.sqrt(2.0 * self.majorants.dimension / (self.weight * tolerance))) ** dimension
