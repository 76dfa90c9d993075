"""The promises of a proximal solver, each examined on problems whose optima are known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignkit import registry
from alignkit.contracts import Bid, Floats, Guarantee, ProxProblem, ProxSession, ProxSolution, ProxSolver, Refusal
from alignkit.errors import UnboundedTransportError
from alignkit.expressions import Parameter, Variable, norm1
from alignkit.testing.conformance import (
    Breach,
    Check,
    Promise,
    Report,
    expect,
    expect_citations,
    expect_progress,
    made,
    named,
    run_checks,
)
from alignkit.testing.prox_example import ProxExample
from alignkit.testing.prox_examples import prox_examples
from alignkit.testing.prox_solutions import (
    answer,
    arrays_of,
    expect_bound,
    expect_displacement,
    expect_same,
    expect_ties,
    expect_value,
    first,
    picked,
    reached,
    shown,
)

__all__ = ["ProxPromise", "check_prox_solver", "prox_checks"]

#: What an exact backend may miss the supremum by, relative to the objective.
_EXACT = 1e-9
#: The λ of rows that have one each, as multiples of the example's own.
_MULTIPLES = (1.0, 3.0, 1.5)
_TAKES_NONE = "it has no `takes_displacements = True`"


class ProxPromise(Promise):
    """What a proximal solver promises."""

    BIDS = "it answers a problem with a bid in finite positive time, or with a refusal that says why"
    SHAPES = "maximisers are float64 (n, k), gaps (n,) and nonnegative, unfinished rows marked in a boolean (n,)"
    BOUND = "the gap of a row is at least what its objective lacks to the supremum"
    GUARANTEE = (
        "a certified or exact bid gives every row a gap within the tolerance or marks it unfinished, an exact one "
        "answers up to rounding"
    )
    FINISHES = "of a problem that it bid for, it finishes half the rows or more"
    IMPROVES = "no finished row is worse off than where it came from"
    ROWS = "a row's answer depends on that row alone, not on the others, their order or their number"
    EMPTY = "a batch may have no rows"
    INPUT = "rows are read and never written to, in any memory layout"
    KEPT = "answers stay as they were given, whatever is solved afterwards"
    REPEATS = "the same rows get the same answers, later in the same session and in a new one"
    SESSIONS = "sessions of different problems do not interfere"
    PROGRESS = "progress is told as (stage, rows done, rows), done never falling and all rows done at the end"
    VALUE = "where f(z) is given, it is the value of the reward at the maximiser given, up to rounding"
    TIES = (
        "ties are marked in a boolean (n,) or not looked for: where two maximisers are, never where the objective is "
        "strictly concave; evaluations are counted in an int64 (n,) or not at all"
    )
    DISPLACEMENTS = (
        "where the penalty is on displacements δ they are given, (n, m) or sparse without a coordinate twice, with "
        "z = v + Rδ up to rounding, and nowhere else"
    )
    WEIGHTS = "a session that has `solve_weighted` answers each row as a session of that row's λ would"
    UPDATES = "a session that has `update` answers the new λ once it said True, and the old one after it said False"
    PARAMETERS = "once a parameter changed, a session that is updated or opened anew solves with its new value"
    UNBOUNDED = "a problem without a maximum is refused, raises UnboundedTransportError, or has no finite gap"
    USEFUL = "at least one problem with a maximum is taken"


def check_prox_solver(
    solver: type[ProxSolver] | Callable[[], ProxSolver] | ProxSolver | str,
    *,
    examples: Sequence[ProxExample] | None = None,
    rows: int = 12,
    seed: int = 0,
    tolerance: float = 1e-6,
    device: str = "auto",
) -> Report:
    """Examine a proximal solver, and report what it keeps and what it breaks.

    Arguments:
        solver: its class, a function that makes it, an instance, or the name of an installed backend.
        examples: the problems to examine it on; `prox_examples(rows=rows, seed=seed)` if None. For a solver with
            `takes_displacements = True` add those of `displaced_examples`.
        rows: how many rows each problem has.
        seed: fixes the problems.
        tolerance: the largest relative gap asked for.
        device: as the engine names it.

    Returns:
        the report, to be printed; `report.raise_broken()` turns it into an error.

    Raises:
        BackendUnavailableError: no installed backend of that name offers it.

    Example:
        ```python
        print(check_prox_solver(MySolver))
        ```
    """
    if isinstance(solver, str):
        registry.require(solver, "prox_solver")
    checks = prox_checks(solver, examples=examples, rows=rows, seed=seed, tolerance=tolerance, device=device)
    return run_checks(f"prox solver {named(solver)}", checks)


def prox_checks(
    solver: type[ProxSolver] | Callable[[], ProxSolver] | ProxSolver | str,
    *,
    examples: Sequence[ProxExample] | None = None,
    rows: int = 12,
    seed: int = 0,
    tolerance: float = 1e-6,
    device: str = "auto",
) -> tuple[Check, ...]:
    """The checks of `check_prox_solver` one by one, for a test framework; nothing is solved before one is called.

    Arguments:
        solver, examples, rows, seed, tolerance, device: as for `check_prox_solver`.

    Returns:
        a check for each promise and problem, to be called without arguments.

    Example:
        ```python
        @pytest.mark.parametrize("check", prox_checks(MySolver), ids=str)
        def test_conformance(check):
            check()
        ```
    """
    chosen = tuple(prox_examples(rows=rows, seed=seed) if examples is None else examples)
    bench = _Bench(solver, chosen, tolerance, device)
    bounded = [example for example in chosen if example.is_bounded]
    where_taken: dict[ProxPromise, Callable[[_Bench, ProxExample], str | None]] = {
        ProxPromise.SHAPES: _shapes,
        ProxPromise.BOUND: _bound,
        ProxPromise.GUARANTEE: _guarantee,
        ProxPromise.FINISHES: _finishes,
        ProxPromise.IMPROVES: _improves,
        ProxPromise.ROWS: _rows,
        ProxPromise.EMPTY: _empty,
        ProxPromise.INPUT: _input,
        ProxPromise.KEPT: _kept,
        ProxPromise.REPEATS: _repeats,
        ProxPromise.SESSIONS: _sessions,
        ProxPromise.PROGRESS: _progress,
        ProxPromise.VALUE: _value,
        ProxPromise.TIES: _ties,
        ProxPromise.DISPLACEMENTS: _displacements,
        ProxPromise.WEIGHTS: _weights,
        ProxPromise.UPDATES: _updates,
    }
    checks = [Check(ProxPromise.BIDS, example.name, functools.partial(_bids, bench, example)) for example in chosen]
    checks += [
        Check(promise, example.name, functools.partial(_where_taken, examine, bench, example))
        for promise, examine in where_taken.items()
        for example in bounded
    ]
    checks += [
        Check(ProxPromise.UNBOUNDED, example.name, functools.partial(_where_taken, _unbounded, bench, example))
        for example in chosen
        if not example.is_bounded
    ]
    if all(example.displacement is None for example in chosen):
        checks.append(Check(ProxPromise.DISPLACEMENTS, None, functools.partial(_has_other_examples, bench)))
    checks.append(Check(ProxPromise.PARAMETERS, None, functools.partial(_parameters, bench)))
    checks.append(Check(ProxPromise.USEFUL, None, functools.partial(_useful, bench)))
    return tuple(checks)


class _Bench:
    """A solver with the examples: its bids, sessions and answers, each asked for once and kept."""

    def __init__(self, solver: Any, examples: tuple[ProxExample, ...], tolerance: float, device: str) -> None:
        self.subject, self.examples, self.tolerance, self.device = solver, examples, tolerance, device
        self._answers: dict[ProxExample, Bid | Refusal] = {}
        self._opened: dict[ProxExample, ProxSession] = {}
        self._solved: dict[ProxExample, ProxSolution] = {}

    @functools.cached_property
    def solver(self) -> ProxSolver:
        """The solver that everything but repetitions is asked of."""
        solver: ProxSolver = made(self.subject, "prox_solver")
        return solver

    @property
    def takes_displacements(self) -> bool:
        """Whether the solver is to be asked for problems that have a displacement."""
        return bool(getattr(self.solver, "takes_displacements", False))

    def problem(self, example: ProxExample) -> ProxProblem:
        return example.problem(tolerance=self.tolerance, device=self.device)

    def bid(self, example: ProxExample) -> Bid | Refusal:
        if example not in self._answers:
            given = self.ask(self.problem(example))
            expect(isinstance(given, Bid | Refusal), f"its bid is a {type(given).__name__}, neither Bid nor Refusal")
            self._answers[example] = given
        return self._answers[example]

    def ask(self, problem: ProxProblem) -> Bid | Refusal:
        """The solver's bid for a problem; a refusal in its name where it takes no problems of the kind."""
        if problem.displacement is not None and not self.takes_displacements:
            return Refusal(named(self.subject), _TAKES_NONE)
        return self.solver.bid(problem)

    def refusal(self, example: ProxExample) -> str | None:
        """Why the solver does not take the example; None when it does."""
        given = self.bid(example)
        return given.reason if isinstance(given, Refusal) else None

    def session(self, example: ProxExample) -> ProxSession:
        """A session that has solved the example's own rows."""
        self.solution(example)
        return self._opened[example]

    def solution(self, example: ProxExample) -> ProxSolution:
        """The answer to the example's own rows, in a session that had solved nothing before."""
        if example not in self._solved:
            self._opened[example] = self.solver.open(self.problem(example))
            self._solved[example] = answer(self._opened[example], example.points)
        return self._solved[example]


