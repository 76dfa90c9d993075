"""Active sets on the dual simplex for few pieces at a time, rows in lanes and those that are not done in a queue.

At most k + 1 pieces are affinely independent, so that p has as many slots, each for a piece or for none. p stays
feasible, and one piece enters or leaves at a time: a system is of the slots in use, however many pieces there are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from alignkit.contracts import Floats
from alignkit_numba.elimination import factorise_each, solve_lower, solve_upper, triangle
from alignkit_numba.gathers import gather, scatter
from alignkit_numba.simplex_lanes import entries, evaluate, share_out
from alignkit_numba.vectors import (
    WIDTH,
    absolute,
    any_less,
    divide,
    fma,
    inlined,
    larger,
    load,
    select_less,
    smaller,
    spread,
    store,
)

__all__ = ["Slots", "exchange_few", "slots_within", "vectors_of_slots"]

#: Systems that are solved before rows are taken one at a time: for each slot, and beyond.
_STEPS_EACH, _STEPS = 2, 6


class Slots(NamedTuple):
    """What lanes have of each slot.

    Arguments:
        place: its piece, by number; how many pieces there are for none.
        taken: whether it has one.
        source: where it reads, its piece or any.
        share: its p.
        right, ones, falls: right-hand sides: the p that solves for the slots; 1; how p falls as another piece rises.
        system, factor: lower triangles, in the layout of `elimination`.
        highest: the piece that enters.
        numbers: of the lanes.
    """

    place: Floats
    taken: Floats
    source: Floats
    share: Floats
    right: Floats
    ones: Floats
    falls: Floats
    system: Floats
    factor: Floats
    highest: Floats
    numbers: Floats


def vectors_of_slots(size: int) -> int:
    """How many vectors of lanes some slots take."""
    return 7 * size + size * (size + 1) + 2


@inlined
def slots_within(room, size):  # type: ignore[no-untyped-def]
    """Slots in room for their vectors."""
    pairs, start = triangle(size), 7 * size
    numbers = room[start + 2 * pairs + 1 : start + 2 * pairs + 2]
    for lane in range(WIDTH):
        numbers[0, lane] = lane
    return Slots(
        room[:size],
        room[size : 2 * size],
        room[2 * size : 3 * size],
        room[3 * size : 4 * size],
        room[4 * size : 5 * size],
        room[5 * size : 6 * size],
        room[6 * size : start],
        room[start : start + pairs],
        room[start + pairs : start + 2 * pairs],
        room[start + 2 * pairs : start + 2 * pairs + 1],
        numbers,
    )


@inlined
def exchange_few(  # type: ignore[no-untyped-def]
    matrix, offset, mean, level, gram, reference, bend, tolerance, centres, sums, lanes, size, waits, states,
    solutions, gaps, values,
):  # fmt: skip
    """Solve rows, and return how many are left; their numbers come first in `waits`.

    Arguments:
        size: the most pieces that are solved for, k + 1.
        waits: (n,), the numbers of the rows.
        states: (n, 2·size), written to.
        solutions, gaps, values: of those that are done, written to.
    """
    count, columns = centres.shape
    centre, primal, dual, slope, _, _, _, total, gap, top, wanted, _, room = lanes
    slots, rows = slots_within(room, size), len(offset)
    place, share = slots.place, slots.share
    waiting, depth = count, 1
    for turn in range(_STEPS_EACH * size + _STEPS + 1):
        entered, waiting = waiting, 0
        for first in range(0, entered, WIDTH):
            filled = min(WIDTH, entered - first)
            for lane in range(WIDTH):
                row = waits[first + min(lane, filled - 1)]
                total[0, lane] = sums[row]
                for i in range(columns):
                    centre[i, lane] = centres[row, i] - sums[row] * mean[i]
            entries(matrix, offset, centre, slope)
            if turn == 0:
                depth = used = _begin(gram, reference, bend, total, slope, dual, slots)
            else:
                used = _read(states, first, filled, depth, rows, slots)
                _solve(gram, total, slope, dual, used, slots)
            evaluate(matrix, offset, mean, level, centre, total, dual, primal, slope, gap, top, wanted, tolerance)
            if any_less(load(wanted, 0), load(gap, 0)):
                _step(gram, dual, slope, used, turn > 0, slots)
            for lane in range(filled):
                row = waits[first + lane]
                if gap[0, lane] <= wanted[0, lane]:
                    gaps[row], values[row] = gap[0, lane], top[0, lane]
                    for i in range(columns):
                        solutions[row, i] = primal[i, lane]
                    continue
                # Behind the place that is read next, as rows that are finished leave the list.
                waits[waiting] = row
                for i in range(min(depth + 1, size)):
                    states[waiting, 2 * i], states[waiting, 2 * i + 1] = place[i, lane], share[i, lane]
                waiting += 1
        if waiting == 0:
            break
        depth = min(depth + 1, size)
    return waiting


@inlined
def _begin(gram: Floats, reference: Floats, bend: float, total: Floats, start: Floats, dual: Floats, slots: Any) -> int:
    """The better start of each lane, the vertex of one piece or the reference; returns how many slots they use."""
    place, share, right = slots.place, slots.share, slots.right
    rows, size = len(reference), len(place)
    sum_ = load(total, 0)
    half = sum_ * spread(0.5)
    lead, best, at = half * spread(-bend), spread(-math.inf), spread(0.0)
    for j in range(rows):
        lead = fma(spread(reference[j]), load(start, j), lead)
        score = fma(spread(-gram[j, j]), half, load(start, j))
        at = select_less(best, score, spread(float(j)), at)
        best = larger(score, best)
    used = 0
    for j in range(rows):
        own = select_less(absolute(at - spread(float(j))), spread(0.5), spread(1.0), spread(0.0))
        store(dual, j, sum_ * select_less(best, lead, spread(reference[j]), own))
        if reference[j] > 0.0 and used < size:
            # The vertex has the first slot alone.
            own = at if used == 0 else spread(float(rows))
            store(place, used, select_less(best, lead, spread(float(j)), own))
            own = spread(1.0) if used == 0 else spread(0.0)
            store(share, used, sum_ * select_less(best, lead, spread(reference[j]), own))
            store(right, used, load(share, used))
            used += 1
    for i in range(used, size):
        _clear(i, rows, slots)
    return used


@inlined
def _clear(slot: int, rows: int, slots: Any) -> None:
    """Leave a slot to no piece."""
    place, share, right = slots.place, slots.share, slots.right
    store(place, slot, spread(float(rows)))
    store(share, slot, spread(0.0))
    store(right, slot, spread(0.0))


@inlined
def _read(states: Floats, first: int, filled: int, depth: int, rows: int, slots: Any) -> int:
    """Fill the slots of rows from their states, and return how many any of them uses."""
    place, share = slots.place, slots.share
    used = 0
    for lane in range(WIDTH):
        state = first + min(lane, filled - 1)
        for i in range(depth):
            place[i, lane], share[i, lane] = states[state, 2 * i], states[state, 2 * i + 1]
            used = max(used, i + 1 if place[i, lane] < rows else 0)
    for i in range(depth, len(place)):
        _clear(i, rows, slots)
    return used


@inlined
def _solve(gram: Floats, total: Floats, start: Floats, dual: Floats, used: int, slots: Any) -> None:
    """The p of sum σ, of any sign, at which the slopes of the pieces in the slots are alike."""
    place, taken, source, right, ones = slots.place, slots.taken, slots.source, slots.right, slots.ones
    system, factor, numbers = slots.system, slots.factor, slots.numbers
    rows = len(start)
    for j in range(rows + 1):
        store(dual, j, spread(0.0))
    for i in range(used):
        own = load(place, i)
        store(taken, i, select_less(own, spread(rows - 0.5), spread(1.0), spread(0.0)))
        own = smaller(own, spread(rows - 1.0))
        store(source, i, own)
        store(right, i, gather(start, fma(own, spread(float(WIDTH)), load(numbers, 0))))
        store(ones, i, spread(1.0))
        for j in range(i + 1):
            store(system, triangle(i) + j, gather(gram, fma(own, spread(float(rows)), load(source, j))))
    factorise_each(system, taken[:used], factor)
    solve_lower(factor, right[:used])
    solve_lower(factor, ones[:used])
    share_out(total, right[:used], ones, factor)
    solve_upper(factor, right[:used])
    for i in range(used):
        # A slot without a piece writes below the last one.
        scatter(dual, fma(load(place, i), spread(float(WIDTH)), load(numbers, 0)), load(right, i))


@inlined
def _step(gram: Floats, dual: Floats, slope: Floats, used: int, has_factor: bool, slots: Any) -> None:
    """Move p to what its slots solve for, or until a piece reaches 0 and leaves; else one enters."""
    place, share, right, highest = slots.place, slots.share, slots.right, slots.highest
    rows, size = len(slope), len(place)
    best, at = spread(-math.inf), spread(0.0)
    for j in range(rows):
        entry = select_less(spread(0.0), absolute(load(dual, j)), spread(-math.inf), load(slope, j))
        at = select_less(best, entry, spread(float(j)), at)
        best = larger(entry, best)
    store(highest, 0, at)
    length, leaves = spread(1.0), spread(-1.0)
    for i in range(used):
        before, after = load(share, i), load(right, i)
        reached = select_less(after, spread(0.0), divide(before, before - after), spread(math.inf))
        leaves = select_less(reached, length, spread(float(i)), leaves)
        length = smaller(reached, length)
    for i in range(used):
        before, after = load(share, i), load(right, i)
        stays = select_less(absolute(leaves - spread(float(i))), spread(0.5), spread(0.0), absolute(after))
        store(share, i, select_less(spread(0.0), stays, fma(length, after - before, before), spread(0.0)))
        store(place, i, select_less(spread(0.0), stays, load(place, i), spread(float(rows))))
    enters = select_less(leaves, spread(0.0), spread(1.0), spread(0.0))
    enters = select_less(spread(-math.inf), best, enters, spread(0.0))
    for i in range(min(used + 1, size)):
        own = load(place, i)
        comes = select_less(spread(rows - 0.5), own, enters, spread(0.0))
        store(place, i, select_less(spread(0.0), comes, at, own))
        enters = enters - comes
    if has_factor and any_less(spread(0.0), enters):
        _lean_on(gram, enters, slots)


@inlined
def _lean_on(gram: Floats, enters: Any, slots: Any) -> None:
    """Where all slots are taken, raise the piece that enters at their cost, while y stays, until one of them leaves."""
    place, source, share, falls = slots.place, slots.source, slots.share, slots.falls
    factor, highest = slots.factor, slots.highest
    rows, size = len(gram), len(place)
    for i in range(size):
        store(falls, i, gather(gram, fma(load(source, i), spread(float(rows)), load(highest, 0))))
    solve_lower(factor, falls)
    solve_upper(factor, falls)
    rise, leaves = spread(math.inf), spread(-1.0)
    for i in range(size):
        fall, own = load(falls, i), load(share, i)
        reached = select_less(spread(0.0), fall, divide(own, fall), spread(math.inf))
        leaves = select_less(reached, rise, spread(float(i)), leaves)
        rise = smaller(reached, rise)
    # Lanes that have room, and those in which none falls, stay as they are.
    rise = select_less(spread(-0.5), leaves, select_less(spread(0.0), enters, rise, spread(0.0)), spread(0.0))
    leaves = select_less(spread(0.0), enters, leaves, spread(-1.0))
    for i in range(size):
        own = fma(spread(0.0) - rise, load(falls, i), load(share, i))
        away = absolute(leaves - spread(float(i)))
        store(share, i, select_less(away, spread(0.5), rise, own))
        store(place, i, select_less(away, spread(0.5), load(highest, 0), load(place, i)))
