"""Transport by sparse moves, ℓ1 rewards under the ℓ1 cost, as a session."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution, SparseRows
from alignkit.transport.canonical import Absolute, ProximalForm, canonical_form
from alignkit.transport.costs import PNorm

__all__ = ["PolytopeSession", "SparseForm", "sparse_form"]

#: Rows solved at a time, so that progress is told.
_CHUNK_ROWS = 2**15


@dataclass(frozen=True, eq=False)
class SparseForm:
    """f(w) = constant − Σ_j weights_j·|⟨matrix_j, w⟩ + offset_j| under λ‖δ‖₁, w = v + Rδ.

    Arguments:
        matrix: (m, k).
        offset, weights: (m,).
        constant: in units of reward.
        rows: R, (k, d); None for the identity.
        weight: λ.
    """

    matrix: Floats
    offset: Floats
    weights: Floats
    constant: float
    rows: Floats | None
    weight: float

    @property
    def columns(self) -> Floats:
        """matrix @ R, (m, d)."""
        return self.matrix if self.rows is None else self.matrix @ self.rows


def sparse_form(problem: ProxProblem) -> SparseForm | str:
    """Recognise a sum of absolute values of affine maps, alone, under the ℓ1 cost; or say what is in the way.

    Arguments:
        problem: one with a displacement.
    """
    displacement = problem.displacement
    assert displacement is not None
    cost = displacement.cost
    if not (isinstance(cost, PNorm) and cost.p == 1 and cost.power == 1):
        return f"the cost {cost.formula} is neither quadratic nor the ℓ1 distance"
    if displacement.linear.any():
        return "under the ℓ1 cost it takes rewards without a linear part"
    form = canonical_form(replace(problem, weight=1.0, displacement=None))
    if not isinstance(form, ProximalForm):
        return form.reason
    if form.factor is not None or form.vector.any() or [type(block) for block in form.blocks] != [Absolute]:
        return "under the ℓ1 cost it takes sums of absolute values of affine maps alone"
    block = form.blocks[0]
    assert isinstance(block, Absolute)
    origin = np.zeros((1, form.dimension))
    constant = float(np.asarray(problem.nonlinear.value(origin)).item()) + float(form.value(origin)[0])
    return SparseForm(form.matrix, form.offset, block.weights, constant, displacement.rows, problem.weight)


class PolytopeSession:
    """A compiled map of sparse moves, for any number of batches.

    Arguments:
        form: the problem.
    """

    def __init__(self, form: SparseForm) -> None:
        self._prepare(form)

    def _prepare(self, form: SparseForm) -> None:
        from alignkit_numba.polytope import dual_polytope

        self._form = form
        self._polytope = dual_polytope(form.columns, form.weights, form.weight)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        from alignkit_numba.polytope import solve_over_polytope

        points = np.asarray(points, dtype=np.float64)
        form, count = self._form, len(points)
        width = len(form.weights)
        coordinates, amounts = np.zeros((count, width), dtype=np.int64), np.zeros((count, width))
        maximiser, gap, value = points.copy(), np.empty(count), np.empty(count)
        unfinished = np.empty(count, dtype=np.bool_)
        for first in range(0, max(count, 1), _CHUNK_ROWS):
            part = slice(first, min(first + _CHUNK_ROWS, count))
            with np.errstate(over="ignore", invalid="ignore"):
                found = solve_over_polytope(self._polytope, points[part] @ form.matrix.T + form.offset)
                coordinates[part], amounts[part] = found.coordinates, found.amounts
                if form.rows is None:
                    SparseRows(found.coordinates, found.amounts).add_to(maximiser[part])
                else:
                    for place, amount in zip(found.coordinates.T, found.amounts.T, strict=True):
                        maximiser[part] += amount[:, None] * form.rows.T[place]
                value[part] = form.constant - (found.value - form.weight * np.abs(found.amounts).sum(axis=1))
            gap[part], unfinished[part] = found.gap, found.unfinished
            if progress is not None:
                progress("numba", part.stop, count)
        gap[~np.isfinite(gap) | ~np.isfinite(value)] = np.inf
        return ProxSolution(
            maximiser, gap, unfinished | ~np.isfinite(gap), value, displacement=SparseRows(coordinates, amounts)
        )

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        form = sparse_form(problem) if problem.displacement is not None else ""
        if isinstance(form, str):
            return False
        self._prepare(form)
        return True
