"""What an engine is asked to sample: a law q ∝ p·exp(F(Qx) + ⟨h, x⟩) with F convex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from alignkit.contracts import Floats, TiltProgram
from alignkit.expressions import Expression

__all__ = ["TiltTarget", "ranges_over"]


def ranges_over(rows: Floats, box: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    """The least and the largest rows @ x, (r,) each, over a box of x.

    Arguments:
        rows: (r, d).
        box: the least and the largest x, (d,) each, or numbers.

    Example:
        >>> ranges_over(np.array([[1.0, -2.0]]), (0.0, 1.0))
        (array([-2.]), array([1.]))
    """
    ends = rows[:, :, None] * np.stack(box, axis=-1)
    return ends.min(axis=2).sum(axis=1), ends.max(axis=2).sum(axis=1)


@dataclass(frozen=True, eq=False)
class TiltTarget:
    """The law q ∝ p·exp(f(w)/λ + ⟨h, x⟩), w = Qx, written over the directions that a sampler was opened on.

    Arguments:
        program: its directions (k + l, d) are the k rows of Q, then l rows L of linear features.
        nonlinear: f, a convex expression of one variable of shape (k,); None where k = 0.
        weight: λ > 0, in units of reward per nat.
        linear: ℓ, (l,), with h = ℓ @ L.

    A tilt with coordinates (θ, s) is then p·exp(⟨θ, Qx⟩ + ⟨s, Lx⟩).
    """

    program: TiltProgram
    nonlinear: Expression | None
    weight: float
    linear: Floats

    @property
    def dimension(self) -> int:
        """The intrinsic dimension k."""
        return int(self.program.directions.shape[0] - self.linear.size)

    @property
    def box(self) -> tuple[Floats, Floats] | None:
        """The least and the largest w that p may have, (k,) each; None where the data have no known range."""
        if self.program.base.data_range is None:
            return None
        return ranges_over(self.program.directions[: self.dimension], self.program.base.data_range)

    def coordinates_of(self, features: Floats) -> Floats:
        """w = Qx, (n, k), from what a session's `features` gives, (n, k + l)."""
        return features[:, : self.dimension]

    def convex_part(self, coordinates: Floats) -> Floats:
        """F(w) = f(w)/λ for rows w, (n, k) to (n,)."""
        if self.nonlinear is None:
            return np.zeros(coordinates.shape[0])
        return np.asarray(self.nonlinear.value(coordinates), dtype=np.float64).reshape(-1) / self.weight

    def linear_part(self, features: Floats) -> Floats:
        """⟨h, x⟩, (n,), from features (n, k + l)."""
        return features[:, self.dimension :] @ self.linear

    def exponent(self, features: Floats) -> Floats:
        """F(w) + ⟨h, x⟩, which is (r(x) − c)/λ, (n,), from features (n, k + l)."""
        return self.convex_part(self.coordinates_of(features)) + self.linear_part(features)

    def tilts(self, theta: Floats, share: float = 1.0) -> Floats:
        """Coordinates (n, k + l) of the tilts Qᵀθ + share·h, for θ (n, k)."""
        return np.hstack([theta, np.broadcast_to(share * self.linear, (theta.shape[0], self.linear.size))])
