"""The grid's proximal solver: certified global maximisation of f(z) − (λ/2)‖z − v‖² for Lipschitz f, k ≤ 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import (
    Bid,
    Floats,
    Guarantee,
    Progress,
    ProxProblem,
    ProxSolution,
    Refusal,
    UpdatableProxSession,
)
from alignkit.expressions.expression import versions_of
from alignkit.expressions.poles import is_defined_everywhere
from alignkit.expressions.splitting import split
from alignkit_grid.cells import CellTree
from alignkit_grid.forecast import MOST_EVALUATIONS, Forecast
from alignkit_grid.majorants import majorants_of
from alignkit_grid.search import Found, Search
from alignkit_grid.table import NODE_SHARE, Table, spacings

__all__ = ["GridProxSolver", "GridSession"]

_LARGEST_DIMENSION, _LARGEST_TABLE_DIMENSION = 3, 2
#: Rows looked up at a time, and cubes searched at a time, about.
_LOOKUP_ROWS, _SEARCH_CUBES = 2**15, 2**20
_MOST_SEARCHED, _LEAST_SEARCHED = 2048, 16
#: Measured on one core: a cube visited, a row looked up, a call to a search, and opening.
_SECONDS_PER_CUBE, _SECONDS_PER_LOOKUP, _SECONDS_PER_SEARCH, _SECONDS_TO_OPEN = 1e-7, 2.5e-7, 1e-2, 2e-3
#: The share of rows that a table leaves to the search, and the width of the law of v, in units of 1, by which its nodes
#: are forecast.
_LEFT, _WIDTH = {1: 1e-4, 2: 0.025}, 8.0
#: Batches of the size expected after which a table has to have paid.
_MOST_BATCHES = 10.0

_PIYAVSKII = Citation(
    key="piyavskii1972",
    title="An algorithm for finding the absolute extremum of a function",
    year=1972,
    authors=("S. A. Piyavskii",),
    venue="USSR Computational Mathematics and Mathematical Physics 12(4), 57–67",
    kind="article",
    doi="10.1016/0041-5553(72)90115-2",
)
_SHUBERT = Citation(
    key="shubert1972",
    title="A sequential method seeking the global maximum of a function",
    year=1972,
    authors=("B. O. Shubert",),
    venue="SIAM Journal on Numerical Analysis 9(3), 379–388",
    kind="article",
    doi="10.1137/0709036",
)
_ALPHA_BB = Citation(
    key="adjiman1998",
    title="A global optimization method, αBB, for general twice-differentiable constrained NLPs: I",
    year=1998,
    authors=("C. S. Adjiman", "S. Dallwig", "C. A. Floudas", "A. Neumaier"),
    venue="Computers & Chemical Engineering 22(9), 1137–1158",
    kind="article",
    doi="10.1016/S0098-1354(98)00027-1",
)


class GridProxSolver:
    """Global maximisers with a certified gap for every row, whatever the curvature of f.

    It takes every f with a finite Lipschitz constant on up to three dimensions. Smooth, convex and concave summands are
    bounded by quadratics, others, as functions of the user's own, by their Lipschitz constants, which takes many more
    evaluations: what would take too many is refused.

    Example:
        ```python
        session = GridProxSolver().open(ProxProblem(ak.sum(ak.sin(3 * w)), weight=1.0, dimension=2, rows=100))
        session.solve(points).gap
        ```
    """

    name = "grid"

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a search or a table, or say which rule excludes the problem."""
        offer = _offer(problem)
        if isinstance(offer, str):
            return Refusal(self.name, offer)
        return Bid(self.name, offer.method, Guarantee.CERTIFIED, offer.seconds, (_PIYAVSKII, _SHUBERT, _ALPHA_BB))

    def open(self, problem: ProxProblem) -> UpdatableProxSession:
        """Take f apart; tables and trees are filled as rows come.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        offer = _offer(problem)
        if isinstance(offer, str):
            raise ValueError(f"The grid backend refuses this problem: {offer}.")
        return GridSession(offer)


@dataclass(frozen=True, eq=False)
class _Offer:
    """A problem that the grid takes.

    Arguments:
        problem: what was asked.
        forecast: of its search.
    """

    problem: ProxProblem
    forecast: Forecast

    @property
    def has_table(self) -> bool:
        """Whether enough rows are expected, in this batch and in those to come, for nodes to be worth solving."""
        problem = self.problem
        if problem.dimension > _LARGEST_TABLE_DIMENSION:
            return False
        rows_wanted = spacings(problem.dimension, problem.weight, problem.tolerance)[0] ** -problem.dimension
        return problem.rows >= rows_wanted and self._seconds_by_table <= _MOST_BATCHES * self._seconds_by_search

    @property
    def method(self) -> str:
        """In a few words."""
        if self.has_table:
            return "interpolation of a convex function between certified nodes"
        return f"branch and bound, about {self.forecast.evaluations:.2g} cubes a row"

    @property
    def seconds(self) -> float:
        """Predicted for the rows expected."""
        return _SECONDS_TO_OPEN + (self._seconds_by_table if self.has_table else self._seconds_by_search)

    @property
    def _seconds_by_search(self) -> float:
        rows = self.problem.rows
        calls = math.ceil(rows / self.searched)
        return calls * _SECONDS_PER_SEARCH + rows * self.forecast.evaluations * _SECONDS_PER_CUBE

    @cached_property
    def _seconds_by_table(self) -> float:
        """Infinite where nodes would take too much work; k is 1 or 2."""
        rows, k = self.problem.rows, self.problem.dimension
        nodes = replace(self.forecast, tolerance=NODE_SHARE * self.forecast.tolerance).evaluations
        if nodes > MOST_EVALUATIONS:
            return math.inf
        spacing = spacings(k, self.problem.weight, self.problem.tolerance)[0]
        count = min(2.0**k * rows, (_WIDTH / spacing) ** k)
        left = _LEFT[k] * self.forecast.evaluations
        return (
            _SECONDS_PER_SEARCH
            + count * nodes * _SECONDS_PER_CUBE
            + rows * (_SECONDS_PER_LOOKUP + left * _SECONDS_PER_CUBE)
        )

    @property
    def searched(self) -> int:
        """Rows searched for together."""
        fitting = int(_SEARCH_CUBES / max(1.0, self.forecast.evaluations))
        return min(max(fitting, _LEAST_SEARCHED), _MOST_SEARCHED)


def _offer(problem: ProxProblem) -> _Offer | str:
    """What the grid offers, or why it does not."""
    nonlinear, k = problem.nonlinear, problem.dimension
    if problem.device not in ("auto", "cpu"):
        return f"it runs on the CPU alone, not on {problem.device}"
    if problem.displacement is not None:
        return "it searches under half the squared distance alone"
    if k > _LARGEST_DIMENSION:
        return f"it searches up to {_LARGEST_DIMENSION} dimensions, and k = {k}"
    if not math.isfinite(nonlinear.lipschitz):
        return "no Lipschitz constant of f is known, and so not how far to search"
    if not is_defined_everywhere(nonlinear):
        return "f is not proved finite everywhere"
    if split(nonlinear).curved:
        return "f has quadratic summands, which have a Lipschitz constant on boxes alone"
    forecast = Forecast(majorants_of(nonlinear), problem.weight, problem.tolerance)
    if forecast.evaluations > MOST_EVALUATIONS:
        feasible = forecast.feasible_tolerance
        way_out = "no tolerance would do" if feasible is None else f"tolerance={feasible:g} would do"
        return (
            f"its search would take about {forecast.evaluations:.1g} evaluations a row at the tolerance "
            f"{problem.tolerance:g}, more than {MOST_EVALUATIONS:.0g}; {way_out}"
        )
    return _Offer(problem, forecast)


@dataclass(frozen=True, eq=False)
class _Opened:
    """What a session answers at present.

    Arguments:
        offer: the problem.
        versions: of the parameters in f, when it was taken apart.
        search: searches for a few rows.
        table: looks rows up; None where all are searched for.
    """

    offer: _Offer
    versions: tuple[int, ...]
    search: Callable[[Floats, float], Found]
    table: Table | None

    @staticmethod
    def of(offer: _Offer) -> _Opened:
        """Prepare a problem."""
        problem, majorants = offer.problem, offer.forecast.majorants
        # Of a constant f, whose cubes would have no side, any reach is one.
        reach = majorants.steepness / problem.weight or 1.0

        def value(points: Floats) -> Floats:
            return np.asarray(problem.nonlinear.value(points), dtype=np.float64).reshape(len(points))

        search = Search(CellTree(majorants, problem.weight, reach), value, problem.weight, reach)
        step = offer.searched

        def run(points: Floats, tolerance: float) -> Found:
            parts = [points[first : first + step] for first in range(0, len(points), step)]
            return Found.joined([search.run(part, tolerance) for part in parts or [points]])

        table = Table(run, value, problem.dimension, problem.weight, problem.tolerance) if offer.has_table else None
        return _Opened(offer, versions_of(problem.nonlinear.parameters()), run, table)

    @property
    def is_current(self) -> bool:
        """Whether the parameters are what they were."""
        return self.versions == versions_of(self.offer.problem.nonlinear.parameters())


class GridSession:
    """A global search opened on one problem, for any number of batches, that follows λ and the parameters of f.

    The bounds of f on cubes, and the nodes of its table, are kept from batch to batch; a row's answer depends on that
    row alone.
    """

    def __init__(self, offer: _Offer) -> None:
        self._opened = _Opened.of(offer)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, in any memory order.

        Raises:
            ParameterError: two points contradict the Lipschitz constant that the user declared.
            NonFiniteError: the user's function returned a NaN or an infinity.
        """
        if not self._opened.is_current:
            problem = self._opened.offer.problem
            offer = _offer(problem)
            if isinstance(offer, str):
                raise ValueError(f"The grid backend refuses this problem: {offer}.")
            self._opened = _Opened.of(offer)
        points = np.ascontiguousarray(points, dtype=np.float64)
        # Rows that are no points are answered as if they lay at 0, without a bound.
        lost = np.asarray(~np.isfinite(points).all(axis=1))
        if lost.any():
            points = np.where(lost[:, None], 0.0, points)
        count = len(points)
        step = _LOOKUP_ROWS if self._opened.table is not None else self._opened.offer.searched
        parts = []
        for first in range(0, count, step):
            # Rows beyond float64 end as rows without a bound.
            with np.errstate(over="ignore", invalid="ignore"):
                parts.append(self._solve_part(points[first : first + step]))
            if progress is not None:
                progress("grid", min(first + step, count), count)
        if not parts:
            parts.append(self._solve_part(points))
        solution = _joined(parts)
        if lost.any():
            solution.gap[lost], solution.unfinished[lost] = np.inf, True
        return solution

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on.

        Returns:
            True; False where the problem is one that the backend refuses.
        """
        offer = _offer(problem)
        if isinstance(offer, str):
            return False
        self._opened = _Opened.of(offer)
        return True

    def _solve_part(self, points: Floats) -> ProxSolution:
        tolerance = self._opened.offer.problem.tolerance
        if self._opened.table is None:
            return _solution(self._opened.search(points, tolerance))
        found = self._opened.table.look_up(points)
        left = np.flatnonzero(~found.certified)
        unfinished = np.zeros(len(points), dtype=np.bool_)
        if left.size:
            searched = self._opened.search(points[left], tolerance)
            for mine, other in (
                (found.maximiser, searched.maximiser),
                (found.value, searched.value),
                (found.gap, searched.gap),
                (found.tied, searched.tied),
                (unfinished, searched.unfinished),
            ):
                mine[left] = other
            found.evaluations[left] += searched.evaluations
        return ProxSolution(
            found.maximiser,
            found.gap,
            unfinished,
            value=found.value,
            tied=found.tied,
            evaluations=found.evaluations,
        )


def _solution(found: Found) -> ProxSolution:
    return ProxSolution(
        found.maximiser,
        found.gap,
        found.unfinished,
        value=found.value,
        tied=found.tied,
        evaluations=found.evaluations,
    )


def _joined(parts: list[ProxSolution]) -> ProxSolution:
    if len(parts) == 1:
        return parts[0]
    names = ("maximiser", "gap", "unfinished", "value", "tied", "evaluations")
    return ProxSolution(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
