"""The λ that a plan is made at: the given one, or one that stands for those a radius may lead to."""

from __future__ import annotations

import math

from alignkit.compiler.closeness import Closeness, Wasserstein
from alignkit.contracts import Composition
from alignkit.errors import UnboundedTransportError
from alignkit.transport.costs import Cost, Quadratic
from alignkit.transport.reduction import check_transport, is_concave_in_total

__all__ = ["GRID_DIMENSION_MAX", "planned_weight"]

#: Largest k for a certified global search.
GRID_DIMENSION_MAX = 3
#: λ is doubled up to this, and halved as often, in search of one that stands for others.
_LARGEST = 2.0**60


def planned_weight(composition: Composition, closeness: Closeness) -> float:
    """λ where it is given; else, under Wasserstein closeness, one at which there is a map.

    Arguments:
        composition: the reward, as the compiler wrote it.
        closeness: the user's choice.

    Returns:
        for a radius 1 where that serves: it is doubled while the reward is known to outgrow λ·c. Where r − λ·c is
        concave for large λ alone, it is doubled until that holds; but where a global search serves every λ it is halved
        until it does not, so that nobody bids who would refuse a smaller λ.

    Raises:
        ShapeError: the cost is for points of another size.
    """
    if not isinstance(closeness, Wasserstein) or closeness.radius is None:
        return closeness.present_weight
    weight, cost = 1.0, closeness.cost
    while weight < _LARGEST and _is_outgrown(composition, weight, cost):
        weight *= 2
    nonlinear = composition.nonlinear
    if nonlinear is None or nonlinear.is_concave() or not isinstance(cost, Quadratic):
        return weight
    if not is_concave_in_total(composition, _LARGEST, cost):
        return weight
    if math.isfinite(nonlinear.lipschitz) and composition.dimension <= GRID_DIMENSION_MAX:
        while weight > 1 / _LARGEST and is_concave_in_total(composition, weight, cost):
            weight /= 2
        return weight
    while not is_concave_in_total(composition, weight, cost):
        weight *= 2
    return weight


def _is_outgrown(composition: Composition, weight: float, cost: Cost) -> bool:
    try:
        check_transport(composition, weight, cost)
    except UnboundedTransportError:
        return True
    return False
