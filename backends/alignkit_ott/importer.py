"""OTT's costs in alignkit's words: the same cost where alignkit has it, else wrapped.

OTT's own conventions: `SqEuclidean` is ‖x − y‖² without ½, `SqPNorm` is ½‖x − y‖_p², and `PNormP` is ‖x − y‖_p^p/p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ott.geometry import costs, regularizers

from alignkit.contracts import Floats
from alignkit.errors import ParameterError
from alignkit.transport.costs import L1, Cost, ElasticNet, Euclidean, Mahalanobis, PNorm, SquaredEuclidean, Weighted
from alignkit_ott.costs import RegularizedCost, TranslationInvariantCost
from alignkit_ott.devices import float64_on

__all__ = ["from_ott"]

#: Of a cost with no size of its own, how many entries it is looked at with, at how many points, and of which sizes.
_ENTRIES, _PROBES, _SIZES = 5, 24, (0.1, 1.0, 3.0)
#: How many points each maximiser is compared with, and how far away.
_NEARBY, _DISTANCES = 64, (1e-3, 1e-2, 0.1, 0.3)
_TOLERANCE = 1e-6


def from_ott(cost: Any) -> Cost:
    """A translation-invariant OTT cost as one of `ak.costs`, or wrapped as one, of the same value in the same units.

    Arguments:
        cost: a cost of `ott.geometry.costs`, or of a class of your own that inherits from its `TICost`.

    Returns:
        The cost c(x, y) = h(y − x). What is wrapped is looked at, at a few points: whether it is even and convex, and
        h* its conjugate.

    Raises:
        ParameterError: the cost is not translation invariant, not convex, not even, or has no Legendre transform.

    Example:
        ```python
        from_ott(costs.SqEuclidean())              # Weighted(2.0): ½·2·‖x − y‖²
        from_ott(costs.PNormP(1.5))                # PNorm(1.5, power=1.5)
        from_ott(costs.RegTICost(regularizers.STVS(0.5), lam=1.0))
        ```
    """
    if isinstance(cost, costs.Euclidean):
        return Euclidean()
    if not isinstance(cost, costs.TICost):
        raise ParameterError(
            f"OTT's {type(cost).__name__} is not translation invariant: it is no function of y − x, so that a reward "
            "of few affine features cannot be reduced to few dimensions under it.",
            ways_out=["A TICost of ott.geometry.costs: SqEuclidean, PNormP, SqPNorm, RegTICost.", "ak.costs."],
        )
    if type(cost) in _EQUALS:
        return _EQUALS[type(cost)](cost)
    return _looked_at(TranslationInvariantCost(cost))


# ---- costs that alignkit has


def _of_pnorm_p(cost: Any) -> Cost:
    p = float(cost.p)
    if not 1.0 <= p < math.inf:
        raise _refusal(cost, f"has p = {p:g}, and ‖x − y‖_p^p/p is a convex cost for 1 ≤ p < ∞")
    return _norm(p, p)


def _of_sq_pnorm(cost: Any) -> Cost:
    p = float(cost.p)
    if not p >= 1.0:
        raise _refusal(cost, f"has p = {p:g}, and ‖x − y‖_p is convex for p ≥ 1")
    return _norm(p, 2.0)


def _norm(p: float, power: float) -> Cost:
    if p == power == 2.0:
        return SquaredEuclidean()
    return L1() if p == power == 1.0 else PNorm(p, power)


def _of_euclidean_p(cost: Any) -> Cost:
    p = float(cost.p)
    if p == 1.0:
        return Euclidean()
    if p == 2.0:
        return Weighted(2.0)
    raise ParameterError(
        f"OTT's EuclideanP(p={p:g}) is ‖x − y‖^p without 1/p, and has no Legendre transform.",
        ways_out=[f"ak.costs.Euclidean(power={p:g}), which is 1/{p:g} of it, under {p:g} times the weight."],
    )


def _of_regularized(cost: Any) -> Cost:
    rho, gamma = float(cost.rho), float(cost.lam)
    if not (rho > 0.0 and gamma >= 0.0 and math.isfinite(rho + gamma)):
        raise _refusal(
            cost,
            f"has ρ = {rho:g} and λ = {gamma:g}: it is strictly convex for ρ > 0 and λ ≥ 0",
            ["ak.costs.L1(), the ℓ1 distance itself."],
        )
    regularizer = cost.regularizer.f
    if isinstance(regularizer, regularizers.L1) and rho == 1.0:
        return ElasticNet(gamma)
    if isinstance(regularizer, regularizers.STVS) and 2.0 * rho < gamma:
        raise _refusal(
            cost,
            f"bends down near 0: STVS bends by up to λ/2 = {gamma / 2:g} there, which ρ = {rho:g} does not make up for",
            [f"RegTICost(STVS(γ), lam={gamma:g}, rho={gamma / 2:g}) or a larger ρ."],
        )
    quadratic = regularizer.f if isinstance(regularizer, regularizers.SqL2) else regularizer
    if isinstance(quadratic, regularizers.Quadratic) and quadratic.b is None:
        return _quadratic(rho, gamma, quadratic)
    inside = getattr(regularizer, "A", None)
    return _looked_at(RegularizedCost(cost, None if inside is None else int(inside.in_size())))


def _quadratic(rho: float, gamma: float, quadratic: Any) -> Cost:
    with float64_on():
        matrix = quadratic.Q
        dense = None if matrix is None else np.asarray(matrix.as_matrix(), dtype=np.float64)
    if dense is None:
        return Weighted(rho + gamma)
    return Mahalanobis(rho * np.eye(len(dense)) + gamma * (dense + dense.T) / 2.0)


#: From the class of an OTT cost to what it is here; a subclass may be anything.
_EQUALS: dict[type[Any], Callable[[Any], Cost]] = {
    costs.SqEuclidean: lambda _: Weighted(2.0),
    costs.PNormP: _of_pnorm_p,
    costs.SqPNorm: _of_sq_pnorm,
    costs.EuclideanP: _of_euclidean_p,
    costs.RegTICost: _of_regularized,
}


# ---- costs that are wrapped


def _looked_at(cost: TranslationInvariantCost) -> TranslationInvariantCost:
    """The cost, if nothing at a few points speaks against it.

    Raises:
        ParameterError: with what does.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_PROBES, cost.size or _ENTRIES)) * np.resize(_SIZES, _PROBES)[:, None]
    try:
        here, there = cost.of_displacement(rows), cost.of_displacement(-rows)
        best, earned = cost.best_displacement(rows), cost.conjugate(rows)
        at_best, nowhere = cost.of_displacement(best), cost.of_displacement(0.0 * rows[:1])
        between = cost.of_displacement(0.5 * (rows[:, None] + rows[None]).reshape(-1, rows.shape[1]))
    except NotImplementedError as error:
        raise _refusal(
            cost.given, "has no Legendre transform, which alignkit needs for bounds", ["Implement h_legendre(z)."]
        ) from error
    if not all(np.isfinite(part).all() for part in (here, there, best, earned, at_best, between)):
        raise _refusal(cost.given, "or its Legendre transform is not finite at points near 0")
    slack = _TOLERANCE * (1.0 + np.abs(here))
    if abs(float(nowhere[0])) > _TOLERANCE:
        raise _refusal(cost.given, f"is {float(nowhere[0]):.6g} where nothing moves, and a cost is 0 there")
    if (np.abs(here - there) > slack).any():
        raise _refusal(cost.given, f"is not even: h(δ) and h(−δ) differ at δ = {_shown(rows, here, there)}")
    chords = 0.5 * (here[:, None] + here[None]) - between.reshape(_PROBES, _PROBES)
    if (chords < -(slack[:, None] + slack[None])).any():
        raise _refusal(cost.given, "is not convex: it lies above a chord between two points near 0")
    reached = (rows * best).sum(axis=1) - at_best
    # Maximisers are compared with points near and far from them.
    others = best[:, None] + rng.standard_normal((_PROBES, _NEARBY, best.shape[1])) * np.resize(
        _DISTANCES, (_NEARBY, 1)
    )
    beside = cost.of_displacement(others.reshape(-1, best.shape[1])).reshape(_PROBES, _NEARBY)
    tops = (np.einsum("nd,njd->nj", rows, others) - beside).max(axis=1)
    wide = _TOLERANCE * (1.0 + np.abs(earned))
    if (np.abs(reached - earned) > wide).any() or (tops > earned + wide).any():
        raise _refusal(cost.given, "has a Legendre transform, or a proximal map, that is not that of its h")
    return cost


def _shown(rows: Floats, here: Floats, there: Floats) -> str:
    row = rows[int(np.argmax(np.abs(here - there)))]
    return np.array2string(row, precision=3)


def _refusal(cost: Any, reason: str, ways_out: list[str] | None = None) -> ParameterError:
    return ParameterError(
        f"OTT's {type(cost).__name__} {reason}.",
        ways_out=[*(ways_out or []), "One of ak.costs, as ak.costs.ElasticNet(gamma)."],
    )
