"""What engines that carry weighted islands hand back: draws that know their island, and moments with honest errors."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.certificates import Calibration
from alignkit.contracts import Floats, Progress, TiltSession
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.estimates import Estimate
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.fitted import AnnealingStage, TiltMoments
from alignkit.tilting.islands import ISLANDS, Islands, by_island
from alignkit.tilting.path import TiltPath
from alignkit.tilting.rejection import draw_accepted

__all__ = ["Indices", "IslandTilt", "moments_by_island", "naming"]

Indices = NDArray[np.int64]

# A bound as loose as this would be drawn from in vain.
_ACCEPTANCE_MIN = 1e-4


@dataclass(frozen=True, eq=False)
class IslandTilt(ABC):
    """Draws of q: a member chosen by the sample's seed, drawn from afresh, then kept or not; see `FittedTilt`.

    Arguments:
        path: ends at the law p·M(Qx)·exp⟨h, x⟩ of fresh draws before any is rejected.
        session: makes them.
        weights: of the members, (N,), summing to 1; consecutive members share an island.
        moments: what the fit measured.
    """

    path: TiltPath
    session: TiltSession
    weights: Floats
    moments: TiltMoments

    @abstractmethod
    def fresh(self, members: Indices, *, seed: int, first_row: int, progress: Progress) -> Any:
        """A fresh draw from each of the given members, (n, *shape), as the session's own arrays."""

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays."""
        return self.sample_by_island(rows, seed=seed, progress=progress)[0]

    def sample_by_island(self, rows: int, *, seed: int, progress: Progress = None) -> tuple[Any, Indices]:
        """Draw rows as `sample` does, with the island of each, (rows,): draws of one island depend on each other."""
        path, session = self.path, self.session

        def propose(first_row: int, count: int) -> tuple[Any, Floats]:
            x = self._propose(first_row, count, seed)
            return x, session.features(x)

        with naming("drawing from the fitted particles"):
            if path.is_exact:
                return self._propose(0, rows, seed, progress), self._islands(self._members(rows, seed))
            draws, numbers = draw_accepted(
                session,
                propose,
                path.log_acceptance,
                rows,
                acceptance=self.moments.acceptance,
                ambient=path.target.program.base.ambient,
                seed=seed,
                progress=progress,
            )
            return draws, self._islands(self._members(int(numbers[-1]) + 1 if rows else 0, seed)[numbers])

    def _islands(self, members: Indices) -> Indices:
        return members // (self.weights.size // ISLANDS)

    def _members(self, rows: int, seed: int, first_row: int = 0) -> Indices:
        """Which members the proposals come from, (rows,)."""
        uniforms = uniform(fold_seed(seed, "ancestors"), rows, 1, first_row=first_row)[:, 0]
        return categorical(self.weights[None], uniforms)

    def _propose(self, first_row: int, rows: int, seed: int, progress: Progress = None) -> Any:
        members = self._members(rows, seed, first_row)
        return self.fresh(members, seed=fold_seed(seed, "draws"), first_row=first_row, progress=progress)


def moments_by_island(
    path: TiltPath,
    proposals: Islands,
    features: Floats,
    *,
    before: Estimate,
    nfe_per_proposal: int,
    predicted: float,
    details: dict[str, str],
    calibration: Calibration | None = None,
    stages: tuple[AnnealingStage, ...] = (),
) -> TiltMoments:
    """Moments of q from proposals on islands, each kept with probability exp(F)/M.

    Arguments:
        path: ends at the law of proposals.
        proposals: log Ẑ of that law, by islands.
        features: of proposals such as samples are made of, alike in number and weight on an island, (N, m).
        before: E_p[e].
        nfe_per_proposal: evaluations of the denoiser.
        predicted: the share of proposals that was expected to be kept.
        details: further facts; what concerns the measure is added.
        calibration: of the sampler, if any.
        stages: of annealing.

    Returns:
        the moments, with the effective sample size of `features` for the mean of e.

    Raises:
        ParameterError: nearly no proposal would be kept.
    """
    kept = np.exp(by_island(path.log_acceptance(features)))
    islands = proposals.times(np.log(kept.mean(axis=1)))
    acceptance = 1.0 if path.is_exact else min(1.0, float(proposals.weights @ kept.mean(axis=1)))
    if acceptance < _ACCEPTANCE_MIN:
        raise ParameterError(
            f"The bound on exp(r/λ) is too loose: {acceptance:.2g} of its draws would be kept.",
            ways_out=["Raise the weight λ.", "Use a reward of lower rank or with fewer pieces."],
        )
    exponents = by_island(path.target.exponent(features))
    means = (kept * exponents).sum(axis=1) / kept.sum(axis=1)
    after = islands.mean(means)
    spread = float((kept * (exponents - after.value) ** 2).sum() / kept.sum())
    ess = spread / after.standard_error**2 if after.standard_error > 0 else math.inf
    if path.measure is not None:
        details = {**details, "tilt measure": path.measure.description}
    if not path.is_exact:
        observed = proposals.mean(kept.mean(axis=1))
        details["acceptance"] = f"{predicted:.3g} predicted, {observed} observed after a fresh move"
        details["bound"] = f"violated by {path.violations(features)} of {len(features)} draws"
    moments = TiltMoments(
        before=before,
        after=after,
        log_partition=islands.log_partition,
        ess=min(ess, float(len(features))),
        nfe_per_sample=nfe_per_proposal / acceptance,
        calibration=calibration,
        details=details,
        acceptance=acceptance,
        kl=islands.divergence(means),
        stages=stages,
    )
    weights = islands.weights[:, None] * kept / kept.sum(axis=1, keepdims=True)
    return moments.on_shared_draws(path.target.program.base.ess, exponents.ravel(), weights.ravel())


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say where the denoiser was being used when it failed."""
    try:
        yield
    except NonFiniteError as error:
        named = NonFiniteError(
            f"{error.message} It happened {where}.", ways_out=error.ways_out, expression=error.expression
        )
        named.draws = error.draws
        raise named from error
