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
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import WITHOUT_BOUND, IntractableError
from alignkit.expressions import Expression
from alignkit.expressions.growth import Growth
from alignkit.tilting.covering import solve_covering
from alignkit.tilting.envelope import Convex, Excess, excess
from alignkit.tilting.measures import FiniteMeasure

__all__ = ["COVER_DIMENSION_MAX", "Cover", "cover"]

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

#: Beyond this the net would have too many tilts.
COVER_DIMENSION_MAX = 3


@dataclass(frozen=True)
class _Effort:
    """How fine a cover of a dimension is.

    Arguments:
        spacing: of the net to begin with, in 1/sd of w.
        halvings: of the spacing at most, where finer tilts save mass.
        saving: how much more than one of the others' each unit of the mass of a finer tilt has to save.
        extension: how far the net reaches beyond the range of ∂F, in 1/sd.
        axis: tilts per axis to begin with, at most.
        slack: how much of log M may be given away to the proof, in nats.
        divisions: of the box, per axis, to begin with.
        rounds: of adding constraints, at most.
        cuts: constraints added in a round.
    """

    spacing: float
    halvings: int
    saving: float
    extension: float
    axis: int
    slack: float
    divisions: int
    rounds: int
    cuts: int


_EFFORTS = {
    1: _Effort(0.3, 8, 0.002, 8.0, 201, 0.001, 64, 24, 30),
    2: _Effort(1.2, 5, 0.02, 5.0, 19, 0.015, 16, 24, 120),
    3: _Effort(2.2, 2, 0.06, 2.2, 8, 0.06, 8, 24, 400),
}
# The box reaches this far beyond the tilted means, in standard deviations.
_REACH = 4.5
# Where the aligned law has no mass, constraints are tightened by this, so that coarse cells prove them.
_MARGIN = 0.15
# Every tilt at the rim keeps this share of the mass, so that M outgrows exp F along every ray.
_RIM = 1e-6
_ROUNDING = 1e-24
# Larger entries of the program count as this, which makes constraints tighter.
_LARGEST = 1e4
# The program is solved to the first share of the slack, in the end to the second; the third is given for fewer tilts.
_PRECISION, _PRECISE, _LIGHT = 0.01, 1e-5, 0.2
# Standard deviations in whitened coordinates count as at least this where they set the spacing of the net.
_NARROWEST = 0.3
# Finer tilts are tried around those of this share of the mass.
_MASSIVE = 1e-3
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


@dataclass(frozen=True, eq=False)
class _Net:
    """Tilts, some of which the program has.

    Arguments:
        nodes: θ, (j, k).
        log_z: log Z(θ), (j,).
        rim: which of them tame M at infinity, (j,).
        active: which of them the program has, (j,).
        places: of the nodes on the finest grid, (j, k).
        gaps: how far from each, on that grid, finer ones are to be tried next, (j,); 0 where they need not be.
        origin, step: nodes are origin + step·places, (k,) each.
    """

    nodes: Floats
    log_z: Floats
    rim: Flags
    active: Flags
    places: Counts
    gaps: Counts
    origin: Floats
    step: Floats


