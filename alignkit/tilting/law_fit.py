"""Fitting a program over the law: the dual is solved over what is known of p, and q is sampled at its solution.

Where tilts are closed forms the family of laws p·exp⟨a, (r, y)⟩ is known and nothing is estimated. Elsewhere draws
stand for it: those of p, then of the law at the present slopes, pooled by MBAR with all before. The dual over the pool
says where to go next, and the next law is one that the pool still speaks for; in the end draws of the law at the
solution are too few to tell it from the law that they were meant to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.base.empirical import Empirical
from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, Floats, Progress, TiltProgram, TiltSampler, TiltSession
from alignkit.errors import ImproperTargetError, InfeasibleError, Status
from alignkit.estimates import Estimate
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.direct import DirectTilt
from alignkit.tilting.engines import fit_tilt
from alignkit.tilting.exponential_family import ClosedForms, ExponentialFamily, Quadratures, WeightedDraws
from alignkit.tilting.fitted import FittedTilt, TiltMoments
from alignkit.tilting.law_program import LawProgram, LawSolution, solve_law_program
from alignkit.tilting.mbar import Pool
from alignkit.tilting.radius import RadiusOutcome, solve_radius
from alignkit.tilting.separation import Separation, separate_box, separate_points
from alignkit.tilting.target import TiltTarget

__all__ = ["LawFit", "LawRequest", "fit_law"]

#: Draws of a round: where they cost nothing, where they cost evaluations, and where they need annealing.
_ROWS_FREE, _ROWS, _ROWS_LEARNED = 16384, 4096, 2048
_ROUNDS = 16
#: The next law is one that the pool is still worth this share of a round's draws of.
_ESS_SHARE = 0.1
#: In nats per moment: laws closer than this over the number of draws are one law as far as these can tell.
_INDISTINGUISHABLE = 0.125
#: A radius is reached within this, relative; where draws are exact, the standard error of KL is to be this.
_RADIUS_TOLERANCE, _RADIUS_ERROR = 0.01, 0.0075
#: Rounds without progress after which draws speak against moments.
_STUCK = 3
#: In standard deviations under p: what the outermost draws have to gain in a round towards moments out of their reach.
_PROGRESS = 0.1
#: Matrices of a support with more entries are not looked at for a proof.
_LARGEST_PROOF = 1 << 22
_CRITICAL = 1e-6


@dataclass(frozen=True, eq=False)
class LawRequest:
    """A program over the law, with all that it takes to sample its solution.

    Arguments:
        target: the reward of draws as a tilt target at λ = 1: its directions are Q and g, its linear part (1).
        rows: B, (l, d), of the moments y = Bx, in the order of the program.
        program: over E_q[y].
        names: of each entry of y, (l,).
        weight: λ; None where a radius is given.
        radius: ρ, in nats; None where a weight is given.
        check_proper: raises ImproperTargetError where E_p exp(r/λ) is proved infinite at a λ.
    """

    target: TiltTarget
    rows: Floats
    program: LawProgram
    names: tuple[str, ...]
    weight: float | None
    radius: float | None
    check_proper: Callable[[float], object]

    @property
    def extended(self) -> TiltProgram:
        """The tilts wanted, along Q, g and B."""
        known = self.target.program
        directions = np.vstack([known.directions, self.rows])
        return TiltProgram(known.base, directions, np.zeros((1, len(directions))), known.rows, known.device)

    def at(self, slopes: Floats) -> TiltTarget:
        """The law p·exp⟨a, (r, y)⟩ as a target, a = (1/λ, η/λ); r/λ is left out where 1/λ = 0."""
        weight = 1 / slopes[0] if slopes[0] > 0 else math.inf
        return TiltTarget(self.extended, self.target.nonlinear, weight, slopes)

    def statistics(self, features: Floats) -> Floats:
        """(r − c, y) of rows, (n, 1 + l), from what a session on `extended` gives, (n, k + 1 + l)."""
        k = self.target.dimension
        score = self.target.exponent(features[:, : k + 1])
        return np.hstack([score[:, None], features[:, k + 1 :]])


@dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted program over the law.

    Arguments:
        fitted: draws q, and knows its moments as those of a tilt target.
        solution: the multipliers and λ.
        status: how it ended.
        reward_before, reward_after: E_p and E_q of r less its constant.
        moments: E_q[y], an estimate each.
        kl: KL(q‖p).
        details: further facts, by name.
    """

    fitted: FittedTilt
    solution: LawSolution
    status: Status
    reward_before: Estimate
    reward_after: Estimate
    moments: tuple[Estimate, ...]
    kl: Estimate
    details: dict[str, str]


