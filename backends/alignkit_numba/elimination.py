"""Linear systems in lanes: L D Lᵀ of one symmetric matrix, restricted in each lane to coordinates of its own.

A coordinate that is not free, or that depends on the free ones before it, gets 1/D = 0: its column of L and its entry
of every solution vanish, and the others never see it. No ridge is added, and no lane branches.
"""

from __future__ import annotations

from numba import njit

from alignkit.contracts import Floats
from alignkit_numba.vectors import divide, load, select_less, spread, store

__all__ = ["DEPENDENT", "factorise", "factorise_each", "solve_lower", "solve_upper", "triangle"]

#: A coordinate is dependent when what is left of its pivot, relative to its diagonal entry, is below this.
DEPENDENT = 1e-11

_part = njit(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_part
def triangle(size: int) -> int:
    """How many vectors of lanes a factor of this size has; row i of L begins at that of size i, its last being 1/D."""
    return size * (size + 1) // 2


@_part
def factorise(gram: Floats, free: Floats, factor: Floats) -> None:
    """Write the factor of the rows and columns with free > 0."""
    size = len(gram)
    for j in range(size):
        row = triangle(j)
        pivot = spread(gram[j, j])
        for t in range(j):
            # Until now row j held L D.
            scaled = load(factor, row + t)
            entry = scaled * load(factor, triangle(t) + t)
            store(factor, row + t, entry)
            pivot = pivot - scaled * entry
        reciprocal = select_less(spread(DEPENDENT * gram[j, j]), pivot, divide(spread(1.0), pivot), spread(0.0))
        store(factor, row + j, select_less(spread(0.0), load(free, j), reciprocal, spread(0.0)))
        i = j + 1
        # Four rows share each load of row j.
        while i + 3 < size:
            at, at1, at2, at3 = triangle(i), triangle(i + 1), triangle(i + 2), triangle(i + 3)
            entry, entry1 = spread(gram[i, j]), spread(gram[i + 1, j])
            entry2, entry3 = spread(gram[i + 2, j]), spread(gram[i + 3, j])
            for t in range(j):
                left = load(factor, row + t)
                entry = entry - load(factor, at + t) * left
                entry1 = entry1 - load(factor, at1 + t) * left
                entry2 = entry2 - load(factor, at2 + t) * left
                entry3 = entry3 - load(factor, at3 + t) * left
            store(factor, at + j, entry)
            store(factor, at1 + j, entry1)
            store(factor, at2 + j, entry2)
            store(factor, at3 + j, entry3)
            i += 4
        while i < size:
            entry = spread(gram[i, j])
            for t in range(j):
                entry = entry - load(factor, triangle(i) + t) * load(factor, row + t)
            store(factor, triangle(i) + j, entry)
            i += 1


@_part
def factorise_each(system: Floats, free: Floats, factor: Floats) -> None:
    """Write the factor of a matrix that each lane has of its own, its lower triangle in the layout of the factor."""
    size = len(free)
    for j in range(size):
        row = triangle(j)
        own = load(system, row + j)
        pivot = own
        for t in range(j):
            scaled = load(factor, row + t)
            entry = scaled * load(factor, triangle(t) + t)
            store(factor, row + t, entry)
            pivot = pivot - scaled * entry
        reciprocal = select_less(spread(DEPENDENT) * own, pivot, divide(spread(1.0), pivot), spread(0.0))
        store(factor, row + j, select_less(spread(0.0), load(free, j), reciprocal, spread(0.0)))
        for i in range(j + 1, size):
            entry = load(system, triangle(i) + j)
            for t in range(j):
                entry = entry - load(factor, triangle(i) + t) * load(factor, row + t)
            store(factor, triangle(i) + j, entry)


@_part
def solve_lower(factor: Floats, right: Floats) -> None:
    """Replace the right-hand side by L⁻¹ times it."""
    for j in range(len(right)):
        row = triangle(j)
        entry = load(right, j)
        for t in range(j):
            entry = entry - load(factor, row + t) * load(right, t)
        store(right, j, entry)


@_part
def solve_upper(factor: Floats, right: Floats) -> None:
    """Replace z by L⁻ᵀ D⁻¹ z, zero exactly where a coordinate is not free."""
    size = len(right)
    for j in range(size - 1, -1, -1):
        reciprocal = load(factor, triangle(j) + j)
        entry = load(right, j) * reciprocal
        for i in range(j + 1, size):
            entry = entry - load(factor, triangle(i) + j) * load(right, i)
        store(right, j, select_less(spread(0.0), reciprocal, entry, spread(0.0)))
