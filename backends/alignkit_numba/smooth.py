"""Proximal maps of smooth φ: damped Newton in k dimensions, eight rows in lanes, along a path of temperatures.

min_y ½‖y − c‖² + s·φ(By + b) has the Hessian I + s·BᵀΦ''B. Where ‖s·BᵀΦ''B‖ is large, as λ is small, φ is close to its
kinks on the scale of a step, and Newton's method needs very many. The perspective φ_T(a) = T·φ(a/T) has those kinks
smoothed by T: rows begin at a T where the Hessian is moderate, and follow

    y'(T) = −(I + s·BᵀΦ''B/T)⁻¹ ∂/∂T s·Bᵀ∇φ(By + b over T)

down to T = 1, each step joined to a Newton step. At T = 1 the objective is 1-strongly convex, hence

    objective(y) − minimum ≤ ½‖gradient(y)‖²,

a certificate for every row. A lane whose row is done takes up the next row.

Source: S. Boyd, L. Vandenberghe, "Convex Optimization", 2004, section 9.5 (damped Newton), section 11.3 (following a
path), equation 9.9 (the certificate).
"""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Floats
from alignkit_numba.loss import LOGISTIC, SOFT_MAXIMUM, SmoothLoss
from alignkit_numba.solved import Solved
from alignkit_numba.vectors import (
    WIDTH,
    absolute,
    compiled,
    divide,
    exponential,
    fma,
    larger,
    load,
    logarithm,
    scratch,
    select_less,
    smaller,
    spread,
    store,
)

__all__ = ["solve_smooth"]

_EPS = float(np.finfo(np.float64).eps)
#: The temperature at which a row begins, over the largest eigenvalue of s·BᵀΦ''B, and what a stage multiplies it by.
_START, _COOLING = 0.3, 0.2
#: The next stage begins once half the squared Newton decrement is below this times T.
_CENTRED = 0.05
#: Newton steps, and halvings of them, after which a row is left unfinished.
_LONGEST = 400
#: The sufficient decrease of Armijo's rule.
_DECREASE = 1e-4
#: Columns of the scratch of a number for each lane, by name.
_CENTRE_SIZE, _SCALE, _TEMPERATURE, _BASE, _SLOPE, _STEP, _WANTED, _NEEDS, _FALL, _SINGLES = range(10)


def solve_smooth(loss: SmoothLoss, centres: Floats, scales: Floats, tolerance: float) -> Solved:
    """Minimise ½‖y − c‖² + s·φ(By + b) over y for each row c, s.

    Arguments:
        loss: φ, B and b.
        centres: c, (n, k).
        scales: s, (n,), positive.
        tolerance: the largest gap wanted, in units of φ.

    Returns:
        the rows y with their gaps.
    """
    rows, k = centres.shape
    blocks, entries = len(loss.kinds), len(loss.offset)
    solutions, gap, value = np.empty((rows, k)), np.empty(rows), np.empty(rows)
    unfinished = np.empty(rows, np.bool_)
    room = scratch(6 * k + k * (k + 1) + 2 * entries + blocks * k + _SINGLES)
    _solve(
        loss.matrix,
        loss.offset,
        loss.products,
        loss.kinds,
        loss.ends,
        loss.weights,
        loss.thresholds,
        loss.curvature,
        loss.rounding[0],
        loss.rounding[1],
        np.ascontiguousarray(centres, dtype=np.float64),
        np.ascontiguousarray(scales, dtype=np.float64),
        tolerance,
        room,
        solutions,
        gap,
        value,
        unfinished,
    )
    return Solved(solutions, gap, value, unfinished)


@compiled
def _soft_maximum(first, last, weight, scale, heat, entries, curves):  # type: ignore[no-untyped-def]
    """φ_T of a block; entries a become ∂φ, `curves` its Hessian's diagonal part times s/T."""
    top = load(entries, first)
    for i in range(first + 1, last):
        top = larger(top, load(entries, i))
    cold = divide(spread(1.0), heat)
    total = spread(0.0)
    for i in range(first, last):
        share = exponential((load(entries, i) - top) * cold)
        total = total + share
        store(curves, i, share)
    each = divide(weight, total)
    bend = scale * cold
    for i in range(first, last):
        share = load(curves, i) * each
        store(entries, i, share)
        store(curves, i, share * bend)
    return weight * fma(heat, logarithm(total), top)


@compiled
def _logistic(first, last, weights, scale, heat, entries, curves):  # type: ignore[no-untyped-def]
    value = spread(0.0)
    one, none = spread(1.0), spread(0.0)
    cold = divide(one, heat)
    bend = scale * cold
    for i in range(first, last):
        weight = spread(weights[i])
        entry = load(entries, i)
        small = exponential(none - absolute(entry) * cold)
        share = divide(one, one + small)
        value = fma(weight, fma(heat, logarithm(one + small), larger(entry, none)), value)
        less = small * share
        store(entries, i, weight * select_less(entry, none, less, share))
        store(curves, i, weight * bend * less * share)
    return value


