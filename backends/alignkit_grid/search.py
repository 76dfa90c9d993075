"""Branch and bound for max_z f(z) − (λ/2)‖z − v‖², all rows of a batch together, level by level.

Every maximiser z lies within L/λ of v, L a Lipschitz constant of f: a step t from z towards v would gain
λ‖z − v‖t − o(t) from the penalty and lose L·t at most. A cube of the tree is laid aside once its upper bound is no more
than the tolerance above the best point known, and cut otherwise; the largest bound laid aside certifies the row. On a
cube about c the quadratic bound of f joins the penalty,

    max_{‖δ‖∞ ≤ r} top − (λ/2)‖c − v‖² + Σ_l (b_l − λ(c_l − v_l))δ_l − ½q_l δ_l²,

which is a closed form for each l. Its maximiser in the most promising cube is the next point tried.

Source: S. Piyavskii, "An algorithm for finding the absolute extremum of a function", 1972, and B. Shubert, 1972 (bounds
by a Lipschitz constant, cubes laid aside by the best point known); Adjiman et al., 1998, section 4 (the same with
quadratic bounds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit_grid.cells import CellTree

__all__ = ["Found", "Search", "comes_first", "is_as_good"]

Integers = NDArray[np.int64]

_EPS = float(np.finfo(np.float64).eps)
#: Rounding of an objective, relative to its terms.
_ROUNDING = 128 * _EPS
#: Blocks bounded at a time, so that temporaries stay in a cache.
_SLAB = 4096
#: Blocks that may be open at a time; a batch of rows beyond it is halved, a row beyond it is left unfinished.
_MOST_OPEN = 2**17
#: Cubes that may be visited for a row, which is left unfinished then.
_MOST_VISITED = 2_000_000
#: Blocks of the tree after which it is cleared between batches.
_LARGEST_TREE = 2**19
_DEEPEST = 200
#: Half-widths that a cube lies away from a point, at least, to hold another maximiser.
_WELL_APART = 4.0
#: Steps of a compass search, which is within a millionth of a half-width then.
_CLIMBS = 40


@dataclass(frozen=True, eq=False)
class Found:
    """Maximisers of rows, certified.

    Arguments:
        maximiser: z, (n, k).
        value: f(z), (n,).
        upper: an upper bound of the row's supremum, (n,).
        gap: `upper` less the objective at z, at least 0, (n,).
        unfinished: rows whose gap misses the tolerance, (n,).
        tied: rows with another point as good, see `is_as_good`, beyond lower ground, (n,).
        evaluations: cubes and points visited, (n,).
    """

    maximiser: Floats
    value: Floats
    upper: Floats
    gap: Floats
    unfinished: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    evaluations: Integers

    @staticmethod
    def joined(parts: list[Found]) -> Found:
        """Rows of several, one after the other."""
        return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in Found.__annotations__))


class Search:
    """Branch and bound at one f and λ.

    Arguments:
        tree: the bounds of f.
        value: f, from (n, k) to (n,).
        weight: λ.
        reach: how far from a row its maximiser can be.
    """

    def __init__(self, tree: CellTree, value: Callable[[Floats], Floats], weight: float, reach: float) -> None:
        self._tree, self._value, self._weight, self._reach = tree, value, weight, reach

    def run(self, points: Floats, tolerance: float) -> Found:
        """Maximise for some rows.

        Arguments:
            points: v, (n, k).
            tolerance: the largest gap wanted, over max(1, |objective|).
        """
        if self._tree.blocks > _LARGEST_TREE:
            self._tree.clear()
        state = _State(points, self._value(points))
        # Cubes about points so far out are not told apart in float64.
        size = np.abs(points).max(axis=1, initial=0.0)
        near = size * _EPS * 2.0**20 < self._tree.side
        rows, blocks = self._tree.roots(points[near], self._reach * (1.0 + _ROUNDING))
        rows = np.flatnonzero(near)[rows]
        state.closed[~near] = np.inf
        for level in range(_DEEPEST):
            if not rows.size:
                break
            front = self._front(rows, blocks, points, self._tree.half(level))
            state.evaluations += np.bincount(rows, minlength=len(points)) * front.upper.shape[1]
            self._improve(state, points, front)
            # What rounding adds to a gap in the end must not take it beyond what is wanted.
            wanted = state.wanted(tolerance)
            wanted = np.maximum(wanted - 2.0 * self._rounding(state), 0.5 * wanted)
            threshold = (state.objective + wanted)[rows]
            keep = front.upper > threshold[:, None]
            keep &= (state.evaluations < _MOST_VISITED)[rows][:, None]
            if not self._fits(keep, front):
                if len(points) > 1:
                    middle = len(points) // 2
                    return Found.joined([self.run(part, tolerance) for part in (points[:middle], points[middle:])])
                state.lay_aside(front, front.upper)
                break
            state.lay_aside(front, np.where(keep, -np.inf, front.upper))
            state.remember(front, ~keep)
            place, slot = np.nonzero(keep)
            rows, blocks = rows[place], self._tree.children(blocks[place], slot, level)
        return self._settled(state, points, tolerance)

    def _fits(self, keep: NDArray[np.bool_], front: _Front) -> bool:
        """Whether the cubes kept can be cut: there is room, and float64 tells their halves apart."""
        if not keep.any():
            return True
        if int(keep.sum()) > _MOST_OPEN:
            return False
        centres = self._tree.columns[-self._tree.dimension :, front.blocks[keep.any(axis=1)]]
        return front.half > 64.0 * _EPS * float(np.abs(centres).max())

    def _front(self, rows: Integers, blocks: Integers, points: Floats, half: float) -> _Front:
        """The cubes of some blocks, bounded for their rows."""
        size = self._tree.columns.shape[2]
        upper, lower = np.empty((len(rows), size)), np.empty((len(rows), size))
        for first in range(0, len(rows), _SLAB):
            part = slice(first, first + _SLAB)
            self._bound(blocks[part], points[rows[part]], half, (upper[part], lower[part]))
        return _Front(rows, blocks, half, upper, lower)

    def _bound(self, blocks: Integers, points: Floats, half: float, out: tuple[Floats, Floats]) -> None:
        """Into `out` the largest that the objective can be in every cube, and what it is at its centre."""
        upper, lower = out
        columns, k, weight = self._tree.columns, self._tree.dimension, self._weight
        columns[0].take(blocks, axis=0, out=upper)
        columns[1].take(blocks, axis=0, out=lower)
        moved = np.zeros_like(upper)
        for axis in range(k):
            away = columns[2 + 2 * k + axis].take(blocks, axis=0)
            away -= points[:, axis, None]
            falling = columns[2 + k + axis].take(blocks, axis=0)
            slope = columns[2 + axis].take(blocks, axis=0)
            step = away * weight
            slope -= step
            np.abs(slope, out=slope)
            away *= step
            moved += away
            with np.errstate(over="ignore"):
                np.divide(slope, falling, out=step)
            np.minimum(step, half, out=step)
            falling *= step
            falling *= 0.5
            slope -= falling
            slope *= step
            upper += slope
        moved *= 0.5
        lower -= moved
        moved *= 1.0 - _ROUNDING
        upper -= moved

    def _improve(self, state: _State, points: Floats, front: _Front) -> None:
        """Try the best centre of each row, and the maximiser of the bound in its most promising cube."""
        columns, k = self._tree.columns, self._tree.dimension
        rows = front.present
        place = front.largest(front.lower.max(axis=1))
        slot = front.lower[place].argmax(axis=1)
        block = front.blocks[place]
        state.offer(rows, columns[-k:, block, slot].T, columns[1, block, slot], front.lower[place, slot])
        place = front.largest(front.upper.max(axis=1))
        slot = front.upper[place].argmax(axis=1)
        trial = self._step(points[rows], front.blocks[place], slot, front.half)
        value = self._value(trial)
        state.offer(rows, trial, value, self._objective(trial, points[rows], value))
        state.evaluations[rows] += 1

    def _step(self, points: Floats, blocks: Integers, slots: Integers, half: Floats | float) -> Floats:
        """The maximisers of the bounds on cubes."""
        k = self._tree.dimension
        record = self._tree.columns[:, blocks, slots].T
        centres = record[:, -k:]
        slope = record[:, 2 : 2 + k] - self._weight * (centres - points)
        with np.errstate(over="ignore"):
            found: Floats = centres + np.clip(slope / record[:, 2 + k : 2 + 2 * k], -half, half)
        return found

    def _objective(self, z: Floats, points: Floats, value: Floats) -> Floats:
        step = z - points
        found: Floats = value - 0.5 * self._weight * np.einsum("nk,nk->n", step, step)
        return found

    def _settled(self, state: _State, points: Floats, tolerance: float) -> Found:
        tied = np.zeros(len(points), dtype=np.bool_)
        upper = state.closed + self._rounding(state)
        if state.band:
            self._break_ties(state, points, upper, tolerance, tied)
        gap = np.maximum(upper - state.objective, 0.0)
        return Found(
            state.maximiser,
            state.value,
            state.objective + gap,
            gap,
            ~(gap <= state.wanted(tolerance)),
            tied,
            state.evaluations,
        )

    def _rounding(self, state: _State) -> Floats:
        """By how much rounding may move a bound and an objective against each other."""
        found: Floats = _ROUNDING * (np.abs(state.value) + self._weight * self._reach**2)
        return found

    def _break_ties(
        self, state: _State, points: Floats, upper: Floats, tolerance: float, tied: NDArray[np.bool_]
    ) -> None:
        """Find one more maximiser of each row that has one, and take the first of both in lexicographic order."""
        rows, blocks, slots, lower, half = (np.concatenate(parts) for parts in zip(*state.band, strict=True))
        centres = self._tree.columns[-self._tree.dimension :, blocks, slots].T
        apart = np.abs(centres - state.maximiser[rows]).max(axis=1) > _WELL_APART * half
        chosen = np.flatnonzero(apart)
        if not chosen.size:
            return
        chosen = chosen[np.lexsort((-lower[chosen], rows[chosen]))]
        chosen = chosen[np.concatenate([[True], np.diff(rows[chosen]) > 0])]
        rows, half = rows[chosen], half[chosen][:, None]
        own, first = points[rows], state.maximiser[rows]
        trial, value = self._climbed(own, self._step(own, blocks[chosen], slots[chosen], half), half)
        objective = self._objective(trial, own, value)
        middle = 0.5 * (trial + first)
        ground = self._objective(middle, own, self._value(middle))
        wanted = state.wanted(tolerance)[rows]
        good = is_as_good(objective, state.objective[rows], upper[rows], wanted)
        good &= ground < np.minimum(objective, state.objective[rows])
        tied[rows[good]] = True
        swap = good & (upper[rows] - objective <= (1.0 - tolerance) * wanted) & comes_first(trial, first, half)
        state.put(rows[swap], trial[swap], value[swap], objective[swap])

    def _climbed(self, points: Floats, z: Floats, half: Floats) -> tuple[Floats, Floats]:
        """Points improved by compass search, which asks for no derivatives, with f there."""
        value = self._value(z)
        objective = self._objective(z, points, value)
        compass = np.concatenate([np.eye(z.shape[1]), -np.eye(z.shape[1])])
        everyone = np.arange(len(z))
        for _ in range(_CLIMBS):
            trials = z[:, None, :] + half[:, :, None] * compass
            values = self._value(trials.reshape(-1, z.shape[1])).reshape(len(z), -1)
            steps = trials - points[:, None, :]
            objectives = values - 0.5 * self._weight * np.einsum("nck,nck->nc", steps, steps)
            best = objectives.argmax(axis=1)
            better = objectives[everyone, best] > objective
            z = np.where(better[:, None], trials[everyone, best], z)
            value = np.where(better, values[everyone, best], value)
            objective = np.where(better, objectives[everyone, best], objective)
            half = np.where(better[:, None], half, 0.5 * half)
        return z, value


def is_as_good(objective: Floats, best: Floats, upper: Floats, wanted: Floats) -> NDArray[np.bool_]:
    """Whether points are maximisers as far as is known: within the gap of the best, or a part of the one wanted.

    Arguments:
        objective: at the points.
        best: the best known.
        upper: an upper bound of the supremum.
        wanted: the gap wanted.
    """
    return np.asarray(objective >= best - np.maximum(upper - best, 0.25 * wanted))


def comes_first(one: Floats, other: Floats, apart: Floats | float) -> NDArray[np.bool_]:
    """Whether points (n, k) stand before others in lexicographic order, where entries closer than `apart` are equal."""
    differs = np.abs(one - other) > apart
    entry = differs.argmax(axis=1)[:, None]
    smaller = np.take_along_axis(one, entry, axis=1) < np.take_along_axis(other, entry, axis=1)
    return np.asarray(smaller[:, 0] & differs.any(axis=1))


class _State:
    """What is known of each row while it is searched for.

    Attributes:
        maximiser, value, objective: of the best point known.
        closed: the largest upper bound of the cubes laid aside.
        band: rows, blocks, slots, objectives at centres and half-widths of cubes that may hold other maximisers.
    """

    def __init__(self, points: Floats, value: Floats) -> None:
        self.maximiser, self.value, self.objective = points.copy(), value.copy(), value.copy()
        self.closed = np.full(len(points), -np.inf)
        self.evaluations = np.ones(len(points), dtype=np.int64)
        self.band: list[tuple[Integers, Integers, Integers, Floats, Floats]] = []

    def wanted(self, tolerance: float) -> Floats:
        """The largest gap of each row that is wanted."""
        found: Floats = tolerance * np.maximum(1.0, np.abs(self.objective))
        return found

    def offer(self, rows: Integers, z: Floats, value: Floats, objective: Floats) -> None:
        """Take points, one for each row, where they are better."""
        better = objective > self.objective[rows]
        self.put(rows[better], z[better], value[better], objective[better])

    def put(self, rows: Integers, z: Floats, value: Floats, objective: Floats) -> None:
        """Take points, one for each row."""
        self.maximiser[rows], self.value[rows], self.objective[rows] = z, value, objective

    def lay_aside(self, front: _Front, upper: Floats) -> None:
        """Count the bounds of cubes that are not cut."""
        largest = front.reduce(upper.max(axis=1))
        self.closed[front.present] = np.maximum(self.closed[front.present], largest)

    def remember(self, front: _Front, aside: NDArray[np.bool_]) -> None:
        """Note the cubes laid aside that may hold points as good as the best."""
        place, slot = np.nonzero(aside & (front.upper >= self.objective[front.rows][:, None]))
        if place.size:
            self.band.append(
                (
                    front.rows[place],
                    front.blocks[place],
                    slot,
                    front.lower[place, slot],
                    np.full(len(place), front.half),
                )
            )


class _Front:
    """The cubes of one size that are open, block by block, rows rising.

    Arguments:
        rows, blocks: (m,) each.
        half: the cubes' half-width.
        upper, lower: the largest that the objective can be in a cube, and what it is at its centre, (m, 2^k) each.

    Attributes:
        present: the rows that have cubes.
    """

    def __init__(self, rows: Integers, blocks: Integers, half: float, upper: Floats, lower: Floats) -> None:
        self.rows, self.blocks, self.half, self.upper, self.lower = rows, blocks, half, upper, lower
        fresh = np.concatenate([[True], np.diff(rows) > 0])
        self._heads = np.flatnonzero(fresh)
        self._group = np.cumsum(fresh) - 1
        self.present = rows[self._heads]

    def reduce(self, values: Floats) -> Floats:
        """The largest of each row's values, (m,)."""
        found: Floats = np.maximum.reduceat(values, self._heads)
        return found

    def largest(self, values: Floats) -> Integers:
        """Where the largest of each row's values stands, the first of equals."""
        place = np.flatnonzero(values == self.reduce(values)[self._group])
        fresh = np.concatenate([[True], np.diff(self._group[place]) > 0])
        return np.asarray(place[fresh])
