"""alignkit itself, as a user calls it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import alignkit as ak
from tests.benchmarks.kl_exact import Counted
from tests.benchmarks.peers.peer import Drawn, Sampler
from tests.benchmarks.problems import Case


def aligned(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """A new fit for each seed, so that its error is in the spread over seeds."""

    def sample(rows: int, seed: int) -> Drawn:
        before = denoiser.rows
        fitted = ak.Problem(case.reward, denoiser.base(), ak.KL(weight=case.weight)).solve(seed=seed)
        shared = denoiser.rows - before
        return Drawn(np.asarray(fitted.sample(rows, seed=seed + 1)), fitted.log_partition.value, shared)

    return {"as it comes": sample}
