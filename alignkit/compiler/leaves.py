"""The affine sub-expressions that feed nonlinear atoms: collected, centred, and rewritten over coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from alignkit.expressions import (
    AffineAtom,
    AffineMap,
    Atom,
    Constant,
    Expression,
    Parameter,
    Variable,
    affine_map,
    as_expression,
    inner,
    linear_map,
    mean,
    reshape,
    stack,
    vec,
)
from alignkit.expressions.arrays import Floats
from alignkit.expressions.atom import Reduction, folded, kept_shape, substitute
from alignkit.expressions.atoms.order import Max, Maximum, Min, Minimum
from alignkit.expressions.atoms.quadratic import LARGEST_SPECTRUM, QuadForm
from alignkit.expressions.expression import topological, united
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import row_norms
from alignkit.expressions.rowspace import RowSpace

__all__ = ["Leaf", "Leaves", "centred"]

#: Rows of one sub-expression that differ more than this in length are called badly scaled.
SCALES = 1e6


#: Of a mean of rows, relative to the largest of them.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


def centred(atom: Expression, leaves: Leaves) -> tuple[Expression, Expression | None]:
    """Take the mean out of an atom that moves with a common shift of affine arguments: (centred atom, the mean)."""
    rate = atom.common_shift if isinstance(atom, Atom) else None
    if rate is None or not all(arg.is_affine() for arg in atom.args):
        return atom, None
    if leaves.rows + sum(arg.size for arg in atom.args) > leaves.limit:
        return atom, None
    if isinstance(atom, Maximum):
        # One stacked argument is a single leaf, and gives the backends one kind of atom instead of two.
        kind = Min if isinstance(atom, Minimum) else Max
        atom = kind(stack(atom.args), None if atom.shape == () else 0)
    assert isinstance(atom, Reduction)
    arg = atom.args[0]
    shift = mean(arg, atom.axis)
    if _is_centred(arg, shift):
        return atom, None
    level = arg - reshape(shift, kept_shape(arg.shape, atom.axis))
    leaves.scales[id(level)] = _row_scale(shift)
    leaves.names[id(level)] = f"{arg}, less their mean,"
    return folded(atom.with_args((level,))), shift if rate == 1.0 else rate * shift


def _is_centred(arg: Expression, shift: Expression) -> bool:
    """Whether the mean's rows are the rounding of rows that add up to zero, and taking it out would leave a g of it."""
    if not shift.depends or arg.parameters():
        return False
    left, whole = row_norms(affine_map(shift).matrix), row_norms(affine_map(arg).matrix)
    return left is not None and whole is not None and bool(left.max() <= _ROUNDING * whole.max())


def _row_scale(shift: Expression) -> float:
    """The magnitude beside which rows, after centring, may be rounding."""
    if not shift.depends:
        return 0.0
    norms = row_norms(affine_map(shift).matrix)
    return 0.0 if norms is None else float(norms.max())


class Leaf:
    """A maximal affine sub-expression that feeds an atom, and its form over the coordinates w.

    Arguments:
        expression: as the user wrote it, over x.
    """

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        #: The parameters that its matrix depends on, and so the row space.
        self.slopes = united(
            tuple(constant for node in topological(expression) if node.depends for constant in node._constants())
        )
        self._offset = np.zeros(0)
        self._rows_parameter: Parameter | None = None
        self._offset_parameter: Parameter | None = None

    def read(self) -> AffineMap:
        """The present affine map of x."""
        found = affine_map(self.expression)
        self._offset = found.offset
        return found

    def over_coordinates(self, rows: Floats, w: Variable | None) -> Expression:
        """The leaf as an expression of w, with parameters for what depends on parameters.

        Arguments:
            rows: (size, k).
            w: the coordinates; None when k = 0.
        """
        shape, offset = self.expression.shape, self._offset
        if not self.expression.parameters():
            return _over_coordinates(rows, offset, shape, w)
        self._offset_parameter = Parameter(shape, offset.reshape(shape), name="b")
        if w is None:
            return self._offset_parameter
        if self.slopes:
            self._rows_parameter = Parameter(rows.shape, rows, name="R")
            return reshape(self._rows_parameter @ w, shape) + self._offset_parameter
        return _over_coordinates(rows, np.zeros_like(offset), shape, w) + self._offset_parameter

    def refresh(self, rows: Floats, origin: Floats) -> None:
        """Take over present values: rows (size, k), and the offset, which is the value at the origin of x."""
        if self._offset_parameter is not None:
            self._offset_parameter.value = self.expression.value(origin)
        if self._rows_parameter is not None:
            self._rows_parameter.value = rows


