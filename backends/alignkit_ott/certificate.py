"""How far an objective lies below its supremum at most, from a gradient of f, by concavity.

For concave f and s = ∇f(z), z = v + Rδ, all f(z') ≤ f(z) + ⟨s, z' − z⟩, so that the supremum is at most
f(z) − ⟨s, Rδ⟩ + λ·h*((g + Rᵀs)/λ), and the gap at most λ·h*(w/λ) + λ·h(δ) − ⟨w, δ⟩ with w = g + Rᵀs: what the
Fenchel–Young inequality leaves open. Under half the squared distance that is ‖s − λ(z − v)‖²/(2λ); where f is not
concave, but f − (μ'/2)‖z‖² is for a μ' < λ, it is that over 2(λ − μ') in place of 2λ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.contracts import Displacement, Floats, ProxProblem

__all__ = ["Account", "account", "residual_of"]

_ROUNDING = 32 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Account:
    """What rows are worth.

    Arguments:
        objective: (n,), in units of reward.
        gap: (n,), at most how far it lies below its supremum; infinite without a bound.
    """

    objective: Floats
    gap: Floats


def account(
    problem: ProxProblem, displacement: Floats, value: Floats, slope: Floats, *, strength: float, is_concave: bool
) -> Account:
    """The objective of rows, with its bound.

    Arguments:
        problem: λ and the penalty.
        displacement: δ, (n, m).
        value: f(v + Rδ), (n,).
        slope: ∇f there, (n, k).
        strength: μ, by which the objective is strongly concave under half the squared distance.
        is_concave: whether f − λ·h is proved concave; there is no bound otherwise.
    """
    if problem.displacement is None:
        found = _under_squared_distance(problem.weight, displacement, value, slope, strength)
    else:
        found = _under_cost(problem, displacement, value, slope)
    gap = np.where(np.isnan(found.gap) | ~np.isfinite(found.objective), np.inf, found.gap)
    if not is_concave:
        gap = np.full(len(gap), np.inf)
    return Account(np.where(np.isnan(found.objective), -np.inf, found.objective), gap)


def _under_squared_distance(
    weight: float, displacement: Floats, value: Floats, slope: Floats, strength: float
) -> Account:
    residual = slope - weight * displacement
    paid = 0.5 * weight * np.einsum("nk,nk->n", displacement, displacement)
    objective = value - paid
    sizes = np.abs(slope) + weight * np.abs(displacement)
    # Each entry of the residual is known up to rounding of its terms.
    norm = np.linalg.norm(np.abs(residual) + _ROUNDING * sizes, axis=1)
    gap = norm**2 / (2.0 * strength) if strength > 0.0 else np.full(len(norm), np.inf)
    return Account(objective, gap + _ROUNDING * (np.abs(value) + paid))


def _under_cost(problem: ProxProblem, displacement: Floats, value: Floats, slope: Floats) -> Account:
    penalty, weight = problem.displacement, problem.weight
    assert penalty is not None
    dual = _dual(penalty, slope)
    paid = weight * np.asarray(penalty.cost.of_displacement(displacement))
    earned = weight * np.asarray(penalty.cost.conjugate(dual / weight))
    product = np.einsum("nm,nm->n", dual, displacement)
    size = np.abs(value) + np.abs(paid) + np.abs(earned) + np.einsum("nm,nm->n", np.abs(dual), np.abs(displacement))
    gap = np.maximum(earned + paid - product, 0.0) + _ROUNDING * size
    return Account(value + displacement @ penalty.linear - paid, gap)


def residual_of(problem: ProxProblem, displacement: Floats, slope: Floats) -> Floats:
    """λ·‖δ − ∇h*((g + Rᵀ∇f(z))/λ)‖ of each row, (n,): 0 exactly at stationary points.

    Arguments:
        problem: λ and the penalty.
        displacement: δ, (n, m).
        slope: ∇f(z), (n, k).
    """
    penalty, weight = problem.displacement, problem.weight
    if penalty is None:
        return np.asarray(np.linalg.norm(slope - weight * displacement, axis=1))
    cost: Any = penalty.cost
    wanted = cost.best_displacement(_dual(penalty, slope) / weight)
    return np.asarray(weight * np.linalg.norm(displacement - wanted, axis=1))


def _dual(penalty: Displacement, slope: Floats) -> Floats:
    return np.asarray(penalty.linear + (slope if penalty.rows is None else slope @ penalty.rows))
