"""The mixture of tilts Σ_j μ_j·p·exp⟨θ_j, w⟩ that a finite measure makes of the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.contracts import Floats, Progress, TiltSession
from alignkit.errors import NonFiniteError
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.measures import FiniteMeasure
from alignkit.tilting.target import TiltTarget

__all__ = ["TiltMixture"]


@dataclass(frozen=True, eq=False)
class TiltMixture:
    """The law ∝ p·exp⟨h, x⟩·M(w), M(w) = Σ_j μ_j exp⟨θ_j, w⟩: a mixture of tilted laws with weights ∝ μ_j·Z(θ_j).

    Accepting its draws with probability exp(F)/M makes them draws of q ∝ p·exp(F(w) + ⟨h, x⟩)
    ("The tractability landscape of diffusion alignment", arXiv 2605.11361).

    Arguments:
        target: q.
        session: a sampler opened on the target's directions.
        measure: μ.
        shares: the weights of the tilts, (j,), summing to 1.
    """

    target: TiltTarget
    session: TiltSession
    measure: FiniteMeasure
    shares: Floats

    def propose(self, rows: int, *, seed: int, first_row: int = 0, progress: Progress = None) -> tuple[Any, Floats]:
        """Draw rows, (rows, *shape), with their features, (rows, k + l).

        Row i is a function of the seed and of its number `first_row + i`.

        Raises:
            NonFiniteError: a draw has a NaN or an infinity where the reward looks at it.
        """
        chosen = uniform(fold_seed(seed, "labels of tilts"), rows, 1, first_row=first_row)[:, 0]
        theta = self.measure.nodes[categorical(self.shares[None], chosen)]
        x = self.session.draw(self.target.tilts(theta), rows, seed=seed, first_row=first_row, progress=progress)
        features = self.session.features(x)
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise NonFiniteError(
                f"Draw {first_row + row} of {self.target.program.base.name!r}, tilted by θ of norm "
                f"{np.linalg.norm(theta[row]):.3g}, has a NaN or an infinity.",
                ways_out=["Check its denoiser on inputs moved by σ²θ, up to σ = σ_max.", "Use dtype='float64'."],
            )
        return x, features

    def log_acceptance(self, features: Floats) -> Floats:
        """F(w) − log M(w), (n,), from features (n, k + l); at most 0 where M bounds exp F."""
        w = self.target.coordinates_of(features)
        return self.target.convex_part(w) - self.measure.log_bound(w)
