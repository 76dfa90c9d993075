"""The convex blocks with kinks of a proximal form on a torch device: support functions of a box and of a simplex."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from alignkit.transport.canonical import Absolute, ProximalForm, TopOf

__all__ = ["KinkedBlock", "kinked_block"]


class KinkedBlock(ABC):
    """φ(a) = max {⟨p, a⟩: p ∈ P}, a support function with polyhedral P.

    A state of the interior-point method holds p and slacks, stacked as (n, parts, m), and their multipliers.
    """

    #: The sum of the dual entries, where P fixes it.
    total: float | None

    @abstractmethod
    def value(self, entries: torch.Tensor) -> torch.Tensor:
        """φ, (n,)."""

    @abstractmethod
    def gap(self, entries: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
        """φ(a) + φ*(p) − ⟨p, a⟩ for p in P, (n,), as a sum of what is nonnegative."""

    @abstractmethod
    def gap_error(self, entries: torch.Tensor, dual: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        """How far `gap` may be off where the entries are off by at most `entry_error`, (n, m); (n,)."""

    @abstractmethod
    def project(self, dual: torch.Tensor) -> torch.Tensor:
        """Points of P, near where the arguments are; (n, m)."""

    @abstractmethod
    def nearest(self, dual: torch.Tensor) -> torch.Tensor:
        """The nearest points of P, (n, m)."""

    @abstractmethod
    def reach(self, row_norms: torch.Tensor) -> torch.Tensor:
        """How far an entry moves while p crosses P, about, for κ = 1; a scalar."""

    @abstractmethod
    def middle(self, rows: int) -> torch.Tensor:
        """A point inside P for each row, (rows, m)."""

    @abstractmethod
    def slacks(self, dual: torch.Tensor) -> torch.Tensor:
        """The distances of p to the sides of P, (n, sides, m)."""

    @abstractmethod
    def multipliers(self, entries: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        """Positive multipliers of the sides, for which a is stationary, (n, sides, m).

        Arguments:
            entries: a, (n, m).
            reach: how far entries move while p crosses P, about, (n, 1).
        """

    @abstractmethod
    def mismatch(self, entries: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        """a less what the multipliers make of it, up to a number a row where `total` is fixed; (n, m)."""

    @property
    @abstractmethod
    def signs(self) -> torch.Tensor:
        """How each slack changes with p, (1, sides, 1)."""

    @abstractmethod
    def active(self, entries: torch.Tensor, slacks: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        """The entries taken to lie on a kink, (n, m)."""

    @abstractmethod
    def corner(self, entries: torch.Tensor, dual: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """p with the entries that are not active at the bounds where they belong, (n, m)."""


class _Box(KinkedBlock):
    """Σ wᵢ|aᵢ|."""

    total = None

    def __init__(self, block: Absolute, device: torch.device) -> None:
        self.weights = torch.tensor(block.weights, device=device)
        self._signs = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=device)[None, :, None]

    @property
    def signs(self) -> torch.Tensor:
        return self._signs

    def value(self, entries: torch.Tensor) -> torch.Tensor:
        return entries.abs() @ self.weights

    def gap(self, entries: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
        return (self.weights * entries.abs() - dual * entries).sum(dim=1)

    def gap_error(self, entries: torch.Tensor, dual: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        # On one side of its kink an entry counts with w ∓ p, which is 0 at the bound.
        slope = torch.where(
            entries.abs() > entry_error, self.weights - dual * entries.sign(), self.weights + dual.abs()
        )
        return (slope * entry_error).sum(dim=1)

    def project(self, dual: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(dual, -self.weights), self.weights)

    nearest = project

    def reach(self, row_norms: torch.Tensor) -> torch.Tensor:
        return (row_norms.square() * self.weights).mean()

    def middle(self, rows: int) -> torch.Tensor:
        return self.weights.new_zeros((rows, len(self.weights)))

    def slacks(self, dual: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.weights - dual, self.weights + dual], dim=1)

    def multipliers(self, entries: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        size = entries.abs()
        lift = size.mean(dim=1, keepdim=True) + reach + _tiny(size)
        root = (entries.square() + 4.0 * lift.square()).sqrt()
        large = 0.5 * (size + root)
        small = lift.square() / large
        up = entries > 0.0
        return torch.stack([torch.where(up, large, small), torch.where(up, small, large)], dim=1)

    def mismatch(self, entries: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        return entries - (multipliers[:, 0] - multipliers[:, 1])

    def active(self, entries: torch.Tensor, slacks: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        # On a kink both slacks stay and both multipliers vanish.
        share = slacks.amin(dim=1) / self.weights
        lift = multipliers.amax(dim=1)
        return share * lift.amax(dim=1, keepdim=True) > lift

    def corner(self, entries: torch.Tensor, dual: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        return torch.where(active, dual, torch.copysign(self.weights.expand_as(dual), dual))


class _Simplex(KinkedBlock):
    """w·max aᵢ."""

    def __init__(self, block: TopOf, count: int, device: torch.device) -> None:
        self.weight, self.count = block.weight, count
        self.total = block.weight
        self._signs = torch.ones((1, 1, 1), dtype=torch.float64, device=device)

    @property
    def signs(self) -> torch.Tensor:
        return self._signs

    def value(self, entries: torch.Tensor) -> torch.Tensor:
        return self.weight * entries.amax(dim=1)

    def gap(self, entries: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
        return ((entries.amax(dim=1, keepdim=True) - entries) * dual).sum(dim=1)

    def gap_error(self, entries: torch.Tensor, dual: torch.Tensor, entry_error: torch.Tensor) -> torch.Tensor:
        return 2.0 * self.weight * entry_error.amax(dim=1)

    def project(self, dual: torch.Tensor) -> torch.Tensor:
        inside = dual.clamp(min=0.0)
        return inside * (self.weight / inside.sum(dim=1, keepdim=True))

    def nearest(self, dual: torch.Tensor) -> torch.Tensor:
        # Sort, and lower by the level at which what is left adds up to the weight.
        falling = dual.sort(dim=1, descending=True).values
        excess = falling.cumsum(dim=1) - self.weight
        counts = torch.arange(1, self.count + 1, dtype=dual.dtype, device=dual.device)
        last = ((falling * counts > excess).sum(dim=1, keepdim=True) - 1).clamp(min=0)
        level = excess.gather(1, last) / (last + 1.0)
        return (dual - level).clamp(min=0.0)

    def reach(self, row_norms: torch.Tensor) -> torch.Tensor:
        return self.weight * row_norms.square().mean()

    def middle(self, rows: int) -> torch.Tensor:
        return self._signs.new_full((rows, self.count), self.weight / self.count)

    def slacks(self, dual: torch.Tensor) -> torch.Tensor:
        return dual[:, None, :]

    def multipliers(self, entries: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        below = entries.amax(dim=1, keepdim=True) - entries
        return (below + below.mean(dim=1, keepdim=True) + reach + _tiny(entries))[:, None, :]

    def mismatch(self, entries: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        return entries + multipliers[:, 0]

    def active(self, entries: torch.Tensor, slacks: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        share, lift = slacks[:, 0] / self.weight, multipliers[:, 0]
        found = share * lift.amax(dim=1, keepdim=True) > lift
        return found | (share >= share.amax(dim=1, keepdim=True))

    def corner(self, entries: torch.Tensor, dual: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        return torch.where(active, dual, 0.0)


def kinked_block(form: ProximalForm, device: torch.device) -> KinkedBlock:
    """The one block of a form that is not smooth.

    Arguments:
        form: the form.
        device: where to compute.

    Raises:
        ValueError: the form has other blocks.
    """
    match form.blocks:
        case (Absolute() as block,):
            return _Box(block, device)
        case (TopOf() as block,):
            return _Simplex(block, form.sizes[0], device)
    names = ", ".join(type(block).__name__ for block in form.blocks)
    raise ValueError(f"No single block with kinks among {names}.")


def _tiny(entries: torch.Tensor) -> torch.Tensor:
    """A positive number a row that is negligible beside its entries, (n, 1)."""
    return 1e-8 * entries.abs().amax(dim=1, keepdim=True) + 1e-12
