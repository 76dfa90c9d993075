"""What was achieved: frozen dataclasses that print as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alignkit.estimates import Estimate

__all__ = ["Calibration", "KLCertificate", "Moment", "RadiusCertificate", "RadiusPath", "TransportCertificate"]

#: The deviation of a learned sampler, in base standard deviations, that a solve still calls solved.
TOLERATED_RESIDUAL = 0.05
#: Expectations of which the certificate prints every entry have no more than these.
_SHOWN = 4
#: What a closed form may be off by.
_ROUNDING = 1e-6
_NO_BOUND = "no bound"


@dataclass(frozen=True)
class Calibration:
    """How far the tilt sampler's draws lie from reweighted draws of the base, where both can be had.

    Arguments:
        residual: mean of r/λ over sampler draws minus that over reweighted base draws, in base standard deviations.
        standard_error: of the residual.
        strength: the part of the full tilt, between 0 and 1, at which the two were compared.
        sigma: the noise scale draws are sent back to, in units of x.
        naive_residual: the same residual of the one-shot start from σ_max, which is wrong on learned denoisers; NaN
            where the denoiser gave no numbers there.
        drift: how far the moves on the way to the full tilt shifted the mean of r/λ, summed, in base standard
            deviations; a right denoiser leaves it where it is, also where no reweighted base draw reaches.
        base_drift: how far one move without a tilt shifts the mean of r/λ over the base's own draws, in base standard
            deviations: the model's disagreement with itself, which no tilt is to blame for.
    """

    residual: float
    standard_error: float
    strength: float
    sigma: float
    naive_residual: float
    drift: Estimate = field(default=Estimate(0.0))
    base_drift: Estimate = field(default=Estimate(0.0))

    @property
    def holds(self) -> bool:
        """Whether residual and drift are within 0.05 base standard deviations, up to three of their standard errors."""
        return all(
            abs(deviation) <= TOLERATED_RESIDUAL + 3 * error
            for deviation, error in (
                (self.residual, self.standard_error),
                (self.drift.value, self.drift.standard_error),
            )
        )

    @property
    def z_score(self) -> float:
        """The residual in standard errors; beyond ±3 the deviation is real, though it may be small."""
        if self.residual == 0:
            return 0.0
        return (
            self.residual / self.standard_error if self.standard_error > 0 else math.copysign(math.inf, self.residual)
        )

    def __str__(self) -> str:
        naive = "fails" if math.isnan(self.naive_residual) else f"{self.naive_residual:+.3f}"
        return (
            f"{self.residual:+.3f} ± {self.standard_error:.3f} base sd (z = {self.z_score:+.1f}) "
            f"at {self.strength:.0%} of the tilt, σ = {self.sigma:.3g}; a naive start: {naive}; "
            f"drift to the full tilt: {self.drift.value:+.3f} ± {self.drift.standard_error:.3f}; "
            f"the model's own drift: {self.base_drift.value:+.3f} ± {self.base_drift.standard_error:.3f}"
        )


@dataclass(frozen=True, eq=False)
class Moment:
    """An expectation under q that a problem constrains or values, with its multiplier.

    Arguments:
        text: the constraint, or the expectation in a utility, as the user wrote it.
        achieved: E_q of left − right of a constraint, which is compared with 0; E_q itself in a utility; of its shape.
        standard_error: of `achieved`, 0 for closed forms.
        dual: η, of its shape, in units of reward per unit of the expectation: q ∝ p·exp((r + Σ ⟨η, expression⟩)/λ). The
            best value falls by η for every unit that the right side of a constraint is raised by; nonpositive for
            `<=`, nonnegative for `>=`, 0 where the constraint does not bind.
        is_constraint: whether it is one.
    """

    text: str
    achieved: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    dual: NDArray[np.float64]
    is_constraint: bool

    @property
    def z_score(self) -> float:
        """By how many standard errors the worst entry misses its equality or bound; 0 in a utility."""
        if not self.is_constraint:
            return 0.0
        off = np.where(self.dual == 0, 0.0, np.abs(self.achieved))
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.where(off <= _ROUNDING, 0.0, off / self.standard_error)
        return float(scores.max())

    def __str__(self) -> str:
        achieved, error, dual = (_entries(values) for values in (self.achieved, self.standard_error, self.dual))
        what = "left − right" if self.is_constraint else "expectation"
        spread = "" if not self.standard_error.any() else f" ± {error}"
        return f"{what} {achieved}{spread}, multiplier {dual}"


@dataclass(frozen=True)
class RadiusPath:
    """How the price λ that a radius asks for was sought: each that was looked at, in order.

    Where draws that stand for p are made in rounds, it is the search on those of all rounds.

    Arguments:
        radius: ρ, in units of the distances.
        weights: λ.
        distances: of the best law at each λ from the base law, KL(q‖p) in nats or the mean cost; infinite where there
            is no such law.
    """

    radius: float
    weights: tuple[float, ...]
    distances: tuple[float, ...]

    @staticmethod
    def of(radius: float, tried: Sequence[tuple[float, float]]) -> RadiusPath:
        """The path of pairs of a λ and a distance."""
        weights, distances = zip(*tried, strict=True)
        return RadiusPath(radius, weights, distances)


@dataclass(frozen=True)
class KLCertificate:
    """What a KL alignment achieved.

    Arguments:
        reward_before: E_p[r], in units of reward.
        reward_after: E_q[r].
        kl: KL(q‖p), in nats.
        log_partition: log E_p exp(r/λ).
        acceptance: the share of proposals that are kept; 1 where every draw is.
        ess: how many independent draws the sampler's own randomness is worth; infinite where draws are independent.
        nfe_per_sample: evaluations of the base denoiser per returned sample, the fit not counted.
        calibration: the tilt sampler against reweighted base draws; None where the sampler needs none.
        guarantee: what is promised, with its source.
        details: further facts, by name.
        moments: the expectations that the problem constrains, then those that it values; empty where there are none.
        weight: λ, given or found for a radius, in units of reward per nat.
        path: how λ was sought for a radius; None where it was given.
    """

    reward_before: Estimate
    reward_after: Estimate
    kl: Estimate
    log_partition: Estimate
    acceptance: float
    ess: float
    nfe_per_sample: float
    calibration: Calibration | None
    guarantee: str
    details: dict[str, str] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    weight: float | None = None
    path: RadiusPath | None = None

    @property
    def duals(self) -> tuple[NDArray[np.float64], ...]:
        """The multipliers of the constraints, in their order; see `Moment`."""
        return tuple(moment.dual for moment in self.moments if moment.is_constraint)

    @property
    def rows(self) -> dict[str, str]:
        """What it says, by name."""
        calibration = "not needed" if self.calibration is None else str(self.calibration)
        rows = {
            "reward before": str(self.reward_before),
            "reward after": str(self.reward_after),
            "KL(q‖p)": f"{self.kl} nats",
            "log partition": str(self.log_partition),
            "acceptance": f"{self.acceptance:.3g}",
            "ESS": "independent draws" if math.isinf(self.ess) else f"{self.ess:.0f}",
            "NFE per sample": f"{self.nfe_per_sample:g}",
            "calibration": calibration,
            "guarantee": self.guarantee,
        }
        moments = {moment.text: str(moment) for moment in self.moments}
        return rows | moments | self.details

    def __str__(self) -> str:
        return _table("KL certificate", self.rows)


@dataclass(frozen=True)
class RadiusCertificate:
    """How a bound W_c(q, p) ≤ ρ on a Wasserstein alignment was met, on the draws that λ was found on.

    Arguments:
        radius: ρ, in units of cost.
        weight: λ*, the dual variable, in units of reward per cost: what a little more radius earns for each unit of it;
            0 where the radius is inactive.
        dual: λρ + mean of sup_y r(y) − λ·c(x, y) at the λ of the map, which no law within ρ of these draws exceeds;
            infinite where a row has no bound.
        gap: by how much `dual` is above the mean of r(T(x)), relative to max(1, |dual|).
        costs: the mean cost of the map; of the cheaper and of the dearer where there are two.
        probability: that a draw moves by the dearer of two maps; None where there is one.
        path: how λ was sought.
    """

    radius: float
    weight: float
    dual: Estimate
    gap: float
    costs: tuple[Estimate, ...]
    probability: float | None = None
    path: RadiusPath | None = None

    @property
    def rows(self) -> dict[str, str]:
        """What it says, as rows of a certificate's table."""
        above = f"{self.dual}, {_gap(self.gap)} above the reward after"
        found = {
            "radius": f"{self.radius:.6g}, dual variable λ = {self.weight:.6g}",
            "dual value": _NO_BOUND if math.isinf(self.gap) else above,
        }
        if self.probability is not None:
            cheap, dear = self.costs
            found["coin"] = (
                f"with probability {self.probability:.4g} a draw moves by the dearer of two maps, mean cost {dear}, "
                f"else by the cheaper, mean cost {cheap}"
            )
        return found