def fit_law(
    request: LawRequest, sampler: TiltSampler, *, engine: str = "auto", seed: int, progress: Progress = None
) -> LawFit:
    """Solve a program over the law, and fit a sampler of its solution.

    Arguments:
        request: the program.
        sampler: the backend's.
        engine: as for `fit_tilt`.
        seed: fixes every draw of the fit.
        progress: told how far it is.

    Returns:
        the fit; its status says whether a radius is inactive, or not attained.

    Raises:
        InfeasibleError: no law has the moments, by proof where the support is known, else by the evidence of draws; or
            none within the radius.
        ImproperTargetError: E_p exp(r/λ) is infinite.
        ParameterError: the engine does not fit the law or the reward.
    """
    _refuse_impossible(request)
    base, session = request.target.program.base, sampler.open(request.extended)
    if isinstance(base, ExactLaw) and session.nfe_per_draw == 0:
        family: ExponentialFamily | None = None
        if isinstance(base, Empirical):
            family = WeightedDraws(request.statistics(session.features(_rows_of(base))), np.log(base.weights))
        elif request.target.nonlinear is None:
            family = ClosedForms(base, request.extended.directions)
        if family is not None:
            return _fit_known(request, session, family)
    elif base.exact and request.target.nonlinear is None:
        found = _fit_by_quadrature(request, sampler, session, engine=engine, seed=seed, progress=progress)
        if found is not None:
            return found
    return _Rounds(request, sampler, engine=engine, seed=seed, progress=progress).run()


# ---- where the family is known


def _fit_known(request: LawRequest, session: TiltSession, family: ExponentialFamily) -> LawFit:
    solution, outcome = _solve(request, family, None)
    if outcome is RadiusOutcome.TOO_SMALL and solution.is_solved:
        raise _too_small(request, solution)
    if not solution.is_solved:
        if not math.isfinite(solution.member.log_partition):
            raise ImproperTargetError(
                f"E_p exp(r/λ) is infinite at λ = {solution.weight:.6g}, so the aligned law does not exist.",
                ways_out=["Raise the weight λ."],
            )
        raise _out_of_reach(request, family, solution)
    member = solution.member
    before = family.at(np.zeros(family.size)).mean
    exact = [Estimate(float(value)) for value in member.mean]
    moments = TiltMoments(
        before=Estimate(float(member.slopes @ before)),
        after=Estimate(float(member.slopes @ member.mean)),
        log_partition=Estimate(member.log_partition),
        ess=math.inf,
        nfe_per_sample=0.0,
        calibration=None,
    )
    base = request.target.program.base
    fitted: FittedTilt
    if isinstance(base, Empirical):
        assert isinstance(family, WeightedDraws)
        log_weights = family.log_weights + family.statistics @ member.slopes
        fitted = ReweightedData(base, np.exp(log_weights - np.logaddexp.reduce(log_weights)), moments)
    else:
        fitted = DirectTilt(session, member.slopes[None], moments)
    return LawFit(
        fitted=fitted,
        solution=solution,
        status=_STATUSES[outcome],
        reward_before=Estimate(float(before[0])),
        reward_after=exact[0],
        moments=tuple(exact[1:]),
        kl=Estimate(member.divergence),
        details={"program over the law": _described(request, solution, "closed forms")},
    )


@dataclass(frozen=True, eq=False)
class ReweightedData:
    """Draws of a data set by other weights; see `alignkit.tilting.fitted.FittedTilt`.

    Arguments:
        base: the data.
        weights: of each point, (N,), summing to 1.
        moments: what the fit measured.
    """

    base: Empirical
    weights: Floats
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Floats:
        """Draw rows, (rows, *shape)."""
        labels = categorical(self.weights[None], uniform(seed, rows, 1)[:, 0])
        if progress is not None:
            progress("sampling", rows, rows)
        return self.base.data[labels].reshape((rows, *self.base.shape))


def _rows_of(base: Empirical) -> Floats:
    return base.data.reshape(-1, *base.shape)


