"""The vertices of a polytope of few dimensions, listed once, of which a row takes the best one.

They are the facets of the convex hull of the normals over their bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit_numba.bases import SETTLED, Constraints, record_move, scale_of
from alignkit_numba.vectors import compiled, inlined

__all__ = ["Listed", "list_vertices", "look_up", "look_up_on_a_line"]

_EPS = float(np.finfo(np.float64).eps)
#: Largest k for which vertices are listed, and how many at most.
_LISTED_DIMENSION, _LARGEST_LIST = 3, 2_000


class Listed(NamedTuple):
    """The vertices of a polytope that is its own mirror image.

    Arguments:
        vertices: one of each pair ±p, a column each, (k, v), as often as it has bases.
        bases: their constraints, (v, k).
        sides: which of their two bounds are active, ±1, (v, k).
        inverses: of the matrices whose rows are their normals, (v, k, k).
        excess: by how much they leave the polytope in rounding, relative to the bounds, (v,).
    """

    vertices: Floats
    bases: NDArray[np.int64]
    sides: Floats
    inverses: Floats
    excess: Floats


def list_vertices(constraints: Constraints) -> Listed | None:
    """The vertices of a polytope of few dimensions that is its own mirror image; None of others, or if Qhull fails."""
    normals, bounds = constraints.normals, constraints.bounds
    k = normals.shape[1]
    if k > _LISTED_DIMENSION or constraints.centres.any():
        return None
    from scipy.spatial import ConvexHull, QhullError

    kept = np.flatnonzero(normals.any(axis=1))
    polar = normals[kept] / bounds[kept, None]
    if k == 1:
        active = kept[np.argmax(np.abs(polar))]
        facets = np.array([[active]])
        signs = np.sign(normals[facets][..., 0])
    else:
        try:
            # Facets of more than k points are cut into simplices: the bases of a degenerate vertex.
            hull = ConvexHull(np.concatenate([polar, -polar]), qhull_options="Qt")
        except QhullError:
            return None
        facets = kept[hull.simplices % len(kept)]
        signs = np.where(hull.simplices < len(kept), 1.0, -1.0)
    matrices = normals[facets]
    sound = np.linalg.cond(matrices) < 1 / np.sqrt(_EPS)
    facets, sides = facets[sound], signs[sound]
    inverses = np.linalg.inv(matrices[sound])
    vertices = (inverses @ (sides * bounds[facets])[..., None])[..., 0]
    # Of ±p the one on a generic side, with a margin that keeps both where rounding could drop both.
    half = vertices @ np.cos(np.arange(1.0, k + 1.0)) > -1e-9 * np.abs(vertices).max(axis=1, initial=0.0)
    vertices, facets, sides, inverses = vertices[half], facets[half], sides[half], inverses[half]
    if not 0 < len(vertices) <= _LARGEST_LIST:
        return None
    excess = np.zeros(len(vertices))
    for first in range(0, len(normals), _LARGEST_LIST):
        part = slice(first, first + _LARGEST_LIST)
        block, limits = normals[part], bounds[part]
        rounding = (k + 2) * _EPS * (np.abs(vertices) @ np.abs(block).T)
        slack = np.abs(vertices @ block.T) + rounding - limits
        np.maximum(excess, (slack / limits).max(axis=1), out=excess)
    if excess.max() > 1e-9:
        return None
    return Listed(np.ascontiguousarray(vertices.T), facets.astype(np.int64), sides, inverses, excess)


@compiled
def look_up_on_a_line(residuals, constraints, listed, coordinates, amounts, value, gap, todo):  # type: ignore[no-untyped-def]
    """Take the one vertex up to its sign that a polytope on a line has: every row in the same few operations."""
    base, weight = listed.bases[0, 0], constraints.weights[0]
    column, slope, part, inverse = 0, 0.0, 0.0, listed.inverses[0, 0, 0]
    if base >= constraints.columns:
        column = base - constraints.columns
        slope, part = inverse / constraints.lengths[column], constraints.normals[base, 0] * inverse
    # Within the bounds: outside it leaves them by so much in rounding.
    vertex = abs(listed.vertices[0, 0]) / (1.0 + max(listed.excess[0], 0.0))
    for row in range(residuals.shape[0]):
        s = residuals[row, 0]
        size = abs(s)
        amount = -slope * s
        paid, moved = constraints.weight * abs(amount), part * s
        cost = paid + weight * abs(s - moved)
        terms = weight * (size + abs(moved)) + paid + vertex * size
        bound = cost - vertex * size
        found = (bound if bound > 0.0 else 0.0) + 5 * _EPS * terms
        coordinates[row, 0] = column if amount != 0.0 else 0
        amounts[row, 0], value[row], gap[row] = amount, cost, found
        todo[row] = not (found <= SETTLED * weight * size and size < np.inf)


@compiled
def look_up(residuals, base, constraints, listed, coordinates, amounts, value, gap, todo, heights, work):  # type: ignore[no-untyped-def]
    """Take the best vertex for each row, and of its bases one whose multipliers have the right signs."""
    k, count = listed.vertices.shape
    multipliers, trial, vertex, rest = work[0], work[1], work[2], work[3]
    for row in range(residuals.shape[0]):
        s = residuals[row]
        start = base[row if base.size > 1 else 0]
        size = scale_of(s, start, constraints)
        if not np.isfinite(size):
            continue
        best = _heights(listed.vertices, s, heights)
        top = abs(heights[best])
        least = _multipliers(listed.inverses[best], listed.sides[best], heights[best], s, multipliers)
        if least < 0.0:
            # Another basis of the same vertex, or of one that rounding does not tell from it.
            for other in range(count):
                if abs(heights[other]) >= top * (1.0 - 1e-9):
                    found = _multipliers(listed.inverses[other], listed.sides[other], heights[other], s, trial)
                    if found > least:
                        least, best = found, other
                        for j in range(k):
                            multipliers[j] = trial[j]
        sign = 1.0 if heights[best] >= 0.0 else -1.0
        for j in range(k):
            vertex[j] = sign * listed.vertices[j, best]
        value[row], gap[row] = record_move(
            s, start, constraints, listed.bases[best], multipliers, vertex, listed.excess[best],
            coordinates[row], amounts[row], rest,
        )  # fmt: skip
        todo[row] = not gap[row] <= SETTLED * size


@njit(
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "nnan", "ninf", "nsz", "contract"},  # rows are finite, and the order of a sum is free
    _nrt=False,
)
def _heights(columns, s, heights):  # type: ignore[no-untyped-def]
    """⟨p, s⟩ at every vertex; returns where it is largest in absolute value."""
    k, count = columns.shape
    if k == 1:
        for i in range(count):
            heights[i] = s[0] * columns[0, i]
    elif k == 2:
        for i in range(count):
            heights[i] = s[0] * columns[0, i] + s[1] * columns[1, i]
    else:
        for i in range(count):
            heights[i] = s[0] * columns[0, i] + s[1] * columns[1, i] + s[2] * columns[2, i]
    top = 0.0
    for i in range(count):
        top = max(top, abs(heights[i]))
    where = 0
    for i in range(count):
        where = i if abs(heights[i]) == top else where
    return where


@inlined
def _multipliers(inverse, side, height, s, multipliers):  # type: ignore[no-untyped-def]
    """Write s over the normals of a basis; returns the least multiplier along the active bounds of ±p."""
    k = s.size
    sign = 1.0 if height >= 0.0 else -1.0
    least = np.inf
    for j in range(k):
        total = 0.0
        for i in range(k):
            total += inverse[i, j] * s[i]
        multipliers[j] = total
        least = min(least, sign * side[j] * total)
    return least
