"""The exponential family p·exp⟨a, s(x)⟩ of a few statistics s: what programs over the law are written in.

A program over the law moves a few slopes a alone, so that everything it asks of p is the log-partition
A(a) = log E_p exp⟨a, s⟩ with its two derivatives, the mean and the covariance of s.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, Floats, TiltProgram
from alignkit.errors import ImproperTargetError, NonFiniteError
from alignkit.noise import fold_seed
from alignkit.tilting.quadrature import richardson_means
from alignkit.tilting.tilt_partition import TiltPartition
from alignkit.tilting.weighting import effective_size

__all__ = ["ClosedForms", "ExponentialFamily", "Member", "Quadratures", "WeightedDraws"]

# Steps of central differences of a mean, in standard deviations of each statistic: eight digits are left.
_STEP = 1e-4
# Steps where a mean has the rounding of float32.
_COARSE_STEP = 0.05
# Rounding of a mean, times a steeper slope, would spoil the divergence.
_STEEPEST = 40.0
_ROUNDING = 3e-7
_PILOT_ROWS = 256


@dataclass(frozen=True, eq=False)
class Member:
    """One law of the family.

    Arguments:
        slopes: a, (m,).
        log_partition: A(a), in nats; infinite where E_p exp⟨a, s⟩ is.
        mean: of s, (m,).
        covariance: of s, (m, m).
    """

    slopes: Floats
    log_partition: float
    mean: Floats
    covariance: Floats

    @property
    def divergence(self) -> float:
        """KL from p, in nats: ⟨a, E[s]⟩ − A(a)."""
        return float(self.slopes @ self.mean) - self.log_partition


class ExponentialFamily(Protocol):
    """The laws p·exp⟨a, s(x)⟩."""

    @property
    def size(self) -> int:
        """m, how many statistics there are."""
        ...

    @property
    def scale(self) -> Floats:
        """Standard deviations of the statistics under p, (m,); 1 for what does not vary."""
        ...

    @property
    def precision(self) -> float:
        """How far a mean may be off by rounding, in units of scale."""
        ...

    def at(self, slopes: Floats) -> Member:
        """The law of slopes a, (m,)."""
        ...

    def reach(self, direction: Floats) -> float:
        """The supremum of ⟨direction, s⟩ as far as it is known; infinite where nothing bounds it."""
        ...


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """The family over draws that stand for p by their weights, or are all of it.

    Arguments:
        statistics: s of each draw, (n, m).
        log_weights: (n,), with Σ exp = 1 but for the error of what they were estimated from.
        spread: standard deviations of the statistics under p, (m,); those of the weighted draws if None.
    """

    statistics: Floats
    log_weights: Floats
    spread: Floats | None = None
    precision: ClassVar[float] = _ROUNDING

    @property
    def size(self) -> int:
        """m."""
        return int(self.statistics.shape[1])

    @property
    def scale(self) -> Floats:
        """Standard deviations of the statistics, (m,)."""
        if self.spread is not None:
            return self.spread
        return _nonzero(np.sqrt(np.diag(self.at(np.zeros(self.size)).covariance)))

    def at(self, slopes: Floats) -> Member:
        """The law of slopes a, (m,)."""
        log_weights = self.log_weights + self.statistics @ slopes
        level = float(np.logaddexp.reduce(log_weights))
        weights = np.exp(log_weights - level)
        mean = weights @ self.statistics
        centred = self.statistics - mean
        return Member(slopes, level, mean, (weights[:, None] * centred).T @ centred)

    def reach(self, direction: Floats) -> float:
        """The largest ⟨direction, s⟩ of a draw."""
        return float((self.statistics @ direction).max())

    def effective_size(self, slopes: Floats) -> float:
        """How many draws of the law of slopes a these are worth."""
        return effective_size(self.log_weights + self.statistics @ slopes)


class ClosedForms:
    """The family of linear statistics s(x) = Lx of a law whose tilts are closed forms.

    Arguments:
        base: p.
        rows: L, (m, d).
    """

    precision = _ROUNDING

    def __init__(self, base: ExactLaw, rows: Floats) -> None:
        self._base, self._rows = base, rows
        self.size = rows.shape[0]
        pilot = base.sample(_PILOT_ROWS, seed=fold_seed(0, "scale of statistics")).reshape(_PILOT_ROWS, -1)
        self.scale: Floats = _nonzero((pilot @ rows.T).std(axis=0))

    def at(self, slopes: Floats) -> Member:
        """The law of slopes a, (m,), by the law's own log-partition and mean."""
        level = float(self._base.log_partition((slopes @ self._rows)[None])[0])
        if not math.isfinite(level):
            nothing = np.full(self.size, math.nan)
            return Member(slopes, math.inf, nothing, np.full((self.size, self.size), math.nan))
        steps = np.diag(_STEP / self.scale)
        columns = [(self._mean(slopes + step) - self._mean(slopes - step)) / (2 * step.max()) for step in steps]
        covariance = np.stack(columns, axis=1)
        return Member(slopes, level, self._mean(slopes), (covariance + covariance.T) / 2)

    def _mean(self, slopes: Floats) -> Floats:
        return self._rows @ self._base.tilt(slopes @ self._rows).mean

    def reach(self, direction: Floats) -> float:
        """Infinite: the support of a law known by its tilts alone is not looked at."""
        return math.inf


class Quadratures:
    """The family of linear statistics s(x) = Lx of a law known through its exact denoiser, by quadrature.

    A is an integral of the denoiser along tilts, and E[s] its value at a large noise scale; see
    `alignkit.tilting.quadrature`.

    Arguments:
        program: its directions are L, (m, d).
        session: opened on it; has the denoiser.

    Attributes:
        error: the largest numerical error of A so far, in nats.
    """

    precision = 3e-4

    def __init__(self, program: TiltProgram, session: DenoisingTiltSession) -> None:
        self.size, self.error = program.directions.shape[0], 0.0
        self._session, self._sigma_max = session, program.base.sigma_max
        self._partition = TiltPartition(program, session)
        nothing = np.zeros((1, self.size))
        pilot = session.draw(nothing, _PILOT_ROWS, seed=fold_seed(0, "scale of statistics"))
        self.scale: Floats = _nonzero(session.features(pilot).std(axis=0))

    def at(self, slopes: Floats) -> Member:
        """The law of slopes a, (m,); of infinite log-partition where the quadrature finds no end."""
        if np.abs(slopes * self.scale).max() <= _STEEPEST:
            # What the network cannot take, and what has no normaliser, is no law of the family.
            with contextlib.suppress(ImproperTargetError, NonFiniteError):
                (level,), (error,) = self._partition(slopes[None])
                steps = np.diag(_COARSE_STEP / self.scale)
                means = richardson_means(
                    self._session, np.vstack([slopes, slopes + steps, slopes - steps]), self._sigma_max
                )
                ahead, behind = means[1 : 1 + self.size], means[1 + self.size :]
                covariance = (ahead - behind) / (2 * np.diag(steps))[:, None]
                self.error = max(self.error, float(error))
                return Member(slopes, float(level), means[0], (covariance + covariance.T) / 2)
        nothing = np.full(self.size, math.nan)
        return Member(slopes, math.inf, nothing, np.full((self.size, self.size), math.nan))

    def reach(self, direction: Floats) -> float:
        """Infinite: the support is not looked at."""
        return math.inf


def _nonzero(scale: Floats) -> Floats:
    return np.where(scale > 0, scale, 1.0)