def _fit_by_quadrature(
    request: LawRequest, sampler: TiltSampler, session: TiltSession, *, engine: str, seed: int, progress: Progress
) -> LawFit | None:
    """One tilt of an exact denoiser, its multipliers by quadrature; None where it would be too steep for that."""
    denoising: DenoisingTiltSession = session  # type: ignore[assignment]  # an exact denoiser comes with its session
    family = Quadratures(request.extended, denoising)
    solution, outcome = _solve(request, family, None)
    if outcome is RadiusOutcome.TOO_SMALL and solution.is_solved:
        raise _too_small(request, solution)
    if not solution.is_solved:
        if not math.isfinite(family.at(np.eye(1, family.size)[0] / solution.weight).log_partition):
            raise ImproperTargetError(
                f"E_p exp(r/λ) has no end at λ = {solution.weight:.6g}, so the aligned law does not exist.",
                ways_out=["Raise the weight λ."],
            )
        return None
    if outcome is not RadiusOutcome.REACHED:
        return None
    member = solution.member
    target = request.at(member.slopes)
    fitted = fit_tilt(target, sampler, engine=engine, seed=seed, progress=progress)
    rows = _ROWS
    draws = fitted.sample(rows, seed=fold_seed(seed, "draws"), progress=progress)
    node = _Node(member.slopes, fitted, request.statistics(session.features(draws)), float(rows))
    nothing = np.zeros((1, family.size))
    base_draws = session.draw(nothing, rows, seed=fold_seed(seed, "draws of the base"), progress=progress)
    means = node.means()
    kl = Estimate(member.divergence, family.error + family.precision * float(np.abs(member.slopes) @ family.scale))
    moments = replace(fitted.moments, log_partition=Estimate(member.log_partition, family.error), kl=kl)
    return LawFit(
        fitted=Measured(fitted, moments),
        solution=solution,
        status=_STATUSES[outcome],
        reward_before=Estimate.of_mean(request.statistics(session.features(base_draws))[:, 0]),
        reward_after=means[0],
        moments=means[1:],
        kl=kl,
        details=fitted.moments.details
        | {"program over the law": _described(request, solution, "quadrature of the denoiser")},
    )


# ---- where draws stand for it


@dataclass(frozen=True, eq=False)
class _Node:
    """Draws of the law of some slopes.

    Arguments:
        slopes: (m,).
        fitted: the sampler.
        statistics: of its draws, (n, m).
        worth: how many independent draws they are.
    """

    slopes: Floats
    fitted: FittedTilt
    statistics: Floats
    worth: float

    def means(self) -> tuple[Estimate, ...]:
        """Means of the statistics, with standard errors."""
        rows = len(self.statistics)
        inflation = math.sqrt(max(1.0, rows / self.worth))
        errors = self.statistics.std(axis=0, ddof=1) / math.sqrt(rows) * inflation
        values = self.statistics.mean(axis=0)
        return tuple(Estimate(float(value), float(error)) for value, error in zip(values, errors, strict=True))


