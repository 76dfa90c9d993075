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

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats

__all__ = ["Program", "Settled", "Surface", "settle", "surface"]

#: Newton steps and changes of the active set before a row is given up.
_STEPS = 60
#: A step below this, relative to 1 + ‖u‖, ends the search.
_STILL = 1e-9
#: Multipliers, as parts of their maximum, and distances to a piece that could become active, relative to 1 + ‖u‖: below
#: these a kink changes under a small change of the problem.
_STRICT, _APART = 1e-6, 1e-7
#: How far the stationary point may be from the solver's answer, relative to 1 + ‖u‖.
_FAR = 1e-2
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

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first piece of each group."""
        return np.flatnonzero(np.diff(self.groups, prepend=-1))

    def tops(self, values: Floats) -> Floats:
        """The maxima of pieces (n, pieces), spread to the pieces of their groups again."""
        if not values.shape[1]:
            return values
        return np.asarray(np.maximum.reduceat(values, self.starts, axis=1)[:, self.groups])


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface on which a row's active pieces agree, to first order.

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
        """ν with Cᵀν = right, for a right side in its range; 0 for differences that depend on others."""
        from scipy.linalg import solve_triangular

        found = np.zeros(len(self.differences))
        if self.rank:
            found[self.order[: self.rank]] = solve_triangular(self.triangle, self.span.T @ right)
        return found

    def shares(self, program: Program, forces: Floats) -> Floats:
        """Changes of the multipliers π, (pieces of the program,), from changes of ν: those of a group add up to 0."""
        moved = np.zeros(program.slopes.shape[0])
        moved[self.pieces] = forces / program.weights[program.groups[self.pieces]]
        np.add.at(moved, self.bases, -moved[self.pieces])
        return moved

    def towards(self, values: Floats) -> Floats:
        """The least step s with Cs = values."""
        from scipy.linalg import solve_triangular

        if not self.rank:
            return np.zeros(self.differences.shape[1])
        right = values[self.order[: self.rank]]
        return np.asarray(self.span @ solve_triangular(self.triangle, right, trans="T"))

    def along(self, curvature: Floats, right: Floats) -> Floats:
        """N (NᵀKN)⁻¹ Nᵀ right, N the tangent."""
        if self.rank == 0:
            return np.asarray(np.linalg.solve(curvature, right))
        tangent = self.tangent
        return np.asarray(tangent @ np.linalg.solve(tangent.T @ curvature @ tangent, tangent.T @ right))


def surface(program: Program, active: Booleans) -> Surface:
    """The surface of a row's active pieces, (pieces,)."""
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
    pending = np.arange(count)
    state.read(program, pending)
    before = state.objective(program, pending)
    for _ in range(_STEPS):
        moved = np.array([state.advance(program, int(row), refusals) for row in pending], dtype=bool)
        going = np.array([int(row) not in refusals and not state.still[row] for row in pending], dtype=bool)
        stale, pending = pending[moved & going], pending[going]
        if not len(pending):
            break
        if len(stale):
            state.read(program, stale)
    for late in pending:
        refusals[int(late)] = "Newton's method with an active set of pieces does not settle from the solver's answer"
    state.read(program, np.arange(count))
    after = state.objective(program, np.arange(count))
    leaving: dict[int, int] = {}
    for row in range(count):
        if row in refusals:
            continue
        allowed = _FAR * (1.0 + np.abs(start[row]).max(initial=0.0)) + 100.0 * reach[row]
        if not np.abs(state.points[row] - start[row]).max(initial=0.0) <= allowed:
            refusals[row] = "the solver's answer is far from a stationary point"
        elif not after[row] >= before[row] - 1e-7 * (1.0 + abs(before[row])):
            refusals[row] = "the stationary point at the solver's answer is no maximiser"
        elif state.is_flat(program, row):
            refusals[row] = _FLAT
        else:
            group = state.unstable_group(program, row)
            if group is not None:
                leaving[row] = group
    return Settled(state.points, state.active, state.multipliers, state.curvature, refusals, leaving)


def _near(program: Program, points: Floats, reach: Floats) -> Booleans:
    """Pieces that could be the maximum within reach of the points; of convex maxima the largest alone."""
    values = program.offsets + points @ program.slopes.T
    gap = program.tops(values) - values
    if not values.shape[1]:
        return np.zeros(values.shape, dtype=bool)
    slack = np.linalg.norm(program.slopes, axis=1)
    largest = np.maximum.reduceat(slack, program.starts)[program.groups]
    rounding = 1e-12 * (1.0 + np.abs(values))
    concave = program.weights[program.groups] > 0
    active = np.where(concave, gap <= 2.0 * reach[:, None] * largest + rounding, gap <= 0.0)
    return _one_of_convex(program, active)


