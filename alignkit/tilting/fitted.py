"""What every engine hands back: draws, and the moments a certificate is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from alignkit.certificates import Calibration, KLCertificate
from alignkit.contracts import Progress
from alignkit.estimates import Estimate

__all__ = ["FittedTilt", "TiltMoments"]


@dataclass(frozen=True)
class TiltMoments:
    """What an engine measured of the tilt by θ.

    Arguments:
        before: E_p⟨θ, x⟩, dimensionless.
        after: E_{q_θ}⟨θ, x⟩, on draws such as `sample` returns.
        log_partition: log E_p exp⟨θ, x⟩.
        ess: how many independent draws the engine's own randomness is worth; infinite for independent draws.
        nfe_per_sample: evaluations of the base denoiser per returned sample.
        calibration: the sampler against reweighted base draws, where it needs one.
        details: further facts for the certificate, by name.
    """

    before: Estimate
    after: Estimate
    log_partition: Estimate
    ess: float
    nfe_per_sample: float
    calibration: Calibration | None
    details: dict[str, str] = field(default_factory=dict)

    def certify(self, weight: float, constant: float, guarantee: str) -> KLCertificate:
        """The certificate of the affine reward r(x) = λ⟨θ, x⟩ + c.

        Arguments:
            weight: λ.
            constant: c, in units of reward.
            guarantee: what is promised, with its source.
        """

        def reward(feature: Estimate) -> Estimate:
            return Estimate(weight * feature.value + constant, weight * feature.standard_error)

        offset = constant / weight
        kl = Estimate(
            self.after.value - self.log_partition.value,
            math.hypot(self.after.standard_error, self.log_partition.standard_error),
        )
        return KLCertificate(
            reward_before=reward(self.before),
            reward_after=reward(self.after),
            kl=kl,
            log_partition=Estimate(self.log_partition.value + offset, self.log_partition.standard_error),
            acceptance=1.0,
            ess=self.ess,
            nfe_per_sample=self.nfe_per_sample,
            calibration=self.calibration,
            guarantee=guarantee,
            details=self.details,
        )


class FittedTilt(Protocol):
    """A fitted sampler of q_θ, ready to draw any number of rows."""

    @property
    def moments(self) -> TiltMoments:
        """What the fit measured."""
        ...

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the engine's own arrays; row i does not depend on how many are drawn."""
        ...
