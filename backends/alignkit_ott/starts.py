"""Where the rows of a problem with several local maxima start."""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Displacement, Floats, ProxProblem

__all__ = ["starts"]

#: Where f has no Lipschitz constant: radii relative to 1 + |v|.
_REACH = 4.0


def starts(problem: ProxProblem, points: Floats, count: int) -> Floats:
    """Displacements to start from, the same pattern for every row: none first, then points of a ball.

    Where f is L-Lipschitz all maximisers lie in the ball: under half the squared distance its radius is L/λ.

    Arguments:
        problem: f, λ and the penalty.
        points: v, (n, k).
        count: how many for each row.

    Returns:
        δ, (count, n, m).
    """
    displacement = problem.displacement
    size = problem.dimension if displacement is None else displacement.size
    pattern = _ball(count, size)
    reach = _reach(problem, displacement, size)
    radii = np.full(len(points), reach)
    if not math.isfinite(reach):
        radii = _REACH * (1.0 + np.linalg.norm(points, axis=1))
    return np.asarray(pattern[:, None, :] * radii[None, :, None])


def _reach(problem: ProxProblem, displacement: Displacement | None, size: int) -> float:
    steepest = problem.nonlinear.lipschitz
    if displacement is None or not math.isfinite(steepest):
        return steepest / problem.weight
    spread = 1.0 if displacement.rows is None else float(np.linalg.norm(displacement.rows, 2))
    slope = steepest * spread + float(np.linalg.norm(displacement.linear))
    best = getattr(displacement.cost, "best_displacement", None)
    if best is None:
        return math.inf
    with np.errstate(over="ignore"):
        farthest = float(np.linalg.norm(best(slope / problem.weight * np.eye(1, size)), axis=1).max())
    return farthest if farthest > 0.0 else math.inf


def _ball(count: int, size: int) -> Floats:
    """0 and points that fill the unit ball evenly, (count, m): a Kronecker sequence, its coordinates made directions.

    Source: M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.
    """
    from scipy.special import ndtri

    # The root of x^(m + 2) = x + 1, whose powers are the steps of the sequence.
    root = 1.5
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (size + 2))
    steps = root ** -np.arange(1.0, size + 2.0)
    levels = (0.5 + np.arange(1, count)[:, None] * steps) % 1.0
    directions = ndtri(np.clip(levels[:, :size], 1e-9, 1.0 - 1e-9))
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    radii = levels[:, size:] ** (1.0 / size)
    return np.concatenate([np.zeros((1, size)), radii * directions / np.maximum(lengths, 1e-9)])
