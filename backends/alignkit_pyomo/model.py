"""A mixed-integer program with nonlinear relations, as plain data between what writes it and the solvers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit_pyomo.linear import Linear

__all__ = ["Answer", "Model", "Relation"]


@dataclass(frozen=True)
class Relation:
    """output ≤ φ(inputs), output ≥ φ(inputs), or both.

    Arguments:
        kind: which φ: "arctan", "log_sum_exp", "square over", or a key of `alignkit_pyomo.scip.FUNCTIONS`.
        inputs: columns.
        output: a column.
        numbers: what φ takes beside its inputs.
        at_most, at_least: which of the two hold.
        weight: by how much the objective moves with the output, about. The relation is multiplied by it, so that a
            solver's absolute tolerances are small against the gap that is wanted.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    numbers: Any
    at_most: bool
    at_least: bool
    weight: float = 1.0


@dataclass(eq=False)
class Model:
    """Maximise a linear objective under rows, bounds, integrality and relations; it grows while it is written.

    Arguments:
        coordinates: k: the first columns are y, with z = centre + scale·y; they lie in the unit ball if `is_boxed`.
        is_boxed: whether the coordinates are bounded.
        unit: what the objective is multiplied by.
        steps: δ, for prices that are no function of the coordinates alone.
    """

    coordinates: int
    is_boxed: bool = True
    unit: float = 1.0
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integers: list[int] = field(default_factory=list)
    rows: list[tuple[Linear, float, float]] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    objective: Linear = field(default_factory=Linear)
    steps: list[Linear] = field(default_factory=list)

    def __post_init__(self) -> None:
        limit = 1.0 if self.is_boxed else math.inf
        for _ in range(self.coordinates):
            self.column(-limit, limit)

    def column(self, lower: float = -math.inf, upper: float = math.inf) -> int:
        """A new variable, by its number."""
        self.lower.append(lower)
        self.upper.append(upper)
        return len(self.lower) - 1

    def binary(self) -> Linear:
        """A new variable that is 0 or 1."""
        found = self.column(0.0, 1.0)
        self.integers.append(found)
        return Linear.of(found)

    def keep(self, linear: Linear, lower: float = -math.inf, upper: float = math.inf) -> None:
        """Constrain a linear function."""
        self.rows.append((linear, lower, upper))

    def equal(self, one: Linear, other: Linear) -> None:
        """Constrain two linear functions to be equal."""
        self.keep(one - other, 0.0, 0.0)

    def named(self, linear: Linear) -> int:
        """A column that equals a linear function."""
        if linear.column is not None:
            return linear.column
        found = self.column(*self.range_of(linear))
        self.equal(Linear.of(found), linear)
        return found

    def range_of(self, linear: Linear) -> tuple[float, float]:
        """Bounds of a linear function: y lies in the unit ball, the others in their box."""
        low = high = linear.constant
        ball = 0.0
        for column, coefficient in linear.terms.items():
            if column < self.coordinates and self.is_boxed:
                ball = math.hypot(ball, coefficient)
                continue
            ends = coefficient * self.lower[column], coefficient * self.upper[column]
            low, high = low + min(ends), high + max(ends)
        return low - ball, high + ball

    @property
    def is_linear(self) -> bool:
        """Whether it is a mixed-integer linear program."""
        return not self.relations

    def slack(self, found: Floats | None, tolerance: float) -> float:
        """What dual infeasibilities up to a tolerance may hide of the objective.

        The bound of a linear relaxation is that of reduced costs which are off by the tolerance, each times the range
        of its column; a column without bounds has the range that its value in a solution suggests.

        Arguments:
            found: the values of all columns in the best solution; None where there is none.
            tolerance: of the reduced costs.
        """
        width = np.array(self.upper) - np.array(self.lower)
        size = np.ones(len(width)) if found is None else np.maximum(1.0, np.abs(found))
        return float(tolerance * np.where(np.isfinite(width), width, 2.0 * size).sum())


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver said of a model.

    Arguments:
        bound: no point has a larger objective, up to the solver's tolerances, which are in it; infinite without one.
        solutions: the columns of what it found, (s, columns), best first.
        nodes: of its search tree.
        is_finished: whether it stopped by itself, and not at the time limit.
        is_unbounded: whether it calls the objective unbounded above.
        seconds: what it took.
    """

    bound: float
    solutions: Floats
    nodes: int
    is_finished: bool
    is_unbounded: bool = False
    seconds: float = 0.0
