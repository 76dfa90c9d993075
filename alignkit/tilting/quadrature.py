"""log Z(θ) = log E_p exp⟨θ, x⟩ of many tilts from an exact denoiser alone, by integrals along a tree of short edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import DenoisingTiltSession, Floats
from alignkit.errors import ImproperTargetError

__all__ = ["LogPartitions", "log_partition_at"]

Indices = NDArray[np.int64]

# Lobatto's rule of five points on (0, 1), degree 7; Simpson's is on three of them and tells its error.
_NEAR = 0.5 - math.sqrt(3 / 28)
_LOBATTO = (1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20)
# An edge whose two rules differ by more is halved. Lobatto's own error is a fifth of that at most, where
# rounding makes it up.
_TOLERANCE = 5e-3
_CONFIDENCE = 0.2
_HALVINGS = 12
# Changes below this share of the value are not held to be growth.
_GROWTH = 0.05
# So many neighbours of a tilt are asked whether they are nearer to 0.
_NEIGHBOURS = 16


@dataclass(frozen=True, eq=False)
class LogPartitions:
    """log Z at some tilts, and how far the numbers may be off.

    Arguments:
        values: log Z, (j,), in nats.
        errors: (j,), numerical errors, from the last refinement of the edges and of σ.
        nfe: evaluations of the denoiser.
    """

    values: Floats
    errors: Floats
    nfe: int


@dataclass(frozen=True, eq=False)
class _Edges:
    """Segments with the gradients at their ends.

    Arguments:
        start, end: (e, m).
        start_slopes, end_slopes: of the levels of σ, (levels, e, m).
        owner: the tilt whose log Z an edge leads to, (e,).
    """

    start: Floats
    end: Floats
    start_slopes: Floats
    end_slopes: Floats
    owner: Indices


def log_partition_at(session: DenoisingTiltSession, coordinates: Floats, sigma_max: float) -> LogPartitions:
    """log Z of tilts θ_j = coordinates_j @ directions, from a session whose denoiser is exact.

    With m₀ the base's mean and φ(x) = ‖x − m₀‖²/2σ², the potential V_σ(θ) = log E_p exp(⟨θ, x⟩ − φ(x)) −
    log E_p exp(−φ(x)) has the gradient D(m₀ + σ²θ, σ) exactly (Tweedie's formula), and tends to log Z as σ grows with
    an error in powers of 1/σ², of which two Richardson steps remove the first two. They start at σ_max/4, as inputs of
    scale σ²‖θ‖ cost float32 its digits. V is integrated along the edges of a tree that joins every tilt to a near one
    closer to 0, so that few points serve an edge; the differences between levels of σ are smooth, and Simpson's rule
    serves those.

    Arguments:
        session: a sampler of tilts along m directions.
        coordinates: (j, m), no two alike.
        sigma_max: the largest noise scale the denoiser takes, in units of x.

    Raises:
        ImproperTargetError: V grows with σ as it does where E_p exp⟨θ, x⟩ is infinite.
        NonFiniteError: the denoiser gave a NaN or an infinity.
    """
    levels = (sigma_max / 4, sigma_max / math.sqrt(32), sigma_max / 8)
    count = 0

    def slopes(points: Floats, scales: tuple[float, ...] = levels) -> Floats:
        nonlocal count
        count += len(points) * len(scales)
        return np.stack([session.means(points, scale) for scale in scales])

    order, parents = _tree(coordinates)
    origin = np.zeros((1, coordinates.shape[1]))
    points = np.vstack([origin, coordinates])
    at_points = slopes(points)
    steps, checks = np.zeros((len(levels), coordinates.shape[0])), np.zeros(coordinates.shape[0])
    edges = _Edges(
        points[parents + 1], coordinates, at_points[:, parents + 1], at_points[:, 1:], np.arange(len(parents))
    )
    for halving in range(_HALVINGS):
        reach = edges.end - edges.start
        middle = (edges.start + edges.end) / 2
        middle_slopes = slopes(middle)
        first, last = (slopes(edges.start + share * reach, levels[:1])[0] for share in (_NEAR, 1 - _NEAR))
        inner = (edges.start_slopes[0], first, middle_slopes[0], last, edges.end_slopes[0])
        fine = sum(weight * np.einsum("em,em->e", reach, slope) for weight, slope in zip(_LOBATTO, inner, strict=True))
        simpson = np.einsum("em,lem->le", reach, edges.start_slopes + 4 * middle_slopes + edges.end_slopes) / 6
        check = np.abs(fine - simpson[0])
        rough = (check > _TOLERANCE) & (halving + 1 < _HALVINGS)
        for level in range(len(levels)):
            np.add.at(steps[level], edges.owner[~rough], (fine + simpson[level] - simpson[0])[~rough])
        np.add.at(checks, edges.owner[~rough], check[~rough])
        if not rough.any():
            break
        edges = _Edges(
            np.vstack([edges.start[rough], middle[rough]]),
            np.vstack([middle[rough], edges.end[rough]]),
            np.concatenate([edges.start_slopes[:, rough], middle_slopes[:, rough]], axis=1),
            np.concatenate([middle_slopes[:, rough], edges.end_slopes[:, rough]], axis=1),
            np.tile(edges.owner[rough], 2),
        )
    for node in order:
        if parents[node] >= 0:
            steps[:, node] += steps[:, parents[node]]
            checks[node] += checks[parents[node]]
    values = _extrapolated(steps, levels)
    return LogPartitions(values, np.abs(values - (2 * steps[0] - steps[1])) + _CONFIDENCE * checks, count)


def _extrapolated(steps: Floats, levels: tuple[float, ...]) -> Floats:
    """The limit of V_σ as σ → ∞ from three levels, σ² halved from each to the next."""
    first, second = 2 * steps[0] - steps[1], 2 * steps[1] - steps[2]
    # In the expansion the changes halve from level to level; where E_p exp⟨θ, x⟩ is infinite they double.
    growth, before = steps[0] - steps[1], steps[1] - steps[2]
    endless = np.flatnonzero(growth > np.maximum(before, _GROWTH * np.maximum(1.0, np.abs(steps[0]))))
    if endless.size:
        at = endless[0]
        raise ImproperTargetError(
            f"log E_p exp⟨θ, x⟩ keeps growing with the noise scale ({steps[1, at]:.4g} at σ = {levels[1]:.4g}, "
            f"{steps[0, at]:.4g} at {levels[0]:.4g}): the base law has no exponential moment there, or σ_max is not "
            "large against its spread.",
            ways_out=["Raise the weight λ.", "Declare a larger sigma_max, if the denoiser is exact there."],
        )
    return np.asarray((4 * first - second) / 3)


def _tree(coordinates: Floats) -> tuple[Indices, Indices]:
    """Tilts by their distance from 0, and for each a near one closer to 0, −1 for 0 itself."""
    from scipy.spatial import cKDTree

    # Directions may be of any length, so that each coordinate is measured by its own range.
    scale = np.abs(coordinates).max(axis=0)
    scaled = coordinates / np.where(scale > 0, scale, 1.0)
    lengths = np.linalg.norm(scaled, axis=1)
    order = np.lexsort((np.arange(len(lengths)), lengths))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    parents = np.full(len(order), -1, dtype=np.int64)
    if len(order) > 1:
        distances, near = cKDTree(scaled).query(scaled, k=min(_NEIGHBOURS + 1, len(order)))
        closer = (rank[near] < rank[:, None]) & (distances < lengths[:, None])
        found = closer.any(axis=1)
        parents[found] = near[found, closer.argmax(axis=1)[found]]
    return order.astype(np.int64), parents
