"""Gaussian measures in few dimensions as lattices of tilts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import ImproperTargetError, ParameterError
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure

__all__ = ["gaussian_lattice"]

# A lattice of spacing 1 sd misses a Gaussian integral by a relative 2·exp(−2π²) in each dimension.
_ALIASING = 1e-8
# Tilts of a smaller share of the mixture than exp(−this) of the largest one's are left out.
_DEPTH = 23.0
_NODES_MAX = 60_000
# So many rounds of climbing, and a look at whether there is a summit at all.
_CLIMB = 32
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
        ImproperTargetError: their shares grow without end, as far as so many tell.
    """
    rank = measure.rank
    constant = measure.constant - 0.5 * rank * math.log(2 * math.pi) + rank * _ALIASING
    shares: dict[tuple[int, ...], float] = {}
    seeds = np.unique(np.rint(pilot[:_SEEDS] @ measure.root).astype(np.int64), axis=0)
    rounds = 0

    def share_of(steps: Floats) -> Floats:
        tilts = steps @ measure.root.T + measure.shift
        return np.asarray(constant - 0.5 * (steps**2).sum(axis=1) + log_partition(tilts))

    waiting = [tuple(seed) for seed in np.vstack([np.zeros((1, rank), dtype=np.int64), seeds]).tolist()]
    expanded: set[tuple[int, ...]] = set()
    while waiting:
        new = [node for node in dict.fromkeys(waiting) if node not in shares]
        if new:
            steps = np.array(new, dtype=np.float64).reshape(len(new), rank)
            shares.update(zip(new, share_of(steps).tolist(), strict=True))
        if len(shares) > _NODES_MAX:
            raise ParameterError(
                f"The quadratic reward over its weight takes more than {_NODES_MAX:,} tilts.",
                ways_out=["Use engine='annealed', which needs none of them.", "Raise the weight λ."],
            )
        rounds += 1
        top = max(shares, key=shares.__getitem__)
        if rounds % _CLIMB == 0 and top not in expanded:
            _check_summit(np.array(top, dtype=np.float64), share_of)
        level = shares[top] - _DEPTH
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


def _check_summit(top: Floats, share_of: Callable[[Floats], Floats]) -> None:
    """Raise where shares grow all the way from the largest yet, (r,), to further out than a lattice may reach."""
    doublings = max(1, math.ceil(math.log2(_NODES_MAX / np.abs(top).max())))
    further = top * 2.0 ** np.arange(doublings + 1)[:, None]
    if (np.diff(share_of(further)) > 0).all():
        raise ImproperTargetError(
            "The shares of tilts in p·exp(r/λ) keep growing as far out as was looked, so that it has no finite "
            "normaliser as far as they tell.",
            ways_out=["Raise the weight λ."],
        )


def _neighbours(node: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(*node[:axis], node[axis] + step, *node[axis + 1 :]) for axis in range(len(node)) for step in (-1, 1)]
