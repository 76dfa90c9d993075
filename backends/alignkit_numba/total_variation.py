"""The proximal map of one-dimensional total variation, exactly and in O(d), by pulling a string taut through a tube.

With S_j the running sums of a row x, the running sums of

    z = argmin_y Σ_j c_j|y_{j+1} − y_j| + (λ/2)‖y − x‖²

are the shortest path from (0, 0) to (d, S_d) that stays within c_j/λ of S_j (P. Davies and A. Kovac, "Local extremes,
runs, strings and multiresolution", 2001). From a bend of the path, the lines that clear all gates so far form a funnel;
when a gate misses it, the next bend lies where its nearer side is touched, and the funnel opens anew from there
(L. Condat, "A direct algorithm for 1-D total variation denoising", 2013, with the tube's width varying here).

Gates between the bend and the gate that missed are passed again: on noise each about twice, on a smooth row of small
slope some √d times. A row that exceeds its allowance goes on with both convex chains that bound the funnel kept in
full, which never looks back (D. T. Lee and F. P. Preparata, "Euclidean shortest paths in the presence of rectilinear
barriers", 1984), and so takes O(d) at a larger constant.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alignkit.contracts import Floats, ProxSolution
from alignkit.errors import ParameterError

__all__ = ["seconds_per_row", "solve_total_variation"]

_EPS = float(np.finfo(np.float64).eps)
#: How often a gate may be passed, on average, before a row changes to chains; and what short rows may exceed it by.
_PASSES, _SLACK = 4, 128


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
        array([[1. , 4. , 4. ]])
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    rows, dimension = points.shape
    if not (weight > 0 and np.isfinite(weight)):
        raise ParameterError(f"λ is positive and finite, not {weight}.")
    strengths = np.zeros(dimension)
    # The path ends at (d, S_d): the last gate is a point.
    strengths[:-1] = strength
    if not ((strengths >= 0).all() and np.isfinite(strengths).all()):
        raise ParameterError("The strengths of total variation are nonnegative and finite.")
    maximiser = np.empty_like(points)
    gap, value = np.empty((2, rows))
    if dimension:
        _solve(
            points,
            float(weight),
            strengths,
            strengths / weight,
            1.0 / np.arange(1, dimension + 1),
            maximiser,
            gap,
            value,
        )
    unfinished = ~np.isfinite(gap)
    gap[unfinished] = np.inf
    return ProxSolution(maximiser, gap, unfinished, value)


def seconds_per_row(dimension: int) -> float:
    """Predicted time of a row of d entries on one core, measured on rows of noise."""
    return 2e-7 + 2.5e-8 * dimension


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(points, weight, strengths, radii, reciprocals, maximiser, gap, value):  # type: ignore[no-untyped-def]
    rows, dimension = points.shape
    slopes = np.empty(dimension)
    bends = np.zeros(dimension, dtype=np.bool_)
    upper, lower = np.empty((3, dimension)), np.empty((3, dimension))
    for row in range(rows):
        x = points[row]
        first, offset = _pull(x, radii, reciprocals, slopes, bends)
        if first < dimension:
            _pull_with_chains(x, radii, reciprocals, first, offset, upper, lower, slopes, bends)
        _finish(x, weight, strengths, radii, slopes, bends, maximiser[row], gap, value, row)


@njit(cache=True, nogil=True, error_model="numpy")
def _pull(x, radii, reciprocals, slopes, bends):  # type: ignore[no-untyped-def]
    """Find the path's bends, and its slope up to each; stops early, at a bend, where the allowance is spent."""
    dimension = x.size
    first = position = above = below = passed = 0
    # The steepest and the flattest line from the bend before `first` that clear all gates, and where they touch.
    top, bottom, height = np.inf, -np.inf, 0.0
    while position < dimension:
        height += x[position]
        reciprocal = reciprocals[position - first]
        high, low = (height + radii[position]) * reciprocal, (height - radii[position]) * reciprocal
        if high < bottom or low > top:
            falls = high < bottom
            bend = below if falls else above
            slopes[bend] = bottom if falls else top
            bends[bend] = True
            height = radii[bend] if falls else -radii[bend]
            passed += position - first
            first = position = above = below = bend + 1
            top, bottom = np.inf, -np.inf
            if passed > _PASSES * first + _SLACK:
                return first, height
        else:
            above = position if high <= top else above
            below = position if low >= bottom else below
            top, bottom = min(high, top), max(low, bottom)
            position += 1
    slopes[dimension - 1] = top
    bends[dimension - 1] = True
    return dimension, 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _pull_with_chains(x, radii, reciprocals, first, offset, upper, lower, slopes, bends):  # type: ignore[no-untyped-def]
    """The same from a bend before `first` on, the path there being `offset` below the running sums."""
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
                slope = (gate - near[1, stop - 1]) * reciprocals[position - int(near[0, stop - 1]) - 1]
                if sign * slope > sign * near[2, stop - 1]:
                    break
                stop -= 1
            if stop == start:
                slope = (gate - bend_height) * reciprocals[position - bend - 1]
                while other < last and sign * slope < sign * far[2, other]:
                    bend, bend_height = int(far[0, other]), far[1, other]
                    slopes[bend] = far[2, other]
                    bends[bend] = True
                    other += 1
                    slope = (gate - bend_height) * reciprocals[position - bend - 1]
            near[0, stop], near[1, stop], near[2, stop] = position, gate, slope
            if side == 0:
                stop_above, start_below = stop + 1, other
            else:
                stop_below, start_above = stop + 1, other
    for vertex in range(start_above, stop_above):
        bend = int(upper[0, vertex])
        slopes[bend] = upper[2, vertex]
        bends[bend] = True


@njit(cache=True, nogil=True, error_model="numpy")
def _finish(x, weight, strengths, radii, slopes, bends, maximiser, gap, value, row):  # type: ignore[no-untyped-def]
    """Spread the slopes over the row, and bound how far it is from optimal; clears the bends."""
    dimension = x.size
    level, dual = slopes[dimension - 1], 0.0
    variation = squares = 0.0
    for position in range(dimension - 1, -1, -1):
        bends[position] = False
        maximiser[position] = level
        # p/λ before the entry: where the row rises or falls it is at its bound, and |p_j| ≤ c_j has no slack in
        # c_j|z_{j+1} − z_j| ≥ p_j(z_{j+1} − z_j); elsewhere z − x + Dᵀp/λ = 0 as far as the bound allows.
        # Read before they are chosen from, so that no branch depends on the data.
        entry, slope, limit, strength = x[position], slopes[position - 1], radii[position - 1], strengths[position - 1]
        next_level = slope if bends[position - 1] else level
        step = level - next_level
        flat = min(max(dual + (entry - level), -limit), limit)
        steep = math.copysign(limit, step)
        before = flat if step == 0.0 else steep
        variation += strength * abs(step)
        residual = abs(level - entry + before - dual)
        residual += 2.0 * _EPS * (abs(level) + abs(entry) + abs(before) + abs(dual))
        squares += residual * residual
        dual, level = before, next_level
    gap[row] = 0.5 * weight * squares * (1.0 + (2 * dimension + 8) * _EPS) + 4.0 * _EPS * variation
    value[row] = -variation
