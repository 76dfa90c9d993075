"""Where a reward is not smooth: its kinks as maxima of affine pieces, and how far a point is from any other bend.

A summand −w·max_j (⟨c_j, y⟩ + b_j), w > 0, holds maximisers at its kinks. There

    −w·max_j a_j(y) = −w·Σ_j π_j a_j(y)      for every y on the surface where the pieces with π_j > 0 agree,

with π in the simplex: along the surface the reward is as smooth as what is left of it, and π are the multipliers of
the surface. `abs norm1 pos neg norm_inf max maximum min minimum` of affine arguments are such maxima, entry by entry.

Source: A. Lewis, "Active sets, nonsmoothness, and sensitivity", SIAM J. Optim. 13, 2002.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import Expression, Parameter, sum
from alignkit.expressions.affine import multiply
from alignkit.expressions.atom import Atom, axes_of, substitute
from alignkit.expressions.atoms.distances import DistanceToPoints
from alignkit.expressions.atoms.elementwise import Abs, Huber, Neg, Pos
from alignkit.expressions.atoms.norms import Norm1, Norm2, NormInf, PNorm, SigmaMax
from alignkit.expressions.atoms.order import Max, Maximum, Min, Minimum, SumOfSome
from alignkit.expressions.atoms.piecewise import Clip, PiecewiseLinear
from alignkit.expressions.atoms.powers import Powered
from alignkit.expressions.expression import topological
from alignkit.expressions.splitting import affine_over, split, spread

__all__ = ["Kinks", "bends", "kinks_of"]


@dataclass(frozen=True, eq=False)
class Kinks:
    """A reward as r(y) = s(y) − Σ_g weights_g·max {a_j(y): piece j in group g}, a = matrix @ y + offset.

    Arguments:
        lagrangian: r with every such maximum replaced by ⟨μ, arguments⟩; with the μ at their own value 0 it is s.
        duals: the parameters μ, one for each argument of an atom.
        matrix: (pieces, d), dense or sparse.
        offset: (pieces,).
        groups: (pieces,), int64, the group of each piece, ascending.
        weights: (groups,); where one is not positive the maximum is no concave summand, and its kink holds no
            maximiser.
        atoms: the atom of each group.
        slots: (pieces,), int64, the entry of the concatenated μ that a piece's multiplier goes to; −1 for none.
        signs: (pieces,), what it is multiplied by there.
    """

    lagrangian: Expression
    duals: tuple[Parameter, ...]
    matrix: Any
    offset: Floats
    groups: np.ndarray[Any, np.dtype[np.int64]]
    weights: Floats
    atoms: tuple[Atom, ...]
    slots: np.ndarray[Any, np.dtype[np.int64]]
    signs: Floats

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.offset)

    def along(self, rows: Floats | None) -> Floats:
        """The slopes of the pieces along coordinates u, y = base + rowsᵀu: (pieces, m)."""
        matrix = self.matrix
        if rows is not None:
            return np.asarray(matrix @ rows.T, dtype=np.float64)
        return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)

    def at(self, points: Floats) -> Floats:
        """The pieces at rows y, (n, d) to (n, pieces)."""
        return np.asarray((self.matrix @ points.T).T + self.offset, dtype=np.float64)

    def as_duals(self, multipliers: Floats) -> tuple[Floats, ...]:
        """The μ of rows of π, or of changes of π: (n, pieces) to (n, *shape) for each of `duals`."""
        if not self.duals:
            return ()
        sizes = [dual.size for dual in self.duals]
        joined = np.zeros((len(multipliers), int(np.sum(sizes, dtype=np.int64))))
        used = self.slots >= 0
        np.add.at(joined.T, self.slots[used], (multipliers[:, used] * self.signs[used]).T)
        parts = np.split(joined, np.cumsum(sizes)[:-1], axis=1)
        return tuple(part.reshape(len(multipliers), *dual.shape) for part, dual in zip(parts, self.duals, strict=True))


class _Gathered:
    """Pieces found so far."""

    def __init__(self) -> None:
        self.replaced: dict[int, Expression] = {}
        self.duals: list[Parameter] = []
        self.maps: list[tuple[Any, Floats]] = []
        self.entries = 0
        #: For each piece: entry of the stacked arguments or −1, sign of it, group, sign of the multiplier.
        self.pieces: list[tuple[int, float, int, float]] = []
        self.weights: list[float] = []
        self.atoms: list[Atom] = []

    def add(self, atom: Atom, coefficients: Floats, dimension: int) -> None:
        """Take an atom of affine arguments as maxima."""
        duals = [Parameter(arg.shape, np.zeros(arg.shape), name="μ") for arg in atom.args]
        parts = [multiply(dual, arg) for dual, arg in zip(duals, atom.args, strict=True)]
        linear = reduce(operator.add, parts)
        self.replaced[id(atom)] = linear if atom.shape == linear.shape else sum(linear, axis=atom.axis)
        for arg in atom.args:
            inside = affine_over(arg, dimension)
            self.maps.append((inside.matrix, inside.offset))
        sizes = [arg.size for arg in atom.args]
        starts = self.entries + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        outer = -1.0 if isinstance(atom, Min | Minimum) else 1.0
        weights = -outer * (spread(atom, coefficients) if isinstance(atom, Norm1) else coefficients)
        for group, members in _groups(atom, starts):
            self.weights.append(float(weights[group]))
            self.atoms.append(atom)
            for entry, sign in members:
                self.pieces.append((entry, sign, len(self.weights) - 1, outer * sign))
        self.entries += int(np.sum(sizes))
        self.duals += duals


def _groups(atom: Atom, starts: Any) -> list[tuple[int, list[tuple[int, float]]]]:
    """The maxima an atom is made of: a number each, and its pieces as (entry of the stacked arguments, sign)."""
    first = int(starts[0])
    size = atom.args[0].size
    if isinstance(atom, Abs | Norm1):
        return [(i, [(first + i, 1.0), (first + i, -1.0)]) for i in range(size)]
    if isinstance(atom, Pos | Neg):
        sign = 1.0 if isinstance(atom, Pos) else -1.0
        return [(i, [(first + i, sign), (-1, 0.0)]) for i in range(size)]
    if isinstance(atom, Maximum):
        sign = -1.0 if isinstance(atom, Minimum) else 1.0
        return [(i, [(int(start) + i, sign) for start in starts]) for i in range(size)]
    sign = -1.0 if isinstance(atom, Min) else 1.0
    both = (1.0, -1.0) if isinstance(atom, NormInf) else (sign,)
    return [
        (number, [(first + int(i), one) for i in members for one in both])
        for number, members in enumerate(_grouped(np.arange(size).reshape(1, *atom.args[0].shape), atom)[0])
    ]


def _grouped(values: Any, atom: Atom) -> Any:
    """Argument values (n, *arg.shape) by the results they are reduced to, (n, size, count)."""
    ndim = values.ndim - 1
    gone = axes_of(atom.axis, ndim)
    kept = tuple(axis for axis in range(ndim) if axis not in gone)
    turned = np.transpose(values, (0, *(axis + 1 for axis in (*kept, *gone))))
    return turned.reshape(len(values), atom.size, -1)


_MAXIMA = (Abs, Norm1, Pos, Neg, NormInf, Max, Min, Maximum)


def kinks_of(reward: Expression) -> Kinks:
    """Write a reward as a smooth part and maxima of affine pieces.

    Arguments:
        reward: a scalar expression of one variable.

    Returns:
        the parts; maxima that are inside other nonlinear atoms, or of other arguments, stay in the smooth part.

    Example:
        >>> from alignkit.expressions import Variable, norm1, sum_squares
        >>> x = Variable(2)
        >>> found = kinks_of(-sum_squares(x) - 3.0 * norm1(x))
        >>> found.pieces, found.weights, found.lagrangian.value(np.ones(2))
        (4, array([3., 3.]), array(-2.))
    """
    parts = split(reward)
    gathered = _Gathered()
    inside = {id(node) for term in parts.terms for arg in term.atom.args for node in topological(arg)}
    for term in parts.terms:
        atom = term.atom
        if isinstance(atom, _MAXIMA) and all(arg.is_affine() for arg in atom.args) and id(atom) not in inside:
            gathered.add(atom, term.coefficients, parts.dimension)
    return _finished(reward, gathered, parts.dimension)


def _finished(reward: Expression, gathered: _Gathered, dimension: int) -> Kinks:
    lagrangian = substitute(reward, gathered.replaced)
    pieces = gathered.pieces
    entries = np.array([piece[0] for piece in pieces], dtype=np.int64)
    signs = np.array([piece[1] for piece in pieces])
    groups = np.array([piece[2] for piece in pieces], dtype=np.int64)
    outer = np.array([piece[3] for piece in pieces])
    matrix, offset = _stacked(gathered.maps, entries, signs, dimension)
    return Kinks(
        lagrangian, tuple(gathered.duals), matrix, offset, groups, np.array(gathered.weights),
        tuple(gathered.atoms), entries, outer,
    )  # fmt: skip


def _stacked(maps: list[tuple[Any, Floats]], entries: Any, signs: Floats, dimension: int) -> tuple[Any, Floats]:
    """The pieces as one affine map."""
    if not maps:
        return np.zeros((0, dimension)), np.zeros(0)
    from scipy import sparse

    whole = sparse.vstack([sparse.csr_array(_explicit(matrix)) for matrix, _ in maps], format="csr")
    shift = np.concatenate([offset for _, offset in maps])
    chosen = np.maximum(entries, 0)
    used = np.where(entries >= 0, signs, 0.0)
    rows = sparse.diags_array(used) @ whole[chosen]
    dense = rows.nnz * 4 > math.prod(rows.shape)
    return (rows.toarray() if dense else rows), used * shift[chosen]


def _explicit(matrix: Any) -> Any:
    if isinstance(matrix, np.ndarray) or hasattr(matrix, "toarray"):
        return matrix
    return np.asarray(matrix @ np.eye(matrix.shape[1]))


#: How far argument values are from where the atom is not twice differentiable: (atom, [(n, *arg.shape)]) to (n, …).
_Rule = Callable[[Any, list[Any]], Any]


def _entries(atom: Any, values: list[Any]) -> Any:
    return np.abs(values[0])


def _lead(atom: Any, values: list[Any]) -> Any:
    """How far the first of the entries that a maximum is over leads the second."""
    found = np.stack([value.reshape(len(value), -1) for value in values], axis=2) if len(values) > 1 else None
    if found is None:
        found = _grouped(np.abs(values[0]) if isinstance(atom, NormInf) else values[0], atom)
    if found.shape[2] == 1:
        return np.abs(found[:, :, 0]) if isinstance(atom, NormInf) else np.full(found.shape[:2], np.inf)
    ordered = np.sort(-found if isinstance(atom, Min | Minimum) else found, axis=2)
    return ordered[:, :, -1] - ordered[:, :, -2]


def _between_ranks(atom: Any, values: list[Any]) -> Any:
    ordered = np.sort(_grouped(values[0], atom), axis=2)
    if atom.descending:
        ordered = ordered[:, :, ::-1]
    steps = np.abs(np.diff(ordered, axis=2))
    places = [place - 1 for place in {math.floor(atom.k), math.ceil(atom.k)} if 0 < place <= steps.shape[2]]
    return np.concatenate([steps[:, :, place] for place in places], axis=1) if places else np.full((1, 1), np.inf)


def _length(atom: Any, values: list[Any]) -> Any:
    return np.linalg.norm(_grouped(values[0], atom), axis=2)


def _entries_of_power(atom: Any, values: list[Any]) -> Any:
    return _length(atom, values) if atom.p >= 2 else np.abs(values[0])


def _singular_gap(atom: Any, values: list[Any]) -> Any:
    found = np.linalg.svd(values[0], compute_uv=False)
    return found[:, 0] - found[:, 1] if found.shape[1] > 1 else found[:, 0]


def _nearest_lead(atom: Any, values: list[Any]) -> Any:
    rows, points = values[0].reshape(len(values[0]), -1), atom.points.reshape(len(atom.points), -1)
    found = np.sort(np.linalg.norm(rows[:, None, :] - points[None], axis=2), axis=1)
    return np.stack([found[:, 0], found[:, 1] - found[:, 0]], axis=1) if found.shape[1] > 1 else found


def _inner_breakpoints(atom: Any, values: list[Any]) -> Any:
    return np.abs(values[0][..., None] - atom.breakpoints[1:-1]).min(axis=-1, initial=np.inf)


_BENDS: tuple[tuple[tuple[type[Any], ...], _Rule], ...] = (
    ((Abs, Pos, Neg, Norm1), _entries),
    ((Huber,), lambda atom, values: np.abs(np.abs(values[0]) - float(atom.M))),
    ((Max, Min, NormInf, Maximum), _lead),
    ((SumOfSome,), _between_ranks),
    ((Clip,), lambda atom, values: np.minimum(np.abs(values[0] - atom.lower), np.abs(values[0] - atom.upper))),
    ((PiecewiseLinear,), _inner_breakpoints),
    ((Norm2,), _length),
    ((PNorm,), _entries_of_power),
    ((SigmaMax,), _singular_gap),
    ((DistanceToPoints,), _nearest_lead),
    ((Powered,), lambda atom, values: np.full((1, 1), np.inf) if atom.is_even else np.abs(values[0])),
)


def bends(kinks: Kinks, points: Floats) -> list[tuple[Atom, Floats]]:
    """How far rows are from where the smooth part is not twice differentiable.

    Arguments:
        kinks: a reward's parts.
        points: y, (n, d).

    Returns:
        for every atom of the smooth part that bends, the atom and the least distance in its arguments, (n,), relative
        to 1 + their size.
    """
    variables = kinks.lagrangian.variables()
    if not variables:
        return []
    rows = points.reshape(len(points), *variables[0].shape)
    found = []
    for atom in topological(kinks.lagrangian):
        rule = next((rule for kinds, rule in _BENDS if isinstance(atom, kinds)), None)
        if rule is None or not atom.depends or not isinstance(atom, Atom):
            continue
        values = [
            np.broadcast_to(arg.value(rows) if arg.depends else arg.value(), (len(points), *arg.shape))
            for arg in atom.args
        ]
        margin = rule(atom, values)
        least = np.broadcast_to(margin.reshape(len(margin), -1).min(axis=1), len(points))
        size = 1.0 + np.max([np.abs(value).reshape(len(points), -1).max(axis=1) for value in values], axis=0)
        found.append((atom, least / size))
    return found
