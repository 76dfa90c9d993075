"""Closed-form proximal maps, batched, in float64 on any torch device that has it.

Both carry a bound of their own rounding: the objective f(z) − (λ/2)‖z − v‖² is μ-strongly concave, so that a point at
which some supergradient has norm ρ lies within ρ²/(2μ) of the supremum (Nesterov, "Lectures on convex optimization",
theorem 2.1.10, with the inequality turned to concave functions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.expressions.splitting import Quadratic
from alignkit.transport.pieces import PieceTable
from alignkit.transport.separable import Separable
from alignkit_torch.prox_rows import Answer

__all__ = ["QuadraticProx", "SeparableProx"]

_EPS = float(np.finfo(np.float64).eps)


class _ClosedForm(ABC):
    """What both closed forms share: tensors on the device, and the rows that rounding spoilt."""

    def __init__(self, dimension: int, device: torch.device) -> None:
        self.dimension = dimension
        self.device = device

    @property
    def row_bytes(self) -> int:
        """What a row takes while it is worked on: a dozen temporaries."""
        return 96 * max(1, self.dimension)

    def solve_rows(self, v: torch.Tensor) -> Answer:
        """Solve rows v, (n, k)."""
        z, gap, value = self._solve(v)
        return Answer(z, gap, ~torch.isfinite(gap), value)

    @abstractmethod
    def _solve(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]: ...

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(array, device=self.device)


class QuadraticProx(_ClosedForm):
    """The proximal map of f(z) = ½⟨z, Hz⟩ + ⟨h, z⟩ + c with λI − H ≻ 0: z = (λI − H)⁻¹(λv + h).

    Arguments:
        quadratic: f.
        weight: λ.
        device: where to compute.

    Source: N. Parikh, S. Boyd, "Proximal algorithms", 2014, section 6.1.1.
    """

    def __init__(self, quadratic: Quadratic, weight: float, device: torch.device) -> None:
        super().__init__(len(quadratic.vector), device)
        values, vectors = np.linalg.eigh(quadratic.matrix)
        strength = weight - values
        self.weight = weight
        #: μ, the strong concavity of the objective, less what rounding may have added to it.
        self.strength = float(strength.min()) - 8 * _EPS * self.dimension * (weight + float(np.abs(values).max()))
        self.inverse = self._tensor((vectors / strength) @ vectors.T)
        self.hessian = self._tensor(quadratic.matrix)
        self.vector = self._tensor(quadratic.vector)
        self.constant = quadratic.constant
        # ‖|H|‖ ≤ ‖H‖_F bounds the rounding of Hz, whatever the order of summation.
        self.size = float(np.linalg.norm(quadratic.matrix))
        self.vector_size = float(np.linalg.norm(quadratic.vector))

    def _solve(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        z = torch.addmm(self.inverse @ self.vector, v, self.inverse, alpha=self.weight)
        curved = z @ self.hessian
        value = ((0.5 * curved + self.vector) * z).sum(dim=1) + self.constant
        gradient = (curved + self.vector).sub_(z - v, alpha=self.weight)
        z_size, v_size = torch.linalg.vector_norm(z, dim=1), torch.linalg.vector_norm(v, dim=1)
        rounding = _EPS * (
            (self.dimension + 4) * self.size * z_size + 4 * self.weight * (z_size + v_size) + 4 * self.vector_size
        )
        residual = torch.linalg.vector_norm(gradient, dim=1) + rounding
        return z, residual.square_() / (2 * self.strength), value


class SeparableProx(_ClosedForm):
    """The proximal map of f(z) = Σ_i p_i(z_i), each p_i − (λ/2)z² strictly concave and piecewise quadratic.

    One binary search per entry in a table of pieces solves the problem; see `alignkit.transport.pieces`.

    Arguments:
        separable: f, up to a constant.
        at_origin: f(0).
        weight: λ.
        device: where to compute.
    """

    def __init__(self, separable: Separable, at_origin: float, weight: float, device: torch.device) -> None:
        super().__init__(len(separable.kinks), device)
        table = PieceTable.of(separable, weight)
        self.weight = weight
        self.dropped = (separable.dropped_linear, separable.dropped_quadratic)
        self.strength = table.strength
        self.breaks = self._tensor(table.breaks)
        self.columns = self._tensor(np.ascontiguousarray(np.moveaxis(table.pieces, 2, 0).reshape(8, -1)))
        self.at_origin = at_origin
        self.offsets = torch.arange(self.dimension, device=device)[:, None] * table.pieces.shape[1]

    def _solve(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        rows = v.T.contiguous()
        piece = torch.searchsorted(self.breaks, rows).add_(self.offsets)
        flat = piece.reshape(-1)
        gain, start, low, high, bend, least, most, level = (
            column.index_select(0, flat).reshape(piece.shape) for column in self.columns
        )
        z = torch.addcmul(start, gain, rows).clamp_(low, high)
        pull = (z - rows).mul_(self.weight)
        curve = bend * z
        value = torch.addcmul(level, 0.5 * curve + least, z).sum(dim=0).add_(self.at_origin)
        residual = torch.maximum((least + curve).sub_(pull), pull - (most + curve)).clamp_(min=0.0)
        size = torch.maximum(least.abs(), most.abs())
        residual += 8 * _EPS * (self.weight * (z.abs() + rows.abs()) + curve.abs() + size)
        linear, quadratic = self.dropped
        if not linear and not quadratic:
            return z.T, residual.square_().sum(dim=0).div_(2 * self.strength), value
        # f differs from its pieces by at most ε‖z‖ + η‖z‖² at z, and by ε(‖z‖ + r) + 2η(‖z‖² + r²) a distance r away.
        square = z.square().sum(dim=0)
        steepest = torch.linalg.vector_norm(residual, dim=0) + linear
        gap = steepest.square_() / (2 * self.strength) + 2 * linear * square.sqrt() + 3 * quadratic * square
        # What was dropped counts in f, too.
        return z.T, gap, None
