"""Proximal maps of sums of piecewise quadratics of single coordinates, by a table of pieces.

The objective f(z) − (λ/2)‖z − v‖² is μ-strongly concave, so that a point at which some supergradient has norm ρ lies
within ρ²/(2μ) of the supremum: what bounds the rounding of the answer.

Source: N. Parikh, S. Boyd, "Proximal algorithms", 2014, section 6; Y. Nesterov, "Lectures on convex optimization",
2018, theorem 2.1.10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats, ProxSolution
from alignkit.transport.pieces import PieceTable
from alignkit.transport.separable import Separable
from alignkit_numba.vectors import compiled, inlined

__all__ = ["SeparableMap"]

_EPS = float(np.finfo(np.float64).eps)
#: Up to so many breakpoints are counted in order; more are searched by halves.
_FEW = 8


@dataclass(frozen=True, eq=False)
class SeparableMap:
    """v ↦ z, with what all rows share.

    Arguments:
        table: of pieces.
        numbers: λ, μ, f(0), the tolerance, and ε and η of what was dropped, (6,); see `Separable`.
    """

    table: PieceTable
    numbers: Floats

    @staticmethod
    def of(separable: Separable, at_origin: float, weight: float, tolerance: float) -> SeparableMap:
        """Tabulate a reward that λ makes strictly concave, given f(0)."""
        table, dropped = PieceTable.of(separable, weight), (separable.dropped_linear, separable.dropped_quadratic)
        return SeparableMap(table, np.array([weight, table.strength, at_origin, tolerance, *dropped]))

    def solve(self, points: Floats) -> ProxSolution:
        """Solve rows v, (n, k), float64."""
        points = np.ascontiguousarray(points)
        maximiser, gap, value = np.empty_like(points), np.empty(len(points)), np.empty(len(points))
        unfinished = np.empty(len(points), dtype=np.bool_)
        _solve(self.table.breaks, self.table.pieces, self.numbers, points, maximiser, gap, value, unfinished)
        # What was dropped counts in f, too.
        return ProxSolution(maximiser, gap, unfinished, None if self.numbers[4:].any() else value)


@compiled
def _solve(breaks, pieces, numbers, points, maximiser, gap, value, unfinished):  # type: ignore[no-untyped-def]
    count, k = points.shape
    weight, strength, linear, quadratic = numbers[0], numbers[1], numbers[4], numbers[5]
    for row in range(count):
        earned, square, size, apart = numbers[2], 0.0, 0.0, 0.0
        for i in range(k):
            v = points[row, i]
            piece = _piece(breaks, i, v)
            bend, least, most = pieces[i, piece, 4], pieces[i, piece, 5], pieces[i, piece, 6]
            # Comparisons that leave NaN what it is.
            z = pieces[i, piece, 0] * v + pieces[i, piece, 1]
            z = max(z, pieces[i, piece, 2])
            z = min(z, pieces[i, piece, 3])
            maximiser[row, i] = z
            pull, curve = weight * (z - v), bend * z
            earned += (0.5 * curve + least) * z + pieces[i, piece, 7]
            residual = max(least + curve - pull, pull - (most + curve), 0.0)
            residual += 8.0 * _EPS * (weight * (abs(z) + abs(v)) + abs(curve) + max(abs(least), abs(most)))
            square += residual * residual
            size += z * z
            apart += (z - v) * (z - v)
        value[row] = earned
        gap[row] = square / (2.0 * strength)
        if linear != 0.0 or quadratic != 0.0:
            # f differs from its pieces by at most ε‖z‖ + η‖z‖² at z, by ε(‖z‖ + r) + 2η(‖z‖² + r²) a distance r away.
            steepest = math.sqrt(square) + linear
            gap[row] = steepest * steepest / (2.0 * strength) + 2.0 * linear * math.sqrt(size) + 3.0 * quadratic * size
        wanted = numbers[3] * max(1.0, abs(earned - 0.5 * weight * apart))
        unfinished[row] = not (gap[row] <= wanted and gap[row] < math.inf)
        if math.isnan(gap[row]):
            gap[row] = math.inf


@inlined
def _piece(breaks, i, v):  # type: ignore[no-untyped-def]
    """How many breakpoints of coordinate i lie below v."""
    count = breaks.shape[1]
    if count <= _FEW:
        found = 0
        for j in range(count):
            found += breaks[i, j] < v
        return found
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if breaks[i, middle] < v:
            low = middle + 1
        else:
            high = middle
    return low
