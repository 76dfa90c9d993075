"""log Z(θ) = log E_p exp⟨θ, x⟩ of many tilts from an exact denoiser alone, by integrals along a tree of short edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import DenoisingTiltSession, Floats
from alignkit.errors import ImproperTargetError

__all__ = ["LogPartitions", "PartitionQuadrature", "log_partition_at", "richardson_means"]

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


class PartitionQuadrature:
    """log Z of tilts θ = coordinates @ directions, from a session whose denoiser is exact; what was found helps on.

    With m₀ the base's mean and φ(x) = ‖x − m₀‖²/2σ², the potential V_σ(θ) = log E_p exp(⟨θ, x⟩ − φ(x)) −
    log E_p exp(−φ(x)) has the gradient D(m₀ + σ²θ, σ) exactly (Tweedie's formula), and tends to log Z as σ grows with
    an error in powers of 1/σ², of which two Richardson steps remove the first two. They start at σ_max/4, as inputs of
    scale σ²‖θ‖ cost float32 its digits. V is integrated along the edges of a tree that joins every tilt to a near one
    closer to 0, so that few points serve an edge; the differences between levels of σ are smooth, and Simpson's rule
    serves those.

    Arguments:
        session: a sampler of tilts along m directions.
        sigma_max: the largest noise scale the denoiser takes, in units of x.

    Attributes:
        nfe: evaluations of the denoiser so far.
    """

    def __init__(self, session: DenoisingTiltSession, sigma_max: float) -> None:
        self._session = session
        self._levels = _levels(sigma_max)
        self.nfe = 0
        # Of 0 and every tilt so far, in the order they were asked for.
        self._points: Floats | None = None
        self._slopes = self._heights = self._checks = np.zeros(0)

    def _slopes_at(self, points: Floats, levels: int) -> Floats:
        self.nfe += len(points) * levels
        return np.stack([self._session.means(points, scale) for scale in self._levels[:levels]])

    def __call__(self, coordinates: Floats) -> LogPartitions:
        """log Z of tilts not asked for before.

        Arguments:
            coordinates: (j, m), no two alike.

        Raises:
            ImproperTargetError: V grows with σ as it does where E_p exp⟨θ, x⟩ is infinite.
            NonFiniteError: the denoiser gave a NaN or an infinity.
        """
        spent, count = self.nfe, len(coordinates)
        if self._points is None:
            self._points = np.zeros((1, coordinates.shape[1]))
            self._slopes = self._slopes_at(self._points, len(self._levels))
            self._heights, self._checks = np.zeros((len(self._levels), 1)), np.zeros(1)
        known = len(self._points)
        points = np.vstack([self._points, coordinates])
        order, parents = _tree(points, known)
        slopes = np.concatenate([self._slopes, self._slopes_at(coordinates, len(self._levels))], axis=1)
        steps, checks = self._integrals(
            _Edges(points[parents], coordinates, slopes[:, parents], slopes[:, known:], np.arange(count)), count
        )
        heights = np.concatenate([self._heights, steps], axis=1)
        checks = np.append(self._checks, checks)
        for node in order:
            heights[:, known + node] += heights[:, parents[node]]
            checks[known + node] += checks[parents[node]]
        self._points, self._slopes, self._heights, self._checks = points, slopes, heights, checks
        own = heights[:, known:]
        values = _extrapolated(own, self._levels)
        errors = np.abs(values - (2 * own[0] - own[1])) + _CONFIDENCE * checks[known:]
        return LogPartitions(values, errors, self.nfe - spent)

    def _integrals(self, edges: _Edges, owners: int) -> tuple[Floats, Floats]:
        """What V gains along the edges of each owner, (levels, owners), and how far two rules differ, (owners,)."""
        levels = len(self._levels)
        steps, checks = np.zeros((levels, owners)), np.zeros(owners)
        for halving in range(_HALVINGS):
            reach = edges.end - edges.start
            middle = (edges.start + edges.end) / 2
            middle_slopes = self._slopes_at(middle, levels)
            first, last = (self._slopes_at(edges.start + share * reach, 1)[0] for share in (_NEAR, 1 - _NEAR))
            inner = (edges.start_slopes[0], first, middle_slopes[0], last, edges.end_slopes[0])
            slope = sum(weight * values for weight, values in zip(_LOBATTO, inner, strict=True))
            fine = np.einsum("em,em->e", reach, slope)
            simpson = np.einsum("em,lem->le", reach, edges.start_slopes + 4 * middle_slopes + edges.end_slopes) / 6
            check = np.abs(fine - simpson[0])
            rough = (check > _TOLERANCE) & (halving + 1 < _HALVINGS)
            done = edges.owner[~rough]
            for level in range(levels):
                np.add.at(steps[level], done, (fine + simpson[level] - simpson[0])[~rough])
            np.add.at(checks, done, check[~rough])
            if not rough.any():
                break
            edges = _Edges(
                np.vstack([edges.start[rough], middle[rough]]),
                np.vstack([middle[rough], edges.end[rough]]),
                np.concatenate([edges.start_slopes[:, rough], middle_slopes[:, rough]], axis=1),
                np.concatenate([middle_slopes[:, rough], edges.end_slopes[:, rough]], axis=1),
                np.tile(edges.owner[rough], 2),
            )
        return steps, checks


def log_partition_at(session: DenoisingTiltSession, coordinates: Floats, sigma_max: float) -> LogPartitions:
    """log Z of tilts θ_j = coordinates_j @ directions, from a session whose denoiser is exact.

    Arguments:
        session: a sampler of tilts along m directions.
        coordinates: (j, m), no two alike.
        sigma_max: the largest noise scale the denoiser takes, in units of x.

    Raises:
        ImproperTargetError, NonFiniteError: as for `PartitionQuadrature`.
    """
    return PartitionQuadrature(session, sigma_max)(coordinates)


def richardson_means(session: DenoisingTiltSession, coordinates: Floats, sigma_max: float) -> Floats:
    """⟨direction, E[x]⟩ under tilts θ_j, (j, m), from a session whose denoiser is exact: the gradient of log Z.

    Arguments:
        session, coordinates, sigma_max: as for `log_partition_at`.
    """
    first, second, third = (session.means(coordinates, scale) for scale in _levels(sigma_max))
    return (4 * (2 * first - second) - (2 * second - third)) / 3


def _levels(sigma_max: float) -> tuple[float, ...]:
    """Noise scales of the limit σ → ∞, σ² halved from each to the next."""
    return sigma_max / 4, sigma_max / math.sqrt(32), sigma_max / 8


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


def _tree(points: Floats, known: int) -> tuple[Indices, Indices]:
    """New tilts by their distance from 0, and for each a near point closer to 0, which is the first of all points.

    Arguments:
        points: 0, the known tilts and the new ones.
        known: how many come before the new ones.
    """
    from scipy.spatial import cKDTree

    # Directions may be of any length, so that each coordinate is measured by its own range.
    scale = np.abs(points).max(axis=0)
    scaled = points / np.where(scale > 0, scale, 1.0)
    lengths = np.linalg.norm(scaled, axis=1)
    order = np.lexsort((np.arange(len(lengths)), lengths))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    parents = np.zeros(len(points) - known, dtype=np.int64)
    distances, near = cKDTree(scaled).query(scaled[known:], k=min(_NEIGHBOURS + 1, len(points)))
    closer = (rank[near] < rank[known:, None]) & (distances < lengths[known:, None])
    found = closer.any(axis=1)
    parents[found] = near[found, closer.argmax(axis=1)[found]]
    return order[order >= known] - known, parents
