"""How far from its row a maximiser can lie, which is the box that global solvers need.

Along the segment from a maximiser z to a point c where f is finite, the objective does not rise at z. With
f = q + φ + ψ + β, q quadratic of curvature at most κ < λ, φ concave, ψ L-Lipschitz and β bounded above, w = z − c and
a = ‖∇q(c) + ∇φ(c) − λ(c − v)‖ + L that gives, where there is no β, ‖w‖ ≤ a/(λ − κ); and in any case, by comparing
the values at z and at c, ½(λ − κ)‖w‖² ≤ a‖w‖ + sup β − β(c). For a Lipschitz f and c = v it is ‖z − v‖ ≤ L/λ. The
objective at z exceeds that at c by at most a²/2(λ − κ) + sup β − β(c): near a smooth maximum no solver is needed.

Where the price is a norm, λN(δ) − ⟨g, δ⟩ ≤ f(v + Rδ) − f(v) gives N(δ)·(λ − N*(g + Rᵀ∇φ(v)) − Lρ) ≤ sup β − β(v) with
ρ = max ‖Rδ‖ over N(δ) ≤ 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Displacement, Floats
from alignkit.expressions import Expression, inner
from alignkit.expressions.linear import affine_map
from alignkit.expressions.splitting import Split, Term
from alignkit_pyomo.linear import Affine
from alignkit_pyomo.lowering import materialised
from alignkit_pyomo.program import Unsupported

__all__ = ["Ball", "Reach", "Recession", "dual_norm", "reach_of", "spread"]

#: Radii are widened by this, for rounding.
_WIDER = 1.0 + 1e-9
#: Of a centre in float64, relative to its entries.
_ROUNDING = 1e-12
#: λ must exceed the curvature of quadratic summands by this, relative to λ.
_MARGIN = 1e-9
#: How often a centre is moved.
_STEPS = 20


@dataclass(frozen=True, eq=False)
class Ball:
    """Where the maximisers of n rows lie.

    Arguments:
        centres: c, (n, k), where f is finite.
        radii: of z around c, (n,); infinite where there is no bound, NaN where no point was found at which f is finite.
        prices: a bound of N(δ), (n,), for prices that are a norm.
        gains: a bound on what the objective gains from c to a maximiser, (n,), possibly infinite.
    """

    centres: Floats
    radii: Floats
    prices: Floats
    gains: Floats


@dataclass(frozen=True, eq=False)
class _Group:
    """Some of the summands of f, as one expression.

    Arguments:
        whole: their sum; None for none.
        lipschitz: its constant, possibly infinite.
        upper: a bound from above, possibly infinite.
    """

    whole: Expression | None
    lipschitz: float
    upper: float

    @staticmethod
    def of(terms: Sequence[Term]) -> _Group:
        parts = [inner(term.coefficients.reshape(term.atom.shape), term.atom) for term in terms]
        whole: Any = None
        for part in parts:
            whole = part if whole is None else whole + part
        lipschitz = sum(float(np.linalg.norm(term.coefficients)) * term.atom.lipschitz for term in terms)
        return _Group(whole, lipschitz, sum(_upper(term) for term in terms))

    def value(self, points: Floats) -> Floats:
        """(n, k) to (n,)."""
        return np.zeros(len(points)) if self.whole is None else np.asarray(self.whole.value(points))

    def gradient(self, points: Floats) -> Floats:
        """(n, k)."""
        return np.zeros_like(points) if self.whole is None else np.asarray(self.whole.gradient(points))


@dataclass(frozen=True, eq=False)
class Recession:
    """f^∞(Rδ) + ⟨g, δ⟩ ≤ (λ − margin)·N(δ) for a piecewise linear f, so that N(δ)·margin ≤ apart + L‖v‖ − f(v).

    Arguments:
        margin: positive.
        apart: a bound of |f − f^∞|.
    """

    margin: float
    apart: float


@dataclass(frozen=True, eq=False)
class Reach:
    """Bounds on maximisers.

    Arguments:
        nonlinear: f.
        parts: f as its quadratic part and the rest.
        weight: λ.
        concave, lipschitz, bounded: the summands beside q; φ, ψ and β.
        displacement: the price, where it is not quadratic.
        margins: affine functions of z that are positive inside the domain of f; None where they are not affine.
        recession: what bounds a piecewise linear f far out, where its summands one by one do not.
    """

    nonlinear: Expression
    parts: Split
    weight: float
    concave: _Group
    lipschitz: _Group
    bounded: _Group
    displacement: Displacement | None
    margins: Affine | None
    recession: Recession | None = None

    @property
    def obstacle(self) -> str | None:
        """Why nothing bounds the maximisers of some rows where the price is a norm; None where something does."""
        displacement = self.displacement
        if displacement is None or self.recession is not None:
            return None
        slope = displacement.linear + self.parts.vector @ _rows(displacement)
        steady = float(dual_norm(displacement.cost, slope[None])[0])
        groups = (self.concave, self.lipschitz, self.bounded)
        steep = sum(group.lipschitz for group in groups) * spread(displacement)
        limit = self.weight * (1.0 - _MARGIN)
        if steady + steep < limit or (steady < limit and all(math.isfinite(group.upper) for group in groups)):
            return None
        return (
            f"nothing bounds how far a maximiser lies: the reward is not bounded above, and may gain "
            f"{steady + steep:.6g} per unit of a cost that takes λ = {self.weight:.6g}"
        )

    def ball(self, points: Floats) -> Ball:
        """A ball for each row that holds all its maximisers.

        Arguments:
            points: v, (n, k).
        """
        with np.errstate(all="ignore"):
            if self.displacement is not None:
                centres, prices = points, self._priced(points)
                radii, gains = prices * spread(self.displacement), np.where(prices == 0.0, 0.0, np.inf)
            else:
                centres, radii, gains = self._centred(points)
                prices = radii
            lost = ~np.isfinite(self.nonlinear.value(centres))
        rounded = _ROUNDING * np.abs(centres).max(axis=1, initial=0.0)
        radii = np.where(lost, np.nan, radii * _WIDER + rounded)
        return Ball(centres, radii, prices * _WIDER, np.where(lost, np.inf, gains * _WIDER))

    def smaller(self, ball: Ball, points: Floats, found: Floats, gaps: Floats) -> Ball:
        """Balls around points that are better than the centres, where these are smaller.

        Arguments:
            ball: the balls so far.
            points: v, (n, k).
            found: z, (n, k).
            gaps: what the objective at z may lack, (n,).
        """
        if self.displacement is not None:
            return ball
        with np.errstate(all="ignore"):
            radii, gains = self._squared(points, found)
            if self.strength > 0.0:
                # ½μ‖z − z*‖² is at most the gap.
                radii = np.fmin(radii, np.sqrt(2.0 * gaps / self.strength))
            radii = radii * _WIDER + _ROUNDING * np.abs(found).max(axis=1, initial=0.0)
        better = radii < ball.radii
        return Ball(
            np.where(better[:, None], found, ball.centres), np.where(better, radii, ball.radii), ball.prices,
            np.where(better, gains * _WIDER, ball.gains),
        )  # fmt: skip

    @property
    def strength(self) -> float:
        """μ with a μ-strongly concave objective: λ − κ where all summands beside q are concave, else 0."""
        if self.displacement is not None or self.lipschitz.whole is not None or self.bounded.whole is not None:
            return 0.0
        return self.weight - self.parts.critical_weight

    def _centred(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Centres with small balls: steps to the maximiser with a tangent for φ, while the ball shrinks."""
        centres = self._inside(points)
        radii, gains = self._squared(points, centres)
        length = np.ones(len(points))
        for _ in range(_STEPS):
            slopes = self._pull(points, centres) + self.concave.gradient(centres)
            moved = centres + length[:, None] * (slopes @ self._inverse)
            found, gained = self._squared(points, moved)
            better = (found < radii) & np.isfinite(self.nonlinear.value(moved))
            centres = np.where(better[:, None], moved, centres)
            radii, gains = np.where(better, found, radii), np.where(better, gained, gains)
            length = np.where(better, np.minimum(1.0, 2.0 * length), 0.25 * length)
        return centres, radii, gains

    @cached_property
    def _inverse(self) -> Floats:
        """(λI − H)⁻¹, (k, k)."""
        k = self.parts.dimension
        curved = self.parts.quadratic.matrix if self.parts.curved else np.zeros((k, k))
        return np.asarray(np.linalg.inv(self.weight * np.eye(k) - curved), dtype=np.float64)

    def _pull(self, points: Floats, centres: Floats) -> Floats:
        """The gradient at the centres of q and the price, (n, k)."""
        return _slope(self.parts, centres) - self.weight * (centres - points)

    def _squared(self, points: Floats, centres: Floats) -> tuple[Floats, Floats]:
        """Bounds of the distance of maximisers from the centres, and of what the objective gains on the way, (n,)."""
        strength = self.weight - max(self.parts.critical_weight, 0.0)
        pull = self._pull(points, centres)
        beyond = self.bounded.upper - self.bounded.value(centres)
        steep = np.linalg.norm(pull + self.concave.gradient(centres), axis=1) + self.lipschitz.lipschitz
        found = steep / strength if self.bounded.whole is None else _root(strength, steep, beyond)
        # What is concave and bounded may be steep at the centre and yet have little to gain.
        flat = np.linalg.norm(pull, axis=1) + self.lipschitz.lipschitz
        gain = beyond + self.concave.upper - self.concave.value(centres)
        gained = steep**2 / (2.0 * strength) + beyond
        return np.fmin(found, _root(strength, flat, gain)), gained

    def _priced(self, points: Floats) -> Floats:
        displacement = self.displacement
        assert displacement is not None
        rows, cost = _rows(displacement), displacement.cost
        beyond = self.bounded.upper - self.bounded.value(points)
        slopes = self.concave.gradient(points) + self.parts.vector
        dual = displacement.linear + slopes @ rows
        left = self.weight - dual_norm(cost, dual) - self.lipschitz.lipschitz * spread(displacement)
        found = np.where(left > 0.0, beyond / left, np.inf)
        # Every summand by its bound.
        whole = [self.concave, self.lipschitz, self.bounded]
        gain = sum((group.upper - group.value(points) for group in whole), np.zeros(len(points)))
        slope = displacement.linear + self.parts.vector @ rows
        left = self.weight - dual_norm(cost, slope[None])
        other = np.where(left > 0.0, gain / left, np.inf)
        found = np.fmin(found, other)
        if self.recession is None:
            return found
        steep = sum(group.lipschitz for group in whole) + float(np.linalg.norm(self.parts.vector))
        rise = self.recession.apart + steep * np.linalg.norm(points, axis=1) - self.nonlinear.value(points)
        return np.asarray(np.fmin(found, rise / self.recession.margin))

    def _inside(self, points: Floats) -> Floats:
        """The rows, and in place of those outside the domain of f points that are inside."""
        outside = np.flatnonzero(~np.isfinite(self.nonlinear.value(points)))
        if outside.size == 0 or self.margins is None:
            return points
        found = points.copy()
        for row in outside.tolist():
            found[row] = _near(points[row], self.margins, 1.0 / math.sqrt(self.weight))
        return found


