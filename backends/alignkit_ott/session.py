"""An opened problem: batches in padded chunks, every row with what is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Displacement, Floats, Progress, ProxProblem, ProxSolution
from alignkit.errors import NonFiniteError, UnboundedTransportError
from alignkit_ott.certificate import Account, account, residual_of
from alignkit_ott.compiled import Arguments, compiled_solver, evaluate_rows
from alignkit_ott.devices import device_named, float64_on
from alignkit_ott.evaluation import present_values
from alignkit_ott.planning import Method, Plan, Unsupported, plan
from alignkit_ott.rays import rises_without_end
from alignkit_ott.starts import starts

__all__ = ["OttProxSession"]

#: Entries that are solved at a time, starts included, and the fewest and most rows: batches are padded to one size. A
#: processor works from its cache, an accelerator on many rows at once.
_CHUNK_ENTRIES, _CHUNK_ENTRIES_ELSEWHERE = 2**14, 2**22
_FEWEST_SLOTS, _MOST_SLOTS, _FEWEST_ENTRIES = 32, 2**16, 16
#: What is asked of a gap, relative to the tolerance, and of it again where it missed.
_AMBITIONS = (5e-2, 1e-4, 1e-8)
#: Relative to the tolerance, the gap above which a row is solved again: the reward's linear part may cancel what the
#: objective seen here is, and the tolerance is relative to their sum.
_TRIED_AGAIN = 0.1
#: Iterations: of one start among many, whose best goes on, and of a row.
_SCOUTING = 100
_ITERATIONS = {Method.LBFGS: 1000, Method.PROXIMAL_GRADIENT: 5000}
#: A row is lost once it went that far, relative to 1 + |v|.
_FAR = 1e8
#: Local maxima as good as the best up to the tolerance are ties where they lie this far from it, relative to 1 + |δ|:
#: nearer, two starts may have ended at one.
_APART = 0.05
#: Of local maxima as good as the best up to this, that of the first start is taken, whatever rounding says.
_EQUAL = 1e-9


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is known of some rows: δ, f, ∇f, which are done, which ran away, and which have another maximiser."""

    displacement: Floats
    value: Floats
    slope: Floats
    still: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    account: Account