# ---- one promise each


def _where_taken(
    examine: Callable[[_Bench, ProxExample], str | None], bench: _Bench, example: ProxExample
) -> str | None:
    reason = bench.refusal(example)
    return examine(bench, example) if reason is None else reason


def _bids(bench: _Bench, example: ProxExample) -> str | None:
    given = bench.bid(example)
    expect(isinstance(given.backend, str) and given.backend, "it names no backend")
    again = bench.ask(bench.problem(example))
    expect(type(again) is type(given), f"asked twice, it answered {given} and then {again}")
    if isinstance(given, Refusal):
        expect(isinstance(given.reason, str) and given.reason.strip(), "it refuses without a reason")
        return given.reason
    expect(isinstance(given.guarantee, Guarantee), f"its guarantee is {given.guarantee!r}, not a Guarantee")
    expect(isinstance(given.method, str) and given.method, "it names no method")
    expect_citations(given)
    few, many = (
        bench.solver.bid(replace(bench.problem(example), rows=rows)) for rows in (len(example.points), 100_000)
    )
    for bid in (few, many):
        expect(isinstance(bid, Bid), "whether it bids depends on the number of rows")
        seconds = bid.seconds if isinstance(bid, Bid) else math.nan
        expect(math.isfinite(seconds) and seconds > 0, f"it predicts {seconds} seconds", seconds=seconds)
    if isinstance(few, Bid) and isinstance(many, Bid):
        expect(
            many.seconds >= few.seconds,
            f"it predicts {few.seconds} s for {len(example.points)} rows, but {many.seconds} s for 100,000",
            few=few.seconds,
            many=many.seconds,
        )
    return None


