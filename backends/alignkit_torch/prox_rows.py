"""Rows of a proximal form on a device, the linear systems they share, and how rows leave a batch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from alignkit.transport.canonical import ProximalForm

__all__ = ["Answer", "FormOnDevice", "NormalMatrix", "Rows", "form_on_device", "keep"]

_EPS = float(np.finfo(np.float64).eps)
#: Largest table of outer products of the rows of B, in entries (128 MB).
_LARGEST_TABLE = 2**24


@dataclass(frozen=True, eq=False)
class Rows:
    """min_y (κ/2)‖y − u‖² + φ(By + b) for each row.

    Arguments:
        centres: u, (n, k).
        strength: κ, (n, 1), positive.
        level: (n,): the reward's objective of a row is its level less the minimum.
        tolerance: the largest relative gap wanted.
    """

    centres: torch.Tensor
    strength: torch.Tensor
    level: torch.Tensor
    tolerance: float

    def target(self, minimum: torch.Tensor, ambition: float) -> torch.Tensor:
        """The gap at which a row is done, a part of what was asked for, given about its minimum; (n,)."""
        return ambition * self.tolerance * (self.level - minimum).abs().clamp(min=1.0)

    def take(self, chosen: torch.Tensor) -> Rows:
        """Some of the rows."""
        return replace(self, centres=self.centres[chosen], strength=self.strength[chosen], level=self.level[chosen])

    def proximity(self, solutions: torch.Tensor) -> torch.Tensor:
        """(κ/2)‖y − u‖², (n,)."""
        return 0.5 * self.strength.squeeze(1) * (solutions - self.centres).square().sum(dim=1)


@dataclass(frozen=True, eq=False)
class Answer:
    """What an engine answers to rows, on its device.

    Arguments:
        maximiser: z, (n, k).
        gap: (n,), in units of reward.
        unfinished: (n,).
        value: f(z), (n,), where it is known.
    """

    maximiser: torch.Tensor
    gap: torch.Tensor
    unfinished: torch.Tensor
    value: torch.Tensor | None = None


_State = TypeVar("_State")


def keep(state: _State, chosen: torch.Tensor) -> _State:
    """Some rows of a dataclass of tensors, `Rows` and None."""
    values: dict[str, Any] = {}
    for field in fields(state):  # type: ignore[arg-type]
        value = getattr(state, field.name)
        if value is not None:
            value = value.take(chosen) if isinstance(value, Rows) else value[chosen]
        values[field.name] = value
    return type(state)(**values)


class NormalMatrix:
    """κI + BᵀDB − Σ_j vⱼvⱼᵀ, (n, k, k), for rows that share B.

    Arguments:
        matrix: B, (m, k).
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        count, dimension = matrix.shape
        self.table = None
        if count * dimension**2 <= _LARGEST_TABLE:
            self.table = (matrix[:, :, None] * matrix[:, None, :]).reshape(count, dimension**2)

    @property
    def row_bytes(self) -> int:
        """What a row takes while its system is formed and factorised."""
        count, dimension = self.matrix.shape
        return 8 * (3 * dimension**2 + (0 if self.table is not None else count * dimension))

    def factor(
        self, strength: torch.Tensor, diagonal: torch.Tensor, vectors: tuple[torch.Tensor, ...] = ()
    ) -> torch.Tensor:
        """The Cholesky factors of κI + BᵀDB − Σ_j vⱼvⱼᵀ.

        Arguments:
            strength: κ, (n, 1).
            diagonal: D, (n, m), nonnegative.
            vectors: the vⱼ, (n, k) each.
        """
        count, dimension = len(diagonal), self.matrix.shape[1]
        if self.table is not None:
            system = (diagonal @ self.table).reshape(count, dimension, dimension)
        else:
            system = (self.matrix.T * diagonal[:, None, :]) @ self.matrix
        places = torch.diagonal(system, dim1=1, dim2=2)
        # What rounding may take off the smallest eigenvalue.
        ridge = 4.0 * _EPS * places.sum(dim=1, keepdim=True)
        for vector in vectors:
            system.baddbmm_(vector[:, :, None], vector[:, None, :], alpha=-1.0)
        places += strength + ridge
        factors: torch.Tensor
        factors, failed = torch.linalg.cholesky_ex(system)
        # An accelerator would wait for the answer longer than the copy takes.
        if failed.device.type == "cpu" and not bool(failed.any()):
            return factors
        steep = (places.sum(dim=1).clamp(min=0.0) + strength.squeeze(1)).sqrt()
        fallback = torch.diag_embed(steep[:, None].expand(count, dimension))
        return torch.where((failed > 0)[:, None, None], fallback, factors)

    @staticmethod
    def solve(factors: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Solutions of the factorised systems for right sides (n, k)."""
        return torch.cholesky_solve(right[:, :, None], factors).squeeze(2)


@dataclass(frozen=True, eq=False)
class FormOnDevice:
    """What solvers and certificates need of a form, on a device.

    Arguments:
        matrix: B, (m, k).
        offset: b, (m,).
        row_norms: ‖B_i‖, (m,).
        norm: a bound of ‖B‖.
        size: ‖B‖_F, which bounds ‖|B|‖.
        unit: a bound of the relative rounding of what is computed with B, u and b.
    """

    matrix: torch.Tensor
    offset: torch.Tensor
    row_norms: torch.Tensor
    norm: float
    size: float
    unit: float


def form_on_device(form: ProximalForm, device: torch.device) -> FormOnDevice:
    """Move a form to a device."""
    matrix = form.matrix
    size = float(np.linalg.norm(matrix))
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    largest = float(np.linalg.eigvalsh(gram)[-1]) if matrix.size else 0.0
    norm = np.sqrt(max(largest, 0.0)) * (1.0 + 1e-8)
    condition = 1.0 if form.factor is None else float(np.linalg.cond(form.factor))
    unit = _EPS * (sum(matrix.shape) + 16) * condition
    return FormOnDevice(
        torch.tensor(matrix, device=device),
        torch.tensor(form.offset, device=device),
        torch.tensor(np.linalg.norm(matrix, axis=1), device=device),
        float(norm),
        size,
        unit,
    )
