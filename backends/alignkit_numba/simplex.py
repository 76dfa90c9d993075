"""Proximal maps of the largest of affine pieces: active sets on the dual simplex, rows in lanes.

For φ(a) = W·max_j a_j the dual of min_y ½‖y − c‖² + sφ(By + b) is max ⟨p, Bc + b⟩ − ½‖Bᵀp‖² over p ≥ 0 of sum σ = s·W,
and the gap at y = c − Bᵀp is σ·max_j a_j − ⟨p, a⟩, a = By + b. On the simplex the mean of B's rows only shifts c, so
that they are centred, and a constant added to BBᵀ makes it definite where they are affinely independent.

Each row starts from the better of two points of the simplex: the vertex of its largest piece, where most rows end that
are weighed heavily, and the solution at c = 0, where most end that are weighed lightly. Block pivoting, which exchanges
every coordinate of the wrong sign at once, finishes nearly all in a few systems; the active-set method does the others.

Source: P. Wolfe, "Finding the nearest point in a polytope", 1976; J. Kim, H. Park, "Fast nonnegative matrix
factorization: an active-set-like method and comparisons", 2011, section 4, for block pivoting.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alignkit.contracts import Floats
from alignkit.transport.canonical import ProximalForm, TopOf
from alignkit_numba.active_set import Workspace, ascend, workspace
from alignkit_numba.lanes import LANES, absolute, any_greater, fused, greater, load, maximum, splat, store
from alignkit_numba.solved import Solved

__all__ = ["seconds_per_row", "solve_simplex"]

_EPS = float(np.finfo(np.float64).eps)
#: Exchanges before rows are taken one at a time.
_ROUNDS = 6
#: Above this many pieces the factors of all lanes no longer fit a cache, and rows are taken one at a time.
_LARGEST_FACTOR = 24
#: A row of B is dependent on the free ones when what is left of its square, relative to it, is below this.
_DEPENDENT = 1e-11

#: For functions that only compiled ones call, and that are kept on disk as parts of these.
_part = njit(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def solve_simplex(form: ProximalForm, centres: Floats, scales: Floats, tolerance: float) -> Solved:
    """Minimise ½‖y − c‖² + s·W·max_j (By + b)_j for each row (c, s).

    Arguments:
        form: B, b and one block, the largest of its rows.
        centres: c, (n, k).
        scales: s ≥ 0, (n,).
        tolerance: the gap wanted, relative to max(1, |objective|).

    Returns:
        y with its certificate.
    """
    (block,) = form.blocks
    assert isinstance(block, TopOf)
    matrix = np.ascontiguousarray(form.matrix, dtype=np.float64)
    offset = np.ascontiguousarray(form.offset, dtype=np.float64)
    centres = np.ascontiguousarray(centres, dtype=np.float64)
    sums = np.asarray(scales, dtype=np.float64) * block.weight
    rows = len(offset)
    mean, level = matrix.mean(axis=0), float(offset.mean())
    matrix, offset = matrix - mean, offset - level
    gram = matrix @ matrix.T
    gram += max(float(np.trace(gram)) / rows, float(np.finfo(np.float64).tiny))
    work = workspace(rows, True)
    reference = np.zeros(rows)
    reference[int(offset.argmax())] = block.weight
    bounds = np.full(rows, float(block.weight))
    ascend(
        matrix,
        offset,
        gram,
        -block.weight * mean,
        bounds,
        tolerance,
        20 * rows + 100,
        reference,
        np.empty(len(mean)),
        np.empty(rows),
        work,
    )
    reference /= reference.sum()
    solutions = np.empty_like(centres)
    gap, value = np.empty(len(centres)), np.empty(len(centres))
    unfinished = np.empty(len(centres), dtype=np.bool_)
    _solve(
        matrix,
        offset,
        mean,
        level,
        gram,
        float(block.weight),
        reference,
        np.abs(matrix).max(axis=0),
        float(np.abs(offset).max()),
        centres,
        sums,
        tolerance,
        work,
        solutions,
        gap,
        value,
        unfinished,
    )
    return Solved(solutions, gap, value, unfinished)


@njit(cache=True, error_model="numpy", nogil=True)  # type: ignore[untyped-decorator]
def _solve(
    matrix: Floats,
    offset: Floats,
    mean: Floats,
    level: float,
    gram: Floats,
    weight: float,
    reference: Floats,
    spread: Floats,
    shift: float,
    centres: Floats,
    sums: Floats,
    tolerance: float,
    work: Workspace,
    solutions: Floats,
    gaps: Floats,
    values: Floats,
    unfinished: Floats,
) -> None:
    count, columns = centres.shape
    rows = len(offset)
    in_lanes = rows <= _LARGEST_FACTOR
    centre, primal = np.empty((columns, LANES)), np.empty((columns, LANES))
    start, dual, slope = np.empty((rows, LANES)), np.empty((rows, LANES)), np.empty((rows, LANES))
    total, gap, top, wanted = np.empty((1, LANES)), np.empty((1, LANES)), np.empty((1, LANES)), np.empty((1, LANES))
    lower, right, ones = (
        np.empty((rows * rows if in_lanes else 1, LANES)),
        np.empty((rows, LANES)),
        np.empty((rows, LANES)),
    )
    free = np.empty((rows, LANES))
    upper, one_dual, one_slope = np.empty(rows), np.empty(rows), np.empty(rows)
    one_centre, one_primal = np.empty(columns), np.empty(columns)
    bend = 0.0
    for j in range(rows):
        for i in range(rows):
            bend += reference[j] * gram[j, i] * reference[i]
    later, waiting = np.empty(count, dtype=np.int64), 0
    for first in range(0, count, LANES):
        filled = min(LANES, count - first)
        for lane in range(LANES):
            row = first + min(lane, filled - 1)
            total[0, lane] = sums[row]
            for i in range(columns):
                centre[i, lane] = centres[row, i] - sums[row] * mean[i]
        _begin(matrix, offset, gram, reference, bend, centre, total, start, dual, slope, right)
        _evaluate(matrix, offset, mean, level, centre, total, dual, primal, slope, gap, top, wanted, tolerance)
        for lane in range(filled):
            row = first + lane
            if gap[0, lane] <= wanted[0, lane]:
                gaps[row], values[row] = gap[0, lane], top[0, lane]
                for i in range(columns):
                    solutions[row, i] = primal[i, lane]
            else:
                later[waiting] = row
                waiting += 1
    for first in range(0, waiting if in_lanes else 0, LANES):
        filled = min(LANES, waiting - first)
        for lane in range(LANES):
            row = later[first + min(lane, filled - 1)]
            total[0, lane] = sums[row]
            for i in range(columns):
                centre[i, lane] = centres[row, i] - sums[row] * mean[i]
        _begin(matrix, offset, gram, reference, bend, centre, total, start, dual, slope, right)
        _exchange(gram, start, total, tolerance, dual, slope, free, lower, right, ones)
        _evaluate(matrix, offset, mean, level, centre, total, dual, primal, slope, gap, top, wanted, tolerance)
        for lane in range(filled):
            row = later[first + lane]
            if gap[0, lane] <= wanted[0, lane]:
                gaps[row], values[row] = gap[0, lane], top[0, lane]
                for i in range(columns):
                    solutions[row, i] = primal[i, lane]
                later[first + lane] = -1
    for position in range(waiting):
        row = later[position]
        if row < 0:
            continue
        best, at, lead = -math.inf, 0, 0.0
        for i in range(columns):
            one_centre[i] = centres[row, i] - sums[row] * mean[i]
        for j in range(rows):
            upper[j] = sums[row]
            one_dual[j] = 0.0
            entry = offset[j]
            for i in range(columns):
                entry += matrix[j, i] * one_centre[i]
            lead += reference[j] * entry
            if entry - 0.5 * sums[row] * gram[j, j] > best:
                best, at = entry - 0.5 * sums[row] * gram[j, j], j
        if best >= lead - 0.5 * sums[row] * bend:
            one_dual[at] = sums[row]
        else:
            for j in range(rows):
                one_dual[j] = sums[row] * reference[j]
        gaps[row] = ascend(
            matrix,
            offset,
            gram,
            one_centre,
            upper,
            tolerance,
            20 * rows + 100,
            one_dual,
            one_primal,
            one_slope,
            work,
        )
        values[row] = -math.inf
        for j in range(rows):
            values[row] = max(values[row], one_slope[j] + level)
        for i in range(columns):
            solutions[row, i] = one_primal[i]
            values[row] += mean[i] * one_primal[i]
    for row in range(count):
        distance, size, wide = 0.0, shift, 0.0
        for i in range(columns):
            distance += 0.5 * (solutions[row, i] - centres[row, i]) ** 2
            size += spread[i] * abs(solutions[row, i])
            wide += (abs(centres[row, i]) + sums[row] * (abs(mean[i]) + spread[i])) ** 2
        objective = distance + sums[row] * values[row]
        unfinished[row] = not gaps[row] <= tolerance * max(1.0, abs(objective))
        # a, each entry to k roundings, and the sum over it; and what rounding leaves of y − c + Bᵀp.
        gaps[row] = max(gaps[row], 0.0) + 4.0 * (rows + columns + 4) * _EPS * sums[row] * size
        gaps[row] += 0.5 * ((rows + 8) * _EPS) ** 2 * wide
        if math.isnan(gaps[row]):
            gaps[row] = math.inf
        values[row] *= weight


@_part
def _begin(
    matrix: Floats,
    offset: Floats,
    gram: Floats,
    reference: Floats,
    bend: float,
    centre: Floats,
    total: Floats,
    start: Floats,
    dual: Floats,
    slope: Floats,
    score: Floats,
) -> None:
    """The better start of each lane, and Bc + b."""
    rows, columns = matrix.shape
    sum_ = load(total, 0)
    half = sum_ * 0.5
    lead = half * -bend
    best = splat(-math.inf)
    for j in range(rows):
        entry = splat(offset[j])
        for i in range(columns):
            entry = fused(matrix[j, i], load(centre, i), entry)
        store(start, j, entry)
        lead = fused(reference[j], entry, lead)
        entry = fused(-gram[j, j], half, entry)
        store(score, j, entry)
        best = maximum(entry, best)
    # The first of the best vertices alone: once taken, the bar is out of reach for the others.
    bar = best
    for j in range(rows):
        at_vertex = greater(bar, load(score, j), splat(0.0), sum_)
        bar = greater(at_vertex, splat(0.0), splat(math.inf), bar)
        store(dual, j, greater(lead, best, sum_ * reference[j], at_vertex))


@_part
def _evaluate(
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
    sum_ = splat(0.0)
    for j in range(rows):
        sum_ = sum_ + load(dual, j)
    for i in range(columns):
        entry = load(centre, i)
        for j in range(rows):
            entry = fused(-matrix[j, i], load(dual, j), entry)
        store(primal, i, entry)
    highest = splat(-math.inf)
    for j in range(rows):
        entry = splat(offset[j])
        for i in range(columns):
            entry = fused(matrix[j, i], load(primal, i), entry)
        store(slope, j, entry)
        highest = maximum(entry, highest)
    short = splat(0.0)
    for j in range(rows):
        short = fused(load(dual, j), highest - load(slope, j), short)
    # The mean piece, and the distance from c itself, which the centring has moved by σ·mean.
    value, distance, across = highest + level, splat(0.0), splat(0.0)
    for i in range(columns):
        value = fused(mean[i], load(primal, i), value)
        moved = load(primal, i) - load(centre, i)
        across = fused(moved, moved, across)
        moved = fused(-mean[i], load(total, 0), moved)
        distance = fused(moved, moved, distance)
    ratio = load(total, 0) / sum_
    off = ratio - splat(1.0)
    short = fused(across * 0.5, off * off, short * ratio)
    # A sum of nothing is asked for where s = 0, and met by p = 0.
    short = greater(load(total, 0), splat(0.0), short, splat(0.0))
    store(gap, 0, short)
    store(top, 0, value)
    objective = fused(distance, splat(0.5), load(total, 0) * value)
    store(wanted, 0, maximum(absolute(objective), splat(1.0)) * tolerance)


@_part
def _exchange(
    gram: Floats,
    start: Floats,
    total: Floats,
    tolerance: float,
    dual: Floats,
    slope: Floats,
    free: Floats,
    lower: Floats,
    right: Floats,
    ones: Floats,
) -> None:
    """Block pivoting from the support of p, in each lane its own; leaves p, its negative entries at zero."""
    rows = len(gram)
    zero, one = splat(0.0), splat(1.0)
    sum_ = load(total, 0)
    slack = splat(tolerance) / sum_
    for j in range(rows):
        store(free, j, greater(load(dual, j), zero, one, zero))
    for _ in range(_ROUNDS):
        _solve_free(gram, start, total, dual, free, lower, right, ones)
        changed = zero
        # The slope of the free coordinates, all alike but for rounding, weighed by p.
        level = zero
        for j in range(rows):
            entry = load(start, j)
            for i in range(rows):
                entry = fused(-gram[j, i], load(dual, i), entry)
            store(slope, j, entry)
            level = fused(load(dual, j), entry, level)
        level = level / sum_ + slack
        for j in range(rows):
            before = load(free, j)
            p = load(dual, j)
            after = greater(p, zero, one, greater(absolute(p), zero, zero, greater(load(slope, j), level, one, zero)))
            changed = changed + absolute(after - before)
            store(free, j, after)
        if not any_greater(changed, zero):
            break
    for j in range(rows):
        store(dual, j, maximum(load(dual, j), zero))


@_part
def _solve_free(
    gram: Floats,
    start: Floats,
    total: Floats,
    dual: Floats,
    free: Floats,
    lower: Floats,
    right: Floats,
    ones: Floats,
) -> None:
    """The p of sum σ, of any sign, at which the slopes of the free coordinates are alike.

    BBᵀ = L D Lᵀ, in which a coordinate that is held, or that depends on those before it, gets 1/D = 0: its column of L
    and its entry of every solution vanish, and the others never see it.
    """
    rows = len(gram)
    zero, one = splat(0.0), splat(1.0)
    across, along = zero, zero
    for j in range(rows):
        pivot, u, v = splat(gram[j, j]), load(start, j), one
        for t in range(j):
            scaled = load(lower, j * rows + t)
            entry = scaled * load(lower, t * rows + t)
            store(lower, j * rows + t, entry)
            pivot = pivot - scaled * entry
            u = u - entry * load(right, t)
            v = v - entry * load(ones, t)
        reciprocal = greater(pivot, splat(_DEPENDENT * gram[j, j]), one / pivot, zero)
        reciprocal = greater(load(free, j), zero, reciprocal, zero)
        store(lower, j * rows + j, reciprocal)
        store(right, j, u)
        store(ones, j, v)
        across = fused(u * v, reciprocal, across)
        along = fused(v * v, reciprocal, along)
        for i in range(j + 1, rows):
            entry = splat(gram[i, j])
            for t in range(j):
                entry = entry - load(lower, i * rows + t) * load(lower, j * rows + t)
            store(lower, i * rows + j, entry)
    level = (across - load(total, 0)) / along
    for j in range(rows - 1, -1, -1):
        reciprocal = load(lower, j * rows + j)
        p = (load(right, j) - level * load(ones, j)) * reciprocal
        for i in range(j + 1, rows):
            p = p - load(lower, i * rows + j) * load(dual, i)
        store(dual, j, greater(reciprocal, zero, p, zero))


def seconds_per_row(rows: int, columns: int) -> float:
    """A prediction for m = `rows` and k = `columns`, one thread."""
    return 1e-9 * (10.0 + columns + 2.0 * rows * (rows + columns) / 2 + 0.02 * rows * min(rows, columns + 1) ** 2)
