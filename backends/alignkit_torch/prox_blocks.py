"""The smooth convex blocks of a proximal form on a torch device, batched: values, gradients, curvatures."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from alignkit.transport.canonical import HuberLoss, LogisticLoss, ProximalForm, SoftMaximum

__all__ = ["SmoothBlock", "SmoothSum"]

_EPS = float(torch.finfo(torch.float64).eps)


class SmoothBlock(ABC):
    """φ of rows a, (n, m), differentiable with piecewise continuous curvature diag(D) − vvᵀ.

    Attributes:
        bend: a bound of its curvature, of diag(D).
        drift: how far τφ(·/τ) may lie from φ, about, relative to τ.
    """

    bend: float
    drift: float

    @abstractmethod
    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """φ, (n,), and φ', (n, m)."""

    @abstractmethod
    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """D of rows a, (n, m)."""

    @abstractmethod
    def gap_error(self, entries: torch.Tensor, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        """A bound of φ(a + δ) + φ*(p) − ⟨p, a + δ⟩ for |δ| ≤ `entry_error` and p = φ'(a) as computed, (n,).

        It is φ(a) + φ*(p) − ⟨p, a⟩, which is of rounding, plus |φ'(a) − p|·|δ| + ½ sup φ''·|δ|².
        """


class _SoftMaximum(SmoothBlock):
    def __init__(self, block: SoftMaximum) -> None:
        self.weight = self.bend = self.drift = block.weight

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        top = entries.amax(dim=1, keepdim=True)
        sizes = torch.exp(entries - top)
        total = sizes.sum(dim=1, keepdim=True)
        return self.weight * (top + total.log()).squeeze(1), sizes.mul_(self.weight / total)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def gap_error(self, entries: torch.Tensor, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        # exp(a − top) rounds like a − top, which is above −745 where it does not vanish; the variance of δ under any
        # distribution is at most the square of its largest entry.
        return 0.5 * self.weight * (entry_error.amax(dim=1) + 800.0 * _EPS).square()


class _HuberLoss(SmoothBlock):
    def __init__(self, block: HuberLoss, device: torch.device) -> None:
        self.weights = torch.tensor(block.weights, device=device)
        self.threshold = block.threshold
        self.bend = 2.0 * float(block.weights.max())
        self.drift = block.threshold**2 * float(block.weights.sum())

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = entries.clamp(-self.threshold, self.threshold)
        return (inner * (2.0 * entries - inner)) @ self.weights, inner.mul_(2.0 * self.weights)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return 2.0 * self.weights * (entries.abs() <= self.threshold)

    def gap_error(self, entries: torch.Tensor, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        rounding = 4.0 * _EPS * (gradient.abs() * (entries.abs() + entry_error)).sum(dim=1)
        return rounding + entry_error.square() @ self.weights


class _LogisticLoss(SmoothBlock):
    def __init__(self, block: LogisticLoss, device: torch.device) -> None:
        self.weights = torch.tensor(block.weights, device=device)
        self.bend = 0.25 * float(block.weights.max())
        self.drift = float(block.weights.sum())

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = torch.nn.functional.softplus(entries, threshold=40.0)
        return loss @ self.weights, torch.sigmoid(entries).mul_(self.weights)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.sigmoid(-entries)

    def gap_error(self, entries: torch.Tensor, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        # Where 1 − s is of rounding itself, its logarithm is above −40.
        rounding = _EPS * (gradient * (160.0 + 4.0 * entry_error)).sum(dim=1)
        return rounding + 0.125 * (entry_error.square() @ self.weights)


class SmoothSum:
    """φ = Σ_j φ_j of a form whose blocks are all smooth, over rows a, (n, m).

    Arguments:
        form: the form.
        device: where to compute.
    """

    def __init__(self, form: ProximalForm, device: torch.device) -> None:
        self.parts: list[tuple[SmoothBlock, slice]] = []
        #: The blocks with a rank-one part in their curvature: their weights and rows.
        self.soft: list[tuple[float, slice]] = []
        for block, rows in form.parts:
            match block:
                case SoftMaximum():
                    self.parts.append((_SoftMaximum(block), rows))
                    self.soft.append((block.weight, rows))
                case HuberLoss():
                    self.parts.append((_HuberLoss(block, device), rows))
                case LogisticLoss():
                    self.parts.append((_LogisticLoss(block, device), rows))
                case _:
                    raise ValueError(f"{type(block).__name__} is not smooth.")
        #: A bound of D, and how far φ_τ may lie from φ, relative to τ.
        self.bend = max((block.bend for block, _ in self.parts), default=0.0)
        self.drift = sum(block.drift for block, _ in self.parts)

    def value_and_gradient(
        self, entries: torch.Tensor, temperature: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """φ, (n,), and φ', (n, m), or those of φ_τ = τφ(·/τ) for τ in `temperature`, (n, 1)."""
        if temperature is not None:
            entries = entries / temperature
        value, gradient = entries.new_zeros(len(entries)), torch.empty_like(entries)
        for block, rows in self.parts:
            part, gradient[:, rows] = block.value_and_gradient(entries[:, rows])
            value += part
        return value if temperature is None else value * temperature.squeeze(1), gradient

    def curvature(
        self, entries: torch.Tensor, gradient: torch.Tensor, temperature: torch.Tensor | None = None
    ) -> torch.Tensor:
        """D of rows a, (n, m): φ'' = diag(D) − Σ_j vⱼvⱼᵀ, vⱼ the gradient of a soft maximum over √(τ·weight)."""
        if temperature is not None:
            entries = entries / temperature
        found = torch.empty_like(entries)
        for block, rows in self.parts:
            found[:, rows] = block.curvature(entries[:, rows], gradient[:, rows])
        return found if temperature is None else found.div_(temperature)

    def gap_error(self, entries: torch.Tensor, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        """A bound of φ(a + δ) + φ*(p) − ⟨p, a + δ⟩ for |δ| ≤ `entry_error` and p = φ'(a) as computed, (n,)."""
        found = entries.new_zeros(len(entries))
        for block, rows in self.parts:
            found += block.gap_error(entries[:, rows], gradient[:, rows], entry_error[:, rows])
        return found
