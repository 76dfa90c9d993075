"""Proximal maps of weighted sums of absolute values: coordinate descent on the dual box, rows in lanes.

For φ(a) = Σ_j w_j|a_j| the dual of min_y ½‖y − c‖² + sφ(By + b) is max ⟨p, Bc + b⟩ − ½‖Bᵀp‖² over |p_j| ≤ s·w_j, and
the gap at y = c − Bᵀp is Σ_j (s·w_j|a_j| − p_j·a_j), a = By + b. Coordinate descent suits rows of B that are nearly
orthogonal; between its sweeps a step of Newton in the free coordinates serves the others, and what neither finishes
goes to the active-set method, one row at a time. A row starts from the better of p = 0 and of the solution at c = 0,
where most end that are weighed lightly, scaled by s.

Source: P. Tseng, "Convergence of a block coordinate descent method for nondifferentiable minimization", 2001; D. P.
Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from alignkit.contracts import Floats
from alignkit.transport.canonical import Absolute, ProximalForm
from alignkit_numba.active_set import Workspace, ascend, workspace
from alignkit_numba.elimination import factorise, solve_lower, solve_upper
from alignkit_numba.rooms import Rooms
from alignkit_numba.solved import Solved
from alignkit_numba.vectors import (
    WIDTH,
    absolute,
    fma,
    larger,
    load,
    scratches,
    select_less,
    smaller,
    spread,
    store,
)

__all__ = ["BoxProblem", "solve_box"]

_EPS = float(np.finfo(np.float64).eps)
#: Sweeps between two evaluations of the gap.
_SWEEPS = 3
#: Evaluations of the gap before rows are taken one at a time.
_ROUNDS = 5
#: Relative gap of the point that some rows start from.
_REFERENCE_TOLERANCE = 1e-9
#: Above this many rows of B the factors of all lanes no longer fit a cache, and rows are finished one at a time.
_LARGEST_FACTOR = 48

#: For functions that only compiled ones call, and that are kept on disk as parts of these.
_part = njit(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@dataclass(frozen=True, eq=False)
class BoxProblem:
    """φ(a) = Σ_j w_j|a_j| of a = By + b, with what all rows (c, s) share.

    Arguments:
        matrix: B, (m, k).
        offset: b, (m,).
        weights: w, (m,).
        gram: BBᵀ.
        inverse: 1/(BBᵀ)_jj, (m,), infinite for a row of zeros, whose p_j goes straight to its bound.
        reach: Σ_j w_j|B_j|, (k,).
        shift: Σ_j w_j|b_j|.
        reference: the p that solves the dual for c = 0 and s = 1.
        bend: ‖Bᵀp‖² there.
        rooms: what the solver writes to: that of the active set, and arrays of lanes.
    """

    matrix: Floats
    offset: Floats
    weights: Floats
    gram: Floats
    inverse: Floats
    reach: Floats
    shift: float
    reference: Floats
    bend: float
    rooms: Rooms[tuple[Workspace, tuple[Floats, ...]]]

    @staticmethod
    def of(form: ProximalForm) -> BoxProblem:
        """Prepare a form of one block of absolute values."""
        (block,) = form.blocks
        assert isinstance(block, Absolute)
        matrix = np.ascontiguousarray(form.matrix, dtype=np.float64)
        offset = np.ascontiguousarray(form.offset, dtype=np.float64)
        weights = np.ascontiguousarray(block.weights, dtype=np.float64)
        rows, columns = matrix.shape
        gram = matrix @ matrix.T
        with np.errstate(divide="ignore"):
            inverse = 1.0 / np.diag(gram)
        reference = np.zeros(rows)
        ascend(
            matrix,
            offset,
            gram,
            np.zeros(columns),
            weights,
            0.0,
            _REFERENCE_TOLERANCE,
            20 * rows + 100,
            reference,
            np.empty(columns),
            np.empty(rows),
            workspace(rows, False),
        )
        pairs = rows * (rows + 1) // 2 if rows <= _LARGEST_FACTOR else 0
        lanes = (*[columns] * 2, *[rows] * 4, pairs, *[1] * 4)
        return BoxProblem(
            matrix,
            offset,
            weights,
            gram,
            inverse,
            np.abs(matrix).T @ weights,
            float(np.abs(offset) @ weights),
            reference,
            float(np.sum((reference @ matrix) ** 2)),
            Rooms(lambda: (workspace(rows, False), scratches(lanes))),
        )


def solve_box(problem: BoxProblem, centres: Floats, scales: Floats, tolerance: float) -> Solved:
    """Minimise ½‖y − c‖² + s·Σ_j w_j|(By + b)_j| for each row (c, s).

    Arguments:
        problem: B, b and w.
        centres: c, (n, k).
        scales: s ≥ 0, (n,).
        tolerance: the gap wanted, relative to max(1, |objective|).

    Returns:
        y with its certificate.
    """
    centres = np.ascontiguousarray(centres, dtype=np.float64)
    scales = np.ascontiguousarray(scales, dtype=np.float64)
    solutions = np.empty_like(centres)
    gap, value = np.empty(len(centres)), np.empty(len(centres))
    unfinished = np.empty(len(centres), dtype=np.bool_)
    room = problem.rooms.take()
    _solve(
        problem.matrix,
        problem.offset,
        problem.weights,
        problem.gram,
        problem.inverse,
        problem.reach,
        problem.shift,
        centres,
        scales,
        tolerance,
        *room,
        problem.reference,
        problem.bend,
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
    weights: Floats,
    gram: Floats,
    inverse: Floats,
    reach: Floats,
    shift: float,
    centres: Floats,
    scales: Floats,
    tolerance: float,
    work: Workspace,
    lanes: tuple[Floats, ...],
    reference: Floats,
    bend: float,
    solutions: Floats,
    gaps: Floats,
    values: Floats,
    unfinished: Floats,
) -> None:
    count, columns = centres.shape
    rows = len(offset)
    centre, primal, start, dual, slope, free, factor, scale, gap, value, wanted = lanes
    in_lanes = rows <= _LARGEST_FACTOR
    upper, one_dual, one_slope = np.empty(rows), np.empty(rows), np.empty(rows)
    is_left = np.empty(WIDTH, dtype=np.bool_)
    for first in range(0, count, WIDTH):
        filled = min(WIDTH, count - first)
        for lane in range(WIDTH):
            row = first + min(lane, filled - 1)
            scale[0, lane] = scales[row]
            for i in range(columns):
                centre[i, lane] = centres[row, i]
        for j in range(rows):
            total = spread(offset[j])
            for i in range(columns):
                total = fma(spread(matrix[j, i]), load(centre, i), total)
            store(start, j, total)
        _begin(reference, bend, scale, start, dual)
        left = filled
        for lane in range(filled):
            is_left[lane] = True
        for turn in range(_ROUNDS):
            if 2 * columns < rows:
                _sweep_primal(matrix, offset, weights, inverse, centre, scale, dual, primal)
            else:
                _sweep(gram, inverse, weights, start, scale, dual)
            _evaluate(matrix, offset, weights, centre, scale, dual, primal, slope, gap, value, wanted, tolerance)
            for lane in range(filled):
                # A row is taken when it is good enough, so that its answer does not depend on its neighbours.
                if is_left[lane] and gap[0, lane] <= wanted[0, lane]:
                    is_left[lane] = False
                    left -= 1
                    row = first + lane
                    gaps[row], values[row] = gap[0, lane], value[0, lane]
                    for i in range(columns):
                        solutions[row, i] = primal[i, lane]
            if left == 0:
                break
            if turn > 0 and in_lanes:
                _newton(gram, weights, scale, slope, dual, factor, free)
        for lane in range(filled):
            row = first + lane
            if is_left[lane]:
                for j in range(rows):
                    upper[j] = scale[0, lane] * weights[j]
                    one_dual[j] = dual[j, lane]
                gaps[row] = ascend(
                    matrix,
                    offset,
                    gram,
                    centres[row],
                    upper,
                    0.0,
                    tolerance,
                    20 * rows + 100,
                    one_dual,
                    solutions[row],
                    one_slope,
                    work,
                )
                values[row] = 0.0
                for j in range(rows):
                    values[row] += weights[j] * abs(one_slope[j])
            distance, size, wide = 0.0, shift, 0.0
            for i in range(columns):
                distance += 0.5 * (solutions[row, i] - centres[row, i]) ** 2
                size += reach[i] * abs(solutions[row, i])
                wide += (abs(centres[row, i]) + scales[row] * reach[i]) ** 2
            objective = distance + scales[row] * values[row]
            unfinished[row] = not gaps[row] <= tolerance * max(1.0, abs(objective))
            # a and the sum over it, each entry to (k + m) roundings; and what rounding leaves of y − c + Bᵀp.
            gaps[row] = max(gaps[row], 0.0) + 4.0 * (rows + columns + 4) * _EPS * scales[row] * size
            gaps[row] += 0.5 * ((rows + 4) * _EPS) ** 2 * wide
            if math.isnan(gaps[row]):
                gaps[row] = math.inf


@_part
def _begin(reference: Floats, bend: float, scale: Floats, start: Floats, dual: Floats) -> None:
    """The better of p = 0 and the reference in each lane."""
    rows = len(reference)
    lead = load(scale, 0) * spread(-0.5 * bend)
    for j in range(rows):
        lead = fma(spread(reference[j]), load(start, j), lead)
    for j in range(rows):
        store(dual, j, select_less(spread(0.0), lead, load(scale, 0) * spread(reference[j]), spread(0.0)))


@_part
def _sweep(gram: Floats, inverse: Floats, weights: Floats, start: Floats, scale: Floats, dual: Floats) -> None:
    """Coordinate descent through the Gram matrix: a = Bc + b − BBᵀp."""
    rows = len(inverse)
    for _ in range(_SWEEPS):
        for j in range(rows):
            slope = load(start, j)
            for i in range(rows):
                slope = fma(spread(-gram[j, i]), load(dual, i), slope)
            bound = load(scale, 0) * spread(weights[j])
            moved = fma(spread(inverse[j]), slope, load(dual, j))
            store(dual, j, larger(smaller(moved, bound), spread(0.0) - bound))


@_part
def _sweep_primal(
    matrix: Floats,
    offset: Floats,
    weights: Floats,
    inverse: Floats,
    centre: Floats,
    scale: Floats,
    dual: Floats,
    primal: Floats,
) -> None:
    """Coordinate descent through y = c − Bᵀp, for many more rows than columns."""
    rows, columns = matrix.shape
    _primal(matrix, centre, dual, primal)
    for _ in range(_SWEEPS):
        for j in range(rows):
            slope = spread(offset[j])
            for i in range(columns):
                slope = fma(spread(matrix[j, i]), load(primal, i), slope)
            bound = load(scale, 0) * spread(weights[j])
            before = load(dual, j)
            after = larger(smaller(fma(spread(inverse[j]), slope, before), bound), spread(0.0) - bound)
            store(dual, j, after)
            for i in range(columns):
                store(primal, i, fma(spread(matrix[j, i]), before - after, load(primal, i)))


@_part
def _primal(matrix: Floats, centre: Floats, dual: Floats, primal: Floats) -> None:
    rows, columns = matrix.shape
    for i in range(columns):
        total = load(centre, i)
        for j in range(rows):
            total = fma(spread(-matrix[j, i]), load(dual, j), total)
        store(primal, i, total)


@_part
def _evaluate(
    matrix: Floats,
    offset: Floats,
    weights: Floats,
    centre: Floats,
    scale: Floats,
    dual: Floats,
    primal: Floats,
    slope: Floats,
    gap: Floats,
    value: Floats,
    wanted: Floats,
    tolerance: float,
) -> None:
    """y, a, the gap and what is wanted of it."""
    rows, columns = matrix.shape
    _primal(matrix, centre, dual, primal)
    total, gained = spread(0.0), spread(0.0)
    for j in range(rows):
        entry = spread(offset[j])
        for i in range(columns):
            entry = fma(spread(matrix[j, i]), load(primal, i), entry)
        store(slope, j, entry)
        total = fma(spread(weights[j]), absolute(entry), total)
        gained = fma(load(dual, j), entry, gained)
    objective = load(scale, 0) * total
    store(value, 0, total)
    store(gap, 0, objective - gained)
    for i in range(columns):
        across = load(primal, i) - load(centre, i)
        objective = fma(across * spread(0.5), across, objective)
    store(wanted, 0, larger(absolute(objective), spread(1.0)) * spread(tolerance))


@_part
def _newton(
    gram: Floats, weights: Floats, scale: Floats, slope: Floats, dual: Floats, factor: Floats, free: Floats
) -> None:
    """Move the free coordinates to their maximum, and back into the box where it is outside; overwrites the slopes."""
    rows = len(weights)
    for j in range(rows):
        store(free, j, load(scale, 0) * spread(weights[j]) - absolute(load(dual, j)))
    factorise(gram, free, factor)
    solve_lower(factor, slope)
    solve_upper(factor, slope)
    for j in range(rows):
        bound = load(scale, 0) * spread(weights[j])
        store(dual, j, larger(smaller(load(dual, j) + load(slope, j), bound), spread(0.0) - bound))
