"""Programs over the law where draws stand for p, by rounds of them.

Draws of p come first, then those of the law at the present slopes, pooled by MBAR with all before. The dual over the
pool says where to go next, and the next law is one that the pool still speaks for, so that neighbours overlap; in the
end draws of the law at the solution are too few to tell it from the law that they were meant to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, Progress, TiltSampler, TiltSession
from alignkit.errors import ImproperTargetError, InfeasibleError, Status
from alignkit.estimates import Estimate
from alignkit.noise import fold_seed
from alignkit.tilting.annealed import particle_count
from alignkit.tilting.engines import fit_tilt
from alignkit.tilting.exponential_family import WeightedDraws
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.island_tilt import IslandTilt
from alignkit.tilting.law_infeasible import infeasible, out_of_reach, radius_too_small
from alignkit.tilting.law_program import LawSolution
from alignkit.tilting.law_request import STATUSES, LawFit, LawRequest, Measured
from alignkit.tilting.mbar import Pool
from alignkit.tilting.radius import RadiusOutcome
from alignkit.tilting.separation import Separation, separate_points
from alignkit.tilting.shared_draws import shared_errors
from alignkit.tilting.weighting import largest_share

__all__ = ["ROWS", "Node", "Rounds"]

#: Draws of a round where they cost evaluations.
ROWS = 4096
# Where they cost nothing.
_ROWS_FREE = 16384
_ROUNDS = 16
# Learned denoisers take annealing from p in every round. Rounds of this many particles look for the way first, half of
# all rounds at most; the law at its end is drawn in full.
_SCOUTS = 1024
# In nats: of a learned denoiser, draws of laws as near as this are pooled. Its errors hardly differ between them.
_NEAR = 0.01
# The next law is one that the pool is still worth this share of a round's draws of.
_ESS_SHARE = 0.1
# In nats per moment: laws closer than this over the number of draws are one law as far as these can tell.
_INDISTINGUISHABLE, _INDISTINGUISHABLE_LEARNED = 0.125, 0.25
# A radius is reached within this, relative; where draws are exact, the standard error of KL is to be this.
_RADIUS_TOLERANCE, _RADIUS_ERROR = 0.01, 0.0075
# Rounds without progress after which draws speak against moments.
_STUCK = 3
# In standard deviations under p: what the outermost draws have to gain in a round towards moments out of their reach.
_PROGRESS = 0.1
_CRITICAL = 1e-6


@dataclass(frozen=True, eq=False)
class Node:
    """Draws of the law of some slopes.

    Arguments:
        slopes: (m,).
        fitted: the sampler.
        statistics: of its draws, (n, m).
        groups: draws of one group may depend on each other, (n,); None where all are independent.
    """

    slopes: Floats
    fitted: FittedTilt
    statistics: Floats
    groups: NDArray[np.int64] | None

    @staticmethod
    def drawn(
        request: LawRequest,
        session: TiltSession,
        slopes: Floats,
        fitted: FittedTilt,
        rows: int,
        *,
        seed: int,
        progress: Progress,
    ) -> Node:
        """Draw rows of a fitted law, and look at them through a session on the request's extended tilts."""
        groups = None
        if isinstance(fitted, IslandTilt):
            draws, groups = fitted.sample_by_island(rows, seed=seed, progress=progress)
        else:
            draws = fitted.sample(rows, seed=seed, progress=progress)
        return Node(slopes, fitted, request.statistics(session.features(draws)), groups)

    @property
    def worth(self) -> float:
        """How many independent draws they are: beside their own randomness there is that of what they come from."""
        return 1 / (1 / len(self.statistics) + 1 / self.fitted.moments.ess)

    def means(self) -> tuple[Estimate, ...]:
        """Means of the statistics, with standard errors."""
        values = self.statistics.mean(axis=0)
        influences = (self.statistics - values) / len(self.statistics)
        variances = _variance_of_sum(influences)
        if self.groups is not None:
            members = self.groups == np.unique(self.groups)[:, None]
            # Given what they come from draws are independent, so that few groups which agree by chance say too little.
            variances = np.maximum(variances, _variance_of_sum(members @ influences))
        errors = np.sqrt(variances)
        return tuple(Estimate(float(value), float(error)) for value, error in zip(values, errors, strict=True))


