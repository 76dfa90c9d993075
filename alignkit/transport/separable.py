"""Rewards that are sums of piecewise quadratics of single coordinates, f(w) = Σ_i p_i(w_i), recognised by structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.expressions import Expression
from alignkit.expressions.arrays import is_operator, is_sparse
from alignkit.expressions.atom import Reduction
from alignkit.expressions.atoms.elementwise import Abs, Huber, Neg, Pos
from alignkit.expressions.atoms.norms import Norm1, Norm2, NormInf
from alignkit.expressions.atoms.order import Max, Maximum, Min, Minimum
from alignkit.expressions.splitting import Curved, Split, Term, affine_over, spread

__all__ = ["Inseparable", "Separable", "separable_form"]

#: Entries of a row below this, relative to its largest, count as zero; the error is bounded and carried along.
_NEGLIGIBLE = 1e-12
#: Largest table of pieces, in entries (512 MB a column).
_LARGEST_TABLE = 2**26

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Inseparable:
    """Why an expression is not a sum of piecewise quadratics of single coordinates.

    Arguments:
        reason: a sentence that names the summand.
    """

    reason: str


@dataclass(frozen=True, eq=False)
class Separable:
    """Σ_i p_i(w_i) by the derivatives: p_i'(z) = slopes[i, j]·z + intercepts[i, j] between kinks j − 1 and j.

    Arguments:
        kinks: where the pieces meet, (k, m), ascending, padded with inf.
        slopes: p_i'' on each piece, (k, m + 1).
        intercepts: (k, m + 1).
        dropped_linear: ε, and
        dropped_quadratic: η: entries that were set to zero change f(z) by at most ε‖z‖ + η‖z‖².
    """

    kinks: Floats
    slopes: Floats
    intercepts: Floats
    dropped_linear: float = 0.0
    dropped_quadratic: float = 0.0

    def obstacle(self, weight: float) -> str | None:
        """Why some p_i(z) − (λ/2)z² is not strictly concave; None when all are."""
        steepest = float(self.slopes.max(initial=0.0)) + 4.0 * self.dropped_quadratic
        if steepest >= weight * (1 - 1e-10):
            return f"its curvature reaches {steepest:.6g}, and λ = {weight:.6g} does not exceed it"
        with np.errstate(invalid="ignore"):
            kinks = np.where(np.isinf(self.kinks), 0.0, self.kinks)
            before = self.slopes[:, :-1] * kinks + self.intercepts[:, :-1]
            after = self.slopes[:, 1:] * kinks + self.intercepts[:, 1:]
        slack = 1e-12 * (np.abs(before) + np.abs(after))
        rising = ~np.isinf(self.kinks) & (after > before + slack)
        if rising.any():
            coordinate, kink = map(int, np.argwhere(rising)[0])
            return f"it has a convex kink, at {self.kinks[coordinate, kink]:.6g} in coordinate {coordinate}"
        return None


@dataclass
class _Pieces:
    """Derivatives under construction: a base line for each coordinate, and changes of that line at kinks."""

    dimension: int
    slopes: Floats = field(init=False)
    intercepts: Floats = field(init=False)
    coordinates: list[Indices] = field(default_factory=list)
    positions: list[Floats] = field(default_factory=list)
    bends: list[Floats] = field(default_factory=list)
    jumps: list[Floats] = field(default_factory=list)
    dropped_linear: float = 0.0
    dropped_quadratic: float = 0.0

    def __post_init__(self) -> None:
        self.slopes, self.intercepts = np.zeros(self.dimension), np.zeros(self.dimension)

    def add_line(self, coordinates: Indices, slopes: Floats | float, intercepts: Floats | float) -> None:
        """Add slopes·z + intercepts to the derivatives of some coordinates."""
        np.add.at(self.slopes, coordinates, slopes)
        np.add.at(self.intercepts, coordinates, intercepts)

    def add_kinks(self, coordinates: Indices, positions: Floats, bends: Floats, jumps: Floats) -> None:
        """Add bends·z + jumps to the derivatives right of the positions."""
        self.coordinates.append(coordinates)
        self.positions.append(positions)
        self.bends.append(bends)
        self.jumps.append(jumps)

    def finish(self) -> Separable | Inseparable:
        coordinates = np.concatenate([*self.coordinates, np.empty(0, dtype=np.int64)])
        positions, bends, jumps = (
            np.concatenate([*parts, np.empty(0)]) for parts in (self.positions, self.bends, self.jumps)
        )
        order = np.lexsort((positions, coordinates))
        coordinates, positions = coordinates[order], positions[order]
        counts = np.bincount(coordinates, minlength=self.dimension)
        width = int(counts.max(initial=0))
        if self.dimension * (width + 1) > _LARGEST_TABLE:
            return Inseparable(f"its table of {self.dimension} × {width + 1} pieces is too large")
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(coordinates)) - starts[coordinates]
        kinks = np.full((self.dimension, width), np.inf)
        slopes, intercepts = np.zeros((2, self.dimension, width + 1))
        slopes[:, 0], intercepts[:, 0] = self.slopes, self.intercepts
        kinks[coordinates, rank] = positions
        slopes[coordinates, rank + 1], intercepts[coordinates, rank + 1] = bends[order], jumps[order]
        return Separable(
            kinks, np.cumsum(slopes, axis=1), np.cumsum(intercepts, axis=1), self.dropped_linear, self.dropped_quadratic
        )


@dataclass(frozen=True)
class _Entries:
    """Entries slope·w[coordinate] + offset of an affine argument, (m,) each, with the norms of what was dropped."""

    coordinates: Indices
    slopes: Floats
    offsets: Floats
    dropped: Floats


def separable_form(parts: Split) -> Separable | Inseparable:
    """Write a split expression as Σ_i p_i(w_i) with piecewise-quadratic p_i.

    Arguments:
        parts: f, as `split` gave it.

    Returns:
        the pieces; or the summand that couples coordinates, or that is not piecewise quadratic.

    Example:
        >>> from alignkit.expressions import Variable, norm1
        >>> from alignkit.expressions.splitting import split
        >>> form = separable_form(split(-norm1(Variable(2) - 1.0)))
        >>> form.kinks.ravel(), form.intercepts[0]
        (array([1., 1.]), array([ 1., -1.]))
    """
    pieces = _Pieces(parts.dimension)
    pieces.add_line(np.arange(parts.dimension), 0.0, parts.vector)
    reason = _add_curved(pieces, parts)
    if reason is not None:
        return Inseparable(reason)
    for term in parts.terms:
        reason = _add_term(pieces, term)
        if reason is not None:
            return Inseparable(f"{term.atom} {reason}")
    return pieces.finish()


def _add_curved(pieces: _Pieces, parts: Split) -> str | None:
    coupled: list[Curved] = []
    for part in parts.curved:
        entries = _entries(part.inside.matrix, part.inside.offset) if part.weights.ndim == 1 else None
        if entries is None:
            coupled.append(part)
            continue
        doubled = 2.0 * part.weights
        pieces.add_line(entries.coordinates, doubled * entries.slopes**2, doubled * entries.slopes * entries.offsets)
        size, dropped = np.abs(part.weights), entries.dropped
        pieces.dropped_linear += float(np.sum(2.0 * size * np.abs(entries.offsets) * dropped))
        pieces.dropped_quadratic += float(np.sum(size * (2.0 * np.abs(entries.slopes) + dropped) * dropped))
    if not coupled:
        return None
    # Squares that couple coordinates one by one may still add up to a diagonal Hessian.
    total = Split(parts.dimension, tuple(coupled), (), np.zeros(parts.dimension), 0.0)
    if not total.has_small_hessian:
        return f"{coupled[0].atom} couples coordinates, and k = {parts.dimension} is too large to add up Hessians"
    matrix, vector = total.quadratic.matrix, total.quadratic.vector
    diagonal = np.diagonal(matrix)
    rest = matrix - np.diag(diagonal)
    if np.abs(rest).max(initial=0.0) > _NEGLIGIBLE * np.abs(diagonal).max(initial=0.0):
        return f"{coupled[0].atom} couples coordinates"
    pieces.add_line(np.arange(parts.dimension), diagonal, vector)
    pieces.dropped_quadratic += 0.5 * float(np.linalg.norm(rest))
    return None


def _add_term(pieces: _Pieces, term: Term) -> str | None:
    atom = term.atom
    for kinds, add in _RULES:
        if isinstance(atom, kinds):
            if not all(arg.is_affine() for arg in atom.args):
                return "has an argument that is not affine"
            return add(pieces, term)
    if isinstance(atom, Norm2 | NormInf) and atom.count == 1:
        return _add_abs(pieces, term)
    return "is not piecewise quadratic in single coordinates"


def _add_pos(pieces: _Pieces, term: Term) -> str | None:
    """max(a, 0), or max(−a, 0)."""
    inside = affine_over(term.atom.args[0], pieces.dimension)
    if isinstance(term.atom, Neg):
        return _add_pos_of(pieces, term.coefficients, -inside.matrix, -inside.offset)
    return _add_pos_of(pieces, term.coefficients, inside.matrix, inside.offset)


def _add_pos_of(pieces: _Pieces, coefficients: Floats, matrix: Any, offset: Floats) -> str | None:
    """Add Σ c·max(a, 0) for the affine a = matrix @ w + offset."""
    entries = _entries(matrix, offset)
    if entries is None:
        return "couples coordinates"
    pieces.dropped_linear += float(np.sum(np.abs(coefficients) * entries.dropped))
    moving = entries.slopes != 0.0
    coordinates, slopes = entries.coordinates[moving], entries.slopes[moving]
    rate = coefficients[moving] * slopes
    pieces.add_line(coordinates, 0.0, np.where(slopes < 0, rate, 0.0))
    pieces.add_kinks(
        coordinates, -entries.offsets[moving] / slopes, np.zeros(len(rate)), np.abs(slopes) * coefficients[moving]
    )
    return None


def _add_abs(pieces: _Pieces, term: Term) -> str | None:
    """|a| = 2·max(a, 0) − a."""
    inside = affine_over(term.atom.args[0], pieces.dimension)
    coefficients = spread(term.atom, term.coefficients)
    reason = _add_pos_of(pieces, 2.0 * coefficients, inside.matrix, inside.offset)
    pieces.add_line(np.arange(pieces.dimension), 0.0, -np.ravel(inside.matrix.T @ coefficients))
    return reason


def _add_huber(pieces: _Pieces, term: Term) -> str | None:
    atom = term.atom
    assert isinstance(atom, Huber)
    inside = affine_over(atom.args[0], pieces.dimension)
    entries = _entries(inside.matrix, inside.offset)
    if entries is None:
        return "couples coordinates"
    pieces.dropped_linear += float(np.sum(2.0 * atom.M * np.abs(term.coefficients) * entries.dropped))
    moving = entries.slopes != 0.0
    coordinates, slopes, offsets = entries.coordinates[moving], entries.slopes[moving], entries.offsets[moving]
    doubled = 2.0 * term.coefficients[moving]
    far = doubled * atom.M * np.abs(slopes)
    pieces.add_line(coordinates, 0.0, -far)
    # The derivative is −far left of the first kink, 2c·a(az + b) between the two, and far after the second.
    first, second = (-np.sign(slopes) * atom.M - offsets) / slopes, (np.sign(slopes) * atom.M - offsets) / slopes
    bend, level = doubled * slopes**2, doubled * slopes * offsets
    pieces.add_kinks(coordinates, first, bend, level + far)
    pieces.add_kinks(coordinates, second, -bend, far - level)
    return None


def _add_maximum(pieces: _Pieces, term: Term) -> str | None:
    """Both `maximum` of arrays, and `max` along axes, with `minimum` and `min` as their mirror images."""
    sign = -1.0 if isinstance(term.atom, Min | Minimum) else 1.0
    maps = [affine_over(arg, pieces.dimension) for arg in term.atom.args]
    if any(is_operator(inside.matrix) for inside in maps):
        return "takes its argument from an operator"
    if isinstance(term.atom, Reduction):
        members = _groups(term.atom)
        lines = [(sign * maps[0].matrix[group], sign * maps[0].offset[group]) for group in members]
    else:
        lines = [(sign * inside.matrix, sign * inside.offset) for inside in maps]
    # max_j a_j = a_1 + max(0, max_j (a_j − a_1)): only differences need lie on one coordinate.
    coefficients = sign * term.coefficients
    base_matrix, base_offset = lines[0]
    differences = [(matrix - base_matrix, offset - base_offset) for matrix, offset in lines[1:]]
    pieces.add_line(np.arange(pieces.dimension), 0.0, np.ravel(base_matrix.T @ coefficients))
    if len(differences) == 1:
        return _add_pos_of(pieces, coefficients, *differences[0])
    return _add_envelopes(pieces, coefficients, differences) if differences else None


def _groups(atom: Reduction) -> Indices:
    """The entries of a reduction's argument by group: (count, atom.size), column j reduces to entry j."""
    shape = atom.args[0].shape
    axes = tuple(range(len(shape))) if atom.axis is None else np.atleast_1d(atom.axis).tolist()
    order = [*axes, *(axis for axis in range(len(shape)) if axis not in axes)]
    return np.arange(atom.args[0].size).reshape(shape).transpose(order).reshape(atom.count, atom.size)