def reach_of(
    nonlinear: Expression, parts: Split, weight: float, displacement: Displacement | None, *, needs_box: bool
) -> Reach:
    """Sort the summands of a reward by what bounds them.

    Arguments:
        nonlinear: f.
        parts: f as its quadratic part and the rest.
        weight: λ.
        displacement: the price, where it is not quadratic.
        needs_box: whether it is no answer that there is no bound.

    Raises:
        Unsupported: nothing bounds a summand.
    """
    if displacement is not None and parts.curved:
        raise Unsupported(
            f"it takes quadratic summands as {parts.curved[0].atom} under half the squared distance alone"
        )
    if displacement is None and parts.critical_weight >= weight * (1.0 - _MARGIN):
        raise Unsupported(
            f"the curvature of the quadratic summands, {parts.critical_weight:.6g}, is not below λ = {weight:.6g}, so "
            "that nothing bounds how far a maximiser lies"
        )
    concave, lipschitz, bounded = [], [], []
    for term in parts.terms:
        if term.bends(-1):
            concave.append(term)
        elif math.isfinite(term.atom.lipschitz):
            lipschitz.append(term)
        elif math.isfinite(_upper(term)):
            bounded.append(term)
        elif needs_box:
            raise Unsupported(
                f"nothing bounds how far a maximiser lies, as {term.atom} is neither concave nor Lipschitz nor bounded "
                "above"
            )
    return Reach(
        nonlinear, parts, weight, _Group.of(concave), _Group.of(lipschitz), _Group.of(bounded), displacement,
        _margins(nonlinear),
    )  # fmt: skip


