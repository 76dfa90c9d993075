"""Transport by sparse moves, rewards of few affine pieces under the ℓ1 cost, as a session."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution, SparseRows
from alignkit.transport.canonical import Absolute, ProximalForm, TopOf, canonical_form
from alignkit.transport.costs import PNorm
from alignkit_numba.methods import runs_on

__all__ = ["DUAL_SIMPLEX", "PolytopeSession", "SparseForm", "sparse_form"]

DUAL_SIMPLEX = Citation(
    key="fourer_1994",
    title="Notes on the dual simplex method",
    year=1994,
    authors=("R. Fourer",),
    venue="Northwestern University, draft report",
)

#: Up to this many absolute values the vertices are listed, and a row takes the best.
_LISTED = 3


@dataclass(frozen=True, eq=False)
class SparseForm:
    """φ(s + Aδ) − ⟨g, δ⟩ + λ‖δ‖₁ to be minimised, φ weighted absolute values or a multiple of the largest entry.

    Arguments:
        matrix, offset: s = matrix @ v + offset, (m, k) and (m,).
        columns: A, (m, d).
        block: φ.
        linear: g, (d,).
        rows: R of the displacement, (k, d); None for the identity.
        weight: λ.
    """

    matrix: Floats
    offset: Floats
    columns: Floats
    block: Absolute | TopOf
    linear: Floats
    rows: Floats | None
    weight: float

    @property
    def seconds_per_row(self) -> float:
        """Predicted time of a row on one core, measured on Gaussian matrices."""
        count, d = self.columns.shape
        if count <= _LISTED and isinstance(self.block, Absolute):
            return 8e-8 + 1e-8 * count**2
        return float(2.2e-7 * count**1.08 * (1.0 + 8.4e-4 * (d + count) * -(-count // 8) * 8))


def sparse_form(problem: ProxProblem) -> SparseForm | str:
    """Recognise absolute values of affine maps, or the least of affine pieces, under the ℓ1 cost; or say what is amiss.

    Arguments:
        problem: one with a displacement.
    """
    displacement = problem.displacement
    assert displacement is not None
    cost = displacement.cost
    if not (isinstance(cost, PNorm) and cost.p == 1 and cost.power == 1):
        return f"the cost {cost.formula} is neither quadratic nor the ℓ1 distance"
    form = canonical_form(replace(problem, weight=1.0, displacement=None))
    if not isinstance(form, ProximalForm):
        return form.reason
    if form.factor is not None or len(form.blocks) != 1 or not isinstance(form.blocks[0], Absolute | TopOf):
        return "under the ℓ1 cost it takes absolute values of affine maps, or the least of affine pieces, alone"
    block, rows = form.blocks[0], displacement.rows
    columns = form.matrix if rows is None else form.matrix @ rows
    linear = displacement.linear + (form.vector if rows is None else form.vector @ rows)
    if isinstance(block, TopOf) and len(columns) < 2:
        return "under the ℓ1 cost it takes two pieces or more"
    return SparseForm(form.matrix, form.offset, columns, block, linear, rows, problem.weight)


class PolytopeSession:
    """A compiled map of sparse moves, for any number of batches.

    Arguments:
        form: the problem.

    Raises:
        UnboundedTransportError: the reward outgrows the cost.
    """

    is_prompt = True

    def __init__(self, form: SparseForm) -> None:
        self._prepare(form)

    def _prepare(self, form: SparseForm) -> None:
        from alignkit_numba.polytope import absolute_polytope, top_polytope

        self._form, block = form, form.block
        self._seen = None if form.rows is None else np.ascontiguousarray(form.rows.T)
        if isinstance(block, Absolute):
            linear = form.linear if form.linear.any() else None
            self._polytope = absolute_polytope(form.columns, block.weights, form.weight, linear)
        else:
            # What is linear goes to every piece alike.
            self._polytope = top_polytope(form.columns - form.linear / block.weight, block.weight, form.weight)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        from alignkit_numba.polytope import move_seen, solve_over_polytope

        points, form = np.asarray(points, dtype=np.float64), self._form
        maximiser = points.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_over_polytope(self._polytope, points @ form.matrix.T + form.offset)
            moves = SparseRows(found.coordinates, found.amounts)
            if self._seen is None:
                moves.add_to(maximiser)
            else:
                move_seen(maximiser, self._seen, found.coordinates, found.amounts)
        if progress is not None:
            progress("numba", len(points), len(points))
        return ProxSolution(maximiser, found.gap, found.unfinished, displacement=moves)

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        is_of_kind = problem.displacement is not None and runs_on(problem.device)
        form = sparse_form(problem) if is_of_kind else None
        if not isinstance(form, SparseForm):
            return False
        self._prepare(form)
        return True
