"""Answers by interpolation between solved nodes, for k ≤ 2.

ψ(v) = max_z f(z) − (λ/2)‖z‖² + λ⟨z, v⟩ is convex, a maximum of affine functions of v. The row's objective is
ψ(v) − (λ/2)‖v‖², hence on a cell of a lattice of spacing h, with v = v₀ + h·t and multilinear weights w_j(t) of its
corners,

    objective(v) ≤ Σ_j w_j·upper_j + (λ/2)h² Σ_l t_l(1 − t_l),

where `upper_j` is certified at the corner: what the last term corrects is the interpolation of (λ/2)‖v‖² itself. The
corners' maximisers, tried at v, bound it from below. Nodes are solved when a row first falls beside them, so that a
row's answer depends on that row alone. Rows between nodes too far apart are looked up in a finer lattice, and what is
left is searched for.

Source: R. T. Rockafellar, "Convex analysis", 1970, theorem 5.5 (suprema of affine functions) and theorem 4.3 (Jensen's
inequality, the bound above).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit_grid.search import Found, comes_first, is_as_good

__all__ = ["LookedUp", "Table"]

Integers = NDArray[np.int64]

_ROUNDING = 64 * float(np.finfo(np.float64).eps)
#: The share of the tolerance that nodes may take.
NODE_SHARE = 0.125
#: Cells along an axis on either side of 0; rows beyond are searched for.
_FARTHEST = 2**30
#: Cells of a lattice after which it is emptied.
_MOST_CELLS = 2**20
#: Spacings of lattices, over √(tolerance/λ), by k.
_SPACINGS = {1: (0.5, 0.0625, 0.0078125), 2: (1.0,)}
#: Spacings between two maximisers, at least, that are told apart.
_WELL_APART = 4.0


@dataclass(frozen=True, eq=False)
class LookedUp:
    """What a table says of rows.

    Arguments:
        maximiser, value, gap, tied: as for `Found`; meaningful where `certified`.
        certified: rows whose gap is within the tolerance, (n,).
        evaluations: nodes looked at, (n,).
    """

    maximiser: Floats
    value: Floats
    gap: Floats
    tied: NDArray[np.bool_]
    certified: NDArray[np.bool_]
    evaluations: Integers


class Table:
    """Lattices of solved nodes, filled where rows fall.

    Arguments:
        solve: rows v and a tolerance to certified maximisers.
        value: f.
        dimension: k, 1 or 2.
        weight: λ.
        tolerance: the largest gap wanted, over max(1, |objective|).
    """

    def __init__(
        self,
        solve: Callable[[Floats, float], Found],
        value: Callable[[Floats], Floats],
        dimension: int,
        weight: float,
        tolerance: float,
    ) -> None:
        self._value, self._weight, self._tolerance = value, weight, tolerance
        self._lattices = [
            _Lattice(lambda nodes: solve(nodes, NODE_SHARE * tolerance), dimension, spacing)
            for spacing in spacings(dimension, weight, tolerance)
        ]

    def look_up(self, points: Floats) -> LookedUp:
        """The answers to rows v, (n, k), as far as the table certifies them."""
        count, dimension = points.shape
        maximiser, value, gap = np.empty((count, dimension)), np.empty(count), np.full(count, np.inf)
        tied, certified = np.zeros((2, count), dtype=np.bool_)
        evaluations = np.zeros(count, dtype=np.int64)
        rows: Integers | slice = slice(None)
        for lattice in self._lattices:
            own = points[rows]
            found = self._beside(lattice, own)
            if found.certified.all() and isinstance(rows, slice):
                return found
            maximiser[rows], value[rows], gap[rows], tied[rows] = found.maximiser, found.value, found.gap, found.tied
            certified[rows] = found.certified
            evaluations[rows] += found.evaluations
            rows = np.flatnonzero(~certified)
        return LookedUp(maximiser, value, gap, tied, certified, evaluations)

    def _beside(self, lattice: _Lattice, points: Floats) -> LookedUp:
        """The answers by one lattice."""
        count, dimension = points.shape
        corners = 2**dimension
        cells, fractions = lattice.place(points)
        inside = np.asarray((np.abs(cells) < _FARTHEST).all(axis=1))
        if not inside.all():
            cells[~inside] = 0.0
        columns, place = lattice.columns(cells, inside)
        weights = [np.ones(count)]
        for axis in range(dimension):
            part = fractions[:, axis]
            weights = [weight * side for weight in weights for side in (1.0 - part, part)]
        bent = fractions * (1.0 - fractions)
        upper = (0.5 * self._weight * lattice.spacing**2) * bent.sum(axis=1)
        objectives = np.empty((corners, count))
        for corner in range(corners):
            upper += weights[corner] * columns[corner].take(place)
            moved = np.zeros(count)
            for axis in range(dimension):
                step = columns[(2 + axis) * corners + corner].take(place)
                step -= points[:, axis]
                step *= step
                moved += step
            moved *= 0.5 * self._weight
            np.subtract(columns[corners + corner].take(place), moved, out=objectives[corner])
        objective = objectives.max(axis=0)
        upper += _ROUNDING * (np.abs(upper) + np.abs(objective))
        wanted = self._tolerance * np.maximum(1.0, np.abs(objective))
        certified = np.asarray(inside & (upper - objective <= wanted))
        taken = _Corners(columns, place, objectives, objectives.argmax(axis=0))
        good = certified & is_as_good(objectives, objective, upper, wanted)
        good &= upper - objectives <= (1.0 - self._tolerance) * wanted
        tied = self._break_ties(lattice.spacing, points, taken, good)
        gap = np.maximum(upper - taken.objective, 0.0)
        evaluations = np.full(count, corners, dtype=np.int64)
        return LookedUp(taken.maximiser(), taken.value, gap, tied, certified, evaluations)

    def _break_ties(
        self, spacing: float, points: Floats, corner: _Corners, good: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Whether another corner's maximiser is as good beyond lower ground; choose the first in lexicographic order.

        Arguments:
            spacing: of the lattice.
            points: v, (n, k).
            corner: the corners, of which another may be chosen.
            good: which corners have maximisers that are good enough, (2^k, n).
        """
        tied = np.zeros(len(points), dtype=np.bool_)
        for number in range(len(good)):
            # Most rows lie between nodes with one maximiser, a step apart.
            rows = np.flatnonzero(good[number] & corner.lies_apart(number, _WELL_APART * spacing))
            if not rows.size:
                continue
            one, other = corner.maximiser(rows), corner.maximiser(rows, number)
            middle = 0.5 * (one + other)
            step = middle - points[rows]
            ground = self._value(middle) - 0.5 * self._weight * np.einsum("nk,nk->n", step, step)
            parted = ground < np.minimum(corner.objective[rows], corner.objectives[number, rows])
            tied[rows[parted]] = True
            corner.chosen[rows[parted & comes_first(other, one, spacing)]] = number
        return tied


