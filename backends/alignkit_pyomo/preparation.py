"""A problem as a program, with the bounds that its rows need, and the model of each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Displacement, Floats, ProxProblem
from alignkit.transport.costs import PNorm
from alignkit_pyomo.linear import Linear, combined
from alignkit_pyomo.model import Model, Relation
from alignkit_pyomo.program import Program, Unsupported, program_of
from alignkit_pyomo.reach import Ball, Reach, Recession, reach_of, spread

__all__ = ["Prepared", "Row", "prepare"]

#: The gap that is wanted of a solver is this in units of a model's objective.
WANTED = 1e-4
#: Margins that are tried, in units of λ, and what is nothing beside them.
_MARGINS = (0.5, 0.2, 0.05, 0.01, 0.001)
_NEGLIGIBLE = 1e-5
#: The time limit of each.
_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Row:
    """One row, ready for a solver.

    Arguments:
        model: its objective is unit·(objective − level).
        centre, scale: z = centre + scale·y for coordinates y, (k,) and (k, k).
        level: the objective at the centre, which is a point where f is finite.
    """

    model: Model
    centre: Floats
    scale: Floats
    level: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem at the present values of its parameters.

    Arguments:
        problem: what was asked.
        program: f.
        reach: bounds on maximisers.
    """

    problem: ProxProblem
    program: Program
    reach: Reach

    @property
    def is_linear(self) -> bool:
        """Whether rows are mixed-integer linear programs."""
        return self.problem.displacement is not None and self.program.is_linear

    @property
    def curves(self) -> int:
        """Relations of a row that are not convex, at most."""
        return sum(step.is_bent for step in self.program.steps)

    @property
    def choices(self) -> int:
        """Binary variables of a row, at most."""
        return sum(step.choices for step in self.program.steps)

    def objective(self, points: Floats, found: Floats, steps: Floats | None) -> Floats:
        """The objective in float64, (n,), by alignkit's own f.

        Arguments:
            points: v, (n, k).
            found: z, (n, k).
            steps: δ, (n, m), where the price is not quadratic.
        """
        with np.errstate(all="ignore"):
            value = np.asarray(self.problem.nonlinear.value(found), dtype=np.float64)
            paid: Floats
            if steps is None:
                paid = 0.5 * self.problem.weight * np.sum((found - points) ** 2, axis=1)
            else:
                displacement = self.displacement
                paid = self.problem.weight * displacement.cost.of_displacement(steps) - steps @ displacement.linear
        return np.where(np.isnan(value), -np.inf, value) - paid

    @property
    def displacement(self) -> Displacement:
        """The price, where it is not quadratic."""
        assert self.problem.displacement is not None
        return self.problem.displacement

    def rows(self, points: Floats, ball: Ball, levels: Floats, gaps: Floats) -> Iterator[Row]:
        """The model of each row in turn.

        Arguments:
            points: v, (n, k).
            ball: where maximisers lie.
            levels: the objective at the centres, (n,).
            gaps: how large the gap may be, (n,), in units of reward.
        """
        lower, upper = self.program.bounds(ball.centres, ball.radii)
        for row in range(len(points)):
            radius = float(ball.radii[row])
            if math.isnan(radius):
                raise ValueError("A row without a point where f is finite has no model.")
            model = Model(points.shape[1], math.isfinite(radius), WANTED / float(gaps[row]))
            scale = self._spectrum[1] * (max(radius, 1e-300) if model.is_boxed else 1.0)
            rest = self.program.write(model, ball.centres[row], scale, lower[row], upper[row])
            price = self._price(model, ball, row, points[row], scale)
            total = combined(((model.unit, rest), (model.unit, price), (-model.unit, Linear({}, float(levels[row])))))
            model.objective = total
            yield Row(model, ball.centres[row], scale, float(levels[row]))

    @cached_property
    def _spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues (k,) of H, and coordinates in which q is a sum of squares, as columns (k, k)."""
        parts = self.program.parts
        if not parts.curved:
            return np.zeros(parts.dimension), np.eye(parts.dimension)
        values, vectors = np.linalg.eigh(parts.quadratic.matrix)
        return values, vectors

    def _price(self, model: Model, ball: Ball, row: int, point: Floats, scale: Floats) -> Linear:
        """The quadratic part of f less the price of moving, over the columns."""
        centre, parts = ball.centres[row], self.program.parts
        values = self._spectrum[0]
        sizes = np.linalg.norm(scale, axis=0)
        slope = parts.quadratic.matrix @ centre + parts.quadratic.vector if parts.curved else parts.vector
        level = parts.quadratic.value(centre[None])[0] if parts.curved else centre @ parts.vector + parts.constant
        if self.problem.displacement is not None:
            curvatures = values * sizes**2
            paid = self._norm(model, float(ball.prices[row]), scale)
        else:
            curvatures = (values - self.problem.weight) * sizes**2
            slope = slope - self.problem.weight * (centre - point)
            paid = Linear({}, 0.5 * self.problem.weight * float((centre - point) @ (centre - point)))
        terms = {place: float(rate) for place, rate in enumerate(slope @ scale) if rate}
        found = [(1.0, Linear(terms, float(level))), (-1.0, paid)]
        for place, curvature in enumerate(curvatures.tolist()):
            if curvature == 0.0:
                continue
            output = model.column(0.0, 1.0)
            up = curvature > 0.0
            weight = model.unit * abs(curvature) / 2.0
            model.relations.append(Relation("square", (place,), output, None, up, not up, weight))
            found.append((curvature / 2.0, Linear.of(output)))
        return combined(found)

    def _norm(self, model: Model, limit: float, scale: Floats) -> Linear:
        """λN(δ) − ⟨g, δ⟩ with scale·y = Rδ."""
        displacement, weight = self.displacement, self.problem.weight
        m, linear = displacement.size, displacement.linear.tolist()
        paid: list[tuple[float, Linear]]
        if math.isinf(displacement.cost.p):  # type: ignore[attr-defined]
            steps = [Linear.of(model.column(-limit, limit)) for _ in range(m)]
            largest = Linear.of(model.column(0.0, limit))
            for step in steps:
                model.keep(largest - step, lower=0.0)
                model.keep(largest + step, lower=0.0)
            paid = [(weight, largest)]
        else:
            right = [Linear.of(model.column(0.0, limit)) for _ in range(m)]
            left = [Linear.of(model.column(0.0, limit)) for _ in range(m)]
            steps = [one - other for one, other in zip(right, left, strict=True)]
            paid = [(weight, one) for one in (*right, *left)]
        model.steps.extend(steps)
        rows = np.eye(m) if displacement.rows is None else displacement.rows
        for place, row in enumerate(rows):
            moved = combined((float(value), steps[column]) for column, value in enumerate(row.tolist()) if value)
            over = {column: float(value) for column, value in enumerate(scale[place].tolist()) if value}
            model.equal(Linear(over), moved)
        return combined([*paid, *((-rate, step) for rate, step in zip(linear, steps, strict=True) if rate)])


def prepare(problem: ProxProblem) -> Prepared:
    """A problem as solvers see it.

    Raises:
        Unsupported: an atom has no form, nothing bounds how far a maximiser lies, or the cost has no form.
    """
    displacement = problem.displacement
    if displacement is not None and not _is_linear(displacement.cost):
        raise Unsupported(
            f"it takes half the squared distance, the ℓ1 and the ℓ∞ distance, and the cost is "
            f"{displacement.cost.formula}"
        )
    program = program_of(problem.nonlinear)
    if program.parts.curved and not program.parts.has_small_hessian:
        raise Unsupported(f"the quadratic summands have a Hessian of size k = {program.parts.dimension}")
    needs_box = displacement is None or program.needs_box
    reach = reach_of(problem.nonlinear, program.parts, problem.weight, displacement, needs_box=needs_box)
    prepared = Prepared(problem, program, reach)
    if needs_box and reach.obstacle is not None:
        recession = _recession(prepared) if prepared.is_linear else None
        if recession is None:
            raise Unsupported(reach.obstacle)
        prepared = replace(prepared, reach=replace(reach, recession=recession))
    return prepared


def _recession(prepared: Prepared) -> Recession | None:
    """The largest of a few margins by which λN outgrows a piecewise linear reward, by programs with N ≤ 1."""
    from alignkit_pyomo.highs import solve

    problem, displacement = prepared.problem, prepared.displacement
    far, apart = prepared.program.recession()
    origin, zero = np.zeros((1, problem.dimension)), np.zeros(1)
    ball = Ball(origin, np.full(1, spread(displacement)), np.ones(1), np.full(1, np.inf))
    for part in _MARGINS:
        weaker = replace(problem, weight=(1.0 - part) * problem.weight)
        row = next(replace(prepared, problem=weaker, program=far).rows(origin, ball, zero, np.full(1, WANTED)))
        most = solve(row.model, gap=_NEGLIGIBLE * problem.weight, floor=0.0, seconds=_SECONDS).bound
        # Positively homogeneous: what is at most this where N ≤ 1 is at most as many times N.
        if most <= 2.0 * _NEGLIGIBLE * problem.weight:
            return Recession(part * problem.weight - most, apart)
    return None


def _is_linear(cost: Any) -> bool:
    return isinstance(cost, PNorm) and cost.power == 1.0 and cost.p in (1.0, math.inf)
