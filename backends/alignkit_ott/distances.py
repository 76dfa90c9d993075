"""Distances between two samples, by OTT's solvers: what an alignment moved, or how far draws are from a reference."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from ott.geometry import costs, pointcloud
from ott.tools import sinkhorn_divergence

from alignkit.contracts import Floats
from alignkit.errors import NonFiniteError
from alignkit_ott.devices import float64_on

__all__ = ["wasserstein_distance"]

#: ε relative to the mean squared distance between the samples.
_EPSILON = 0.01
_MOST_ITERATIONS = 20_000
#: Largest violation of the marginals.
_THRESHOLD = 1e-4
#: Above this many pairs costs are computed in parts instead of being kept.
_LARGEST_TABLE, _PART = 2**25, 1024


def wasserstein_distance(x: Floats, y: Floats, *, epsilon: float | None = None) -> float:
    """W₂ of two samples up to entropic smoothing: the root of their Sinkhorn divergence, in float64.

    Arguments:
        x: (n, d).
        y: (m, d).
        epsilon: ε > 0, in units of x²; a hundredth of the mean squared distance between the samples if None.

    Returns:
        √S_ε(x, y), in units of x; 0 for equal samples.

    Raises:
        NonFiniteError: Sinkhorn's iterations did not converge.

    Source: A. Genevay, G. Peyré, M. Cuturi, "Learning generative models with Sinkhorn divergences", 2018; J. Feydy et
    al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", 2019.
    """
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    mean_square = float((x**2).sum(axis=1).mean() + (y**2).sum(axis=1).mean() - 2.0 * x.mean(axis=0) @ y.mean(axis=0))
    if mean_square == 0.0:
        return 0.0
    smoothing = _EPSILON * mean_square if epsilon is None else epsilon
    in_parts = len(x) * len(y) > _LARGEST_TABLE
    with float64_on():
        found, is_converged = _divergence(x, y, smoothing, part=_PART if in_parts else None)
        divergence = float(found)
    if not (is_converged and math.isfinite(divergence)):
        raise NonFiniteError(
            f"Sinkhorn's iterations did not converge within {_MOST_ITERATIONS} at ε = {smoothing:.3g}.",
            ways_out=[f"A larger ε: epsilon={10 * smoothing:.3g}.", "Fewer rows."],
        )
    return math.sqrt(max(divergence, 0.0))


@functools.partial(jax.jit, static_argnames="part")
def _divergence(x: Any, y: Any, epsilon: Any, *, part: int | None) -> tuple[Any, Any]:
    """S_ε and whether all its parts converged; costs are kept, or computed so many rows at a time."""
    divergence, found = sinkhorn_divergence.sinkhorn_divergence(
        pointcloud.PointCloud,
        x,
        y,
        cost_fn=costs.SqEuclidean(),
        epsilon=epsilon,
        batch_size=part,
        solve_kwargs={"threshold": _THRESHOLD, "max_iterations": _MOST_ITERATIONS},
    )
    return divergence, jnp.all(jnp.asarray(found.converged))
