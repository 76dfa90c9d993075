"""A quadratic reward of rank 8 on a 64-dimensional mixture known through its denoiser alone, by a pool of tilts.

Bars: log Z within 0.2 of the closed form and within three standard errors, those of replicate runs and those that the
runs state; the weights of the modes within 0.02 in every run; at most 120 evaluations per sample, those of the fit
shared among 10,000 samples.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.tilting.measures import GaussianMeasure
from alignkit.tilting.pooled import fit_pooled
from alignkit.tilting.target import TiltTarget
from alignkit_torch.tilt_sampler import TorchTiltSampler

AMBIENT, RANK, MODES, VARIANCE = 64, 8, 8, 0.25
STRENGTH = 1.5
SAMPLES, REPLICATES = 10_000, 10
LOG_Z_BAR, WEIGHT_BAR, NFE_BAR = 0.2, 0.02, 120

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankEight:
    """q ∝ p·exp(s/2·‖Bx‖²), p a mixture of N(m_i, v I), B with orthonormal rows; q is such a mixture again.

    Attributes:
        means: m, (modes, d).
        rows: B, (rank, d).
        strength: s.
    """

    means: Floats
    rows: Floats
    strength: float

    @staticmethod
    def drawn(strength: float = STRENGTH) -> RankEight:
        random = np.random.default_rng(0)
        means = random.normal(size=(MODES, AMBIENT))
        return RankEight(means, np.linalg.qr(random.normal(size=(AMBIENT, RANK)))[0].T, strength)

    @property
    def seen(self) -> Floats:
        """Bm, (modes, rank)."""
        return self.means @ self.rows.T

    @property
    def log_terms(self) -> Floats:
        """The logarithm of each mode's part of Z, (modes,): a Gaussian integral."""
        left = 1 - self.strength * VARIANCE
        terms: Floats = self.strength * (self.seen**2).sum(axis=1) / (2 * left) - RANK / 2 * math.log(left)
        return terms - math.log(MODES)

    @property
    def log_partition(self) -> float:
        return float(np.logaddexp.reduce(self.log_terms))

    @property
    def weights(self) -> Floats:
        """Those of the modes of q."""
        return np.exp(self.log_terms - self.log_partition)

    def weights_of(self, draws: Floats) -> Floats:
        """The shares of the modes among draws (n, d), each draw shared out by its posterior under q."""
        left = 1 - self.strength * VARIANCE
        w = draws @ self.rows.T
        along = ((w[:, None] - self.seen / left) ** 2).sum(axis=2)
        across = ((draws[:, None] - self.means) ** 2).sum(axis=2) - ((w[:, None] - self.seen) ** 2).sum(axis=2)
        logs = self.log_terms - (along * left + across) / (2 * VARIANCE)
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        found: Floats = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        return found

    def target(self) -> TiltTarget:
        """The law with p known through its denoiser alone."""
        law = ak.base.GaussianMixture(np.full(MODES, 1 / MODES), self.means, VARIANCE)
        base = ak.base.Denoiser(
            law.denoise,
            law.shape,
            sigma_min=0.02,
            sigma_max=80.0,
            exact=True,
            tail=VARIANCE,
            name="mixture by denoiser",
        )
        directions = np.vstack([self.rows, np.zeros((1, AMBIENT))])
        reward = self.strength / 2 * ak.sum_squares(ak.Variable(RANK))
        return TiltTarget(TiltProgram(base, directions, np.zeros((1, RANK + 1)), SAMPLES), reward, 1.0, np.ones(1))

    def measure(self) -> GaussianMeasure:
        return GaussianMeasure(self.strength * np.eye(RANK))


def run() -> bool:
    problem = RankEight.drawn()
    truth, weights = problem.log_partition, problem.weights
    print(f"log Z {truth:.3f}, mode weights {np.round(weights[weights > 1e-3], 3)}, {SAMPLES} samples")
    print("seed  log Z ± se        deviation  largest error of a weight  NFE per sample  stages              seconds")
    errors, stated, deviations, costs = [], [], [], []
    for seed in range(REPLICATES):
        start = time.perf_counter()
        target = problem.target()
        session = TorchTiltSampler().open(target.program)
        fitted = fit_pooled(target, session, seed=seed, measure=problem.measure())
        draws = fitted.sample(SAMPLES, seed=1).numpy().astype(np.float64)
        found = fitted.moments.log_partition
        errors.append(found.value - truth)
        stated.append(found.standard_error)
        deviations.append(float(np.abs(problem.weights_of(draws) - weights).max()))
        costs.append(session.evaluations / SAMPLES)
        stages = fitted.moments.details["annealing"].split(" particles")[0]
        print(
            f"{seed:<4}  {found.value:.3f} ± {found.standard_error:.3f}    {errors[-1]:+.3f}     {deviations[-1]:.4f}"
            f"                     {costs[-1]:<6.1f}          {stages:<18}  "
            f"{time.perf_counter() - start:.1f}",
            flush=True,
        )
    spread = float(np.std(errors, ddof=1))
    root = math.sqrt(np.mean(np.square(deviations)))
    print(
        f"log Z: mean deviation {np.mean(errors):+.3f}, sd over replicates {spread:.3f}, stated {np.mean(stated):.3f}; "
        f"weights: root mean square {root:.4f}, largest {max(deviations):.4f}, within {WEIGHT_BAR} in "
        f"{sum(deviation <= WEIGHT_BAR for deviation in deviations)} of {REPLICATES} runs"
    )
    held = max(map(abs, errors)) <= LOG_Z_BAR
    held &= all(abs(error) <= 3 * max(spread, own) for error, own in zip(errors, stated, strict=True))
    return held and max(deviations) <= WEIGHT_BAR and max(costs) <= NFE_BAR
