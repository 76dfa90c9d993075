"""Rows of a batch on their way to a kernel and back, in one pass each: what they amount to, and who is done."""

from __future__ import annotations

import math

from alignkit_numba.vectors import compiled

__all__ = ["add_slip", "begin", "settle"]


@compiled
def begin(points, root, shift, centres):  # type: ignore[no-untyped-def]
    """c = √λ·v + h/√λ of rows v, (n, k), where no quadratic summand takes part."""
    for row in range(points.shape[0]):
        for i in range(points.shape[1]):
            centres[row, i] = points[row, i] * root + shift[i]


@compiled
def add_slip(centres, solutions, scales, slip, steepness, gap):  # type: ignore[no-untyped-def]
    """Add to the gaps what rounding may change by moving c on the way in and y on the way out.

    Arguments:
        centres, solutions: c and y, (n, k).
        scales: s, (n,).
        slip: how far both are moved, over their sizes.
        steepness: a Lipschitz constant of φ.
        gap: (n,), added to.
    """
    for row in range(len(gap)):
        centre, solution = 0.0, 0.0
        for i in range(centres.shape[1]):
            centre += centres[row, i] * centres[row, i]
            solution += solutions[row, i] * solutions[row, i]
        moved = slip * (math.sqrt(centre) + math.sqrt(solution))
        # ‖y − c‖ ≤ s·steepness, so that neither part of the objective changes by more than this along a move.
        gap[row] += moved * (2.0 * steepness * scales[row] + moved)


@compiled
def settle(  # type: ignore[no-untyped-def]
    centres,
    solutions,
    scales,
    points,
    maximisers,
    root,
    weights,
    constant,
    vector,
    hessian,
    tolerance,
    gap,
    value,
    unfinished,
):
    """Write f(z) in place of φ, and which rows miss the tolerance.

    Arguments:
        centres, solutions: c and y, (n, k).
        scales: s, (n,).
        points, maximisers: v and z, (n, k).
        root: √λ, for z = y/√λ to be written here; 0 where it is written.
        weights: λ of each row, (n,), or of all of them, (1,).
        constant, vector, hessian: f(z) = constant + ⟨vector, z⟩ + ½⟨z, Hz⟩ − φ; no rows of H where it is 0.
        tolerance: the largest relative gap wanted.
        gap: (n,).
        value: (n,), φ on entry and f(z) on return.
        unfinished: (n,), written to.

    Returns:
        1 where all rows are done, else at most a half: the share of the tolerance that a kernel, whose objective
        differs by a constant of the row, has to be asked for.
    """
    least = 1.0
    for row in range(len(gap)):
        loss, distance = value[row], 0.0
        earned = constant - loss
        for i in range(points.shape[1]):
            if root > 0.0:
                maximisers[row, i] = solutions[row, i] / root
            entry = maximisers[row, i]
            earned += vector[i] * entry
            distance += 0.5 * (entry - points[row, i]) ** 2
            if len(hessian) > 0:
                for j in range(points.shape[1]):
                    earned += 0.5 * entry * hessian[i, j] * maximisers[row, j]
        value[row] = earned
        wanted = tolerance * max(1.0, abs(earned - weights[row if len(weights) > 1 else 0] * distance))
        unfinished[row] = not gap[row] <= wanted
        if unfinished[row]:
            least = min(least, 0.5)
            if gap[row] > 0.0:
                least = min(least, 0.5 * wanted / gap[row])
            apart = 0.0
            for i in range(points.shape[1]):
                apart += 0.5 * (solutions[row, i] - centres[row, i]) ** 2
            # The gap it found may be far within the one it was asked for, and it would stop there again.
            allowed = tolerance * max(1.0, scales[row], abs(apart + scales[row] * loss))
            if allowed > 0.0:
                least = min(least, 0.5 * wanted * scales[row] / allowed)
    return least
