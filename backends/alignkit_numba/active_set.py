"""The exact finish of one row: an active-set method for the dual of a proximal map with kinks.

With φ the support function of a polytope given by bounds and perhaps a fixed sum, the dual of
min_y ½‖y − c‖² + φ(By + b) is

    max ⟨p, Bc + b⟩ − ½‖Bᵀp‖²     over lower ≤ p ≤ upper, and Σp fixed for the simplex,

of gradient a = By + b at y = c − Bᵀp. Coordinates are free or held. The free ones, whose rows of B are independent
(affinely, for a fixed sum), have a Cholesky factor of their Gram matrix, which grows and shrinks by one row at a time;
no ridge is ever added. A held coordinate whose row depends on theirs moves along the direction that leaves Bᵀp as it
is, until one of them meets its bound and is held in its stead: each step ascends, and none can return.

Source: P. B. Stark, R. L. Parker, "Bounded-variable least-squares: an algorithm and applications", 1995; P. Wolfe,
"Finding the nearest point in a polytope", 1976, for the fixed sum, whose 11ᵀ + BBᵀ is positive definite exactly where
rows are affinely independent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from alignkit.contracts import Floats

__all__ = ["Workspace", "ascend", "workspace"]

#: A row of B is dependent on the free ones when what is left of its square, relative to it, is below this.
_DEPENDENT = 1e-11
#: How often the slopes of one row are computed anew: each time adds the digits that the Gram matrix's condition costs.
_MOST_REFRESHED = 4

#: Sums may be taken in any order, so that they are taken in vector registers.
_SUMS = {"reassoc", "contract", "nsz"}
#: For functions that only compiled ones call, and that are kept on disk as parts of these.
_part = njit(error_model="numpy", nogil=True, fastmath=_SUMS, no_cpython_wrapper=True, no_cfunc_wrapper=True)

Workspace = tuple[Floats, Floats, Floats, Floats, Any, Any, bool]


def workspace(rows: int, is_simplex: bool) -> Workspace:
    """What `ascend` writes to, for m = `rows`, its contents without meaning between calls; and the polytope of p."""
    return (
        np.empty((rows, rows)),
        np.empty(rows),
        np.empty(rows),
        np.empty(rows),
        np.empty(rows, dtype=np.int64),
        np.empty(rows, dtype=np.bool_),
        is_simplex,
    )


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_SUMS)
def ascend(
    matrix: Floats,
    offset: Floats,
    gram: Floats,
    centre: Floats,
    upper: Floats,
    constant: float,
    target: float,
    limit: int,
    dual: Floats,
    primal: Floats,
    slope: Floats,
    work: Workspace,
) -> float:
    """Ascend the dual of one row from a feasible p until its gap is within the target.

    Arguments:
        matrix: B, (m, k).
        offset: b, (m,).
        gram: BBᵀ, (m, m); with a positive constant added to every entry for the simplex.
        centre: c, (k,).
        upper: (m,), the bound of |p_j|; for the simplex p ≥ 0, and every entry is the sum of p.
        constant: what the objective has beyond ½‖y − c‖² + φ(a).
        target: the gap wanted, relative to max(1, |objective|).
        limit: the most steps.
        dual: p, (m,); overwritten.
        primal: (k,), becomes y = c − Bᵀp.
        slope: (m,), becomes a = By + b.
        work: of `workspace`, which says whether p is on the simplex or in the box.

    Returns:
        φ(a) − ⟨p, a⟩, the gap but for rounding.
    """
    factor, right, ones, move, free, is_free, is_simplex = work
    rows = len(offset)
    count = 0
    for j in range(rows):
        is_free[j] = False
        is_inside = dual[j] > 0.0 if is_simplex else abs(dual[j]) < upper[j]
        if is_inside and _append(factor, gram, free, count, j):
            is_free[j] = True
            count += 1
    # The slopes are kept up to date through the Gram matrix, and computed anew whenever the gap seems small enough.
    fresh, refreshed = True, 0
    gap, objective = _evaluate(matrix, offset, centre, upper, is_simplex, dual, primal, slope)
    wanted = target * max(1.0, abs(constant + objective))
    stationary = count <= (1 if is_simplex else 0)
    for _ in range(limit):
        if fresh and not gap > wanted:
            return gap
        if not stationary:
            _newton(factor, free, count, slope, is_simplex, right, ones, move)
            step, blocking = _room(free, count, move, dual, upper, is_simplex, 1.0)
            _advance(gram, free, count, move, step, dual, upper, is_simplex, slope)
            fresh = False
            if blocking >= 0:
                _hold(factor, gram, free, count, blocking, move, dual, upper, is_simplex, slope, is_free)
                count -= 1
            stationary = blocking < 0 or count <= (1 if is_simplex else 0)
            continue
        level = _level(free, count, slope) if is_simplex else 0.0
        entering, left = _entering(slope, level, dual, upper, is_free, is_simplex)
        if entering < 0 or left <= wanted:
            if refreshed == _MOST_REFRESHED or (fresh and entering < 0):
                break
            gap, objective = _evaluate(matrix, offset, centre, upper, is_simplex, dual, primal, slope)
            wanted = target * max(1.0, abs(constant + objective))
            fresh, stationary = True, False
            refreshed += 1
            continue
        if _append(factor, gram, free, count, entering):
            is_free[entering] = True
            count += 1
            stationary = False
            continue
        rising = slope[entering] > level
        _null_direction(factor, count, 1.0 if rising else -1.0, move)
        climb = abs(slope[entering] - level)
        bend = _curvature(matrix, free, count, move, entering, 1.0 if rising else -1.0)
        if rising:
            longest = upper[entering] - dual[entering]
        else:
            longest = dual[entering] + (0.0 if is_simplex else upper[entering])
        step, blocking = _room(
            free, count, move, dual, upper, is_simplex, climb / bend if bend * longest > climb else longest
        )
        _advance(gram, free, count, move, step, dual, upper, is_simplex, slope)
        fresh = False
        if step == longest:
            # Exactly on its bound, whatever the rounding of a sum.
            moved = (upper[entering] if rising else (0.0 if is_simplex else -upper[entering])) - dual[entering]
            dual[entering] = upper[entering] if rising else (0.0 if is_simplex else -upper[entering])
        else:
            moved = step if rising else -step
            dual[entering] += moved
        for j in range(rows):
            slope[j] -= moved * gram[entering, j]
        if blocking >= 0:
            _hold(factor, gram, free, count, blocking, move, dual, upper, is_simplex, slope, is_free)
            count -= 1
            stationary = False
            if _append(factor, gram, free, count, entering):
                is_free[entering] = True
                count += 1
    gap, objective = _evaluate(matrix, offset, centre, upper, is_simplex, dual, primal, slope)
    if gap > target * max(1.0, abs(constant + objective)) and count > 0:
        # Large entries of Bᵀp leave their rounding in y, which need not be c − Bᵀp exactly to be certified.
        _newton(factor, free, count, slope, is_simplex, right, ones, move)
        apart = _shift(matrix, free, count, move, primal)
        polished, _ = _certify(matrix, offset, centre, upper, is_simplex, dual, primal, slope)
        if polished + apart < gap:
            return polished + apart
        gap, _ = _evaluate(matrix, offset, centre, upper, is_simplex, dual, primal, slope)
    return gap


@_part
def _evaluate(
    matrix: Floats,
    offset: Floats,
    centre: Floats,
    upper: Floats,
    is_simplex: bool,
    dual: Floats,
    primal: Floats,
    slope: Floats,
) -> tuple[float, float]:
    """The gap and the objective at y = c − Bᵀp; fills y and a, and mends the sum of p."""
    rows, columns = matrix.shape
    if is_simplex:
        # Directions that leave Bᵀp as it is leave the sum so only up to rounding.
        total = 0.0
        for j in range(rows):
            total += dual[j]
        if total > 0.0:
            for j in range(rows):
                dual[j] *= upper[0] / total
    for i in range(columns):
        primal[i] = centre[i]
    for j in range(rows):
        if dual[j] != 0.0:
            for i in range(columns):
                primal[i] -= matrix[j, i] * dual[j]
    return _certify(matrix, offset, centre, upper, is_simplex, dual, primal, slope)


@_part
def _shift(matrix: Floats, free: Any, count: int, move: Floats, primal: Floats) -> float:
    """Move y as p would move it, and return half the square of the distance."""
    total = 0.0
    for i in range(len(primal)):
        entry = 0.0
        for t in range(count):
            entry += matrix[free[t], i] * move[t]
        primal[i] -= entry
        total += 0.5 * entry * entry
    return total


@_part
def _certify(
    matrix: Floats,
    offset: Floats,
    centre: Floats,
    upper: Floats,
    is_simplex: bool,
    dual: Floats,
    primal: Floats,
    slope: Floats,
) -> tuple[float, float]:
    """φ(a) − ⟨p, a⟩ and the objective at y; fills a."""
    rows, columns = matrix.shape
    objective = 0.0
    for i in range(columns):
        objective += 0.5 * (primal[i] - centre[i]) ** 2
    gap = 0.0
    top = -math.inf
    for j in range(rows):
        total = offset[j]
        for i in range(columns):
            total += matrix[j, i] * primal[i]
        slope[j] = total
        top = max(top, total)
        if not is_simplex:
            gap += upper[j] * abs(total) - dual[j] * total
            objective += upper[j] * abs(total)
    if is_simplex:
        for j in range(rows):
            gap += dual[j] * (top - slope[j])
        objective += upper[0] * top
    return gap, objective


@_part
def _append(factor: Floats, gram: Floats, free: Any, count: int, row: int) -> bool:
    """Add a row to the factor, unless it depends on the others; its entries are written all the same."""
    rest = gram[row, row]
    for i in range(count):
        total = gram[row, free[i]]
        for t in range(i):
            total -= factor[i, t] * factor[count, t]
        total /= factor[i, i]
        factor[count, i] = total
        rest -= total * total
    if not rest > _DEPENDENT * gram[row, row]:
        return False
    factor[count, count] = math.sqrt(rest)
    free[count] = row
    return True


@_part
def _delete(factor: Floats, free: Any, count: int, at: int) -> None:
    """Remove a row from the factor by plane rotations."""
    for i in range(at, count - 1):
        free[i] = free[i + 1]
        for t in range(i + 2):
            factor[i, t] = factor[i + 1, t]
    for i in range(at, count - 1):
        left, out = factor[i, i], factor[i, i + 1]
        size = math.hypot(left, out)
        cosine, sine = left / size, out / size
        for r in range(i, count - 1):
            left, out = factor[r, i], factor[r, i + 1]
            factor[r, i] = cosine * left + sine * out
            factor[r, i + 1] = cosine * out - sine * left


@_part
def _newton(
    factor: Floats,
    free: Any,
    count: int,
    slope: Floats,
    is_simplex: bool,
    right: Floats,
    ones: Floats,
    move: Floats,
) -> None:
    """The step to the maximum over the free coordinates; with a fixed sum, the one whose entries add to nothing."""
    for i in range(count):
        total = slope[free[i]]
        one = 1.0
        for t in range(i):
            total -= factor[i, t] * right[t]
            one -= factor[i, t] * ones[t]
        right[i] = total / factor[i, i]
        ones[i] = one / factor[i, i]
    if is_simplex:
        across, along = 0.0, 0.0
        for i in range(count):
            across += right[i] * ones[i]
            along += ones[i] * ones[i]
        level = across / along
        for i in range(count):
            right[i] -= level * ones[i]
    _back_substitute(factor, count, right, move)


@_part
def _back_substitute(factor: Floats, count: int, right: Floats, move: Floats) -> None:
    for i in range(count):
        move[i] = right[i]
    for i in range(count - 1, -1, -1):
        move[i] /= factor[i, i]
        for t in range(i):
            move[t] -= factor[i, t] * move[i]


@_part
def _null_direction(factor: Floats, count: int, sign: float, move: Floats) -> None:
    """How the free coordinates answer a unit move of the dependent one that `_append` refused."""
    _back_substitute(factor, count, factor[count], move)
    for i in range(count):
        move[i] *= -sign


@_part
def _curvature(matrix: Floats, free: Any, count: int, move: Floats, entering: int, sign: float) -> float:
    """‖Bᵀd‖² of a direction, nearly zero where the rows are dependent."""
    total = 0.0
    for i in range(matrix.shape[1]):
        entry = sign * matrix[entering, i]
        for t in range(count):
            entry += matrix[free[t], i] * move[t]
        total += entry * entry
    return total


@_part
def _room(
    free: Any, count: int, move: Floats, dual: Floats, upper: Floats, is_simplex: bool, longest: float
) -> tuple[float, int]:
    """How far p can move, at most `longest`, and which free coordinate stops it (−1: none)."""
    step, blocking = longest, -1
    for i in range(count):
        j = free[i]
        if move[i] > 0.0:
            if is_simplex:
                continue
            room = (upper[j] - dual[j]) / move[i]
        elif move[i] < 0.0:
            room = (dual[j] + (0.0 if is_simplex else upper[j])) / -move[i]
        else:
            continue
        if room < step:
            step, blocking = room, i
    return step, blocking


@_part
def _advance(
    gram: Floats,
    free: Any,
    count: int,
    move: Floats,
    step: float,
    dual: Floats,
    upper: Floats,
    is_simplex: bool,
    slope: Floats,
) -> None:
    """Move the free coordinates, and the slopes with them."""
    for i in range(count):
        j = free[i]
        before = dual[j]
        dual[j] = min(max(before + step * move[i], 0.0 if is_simplex else -upper[j]), upper[j])
        moved = dual[j] - before
        for t in range(len(slope)):
            slope[t] -= moved * gram[j, t]


@_part
def _hold(
    factor: Floats,
    gram: Floats,
    free: Any,
    count: int,
    at: int,
    move: Floats,
    dual: Floats,
    upper: Floats,
    is_simplex: bool,
    slope: Floats,
    is_free: Any,
) -> None:
    """Put the free coordinate that met its bound exactly on it, and hold it there."""
    j = free[at]
    before = dual[j]
    dual[j] = upper[j] if move[at] > 0.0 else (0.0 if is_simplex else -upper[j])
    moved = dual[j] - before
    for t in range(len(slope)):
        slope[t] -= moved * gram[j, t]
    is_free[j] = False
    _delete(factor, free, count, at)


@_part
def _level(free: Any, count: int, slope: Floats) -> float:
    """The slope that the free coordinates share at their maximum: the multiplier of the fixed sum."""
    total = 0.0
    for i in range(count):
        total += slope[free[i]]
    return total / count


@_part
def _entering(
    slope: Floats, level: float, dual: Floats, upper: Floats, is_free: Any, is_simplex: bool
) -> tuple[int, float]:
    """The held coordinate that adds most to the gap, the first of equals (−1: none adds any), and the gap."""
    best, most, total, top = -1, 0.0, 0.0, 0.0
    for j in range(len(dual)):
        if is_free[j]:
            continue
        excess = slope[j] - level
        room = upper[j] - dual[j] if excess > 0.0 else dual[j] + (0.0 if is_simplex else upper[j])
        if abs(excess) * room > most:
            best, most = j, abs(excess) * room
        if is_simplex and excess > 0.0:
            top = max(top, excess * upper[j])
        else:
            total += abs(excess) * room
    return best, total + top
