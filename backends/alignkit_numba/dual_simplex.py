"""The dual simplex method on the polytope that rows share.

Each row starts from the best vertex of the box: the most violated constraint enters, prices being found in float32
until these see none, and a constraint leaves by the bound-flipping ratio test (R. Fourer, "Notes on the dual simplex
method", 1994). Of many rows, what one pass of pricing finds violated most is priced alone until little of it is left.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit_numba.bases import SETTLED, Constraints, record_move, scale_of
from alignkit_numba.vectors import compiled, inlined

__all__ = ["PriceTables", "Room", "make_room", "pivot", "price_tables"]

#: The normals, with −m as a further entry where it is not 0, and the bounds, in float32 by chunks.
PriceTables: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

_EPS, _SINGLE_EPS = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)
#: Constraints are priced in chunks of this many, so that a chunk's prices stay in the nearest cache.
_CHUNK = 64
#: Rows of normals that one sweep of a chunk multiplies.
_UNROLLED = 8
#: How many violated constraints are priced without the others, until none is violated by this share of the largest.
_CANDIDATES, _LEFT = 64, 0.3
#: Below this k it takes as long to list candidates as to price all constraints.
_DEAR = 16


class Room(NamedTuple):
    """What the simplex method writes to, its contents without meaning between calls.

    Arguments:
        inverse: vectors b_j with ⟨b_j, n_c⟩ = 1 for the j-th constraint of the basis, and 0 for its others, (k, k).
        correction: of these, (k, k).
        vertex, multipliers, sides, entering, ratios, levels, rest: (k,).
        basis: the constraints in it, (k,).
        single: the vertex, and 1 where normals have a further entry, in float32.
        prices, keys: the same numbers, see `_price`.
        candidates: constraints that are priced without the others, (_CANDIDATES,).
    """

    inverse: Floats
    correction: Floats
    vertex: Floats
    multipliers: Floats
    sides: Floats
    entering: Floats
    ratios: Floats
    levels: Floats
    rest: Floats
    basis: NDArray[np.int64]
    single: NDArray[np.float32]
    prices: NDArray[np.float32]
    keys: NDArray[np.int32]
    candidates: NDArray[np.int64]


def make_room(constraints: Constraints, tables: PriceTables) -> Room:
    """Room for one call of `pivot`."""
    k, (table, limits) = constraints.normals.shape[1], tables
    single = np.zeros(table.shape[1], dtype=np.float32)
    single[k : k + 1] = 1.0
    prices = np.empty(limits.shape, dtype=np.float32)
    basis = np.empty(k, dtype=np.int64)
    candidates = np.empty(_CANDIDATES, dtype=np.int64)
    inverse, correction = np.empty((2, k, k))
    vertex, multipliers, sides, entering, ratios, levels, rest = np.empty((7, k))
    return Room(
        inverse, correction, vertex, multipliers, sides, entering, ratios, levels, rest, basis, single, prices,
        prices.view(np.int32), candidates,
    )  # fmt: skip


def price_tables(constraints: Constraints) -> PriceTables:
    """Normals as (chunks, k, _CHUNK) and bounds as (chunks, _CHUNK), padded by what is never violated."""
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    if centres.any():
        normals = np.column_stack([normals, -centres])
    count, k = normals.shape
    chunks, padded = -(-count // _CHUNK), -(-k // _UNROLLED) * _UNROLLED
    table = np.zeros((chunks * _CHUNK, padded), dtype=np.float32)
    table[:count, :k] = normals
    limits = np.full(chunks * _CHUNK, 1.0, dtype=np.float32)
    limits[:count] = np.minimum(bounds, 1e30)
    by_chunk = np.ascontiguousarray(table.reshape(chunks, _CHUNK, padded).transpose(0, 2, 1))
    return by_chunk, limits.reshape(chunks, _CHUNK)


@compiled
def pivot(residuals, base, constraints, table, limits, coordinates, amounts, value, gap, todo, room):  # type: ignore[no-untyped-def]
    """Run the dual simplex method on the rows to do; those that it finishes are done."""
    k = residuals.shape[1]
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    inverse, vertex, multipliers, sides = room.inverse, room.vertex, room.multipliers, room.sides
    basis, single = room.basis, room.single
    farthest = 0.0
    for c in range(centres.size):
        farthest = max(farthest, abs(centres[c]))
    patience = 200 * (k + 10)
    for row in range(residuals.shape[0]):
        if not todo[row]:
            continue
        s = residuals[row]
        start = base[row if base.size > 1 else 0]
        size = scale_of(s, start, constraints)
        if not np.isfinite(size):
            value[row] = gap[row] = np.nan
            continue
        for j in range(k):
            for i in range(k):
                inverse[j, i] = 1.0 if i == j else 0.0
            basis[j], multipliers[j], sides[j] = j, s[j], (1.0 if s[j] >= 0.0 else -1.0)
            vertex[j] = centres[j] + sides[j] * bounds[j]
        refreshed, held, least, excess = 0, 0, 0.0, 0.0
        for turn in range(2 * patience):
            cautious = turn >= patience
            q = -1
            if held > 0 and not cautious:
                q, held = _price_some(room.candidates, held, normals, centres, bounds, vertex, least)
            if q < 0:
                length = 0.0
                for j in range(k):
                    single[j] = vertex[j]
                    length += vertex[j] * vertex[j]
                # The normals, centres and p in float32, and their product: rounding, as the normals have length 1.
                rounding = (k + 9) * _SINGLE_EPS * (math.sqrt(length) + farthest)
                violation, q = _price(table, limits, single, room.prices, room.keys)
                least, held = _LEFT * violation, 0
                if k >= _DEAR:
                    held = _note(room.prices, least, room.candidates)
                if violation <= rounding or cautious:
                    held = 0
                    q, excess = _price_exactly(normals, centres, bounds, vertex, room.prices, rounding, cautious)
            if q >= 0:
                if not _exchange(q, constraints, room, cautious):
                    break
                continue
            value[row], gap[row] = record_move(
                s, start, constraints, basis, multipliers, vertex, excess, coordinates[row], amounts[row], room.rest
            )
            if gap[row] <= SETTLED * size or refreshed == 2:
                todo[row] = False
                break
            refreshed += 1
            _refresh(s, normals, centres, bounds, basis, sides, multipliers, inverse, room.correction, vertex)
        if todo[row]:
            value[row], gap[row] = np.nan, np.inf
            for j in range(k):
                coordinates[row, j], amounts[row, j] = 0, 0.0


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
def _exchange(q, constraints, room, cautious):  # type: ignore[no-untyped-def]
    """Let a violated constraint enter the basis; False where none can leave."""
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    inverse, vertex, multipliers, sides = room.inverse, room.vertex, room.multipliers, room.sides
    entering, ratios, basis, pivot, levels = room.entering, room.ratios, room.basis, room.rest, room.levels
    k = vertex.size
    normal, centre, bound = normals[q], centres[q], bounds[q]
    away = -centre
    for j in range(k):
        away += normal[j] * vertex[j]
    sign = 1.0 if away > 0.0 else -1.0
    whole = k - k % 4
    for j in range(0, whole, 4):
        a = b = c = d = 0.0
        for i in range(k):
            entry = normal[i]
            a, b = a + inverse[j, i] * entry, b + inverse[j + 1, i] * entry
            c, d = c + inverse[j + 2, i] * entry, d + inverse[j + 3, i] * entry
        entering[j], entering[j + 1], entering[j + 2], entering[j + 3] = sign * a, sign * b, sign * c, sign * d
    for j in range(whole, k):
        total = 0.0
        for i in range(k):
            total += inverse[j, i] * normal[i]
        entering[j] = sign * total
    leaving, step = _ratio_test(entering, multipliers, sides, basis, bounds, abs(away) - bound, ratios, cautious)
    if leaving < 0:
        return False
    scale = 1.0 / entering[leaving]
    for i in range(k):
        pivot[i] = inverse[leaving, i] * scale
        vertex[i] = 0.0
    for j in range(k):
        multipliers[j] -= step * entering[j]
        levels[j] = centres[basis[j]] + sides[j] * bounds[basis[j]]
    # The row of the pivot itself: what is left of it is nothing.
    levels[leaving] = 0.0
    for j in range(0, whole, 4):
        a, b, c, d = entering[j], entering[j + 1], entering[j + 2], entering[j + 3]
        e, f, g, h = levels[j], levels[j + 1], levels[j + 2], levels[j + 3]
        for i in range(k):
            entry = pivot[i]
            first, second = inverse[j, i] - a * entry, inverse[j + 1, i] - b * entry
            third, fourth = inverse[j + 2, i] - c * entry, inverse[j + 3, i] - d * entry
            vertex[i] += (e * first + f * second) + (g * third + h * fourth)
            inverse[j, i], inverse[j + 1, i] = first, second
            inverse[j + 2, i], inverse[j + 3, i] = third, fourth
    for j in range(whole, k):
        share, level = entering[j], levels[j]
        for i in range(k):
            entry = inverse[j, i] - share * pivot[i]
            vertex[i] += level * entry
            inverse[j, i] = entry
    level = bound + sign * centre
    for i in range(k):
        inverse[leaving, i] = sign * pivot[i]
        vertex[i] += level * pivot[i]
    basis[leaving], sides[leaving], multipliers[leaving] = q, sign, sign * step
    return True


@inlined
def _refresh(s, normals, centres, bounds, basis, sides, multipliers, inverse, correction, vertex):  # type: ignore[no-untyped-def]
    """Take a step of Newton's method for the inverse of the basis, where rounding has gathered in it."""
    k = s.size
    for j in range(k):
        for i in range(k):
            correction[j, i] = 0.0
        for c in range(k):
            defect = 1.0 if c == j else 0.0
            for i in range(k):
                defect -= inverse[j, i] * normals[basis[c], i]
            for i in range(k):
                correction[j, i] += defect * inverse[c, i]
    for i in range(k):
        vertex[i] = 0.0
    for j in range(k):
        total = 0.0
        for i in range(k):
            inverse[j, i] += correction[j, i]
            total += inverse[j, i] * s[i]
        multipliers[j] = total
        # A multiplier of the wrong sign belongs to the other bound.
        sides[j] = sides[j] if total == 0.0 else (1.0 if total > 0.0 else -1.0)
        level = centres[basis[j]] + sides[j] * bounds[basis[j]]
        for i in range(k):
            vertex[i] += level * inverse[j, i]


