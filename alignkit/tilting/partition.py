"""The log-partition log Z(θ) = log E_p exp⟨θ, x⟩."""

from __future__ import annotations

import numpy as np

from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, TiltProgram
from alignkit.estimates import Estimate
from alignkit.tilting.quadrature import log_partition_at

__all__ = ["closed_form", "log_partition_at", "quadrature"]


def closed_form(program: TiltProgram) -> Estimate | None:
    """log Z of the program's one tilt where the law knows it; None where it does not."""
    if not isinstance(program.base, ExactLaw):
        return None
    return Estimate(float(program.base.log_partition(program.tilts)[0]))


def quadrature(session: DenoisingTiltSession, sigma_max: float) -> Estimate:
    """log Z of the session's one direction θ from an exact denoiser; see `log_partition_at`.

    Arguments:
        session: a sampler of the one direction θ, whose denoiser is exact.
        sigma_max: the largest noise scale the denoiser takes, in units of x.

    Returns:
        log Z; its standard error is the numerical error, taken from the last refinement of nodes and of σ.

    Raises:
        ImproperTargetError: the integral grows with σ as it does where E_p exp⟨θ, x⟩ is infinite.
        NonFiniteError: the denoiser gave a NaN or an infinity.
    """
    found = log_partition_at(session, np.ones((1, 1)), sigma_max)
    return Estimate(float(found.values[0]), float(found.errors[0]))
