"""Transport under the ℓ1 cost with an ℓ1 reward of few rows: linear programs over a polytope that all rows share.

For A (k, d), weights w and λ > 0, the move of a row x with s = Ax − t solves

    min_δ Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁  =  max {⟨p, s⟩ : |p_j| ≤ w_j, |⟨a_i, p⟩| ≤ λ},     a_i the columns of A,

by linear duality. At a vertex p whose k active normals n_c (of the e_j and a_i) have s = Σ_c μ_c n_c with the signs of
their constraints, δ_i = −μ_i on the active columns is optimal: it moves at most k entries.

Up to k = 3 the vertices are listed once, as facets of the convex hull of the normals over their bounds, and a row takes
the best one. Otherwise each row runs the dual simplex method from the vertex (w_j sign s_j)_j of the box: the most
violated constraint enters, prices being found in float32 until these see none, and a constraint leaves by the
bound-flipping ratio test (R. Fourer, "Notes on the dual simplex method", 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import ParameterError

__all__ = ["DualPolytope", "SparseMoves", "dual_polytope", "seconds_per_row", "solve_over_polytope"]

_EPS, _SINGLE_EPS = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)
#: Largest k for which vertices are listed, and how many at most.
_LISTED_DIMENSION, _LARGEST_LIST = 3, 2_000
#: Constraints are priced in chunks of this many, so that a chunk's prices stay in the nearest cache.
_CHUNK = 64
#: Rows of normals that one sweep of a chunk multiplies.
_UNROLLED = 8
#: Relative gap above which a row is worked on further.
_SETTLED = 1e-11


@dataclass(frozen=True, eq=False)
class DualPolytope:
    """{p : |⟨n_c, p⟩| ≤ h_c}, the n_c the unit normals of the box |p_j| ≤ w_j, then of |⟨a_i, p⟩| ≤ λ.

    Arguments:
        normals: n_c, (k + d, k), float64; zero for columns that are zero.
        bounds: h_c, (k + d,); those of zero columns are 1.
        lengths: ‖a_i‖, (d,).
        weights: w, (k,).
        weight: λ.
        tables: the constraints by chunks in float32, for pricing, and their bounds.
        vertices: one of each pair ±p of vertices, (v, k), as often as it has bases; None where they are not listed.
        bases: their constraints, (v, k).
        sides: which of their two bounds are active, ±1, (v, k).
        inverses: of the matrices whose rows are their normals, (v, k, k).
        excess: by how much they leave the polytope in rounding, relative, (v,).
    """

    normals: Floats
    bounds: Floats
    lengths: Floats
    weights: Floats
    weight: float
    tables: tuple[NDArray[np.float32], NDArray[np.float32]]
    vertices: Floats | None = None
    bases: NDArray[np.int64] | None = None
    sides: Floats | None = None
    inverses: Floats | None = None
    excess: Floats | None = None

    @property
    def dimension(self) -> int:
        """k."""
        return int(self.normals.shape[1])


@dataclass(frozen=True, eq=False)
class SparseMoves:
    """Moves of a batch of rows, at most k entries each.

    Arguments:
        coordinates: which entries of x move, (n, k); 0 where the amount is padding.
        amounts: by how much, (n, k), 0 as padding.
        value: Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁, (n,), what the move attains.
        gap: an upper bound on how far it lies above the minimum, rounding included, (n,).
        unfinished: rows that are not finite, or whose pivots ran out, (n,).
    """

    coordinates: NDArray[np.int64]
    amounts: Floats
    value: Floats
    gap: Floats
    unfinished: NDArray[np.bool_]


def dual_polytope(matrix: Floats, weights: Floats, weight: float) -> DualPolytope:
    """Prepare the polytope of a reward −Σ_j w_j|(Ax)_j − t_j| under the cost λ‖x − y‖₁.

    Arguments:
        matrix: A, (k, d); its rows may depend on each other.
        weights: w_j > 0, (k,).
        weight: λ > 0.

    Returns:
        the polytope, for any number of batches.

    Raises:
        ParameterError: λ or a weight is not positive and finite, or an entry of A is not finite.
    """
    matrix, weights = np.asarray(matrix, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all() and 0 < weight < np.inf):
        raise ParameterError("The weights of an ℓ1 reward and of an ℓ1 cost are positive and finite.")
    if not np.isfinite(matrix).all():
        raise ParameterError("The matrix of an ℓ1 reward has an entry that is not finite.")
    k = matrix.shape[0]
    lengths = np.sqrt((matrix**2).sum(axis=0))
    moving = lengths > 0
    scale = np.where(moving, lengths, 1.0)
    normals = np.concatenate([np.eye(k), (matrix / scale).T])
    bounds = np.concatenate([weights, np.where(moving, weight / scale, 1.0)])
    plain = DualPolytope(normals, bounds, scale, weights, float(weight), _tables(normals, bounds))
    return _listed(plain) if k <= _LISTED_DIMENSION else plain


def _tables(normals: Floats, bounds: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normals as (chunks, k, _CHUNK) and bounds as (chunks, _CHUNK), padded by what is never violated."""
    count, k = normals.shape
    chunks, padded = -(-count // _CHUNK), -(-k // _UNROLLED) * _UNROLLED
    table = np.zeros((chunks * _CHUNK, padded), dtype=np.float32)
    table[:count, :k] = normals
    limits = np.full(chunks * _CHUNK, 1.0, dtype=np.float32)
    limits[:count] = np.minimum(bounds, 1e30)
    by_chunk = np.ascontiguousarray(table.reshape(chunks, _CHUNK, padded).transpose(0, 2, 1))
    return by_chunk, limits.reshape(chunks, _CHUNK)


def _listed(plain: DualPolytope) -> DualPolytope:
    """The polytope with its vertices, from the convex hull of the normals over their bounds, or as it is."""
    from scipy.spatial import ConvexHull, QhullError

    k = plain.dimension
    kept = np.flatnonzero(plain.normals.any(axis=1))
    polar = plain.normals[kept] / plain.bounds[kept, None]
    if k == 1:
        active = kept[np.argmax(np.abs(polar))]
        facets = np.array([[active]])
        signs = np.sign(plain.normals[facets][..., 0])
    else:
        try:
            # Facets of more than k points are cut into simplices: the bases of a degenerate vertex.
            hull = ConvexHull(np.concatenate([polar, -polar]), qhull_options="Qt")
        except QhullError:
            return plain
        facets = kept[hull.simplices % len(kept)]
        signs = np.where(hull.simplices < len(kept), 1.0, -1.0)
    matrices = plain.normals[facets]
    sound = np.linalg.cond(matrices) < 1 / np.sqrt(_EPS)
    facets, sides = facets[sound], signs[sound]
    inverses = np.linalg.inv(matrices[sound])
    vertices = (inverses @ (sides * plain.bounds[facets])[..., None])[..., 0]
    # Of ±p the one on a generic side, with a margin that keeps both where rounding could drop both.
    half = vertices @ np.cos(np.arange(1.0, k + 1.0)) > -1e-9 * np.abs(vertices).max(axis=1, initial=0.0)
    vertices, facets, sides, inverses = vertices[half], facets[half], sides[half], inverses[half]
    if not 0 < len(vertices) <= _LARGEST_LIST:
        return plain
    excess = np.zeros(len(vertices))
    for first in range(0, len(plain.normals), _LARGEST_LIST):
        part = slice(first, first + _LARGEST_LIST)
        normals, limits = plain.normals[part], plain.bounds[part]
        rounding = (k + 2) * _EPS * (np.abs(vertices) @ np.abs(normals).T)
        slack = np.abs(vertices @ normals.T) + rounding - limits
        np.maximum(excess, (slack / limits).max(axis=1), out=excess)
    if excess.max() > 1e-9:
        return plain
    return replace(plain, vertices=vertices, bases=facets, sides=sides, inverses=inverses, excess=excess)


def solve_over_polytope(polytope: DualPolytope, residuals: Floats) -> SparseMoves:
    """Move each row by the least of Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁.

    Arguments:
        polytope: what all rows share.
        residuals: s = Ax − t of the rows, (n, k), float64.

    Returns:
        the moves, each with its certificate.

    Example:
        >>> polytope = dual_polytope(np.array([[2.0, 1.0]]), np.ones(1), 0.5)
        >>> moves = solve_over_polytope(polytope, np.array([[3.0], [-1.0]]))
        >>> moves.coordinates.ravel(), moves.amounts.ravel(), moves.value
        (array([0, 0]), array([-1.5,  0.5]), array([0.75, 0.25]))
    """
    residuals = np.ascontiguousarray(residuals, dtype=np.float64)
    rows, k = residuals.shape
    coordinates, amounts = np.zeros((rows, k), dtype=np.int64), np.zeros((rows, k))
    value, gap = np.empty((2, rows))
    todo = np.ones(rows, dtype=np.bool_)
    shared = polytope.normals, polytope.bounds, polytope.lengths, polytope.weights, polytope.weight
    answers = coordinates, amounts, value, gap, todo
    if polytope.vertices is not None:
        columns = np.ascontiguousarray(polytope.vertices.T)
        _look_up(
            residuals, *shared, columns, polytope.bases, polytope.sides, polytope.inverses, polytope.excess, *answers
        )
    # Where a vertex's bases do not settle a row, pivots do.
    _pivot(residuals, *shared, *polytope.tables, *answers)
    gap[todo] = np.where(np.isfinite(gap[todo]), gap[todo], np.inf)
    return SparseMoves(coordinates, amounts, value, gap, todo)


def seconds_per_row(dimension: int, ambient: int) -> float:
    """Predicted time of a row on one core, for k rows of A with d columns, measured on Gaussian matrices."""
    if dimension <= _LISTED_DIMENSION:
        return 5e-8 + 1e-8 * dimension**2
    pivots = 1.3 * dimension
    return pivots * (2e-7 + 1e-10 * dimension * (ambient + 3 * dimension))


@njit(cache=True, nogil=True, error_model="numpy")
def _record(s, normals, lengths, weights, weight, basis, multipliers, vertex, excess, coordinates, amounts):  # type: ignore[no-untyped-def]
    """Write the move of a basis, and return what it attains and its gap to a vertex that is `excess` outside."""
    k = s.size
    rest = s.copy()
    cost = terms = 0.0
    for j in range(k):
        coordinates[j], amounts[j] = 0, 0.0
        if basis[j] >= k and multipliers[j] != 0.0:
            column = basis[j] - k
            coordinates[j], amounts[j] = column, -multipliers[j] / lengths[column]
            cost += weight * abs(amounts[j])
            for i in range(k):
                part = normals[basis[j], i] * multipliers[j]
                rest[i] -= part
                terms += weights[i] * abs(part)
    dual = size = 0.0
    for j in range(k):
        cost += weights[j] * abs(rest[j])
        terms += weights[j] * abs(s[j])
        dual += vertex[j] * s[j]
        size += abs(vertex[j] * s[j])
    # The polytope holds 0, so a vertex outside by a factor of 1 + e is inside after division by it.
    bound = dual / (1.0 + excess) - (k + 2) * _EPS * size
    return cost, max(cost - bound, 0.0) + (k + 4) * _EPS * (terms + cost)


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(  # type: ignore[no-untyped-def]
    residuals, normals, bounds, lengths, weights, weight, columns, bases, sides, inverses, excess,
    coordinates, amounts, value, gap, todo,
):  # fmt: skip
    """Take the best vertex for each row, and of its bases one whose multipliers have the right signs."""
    k, count = columns.shape
    heights = np.empty(count)
    multipliers, trial, vertex = np.empty(k), np.empty(k), np.empty(k)
    for row in range(residuals.shape[0]):
        s = residuals[row]
        size = 0.0
        for j in range(k):
            size += weights[j] * abs(s[j])
        best = _heights(columns, s, heights)
        top = abs(heights[best])
        least = _multipliers(inverses[best], sides[best], heights[best], s, multipliers)
        if least < 0.0:
            # Another basis of the same vertex, or of one that rounding does not tell from it.
            for other in range(count):
                if abs(heights[other]) >= top * (1.0 - 1e-9):
                    found = _multipliers(inverses[other], sides[other], heights[other], s, trial)
                    if found > least:
                        least, best = found, other
                        multipliers[:] = trial
        sign = 1.0 if heights[best] >= 0.0 else -1.0
        for j in range(k):
            vertex[j] = sign * columns[j, best]
        value[row], gap[row] = _record(
            s, normals, lengths, weights, weight, bases[best], multipliers, vertex, excess[best],
            coordinates[row], amounts[row],
        )  # fmt: skip
        todo[row] = not gap[row] <= _SETTLED * size


@njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nnan", "ninf", "nsz", "contract"}
)  # rows are finite, and the order of a sum is free
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


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _pivot(  # type: ignore[no-untyped-def]
    residuals, normals, bounds, lengths, weights, weight, table, limits, coordinates, amounts, value, gap, todo
):
    """Run the dual simplex method on the rows to do; those that it finishes are done."""
    k = normals.shape[1]
    single = np.zeros(table.shape[1], dtype=np.float32)
    prices = np.empty(limits.shape, dtype=np.float32)
    keys = prices.view(np.int32)
    # Vectors b_j with ⟨b_j, n_c⟩ = 1 for the j-th constraint of the basis, and 0 for its others.
    inverse = np.empty((k, k))
    vertex, multipliers, sides, entering, ratios = np.empty((5, k))
    basis = np.empty(k, dtype=np.int64)
    patience = 200 * (k + 10)
    for row in range(residuals.shape[0]):
        if not todo[row]:
            continue
        s = residuals[row]
        size = 0.0
        for j in range(k):
            size += weights[j] * abs(s[j])
        if not np.isfinite(size):
            value[row] = gap[row] = np.nan
            continue
        inverse[:] = 0.0
        for j in range(k):
            inverse[j, j] = 1.0
            basis[j], multipliers[j], sides[j] = j, s[j], (1.0 if s[j] >= 0.0 else -1.0)
            vertex[j] = sides[j] * bounds[j]
        refreshed = 0
        for turn in range(2 * patience):
            cautious = turn >= patience
            length = 0.0
            for j in range(k):
                single[j] = vertex[j]
                length += vertex[j] * vertex[j]
            # The normals and p in float32, and their product: rounding, as the normals have length 1.
            rounding = (k + 8) * _SINGLE_EPS * math.sqrt(length)
            violation, q = _price(table, limits, single, prices, keys)
            if violation <= rounding or cautious:
                q, excess = _price_exactly(normals, bounds, vertex, prices, rounding, cautious)
            if q >= 0:
                if not _exchange(
                    q, normals, bounds, basis, sides, multipliers, inverse, vertex, entering, ratios, cautious
                ):
                    break
                continue
            value[row], gap[row] = _record(
                s, normals, lengths, weights, weight, basis, multipliers, vertex, excess, coordinates[row], amounts[row]
            )
            if gap[row] <= _SETTLED * size or refreshed == 2:
                todo[row] = False
                break
            refreshed += 1
            _refresh(s, normals, bounds, basis, sides, multipliers, inverse, vertex)
        if todo[row]:
            value[row], gap[row] = size, np.inf
            coordinates[row], amounts[row] = 0, 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _exchange(q, normals, bounds, basis, sides, multipliers, inverse, vertex, entering, ratios, cautious):  # type: ignore[no-untyped-def]
    """Let a violated constraint enter the basis; False where none can leave."""
    k = vertex.size
    normal = normals[q]
    inside = 0.0
    for j in range(k):
        inside += normal[j] * vertex[j]
    sign = 1.0 if inside > 0.0 else -1.0
    for j in range(k):
        total = 0.0
        for i in range(k):
            total += inverse[j, i] * normal[i]
        entering[j] = sign * total
    leaving, step = _ratio_test(entering, multipliers, sides, basis, bounds, abs(inside) - bounds[q], ratios, cautious)
    if leaving < 0:
        return False
    pivot = inverse[leaving]
    scale = 1.0 / entering[leaving]
    level = bounds[q]
    for i in range(k):
        pivot[i] *= scale
        vertex[i] = level * pivot[i]
    for j in range(k):
        if j != leaving:
            line, share, side = inverse[j], entering[j], sides[j] * bounds[basis[j]]
            for i in range(k):
                line[i] -= share * pivot[i]
                vertex[i] += side * line[i]
            multipliers[j] -= step * share
    for i in range(k):
        pivot[i] *= sign
    basis[leaving], sides[leaving], multipliers[leaving] = q, sign, sign * step
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _refresh(s, normals, bounds, basis, sides, multipliers, inverse, vertex):  # type: ignore[no-untyped-def]
    """Invert the basis anew, where rounding has gathered in its inverse."""
    k = s.size
    for j in range(k):
        inverse[j] = normals[basis[j]]
    inverse[:] = np.linalg.inv(inverse).T
    vertex[:] = 0.0
    for j in range(k):
        total = 0.0
        for i in range(k):
            total += inverse[j, i] * s[i]
        multipliers[j] = total
        # A multiplier of the wrong sign belongs to the other bound.
        sides[j] = sides[j] if total == 0.0 else np.sign(total)
        for i in range(k):
            vertex[i] += sides[j] * bounds[basis[j]] * inverse[j, i]


