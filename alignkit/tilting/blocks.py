"""The summands of a reward by the coordinates they see: what sees the same few is bounded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.expressions import Expression, Variable, abs as absolute, as_expression, square, vec
from alignkit.expressions.arrays import is_operator, is_sparse
from alignkit.expressions.atom import Atom, Reduction, substitute
from alignkit.expressions.atoms.elementwise import Elementwise
from alignkit.expressions.atoms.norms import Norm1
from alignkit.expressions.atoms.order import Maximum
from alignkit.expressions.atoms.quadratic import SumSquares
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import linear_form
from alignkit.expressions.splitting import Term, spread

__all__ = ["Block", "blocks_of", "dense", "row_basis"]

#: Singular values below this, relative to the largest, are dependent rows.
_RANK = 1e-10
#: Directions that differ by less, as unit vectors, are one.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class Block:
    """A convex function of few combinations of w, as a sum of entries of atoms.

    Arguments:
        entries: pairs of an expression of w, of any shape, and the coefficients (size,) of its entries.
        rows: (r, k), orthonormal: the function depends on rows @ w alone.
    """

    entries: tuple[tuple[Expression, Floats], ...]
    rows: Floats

    @property
    def rank(self) -> int:
        """r; 0 for a constant."""
        return len(self.rows)

    @property
    def function(self) -> Expression:
        """The function of u = rows @ w, of one variable of shape (r,); a constant where r = 0."""
        (w,) = self.entries[0][0].variables()
        inside = as_expression(self.rows.T) @ Variable((self.rank,), name="u") if self.rank else np.zeros(w.shape)
        known = {id(w): as_expression(inside)}
        summands = [as_expression(weights) @ vec(substitute(atom, known)) for atom, weights in self.entries]
        return sum(summands[1:], summands[0])

    def joined(self, others: Sequence[Block]) -> Block:
        """The sum with others, over all that they see."""
        every = (self, *others)
        entries: dict[int, tuple[Expression, Floats]] = {}
        for expression, coefficients in (pair for block in every for pair in block.entries):
            before = entries.get(id(expression))
            entries[id(expression)] = expression, coefficients if before is None else before[1] + coefficients
        return Block(tuple(entries.values()), row_basis(np.vstack([block.rows for block in every])))


def blocks_of(terms: Sequence[Term], k: int, rank_max: int) -> tuple[Block, ...]:
    """Convex terms as blocks of rank at most `rank_max` where they come apart so far.

    Terms fall into their entries, and what sees no more than another block is joined to it. Where blocks still overlap
    and `rank_max` coordinates hold them all, they are one: a joint bound is the tighter one.

    Arguments:
        terms: each convex.
        k: the size of their variable.
        rank_max: the most combinations of w that a block should see.

    Returns:
        The blocks; those that no split brings down to `rank_max` are left as they are.

    Example:
        >>> from alignkit.expressions import Variable, norm1, norm2, reshape, sum
        >>> from alignkit.expressions.splitting import split
        >>> w = Variable(6)
        >>> groups = sum(norm2(reshape(w, (3, 2)), axis=1)) + norm1(w[:2])
        >>> [block.rank for block in blocks_of(split(groups).terms, 6, 3)]
        [2, 2, 2]
    """
    found = _merged([block for term in terms for block in _apart(term, k)])
    if not found:
        return ()
    whole = found[0].joined(found[1:])
    if whole.rank <= rank_max and sum(block.rank for block in found) > whole.rank:
        return (whole,)
    return tuple(found)


def _apart(term: Term, k: int) -> Iterator[Block]:
    """A term entry by entry."""
    atom, coefficients = term.atom, term.coefficients
    inner: Expression = atom
    if isinstance(atom, Norm1 | SumSquares):
        inner = absolute(atom.args[0]) if isinstance(atom, Norm1) else square(atom.args[0])
        coefficients = spread(atom, coefficients)
    rows, seen = _Dependence(k).of(inner)
    for place in np.flatnonzero(coefficients).tolist():
        own = np.zeros(coefficients.size)
        own[place] = coefficients[place]
        yield Block(((inner, own),), row_basis(rows[seen[place]]))


def _merged(blocks: Sequence[Block]) -> list[Block]:
    """Blocks, each joined to one that sees all that it sees."""
    groups: list[list[Block]] = []
    lines: dict[bytes, int] = {}
    for block in sorted(blocks, key=lambda one: -one.rank):
        key = _direction(block.rows[0]) if block.rank == 1 else b""
        place = lines.get(key) if key else None
        if place is None:
            wide = (number for number, group in enumerate(groups) if group[0].rank > 1 or block.rank == 0)
            place = next((number for number in wide if _sees(groups[number][0], block)), None)
        if place is None:
            place = len(groups)
            groups.append([])
        if key:
            lines.setdefault(key, place)
        groups[place].append(block)
    return [group[0].joined(group[1:]) if len(group) > 1 else group[0] for group in groups]


def _direction(row: Floats) -> bytes:
    """A key of a line through 0."""
    sign = np.sign(row[np.argmax(np.abs(row) > 0.5 * np.abs(row).max())])
    return bytes(np.round(sign * row / _SAME) + 0.0)


def _sees(block: Block, other: Block) -> bool:
    rest = other.rows - other.rows @ block.rows.T @ block.rows
    return bool((np.abs(rest) <= _SAME).all())


class _Dependence:
    """Which rows of the affine maps inside an expression each of its entries depends on."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._rows: list[Floats] = []
        self._count = 0
        self._known: dict[int, NDArray[np.bool_]] = {}

    def of(self, expression: Expression) -> tuple[Floats, list[NDArray[np.int64]]]:
        """The rows, (m, k), and for each entry its places among them."""
        # From the leaves up: rewards may be deeper than calls.
        for node in topological(expression):
            if isinstance(node, Atom) and node.depends:
                self._known[id(node)] = self._through(node)
        pattern = self._pattern(expression)
        rows = np.vstack(self._rows) if self._rows else np.zeros((0, self._k))
        return rows, [np.flatnonzero(entry) for entry in _padded(pattern, self._count)]

    def _pattern(self, expression: Expression) -> NDArray[np.bool_]:
        """(size, rows so far): whether an entry depends on a row."""
        found = np.zeros((expression.size, 0), dtype=bool)
        if not expression.depends:
            return found
        for leaf, matrix in linear_form(expression).parts:
            if isinstance(leaf, Variable):
                rows = dense(matrix, self._k)
                part = np.zeros((expression.size, self._count + len(rows)), dtype=bool)
                part[np.arange(len(rows)), self._count + np.arange(len(rows))] = rows.any(axis=1)
                self._rows.append(rows)
                self._count += len(rows)
            else:
                inner = self._known[id(leaf)]
                part = inner if matrix is None else (dense(matrix, leaf.size) != 0).astype(np.float64) @ inner > 0
            width = max(found.shape[1], part.shape[1])
            found = _padded(found, width) | _padded(part, width)
        return found

    def _through(self, atom: Atom) -> NDArray[np.bool_]:
        args = [self._pattern(arg) for arg in atom.args]
        args = [_padded(arg, self._count) for arg in args]
        if isinstance(atom, Elementwise | Maximum):
            return np.asarray(np.logical_or.reduce(args))
        if isinstance(atom, Reduction) and atom.axis is not None:
            axes = atom.axis if isinstance(atom.axis, tuple) else (atom.axis,)
            cube = args[0].reshape(*atom.args[0].shape, self._count)
            return np.asarray(cube.any(axis=axes).reshape(atom.size, self._count))
        every = np.logical_or.reduce([arg.any(axis=0) for arg in args])
        return np.tile(every, (atom.size, 1))


def _padded(pattern: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return np.pad(pattern, ((0, 0), (0, width - pattern.shape[1])))


def dense(matrix: object, k: int) -> Floats:
    """A matrix of any kind as an array; None is the identity of size k."""
    if matrix is None:
        return np.eye(k)
    if is_operator(matrix):
        return np.asarray(matrix @ np.eye(k), dtype=np.float64)  # type: ignore[operator]
    return np.asarray(matrix.toarray() if is_sparse(matrix) else matrix, dtype=np.float64)  # type: ignore[attr-defined]


def row_basis(rows: Floats) -> Floats:
    """An orthonormal basis of the rows' span, (r, k)."""
    if len(rows) == 0 or not rows.any():
        return np.zeros((0, rows.shape[1]))
    if len(rows) == 1:
        return np.asarray(rows / np.linalg.norm(rows))
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(vectors[values > _RANK * values[0]])
