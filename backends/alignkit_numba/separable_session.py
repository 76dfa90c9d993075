"""Sums of piecewise quadratics of single coordinates, in closed form, as a session."""

from __future__ import annotations

import numpy as np

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.expressions.splitting import split
from alignkit.transport.separable import Separable, separable_form
from alignkit_numba.methods import runs_on

__all__ = ["SeparableSession", "concave_separable", "separable_seconds"]


def concave_separable(problem: ProxProblem) -> Separable | None:
    """f by coordinates where it is such a sum, which λ makes strictly concave; else None."""
    form = separable_form(split(problem.nonlinear))
    return form if isinstance(form, Separable) and form.obstacle(problem.weight) is None else None


def separable_seconds(form: Separable) -> float:
    """Predicted time of a row on one core."""
    dimension, kinks = form.kinks.shape
    return 1e-8 + dimension * (4e-9 + 2e-9 * float(np.log2(1 + 2 * kinks)))


class SeparableSession:
    """A compiled proximal map of a separable reward, for any number of batches, that follows its parameters and λ.

    Arguments:
        problem: what is asked.
        form: its f by coordinates.
    """

    def __init__(self, problem: ProxProblem, form: Separable) -> None:
        self._prepare(problem, form)

    def _prepare(self, problem: ProxProblem, form: Separable) -> None:
        from alignkit_numba.separable import SeparableMap

        at_origin = float(np.asarray(problem.nonlinear.value(np.zeros((1, problem.dimension)))).item())
        self._map = SeparableMap.of(form, at_origin, problem.weight, problem.tolerance)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        found = self._map.solve(np.asarray(points, dtype=np.float64))
        if progress is not None:
            progress("numba", len(points), len(points))
        return found

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        is_of_kind = problem.displacement is None and runs_on(problem.device)
        form = concave_separable(problem) if is_of_kind else None
        if form is None:
            return False
        self._prepare(problem, form)
        return True