def _shapes(bench: _Bench, example: ProxExample) -> str | None:
    bench.solution(example)
    return None


def _bound(bench: _Bench, example: ProxExample) -> str | None:
    expect_bound(example, bench.solution(example))
    return None


def _guarantee(bench: _Bench, example: ProxExample) -> str | None:
    given = bench.bid(example)
    assert isinstance(given, Bid)
    solution = bench.solution(example)
    objective, rounding = reached(example, solution)
    scale = np.maximum(1.0, np.where(np.isfinite(objective), np.abs(objective), 1.0))
    finished = ~solution.unfinished
    if given.guarantee >= Guarantee.CERTIFIED:
        bad = finished & ~(solution.gap <= bench.tolerance * scale)
        if bad.any():
            row = first(bad)
            raise Breach(
                f"bid as {given.guarantee.name.lower()}, and the relative gap of row {row} is "
                f"{solution.gap[row] / scale[row]:.3g}, above {bench.tolerance:.3g}, without being marked unfinished",
                row=row,
                gap=solution.gap[row],
            )
    if given.guarantee is Guarantee.EXACT:
        paid = example.price(solution.maximiser, example.dense(solution))
        missing = example.supremum - objective
        bad = finished & ~(missing <= _EXACT * np.maximum(scale, paid) + rounding)
        if bad.any():
            row = first(bad)
            raise Breach(
                f"bid as exact, and row {row} lacks {missing[row]:.3g} to the supremum",
                row=row,
                missing=missing[row],
            )
    return None


def _finishes(bench: _Bench, example: ProxExample) -> str | None:
    unfinished = bench.solution(example).unfinished
    expect(
        2 * unfinished.sum() <= len(unfinished),
        f"{unfinished.sum()} of {len(unfinished)} rows are unfinished",
        unfinished=int(unfinished.sum()),
    )
    return None


def _improves(bench: _Bench, example: ProxExample) -> str | None:
    solution = bench.solution(example)
    before, (after, rounding) = example.value(example.points), reached(example, solution)
    start = np.where(np.isfinite(before), before, -np.inf)
    slack = rounding + bench.tolerance * np.maximum(1.0, np.where(np.isfinite(start), np.abs(start), 0.0))
    bad = ~solution.unfinished & (after < start - slack)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"row {row} went from v = {shown(example.points[row])}, objective {before[row]:.6g}, to "
            f"z = {shown(solution.maximiser[row])}, objective {after[row]:.6g}",
            row=row,
            before=before[row],
            after=after[row],
        )
    return None