class _Rounds:
    """One fit by rounds of draws."""

    def __init__(
        self, request: LawRequest, sampler: TiltSampler, *, engine: str, seed: int, progress: Progress
    ) -> None:
        session = sampler.open(request.extended)
        self._request, self._sampler, self._session = request, sampler, session
        self._engine, self._seed, self._progress = engine, seed, progress
        self._is_exact = request.target.program.base.exact
        exact_rows = _ROWS if session.nfe_per_draw else _ROWS_FREE
        self._rows = exact_rows if self._is_exact else _ROWS_LEARNED
        self._nodes: list[_Node] = []
        self._size = 1 + request.program.size
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
        for _ in range(_ROUNDS):
            family = self._family(at)
            solution, outcome = _solve(self._request, family, solution)
            if not solution.is_solved and self._nodes:
                self._refuse_unreached(solution)
            wanted = solution.member.slopes
            after, is_whole = self._next(family, at, wanted)
            if is_whole and self._nodes and solution.is_solved and self._is_settled(family, wanted):
                break
            moved = float(np.abs((after - at) * self._scale).max())
            stuck = stuck + 1 if not is_whole and moved < 1e-3 * float(np.abs(after * self._scale).max()) else 0
            if stuck >= _STUCK:
                break
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
        return _infeasible(self._request, found.direction, found.wanted - found.least, where, is_proof=False)

    @property
    def _scale(self) -> Floats:
        spread = self._base.std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    def _family(self, at: Floats) -> WeightedDraws:
        """What is known of the family: the whole pool; for a learned denoiser the latest draws, where there are some.

        Draws of a learned denoiser follow its own laws, a little off those that weights would make of other draws; the
        moments of q are those of what it draws.
        """
        nothing = np.zeros(len(self._statistics))
        if self._is_exact or not self._nodes:
            return WeightedDraws(self._statistics, self._pool.log_weights(nothing), self._scale)
        latest = self._nodes[-1].statistics
        exponents = latest @ at
        level = self._pool.log_partition(self._statistics @ at).value
        return WeightedDraws(latest, level - exponents - math.log(len(latest)), self._scale)

    def _next(self, family: WeightedDraws, at: Floats, wanted: Floats) -> tuple[Floats, bool]:
        """The furthest law on the way to the one wanted that the pool speaks for, and whether it is that one."""
        if not np.isfinite(wanted).all():
            wanted = np.where(np.isfinite(wanted), wanted, 0.0)
        step = wanted - at
        keep = _ESS_SHARE * self._rows

        def speaks(share: float) -> bool:
            slopes = at + share * step
            return family.effective_size(slopes) >= keep

        largest = self._wall
        if step[0] > 0 and self._critical > 0:
            largest = min(largest, ((1 - _CRITICAL) / self._critical - at[0]) / step[0])
        if largest >= 1.0 and speaks(1.0):
            return wanted, True
        low, high = 0.0, min(1.0, max(largest, 0.0))
        if speaks(high):
            return at + high * step, False
        for _ in range(60):
            middle = (low + high) / 2 if low > high / 4 else math.sqrt(max(low, high * 1e-6) * high)
            low, high = (middle, high) if speaks(middle) else (low, middle)
        return at + low * step, False

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
        return nats <= _INDISTINGUISHABLE * self._size / min(node.worth, len(node.statistics))

    def _add(self, slopes: Floats) -> None:
        """Draw the law of some slopes, and pool its draws with all before."""
        request, number = self._request, len(self._nodes) + 1
        seed = fold_seed(self._seed, f"round {number}")
        fitted = fit_tilt(request.at(slopes), self._sampler, engine=self._engine, seed=seed, progress=self._progress)
        draws = fitted.sample(self._rows, seed=fold_seed(seed, "draws"), progress=self._progress)
        statistics = request.statistics(self._session.features(draws))
        worth = min(float(self._rows), fitted.moments.ess)
        node = _Node(slopes, fitted, statistics, worth)
        self._nodes.append(node)
        everyone = np.vstack([np.zeros(self._size), *(one.slopes for one in self._nodes)])
        self._pool = self._pool.with_law(self._statistics @ slopes, everyone @ statistics.T)
        self._statistics = np.vstack([self._statistics, statistics])

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
            raise _out_of_reach(request, pool, solution)
        node = self._nodes[-1]
        weight = 1 / node.slopes[0] if node.slopes[0] > 0 else math.inf
        pooled = self._pool.log_partition(self._statistics @ node.slopes)
        means = node.means()
        kl = self._pool.divergence(self._statistics @ node.slopes)
        status = self._judge(node, solution, outcome, kl)
        held = replace(
            solution,
            weight=weight,
            multipliers=node.slopes[1:] * weight,
            member=self._family(node.slopes).at(node.slopes),
        )
        moments = replace(node.fitted.moments, log_partition=pooled, kl=kl)
        fitted = Measured(node.fitted, moments)
        drawn = f"{len(self._nodes)} rounds of {self._rows:,} draws, pooled"
        return LawFit(
            fitted=fitted,
            solution=held,
            status=status,
            reward_before=Estimate.of_mean(self._base[:, 0]),
            reward_after=means[0],
            moments=means[1:],
            kl=kl,
            details=node.fitted.moments.details | {"program over the law": _described(request, held, drawn)},
        )

    def _judge(self, node: _Node, solution: LawSolution, outcome: RadiusOutcome, kl: Estimate) -> Status:
        request = self._request
        if outcome is RadiusOutcome.TOO_SMALL:
            raise _too_small(request, solution)
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
        return _STATUSES[outcome] if met else Status.INACCURATE


