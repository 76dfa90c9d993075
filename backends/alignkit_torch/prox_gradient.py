"""Proximal maps of forms with kinks in many dimensions: accelerated projected gradients on the dual, with restarts.

The dual of (κ/2)‖y − u‖² + max {⟨p, By + b⟩: p ∈ P} is smooth with constant ‖B‖²/κ, and its steps are products with B.
Source: A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sci. 2, 2009; the
restarts: B. O'Donoghue, E. Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alignkit_torch.prox_kinks import KinkedBlock
from alignkit_torch.prox_rows import FormOnDevice, Rows, keep

__all__ = ["dual_gradients"]

_ITERATIONS = 1000
#: The gap is looked at, and finished rows leave the batch, this often.
_LOOK_EVERY = 20


@dataclass(frozen=True, eq=False)
class _State:
    """Rows that are not finished: the last two dual points in one, its extrapolation, and the momentum's counter."""

    rows: Rows
    places: torch.Tensor
    dual: torch.Tensor
    ahead: torch.Tensor
    momentum: torch.Tensor


def dual_gradients(
    form: FormOnDevice, block: KinkedBlock, rows: Rows, ambition: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dual points of rows, and which of them reached their target.

    Arguments:
        form: B and b.
        block: φ, the support function of P.
        rows: the rows.
        ambition: the part of the tolerance asked for.

    Returns:
        p in P, (n, m), and whether the gap at y = u − Bᵀp/κ is below its target, (n,).
    """
    found = block.middle(len(rows.centres))
    done = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    places = torch.arange(len(found), device=found.device)
    state = _State(rows, places, found.clone(), found.clone(), torch.ones_like(rows.strength))
    smoothness = max(form.norm**2, math.ulp(0.0))
    for iteration in range(_ITERATIONS + 1):
        if iteration % _LOOK_EVERY == 0:
            y = state.rows.centres - (state.dual @ form.matrix) / state.rows.strength
            entries = torch.addmm(form.offset, y, form.matrix.T)
            gap = block.gap(entries, state.dual)
            reached = gap <= state.rows.target(state.rows.proximity(y) + block.value(entries), ambition)
            found[state.places], done[state.places] = state.dual, reached
            chosen = torch.nonzero(~reached).squeeze(1)
            if len(chosen) == 0 or iteration == _ITERATIONS:
                break
            if len(chosen) < len(gap):
                state = keep(state, chosen)
        y = state.rows.centres - (state.ahead @ form.matrix) / state.rows.strength
        entries = torch.addmm(form.offset, y, form.matrix.T)
        dual = block.nearest(state.ahead + (state.rows.strength / smoothness) * entries)
        change = dual - state.dual
        against = ((state.ahead - dual) * change).sum(dim=1, keepdim=True) > 0.0
        momentum = torch.where(against, 1.0, state.momentum)
        following = 0.5 * (1.0 + (1.0 + 4.0 * momentum.square()).sqrt())
        ahead = dual + torch.where(against, 0.0, (momentum - 1.0) / following) * change
        state = _State(state.rows, state.places, dual, ahead, following)
    return found, done
