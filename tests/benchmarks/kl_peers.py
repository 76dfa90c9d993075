"""KL alignment beside other samplers of q ∝ p·exp(r/λ), with p known through its denoiser, in one run.

Bar: the sliced-W2 of 2,000 draws is at most that of the best peer on every problem (missed only by more than two
standard errors of the difference). Peers may spend on a returned draw what alignkit did, and 100 evaluations at least.

The peers are base draws reweighted, the best of n, and azula's samplers: gradient guidance, twisted diffusion (TDS)
and, on quadratics, those for Gaussian likelihoods. Each runs with the settings of its grid that come out best on the
truth itself, a choice in its favour and at no charge. blackjax's tempered SMC is a reference only: it is given p's
density.

`make bench-peers` installs both libraries apart; `python -m tests.benchmarks.kl_peers --seeds 5 norm1` runs a part.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.kl_exact import AMORTISED, DRAWS, Counted
from tests.benchmarks.mixture import REFERENCE, SlicedW2
from tests.benchmarks.peers import azula_samplers, base_draws, blackjax_smc
from tests.benchmarks.peers.aligned import aligned
from tests.benchmarks.peers.peer import Peer, Sampler
from tests.benchmarks.problems import Case, cases

SEEDS, TUNING, LEAST_BUDGET = 20, 4, 100
# Exact draws cost next to nothing, and their distance is what all others are divided by.
EXACT_SEEDS = range(1_000, 1_100)
REFERENCE_SEED, TUNING_SEED = 10_000, 50_000

OURS = Peer("alignkit", aligned)
PEERS = (
    Peer("reweighting", base_draws.reweighting),
    Peer("best of n", base_draws.best_of_n),
    Peer("azula guided", azula_samplers.guided, "azula"),
    Peer("azula TDS", azula_samplers.twisted, "azula"),
    Peer("azula Gaussian", azula_samplers.gaussian, "azula", lambda case: case.square is not None),
    Peer(
        "blackjax SMC",
        blackjax_smc.tempered,
        "blackjax",
        applies=lambda case: case.mixture is not None,
        has_density=True,
    ),
)

Floats = NDArray[np.float64]


class Yardstick:
    """A case's answer: distances to it, and rewards on the scale of their spread under q."""

    def __init__(self, case: Case) -> None:
        self.case = case
        reference = case.draw(REFERENCE, REFERENCE_SEED)
        self.sliced = SlicedW2(_flat(reference))
        rewards = self._rewards(reference)
        self.mean, self.spread = float(rewards.mean()), float(rewards.std())

    def _rewards(self, rows: NDArray[Any]) -> Floats:
        return np.asarray(self.case.reward.value(rows), dtype=np.float64)

    def distance(self, rows: NDArray[Any]) -> float:
        """Sliced W2 to q; infinite where a draw is not finite."""
        return self.sliced(_flat(rows)) if np.isfinite(rows).all() else math.inf

    def deviation(self, rows: NDArray[Any]) -> float:
        """Of the mean reward, in standard deviations of the reward under q."""
        return float((self._rewards(rows).mean() - self.mean) / self.spread)


def _flat(rows: NDArray[Any]) -> Floats:
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)


@dataclass(frozen=True)
class Measured:
    """What a sampler reached over the seeds; `distances` are sliced W2, `nfe` is per returned draw."""

    setting: str
    distances: Floats
    deviation: float
    log_partition: float | None
    nfe: float
    seconds: float

    @property
    def mean(self) -> float:
        return float(self.distances.mean())

    @property
    def error(self) -> float:
        return float(self.distances.std(ddof=1) / math.sqrt(len(self.distances)))


def _best(settings: Mapping[str, Sampler], yardstick: Yardstick, seeds: Sequence[int]) -> str:
    """The settings nearest to the truth."""
    if len(settings) == 1:
        return next(iter(settings))
    scores = {
        name: sum(yardstick.distance(sampler(DRAWS, seed).rows) for seed in seeds) for name, sampler in settings.items()
    }
    return min(scores, key=scores.__getitem__)