class OttProxSession:
    """A problem compiled by jax at its first batch.

    λ, the parameters of f and the linear part of the reward are arguments of what is compiled: a session follows them
    without compiling again.

    Arguments:
        problem: the problem.
        plan: how it is solved.
    """

    def __init__(self, problem: ProxProblem, plan: Plan) -> None:
        self.problem, self.plan = problem, plan
        self._device = device_named(problem.device)

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it needs no compilation.

        Returns:
            True when this session answers it; False when f or the cost is another object, or another method is needed.
        """
        if problem.nonlinear is not self.problem.nonlinear or problem.device != self.problem.device:
            return False
        if not _have_one_form(self.problem.displacement, problem.displacement):
            return False
        try:
            found = plan(problem)
        except Unsupported:
            return False
        if found.method is not self.plan.method:
            return False
        self.problem, self.plan = problem, found
        return True

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, at the present values of the parameters.

        Raises:
            UnboundedTransportError: a row ran away, or its objective rises without end along a ray.
            NonFiniteError: f has no value where a row lies.
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        count, size = len(points), self._size
        step = self._slots
        displacement, moved = np.zeros((count, size)), points.copy()
        value, gap = np.zeros(count), np.full(count, np.inf)
        unfinished, tied = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            with np.errstate(over="ignore", invalid="ignore"):  # rows beyond float64 end as rows without a bound
                found = self._solve_part(points[part], first)
            displacement[part], value[part] = found.displacement, found.value
            moved[part] += self._spread(found.displacement)
            gap[part], tied[part] = found.account.gap, found.tied
            unfinished[part] = self._misses(found.account) if self.plan.is_concave else ~found.still
            if progress is not None:
                progress("ott", part.stop, count)
        return ProxSolution(
            moved,
            gap,
            unfinished,
            value=value,
            displacement=None if self.problem.displacement is None else displacement,
            tied=None if self.plan.starts == 1 else tied,
        )

    def residual(self, points: Floats, solution: ProxSolution) -> Floats:
        """How far rows are from being stationary, where there is a bound and where there is none.

        Arguments:
            points: v, (n, k).
            solution: what `solve` gave for them.

        Returns:
            λ·‖δ − ∇h*((g + Rᵀ∇f(z))/λ)‖, (n,), in units of reward per x; under half the squared distance the norm of
            the gradient of the objective, ‖∇f(z) − λ(z − v)‖.
        """
        slope = evaluate_rows(self.problem.nonlinear, solution.maximiser, self._device)[1]
        step = solution.maximiser - points if solution.displacement is None else solution.displacement
        assert isinstance(step, np.ndarray)
        return residual_of(self.problem, step, slope)

    # ---- some rows

    @property
    def _size(self) -> int:
        """m."""
        displacement = self.problem.displacement
        return self.problem.dimension if displacement is None else displacement.size

    @property
    def _slots(self) -> int:
        """How many rows, or starts of rows, are compiled for."""
        entries = _CHUNK_ENTRIES if self._device.platform == "cpu" else _CHUNK_ENTRIES_ELSEWHERE
        wanted = entries // max(self._size, _FEWEST_ENTRIES)
        return min(_MOST_SLOTS, max(_FEWEST_SLOTS, 1 << max(wanted.bit_length() - 1, 0)))

    def _spread(self, displacement: Floats) -> Floats:
        """Rδ of each row."""
        given = self.problem.displacement
        return displacement if given is None or given.rows is None else displacement @ given.rows.T

    def _misses(self, account: Account, share: float = 1.0) -> NDArray[np.bool_]:
        """Rows whose gap exceeds a share of the tolerance."""
        scale = np.maximum(1.0, np.where(np.isfinite(account.objective), np.abs(account.objective), 1.0))
        return ~(account.gap <= share * self.problem.tolerance * scale)

    def _solve_part(self, points: Floats, first: int) -> _Rows:
        found = self._best_of_starts(points, first)
        found = self._again_where_missed(points, found) if self.plan.is_concave else self._polished(points, found)
        if not self.plan.is_bounded:
            rising = rises_without_end(self.problem, points, found.displacement, found.account.objective, self._device)
            self._refuse_lost(rising | found.lost, first, points)
        self._refuse_nowhere(found, first, points)
        return found

    def _best_of_starts(self, points: Floats, first: int) -> _Rows:
        count = len(points)
        begun = starts(self.problem, points, self.plan.starts)
        tiled = np.tile(points, (self.plan.starts, 1))
        alone = self.plan.starts == 1
        iterations = _ITERATIONS[self.plan.method] if alone else _SCOUTING
        found = self._run(tiled, begun.reshape(-1, self._size), _AMBITIONS[0], iterations)
        if not self.plan.is_bounded:
            self._refuse_lost(np.any(found.lost.reshape(-1, count), axis=0, keepdims=True)[0], first, points)
        objective = np.where(found.lost, -np.inf, found.account.objective).reshape(-1, count)
        best = objective.max(axis=0)
        as_good = objective >= best - _EQUAL * np.maximum(1.0, np.abs(best))
        chosen = _picked(found, np.argmax(as_good, axis=0) * count + np.arange(count))
        near_best = objective >= best - self.problem.tolerance * np.maximum(1.0, np.abs(best))
        away = np.linalg.norm(found.displacement.reshape(-1, count, self._size) - chosen.displacement, axis=2)
        apart = away > _APART * (1.0 + np.linalg.norm(chosen.displacement, axis=1))
        return replace(chosen, tied=(near_best & apart).any(axis=0))

    def _polished(self, points: Floats, found: _Rows) -> _Rows:
        """The best starts of rows, gone on with."""
        again = self._run(points, found.displacement, _AMBITIONS[1], _ITERATIONS[self.plan.method])
        kept = np.flatnonzero(again.account.objective >= found.account.objective)
        return replace(_replaced(found, kept, _picked(again, kept)), tied=found.tied)

    def _again_where_missed(self, points: Floats, found: _Rows) -> _Rows:
        for ambition in _AMBITIONS[1:]:
            missed = np.flatnonzero(self._misses(found.account, _TRIED_AGAIN) & np.isfinite(found.value))
            if len(missed) == 0:
                break
            again = self._run(points[missed], found.displacement[missed], ambition, _ITERATIONS[self.plan.method])
            better = again.account.gap < found.account.gap[missed]
            found = _replaced(found, missed[better], _picked(again, np.flatnonzero(better)))
        return found

    def _run(self, points: Floats, begun: Floats, ambition: float, iterations: int) -> _Rows:
        """Solve rows from their starts, padded with the first of them to what is compiled for."""
        problem, slots = self.problem, self._slots
        given = problem.displacement
        solver = compiled_solver(problem.nonlinear, self.plan.method, _cost_of(problem))
        share = self.plan.strength / problem.weight if self.plan.strength > 0.0 else 1.0
        parts = []
        for start in range(0, len(points), slots):
            chosen = np.arange(start, min(start + slots, len(points)))
            padded = np.concatenate([chosen, np.full(slots - len(chosen), start)])
            rows = points[padded]
            arguments = Arguments(
                rows,
                begun[padded],
                np.full(slots, ambition * problem.tolerance * share),
                _FAR * (1.0 + np.linalg.norm(rows, axis=1)),
                np.float64(problem.weight),
                None if given is None else given.rows,
                None if given is None else given.linear,
                present_values(problem.nonlinear),
                np.int64(iterations),
            )
            with float64_on(self._device):
                found = solver(arguments)
                parts.append(tuple(np.asarray(array)[: len(chosen)] for array in found))
        displacement, value, slope, still, lost = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # A row beyond float64 stays where it is.
        nowhere = ~np.isfinite(displacement).all(axis=1)
        displacement[nowhere], value[nowhere], still[nowhere] = 0.0, -np.inf, False
        judged = account(
            problem, displacement, value, slope, strength=self.plan.strength, is_concave=self.plan.is_concave
        )
        return _Rows(displacement, value, slope, still, lost, np.zeros_like(lost), judged)

    # ---- rows without a maximum, or without a value

    def _refuse_lost(self, lost: NDArray[np.bool_], first: int, points: Floats) -> None:
        if not lost.any():
            return
        row = int(np.argmax(lost))
        reward = str(self.problem.nonlinear)
        ways_out = ["Raise λ in ak.Wasserstein(weight=λ).", "Bound the growth of the reward.", "Check its sign."]
        raise UnboundedTransportError(
            f"The transport problem has no maximiser in row {first + row}: from v = {_shown(points[row])} its "
            f"objective rises without end, so that {reward} outgrows λ times the cost.",
            ways_out=ways_out,
            expression=reward,
        )

    def _refuse_nowhere(self, found: _Rows, first: int, points: Floats) -> None:
        nowhere = np.isneginf(found.value) & np.isfinite(points).all(axis=1) & (np.abs(points).max(axis=1) < _FAR)
        if nowhere.any() and math.isfinite(self.problem.nonlinear.lipschitz):
            row = int(np.argmax(nowhere))
            raise NonFiniteError(
                f"The reward has no value in row {first + row}, at v = {_shown(points[row])}.",
                ways_out=["A Lipschitz function is finite at every finite point."],
                expression=str(self.problem.nonlinear),
            )


def _cost_of(problem: ProxProblem) -> Any:
    """h; None for half the squared distance."""
    return None if problem.displacement is None else problem.displacement.cost


def _have_one_form(one: Displacement | None, other: Displacement | None) -> bool:
    """Whether penalties differ in numbers only that are arguments of what is compiled."""
    if one is None or other is None:
        return one is other
    shapes = [None if penalty.rows is None else penalty.rows.shape for penalty in (one, other)]
    return bool(one.cost == other.cost) and one.size == other.size and shapes[0] == shapes[1]


def _picked(rows: _Rows, chosen: NDArray[np.int64]) -> _Rows:
    judged = rows.account
    return _Rows(
        rows.displacement[chosen],
        rows.value[chosen],
        rows.slope[chosen],
        rows.still[chosen],
        rows.lost[chosen],
        rows.tied[chosen],
        Account(judged.objective[chosen], judged.gap[chosen]),
    )


def _replaced(rows: _Rows, places: NDArray[np.int64], others: _Rows) -> _Rows:
    """The rows with others in some places."""

    def put(old: Any, new: Any) -> Any:
        changed = np.array(old)
        changed[places] = new
        return changed

    mine, theirs = rows.account, others.account
    return _Rows(
        put(rows.displacement, others.displacement),
        put(rows.value, others.value),
        put(rows.slope, others.slope),
        put(rows.still, others.still),
        put(rows.lost, others.lost),
        put(rows.tied, others.tied),
        Account(put(mine.objective, theirs.objective), put(mine.gap, theirs.gap)),
    )


def _shown(row: Floats) -> str:
    return np.array2string(row, precision=4, threshold=8, edgeitems=2, max_line_width=1000)
