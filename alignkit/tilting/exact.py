"""The backend of laws whose tilts are closed forms: independent, exact draws in numpy, no engine needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import ExactLaw
from alignkit.contracts import Bid, Guarantee, Progress, Refusal, TiltProgram
from alignkit.noise import normal
from alignkit.registry import Manifest

__all__ = ["ExactTiltSampler", "ExactTiltSession", "manifest"]

Floats = NDArray[np.float64]

_SECONDS_PER_ENTRY = 1e-7

manifest = Manifest(name="exact", engines=("numpy",), tilt_sampler="alignkit.tilting.exact:ExactTiltSampler")


class ExactTiltSampler:
    """Draws from the closed-form tilts of Gaussians, their mixtures and data sets; see
    `alignkit.contracts.TiltSampler`."""

    def bid(self, program: TiltProgram) -> Bid | Refusal:
        """Offer for an `ExactLaw`, refuse any other."""
        if not isinstance(program.base, ExactLaw):
            return Refusal(
                "exact", f"{program.base.name!r} is known through its denoiser alone, its tilts in no closed form"
            )
        seconds = program.rows * program.base.ambient * _SECONDS_PER_ENTRY
        return Bid("exact", "closed-form tilt, independent draws", Guarantee.EXACT, seconds)

    def open(self, program: TiltProgram) -> ExactTiltSession:
        """Be ready to draw."""
        assert isinstance(program.base, ExactLaw)
        return ExactTiltSession(program.base, program.directions)


class ExactTiltSession:
    """Exact draws of one law's tilts; see `alignkit.contracts.TiltSession` and `PushforwardSession`.

    Attributes:
        nfe_per_draw, evaluations: 0, since no denoiser is called.
    """

    nfe_per_draw = 0
    evaluations = 0

    def __init__(self, base: ExactLaw, directions: Floats) -> None:
        self._base = base
        self._directions = directions

    def draw(
        self,
        coordinates: Floats,
        rows: int,
        *,
        seed: int,
        stage: int = 0,
        first_row: int = 0,
        progress: Progress = None,
    ) -> Floats:
        """Draw rows from their tilts; see `alignkit.contracts.TiltSession`."""
        out = self._base.draw_tilted(coordinates @ self._directions, rows, seed=seed, stage=stage, first_row=first_row)
        if progress is not None:
            progress("sampling", rows, rows)
        return out

    def noise(self, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> Floats:
        """z of some rows; see `alignkit.contracts.PushforwardSession`."""
        found: Floats = normal(seed, rows, self._base.noise_size, stage=stage, first_row=first_row)
        return found

    def from_noise(self, noise: Floats, progress: Progress = None) -> Floats:
        """Draws of the base as the law makes them of noise; see `alignkit.contracts.PushforwardSession`."""
        out = self._base.from_noise(noise)
        if progress is not None:
            progress("sampling", len(out), len(out))
        return out

    def features(self, x: Floats) -> Floats:
        """⟨direction, x⟩, (n, m)."""
        return x.reshape(x.shape[0], -1) @ self._directions.T

    def take(self, x: Floats, indices: NDArray[np.int64]) -> Floats:
        """Rows by index; see `alignkit.contracts.TiltSession`."""
        taken: Floats = x[indices]
        return taken
