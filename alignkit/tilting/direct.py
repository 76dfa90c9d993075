"""The direct engine: independent draws of one tilt or of a mixture of few, made in closed form or by an exact denoiser.

A convex reward takes a finite measure μ over tilts with M(w) = Σ_j μ_j exp⟨θ_j, w⟩ ≥ exp F(w). A tilt is drawn by its
share μ_j·Z(θ_j), x from that tilt, and x is kept with probability exp(F)/M: an independent draw of q, at the base
model's cost over the share that is kept. All proposals of the fit, weighted by exp(F)/M, tell the moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.base.law import ExactLaw
from alignkit.contracts import Floats, Progress, TiltSession
from alignkit.errors import ParameterError
from alignkit.estimates import Estimate
from alignkit.expressions import Expression
from alignkit.noise import fold_seed
from alignkit.tilting.fitted import FittedTilt, TiltMoments
from alignkit.tilting.measures import FiniteMeasure
from alignkit.tilting.mixture import TiltMixture
from alignkit.tilting.rejection import draw_accepted
from alignkit.tilting.selection import choose_finite
from alignkit.tilting.target import TiltTarget
from alignkit.tilting.tilt_partition import TiltPartition
from alignkit.tilting.weighting import effective_size

__all__ = ["DirectTilt", "RejectionTilt", "fit_direct"]

# Of the base and of proposals each. Where a draw costs evaluations, the fit is to cost no more than a tenth of 10,000
# samples; where it is a closed form, more of them are free.
_PILOT_ROWS = 512
_FREE_ROWS = 4096
_AFFINE_ROWS = 1024
#: The fit's cost is stated as a share of this many samples.
_AMORTISED = 10_000
# More proposals than this for a sample are not worth while: annealing takes any acceptance.
_PROPOSALS_MAX = 1000
# Rounding of log M, and the 5·10⁻⁹ by which a lattice misses a Gaussian, are no violations.
_ROUNDING = 1e-7
# Of the intervals that standard errors are to make right.
_LEVEL = 1.96
# Base draws predict the acceptance where they are worth this many draws of the mixture.
_ESS_MIN = 50


@dataclass(frozen=True, eq=False)
class DirectTilt:
    """Independent draws of one tilt; see `alignkit.tilting.fitted.FittedTilt`.

    Arguments:
        session: the sampler.
        coordinates: of the tilt, (1, m).
        directions: along which they are, (m, d).
        moments: what the fit measured.
    """

    session: TiltSession
    coordinates: Floats
    directions: Floats
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays."""
        return self.session.draw(self.coordinates, rows, seed=seed, progress=progress)


