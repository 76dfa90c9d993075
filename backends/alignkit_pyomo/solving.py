"""One model solved, by the solver for its kind."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from alignkit_pyomo import highs, scip
from alignkit_pyomo.model import Answer, Model

__all__ = ["Task", "solved"]


@dataclass(frozen=True, eq=False)
class Task:
    """A model with how well it is to be solved.

    Arguments:
        model: the model.
        gap: how far bound and incumbent may lie apart, in units of its objective.
        floor: a value of the objective that is known to be reached.
        seconds: the time limit.
    """

    model: Model
    gap: float
    floor: float
    seconds: float


def solved(task: Task) -> Answer:
    """Solve by HiGHS what is linear, and by SCIP the rest.

    Arguments:
        task: what to solve.
    """
    solve = highs.solve if task.model.is_linear else scip.solve
    begun = time.perf_counter()
    answer = solve(task.model, gap=task.gap, floor=task.floor, seconds=task.seconds)
    return replace(answer, seconds=time.perf_counter() - begun)