@inlined
def _ratio_test(entering, multipliers, sides, basis, bounds, slope, ratios, cautious):  # type: ignore[no-untyped-def]
    """Which constraint leaves, and the step; those passed before it change to their other bound, unless cautious."""
    k = entering.size
    for j in range(k):
        rate = sides[j] * entering[j]
        ratios[j] = max(sides[j] * multipliers[j], 0.0) / rate if rate > 1e-10 else np.inf
    while True:
        leaving, step = -1, np.inf
        for j in range(k):
            if ratios[j] < step:
                leaving, step = j, ratios[j]
        if leaving < 0:
            return leaving, step
        for j in range(k):
            # Of ties the largest pivot; Bland's rule, which cannot cycle, takes the first constraint instead.
            if ratios[j] == step and (
                basis[j] < basis[leaving] if cautious else abs(entering[j]) > abs(entering[leaving])
            ):
                leaving = j
        slope -= 2.0 * abs(entering[leaving]) * bounds[basis[leaving]]
        if slope <= 0.0 or cautious:
            return leaving, step
        ratios[leaving] = np.inf
        sides[leaving] = -sides[leaving]


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
def _price(table, limits, vertex, prices, keys):  # type: ignore[no-untyped-def]
    """Write |⟨n_c, p⟩| − h_c in float32; returns the largest, and its constraint, or −1 where none is positive.

    Positive floats are in the order of their bits as integers, of which, unlike floats, a maximum is found in lanes:
    `keys` are the same numbers as `prices`, read so.
    """
    chunks, padded, width = table.shape
    top, where = np.int32(0), -1
    for chunk in range(chunks):
        rows, limit, price, key = table[chunk], limits[chunk], prices[chunk], keys[chunk]
        for start in range(0, padded, _UNROLLED):
            a, b, c, d = vertex[start], vertex[start + 1], vertex[start + 2], vertex[start + 3]
            e, f, g, h = vertex[start + 4], vertex[start + 5], vertex[start + 6], vertex[start + 7]
            for i in range(width):
                part = a * rows[start, i] + b * rows[start + 1, i] + c * rows[start + 2, i] + d * rows[start + 3, i]
                rest = e * rows[start + 4, i] + f * rows[start + 5, i] + g * rows[start + 6, i] + h * rows[start + 7, i]
                price[i] = part + rest if start == 0 else price[i] + (part + rest)
        for i in range(width):
            price[i] = abs(price[i]) - limit[i]
        largest = np.int32(0)
        for i in range(width):
            largest = max(largest, key[i])
        if largest > top:
            top, where = largest, chunk
    if where < 0:
        return np.float32(0.0), -1
    key, place = keys[where], 0
    for i in range(width):
        place = max(place, i if key[i] == top else 0)
    return prices[where, place], where * width + place


