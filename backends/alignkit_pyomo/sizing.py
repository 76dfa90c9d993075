"""How long rows take, and how many processes share them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alignkit.contracts import Floats
from alignkit_pyomo.preparation import Prepared
from alignkit_pyomo.steps import Step
from alignkit_pyomo.workers import SECONDS_TO_START, cores

__all__ = ["nodes_per_row", "seconds", "seconds_per_row", "worker_count"]

#: Measured on one core: of a model by itself, by HiGHS, by SCIP, and by SCIP where a curve is not convex.
_SECONDS_BY_HIGHS, _SECONDS_BY_SCIP, _SECONDS_AT_BENDS = 1e-3, 2e-2, 4e-2
_SECONDS_PER_COLUMN = 1e-5
#: Of a step: writing it, and cutting it off.
_SECONDS_PER_STEP = 1.5e-3
#: Of an argument's dependence on a coordinate, in curves that are not convex.
_SECONDS_PER_ENTRY = 1.3e-3
#: What SCIP takes at the root to choose between pieces, and how it grows with these and with all such dependences.
_SECONDS_TO_CHOOSE, _BY_CHOICES, _BY_ENTRIES = 3.5e-2, 0.3, 0.7
#: Of a node of the search tree, for each relation and for each dependence.
_SECONDS_PER_NODE, _SECONDS_PER_NODE_AND_ENTRY = 1.5e-4, 1e-5
#: Nodes are about a·b^(ck) where the arguments of curves move through b half turns: sums of waves, k = 1 to 3. Fewer
#: arguments than coordinates count in place of k, but nodes are more by as much as there are more coordinates.
_NODES, _GROWTH, _HALF_TURN = 30.0, 0.6, math.pi
#: How often a curve that is no wave may change the way it bends.
_BENDS = 3.0


def nodes_per_row(prepared: Prepared) -> float:
    """How many nodes a search takes, about, by how often curves change the way they bend, and by choices of pieces.

    It is told at a row in the origin, as there are no others yet.
    """
    k = prepared.program.parts.dimension
    ball = prepared.reach.ball(np.zeros((1, k)))
    radii = np.where(np.isfinite(ball.radii), ball.radii, 1.0)
    lower, upper = prepared.program.bounds(ball.centres, radii)
    bends, arguments = 1.0, 0
    for step in _bent(prepared):
        low, high = step.inputs.interval(ball.centres, radii, lower, upper)
        width = _widest(low, high) / _HALF_TURN
        bends = max(bends, width if step.is_wave else min(width, _BENDS))
        arguments += len(step.inputs.constant)
    searched = 0.0
    if arguments:
        searched_over = min(k, arguments)
        searched = _NODES * bends ** (_GROWTH * searched_over) * k / searched_over
    return float(1.0 + searched + prepared.choices**1.5)


def seconds_per_row(prepared: Prepared) -> float:
    """What a row takes one core, about."""
    displacement = prepared.problem.displacement
    columns = 0 if displacement is None else 2 * displacement.size
    steps, bent = prepared.program.steps, _bent(prepared)
    of_node = _SECONDS_PER_NODE * (1 + len(steps)) + _SECONDS_PER_NODE_AND_ENTRY * _entries(bent)
    written = _SECONDS_PER_COLUMN * columns + _SECONDS_PER_STEP * len(steps)
    searched = nodes_per_row(prepared) * of_node
    if prepared.is_linear:
        return _SECONDS_BY_HIGHS + written + searched
    at_root = _SECONDS_BY_SCIP + _SECONDS_PER_ENTRY * _entries(bent) + (_SECONDS_AT_BENDS if bent else 0.0)
    if prepared.choices:
        entries = _entries(steps) + columns * prepared.program.parts.dimension
        at_root += _SECONDS_TO_CHOOSE * prepared.choices**_BY_CHOICES * entries**_BY_ENTRIES
    return at_root + written + searched


def seconds(prepared: Prepared, rows: int, wanted: int | None) -> float:
    """What so many rows take, about.

    Arguments:
        prepared: the problem.
        rows: how many.
        wanted: how many processes; None for what `worker_count` says.
    """
    count = worker_count(prepared, rows, wanted)
    return max(rows, 1) * seconds_per_row(prepared) / count + (SECONDS_TO_START if count > 1 else 0.0)


def worker_count(prepared: Prepared, rows: int, wanted: int | None) -> int:
    """How many processes so many rows are worth.

    Arguments:
        prepared: the problem.
        rows: how many.
        wanted: how many the user wants; None for at most the number of cores.
    """
    if wanted is not None:
        return max(1, min(wanted, rows))
    work = rows * seconds_per_row(prepared)
    return max(1, min(cores(), rows // 2, math.floor(work / SECONDS_TO_START)))


def _bent(prepared: Prepared) -> list[Step]:
    return [step for step in prepared.program.steps if step.is_bent]


def _entries(steps: Sequence[Step]) -> int:
    """How often an argument depends on a coordinate or on an output."""
    return sum(int(np.count_nonzero(step.inputs.points) + np.count_nonzero(step.inputs.outputs)) for step in steps)


def _widest(low: Floats, high: Floats) -> float:
    widths = high - low
    return float(np.where(np.isfinite(widths), widths, 1e6).max(initial=0.0))