@dataclass(frozen=True, eq=False)
class _Corners:
    """What rows find at the corners of their cells.

    Arguments:
        columns: of the lattice, (2^k·(2 + k), cells).
        place: the cell of each row, (n,).
        objectives: what each corner's maximiser is worth to each row, (2^k, n).
        chosen: the corner that each row takes, (n,).
    """

    columns: Floats
    place: Integers
    objectives: Floats
    chosen: Integers

    @property
    def objective(self) -> Floats:
        """Of the corners chosen."""
        return np.asarray(self.objectives[self.chosen, np.arange(len(self.chosen))])

    @property
    def value(self) -> Floats:
        """f at the maximisers of the corners chosen."""
        return np.asarray(self.columns[len(self.objectives) + self.chosen, self.place])

    def maximiser(self, rows: Integers | None = None, number: int | None = None) -> Floats:
        """The maximisers, (n, k), of some rows or all, of one corner or of those chosen."""
        place = self.place if rows is None else self.place[rows]
        chosen = number if number is not None else self.chosen if rows is None else self.chosen[rows]
        return np.stack([column[chosen, place] for column in self._maximisers], axis=1)

    def lies_apart(self, number: int, distance: float) -> NDArray[np.bool_]:
        """Whether a corner's maximiser lies away from the one chosen in some entry."""
        apart = np.zeros(len(self.place), dtype=np.bool_)
        for column in self._maximisers:
            away = column[number].take(self.place)
            away -= column[self.chosen, self.place]
            apart |= np.abs(away, out=away) > distance
        return apart

    @property
    def _maximisers(self) -> Floats:
        """(k, 2^k, cells)."""
        corners = len(self.objectives)
        return self.columns[2 * corners :].reshape(-1, corners, self.columns.shape[1])