@dataclass(frozen=True, eq=False)
class _Solution:
    """The program's: log μ, (j,), of the active tilts; the logarithms of the prices of its points, (i,), with which
    Σ_i exp(log_prices + ⟨θ, w_i⟩) ≤ Z(θ) for all of them."""

    log_weights: Floats
    log_prices: Floats


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
        variances, sizes = np.diag(covariance), (pilot**2).mean(axis=0)
        # In a coordinate in which all draws agree, up to rounding, any unit will do.
        scales = np.sqrt(np.where(variances > _ROUNDING * sizes, variances, 1.0))
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
        net = self._net(low, high, means, spreads)
        lower, upper = (
            means.min(axis=0) - _REACH * spreads.max(axis=0),
            means.max(axis=0) + _REACH * spreads.max(axis=0),
        )
        core = lower, upper
        if self.box is not None:
            lower, upper = self.box
            core = np.maximum(core[0], lower), np.minimum(core[1], upper)
        points = self._first_points(core[0], core[1], lower, upper)
        rounds, stretch, sparse = 0, 0, False
        least, best = math.inf, None
        while True:
            rounds += 1
            solution = self._weights(net, points, self._margins(points, core), sparse=sparse)
            massive = np.isfinite(solution.log_weights)
            mixture = FiniteMeasure(net.nodes[net.active][massive], solution.log_weights[massive])
            found = self._excess(mixture, lower, upper, stretch)
            while not math.isfinite(found.at_most) and stretch < (_STRETCHES if self.box is None else 0):
                stretch += 1
                found = self._excess(mixture, lower, upper, stretch)
            total = float(np.logaddexp.reduce(solution.log_weights + net.log_z[net.active])) + max(found.at_most, 0.0)
            if best is None or total < least:
                least, best = total, (mixture, found)
            violated = found.values > self.effort.slack
            finer = net if sparse else self._finer(net, solution, points)
            taken = finer.active & ~np.pad(net.active, (0, len(finer.active) - len(net.active)))
            done = not violated.any() and not taken.any()
            if rounds == self.effort.rounds or (done and sparse):
                break
            if done:
                # Interior solutions converge in few rounds, but share masses among many tilts.
                sparse = True
                finer = self._carrying(net, solution)
            points = np.vstack([points, self._spread_out(found.points[violated], core)])
            net = finer
        if rounds == self.effort.rounds:
            # Rounds that ran out end anywhere.
            mixture, found = best
        if not math.isfinite(found.at_most):
            raise IntractableError(
                "No mixture of exponentials was proved to bound exp(r/λ) everywhere.",
                ways_out=["Raise the weight λ.", WITHOUT_BOUND],
                expression=str(self.nonlinear),
            )
        return self._cover(mixture, found, rounds, len(points))

    def _excess(self, mixture: FiniteMeasure, lower: Floats, upper: Floats, stretch: int) -> Excess:
        """How far F may exceed log M; on larger boxes the tangents outgrow F sooner on the rays that leave them."""
        reach, centre = _STRETCH**stretch * (upper - lower) / 2, (upper + lower) / 2
        return excess(
            self.function,
            mixture,
            centre - reach,
            centre + reach,
            slack=self.effort.slack,
            floor=0.0,
            divisions=self.effort.divisions,
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

    def _net(self, low: Floats, high: Floats, means: Floats, spreads: Floats) -> _Net:
        """The tilts to begin with: a grid around the slopes of F."""
        unit = 1.0 / np.clip(np.median(spreads, axis=0), _NARROWEST, None)
        reach = self.effort.extension * unit
        lower, upper = low - reach, high + reach
        counts = np.clip(np.ceil((upper - lower) / (self.effort.spacing * unit)) + 1, 3, self.effort.axis).astype(int)
        places = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, self.k)
        rim = ((places == 0) | (places == counts - 1)).any(axis=1)
        step = (upper - lower) / (counts - 1)
        if self.k > 1:
            # Far from every slope of F a tilt is of no use, but for the corners, which tame M at infinity.
            around = means.mean(axis=0) + (means.std(axis=0) + 2.0) * 2.0 * _sphere(self.k)
            samples = np.vstack([self.pilot[:200], means, around])
            slopes = self.slopes(samples if self.box is None else np.clip(samples, *self.box))
            slopes = slopes[np.isfinite(slopes).all(axis=1)]
            far = np.maximum(reach, step) + step / 2
            nodes = lower + step * places
            kept = ((places == 0) | (places == counts - 1)).all(axis=1)
            for part in np.array_split(slopes, max(1, len(slopes) // 64)):
                kept |= (np.abs(nodes[:, None] - part[None]) <= far).all(axis=2).any(axis=1)
            places, rim = places[kept], rim[kept]
        scale = 2**self.effort.halvings
        nodes = lower + step * places
        return _Net(
            nodes,
            self.log_partition(nodes),
            rim & (self.box is None),
            np.ones(len(nodes), dtype=bool),
            places * scale,
            np.full(len(nodes), scale // 2),
            lower,
            step / scale,
        )

    def _finer(self, net: _Net, solution: _Solution, points: Floats) -> _Net:
        """The net with those tilts active that save mass; some halfway to the neighbours of massive ones are tried."""
        log_masses = solution.log_weights + net.log_z[net.active]
        massive = np.zeros(len(net.nodes), dtype=bool)
        massive[net.active] = log_masses > np.logaddexp.reduce(log_masses) + math.log(_MASSIVE)
        parents = np.flatnonzero(massive & (net.gaps > 0))
        offsets = np.array([step for step in itertools.product((-1, 0, 1), repeat=self.k) if any(step)])
        around = net.places[parents, None] + net.gaps[parents, None, None] * offsets
        known = {place: at for at, place in enumerate(map(tuple, net.places.tolist()))}
        first = len(known)
        children = np.array(
            [known.setdefault(place, len(known)) for place in map(tuple, around.reshape(-1, self.k).tolist())],
            dtype=int,
        ).reshape(len(parents), len(offsets))
        places = np.array(list(known), dtype=np.int64)
        gaps = np.append(net.gaps, np.zeros(len(known) - first, dtype=np.int64))
        nodes = net.origin + net.step * places
        fresh = np.zeros(len(known) - first, dtype=bool)
        log_z = np.append(net.log_z, self.log_partition(nodes[first:]) if fresh.size else [])
        active = np.append(net.active, fresh)
        worth = np.logaddexp.reduce(nodes @ points.T + solution.log_prices, axis=1) - log_z
        # What costs more than it saves is left out, until it does not.
        idle = np.zeros(len(active), dtype=bool)
        idle[np.flatnonzero(active)] = ~np.isfinite(solution.log_weights)
        active &= ~idle | (worth > -math.log1p(self.effort.saving))
        taken = ~active & ~idle & (worth > math.log1p(self.effort.saving))
        # Where no tilt this far saves mass, none that is nearer does.
        halved = net.gaps[parents] // 2
        gaps[parents] = np.where(taken[children].any(axis=1), halved, 0)
        np.maximum.at(gaps, children, np.where(children >= first, halved[:, None], 0))
        return _Net(nodes, log_z, np.append(net.rim, fresh), active | taken, places, gaps, net.origin, net.step)

    def _carrying(self, net: _Net, solution: _Solution) -> _Net:
        """The net with those tilts active that have mass."""
        active = net.active.copy()
        active[net.active] = np.isfinite(solution.log_weights)
        return replace(net, active=active)

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
        widths = core[1] - core[0]
        # All draws of a law may agree in a coordinate.
        apart = np.where(widths > 0, widths, 1.0) / {1: 400, 2: 60, 3: 24}[self.k]
        _, first = np.unique(np.floor(points / apart), axis=0, return_index=True)
        return points[np.sort(first)[: self.effort.cuts]]

    # ---- the program

    def _weights(self, net: _Net, points: Floats, margins: Floats, *, sparse: bool) -> _Solution:
        """Those of the active tilts of least mass with M ≥ exp(F + margin) at the points."""
        nodes, log_z, rim = net.nodes[net.active], net.log_z[net.active], net.rim[net.active]
        target = self.function.value(points) + margins
        exponents = points @ nodes.T - log_z - target[:, None]
        # No cover has less mass than what the most demanding point asks of its best tilt; in this unit masses are
        # near 1.
        unit = float((-exponents.max(axis=1)).max())
        matrix = np.exp(np.minimum(exponents + unit, math.log(_LARGEST)))
        found = solve_covering(matrix, precision=(_PRECISE if sparse else _PRECISION) * self.effort.slack)
        masses = _without_light(matrix, found.masses, _LIGHT * self.effort.slack)
        masses = np.where(rim, np.maximum(masses, _RIM * masses.sum() / max(1, int(rim.sum()))), masses)
        with np.errstate(divide="ignore"):
            return _Solution(np.log(masses) + unit - log_z, np.log(found.prices) + unit - target)

    def _cover(self, mixture: FiniteMeasure, found: Excess, rounds: int, points: int) -> Cover:
        margin = max(found.at_most, 0.0)
        measure = FiniteMeasure(
            mixture.nodes @ self.inverse,
            mixture.log_weights + margin,
            description=f"a cover of {len(mixture.nodes)} tilts",
        )
        return Cover(measure, margin, found.cells, rounds, points)


def _without_light(matrix: Floats, masses: Floats, share: float) -> Floats:
    """Masses m with Am ≥ 1, those of least use left out as far as Am ≥ 1 − share, and the rest made up for by all."""
    uses = matrix * masses
    spare = uses.sum(axis=1) - 1.0 + share
    order = np.argsort((uses / spare[:, None]).max(axis=0), kind="stable")
    lost = np.cumsum(uses[:, order], axis=1)
    kept = masses.copy()
    kept[order[(lost <= spare[:, None]).all(axis=0)]] = 0.0
    return np.asarray(kept / (matrix @ kept).min())


def _grid(lower: Floats, upper: Floats, count: int) -> Floats:
    along = [np.linspace(low, high, count) for low, high in zip(lower, upper, strict=True)]
    return np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, lower.size)


def _sphere(k: int) -> Floats:
    """Directions that spread over the sphere, on the surface of the unit cube."""
    return np.array(
        [point for point in itertools.product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=k) if max(map(abs, point)) == 1.0]
    )
