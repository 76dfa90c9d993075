"""The smooth convex blocks of a proximal form on a torch device, batched: values, gradients, curvatures."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from alignkit.transport.canonical import HuberLoss, LogisticLoss, ProximalForm, SoftMaximum

__all__ = ["SmoothBlock", "SmoothSum"]

_EPS = float(torch.finfo(torch.float64).eps)


class SmoothBlock(ABC):
    """φ of rows a, (n, m), differentiable with piecewise continuous curvature diag(D) − vvᵀ.

    `cools` says whether φ_τ(a) = τφ(a/τ) is smoother than φ for τ > 1.
    """

    cools = True

    @abstractmethod
    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """φ, (n,), and φ', (n, m)."""

    @abstractmethod
    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """D of rows a, (n, m)."""

    @abstractmethod
    def gradient_error(self, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        """How far φ' may be off where the entries are off by at most `entry_error`; (n, m) each."""


class _SoftMaximum(SmoothBlock):
    def __init__(self, block: SoftMaximum) -> None:
        self.weight = block.weight

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        top = entries.amax(dim=1, keepdim=True)
        sizes = torch.exp(entries - top)
        total = sizes.sum(dim=1, keepdim=True)
        return self.weight * (top + total.log()).squeeze(1), sizes.mul_(self.weight / total)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def gradient_error(self, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        # ∂log s_i/∂a_j = 1{i = j} − s_j; exp(a − top) rounds like a − top, where s_i is not negligible.
        return gradient * (2.0 * entry_error.amax(dim=1, keepdim=True) + 800.0 * _EPS)


class _HuberLoss(SmoothBlock):
    cools = False

    def __init__(self, block: HuberLoss, device: torch.device) -> None:
        self.weights = torch.tensor(block.weights, device=device)
        self.threshold = block.threshold

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = entries.clamp(-self.threshold, self.threshold)
        return (inner * (2.0 * entries - inner)) @ self.weights, inner.mul_(2.0 * self.weights)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return 2.0 * self.weights * (entries.abs() <= self.threshold)

    def gradient_error(self, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        return 2.0 * self.weights * entry_error + 4.0 * _EPS * gradient.abs()


class _LogisticLoss(SmoothBlock):
    def __init__(self, block: LogisticLoss, device: torch.device) -> None:
        self.weights = torch.tensor(block.weights, device=device)

    def value_and_gradient(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = torch.nn.functional.softplus(entries, threshold=40.0)
        return loss @ self.weights, torch.sigmoid(entries).mul_(self.weights)

    def curvature(self, entries: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.sigmoid(-entries)

    def gradient_error(self, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        return gradient * (entry_error + 800.0 * _EPS)


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
        #: How much φ' varies over the blocks that are smoother at a higher temperature.
        self.variation = 0.0
        for block, rows in form.parts:
            match block:
                case SoftMaximum():
                    self.parts.append((_SoftMaximum(block), rows))
                    self.soft.append((block.weight, rows))
                    self.variation += block.weight
                case HuberLoss():
                    self.parts.append((_HuberLoss(block, device), rows))
                case LogisticLoss():
                    self.parts.append((_LogisticLoss(block, device), rows))
                    self.variation += float(block.weights.sum())
                case _:
                    raise ValueError(f"{type(block).__name__} is not smooth.")

    def value_and_gradient(
        self, entries: torch.Tensor, temperature: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """φ, (n,), and φ', (n, m), or those of φ_τ for τ in `temperature`, (n, 1)."""
        value, gradient = entries.new_zeros(len(entries)), torch.empty_like(entries)
        for block, rows in self.parts:
            if temperature is None or not block.cools:
                part, gradient[:, rows] = block.value_and_gradient(entries[:, rows])
            else:
                part, gradient[:, rows] = block.value_and_gradient(entries[:, rows] / temperature)
                part = part * temperature.squeeze(1)
            value += part
        return value, gradient

    def curvature(
        self, entries: torch.Tensor, gradient: torch.Tensor, temperature: torch.Tensor | None = None
    ) -> torch.Tensor:
        """D of rows a, (n, m): φ'' = diag(D) − Σ_j vⱼvⱼᵀ, vⱼ the gradient of a soft maximum over √(τ·weight)."""
        found = torch.empty_like(entries)
        for block, rows in self.parts:
            if temperature is None or not block.cools:
                found[:, rows] = block.curvature(entries[:, rows], gradient[:, rows])
            else:
                found[:, rows] = block.curvature(entries[:, rows] / temperature, gradient[:, rows]) / temperature
        return found

    def gradient_error(self, gradient: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        """How far φ' may be off where the entries are off by at most `entry_error`; (n, m) each."""
        found = torch.empty_like(gradient)
        for block, rows in self.parts:
            found[:, rows] = block.gradient_error(gradient[:, rows], entry_error[:, rows])
        return found
