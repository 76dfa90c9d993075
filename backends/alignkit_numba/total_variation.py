"""The proximal map of one-dimensional total variation, exactly and in O(d), by pulling a string taut through a tube.

With S_j the running sums of a row x, the running sums of

    z = argmin_y Σ_j c_j|y_{j+1} − y_j| + (λ/2)‖y − x‖²

are the shortest path from (0, 0) to (d, S_d) that stays within c_j/λ of S_j (P. Davies and A. Kovac, "Local extremes,
runs, strings and multiresolution", 2001). From a bend of the path, the lines that clear all gates so far form a funnel;
when a gate misses it, the next bend lies where its nearer side is touched, and the funnel opens anew from there
(L. Condat, "A direct algorithm for 1-D total variation denoising", 2013; here the tube's width may vary). A step, to
the next gate or back to a bend, is free of branches, so that each lane takes its own.

Gates between the bend and the gate that missed are passed again: on noise each takes about two steps, on a smooth row
of small slope some √d. A row that exceeds its allowance goes on with both convex chains that bound the funnel kept in
full, which never looks back (D. T. Lee and F. P. Preparata, "Euclidean shortest paths in the presence of rectilinear
barriers", 1984), and so takes O(d) at a larger constant.
"""

from __future__ import annotations

import numpy as np

from alignkit.contracts import Floats, ProxSolution
from alignkit.errors import ParameterError
from alignkit_numba.gathers import TILE, gather, scatter, transpose_tiles
from alignkit_numba.vectors import (
    WIDTH,
    absolute,
    any_less,
    compiled,
    divide,
    fma,
    larger,
    load,
    scratch,
    select_less,
    smaller,
    spread,
    store,
)

__all__ = ["solve_total_variation"]

_EPS = float(np.finfo(np.float64).eps)
#: How many steps a row may take for each of its entries before it changes to chains; and for all of them.
_STEPS, _SLACK = 4, 128


