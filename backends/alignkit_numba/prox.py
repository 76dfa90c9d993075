"""The compiled proximal solver: rewards with a canonical form, each kind of φ by a kernel of its own.

Recognition is numpy's work, so that a bid costs no import of numba.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Bid, Floats, Guarantee, Progress, ProxProblem, ProxSolution, Refusal
from alignkit.expressions.splitting import split
from alignkit.transport.canonical import ProximalForm, Uncanonical, canonical_form
from alignkit_numba.loss import SmoothLoss
from alignkit_numba.solved import Solved

__all__ = ["NumbaProxSolver", "NumbaSession"]

_EPS = float(np.finfo(np.float64).eps)
#: Entries of v solved at a time (2 MB): temporaries stay in a cache, and progress is told often.
_CHUNK_ENTRIES = 2**18

_CONVEX_OPTIMIZATION = Citation(
    key="boyd_vandenberghe_2004",
    title="Convex optimization",
    year=2004,
    authors=("S. Boyd", "L. Vandenberghe"),
    venue="Cambridge University Press, section 9.5",
    kind="misc",
)

#: Measured on one core: seconds to load the compiled kernels, a row's, and a Newton step's, by what it multiplies.
_SECONDS_TO_OPEN = 0.05

_Kernel = Callable[[Floats, Floats, float], Solved]


class NumbaProxSolver:
    """Proximal maps by compiled kernels on one core, eight rows in lanes, with a rigorous gap for every row.

    It takes f whose concave part is a sum of `log_sum_exp huber logistic` of affine arguments, and quadratic summands
    that λ dominates.

    Example:
        ```python
        session = NumbaProxSolver().open(ProxProblem(-ak.log_sum_exp(w), weight=1.0, dimension=3, rows=100))
        session.solve(points).gap
        ```
    """

    name = "numba"

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a compiled kernel, or say which rule excludes the problem."""
        form = _form(problem)
        if isinstance(form, Uncanonical):
            return Refusal(self.name, form.reason)
        loss = SmoothLoss.of(form)
        return Bid(
            self.name,
            "damped Newton along temperatures, rows in lanes",
            Guarantee.CERTIFIED,
            _SECONDS_TO_OPEN + problem.rows * _seconds_per_row(loss),
            citations=(_CONVEX_OPTIMIZATION,),
        )

    def open(self, problem: ProxProblem) -> NumbaSession:
        """Load the kernel from disk, where an earlier run has compiled it, else compile it.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        form = _form(problem)
        if isinstance(form, Uncanonical):
            raise ValueError(f"The numba backend refuses this problem: {form.reason}.")
        session = NumbaSession(_Opened.of(problem, form))
        session.solve(np.empty((0, form.dimension)))
        return session


@dataclass(frozen=True, eq=False)
class _Opened:
    """What a session answers at present.

    Arguments:
        problem: as it was asked.
        form: in canonical form.
        kernel: solves rows of it.
        hessian: H of the quadratic summands; None where there are none.
        constant: f − (½⟨z, Hz⟩ + ⟨h, z⟩ − φ).
        curvature: an upper bound on the curvature of the canonical objective.
        rounding: how far a change of variables moves a row, relative to it.
    """

    problem: ProxProblem
    form: ProximalForm
    kernel: _Kernel
    hessian: Floats | None
    constant: float
    curvature: float
    rounding: float

    @staticmethod
    def of(problem: ProxProblem, form: ProximalForm) -> _Opened:
        """Prepare a problem's kernel."""
        from alignkit_numba.smooth import solve_smooth

        loss = SmoothLoss.of(form)

        def kernel(centres: Floats, scales: Floats, tolerance: float) -> Solved:
            return solve_smooth(loss, centres, scales, tolerance)

        k = form.dimension
        origin = np.zeros((1, k))
        hessian, rounding = None, 4 * _EPS
        if form.factor is not None:
            hessian = split(problem.nonlinear).quadratic.matrix
            rounding = 4 * (k + 1) * _EPS * float(np.linalg.cond(form.factor))
        constant = float(np.asarray(problem.nonlinear.value(origin)).item()) + float(form.value(origin)[0])
        return _Opened(problem, form, kernel, hessian, constant, loss.curvature, rounding)


