"""What bounds the polytope that rows share, and the move with its certificate that a basis of its constraints gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from alignkit.contracts import Floats
from alignkit_numba.vectors import compiled, inlined

__all__ = ["SETTLED", "Constraints", "record_move", "scale_of"]

#: Relative gap above which a row is worked on further.
SETTLED = 1e-11

_EPS = float(np.finfo(np.float64).eps)


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


@inlined
def scale_of(s, base, constraints):  # type: ignore[no-untyped-def]
    """What the terms of a row's objective amount to."""
    size = abs(base)
    for j in range(s.size):
        size += constraints.weights[j] * abs(s[j])
    return size


@compiled
def record_move(s, base, constraints, basis, multipliers, vertex, excess, coordinates, amounts, rest):  # type: ignore[no-untyped-def]
    """Write the move of a basis, and return what it attains and its gap to a vertex that is `excess` outside."""
    k = s.size
    for j in range(k):
        rest[j] = s[j]
    cost, terms = base, 2.0 * abs(base) + scale_of(s, base, constraints)
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
