"""What a report looks at: draws of a result before and after alignment, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.compiler.plan import Plan
from alignkit.contracts import Floats, Progress
from alignkit.errors import ParameterError
from alignkit.noise import fold_seed
from alignkit.report.samples import shown_at_once
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.heuristic import values_on_host
from alignkit.transport.fitted import FittedTransport
from alignkit.transport.randomised import RandomisedMap

__all__ = ["Study", "study_of"]


@dataclass(frozen=True, eq=False)
class Study:
    """Draws of the base law and of the aligned law.

    Arguments:
        before: base draws, (n, *shape), numpy.
        after: aligned draws, likewise; under transport row i is where row i of `before` went.
        rewards_before, rewards_after: r of each, (n,), without utilities of expectations.
        gaps: the relative gap of each move, (n,); None under KL.
        costs: of each move, (n,), in units of cost; None under KL.
        seen_before, seen_after: the first few draws as they are looked at, which of latents are pictures.
        device: where the draws were made, as the engine names it.
    """

    before: NDArray[np.floating]
    after: NDArray[np.floating]
    rewards_before: Floats
    rewards_after: Floats
    gaps: Floats | None
    costs: Floats | None
    seen_before: NDArray[np.floating]
    seen_after: NDArray[np.floating]
    device: str

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
        moves = fitted.map
        if isinstance(moves, RandomisedMap):
            moves = moves.with_seed(fold_seed(seed, "coins of the transport"))
        moved = moves.apply(before, progress)
        after, gaps, costs = moved.y, moved.relative_gap, moved.cost
    else:
        after, gaps, costs = fitted.sample(rows, seed=seed, progress=progress), None, None
    # A reward that is the user's own function may take the engine's arrays alone.
    own = before if gaps is not None else _like(before, after)
    first = slice(shown_at_once(plan.base.shape) if shown is None else shown)
    return Study(
        before=np.asarray(before),
        after=_host(after),
        rewards_before=_rewards(plan, own),
        rewards_after=_rewards(plan, after),
        gaps=gaps,
        costs=costs,
        seen_before=_seen(plan, before[first]),
        seen_after=_seen(plan, _host(after[first])),
        device=str(array_api_compat.device(after)),
    )


def _rewards(plan: Plan, x: Any) -> Floats:
    exact = x if plan.is_heuristic else _host(x).astype(np.float64)
    return values_on_host(plan.diagnosis.reward)(exact)


def _seen(plan: Plan, draws: NDArray[np.floating]) -> NDArray[np.floating]:
    """Draws as pictures where the base law is of latents and has a decoder."""
    decode = getattr(plan.base, "decode", None)
    if decode is None:
        return draws
    try:
        return _host(decode(draws))
    except ParameterError:
        # The method is there, and this law's draws are the pictures themselves.
        return draws


def _like(x: NDArray[np.floating], other: Any) -> Any:
    """x as an array of the kind, dtype and device of another."""
    space = array_api_compat.array_namespace(other)
    return space.asarray(x, dtype=other.dtype, device=array_api_compat.device(other))


def _host(x: Any) -> NDArray[np.floating]:
    return np.asarray(x.cpu().numpy() if array_api_compat.is_torch_array(x) else x)
