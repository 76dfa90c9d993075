"""Where on its way a solver met a number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from alignkit.errors import NonFiniteError
from alignkit_torch.schedule import Denoise

__all__ = ["Witness", "not_finite"]


class Witness:
    """A denoiser that looks at what it is given and gives back, until one is not finite.

    Attributes:
        evaluations: how many there were up to the one that was not finite, itself included; all of them if none was.
        sigma: the noise level of that one.
        bad_rows: how many of its rows were not finite; 0 if none was.
        was_given: whether its input was not finite already.
    """

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.evaluations, self.sigma, self.bad_rows, self.was_given = 0, 0.0, 0, False

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What the denoiser gives, looked at."""
        found = self._denoise(x, sigma)
        if not self.bad_rows:
            self.evaluations += 1
            self.sigma = float(sigma[0])
            self.bad_rows = int((~torch.isfinite(found.reshape(len(found), -1))).any(dim=1).sum())
            self.was_given = not bool(torch.isfinite(x).all())
        return found


def not_finite(
    witness: Witness, steps_of: Callable[[int], int], sigmas: Sequence[float], name: str, occasion: str
) -> NonFiniteError:
    """The error that says which step failed, at which σ, and whether it was the denoiser.

    Arguments:
        witness: has seen the way that failed.
        steps_of: the number of the step that an evaluation falls into, both from 1.
        sigmas: the levels of the way.
        name, occasion: as for `alignkit_torch.solvers.solve_flow`.
    """
    subject = f"The denoiser{f' of {name}' if name else ''}"
    during = f", {occasion}" if occasion else ""
    if not witness.bad_rows:
        return NonFiniteError(
            f"{subject} gave NaN or infinite values on the way from σ = {sigmas[0]:.4g} to 0{during}, and none when "
            "asked again.",
            ways_out=["Make the network deterministic: evaluation mode, no dropout."],
        )
    step = f"step {steps_of(witness.evaluations)} of {len(sigmas) - 1}, at σ = {witness.sigma:.4g}{during}"
    if witness.was_given:
        return NonFiniteError(
            f"The input of {subject[0].lower()}{subject[1:]} is NaN or infinite in {step}.",
            ways_out=["Lower the tilt (a larger λ).", "Use dtype='float64'."],
        )
    return NonFiniteError(
        f"{subject} gave NaN or infinite values in {witness.bad_rows} rows, in {step}.",
        ways_out=["Check the network on noise of that scale.", "Lower the tilt (a larger λ), or use dtype='float64'."],
    )