def _rows(bench: _Bench, example: ProxExample) -> str | None:
    together, session = bench.solution(example), bench.session(example)
    count = len(example.points)
    orders = {"in another order": np.random.default_rng(0).permutation(count)}
    orders |= {f"row {row} by itself": np.array([row]) for row in {0, count // 2, count - 1}}
    for how, chosen in orders.items():
        part = example.on_rows(example.points[chosen])
        solution = answer(session, part.points)
        expect_bound(part, solution)
        expect_same(part, solution, picked(together, chosen), f"{how}, the answer is another")
    return None


def _empty(bench: _Bench, example: ProxExample) -> str | None:
    session = bench.solver.open(bench.problem(example))
    answer(session, np.empty((0, example.dimension)))
    expect_bound(example, answer(session, example.points))
    return None


def _input(bench: _Bench, example: ProxExample) -> str | None:
    solution, session = bench.solution(example), bench.session(example)
    count, k = example.points.shape
    frozen = example.points.copy()
    frozen.setflags(write=False)
    spread = np.full((2 * count, 3 * k), np.nan)
    spread[::2, 1::3] = example.points
    layouts = {
        "rows in C order": example.points.copy(),
        "rows in Fortran order": np.asfortranarray(example.points),
        "rows with strides": spread[::2, 1::3],
        "rows that are read only": frozen,
    }
    for name, points in layouts.items():
        found = session.solve(points)
        expect(np.array_equal(points, example.points), f"{name} were written to")
        for part, values in arrays_of(found).items():
            expect(not np.shares_memory(points, values), f"the {part} lies in the memory of the {name}")
        expect_same(example, found, solution, f"given {name}, the answer is another")
    return None


def _kept(bench: _Bench, example: ProxExample) -> str | None:
    session = bench.session(example)
    solution = session.solve(example.points.copy())
    before = {name: values.copy() for name, values in arrays_of(solution).items()}
    session.solve(example.points[::-1].copy())
    for name, values in arrays_of(solution).items():
        expect(
            np.array_equal(before[name], values, equal_nan=values.dtype.kind == "f"),
            f"the {name} of an earlier answer changed when the next batch was solved",
        )
    return None


def _repeats(bench: _Bench, example: ProxExample) -> str | None:
    solution, session = bench.solution(example), bench.session(example)
    answer(session, 10.0 * example.points + 1.0)
    expect_same(example, answer(session, example.points), solution, "later in the session, the answer is another")
    solver: ProxSolver = made(bench.subject, "prox_solver")
    again = answer(solver.open(bench.problem(example)), example.points)
    difference = np.abs(again.maximiser - solution.maximiser).max(axis=1, initial=0.0)
    size = 1.0 + np.abs(solution.maximiser).max(axis=1, initial=0.0)
    bad = ~(difference <= _EXACT * size)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"a new session on the same rows moved row {row} by {difference[row]:.3g}, from "
            f"z = {shown(solution.maximiser[row])}",
            row=row,
            difference=difference[row],
        )
    return None


def _sessions(bench: _Bench, example: ProxExample) -> str | None:
    others = [one for one in bench.examples if one.is_bounded and one is not example and bench.refusal(one) is None]
    # The same reward under another λ is what a cache mistakes most easily.
    mixed = [example, example.with_weight(2.0 * example.weight), *others[:1]]
    mixed = [one for one in mixed if bench.refusal(one) is None]
    opened = [(one, bench.solver.open(bench.problem(one))) for one in mixed]
    for one, session in (*reversed(opened), *opened):
        expect_bound(one, answer(session, one.points))
    return None


def _progress(bench: _Bench, example: ProxExample) -> str | None:
    told: list[tuple[Any, ...]] = []
    solution = answer(bench.session(example), example.points, lambda *event: told.append(event))
    expect_progress(told, len(example.points))
    expect_same(example, solution, bench.solution(example), "told to report progress, it answered otherwise")
    return None


def _value(bench: _Bench, example: ProxExample) -> str | None:
    solution = bench.solution(example)
    if solution.value is None:
        return "it gives no f(z)"
    expect_value(example, solution)
    return None


def _ties(bench: _Bench, example: ProxExample) -> str | None:
    solution = bench.solution(example)
    if solution.tied is None and solution.evaluations is None:
        return "it neither looks for ties nor counts evaluations"
    expect_ties(example, solution)
    return None


def _has_other_examples(bench: _Bench) -> str:
    if bench.takes_displacements:
        return "no example has a displacement: add displaced_examples(ak.costs)"
    return _TAKES_NONE


def _displacements(bench: _Bench, example: ProxExample) -> str | None:
    expect_displacement(example, bench.solution(example))
    return None


def _weights(bench: _Bench, example: ProxExample) -> str | None:
    solve_weighted = getattr(bench.session(example), "solve_weighted", None)
    if solve_weighted is None:
        return "its sessions have no solve_weighted"
    weights = example.weight * np.resize(_MULTIPLES, len(example.points))
    try:
        solution = solve_weighted(example.points.copy(), weights.copy())
    except ValueError as error:
        return f"it says: {error}"
    for weight in np.unique(weights):
        chosen = np.flatnonzero(weights == weight)
        part, found = example.with_weight(float(weight)).on_rows(example.points[chosen]), picked(solution, chosen)
        expect_bound(part, found)
        expect_same(part, found, part.solution, f"beside rows of other λ, a row of λ = {weight:.6g} has another answer")
        if found.value is not None:
            expect_value(part, found)
    unfinished = solution.unfinished
    expect(2 * unfinished.sum() <= len(unfinished), f"{unfinished.sum()} of {len(unfinished)} rows are unfinished")
    return None


def _parameters(bench: _Bench) -> str | None:
    reason: str | None = None
    for dimension in (3, 1):
        if (reason := _parameters_in(bench, dimension)) is None:
            break
    return reason


def _parameters_in(bench: _Bench, dimension: int) -> str | None:
    centre = Parameter((dimension,), np.zeros(dimension), name="centre")
    points = np.linspace(-3.0, 3.0, 4 * dimension).reshape(4, dimension)

    def soft_threshold(v: Floats, weight: float) -> Floats:
        place = np.asarray(centre.value(), dtype=np.float64)
        result: Floats = place + np.sign(v - place) * np.maximum(np.abs(v - place) - 1.0 / weight, 0.0)
        return result

    reward = -norm1(Variable((dimension,), name="w") - centre)
    kept = None
    for value in (0.5, -1.5):
        centre.value = np.linspace(value, 1.0, dimension)
        example = ProxExample("parameter", reward, 2.0, points, soft_threshold, 0.0, "soft thresholding")
        if (reason := bench.refusal(example)) is not None:
            return reason
        expect_bound(example, bench.solution(example))
        if kept is not None and _updated(kept, bench.problem(example)):
            expect_bound(example, answer(kept, points))
        kept = bench.session(example)
    return None


def _updates(bench: _Bench, example: ProxExample) -> str | None:
    session = bench.solver.open(bench.problem(example))
    if not callable(getattr(session, "update", None)):
        return "its sessions have no update"
    answer(session, example.points)
    present = example
    others = [
        one
        for one in bench.examples
        if one.is_bounded
        and one.dimension == example.dimension
        and (one.displacement is None or bench.takes_displacements)
    ]
    for other in (example.with_weight(2.0 * example.weight), others[-1], example):
        if _updated(session, bench.problem(other)):
            present = other
        expect_bound(present, answer(session, present.points))
    return None


def _updated(session: ProxSession, problem: ProxProblem) -> bool:
    """Whether a session says that it answers a problem from now on."""
    update = getattr(session, "update", None)
    answer = False if update is None else update(problem)
    expect(isinstance(answer, bool), f"update returned {answer!r}, neither True nor False")
    return bool(answer)


def _unbounded(bench: _Bench, example: ProxExample) -> str | None:
    try:
        solution = bench.solution(example)
    except UnboundedTransportError:
        return None
    given = bench.bid(example)
    certifies = isinstance(given, Bid) and given.guarantee >= Guarantee.CERTIFIED
    bad = np.isfinite(solution.gap) | (~solution.unfinished & certifies)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"row {row} got z = {shown(solution.maximiser[row])} with a gap of {solution.gap[row]:.6g}"
            f"{'' if solution.unfinished[row] else ', as finished'}",
            row=row,
            gap=solution.gap[row],
        )
    return None


def _useful(bench: _Bench) -> str | None:
    bounded = [example for example in bench.examples if example.is_bounded]
    for example in bounded:
        # A bid that breaks is said where it breaks.
        try:
            if bench.refusal(example) is None:
                return None
        except Exception:
            continue
    raise Breach(f"none of the {len(bounded)} problems was taken")
