"""A concave reward as a tree of atoms, each behind a constraint of its own.

cvxpy would accept the reward whole, but then the dual variables that certify a solution stay inside it. Here every
argument of every atom is a variable s of its own, tied by s = a for an affine argument a, and by s ≥ a or s ≤ a for an
argument that only convexity or concavity ties down. The dual of that constraint is a slope of the atom at s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import AffineAtom, Atom, Expression, Monotonicity, Variable
from alignkit.expressions.arrays import is_operator, is_sparse
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import linear_form
from alignkit.expressions.splitting import Split, affine_over

__all__ = ["Link", "Node", "Tree", "Unsupported", "build_tree", "moves"]

#: Largest matrix an operator is turned into, in entries (32 MB).
_LARGEST_DENSE = 2**22


class Unsupported(Exception):
    """A summand that the tree cannot hold; the message is a refusal's reason."""


@dataclass(frozen=True, eq=False)
class Link:
    """One argument of an atom: a(z) = Mz + b + Σ F·node(z), behind a variable s.

    Arguments:
        index: its place among all links of the tree.
        expression: the argument itself.
        relation: how s is tied to a.
        matrix: M, (m, k), ndarray or csr array; None for zero.
        offset: b, (m,).
        nested: pairs of F, (m, node.size), and the node; F is None for the identity.
        moves: whether M or an F depends on parameters, and so may change; b may in any case.
    """

    index: int
    expression: Expression
    relation: Literal["==", ">=", "<="]
    matrix: Any
    offset: Floats
    nested: tuple[tuple[Any, Node], ...]
    moves: bool

    @property
    def size(self) -> int:
        """m."""
        return len(self.offset)

    def moved(self, slopes: Floats) -> tuple[Floats | float, Floats]:
        """⟨slopes, Mz + b⟩ of each row as an affine function of z: (n, k) and (n,)."""
        linear = 0.0 if self.matrix is None else np.asarray(slopes @ self.matrix)
        return linear, slopes @ self.offset


@dataclass(frozen=True, eq=False)
class Node:
    """A nonlinear atom, convex in the program or concave.

    Arguments:
        atom: the atom.
        is_convex: which of the two.
        links: its arguments.
    """

    atom: Atom
    is_convex: bool
    links: tuple[Link, ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """Σ ⟨coefficients, node⟩, the summands of a reward that are not quadratic.

    Arguments:
        dimension: k.
        terms: pairs of coefficients (node.atom.size,) and the node; each summand is concave.
        links: every link, in order of its index.
        moves: whether coefficients depend on parameters, and so may change.
    """

    dimension: int
    terms: tuple[tuple[Floats, Node], ...]
    links: tuple[Link, ...]
    moves: bool

    @property
    def width(self) -> int:
        """How many entries all links have together."""
        return sum(link.size for link in self.links)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom of the tree."""
        found: list[Atom] = []
        pending = [node for _, node in self.terms]
        while pending:
            node = pending.pop()
            found.append(node.atom)
            pending.extend(inner for link in node.links for _, inner in link.nested)
        return tuple(found)

    def has_form_of(self, other: Tree) -> bool:
        """Whether the trees differ in numbers only, and those in places that may change."""
        return (
            [id(atom) for atom in self.atoms] == [id(atom) for atom in other.atoms]
            and [link.relation for link in self.links] == [link.relation for link in other.links]
            and self.moves == other.moves
        )


def build_tree(nonlinear: Expression, parts: Split) -> Tree:
    """Write the summands that are not quadratic as a tree.

    Arguments:
        nonlinear: f, concave.
        parts: `split(nonlinear)`, at the present values of the parameters.

    Raises:
        Unsupported: a summand is not concave, or its argument comes from a large operator.
    """
    links: list[Link] = []
    terms = []
    for term in parts.terms:
        if not term.bends(-1):
            rule = (
                term.atom.curvature_rule if not term.atom.is_convex() else "it is convex with a positive coefficient."
            )
            raise Unsupported(f"the summand {term.atom} is not concave: {rule}")
        terms.append((term.coefficients, _node(term.atom, parts.dimension, links)))
    links.sort(key=lambda link: link.index)
    return Tree(parts.dimension, tuple(terms), tuple(links), moves(nonlinear))


def moves(expression: Expression) -> bool:
    """Whether the linear parts between an expression and the atoms in it depend on parameters."""
    return any(
        constant.parameters()
        for node in topological(expression, lambda one: not isinstance(one, AffineAtom))
        if node.depends and isinstance(node, AffineAtom)
        for constant in node._constants()
    )


def _node(atom: Atom, dimension: int, links: list[Link]) -> Node:
    is_convex = atom.is_convex()
    found = []
    for place, arg in enumerate(atom.args):
        relation: Literal["==", ">=", "<="] = "=="
        if not arg.is_affine():
            increasing = atom.monotonicity(place) is Monotonicity.INCREASING
            relation = ">=" if increasing == is_convex else "<="
        found.append(_link(arg, relation, dimension, links))
    return Node(atom, is_convex, tuple(found))


def _link(arg: Expression, relation: Literal["==", ">=", "<="], dimension: int, links: list[Link]) -> Link:
    matrix: Any = None
    nested: list[tuple[Any, Node]] = []
    if arg.is_affine():
        affine = affine_over(arg, dimension)
        matrix, offset = affine.matrix, affine.offset
    else:
        form = linear_form(arg)
        offset = form.offset
        for node, factor in form.parts:
            if isinstance(node, Variable):
                matrix = np.eye(dimension) if factor is None else factor
            else:
                assert isinstance(node, Atom)
                nested.append((_materialised(factor, arg), _node(node, dimension, links)))
    matrix, may_change = _materialised(matrix, arg), moves(arg)
    if may_change:
        # What may change is a parameter of cvxpy's: dense, whatever its entries are now.
        matrix, nested = _dense(matrix), [(_dense(factor), node) for factor, node in nested]
    elif matrix is not None and (matrix.nnz == 0 if is_sparse(matrix) else not matrix.any()):
        matrix = None
    link = Link(len(links), arg, relation, matrix, offset, tuple(nested), may_change)
    links.append(link)
    return link


def _dense(matrix: Any) -> Any:
    return matrix.toarray() if is_sparse(matrix) else matrix


def _materialised(matrix: Any, arg: Expression) -> Any:
    if not is_operator(matrix):
        return matrix
    if matrix.shape[0] * matrix.shape[1] > _LARGEST_DENSE:
        raise Unsupported(f"{arg} comes from an operator of shape {matrix.shape}, too large to be written out")
    return np.asarray(matrix @ np.eye(matrix.shape[1]))
