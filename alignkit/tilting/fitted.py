"""What every engine hands back: draws, and the moments a certificate is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from alignkit.certificates import Calibration, KLCertificate
from alignkit.contracts import Floats, Progress
from alignkit.estimates import Estimate, worth_of_base
from alignkit.tilting.shared_draws import shared_errors

__all__ = ["AnnealingStage", "FittedTilt", "TiltMoments"]


@dataclass(frozen=True)
class AnnealingStage:
    """One reweighting of particles on the way from p to q.

    Arguments:
        share: β that they were reweighted to; the same as before where only the bound was chosen anew.
        ess: how many of them the weights left in effect.
        particles: how many there are.
    """

    share: float
    ess: float
    particles: int


@dataclass(frozen=True)
class TiltMoments:
    """What an engine measured of a target q ∝ p·exp(e(x)), with e(x) = F(Qx) + ⟨h, x⟩.

    Arguments:
        before: E_p[e], dimensionless.
        after: E_q[e], on draws such as `sample` returns.
        log_partition: log E_p exp(e).
        ess: how many independent draws the engine's own randomness is worth; infinite for independent draws.
        nfe_per_sample: evaluations of the base denoiser per returned sample.
        calibration: the sampler against reweighted base draws, where it needs one.
        details: further facts for the certificate, by name.
        acceptance: the share of proposals that are kept.
        kl: KL(q‖p), where the errors of `after` and `log_partition` are not independent; else taken from them.
        stages: of annealing, in order; empty where there was none.
    """

    before: Estimate
    after: Estimate
    log_partition: Estimate
    ess: float
    nfe_per_sample: float
    calibration: Calibration | None
    details: dict[str, str] = field(default_factory=dict)
    acceptance: float = 1.0
    kl: Estimate | None = None
    stages: tuple[AnnealingStage, ...] = ()

    def on_shared_draws(self, ess: float, exponents: Floats, weights: Floats) -> TiltMoments:
        """The moments where all draws of p are worth no more than some independent ones; see `BaseLaw.ess`.

        Arguments:
            ess: how many.
            exponents: e at draws of q, (n,).
            weights: of them, (n,), summing to 1.
        """
        if math.isinf(ess):
            return self
        assert self.kl is not None
        log_z = self.log_partition.value
        of_log_z, of_kl, (of_after,) = shared_errors(ess, exponents, weights, exponents[:, None], log_partition=log_z)
        after = self.after.widened(of_after)
        spread = float(weights @ (exponents - after.value) ** 2)
        worth = spread / after.standard_error**2 if after.standard_error > 0 else math.inf
        return replace(
            self,
            after=after,
            log_partition=self.log_partition.widened(of_log_z),
            kl=self.kl.widened(of_kl),
            ess=min(self.ess, worth),
            details=self.details | worth_of_base(ess),
        )

    def certify(self, weight: float, constant: float, guarantee: str) -> KLCertificate:
        """The certificate of the reward r(x) = λ·e(x) + c.

        Arguments:
            weight: λ.
            constant: c, in units of reward.
            guarantee: what is promised, with its source.
        """

        def reward(exponent: Estimate) -> Estimate:
            return Estimate(weight * exponent.value + constant, weight * exponent.standard_error)

        offset = constant / weight
        kl = self.kl or Estimate(
            self.after.value - self.log_partition.value,
            math.hypot(self.after.standard_error, self.log_partition.standard_error),
        )
        return KLCertificate(
            reward_before=reward(self.before),
            reward_after=reward(self.after),
            kl=kl,
            log_partition=Estimate(self.log_partition.value + offset, self.log_partition.standard_error),
            acceptance=self.acceptance,
            ess=self.ess,
            nfe_per_sample=self.nfe_per_sample,
            calibration=self.calibration,
            guarantee=guarantee,
            details=self.details,
        )


class FittedTilt(Protocol):
    """A fitted sampler of a target q, ready to draw any number of rows."""

    @property
    def moments(self) -> TiltMoments:
        """What the fit measured."""
        ...

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the engine's own arrays; row i does not depend on how many are drawn."""
        ...