def _add_envelopes(pieces: _Pieces, coefficients: Floats, differences: list[tuple[Any, Floats]]) -> str | None:
    """Add Σ c·max(0, d_1, d_2, …), entry by entry, each of one coordinate."""
    found = [_entries(matrix, offset) for matrix, offset in differences]
    rows = [entries for entries in found if entries is not None]
    if len(rows) < len(found):
        return "couples coordinates"
    for entries in rows:
        pieces.dropped_linear += float(np.sum(np.abs(coefficients) * entries.dropped))
    slopes = np.array([np.zeros_like(coefficients), *(entries.slopes for entries in rows)])
    offsets = np.array([np.zeros_like(coefficients), *(entries.offsets for entries in rows)])
    coordinates = np.array([rows[0].coordinates, *(entries.coordinates for entries in rows)])
    for column, coefficient in enumerate(coefficients):
        moving = slopes[:, column] != 0.0
        touched = np.unique(coordinates[moving, column])
        if len(touched) > 1:
            return "couples coordinates"
        if len(touched) == 1:
            kinks, steps = _upper_envelope(slopes[:, column], offsets[:, column])
            place = np.full(len(kinks), touched[0])
            pieces.add_line(touched, 0.0, coefficient * steps[0])
            pieces.add_kinks(place, kinks, np.zeros(len(kinks)), coefficient * np.diff(steps))
    return None


