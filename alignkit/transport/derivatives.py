"""Derivatives of the transport map T(x) = argmax_y r(y) − λ·c(x, y), by implicit differentiation.

With c(x, y) = h(y − x), δ = T(x) − x and a cotangent ȳ, let s ∈ R^d solve

    (λ∇²h(δ) − ∇²r(y)) s = ȳ.        Then  x̄ = λ∇²h(δ) s,   λ̄ = −⟨s, ∇h(δ)⟩,   p̄ = ∂_p ⟨∇_y r(y; p), s⟩

for a parameter p of the reward: differentiate ∇r(y) = λ∇h(y − x). Under ½⟨δ, Mδ⟩ the system has k unknowns however
large d is: in the coordinates of `alignkit.transport.lifting`, δ = shift + Eᵀu with EMEᵀ = I,

    s = M⁻¹ȳ/λ + Eᵀ(σ − Eȳ/λ),       (λI − E∇²rEᵀ) σ = Eȳ,       λM s = ȳ + Dᵀ(λσ − Eȳ),

and M δ = g/λ + Dᵀu. Under ‖δ‖^p/p the same holds with λ‖δ‖^(p−2) in place of λM outside the rows of E.

At a kink of the reward (`alignkit.transport.kinks`) the map stays on the surface where the active pieces agree: the
system is solved along the surface, and the multipliers π move with the parameters. With L the reward whose maxima are
replaced by ⟨π, pieces⟩, and (s, m) the solution of its KKT system, p̄ = ∂_p d/dε L(y + εs, π + εm; p) at ε = 0. That is
right where the multipliers are positive (strict complementarity) and the objective is curved downwards along the
surface; elsewhere there is no derivative, and a row is refused.

Sources: A. Fiacco, "Introduction to sensitivity and stability analysis in nonlinear programming", 1983; A. Agrawal et
al., "Differentiable convex optimization layers", NeurIPS 2019; A. Lewis, "Active sets, nonsmoothness, and sensitivity",
SIAM J. Optim. 13, 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Composition, Floats
from alignkit.errors import NotDifferentiableError
from alignkit.expressions import Expression, Parameter
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.atom import Atom
from alignkit.expressions.expression import topological
from alignkit.expressions.operators import LinearMap
from alignkit.transport.costs import HALF_SQUARED_DISTANCE, Cost
from alignkit.transport.frames import Frame, Line, frame
from alignkit.transport.kinks import Kinks, bends, kinks_of
from alignkit.transport.stationary import Program, Settled, settle, surfaces

__all__ = ["Autodiff", "HostMap", "Layers", "MovedRows", "Pulled", "TransportDerivative"]

#: Largest number of unknowns whose k×k systems are formed for every row.
_LARGEST = 2048
#: Entries of those systems held at a time (64 MB), and of rows of x (8 MB, so that they stay cached).
_SYSTEM_ENTRIES, _ROW_ENTRIES = 2**23, 2**20
#: Distances to where an atom is not twice differentiable, relative to its arguments, below which a row is refused.
_BENT = 1e-7
#: Agreement of cotangents of parameters that ought to be the same.
_SAME = 1e-6
#: How far the maximiser may be where the solver gave no bound, in units of 1 + ‖u‖.
_UNBOUNDED_REACH = 1e-3


class Autodiff(Protocol):
    """Automatic differentiation in one library, on float64 arrays of the host."""

    def curvature(self, function: Callable[[Any], Any], points: Floats) -> tuple[Floats, Floats, Floats]:
        """Value, gradient and Hessian of a function of rows.

        Arguments:
            function: from rows (n, m) to (n,), in the library's arrays, row by row.
            points: (n, m).

        Returns:
            (n,), (n, m) and (n, m, m).
        """
        ...

    def mixed(
        self,
        function: Callable[..., Any],
        points: Sequence[Floats],
        directions: Sequence[Floats],
        parameters: Sequence[Floats],
    ) -> tuple[Floats, ...]:
        """∂_p d/dε Σ function(points + ε·directions, *parameters) at ε = 0, for each of the parameters.

        Arguments:
            function: of as many arrays as there are points and parameters, to (n,).
            points: the first arguments.
            directions: one for each point, of its shape.
            parameters: the other arguments.
        """
        ...


@dataclass(frozen=True, eq=False)
class MovedRows:
    """Rows that a map moved, as its derivative needs them.

    Arguments:
        y: T(x), (n, *shape), float64.
        gap: (n,), how far the objective may lie below its supremum.
        refused: (n,), rows without a derivative, as another point was found to be as good.
    """

    y: Floats
    gap: Floats
    refused: NDArray[np.bool_]


class HostMap(Protocol):
    """A transport map as a function of host arrays (x, *values), with its transposed derivative."""

    def forward(self, x: Floats, *values: Floats) -> MovedRows:
        """Move rows x, (n, *shape), at values of the parameters."""
        ...

    def pull_back(self, x: Floats, values: Sequence[Floats], moved: MovedRows, cotangent: Floats) -> tuple[Floats, ...]:
        """ȳ, (n, *shape), to the cotangents of x and of each of the values."""
        ...


class Layers(Protocol):
    """What a backend offers as its `transport_layer`: derivatives of transport maps in its library.

    Attributes:
        autodiff: its automatic differentiation.
    """

    autodiff: Autodiff

    def layer(self, host: HostMap) -> Callable[..., Any]:
        """A function of the library's arrays (x, *values) to T(x) that the library differentiates."""
        ...