@inlined
def _note(prices, least, candidates):  # type: ignore[no-untyped-def]
    """List constraints of a price above the least, as many as there is room for; returns how many."""
    chunks, width = prices.shape
    held = 0
    for chunk in range(chunks):
        for i in range(width):
            if prices[chunk, i] > least and held < candidates.size:
                candidates[held] = chunk * width + i
                held += 1
    return held


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
def _price_some(candidates, held, normals, centres, bounds, vertex, least):  # type: ignore[no-untyped-def]
    """The candidate violated most, −1 where none is by more than the least, and how many still are."""
    k = vertex.size
    kept, where, worst = 0, -1, least
    for place in range(held):
        c = candidates[place]
        away = -centres[c]
        for j in range(k):
            away += normals[c, j] * vertex[j]
        violation = abs(away) - bounds[c]
        if violation > least:
            candidates[kept] = c
            kept += 1
            if violation > worst:
                worst, where = violation, c
    return where, kept


@inlined
def _price_exactly(normals, centres, bounds, vertex, prices, margin, first):  # type: ignore[no-untyped-def]
    """The constraint violated most, or first, beyond rounding, −1 where none is; and the largest relative excess.

    Prices in float32 that are below −margin prove their constraints.
    """
    k = vertex.size
    chunk = prices.shape[1]
    worst, excess, where = 0.0, 0.0, -1
    for c in range(bounds.size):
        if prices[c // chunk, c % chunk] < -margin:
            continue
        away = -centres[c]
        size = abs(away)
        for j in range(k):
            part = normals[c, j] * vertex[j]
            away += part
            size += abs(part)
        rounding = (k + 2) * _EPS * size
        violation = abs(away) - bounds[c]
        excess = max(excess, (violation + rounding) / bounds[c])
        if violation > 16.0 * rounding and violation > worst and not (first and where >= 0):
            worst, where = violation, c
    return where, excess