@njit(cache=True, nogil=True, error_model="numpy")
def _ratio_test(entering, multipliers, sides, basis, bounds, slope, ratios, cautious):  # type: ignore[no-untyped-def]
    """Which constraint leaves, and the step; those passed before it change to their other bound, unless cautious."""
    k = entering.size
    for j in range(k):
        rate = sides[j] * entering[j]
        ratios[j] = max(sides[j] * multipliers[j], 0.0) / rate if rate > 1e-10 else np.inf
    while True:
        leaving, step = -1, np.inf
        for j in range(k):
            if ratios[j] < step:
                leaving, step = j, ratios[j]
        if leaving < 0:
            return leaving, step
        for j in range(k):
            # Of ties the largest pivot; Bland's rule, which cannot cycle, takes the first constraint instead.
            if ratios[j] == step and (
                basis[j] < basis[leaving] if cautious else abs(entering[j]) > abs(entering[leaving])
            ):
                leaving = j
        slope -= 2.0 * abs(entering[leaving]) * bounds[basis[leaving]]
        if slope <= 0.0 or cautious:
            return leaving, step
        ratios[leaving] = np.inf
        sides[leaving] = -sides[leaving]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _price(table, limits, vertex, prices, keys):  # type: ignore[no-untyped-def]
    """Write |⟨n_c, p⟩| − h_c in float32; returns the largest, and its constraint, or −1 where none is positive.

    Positive floats are in the order of their bits as integers, of which, unlike floats, a maximum is found in lanes:
    `keys` are the same numbers as `prices`, read so.
    """
    chunks, padded, width = table.shape
    top, where = np.int32(0), -1
    for chunk in range(chunks):
        rows, limit, price, key = table[chunk], limits[chunk], prices[chunk], keys[chunk]
        for start in range(0, padded, _UNROLLED):
            a, b, c, d = vertex[start], vertex[start + 1], vertex[start + 2], vertex[start + 3]
            e, f, g, h = vertex[start + 4], vertex[start + 5], vertex[start + 6], vertex[start + 7]
            for i in range(width):
                part = a * rows[start, i] + b * rows[start + 1, i] + c * rows[start + 2, i] + d * rows[start + 3, i]
                rest = e * rows[start + 4, i] + f * rows[start + 5, i] + g * rows[start + 6, i] + h * rows[start + 7, i]
                price[i] = part + rest if start == 0 else price[i] + (part + rest)
        for i in range(width):
            price[i] = abs(price[i]) - limit[i]
        largest = np.int32(0)
        for i in range(width):
            largest = max(largest, key[i])
        if largest > top:
            top, where = largest, chunk
    if where < 0:
        return np.float32(0.0), -1
    key, place = keys[where], 0
    for i in range(width):
        place = max(place, i if key[i] == top else 0)
    return prices[where, place], where * width + place


@njit(cache=True, nogil=True, error_model="numpy")
def _price_exactly(normals, bounds, vertex, prices, margin, first):  # type: ignore[no-untyped-def]
    """The constraint violated most, or first, beyond rounding, −1 where none is; and the largest relative excess.

    Prices in float32 that are below −margin prove their constraints.
    """
    k = vertex.size
    flat = prices.ravel()
    worst, excess, where = 0.0, 0.0, -1
    for c in range(normals.shape[0]):
        if flat[c] < -margin:
            continue
        inside = size = 0.0
        for j in range(k):
            part = normals[c, j] * vertex[j]
            inside += part
            size += abs(part)
        rounding = (k + 2) * _EPS * size
        violation = abs(inside) - bounds[c]
        excess = max(excess, (violation + rounding) / bounds[c])
        if violation > 16.0 * rounding and violation > worst and not (first and where >= 0):
            worst, where = violation, c
    return where, excess