def _rows(displacement: Displacement) -> Floats:
    """R, (k, m)."""
    return np.eye(displacement.size) if displacement.rows is None else displacement.rows


def spread(displacement: Displacement) -> float:
    """ρ = max ‖Rδ‖ over N(δ) ≤ 1, at most."""
    rows = displacement.rows
    if _is_largest(displacement.cost):
        if rows is None:
            return math.sqrt(displacement.size)
        bound = np.linalg.norm(rows, 2) * math.sqrt(displacement.size)
        return float(min(bound, np.linalg.norm(np.abs(rows).sum(axis=1))))
    return 1.0 if rows is None else float(np.linalg.norm(rows, axis=0).max())


def dual_norm(cost: Any, dual: Floats) -> Floats:
    """N* of rows, (n, m) to (n,)."""
    found: Floats = cost.dual_norm(dual)
    return found


def _is_largest(cost: Any) -> bool:
    return math.isinf(cost.p)


def _upper(term: Term) -> float:
    """A bound of a summand from above."""
    bounds, coefficients = term.atom.range, term.coefficients
    ends = np.where(coefficients > 0.0, bounds.upper, bounds.lower)
    used = coefficients != 0.0
    return float((coefficients[used] * ends[used]).sum())


def _slope(parts: Split, points: Floats) -> Floats:
    """The gradient of the quadratic part, (n, k)."""
    if not parts.curved:
        return np.broadcast_to(parts.vector, points.shape)
    return points @ parts.quadratic.matrix + parts.quadratic.vector


