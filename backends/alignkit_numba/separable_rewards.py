"""Sums of piecewise quadratics of single coordinates, which have a closed form."""

from __future__ import annotations

import numpy as np

from alignkit.contracts import ProxProblem
from alignkit.expressions.splitting import split
from alignkit.transport.canonical import value_at_origin
from alignkit.transport.separable import Separable, separable_form
from alignkit_numba.closed_form_session import ClosedForm

__all__ = ["concave_separable", "separable_map", "separable_seconds"]


def concave_separable(problem: ProxProblem) -> Separable | None:
    """f by coordinates where it is such a sum, which λ makes strictly concave; else None."""
    form = separable_form(split(problem.nonlinear))
    return form if isinstance(form, Separable) and form.obstacle(problem.weight) is None else None


def separable_seconds(form: Separable) -> float:
    """Predicted time of a row on one core."""
    dimension, kinks = form.kinks.shape
    return 1e-8 + dimension * (4e-9 + 2e-9 * float(np.log2(1 + 2 * kinks)))


def separable_map(problem: ProxProblem, form: Separable) -> ClosedForm:
    """The proximal map of a problem whose f is such a sum."""
    from alignkit_numba.separable import SeparableMap

    return SeparableMap.of(form, value_at_origin(problem), problem.weight, problem.tolerance)
