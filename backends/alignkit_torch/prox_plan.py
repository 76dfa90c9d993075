"""How the torch backend would solve a proximal problem: recognition and predicted time, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignkit.contracts import ProxProblem
from alignkit.expressions.splitting import Quadratic, Split, split
from alignkit.transport.canonical import ProximalForm, Uncanonical, canonical_form
from alignkit.transport.separable import Separable, separable_form

__all__ = ["Plan", "plan"]

#: Up to this k a dense product costs less than a binary search an entry.
_SMALL_DIMENSION = 64


#: A quadratic λ dominates, a sum over coordinates, or a canonical form.
Plan = Quadratic | Separable | ProximalForm


def plan(problem: ProxProblem) -> Plan | Uncanonical:
    """The simplest form of a problem that the backend solves.

    Arguments:
        problem: what is asked.

    Returns:
        a closed form where there is one, else a canonical form; or the summand that has none.
    """
    if problem.displacement is not None:
        return Uncanonical("the cost is not half the squared distance")
    parts = split(problem.nonlinear)
    quadratic = not parts.terms and parts.has_small_hessian
    if quadratic and parts.dimension <= _SMALL_DIMENSION:
        return _dominated(parts, problem.weight)
    separable: Any = separable_form(parts)
    if isinstance(separable, Separable):
        hindrance = separable.obstacle(problem.weight)
        return separable if hindrance is None else Uncanonical(f"the objective is not concave: {hindrance}")
    if quadratic:
        return _dominated(parts, problem.weight)
    form = canonical_form(problem)
    if isinstance(form, Uncanonical):
        return form
    if not all(np.isfinite(part).all() for part in (form.matrix, form.offset, form.vector)):
        return Uncanonical("its canonical form is not finite")
    return form


def _dominated(parts: Split, weight: float) -> Quadratic | Uncanonical:
    if parts.is_dominated_by(weight) and np.isfinite(parts.quadratic.matrix).all():
        return parts.quadratic
    return Uncanonical(f"λ = {weight:.6g} does not exceed the largest curvature, {parts.critical_weight:.6g}")
