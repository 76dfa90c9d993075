"""What a report looks at: draws of a result before and after alignment, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import BaseLaw
from alignkit.compiler.plan import Plan
from alignkit.contracts import Floats, Progress
from alignkit.errors import ParameterError
from alignkit.expressions.arrays import to_numpy
from alignkit.report.samples import shown_at_once
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.heuristic import values_on_host
from alignkit.transport.fitted import FittedTransport

__all__ = ["Study", "as_seen", "study_of"]


@dataclass(frozen=True, eq=False)
class Study:
    """Draws of the base law and of the aligned law.

    Arguments:
        before: base draws, (n, *shape), numpy.
        after: aligned draws, likewise; under transport row i is where row i of `before` went.
        rewards_before, rewards_after: r of each, (n,), without utilities of expectations.
        gaps: the relative gap of each move, (n,); None under KL.
        costs: of each move, (n,), in units of cost; None under KL.
        device: where the draws were made, as the engine names it.
        base: the base law, whose decoder shows latents as pictures.
        shown: how many draws are looked at one by one.
    """

    before: NDArray[np.floating]
    after: NDArray[np.floating]
    rewards_before: Floats
    rewards_after: Floats
    gaps: Floats | None
    costs: Floats | None
    device: str
    base: BaseLaw
    shown: int

    @cached_property
    def seen_before(self) -> NDArray[np.floating]:
        """The first few base draws as they are looked at, which of latents are pictures."""
        return as_seen(self.base, self.before[: self.shown])

    @cached_property
    def seen_after(self) -> NDArray[np.floating]:
        """The first few aligned draws, likewise."""
        return as_seen(self.base, self.after[: self.shown])

    @property
    def is_paired(self) -> bool:
        """Whether each aligned draw comes from a base draw of its own."""
        return self.costs is not None


def study_of(
    plan: Plan,
    fitted: FittedTilt | FittedTransport,
    rows: int,
    *,
    seed: int,
    shown: int | None = None,
    progress: Progress = None,
) -> Study:
    """Draw from a fitted law and from its base.

    Arguments:
        plan: how the problem was solved.
        fitted: the sampler.
        rows: how many draws of each.
        seed: fixes them; the same as the seed of `sample`.
        shown: how many are looked at one by one; if None as many as a figure shows well.
        progress: told how far it is.
    """
    before = plan.base.sample(rows, seed=seed, progress=progress)
    if isinstance(fitted, FittedTransport):
        moved = fitted.map_of_draws(seed).apply(before, progress)
        after, gaps, costs = moved.y, moved.relative_gap, moved.cost
    else:
        after, gaps, costs = fitted.sample(rows, seed=seed, progress=progress), None, None
    found = to_numpy(after)
    # A reward that is the user's own function may take the engine's arrays alone.
    scored = (_like(before, after), after) if plan.is_heuristic else (before.astype(float), found.astype(float))
    rewards_before, rewards_after = map(values_on_host(plan.diagnosis.reward), scored)
    return Study(
        before=np.asarray(before),
        after=found,
        rewards_before=rewards_before,
        rewards_after=rewards_after,
        gaps=gaps,
        costs=costs,
        device=str(array_api_compat.device(after)),
        base=plan.base,
        shown=shown_at_once(plan.base.shape) if shown is None else shown,
    )


def as_seen(base: BaseLaw, draws: NDArray[np.floating]) -> NDArray[np.floating]:
    """Draws as they are looked at: as pictures where the base law is of latents and has a decoder.

    Arguments:
        base: the base law.
        draws: (n, *shape), numpy.

    Returns:
        (n, …), numpy.
    """
    decode = getattr(base, "decode", None)
    if decode is None:
        return draws
    try:
        return to_numpy(decode(draws))
    except ParameterError:
        # The method is there, and this law's draws are the pictures themselves.
        return draws


def _like(x: NDArray[np.floating], other: Any) -> Any:
    """x as an array of the kind, dtype and device of another."""
    space = array_api_compat.array_namespace(other)
    return space.asarray(x, dtype=other.dtype, device=array_api_compat.device(other))
