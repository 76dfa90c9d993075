"""Quadratic rewards that λ dominates, in closed form, as a session."""

from __future__ import annotations

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.expressions.splitting import Quadratic, split
from alignkit_numba.methods import runs_on

__all__ = ["PROXIMAL_MAPS", "QuadraticSession", "dominated_quadratic", "quadratic_seconds"]

PROXIMAL_MAPS = Citation(
    key="parikh_boyd_2014",
    title="Proximal algorithms",
    year=2014,
    authors=("N. Parikh", "S. Boyd"),
    venue="Foundations and Trends in Optimization 1(3), 127–239",
    kind="article",
    doi="10.1561/2400000003",
)

#: Above this k a library's matrix product costs less.
_LARGEST_DIMENSION = 64
#: λ must exceed λ_max(H) by this, relative to λ, for the solve to be accurate.
_MARGIN = 1e-10


def dominated_quadratic(problem: ProxProblem) -> Quadratic | None:
    """f where it is a quadratic of few coordinates, which λ dominates; else None."""
    parts = split(problem.nonlinear)
    if parts.terms or parts.dimension > _LARGEST_DIMENSION or parts.critical_weight >= problem.weight * (1 - _MARGIN):
        return None
    return parts.quadratic if np.isfinite(parts.quadratic.matrix).all() else None


def quadratic_seconds(dimension: int) -> float:
    """Predicted time of a row on one core."""
    return 5e-9 + 1e-9 * dimension + 8e-11 * dimension**2 + 4e-12 * dimension**3


class QuadraticSession:
    """A compiled proximal map of a quadratic, for any number of batches, that follows its parameters and λ.

    Arguments:
        problem: what is asked.
        quadratic: its f.
    """

    def __init__(self, problem: ProxProblem, quadratic: Quadratic) -> None:
        self._prepare(problem, quadratic)

    def _prepare(self, problem: ProxProblem, quadratic: Quadratic) -> None:
        from alignkit_numba.quadratic import QuadraticMap

        self._map = QuadraticMap.of(quadratic, problem.weight, problem.tolerance)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        found = self._map.solve(np.asarray(points, dtype=np.float64))
        if progress is not None:
            progress("numba", len(points), len(points))
        return found

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        is_of_kind = problem.displacement is None and runs_on(problem.device)
        quadratic = dominated_quadratic(problem) if is_of_kind else None
        if quadratic is None:
            return False
        self._prepare(problem, quadratic)
        return True