class NumbaSession:
    """A compiled proximal map, for any number of batches, that follows the parameters of its reward and λ."""

    def __init__(self, opened: _Opened) -> None:
        self._opened = opened

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, in any memory order."""
        return self._solve(points, None, progress)

    def solve_weighted(self, points: Floats, weights: Floats, progress: Progress = None) -> ProxSolution:
        """Solve rows that have a λ each: maximise f(z) − (λ_i/2)‖z − v_i‖².

        Arguments:
            points: v, (n, k).
            weights: λ_i, (n,), positive.
            progress: told how far it is.

        Raises:
            ValueError: f has quadratic summands, whose change of variables is of one λ.
        """
        if self._opened.form.factor is not None:
            raise ValueError("Rows with a weight each need a reward without quadratic summands.")
        return self._solve(points, np.asarray(weights, dtype=np.float64), progress)

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on; nothing that was compiled depends on numbers.

        Returns:
            True; False where the problem is one that the backend refuses.
        """
        form = _form(problem)
        if isinstance(form, Uncanonical):
            return False
        self._opened = _Opened.of(problem, form)
        return True

    def _solve(self, points: Floats, weights: Floats | None, progress: Progress) -> ProxSolution:
        points = np.asarray(points, dtype=np.float64)
        count, k = points.shape
        maximiser, gap, value = np.empty((count, k)), np.empty(count), np.empty(count)
        unfinished = np.empty(count, dtype=np.bool_)
        step = max(1, _CHUNK_ENTRIES // k)
        for first in range(0, max(count, 1), step):
            part = slice(first, min(first + step, count))
            found = self._solve_chunk(points[part], None if weights is None else weights[part])
            maximiser[part], gap[part], unfinished[part] = found.maximiser, found.gap, found.unfinished
            value[part] = found.value
            if progress is not None:
                progress("numba", part.stop, count)
        return ProxSolution(maximiser, gap, unfinished, value)

    def _solve_chunk(self, points: Floats, weights: Floats | None) -> ProxSolution:
        opened, form = self._opened, self._opened.form
        if weights is None:
            scales = np.ones(len(points))
            centres = form.centres(points)
        else:
            # (λᵢ/2)‖z − v‖² − ⟨h, z⟩ + φ is λᵢ/λ times ½‖y − c‖² + (λ/λᵢ)φ, c = √λ(v + h/λᵢ), up to a constant.
            scales = form.weight / weights
            centres = np.sqrt(form.weight) * (points + form.vector / weights[:, None])
        # A point beyond float64 ends as a row without a bound.
        with np.errstate(over="ignore", invalid="ignore"):
            solved = opened.kernel(centres, scales, opened.problem.tolerance)
            maximiser = form.maximisers(solved.solutions)
            value = opened.constant - solved.value + maximiser @ form.vector
            if opened.hessian is not None:
                value += 0.5 * np.einsum("ij,ij->i", maximiser @ opened.hessian, maximiser)
            # For an objective of curvature L a slip δ takes a gap G to at most (√G + √(L/2)·δ)².
            size = np.sqrt(np.einsum("ij,ij->i", centres, centres))
            size += np.sqrt(np.einsum("ij,ij->i", solved.solutions, solved.solutions))
            slip = np.sqrt(0.5 * (1 + scales * opened.curvature)) * (opened.rounding * size)
            gap = (np.sqrt(solved.gap) + slip) ** 2 / scales
        gap = np.where(np.isfinite(gap) & np.isfinite(value), gap, np.inf)
        return ProxSolution(maximiser, gap, solved.unfinished | ~np.isfinite(gap), value)


def _form(problem: ProxProblem) -> ProximalForm | Uncanonical:
    """The canonical form where a kernel takes it, or why none does."""
    if problem.displacement is not None:
        return Uncanonical("its penalty is not the squared distance")
    if problem.device not in ("auto", "cpu"):
        return Uncanonical(f"it runs on the CPU alone, not on {problem.device}")
    form = canonical_form(problem)
    if isinstance(form, Uncanonical):
        return form
    if not form.blocks:
        return Uncanonical("f is quadratic, and needs no iteration")
    if not form.is_smooth:
        return Uncanonical("f has kinks")
    return form


def _seconds_per_row(loss: SmoothLoss) -> float:
    """Newton steps by what each costs; the path has a stage for each factor of the curvature."""
    entries, k = loss.matrix.shape
    stages: float = max(0.0, math.log(max(0.3 * loss.curvature, 1.0)) / math.log(5.0))
    steps = 5.0 + 2.0 * stages
    return float(2e-8 + steps * (1e-8 + 3e-9 * entries + 1e-10 * entries * k * k + 1e-10 * k**3))
