"""Transport costs in cvxpy, for a block of displacements at once.

The cvxpy module is passed in, so that looking at the table costs no import of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from alignkit.transport.costs import L1, ElasticNet, Euclidean, PNorm
from alignkit_cvxpy.lowering import has_simple_power, lower_p_norms

__all__ = ["COSTS", "LoweredCost", "seconds_per_entry"]

#: From (cvxpy, cost, displacements (b, m), constraints to add to) to Σ_rows h, a convex scalar.
LoweredCost = Callable[[Any, Any, Any, list[Any]], Any]


def _lower_power(cp: Any, cost: Euclidean | PNorm, rows: Any, constraints: list[Any]) -> Any:
    p = 2.0 if isinstance(cost, Euclidean) else cost.p
    if p == 2.0 and cost.power == 2.0:
        return 0.5 * cp.sum_squares(rows)
    norms = lower_p_norms(cp, p, rows, constraints)
    if cost.power == 1.0:
        return cp.sum(norms)
    if cost.power == 2.0:
        # A variable, for the objective to be a quadratic instead of a cone.
        sizes = cp.Variable(rows.shape[0])
        constraints.append(norms <= sizes)
        return 0.5 * cp.sum_squares(sizes)
    return cp.sum(cp.power(norms, cost.power, approx=has_simple_power(cost.power))) / cost.power


def _lower_elastic_net(cp: Any, cost: ElasticNet, rows: Any, constraints: list[Any]) -> Any:
    squares = 0.5 * cp.sum_squares(rows)
    return squares + cost.gamma * cp.norm1(rows) if cost.gamma > 0 else squares


#: From a cost's class to its lowering.
COSTS: dict[type[Any], LoweredCost] = {
    Euclidean: _lower_power,
    PNorm: _lower_power,
    L1: _lower_power,
    ElasticNet: _lower_elastic_net,
}


def seconds_per_entry(cost: Any) -> float:
    """What each entry of a displacement takes Clarabel, about; measured on one core, m = 16 to 784."""
    if isinstance(cost, Euclidean) or (isinstance(cost, PNorm) and cost.p == 2.0):
        return 7e-6
    has_power_cones = isinstance(cost, PNorm) and cost.p not in (1.0, math.inf)
    return 7e-5 if has_power_cones else 1.5e-5
