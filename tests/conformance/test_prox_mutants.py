"""Solvers broken on purpose, each of which the suite must catch by the promise it breaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, ProxSolution, Refusal, SparseRows
from alignkit.errors import UnboundedTransportError
from alignkit.testing import ConformanceError, ProxPromise, check_prox_solver, displaced_examples, prox_examples
from alignkit_torch.prox import TorchProxSolver

NAMES = {
    "absolute value, k = 1",
    "norm1, k = 8",
    "dominated square with norm1, k = 2",
    "convex norm_inf, k = 4",
    "two waves, k = 1",
    "two kinks, k = 1",
    "unbounded square",
}
EXAMPLES = [example for example in prox_examples(rows=6) if example.name in NAMES]
DISPLACED = [example for example in displaced_examples(ak.costs, rows=6) if example.is_bounded]


class Oracle:
    """Knows the examples by heart, and is right; what mutants are made from."""

    guarantee = Guarantee.EXACT

    def bid(self, problem):
        example = self.example(problem)
        if example is None or not example.is_bounded:
            return Refusal("oracle", "it knows the bounded examples alone")
        return Bid("oracle", "by heart", self.guarantee, 1e-3 + 1e-6 * problem.rows)

    def example(self, problem):
        return next((one for one in (*EXAMPLES, *DISPLACED) if one.reward is problem.nonlinear), None)

    def open(self, problem):
        return Opened(self, self.example(problem), problem.weight)

    def solve(self, session, points):
        """z and the gaps of one batch."""
        return session.example.solve(points, session.weight), np.zeros(len(points))

    def unfinished(self, gap):
        return np.zeros(len(gap), dtype=bool)

    def tell(self, progress, rows):
        progress("oracle", rows // 2, rows)
        progress("oracle", rows, rows)

    def told(self, session, points, solution):
        """The solution with what else is known of it."""
        return solution


class Opened:
    def __init__(self, solver, example, weight):
        self.solver, self.example, self.weight = solver, example, weight
        self.batches = 0

    def solve(self, points, progress=None):
        self.batches += 1
        z, gap = self.solver.solve(self, points)
        if progress is not None:
            self.solver.tell(progress, len(points))
        return self.solver.told(self, points, ProxSolution(z, gap, self.solver.unfinished(gap)))


def right(session, points):
    return session.example.solve(points, session.weight)


class Certified(Oracle):
    guarantee = Guarantee.CERTIFIED


class Heuristic(Oracle):
    guarantee = Guarantee.HEURISTIC

    def solve(self, session, points):
        return self.point(session, points), np.full(len(points), np.inf)

    def point(self, session, points):
        return right(session, points)


class TooSmallGap(Certified):
    def solve(self, session, points):
        z = right(session, points)
        return points + 0.999 * (z - points), np.full(len(points), 1e-9)


class OnlyTheLastRowIsOff(Certified):
    def solve(self, session, points):
        z = right(session, points)
        z[-1:] += 1e-3
        return z, np.full(len(points), 1e-8)


class ClimbsTheNearestWave(Certified):
    """Stationary, so that a gap from the gradient alone says it is done."""

    def solve(self, session, points):
        z = right(session, points)
        if session.example.name == "two waves, k = 1":
            z = points.copy()
            for _ in range(2000):
                z += 0.05 * (3.0 * np.cos(3.0 * z) - 2.0 * np.sin(z) - session.weight * (z - points))
        return z, np.full(len(points), 1e-7)


class WrongSign(Certified):
    def solve(self, session, points):
        return 2.0 * points - right(session, points), np.full(len(points), 1e-7)


class HeuristicWithTheWrongSign(Heuristic):
    def point(self, session, points):
        return 2.0 * points - right(session, points)


class IgnoresTheWeight(Oracle):
    def solve(self, session, points):
        return session.example.solve(points, 3.0), np.zeros(len(points))


class Reverses(Oracle):
    def solve(self, session, points):
        return right(session, points)[::-1], np.zeros(len(points))


class LeaksBetweenRows(Heuristic):
    def point(self, session, points):
        return right(session, points) + 0.1 * points.sum(axis=0) / max(len(points), 1)


class LosesItsGapAlone(Certified):
    def solve(self, session, points):
        z = right(session, points)
        return (z + 0.01 if len(points) == 1 else z), np.full(len(points), 1e-7)


class NeedsTwoRows(Oracle):
    def solve(self, session, points):
        if len(points) == 1:
            raise IndexError("axis 0 is too short")
        return super().solve(session, points)


class NeedsRows(Oracle):
    def solve(self, session, points):
        if not len(points):
            raise ValueError("zero-size array")
        return super().solve(session, points)


class WritesToTheRows(Oracle):
    def solve(self, session, points):
        z = right(session, points)
        points *= 1.0 + 1e-12
        return z, np.zeros(len(points))


class PutsTheRowsBack(Oracle):
    def solve(self, session, points):
        points += 1.0
        points -= 1.0
        return super().solve(session, points)


class AnswersInPlace(Oracle):
    def solve(self, session, points):
        points[:] = right(session, points.copy())
        return points, np.zeros(len(points))


class BelievesInStrides(Oracle):
    def solve(self, session, points):
        flat = np.lib.stride_tricks.as_strided(points, points.shape, (8 * points.shape[1], 8))
        return right(session, flat.copy()), np.zeros(len(points))


class ReusesItsBuffer(Oracle):
    buffer = np.empty((64, 8))

    def solve(self, session, points):
        view = self.buffer[: len(points), : points.shape[1]]
        view[:] = right(session, points)
        return view, np.zeros(len(points))


class DrawsAtRandom(Certified):
    def solve(self, session, points):
        z = right(session, points) + 1e-8 * np.random.default_rng().standard_normal(points.shape)
        return z, np.full(len(points), 9e-7)


class StartsWhereItStopped(Heuristic):
    def point(self, session, points):
        return right(session, points) + 0.05 * (session.batches - 1)


class KeepsSessionsByReward(Oracle):
    opened: dict = {}  # noqa: RUF012

    def open(self, problem):
        return self.opened.setdefault(id(problem.nonlinear), super().open(problem))


class SharesTheLastSession(Oracle):
    last = None

    def open(self, problem):
        type(self).last = super().open(problem)
        return self

    def solve(self, points, progress=None):
        return Latest.solve(self.last, points, progress)


class Latest(Oracle):
    @staticmethod
    def solve(session, points, progress):
        if points.shape[1] != session.example.dimension:
            raise ValueError("the matrix has another size")
        z = right(session, points)
        if progress is not None:
            progress("latest", len(points), len(points))
        return ProxSolution(z, np.zeros(len(points)), np.zeros(len(points), dtype=bool))


class HalfPrecision(Oracle):
    def solve(self, session, points):
        return right(session, points).astype(np.float32), np.zeros(len(points))


class GapsInAColumn(Oracle):
    def solve(self, session, points):
        return right(session, points), np.zeros((len(points), 1))


class NegativeGap(Certified):
    def solve(self, session, points):
        return right(session, points), np.full(len(points), -1e-9)


class NanGap(Certified):
    def solve(self, session, points):
        return right(session, points), np.full(len(points), np.nan)


class HidesUnfinishedRows(Certified):
    def solve(self, session, points):
        return right(session, points), np.full(len(points), 1.0)


class CertifiesNothing(Certified):
    def solve(self, session, points):
        return right(session, points), np.full(len(points), np.inf)


class CallsItselfExact(Oracle):
    def solve(self, session, points):
        z = right(session, points)
        return z + 1e-7 / np.sqrt(points.shape[1]), np.full(len(points), 9e-7)


class FinishesNothing(Oracle):
    def unfinished(self, gap):
        return np.ones(len(gap), dtype=bool)


class RefusesEverything(Oracle):
    def bid(self, problem):
        return Refusal("oracle", "not today")


class RefusesWithoutAReason(Oracle):
    def bid(self, problem):
        answer = super().bid(problem)
        return Refusal("oracle", " ") if isinstance(answer, Refusal) else answer


class BidsAfterHours(Oracle):
    def bid(self, problem):
        answer = super().bid(problem)
        return answer if isinstance(answer, Refusal) else replace(answer, seconds=0.0 * problem.rows)


class ForgetsTheRows(Oracle):
    def bid(self, problem):
        answer = super().bid(problem)
        return answer if isinstance(answer, Refusal) else replace(answer, seconds=1.0 / problem.rows)


class CitesByName(Oracle):
    def bid(self, problem):
        answer = super().bid(problem)
        return answer if isinstance(answer, Refusal) else replace(answer, citations=("Parikh and Boyd",))


class ChangesItsMind(Oracle):
    asked = 0

    def bid(self, problem):
        ChangesItsMind.asked += 1
        answer = super().bid(problem)
        return Refusal("oracle", "another time") if self.asked % 2 == 0 else answer


class BidsANumber(Oracle):
    def bid(self, problem):
        return 0.5


class CannotBid(Oracle):
    def bid(self, problem):
        raise KeyError("norm1")


class TakesTheUnbounded(Certified):
    def bid(self, problem):
        return super().bid(problem) if self.example(problem) is None else Bid("oracle", "by heart", self.guarantee, 1.0)

    def solve(self, session, points):
        if not session.example.is_bounded:
            return points + 100.0, np.full(len(points), 1e-9)
        return super().solve(session, points)


class HonestAboutTheUnbounded(TakesTheUnbounded):
    def solve(self, session, points):
        if not session.example.is_bounded:
            raise UnboundedTransportError("it grows")
        return super().solve(session, points)


class GivesUpOnTheUnbounded(TakesTheUnbounded):
    def solve(self, session, points):
        z, gap = super().solve(session, points)
        return (z, gap) if session.example.is_bounded else (z, np.full(len(points), np.inf))

    def unfinished(self, gap):
        return ~np.isfinite(gap)


class TellsNothing(Oracle):
    def tell(self, progress, rows):
        pass


class TellsHalf(Oracle):
    def tell(self, progress, rows):
        progress("oracle", rows // 2, rows)


class TellsBackwards(Oracle):
    def tell(self, progress, rows):
        for done in (rows, 0, rows):
            progress("oracle", done, rows)


class TellsBatches(Oracle):
    def tell(self, progress, rows):
        progress("oracle", 1, 1)


class Updating(Oracle):
    """Right: follows λ, and says so."""

    def open(self, problem):
        session = super().open(problem)
        session.update = lambda other: self.update(session, other)
        return session

    def update(self, session, problem):
        if problem.nonlinear is not session.example.reward:
            return False
        session.weight = problem.weight
        return True


class UpdatesInWordAlone(Updating):
    def update(self, session, problem):
        return problem.nonlinear is session.example.reward


class UpdatesAfterAll(Updating):
    def update(self, session, problem):
        super().update(session, problem)
        return False


class UpdatesPerhaps(Updating):
    def update(self, session, problem):
        return None


class ReturnsATuple(Oracle):
    def open(self, problem):
        session = super().open(problem)
        session.solve = lambda points, progress=None: (right(session, points), np.zeros(len(points)))
        return session


class Telling(Oracle):
    """Right: gives f(z), ties and evaluations."""

    def told(self, session, points, solution):
        example = session.example.on_rows(points)
        count = np.full(len(points), 7, dtype=np.int64)
        tied = np.zeros(len(points), dtype=bool) if example.is_tied is None else example.is_tied(points)
        return replace(solution, value=example.value(solution.maximiser), tied=tied, evaluations=count)


class GivesTheValueBefore(Telling):
    def told(self, session, points, solution):
        return replace(super().told(session, points, solution), value=session.example.on_rows(points).value(points))


class ForgetsAConstant(Telling):
    def told(self, session, points, solution):
        found = super().told(session, points, solution)
        return replace(found, value=found.value - 1e-9)


class NarrowValues(Telling):
    def told(self, session, points, solution):
        found = super().told(session, points, solution)
        return replace(found, value=found.value.astype(np.float32))


class CallsEveryRowTied(Telling):
    def told(self, session, points, solution):
        return replace(super().told(session, points, solution), tied=np.ones(len(points), dtype=bool))


class OverlooksTies(Telling):
    def told(self, session, points, solution):
        return replace(super().told(session, points, solution), tied=np.zeros(len(points), dtype=bool))


class NumbersItsTies(Telling):
    def told(self, session, points, solution):
        found = super().told(session, points, solution)
        return replace(found, tied=found.tied.astype(np.int64))


class CountsInFloats(Telling):
    def told(self, session, points, solution):
        return replace(super().told(session, points, solution), evaluations=np.full(len(points), 7.0))


class GivesStepsUnasked(Oracle):
    def told(self, session, points, solution):
        return replace(solution, displacement=solution.maximiser - points)


class Displacing(Oracle):
    """Right, of problems whose penalty is on displacements."""

    takes_displacements = True

    def solve(self, session, points):
        return self.best(session, points).maximiser, np.zeros(len(points))

    def best(self, session, points):
        return session.example.with_weight(session.weight).on_rows(points).solution

    def told(self, session, points, solution):
        return replace(solution, displacement=self.best(session, points).displacement)


class Sparse(Displacing):
    """Right, and gives amounts by their coordinates, the largest first."""

    def told(self, session, points, solution):
        dense = self.best(session, points).displacement
        order = np.argsort(-np.abs(dense), axis=1)
        return replace(solution, displacement=SparseRows(order, np.take_along_axis(dense, order, axis=1)))


class GivesNoDisplacements(Displacing):
    def told(self, session, points, solution):
        return solution


class MissesTheDisplacement(Displacing):
    """Off by less than its gap allows."""

    def solve(self, session, points):
        return super().solve(session, points)[0] + 1e-9, np.full(len(points), 1e-7)

    guarantee = Guarantee.CERTIFIED


class HalvesItsAmounts(Sparse):
    """Two entries of a half each, whose h is that of the whole for the ℓ1 cost alone."""

    def told(self, session, points, solution):
        whole = super().told(session, points, solution).displacement
        places, halves = np.repeat(whole.coordinates, 2, axis=1), np.repeat(whole.amounts / 2.0, 2, axis=1)
        return replace(solution, displacement=SparseRows(places, halves))


class Weighing(Oracle):
    """Right: answers rows of a λ each."""

    def open(self, problem):
        session = super().open(problem)
        session.solve_weighted = lambda points, weights: self.weighted(session, points, weights)
        return session

    def weighted(self, session, points, weights):
        z = np.array([session.example.solve(row[None], weight)[0] for row, weight in zip(points, weights, strict=True)])
        return ProxSolution(z, np.zeros(len(points)), np.zeros(len(points), dtype=bool))


class WeighsAllRowsAlike(Weighing):
    def weighted(self, session, points, weights):
        return super().weighted(session, points, np.full_like(weights, weights[0]))


class WeighsRowsByItself(Weighing):
    def weighted(self, session, points, weights):
        return super().weighted(session, points, np.sort(weights))


class RemembersParameters(TorchProxSolver):
    """Tabulates each reward once, whatever its parameters do afterwards."""

    def __init__(self):
        self.opened = {}

    def open(self, problem):
        key = (id(problem.nonlinear), problem.weight)
        if key not in self.opened:
            # The reward is kept, or another may come by its id.
            session = super().open(problem)
            session._refresh = lambda: None
            self.opened[key] = (problem.nonlinear, session)
        return self.opened[key][1]


P = ProxPromise
#: The promises that a mutant breaks, all of them and no others.
MUTANTS = {
    TooSmallGap: {P.BOUND, P.ROWS, P.EMPTY, P.SESSIONS},
    OnlyTheLastRowIsOff: {P.BOUND, P.ROWS, P.EMPTY, P.SESSIONS},
    ClimbsTheNearestWave: {P.BOUND, P.ROWS, P.EMPTY, P.SESSIONS},
    WrongSign: {P.BOUND, P.IMPROVES, P.ROWS, P.EMPTY, P.SESSIONS},
    HeuristicWithTheWrongSign: {P.IMPROVES},
    IgnoresTheWeight: {P.BOUND, P.GUARANTEE, P.ROWS, P.EMPTY, P.SESSIONS},
    Reverses: {P.BOUND, P.GUARANTEE, P.IMPROVES, P.ROWS, P.EMPTY, P.SESSIONS},
    LeaksBetweenRows: {P.ROWS},
    LosesItsGapAlone: {P.ROWS},
    NeedsTwoRows: {P.ROWS},
    NeedsRows: {P.EMPTY},
    WritesToTheRows: {P.INPUT},
    PutsTheRowsBack: {P.INPUT},
    AnswersInPlace: {P.INPUT},
    BelievesInStrides: {P.INPUT},
    ReusesItsBuffer: {P.KEPT},
    DrawsAtRandom: {P.REPEATS},
    KeepsSessionsByReward: {P.SESSIONS},
    HidesUnfinishedRows: {P.GUARANTEE},
    CertifiesNothing: {P.GUARANTEE},
    CallsItselfExact: {P.GUARANTEE},
    FinishesNothing: {P.FINISHES},
    RefusesEverything: {P.USEFUL},
    RefusesWithoutAReason: {P.BIDS},
    BidsAfterHours: {P.BIDS},
    ForgetsTheRows: {P.BIDS},
    TakesTheUnbounded: {P.UNBOUNDED},
    TellsNothing: {P.PROGRESS},
    TellsHalf: {P.PROGRESS},
    TellsBackwards: {P.PROGRESS},
    TellsBatches: {P.PROGRESS},
    UpdatesInWordAlone: {P.UPDATES},
    UpdatesAfterAll: {P.UPDATES},
    UpdatesPerhaps: {P.UPDATES},
    GivesTheValueBefore: {P.VALUE},
    ForgetsAConstant: {P.VALUE},
    NarrowValues: {P.VALUE},
    CallsEveryRowTied: {P.TIES},
    OverlooksTies: {P.TIES},
    NumbersItsTies: {P.TIES},
    CountsInFloats: {P.TIES},
    GivesStepsUnasked: {P.DISPLACEMENTS},
    MissesTheDisplacement: {P.DISPLACEMENTS},
    HalvesItsAmounts: {P.DISPLACEMENTS},
    WeighsAllRowsAlike: {P.WEIGHTS},
    WeighsRowsByItself: {P.WEIGHTS},
    CitesByName: {P.BIDS},
    RemembersParameters: {P.PARAMETERS},
}
#: Broken so early, or so often, that other promises break with them.
AT_LEAST = {
    HalfPrecision: P.SHAPES,
    GapsInAColumn: P.SHAPES,
    NegativeGap: P.SHAPES,
    NanGap: P.SHAPES,
    ReturnsATuple: P.SHAPES,
    ChangesItsMind: P.BIDS,
    BidsANumber: P.BIDS,
    CannotBid: P.BIDS,
    StartsWhereItStopped: P.REPEATS,
    SharesTheLastSession: P.SESSIONS,
    GivesNoDisplacements: P.DISPLACEMENTS,
}


def report_on(solver):
    return check_prox_solver(solver, examples=DISPLACED if issubclass(solver, Displacing) else EXAMPLES)


@pytest.mark.parametrize(
    "solver",
    [
        Oracle,
        Certified,
        Heuristic,
        Updating,
        HonestAboutTheUnbounded,
        GivesUpOnTheUnbounded,
        Telling,
        Displacing,
        Sparse,
        Weighing,
    ],
)
def test_what_is_right_conforms(solver):
    report = report_on(solver)
    assert report.conforms, report


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_are_caught_by_the_promise_they_break(mutant):
    report = report_on(mutant)
    assert {error.promise for error in report.broken} == MUTANTS[mutant], report


@pytest.mark.parametrize("mutant", AT_LEAST, ids=lambda mutant: mutant.__name__)
def test_mutants_that_break_more_are_caught_by_that_promise_too(mutant):
    report = report_on(mutant)
    assert AT_LEAST[mutant] in {error.promise for error in report.broken}, report


def test_every_promise_has_a_mutant():
    assert set().union(*MUTANTS.values(), AT_LEAST.values()) == set(ProxPromise)


def test_the_error_names_the_promise_the_problem_and_the_numbers():
    error = next(error for error in report_on(TooSmallGap).broken if error.promise is P.BOUND)
    assert isinstance(error, ConformanceError) and isinstance(error, AssertionError)
    assert error.example == "absolute value, k = 1"
    assert error.numbers["missing"] > 1e-9 >= error.numbers["gap"]
    text = str(error)
    for part in (
        "the gap of a row is at least",
        "'absolute value, k = 1'",
        "soft thresholding",
        f"{error.numbers['gap']:.6g}",
    ):
        assert part in text
    assert f"{error.numbers['missing']:.6g}" in text


def test_what_a_backend_raises_is_kept_as_the_cause():
    error = next(error for error in report_on(NeedsRows).broken)
    assert "it raised ValueError: zero-size array" in str(error) and isinstance(error.__cause__, ValueError)