class _Lattice:
    """The cells of one spacing that rows have fallen into, with what is known at their corners.

    Arguments:
        solve: nodes to certified maximisers.
        dimension: k.
        spacing: h, a power of 2, so that nodes and fractions are exact.
    """

    def __init__(self, solve: Callable[[Floats], Found], dimension: int, spacing: float) -> None:
        self.spacing = spacing
        self._solve, self._dimension = solve, dimension
        self._corners = np.array(list(itertools.product((0.0, 1.0), repeat=dimension)))
        self._clear()

    def _clear(self) -> None:
        corners = len(self._corners)
        self._cell_keys = np.empty(0, dtype=np.int64)
        self._columns = np.empty((corners * (2 + self._dimension), 0))
        self._node_keys = np.empty(0, dtype=np.int64)
        self._nodes = np.empty((2 + self._dimension, 0))

    def place(self, points: Floats) -> tuple[Floats, Floats]:
        """The cells of rows, as whole numbers, and where in them the rows are, from 0 to 1; (n, k) each."""
        scaled = points / self.spacing
        cells = np.floor(scaled)
        return cells, scaled - cells

    def columns(self, cells: Floats, wanted: NDArray[np.bool_]) -> tuple[Floats, Integers]:
        """What is known at the corners of cells: upper bounds, values and maximisers, and where each row's cell stands.

        Arguments:
            cells: (n, k).
            wanted: rows to solve nodes for, (n,); others stand anywhere.

        Returns:
            (2^k·(2 + k), cells), and (n,).
        """
        keys = self._keys(cells)
        place, known = _find(self._cell_keys, keys)
        if not known.all():
            new = np.unique(keys[wanted & ~known])
            if len(self._cell_keys) + len(new) > _MOST_CELLS:
                self._clear()
                new = np.unique(keys[wanted])
            if new.size:
                self._fill(new)
            place, _ = _find(self._cell_keys, keys)
        if not self._columns.shape[1]:
            return np.full((len(self._columns), 1), np.nan), np.zeros(len(cells), dtype=np.int64)
        return self._columns, place

    def _keys(self, cells: Floats) -> Integers:
        whole = cells.astype(np.int64)
        return whole[:, 0] if self._dimension == 1 else whole[:, 0] * 2**32 + whole[:, 1]

    def _fill(self, keys: Integers) -> None:
        """Solve the nodes about new cells."""
        cells = self._cells(keys)
        around = cells[:, None, :] + self._corners
        node_keys = self._keys(around.reshape(-1, self._dimension))
        _, known = _find(self._node_keys, node_keys)
        new = np.unique(node_keys[~known])
        if new.size:
            found = self._solve(self._cells(new) * self.spacing)
            nodes = np.concatenate([[found.upper, found.value], found.maximiser.T])
            self._node_keys, self._nodes = _merge(self._node_keys, self._nodes, new, nodes)
        place, _ = _find(self._node_keys, node_keys)
        beside = self._nodes[:, place].reshape(len(self._nodes), len(keys), len(self._corners))
        columns = beside.transpose(0, 2, 1).reshape(-1, len(keys))
        self._cell_keys, self._columns = _merge(self._cell_keys, self._columns, keys, columns)

    def _cells(self, keys: Integers) -> Floats:
        if self._dimension == 1:
            return keys[:, None].astype(np.float64)
        first = (keys + 2**31) >> 32
        return np.stack([first, keys - first * 2**32], axis=1).astype(np.float64)


def spacings(dimension: int, weight: float, tolerance: float) -> tuple[float, ...]:
    """The spacings of the lattices of a table, powers of 2, coarsest first."""
    unit = math.sqrt(tolerance / weight)
    return tuple(2.0 ** round(math.log2(share * unit)) for share in _SPACINGS[dimension])


def _find(keys: Integers, wanted: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Where numbers stand among rising keys, and whether they do."""
    if not keys.size:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.searchsorted(keys, wanted)
    np.minimum(place, len(keys) - 1, out=place)
    return place, keys[place] == wanted


def _merge(keys: Integers, columns: Floats, new_keys: Integers, new_columns: Floats) -> tuple[Integers, Floats]:
    """Keys with their columns, rising."""
    joined = np.concatenate([keys, new_keys])
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate([columns, new_columns], axis=1)[:, order]