def _upper_envelope(slopes: Floats, offsets: Floats) -> tuple[Floats, Floats]:
    """Kinks (j,) and slopes (j + 1,) of t ↦ max_i slopes[i]·t + offsets[i]."""
    hull: list[tuple[float, float, float]] = []
    for slope, offset in sorted(zip(slopes.tolist(), offsets.tolist(), strict=True)):
        start = -np.inf
        while hull:
            last_slope, last_offset, last_start = hull[-1]
            if slope > last_slope:
                start = (last_offset - offset) / (slope - last_slope)
                if start > last_start:
                    break
            hull.pop()
            start = -np.inf
        hull.append((slope, offset, start))
    return np.array([start for _, _, start in hull[1:]]), np.array([slope for slope, _, _ in hull])


def _entries(matrix: Any, offset: Floats) -> _Entries | None:
    """The rows of an affine map as functions of one coordinate each; None when a row touches several."""
    if is_operator(matrix):
        return None
    count = matrix.shape[0]
    if is_sparse(matrix):
        coo = matrix.tocoo()
        rows, columns, values = coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data
    else:
        rows, columns = np.nonzero(matrix)
        values = matrix[rows, columns]
    largest = np.zeros(count)
    np.maximum.at(largest, rows, np.abs(values))
    kept = np.abs(values) > _NEGLIGIBLE * largest[rows]
    if np.bincount(rows[kept], minlength=count).max(initial=0) > 1:
        return None
    coordinates, slopes = np.zeros(count, dtype=np.int64), np.zeros(count)
    coordinates[rows[kept]], slopes[rows[kept]] = columns[kept], values[kept]
    dropped = np.sqrt(np.bincount(rows[~kept], weights=values[~kept] ** 2, minlength=count))
    return _Entries(coordinates, slopes, offset, dropped)


_Rule = Callable[[_Pieces, Term], str | None]

_RULES: tuple[tuple[tuple[type[Expression], ...], _Rule], ...] = (
    ((Abs, Norm1), _add_abs),
    ((Pos, Neg), _add_pos),
    ((Huber,), _add_huber),
    ((Max, Min, Maximum, Minimum), _add_maximum),
)
