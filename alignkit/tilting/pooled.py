"""A pool of tilts: proposed by annealed particles, weighed by their log Z, which an exact denoiser tells cheaply.

The law p·M(w)·exp⟨h, x⟩ is that of x under a tilt θ drawn with density μ(dθ)·Z(θ)/Z, Z(θ) = E_p exp(⟨θ, w⟩ + ⟨h, x⟩).
Given a particle w_j of weight W_j, θ has the density μ(dθ)·exp⟨θ, w_j⟩/M(w_j). Proposed by the mixture of these over
all particles, θ has the importance weight

    Z(θ) / Σ_j W_j·exp⟨θ, w_j⟩/M(w_j),

from which μ has dropped out, so that it may be any. The mean weight is Z without bias, wherever the particles are: what
they got wrong, such as the shares of modes, weighing puts right. Moving a particle takes a whole solve, but Z(θ) a few
evaluations. (Weights against the whole mixture: A. Owen and Y. Zhou, "Safe and effective importance sampling", J. Am.
Stat. Assoc. 95, 2000.) The proposals spread less than the tilts in every dimension, which costs weights their worth
exponentially in k, the sooner the stronger the reward; where little is left of it, particles are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.contracts import Floats, Progress, TiltSession
from alignkit.errors import ImproperTargetError
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.annealed import AnnealedTilt, fit_annealed, particle_count
from alignkit.tilting.island_tilt import Indices, IslandTilt, moments_by_island, naming
from alignkit.tilting.islands import ISLANDS, IslandResampling, by_island
from alignkit.tilting.measures import TiltMeasure
from alignkit.tilting.target import TiltTarget
from alignkit.tilting.tilt_partition import TiltPartition
from alignkit.tilting.weighting import effective_size, log_sums

__all__ = ["PooledTilt", "fit_pooled"]

# Particles have to be where q is, no more: on the benchmark of rank 8 tilts from so many are worth 0.96 of their
# number.
_PARTICLES = 2048
_TILTS = 8192
# So many are weighed first. If they are worth less than the share, the rest would be, too, and no more than particles.
_PROBES = 256
_WORTH_MIN = 0.1
# Draws that the certificate is measured on.
_PILOT_ROWS = 2048


@dataclass(frozen=True, eq=False)
class PooledTilt(IslandTilt):
    """Draws of q: a tilt of the pool, then a draw of the base under it; see `IslandTilt`.

    Arguments:
        path, session, weights, moments: as for `IslandTilt`.
        coordinates: of the tilts, (N, m).
    """

    coordinates: Floats

    def fresh(self, members: Indices, *, seed: int, first_row: int, progress: Progress) -> Any:
        """See `IslandTilt.fresh`."""
        tilts = self.coordinates[members]
        return self.session.draw(tilts, len(members), seed=seed, first_row=first_row, progress=progress)


def fit_pooled(
    target: TiltTarget,
    session: TiltSession,
    *,
    seed: int,
    tilts: int | None = None,
    progress: Progress = None,
    measure: TiltMeasure | None = None,
) -> IslandTilt:
    """Fit a target on a base whose log-partitions and tilted draws are exact.

    Arguments:
        target: the law wanted.
        session: opened on its program.
        seed: fixes the pool.
        tilts: how many, a multiple of 16; 8,192 if None.
        progress, measure: as for `fit_annealed`.

    Returns:
        a sampler of q from a pool of tilts; from particles where the reward is affine, or weighing tilts is in vain.

    Raises:
        ParameterError, NonFiniteError: as for `fit_annealed`.
    """
    affordable = particle_count(target.program.base.ambient, exact=True)

    def annealed(particles: int) -> AnnealedTilt:
        return fit_annealed(target, session, seed=seed, particles=particles, progress=progress, measure=measure)

    if target.nonlinear is None:
        return annealed(tilts or affordable)
    pool = _Pool(annealed(min(_PARTICLES, affordable)), fold_seed(seed, "pool"))
    refusal = pool.refusal()
    if refusal is None:
        return pool.fit(tilts or _TILTS, min(_PILOT_ROWS, affordable), progress)
    particles = annealed(tilts or affordable)
    details = {**particles.moments.details, "pool of tilts": f"none: {refusal}"}
    return replace(particles, moments=replace(particles.moments, details=details))


@dataclass(frozen=True, eq=False)
class _Tilts:
    """Proposed tilts, (n, m), with their log-weights and bounds of the errors of these in nats, (n,) each."""

    coordinates: Floats
    log_weights: Floats
    errors: Floats

    @property
    def weights(self) -> Floats:
        """(n,), summing to 1."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        return np.asarray(weights / weights.sum())


