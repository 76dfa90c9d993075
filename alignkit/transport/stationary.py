"""Maximisers made stationary to rounding, with the surface of kinks they lie on, and the curvature along it.

Solvers stop within a gap, which leaves a maximiser uncertain by its square root; what a derivative needs is sharper:
which pieces of the kinks hold the maximiser, and that their multipliers are positive. Both follow from Newton's method
on the stationarity conditions with an active set of pieces,

    [ K  Cᵀ ] [ step ]   [ gradient of the smooth part and of one piece of each maximum ]
    [ C  0  ] [  ν   ] = [ how far the active pieces disagree                           ],

K = λ∇²h − ∇²s and C the differences between active pieces: a piece with a negative multiplier leaves, one that would
lie above the maximum enters.

Source: J. Nocedal, S. Wright, "Numerical Optimization", 2006, chapters 16 and 18.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats

__all__ = ["Program", "Settled", "Surface", "settle", "surfaces"]

#: Newton steps and changes of the active set before a row is given up.
_STEPS = 60
#: A step below this, relative to 1 + ‖u‖, ends the search.
_STILL = 1e-9
#: Multipliers, as parts of their maximum, and distances to a piece that could become active, relative to 1 + ‖u‖: below
#: these a kink changes under a small change of the problem.
_STRICT, _APART = 1e-6, 1e-7
#: How far the stationary point may be from the solver's answer, relative to 1 + ‖u‖.
_FAR = 1e-2
#: A share of a maximum that is as good as any larger one.
_AMPLE = 1e-3
#: Multipliers below this are negative beyond rounding.
_NEGATIVE = -1e-9
#: Rows of C below this, relative to its largest, depend on the others.
_DEPENDENT = 1e-10
#: The least curvature along the surface, relative to the largest of K.
_DEFINITE = 1e-10

Booleans = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Program:
    """max_u S(u) − Σ_g weights_g·max {offsets_j + ⟨slopes_j, u⟩: piece j in group g} for each row.

    Arguments:
        smooth: rows u, (n, m), of the numbered rows of the program, (n,), to the value of S, (n,), its gradient (n, m)
            and minus its Hessian, K, (n, m, m).
        slopes: (pieces, m).
        offsets: (rows, pieces).
        groups: (pieces,), ascending.
        weights: (groups,).
    """

    smooth: Callable[[Floats, NDArray[np.int64]], tuple[Floats, Floats, Floats]]
    slopes: Floats
    offsets: Floats
    groups: NDArray[np.int64]
    weights: Floats

    @cached_property
    def known(self) -> dict[bytes, Surface]:
        """The surfaces met so far, by the bits of their pieces."""
        return {}

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first piece of each group."""
        return np.flatnonzero(np.diff(self.groups, prepend=-1))

    def held(self, active: Booleans) -> Booleans:
        """Of active pieces (n, pieces) those of groups with several: what makes a surface."""
        if not active.shape[1]:
            return active
        counts = np.add.reduceat(active, self.starts, axis=1, dtype=np.int64)
        return np.asarray(active & (counts > 1)[:, self.groups])

    def bases(self, active: Booleans) -> Booleans:
        """The first active piece of each group, (n, pieces)."""
        if not active.shape[1]:
            return active
        places = np.arange(active.shape[1])
        first = np.minimum.reduceat(np.where(active, places, active.shape[1]), self.starts, axis=1)
        return np.asarray(first[:, self.groups] == places)

    def tops(self, values: Floats) -> Floats:
        """The maxima of pieces (n, pieces), spread to the pieces of their groups again."""
        if not values.shape[1]:
            return values
        return np.asarray(np.maximum.reduceat(values, self.starts, axis=1)[:, self.groups])


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface on which active pieces agree.

    Arguments:
        differences: C, (c, m).
        pieces: (c,), the piece that each row of C is about, less the one in `bases`.
        bases: (c,).
        span: (m, r), orthonormal, the row space of C; `tangent` (m, m − r) its complement.
        triangle, order: C[order[:r]] = triangleᵀ @ spanᵀ, upper triangular (r, r).
    """

    differences: Floats
    pieces: NDArray[np.int64]
    bases: NDArray[np.int64]
    span: Floats
    tangent: Floats
    triangle: Floats
    order: NDArray[np.int64]

    @property
    def rank(self) -> int:
        """How many of the differences are independent."""
        return int(self.span.shape[1])

    def multipliers(self, right: Floats) -> Floats:
        """ν with Cᵀν = right, for rows in the range of Cᵀ, (n, m) to (n, c); 0 where differences depend on others."""
        from scipy.linalg import solve_triangular

        found = np.zeros((len(right), len(self.differences)))
        if self.rank:
            found[:, self.order[: self.rank]] = solve_triangular(self.triangle, self.span.T @ right.T).T
        return found

    def shares(self, program: Program, forces: Floats) -> Floats:
        """Changes of π, (n, pieces of the program), from changes of ν, (n, c): those of a group add up to 0."""
        moved = np.zeros((len(forces), program.slopes.shape[0]))
        moved[:, self.pieces] = forces / program.weights[program.groups[self.pieces]]
        np.add.at(moved.T, self.bases, -moved[:, self.pieces].T)
        return moved

    def towards(self, values: Floats) -> Floats:
        """The least steps s with Cs = values, (n, c) to (n, m)."""
        from scipy.linalg import solve_triangular

        if not self.rank:
            return np.zeros((len(values), self.differences.shape[1]))
        right = values[:, self.order[: self.rank]]
        return np.asarray((self.span @ solve_triangular(self.triangle, right.T, trans="T")).T)

    def restricted(self, curvature: Floats) -> Floats:
        """NᵀKN, N the tangent, (n, m, m) to (n, m − r, m − r)."""
        return np.asarray(self.tangent.T @ curvature @ self.tangent) if self.rank else curvature

    def along(self, curvature: Floats, right: Floats) -> Floats:
        """N (NᵀKN)⁻¹ Nᵀ right of rows; NaN where NᵀKN is singular."""
        system, projected = self.restricted(curvature), right @ self.tangent if self.rank else right
        try:
            solved = np.linalg.solve(system, projected[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            solved = np.stack([_solved(one, other) for one, other in zip(system, projected, strict=True)])
        return np.asarray(solved @ self.tangent.T if self.rank else solved)


def _solved(system: Floats, right: Floats) -> Floats:
    try:
        return np.asarray(np.linalg.solve(system, right))
    except np.linalg.LinAlgError:
        return np.full(len(right), np.nan)


def surfaces(program: Program, active: Booleans, rows: NDArray[np.int64]) -> list[tuple[Surface, NDArray[np.int64]]]:
    """The surfaces of active pieces, (n, pieces), each with those of the given rows that are on it."""
    if not len(rows):
        return []
    held = program.held(active[rows])
    if not held.any():
        return [(surface(program, np.zeros(active.shape[1], dtype=bool)), rows)]
    packed = np.packbits(held, axis=1)
    _, which = np.unique(packed, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(which.ravel()[order])) + 1)
    found = []
    for part in parts:
        known = packed[part[0]].tobytes()
        if known not in program.known:
            program.known[known] = surface(program, held[part[0]])
        found.append((program.known[known], rows[part]))
    return found


def surface(program: Program, active: Booleans) -> Surface:
    """The surface of pieces that are equal in their groups, (pieces,)."""
    chosen = np.flatnonzero(active)
    first = np.flatnonzero(np.diff(program.groups[chosen], prepend=-1))
    bases = chosen[first][np.searchsorted(program.groups[chosen[first]], program.groups[chosen])]
    other = chosen != bases
    pieces, bases = chosen[other], bases[other]
    differences = program.slopes[pieces] - program.slopes[bases]
    size = program.slopes.shape[1]
    if not len(pieces):
        empty = np.zeros((size, 0))
        return Surface(differences, pieces, bases, empty, np.eye(size), np.zeros((0, 0)), np.zeros(0, dtype=np.int64))
    from scipy.linalg import qr

    frame, triangle, order = qr(differences.T, pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    rank = int((diagonal > _DEPENDENT * max(diagonal.max(initial=0.0), 1e-300)).sum())
    return Surface(
        differences, pieces, bases, frame[:, :rank], frame[:, rank:], triangle[:rank, :rank], np.asarray(order)
    )


@dataclass(frozen=True, eq=False)
class Settled:
    """Rows at stationary points.

    Arguments:
        maximiser: u, (n, m).
        active: (n, pieces), the pieces equal to their maximum.
        multipliers: π, (n, pieces), which sum to 1 in each group.
        curvature: K, (n, m, m).
        refusals: from the number of a row to why there is no derivative.
        leaving: from the number of a row to the group that is at a kink which the slightest change leaves.
    """

    maximiser: Floats
    active: Booleans
    multipliers: Floats
    curvature: Floats
    refusals: dict[int, str]
    leaving: dict[int, int]


def settle(program: Program, start: Floats, reach: Floats) -> Settled:
    """Newton's method with an active set, from a solver's answer.

    Arguments:
        program: what is maximised.
        start: u, (n, m).
        reach: (n,), how far the maximiser may be from it: pieces that could meet within it are active at first.

    Returns:
        the stationary points; a row that has none nearby, or none that is an isolated, stable maximiser, is refused.
    """
    count, size = start.shape
    state = _State(
        start.copy(), _near(program, start, reach), np.zeros((count, program.slopes.shape[0])),
        np.zeros((count, size, size)), np.zeros(count), np.zeros((count, size)),
    )  # fmt: skip
    refusals: dict[int, str] = {}
    everything = np.arange(count)
    state.read(program, everything)
    before = state.objective(program, everything)
    pending = everything
    for _ in range(_STEPS):
        moved = np.concatenate(
            [state.advance(program, *part, refusals) for part in surfaces(program, state.active, pending)]
        )
        if refusals:
            moved, pending = (rows[~np.isin(rows, list(refusals))] for rows in (moved, pending))
        pending, stale = pending[~state.still[pending]], moved[~state.still[moved]]
        if not len(pending):
            break
        if len(stale):
            state.read(program, stale)
    for late in pending:
        refusals[int(late)] = "Newton's method with an active set of pieces does not settle from the solver's answer"
    state.read(program, everything)
    after = state.objective(program, everything)
    distance = np.abs(state.points - start).max(axis=1, initial=0.0)
    far = ~(distance <= _FAR * (1.0 + np.abs(start).max(axis=1, initial=0.0)) + 100.0 * reach)
    worse = ~(after >= before - 1e-7 * (1.0 + np.abs(before)))
    checks = (
        (far, "the solver's answer is far from a stationary point"),
        (worse, "the stationary point at the solver's answer is no maximiser"),
        (state.flat(program), _FLAT),
    )
    for failed, reason in checks:
        for row in np.flatnonzero(failed):
            refusals.setdefault(int(row), reason)
    unstable = state.unstable_groups(program)
    leaving = {int(row): int(unstable[row]) for row in np.flatnonzero(unstable >= 0) if int(row) not in refusals}
    return Settled(state.points, state.active, state.multipliers, state.curvature, refusals, leaving)


def _near(program: Program, points: Floats, reach: Floats) -> Booleans:
    """Pieces that could be the maximum within reach of the points; but one of maxima that are no concave summands."""
    values = program.offsets + points @ program.slopes.T
    gap = program.tops(values) - values
    if not values.shape[1]:
        return np.zeros(values.shape, dtype=bool)
    slack = np.linalg.norm(program.slopes, axis=1)
    largest = np.maximum.reduceat(slack, program.starts)[program.groups]
    rounding = 1e-12 * (1.0 + np.abs(values))
    concave = program.weights[program.groups] > 0
    active = np.where(concave, gap <= 2.0 * reach[:, None] * largest + rounding, gap <= 0.0)
    return _one_of_others(program, active)


def _one_of_others(program: Program, active: Booleans) -> Booleans:
    """Of maxima that are no concave summands the first of equal pieces."""
    for group in np.flatnonzero(program.weights <= 0):
        members = np.flatnonzero(program.groups == group)
        first = members[np.argmax(active[:, members], axis=1)]
        active[:, members] = False
        active[np.arange(len(active)), first] = True
    return active


@dataclass(eq=False)
class _State:
    """Rows on their way: u, the active pieces, π, and S with its derivatives at u."""

    points: Floats
    active: Booleans
    multipliers: Floats
    curvature: Floats
    value: Floats
    gradient: Floats

    def __post_init__(self) -> None:
        self.still = np.zeros(len(self.points), dtype=bool)

    def read(self, program: Program, rows: NDArray[np.int64]) -> None:
        """Evaluate S at some rows."""
        found = program.smooth(self.points[rows], rows)
        self.value[rows], self.gradient[rows], self.curvature[rows] = found

    def objective(self, program: Program, rows: NDArray[np.int64]) -> Floats:
        """The objective at some rows, after `read`."""
        values = program.offsets[rows] + self.points[rows] @ program.slopes.T
        if not values.shape[1]:
            return self.value[rows].copy()
        return np.asarray(self.value[rows] - np.maximum.reduceat(values, program.starts, axis=1) @ program.weights)

    def advance(
        self, program: Program, here: Surface, rows: NDArray[np.int64], refusals: dict[int, str]
    ) -> NDArray[np.int64]:
        """One step of rows on one surface: those that moved."""
        finite = np.isfinite(self.gradient[rows]).all(axis=1) & np.isfinite(self.curvature[rows]).all(axis=(1, 2))
        refusals.update(dict.fromkeys(rows[~finite].tolist(), _NOT_FINITE))
        rows = rows[finite]
        if not len(rows):
            return rows
        values = program.offsets[rows] + self.points[rows] @ program.slopes.T
        right = (
            self.gradient[rows] - (program.bases(self.active[rows]) * program.weights[program.groups]) @ program.slopes
        )
        start = here.towards(values[:, here.bases] - values[:, here.pieces])
        step = start + here.along(self.curvature[rows], right - _applied(self.curvature[rows], start))
        solved = np.isfinite(step).all(axis=1)
        refusals.update(dict.fromkeys(rows[~solved].tolist(), _FLAT))
        rows, step, right = rows[solved], step[solved], right[solved]
        rest = right - _applied(self.curvature[rows], step)
        forces = here.multipliers(rest)
        if here.rank < len(here.pieces):
            for place, needed in enumerate(rest):
                forces[place] = _inside(program, here, needed, forces[place])
        self.multipliers[rows] = here.shares(program, forces) + program.bases(self.active[rows])
        falling = self.active[rows] & (self.multipliers[rows] < _NEGATIVE) & (program.weights[program.groups] > 0)
        stays = falling.any(axis=1)
        if stays.any():
            lowest = np.minimum.reduceat(self.multipliers[rows], program.starts, axis=1)[:, program.groups]
            self.active[rows] &= ~(falling & (self.multipliers[rows] <= lowest))
        rows, step = rows[~stays], step[~stays]
        self.points[rows] += step
        entered = self._enter(program, rows)
        size = np.abs(self.points[rows]).max(axis=1, initial=0.0)
        self.still[rows] = ~entered & (np.abs(step).max(axis=1, initial=0.0) <= _STILL * (1.0 + size))
        return rows

    def _enter(self, program: Program, rows: NDArray[np.int64]) -> Booleans:
        """Make pieces active that have risen above the active ones: for which rows there were any."""
        if not program.slopes.shape[0]:
            return np.zeros(len(rows), dtype=bool)
        values = program.offsets[rows] + self.points[rows] @ program.slopes.T
        active = self.active[rows]
        held = np.maximum.reduceat(np.where(active, values, -np.inf), program.starts, axis=1)[:, program.groups]
        above = ~active & (values > held + 1e-12 * (1.0 + np.abs(values)))
        concave = program.weights[program.groups] > 0
        changed = np.where(concave, active | above, values >= program.tops(values))
        risen = above.any(axis=1)
        self.active[rows[risen]] = _one_of_others(program, changed[risen])
        return np.asarray(risen)

    def flat(self, program: Program) -> Booleans:
        """Rows whose objective is not strictly concave along their surface, (n,)."""
        found = np.zeros(len(self.points), dtype=bool)
        finite = np.flatnonzero(np.isfinite(self.curvature).all(axis=(1, 2)))
        for here, rows in surfaces(program, self.active, finite):
            along = here.restricted(self.curvature[rows])
            if along.shape[1]:
                least = _DEFINITE * np.maximum(np.abs(self.curvature[rows]).max(axis=(1, 2)), 1e-300)
                try:
                    np.linalg.cholesky(along - least[:, None, None] * np.eye(along.shape[1]))
                except np.linalg.LinAlgError:
                    found[rows] = ~(np.linalg.eigvalsh(along)[:, 0] > least)
        return found

    def unstable_groups(self, program: Program) -> NDArray[np.int64]:
        """A group of each row whose active pieces change under the slightest change; −1 for none, (n,)."""
        if not program.slopes.shape[0]:
            return np.full(len(self.points), -1)
        values = program.offsets + self.points @ program.slopes.T
        lengths = np.linalg.norm(program.slopes, axis=1)
        lengths = lengths + np.maximum.reduceat(lengths, program.starts)[program.groups]
        apart = _APART * (1.0 + np.abs(self.points).max(axis=1, initial=0.0))[:, None] * lengths
        weak = program.held(self.active) & (self.multipliers < _STRICT)
        weak |= ~self.active & (program.tops(values) - values <= apart)
        return np.where(weak.any(axis=1), program.groups[np.argmax(weak, axis=1)], -1)


def _applied(matrices: Floats, rows: Floats) -> Floats:
    """A matrix of each row applied to it."""
    return np.asarray(np.matmul(matrices, rows[:, :, None])[:, :, 0])


_NOT_FINITE = "a derivative of the reward or of the cost is not finite at the maximiser"
_FLAT = "the objective is flat or convex in some direction there, so that the maximiser is not unique"


def _inside(program: Program, here: Surface, right: Floats, basic: Floats) -> Floats:
    """Multipliers of dependent differences, positive where they can be, found by a linear program.

    It maximises the sum of the least shares of the groups, each up to `_AMPLE`: so a group whose shares cannot all be
    positive does not spoil the others.
    """
    from scipy.optimize import linprog

    groups = program.groups[here.pieces]
    weights = program.weights[groups]
    present, place = np.unique(groups, return_inverse=True)
    member = (place[:, None] == np.arange(len(present))).astype(np.float64)
    # Unknowns: the shares of the pieces, and for each group a bound below them and below what they leave for the base.
    count = len(groups)
    balance = (here.span.T @ here.differences.T) * weights
    equal = np.hstack([balance, np.zeros((len(balance), len(present)))])
    below = np.vstack([np.hstack([-np.eye(count), member]), np.hstack([member.T, np.eye(len(present))])])
    found = linprog(
        np.append(np.zeros(count), -np.ones(len(present))),
        A_ub=below,
        b_ub=np.append(np.zeros(count), np.ones(len(present))),
        A_eq=equal,
        b_eq=here.span.T @ right,
        bounds=[(None, None)] * count + [(None, _AMPLE)] * len(present),
        method="highs",
    )
    return basic if found.x is None else np.asarray(found.x[:count] * weights)