def _variance_of_sum(terms: Floats) -> Floats:
    """Of independent rows with mean 0, (n, m) to (m,)."""
    return np.asarray((terms**2).sum(axis=0) * len(terms) / (len(terms) - 1))


class Rounds:
    """One fit by rounds of draws.

    Arguments:
        request: the program.
        sampler: the backend's.
        session: of it, opened on the request's extended tilts.
        engine: as for `fit_tilt`.
        seed: fixes every draw.
        progress: told how far it is.
    """

    def __init__(
        self,
        request: LawRequest,
        sampler: TiltSampler,
        session: TiltSession,
        *,
        engine: str,
        seed: int,
        progress: Progress,
    ) -> None:
        self._request, self._sampler, self._session = request, sampler, session
        self._engine, self._seed, self._progress = engine, seed, progress
        self._is_exact = request.target.program.base.exact
        self._rows = _ROWS_FREE if self._is_exact and not session.nfe_per_draw else ROWS
        self._nodes: list[Node] = []
        self._size = 1 + request.program.size
        ambient = request.target.program.base.ambient
        self._is_scouting = not self._is_exact and particle_count(ambient) > _SCOUTS
        nothing = np.zeros((1, request.extended.directions.shape[0]))
        base_draws = session.draw(nothing, self._rows, seed=fold_seed(seed, "draws of the base"), progress=progress)
        self._base = request.statistics(session.features(base_draws))
        self._pool = Pool(np.zeros((1, self._rows)), np.zeros(self._rows, dtype=np.int64))
        self._statistics = self._base
        self._critical = self._critical_weight()
        self._wall = math.inf
        self._unreached = 0

    def run(self) -> LawFit:
        """Draw, pool and solve until draws cannot tell the law from the solution."""
        at = np.zeros(self._size)
        outcome = RadiusOutcome.REACHED
        solution: LawSolution | None = None
        stuck = 0
        for number in range(_ROUNDS):
            family = self._family(at)
            solution, outcome = self._request.solve(family, solution)
            if not solution.is_solved and self._nodes:
                self._refuse_unreached(solution)
            wanted = solution.member.slopes
            after, is_whole = self._next(family, at, wanted)
            is_there = is_whole and bool(self._nodes) and solution.is_solved and self._is_settled(family, wanted)
            moved = float(np.abs((after - at) * self._scale).max())
            stuck = stuck + 1 if not is_whole and moved < 1e-3 * float(np.abs(after * self._scale).max()) else 0
            if is_there or stuck >= _STUCK:
                if not self._is_scouting:
                    break
                self._is_scouting, stuck = False, 0
            self._is_scouting = self._is_scouting and number < _ROUNDS // 2
            try:
                self._add(after)
            except ImproperTargetError:
                self._wall = min(self._wall, 0.5)
                if not self._nodes and self._request.radius is None:
                    raise
                stuck += 1
                if stuck >= _STUCK:
                    break
                continue
            at = after
        assert solution is not None
        return self._finish(solution, outcome)

    def _refuse_unreached(self, solution: LawSolution) -> None:
        """Raise where laws further and further out reach no further towards the moments that are demanded."""
        program = self._request.program
        if not program.demanded.size:
            return
        found = self._separation()
        if found is None:
            return
        reached = -self._statistics[:, 1 + program.valued :] @ found.direction
        spread = float((self._base[:, 1 + program.valued :] @ found.direction).std())
        latest = len(self._nodes[-1].statistics)
        gained = float(reached[-latest:].max() - reached[:-latest].max())
        self._unreached = self._unreached + 1 if gained <= _PROGRESS * spread else 0
        if self._unreached >= _STUCK:
            raise self._beyond(found)

    def _separation(self) -> Separation | None:
        program = self._request.program
        points = self._statistics[:, 1 + program.valued :]
        return separate_points(points, program.demanded, program.is_bound)

    def _beyond(self, found: Separation) -> InfeasibleError:
        where = f"at all of {len(self._statistics):,} draws of laws that lead there"
        return infeasible(self._request, found.direction, found.wanted - found.least, where, is_proof=False)

    @property
    def _scale(self) -> Floats:
        spread = self._base.std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    def _family(self, at: Floats) -> WeightedDraws:
        """What is known of the family: the whole pool; for a learned denoiser the laws near the latest, if any.

        Draws of a learned denoiser follow its own laws, a little off those that weights would make of far draws; the
        moments of q are those of what it draws.
        """
        nothing = np.zeros(len(self._statistics))
        if self._is_exact or not self._nodes:
            return WeightedDraws(self._statistics, self._pool.log_weights(nothing), self._scale)
        covariance = np.atleast_2d(np.cov(self._nodes[-1].statistics, rowvar=False))
        near = [node for node in self._nodes if (node.slopes - at) @ covariance @ (node.slopes - at) / 2 <= _NEAR]
        statistics = np.vstack([node.statistics for node in near])
        laws = np.repeat(np.arange(len(near)), [len(node.statistics) for node in near])
        exponents = statistics @ at
        weights = Pool(np.stack([node.slopes for node in near]) @ statistics.T, laws).log_weights(exponents)
        level = self._pool.log_partition(self._statistics @ at).value
        return WeightedDraws(statistics, level - exponents + weights, self._scale)

    def _next(self, family: WeightedDraws, at: Floats, wanted: Floats) -> tuple[Floats, bool]:
        """The furthest law on the way to the one wanted that the pool speaks for, and whether it is that one."""
        if not np.isfinite(wanted).all():
            wanted = np.where(np.isfinite(wanted), wanted, 0.0)
        step = wanted - at
        largest = self._wall
        if step[0] > 0 and self._critical > 0:
            largest = min(largest, ((1 - _CRITICAL) / self._critical - at[0]) / step[0])
        largest = min(1.0, max(largest, 0.0))
        size = len(family.log_weights)
        share = largest_share(
            lambda share: family.log_weights + family.statistics @ (at + share * step),
            _ESS_SHARE * self._round_rows / size,
            at_most=largest,
        )
        return (wanted, True) if share == 1.0 else (at + share * step, False)

    def _is_settled(self, family: WeightedDraws, wanted: Floats) -> bool:
        """Whether the latest draws cannot be told from draws of the law wanted."""
        node = self._nodes[-1]
        change = wanted - node.slopes
        nats = float(change @ family.at(wanted).covariance @ change) / 2
        radius = self._request.radius
        if radius is not None and self._is_exact:
            found = self._pool.divergence(self._statistics @ wanted)
            if found.standard_error > _RADIUS_ERROR * radius:
                return False
        tolerated = _INDISTINGUISHABLE if self._is_exact else _INDISTINGUISHABLE_LEARNED
        return nats <= tolerated * self._size / node.worth

    @property
    def _round_rows(self) -> int:
        return 2 * _SCOUTS if self._is_scouting else self._rows

    def _add(self, slopes: Floats) -> None:
        """Draw the law of some slopes, and pool its draws with all before."""
        request, number = self._request, len(self._nodes) + 1
        seed = fold_seed(self._seed, f"round {number}")
        fitted = fit_tilt(
            request.at(slopes),
            self._sampler,
            engine=self._engine,
            particles=_SCOUTS if self._is_scouting else None,
            seed=seed,
            progress=self._progress,
        )
        draws_seed, rows = fold_seed(seed, "draws"), self._round_rows
        node = Node.drawn(request, self._session, slopes, fitted, rows, seed=draws_seed, progress=self._progress)
        self._nodes.append(node)
        everyone = np.vstack([np.zeros(self._size), *(one.slopes for one in self._nodes)])
        if node.groups is not None and self._pool.groups is None:
            self._pool = replace(self._pool, groups=np.arange(self._pool.laws.size))
        self._pool = self._pool.with_law(self._statistics @ slopes, everyone @ node.statistics.T, node.groups)
        self._statistics = np.vstack([self._statistics, node.statistics])

    def _critical_weight(self) -> float:
        """A λ below which E_p exp(r/λ) is proved infinite, 0 where none is found; only a radius may lead there."""
        if self._request.radius is None:
            assert self._request.weight is not None
            self._request.check_proper(self._request.weight)
            return 0.0
        scale = float(self._scale[0])
        low, high = 1e-9 * scale, 1e9 * scale
        if not self._is_improper(low):
            return 0.0
        if self._is_improper(high):
            self._request.check_proper(high)
        while high > low * (1 + 1e-9):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._is_improper(middle) else (low, middle)
        return high

    def _is_improper(self, weight: float) -> bool:
        try:
            self._request.check_proper(weight)
        except ImproperTargetError:
            return True
        return False

    def _finish(self, solution: LawSolution, outcome: RadiusOutcome) -> LawFit:
        request = self._request
        if not solution.is_solved or not self._nodes:
            pool = WeightedDraws(self._statistics, self._pool.log_weights(np.zeros(len(self._statistics))))
            raise out_of_reach(request, pool, solution)
        node = self._nodes[-1]
        weight = 1 / node.slopes[0] if node.slopes[0] > 0 else math.inf
        pooled = self._pool.log_partition(self._statistics @ node.slopes)
        kl = self._pool.divergence(self._statistics @ node.slopes)
        # Whether q has the moments wanted is asked of its own draws, whatever p they come from.
        status = self._judge(node, solution, outcome, kl)
        pooled, kl, *means = self._with_shared_errors(node, pooled, kl)
        held = replace(
            solution,
            weight=weight,
            multipliers=node.slopes[1:] * weight,
            member=self._family(node.slopes).at(node.slopes),
        )
        moments = replace(node.fitted.moments, log_partition=pooled, kl=kl)
        fitted = Measured(node.fitted, moments)
        drawn = f"{len(self._statistics):,} draws, pooled, of {len(self._nodes)} laws beside the base"
        return LawFit(
            fitted=fitted,
            solution=held,
            status=status,
            reward_before=Estimate.of_mean(self._base[:, 0], ess=request.target.program.base.ess),
            reward_after=means[0],
            moments=tuple(means[1:]),
            kl=kl,
            details=node.fitted.moments.details | {"program over the law": request.described(held, drawn)},
        )

    def _with_shared_errors(self, node: Node, log_partition: Estimate, kl: Estimate) -> tuple[Estimate, ...]:
        """log Z, KL and the means of a node, with what is left unknown as all draws of p are worth so few."""
        count = len(node.statistics)
        of_log_z, of_kl, of_means = shared_errors(
            self._request.target.program.base.ess,
            node.statistics @ node.slopes,
            np.full(count, 1 / count),
            node.statistics,
            log_partition=log_partition.value,
        )
        means = (mean.widened(float(error)) for mean, error in zip(node.means(), of_means, strict=True))
        return log_partition.widened(of_log_z), kl.widened(of_kl), *means

    def _judge(self, node: Node, solution: LawSolution, outcome: RadiusOutcome, kl: Estimate) -> Status:
        request = self._request
        if outcome is RadiusOutcome.TOO_SMALL:
            raise radius_too_small(request, solution)
        excess = np.array([one.value for one in node.means()[1:]])[request.program.valued :] - request.program.demanded
        errors = np.array([one.standard_error for one in node.means()[1:]])[request.program.valued :]
        multipliers = node.slopes[1 + request.program.valued :]
        excess = np.where(request.program.is_bound & (multipliers == 0), np.maximum(excess, 0.0), excess)
        met = request.program.ridge > 0 or bool((np.abs(excess) <= 4 * errors).all())
        radius = request.radius
        if radius is not None and abs(kl.value - radius) > max(_RADIUS_TOLERANCE * radius, 3 * kl.standard_error):
            is_walled = self._critical > 0 or math.isfinite(self._wall)
            if is_walled and kl.value < radius:
                return Status.RADIUS_NOT_ATTAINED
            met = met and outcome is RadiusOutcome.INACTIVE
        return STATUSES[outcome] if met else Status.INACCURATE
