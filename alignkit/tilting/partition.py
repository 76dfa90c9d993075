"""The log-partition log Z(θ) = log E_p exp⟨θ, x⟩."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, TiltProgram
from alignkit.errors import ImproperTargetError
from alignkit.estimates import Estimate

__all__ = ["closed_form", "quadrature"]

_NODES = (24, 48, 96, 192, 384)
_TOLERANCE = 1e-4
# Changes below this share of the value are not held to be growth.
_GROWTH = 0.05


def closed_form(program: TiltProgram) -> Estimate | None:
    """log Z of the program's one tilt where the law knows it; None where it does not."""
    if not isinstance(program.base, ExactLaw):
        return None
    return Estimate(float(program.base.log_partition(program.tilts)[0]))


def quadrature(session: DenoisingTiltSession, sigma_max: float) -> Estimate:
    """log Z of the session's one direction θ from an exact denoiser, by integrating the tilted mean along the path tθ.

    With m₀ the base's mean and φ(x) = ‖x − m₀‖²/2σ²,

        ∫₀¹ ⟨θ, D(m₀ + σ²tθ, σ)⟩ dt = log E_p exp(⟨θ, x⟩ − φ(x)) − log E_p exp(−φ(x))

    holds exactly (the integrand is the derivative of the first term: Tweedie's formula), and tends to log Z as σ grows
    with an error in powers of 1/σ². Two Richardson steps over σ² remove the first two powers.

    Arguments:
        session: a sampler of the one direction θ, whose denoiser is exact.
        sigma_max: the largest noise scale the denoiser takes, in units of x.

    Returns:
        log Z; its standard error is the numerical error, taken from the last refinement of nodes and of σ.

    Raises:
        ImproperTargetError: the integral grows with σ as it does where E_p exp⟨θ, x⟩ is infinite.
        NonFiniteError: the denoiser gave a NaN or an infinity.
    """
    levels = [sigma_max, sigma_max / math.sqrt(2), sigma_max / 2]
    values, node_error = zip(*(_integral(session, sigma) for sigma in levels), strict=True)
    first = 2 * values[0] - values[1]
    second = 2 * values[1] - values[2]
    extrapolated = (4 * first - second) / 3
    # In the expansion the changes halve from level to level; where E_p exp⟨θ, x⟩ is infinite they double.
    growth, before = values[0] - values[1], values[1] - values[2]
    if growth > max(before, _GROWTH * max(1.0, abs(values[0]))):
        raise ImproperTargetError(
            f"log E_p exp(r/λ) keeps growing with the noise scale ({values[1]:.4g} at σ = {levels[1]:.4g}, "
            f"{values[0]:.4g} at {levels[0]:.4g}): the base law has no exponential moment there, or σ_max is not large "
            "against its spread.",
            ways_out=["Raise the weight λ.", "Declare a larger sigma_max, if the denoiser is exact there."],
        )
    return Estimate(extrapolated, abs(extrapolated - first) + max(node_error))


def _integral(session: DenoisingTiltSession, sigma: float) -> tuple[float, float]:
    """Gauss and Legendre's rule with doubled nodes until it settles, and the last change."""
    previous = math.nan
    for count in _NODES:
        nodes, weights = np.polynomial.legendre.leggauss(count)
        coordinates: NDArray[np.float64] = ((nodes + 1) / 2)[:, None]
        value = float(weights @ session.means(coordinates, sigma)[:, 0] / 2)
        error = abs(value - previous)
        if error < _TOLERANCE:
            break
        previous = value
    return value, error
