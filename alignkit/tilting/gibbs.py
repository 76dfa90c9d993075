"""Gibbs sweeps over tilts and draws: θ | x, then x | θ, which leave a mixture of tilts as it is and need no normaliser.

The conditional law of x is a tilt of the base. Where sampling one takes a denoiser, x is sent back to a moderate noise
scale and denoised under its tilt instead, which leaves that tilt invariant at a part of the cost, and which learned
denoisers survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignkit.contracts import DenoisingTiltSession, Floats, Progress, TiltSession
from alignkit.noise import fold_seed
from alignkit.tilting.path import TiltPath

__all__ = ["GibbsSweep"]


@dataclass(frozen=True, eq=False)
class GibbsSweep:
    """A sweep that leaves p·M_β(Qx)·exp(β⟨h, x⟩) invariant.

    Arguments:
        path: the laws.
        session: opened on their program.
        sigma: the noise scale draws are sent back to, in units of x.
        nfe: evaluations of the base denoiser per row; 0 where the session draws tilts in closed form, afresh.
    """

    path: TiltPath
    session: TiltSession
    sigma: float
    nfe: int

    def __call__(
        self,
        x: Any,
        features: Floats,
        share: float = 1.0,
        *,
        seed: int,
        stage: int = 0,
        first_row: int = 0,
        progress: Progress = None,
    ) -> Any:
        """Move rows.

        Arguments:
            x: (n, *shape), draws of the law at β = share.
            features: (n, m), of x.
            share: β.
            seed, stage, first_row: number the noise, as for `TiltSession.draw`.
            progress: told how far it is.

        Returns:
            (n, *shape), as the session's own arrays.
        """
        tilts = self.path.draw_tilts(features, share, seed=fold_seed(seed, "tilts"), stage=stage, first_row=first_row)
        if not self.nfe:
            return self.session.draw(
                tilts, features.shape[0], seed=seed, stage=stage, first_row=first_row, progress=progress
            )
        session: DenoisingTiltSession = self.session  # type: ignore[assignment]  # evaluations imply a denoiser
        return session.renoise(
            x,
            tilts,
            sigma=self.sigma,
            nfe=self.nfe,
            seed=seed,
            stage=stage,
            first_row=first_row,
            progress=progress,
        )