@compiled
def _huber(first, last, weights, threshold, scale, heat, entries, curves):  # type: ignore[no-untyped-def]
    value = spread(0.0)
    one, none, two = spread(1.0), spread(0.0), spread(2.0)
    cold = divide(one, heat)
    bend = two * scale * cold
    for i in range(first, last):
        weight = spread(weights[i])
        entry = load(entries, i) * cold
        size = absolute(entry)
        inner = smaller(size, threshold)
        value = fma(weight * heat * inner, size + size - inner, value)
        store(entries, i, two * weight * select_less(entry, none, none - inner, inner))
        store(curves, i, select_less(threshold, size, none, weight * bend))
    return value


@compiled
def _loss(matrix, offset, kinds, ends, weights, thresholds, scale, heat, trial, entries, curves, pulls):  # type: ignore[no-untyped-def]
    """φ_T(By + b) in lanes; `entries` become ∂φ and `pulls` the B_jᵀ∂φ_j of each block."""
    rows, k = matrix.shape
    for i in range(rows):
        entry = spread(offset[i])
        for j in range(k):
            entry = fma(spread(matrix[i, j]), load(trial, j), entry)
        store(entries, i, entry)
    value = spread(0.0)
    first = 0
    for block in range(len(kinds)):
        last = ends[block]
        if kinds[block] == SOFT_MAXIMUM:
            value = value + _soft_maximum(first, last, spread(weights[first]), scale, heat, entries, curves)
        elif kinds[block] == LOGISTIC:
            value = value + _logistic(first, last, weights, scale, heat, entries, curves)
        else:
            value = value + _huber(first, last, weights, spread(thresholds[block]), scale, heat, entries, curves)
        for j in range(k):
            pull = spread(0.0)
            for i in range(first, last):
                pull = fma(spread(matrix[i, j]), load(entries, i), pull)
            store(pulls, block * k + j, pull)
        first = last
    return value


@compiled
def _warmth(matrix, offset, kinds, ends, weights, heat, trial, entries, curves, pulls, answer):  # type: ignore[no-untyped-def]
    """−∂/∂T of the gradient at T, s/T²·BᵀΦ''(a/T)·a, where `entries`, `curves` and `pulls` are those of `_loss`."""
    k = matrix.shape[1]
    cold = divide(spread(1.0), heat)
    for j in range(k):
        store(answer, j, spread(0.0))
    first = 0
    for block in range(len(kinds)):
        last = ends[block]
        mean = spread(0.0)
        for i in range(first, last):
            entry = spread(offset[i])
            for j in range(k):
                entry = fma(spread(matrix[i, j]), load(trial, j), entry)
            change = load(curves, i) * entry * cold
            mean = mean + change
            for j in range(k):
                store(answer, j, fma(spread(matrix[i, j]), change, load(answer, j)))
        if kinds[block] == SOFT_MAXIMUM:
            mean = divide(mean, spread(weights[first]))
            for j in range(k):
                store(answer, j, load(answer, j) - mean * load(pulls, block * k + j))
        first = last


