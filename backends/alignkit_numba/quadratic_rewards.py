"""Quadratic rewards that λ dominates, which have a closed form."""

from __future__ import annotations

import numpy as np

from alignkit.contracts import ProxProblem
from alignkit.expressions.splitting import Quadratic, split
from alignkit_numba.closed_form_session import ClosedForm

__all__ = ["dominated_quadratic", "quadratic_map", "quadratic_seconds"]

#: Above this k a library's matrix product costs less.
_LARGEST_DIMENSION = 64


def dominated_quadratic(problem: ProxProblem) -> Quadratic | None:
    """f where it is a quadratic of few coordinates, which λ dominates; else None."""
    parts = split(problem.nonlinear)
    if parts.terms or parts.dimension > _LARGEST_DIMENSION or not parts.has_small_hessian:
        return None
    if not parts.is_dominated_by(problem.weight):
        return None
    return parts.quadratic if np.isfinite(parts.quadratic.matrix).all() else None


def quadratic_seconds(dimension: int) -> float:
    """Predicted time of a row on one core."""
    return 5e-9 + 1e-9 * dimension + 8e-11 * dimension**2 + 4e-12 * dimension**3


def quadratic_map(problem: ProxProblem, quadratic: Quadratic) -> ClosedForm:
    """The proximal map of a problem whose f is such a quadratic."""
    from alignkit_numba.quadratic import QuadraticMap

    return QuadraticMap.of(quadratic, problem.weight, problem.tolerance)
