"""The proximal solver by global optimisation: what it offers, and how it is opened."""

from __future__ import annotations

from alignkit.citations import Citation
from alignkit.contracts import Bid, Guarantee, ProxProblem, ProxSession, Refusal
from alignkit.errors import ParameterError
from alignkit.registry import is_importable
from alignkit_pyomo.preparation import Prepared, prepare
from alignkit_pyomo.program import Unsupported
from alignkit_pyomo.session import PyomoSession
from alignkit_pyomo.sizing import seconds, seconds_per_row

__all__ = ["PyomoProxSolver"]

_SCIP = Citation(
    key="bestuzheva_2023",
    title="Global optimization of mixed-integer nonlinear programs with SCIP 8",
    year=2023,
    authors=("K. Bestuzheva", "A. Chmiela", "B. Müller", "F. Serrano", "S. Vigerske", "F. Wegscheider"),
    arxiv="2301.00587",
)
_HIGHS = Citation(
    key="huangfu_hall_2018",
    title="Parallelizing the dual revised simplex method",
    year=2018,
    authors=("Q. Huangfu", "J. A. J. Hall"),
    venue="Mathematical Programming Computation 10(1), 119–142",
    kind="article",
)
#: Predictions are right up to a factor of three where rows come to an end, and many rows take less than their mean:
#: what is predicted to miss its time limit by more than this is refused.
_OVERRUN = 10.0


class PyomoProxSolver:
    """Proximal maps of algebraic, piecewise linear and mixed rewards, to global optimality with a bound for every row.

    Under half the squared distance every row is a nonconvex program for SCIP, in k dimensions; under the ℓ1 and the ℓ∞
    distance piecewise linear rewards are mixed-integer linear programs for HiGHS, and others are for SCIP. The gap of a
    row is the solver's bound less alignkit's own objective at what it found, in float64. A row that misses its time
    limit keeps both, and counts as unfinished.

    Arguments:
        seconds_per_row: the time limit of a row.
        workers: how many processes share the rows; None for as many as the cores and the rows are worth. The answers
            do not depend on it, unless a time limit is met.

    Raises:
        ParameterError: an argument is not positive.

    Example:
        ```python
        session = PyomoProxSolver().open(ProxProblem(ak.sum(ak.sin(3 * w)), weight=1.0, dimension=2, rows=100))
        solution = session.solve(points)
        solution.gap.max()
        ```
    """

    name = "pyomo"
    takes_displacements = True

    def __init__(self, *, seconds_per_row: float = 10.0, workers: int | None = None) -> None:
        if not seconds_per_row > 0:
            raise ParameterError(f"PyomoProxSolver(seconds_per_row) takes a positive number, not {seconds_per_row!r}.")
        if workers is not None and not workers >= 1:
            raise ParameterError(f"PyomoProxSolver(workers) takes a whole number of at least 1, not {workers!r}.")
        self._seconds, self._workers = seconds_per_row, workers

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a certified global solve, or say what has no algebraic form, no bound or no end."""
        try:
            prepared = self._prepared(problem)
        except Unsupported as obstacle:
            return Refusal(self.name, str(obstacle))
        solver, paper = ("HiGHS", _HIGHS) if prepared.is_linear else ("SCIP", _SCIP)
        predicted = seconds(prepared, problem.rows, self._workers)
        return Bid(self.name, f"{solver}, row by row", Guarantee.CERTIFIED, predicted, citations=(paper,))

    def open(self, problem: ProxProblem) -> ProxSession:
        """Write the reward as a program; each row is a model of it.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        try:
            prepared = self._prepared(problem)
        except Unsupported as obstacle:
            raise ValueError(f"The pyomo backend refuses this problem: {obstacle}") from obstacle
        return PyomoSession(prepared, seconds=self._seconds, workers=self._workers)

    def _prepared(self, problem: ProxProblem) -> Prepared:
        if problem.device not in ("auto", "cpu"):
            raise Unsupported(f"it runs on the CPU alone, not on {problem.device}")
        prepared = prepare(problem)
        engine = "highspy" if prepared.is_linear else "pyscipopt"
        if not is_importable(engine):
            raise Unsupported(f"it needs {engine} for this reward: pip install {engine}")
        predicted = seconds_per_row(prepared)
        if predicted > _OVERRUN * self._seconds:
            raise Unsupported(
                f"a row would take about {predicted:.3g} seconds, far beyond its limit of {self._seconds:.3g}: it has "
                f"k = {problem.dimension}, {prepared.curves} nonconvex curves and {prepared.choices} binary variables"
            )
        return prepared
