"""A proximal problem with its optimum: what the published ones are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Displacement, Floats, ProxProblem, ProxSolution, SparseRows
from alignkit.expressions import Expression

__all__ = ["Maximiser", "ProxExample"]

#: From rows v, (n, k), and λ to maximisers z, (n, k), or to displacements δ, (n, m).
Maximiser = Callable[[Floats, float], Floats]

_EPS = float(np.finfo(np.float64).eps)
#: Operations that may each round an objective, about.
_OPERATIONS = 64


@dataclass(frozen=True, eq=False)
class ProxExample:
    """A problem of maximising f(z) − (λ/2)‖z − v‖² over z ∈ R^k, with its rows v and its answer.

    With a `displacement` it is that of maximising f(v + Rδ) + ⟨g, δ⟩ − λ·h(δ) over δ ∈ R^m.

    Arguments:
        name: what reports call it.
        reward: f, an expression of one variable of shape (k,).
        weight: λ > 0.
        points: the rows v, (n, k), float64.
        solve: (v, λ) ↦ a maximiser of every row, z or δ, accurate to rounding; None where the objective is unbounded
            above.
        bend: the least c ≥ 0 for which f − (c/2)‖z‖² is concave; inf where there is none.
        source: where the answer comes from.
        displacement: h, R and g; None for half the squared distance.
        is_tied: v ↦ the rows, (n,), that surely have two maximisers well apart; None where no row surely has.

    Example:
        >>> from alignkit.expressions import Variable, sum_squares
        >>> w = Variable(2)
        >>> halved = lambda v, weight: v * weight / (weight + 1.0)
        >>> example = ProxExample("bowl", -0.5 * sum_squares(w), 1.0, np.ones((1, 2)), halved, 0.0, "by hand")
        >>> example.maximiser, example.supremum
        (array([[0.5, 0.5]]), array([-0.5]))
    """

    name: str
    reward: Expression
    weight: float
    points: Floats
    solve: Maximiser | None
    bend: float
    source: str
    displacement: Displacement | None = None
    is_tied: Callable[[Floats], NDArray[np.bool_]] | None = None

    @property
    def dimension(self) -> int:
        """k."""
        return int(self.points.shape[1])

    @property
    def is_bounded(self) -> bool:
        """Whether there is a maximiser."""
        return self.solve is not None

    @property
    def strength(self) -> float:
        """The objective is μ-strongly concave in z with this μ = λ − bend; 0 where it need not be."""
        return max(self.weight - self.bend, 0.0) if self.displacement is None else 0.0

    def problem(self, *, tolerance: float = 1e-6, device: str = "auto") -> ProxProblem:
        """What a backend is asked.

        Arguments:
            tolerance: the largest relative gap wanted.
            device: as the engine names it.

        Returns:
            the problem of f over (k,), λ and the number of rows.
        """
        return ProxProblem(
            self.reward, self.weight, self.dimension, len(self.points), tolerance, device, self.displacement
        )

    def moved(self, displacement: Floats) -> Floats:
        """z = v + Rδ of each row.

        Arguments:
            displacement: δ, (n, m), a step for each row v.

        Returns:
            (n, k).
        """
        rows = None if self.displacement is None else self.displacement.rows
        return self.points + (displacement if rows is None else displacement @ rows.T)

    def price(self, z: Floats, displacement: Floats | None = None) -> Floats:
        """What a step costs each row: (λ/2)‖z − v‖², or λ·h(δ).

        Arguments:
            z: (n, k), a point for each row v.
            displacement: δ, (n, m), where the penalty is on displacements.

        Returns:
            (n,), in units of reward.
        """
        if self.displacement is None:
            return np.asarray(0.5 * self.weight * np.sum((z - self.points) ** 2, axis=1))
        return np.asarray(self.weight * self.displacement.cost.of_displacement(self._checked(displacement)))

    def objective(self, z: Floats, displacement: Floats | None = None) -> Floats:
        """f(z) − (λ/2)‖z − v‖², or f(z) + ⟨g, δ⟩ − λ·h(δ), of each row.

        Arguments:
            z: (n, k), a point for each row v.
            displacement: δ, (n, m), where the penalty is on displacements.

        Returns:
            (n,), in units of reward; −inf outside the domain of f.
        """
        found = self.value(z) - self.price(z, displacement)
        return found if self.displacement is None else found + self._checked(displacement) @ self.displacement.linear

    def value(self, z: Floats) -> Floats:
        """f of each row.

        Arguments:
            z: (n, k).

        Returns:
            (n,), in units of reward; −inf outside the domain of f.
        """
        with np.errstate(all="ignore"):
            value = np.asarray(self.reward.value(z), dtype=np.float64)
        return np.where(np.isnan(value), -np.inf, value)

    @cached_property
    def _best(self) -> Floats:
        """What `solve` says of the rows."""
        if self.solve is None:
            raise ValueError(f"The example {self.name!r} is unbounded above.")
        return self.solve(self.points, self.weight)

    @property
    def best_displacement(self) -> Floats | None:
        """A δ of each row that attains the supremum, (n, m); None where the penalty is on z.

        Raises:
            ValueError: there is none.
        """
        return None if self.displacement is None else self._best

    @cached_property
    def maximiser(self) -> Floats:
        """A maximiser of each row, (n, k).

        Raises:
            ValueError: there is none.
        """
        return self._best if self.displacement is None else self.moved(self._best)

    @cached_property
    def solution(self) -> ProxSolution:
        """The answer of a backend that is right to the last digit.

        Raises:
            ValueError: there is none.
        """
        count = len(self.points)
        return ProxSolution(
            self.maximiser, np.zeros(count), np.zeros(count, dtype=bool), displacement=self.best_displacement
        )

    @cached_property
    def supremum(self) -> Floats:
        """The largest objective of each row, (n,), up to `rounding`; infinite where it is unbounded."""
        if not self.is_bounded:
            return np.full(len(self.points), np.inf)
        return self.objective(self.maximiser, self.best_displacement)

    def rounding(self, z: Floats, displacement: Floats | None = None) -> Floats:
        """A bound on what float64 rounds off the objectives at z and at the maximiser.

        Arguments:
            z: (n, k), a point for each row v.
            displacement: δ, (n, m), where the penalty is on displacements.

        Returns:
            (n,), in units of reward.
        """
        total = np.zeros(len(self.points))
        for at, step in ((z, displacement), (self.maximiser, self.best_displacement)):
            size = np.linalg.norm(at, axis=1) + np.linalg.norm(self.points, axis=1)
            value = np.abs(self.objective(at, step)) + self.price(at, step)
            total += np.where(np.isfinite(value), value + self._slope(at) * size, 0.0)
        return _OPERATIONS * _EPS * total

    def _slope(self, at: Floats) -> Floats:
        """How fast f changes around points near a maximiser, at most, (n,)."""
        steepest = self.reward.lipschitz if math.isfinite(self.reward.lipschitz) else 0.0
        if self.displacement is None:
            # At a maximiser λ(z − v) is a supergradient of f; a Lipschitz constant holds everywhere.
            return np.asarray(self.weight * np.linalg.norm(at - self.points, axis=1) + steepest)
        gradient = np.linalg.norm(np.asarray(self.reward.gradient(at)), axis=1)
        return np.where(np.isfinite(gradient), gradient, 0.0) + steepest

    def dense(self, solution: ProxSolution) -> Floats | None:
        """The δ of a solution as an array.

        Arguments:
            solution: of the example's rows.

        Returns:
            (n, m); None where the penalty is on z, or no δ is given.
        """
        given = solution.displacement
        if self.displacement is None or given is None:
            return None
        return given.dense(self.displacement.size) if isinstance(given, SparseRows) else given

    def on_rows(self, points: Floats) -> ProxExample:
        """The same problem on other rows.

        Arguments:
            points: v, (n, k).

        Returns:
            the example, its known optimum computed for these rows.
        """
        return replace(self, points=points)

    def with_weight(self, weight: float) -> ProxExample:
        """The same rows and reward with another weight.

        Arguments:
            weight: λ, at least the example's own.

        Returns:
            the example, its known optimum computed for this λ.
        """
        return replace(self, weight=weight)

    def _checked(self, displacement: Floats | None) -> Floats:
        if displacement is None:
            raise ValueError(f"The example {self.name!r} has its penalty on displacements, and none are given.")
        return displacement
