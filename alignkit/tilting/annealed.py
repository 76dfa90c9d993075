"""The annealed engine: particles carried from p to q through mixtures of growing tilts, for any rank and any denoiser.

A network never saw its inputs moved by σ²θ at large σ, so starting the tilted denoiser at σ_max is wrong there. Base
draws are right, and so is a small move: particles of p·M_β(Qx)·exp(β⟨h, x⟩) are reweighted to the next β, resampled,
and swept: θ from its law given x, then x noised to a moderate σ and denoised under θ. The sweep leaves that mixture of
tilts invariant and needs no normaliser, so that neither the rank of the reward nor the number of its tilts matters.
This is sequential Monte Carlo (Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers", J. R. Stat. Soc. B 68,
2006), its temperatures chosen by effective sample size. Where M only bounds exp F, draws of the last law are kept with
probability exp(F)/M.

Where a measure is a cover, draws tell how tight it has to be, and base draws tell nothing of where a strong reward
leads. Then the first cover is one of exp(βF) for the largest β that base draws still see, and each later stage chooses
one of its own, from the particles before it, so that the last is tight where q is.

Every move is a test: it must leave the mean of r/λ where the resampled particles have it. Where it does not, the tilt
has left what the network knows at that noise, and a gentler move is tried.

Particles live on islands that resample apart; see `alignkit.tilting.islands`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.certificates import Calibration
from alignkit.contracts import DenoisingTiltSession, Floats, Progress, TiltSession
from alignkit.errors import ParameterError
from alignkit.estimates import Estimate
from alignkit.noise import fold_seed
from alignkit.tilting.calibration import BOLDEST, DRIFT, GENTLEST, calibrate
from alignkit.tilting.gibbs import GibbsSweep
from alignkit.tilting.island_tilt import Indices, IslandTilt, moments_by_island, naming
from alignkit.tilting.islands import ISLANDS, IslandResampling, by_island
from alignkit.tilting.measures import TiltMeasure
from alignkit.tilting.path import TiltPath
from alignkit.tilting.selection import choose_measure, takes_cover
from alignkit.tilting.target import TiltTarget
from alignkit.tilting.trail import Trail
from alignkit.tilting.weighting import effective_size, largest_share

__all__ = ["AnnealedTilt", "fit_annealed", "particle_count"]

_PARTICLES_MAX = 4096
# Particles of very large draws are fewer, so that they fit in memory (1 GiB of float32), but never fewer than these.
_PARTICLE_ENTRIES = 1 << 28
_PARTICLES_MIN = 256
_ESS_SHARE = 0.5
# From σ = 2 a Gaussian comes out 0.3 to 0.5 % too wide after 31 evaluations; after 15 it was 1 to 2 %, at every move.
_MOVE_NFE = 31
# Exact denoisers need no calibration, and take shorter moves but more stages. On the benchmark of rank 8 moves of 11,
# 15 and 19 evaluations put log Z = 16.4 too high by 0.19, 0.09 and 0.07; at equal cost, steps that keep 0.7 of the
# particles' worth left it uncertain by 0.03, those that keep 0.5 by 0.06.
_MOVE_NFE_EXACT = 19
_PARTICLES_EXACT = 4864
_ESS_SHARE_EXACT = 0.7
# A path this long leads far beyond anything the network was trained on.
_STAGES_MAX = 64
# Draws show how tight a cover has to be while so large a share of them is, in effect, drawn from where it leads.
_SEEN_SHARE = 1 / 32
# The measure is chosen anew, from draws of the target's own region, unless this share of proposals is kept already.
_ACCEPTANCE_FINE = 0.9
_CHOICES_MAX = 4
# What a new measure may cost of the effective sample size that a stage is to keep.
_TOLERATED = 0.5
# The least gain in acceptance, relative, that another measure is taken for.
_GAIN = 0.01


@dataclass(frozen=True, eq=False)
class AnnealedTilt(IslandTilt):
    """Draws of q: a particle swept afresh; see `IslandTilt`.

    Arguments:
        path, session, weights, moments: as for `IslandTilt`.
        particles: (N, *shape), on the session's device, distributed as p·M(Qx)·exp⟨h, x⟩ once weighted.
        features: (N, m), of them.
        sigma, nfe: of the sweep, as for `GibbsSweep`.
    """

    particles: Any
    features: Floats
    sigma: float
    nfe: int

    def fresh(self, members: Indices, *, seed: int, first_row: int, progress: Progress) -> Any:
        """See `IslandTilt.fresh`."""
        sweep = GibbsSweep(self.path, self.session, self.sigma, self.nfe)
        particles = self.session.take(self.particles, members)
        return sweep(particles, self.features[members], seed=seed, first_row=first_row, progress=progress)


def particle_count(ambient: int, *, exact: bool = False) -> int:
    """How many particles are carried when a draw has `ambient` entries; a multiple of the number of islands.

    Arguments:
        ambient: d.
        exact: whether the denoiser is, so that no evaluations go into calibration.

    Example:
        >>> particle_count(64), particle_count(3 * 512 * 512)
        (4096, 336)
    """
    fitting = _PARTICLE_ENTRIES // ambient // ISLANDS * ISLANDS
    return min(_PARTICLES_EXACT if exact else _PARTICLES_MAX, max(_PARTICLES_MIN, fitting))


def fit_annealed(
    target: TiltTarget,
    session: TiltSession,
    *,
    seed: int,
    particles: int | None = None,
    progress: Progress = None,
    measure: TiltMeasure | None = None,
) -> AnnealedTilt:
    """Fit a target by annealing.

    Arguments:
        target: the law wanted.
        session: opened on its program.
        seed: fixes the particles.
        particles: how many, a multiple of 16; `particle_count` if None.
        progress: told how far it is, as the share β of the path from p to q in percent.
        measure: bounds exp F; chosen if None, and again where it turns out loose.

    Returns:
        a sampler of q with what the fit measured.

    Raises:
        ParameterError: the reward is so strong that the path to it does not end, or its bound so loose that nearly
            no draw would be kept.
        NonFiniteError: the denoiser returned a NaN or an infinity; the message says where on the path.
    """
    base = target.program.base
    count = particle_count(base.ambient, exact=base.exact) if particles is None else particles
    return _Annealing(target, session, count, fold_seed(seed, "annealing"), progress).run(measure)


@dataclass(frozen=True, eq=False)
class _Particles:
    """Draws x (N, *shape) on the device with their features (N, m) on the host."""

    x: Any
    features: Floats


class _Annealing:
    """One run from p to q.

    Arguments:
        target: the law wanted.
        session: opened on its program.
        count: how many particles.
        seed: fixes everything.
        progress: told β in percent.
    """

    def __init__(self, target: TiltTarget, session: TiltSession, count: int, seed: int, progress: Progress) -> None:
        self._target, self._session, self._count = target, session, count
        self._seed, self._progress = seed, progress
        self._share, self._stage, self._predicted = 0.0, 0, 1.0
        self._resampling = IslandResampling(count, seed)
        #: Of laws passed; None where no measure is chosen by them.
        self._trail: Trail | None = None

    def run(self, measure: TiltMeasure | None) -> AnnealedTilt:
        """Carry particles from p to q."""
        with naming("drawing from the base"):
            drawn = self._session.draw(
                np.zeros((1, self._target.program.directions.shape[0])),
                self._count,
                seed=fold_seed(self._seed, "base"),
                progress=self._progress,
            )
        current = self._measured(drawn)
        exponents = self._target.exponent(current.features)
        before = Estimate.of_mean(exponents, ess=self._target.program.base.ess)
        path = TiltPath(self._target, measure) if measure is not None else self._first_path(current.features)
        mover, calibration = self._mover(path, current, float(exponents.std()))
        # M₀ is a constant, of which the first reweighting does not know.
        self._resampling.scale(float(path.log_density(current.features[:1], 0.0)[0]))
        if self._progress is not None:
            self._progress("annealing", 0, 100)
        while self._share < 1.0:
            path, current = self._raise_share(path, mover, current)
        if not path.is_exact and measure is None:
            path, current = self._tighten(path, mover, current)
        return self._finish(path, mover, current, before, calibration)

    def _measured(self, x: Any) -> _Particles:
        return _Particles(x, self._session.features(x))

    @property
    def _kept(self) -> float:
        """The share of effective sample size that a stage is to keep."""
        return _ESS_SHARE_EXACT if self._target.program.base.exact else _ESS_SHARE

    def _first_path(self, features: Floats) -> TiltPath:
        """A path from p as far as draws of it, with these features, show how tight a cover has to be."""
        target, reach = self._target, 1.0
        if target.nonlinear is None:
            return TiltPath(target, None)
        if takes_cover(target.nonlinear, target.weight):
            self._trail = Trail(features)
            exponents = target.exponent(features)
            reach = largest_share(lambda share: share * exponents, _SEEN_SHARE, at_most=1.0)
        return self._choose_path(features, reach)

    def _choose_path(self, features: Floats, reach: float) -> TiltPath:
        """A path whose measure is tight for the law at β = reach, as far as the laws passed show."""
        target = self._target
        assert target.nonlinear is not None
        measure = choose_measure(
            target.nonlinear,
            target.weight / reach,
            pilot=target.coordinates_of(features),
            box=target.box,
            log_partition=lambda tilts: self._log_partitions(tilts, reach),
        )
        return TiltPath(target, measure, reach)

    def _log_partitions(self, tilts: Floats, reach: float) -> Floats:
        """log E_p exp(⟨θ, w⟩ + β⟨h, x⟩) at β = reach for each tilt, (j, k) to (j,)."""
        assert self._trail is not None
        target = self._target
        return self._trail.log_partitions(tilts, target.coordinates_of, lambda rows: reach * target.linear_part(rows))

    def _mover(self, path: TiltPath, current: _Particles, unit: float) -> tuple[_Mover, Calibration | None]:
        """The moves of this run, calibrated where the denoiser is learned."""
        if self._session.nfe_per_draw == 0:
            return _Mover(self._session, seed=self._seed, unit=unit, nfe=0), None
        session: DenoisingTiltSession = self._session  # type: ignore[assignment]  # evaluations imply a denoiser
        entry = session.spread(current.x)
        calibration = None
        if not self._target.program.base.exact:
            with naming("calibrating on draws of the base"):
                calibration = calibrate(
                    path, session, current.x, current.features, seed=fold_seed(self._seed, "calibration"), nfe=_MOVE_NFE
                )
        sigma = BOLDEST * entry if calibration is None else calibration.sigma
        # An exact denoiser is right at any noise, and the boldest move mixes best.
        gentlest, nfe = (sigma, _MOVE_NFE_EXACT) if calibration is None else (GENTLEST * entry, _MOVE_NFE)
        return _Mover(session, seed=self._seed, unit=unit, nfe=nfe, sigma=sigma, gentlest=gentlest), calibration

    def _raise_share(self, path: TiltPath, mover: _Mover, current: _Particles) -> tuple[TiltPath, _Particles]:
        """One stage: raise β, on another path where this one ends, resample and sweep."""
        if self._stage == _STAGES_MAX:
            raise ParameterError(
                f"The reward over its weight, r/λ, is too strong for this base law: {_STAGES_MAX} stages of annealing "
                f"reached {self._share:.1%} of it.",
                ways_out=[
                    f"Multiply the weight λ by {1 / max(self._share, 1e-9):.3g} or more.",
                    "Scale the reward down.",
                ],
            )
        at, features = self._share, current.features
        now = path.log_density(features, at)
        if at < path.reach:
            left = path.reach - at
            step = largest_share(lambda step: path.log_density(features, at + step) - now, self._kept, at_most=left)
            self._share = path.reach if step >= left else at + step
        else:
            path = self._path_onwards(features, now)
            self._share = path.reach
        current = self._reweight(path, mover, current, path.log_density(features, self._share) - now)
        if self._progress is not None:
            self._progress("annealing", round(100 * self._share), 100)
        return path, current

    def _path_onwards(self, features: Floats, now: Floats) -> TiltPath:
        """A path that reaches one stage further than the law of the particles, whose log-densities are `now`."""
        at, exponents = self._share, self._target.exponent(features)
        step = largest_share(lambda step: step * exponents, self._kept, at_most=1.0 - at)
        paths = []
        for _ in range(_CHOICES_MAX):
            reach = 1.0 if step >= 1.0 - at else at + step
            path = self._choose_path(features, reach)
            size = effective_size(path.log_density(features, reach) - now)
            paths.append((size, path))
            if size >= self._kept * _TOLERATED * self._count:
                break
            step /= 2
        return max(paths, key=lambda found: found[0])[1]

    def _reweight(self, path: TiltPath, mover: _Mover, current: _Particles, increments: Floats) -> _Particles:
        """Resample every island by log-weights (N,), put their mean on its account, and sweep under β."""
        self._stage += 1
        chosen = self._resampling(increments, stage=self._stage, share=self._share)
        resampled = _Particles(self._session.take(current.x, chosen), current.features[chosen])
        with naming(f"in stage {self._stage} of annealing, at {self._share:.1%} of r/λ"):
            moved = mover.move(path, resampled, self._share, stage=self._stage)
        if self._trail is not None:
            log_z, share = self._resampling.islands.log_partition.value, self._share
            self._trail.add(
                lambda features: path.log_density(features, share) - log_z, moved.features, self._resampling.weights
            )
        return moved

    def _tighten(self, path: TiltPath, mover: _Mover, current: _Particles) -> tuple[TiltPath, _Particles]:
        """Choose the bound anew, from draws of the region where it has to be tight, until that gains nothing more."""
        for _ in range(_CHOICES_MAX):
            weights = self._resampling.weights
            self._predicted = float(weights @ np.exp(path.log_acceptance(current.features)))
            if self._predicted >= _ACCEPTANCE_FINE:
                break
            density = path.log_density(current.features, 1.0)
            better = self._choose_path(current.features, 1.0)
            increments = better.log_density(current.features, 1.0) - density
            mass = float(weights @ np.exp(increments))
            if mass > 1 - _GAIN:
                break
            self._predicted /= mass
            path, current = better, self._reweight(better, mover, current, increments)
        return path, current

    def _finish(
        self, path: TiltPath, mover: _Mover, current: _Particles, before: Estimate, calibration: Calibration | None
    ) -> AnnealedTilt:
        """Measure draws such as `sample` proposes."""
        returned = current
        if calibration is not None:
            # A learned denoiser may change them, and the certificate is about what `sample` returns.
            with naming("in the last move of annealing, at all of r/λ"):
                returned = mover.move(path, current, 1.0, stage=self._stage + 1)
        moments = moments_by_island(
            path,
            self._resampling.islands,
            returned.features,
            before=before,
            nfe_per_proposal=mover.nfe * self._target.program.base.evaluations_per_denoise,
            predicted=self._predicted,
            details=self._resampling.details(self._stage),
            calibration=calibration and replace(calibration, sigma=mover.sigma, drift=mover.drift),
            stages=self._resampling.stages,
        )
        return AnnealedTilt(
            path,
            self._session,
            self._resampling.weights,
            moments,
            particles=current.x,
            features=current.features,
            sigma=mover.sigma,
            nfe=mover.nfe,
        )


class _Mover:
    """Sweeps whose noise scale falls when they drift.

    Arguments:
        session: a sampler of the target's tilts.
        seed: fixes the moves.
        unit: the base standard deviation of r/λ.
        nfe: evaluations per row; 0 where draws are exact and afresh, and cannot drift.
        sigma: the noise scale to begin with, in units of x.
        gentlest: the least noise scale to fall to.

    Attributes:
        sigma: the noise scale of the next move.
        drift: what all moves changed of the mean of r/λ, in base standard deviations.
    """

    def __init__(
        self, session: TiltSession, *, seed: int, unit: float, nfe: int, sigma: float = 0.0, gentlest: float = 0.0
    ) -> None:
        self.session, self.seed, self.unit, self.nfe = session, fold_seed(seed, "moves"), unit, nfe
        self.sigma, self.gentlest = sigma, gentlest
        self.drift = Estimate(0.0)

    def sweep(self, path: TiltPath) -> GibbsSweep:
        """The next move, with the laws of a path."""
        return GibbsSweep(path, self.session, self.sigma, self.nfe)

    def move(self, path: TiltPath, start: _Particles, share: float, *, stage: int) -> _Particles:
        """Move particles that follow the path's law at β = share."""
        before = path.target.exponent(start.features)
        while True:
            x = self.sweep(path)(start.x, start.features, share, seed=self.seed, stage=stage)
            moved = _Particles(x, self.session.features(x))
            changes = path.target.exponent(moved.features) - before
            change = Estimate.of_mean(by_island(changes).mean(axis=1))
            tolerated = DRIFT * self.unit + 2 * change.standard_error
            if not self.nfe or abs(change.value) <= tolerated or self.sigma <= self.gentlest:
                unit = self.unit or 1.0
                self.drift = Estimate(
                    self.drift.value + change.value / unit,
                    math.hypot(self.drift.standard_error, change.standard_error / unit),
                )
                return moved
            self.sigma = max(self.sigma / 2, self.gentlest)