def _measured(peer: Peer, case: Case, yardstick: Yardstick, *, budget: int, seeds: int, tuning: int) -> Measured:
    denoiser = Counted(case.law)
    settings = peer.settings(case, denoiser, budget)
    setting = _best(settings, yardstick, range(TUNING_SEED, TUNING_SEED + tuning))
    distances, deviations, logs, nfe = [], [], [], 0.0
    start = time.perf_counter()
    for seed in range(seeds):
        before = denoiser.rows
        drawn = settings[setting](DRAWS, seed)
        nfe += (denoiser.rows - before - drawn.shared) / DRAWS + drawn.shared / AMORTISED
        distances.append(yardstick.distance(drawn.rows))
        deviations.append(yardstick.deviation(drawn.rows))
        if drawn.log_partition is not None:
            logs.append(drawn.log_partition)
    return Measured(
        setting,
        np.array(distances),
        float(np.mean(deviations)),
        float(np.mean(logs)) if logs else None,
        nfe / seeds,
        (time.perf_counter() - start) / seeds,
    )


def _compared(case: Case, seeds: int, tuning: int) -> bool:
    yardstick = Yardstick(case)
    exact = np.array([yardstick.distance(case.draw(DRAWS, seed)) for seed in EXACT_SEEDS])
    floor, floor_error = exact.mean(), exact.std(ddof=1) / math.sqrt(len(exact))
    print(
        f"{case.name}, λ = {case.weight:.3g}: log Z {case.log_partition:.3f}, "
        f"exact draws {floor:.4f} ± {floor_error:.4f}",
        flush=True,
    )
    budget, found = LEAST_BUDGET, {}
    for peer in (OURS, *PEERS):
        if not peer.applies(case):
            continue
        if peer.needs is not None and importlib.util.find_spec(peer.needs) is None:
            print(f"  {peer.name:<14} not installed", flush=True)
            continue
        result = found[peer] = _measured(peer, case, yardstick, budget=budget, seeds=seeds, tuning=tuning)
        if peer is OURS:
            budget = max(budget, math.ceil(result.nfe))
        ratio = result.mean / floor
        error = ratio * math.hypot(result.error / result.mean, floor_error / floor)
        log_partition = "" if result.log_partition is None else f"{result.log_partition:.3f}"
        nfe = "density" if peer.has_density else f"{result.nfe:.1f}"
        print(
            f"  {peer.name:<14} {result.mean:.4f} ± {result.error:.4f}  {ratio:6.2f} ± {error:<6.2f} "
            f"{result.deviation:+7.3f}   {log_partition:<8}  {nfe:<7}  {result.seconds:5.1f}  {result.setting}",
            flush=True,
        )
    own = found.pop(OURS)
    rivals = {peer: result for peer, result in found.items() if not peer.has_density and math.isfinite(result.mean)}
    best = min(rivals, key=lambda peer: rivals[peer].mean)
    fine = own.mean - rivals[best].mean <= 2 * math.hypot(own.error, rivals[best].error)
    print(
        f"  alignkit {own.mean / floor:.2f} at {own.nfe:.0f} NFE; best peer up to {budget}: {best.name}, "
        f"{rivals[best].mean / floor:.2f}{'' if fine else '  MISSED'}",
        flush=True,
    )
    return fine


def run(seeds: int = SEEDS, tuning: int = TUNING, named: Sequence[str] = ()) -> bool:
    print(
        f"{DRAWS} draws, {seeds} seeds, settings chosen on {tuning} others; "
        f"a fit's evaluations are shared among {AMORTISED:,} draws"
    )
    print("  sampler        SW2              ratio to exact   E[r] off  log Z     NFE      seconds  setting")
    held = True
    for case in cases():
        if not named or any(name in case.name for name in named):
            held &= _compared(case, seeds, tuning)
    return held


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 2")
    parser.add_argument("--tuning", type=int, default=TUNING, help="seeds that settings are chosen on")
    parser.add_argument("named", nargs="*", help="parts of the names of the problems to run; all without any")
    arguments = parser.parse_args()
    sys.exit(0 if run(arguments.seeds, arguments.tuning, arguments.named) else 1)
