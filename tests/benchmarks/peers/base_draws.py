"""Draws of p put to use: by importance resampling, and as the best of n."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import TiltProgram
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.kl_exact import Counted
from tests.benchmarks.peers.peer import Drawn, Sampler
from tests.benchmarks.problems import Case

# Evaluations of one base draw: fewer leave more draws to choose from, but worse ones.
EVALUATIONS = (63, 31, 15, 9)


def _pool(denoiser: Counted, evaluations: int, rows: int, seed: int) -> NDArray[np.floating]:
    base = denoiser.base()
    untilted = np.zeros((1, 1))
    program = TiltProgram(base, np.zeros((1, base.ambient)), untilted, rows)
    session = TorchTiltSampler(nfe=evaluations).open(program)
    found: NDArray[np.floating] = session.draw(untilted, rows, seed=seed).numpy(force=True)
    return found


def reweighting(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """Importance resampling (Rubin, 1987) of as many base draws as the budget allows."""

    def made(evaluations: int) -> Sampler:
        def sample(rows: int, seed: int) -> Drawn:
            pool = _pool(denoiser, evaluations, budget // evaluations * rows, seed)
            logs = np.asarray(case.exponent(pool), dtype=np.float64)
            total = np.logaddexp.reduce(logs)
            chosen = np.random.default_rng(seed).choice(len(pool), rows, p=np.exp(logs - total))
            return Drawn(pool[chosen], float(total - np.log(len(pool))))

        return sample

    return {
        f"{evaluations} NFE × {budget // evaluations}": made(evaluations)
        for evaluations in EVALUATIONS
        if evaluations <= budget
    }


def best_of_n(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """The draw of the largest reward among n: its law is another than q, next to it for one n (arXiv 2401.01879)."""

    def made(evaluations: int, copies: int) -> Sampler:
        def sample(rows: int, seed: int) -> Drawn:
            pool = _pool(denoiser, evaluations, copies * rows, seed)
            best = np.asarray(case.exponent(pool)).reshape(rows, copies).argmax(axis=1)
            return Drawn(pool.reshape(rows, copies, *case.law.shape)[np.arange(rows), best])

        return sample

    return {
        f"{evaluations} NFE × {copies}": made(evaluations, copies)
        for evaluations in EVALUATIONS
        for copies in (1, 2, 3, 4, 6, 8, 11)
        if copies * evaluations <= budget < 2 * copies * evaluations or copies == 1
    }
