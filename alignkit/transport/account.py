"""What a transport map achieved for each row: objective, cost, and how far below the best it may lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, ProxSolution, SparseRows
from alignkit.transport.lifting import Lift

__all__ = ["Account", "Transported"]

#: Relative rounding of an objective evaluated in float64.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Transported:
    """Rows moved by a transport map, each with its certificate.

    The certificate is that of the solve in float64; rounding the displacement and y to a narrower dtype comes on top.

    Arguments:
        y: T(x), (n, *shape), the kind, device and dtype of x (float64 for integers); x itself in rows that were kept.
        objective: r(y) − λ c(x, y), (n,), float64, in units of reward.
        gap: an upper bound on how far `objective` lies below its supremum, (n,); infinite without a bound.
        cost: c(x, y), (n,).
        unfinished: (n,), rows whose solver stopped early or whose relative gap misses the tolerance, and rows kept.
        tied: (n,), rows found to have another maximiser as good, up to the gap; the one taken is the same every time.
        evaluations: (n,), how many points or cells of f a global search visited for each row; 0 from other methods.
    """

    y: Any
    objective: Floats
    gap: Floats
    cost: Floats
    unfinished: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    evaluations: NDArray[np.int64]

    @property
    def relative_gap(self) -> Floats:
        """gap / max(1, |objective|), (n,)."""
        bounded = np.isfinite(self.gap) & np.isfinite(self.objective)
        scale = np.where(bounded, np.maximum(1.0, np.abs(self.objective)), 1.0)
        return np.where(bounded, self.gap / scale, np.inf)


class Account:
    """The fields of `Transported` but y, entered part by part.

    Arguments:
        lift: the reduction.
        weight: λ.
        constant: c₀ of the reward.
        rows: n.
    """

    def __init__(self, lift: Lift, weight: float, constant: float, rows: int) -> None:
        self._lift, self._weight, self._constant = lift, weight, constant + lift.constant
        self._objective, self._gap, self._cost = np.empty((3, rows))
        self._unfinished, self._tied = np.zeros((2, rows), dtype=bool)
        self._evaluations = np.zeros(rows, dtype=np.int64)

    def enter_shift(self, part: slice, earned: Floats) -> None:
        """Rows that earn ⟨g, x⟩, (m,), and are shifted, with nothing to solve."""
        self._objective[part] = earned + self._constant
        self._gap[part], self._cost[part] = 0.0, self._lift.shift_cost

    def enter(
        self,
        part: slice,
        earned: Floats,
        answer: ProxSolution,
        step: Floats | SparseRows,
        lost: NDArray[np.int64],
    ) -> None:
        """Rows that were solved.

        Arguments:
            part: which.
            earned: ⟨g, x⟩, (m,).
            answer: of the session.
            step: their displacements in the reduced problem, (m, k).
            lost: those that the session has no point for, which take no step, counted from `part`.
        """
        objective, gap, cost = self._objective[part], self._gap[part], self._cost[part]
        with np.errstate(over="ignore", invalid="ignore"):  # rows beyond float64 end as rows without a bound
            value, moved, penalty = self._amounts(answer, step)
            objective[:] = earned + self._constant + (value - penalty)
            # The bound holds of the exact objective at z; the one reported was evaluated in float64.
            gap[:] = answer.gap + _ROUNDING * (np.abs(objective) + np.abs(penalty))
            objective[lost] = -np.inf
            all_finite = np.isfinite(objective.sum() + gap.sum())
        cost[:] = self._lift.shift_cost + moved
        self._unfinished[part] = answer.unfinished
        if answer.tied is not None:
            self._tied[part] = answer.tied
        if answer.evaluations is not None:
            self._evaluations[part] = answer.evaluations
        if not all_finite:
            gap[~np.isfinite(objective) | np.isnan(gap)] = np.inf
            objective[np.isnan(objective)] = -np.inf

    def enter_kept(self, rows: NDArray[np.int64]) -> None:
        """Rows that were left where they are, whatever was entered for them before."""
        self._objective[rows], self._gap[rows], self._cost[rows] = np.nan, np.inf, 0.0
        self._unfinished[rows], self._tied[rows], self._evaluations[rows] = True, False, 0

    def close(self, y: Any, tolerance: float) -> Transported:
        """The account of the rows y; those whose relative gap misses the tolerance count as unfinished."""
        found = Transported(y, self._objective, self._gap, self._cost, self._unfinished, self._tied, self._evaluations)
        self._unfinished |= ~(found.relative_gap <= tolerance)
        return found

    def _amounts(self, answer: ProxSolution, step: Floats | SparseRows) -> tuple[Floats, Floats, Floats]:
        """f(z), the cost of the step beyond that of the shift, and what the step takes from the objective."""
        assert self._lift.nonlinear is not None
        value = answer.value
        if value is None:
            with np.errstate(all="ignore"):
                value = np.asarray(self._lift.nonlinear.value(answer.maximiser), dtype=np.float64)
            value = np.where(np.isnan(value), -np.inf, value)
        penalty = self._lift.displacement
        if penalty is None:
            assert isinstance(step, np.ndarray)
            squared = 0.5 * np.einsum("nk,nk->n", step, step)
            moved = squared + step @ self._lift.offset if self._lift.has_offset else squared
            return value, moved, self._weight * squared
        if isinstance(step, SparseRows):
            # No cost without a reduction asks which entries move, or minds entries that stay.
            moved = np.asarray(penalty.cost.of_displacement(step.amounts))
            return value, moved, self._weight * moved - (step.amounts * penalty.linear[step.coordinates]).sum(axis=1)
        moved = np.asarray(penalty.cost.of_displacement(step))
        return value, moved, self._weight * moved - step @ penalty.linear
