"""Transport under the ℓ1 cost with a polyhedral reward of few rows: linear programs that share a polytope.

For A (k, d), weights w and λ > 0, the move of a row x with s = Ax − t solves

    min_δ Σ_j w_j|s_j + (Aδ)_j| + λ‖δ‖₁  =  max {⟨p, s⟩ : |p_j| ≤ w_j, |⟨a_i, p⟩| ≤ λ},     a_i the columns of A,

by linear duality; a linear reward ⟨g, x⟩ beside it makes that |⟨a_i, p⟩ − g_i| ≤ λ. At a vertex p whose k active
normals n_c (of the e_j and a_i) have s = Σ_c μ_c n_c with the signs of their constraints, δ_i = −μ_i on the active
columns is optimal: it moves at most k entries. A largest piece, t·max_j (s_j + (Aδ)_j), has θ ≥ 0 with Σ_j θ_j = t in
the place of p; θ_k = t − Σ_{j<k} θ_j leaves k − 1 dimensions.

Up to k = 3 the vertices for absolute values are listed once, and a row takes the best one. Otherwise each row runs the
dual simplex method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import ParameterError, UnboundedTransportError
from alignkit_numba.bases import Constraints
from alignkit_numba.dual_simplex import PriceTables, Room, make_room, pivot, price_tables
from alignkit_numba.rooms import Rooms
from alignkit_numba.vectors import compiled
from alignkit_numba.vertices import Listed, list_vertices, look_up, look_up_on_a_line

__all__ = ["DualPolytope", "SparseMoves", "absolute_polytope", "move_seen", "solve_over_polytope", "top_polytope"]

#: A polytope that misses its bounds by their rounding, relatively, is flat rather than empty.
_FLAT = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class DualPolytope:
    """The polytope that all rows of a problem share, made by `absolute_polytope` or `top_polytope`.

    Arguments:
        constraints: what bounds it.
        tables: what its constraints are priced by.
        listed: its vertices; None where they are not listed.
    """

    constraints: Constraints
    tables: PriceTables
    listed: Listed | None = None

    @cached_property
    def rooms(self) -> Rooms[Room]:
        """What the simplex method writes to."""
        return Rooms(lambda: make_room(self.constraints, self.tables))


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
    return DualPolytope(constraints, price_tables(constraints), list_vertices(constraints))


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
    return DualPolytope(constraints, price_tables(constraints))


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
        look_up_on_a_line(residuals, constraints, polytope.listed, *answers)
    elif polytope.listed is not None:
        count = polytope.listed.vertices.shape[1]
        look_up(residuals, base, constraints, polytope.listed, *answers, np.empty(count), np.empty((4, k)))
    # Where a vertex's bases do not settle a row, pivots do.
    if todo.any():
        room = polytope.rooms.take()
        pivot(residuals, base, constraints, *polytope.tables, *answers, room)
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
