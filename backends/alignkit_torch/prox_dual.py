"""Proximal maps of forms with kinks, batched: a primal–dual interior-point method on the dual box or simplex.

Σ wᵢ|aᵢ| is the support function of the box |pᵢ| ≤ wᵢ, w·max aᵢ that of the simplex p ≥ 0, Σ pᵢ = w. With
y = u − Bᵀp/κ the conditions of optimality are those of a quadratic program over it, and each step solves one system of
size k, whatever the rank of B. Source: S. Mehrotra, "On the implementation of a primal–dual interior point method",
SIAM J. Optim. 2, 1992; J. Nocedal, S. J. Wright, "Numerical optimization", 2006, section 16.6. A finish on the kinks
found active, by the method of multipliers (ibid., section 17.3), takes the rows to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from alignkit_torch.prox_cost import DIRECT_DIMENSION
from alignkit_torch.prox_gradient import dual_gradients
from alignkit_torch.prox_kinks import KinkedBlock
from alignkit_torch.prox_rows import FormOnDevice, NormalMatrix, Rows, keep

__all__ = ["DualSolver"]

_ITERATIONS = 60
#: What the systems of many dimensions may take at a time.
_LARGE_BYTES = 2**28
#: A row is left to the finish once its gap is below this part of what was asked for.
_AMBITION = 0.1
#: Products of slacks and multipliers add up to at least this part of that.
_LEAST = 0.2
#: How far to the boundary a step goes.
_FRACTION = 0.995
#: The penalty of the finish, relative to κ/‖B‖², and its multiplier steps.
_PENALTY = 1e5
_MULTIPLIER_STEPS = 4


@dataclass(frozen=True, eq=False)
class _State:
    """Rows that are not finished, at an interior point."""

    rows: Rows
    places: torch.Tensor
    y: torch.Tensor
    entries: torch.Tensor
    dual: torch.Tensor
    multipliers: torch.Tensor


class DualSolver:
    """Minimise (κ/2)‖y − u‖² + φ(By + b) over y, for φ a support function.

    Arguments:
        form: B and b.
        block: φ.
    """

    def __init__(self, form: FormOnDevice, block: KinkedBlock) -> None:
        self.form, self.block = form, block
        self.normal = NormalMatrix(form.matrix)
        self.reach = block.reach(form.row_norms)

    @property
    def row_bytes(self) -> int:
        """What a row takes while it is solved, about."""
        count, dimension = self.form.matrix.shape
        vectors = 8 * (40 * count + 10 * dimension)
        return vectors + (self.normal.row_bytes if dimension <= DIRECT_DIMENSION else 0)

    def solve(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The minimisers y, (n, k), and dual points p, (n, m), at which κ(y − u) + Bᵀp all but vanishes."""
        if self.form.matrix.shape[1] <= DIRECT_DIMENSION:
            return self._interior_points(rows)
        dual, done = dual_gradients(self.form, self.block, rows, _AMBITION)
        dual = self.block.project(dual)
        y, _ = self._primal(rows, dual)
        # The systems of those that gradients did not settle are large: as many at a time as fit.
        left = torch.nonzero(~done).squeeze(1)
        for chosen in left.split(max(1, _LARGE_BYTES // self.normal.row_bytes)):
            y[chosen], dual[chosen] = self._interior_points(rows.take(chosen))
        return y, dual

    def _interior_points(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        state = best = self._start(rows)
        best = replace(best, y=best.y.clone(), dual=best.dual.clone(), multipliers=best.multipliers.clone())
        least = torch.full_like(rows.level, torch.inf)
        for iteration in range(_ITERATIONS + 1):
            gap, minimum = self._gap(state)
            target = state.rows.target(minimum, _AMBITION)
            # Rounding may spoil a row late: its best point stays.
            _keep_better(best, least, state, gap)
            chosen = torch.nonzero(gap > target).squeeze(1)
            if len(chosen) == 0 or iteration == _ITERATIONS:
                break
            if len(chosen) < len(gap):
                state, target = keep(state, chosen), target[chosen]
            state = self._advance(state, target)
        return self._finish(best)

    def _primal(self, rows: Rows, dual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y = u − Bᵀp/κ, and a = By + b."""
        y = rows.centres - (dual @ self.form.matrix) / rows.strength
        return y, self._entries(y)

    def _entries(self, y: torch.Tensor) -> torch.Tensor:
        """a = By + b."""
        return torch.addmm(self.form.offset, y, self.form.matrix.T)

    def _residual(self, rows: Rows, y: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
        """κ(y − u) + Bᵀp, (n, k)."""
        return torch.addmm(rows.strength * (y - rows.centres), dual, self.form.matrix)

    def _gap(self, state: _State) -> tuple[torch.Tensor, torch.Tensor]:
        """The gap of y and p, and the value at y, (n,) each."""
        rows = state.rows
        residual = self._residual(rows, state.y, state.dual)
        gap = self.block.gap(state.entries, state.dual) + residual.square().sum(dim=1) / (2.0 * rows.strength[:, 0])
        return gap, rows.proximity(state.y) + self.block.value(state.entries)

    def _start(self, rows: Rows) -> _State:
        dual = self.block.middle(len(rows.centres))
        y, entries = self._primal(rows, dual)
        places = torch.arange(len(y), device=y.device)
        return _State(rows, places, y, entries, dual, self.block.multipliers(entries, self.reach / rows.strength))

    def _advance(self, state: _State, target: torch.Tensor) -> _State:
        """One predictor and corrector step of every row."""
        block = self.block
        slacks, multipliers = block.slacks(state.dual), state.multipliers
        products = slacks * multipliers
        mean = products.mean(dim=(1, 2), keepdim=True)
        weights = 1.0 / (multipliers / slacks).sum(dim=1)
        mismatch = block.mismatch(state.entries, multipliers)
        system = _Linearised(self, state.rows.strength, weights)
        residual = self._residual(state.rows, state.y, state.dual)
        missing = self._missing(state.dual)

        def step(right: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Changes of y, p, the slacks and the multipliers, for which the products change by `right`."""
            moved, change = system.solve(mismatch + (block.signs * right / slacks).sum(dim=1), residual, missing)
            change_slacks = block.signs * change[:, None, :]
            return moved, change, change_slacks, (right - multipliers * change_slacks) / slacks

        _, _, slack_step, multiplier_step = step(-products)
        length = _longest(slacks, slack_step, multipliers, multiplier_step).clamp(max=1.0)
        reached = (slacks + length * slack_step) * (multipliers + length * multiplier_step)
        centring = (reached.mean(dim=(1, 2), keepdim=True) / mean).clamp(0.0, 1.0) ** 3
        # Products below what the target needs would only make the systems worse conditioned.
        aim = torch.maximum(centring * mean, _LEAST * target[:, None, None] / products[0].numel())
        moved, change, slack_step, multiplier_step = step(aim - products - slack_step * multiplier_step)
        length = (_FRACTION * _longest(slacks, slack_step, multipliers, multiplier_step)).clamp(max=1.0)
        # y has steps of its own: rounding in p, which is large next to its bounds, would reach it through ‖B‖².
        y = state.y + length.squeeze(1) * moved
        return replace(
            state,
            y=y,
            entries=self._entries(y),
            dual=state.dual + length.squeeze(1) * change,
            multipliers=multipliers + length * multiplier_step,
        )

    def _missing(self, dual: torch.Tensor) -> torch.Tensor | None:
        return None if self.block.total is None else self.block.total - dual.sum(dim=1, keepdim=True)

    def _finish(self, state: _State) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve for the entries on kinks exactly, the others being at their bounds, where that is better."""
        rows, block = state.rows, self.block
        state = replace(state, dual=block.project(state.dual), entries=self._entries(state.y))
        active = block.active(state.entries, block.slacks(state.dual), state.multipliers)
        dual = block.corner(state.entries, state.dual, active)
        y, entries = self._primal(rows, dual)
        penalty = _PENALTY * rows.strength / max(self.form.norm**2, math.ulp(0.0))
        system = _Linearised(self, rows.strength, penalty * active)
        for _ in range(_MULTIPLIER_STEPS):
            moved, change = system.solve(entries, self._residual(rows, y, dual), self._missing(dual))
            y, dual = y + moved, dual + change
            entries = self._entries(y)
        other = replace(state, y=y, entries=entries, dual=block.project(dual))
        better = (self._gap(other)[0] < self._gap(state)[0])[:, None]
        return torch.where(better, other.y, state.y), torch.where(better, other.dual, state.dual)


def _keep_better(best: _State, least: torch.Tensor, state: _State, gap: torch.Tensor) -> None:
    """Write what `state` improves into the best points of all rows and their gaps, without waiting for the device."""
    at = state.places
    better = gap < least[at]
    for kept, found in ((best.y, state.y), (best.dual, state.dual), (best.multipliers, state.multipliers)):
        kept[at] = torch.where(better.reshape(-1, *[1] * (found.ndim - 1)), found, kept[at])
    least[at] = torch.where(better, gap, least[at])


class _Linearised:
    """Changes Δp = W(BΔy + e − t), κΔy = −r − BᵀΔp, with t such that ΣΔp is what is missing; t = 0 without a total.

    Arguments:
        solver: whose form and block it is.
        strength: κ, (n, 1).
        weights: W, (n, m), nonnegative, and for some entry positive where there is a total.
    """

    def __init__(self, solver: DualSolver, strength: torch.Tensor, weights: torch.Tensor) -> None:
        self.normal, self.weights = solver.normal, weights
        self.matrix = solver.form.matrix
        self.along = weights @ self.matrix
        self.share = weights.sum(dim=1, keepdim=True)
        vectors = () if solver.block.total is None else (self.along / self.share.sqrt(),)
        self.factors = self.normal.factor(strength, weights, vectors)

    def solve(
        self, entries: torch.Tensor, residual: torch.Tensor, missing: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Δy, (n, k), and Δp, (n, m), for e, (n, m), and r, (n, k)."""
        pulls = self.weights * entries
        right = -torch.addmm(residual, pulls, self.matrix)
        if missing is None:
            moved = self.normal.solve(self.factors, right)
            return moved, self.weights * (entries + moved @ self.matrix.T)
        level = (pulls.sum(dim=1, keepdim=True) - missing) / self.share
        moved = self.normal.solve(self.factors, right + level * self.along)
        change = moved @ self.matrix.T
        level = level + (self.weights * change).sum(dim=1, keepdim=True) / self.share
        return moved, self.weights * (entries + change - level)


def _longest(
    slacks: torch.Tensor, slack_step: torch.Tensor, multipliers: torch.Tensor, multiplier_step: torch.Tensor
) -> torch.Tensor:
    """How far each row may go before a slack or a multiplier vanishes, (n, 1, 1)."""
    speed = torch.maximum(
        (-slack_step / slacks).amax(dim=(1, 2), keepdim=True),
        (-multiplier_step / multipliers).amax(dim=(1, 2), keepdim=True),
    )
    return 1.0 / speed.clamp(min=1e-12)
