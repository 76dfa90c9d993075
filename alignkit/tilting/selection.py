"""Which tilt measure a convex reward takes: by its summands, each by what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import IntractableError
from alignkit.expressions import Expression, Variable, abs as absolute, as_expression, vec
from alignkit.expressions.arrays import is_operator, is_sparse
from alignkit.expressions.atom import Atom, substitute
from alignkit.expressions.atoms.elementwise import Elementwise
from alignkit.expressions.atoms.norms import Norm1, NormInf
from alignkit.expressions.atoms.order import LogSumExp, Max, Maximum, Min, Minimum
from alignkit.expressions.expression import topological
from alignkit.expressions.growth import Growth
from alignkit.expressions.linear import linear_form
from alignkit.expressions.splitting import Split, Term, affine_over, split, spread
from alignkit.tilting.cover import COVER_DIMENSION_MAX, cover
from alignkit.tilting.lattice import gaussian_lattice
from alignkit.tilting.measures import (
    FiniteMeasure,
    GaussianMeasure,
    LabelsMeasure,
    PointMeasure,
    ProductMeasure,
    TiltMeasure,
)

__all__ = ["choose_finite", "choose_measure", "has_finite_measure", "missing_measure"]

#: log Z of tilts under the law that is tilted, (j, k) to (j,).
LogPartition = Callable[[Floats], Floats]
Box = tuple[Floats, Floats]

# A mixture of so many pieces is listed beyond three dimensions, and so many sums of labels in any.
_PIECES_MAX, _POINTS_MAX = 64, 5_000
# A product of so few tilts is summed over while its next factor is chosen. Beyond that the rims of covers are kept
# near, as those of correlated factors would add up and outweigh all else.
_SUMMED_MAX, _NEAR = 400, 0.5
# Singular values below this, relative to the largest, are dependent rows.
_RANK = 1e-10
_NEGATIVE = 1e-10


@dataclass(frozen=True, eq=False)
class _Tilted:
    """What is known of the law that is tilted; the fields are the arguments of `choose_measure`."""

    weight: float
    pilot: Floats
    box: Box | None
    log_partition: LogPartition
    extension: float | None = None

    def times(self, measure: FiniteMeasure) -> _Tilted:
        """The law that is tilted, times M: what the next factor of a product is a measure for."""

        def log_partition(tilts: Floats) -> Floats:
            every = (tilts[:, None] + measure.nodes[None]).reshape(-1, tilts.shape[1])
            return np.asarray(np.logaddexp.reduce(self.log_partition(every).reshape(len(tilts), -1) + weights, axis=1))

        weights = measure.log_weights
        return replace(self, log_partition=log_partition)


@dataclass(frozen=True, eq=False)
class _Summand:
    """A convex function of few combinations of w.

    Arguments:
        function: g, an expression of one variable u of shape (r,).
        rows: (r, k), orthonormal, with u = rows @ w.
    """

    function: Expression
    rows: Floats

    def covered(self, law: _Tilted) -> FiniteMeasure:
        """A cover of exp(g/λ), over w."""
        seen = None
        if law.box is not None:
            ends = self.rows[:, :, None] * np.stack(law.box, axis=1)
            seen = ends.min(axis=2).sum(axis=1), ends.max(axis=2).sum(axis=1)
        found = cover(
            self.function,
            law.weight,
            pilot=law.pilot @ self.rows.T,
            box=seen,
            log_partition=lambda tilts: law.log_partition(tilts @ self.rows),
            extension=law.extension,
        ).measure
        return FiniteMeasure(found.nodes @ self.rows, found.log_weights, description=found.description)

    def outgrows(self) -> bool:
        """Whether g may grow faster than linearly."""
        axes = np.eye(self.rows.shape[0])
        return not np.isfinite(Growth(self.function).recession(np.vstack([axes, -axes]))).all()


@dataclass(frozen=True, eq=False)
class _Pieces:
    """c·max_i (⟨a_i, w⟩ + b_i), or with `smooth` c·log Σ_i exp(⟨a_i, w⟩ + b_i): slopes (m, k), offsets (m,), c > 0."""

    slopes: Floats
    offsets: Floats
    scale: float
    smooth: bool

    def measure(self, weight: float) -> TiltMeasure:
        """Labels, or a point for each piece."""
        if self.smooth:
            return LabelsMeasure(self.slopes, self.offsets, self.scale / weight)
        ratio = self.scale / weight
        return FiniteMeasure(
            ratio * self.slopes, ratio * self.offsets, tempered=True, description=f"{self.offsets.size} affine pieces"
        )


class _Parts:
    """f as its quadratic part and its other summands, on which every choice is made."""

    def __init__(self, nonlinear: Expression) -> None:
        self.nonlinear = nonlinear
        self.split: Split = split(nonlinear)
        self.k = self.split.dimension

    @cached_property
    def is_quadratic_convex(self) -> bool:
        """Whether the quadratic part is convex by itself."""
        if not self.split.curved:
            return True
        if not self.split.has_small_hessian:
            return False
        values = np.linalg.eigvalsh(self.split.quadratic.matrix)
        return bool(values[0] >= -_NEGATIVE * max(values[-1], 0.0))

    @property
    def has_quadratic(self) -> bool:
        """Whether there is a quadratic part that is not affine."""
        return bool(self.split.curved) and bool(self.split.quadratic.matrix.any())

    @property
    def are_terms_convex(self) -> bool:
        """Whether every other summand is convex by itself."""
        return all(term.bends(1) for term in self.split.terms)

    @property
    def is_separable(self) -> bool:
        """Whether f is a sum whose summands may be bounded one by one."""
        return self.is_quadratic_convex and self.are_terms_convex

    def smooth_part(self, weight: float) -> GaussianMeasure | PointMeasure:
        """The measure of the quadratic and the affine part."""
        if self.split.curved:
            quadratic = self.split.quadratic
            if quadratic.matrix.any():
                return GaussianMeasure(
                    quadratic.matrix / weight, quadratic.vector / weight, quadratic.constant / weight
                )
            return PointMeasure(quadratic.vector / weight, quadratic.constant / weight)
        return PointMeasure(self.split.vector / weight, self.split.constant / weight)

    @property
    def whole(self) -> _Summand:
        """f itself, in all its coordinates."""
        return _Summand(self.nonlinear, np.eye(self.k))

    @cached_property
    def entries(self) -> tuple[tuple[Term, int], ...] | None:
        """Every summand as entries that look at w through one row each; None where some do not."""
        found = []
        for term in self.split.terms:
            rows = _entry_rows(term, self.k)
            if rows is None:
                return None
            found += [(term, place) for place in np.flatnonzero(_entry_weights(term)).tolist()]
        return tuple(found)

    def restricted(self, expression: Expression, rows: Floats) -> Expression:
        """An expression of w as one of u, where it depends on u = rows @ w alone."""
        (w,) = self.nonlinear.variables()
        u = Variable((rows.shape[0],), name="u")
        return substitute(expression, {id(w): as_expression(rows.T) @ u})

    def summands(self, term: Term) -> Iterator[_Summand]:
        """A term in the coordinates that it sees: entry by entry, where its entries see one each."""
        rows = _entry_rows(term, self.k)
        if rows is None:
            basis = _basis(_seen_rows(term.atom, self.k))
            inside = as_expression(term.coefficients) @ vec(term.atom)
            yield _Summand(self.restricted(inside, basis), basis)
            return
        weights = _entry_weights(term)
        inner = absolute(term.atom.args[0]) if isinstance(term.atom, Norm1) else term.atom
        for place in np.flatnonzero(weights).tolist():
            yield self.entry(inner, rows[place], weights[place], place)

    def entry(self, inner: Expression, row: Floats, weight: float, place: int) -> _Summand:
        """One entry of an atom that acts entry by entry."""
        length = float(np.linalg.norm(row))
        basis = row[None] / length if length > 0 else np.eye(1, self.k)
        return _Summand(weight * vec(self.restricted(inner, basis))[place], basis)

    def pieces(self, term: Term) -> _Pieces | None:
        """A term as a maximum of affine pieces, or its smooth form; None where it is neither."""
        return _pieces(term, self.k)


def missing_measure(nonlinear: Expression, *, bounded: bool) -> str | None:
    """Why no tilt measure is known for f, in a sentence; None where there is one.

    Arguments:
        nonlinear: f, a convex expression of one variable of shape (k,).
        bounded: whether the law that is tilted has bounded data.

    Example:
        >>> from alignkit.expressions import norm2, sum_squares
        >>> missing_measure(norm2(Variable(3)) + sum_squares(Variable(3)), bounded=False) is None
        True
    """
    parts = _Parts(nonlinear)
    if not parts.is_separable:
        if parts.k > COVER_DIMENSION_MAX:
            return (
                f"its summands are not convex one by one, and together they see k = {parts.k} features, more than "
                f"{COVER_DIMENSION_MAX}"
            )
        if not bounded and parts.whole.outgrows():
            return f"{nonlinear} may grow faster than linearly, which takes bounded data"
        return None
    for term in parts.split.terms:
        if parts.pieces(term) is not None:
            continue
        if _entry_rows(term, parts.k) is None:
            rank = len(_basis(_seen_rows(term.atom, parts.k)))
            if rank > COVER_DIMENSION_MAX:
                return f"{term.atom} sees {rank} features at once, more than {COVER_DIMENSION_MAX}"
        if not bounded and next(iter(parts.summands(term))).outgrows():
            return f"{term.atom} may grow faster than linearly, which takes bounded data"
    return None


def has_finite_measure(nonlinear: Expression) -> bool:
    """Whether few tilts make up a measure of f, so that they can be listed.

    Arguments:
        nonlinear: as for `missing_measure`.

    Example:
        >>> from alignkit.expressions import norm1, sum_squares
        >>> has_finite_measure(norm1(Variable(2))), has_finite_measure(sum_squares(Variable(9)))
        (True, False)
    """
    parts = _Parts(nonlinear)
    if parts.k <= COVER_DIMENSION_MAX:
        return not (parts.is_separable and parts.has_quadratic and parts.split.terms)
    if parts.has_quadratic or len(parts.split.terms) != 1:
        return False
    pieces = parts.pieces(parts.split.terms[0])
    return pieces is not None and not pieces.smooth and pieces.offsets.size <= _PIECES_MAX


def choose_measure(
    nonlinear: Expression, weight: float, *, pilot: Floats, log_partition: LogPartition, box: Box | None = None
) -> TiltMeasure:
    """A measure for exp(f/λ) in any number of dimensions: the product of those of its summands.

    Arguments:
        nonlinear: f, a convex expression of one variable of shape (k,).
        weight: λ.
        pilot: draws of w under the law that is tilted, (n, k).
        log_partition: log E exp⟨θ, w⟩ under that law, (j, k) to (j,); it decides how tight bounds are, not whether
            they hold.
        box: the least and the largest w, (k,) each, where the data are bounded.

    Raises:
        IntractableError: as `missing_measure` says.
    """
    parts = _Parts(nonlinear)
    _require(parts, bounded=box is not None)
    law = _Tilted(weight, pilot, box, log_partition)
    if not parts.is_separable:
        return parts.whole.covered(law)
    smooth = parts.smooth_part(weight)
    found: list[TiltMeasure] = [smooth]
    if isinstance(smooth, PointMeasure) and not smooth.tilt.any() and not smooth.constant:
        found = []
    found += _factors(parts, law)
    return found[0] if len(found) == 1 else ProductMeasure(found or [smooth])


def choose_finite(
    nonlinear: Expression, weight: float, *, pilot: Floats, log_partition: LogPartition, box: Box | None = None
) -> FiniteMeasure:
    """A measure of few tilts for exp(f/λ); arguments as for `choose_measure`.

    Raises:
        IntractableError: as `missing_measure` says.
        ParameterError: there are too many tilts to list.
    """
    parts = _Parts(nonlinear)
    _require(parts, bounded=box is not None)
    law = _Tilted(weight, pilot, box, log_partition)
    if not parts.is_separable:
        return parts.whole.covered(law)
    smooth = parts.smooth_part(weight)
    if isinstance(smooth, GaussianMeasure) and not parts.split.terms:
        return gaussian_lattice(smooth, log_partition, pilot)
    listed = [_listed(one) for one in _factors(parts, law)]
    if isinstance(smooth, PointMeasure):
        listed.append(FiniteMeasure(smooth.tilt[None], [smooth.constant]))
    return _sums(listed)


def _factors(parts: _Parts, law: _Tilted) -> list[TiltMeasure]:
    """Measures for the summands that are not quadratic, each chosen for the law times those before."""
    found: list[TiltMeasure] = []
    tilts = 1.0 if not parts.has_quadratic else math.inf
    for group in _groups(parts):
        for summand in _measures(parts, group, law):
            if tilts > _SUMMED_MAX:
                law = replace(law, extension=_NEAR)
            measure = summand if isinstance(summand, TiltMeasure) else summand.covered(law)
            found.append(measure)
            tilts *= _point_count(measure)
            if isinstance(measure, FiniteMeasure) and not measure.tempered and tilts <= _SUMMED_MAX:
                law = law.times(measure)
    return found


def _require(parts: _Parts, *, bounded: bool) -> None:
    reason = missing_measure(parts.nonlinear, bounded=bounded)
    if reason is not None:
        raise IntractableError(
            f"No mixture of tilts is known for this reward: {reason}.",
            ways_out=["problem.solve(heuristic=True): annealed Monte Carlo, without a bound."],
            expression=str(parts.nonlinear),
        )


def _groups(parts: _Parts) -> list[tuple[Term, ...]]:
    """Terms to bound together: all of them in few dimensions, unless each entry has a dimension of its own."""
    terms = parts.split.terms
    if not terms:
        return []
    together = parts.k <= COVER_DIMENSION_MAX and (parts.entries is None or len(parts.entries) > parts.k)
    return [terms] if together else [(term,) for term in terms]


def _measures(parts: _Parts, group: tuple[Term, ...], law: _Tilted) -> list[TiltMeasure | _Summand]:
    """What bounds a group of terms as a product: measures, and summands that are to be covered."""
    pieces = parts.pieces(group[0]) if len(group) == 1 else None
    if pieces is not None:
        measure = pieces.measure(law.weight)
        listed = parts.k > COVER_DIMENSION_MAX or _point_count(measure) <= _POINTS_MAX
        if (measure.is_exact and listed) or len(_basis(pieces.slopes)) > COVER_DIMENSION_MAX:
            return [measure]
    elif len(group) == 1:
        return list(parts.summands(group[0]))
    rows = _basis(np.vstack([_seen_rows(term.atom, parts.k) for term in group]))
    inside = [as_expression(term.coefficients) @ vec(term.atom) for term in group]
    return [_Summand(parts.restricted(sum(inside[1:], inside[0]), rows), rows)]


# ---- listing


def _point_count(measure: TiltMeasure) -> float:
    """How many points a measure has; infinite for a Gaussian."""
    if isinstance(measure, LabelsMeasure):
        return math.comb(measure.offset.size + measure.copies - 1, measure.copies)
    return measure.log_weights.size if isinstance(measure, FiniteMeasure) else math.inf


def _listed(measure: TiltMeasure) -> FiniteMeasure:
    """The points of a finite measure."""
    if isinstance(measure, FiniteMeasure):
        return measure
    assert isinstance(measure, LabelsMeasure)
    single = FiniteMeasure(
        measure.matrix * (measure.scale / measure.copies), measure.offset * (measure.scale / measure.copies)
    )
    total = single
    for _ in range(measure.copies - 1):
        total = _sums([total, single], merge=True)
    return FiniteMeasure(total.nodes, total.log_weights, is_exact=measure.is_exact, description=measure.description)


def _sums(measures: Sequence[FiniteMeasure], *, merge: bool = False) -> FiniteMeasure:
    """The measure of sums of independent tilts; equal sums are one where asked for."""
    nodes, weights = measures[0].nodes, measures[0].log_weights
    for other in measures[1:]:
        nodes = (nodes[:, None] + other.nodes[None]).reshape(-1, nodes.shape[1])
        weights = (weights[:, None] + other.log_weights[None]).reshape(-1)
        if merge:
            scale = np.abs(nodes).max() or 1.0
            _, first, places = np.unique(np.round(nodes / scale, 12), axis=0, return_index=True, return_inverse=True)
            merged = np.full(len(first), -np.inf)
            np.logaddexp.at(merged, places.reshape(-1), weights)
            nodes, weights = nodes[first], merged
    described = " × ".join(one.description for one in measures if one.log_weights.size > 1) or measures[0].description
    return FiniteMeasure(
        nodes,
        weights,
        is_exact=all(one.is_exact or one.log_weights.size == 1 for one in measures),
        description=described,
    )


# ---- what a term is


def _dense(matrix: object, k: int) -> Floats:
    if matrix is None:
        return np.eye(k)
    if is_operator(matrix):
        return np.asarray(matrix @ np.eye(k))  # type: ignore[operator]
    return matrix.toarray() if is_sparse(matrix) else np.asarray(matrix)  # type: ignore[attr-defined]


def _affine(expression: Expression, k: int) -> tuple[Floats, Floats]:
    """Slopes (m, k) and offsets (m,) of an affine expression."""
    found = affine_over(expression, k)
    return _dense(found.matrix, k).astype(np.float64), np.asarray(found.offset, dtype=np.float64)


def _entry_rows(term: Term, k: int) -> Floats | None:
    """The row that each entry of an atom sees, (m, k), where it acts entry by entry on an affine argument."""
    atom = term.atom
    if isinstance(atom, Elementwise | Norm1) and atom.args[0].is_affine():
        return _affine(atom.args[0], k)[0]
    return None


def _entry_weights(term: Term) -> Floats:
    """The coefficient of each entry of an atom that acts entry by entry."""
    return spread(term.atom, term.coefficients) if isinstance(term.atom, Norm1) else term.coefficients


def _seen_rows(root: Expression, k: int) -> Floats:
    """Rows of the affine maps that feed the atoms of an expression, (m, k)."""
    rows = [
        _dense(matrix, k)
        for node in topological(root)
        if isinstance(node, Atom)
        for arg in node.args
        if arg.depends
        for leaf, matrix in linear_form(arg).parts
        if isinstance(leaf, Variable)
    ]
    return np.vstack(rows)


def _basis(rows: Floats) -> Floats:
    """An orthonormal basis of the rows' span, (r, k)."""
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(vectors[values > _RANK * values[0]]) if values[0] > 0 else np.eye(1, rows.shape[1])


def _pieces(term: Term, k: int) -> _Pieces | None:
    """A maximum, or log_sum_exp, of affine pieces over all entries; None for any other term."""
    atom = term.atom
    if term.coefficients.size != 1 or not all(arg.is_affine() for arg in atom.args):
        return None
    scale = float(term.coefficients[0])
    upward = isinstance(atom, Max | Maximum | NormInf | LogSumExp) and not isinstance(atom, Min | Minimum)
    if upward != (scale > 0) or not isinstance(atom, Max | Maximum | NormInf | LogSumExp | Min | Minimum):
        return None
    parts = [_affine(arg, k) for arg in atom.args]
    slopes, offsets = np.vstack([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    if not upward:
        slopes, offsets, scale = -slopes, -offsets, -scale
    if isinstance(atom, NormInf):
        slopes, offsets = np.vstack([slopes, -slopes]), np.concatenate([offsets, -offsets])
    return _Pieces(slopes, offsets, scale, isinstance(atom, LogSumExp))
