"""A reward taken apart as its author wrote it: summands, their curvature, and the affine features they look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from alignkit.compiler.terms import weighted
from alignkit.expressions import AffineAtom, Atom, Constant, Expression
from alignkit.expressions.affine import Add, Negate
from alignkit.expressions.atom import folded
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import only_row

__all__ = ["Summands", "features", "summands_of"]

#: Sums with more terms than this, as shared sub-expressions can hide, are left as they are.
_MOST_TERMS = 1000


@dataclass(frozen=True, eq=False)
class Summands:
    """A scalar expression as a sum.

    Arguments:
        terms: the summands, with their signs and factors, in the order they were written.
    """

    terms: tuple[Expression, ...]

    @property
    def affine_part(self) -> Expression | None:
        """The sum of what is affine; None when there is nothing."""
        return _sum(self._parts.affine)

    @property
    def convex_part(self) -> Expression | None:
        """The sum of what is proved convex and not affine; None when there is nothing."""
        return _sum(self._parts.convex)

    @property
    def concave_part(self) -> Expression | None:
        """The sum of what is proved concave and not affine; None when there is nothing."""
        return _sum(self._parts.concave)

    @property
    def undecided(self) -> tuple[Expression, ...]:
        """The summands that are neither proved convex nor concave, nor a difference of such."""
        return tuple(self._parts.undecided)

    @property
    def is_difference_of_convex(self) -> bool:
        """Whether the whole is proved to be a convex function plus a concave one."""
        return not self.undecided

    @cached_property
    def _parts(self) -> _Parts:
        parts = _Parts()
        for term in self.terms:
            if term.is_affine():
                parts.affine.append(term)
            elif term.is_convex():
                parts.convex.append(term)
            elif term.is_concave():
                parts.concave.append(term)
            elif not _split_by_sign(term, parts):
                parts.undecided.append(term)
        return parts


@dataclass
class _Parts:
    affine: list[Expression] = field(default_factory=list)
    convex: list[Expression] = field(default_factory=list)
    concave: list[Expression] = field(default_factory=list)
    undecided: list[Expression] = field(default_factory=list)


def summands_of(expression: Expression) -> Summands:
    """Distribute the linear operations at the top of an expression over the sums below them.

    Example:
        >>> from alignkit.expressions import Variable, norm1, square
        >>> x = Variable(2)
        >>> print(*summands_of(2 * (square(x[0]) - norm1(x))).terms, sep="; ")
        2 * square(x[0]); -2 * norm1(x)
    """
    found: dict[int, tuple[Expression, ...]] = {}
    for node in topological(expression, _ends_sums):
        terms: tuple[Expression, ...] = (node,)
        if not _ends_sums(node):
            if isinstance(node, Add):
                terms = tuple(term for arg in node.args for term in found[id(arg)])
            elif len(node.args) == 1 and found[id(node.args[0])] != node.args:
                terms = tuple(_applied(node, term) for term in found[id(node.args[0])])
        found[id(node)] = terms if len(terms) <= _MOST_TERMS else (node,)
    return Summands(found[id(expression)])


def _ends_sums(node: Expression) -> bool:
    return node.is_affine() or not isinstance(node, AffineAtom)


def _applied(node: Expression, term: Expression) -> Expression:
    """A linear operation on one term of its argument; the minus sign moves outwards, to where one would write it."""
    if isinstance(node, Negate):
        return -term
    if isinstance(term, Negate):
        return -folded(node.with_args(term.args))
    return folded(node.with_args((term,)))


def _split_by_sign(term: Expression, parts: _Parts) -> bool:
    """Add a weighted sum of entries of convex and concave functions by the signs of its weights; False for others."""
    # Weights that depend on parameters may have another sign tomorrow.
    if term.size != 1 or term.parameters():
        return False
    form = linear_form(term)
    if not all(node.is_convex() or node.is_concave() for node, _ in form.parts):
        return False
    for node, matrix in form.parts:
        weights = only_row(matrix, node.size).reshape(node.shape)
        if node.is_affine():
            parts.affine.append(weighted(weights, node))
            continue
        up, down = (parts.convex, parts.concave) if node.is_convex() else (parts.concave, parts.convex)
        for weight, side in ((np.maximum(weights, 0.0), up), (np.minimum(weights, 0.0), down)):
            if weight.any():
                side.append(weighted(weight, node))
    if form.offset.any():
        parts.affine.append(Constant(float(form.offset[0])))
    return True


def _sum(terms: list[Expression]) -> Expression | None:
    total: Expression | None = None
    for term in terms:
        total = term if total is None else total + term
    return total


def features(expression: Expression) -> tuple[Expression, ...]:
    """The maximal affine sub-expressions that nonlinear atoms look at: their rows make up the intrinsic dimension.

    Example:
        >>> from alignkit.expressions import Variable, norm1, square
        >>> x = Variable(5)
        >>> print(*features(square(x[0]) + norm1(x[1:3] - 1.0) + x[4]), sep="; ")
        x[0]; x[1:3] - 1
    """
    order = topological(expression, Expression.is_affine)
    inside: set[int] = set()
    for node in reversed(order):
        if isinstance(node, Atom) or id(node) in inside:
            inside.update(id(arg) for arg in node.args)
    return tuple(node for node in order if id(node) in inside and node.is_affine() and node.depends)
