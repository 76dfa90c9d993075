"""Whether a mixture of exponentials bounds exp F everywhere: proved cell by cell, and outside all cells by cones.

On a bounded cell with centre c both F and log M are convex, so that with m = ∇log M(c), at every point of the cell

    F(w) − log M(w) ≤ max over vertices v of [F(v) − ⟨m, v − c⟩] − log M(c).

Outside a box, a cone of rays from its centre o through a patch of its surface is covered by the same inequality at the
patch's vertices, provided that ⟨m, v − o⟩ is at least the recession function of F along v − o at every vertex: then F
grows no faster than the tangent of log M along every ray.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.tilting.measures import FiniteMeasure

__all__ = ["Convex", "Excess", "excess"]

#: Cells looked at in one refinement at most; those left over keep their bounds.
_CELLS_MAX = 200_000
_REFINEMENTS = 40


@dataclass(frozen=True, eq=False)
class Convex:
    """A convex function F on R^k.

    Arguments:
        value: F at rows w, (n, k) to (n,).
        recession: upper bounds of lim F(tu)/t at rows u, (n, k) to (n,); None where F matters on a box alone.
    """

    value: Callable[[Floats], Floats]
    recession: Callable[[Floats], Floats] | None


@dataclass(frozen=True, eq=False)
class Excess:
    """How far F may exceed log M.

    Arguments:
        at_most: a bound of sup (F − log M), over the box or over all of R^k; infinite where none was proved.
        points: where F − log M was found largest, (n, k), the largest first.
        values: F − log M there, (n,).
        cells: how many cells the proof has.
    """

    at_most: float
    points: Floats
    values: Floats
    cells: int


def excess(
    function: Convex,
    mixture: FiniteMeasure,
    lower: Floats,
    upper: Floats,
    *,
    slack: float,
    floor: float = -np.inf,
    divisions: int = 8,
    cells_max: int = _CELLS_MAX,
) -> Excess:
    """Bound F − log M by refining cells until the bound is near the largest value seen.

    Arguments:
        function: F.
        mixture: M.
        lower, upper: the box, (k,); with a recession function the bound holds outside it too.
        slack: how near.
        floor: bounds below this are good enough.
        divisions: cells per axis to begin with.
        cells_max: cells to look at in all.
    """
    k = lower.size
    centre = (lower + upper) / 2
    seen = _Seen(k)
    inside = _Cells.grid(lower, upper, divisions)
    settled = _settle(function, mixture, inside, None, seen, slack=slack, floor=floor, cells_max=cells_max)
    if function.recession is not None:
        for axis, end in itertools.product(range(k), (0, 1)):
            face = _Cells.face(lower, upper, axis, end, divisions)
            outside = _settle(function, mixture, face, centre, seen, slack=slack, floor=floor, cells_max=cells_max)
            settled = (max(settled[0], outside[0]), settled[1] + outside[1])
    points, values = seen.largest()
    return Excess(settled[0], points, values, settled[1])


@dataclass(frozen=True, eq=False)
class _Cells:
    """Boxes, some of them flat: centres (n, k) and half widths (n, k)."""

    centres: Floats
    halves: Floats

    @classmethod
    def grid(cls, lower: Floats, upper: Floats, divisions: int) -> _Cells:
        """A box cut into equal cells."""
        halves = (upper - lower) / (2 * divisions)
        along = [low + half * (2 * np.arange(divisions) + 1) for low, half in zip(lower, halves, strict=True)]
        centres = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, lower.size)
        return cls(centres, np.tile(halves, (len(centres), 1)))

    @classmethod
    def face(cls, lower: Floats, upper: Floats, axis: int, end: int, divisions: int) -> _Cells:
        """A face of a box cut into equal patches."""
        place = (lower, upper)[end][axis]
        rest = [other for other in range(lower.size) if other != axis]
        if not rest:
            return cls(np.array([[place]]), np.zeros((1, 1)))
        flat = cls.grid(lower[rest], upper[rest], divisions)
        return cls(np.insert(flat.centres, axis, place, axis=1), np.insert(flat.halves, axis, 0.0, axis=1))

    def vertices(self) -> Floats:
        """(corners, n, k); a flat axis has one."""
        signs = [(-1.0, 1.0) if self.halves[:, axis].any() else (0.0,) for axis in range(self.halves.shape[1])]
        return np.stack([self.centres + np.array(corner) * self.halves for corner in itertools.product(*signs)])

    def split(self, chosen: NDArray[np.bool_]) -> _Cells:
        """The chosen cells, halved along every axis that is not flat."""
        halves = self.halves[chosen] / 2
        signs = [(-1.0, 1.0) if halves[:, axis].any() else (0.0,) for axis in range(halves.shape[1])]
        centres = [self.centres[chosen] + np.array(corner) * halves for corner in itertools.product(*signs)]
        return _Cells(np.concatenate(centres), np.tile(halves, (len(centres), 1)))


class _Seen:
    """The largest values of F − log M at centres of cells."""

    _KEPT = 4096

    def __init__(self, dimension: int) -> None:
        self._points, self._values = np.zeros((0, dimension)), np.zeros(0)

    def add(self, points: Floats, values: Floats) -> None:
        points, values = np.vstack([self._points, points]), np.append(self._values, values)
        order = np.argsort(-values, kind="stable")[: self._KEPT]
        self._points, self._values = points[order], values[order]

    @property
    def top(self) -> float:
        return float(self._values[0])

    def largest(self) -> tuple[Floats, Floats]:
        return self._points, self._values


def _settle(
    function: Convex,
    mixture: FiniteMeasure,
    cells: _Cells,
    apex: Floats | None,
    seen: _Seen,
    *,
    slack: float,
    floor: float,
    cells_max: int,
) -> tuple[float, int]:
    """Refine cells, or the cones through patches from an apex, until bounds are near: the largest, and their number."""
    worst, count = -np.inf, 0
    for _ in range(_REFINEMENTS):
        log_m, slopes = mixture.log_bound_and_slope(cells.centres)
        seen.add(cells.centres, function.value(cells.centres) - log_m)
        vertices = cells.vertices()
        flat = vertices.reshape(-1, vertices.shape[2])
        values = function.value(flat).reshape(vertices.shape[:2])
        steps = np.einsum("vnk,nk->vn", vertices - cells.centres, slopes)
        bounds = (values - steps).max(axis=0) - log_m
        if apex is not None:
            assert function.recession is not None
            growth = function.recession((vertices - apex).reshape(-1, vertices.shape[2])).reshape(vertices.shape[:2])
            tamed = np.einsum("vnk,nk->vn", vertices - apex, slopes) >= growth
            along = np.einsum("nk,nk->n", cells.centres - apex, slopes)
            if (along < function.recession(cells.centres - apex)).any():
                # Smaller patches there would fail as well.
                return np.inf, count + len(bounds)
            bounds = np.where(tamed.all(axis=0), bounds, np.inf)
        count += len(bounds)
        open_cells = bounds > max(seen.top + slack, floor)
        worst = max(worst, float(bounds[~open_cells].max(initial=-np.inf)))
        flat_cells = not cells.halves.any()
        if not open_cells.any() or flat_cells or count + open_cells.sum() * 2 ** cells.halves.shape[1] > cells_max:
            return max(worst, float(bounds[open_cells].max(initial=-np.inf))), count
        cells = cells.split(open_cells)
    return max(worst, float(bounds.max())), count
