"""The coordinates in which maximisers move, and what their derivatives there say of x, λ and T(x).

The displacement is δ = shift + Eᵀu, m unknowns u; see `alignkit.transport.derivatives` for the formulas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from alignkit.contracts import Composition, Floats
from alignkit.errors import NotDifferentiableError
from alignkit.expressions.arrays import constant_like
from alignkit.transport.costs import Cost, Euclidean, PNorm, Quadratic
from alignkit.transport.lifting import Lift, lift

__all__ = ["Frame", "Line", "Spread", "frame"]


@dataclass(frozen=True, eq=False)
class Line:
    """Where an expression is evaluated: at base + rowsᵀu, with ⟨linear, u⟩ beside it.

    Arguments:
        base: (n, size of the expression's variable).
        rows: (m, that size); None for the identity.
        linear: (m,).
    """

    base: Floats
    rows: Floats | None
    linear: Floats

    def point(self, u: Any, chosen: Any) -> Any:
        """base + rowsᵀu of some rows, in the library of u."""
        base = constant_like(self.base[chosen], u)
        return base + (u if self.rows is None else u @ constant_like(self.rows, u))


@dataclass(frozen=True, eq=False)
class Spread:
    """Solutions in the coordinates, spread over R^d.

    Arguments:
        s: (n, d), the solution of the whole system.
        x: x̄, (n, d).
        weight: λ̄, summed over rows.
    """

    s: Floats
    x: Floats
    weight: float


class Frame(ABC):
    """The coordinates of one reward under one cost.

    Arguments:
        composition: the reward r.
        weight: λ.
        cost: c.
    """

    def __init__(self, composition: Composition, weight: float, cost: Cost) -> None:
        self.composition, self.weight, self.cost = composition, weight, cost
        self.lift: Lift = lift(composition, weight, cost)

    @cached_property
    def up(self) -> Floats | None:
        """E, (m, d); None for the identity."""
        lifted = self.lift
        if lifted.up is not None or lifted.displacement is not None or lifted.subspace.is_identity:
            return lifted.up
        return np.asarray(lifted.subspace.embed(np.eye(lifted.subspace.dimension)))

    @property
    def unknowns(self) -> int:
        """m."""
        return self.composition.ambient if self.up is None else len(self.up)

    def embedded(self, u: Floats) -> Floats:
        """Eᵀu of rows, (n, m) to (n, d)."""
        return u if self.up is None else u @ self.up

    def pulled(self, rows: Floats) -> Floats:
        """E applied to rows, (n, d) to (n, m)."""
        return rows if self.up is None else rows @ self.up.T

    def points(self, x: Floats, u: Floats) -> Floats:
        """y = x + shift + Eᵀu."""
        return np.asarray(x + self.lift.shift + self.embedded(u))

    def reduced_line(self, x: Floats) -> Line:
        """Where f is evaluated."""
        lifted = self.lift
        down = lifted.subspace.project(x) if lifted.down is None else x @ lifted.down.T
        penalty = lifted.displacement
        if penalty is None:
            return Line(down + lifted.offset, None, np.zeros(self.unknowns))
        return Line(down, None if penalty.rows is None else penalty.rows.T, penalty.linear)

    @abstractmethod
    def whole_line(self, x: Floats) -> Line:
        """Where r itself is evaluated."""

    @abstractmethod
    def coordinates(self, x: Floats, y: Floats) -> Floats:
        """u of rows with y = x + shift + Eᵀu."""

    @abstractmethod
    def penalty(self, u: Any) -> Any:
        """λh in the coordinates, (n, m) to (n,), in the library of u."""

    @abstractmethod
    def spread(self, autodiff: Any, u: Floats, cotangent: Floats, solution: Floats) -> Spread:
        """The solution of the whole system from that in the coordinates.

        Arguments:
            autodiff: see `alignkit.transport.derivatives.Autodiff`.
            u: (n, m).
            cotangent: ȳ, (n, d).
            solution: σ, (n, m).
        """


class QuadraticFrame(Frame):
    """Under ½⟨δ, Mδ⟩: EMEᵀ = I, and u = D(y − x − shift)."""

    cost: Quadratic

    @cached_property
    def down(self) -> Floats | None:
        """D, (m, d); E itself where M = I."""
        return self.up if self.lift.down is None else self.lift.down

    def whole_line(self, x: Floats) -> Line:
        """r at x + shift + Eᵀu, less what g earns along Eᵀu, which the shift has in it."""
        return Line(x + self.lift.shift, self.up, -self.pulled(self.composition.linear[None])[0])

    def coordinates(self, x: Floats, y: Floats) -> Floats:
        """D(y − x − shift)."""
        step = y - x - self.lift.shift
        return step if self.down is None else step @ self.down.T

    def penalty(self, u: Any) -> Any:
        """(λ/2)‖u‖²."""
        return 0.5 * self.weight * array_namespace(u).sum(u * u, axis=1)

    def spread(self, autodiff: Any, u: Floats, cotangent: Floats, solution: Floats) -> Spread:
        """s, ȳ + Dᵀ(λσ − Eȳ), and −⟨s, g/λ + Dᵀu⟩."""
        change = self.weight * solution - self.pulled(cotangent)
        s = (self.cost.divide(cotangent) + self.embedded(change)) / self.weight
        above, force = (change, u) if self.down is None else (change @ self.down, u @ self.down)
        return Spread(s, cotangent + above, -float((s * (self.composition.linear / self.weight + force)).sum()))


class RadialFrame(Frame):
    """Under ‖δ‖^p/p, p > 1: E has orthonormal rows, and δ = Eᵀu."""

    cost: Euclidean

    def whole_line(self, x: Floats) -> Line:
        """r at x + Eᵀu."""
        return Line(x, self.up, np.zeros(self.unknowns))

    def coordinates(self, x: Floats, y: Floats) -> Floats:
        """E(y − x)."""
        return self.pulled(y - x)

    def penalty(self, u: Any) -> Any:
        """λ‖u‖^p/p."""
        return self.weight * self.cost.of_displacement(u)

    def spread(self, autodiff: Any, u: Floats, cotangent: Floats, solution: Floats) -> Spread:
        """∇²h = ‖δ‖^(p−2)·(I + (p − 2)δδᵀ/‖δ‖²) has δ as the only direction of its own."""
        power, length = self.cost.power, np.linalg.norm(u, axis=1, keepdims=True)
        scale = length ** (power - 2)
        step = self.embedded(u)
        s = cotangent / (self.weight * scale)
        s = s + self.embedded(solution - self.pulled(s))
        along = (power - 2) * (step * s).sum(axis=1, keepdims=True) / length**2
        return Spread(s, self.weight * scale * (s + along * step), -float((s * scale * step).sum()))


class WholeFrame(Frame):
    """Under costs without a reduction: u is δ itself."""

    def whole_line(self, x: Floats) -> Line:
        """r at x + u."""
        return Line(x, None, np.zeros(self.unknowns))

    def coordinates(self, x: Floats, y: Floats) -> Floats:
        """y − x."""
        return y - x

    def penalty(self, u: Any) -> Any:
        """λh(u)."""
        return self.weight * self.cost.of_displacement(u)

    def spread(self, autodiff: Any, u: Floats, cotangent: Floats, solution: Floats) -> Spread:
        """s = σ, λ∇²h(δ)s and −⟨s, ∇h(δ)⟩."""
        _, slope, bent = autodiff.curvature(self.cost.of_displacement, u)
        x = self.weight * np.einsum("nij,nj->ni", bent, solution)
        return Spread(solution, x, -float((solution * slope).sum()))


def frame(composition: Composition, weight: float, cost: Cost) -> Frame:
    """The coordinates of a reward under a cost.

    Arguments:
        composition: the reward r.
        weight: λ.
        cost: c.

    Raises:
        NotDifferentiableError: the cost is not smooth, or the map of an affine reward under it is no plain shift.
    """
    if isinstance(cost, Quadratic):
        return QuadraticFrame(composition, weight, cost)
    kind: type[Frame] | None = None
    if isinstance(cost, Euclidean) and cost.power > 1:
        kind = RadialFrame
    elif isinstance(cost, PNorm) and 1 < cost.p < np.inf and cost.power > 1:
        kind = WholeFrame
    if kind is None or composition.nonlinear is None:
        why = "is not smooth" if kind is None else "has derivatives here for rewards that are not affine alone"
        raise NotDifferentiableError(
            f"The cost {cost.formula} {why}, so that the transport map has no derivative here.",
            ways_out=["ak.costs.SquaredEuclidean(), half the squared distance, or another quadratic cost."],
        )
    return kind(composition, weight, cost)
