"""A tree of cubes with the bounds of f on each, grown where a search comes by and shared by all rows.

Space is cut into cubes of side 2^p, each of these into 2^k, and so on. A block is the 2^k cubes that came of one, with
one of the functions that f is the largest of; the roots' own cubes are cut once. What is known of a cube depends on f,
λ and the cube alone, so that answers do not depend on what was searched before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit_grid.majorants import Majorants
from alignkit_grid.summands import corner_signs

__all__ = ["CellTree"]

Integers = NDArray[np.int64]

#: In place of 0, so that a quotient by it is large and 0/0 is 0.
_TINY = 1e-290
_NONE = -1


class CellTree:
    """Bounds of f on cubes, as far as they were needed.

    Arguments:
        majorants: of f.
        weight: λ, in units of reward per squared distance.
        reach: how far from a row its maximiser can be.

    Attributes:
        side: of a root cube.
        columns: (2 + 3k, blocks, 2^k): the bound at the centre, f there, the slopes b, λ less the curvatures where that
            is positive, and the centres.
    """

    def __init__(self, majorants: Majorants, weight: float, reach: float) -> None:
        self._majorants, self._weight = majorants, weight
        self.dimension = majorants.dimension
        self._signs = corner_signs(self.dimension)
        self.side = 2.0 ** math.ceil(math.log2(max(2.0 * reach, 1e-100)))
        self.clear()

    def clear(self) -> None:
        """Forget all blocks."""
        size = len(self._signs)
        self.columns = np.empty((2 + 3 * self.dimension, 64, size))
        self._children = np.empty((64, size), dtype=np.int64)
        self._alternatives = np.empty(64, dtype=np.int64)
        self._count = 0
        self._roots: dict[tuple[float, ...], int] = {}

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self._count

    def half(self, level: int) -> float:
        """The half-width of the cubes in the blocks of a level; those of roots are of level 0."""
        return self.side * 0.5 ** (level + 2)

    def roots(self, points: Floats, reach: float) -> tuple[Integers, Integers]:
        """The blocks at which the searches of rows begin.

        Arguments:
            points: v, (n, k).
            reach: how far from v to search, at most half a side.

        Returns:
            the rows and their blocks, rows rising.
        """
        # Never more than two root cubes along an axis.
        ends = np.stack([np.floor((points - reach) / self.side), np.floor((points + reach) / self.side)])
        rows, cubes = [], []
        for corner in ((self._signs + 1) // 2).astype(np.int64):
            cube = np.stack([ends[corner[axis], :, axis] for axis in range(self.dimension)], axis=1)
            # An axis along which both ends lie in one cube is counted once.
            fresh = ((corner == 0) | (ends[0] != ends[1])).all(axis=1)
            rows.append(np.flatnonzero(fresh))
            cubes.append(cube[fresh])
        row, cube = np.concatenate(rows), np.concatenate(cubes)
        distinct, place = np.unique(cube, axis=0, return_inverse=True)
        missing = [key for key in map(tuple, distinct.tolist()) if key not in self._roots]
        if missing:
            alternatives = self._majorants.alternatives
            centres = np.repeat((np.array(missing) + 0.5) * self.side, alternatives, axis=0)
            chosen = np.tile(np.arange(alternatives), len(missing))
            first = self._grow(centres, chosen, self.half(0))
            self._roots |= {key: first + number * alternatives for number, key in enumerate(missing)}
        heads = np.array([self._roots[key] for key in map(tuple, distinct.tolist())], dtype=np.int64)
        block = heads[place.reshape(-1)]
        order = np.argsort(row, kind="stable")
        row, block = row[order], block[order]
        alternatives = self._majorants.alternatives
        return np.repeat(row, alternatives), np.repeat(block, alternatives) + np.tile(
            np.arange(alternatives), len(block)
        )

    def children(self, blocks: Integers, slots: Integers, level: int) -> Integers:
        """The blocks that some cubes are cut into.

        Arguments:
            blocks, slots: the cubes, (m,) each.
            level: of these cubes.
        """
        found = self._children[blocks, slots]
        missing = np.flatnonzero(found == _NONE)
        if missing.size:
            size = len(self._signs)
            cubes = np.unique(blocks[missing] * size + slots[missing])
            parents, places = cubes // size, cubes % size
            centres = self.columns[-self.dimension :, parents, places].T
            first = self._grow(np.ascontiguousarray(centres), self._alternatives[parents], self.half(level + 1))
            self._children[parents, places] = first + np.arange(len(cubes))
            found = self._children[blocks, slots]
        return found

    def _grow(self, centres: Floats, alternatives: Integers, half: float) -> int:
        """Add blocks about `centres`, (n, k), with cubes of half-width `half`; the number of the first."""
        count, size, dimension = len(centres), len(self._signs), self.dimension
        first, self._count = self._count, self._count + count
        self._reserve()
        cells = (centres[:, None, :] + half * self._signs).reshape(-1, dimension)
        bound = self._majorants.on_cubes(cells, half, np.repeat(alternatives, size))
        falling = self._weight - bound.diagonal
        # A bound that does not fall from some slope on is largest at a vertex, where its square is what it is there.
        top = bound.value + bound.excess - 0.5 * half * half * np.minimum(falling, 0.0).sum(axis=1)
        columns = (top, bound.value, *bound.slope.T, *np.maximum(falling, _TINY).T, *cells.T)
        for column, values in zip(self.columns, columns, strict=True):
            column[first : self._count] = values.reshape(count, size)
        self._children[first : self._count] = _NONE
        self._alternatives[first : self._count] = alternatives
        return first

    def _reserve(self) -> None:
        room = self.columns.shape[1]
        if self._count <= room:
            return
        room = max(2 * room, self._count)
        for name in ("_children", "_alternatives"):
            old = getattr(self, name)
            grown = np.empty((room, *old.shape[1:]), dtype=old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)
        columns = np.empty((len(self.columns), room, len(self._signs)))
        columns[:, : self.columns.shape[1]] = self.columns
        self.columns = columns
