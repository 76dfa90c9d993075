"""A transport map with the base law whose draws it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import BaseLaw
from alignkit.certificates import TransportCertificate
from alignkit.contracts import Floats, Progress
from alignkit.estimates import Estimate, worth_of_base
from alignkit.expressions import Expression
from alignkit.noise import fold_seed
from alignkit.transport.account import Transported
from alignkit.transport.randomised import RandomisedMap
from alignkit.transport.reduction import TransportMap

__all__ = ["FittedTransport", "Share", "certificate_of", "scores"]

#: Draws that a certificate is of: as many as are moved in some seconds, within limits.
_FEWEST, _MOST, _SECONDS = 64, 512, 20.0


@dataclass(frozen=True, eq=False)
class FittedTransport:
    """The sampler x ↦ T(x), x ~ p.

    Arguments:
        base: the base law p.
        map: the transport map T, or two of them with a coin for each row.
    """

    base: BaseLaw
    map: TransportMap | RandomisedMap

    def sample_pairs(self, rows: int, *, seed: int, progress: Progress = None) -> tuple[Any, Any]:
        """Draw base rows and move them: (x, T(x)), each (rows, *shape), numpy."""
        x = self.base.sample(rows, seed=seed, progress=progress)
        return x, self.map_of_draws(seed).move(x, progress)

    def map_of_draws(self, seed: int) -> TransportMap | RandomisedMap:
        """The map as it moves the base draws of a seed, which fixes its coins where it has any."""
        if isinstance(self.map, RandomisedMap):
            return self.map.with_seed(fold_seed(seed, "coins of the transport"))
        return self.map

    def certify(
        self, reward: Expression, guarantee: str, *, seconds: float, seed: int, progress: Progress = None
    ) -> TransportCertificate:
        """Move a batch of base draws and report what was achieved on it.

        Arguments:
            reward: r, as the user wrote it, evaluated in full dimension.
            guarantee: what is promised, with its source.
            seconds: the time that 10,000 rows are predicted to take, which decides how many draws are moved.
            seed: fixes the draws.
            progress: told how far it is.
        """
        rows = _MOST if seconds <= 0 else min(_MOST, max(_FEWEST, int(_SECONDS / seconds * 10_000)))
        x = self.base.sample(rows, seed=fold_seed(seed, "transport certificate"), progress=progress)
        moved = self.map.apply(x, progress)
        return certificate_of(reward, self.base, x, [Share(1.0, moved)], guarantee)


@dataclass(frozen=True, eq=False)
class Share:
    """Draws moved by a map that only a share of them is moved by.

    Arguments:
        probability: of each draw.
        moved: all draws, moved.
    """

    probability: float
    moved: Transported


def certificate_of(
    reward: Expression, base: BaseLaw, x: Any, shares: Sequence[Share], guarantee: str
) -> TransportCertificate:
    """What maps achieved on draws, by the means over which map a draw moves by.

    Arguments:
        reward: r, as the user wrote it, evaluated in full dimension.
        base: the law of the draws.
        x: the draws, (n, *shape), numpy.
        shares: their probabilities add up to 1.
        guarantee: what is promised, with its source.
    """
    relative = np.max([share.moved.relative_gap for share in shares], axis=0)
    after = np.sum([share.probability * scores(reward, share.moved.y) for share in shares], axis=0)
    cost = np.sum([share.probability * share.moved.cost for share in shares], axis=0)
    work = _work(np.sum([share.moved.evaluations for share in shares], axis=0))
    return TransportCertificate(
        reward_before=Estimate.of_mean(scores(reward, x), ess=base.ess),
        reward_after=Estimate.of_mean(after, ess=base.ess),
        transport_cost=Estimate.of_mean(cost, ess=base.ess),
        gap_max=float(relative.max()),
        gap_mean=float(relative.mean()),
        rows_unfinished=int(np.any([share.moved.unfinished for share in shares], axis=0).sum()),
        rows_tied=int(np.any([share.moved.tied for share in shares], axis=0).sum()),
        guarantee=guarantee,
        details={"rows": f"{len(x)} base draws"} | worth_of_base(base.ess) | work,
    )


def scores(reward: Expression, x: Any) -> Floats:
    """r at rows of x, (n, *shape) to (n,), in float64."""
    return np.asarray(reward.value(np.asarray(x, dtype=np.float64)), dtype=np.float64).reshape(x.shape[0])


def _work(evaluations: NDArray[np.int64]) -> dict[str, str]:
    """What a global search took, if there was one."""
    if not evaluations.any():
        return {}
    return {"points searched": f"{evaluations.mean():.3g} a row, at most {evaluations.max()}"}
