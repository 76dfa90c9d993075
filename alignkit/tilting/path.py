"""Paths of laws that annealing follows: p·M_β(Qx)·exp(β⟨h, x⟩), from p at β = 0 to a mixture of tilts at β = 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.tilting.measures import TiltMeasure
from alignkit.tilting.target import TiltTarget

__all__ = ["TiltPath"]

# What rounding may make of a bound that is touched, in units of max(1, |F|).
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class TiltPath:
    """The laws p·M_β(Qx)·exp(β⟨h, x⟩), each a mixture of tilts; the one at β = 1, thinned by exp(F)/M, is the target.

    Arguments:
        target: q ∝ p·exp(F(Qx) + ⟨h, x⟩).
        measure: has M ≥ exp(reach·F); None where k = 0, so that M = 1.
        reach: the largest β it leads to; at less than 1 the target is reached on another path.

    Features, (n, k + l), are what a session opened on the target's program gives.
    """

    target: TiltTarget
    measure: TiltMeasure | None
    reach: float = 1.0

    @property
    def is_exact(self) -> bool:
        """Whether the last law is exp(reach·e) times p; at reach 1 every draw of it is kept."""
        return self.measure is None or self.measure.is_exact

    def log_density(self, features: Floats, share: float) -> Floats:
        """log M_β(w) + β⟨h, x⟩, (n,): the density against p at β = share, up to its normaliser, in nats."""
        linear = share * self.target.linear_part(features)
        if self.measure is None:
            return linear
        return self.measure.log_bound(self.target.coordinates_of(features), share / self.reach) + linear

    def draw_tilts(self, features: Floats, share: float, *, seed: int, stage: int = 0, first_row: int = 0) -> Floats:
        """Coordinates of a tilt Qᵀθ + βh for each row, θ from its law given the row: (n, k + l), or (1, l) if k = 0."""
        rows = self.target.coordinates_of(features)
        if self.measure is None:
            # One tilt for all rows spares the sampler a tilt for each.
            return self.target.tilts(rows[:1], share)
        theta = self.measure.draw_tilts(rows, share=share / self.reach, seed=seed, stage=stage, first_row=first_row)
        return self.target.tilts(theta, share)

    def log_acceptance(self, features: Floats) -> Floats:
        """F(w) − log M(w), (n,), on a path to 1: the log-probability of keeping a draw of its last law."""
        if self.measure is None or self.measure.is_exact:
            return np.zeros(features.shape[0])
        rows = self.target.coordinates_of(features)
        return self.target.convex_part(rows) - self.measure.log_bound(rows)

    def violations(self, features: Floats) -> int:
        """How many rows lie above the bound, F > log M, by more than rounding."""
        scale = np.maximum(1.0, np.abs(self.target.exponent(features)))
        return int((self.log_acceptance(features) > _ROUNDING * scale).sum())