@dataclass(frozen=True, eq=False)
class RejectionTilt:
    """Independent draws of q: the accepted ones of a mixture of tilts; see `alignkit.tilting.fitted.FittedTilt`.

    Arguments:
        mixture: where proposals come from.
        moments: what the fit measured.
    """

    mixture: TiltMixture
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays: the first accepted proposals, in order."""
        draws, _ = draw_accepted(
            self.mixture.session,
            lambda first, batch: self.mixture.propose(batch, seed=seed, first_row=first),
            self.mixture.log_acceptance,
            rows,
            acceptance=self.moments.acceptance,
            ambient=self.mixture.target.program.base.ambient,
            seed=seed,
            spare=False,
            progress=progress,
        )
        return draws


def fit_direct(
    target: TiltTarget,
    session: TiltSession,
    *,
    seed: int,
    measure: FiniteMeasure | None = None,
    progress: Progress = None,
) -> FittedTilt:
    """Fit a target whose tilts the session draws directly.

    Log-partitions are the law's own where it has them, else by quadrature over the exact denoiser. Of one tilt, moments
    are closed forms where nothing is left to the sampler; all others are means over pilot draws.

    Arguments:
        target: the law wanted; its nonlinear part, if any, is convex and has a finite measure.
        session: opened on its directions.
        seed: fixes the pilot draws.
        measure: one that bounds the nonlinear part, such as an earlier fit's; if None, one is chosen.
        progress: told how far it is.

    Returns:
        a sampler of q.

    Raises:
        ParameterError: almost no proposal would be accepted.
        ImproperTargetError: a log-partition grows without end.
        NonFiniteError: the denoiser gave a NaN or an infinity.
    """
    if target.nonlinear is None:
        return _fit_tilt(target, session, seed, progress)
    return _fit_mixture(target, target.nonlinear, session, measure, seed=seed, progress=progress)


def _fit_tilt(target: TiltTarget, session: TiltSession, seed: int, progress: Progress) -> DirectTilt:
    base, coordinates = target.program.base, target.linear[None]
    (log_partition,), (error,) = TiltPartition(target.program, session)(coordinates)
    if isinstance(base, ExactLaw) and session.nfe_per_draw == 0:
        direction = target.linear @ target.program.directions
        before, after = (Estimate(float(direction @ law.mean)) for law in (base, base.tilt(direction)))
    else:
        before = _mean_exponent(target, session, 0 * coordinates, fold_seed(seed, "base pilot"), progress)
        after = _mean_exponent(target, session, coordinates, fold_seed(seed, "tilted pilot"), progress)
    moments = TiltMoments(
        before=before,
        after=after,
        log_partition=Estimate(float(log_partition), float(error)),
        ess=math.inf,
        nfe_per_sample=session.nfe_per_draw,
        calibration=None,
    )
    return DirectTilt(session, coordinates, target.program.directions, moments)


def _mean_exponent(
    target: TiltTarget, session: TiltSession, coordinates: Floats, seed: int, progress: Progress
) -> Estimate:
    draws = session.draw(coordinates, _AFFINE_ROWS, seed=seed, progress=progress)
    return Estimate.of_mean(target.exponent(session.features(draws)))


def _fit_mixture(
    target: TiltTarget,
    nonlinear: Expression,
    session: TiltSession,
    measure: FiniteMeasure | None,
    *,
    seed: int,
    progress: Progress,
) -> RejectionTilt:
    spent = session.evaluations
    rows = _PILOT_ROWS if session.nfe_per_draw else _FREE_ROWS
    k, features = target.dimension, target.program.directions.shape[0]
    base_draws = session.draw(np.zeros((1, features)), rows, seed=fold_seed(seed, "base pilot"), progress=progress)
    pilot = session.features(base_draws)

    partition = TiltPartition(target.program, session)
    if measure is None:
        (at_reference,), _ = partition(target.tilts(np.zeros((1, k))))
        measure = choose_finite(
            nonlinear,
            target.weight,
            pilot=target.coordinates_of(pilot),
            box=target.box,
            log_partition=lambda theta: partition(target.tilts(theta))[0] - at_reference,
        )
    log_z, errors = partition(target.tilts(measure.nodes))
    log_masses = measure.log_weights + log_z
    log_total = float(np.logaddexp.reduce(log_masses))
    shares = np.exp(log_masses - log_total)

    mixture = TiltMixture(target, session, measure, shares)
    _, proposals = mixture.propose(rows, seed=fold_seed(seed, "pilot of proposals"), progress=progress)
    log_weights = mixture.log_acceptance(proposals)
    acceptance = Estimate.of_mean(np.exp(np.minimum(log_weights, 0.0)))
    if acceptance.value * _PROPOSALS_MAX < 1:
        raise ParameterError(
            f"engine='direct' would keep {acceptance.value:.2g} of its proposals with this reward and λ.",
            ways_out=["Use engine='annealed'.", "Raise the weight λ."],
            expression=str(nonlinear),
        )
    exponents = target.exponent(proposals)
    log_partition, after, kl = _weighted_moments(Estimate(log_total, float(shares @ errors)), log_weights, exponents)
    violations = np.count_nonzero(log_weights > _ROUNDING * np.maximum(1.0, np.abs(exponents)))
    nfe = session.evaluations - spent
    moments = TiltMoments(
        before=Estimate.of_mean(target.exponent(pilot)),
        after=after,
        log_partition=log_partition,
        ess=math.inf,
        nfe_per_sample=session.nfe_per_draw / acceptance.value,
        calibration=None,
        acceptance=acceptance.value,
        kl=kl,
        details={
            "tilts": f"{shares.size}, in effect {math.exp(_entropy(shares)):.3g}: {measure.description}",
            "proposals": f"{acceptance} of {rows} accepted, {_predicted(mixture, pilot)}; {violations} beyond the "
            "bound",
            "log Z of tilts": _accuracy(partition, float(shares @ errors), acceptance.value),
            "fit": f"{nfe} NFE, {nfe / _AMORTISED:.3g} per sample over {_AMORTISED:,}",
        },
    )
    return RejectionTilt(mixture, moments)


def _weighted_moments(
    log_total: Estimate, log_weights: Floats, exponents: Floats
) -> tuple[Estimate, Estimate, Estimate]:
    """log Z, E_q[e] and KL = E_q[e] − log Z from proposals weighted by exp(F)/M, by the delta method.

    The weights' mean is Z over Σ_j μ_j·Z(θ_j), whose logarithm is `log_total`.
    """
    shift = float(log_weights.max())
    weights = np.exp(log_weights - shift)
    mean = float(weights.mean())
    weights /= mean
    after = float(weights @ exponents) / weights.size
    log_z = log_total.value + shift + math.log(mean)
    # What each proposal moves the logarithm of the mean weight by, and the weighted mean.
    of_log_z = weights - 1.0
    of_after = weights * (exponents - after)

    def error(influence: Floats, numerical: float) -> float:
        return math.hypot(_standard_error(influence), numerical)

    return (
        Estimate(log_z, error(of_log_z, log_total.standard_error)),
        Estimate(after, error(of_after, 0.0)),
        Estimate(after - log_z, error(of_after - of_log_z, log_total.standard_error)),
    )


def _standard_error(influence: Floats) -> float:
    """That of a mean of independent values, widened so that ±1.96 of it covers 95 % also where they are skewed.

    Rare large values, such as the weights of the few proposals that are not accepted, are often missed, and then both
    the mean and its plain standard error are too small. Two terms of Edgeworth's expansion say by how much the interval
    of a studentised mean misses its level (P. Hall, "Theoretical comparison of bootstrap confidence intervals", Annals
    of Statistics 16, 1988; its constants at 95 % are checked in A. B. Owen, "Coverage errors for Student's t confidence
    intervals comparable to those in Hall (1988)", arXiv 2501.07645).
    """
    n = influence.size
    centred = influence - influence.mean()
    spread = float(centred.std(ddof=1))
    if spread == 0.0:
        return 0.0
    skewness, kurtosis = (float(np.mean((centred / spread) ** power)) for power in (3, 4))
    square = _LEVEL**2
    correction = skewness**2 * (square**2 + 2 * square - 3) / 18 - (kurtosis - 3) * (square - 3) / 12 + (square + 3) / 4
    return spread / math.sqrt(n) * (1 + max(0.0, correction) / n)


def _predicted(mixture: TiltMixture, pilot: Floats) -> str:
    """The acceptance that base draws predict, reweighted to the mixture; they say nothing where few of them matter."""
    log_acceptance = mixture.log_acceptance(pilot)
    log_weights = mixture.target.exponent(pilot) - log_acceptance
    if effective_size(log_weights) < _ESS_MIN:
        return "base draws are too far to predict it"
    weights = np.exp(log_weights - log_weights.max())
    share = float(weights @ np.exp(np.minimum(log_acceptance, 0.0)) / weights.sum())
    return f"base draws predict {share:.3g}"


def _accuracy(partition: TiltPartition, error: float, acceptance: float) -> str:
    """Shares off by a relative ε_j move the mixture by at most Σ_j share_j·|ε_j|, and accepted draws by 1/acceptance
    times that, in total variation."""
    if error == 0:
        return partition.method
    return f"{partition.method}, within {error:.1g}: the law is off by {error / acceptance:.1g} in total variation"


def _entropy(shares: Floats) -> float:
    return float(-(shares * np.log(np.maximum(shares, np.finfo(float).tiny))).sum())