@dataclass(frozen=True)
class TransportCertificate:
    """What a Wasserstein alignment achieved, on the draws that were transported at solve time.

    Arguments:
        reward_before: mean of r(x) over base draws.
        reward_after: mean of r(T(x)), over the coin of each draw too where there is one.
        transport_cost: mean of c(x, T(x)), likewise, in units of cost.
        gap_max: the largest relative optimality gap over all rows, unfinished ones included; infinite where one has no
            bound.
        gap_mean: the mean relative gap, likewise.
        rows_unfinished: how many rows a solver gave up on, or whose gap misses the tolerance or has no bound.
        rows_tied: how many rows have another maximiser as good, as far as the backend sees; the choice among them is
            the same every time, and changes neither the objective nor its optimality.
        guarantee: what is promised, with its source.
        details: further facts, by name.
        weight: λ, given, or found for a radius: that of the map, in units of reward per cost.
        radius: how a radius was met; None where a weight was given.
    """

    reward_before: Estimate
    reward_after: Estimate
    transport_cost: Estimate
    gap_max: float
    gap_mean: float
    rows_unfinished: int
    rows_tied: int
    guarantee: str
    details: dict[str, str] = field(default_factory=dict)
    weight: float | None = None
    radius: RadiusCertificate | None = None

    @property
    def path(self) -> RadiusPath | None:
        """How λ was sought for a radius; None where it was given."""
        return None if self.radius is None else self.radius.path

    @property
    def rows(self) -> dict[str, str]:
        """What it says, by name."""
        rows = {
            "reward before": str(self.reward_before),
            "reward after": str(self.reward_after),
            "transport cost": str(self.transport_cost),
            "largest gap": _gap(self.gap_max),
            "mean gap": _gap(self.gap_mean),
            "rows unfinished": str(self.rows_unfinished),
            "rows tied": str(self.rows_tied),
            "guarantee": self.guarantee,
        }
        within = {} if self.radius is None else self.radius.rows
        return rows | within | self.details

    def __str__(self) -> str:
        return _table("Wasserstein certificate", self.rows)


def _entries(values: NDArray[np.float64]) -> str:
    """A few numbers; of many, the smallest and the largest."""
    if values.size <= _SHOWN:
        texts = [f"{value:.4g}" for value in values.ravel()]
        return texts[0] if values.size == 1 else f"[{', '.join(texts)}]"
    return f"from {values.min():.4g} to {values.max():.4g}"


def _gap(relative: float) -> str:
    return _NO_BOUND if math.isinf(relative) else f"{relative:.2g} relative"


def _table(title: str, rows: dict[str, str]) -> str:
    width = max(len(name) for name in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