def solve_total_variation(points: Floats, weight: float, strength: Floats | float) -> ProxSolution:
    """Maximise −Σ_j c_j|y_{j+1} − y_j| − (λ/2)‖y − x‖² over y, for each row x.

    Arguments:
        points: the rows x, (n, d), float64.
        weight: λ > 0.
        strength: c_j ≥ 0, (d − 1,), or one for all.

    Returns:
        the maximisers with the gap of each, and the value −Σ_j c_j|z_{j+1} − z_j|. The gap is Fenchel's, for a dual
        |p_j| ≤ c_j that follows Σ_{i ≤ j} λ(z_i − x_i), with the rounding of its own evaluation; a row that is not
        finite is unfinished.

    Raises:
        ParameterError: λ is not positive, or a strength is negative or not finite.

    Example:
        >>> solve_total_variation(np.array([[0.0, 4.0, 5.0]]), 1.0, 1.0).maximiser
        array([[1., 4., 4.]])
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    rows, dimension = points.shape
    if not (weight > 0 and np.isfinite(weight)):
        raise ParameterError(f"λ is positive and finite, not {weight}.")
    strengths = np.broadcast_to(np.asarray(strength, dtype=np.float64), (max(dimension - 1, 0),))
    if not ((strengths >= 0).all() and np.isfinite(strengths).all()):
        raise ParameterError("The strengths of total variation are nonnegative and finite.")
    maximiser = np.empty_like(points)
    variation, squares = np.zeros((2, rows))
    if dimension:
        # The path ends at (d, S_d), where the gate is a point; behind it there is room for lanes that wait for others.
        radii = np.concatenate([strengths / weight, [0.0, np.inf]])
        entries, slopes, levels = scratch(dimension + 1), scratch(dimension + 2), scratch(dimension)
        slopes[:] = np.nan
        lanes = scratch(4)
        lanes[:WIDTH] = np.arange(WIDTH)
        _solve(
            points.ravel(),
            radii,
            entries,
            slopes,
            levels,
            lanes,
            np.empty((2, 3, dimension)),
            maximiser.ravel(),
            variation,
            squares,
        )
    # Of the sums and of the products with c_j/λ for c_j.
    rounding = (2 * dimension + 8) * _EPS
    gap = weight * (0.5 * squares * (1.0 + rounding) + 6.0 * _EPS * variation)
    unfinished = ~np.isfinite(gap)
    gap[unfinished] = np.inf
    return ProxSolution(maximiser, gap, unfinished, -weight * variation)


@compiled
def _solve(points, radii, entries, slopes, levels, lanes, chains, maximiser, variation, squares):  # type: ignore[no-untyped-def]
    """Solve the rows, a lane each; row j + 1 of `slopes` has the slope of the path up to j where it bends, else NaN."""
    rows, dimension = variation.size, radii.size - 1
    tiled = dimension - dimension % TILE
    for start in range(0, rows, WIDTH):
        count = min(WIDTH, rows - start)
        done = tiled if count == WIDTH else 0
        transpose_tiles(points, dimension * start, dimension, entries, 0, WIDTH, WIDTH, done)
        for position in range(done, dimension):
            for lane in range(WIDTH):
                place = dimension * (start + lane) + position
                entries[WIDTH * position + lane] = points[place] if lane < count else 0.0
        _pull(radii, entries, slopes, lanes)
        for lane in range(count):
            if lanes[WIDTH + lane] < dimension:
                first, offset = int(lanes[2 * WIDTH + lane]), lanes[3 * WIDTH + lane]
                x = points[dimension * (start + lane) : dimension * (start + lane + 1)]
                _pull_with_chains(x, radii, first, offset, chains[0], chains[1], slopes, lane)
        _finish(radii, entries, slopes, levels, lanes)
        transpose_tiles(levels, 0, WIDTH, maximiser, dimension * start, dimension, done, WIDTH)
        for lane in range(count):
            variation[start + lane], squares[start + lane] = lanes[WIDTH + lane], lanes[2 * WIDTH + lane]
            for position in range(done, dimension):
                maximiser[dimension * (start + lane) + position] = levels[WIDTH * position + lane]


@compiled
def _pull(radii, entries, slopes, lanes):  # type: ignore[no-untyped-def]
    """Find the bends of each lane's path, and leave where it is, and from what bend and height there it came."""
    dimension = radii.size - 1
    nothing, one, half, infinite = spread(0.0), spread(1.0), spread(0.5), spread(np.inf)
    lane, width = load(lanes, 0), spread(float(WIDTH))
    last, end, unused = spread(dimension - 0.5), spread(float(dimension)), spread(dimension + 1.0)
    position = first = height = offset = nothing
    # The steepest and the flattest line from the bend before `first` that clear all gates, and the gates they touch.
    top, bottom = infinite, nothing - infinite
    above = below = radius_above = radius_below = nothing
    steps = 0
    while any_less(position, last) and steps < _STEPS * dimension + _SLACK:
        steps += 1
        radius = gather(radii, position)
        height = height + gather(entries, fma(position, width, lane))
        reciprocal = divide(one, position - first + one)
        high, low = (height + radius) * reciprocal, (height - radius) * reciprocal
        # The path bends below where a gate is below the funnel, above where it is above.
        bends = select_less(high, bottom, one, select_less(top, low, one, nothing))
        bend = select_less(high, bottom, below, above) + one
        slope = select_less(high, bottom, bottom, top)
        start = select_less(high, bottom, radius_below, nothing - radius_above)
        scatter(slopes, fma(select_less(half, bends, bend, unused), width, lane), slope)
        above, radius_above = select_less(top, high, above, position), select_less(top, high, radius_above, radius)
        below, radius_below = select_less(low, bottom, below, position), select_less(low, bottom, radius_below, radius)
        top = select_less(half, bends, infinite, smaller(top, high))
        bottom = select_less(half, bends, nothing - infinite, larger(bottom, low))
        height, offset = select_less(half, bends, start, height), select_less(half, bends, start, offset)
        first = select_less(half, bends, bend, first)
        position = select_less(half, bends, bend, smaller(position + one, end))
    store(slopes, dimension, top)
    store(lanes, 1, position)
    store(lanes, 2, first)
    store(lanes, 3, offset)


