"""Transport under the ℓ1 cost with a polyhedral reward of few rows: linear programs that share a polytope.

For A (k, d), weights w and λ > 0, the move of a row x with s = Ax − t solves

    min_δ Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁  =  max {⟨p, s⟩ : |p_j| ≤ w_j, |⟨a_i, p⟩| ≤ λ},     a_i the columns of A,

by linear duality; a linear reward ⟨g, x⟩ beside it makes that |⟨a_i, p⟩ − g_i| ≤ λ. At a vertex p whose k active
normals n_c (of the e_j and a_i) have s = Σ_c μ_c n_c with the signs of their constraints, δ_i = −μ_i on the active
columns is optimal: it moves at most k entries. A largest piece, t·max_j (s_j + (Aδ)_j), has θ ≥ 0 with Σ_j θ_j = t in
the place of p; θ_k = t − Σ_{j<k} θ_j leaves k − 1 dimensions.

Up to k = 3 the vertices for absolute values are listed once, as facets of the convex hull of the normals over their
bounds, and a row takes the best one. Otherwise each row runs the dual simplex method from the best vertex of the box:
the most violated constraint enters, prices being found in float32 until these see none, and a constraint leaves by the
bound-flipping ratio test (R. Fourer, "Notes on the dual simplex method", 1994). Of many rows, what one pass of pricing
finds violated most is priced alone until little of it is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import ParameterError, UnboundedTransportError
from alignkit_numba.rooms import Rooms
from alignkit_numba.vectors import compiled, inlined

__all__ = ["DualPolytope", "SparseMoves", "absolute_polytope", "move_seen", "solve_over_polytope", "top_polytope"]

_EPS, _SINGLE_EPS = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)
#: Largest k for which vertices are listed, and how many at most.
_LISTED_DIMENSION, _LARGEST_LIST = 3, 2_000
#: Constraints are priced in chunks of this many, so that a chunk's prices stay in the nearest cache.
_CHUNK = 64
#: Rows of normals that one sweep of a chunk multiplies.
_UNROLLED = 8
#: How many violated constraints are priced without the others, until none is violated by this share of the largest.
_CANDIDATES, _LEFT = 64, 0.3
#: Below this k it takes as long to list candidates as to price all constraints.
_DEAR = 16
#: A polytope that misses its bounds by their rounding, relatively, is flat rather than empty.
_FLAT = 64 * _EPS
#: Relative gap above which a row is worked on further.
_SETTLED = 1e-11


class Constraints(NamedTuple):
    """{p : |⟨n_c, p⟩ − m_c| ≤ h_c}: the box first, then what else bounds p, then the columns of A.

    Arguments:
        normals: n_c, (count, k), float64, of length 1; zero where a column is.
        centres: m_c, (count,).
        bounds: h_c > 0, (count,).
        columns: where the columns of A begin.
        lengths: by which these were divided, (d,).
        weights: of the k absolute values, or that of the largest piece k times, (k,).
        weight: λ.
        has_top: whether the reward is a largest piece, its last one in the place of the origin.
        interior: a p within the polytope, (k,), with |⟨n_c, p⟩ − m_c| ≤ (1 − margin)·h_c.
        margin: between 0 and 1.
    """

    normals: Floats
    centres: Floats
    bounds: Floats
    columns: int
    lengths: Floats
    weights: Floats
    weight: float
    has_top: bool
    interior: Floats
    margin: float


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


@dataclass(frozen=True, eq=False)
class DualPolytope:
    """The polytope that all rows of a problem share, made by `absolute_polytope` or `top_polytope`.

    Arguments:
        constraints: what bounds it.
        tables: the normals, with −m as a further entry where it is not 0, and the bounds, in float32 by chunks.
        listed: its vertices; None where they are not listed.
    """

    constraints: Constraints
    tables: tuple[NDArray[np.float32], NDArray[np.float32]]
    listed: Listed | None = None

    @cached_property
    def rooms(self) -> Rooms[Room]:
        """What the simplex method writes to."""
        return Rooms(lambda: _room(self))


@dataclass(frozen=True, eq=False)
class SparseMoves:
    """Moves of a batch of rows, at most k entries each.

    Arguments:
        coordinates: which entries of x move, (n, k); 0 where the amount is padding.
        amounts: by how much, (n, k), 0 as padding.
        value: Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁, or t·max_j (s_j + (Aδ)_j) + λ‖δ‖₁, (n,), what the move attains.
        gap: an upper bound on how far it lies above the minimum, rounding included, (n,).
        unfinished: rows that are not finite, or whose pivots ran out, (n,); their gap may be infinite.
    """

    coordinates: NDArray[np.int64]
    amounts: Floats
    value: Floats
    gap: Floats
    unfinished: NDArray[np.bool_]


def absolute_polytope(matrix: Floats, weights: Floats, weight: float, linear: Floats | None = None) -> DualPolytope:
    """Prepare the polytope of a reward ⟨g, x⟩ − Σ_j w_j|(Ax)_j − t_j| under the cost λ‖x − y‖₁.

    Arguments:
        matrix: A, (k, d); its rows may depend on each other.
        weights: w_j > 0, (k,).
        weight: λ > 0.
        linear: g, (d,); None for 0. The move's part −⟨g, δ⟩ belongs to its value.

    Returns:
        the polytope, for any number of batches.

    Raises:
        ParameterError: λ or a weight is not positive and finite, or an entry of A or g is not finite.
        UnboundedTransportError: the reward outgrows the cost, so that the polytope is empty.
    """
    matrix, weights = _checked(matrix, weights, weight)
    if linear is not None and not np.isfinite(linear).all():
        raise ParameterError("The linear part of a polyhedral reward has an entry that is not finite.")
    k, d = matrix.shape
    lengths, normals = _unit_columns(matrix)
    slopes = np.zeros(d) if linear is None else np.asarray(linear, dtype=np.float64)
    constraints = _constraints(
        np.concatenate([np.eye(k), normals]),
        np.concatenate([np.zeros(k), slopes / lengths]),
        np.concatenate([weights, weight / lengths]),
        lengths,
        weights,
        float(weight),
        has_top=False,
    )
    is_mirrored = not constraints.centres.any()
    listed = _listed(constraints) if is_mirrored and k <= _LISTED_DIMENSION else None
    return DualPolytope(constraints, _tables(constraints), listed)


def top_polytope(matrix: Floats, top: float, weight: float) -> DualPolytope:
    """Prepare the polytope of a reward −t·max_j (Ax + b)_j under the cost λ‖x − y‖₁.

    Arguments:
        matrix: A, (k, d) with k ≥ 2; a reward t·min_j (Bx + b)_j has A = −B.
        top: t > 0.
        weight: λ > 0.

    Returns:
        the polytope, for any number of batches.

    Raises:
        ParameterError: λ or t is not positive and finite, an entry of A is not finite, or A has a single row.
        UnboundedTransportError: the reward outgrows the cost, so that the polytope is empty.
    """
    matrix, weights = _checked(matrix, np.full(len(matrix) - 1, float(top)), weight)
    k = matrix.shape[0] - 1
    if k < 1:
        raise ParameterError("A largest piece is one of two pieces at least.")
    lengths, normals = _unit_columns(matrix[:-1] - matrix[-1])
    # 0 ≤ θ_j ≤ t for all pieces, that of the last one being t − Σ_j θ_j.
    half = 0.5 * top * np.append(np.ones(k), 1 / np.sqrt(k))
    constraints = _constraints(
        np.concatenate([np.eye(k), np.full((1, k), 1 / np.sqrt(k)), normals]),
        np.concatenate([half, -top * matrix[-1] / lengths]),
        np.concatenate([half, weight / lengths]),
        lengths,
        weights,
        float(weight),
        has_top=True,
    )
    return DualPolytope(constraints, _tables(constraints))


def _checked(matrix: Floats, weights: Floats, weight: float) -> tuple[Floats, Floats]:
    matrix, weights = np.asarray(matrix, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all() and 0 < weight < np.inf):
        raise ParameterError("The weights of a polyhedral reward and of an ℓ1 cost are positive and finite.")
    if not np.isfinite(matrix).all():
        raise ParameterError("The matrix of a polyhedral reward has an entry that is not finite.")
    return matrix, weights


def _unit_columns(matrix: Floats) -> tuple[Floats, Floats]:
    """The lengths of the columns, 1 for zero ones, and the columns over them as rows."""
    lengths = np.sqrt((matrix**2).sum(axis=0))
    lengths = np.where(lengths > 0, lengths, 1.0)
    return lengths, (matrix / lengths).T


def _constraints(
    normals: Floats, centres: Floats, bounds: Floats, lengths: Floats, weights: Floats, weight: float, *, has_top: bool
) -> Constraints:
    # What does not depend on p holds for all of the polytope, or there is none.
    constant = ~normals.any(axis=1)
    interior, margin = np.zeros(normals.shape[1]), 1.0
    if (np.abs(centres[constant]) > bounds[constant]).any():
        margin = -1.0
    centres = np.where(constant, 0.0, centres)
    if margin > 0 and centres.any():
        interior, margin = _interior(normals, centres, bounds)
    if margin < 0:
        raise UnboundedTransportError(
            "The reward grows faster than the ℓ1 cost in some direction, so that no move is best.",
            ways_out=["Raise the weight λ of closeness."],
        )
    columns = len(bounds) - len(lengths)
    return Constraints(normals, centres, bounds, columns, lengths, weights, weight, has_top, interior, margin)


def _interior(normals: Floats, centres: Floats, bounds: Floats) -> tuple[Floats, float]:
    """The point that is farthest from all bounds, relative to these, and how far; negative where there is none."""
    from scipy.optimize import linprog

    k = normals.shape[1]
    above = np.column_stack([normals / bounds[:, None], np.ones(len(bounds))])
    below = np.column_stack([-normals / bounds[:, None], np.ones(len(bounds))])
    middle = centres / bounds
    answer = linprog(
        -np.eye(1, k + 1, k)[0],
        A_ub=np.vstack([above, below]),
        b_ub=np.concatenate([1.0 + middle, 1.0 - middle]),
        bounds=[(None, None)] * (k + 1),
        method="highs",
    )
    if answer.x is None:
        return np.zeros(k), -1.0
    # Judged by the point that was found: the answer is within the solver's tolerance only.
    margin = float(np.min(1.0 - np.abs(normals @ answer.x[:k] - centres) / bounds))
    return np.asarray(answer.x[:k]), max(margin, 0.0) if margin > -_FLAT else margin


def _tables(constraints: Constraints) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normals as (chunks, k, _CHUNK) and bounds as (chunks, _CHUNK), padded by what is never violated."""
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    if centres.any():
        normals = np.column_stack([normals, -centres])
    count, k = normals.shape
    chunks, padded = -(-count // _CHUNK), -(-k // _UNROLLED) * _UNROLLED
    table = np.zeros((chunks * _CHUNK, padded), dtype=np.float32)
    table[:count, :k] = normals
    limits = np.full(chunks * _CHUNK, 1.0, dtype=np.float32)
    limits[:count] = np.minimum(bounds, 1e30)
    by_chunk = np.ascontiguousarray(table.reshape(chunks, _CHUNK, padded).transpose(0, 2, 1))
    return by_chunk, limits.reshape(chunks, _CHUNK)


def _listed(constraints: Constraints) -> Listed | None:
    """The vertices where all centres are 0, from the convex hull of the normals over their bounds; None if it fails."""
    from scipy.spatial import ConvexHull, QhullError

    normals, bounds = constraints.normals, constraints.bounds
    k = normals.shape[1]
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


def solve_over_polytope(polytope: DualPolytope, residuals: Floats) -> SparseMoves:
    """Move each row by the least of Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁, or of t·max_j (s_j + (Aδ)_j) + λ‖δ‖₁.

    Arguments:
        polytope: what all rows share.
        residuals: s = Ax − t of the rows, or Ax + b, (n, k), float64.

    Returns:
        the moves, each with its certificate.

    Example:
        >>> polytope = absolute_polytope(np.array([[2.0, 1.0]]), np.ones(1), 0.5)
        >>> moves = solve_over_polytope(polytope, np.array([[3.0], [-1.0]]))
        >>> moves.coordinates.ravel(), moves.amounts.ravel(), moves.value
        (array([0, 0]), array([-1.5,  0.5]), array([0.75, 0.25]))
    """
    constraints = polytope.constraints
    residuals = np.ascontiguousarray(residuals, dtype=np.float64)
    base = np.zeros(1)  # of all rows
    if constraints.has_top:
        base = constraints.weights[0] * residuals[:, -1]
        residuals = np.ascontiguousarray(residuals[:, :-1] - residuals[:, -1:])
    rows, k = residuals.shape
    coordinates, amounts = np.zeros((rows, k), dtype=np.int64), np.zeros((rows, k))
    # Apart, arrays are small enough for the allocator to hand out the pages that it knows.
    value, gap = np.empty(rows), np.empty(rows)
    todo = np.ones(rows, dtype=np.bool_)
    answers = coordinates, amounts, value, gap, todo
    if polytope.listed is not None and k == 1:
        _look_up_on_a_line(residuals, constraints, polytope.listed, *answers)
    elif polytope.listed is not None:
        count = polytope.listed.vertices.shape[1]
        _look_up(residuals, base, constraints, polytope.listed, *answers, np.empty(count), np.empty((4, k)))
    # Where a vertex's bases do not settle a row, pivots do.
    if todo.any():
        room = polytope.rooms.take()
        _pivot(residuals, base, constraints, *polytope.tables, *answers, room)
        polytope.rooms.give(room)
    if not math.isfinite(gap.sum()):
        lost = ~np.isfinite(gap)
        gap[lost] = np.inf
        todo |= lost
    return SparseMoves(coordinates, amounts, value, gap, todo)


@compiled
def move_seen(points, rows, coordinates, amounts):  # type: ignore[no-untyped-def]
    """Add Rδ to each row v, in place: of (n, k), with R transposed, (d, k), and the moves of `solve_over_polytope`."""
    for row in range(points.shape[0]):
        for place in range(amounts.shape[1]):
            for j in range(points.shape[1]):
                points[row, j] += amounts[row, place] * rows[coordinates[row, place], j]


@inlined
def _scale(s, base, constraints):  # type: ignore[no-untyped-def]
    """What the terms of a row's objective amount to."""
    size = abs(base)
    for j in range(s.size):
        size += constraints.weights[j] * abs(s[j])
    return size


@compiled
def _record(s, base, constraints, basis, multipliers, vertex, excess, coordinates, amounts, rest):  # type: ignore[no-untyped-def]
    """Write the move of a basis, and return what it attains and its gap to a vertex that is `excess` outside."""
    k = s.size
    for j in range(k):
        rest[j] = s[j]
    cost, terms = base, 2.0 * abs(base) + _scale(s, base, constraints)
    for j in range(k):
        coordinates[j], amounts[j] = 0, 0.0
        column = basis[j] - constraints.columns
        if column >= 0 and multipliers[j] != 0.0:
            coordinates[j], amounts[j] = column, -multipliers[j] / constraints.lengths[column]
            shift = multipliers[j] * constraints.centres[basis[j]]
            cost += constraints.weight * abs(amounts[j]) + shift
            terms += constraints.weight * abs(amounts[j]) + abs(shift)
            for i in range(k):
                part = constraints.normals[basis[j], i] * multipliers[j]
                rest[i] -= part
                terms += constraints.weights[i] * abs(part)
    if constraints.has_top:
        above = 0.0
        for j in range(k):
            above = max(above, rest[j])
        cost += constraints.weights[0] * above
    else:
        for j in range(k):
            cost += constraints.weights[j] * abs(rest[j])
    # So far from p towards the interior, every bound holds.
    share = excess / (excess + constraints.margin) if excess > 0.0 else 0.0
    bound, size = base, 0.0
    for j in range(k):
        bound += ((1.0 - share) * vertex[j] + share * constraints.interior[j]) * s[j]
        size += (abs(vertex[j]) + abs(constraints.interior[j])) * abs(s[j])
    return cost, max(cost - bound, 0.0) + (k + 4) * _EPS * (terms + size)


@compiled
def _look_up_on_a_line(residuals, constraints, listed, coordinates, amounts, value, gap, todo):  # type: ignore[no-untyped-def]
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
        todo[row] = not (found <= _SETTLED * weight * size and size < np.inf)


@compiled
def _look_up(residuals, base, constraints, listed, coordinates, amounts, value, gap, todo, heights, work):  # type: ignore[no-untyped-def]
    """Take the best vertex for each row, and of its bases one whose multipliers have the right signs."""
    k, count = listed.vertices.shape
    multipliers, trial, vertex, rest = work[0], work[1], work[2], work[3]
    for row in range(residuals.shape[0]):
        s = residuals[row]
        start = base[row if base.size > 1 else 0]
        size = _scale(s, start, constraints)
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
        value[row], gap[row] = _record(
            s, start, constraints, listed.bases[best], multipliers, vertex, listed.excess[best],
            coordinates[row], amounts[row], rest,
        )  # fmt: skip
        todo[row] = not gap[row] <= _SETTLED * size


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


class Room(NamedTuple):
    """What the simplex method writes to, its contents without meaning between calls.

    Arguments:
        inverse: vectors b_j with ⟨b_j, n_c⟩ = 1 for the j-th constraint of the basis, and 0 for its others, (k, k).
        correction: of these, (k, k).
        vertex, multipliers, sides, entering, ratios, levels, rest: (k,).
        basis: the constraints in it, (k,).
        single: the vertex, and 1 where normals have a further entry, in float32.
        prices, keys: the same numbers, see `_price`.
        candidates: constraints that are priced without the others, (_CANDIDATES,).
    """

    inverse: Floats
    correction: Floats
    vertex: Floats
    multipliers: Floats
    sides: Floats
    entering: Floats
    ratios: Floats
    levels: Floats
    rest: Floats
    basis: NDArray[np.int64]
    single: NDArray[np.float32]
    prices: NDArray[np.float32]
    keys: NDArray[np.int32]
    candidates: NDArray[np.int64]


def _room(polytope: DualPolytope) -> Room:
    k, (table, limits) = polytope.constraints.normals.shape[1], polytope.tables
    single = np.zeros(table.shape[1], dtype=np.float32)
    single[k : k + 1] = 1.0
    prices = np.empty(limits.shape, dtype=np.float32)
    basis = np.empty(k, dtype=np.int64)
    candidates = np.empty(_CANDIDATES, dtype=np.int64)
    inverse, correction = np.empty((2, k, k))
    vertex, multipliers, sides, entering, ratios, levels, rest = np.empty((7, k))
    return Room(
        inverse, correction, vertex, multipliers, sides, entering, ratios, levels, rest, basis, single, prices,
        prices.view(np.int32), candidates,
    )  # fmt: skip


@compiled
def _pivot(residuals, base, constraints, table, limits, coordinates, amounts, value, gap, todo, room):  # type: ignore[no-untyped-def]
    """Run the dual simplex method on the rows to do; those that it finishes are done."""
    k = residuals.shape[1]
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    inverse, vertex, multipliers, sides = room.inverse, room.vertex, room.multipliers, room.sides
    basis, single = room.basis, room.single
    farthest = 0.0
    for c in range(centres.size):
        farthest = max(farthest, abs(centres[c]))
    patience = 200 * (k + 10)
    for row in range(residuals.shape[0]):
        if not todo[row]:
            continue
        s = residuals[row]
        start = base[row if base.size > 1 else 0]
        size = _scale(s, start, constraints)
        if not np.isfinite(size):
            value[row] = gap[row] = np.nan
            continue
        for j in range(k):
            for i in range(k):
                inverse[j, i] = 1.0 if i == j else 0.0
            basis[j], multipliers[j], sides[j] = j, s[j], (1.0 if s[j] >= 0.0 else -1.0)
            vertex[j] = centres[j] + sides[j] * bounds[j]
        refreshed, held, least, excess = 0, 0, 0.0, 0.0
        for turn in range(2 * patience):
            cautious = turn >= patience
            q = -1
            if held > 0 and not cautious:
                q, held = _price_some(room.candidates, held, normals, centres, bounds, vertex, least)
            if q < 0:
                length = 0.0
                for j in range(k):
                    single[j] = vertex[j]
                    length += vertex[j] * vertex[j]
                # The normals, centres and p in float32, and their product: rounding, as the normals have length 1.
                rounding = (k + 9) * _SINGLE_EPS * (math.sqrt(length) + farthest)
                violation, q = _price(table, limits, single, room.prices, room.keys)
                least, held = _LEFT * violation, 0
                if k >= _DEAR:
                    held = _note(room.prices, least, room.candidates)
                if violation <= rounding or cautious:
                    held = 0
                    q, excess = _price_exactly(normals, centres, bounds, vertex, room.prices, rounding, cautious)
            if q >= 0:
                if not _exchange(q, constraints, room, cautious):
                    break
                continue
            value[row], gap[row] = _record(
                s, start, constraints, basis, multipliers, vertex, excess, coordinates[row], amounts[row], room.rest
            )
            if gap[row] <= _SETTLED * size or refreshed == 2:
                todo[row] = False
                break
            refreshed += 1
            _refresh(s, normals, centres, bounds, basis, sides, multipliers, inverse, room.correction, vertex)
        if todo[row]:
            value[row], gap[row] = np.nan, np.inf
            for j in range(k):
                coordinates[row, j], amounts[row, j] = 0, 0.0


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
def _exchange(q, constraints, room, cautious):  # type: ignore[no-untyped-def]
    """Let a violated constraint enter the basis; False where none can leave."""
    normals, centres, bounds = constraints.normals, constraints.centres, constraints.bounds
    inverse, vertex, multipliers, sides = room.inverse, room.vertex, room.multipliers, room.sides
    entering, ratios, basis, pivot, levels = room.entering, room.ratios, room.basis, room.rest, room.levels
    k = vertex.size
    normal, centre, bound = normals[q], centres[q], bounds[q]
    away = -centre
    for j in range(k):
        away += normal[j] * vertex[j]
    sign = 1.0 if away > 0.0 else -1.0
    whole = k - k % 4
    for j in range(0, whole, 4):
        a = b = c = d = 0.0
        for i in range(k):
            entry = normal[i]
            a, b = a + inverse[j, i] * entry, b + inverse[j + 1, i] * entry
            c, d = c + inverse[j + 2, i] * entry, d + inverse[j + 3, i] * entry
        entering[j], entering[j + 1], entering[j + 2], entering[j + 3] = sign * a, sign * b, sign * c, sign * d
    for j in range(whole, k):
        total = 0.0
        for i in range(k):
            total += inverse[j, i] * normal[i]
        entering[j] = sign * total
    leaving, step = _ratio_test(entering, multipliers, sides, basis, bounds, abs(away) - bound, ratios, cautious)
    if leaving < 0:
        return False
    scale = 1.0 / entering[leaving]
    for i in range(k):
        pivot[i] = inverse[leaving, i] * scale
        vertex[i] = 0.0
    for j in range(k):
        multipliers[j] -= step * entering[j]
        levels[j] = centres[basis[j]] + sides[j] * bounds[basis[j]]
    # The row of the pivot itself: what is left of it is nothing.
    levels[leaving] = 0.0
    for j in range(0, whole, 4):
        a, b, c, d = entering[j], entering[j + 1], entering[j + 2], entering[j + 3]
        e, f, g, h = levels[j], levels[j + 1], levels[j + 2], levels[j + 3]
        for i in range(k):
            entry = pivot[i]
            first, second = inverse[j, i] - a * entry, inverse[j + 1, i] - b * entry
            third, fourth = inverse[j + 2, i] - c * entry, inverse[j + 3, i] - d * entry
            vertex[i] += (e * first + f * second) + (g * third + h * fourth)
            inverse[j, i], inverse[j + 1, i] = first, second
            inverse[j + 2, i], inverse[j + 3, i] = third, fourth
    for j in range(whole, k):
        share, level = entering[j], levels[j]
        for i in range(k):
            entry = inverse[j, i] - share * pivot[i]
            vertex[i] += level * entry
            inverse[j, i] = entry
    level = bound + sign * centre
    for i in range(k):
        inverse[leaving, i] = sign * pivot[i]
        vertex[i] += level * pivot[i]
    basis[leaving], sides[leaving], multipliers[leaving] = q, sign, sign * step
    return True


@inlined
def _refresh(s, normals, centres, bounds, basis, sides, multipliers, inverse, correction, vertex):  # type: ignore[no-untyped-def]
    """Take a step of Newton's method for the inverse of the basis, where rounding has gathered in it."""
    k = s.size
    for j in range(k):
        for i in range(k):
            correction[j, i] = 0.0
        for c in range(k):
            defect = 1.0 if c == j else 0.0
            for i in range(k):
                defect -= inverse[j, i] * normals[basis[c], i]
            for i in range(k):
                correction[j, i] += defect * inverse[c, i]
    for i in range(k):
        vertex[i] = 0.0
    for j in range(k):
        total = 0.0
        for i in range(k):
            inverse[j, i] += correction[j, i]
            total += inverse[j, i] * s[i]
        multipliers[j] = total
        # A multiplier of the wrong sign belongs to the other bound.
        sides[j] = sides[j] if total == 0.0 else (1.0 if total > 0.0 else -1.0)
        level = centres[basis[j]] + sides[j] * bounds[basis[j]]
        for i in range(k):
            vertex[i] += level * inverse[j, i]


@inlined
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


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
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


@inlined
def _note(prices, least, candidates):  # type: ignore[no-untyped-def]
    """List constraints of a price above the least, as many as there is room for; returns how many."""
    chunks, width = prices.shape
    held = 0
    for chunk in range(chunks):
        for i in range(width):
            if prices[chunk, i] > least and held < candidates.size:
                candidates[held] = chunk * width + i
                held += 1
    return held


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}, _nrt=False)
def _price_some(candidates, held, normals, centres, bounds, vertex, least):  # type: ignore[no-untyped-def]
    """The candidate violated most, −1 where none is by more than the least, and how many still are."""
    k = vertex.size
    kept, where, worst = 0, -1, least
    for place in range(held):
        c = candidates[place]
        away = -centres[c]
        for j in range(k):
            away += normals[c, j] * vertex[j]
        violation = abs(away) - bounds[c]
        if violation > least:
            candidates[kept] = c
            kept += 1
            if violation > worst:
                worst, where = violation, c
    return where, kept


@inlined
def _price_exactly(normals, centres, bounds, vertex, prices, margin, first):  # type: ignore[no-untyped-def]
    """The constraint violated most, or first, beyond rounding, −1 where none is; and the largest relative excess.

    Prices in float32 that are below −margin prove their constraints.
    """
    k = vertex.size
    chunk = prices.shape[1]
    worst, excess, where = 0.0, 0.0, -1
    for c in range(bounds.size):
        if prices[c // chunk, c % chunk] < -margin:
            continue
        away = -centres[c]
        size = abs(away)
        for j in range(k):
            part = normals[c, j] * vertex[j]
            away += part
            size += abs(part)
        rounding = (k + 2) * _EPS * size
        violation = abs(away) - bounds[c]
        excess = max(excess, (violation + rounding) / bounds[c])
        if violation > 16.0 * rounding and violation > worst and not (first and where >= 0):
            worst, where = violation, c
    return where, excess
