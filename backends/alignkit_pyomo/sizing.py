"""How long rows take, and how many processes share them."""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Floats
from alignkit_pyomo.preparation import Prepared
from alignkit_pyomo.workers import SECONDS_TO_START, cores

__all__ = ["nodes_per_row", "seconds", "seconds_per_row", "worker_count"]

#: Measured on one core: of a model by itself and for each of its columns, by HiGHS and by SCIP.
_SECONDS_BY_HIGHS, _SECONDS_BY_SCIP = 1e-3, 6e-3
_SECONDS_PER_COLUMN = 1e-5
#: Of a step: writing it, and cutting it off.
_SECONDS_PER_STEP = 1.5e-3
#: Of a node of the search tree, for each relation.
_SECONDS_PER_NODE = 1.5e-4
#: Nodes are about a·b^(ck) where the arguments of curves move through b half turns: sums of waves, k = 1 to 3.
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
    bends = 1.0
    for step in prepared.program.steps:
        if step.is_bent:
            low, high = step.inputs.interval(ball.centres, radii, lower, upper)
            width = _widest(low, high) / _HALF_TURN
            bends = max(bends, width if step.is_wave else min(width, _BENDS))
    searched = _NODES * bends ** (_GROWTH * k) if any(step.is_bent for step in prepared.program.steps) else 0.0
    return float(1.0 + searched + prepared.choices**1.5)


def seconds_per_row(prepared: Prepared) -> float:
    """What a row takes one core, about."""
    displacement = prepared.problem.displacement
    columns = 0 if displacement is None else 2 * displacement.size
    steps = len(prepared.program.steps)
    alone = _SECONDS_BY_HIGHS if prepared.is_linear else _SECONDS_BY_SCIP
    searched = nodes_per_row(prepared) * _SECONDS_PER_NODE * (1 + steps)
    return alone + _SECONDS_PER_COLUMN * columns + _SECONDS_PER_STEP * steps + searched


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


def _widest(low: Floats, high: Floats) -> float:
    widths = high - low
    return float(np.where(np.isfinite(widths), widths, 1e6).max(initial=0.0))