@compiled
def _pull_with_chains(x, radii, first, offset, upper, lower, slopes, lane):  # type: ignore[no-untyped-def]
    """The same for one lane from a bend before `first` on, the path there being `offset` below the running sums."""
    dimension = x.size
    # A chain's vertices in order: position, height, slope of the edge that leads there.
    start_above = stop_above = start_below = stop_below = 0
    bend, bend_height, height = first - 1, 0.0, offset
    for position in range(first, dimension):
        height += x[position]
        for side in range(2 if position < dimension - 1 else 1):
            if side == 0:
                sign, near, far = 1.0, upper, lower
                start, stop, other, last = start_above, stop_above, start_below, stop_below
            else:
                sign, near, far = -1.0, lower, upper
                start, stop, other, last = start_below, stop_below, start_above, stop_above
            gate = height + sign * radii[position]
            slope = 0.0
            while stop > start:
                slope = (gate - near[1, stop - 1]) / (position - near[0, stop - 1])
                if sign * slope > sign * near[2, stop - 1]:
                    break
                stop -= 1
            if stop == start:
                slope = (gate - bend_height) / (position - bend)
                while other < last and sign * slope < sign * far[2, other]:
                    bend, bend_height = int(far[0, other]), far[1, other]
                    slopes[WIDTH * (bend + 1) + lane] = far[2, other]
                    other += 1
                    slope = (gate - bend_height) / (position - bend)
            near[0, stop], near[1, stop], near[2, stop] = position, gate, slope
            if side == 0:
                start_above, stop_above, start_below = start, stop + 1, other
            else:
                start_below, stop_below, start_above = start, stop + 1, other
    for vertex in range(start_above, stop_above):
        slopes[WIDTH * (int(upper[0, vertex]) + 1) + lane] = upper[2, vertex]


@compiled
def _finish(radii, entries, slopes, levels, lanes):  # type: ignore[no-untyped-def]
    """Spread the slopes over the rows, and leave Σ_j (c_j/λ)|z_{j+1} − z_j| and ‖z − x + Dᵀp/λ‖²; clears the slopes.

    Where a row rises or falls p is at its bound, and c_j|z_{j+1} − z_j| ≥ p_j(z_{j+1} − z_j) has no slack; elsewhere
    z − x + Dᵀp/λ = 0 as far as |p_j| ≤ c_j allows. So the objective is at most (λ/2)‖z − x + Dᵀp/λ‖² too large.
    """
    dimension = radii.size - 1
    nothing, infinite, unset, rounding = spread(0.0), spread(np.inf), spread(np.nan), spread(2.0 * _EPS)
    level = load(slopes, dimension)
    dual = variation = squares = nothing
    for position in range(dimension - 1, -1, -1):
        store(slopes, position + 1, unset)
        store(levels, position, level)
        entry, before = load(entries, position), load(slopes, position)
        level_before = select_less(before, infinite, before, level)
        limit = spread(radii[position - 1] if position else 0.0)
        step = level - level_before
        flat = smaller(larger(dual + (entry - level), nothing - limit), limit)
        dual_before = select_less(nothing, step, limit, select_less(step, nothing, nothing - limit, flat))
        residual = absolute(level - entry + dual_before - dual)
        size = absolute(level) + absolute(entry) + absolute(dual_before) + absolute(dual)
        residual = fma(rounding, size, residual)
        squares = fma(residual, residual, squares)
        variation = fma(limit, absolute(step), variation)
        dual, level = dual_before, level_before
    store(lanes, 1, variation)
    store(lanes, 2, squares)
