"""Covers: few exponentials that bound exp F for any convex F in few dimensions, by linear programming.

The tilts of a net that reaches beyond the range of ∂F get the weights μ that minimise Σ μ_j Z(θ_j), the mass of the
mixture p·M, subject to M ≥ exp F. The constraints are taken where they are needed (cutting planes): the program is
solved on some points, `envelope.excess` finds where the solution fails, and these points are added. What is left is
proved small on all of R^k, and the weights are raised by it, so that the bound holds everywhere.

Source: "The tractability landscape of diffusion alignment", arXiv 2605.11361; the exchange of constraints is R. Hettich
and K. O. Kortanek, "Semi-infinite programming: theory, methods, and applications", SIAM Review 35, 1993, section 7.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import IntractableError
from alignkit.expressions import Expression
from alignkit.expressions.growth import Growth
from alignkit.tilting.envelope import Convex, Excess, Mixture, excess
from alignkit.tilting.measures import FiniteMeasure

__all__ = ["COVER_DIMENSION_MAX", "Cover", "cover"]

#: Beyond this the net would have too many tilts.
COVER_DIMENSION_MAX = 3


@dataclass(frozen=True)
class _Effort:
    """How fine a cover of a dimension is.

    Arguments:
        spacing: of the net, in 1/sd of w.
        extension: how far the net reaches beyond the range of ∂F, in 1/sd.
        axis: tilts per axis at most.
        slack: how much of log M may be given away to the proof, in nats.
        divisions: of the box, per axis, to begin with.
        rounds: of adding constraints, at most.
        cuts: constraints added in a round.
    """

    spacing: float
    extension: float
    axis: int
    slack: float
    divisions: int
    rounds: int
    cuts: int


_EFFORTS = {
    1: _Effort(0.15, 8.0, 401, 0.002, 64, 24, 30),
    2: _Effort(0.5, 4.5, 35, 0.01, 16, 24, 120),
    3: _Effort(1.1, 2.2, 13, 0.08, 8, 16, 400),
}
# The box reaches this far beyond the tilted means, in standard deviations.
_REACH = 4.5
# Where the aligned law has no mass, constraints are tightened by this, so that coarse cells prove them.
_MARGIN = 0.15
# Every tilt at the rim keeps this share of the mass, so that M outgrows exp F along every ray.
_RIM = 1e-6
# Entries of the program: smaller ones count as 0, larger ones as this; both make constraints tighter.
_SMALLEST, _LARGEST = 1e-7, 1e4
_PRUNED = 1e-12
_STRETCH, _STRETCHES = 1.6, 8


@dataclass(frozen=True, eq=False)
class Cover:
    """A finite measure with M ≥ exp F everywhere, or on a box.

    Arguments:
        measure: the tilts and their weights.
        margin: what was added to log M to prove the bound, in nats.
        cells: how many cells the proof has.
        rounds: how often the program was solved.
        points: how many constraints it had in the end.
    """

    measure: FiniteMeasure
    margin: float
    cells: int
    rounds: int
    points: int


def cover(
    nonlinear: Expression,
    weight: float,
    *,
    pilot: Floats,
    log_partition: Callable[[Floats], Floats],
    box: tuple[Floats, Floats] | None = None,
    extension: float | None = None,
) -> Cover:
    """Cover exp(f/λ) by a mixture of exponentials of least mass.

    Arguments:
        nonlinear: f, convex, of one variable of shape (k,), k ≤ 3.
        weight: λ.
        pilot: draws of w under the law that is tilted, (n, k); they set the scale.
        log_partition: log E exp⟨θ, w⟩ under that law, (j, k) to (j,). Whatever it says, the bound holds.
        box: the least and the largest w, (k,) each, where that law has bounded data; M ≥ exp F then holds on the box,
            and f may grow faster than linearly.
        extension: how far the net reaches beyond the range of ∂F, in 1/sd of w; far enough for tight bounds if None.
            In a product of covers tilts of the rims add up, and may outweigh all others.

    Raises:
        IntractableError: f grows faster than linearly and there is no box; or no bound could be proved.

    Example:
        >>> from alignkit.expressions import Variable, abs, sum
        >>> pilot = np.random.default_rng(0).normal(size=(500, 1))
        >>> found = cover(sum(abs(Variable(1))), 1.0, pilot=pilot, log_partition=lambda t: 0.5 * (t**2).sum(axis=1))
        >>> w = np.linspace(-9.0, 9.0, 1000)[:, None]
        >>> bool((found.measure.log_bound(w) >= np.abs(w[:, 0])).all())
        True
    """
    effort = _EFFORTS[pilot.shape[1]]
    if extension is not None:
        effort = replace(effort, extension=extension)
    return _Program(nonlinear, weight, pilot, log_partition, box=box, effort=effort).solve()


class _Program:
    """The linear program in whitened coordinates u, w = Lu, where pilot draws have unit covariance."""

    def __init__(
        self,
        nonlinear: Expression,
        weight: float,
        pilot: Floats,
        log_partition: Callable[[Floats], Floats],
        *,
        box: tuple[Floats, Floats] | None,
        effort: _Effort,
    ) -> None:
        self.nonlinear, self.k = nonlinear, pilot.shape[1]
        self.effort = effort
        covariance = np.atleast_2d(np.cov(pilot.T)) if len(pilot) > 1 else np.eye(self.k)
        # A box stays a box only when axes are scaled by themselves.
        scales = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        self.root = np.diag(scales) if box is not None else np.linalg.cholesky(covariance + 1e-12 * np.diag(scales**2))
        self.inverse = np.linalg.inv(self.root)
        self.pilot = pilot @ self.inverse.T
        self.box = None if box is None else (box[0] @ self.inverse.T, box[1] @ self.inverse.T)
        self._log_partition = log_partition
        growth = Growth(nonlinear)

        def value(points: Floats) -> Floats:
            with np.errstate(over="ignore"):
                found = nonlinear.value(points @ self.root.T)
            return np.asarray(found, dtype=np.float64).reshape(-1) / weight

        def recession(directions: Floats) -> Floats:
            return growth.recession(directions @ self.root.T) / weight

        def slopes(points: Floats) -> Floats:
            found = np.asarray(nonlinear.gradient(points @ self.root.T), dtype=np.float64)
            return found.reshape(len(points), self.k) @ self.root / weight

        self.slopes = slopes
        self.function = Convex(value, None if self.box is not None else recession)

    def log_partition(self, tilts: Floats) -> Floats:
        """log Z of tilts in whitened coordinates."""
        return np.asarray(self._log_partition(tilts @ self.inverse), dtype=np.float64)

    # ---- where things are

    def solve(self) -> Cover:
        """Choose the net and the box, and exchange constraints until the proof is tight."""
        low, high = self._range_of_slopes()
        means, spreads = self._tilted_moments(low, high)
        nodes, rim = self._net(low, high, means, spreads)
        log_z = self.log_partition(nodes)
        lower, upper = (
            means.min(axis=0) - _REACH * spreads.max(axis=0),
            means.max(axis=0) + _REACH * spreads.max(axis=0),
        )
        core = lower, upper
        if self.box is not None:
            lower, upper = self.box
            core = np.maximum(core[0], lower), np.minimum(core[1], upper)
        points = self._first_points(core[0], core[1], lower, upper)
        rounds = 0
        while True:
            rounds += 1
            log_weights = self._weights(nodes, log_z, points, self._margins(points, core), rim)
            mixture = Mixture(nodes, log_weights)
            # Constraints are looked for coarsely; only the last round has to prove anything.
            found = excess(
                self.function, mixture, lower, upper,
                slack=self.effort.slack, floor=0.0, divisions=self.effort.divisions, cells_max=20_000 * self.k,
            )  # fmt: skip
            violated = found.values > self.effort.slack / 2
            if not violated.any() or rounds == self.effort.rounds:
                break
            points = np.vstack([points, self._spread_out(found.points[violated], core)])
        found = self._prove(mixture, lower, upper)
        return self._cover(mixture, found, rounds, len(points))

    def _prove(self, mixture: Mixture, lower: Floats, upper: Floats) -> Excess:
        """Bound the excess everywhere; the box grows until tangents outgrow F on the rays that leave it."""
        for stretch in range(_STRETCHES if self.box is None else 1):
            reach = _STRETCH**stretch * (upper - lower) / 2
            centre = (upper + lower) / 2
            found = excess(
                self.function, mixture, centre - reach, centre + reach,
                slack=self.effort.slack, floor=0.0, divisions=self.effort.divisions,
            )  # fmt: skip
            if math.isfinite(found.at_most):
                return found
        raise IntractableError(
            "No mixture of exponentials was proved to bound exp(r/λ) everywhere.",
            ways_out=["Raise the weight λ.", "problem.solve(heuristic=True): annealed Monte Carlo, without a bound."],
            expression=str(self.nonlinear),
        )

    def _range_of_slopes(self) -> tuple[Floats, Floats]:
        """Bounds of ∂F along each axis, (k,) each: by the recession function, or on the box by sampling."""
        axes = np.eye(self.k)
        if self.function.recession is not None:
            high, low = self.function.recession(axes), -self.function.recession(-axes)
            if np.isfinite(high).all() and np.isfinite(low).all():
                return low, high
            raise IntractableError(
                "The reward grows faster than linearly, so that on unbounded data no mixture of exponentials bounds "
                "exp(r/λ).",
                ways_out=["huber(…) or logistic(…) in its place.", "A base law with data_range=(…)."],
                expression=str(self.nonlinear),
            )
        assert self.box is not None
        slopes = self.slopes(_grid(*self.box, 9))
        slopes = slopes[np.isfinite(slopes).all(axis=1)]
        return slopes.min(axis=0), slopes.max(axis=0)

    def _tilted_moments(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations of u under tilts in the range of ∂F, (j, k) each, by differences of log Z."""
        tilts = _grid(low, high, 5 if self.k < 3 else 3)
        step = 0.25
        shifts = step * np.vstack([np.zeros(self.k), np.eye(self.k), -np.eye(self.k)])
        log_z = self.log_partition((tilts[:, None] + shifts).reshape(-1, self.k)).reshape(len(tilts), -1)
        after, before = log_z[:, 1 : self.k + 1], log_z[:, self.k + 1 :]
        curvature = (after + before - 2 * log_z[:, :1]) / step**2
        return (after - before) / (2 * step), np.sqrt(np.clip(curvature, 1e-4, 1e4))

    def _net(self, low: Floats, high: Floats, means: Floats, spreads: Floats) -> tuple[Floats, np.ndarray]:
        """The tilts, (j, k), and which of them are at the rim."""
        unit = 1.0 / np.median(spreads, axis=0)
        axes = []
        for axis in range(self.k):
            start = low[axis] - self.effort.extension * unit[axis]
            stop = high[axis] + self.effort.extension * unit[axis]
            count = int(
                np.clip(math.ceil((stop - start) / (self.effort.spacing * unit[axis])) + 1, 3, self.effort.axis)
            )
            axes.append(np.linspace(start, stop, count))
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.k)
        ends = np.array([[axis[0], axis[-1]] for axis in axes])
        rim = ((nodes == ends[:, 0]) | (nodes == ends[:, 1])).any(axis=1)
        if self.k == 1:
            return nodes, rim
        # Far from every slope of F a tilt is of no use, but for the rim, which tames M at infinity.
        around = means.mean(axis=0) + (means.std(axis=0) + 2.0) * 2.0 * _sphere(self.k)
        samples = np.vstack([self.pilot[:200], means, around])
        slopes = self.slopes(samples if self.box is None else np.clip(samples, *self.box))
        slopes = slopes[np.isfinite(slopes).all(axis=1)]
        distance = np.full(len(nodes), np.inf)
        for part in np.array_split(slopes, max(1, len(slopes) // 64)):
            gaps = np.abs((nodes[:, None] - part[None]) / unit).max(axis=2)
            distance = np.minimum(distance, gaps.min(axis=1))
        kept = distance <= self.effort.extension + self.effort.spacing
        corners = np.isin(nodes, ends.ravel()).all(axis=1)
        return nodes[kept | corners], rim[kept | corners]

    def _margins(self, points: Floats, core: tuple[Floats, Floats]) -> Floats:
        """How much each constraint is tightened."""
        outside = (points < core[0]) | (points > core[1])
        return np.where(outside.any(axis=1), _MARGIN, 0.0)

    def _first_points(self, core_low: Floats, core_high: Floats, lower: Floats, upper: Floats) -> Floats:
        """Where the program begins: the box, its surroundings, and the pilot."""
        inner = _grid(core_low, core_high, {1: 41, 2: 11, 3: 7}[self.k])
        if self.box is not None:
            return np.vstack([inner, _grid(lower, upper, 5), self.pilot[:50].clip(lower, upper)])
        centre, reach = (lower + upper) / 2, (upper - lower) / 2
        rings = [centre + factor * reach * _sphere(self.k) for factor in (1.5, 3.0, 8.0)]
        return np.vstack([inner, *rings, self.pilot[:50]])

    def _spread_out(self, points: Floats, core: tuple[Floats, Floats]) -> Floats:
        """The worst points, none near another."""
        apart = np.maximum((core[1] - core[0]) / {1: 400, 2: 60, 3: 24}[self.k], np.finfo(np.float64).tiny)
        _, first = np.unique(np.floor(points / apart), axis=0, return_index=True)
        return points[np.sort(first)[: self.effort.cuts]]

    # ---- the program

    def _weights(self, nodes: Floats, log_z: Floats, points: Floats, margins: Floats, rim: np.ndarray) -> Floats:
        """log μ, (j,), of least mass with M ≥ exp(F + margin) at the points."""
        from scipy.optimize import linprog

        target = self.function.value(points) + margins
        exponents = points @ nodes.T - log_z - target[:, None]
        # No cover has less mass than what the most demanding point asks of its best tilt; in this unit masses are
        # near 1.
        unit = float((-exponents.max(axis=1)).max())
        exponents += unit
        matrix = np.exp(np.minimum(exponents, math.log(_LARGEST)))
        matrix[matrix < _SMALLEST] = 0.0
        useful = matrix.max(axis=1) > 0
        rows, demands = -matrix[useful], -np.ones(int(useful.sum()))
        # The simplex method gives up on a few of these programs, the interior-point method on others.
        for method in ("highs-ds", "highs-ipm"):
            found = linprog(np.ones(len(nodes)), A_ub=rows, b_ub=demands, bounds=(0, None), method=method)
            if found.x is not None:
                break
        else:
            raise IntractableError(
                f"The linear program of the cover failed: {found.message}",
                ways_out=["Raise the weight λ.", "solve(heuristic=True)."],
                expression=str(self.nonlinear),
            )
        masses = np.maximum(found.x, 0.0)
        masses = np.where(rim, np.maximum(masses, _RIM * masses.sum() / max(1, int(rim.sum()))), masses)
        with np.errstate(divide="ignore"):
            return np.where(masses > _PRUNED * masses.sum(), np.log(masses) + unit, -np.inf) - log_z

    def _cover(self, mixture: Mixture, found: Excess, rounds: int, points: int) -> Cover:
        kept = np.isfinite(mixture.log_weights)
        margin = max(found.at_most, 0.0)
        nodes = mixture.nodes[kept] @ self.inverse
        measure = FiniteMeasure(
            nodes, mixture.log_weights[kept] + margin, description=f"a cover of {int(kept.sum())} tilts"
        )
        return Cover(measure, margin, found.cells, rounds, points)


def _grid(lower: Floats, upper: Floats, count: int) -> Floats:
    along = [np.linspace(low, high, count) for low, high in zip(lower, upper, strict=True)]
    return np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, lower.size)


def _sphere(k: int) -> Floats:
    """Directions that spread over the sphere, on the surface of the unit cube."""
    return np.array(
        [point for point in itertools.product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=k) if max(map(abs, point)) == 1.0]
    )