def _one_of_convex(program: Program, active: Booleans) -> Booleans:
    """Of convex maxima the first of equal pieces."""
    for group in np.flatnonzero(program.weights < 0):
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

    def advance(self, program: Program, row: int, refusals: dict[int, str]) -> bool:
        """One step of one row: whether u moved."""
        if not (np.isfinite(self.gradient[row]).all() and np.isfinite(self.curvature[row]).all()):
            refusals[row] = "a derivative of the reward or of the cost is not finite at the maximiser"
            return False
        here = surface(program, self.active[row])
        values = program.offsets[row] + program.slopes @ self.points[row]
        base = self._bases(program, row)
        right = self.gradient[row] - program.weights @ program.slopes[base]
        try:
            start = here.towards(values[here.bases] - values[here.pieces])
            step = start + here.along(self.curvature[row], right - self.curvature[row] @ start)
        except np.linalg.LinAlgError:
            refusals[row] = _FLAT
            return False
        forces = here.multipliers(right - self.curvature[row] @ step)
        if here.rank < len(here.pieces):
            forces = _inside(program, here, right - self.curvature[row] @ step, forces)
        self._share(program, row, here, base, forces)
        falling = self.active[row] & (self.multipliers[row] < _NEGATIVE) & (program.weights[program.groups] > 0)
        if falling.any():
            self.active[row] &= ~self._lowest(program, row, falling)
            return False
        self.points[row] += step
        entered = self._enter(program, row)
        self.still[row] = not entered and np.abs(step).max(initial=0.0) <= _STILL * (
            1.0 + np.abs(self.points[row]).max(initial=0.0)
        )
        return True

    def _bases(self, program: Program, row: int) -> NDArray[np.int64]:
        """The first active piece of each group."""
        chosen = np.flatnonzero(self.active[row])
        return chosen[np.flatnonzero(np.diff(program.groups[chosen], prepend=-1))]

    def _share(self, program: Program, row: int, here: Surface, base: NDArray[np.int64], forces: Floats) -> None:
        """π from the multipliers ν of the differences."""
        shares = here.shares(program, forces)
        shares[base] += 1.0
        self.multipliers[row] = shares

    def _lowest(self, program: Program, row: int, falling: Booleans) -> Booleans:
        """Of the pieces with negative multipliers the lowest of each group."""
        lowest = np.minimum.reduceat(self.multipliers[row], program.starts)[program.groups]
        return np.asarray(falling & (self.multipliers[row] <= lowest))

    def _enter(self, program: Program, row: int) -> bool:
        """Make pieces active that have risen above the active ones."""
        if not program.slopes.shape[0]:
            return False
        values = program.offsets[row] + program.slopes @ self.points[row]
        held = np.maximum.reduceat(np.where(self.active[row], values, -np.inf), program.starts)[program.groups]
        above = ~self.active[row] & (values > held + 1e-12 * (1.0 + np.abs(values)))
        if not above.any():
            return False
        concave = program.weights[program.groups] > 0
        self.active[row] |= above & concave
        if (above & ~concave).any():
            top = program.tops(values[None])[0]
            self.active[row] = np.where(concave, self.active[row], values >= top)
            self.active[row] = _one_of_convex(program, self.active[row][None])[0]
        return True

    def is_flat(self, program: Program, row: int) -> bool:
        """Whether the objective is not strictly concave along the surface."""
        here = surface(program, self.active[row])
        along = here.tangent.T @ self.curvature[row] @ here.tangent if here.rank else self.curvature[row]
        if not along.size:
            return False
        least = float(np.linalg.eigvalsh(along)[0])
        return not least > _DEFINITE * max(float(np.abs(self.curvature[row]).max()), 1e-300)

    def unstable_group(self, program: Program, row: int) -> int | None:
        """A group whose active pieces change under the slightest change, or None."""
        here = surface(program, self.active[row])
        values = program.offsets[row] + program.slopes @ self.points[row]
        if not len(values):
            return None
        shared = np.zeros(len(values), dtype=bool)
        shared[here.pieces] = shared[here.bases] = True
        weak = shared & (self.multipliers[row] < _STRICT)
        base = self._bases(program, row)[program.groups]
        length = np.linalg.norm(program.slopes - program.slopes[base], axis=1)
        apart = _APART * (1.0 + np.abs(self.points[row]).max(initial=0.0)) * length
        weak |= ~self.active[row] & (values[base] - values <= apart) & (length > 0)
        return int(program.groups[np.argmax(weak)]) if weak.any() else None


_FLAT = "the objective is flat or convex in some direction there, so that the maximiser is not unique"


def _inside(program: Program, here: Surface, right: Floats, basic: Floats) -> Floats:
    """Multipliers of dependent differences with the largest least share, found by a linear program."""
    from scipy.optimize import linprog

    groups = program.groups[here.pieces]
    weights = program.weights[groups]
    present = np.unique(groups)
    # Unknowns: the shares of the pieces, and a bound t below them and below what they leave for the base.
    count = len(groups)
    balance = (here.span.T @ here.differences.T) * weights
    equal = np.hstack([balance, np.zeros((len(balance), 1))])
    below = np.hstack([-np.eye(count), np.ones((count, 1))])
    total = np.hstack([(groups[None, :] == present[:, None]).astype(float), np.ones((len(present), 1))])
    found = linprog(
        np.append(np.zeros(count), -1.0), A_ub=np.vstack([below, total]),
        b_ub=np.append(np.zeros(count), np.ones(len(present))), A_eq=equal, b_eq=here.span.T @ right,
        bounds=[(None, None)] * count + [(None, 1.0)], method="highs",
    )  # fmt: skip
    return basic if found.x is None else np.asarray(found.x[:count] * weights)
