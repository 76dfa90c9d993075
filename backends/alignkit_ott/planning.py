"""What is asked of the solver, from the structure of f and of the cost; nothing here imports jax but what it must."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

from alignkit.contracts import Displacement, ProxProblem
from alignkit.errors import AlignkitError
from alignkit.expressions import Expression
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.atoms.lipschitz import UserFunction
from alignkit.expressions.expression import topological
from alignkit.expressions.growth import Growth
from alignkit.expressions.poles import is_defined_everywhere
from alignkit.expressions.splitting import split
from alignkit.transport.costs import ElasticNet, Euclidean, PNorm
from alignkit_ott.costs import RegularizedCost, TranslationInvariantCost
from alignkit_ott.kinks import kinked_atom

__all__ = ["STARTS", "Method", "Plan", "Unsupported", "plan"]

#: How many starts a row gets where f − λ·h may have several local maxima.
STARTS = 32


class Unsupported(Exception):
    """Why the backend does not take a problem."""


class Method(enum.Enum):
    """How a row is solved."""

    LBFGS = "L-BFGS"
    PROXIMAL_GRADIENT = "accelerated proximal gradients"


@dataclass(frozen=True)
class Plan:
    """How a problem is solved, and what is known of it.

    Arguments:
        method: the iteration.
        strength: μ > 0 such that f(z) − (λ/2)‖z − v‖² is μ-strongly concave, under half the squared distance; 0 where
            it need not be concave, and for other costs.
        is_concave: whether f − λ·h is proved concave, so that every row has a bound.
        is_bounded: whether the objective is proved bounded above.
        has_kinks: whether f may have kinks, where steps shrink slowly.
    """

    method: Method
    strength: float
    is_concave: bool
    is_bounded: bool
    has_kinks: bool

    @property
    def starts(self) -> int:
        """How many starts a row gets."""
        return 1 if self.is_concave else STARTS


def plan(problem: ProxProblem) -> Plan:
    """Choose a method.

    Raises:
        Unsupported: jax cannot evaluate f here, or neither method would find a maximiser.
    """
    nonlinear, displacement = problem.nonlinear, problem.displacement
    _check_device(problem.device)
    _check_evaluable(nonlinear)
    method = Method.LBFGS if displacement is None else _method_of(displacement.cost)
    strength = _strength(nonlinear, problem.weight) if displacement is None else 0.0
    is_concave = strength > 0.0 if displacement is None else nonlinear.is_concave()
    kink = kinked_atom(nonlinear)
    if is_concave:
        if kink is not None:
            raise Unsupported(
                f"{kink} has a kink, where the maximiser of a concave f tends to lie, and gradient steps stall there"
            )
    elif method is Method.PROXIMAL_GRADIENT:
        raise Unsupported("f is not concave, and proximal gradients would stop at any of its local maxima")
    is_bounded = is_concave or _is_bounded(nonlinear, problem.weight, displacement)
    return Plan(method, strength, is_concave, is_bounded, kink is not None)


def _method_of(cost: Any) -> Method:
    if isinstance(cost, ElasticNet | RegularizedCost):
        return Method.PROXIMAL_GRADIENT
    if isinstance(cost, TranslationInvariantCost):
        return Method.LBFGS
    if not isinstance(cost, Euclidean | PNorm):
        raise Unsupported(f"the cost {type(cost).__name__} has no form in jax")
    if cost.power == 1.0:
        raise Unsupported(
            f"the cost {cost.formula} is not strictly convex: OTT's Legendre transform has no gradient there, and "
            "steps no bound"
        )
    if isinstance(cost, PNorm) and cost.p in (1.0, math.inf):
        raise Unsupported(f"the cost {cost.formula} has kinks, and no proximal map here")
    return Method.LBFGS


def _strength(nonlinear: Expression, weight: float) -> float:
    if nonlinear.is_concave():
        return weight
    parts = split(nonlinear)
    if not (all(term.bends(-1) for term in parts.terms) and parts.has_small_hessian):
        return 0.0
    # Rounding of the eigenvalue leaves that much open.
    return max(0.0, weight - parts.critical_weight * (1.0 + 1e-12) - 1e-12 * weight)


def _is_bounded(nonlinear: Expression, weight: float, displacement: Displacement | None) -> bool:
    if displacement is None:
        growth = Growth(nonlinear)
        if growth.outgrows(weight):
            raise Unsupported(f"f grows faster than the penalty with λ = {weight:.6g}: there is no maximiser")
        return math.isfinite(nonlinear.lipschitz) or growth.stays_below(weight)
    # Costs of the user's own may grow linearly.
    grows_faster = isinstance(displacement.cost, Euclidean | PNorm)
    return grows_faster and math.isfinite(nonlinear.lipschitz)


def _check_device(device: str) -> None:
    if device in ("auto", "cpu"):
        return
    from alignkit_ott.devices import device_named

    try:
        device_named(device)
    except AlignkitError as error:
        raise Unsupported(error.message.rstrip(".")) from error


def _check_evaluable(nonlinear: Expression) -> None:
    if not is_defined_everywhere(nonlinear):
        raise Unsupported("f is not defined everywhere, and the first step may start outside its domain")
    nodes = topological(nonlinear)
    if any(is_operator(getattr(node, "matrix", None)) for node in nodes):
        raise Unsupported("a LinearOperator in f runs on the host, where jax cannot trace it")
    for node in nodes:
        if isinstance(node, UserFunction):
            from alignkit_ott.evaluation import obstacle

            found = obstacle(nonlinear)
            if found is not None:
                raise Unsupported(f"jax cannot trace {node.name}: {found}")
            return