@dataclass(frozen=True, eq=False)
class Pulled:
    """Cotangents of what a map was applied with.

    Arguments:
        x: (n, *shape).
        weight: of λ, summed over the rows.
        parameters: of each parameter, of its shape.
    """

    x: Floats
    weight: float
    parameters: tuple[Floats, ...] = ()


@dataclass(frozen=True, eq=False)
class TransportDerivative:
    """The transposed derivative of a transport map.

    Arguments:
        composition: the reward r, as the compiler wrote it.
        reward: r as the user wrote it, which holds the parameters.
        weight: λ.
        autodiff: of the library that differentiates the reward twice.
        cost: c.
        parameters: those of the reward that are differentiated in, at their present values.

    Raises:
        NotDifferentiableError: the cost or the dimension has no derivative here.
    """

    composition: Composition
    reward: Expression
    weight: float
    autodiff: Autodiff
    cost: Cost = HALF_SQUARED_DISTANCE
    parameters: tuple[Parameter, ...] = ()

    def __post_init__(self) -> None:
        if self._frame.unknowns > _LARGEST:
            raise NotDifferentiableError(
                f"The map has {self._frame.unknowns} unknowns a row, and at most {_LARGEST} can be solved for.",
                ways_out=["A reward of fewer rows, r(x) = f(Ax) + ⟨g, x⟩."],
                expression=str(self.reward),
            )
        source = self._source
        held = [] if source is None else [node for node in topological(source) if isinstance(node, LinearMap)]
        operator = next((node for node in held if is_operator(node.matrix)), None)
        if operator is not None:
            raise NotDifferentiableError(
                f"{operator} is a linear_map of an operator, which engines do not differentiate twice.",
                ways_out=["A dense or sparse matrix in its place: B @ vec(x)."],
                expression=str(self.reward),
            )

    @cached_property
    def _frame(self) -> Frame:
        return frame(self.composition, self.weight, self.cost)

    @property
    def _source(self) -> Expression | None:
        """f, or r where parameters of it move; None where there is nothing but a shift."""
        return self.reward if self.parameters else self._frame.lift.nonlinear

    @cached_property
    def _kinks(self) -> Kinks | None:
        return None if self._source is None else kinks_of(self._source)

    def pull_back(
        self,
        x: Floats,
        y: Floats,
        cotangent: Floats,
        *,
        gap: Floats | None = None,
        refused: NDArray[np.bool_] | None = None,
    ) -> Pulled:
        """ȳ to x̄, λ̄ and p̄. Rows whose cotangent is 0 are not looked at.

        Arguments:
            x: (n, *shape).
            y: T(x), (n, *shape), as a solver found it.
            cotangent: ȳ, (n, *shape).
            gap: (n,), how far the objective may lie below its supremum: it tells how far y may be off.
            refused: (n,), rows found to have another maximiser as good, which have no derivative.

        Raises:
            NotDifferentiableError: the map has no derivative at some rows; the message counts them by reason.
        """
        count = len(x)
        flat = [
            np.asarray(rows, dtype=np.float64).reshape(count, self.composition.ambient) for rows in (x, y, cotangent)
        ]
        gaps = np.full(count, np.inf) if gap is None else np.asarray(gap, dtype=np.float64)
        moving = np.flatnonzero(np.any(flat[2] != 0.0, axis=1))
        reasons: dict[int, str] = {}
        if refused is not None:
            reasons = {int(row): _TIED for row in moving[refused[moving]]}
        lost = ~(np.isfinite(flat[0]).all(axis=1) & np.isfinite(flat[1]).all(axis=1))
        reasons.update({int(row): _LOST for row in np.intersect1d(moving, np.flatnonzero(lost))})
        moving = moving[[int(row) not in reasons for row in moving]] if reasons else moving
        x_bar, weight = np.zeros((count, self.composition.ambient)), 0.0
        bars = [np.zeros(parameter.shape) for parameter in self.parameters]
        largest = _SYSTEM_ENTRIES // max(1, self._frame.unknowns) ** 2, _ROW_ENTRIES // self.composition.ambient
        step = max(1, min(largest))
        for first in range(0, len(moving), step):
            rows = moving[first : first + step]
            part, found = self._pull_part(flat[0][rows], flat[1][rows], flat[2][rows], gaps[rows])
            for row, reason in found.items():
                reasons.setdefault(int(rows[row]), reason)
            if part is not None:
                x_bar[rows], weight = part.x, weight + part.weight
                bars = [old + new for old, new in zip(bars, part.parameters, strict=True)]
        if reasons:
            raise _not_differentiable(reasons, self.reward)
        return Pulled(x_bar.reshape(np.shape(x)), weight, tuple(bars))

    def _pull_part(self, x: Floats, y: Floats, cotangent: Floats, gap: Floats) -> tuple[Pulled | None, dict[int, str]]:
        """The cotangents of some rows, or why some have none."""
        within, kinks = self._frame, self._kinks
        start = within.coordinates(x, y)
        if kinks is None:
            spread = within.spread(self.autodiff, start, cotangent, np.zeros_like(start))
            return Pulled(spread.x, spread.weight), {}
        line = within.whole_line(x) if self.parameters else within.reduced_line(x)
        program = Program(
            self._smooth(kinks, line), kinks.along(line.rows), kinks.at(line.base), kinks.groups, kinks.weights
        )
        reach = np.sqrt(2.0 * np.maximum(gap, 0.0) / self.weight)
        unknown = _UNBOUNDED_REACH * (1.0 + np.abs(start).max(axis=1, initial=0.0))
        reach = np.where(np.isfinite(reach), reach, unknown)
        found = settle(program, start, reach)
        points = np.asarray(line.point(found.maximiser, slice(None)))
        reasons = self._reasons(kinks, found, points, np.asarray(line.point(start, slice(None))), reach)
        if reasons:
            return None, reasons
        solution, changes = _solve(program, found, within.pulled(cotangent))
        spread = within.spread(self.autodiff, found.maximiser, cotangent, solution)
        if not self.parameters:
            return Pulled(spread.x, spread.weight), {}
        split = self._splitting(program, kinks, found, points, spread.s)
        if split:
            return None, dict.fromkeys(split, _SPLITTING)
        bars = self._of_parameters(kinks, points, spread.s, found.multipliers, changes)
        return Pulled(spread.x, spread.weight, bars), {}

    def _splitting(self, program: Program, kinks: Kinks, found: Settled, points: Floats, s: Floats) -> list[int]:
        """Rows whose active pieces depend on each other at the present parameters, but not at others nearby.

        Their multipliers are unique up to some vectors; where the pieces stay dependent these make no difference to p̄.
        """
        split = []
        for here, rows in surfaces(program, found.active, np.arange(len(points))):
            if here.rank == len(here.pieces):
                continue
            drawn = np.random.default_rng(0).normal(size=(2, len(here.pieces)))
            shares, changes = here.shares(program, drawn - here.multipliers(drawn @ here.differences))[:, None]
            for row in rows:
                one = slice(row, row + 1)
                kept = found.multipliers[one]
                first = self._of_parameters(kinks, points[one], s[one], kept, np.zeros_like(kept))
                other = self._of_parameters(kinks, points[one], s[one], kept + shares, changes)
                if any(not np.allclose(new, old, _SAME, _SAME) for new, old in zip(other, first, strict=True)):
                    split.append(int(row))
        return split

    def _reasons(self, kinks: Kinks, found: Settled, points: Floats, given: Floats, reach: Floats) -> dict[int, str]:
        """Why rows have no derivative, by their numbers."""
        reasons = dict(found.refusals)
        for row, group in found.leaving.items():
            reasons[row] = f"{self._called(kinks.atoms[group])} is at a kink that the slightest change leaves"
        lost = np.zeros(len(points), dtype=bool)
        lost[list(found.refusals)] = True
        for (atom, margin), (_, before) in zip(bends(kinks, points), bends(kinks, given), strict=True):
            # Where Newton's method found nothing, a bend within reach of the solver's answer is why.
            bent = ~(margin > _BENT) | (lost & ~(before > np.maximum(_BENT, reach)))
            for place in np.flatnonzero(bent):
                reasons[int(place)] = (
                    f"{self._called(atom)} is not twice differentiable there, nor at a kink that stays"
                )
        return reasons

    def _called(self, atom: Atom) -> str:
        """An atom of f as the user wrote it, where the two rewards are built alike."""
        nonlinear = self._frame.lift.nonlinear
        if self.parameters or nonlinear is None:
            return str(atom)
        own, users = ([node for node in topological(one) if isinstance(node, Atom)] for one in (nonlinear, self.reward))
        alike = [type(node) for node in own] == [type(node) for node in users]
        return next((str(user) for node, user in zip(own, users, strict=False) if alike and node is atom), str(atom))

    def _smooth(self, kinks: Kinks, line: Line) -> Callable[[Floats, NDArray[np.int64]], tuple[Floats, Floats, Floats]]:
        """The smooth part less the penalty along a line, with its derivatives."""
        shape = kinks.lagrangian.variables()[0].shape if kinks.lagrangian.depends else None

        def read(u: Floats, chosen: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
            def objective(u: Any) -> Any:
                earned = -self._frame.penalty(u)
                if shape is not None:
                    points = line.point(u, chosen)
                    earned = earned + kinks.lagrangian.value(points.reshape((len(chosen), *shape)))
                return earned

            value, gradient, hessian = self.autodiff.curvature(objective, u)
            return value + u @ line.linear, gradient + line.linear, -hessian

        return read

    def _of_parameters(
        self, kinks: Kinks, points: Floats, s: Floats, multipliers: Floats, changes: Floats
    ) -> tuple[Floats, ...]:
        """p̄ = ∂_p d/dε L(y + εs, π + εm; p)."""
        shape, duals, own = self.composition.shape, kinks.duals, self.parameters

        def lagrangian(y: Any, *values: Any) -> Any:
            given = dict(zip((*duals, *own), values, strict=True))
            return kinks.lagrangian.value(y.reshape((len(points), *shape)), parameters=given).reshape(len(points))

        return self.autodiff.mixed(
            lagrangian,
            (points, *kinks.as_duals(multipliers)),
            (s, *kinks.as_duals(changes)),
            tuple(parameter.dense() for parameter in own),
        )


_SPLITTING = "the pieces that meet there do not meet any more when a parameter moves"
_LOST = "it holds a NaN or an infinity"
_TIED = "another point is as good, so that the maximiser is not unique"


def _solve(program: Program, found: Settled, right: Floats) -> tuple[Floats, Floats]:
    """σ of the system along each row's surface, (n, m), and the changes of the multipliers that go with it."""
    changes = np.zeros((len(right), program.slopes.shape[0]))
    solution = np.empty_like(right)
    for here, rows in surfaces(program, found.active, np.arange(len(right))):
        curvature = found.curvature[rows]
        solution[rows] = here.along(curvature, right[rows])
        rest = right[rows] - np.matmul(curvature, solution[rows, :, None])[:, :, 0]
        changes[rows] = here.shares(program, here.multipliers(rest))
    return solution, changes


def _not_differentiable(reasons: dict[int, str], reward: Expression) -> NotDifferentiableError:
    """The error that counts rows by reason, most of them first."""
    by_reason: dict[str, list[int]] = {}
    for row in sorted(reasons):
        by_reason.setdefault(reasons[row], []).append(row)
    parts = [f"{_listed(rows)}: {reason}" for reason, rows in sorted(by_reason.items(), key=lambda one: -len(one[1]))]
    error = NotDifferentiableError(
        f"The transport map has no derivative at {len(reasons)} of the rows. {'; '.join(parts)}.",
        ways_out=[
            "Leave these rows out: rows whose cotangent is 0 are not looked at.",
            "A smooth reward in place of one with kinks: ak.huber for ak.abs, ak.log_sum_exp for ak.max.",
            "A larger λ, where the reward is not concave.",
        ],
        expression=str(reward),
    )
    error.rows = tuple(sorted(reasons))
    return error


def _listed(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:5]))
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}{more}"
