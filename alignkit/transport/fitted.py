"""A transport map with the base law whose draws it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import BaseLaw
from alignkit.certificates import TransportCertificate
from alignkit.contracts import Progress
from alignkit.estimates import Estimate
from alignkit.expressions import Expression
from alignkit.noise import fold_seed
from alignkit.transport.reduction import TransportMap

__all__ = ["FittedTransport"]

_CERTIFICATE_ROWS = 512


@dataclass(frozen=True, eq=False)
class FittedTransport:
    """The sampler x ↦ T(x), x ~ p.

    Arguments:
        base: the base law p.
        map: the transport map T.
    """

    base: BaseLaw
    map: TransportMap

    def sample_pairs(self, rows: int, *, seed: int, progress: Progress = None) -> tuple[Any, Any]:
        """Draw base rows and move them: (x, T(x)), each (rows, *shape), numpy."""
        x = self.base.sample(rows, seed=seed, progress=progress)
        return x, self.map.apply(x, progress).y

    def certify(
        self, reward: Expression, guarantee: str, *, seed: int, progress: Progress = None
    ) -> TransportCertificate:
        """Move a batch of base draws and report what was achieved on it.

        Arguments:
            reward: r, as the user wrote it, evaluated in full dimension.
            guarantee: what is promised, with its source.
            seed: fixes the draws.
            progress: told how far it is.
        """
        x = self.base.sample(_CERTIFICATE_ROWS, seed=fold_seed(seed, "transport certificate"), progress=progress)
        moved = self.map.apply(x, progress)
        relative = moved.relative_gap
        return TransportCertificate(
            reward_before=Estimate.of_mean(_scores(reward, x)),
            reward_after=Estimate.of_mean(_scores(reward, moved.y)),
            transport_cost=Estimate.of_mean(moved.cost),
            gap_max=float(relative.max()),
            gap_mean=float(relative.mean()),
            rows_unfinished=int(moved.unfinished.sum()),
            rows_tied=int(moved.tied.sum()),
            guarantee=guarantee,
            details={"rows": f"{_CERTIFICATE_ROWS} base draws"} | _work(moved.evaluations),
        )


def _work(evaluations: NDArray[np.int64]) -> dict[str, str]:
    """What a global search took, if there was one."""
    if not evaluations.any():
        return {}
    return {"points searched": f"{evaluations.mean():.3g} a row, at most {evaluations.max()}"}


def _scores(reward: Expression, x: Any) -> Any:
    return np.asarray(reward.value(np.asarray(x, dtype=np.float64))).reshape(x.shape[0])
