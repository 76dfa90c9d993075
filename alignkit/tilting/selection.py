"""Which tilt measure a convex reward takes: by its summands, each by what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import WITHOUT_BOUND, IntractableError, ParameterError
from alignkit.expressions import Expression, as_expression, vec
from alignkit.expressions.atoms.norms import NormInf
from alignkit.expressions.atoms.order import LogSumExp, Max, Maximum, Min, Minimum
from alignkit.expressions.growth import Growth
from alignkit.expressions.splitting import Split, Term, affine_over, split
from alignkit.tilting.blocks import Block, blocks_of, dense, row_basis
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
from alignkit.tilting.target import ranges_over

__all__ = ["choose_finite", "choose_measure", "has_finite_measure", "missing_measure", "takes_cover"]

#: log Z of tilts under the law that is tilted, (j, k) to (j,).
LogPartition = Callable[[Floats], Floats]
Box = tuple[Floats, Floats]

# A mixture of so many pieces is listed beyond three dimensions, and so many sums of labels in any.
_PIECES_MAX, _POINTS_MAX = 64, 5_000
# So many sums of tilts of the factors of a product are listed.
_SUMS_MAX = 20_000
# A product of so few tilts is summed over while its next factor is chosen. Beyond that the rims of covers are kept
# near, as those of correlated factors would add up and outweigh all else.
_SUMMED_MAX, _NEAR = 400, 0.5
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

    def cover(self, block: Block) -> TiltMeasure:
        """A cover of a summand, over w; a point where it is constant."""
        if not block.rank:
            return PointMeasure(np.zeros(block.rows.shape[1]), float(block.function.value()) / self.weight)
        return self.cover_seen(block.function, block.rows)

    def cover_seen(self, function: Expression, rows: Floats) -> FiniteMeasure:
        """A cover, over w, of a function of rows @ w, rows (r, k) orthonormal."""
        found = cover(
            function,
            self.weight,
            pilot=self.pilot @ rows.T,
            box=None if self.box is None else ranges_over(rows, self.box),
            log_partition=lambda tilts: self.log_partition(tilts @ rows),
            extension=self.extension,
        ).measure
        return FiniteMeasure(found.nodes @ rows, found.log_weights, description=found.description)


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

    @classmethod
    def tractable(cls, nonlinear: Expression, *, bounded: bool) -> _Parts:
        """The parts of a reward that has a measure; raises IntractableError where it has none."""
        reason = missing_measure(nonlinear, bounded=bounded)
        if reason is not None:
            raise IntractableError(
                f"No mixture of tilts is known for this reward: {reason}.",
                ways_out=[WITHOUT_BOUND],
                expression=str(nonlinear),
            )
        return cls(nonlinear)

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

    def cover_whole(self, law: _Tilted) -> FiniteMeasure:
        """A cover of f itself, in all its coordinates."""
        return law.cover_seen(self.nonlinear, np.eye(self.k))


def missing_measure(nonlinear: Expression, *, bounded: bool) -> str | None:
    """Why no tilt measure is known for f, in a sentence; None where there is one.

    Arguments:
        nonlinear: f, a convex expression of one variable of shape (k,).
        bounded: whether the law that is tilted has bounded data.

    Example:
        >>> from alignkit.expressions import Variable, norm2, sum_squares
        >>> missing_measure(norm2(Variable(3)) + sum_squares(Variable(3)), bounded=False) is None
        True
    """
    parts = _Parts(nonlinear)
    if not parts.is_separable:
        if not parts.split.has_small_hessian:
            return f"its quadratic part, of k = {parts.k} features, is too large to be decomposed"
        if parts.k > COVER_DIMENSION_MAX:
            return (
                f"its summands are not convex one by one, and together they see k = {parts.k} features, more than "
                f"{COVER_DIMENSION_MAX}"
            )
        if not bounded and _outgrows(nonlinear, parts.k):
            return f"{nonlinear} may grow faster than linearly, which takes bounded data"
        return None
    for term in parts.split.terms:
        if _pieces(term, parts.k) is not None:
            continue
        rank = max((block.rank for block in blocks_of([term], parts.k, COVER_DIMENSION_MAX)), default=0)
        if rank > COVER_DIMENSION_MAX:
            return f"{term.atom} sees {rank} features at once, more than {COVER_DIMENSION_MAX}"
        if not bounded and _outgrows(as_expression(term.coefficients) @ vec(term.atom), parts.k):
            return f"{term.atom} may grow faster than linearly, which takes bounded data"
    return None


def _outgrows(convex: Expression, k: int) -> bool:
    """Whether a convex function of w may grow faster than linearly: it does so along an axis, if anywhere."""
    return not np.isfinite(Growth(convex).recession(np.vstack([np.eye(k), -np.eye(k)]))).all()


def has_finite_measure(nonlinear: Expression) -> bool:
    """Whether few tilts make up a measure of f, so that they can be listed.

    Arguments:
        nonlinear: as for `missing_measure`.

    Example:
        >>> from alignkit.expressions import Variable, norm1, sum_squares
        >>> has_finite_measure(norm1(Variable(2))), has_finite_measure(sum_squares(Variable(9)))
        (True, False)
    """
    parts = _Parts(nonlinear)
    if parts.k <= COVER_DIMENSION_MAX:
        return not (parts.is_separable and parts.has_quadratic and parts.split.terms)
    if parts.has_quadratic or len(parts.split.terms) != 1:
        return False
    pieces = _pieces(parts.split.terms[0], parts.k)
    return pieces is not None and not pieces.smooth and pieces.offsets.size <= _PIECES_MAX


def takes_cover(nonlinear: Expression, weight: float) -> bool:
    """Whether the measure that `choose_measure` gives has covers, which draws of the law that is tilted make tight.

    Arguments:
        nonlinear, weight: as for `choose_measure`.

    Example:
        >>> from alignkit.expressions import Variable, norm2, sum_squares
        >>> takes_cover(norm2(Variable(2)), 1.0), takes_cover(sum_squares(Variable(2)), 1.0)
        (True, False)
    """
    parts = _Parts(nonlinear)
    return not parts.is_separable or any(_own_measure(parts, term, weight) is None for term in parts.split.terms)


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
    parts, law = _Parts.tractable(nonlinear, bounded=box is not None), _Tilted(weight, pilot, box, log_partition)
    if not parts.is_separable:
        return parts.cover_whole(law)
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
    parts, law = _Parts.tractable(nonlinear, bounded=box is not None), _Tilted(weight, pilot, box, log_partition)
    if not parts.is_separable:
        return parts.cover_whole(law)
    smooth = parts.smooth_part(weight)
    if isinstance(smooth, GaussianMeasure):
        if parts.split.terms or parts.k > COVER_DIMENSION_MAX:
            raise _too_many(nonlinear)
        return gaussian_lattice(smooth, log_partition, pilot)
    factors = _factors(parts, law)
    if math.prod(_point_count(one) for one in factors) > _SUMS_MAX:
        if parts.k > COVER_DIMENSION_MAX:
            raise _too_many(nonlinear)
        return parts.cover_whole(law)
    return _sums([_listed(smooth), *map(_listed, factors)])


def _too_many(nonlinear: Expression) -> ParameterError:
    return ParameterError(
        "The tilts that make up this reward over its weight are too many to list.",
        ways_out=["Use engine='annealed', which draws them one by one."],
        expression=str(nonlinear),
    )


def _factors(parts: _Parts, law: _Tilted) -> list[TiltMeasure]:
    """Measures for the summands that are not quadratic, each chosen for the law times those before."""
    found: list[TiltMeasure] = []
    covered: list[Term] = []
    for term in parts.split.terms:
        measure = _own_measure(parts, term, law.weight)
        if measure is None:
            covered.append(term)
        else:
            found.append(measure)
    tilts = math.inf if parts.has_quadratic else math.prod(_point_count(one) for one in found)
    for block in blocks_of(covered, parts.k, COVER_DIMENSION_MAX):
        measure = (law if tilts <= _SUMMED_MAX else replace(law, extension=_NEAR)).cover(block)
        found.append(measure)
        tilts *= _point_count(measure)
        if isinstance(measure, FiniteMeasure) and tilts <= _SUMMED_MAX:
            law = law.times(measure)
    return found


def _own_measure(parts: _Parts, term: Term, weight: float) -> TiltMeasure | None:
    """The measure of a maximum of affine pieces, or of its smooth form; None where a cover is tighter or all else."""
    pieces = _pieces(term, parts.k)
    if pieces is None or (parts.k <= COVER_DIMENSION_MAX and len(parts.split.terms) > 1):
        return None
    measure = pieces.measure(weight)
    is_short = parts.k > COVER_DIMENSION_MAX or _point_count(measure) <= _POINTS_MAX
    return measure if (measure.is_exact and is_short) or len(row_basis(pieces.slopes)) > COVER_DIMENSION_MAX else None


# ---- listing


def _point_count(measure: TiltMeasure) -> float:
    """How many points a measure has; infinite for a Gaussian."""
    if isinstance(measure, LabelsMeasure):
        return math.comb(measure.offset.size + measure.copies - 1, measure.copies)
    if isinstance(measure, PointMeasure):
        return 1
    return measure.log_weights.size if isinstance(measure, FiniteMeasure) else math.inf


def _listed(measure: TiltMeasure) -> FiniteMeasure:
    """The points of a finite measure."""
    if isinstance(measure, FiniteMeasure):
        return measure
    if isinstance(measure, PointMeasure):
        return FiniteMeasure(measure.tilt[None], [measure.constant], is_exact=True, description=measure.description)
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
        is_exact=all(one.is_exact for one in measures),
        description=described,
    )


# ---- what a term is


def _affine(expression: Expression, k: int) -> tuple[Floats, Floats]:
    """Slopes (m, k) and offsets (m,) of an affine expression."""
    found = affine_over(expression, k)
    return dense(found.matrix, k), np.asarray(found.offset, dtype=np.float64)


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
