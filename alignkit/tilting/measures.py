"""Tilt measures μ: functions M(w) = ∫ exp⟨θ, w⟩ dμ(θ) that equal exp F or bound it, so that p·M is a mixture of tilts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from alignkit.contracts import Floats

__all__ = ["TiltMeasure"]


class TiltMeasure(ABC):
    """A positive measure μ over tilts θ ∈ R^k with M(w) = ∫ exp⟨θ, w⟩ dμ(θ) ≥ exp F(w) for every w.

    A path of measures μ_β leads to it, from a multiple of the point mass at 0 at β = 0 to μ at β = 1.

    Attributes:
        dimension: k.
        is_exact: whether M = exp F, so that every draw of the mixture is accepted.
        description: in a few words, for `explain()` and the certificate.
    """

    dimension: int
    is_exact: bool
    description: str

    @abstractmethod
    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """log M_β(w) of rows w, (n, k) to (n,), in nats, with β = share."""

    @abstractmethod
    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """Draw for each row w a tilt θ from μ_β(dθ)·exp⟨θ, w⟩ / M_β(w).

        Arguments:
            coordinates: w, (n, k).
            share: β.
            seed, stage, first_row: number the noise, as in `alignkit.noise.normal`.

        Returns:
            θ, (n, k), in units of 1/w.
        """
