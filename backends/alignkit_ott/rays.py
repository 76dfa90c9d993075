"""Whether an objective rises without end, seen along a few rays: local maxima do not tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, ProxProblem
from alignkit_ott.compiled import evaluate_rows

__all__ = ["rises_without_end"]

#: Axes and random directions that are looked along, both ways.
_AXES, _OTHERS = 8, 4
#: How far, relative to 1 + |v| + |δ|.
_RADII = 10.0 ** np.arange(1, 8)


def rises_without_end(
    problem: ProxProblem, points: Floats, displacement: Floats, objective: Floats, device: Any
) -> NDArray[np.bool_]:
    """Rows whose objective exceeds what was found far out along a ray, and is still rising there.

    Arguments:
        problem: f, λ and the penalty.
        points: v, (n, k).
        displacement: δ that was found, (n, m).
        objective: (n,), there.
        device: of jax.

    Returns:
        (n,); a row that is not among them may still be unbounded along a direction that was not tried.
    """
    count, size = displacement.shape
    found = np.zeros(count, dtype=bool)
    if count == 0:
        return found
    lengths = 1.0 + np.linalg.norm(points, axis=1) + np.linalg.norm(displacement, axis=1)
    for direction in (*_directions(size), None):
        along = np.broadcast_to(direction, displacement.shape) if direction is not None else _unit(displacement)
        levels = []
        for radius in _RADII:
            steps = (radius * lengths)[:, None] * along
            value, _ = evaluate_rows(problem.nonlinear, points + _spread(problem, steps), device)
            levels.append(_objective(problem, steps, value))
        last, before = levels[-1], levels[-2]
        found |= (last > before) & (before > objective) | np.isposinf(last)
    return found


def _spread(problem: ProxProblem, steps: Floats) -> Floats:
    given = problem.displacement
    return steps if given is None or given.rows is None else steps @ given.rows.T


def _objective(problem: ProxProblem, steps: Floats, value: Floats) -> Floats:
    given = problem.displacement
    if given is None:
        found = value - 0.5 * problem.weight * (steps**2).sum(axis=1)
    else:
        found = value + steps @ given.linear - problem.weight * np.asarray(given.cost.of_displacement(steps))
    return np.where(np.isnan(found), -np.inf, found)


def _directions(size: int) -> Floats:
    axes = np.eye(min(size, _AXES), size)
    others = np.random.default_rng(0).standard_normal((_OTHERS, size))
    both = np.concatenate([axes, others / np.linalg.norm(others, axis=1, keepdims=True)])
    return np.concatenate([both, -both])


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 0.0, rows / np.where(lengths > 0.0, lengths, 1.0), 0.0)
