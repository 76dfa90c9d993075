"""The compiled proximal solver: rewards with a canonical form, each kind of φ by a kernel of its own.

Recognition is numpy's work, so that a bid costs no import of numba.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from alignkit.citations import PROXIMAL_MAPS, Citation
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
from alignkit.expressions.splitting import split
from alignkit.transport.canonical import ProximalForm, Uncanonical, canonical_form, value_at_origin
from alignkit.transport.chains import total_variation_form
from alignkit_numba.chain_session import TAUT_STRING, ChainSession, chain_seconds
from alignkit_numba.closed_form_session import ClosedFormSession
from alignkit_numba.methods import Kernel, method_of, runs_on
from alignkit_numba.polytope_session import DUAL_SIMPLEX, PolytopeSession, sparse_form
from alignkit_numba.quadratic_rewards import dominated_quadratic, quadratic_map, quadratic_seconds
from alignkit_numba.separable_rewards import concave_separable, separable_map, separable_seconds

__all__ = ["NumbaProxSolver", "NumbaSession"]

#: Entries of v solved at a time (256 kB): temporaries stay in a cache, and the allocator hands out their pages again.
_CHUNK_ENTRIES = 2**15
#: Share of the tolerance beyond which a row is not tried again.
_TIGHTEST = 1e-6
#: Measured on one core, once a process has loaded the kernels, which takes it a third of a second.
_SECONDS_TO_OPEN = 1e-3


class NumbaProxSolver:
    """Proximal maps by compiled kernels on one core, rows in lanes, with a rigorous gap for every row.

    It takes quadratics that λ dominates; sums of piecewise quadratics of single coordinates; f whose concave part is a
    sum of `log_sum_exp huber logistic` of affine arguments, or one of `abs norm1 pos neg`, or a single
    `min max minimum maximum norm_inf`, with such quadratics beside it; total variation along a chain of coordinates;
    and under the ℓ1 cost sums of absolute values.

    Example:
        ```python
        session = NumbaProxSolver().open(ProxProblem(-ak.log_sum_exp(w), weight=1.0, dimension=3, rows=100))
        session.solve(points).gap
        ```
    """

    name = "numba"
    takes_displacements = True

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a compiled kernel, or say which rule excludes the problem."""
        offer = _offer(problem)
        if isinstance(offer, Uncanonical):
            return Refusal(self.name, offer.reason)
        seconds = _SECONDS_TO_OPEN + problem.rows * offer.seconds_per_row
        return Bid(self.name, offer.name, offer.guarantee, seconds, citations=offer.citations)

    def open(self, problem: ProxProblem) -> UpdatableProxSession:
        """Load the kernel from disk, where an earlier run has compiled it, else compile it.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        offer = _offer(problem)
        if isinstance(offer, Uncanonical):
            raise ValueError(f"The numba backend refuses this problem: {offer.reason}.")
        session = offer.open()
        session.solve(np.empty((0, problem.dimension)))
        return session


@dataclass(frozen=True)
class _Offer:
    """A way to solve a problem.

    Arguments:
        name: in a few words.
        seconds_per_row: predicted.
        citations: its papers.
        open: makes a session of it.
        guarantee: its class.
    """

    name: str
    seconds_per_row: float
    citations: tuple[Citation, ...]
    open: Callable[[], UpdatableProxSession]
    guarantee: Guarantee = Guarantee.CERTIFIED


def _offer(problem: ProxProblem) -> _Offer | Uncanonical:
    """The way to solve a problem, or why there is none."""
    if not runs_on(problem.device):
        return Uncanonical(f"it runs on the CPU alone, not on {problem.device}")
    if problem.displacement is not None:
        sparse = sparse_form(problem)
        if isinstance(sparse, str):
            return Uncanonical(sparse)
        name = "dual simplex over a polytope that all rows share"
        return _Offer(name, sparse.seconds_per_row, (DUAL_SIMPLEX,), lambda: PolytopeSession(sparse))
    chain = total_variation_form(problem)
    if chain is not None:
        return _Offer("taut string", chain_seconds(chain), (TAUT_STRING,), lambda: ChainSession(chain))
    quadratic = dominated_quadratic(problem)
    if quadratic is not None:
        seconds = quadratic_seconds(problem.dimension)
        session = partial(ClosedFormSession, problem, quadratic, dominated_quadratic, quadratic_map)
        return _Offer("closed form, rows in lanes", seconds, (PROXIMAL_MAPS,), session, Guarantee.EXACT)
    separable = concave_separable(problem)
    if separable is not None:
        seconds, name = separable_seconds(separable), "closed form, coordinate by coordinate"
        session = partial(ClosedFormSession, problem, separable, concave_separable, separable_map)
        return _Offer(name, seconds, (PROXIMAL_MAPS,), session, Guarantee.EXACT)
    form = _form(problem)
    if isinstance(form, Uncanonical):
        return form
    method = method_of(form)
    return _Offer(
        method.name,
        method.seconds_per_row(form),
        method.citations,
        lambda: NumbaSession(_Opened.of(problem, form)),
    )


@dataclass(frozen=True, eq=False)
class _Opened:
    """What a session answers at present.

    Arguments:
        form: the problem in canonical form.
        kernel: solves rows of it.
        begin, settle: those of `accounting`, imported with the engine.
        shift: h/√λ.
        ones: the scales of rows of one λ, as many as are solved at a time.
        weight: λ, (1,).
        hessian: H of the quadratic summands; without rows where there are none.
        constant: f − (½⟨z, Hz⟩ + ⟨h, z⟩ − φ).
        tolerance: the largest relative gap wanted.
    """

    form: ProximalForm
    kernel: Kernel
    begin: Callable[..., None]
    settle: Callable[..., float]
    shift: Floats
    ones: Floats
    weight: Floats
    hessian: Floats
    constant: float
    tolerance: float

    @staticmethod
    def of(problem: ProxProblem, form: ProximalForm) -> _Opened:
        """Prepare a problem's kernel."""
        from alignkit_numba.accounting import begin, settle

        constant = value_at_origin(problem) + float(form.value(np.zeros((1, form.dimension)))[0])
        hessian = np.zeros((0, 0)) if form.factor is None else split(problem.nonlinear).quadratic.matrix
        kernel, weight = method_of(form).prepare(form), np.array([form.weight])
        ones = np.ones(_rows_at_a_time(form.dimension))
        return _Opened(
            form,
            kernel,
            begin,
            settle,
            form.vector / form.root,
            ones,
            weight,
            np.ascontiguousarray(hessian),
            constant,
            problem.tolerance,
        )


