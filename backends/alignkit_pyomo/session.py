"""A problem opened: rows solved to global optimality, with what a solver proved and what alignkit's f says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.errors import StaleFitError, UnboundedTransportError
from alignkit.expressions.expression import versions_of
from alignkit_pyomo.preparation import WANTED, Prepared, Row, prepare
from alignkit_pyomo.program import Unsupported
from alignkit_pyomo.reach import Ball
from alignkit_pyomo.sizing import worker_count
from alignkit_pyomo.solving import Task
from alignkit_pyomo.workers import Workers

__all__ = ["PyomoSession"]

#: How often a row is solved, to a gap that is smaller each time: the relative gap is known once the objective is.
_ATTEMPTS = 4
_FINER = 0.1
#: How many times the gap the objective may range over the ball where it is strongly concave: beyond, a coarse solution
#: first gives a smaller ball.
_LARGEST_RANGE = 1e6
#: Of that, what is left to the solver, the rest being for its tolerances.
_SHARE = 0.4
#: Float64 rounding of a bound, relative to the numbers it is a sum of.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)
#: Rows whose models are written at once.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class _Found:
    """The best known of rows: z (n, k), δ (n, m) or None, objective, upper bound, nodes and time left, (n,) each."""

    points: Floats
    steps: Floats | None
    objective: Floats
    upper: Floats
    nodes: NDArray[np.int64]
    seconds: Floats

    @property
    def gap(self) -> Floats:
        """(n,), infinite without a bound."""
        with np.errstate(invalid="ignore"):
            gap = np.maximum(self.upper - self.objective, 0.0)
        return np.where(np.isfinite(gap), gap, np.inf)

    def misses(self, tolerance: float) -> NDArray[np.bool_]:
        """Rows whose relative gap is above the tolerance."""
        return ~(self.gap <= _wanted(self.objective, tolerance))


class PyomoSession:
    """Rows solved one by one, by HiGHS or SCIP, in this process or in several.

    Arguments:
        prepared: the problem.
        seconds: the time limit of a row, however often it is solved.
        workers: how many processes; None for what the cores and the rows suggest.
    """

    def __init__(self, prepared: Prepared, *, seconds: float, workers: int | None) -> None:
        self._prepared, self._seconds, self._wanted_workers = prepared, seconds, workers
        self._versions = versions_of(prepared.problem.nonlinear.parameters())
        self._workers = Workers(1)

    def close(self) -> None:
        """End the processes of the session; they end with it in any case."""
        self._workers.close()

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on.

        Arguments:
            problem: any; its model is written anew for every row anyway.

        Returns:
            True; False where the problem is one that the backend refuses, and the session stays with the one before.
        """
        try:
            self._prepared = prepare(problem)
        except Unsupported:
            return False
        self._versions = versions_of(problem.nonlinear.parameters())
        return True

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, at the present values of the parameters.

        Raises:
            UnboundedTransportError: a solver proves a row unbounded.
            StaleFitError: the parameters took values at which the problem is one that the backend refuses.
        """
        problem = self._prepared.problem
        if versions_of(problem.nonlinear.parameters()) != self._versions and not self.update(problem):
            raise StaleFitError(
                f"The parameters of {problem.nonlinear} took values at which this session cannot answer it.",
                ways_out=["Open the problem again, which says why.", "Raise λ in ak.Wasserstein(weight=λ)."],
                expression=str(problem.nonlinear),
            )
        points = np.ascontiguousarray(points, dtype=np.float64)
        ball = self._prepared.reach.ball(points)
        best = self._start(points, ball)
        todo = np.flatnonzero(best.misses(problem.tolerance) & ~np.isnan(ball.radii))
        done = len(points) - len(todo)
        parts = np.full(len(points), 1.0)
        for attempt in range(_ATTEMPTS):
            gaps = self._gaps(ball, best, parts)
            for first in range(0, len(todo), _CHUNK):
                chosen = todo[first : first + _CHUNK]
                for finished in self._solve_some(points, ball, chosen, gaps[chosen], best):
                    if progress is not None and attempt == 0:
                        progress("pyomo", done + first + finished, len(points))
            todo = np.flatnonzero(best.misses(problem.tolerance) & (best.seconds > 0.0) & ~np.isnan(ball.radii))
            if len(todo) == 0:
                break
            # Rows that were solved coarsely are not solved more finely than is wanted at once.
            was_fine = gaps <= parts * _wanted(best.objective, problem.tolerance)
            parts = np.where(was_fine, _FINER * parts, parts)
            ball = self._prepared.reach.smaller(ball, points, best.points, best.gap)
        if progress is not None and len(points) and done == len(points):
            progress("pyomo", done, done)
        return ProxSolution(
            best.points, best.gap, best.misses(problem.tolerance), displacement=best.steps, evaluations=best.nodes
        )

    def _start(self, points: Floats, ball: Ball) -> _Found:
        """The rows themselves, or points nearby where f is finite."""
        count, displacement = len(points), self._prepared.problem.displacement
        steps = None if displacement is None else np.zeros((count, displacement.size))
        centres = ball.centres.copy()
        objective = self._prepared.objective(points, centres, steps)
        nodes, seconds = np.zeros(count, dtype=np.int64), np.full(count, self._seconds)
        upper = objective + ball.gains + _ROUNDING * np.abs(objective)
        return _Found(centres, steps, objective, np.where(np.isnan(upper), np.inf, upper), nodes, seconds)

    def _gaps(self, ball: Ball, best: _Found, parts: Floats) -> Floats:
        """The gap that is asked of the solver for each row, (n,)."""
        wanted = parts * _wanted(best.objective, self._prepared.problem.tolerance)
        span = 0.5 * self._prepared.reach.strength * np.nan_to_num(ball.radii, posinf=0.0) ** 2
        return np.maximum(wanted, span / _LARGEST_RANGE)

    def _solve_some(
        self, points: Floats, ball: Ball, chosen: NDArray[np.int64], gaps: Floats, best: _Found
    ) -> Iterator[int]:
        """Solve the chosen rows into `best`, and say how many are done after each."""
        prepared = self._prepared
        some = Ball(ball.centres[chosen], ball.radii[chosen], ball.prices[chosen], ball.gains[chosen])
        steps = None if best.steps is None else np.zeros((len(chosen), best.steps.shape[1]))
        levels = prepared.objective(points[chosen], some.centres, steps)
        rows = list(prepared.rows(points[chosen], some, levels, gaps))
        floors = [
            row.model.unit * (float(best.objective[place]) - row.level)
            for place, row in zip(chosen.tolist(), rows, strict=True)
        ]
        tasks = [
            Task(row.model, _SHARE * WANTED, floor, float(best.seconds[place]))
            for place, row, floor in zip(chosen.tolist(), rows, floors, strict=True)
        ]
        for finished, (place, answer) in enumerate(self._pool(len(tasks)).solve(tasks), start=1):
            row, number = rows[place], int(chosen[place])
            if answer.is_unbounded:
                raise self._unbounded()
            upper = row.level + answer.bound / row.model.unit
            upper += _ROUNDING * (abs(row.level) + abs(upper)) if np.isfinite(upper) else 0.0
            best.upper[number] = min(best.upper[number], upper)
            best.nodes[number] += answer.nodes
            best.seconds[number] = best.seconds[number] - answer.seconds if answer.is_finished else 0.0
            self._keep_better(points, number, row, answer.solutions, best)
            yield finished

    def _keep_better(self, points: Floats, number: int, row: Row, solutions: Floats, best: _Found) -> None:
        """Evaluate what a solver found, and keep the best of it if it is better than what is known."""
        if len(solutions) == 0:
            return
        prepared = self._prepared
        if best.steps is None:
            steps = None
            found = row.centre + solutions[:, : len(row.centre)] @ row.scale.T
        else:
            steps = np.array(
                [
                    [
                        step.constant + sum(value * one[at] for at, value in step.terms.items())
                        for step in row.model.steps
                    ]
                    for one in solutions
                ]
            )
            rows = prepared.displacement.rows
            found = points[number] + (steps if rows is None else steps @ rows.T)
        starts = np.broadcast_to(points[number], found.shape)
        objective = prepared.objective(starts, found, steps)
        top = int(np.argmax(objective))
        if objective[top] > best.objective[number]:
            best.points[number], best.objective[number] = found[top], objective[top]
            if best.steps is not None and steps is not None:
                best.steps[number] = steps[top]

    def _pool(self, rows: int) -> Workers:
        """Processes for so many rows."""
        count = worker_count(self._prepared, rows, self._wanted_workers)
        if count > self._workers.count:
            self._workers.close()
            self._workers = Workers(count)
        return self._workers if count > 1 else Workers(1)

    def _unbounded(self) -> UnboundedTransportError:
        reward = str(self._prepared.problem.nonlinear)
        return UnboundedTransportError(
            f"The transport problem is unbounded above: {reward} outgrows λ times the cost.",
            ways_out=[
                "Raise λ in ak.Wasserstein(weight=λ).",
                "A cost that grows faster, as ak.costs.SquaredEuclidean() does.",
                "Bound the growth of the reward.",
            ],
            expression=reward,
        )


def _wanted(objective: Floats, tolerance: float) -> Floats:
    """The largest gap that each row may have, (n,)."""
    return tolerance * np.maximum(1.0, np.abs(np.where(np.isfinite(objective), objective, 0.0)))