@dataclass
class Leaves:
    """Maximal affine sub-expressions, each once, with how many rows they have together.

    Arguments:
        limit: more rows than this will not be factorised, so nothing costly is done for them.
    """

    limit: int
    rows: int = 0
    made: list[Leaf] = field(default_factory=list)
    scales: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of leaves that the user did not write
    _done: dict[int, Expression] = field(default_factory=dict)
    _alive: list[Expression] = field(default_factory=list)  # identities stay unique while their owners live

    def prepare(self, atom: Expression) -> Expression:
        """The atom with affine structure below atoms merged, and its leaves collected."""
        for node in topological(atom, Expression.is_affine):
            if isinstance(node, Atom) and node.depends and id(node) not in self._done:
                lean = _low_rank(node) if isinstance(node, QuadForm) else node
                self._remember(node, folded(lean.with_args(tuple(self._feed(arg) for arg in lean.args))))
        return self._done.get(id(atom), atom)

    def _remember(self, node: Expression, prepared: Expression) -> Expression:
        self._alive.append(node)
        self._done[id(node)] = prepared
        return prepared

    def _feed(self, arg: Expression) -> Expression:
        if not arg.depends:
            return arg
        if arg.is_affine():
            return self._leaf(arg)
        if id(arg) not in self._done:
            self._remember(arg, self._merge(arg))
        return self._done[id(arg)]

    def _leaf(self, leaf: Expression) -> Expression:
        if not any(leaf is other.expression for other in self.made):
            self.made.append(Leaf(leaf))
            self.rows += leaf.size
        return leaf

    @property
    def slopes(self) -> tuple[Parameter, ...]:
        """The parameters that the row space depends on."""
        return tuple(dict.fromkeys(parameter for leaf in self.made for parameter in leaf.slopes))

    def parts(self) -> Iterator[tuple[Leaf, slice]]:
        """Each leaf with the place of its rows in the stack of all."""
        start = 0
        for leaf in self.made:
            yield leaf, slice(start, start + leaf.expression.size)
            start += leaf.expression.size

    def notes(self, space: RowSpace) -> tuple[str, ...]:
        """What the factorisation dropped, and what it found badly scaled."""
        notes = []
        for leaf, part in self.parts():
            name = self.names.get(id(leaf.expression), str(leaf.expression))
            zero = int(space.zero[part].sum())
            dependent = leaf.expression.size - zero - int(space.pivot[part].sum())
            if zero:
                notes.append(f"{zero} of {leaf.expression.size} rows of {name} are zero, up to rounding")
            if dependent:
                notes.append(
                    f"{dependent} of {leaf.expression.size} rows of {name} lie in the span of other rows, "
                    f"to a relative distance of {space.tolerance:g}"
                )
            norms = space.norms[part][~space.zero[part]]
            if norms.size and norms.max() > SCALES * norms.min():
                notes.append(
                    f"the rows of {name} differ in length by a factor of {norms.max() / norms.min():.1e}; "
                    "each was normalised before the rank was decided"
                )
        return tuple(notes)

    def _merge(self, mixed: Expression) -> Expression:
        """An affine function of atoms and of the variable, with its affine parts as a single leaf."""
        frontier = [node for node in _frontier(mixed) if node.depends]
        alone = sum(node.is_affine() for node in frontier) <= 1
        # Merged parts are numbers, which would not follow a parameter.
        if alone or mixed.size > self.limit or mixed.parameters():
            return substitute(mixed, {id(node): self._feed(node) for node in frontier})
        form = linear_form(mixed)
        total: Expression = Constant(form.offset.reshape(mixed.shape) if form.offset.any() else 0.0)
        for node, matrix in form.parts:
            if isinstance(node, Variable):
                moved = vec(node) if matrix is None else linear_map(matrix, node)
                part = self._leaf(reshape(moved, mixed.shape))
            else:
                done = self._feed(node)
                part = reshape(done if matrix is None else linear_map(matrix, done), mixed.shape)
            total = total + part
        return total


def _frontier(mixed: Expression) -> list[Expression]:
    """Where affine structure over nonlinear atoms ends: atoms, maximal affine sub-expressions and constants."""
    return [
        node
        for node in topological(mixed, lambda one: one.is_affine() or not isinstance(one, AffineAtom))
        if node.is_affine() or not isinstance(node, AffineAtom)
    ]


def _low_rank(form: QuadForm) -> QuadForm:
    """A quadratic form over the range of its matrix, where the rank is deficient and cheap to find."""
    count = form.args[0].size
    if count > LARGEST_SPECTRUM or not form.args[0].is_affine():
        return form
    values, vectors = form.spectrum
    if values.size in (count, 0):
        return form
    return QuadForm(linear_map(vectors.T, form.args[0]), np.diag(values))


def _over_coordinates(rows: Floats, offset: Floats, shape: tuple[int, ...], w: Variable | None) -> Expression:
    if w is None or not rows.any():
        return Constant(offset.reshape(shape))
    if rows.shape[0] == rows.shape[1] and np.array_equal(rows, np.eye(rows.shape[0])):
        moving: Expression = w
    elif shape == ():
        moving = inner(rows[0], w)
        return moving + float(offset[0]) if offset.any() else moving
    else:
        moving = as_expression(rows) @ w
    return reshape(moving + offset if offset.any() else moving, shape)