class NumbaSession:
    """A compiled proximal map, for any number of batches, that follows the parameters of its reward and λ."""

    is_prompt = True

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
        form = _form(problem) if problem.displacement is None and runs_on(problem.device) else None
        if not isinstance(form, ProximalForm):
            return False
        self._opened = _Opened.of(problem, form)
        return True

    def _solve(self, points: Floats, weights: Floats | None, progress: Progress) -> ProxSolution:
        points = np.asarray(points, dtype=np.float64)
        count, k = points.shape
        step = len(self._opened.ones)
        if count <= step:
            whole = self._solve_chunk(points, weights)
            if progress is not None:
                progress("numba", count, count)
            return whole
        maximiser, gap, value = np.empty((count, k)), np.empty(count), np.empty(count)
        unfinished = np.empty(count, dtype=np.bool_)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            found = self._solve_chunk(points[part], None if weights is None else weights[part])
            maximiser[part], gap[part], unfinished[part] = found.maximiser, found.gap, found.unfinished
            value[part] = found.value
            if progress is not None:
                progress("numba", part.stop, count)
        return ProxSolution(maximiser, gap, unfinished, value)

    def _solve_chunk(self, points: Floats, weights: Floats | None) -> ProxSolution:
        tolerance = self._opened.tolerance
        found, reached = self._solve_to(tolerance, points, weights)
        if reached < 1.0:
            # The kernels know the objective up to a constant of the row only, which the tolerance is relative to.
            missed = np.flatnonzero(found.unfinished)
            tighter = tolerance * max(reached, _TIGHTEST)
            again, _ = self._solve_to(tighter, points[missed], None if weights is None else weights[missed])
            better = again.gap < found.gap[missed]
            chosen = missed[better]
            found.maximiser[chosen], found.gap[chosen] = again.maximiser[better], again.gap[better]
            assert found.value is not None and again.value is not None
            found.value[chosen], found.unfinished[chosen] = again.value[better], again.unfinished[better]
        return found

    def _solve_to(self, tolerance: float, points: Floats, weights: Floats | None) -> tuple[ProxSolution, float]:
        """Ask the kernel for a relative gap, and hold the rows against the session's own; for the rest see `settle`."""
        opened, form = self._opened, self._opened.form
        points = np.ascontiguousarray(points)
        scales, least = opened.ones[: len(points)], 1.0
        if weights is not None:
            scales = form.weight / weights
            least = min(1.0, float(scales.min(initial=1.0)))
        if weights is None and form.factor is None:
            centres, maximiser, root = np.empty_like(points), np.empty_like(points), form.root
            opened.begin(points, root, opened.shift, centres)
            solved = opened.kernel(centres, scales, least, tolerance)
            gap = solved.gap
        else:
            # A point beyond float64 ends as a row without a bound.
            with np.errstate(over="ignore", invalid="ignore"):
                if weights is None:
                    centres = form.centres(points)
                else:
                    # (λᵢ/2)‖z − v‖² − ⟨h, z⟩ + φ is λᵢ/λ times ½‖y − c‖² + (λ/λᵢ)φ, c = √λ(v + h/λᵢ), but for a
                    # constant.
                    centres = form.root * (points + form.vector / weights[:, None])
                centres = np.ascontiguousarray(centres)
                solved = opened.kernel(centres, scales, least, tolerance)
                maximiser, root = np.ascontiguousarray(form.maximisers(solved.solutions)), 0.0
                gap = solved.gap if weights is None else solved.gap / scales
        value, unfinished = solved.value, solved.unfinished
        reached = opened.settle(
            centres,
            solved.solutions,
            scales,
            points,
            maximiser,
            root,
            opened.weight if weights is None else weights,
            opened.constant,
            form.vector,
            opened.hessian,
            opened.tolerance,
            gap,
            value,
            unfinished,
        )
        return ProxSolution(maximiser, gap, unfinished, value), reached


def _rows_at_a_time(dimension: int) -> int:
    return max(1, _CHUNK_ENTRIES // dimension)


def _form(problem: ProxProblem) -> ProximalForm | Uncanonical:
    """The canonical form where a kernel takes it, or why none does."""
    form = canonical_form(problem)
    if isinstance(form, Uncanonical):
        return form
    if not form.blocks:
        return Uncanonical("f is quadratic, and needs no iteration")
    return form
