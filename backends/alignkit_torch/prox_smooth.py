"""Proximal maps of smooth forms, batched: Newton's method with a line search on the slope.

The step solves φ''-systems by Cholesky's method for small k, and by conjugate gradients to a forcing tolerance for
large k (R. S. Dembo, S. C. Eisenstat, T. Steihaug, "Inexact Newton methods", SIAM J. Numer. Anal. 19, 1982). The line
search brackets the root of the slope along the step: where φ is all but piecewise linear (small λ), the full step
crosses kinks of which the Hessian at its start knows nothing. Rows that this does not settle go on with
φ_τ = τφ(·/τ), τ falling to 1 as they converge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from alignkit_torch.prox_blocks import SmoothSum
from alignkit_torch.prox_cost import DIRECT_DIMENSION
from alignkit_torch.prox_rows import FormOnDevice, NormalMatrix, Rows, keep

__all__ = ["SmoothSolver"]

_ITERATIONS = 200
#: Rows that are not done after so many steps are heated.
_PATIENCE = 12
#: A temperature is left once the gap is below this part of τ·drift, for this part of it.
_LOOSE = 0.3
_COOLING = 0.25
#: A row leaves the batch once its gap is below this part of what was asked for.
_AMBITION = 1e-2
_SEARCH_STEPS = 24
_CONJUGATE_STEPS = 200


@dataclass(frozen=True, eq=False)
class _State:
    """Rows that are not finished: what stays, and where they are."""

    rows: Rows
    places: torch.Tensor
    y: torch.Tensor
    entries: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    temperature: torch.Tensor | None
    stalled: torch.Tensor


class SmoothSolver:
    """Minimise (κ/2)‖y − u‖² + φ(By + b) over y, for φ smooth.

    Arguments:
        form: B and b.
        blocks: φ.
    """

    def __init__(self, form: FormOnDevice, blocks: SmoothSum) -> None:
        self.form, self.blocks = form, blocks
        direct = form.matrix.shape[1] <= DIRECT_DIMENSION
        self.normal = NormalMatrix(form.matrix) if direct else None
        #: The temperature at which φ_τ bends no more than the penalty, for κ = 1.
        self.heat = blocks.bend * form.norm**2

    @property
    def row_bytes(self) -> int:
        """What a row takes while it is solved, about."""
        count, dimension = self.form.matrix.shape
        return 8 * (12 * count + 10 * dimension) + (self.normal.row_bytes if self.normal is not None else 0)

    def solve(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The minimisers y, (n, k), and φ'(By + b), (n, m)."""
        found = rows.centres.clone()
        state = self._start(rows)
        for iteration in range(_ITERATIONS):
            if iteration == _PATIENCE:
                state = self._heat_up(state)
            residual = state.rows.strength * (state.y - state.rows.centres) + state.gradient @ self.form.matrix
            minimum = state.rows.proximity(state.y) + state.value
            gap = residual.square().sum(dim=1) / (2.0 * state.rows.strength.squeeze(1))
            target = state.rows.target(minimum, _AMBITION)
            going = gap > target
            if state.temperature is not None:
                going |= state.temperature.squeeze(1) > 1.0
                going &= ~state.stalled
            chosen = torch.nonzero(going).squeeze(1)
            if len(chosen) < len(gap):
                found[state.places] = state.y
                state = keep(state, chosen)
                residual, target, gap = residual[chosen], target[chosen], gap[chosen]
            if len(chosen) == 0:
                break
            state = self._advance(state, residual, target)
            if state.temperature is not None:
                state = self._cool(state, gap)
        else:
            found[state.places] = state.y
        entries = torch.addmm(self.form.offset, found, self.form.matrix.T)
        return found, self.blocks.value_and_gradient(entries)[1]

    def _start(self, rows: Rows) -> _State:
        places = torch.arange(len(rows.centres), device=rows.centres.device)
        return self._state_at(rows, places, rows.centres, None, torch.zeros_like(places, dtype=torch.bool))

    def _heat_up(self, state: _State) -> _State:
        """Give each row the temperature at which φ_τ differs from φ by about its gap."""
        strength = state.rows.strength
        residual = strength * (state.y - state.rows.centres) + state.gradient @ self.form.matrix
        gap = residual.square().sum(dim=1, keepdim=True) / (2.0 * strength)
        temperature = torch.minimum(gap / self.blocks.drift, self.heat / strength).clamp(min=1.0)
        return self._state_at(state.rows, state.places, state.y, temperature, torch.zeros_like(state.stalled))

    def _state_at(
        self, rows: Rows, places: torch.Tensor, y: torch.Tensor, temperature: torch.Tensor | None, stalled: torch.Tensor
    ) -> _State:
        entries = torch.addmm(self.form.offset, y, self.form.matrix.T)
        value, gradient = self.blocks.value_and_gradient(entries, temperature)
        return _State(rows, places, y, entries, value, gradient, temperature, stalled)

    def _cool(self, state: _State, gap: torch.Tensor) -> _State:
        """Lower the temperature of the rows that had converged at theirs before the last step."""
        assert state.temperature is not None
        near = (gap[:, None] <= _LOOSE * self.blocks.drift * state.temperature) | state.stalled[:, None]
        stalled = state.stalled & (state.temperature.squeeze(1) <= 1.0)
        temperature = torch.where(near, (_COOLING * state.temperature).clamp(min=1.0), state.temperature)
        value, gradient = self.blocks.value_and_gradient(state.entries, temperature)
        return replace(state, value=value, gradient=gradient, temperature=temperature, stalled=stalled)

    def _advance(self, state: _State, residual: torch.Tensor, target: torch.Tensor) -> _State:
        """One Newton step of every row."""
        step = self._newton_step(state, residual, target)
        along = step @ self.form.matrix.T
        strength = state.rows.strength.squeeze(1)
        start = (residual * step).sum(dim=1)
        bend = strength * step.square().sum(dim=1)
        toward = strength * ((state.y - state.rows.centres) * step).sum(dim=1)
        length = torch.ones_like(start)
        low, high = torch.zeros_like(start), torch.ones_like(start)
        low_slope, high_slope = start, torch.full_like(start, torch.inf)
        settled = torch.zeros_like(state.stalled)
        # Looking makes an accelerator wait, and a needless evaluation costs it little.
        wait = 1 if length.device.type == "cpu" else 4
        for attempt in range(_SEARCH_STEPS):
            entries = state.entries + length[:, None] * along
            value, gradient = self.blocks.value_and_gradient(entries, state.temperature)
            slope = toward + length * bend + (gradient * along).sum(dim=1)
            rise = value - state.value + length * (toward + 0.5 * length * bend)
            # Below zero, convexity makes the step a descent; a little above, the value must say so.
            settled |= torch.where(
                slope <= 0.0, (slope >= 0.5 * start) | (length == 1.0), (slope <= -0.5 * start) & (rise <= 0.0)
            )
            if attempt + 1 == _SEARCH_STEPS or (attempt % wait == 0 and bool(settled.all())):
                break
            over = slope > 0.0
            high, high_slope = torch.where(over, length, high), torch.where(over, slope, high_slope)
            low, low_slope = torch.where(over, low, length), torch.where(over, low_slope, slope)
            # Regula falsi, kept away from the ends, where it stays when the slope jumps.
            part = (low_slope / (low_slope - high_slope)).nan_to_num(0.5).clamp(0.1, 0.9)
            if attempt >= 2:
                # The scale of a step that has only been too long is unknown.
                part = torch.where(low == 0.0, 0.05, part if attempt % 3 else 0.5)
            length = torch.where(settled, length, low + part * (high - low))
        # A row that found no such length takes the longest step known to descend.
        length = torch.where(settled, length, low)
        y = state.y + length[:, None] * step
        return self._state_at(state.rows, state.places, y, state.temperature, state.stalled | ~(length > 0.0))

    def _newton_step(self, state: _State, residual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        diagonal = self.blocks.curvature(state.entries, state.gradient, state.temperature)
        if self.normal is None:
            return self._conjugate_gradients(state, diagonal, residual, target)
        root = 1.0 if state.temperature is None else state.temperature.sqrt()
        vectors = tuple(
            (state.gradient[:, rows] @ self.form.matrix[rows]) / (weight**0.5 * root)
            for weight, rows in self.blocks.soft
        )
        return -self.normal.solve(self.normal.factor(state.rows.strength, diagonal, vectors), residual)

    def _conjugate_gradients(
        self, state: _State, diagonal: torch.Tensor, residual: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """−φ''⁻¹ residual, to a tenth of the residual or better as that falls."""
        matrix, strength = self.form.matrix, state.rows.strength
        heat = 1.0 if state.temperature is None else state.temperature

        def apply(direction: torch.Tensor) -> torch.Tensor:
            entries = direction @ matrix.T
            bent = diagonal * entries
            for weight, rows in self.blocks.soft:
                gradient = state.gradient[:, rows]
                bent[:, rows] -= gradient * ((gradient * entries[:, rows]).sum(dim=1, keepdim=True) / (weight * heat))
            return strength * direction + bent @ matrix

        left = -residual
        step, direction = torch.zeros_like(left), left
        square = left.square().sum(dim=1, keepdim=True)
        scaled = square / (2.0 * strength)
        enough = square * (0.1 * target[:, None] / scaled).clamp(1e-8, 1e-2)
        for attempt in range(_CONJUGATE_STEPS):
            active = square > enough
            if attempt % 8 == 7 and not bool(active.any()):
                break
            image = apply(direction)
            rate = torch.where(active, square / (direction * image).sum(dim=1, keepdim=True), 0.0)
            step = step + rate * direction
            left = left - rate * image
            following = left.square().sum(dim=1, keepdim=True)
            direction = torch.where(active, left + following / square * direction, direction)
            square = torch.where(active, following, square)
        return step
