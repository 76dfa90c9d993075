"""Annealed Monte Carlo for any reward: Metropolis steps on the noise that draws of the base are made of.

A deterministic sampler makes draws x = S(z) of its law p from z ~ N(0, I), so p·exp(r/λ) is the law of S(z) with z from
N(0, I)·exp(r(S(z))/λ). The preconditioned Crank–Nicolson proposal √(1 − s²)·z + s·ξ leaves N(0, I) invariant, whatever
its dimension, and is accepted with probability min(1, exp((r' − r)/λ)): nothing about r is used but its values (Cotter,
Roberts, Stuart and White, "MCMC methods for functions: modifying old algorithms to make them faster", Statistical
Science 28, 2013, section 4.2). Sequential Monte Carlo raises the reward from 0 to r/λ (Del Moral, Doucet and Jasra,
"Sequential Monte Carlo samplers", J. R. Stat. Soc. B 68, 2006).

Every step is exact for the law of S itself, so that with a reward it mixes on this is also the truth that other ways to
tilt a learned model are tested against. Nothing bounds how long mixing takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, Progress, PushforwardSession, TiltProgram, TiltSession
from alignkit.errors import BackendRefusedError, NonFiniteError, ParameterError, ShapeError
from alignkit.estimates import Estimate
from alignkit.expressions import Expression
from alignkit.expressions.arrays import to_numpy
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.annealed import particle_count
from alignkit.tilting.fitted import TiltMoments
from alignkit.tilting.islands import IslandResampling, by_island
from alignkit.tilting.weighting import largest_step

__all__ = ["HeuristicTilt", "NoiseParticles", "NoiseWalk", "fit_heuristic", "values_on_host"]

#: r(x) of draws in the session's own arrays, (n, *shape) to (n,), float64 on the host, in units of reward.
Reward = Callable[[Any], Floats]

_ESS_SHARE = 0.5
# Random walks do best about .234 in many dimensions and .44 in one (Roberts and Rosenthal, 2001).
_ACCEPTANCE = 0.3
# A factor e for an acceptance that is off by a half.
_GAIN = 2.0
_SMALLEST_STEP = 1e-3
# A stage moves on when steps have this correlation with where they began, or are this many.
_MEMORY = 0.5
_MOVES_MAX = 10
#: Steps of a returned draw from the particle it starts at.
_SETTLING = 6
_STAGES_MAX = 100


@dataclass(frozen=True, eq=False)
class NoiseParticles:
    """Draws x = S(z) (n, *shape) with their noise z (n, m), on the device, and e = r(x)/λ (n,) on the host."""

    noise: Any
    x: Any
    exponents: Floats


class NoiseWalk:
    """Metropolis steps on noise, for the laws N(0, I)·exp(β·e(S(z))).

    Arguments:
        session: has S.
        reward: r.
        weight: λ.
    """

    def __init__(self, session: PushforwardSession, reward: Reward, weight: float) -> None:
        self._session, self._reward, self._weight = session, reward, weight

    def at(self, noise: Any, stage: str, progress: Progress = None) -> NoiseParticles:
        """The draws S(z) with their exponents; the stage is named where a reward is no number."""
        x = self._session.from_noise(noise, progress)
        rows = int(noise.shape[0])
        values = np.asarray(self._reward(x), dtype=np.float64)
        if values.shape != (rows,):
            raise ShapeError(
                f"The reward returned shape {values.shape} for {rows} draws.", ways_out=[f"Return shape ({rows},)."]
            )
        bad = np.flatnonzero(np.isnan(values) | (values == math.inf))
        if bad.size:
            raise NonFiniteError(
                f"The reward is {values[bad[0]]:g} at {bad.size} of {rows} draws, the first at row {bad[0]}, {stage}.",
                ways_out=["Bound the reward, with clip(…) for example.", "Return −∞ where a draw is not allowed."],
            )
        return NoiseParticles(noise, x, values / self._weight)

    def take(self, particles: NoiseParticles, chosen: NDArray[np.int64]) -> NoiseParticles:
        """Particles by index."""
        noise, x = (self._session.take(array, chosen) for array in (particles.noise, particles.x))
        return NoiseParticles(noise, x, particles.exponents[chosen])

    def step(
        self, start: NoiseParticles, share: float, size: float, *, seed: int, number: int, stage: str
    ) -> tuple[NoiseParticles, NDArray[np.bool_]]:
        """One step of every particle under β = share.

        Arguments:
            start: distributed as the law, which the step leaves invariant.
            share: β.
            size: s, between 0 and 1; 1 proposes independent noise.
            seed, number: fix the proposals and their acceptance.
            stage: what errors call it.

        Returns:
            the particles afterwards, and which of them moved.
        """
        rows = start.exponents.size
        fresh = self._session.noise(rows, seed=fold_seed(seed, "proposals"), stage=number)
        proposed = self.at(math.sqrt(1.0 - size**2) * start.noise + size * fresh, stage)
        uniforms = uniform(fold_seed(seed, "acceptance"), rows, 1, stage=number)[:, 0]
        accepted = np.log(uniforms) < share * (proposed.exponents - start.exponents)
        exponents = np.where(accepted, proposed.exponents, start.exponents)
        noise, x = (_choose(accepted, *pair) for pair in ((proposed.noise, start.noise), (proposed.x, start.x)))
        return NoiseParticles(noise, x, exponents), accepted


def _choose(condition: NDArray[np.bool_], yes: Any, no: Any) -> Any:
    """Rows of `yes` where a condition on the host holds, else of `no`."""
    xp = array_api_compat.array_namespace(yes)
    mask = xp.asarray(condition, device=array_api_compat.device(yes))
    return xp.where(xp.reshape(mask, (-1,) + (1,) * (yes.ndim - 1)), yes, no)


@dataclass(frozen=True, eq=False)
class HeuristicTilt:
    """Draws of q ∝ p·exp(r/λ): a particle chosen by the sample's seed, and some Metropolis steps away from it.

    Arguments:
        walk: the Metropolis steps.
        particles: N of them, distributed as q once weighted.
        weights: (N,), summing to 1.
        size: of the steps.
        moments: what the fit measured.
    """

    walk: NoiseWalk
    particles: NoiseParticles
    weights: Floats
    size: float
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows, (rows, *shape), as the session's own arrays; see `alignkit.tilting.fitted.FittedTilt`."""
        uniforms = uniform(fold_seed(seed, "ancestors"), rows, 1)[:, 0]
        drawn = self.walk.take(self.particles, categorical(self.weights[None], uniforms))
        for number in range(_SETTLING):
            drawn, _ = self.walk.step(drawn, 1.0, self.size, seed=seed, number=number, stage="while sampling")
            if progress is not None:
                progress("sampling", rows * (number + 1) // _SETTLING, rows)
        return drawn.x


def values_on_host(reward: Expression) -> Reward:
    """r of draws in the engine's own arrays, (n, *shape) to (n,), as float64 on the host."""

    def score(x: Any) -> Floats:
        return to_numpy(reward.value(x)).astype(np.float64).reshape(-1)

    return score


def fit_heuristic(
    program: TiltProgram,
    session: TiltSession,
    reward: Reward,
    weight: float,
    *,
    seed: int,
    particles: int | None = None,
    progress: Progress = None,
) -> HeuristicTilt:
    """Fit a reward of which nothing is known but its values.

    Arguments:
        program: names the base; its directions are not used.
        session: opened on it; has the map from noise, see `alignkit.contracts.PushforwardSession`.
        reward: r of draws in the session's own arrays, (n, *shape) to (n,), float64 on the host; −∞ forbids a draw.
        weight: λ > 0, in units of reward per nat.
        seed: fixes the particles.
        particles: how many, a multiple of 16; what memory allows, up to 4,096, if None.
        progress: told how far it is, as the share of the path from 0 to r/λ in percent.

    Returns:
        a sampler of q with what the fit measured, of the exponent r/λ.

    Raises:
        BackendRefusedError: the session has no map from noise.
        ParameterError: the reward is so strong that the path to it does not end, or too many draws have reward −∞.
        NonFiniteError: the reward is NaN or +∞ at a draw, or the denoiser returned such a number.
        ShapeError: the reward did not return one value for each draw.
    """
    if not all(callable(getattr(session, name, None)) for name in ("noise", "from_noise", "take")):
        raise BackendRefusedError(
            f"This backend has no map from noise to draws of {program.base.name!r}, on which the Metropolis steps of "
            "annealed Monte Carlo are taken.",
            ways_out=["Use backend='torch', or 'exact' for the analytic laws."],
        )
    pushforward: PushforwardSession = session  # type: ignore[assignment]  # it has the methods
    count = particle_count(program.base.ambient) if particles is None else particles
    walk = NoiseWalk(pushforward, reward, weight)
    return _Annealing(walk, count, program.base.ess, fold_seed(seed, "heuristic"), progress).run(pushforward)


class _Annealing:
    """Sequential Monte Carlo along N(0, I)·exp(β·e(S(z))), β from 0 to 1.

    Arguments:
        walk: the Metropolis steps.
        count: how many particles.
        base_ess: how many independent draws all draws of p are worth.
        seed: fixes everything.
        progress: told β in percent.
    """

    def __init__(self, walk: NoiseWalk, count: int, base_ess: float, seed: int, progress: Progress) -> None:
        self._walk, self._count, self._base_ess = walk, count, base_ess
        self._seed, self._progress = seed, progress
        self._resampling = IslandResampling(count, seed)
        self._share, self._size, self._stage, self._number = 0.0, 1.0, 0, 0
        self._accepted: list[float] = []

    def run(self, session: PushforwardSession) -> HeuristicTilt:
        """Carry particles from p to q."""
        noise = session.noise(self._count, seed=fold_seed(self._seed, "base"))
        current = self._walk.at(noise, "among draws of the base", self._progress)
        before = _mean_of_base(current.exponents, self._base_ess)
        forbidden = np.isneginf(current.exponents)
        if forbidden.any():
            current = self._without_forbidden(current, forbidden)
        while self._share < 1.0:
            current = self._raise_reward(current)
        return self._finish(session, current, before, float(forbidden.mean()))

    def _reweight(self, current: NoiseParticles, increments: Floats) -> NoiseParticles:
        """Resample every island by log-weights (N,), and put their mean on its account."""
        return self._walk.take(current, self._resampling(increments, stage=self._stage, share=self._share))

    def _without_forbidden(self, current: NoiseParticles, forbidden: NDArray[np.bool_]) -> NoiseParticles:
        """The law of allowed draws, where β·e tends to as β falls to 0."""
        if by_island(forbidden).all(axis=1).any():
            raise ParameterError(
                f"The reward is −∞ at {forbidden.sum()} of {forbidden.size} draws of the base, too many to anneal from "
                "those that are left.",
                ways_out=["Replace the hard limit by a steep penalty, whose slope annealing raises by and by."],
            )
        return self._reweight(current, np.where(forbidden, -math.inf, 0.0))

    def _raise_reward(self, current: NoiseParticles) -> NoiseParticles:
        """One stage: raise β, resample, and take steps until the particles forget where they were."""
        self._stage += 1
        if self._stage > _STAGES_MAX:
            raise ParameterError(
                f"r/λ is too strong for this base law: {_STAGES_MAX} stages of annealing reached {self._share:.1%} "
                "of it.",
                ways_out=[f"Multiply the weight λ by {1 / max(self._share, 1e-9):.3g} or more.", "Bound the reward."],
            )
        step = largest_step(current.exponents, _ESS_SHARE, at_most=1.0 - self._share)
        self._share = 1.0 if step >= 1.0 - self._share else self._share + step
        current = self._reweight(current, step * current.exponents)
        memory = 1.0
        for _ in range(_MOVES_MAX):
            size = self._size
            current, rate = self._step(current)
            memory *= 1.0 - rate * (1.0 - math.sqrt(1.0 - size**2))
            self._size = min(1.0, max(_SMALLEST_STEP, size * math.exp(_GAIN * (rate - _ACCEPTANCE))))
            if memory <= _MEMORY:
                break
        if self._progress is not None:
            self._progress("annealing", round(100 * self._share), 100)
        return current

    def _step(self, current: NoiseParticles) -> tuple[NoiseParticles, float]:
        stage = f"in stage {self._stage} of annealing, at {self._share:.1%} of r/λ"
        moved, accepted = self._walk.step(
            current, self._share, self._size, seed=self._seed, number=self._number, stage=stage
        )
        self._number += 1
        rate = float(accepted.mean())
        self._accepted.append(rate)
        return moved, rate

    def _finish(
        self, session: PushforwardSession, current: NoiseParticles, before: Estimate, forbidden: float
    ) -> HeuristicTilt:
        """Take the steps that a returned draw takes, at the size they keep from here on, and measure."""
        resting = current.exponents
        moved = np.zeros(self._count, dtype=bool)
        for _ in range(_SETTLING):
            start = current.exponents
            current, _ = self._step(current)
            moved |= current.exponents != start
        islands = self._resampling.islands
        means = by_island(current.exponents).mean(axis=1)
        after = islands.mean(means)
        change = islands.mean(means - by_island(resting).mean(axis=1))
        spread = float(np.var(current.exponents))
        ess = spread / after.standard_error**2 if after.standard_error > 0 else math.inf
        details = {
            **self._resampling.details(self._stage),
            "Metropolis": (
                f"{len(self._accepted)} steps, acceptance {np.mean(self._accepted):.0%} on average, "
                f"{self._accepted[-1]:.0%} at the end with step size {self._size:.3g}; {moved.mean():.0%} of draws "
                f"leave their particle"
            ),
            "settling": f"E[r/λ] changed by {change} over the last {_SETTLING} steps",
        }
        if forbidden:
            details["forbidden"] = f"the reward is −∞ at {forbidden:.1%} of the base draws"
        moments = TiltMoments(
            before=before,
            after=after,
            log_partition=islands.log_partition,
            ess=min(ess, float(self._count)),
            nfe_per_sample=_SETTLING * session.nfe_per_draw,
            calibration=None,
            details=details,
            kl=islands.divergence(means),
            stages=self._resampling.stages,
        )
        weights = self._resampling.weights
        moments = moments.on_shared_draws(self._base_ess, current.exponents, weights)
        return HeuristicTilt(self._walk, current, weights, self._size, moments)


def _mean_of_base(exponents: Floats, ess: float) -> Estimate:
    return Estimate(-math.inf) if np.isneginf(exponents).any() else Estimate.of_mean(exponents, ess=ess)
