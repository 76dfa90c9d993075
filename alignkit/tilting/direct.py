"""The direct engine: independent draws of one tilt, started at σ_max or in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, Progress, TiltProgram, TiltSession
from alignkit.estimates import Estimate
from alignkit.noise import fold_seed
from alignkit.tilting import partition
from alignkit.tilting.fitted import TiltMoments

__all__ = ["DirectTilt", "fit_direct"]

_PILOT_ROWS = 1024


@dataclass(frozen=True, eq=False)
class DirectTilt:
    """Independent draws of q_θ; see `alignkit.tilting.fitted.FittedTilt`."""

    session: TiltSession
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays."""
        return self.session.draw(np.ones((1, 1)), rows, seed=seed, progress=progress)


def fit_direct(program: TiltProgram, session: TiltSession, *, seed: int, progress: Progress = None) -> DirectTilt:
    """Fit the one tilt of a program whose session draws it directly.

    The log-partition is the law's own where it has one, else by quadrature over the exact denoiser; moments are closed
    forms where nothing is left to the sampler, else means over pilot draws.

    Arguments:
        program: one direction θ, at coordinate 1.
        session: opened on it.
        seed: fixes the pilot draws.
        progress: told how far it is.
    """
    log_partition = partition.closed_form(program)
    if log_partition is None:
        denoising: DenoisingTiltSession = session  # type: ignore[assignment]  # a law without closed forms has a denoiser
        log_partition = partition.quadrature(denoising, program.base.sigma_max)
    if isinstance(program.base, ExactLaw) and session.nfe_per_draw == 0:
        direction = program.tilts[0]
        before = Estimate(float(direction @ program.base.mean))
        after = Estimate(float(direction @ program.base.tilt(direction).mean))
    else:
        before, after = (
            Estimate.of_mean(
                session.features(session.draw(np.full((1, 1), at), _PILOT_ROWS, seed=pilot, progress=progress))[:, 0]
            )
            for at, pilot in ((0.0, fold_seed(seed, "base pilot")), (1.0, fold_seed(seed, "tilted pilot")))
        )
    moments = TiltMoments(
        before=before,
        after=after,
        log_partition=log_partition,
        ess=math.inf,
        nfe_per_sample=session.nfe_per_draw,
        calibration=None,
    )
    return DirectTilt(session, moments)