@dataclass(frozen=True, eq=False)
class Measured:
    """A fitted sampler with moments that more was found out about."""

    sampler: FittedTilt
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows; see `FittedTilt`."""
        return self.sampler.sample(rows, seed=seed, progress=progress)


# ---- what both have


_STATUSES = {
    RadiusOutcome.REACHED: Status.SOLVED,
    RadiusOutcome.INACTIVE: Status.RADIUS_INACTIVE,
    RadiusOutcome.NOT_ATTAINED: Status.RADIUS_NOT_ATTAINED,
}


def _solve(
    request: LawRequest, family: ExponentialFamily, start: LawSolution | None
) -> tuple[LawSolution, RadiusOutcome]:
    if request.radius is not None:
        found = solve_radius(family, request.program, request.radius, start)
        return found.solution, found.outcome
    assert request.weight is not None
    multipliers = None if start is None or not start.is_solved else start.multipliers
    return solve_law_program(family, request.program, request.weight, multipliers), RadiusOutcome.REACHED


def _described(request: LawRequest, solution: LawSolution, how: str) -> str:
    gap = "" if math.isnan(solution.gap) else f", within {solution.gap:.1g} of the optimum over them"
    return f"{request.program.size} multipliers from {how}{gap}"


# ---- moments that no law has


def _refuse_impossible(request: LawRequest) -> None:
    """Raise where the support that is known excludes the moments that are demanded."""
    program, base = request.program, request.target.program.base
    demanded, is_bound = program.demanded, program.is_bound
    if not demanded.size or program.ridge > 0:
        return
    rows = request.rows[program.valued :]
    if isinstance(base, Empirical):
        points = base.data @ rows.T
        if points.size <= _LARGEST_PROOF:
            _raise_if(separate_points(points, demanded, is_bound), request, f"at every data point of {base.name!r}")
        return
    _raise_if(
        separate_box(rows, demanded, is_bound, None), request, "everywhere: the constraints contradict each other"
    )
    if base.data_range is not None and rows.size <= _LARGEST_PROOF:
        lower, upper = base.data_range
        where = f"on all of [{lower:.6g}, {upper:.6g}], the data range of {base.name!r}"
        _raise_if(separate_box(rows, demanded, is_bound, base.data_range), request, where)


def _raise_if(found: Separation | None, request: LawRequest, where: str) -> None:
    if found is not None:
        raise _infeasible(request, found.direction, found.wanted - found.least, where, is_proof=True)


def _infeasible(
    request: LawRequest, direction: Floats, shortfall: float, where: str, *, is_proof: bool
) -> InfeasibleError:
    names = request.names[request.program.valued :]
    terms = [
        f"{weight:+.3g}·{name if name.startswith('E(') and name.count('E(') == 1 else f'({name})'}"
        for weight, name in sorted(zip(direction, names, strict=True), key=lambda pair: -abs(pair[0]))
        if abs(weight) > 1e-6
    ]
    shown = " ".join(terms[:3]) + (f" and {len(terms) - 3} more" if len(terms) > 3 else "")
    claim = "This is proved" if is_proof else "This is evidence, not proof"
    error = InfeasibleError(
        f"No law near {request.target.program.base.name!r} meets the constraints. {claim}: of {shown}, the left sides "
        f"exceed the right sides by {-shortfall:.3g} or more {where}.",
        ways_out=[
            "Move the right sides towards what base draws have.",
            "solve(ridge=κ) with κ > 0 relaxes the constraints to a penalty ‖left − right‖²/2κ.",
        ],
    )
    error.direction, error.is_proof = direction, is_proof
    return error


def _out_of_reach(request: LawRequest, family: ExponentialFamily, solution: LawSolution) -> InfeasibleError:
    """What the draws, or the divergence of the multipliers, say against the moments."""
    program = request.program
    if isinstance(family, WeightedDraws) and program.demanded.size:
        points = family.statistics[:, 1 + program.valued :]
        found = separate_points(points, program.demanded, program.is_bound)
        if found is not None:
            is_proof = isinstance(request.target.program.base, Empirical)
            where = "at every data point" if is_proof else f"at all of {len(points):,} draws of laws that lead there"
            return _infeasible(request, found.direction, found.wanted - found.least, where, is_proof=is_proof)
    lengths = np.abs(solution.multipliers)
    worst = request.names[int(np.argmax(lengths))] if lengths.size else "the reward"
    return InfeasibleError(
        f"No law near {request.target.program.base.name!r} was found with the moments that are asked for: the "
        f"multipliers grow without end, that of {worst} most. This is evidence, not proof.",
        ways_out=[
            "Move the constraints, or the domain of the utility, towards what base draws have.",
            "solve(ridge=κ) with κ > 0 relaxes constraints to a penalty.",
        ],
    )


def _too_small(request: LawRequest, solution: LawSolution) -> InfeasibleError:
    return InfeasibleError(
        f"No law within KL(q‖p) ≤ {request.radius:.6g} meets the constraints: the closest that does lies at "
        f"{solution.member.divergence:.6g} nats.",
        ways_out=[
            f"ak.KL(radius=ρ) with ρ > {solution.member.divergence:.4g}.",
            "Move the right sides of the constraints towards what base draws have.",
        ],
    )
