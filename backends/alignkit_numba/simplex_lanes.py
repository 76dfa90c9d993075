"""The dual simplex of the largest of affine pieces, in lanes: what holds of all pieces, whichever are solved for."""

from __future__ import annotations

import math

from alignkit.contracts import Floats
from alignkit_numba.elimination import triangle
from alignkit_numba.vectors import absolute, divide, fma, inlined, larger, load, select_less, smaller, spread, store

__all__ = ["entries", "evaluate", "share_out"]


@inlined
def entries(matrix: Floats, offset: Floats, point: Floats, found: Floats) -> None:
    """By + b."""
    rows, columns = matrix.shape
    for j in range(rows):
        entry = spread(offset[j])
        for i in range(columns):
            entry = fma(spread(matrix[j, i]), load(point, i), entry)
        store(found, j, entry)


@inlined
def evaluate(
    matrix: Floats,
    offset: Floats,
    mean: Floats,
    level: float,
    centre: Floats,
    total: Floats,
    dual: Floats,
    primal: Floats,
    slope: Floats,
    gap: Floats,
    top: Floats,
    wanted: Floats,
    tolerance: float,
) -> None:
    """y, a, the gap and what is wanted of it; p need not add up, and then stands for the multiple of it that does."""
    rows, columns = matrix.shape
    sum_ = spread(0.0)
    for j in range(rows):
        sum_ = sum_ + load(dual, j)
    for i in range(columns):
        entry = load(centre, i)
        for j in range(rows):
            entry = fma(spread(-matrix[j, i]), load(dual, j), entry)
        store(primal, i, entry)
    highest = spread(-math.inf)
    for j in range(rows):
        entry = spread(offset[j])
        for i in range(columns):
            entry = fma(spread(matrix[j, i]), load(primal, i), entry)
        store(slope, j, entry)
        highest = larger(entry, highest)
    short, least = spread(0.0), spread(0.0)
    for j in range(rows):
        short = fma(load(dual, j), highest - load(slope, j), short)
        least = smaller(load(dual, j), least)
    # The mean piece, and the distance from c itself, which the centring has moved by σ·mean.
    value, distance, across = highest + spread(level), spread(0.0), spread(0.0)
    for i in range(columns):
        value = fma(spread(mean[i]), load(primal, i), value)
        moved = load(primal, i) - load(centre, i)
        across = fma(moved, moved, across)
        moved = fma(spread(-mean[i]), load(total, 0), moved)
        distance = fma(moved, moved, distance)
    ratio = divide(load(total, 0), sum_)
    off = ratio - spread(1.0)
    short = fma(across * spread(0.5), off * off, short * ratio)
    # A sum of nothing is asked for where s = 0, and met by p = 0.
    short = select_less(spread(0.0), load(total, 0), short, spread(0.0))
    # Outside the simplex there is no bound.
    store(gap, 0, select_less(least, spread(0.0), spread(math.inf), short))
    store(top, 0, value)
    objective = fma(distance, spread(0.5), load(total, 0) * value)
    store(wanted, 0, larger(absolute(objective), spread(1.0)) * spread(tolerance))


@inlined
def share_out(total: Floats, right: Floats, ones: Floats, factor: Floats) -> None:
    """Move L⁻¹(Bc + b) by the multiple of L⁻¹1 that makes the solution add up to σ."""
    across, along = spread(0.0), spread(0.0)
    for j in range(len(right)):
        weighed = load(ones, j) * load(factor, triangle(j) + j)
        across = fma(weighed, load(right, j), across)
        along = fma(weighed, load(ones, j), along)
    level = divide(across - load(total, 0), along)
    for j in range(len(right)):
        store(right, j, load(right, j) - level * load(ones, j))
