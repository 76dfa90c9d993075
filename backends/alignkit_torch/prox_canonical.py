"""Proximal maps of every problem with a canonical form, each row with a certificate that covers rounding.

For any y and p, with a = By + b, the reward's objective at y lies below its supremum by at most

    φ(a) + φ*(p) − ⟨p, a⟩ + ‖κ(y − u) + Bᵀp‖²/(2κ)

by Fenchel's inequality, applied to φ and to (κ/2)‖· − u‖² (R. T. Rockafellar, "Convex analysis", 1970, section 31). The
residual is the computed one plus a bound of its rounding; u and κ are those of a row's own λ.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from alignkit.contracts import ProxProblem
from alignkit.expressions.splitting import split
from alignkit.transport.canonical import ProximalForm, value_at_origin
from alignkit_torch.prox_blocks import SmoothSum
from alignkit_torch.prox_dual import DualSolver
from alignkit_torch.prox_kinks import kinked_block
from alignkit_torch.prox_rows import Answer, Rows, form_on_device
from alignkit_torch.prox_smooth import SmoothSolver

__all__ = ["CanonicalProx"]

_EPS = float(np.finfo(np.float64).eps)


class CanonicalProx:
    """The proximal map of a problem in canonical form.

    Arguments:
        problem: what is asked; f is evaluated once, for its constant.
        form: the problem's canonical form.
        device: where to compute.
    """

    def __init__(self, problem: ProxProblem, form: ProximalForm, device: torch.device) -> None:
        self.form, self.tolerance, self.device = form, problem.tolerance, device
        self.dimension = form.dimension
        self.on_device = form_on_device(form, device)
        self.vector = torch.tensor(form.vector, device=device)
        self.vector_size = float(np.linalg.norm(form.vector))
        self.factor = None if form.factor is None else torch.tensor(form.factor, device=device)
        #: The smallest singular value of L.
        self.factor_least = 1.0 if form.factor is None else float(np.linalg.norm(form.factor, ord=-2))
        quadratic = split(problem.nonlinear).quadratic if form.factor is not None else None
        self.hessian = None if quadratic is None else torch.tensor(quadratic.matrix, device=device)
        self.hessian_size = 0.0 if quadratic is None else float(np.linalg.norm(quadratic.matrix))
        self.constant = value_at_origin(problem) + float(form.value(np.zeros((1, form.dimension)))[0])
        self.smooth = SmoothSum(form, device) if form.is_smooth else None
        self.kinked = None if self.smooth is not None else kinked_block(form, device)
        self.solver = self._solver()

    @property
    def row_bytes(self) -> int:
        """What a row takes while it is solved, about."""
        return self.solver.row_bytes

    def solve_rows(self, v: torch.Tensor, weights: torch.Tensor | None = None) -> Answer:
        """Solve rows v, (n, k), with the problem's λ, or with weights, (n,), in place of it."""
        lambdas = v.new_full((len(v), 1), self.form.weight) if weights is None else weights[:, None]
        centres, rounding = self._centres(v, lambdas)
        strength = lambdas / self.form.weight
        level = self.constant + 0.5 * (
            strength.squeeze(1) * centres.square().sum(dim=1) - lambdas.squeeze(1) * v.square().sum(dim=1)
        )
        rows = Rows(centres, strength, level, self.tolerance)
        y, dual = self.solver.solve(rows)
        z = self._maximisers(y)
        value, gap = self._certify(rows, y, dual, z, rounding)
        objective = value - 0.5 * lambdas.squeeze(1) * (z - v).square().sum(dim=1)
        unfinished = ~(gap <= self.tolerance * objective.abs().clamp(min=1.0))
        return Answer(z, gap, unfinished, value)

    def _solver(self) -> SmoothSolver | DualSolver:
        if self.smooth is not None:
            return SmoothSolver(self.on_device, self.smooth)
        assert self.kinked is not None
        return DualSolver(self.on_device, self.kinked)

    def _centres(self, v: torch.Tensor, lambdas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u of rows v, (n, k), and the size of what it is a sum of, (n,)."""
        if self.factor is None:
            root = math.sqrt(self.form.weight)
            shift = root * self.vector / lambdas
            size = root * torch.linalg.vector_norm(v, dim=1) + torch.linalg.vector_norm(shift, dim=1)
            return root * v + shift, size
        right = lambdas * v + self.vector
        centres = torch.linalg.solve_triangular(self.factor, right.T, upper=False).T
        size = (lambdas.squeeze(1) * torch.linalg.vector_norm(v, dim=1) + self.vector_size) / self.factor_least
        return centres.contiguous(), size

    def _maximisers(self, y: torch.Tensor) -> torch.Tensor:
        if self.factor is None:
            return y / math.sqrt(self.form.weight)
        solved: torch.Tensor = torch.linalg.solve_triangular(self.factor.T, y.T, upper=True)
        return solved.T.contiguous()

    def _certify(
        self, rows: Rows, y: torch.Tensor, dual: torch.Tensor, z: torch.Tensor, rounding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """f(z) and the gap, (n,) each."""
        form = self.on_device
        unit, strength = form.unit, rows.strength.squeeze(1)
        entries = torch.addmm(form.offset, y, form.matrix.T)
        y_size = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        entry_error = unit * (y_size * form.row_norms + form.offset.abs())
        if self.smooth is not None:
            value, dual = self.smooth.value_and_gradient(entries)
            gap = self.smooth.gap_error(entries, dual, entry_error)
        else:
            assert self.kinked is not None
            value = self.kinked.value(entries)
            gap = self.kinked.gap(entries, dual) + self.kinked.gap_error(entries, dual, entry_error)
        residual = torch.linalg.vector_norm(rows.strength * (y - rows.centres) + dual @ form.matrix, dim=1)
        dual_size = torch.linalg.vector_norm(dual, dim=1)
        error = unit * (strength * (y_size.squeeze(1) + rounding) + form.size * dual_size)
        gap = gap + (residual + error).square() / (2.0 * strength)
        # What is reported as f(z) was evaluated in float64.
        linear = z @ self.vector
        total = linear - value + self.constant
        z_size = torch.linalg.vector_norm(z, dim=1)
        size = self.vector_size * z_size + value.abs() + abs(self.constant)
        if self.hessian is not None:
            curved = 0.5 * ((z @ self.hessian) * z).sum(dim=1)
            total, size = total + curved, size + self.hessian_size * z_size.square()
        gap = gap + 4.0 * _EPS * size
        return total, torch.where(torch.isfinite(total), gap, torch.inf)
