"""Proximal maps of smooth φ: damped Newton in k dimensions, rows in lanes, along a path of temperatures.

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
    all_less,
    any_less,
    compiled,
    divide,
    exponential,
    fma,
    inlined,
    larger,
    load,
    logarithm,
    root,
    scratch,
    select_less,
    smaller,
    spread,
    store,
)

__all__ = ["solve_smooth"]

_EPS = float(np.finfo(np.float64).eps)
#: The temperature at which a row begins, over the largest eigenvalue of s·BᵀΦ''B, and what a stage multiplies it by.
_START, _COOLING = 0.1, 0.3
#: Rows that would begin below the first begin at T = 1, and so do stages below the second.
_HOT, _NEARLY_ONE = 4.0, 1.5
#: The next stage begins once half the squared Newton decrement is below this times s·T·energy.
_CENTRED = 0.05
#: Newton steps, and halvings of them, after which a row is left unfinished.
_LONGEST = 400.0
#: The sufficient decrease of Armijo's rule.
_DECREASE = 1e-4
#: Roundings of y and c in their turning, for each dimension, in units of ε.
_TURNS = 8.0
#: What a lane's trial step comes to.
_TOO_FAR, _ACCEPTED, _DONE, _LATE, _LOST = 0.0, 1.0, 2.0, 3.0, 4.0
#: Where the scratch keeps a number for each lane.
_SIZE, _SCALE, _TEMPERATURE, _BASE, _SLOPE, _STEP, _PASSES, _EVENT, _OBJECTIVE, _LOSS, _GAP, _SINGLES = range(12)


def solve_smooth(loss: SmoothLoss, centres: Floats, scales: Floats, tolerance: float, slip: float = 0.0) -> Solved:
    """Minimise ½‖y − c‖² + s·φ(By + b) over y for each row c, s.

    Arguments:
        loss: φ, B and b.
        centres: c, (n, k).
        scales: s, (n,), positive.
        tolerance: the largest gap wanted, in units of φ.
        slip: how far rounding outside may have moved c, and may move y, over their sizes.

    Returns:
        the rows y with their gaps.
    """
    (count, k), rank = centres.shape, loss.matrix.shape[1]
    turned, solutions = np.empty((count, rank)), np.empty((count, k))
    gap, value, unfinished = np.empty(count), np.empty(count), np.empty(count, np.bool_)
    vectors = 6 * rank + rank * (rank + 1) + 2 * len(loss.offset) + len(loss.kinds) * rank + _SINGLES
    _solve(
        loss.rotation,
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
        loss.lift,
        loss.energy,
        slip + _TURNS * _EPS * k,
        np.ascontiguousarray(centres, dtype=np.float64),
        np.ascontiguousarray(scales, dtype=np.float64),
        tolerance,
        scratch(max(vectors, max(k, rank) + 1)),
        np.empty(WIDTH + 2, np.int64),
        turned,
        solutions,
        gap,
        value,
        unfinished,
    )
    return Solved(solutions, gap, value, unfinished)


@compiled
def _solve(  # type: ignore[no-untyped-def]
    rotation,
    matrix,
    offset,
    products,
    kinds,
    ends,
    weights,
    thresholds,
    curvature,
    slope_by_size,
    slope_alone,
    lift,
    energy,
    slip,
    centres,
    scales,
    tolerance,
    room,
    lanes,
    turned,
    solutions,
    gaps,
    values,
    unfinished,
):
    """The rows y, and what `Solved` says of them."""
    _turn(centres, rotation, room, turned)
    _iterate(
        matrix,
        offset,
        products,
        kinds,
        ends,
        weights,
        thresholds,
        curvature,
        slope_by_size,
        slope_alone,
        lift,
        energy,
        slip,
        turned,
        scales,
        tolerance,
        room,
        lanes[2:],
        lanes[:2],
        gaps,
        values,
        unfinished,
    )
    _turn_back(turned, rotation, room, centres, solutions)


@inlined
def _turn(centres, rotation, room, turned):  # type: ignore[no-untyped-def]
    """Qᵀc of each row, in lanes: unlike a matrix product of BLAS, no row depends on how many there are."""
    count, k = centres.shape
    rank = rotation.shape[1]
    answer = room[WIDTH * k :]
    for first in range(0, count, WIDTH):
        lanes = min(WIDTH, count - first)
        for p in range(k):
            for lane in range(lanes):
                room[WIDTH * p + lane] = centres[first + lane, p]
        for j in range(rank):
            total = spread(0.0)
            for p in range(k):
                total = fma(spread(rotation[p, j]), load(room, p), total)
            store(answer, 0, total)
            for lane in range(lanes):
                turned[first + lane, j] = answer[lane]


@inlined
def _turn_back(moves, rotation, room, centres, solutions):  # type: ignore[no-untyped-def]
    """c + Qδ of each row; what B does not see stays where it is."""
    count, k = centres.shape
    rank = rotation.shape[1]
    answer = room[WIDTH * rank :]
    for first in range(0, count, WIDTH):
        lanes = min(WIDTH, count - first)
        for j in range(rank):
            for lane in range(lanes):
                room[WIDTH * j + lane] = moves[first + lane, j]
        for p in range(k):
            total = spread(0.0)
            for j in range(rank):
                total = fma(spread(rotation[p, j]), load(room, j), total)
            store(answer, 0, total)
            for lane in range(lanes):
                solutions[first + lane, p] = centres[first + lane, p] + answer[lane]


@inlined
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


@inlined
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


@inlined
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


@inlined
def _loss(matrix, offset, kinds, ends, weights, thresholds, scale, heat, trial, entries, curves, pulls):  # type: ignore[no-untyped-def]
    """φ_T(By + b) in lanes; `entries` become ∂φ and `pulls` the B_jᵀ∂φ_j of each block."""
    rows, k = matrix.shape
    for i in range(rows):
        entry = spread(offset[i])
        for j in range(min(i + 1, k)):
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
            for i in range(max(first, j), last):
                pull = fma(spread(matrix[i, j]), load(entries, i), pull)
            store(pulls, block * k + j, pull)
        first = last
    return value


@inlined
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
            for j in range(min(i + 1, k)):
                entry = fma(spread(matrix[i, j]), load(trial, j), entry)
            change = load(curves, i) * entry * cold
            mean = mean + change
            for j in range(min(i + 1, k)):
                store(answer, j, fma(spread(matrix[i, j]), change, load(answer, j)))
        if kinds[block] == SOFT_MAXIMUM:
            mean = divide(mean, spread(weights[first]))
            for j in range(k):
                store(answer, j, load(answer, j) - mean * load(pulls, block * k + j))
        first = last


@inlined
def _factorise(products, kinds, weights, ends, curvature, curves, pulls, k, factor, scaled):  # type: ignore[no-untyped-def]
    """I + s·BᵀΦ''B/T = GD⁻¹Gᵀ: G in `scaled`, with D on its diagonal, and L = GD⁻¹ in `factor`, 1/D on its diagonal."""
    rows = products.shape[1]
    one = spread(1.0)
    for i in range(k):
        row = i * (i + 1) // 2
        for j in range(i + 1):
            entry = spread(0.0)
            for r in range(i, rows):
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


@inlined
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


@inlined
def _iterate(  # type: ignore[no-untyped-def]
    matrix,
    offset,
    products,
    kinds,
    ends,
    weights,
    thresholds,
    curvature,
    slope_by_size,
    slope_alone,
    lift,
    energy,
    slip,
    centres,
    scales,
    tolerance,
    room,
    row_of,
    queue,
    gaps,
    values,
    unfinished,
):
    """The rows y − c in place of c, in coordinates in which the matrix is triangular."""
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
    temperature, passes = singles[WIDTH * _TEMPERATURE :], singles[WIDTH * _PASSES :]
    # The next row of the batch, and how many lanes hold one.
    queue[0] = queue[1] = min(WIDTH, count)
    for lane in range(WIDTH):
        row_of[lane] = lane if lane < count else -1
        _begin(lane, row_of[lane], centres, scales, curvature, centre, base, direction, singles)
    for j in range(k):
        store(trial, j, load(base, j))
    one, none, half, endless = spread(1.0), spread(0.0), spread(0.5), spread(math.inf)
    while queue[1] > 0:
        heat, strength = load(temperature, 0), load(singles, _SCALE)
        loss = _loss(matrix, offset, kinds, ends, weights, thresholds, strength, heat, trial, entries, curves, pulls)
        moved, steepness, size = none, none, none
        for j in range(k):
            pull = none
            for block in range(len(kinds)):
                pull = pull + load(pulls, block * k + j)
            place = load(trial, j)
            away = place - load(centre, j)
            gradient = fma(strength, pull, away)
            store(newton, j, none - gradient)
            moved = fma(away, away, moved)
            size = fma(place, place, size)
            steepness = fma(gradient, gradient, steepness)
        moved = moved * half
        objective = fma(strength, loss, moved)
        size = root(size)
        step = load(singles, _STEP)
        slope = load(singles, _SLOPE)
        expected = fma(spread(_DECREASE) * step, slope, load(singles, _BASE))
        expected = fma(spread(8.0 * _EPS), moved + absolute(strength * loss), expected)
        # A step that is all but nothing is taken.
        expected = select_less(step, spread(1e-12), endless, expected)
        noise = fma(
            strength,
            fma(spread(slope_by_size), size, spread(slope_alone)),
            spread(_TURNS * k) * (size + load(singles, _SIZE)),
        )
        noise = noise * spread(_EPS)
        gap = root(steepness) + noise
        gap = half * gap * gap
        goal = strength * spread(tolerance)
        # No gap is certified below the square of its rounding.
        reach = larger(goal, spread(2.0) * noise * noise)
        reach = select_less(one, heat, none - one, reach)
        ticks = load(passes, 0) + one
        store(passes, 0, ticks)
        needs = one
        if (
            any_less(expected, objective)
            or any_less(gap, reach)
            or any_less(spread(_LONGEST), ticks)
            or not all_less(absolute(objective), endless)
        ):
            event = select_less(expected, objective, spread(_TOO_FAR), spread(_ACCEPTED))
            event = select_less(gap, reach, spread(_DONE), event)
            event = select_less(spread(_LONGEST), ticks, spread(_LATE), event)
            event = select_less(absolute(objective), endless, event, spread(_LOST))
            store(singles, _EVENT, event)
            store(singles, _OBJECTIVE, objective)
            store(singles, _LOSS, loss)
            # For an objective of curvature L a slip δ takes a gap G to at most (√G + √(L/2)·δ)².
            lost = root(half * fma(strength, spread(curvature), one)) * spread(slip) * (size + load(singles, _SIZE))
            lost = root(gap) + lost
            store(singles, _GAP, lost * lost)
            _settle(
                centres, scales, curvature, tolerance, row_of, queue, trial, centre, base, direction, singles,
                gaps, values, unfinished,
            )  # fmt: skip
            needs = load(singles, _EVENT)
        if any_less(none, needs):
            warm = select_less(none, needs, heat, none)
            cooler = any_less(one, warm)
            if cooler:
                _warmth(matrix, offset, kinds, ends, weights, heat, trial, entries, curves, pulls, cooling)
            _factorise(products, kinds, weights, ends, divide(strength, heat), curves, pulls, k, factor, scaled)
            for j in range(k):
                store(scaled, j, load(newton, j))
            _substitute(k, factor, newton)
            fall = none
            for j in range(k):
                fall = fall - load(scaled, j) * load(newton, j)
            start = objective
            if cooler:
                _substitute(k, factor, cooling)
                colder = heat * spread(_COOLING)
                colder = select_less(colder, spread(_NEARLY_ONE), one, colder)
                calm = larger(strength * spread(_CENTRED * energy) * heat, spread(64.0 * _EPS) * absolute(objective))
                colder = select_less(none - half * fall, calm, colder, heat)
                colder = select_less(one, warm, colder, heat)
                change = colder - heat
                for j in range(k):
                    store(newton, j, fma(change, load(cooling, j), load(newton, j)))
                # φ_T falls with T where there is no Huber loss, and never rises by more than `lift` a unit of T.
                start = fma(strength * spread(lift), heat - colder, objective)
                store(temperature, 0, select_less(none, needs, colder, load(temperature, 0)))
            for j in range(k):
                store(base, j, select_less(none, needs, load(trial, j), load(base, j)))
                store(direction, j, select_less(none, needs, load(newton, j), load(direction, j)))
            store(singles, _SLOPE, select_less(none, needs, fall, slope))
            store(singles, _BASE, select_less(none, needs, start, load(singles, _BASE)))
            store(singles, _STEP, select_less(none, needs, one, load(singles, _STEP)))
        step = load(singles, _STEP)
        for j in range(k):
            store(trial, j, fma(step, load(direction, j), load(base, j)))


@inlined
def _settle(  # type: ignore[no-untyped-def]
    centres,
    scales,
    curvature,
    tolerance,
    row_of,
    queue,
    trial,
    centre,
    base,
    direction,
    singles,
    gaps,
    values,
    unfinished,
):
    """Shorten the steps that went too far, and put the next rows in place of those that are done.

    The event of a lane becomes 1 where a Newton step is wanted, 0 elsewhere.
    """
    count, k = centres.shape
    event, gap = WIDTH * _EVENT, WIDTH * _GAP
    objective, loss = WIDTH * _OBJECTIVE, WIDTH * _LOSS
    scale, temperature = WIDTH * _SCALE, WIDTH * _TEMPERATURE
    start, slope, step = WIDTH * _BASE, WIDTH * _SLOPE, WIDTH * _STEP
    for lane in range(WIDTH):
        row, found = row_of[lane], singles[event + lane]
        singles[event + lane] = 1.0 if found == _ACCEPTED and row >= 0 else 0.0
        if row < 0 or found == _ACCEPTED:
            continue
        if found == _TOO_FAR:
            # To the minimiser of the parabola through both values and the slope.
            excess = singles[objective + lane] - singles[start + lane] - singles[slope + lane] * singles[step + lane]
            shorter = -0.5 * singles[slope + lane] * singles[step + lane] ** 2 / excess
            singles[step + lane] = min(max(shorter, 0.1 * singles[step + lane]), 0.5 * singles[step + lane])
            continue
        if found == _LATE and singles[temperature + lane] > 1.0:
            # What is reported belongs to T = 1.
            singles[temperature + lane], singles[start + lane] = 1.0, math.inf
            for j in range(k):
                base[WIDTH * j + lane] = trial[WIDTH * j + lane]
                direction[WIDTH * j + lane] = 0.0
            continue
        is_sound = found != _LOST and singles[gap + lane] < math.inf
        for j in range(k):
            centres[row, j] = trial[WIDTH * j + lane] - centre[WIDTH * j + lane] if is_sound else 0.0
        gaps[row] = singles[gap + lane] if is_sound else math.inf
        values[row] = singles[loss + lane]
        unfinished[row] = not (
            is_sound and singles[gap + lane] <= tolerance * max(singles[scale + lane], abs(singles[objective + lane]))
        )
        row_of[lane] = queue[0] if queue[0] < count else -1
        if row_of[lane] >= 0:
            queue[0] += 1
        else:
            queue[1] -= 1
        _begin(lane, row_of[lane], centres, scales, curvature, centre, base, direction, singles)


@inlined
def _begin(lane, row, centres, scales, curvature, centre, base, direction, singles):  # type: ignore[no-untyped-def]
    """Put a row of the batch into a lane; −1 for none, which rests at 0."""
    size, strength = 0.0, 1.0
    if row >= 0:
        strength = scales[row]
    for j in range(centres.shape[1]):
        number = centres[row, j] if row >= 0 else 0.0
        centre[WIDTH * j + lane] = base[WIDTH * j + lane] = number
        direction[WIDTH * j + lane] = 0.0
        size += number * number
    heat = _START * strength * curvature
    singles[WIDTH * _SIZE + lane] = math.sqrt(size)
    singles[WIDTH * _SCALE + lane] = strength
    singles[WIDTH * _TEMPERATURE + lane] = heat if heat > _HOT and row >= 0 else 1.0
    singles[WIDTH * _BASE + lane] = math.inf
    singles[WIDTH * _SLOPE + lane] = 0.0
    singles[WIDTH * _STEP + lane] = 1.0
    singles[WIDTH * _PASSES + lane] = 0.0