def _root(strength: float, steep: Floats, gain: Floats) -> Floats:
    """The largest ρ with ½·strength·ρ² ≤ steep·ρ + gain."""
    return (steep + np.sqrt(steep**2 + 2.0 * strength * np.maximum(gain, 0.0))) / strength


def _margins(nonlinear: Expression) -> Affine | None:
    """The arguments of atoms less the bounds of their domains."""
    conditions = [one for one in nonlinear.domain if one.expression.range.lower < one.bound]
    if any(not one.expression.is_affine() for one in conditions):
        return None
    maps = [(affine_map(one.expression), one) for one in conditions]
    k = nonlinear.variables()[0].size
    matrices = [np.zeros((0, k))]
    for found, one in maps:
        matrix = materialised(found.matrix, one.expression)
        matrices.append(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())
    offsets = [np.zeros(0)] + [found.offset - one.bound for found, one in maps]
    constant = np.concatenate(offsets)
    return Affine(np.vstack(matrices), np.zeros((len(constant), 0)), constant)


def _near(point: Floats, margins: Affine, wanted: float) -> Floats:
    """A point near another at which all margins are positive; the point itself where there is none."""
    from scipy.optimize import linprog

    k, count = len(point), len(margins.constant)
    cost = np.concatenate([np.zeros(k), np.ones(k)])
    eye = np.eye(k)
    for part in (1.0, 1e-2, 1e-4, 1e-6):
        rows = np.vstack(
            [np.hstack([-margins.points, np.zeros((count, k))]), np.hstack([eye, -eye]), np.hstack([-eye, -eye])]
        )
        above = margins.constant + margins.points @ point - part * wanted
        found = linprog(cost, A_ub=rows, b_ub=np.concatenate([above, np.zeros(2 * k)]), bounds=(None, None))
        if found.status == 0:
            return np.asarray(point + found.x[:k])
    return point
