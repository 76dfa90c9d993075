"""Gaussian measures in few dimensions as lattices of tilts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import ParameterError
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure

__all__ = ["gaussian_lattice"]

# A lattice of spacing 1 sd misses a Gaussian integral by a relative 2·exp(−2π²) in each dimension.
_ALIASING = 1e-8
# Tilts of a smaller share of the mixture than exp(−this) of the largest one's are left out.
_DEPTH = 23.0
_NODES_MAX = 60_000
#: Draws that say where to begin.
_SEEDS = 256


def gaussian_lattice(
    measure: GaussianMeasure, log_partition: Callable[[Floats], Floats], pilot: Floats
) -> FiniteMeasure:
    """The lattice θ = Lg + h, g ∈ Z^r, with weights φ(g), where LLᵀ is the covariance of a Gaussian measure.

    By Poisson's summation formula Σ_g φ(g)·exp⟨g, u⟩ is exp(½‖u‖²) for every u, up to a relative 2·exp(−2π²) in each
    dimension. The lattice is grown from where the draws are, up the shares φ(g)·Z(θ) and down again to where they are
    negligible.

    Arguments:
        measure: of rank r.
        log_partition: log Z(θ), (j, k) to (j,); asked once for each tilt.
        pilot: draws of w, (n, k).

    Raises:
        ParameterError: there would be too many tilts.
    """
    rank = measure.rank
    constant = measure.constant - 0.5 * rank * math.log(2 * math.pi) + rank * _ALIASING
    shares: dict[tuple[int, ...], float] = {}
    seeds = np.unique(np.rint(pilot[:_SEEDS] @ measure.root).astype(np.int64), axis=0)
    waiting = [tuple(seed) for seed in np.vstack([np.zeros((1, rank), dtype=np.int64), seeds]).tolist()]
    expanded: set[tuple[int, ...]] = set()
    while waiting:
        new = [node for node in dict.fromkeys(waiting) if node not in shares]
        if new:
            steps = np.array(new, dtype=np.float64).reshape(len(new), rank)
            found = constant - 0.5 * (steps**2).sum(axis=1) + log_partition(steps @ measure.root.T + measure.shift)
            shares.update(zip(new, found.tolist(), strict=True))
        if len(shares) > _NODES_MAX:
            raise ParameterError(
                f"The quadratic reward over its weight takes more than {_NODES_MAX:,} tilts.",
                ways_out=["Use engine='annealed', which needs none of them.", "Raise the weight λ."],
            )
        level = max(shares.values()) - _DEPTH
        waiting = []
        for node, share in shares.items():
            if node in expanded:
                continue
            around = _neighbours(node)
            # Whatever is above the level, and what is a summit so far, however low: a mode may be behind it.
            if share >= level or all(share >= shares.get(other, -math.inf) for other in around):
                expanded.add(node)
                waiting += around
    level = max(shares.values()) - _DEPTH
    kept = np.array([node for node, share in shares.items() if share >= level], dtype=np.float64).reshape(-1, rank)
    return FiniteMeasure(
        kept @ measure.root.T + measure.shift,
        constant - 0.5 * (kept**2).sum(axis=1),
        description=f"a lattice of {len(kept)} tilts for a {measure.description}",
    )


def _neighbours(node: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(*node[:axis], node[axis] + step, *node[axis + 1 :]) for axis in range(len(node)) for step in (-1, 1)]
