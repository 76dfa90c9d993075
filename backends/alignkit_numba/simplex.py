"""Proximal maps of the largest of affine pieces: active sets on the dual simplex, rows in lanes.

For φ(a) = W·max_j a_j the dual of min_y ½‖y − c‖² + sφ(By + b) is max ⟨p, Bc + b⟩ − ½‖Bᵀp‖² over p ≥ 0 of sum σ = s·W,
and the gap at y = c − Bᵀp is σ·max_j a_j − ⟨p, a⟩, a = By + b. On the simplex the mean of B's rows only shifts c, so
that they are centred, and a constant added to BBᵀ makes it definite where they are affinely independent.

Each row starts from the better of two points of the simplex: the vertex of its largest piece, where most rows end that
are weighed heavily, and the solution at c = 0, where most end that are weighed lightly. Of more than k + 1 pieces few
are solved for at a time, see `few_pieces`; of others all, by block pivoting, which exchanges every coordinate of the
wrong sign at once. Either finishes nearly all rows in a few systems; the active-set method does the others.

Source: P. Wolfe, "Finding the nearest point in a polytope", 1976; J. Kim, H. Park, "Fast nonnegative matrix
factorization: an active-set-like method and comparisons", 2011, section 4, for block pivoting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from alignkit.contracts import Floats
from alignkit.transport.canonical import ProximalForm, TopOf
from alignkit_numba.active_set import Workspace, ascend, workspace
from alignkit_numba.elimination import factorise, solve_lower, solve_upper
from alignkit_numba.few_pieces import exchange_few, vectors_of_slots
from alignkit_numba.rooms import Rooms
from alignkit_numba.simplex_lanes import entries, evaluate, share_out
from alignkit_numba.solved import Solved
from alignkit_numba.vectors import (
    WIDTH,
    divide,
    fma,
    inlined,
    larger,
    load,
    scratches,
    select_less,
    spread,
    store,
)

__all__ = ["SimplexProblem", "solve_simplex"]

_EPS = float(np.finfo(np.float64).eps)
#: Exchanges before rows are taken one at a time.
_ROUNDS = 6
#: Relative gap of the point that some rows start from.
_REFERENCE_TOLERANCE = 1e-9
#: Above this many pieces the factors of all lanes no longer fit a cache, and rows are taken one at a time.
_LARGEST_FACTOR = 32


def _most_free(pieces: int, dimension: int) -> int:
    """How many pieces are solved for at a time: k + 1 at most are affinely independent. 0 for all of them."""
    return dimension + 1 if dimension + 1 < pieces <= _LARGEST_FACTOR else 0


@dataclass(frozen=True, eq=False)
class SimplexProblem:
    """φ(a) = W·max_j a_j of a = By + b, with what all rows (c, s) share.

    Arguments:
        matrix: B less the mean of its rows, (m, k).
        offset: b less its mean, (m,).
        mean, level: those means.
        gram: (m, m), of the centred rows, with a constant added.
        weight: W.
        reference: a p that solves the dual for c = 0 and s = 1, over W.
        reach: the largest entry of each column of the centred B, (k,).
        shift: the largest entry of the centred b.
        rooms: what the solver writes to: that of the active set, and arrays of lanes.
        most_free: how many pieces can be at the top at once, if that is not all of them; else 0.
    """

    matrix: Floats
    offset: Floats
    mean: Floats
    level: float
    gram: Floats
    weight: float
    reference: Floats
    reach: Floats
    shift: float
    rooms: Rooms[tuple[Workspace, tuple[Floats, ...]]]
    most_free: int

    @staticmethod
    def of(form: ProximalForm) -> SimplexProblem:
        """Prepare a form of one block, the largest of its rows."""
        (block,) = form.blocks
        assert isinstance(block, TopOf)
        matrix = np.ascontiguousarray(form.matrix, dtype=np.float64)
        offset = np.ascontiguousarray(form.offset, dtype=np.float64)
        rows, columns = matrix.shape
        mean, level = matrix.mean(axis=0), float(offset.mean())
        matrix, offset = matrix - mean, offset - level
        gram = matrix @ matrix.T
        gram += max(float(np.trace(gram)) / rows, float(np.finfo(np.float64).tiny))
        reference = np.zeros(rows)
        reference[int(offset.argmax())] = block.weight
        ascend(
            matrix,
            offset,
            gram,
            -block.weight * mean,
            np.full(rows, float(block.weight)),
            block.weight * level - 0.5 * block.weight**2 * float(mean @ mean),
            _REFERENCE_TOLERANCE,
            20 * rows + 100,
            reference,
            np.empty(columns),
            np.empty(rows),
            workspace(rows, True),
        )
        most_free = _most_free(rows, columns)
        pairs = rows * (rows + 1) // 2 if rows <= _LARGEST_FACTOR and not most_free else 0
        lanes = (*[columns] * 2, rows + (most_free > 0), *[rows] * 3, pairs, *[1] * 5, vectors_of_slots(most_free))
        return SimplexProblem(
            matrix,
            offset,
            mean,
            level,
            gram,
            float(block.weight),
            reference / reference.sum(),
            np.abs(matrix).max(axis=0),
            float(np.abs(offset).max()),
            Rooms(lambda: (workspace(rows, True), scratches(lanes))),
            most_free,
        )


def solve_simplex(problem: SimplexProblem, centres: Floats, scales: Floats, tolerance: float) -> Solved:
    """Minimise ½‖y − c‖² + s·W·max_j (By + b)_j for each row (c, s).

    Arguments:
        problem: B, b and W.
        centres: c, (n, k).
        scales: s ≥ 0, (n,).
        tolerance: the gap wanted, relative to max(1, |objective|).

    Returns:
        y with its certificate.
    """
    centres = np.ascontiguousarray(centres, dtype=np.float64)
    solutions = np.empty_like(centres)
    gap, value = np.empty(len(centres)), np.empty(len(centres))
    unfinished = np.empty(len(centres), dtype=np.bool_)
    room = problem.rooms.take()
    _solve(
        problem.matrix,
        problem.offset,
        problem.mean,
        problem.level,
        problem.gram,
        problem.weight,
        problem.reference,
        problem.reach,
        problem.shift,
        centres,
        np.asarray(scales, dtype=np.float64) * problem.weight,
        tolerance,
        *room,
        problem.most_free,
        solutions,
        gap,
        value,
        unfinished,
    )
    problem.rooms.give(room)
    return Solved(solutions, gap, value, unfinished)


@njit(cache=True, error_model="numpy", nogil=True)
def _solve(
    matrix: Floats,
    offset: Floats,
    mean: Floats,
    level: float,
    gram: Floats,
    weight: float,
    reference: Floats,
    reach: Floats,
    shift: float,
    centres: Floats,
    sums: Floats,
    tolerance: float,
    work: Workspace,
    lanes: tuple[Floats, ...],
    most_free: int,
    solutions: Floats,
    gaps: Floats,
    values: Floats,
    unfinished: Floats,
) -> None:
    count, columns = centres.shape
    rows = len(offset)
    upper, one_dual, one_slope = np.empty(rows), np.empty(rows), np.empty(rows)
    one_centre, one_primal = np.empty(columns), np.empty(columns)
    bend = 0.0
    for j in range(rows):
        for i in range(rows):
            bend += reference[j] * gram[j, i] * reference[i]
    waits, waiting = np.arange(count), count
    if most_free > 0:
        states = np.empty((count, 2 * most_free))
        waiting = exchange_few(
            matrix, offset, mean, level, gram, reference, bend, tolerance, centres, sums, lanes, most_free, waits,
            states, solutions, gaps, values,
        )  # fmt: skip
    elif rows <= _LARGEST_FACTOR:
        supports = np.empty(count, dtype=np.uint64)
        waiting = _exchange_all(
            matrix, offset, mean, level, gram, reference, bend, tolerance, centres, sums, lanes, waits, supports,
            solutions, gaps, values,
        )  # fmt: skip
    for position in range(waiting):
        row = waits[position]
        best, at, lead = -math.inf, 0, 0.0
        constant = sums[row] * level
        for i in range(columns):
            one_centre[i] = centres[row, i] - sums[row] * mean[i]
            # ½‖y − c‖² + σ⟨mean, y⟩ against ½‖y − (c − σ·mean)‖².
            constant += sums[row] * mean[i] * (one_centre[i] + 0.5 * sums[row] * mean[i])
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
            constant,
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
            size += reach[i] * abs(solutions[row, i])
            wide += (abs(centres[row, i]) + sums[row] * (abs(mean[i]) + reach[i])) ** 2
        objective = distance + sums[row] * values[row]
        unfinished[row] = not gaps[row] <= tolerance * max(1.0, abs(objective))
        # a, each entry to k roundings, and the sum over it; and what rounding leaves of y − c + Bᵀp.
        gaps[row] = max(gaps[row], 0.0) + 4.0 * (rows + columns + 4) * _EPS * sums[row] * size
        gaps[row] += 0.5 * ((rows + 8) * _EPS) ** 2 * wide
        if math.isnan(gaps[row]):
            gaps[row] = math.inf
        values[row] *= weight


@inlined
def _exchange_all(  # type: ignore[no-untyped-def]
    matrix, offset, mean, level, gram, reference, bend, tolerance, centres, sums, lanes, waits, supports, solutions,
    gaps, values,
):  # fmt: skip
    """Solve rows by block pivoting, and return how many are left; their numbers come first in `waits`.

    Arguments:
        waits: (n,), the numbers of the rows.
        supports: (n,), written to.
        solutions, gaps, values: of those that are done, written to.
    """
    count, columns = centres.shape
    rows = len(offset)
    centre, primal, dual, slope, ones, free, factor, total, gap, top, wanted, slack, _ = lanes
    waiting = count
    for turn in range(_ROUNDS + 1):
        entered, waiting = waiting, 0
        for first in range(0, entered, WIDTH):
            filled = min(WIDTH, entered - first)
            for lane in range(WIDTH):
                row = waits[first + min(lane, filled - 1)]
                total[0, lane] = sums[row]
                for i in range(columns):
                    centre[i, lane] = centres[row, i] - sums[row] * mean[i]
                if turn > 0:
                    for j in range(rows):
                        free[j, lane] = float((supports[row] >> np.uint64(j)) & np.uint64(1))
            entries(matrix, offset, centre, slope)
            if turn == 0:
                _begin(gram, reference, bend, total, tolerance, slope, dual, free, slack)
            else:
                store(slack, 0, spread(tolerance))
                _solve_free(gram, total, slope, dual, free, factor, ones)
            evaluate(matrix, offset, mean, level, centre, total, dual, primal, slope, gap, top, wanted, tolerance)
            _exchange(total, slack, dual, slope, free)
            for lane in range(filled):
                row = waits[first + lane]
                if gap[0, lane] <= wanted[0, lane]:
                    gaps[row], values[row] = gap[0, lane], top[0, lane]
                    for i in range(columns):
                        solutions[row, i] = primal[i, lane]
                    continue
                # Behind the place that is read next, as rows that are finished leave the list.
                waits[waiting] = row
                waiting += 1
                support = np.uint64(0)
                for j in range(rows):
                    if free[j, lane] > 0.0:
                        support |= np.uint64(1) << np.uint64(j)
                supports[row] = support
    return waiting


@inlined
def _begin(
    gram: Floats,
    reference: Floats,
    bend: float,
    total: Floats,
    tolerance: float,
    start: Floats,
    dual: Floats,
    free: Floats,
    slack: Floats,
) -> None:
    """The better start of each lane, and the slope above the others at which its held coordinates are freed."""
    rows = len(gram)
    sum_ = load(total, 0)
    half = sum_ * spread(0.5)
    lead = half * spread(-bend)
    best = spread(-math.inf)
    for j in range(rows):
        lead = fma(spread(reference[j]), load(start, j), lead)
        best = larger(fma(spread(-gram[j, j]), half, load(start, j)), best)
    # The first of the best vertices alone: once taken, the bar is out of reach for the others.
    bar = best
    for j in range(rows):
        score = fma(spread(-gram[j, j]), half, load(start, j))
        at_vertex = select_less(score, bar, spread(0.0), spread(1.0))
        bar = select_less(spread(0.0), at_vertex, spread(math.inf), bar)
        share = select_less(best, lead, spread(reference[j]), at_vertex)
        store(free, j, share)
        store(dual, j, sum_ * share)
    # A vertex solves its own system, the reference is yet to.
    store(slack, 0, select_less(best, lead, spread(math.inf), spread(tolerance)))


@inlined
def _exchange(total: Floats, slack: Floats, dual: Floats, slope: Floats, free: Floats) -> None:
    """Hold the free coordinates of negative p, and free the held ones that rise above the others."""
    rows = len(slope)
    zero, one = spread(0.0), spread(1.0)
    level = load(slack, 0)
    for j in range(rows):
        level = fma(load(dual, j), load(slope, j), level)
    level = divide(level, load(total, 0))
    for j in range(rows):
        p = load(dual, j)
        rises = select_less(level, load(slope, j), one, zero)
        store(free, j, select_less(zero, p, one, select_less(p, zero, zero, rises)))


@inlined
def _solve_free(
    gram: Floats, total: Floats, start: Floats, dual: Floats, free: Floats, factor: Floats, ones: Floats
) -> None:
    """The p of sum σ, of any sign, at which the slopes of the free coordinates are alike; overwrites Bc + b."""
    rows = len(gram)
    for j in range(rows):
        store(ones, j, spread(1.0))
    factorise(gram, free, factor)
    solve_lower(factor, start)
    solve_lower(factor, ones)
    share_out(total, start, ones, factor)
    for j in range(rows):
        store(dual, j, load(start, j))
    solve_upper(factor, dual)