class _Pool:
    """Tilts from the particles of a fit.

    Arguments:
        proposing: the fit.
        seed: fixes the tilts.
    """

    def __init__(self, proposing: AnnealedTilt, seed: int) -> None:
        self._proposing, self._seed = proposing, seed
        self._path, self._session = proposing.path, proposing.session
        self._partition = TiltPartition(self._path.target.program, self._session)
        self._rows = self._path.target.coordinates_of(proposing.features)
        assert self._path.measure is not None
        self._log_densities = np.log(proposing.weights) - self._path.measure.log_bound(self._rows)

    def refusal(self) -> str | None:
        """Why weighing tilts is in vain, in a few words; None where it is not."""
        try:
            worth = effective_size(self._propose(_PROBES, "probes").log_weights)
        except ImproperTargetError:
            return "σ_max is not large against the spread of some tilts, so that their log Z is not known"
        return f"{_PROBES} of them are worth {worth:.3g}" if worth < _WORTH_MIN * _PROBES else None

    def _propose(self, count: int, purpose: str) -> _Tilts:
        """Tilts from particles that are chosen systematically on every island."""
        seed, each = fold_seed(self._seed, purpose), count // ISLANDS
        points = (np.arange(each) + uniform(fold_seed(seed, "ancestors"), ISLANDS, 1)) / each
        features = self._proposing.features[categorical(self._proposing.weights[None], points.ravel())]
        coordinates = self._path.draw_tilts(features, 1.0, seed=fold_seed(seed, "tilts"))
        log_z, errors = self._partition(coordinates)
        theta = self._path.target.coordinates_of(coordinates)
        log_weights = log_z - log_sums(self._rows, self._log_densities, theta)
        return _Tilts(coordinates, log_weights, errors)

    def fit(self, count: int, pilot_rows: int, progress: Progress) -> PooledTilt:
        """Propose and weigh tilts, and measure draws of them."""
        tilts = self._propose(count, "tilts")
        resampling = IslandResampling(count, self._seed)
        # Of a systematic sample every n-th is one, too.
        chosen = by_island(resampling(tilts.log_weights, stage=1))[:, :: max(1, count // pilot_rows)].ravel()
        with naming("drawing from the tilts of the pool"):
            seed = fold_seed(self._seed, "pilot")
            pilot = self._session.draw(tilts.coordinates[chosen], len(chosen), seed=seed, progress=progress)
        annealed, worth = self._proposing.moments, effective_size(tilts.log_weights)
        error = float(tilts.weights @ tilts.errors)
        details = {name: annealed.details[name] for name in ("annealing", "ancestors")}
        found = f"{self._partition.method} within {error:.1g}" if error else self._partition.method
        details["pool of tilts"] = f"{count} tilts, worth {worth:.0f}; log Z of each by {found}"
        moments = moments_by_island(
            self._path,
            resampling.islands,
            self._session.features(pilot),
            before=annealed.before,
            nfe_per_proposal=self._session.nfe_per_draw,
            predicted=annealed.acceptance,
            details=details,
            stages=annealed.stages,
        )
        moments = replace(
            moments,
            log_partition=moments.log_partition.widened(error),
            kl=moments.kl and moments.kl.widened(error),
            # Samples have the tilts in common, and nothing else.
            ess=worth,
        )
        return PooledTilt(self._path, self._session, tilts.weights, moments, coordinates=tilts.coordinates)
