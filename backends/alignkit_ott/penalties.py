"""Transport costs as jax functions of displacements: with a gradient, or with a proximal map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignkit.transport.costs import ElasticNet, Euclidean, PNorm
from alignkit_ott.costs import RegularizedCost, TranslationInvariantCost
from alignkit_ott.proximal_gradient import Proximal

__all__ = ["proximal_of", "value_and_gradient_of"]

#: From rows δ, (n, m), to h, (n,), and ∇h, (n, m).
SmoothCost = Callable[[Any], tuple[Any, Any]]


def value_and_gradient_of(cost: Any) -> SmoothCost:
    """h and ∇h of a differentiable cost.

    Arguments:
        cost: a power above 1 of an ℓ_p norm, 1 < p < ∞, or a cost of OTT's own.
    """
    if isinstance(cost, TranslationInvariantCost):
        of_row = jax.value_and_grad(cost.given.h)
        return jax.vmap(of_row)
    assert isinstance(cost, Euclidean | PNorm)
    p = 2.0 if isinstance(cost, Euclidean) else float(cost.p)
    power = float(cost.power)

    def smooth(rows: Any) -> tuple[Any, Any]:
        size = jnp.abs(rows)
        # Scaled by the largest entry, so that nothing overflows, and no power of 0 is differentiated.
        top = jnp.max(size, axis=1, keepdims=True)
        safe = jnp.where(top > 0.0, top, 1.0)
        scaled = size / safe
        norm = safe * jnp.sum(scaled**p, axis=1, keepdims=True) ** (1.0 / p)
        norm = jnp.where(top > 0.0, norm, 0.0)
        # ∇N at N = 1 is sign(δ)·|δ|^(p − 1).
        direction = jnp.sign(rows) * (size / jnp.where(norm > 0.0, norm, 1.0)) ** (p - 1.0)
        return norm[:, 0] ** power / power, norm ** (power - 1.0) * direction

    return smooth


def proximal_of(cost: Any) -> Proximal:
    """The proximal map of h.

    Arguments:
        cost: an elastic net, or a regularised cost of OTT's.
    """
    if isinstance(cost, RegularizedCost):
        return cost.proximal
    assert isinstance(cost, ElasticNet)
    gamma = cost.gamma

    def shrink(rows: Any, step: Any) -> Any:
        return jnp.sign(rows) * jnp.maximum(jnp.abs(rows) - step * gamma, 0.0) / (1.0 + step)

    return shrink