@compiled
def _factorise(products, kinds, weights, ends, curvature, curves, pulls, k, factor, scaled):  # type: ignore[no-untyped-def]
    """I + s·BᵀΦ''B/T = GD⁻¹Gᵀ: G in `scaled`, with D on its diagonal, and L = GD⁻¹ in `factor`, 1/D on its diagonal."""
    rows = products.shape[1]
    one = spread(1.0)
    for i in range(k):
        row = i * (i + 1) // 2
        for j in range(i + 1):
            entry = spread(0.0)
            for r in range(rows):
                entry = fma(spread(products[row + j, r]), load(curves, r), entry)
            store(scaled, row + j, entry)
    first = 0
    for block in range(len(kinds)):
        if kinds[block] == SOFT_MAXIMUM:
            share = divide(curvature, spread(weights[first]))
            for i in range(k):
                row = i * (i + 1) // 2
                pull = share * load(pulls, block * k + i)
                for j in range(i + 1):
                    store(scaled, row + j, load(scaled, row + j) - pull * load(pulls, block * k + j))
        first = ends[block]
    for i in range(k):
        row = i * (i + 1) // 2
        for j in range(i):
            column = j * (j + 1) // 2
            entry = load(scaled, row + j)
            for p in range(j):
                entry = entry - load(factor, column + p) * load(scaled, row + p)
            store(scaled, row + j, entry)
        pivot = one + load(scaled, row + i)
        for j in range(i):
            entry = load(scaled, row + j)
            ratio = entry * load(factor, j * (j + 1) // 2 + j)
            store(factor, row + j, ratio)
            pivot = pivot - entry * ratio
        # The pivots of I plus a positive semidefinite matrix are at least 1, whatever rounding makes of them.
        store(factor, row + i, divide(one, larger(pivot, one)))


@compiled
def _substitute(k, factor, vector):  # type: ignore[no-untyped-def]
    """Solve L·D·Lᵀx = vector in place."""
    for i in range(k):
        row = i * (i + 1) // 2
        entry = load(vector, i)
        for j in range(i):
            entry = entry - load(factor, row + j) * load(vector, j)
        store(vector, i, entry)
    for i in range(k):
        store(vector, i, load(vector, i) * load(factor, i * (i + 1) // 2 + i))
    for i in range(k - 1, -1, -1):
        entry = load(vector, i)
        row = i * (i + 1) // 2
        for j in range(i):
            store(vector, j, load(vector, j) - load(factor, row + j) * entry)


@compiled
def _solve(  # type: ignore[no-untyped-def]
    matrix,
    offset,
    products,
    kinds,
    ends,
    weights,
    thresholds,
    curvature,
    slip_by_size,
    slip,
    centres,
    scales,
    tolerance,
    room,
    solutions,
    gaps,
    values,
    unfinished,
):
    count, k = centres.shape
    rows = matrix.shape[0]
    pairs = k * (k + 1) // 2
    # Parts of the scratch, each of some vectors of lanes.
    at = 0
    centre, at = room[at : at + WIDTH * k], at + WIDTH * k
    base, at = room[at : at + WIDTH * k], at + WIDTH * k
    trial, at = room[at : at + WIDTH * k], at + WIDTH * k
    direction, at = room[at : at + WIDTH * k], at + WIDTH * k
    newton, at = room[at : at + WIDTH * k], at + WIDTH * k
    cooling, at = room[at : at + WIDTH * k], at + WIDTH * k
    factor, at = room[at : at + WIDTH * pairs], at + WIDTH * pairs
    scaled, at = room[at : at + WIDTH * pairs], at + WIDTH * pairs
    entries, at = room[at : at + WIDTH * rows], at + WIDTH * rows
    curves, at = room[at : at + WIDTH * rows], at + WIDTH * rows
    pulls, at = room[at : at + WIDTH * k * len(kinds)], at + WIDTH * k * len(kinds)
    singles = room[at:]
    centre_size = singles[WIDTH * _CENTRE_SIZE :]
    scale, temperature = singles[WIDTH * _SCALE :], singles[WIDTH * _TEMPERATURE :]
    base_value, slope, step = singles[WIDTH * _BASE :], singles[WIDTH * _SLOPE :], singles[WIDTH * _STEP :]
    needs, fall = singles[WIDTH * _NEEDS :], singles[WIDTH * _FALL :]
    objective_of, loss_of, gradient_of, size_of, moved_of = (
        np.empty(WIDTH),
        np.empty(WIDTH),
        np.empty(WIDTH),
        np.empty(WIDTH),
        np.empty(WIDTH),
    )
    row_of = np.full(WIDTH, -1, np.int64)
    passes = np.zeros(WIDTH, np.int64)
    upcoming, working = 0, 0
    for lane in range(WIDTH):
        scale[lane] = temperature[lane] = 1.0
        if upcoming < count:
            row_of[lane] = upcoming
            _begin(lane, upcoming, centres, scales, curvature, centre, base, direction, singles)
            upcoming += 1
            working += 1
    for j in range(k):
        store(trial, j, load(base, j))
    while working > 0:
        heat, strength = load(temperature, 0), load(scale, 0)
        loss = _loss(matrix, offset, kinds, ends, weights, thresholds, strength, heat, trial, entries, curves, pulls)
        moved, steepness, size = spread(0.0), spread(0.0), spread(0.0)
        for j in range(k):
            pull = spread(0.0)
            for block in range(len(kinds)):
                pull = pull + load(pulls, block * k + j)
            place = load(trial, j)
            away = place - load(centre, j)
            gradient = fma(strength, pull, away)
            store(newton, j, spread(0.0) - gradient)
            moved = fma(away, away, moved)
            size = fma(place, place, size)
            steepness = fma(gradient, gradient, steepness)
        moved = moved * spread(0.5)
        store(objective_of, 0, fma(strength, loss, moved))
        store(loss_of, 0, loss)
        store(gradient_of, 0, steepness)
        store(size_of, 0, size)
        store(moved_of, 0, moved)
        cooler, wanted = False, False
        for lane in range(WIDTH):
            needs[lane] = 0.0
            fall[lane] = 0.0
            row = row_of[lane]
            if row < 0:
                continue
            passes[lane] += 1
            objective = objective_of[lane]
            expected = base_value[lane] + _DECREASE * step[lane] * slope[lane]
            slack = 8.0 * _EPS * (moved_of[lane] + abs(scale[lane] * loss_of[lane]))
            if objective > expected + slack and step[lane] > 1e-12:
                # The minimiser of the parabola through both values and the slope.
                excess = objective - base_value[lane] - slope[lane] * step[lane]
                shorter = -0.5 * slope[lane] * step[lane] ** 2 / excess
                step[lane] = min(max(shorter, 0.1 * step[lane]), 0.5 * step[lane])
                continue
            last = passes[lane] > _LONGEST or not math.isfinite(objective)
            if temperature[lane] == 1.0 or last:
                strong = scale[lane]
                noise = _EPS * (
                    strong * (slip_by_size * math.sqrt(size_of[lane]) + slip)
                    + 4.0 * (math.sqrt(size_of[lane]) + centre_size[lane])
                )
                gap = 0.5 * (math.sqrt(gradient_of[lane]) + noise) ** 2
                goal = tolerance * strong
                if last or gap <= max(goal, 2.0 * noise * noise):
                    if temperature[lane] != 1.0 and math.isfinite(objective):
                        # Out of steps on the way: what is reported belongs to T = 1.
                        temperature[lane] = 1.0
                        base_value[lane] = math.inf
                        for j in range(k):
                            base[WIDTH * j + lane] = trial[WIDTH * j + lane]
                            direction[WIDTH * j + lane] = 0.0
                        continue
                    sound = math.isfinite(objective) and math.isfinite(gap)
                    for j in range(k):
                        solutions[row, j] = trial[WIDTH * j + lane] if sound else centres[row, j]
                    gaps[row] = gap if sound else math.inf
                    values[row] = loss_of[lane]
                    unfinished[row] = not (sound and gap <= max(goal, tolerance * abs(objective)))
                    if upcoming < count:
                        row_of[lane] = upcoming
                        passes[lane] = 0
                        _begin(lane, upcoming, centres, scales, curvature, centre, base, direction, singles)
                        upcoming += 1
                    else:
                        row_of[lane] = -1
                        working -= 1
                        for j in range(k):
                            base[WIDTH * j + lane] = centre[WIDTH * j + lane] = direction[WIDTH * j + lane] = 0.0
                        scale[lane] = temperature[lane] = 1.0
                    continue
            needs[lane] = 1.0
            wanted = True
            cooler = cooler or temperature[lane] > 1.0
            base_value[lane] = objective
            step[lane] = 1.0
        if wanted:
            if cooler:
                _warmth(matrix, offset, kinds, ends, weights, heat, trial, entries, curves, pulls, cooling)
            _factorise(products, kinds, weights, ends, divide(strength, heat), curves, pulls, k, factor, scaled)
            for j in range(k):
                store(scaled, j, load(newton, j))
            _substitute(k, factor, newton)
            fallen = spread(0.0)
            for j in range(k):
                fallen = fallen - load(scaled, j) * load(newton, j)
            store(objective_of, 0, fallen)
            for lane in range(WIDTH):
                if needs[lane] > 0.0:
                    slope[lane] = objective_of[lane]
                    heated = temperature[lane]
                    if heated > 1.0 and -0.5 * slope[lane] <= _CENTRED * heated:
                        colder = _COOLING * heated
                        if colder < 1.5:
                            colder = 1.0
                        fall[lane] = colder - heated
                        temperature[lane] = colder
                        base_value[lane] = math.inf
            chosen = load(needs, 0)
            half = spread(0.5)
            if cooler:
                _substitute(k, factor, cooling)
                change = load(fall, 0)
                for j in range(k):
                    store(newton, j, fma(change, load(cooling, j), load(newton, j)))
            for j in range(k):
                store(base, j, select_less(half, chosen, load(trial, j), load(base, j)))
                store(direction, j, select_less(half, chosen, load(newton, j), load(direction, j)))
        length = load(step, 0)
        for j in range(k):
            store(trial, j, fma(length, load(direction, j), load(base, j)))


@compiled
def _begin(lane, row, centres, scales, curvature, centre, base, direction, singles):  # type: ignore[no-untyped-def]
    """Put a row of the batch into a lane."""
    k = centres.shape[1]
    size = 0.0
    for j in range(k):
        number = centres[row, j]
        centre[WIDTH * j + lane] = base[WIDTH * j + lane] = number
        direction[WIDTH * j + lane] = 0.0
        size += number * number
    strength = scales[row]
    heat = _START * strength * curvature
    singles[WIDTH * _CENTRE_SIZE + lane] = math.sqrt(size)
    singles[WIDTH * _SCALE + lane] = strength
    singles[WIDTH * _TEMPERATURE + lane] = heat if heat > 1.5 else 1.0
    singles[WIDTH * _BASE + lane] = math.inf
    singles[WIDTH * _SLOPE + lane] = 0.0
    singles[WIDTH * _STEP + lane] = 1.0
