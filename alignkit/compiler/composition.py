"""From a reward to its composition r(x) = f(Qx) + ⟨g, x⟩ + c, with as few rows in Q as the reward needs.

The affine sub-expressions that feed nonlinear atoms are collected, their rows factorised, and the atoms rewritten over
coordinates w of the row space. What is linear at the top costs no dimension: it goes to g.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alignkit.contracts import Composition
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions import (
    AffineAtom,
    Atom,
    Constant,
    Expression,
    Subspace,
    Variable,
    affine_map,
    as_expression,
    inner,
    linear_map,
    mean,
    reshape,
    stack,
    sum as sum_of,
    vec,
)
from alignkit.expressions.arrays import Floats, is_operator, is_sparse
from alignkit.expressions.atom import axes_of, folded
from alignkit.expressions.atoms.order import Max, Maximum, Min, Minimum, Selecting
from alignkit.expressions.atoms.quadratic import LARGEST_SPECTRUM, QuadForm
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import Matrix, row_norms
from alignkit.expressions.rowspace import row_space

__all__ = ["compose"]

#: Parts of g in the row space of Q below this, relative to ‖g‖, are rounding.
NEGLIGIBLE = 1e-12


def compose(reward: Expression, *, dimension_max: int = 256, tolerance: float = 1e-9) -> Composition:
    """Write a reward as r(x) = f(w) + ⟨g, x⟩ + c with w = Qx, QQᵀ = I, Qg = 0 and Q of minimal rank.

    Arguments:
        reward: a scalar expression of one variable; one entry in any shape counts as scalar.
        dimension_max: with more affine rows than this nothing is factorised: w = vec(x) and f is the reward.
        tolerance: rows, normalised, closer than this to the span of the others count as dependent. Sparse matrices and
            operators are factorised by their Gram matrix, which cannot tell distances below 3e-8.

    Returns:
        The composition; `nonlinear` has at least the curvature of the reward, and is None for affine rewards.

    Raises:
        ShapeError: the reward is not scalar.
        ParameterError: the reward has no variable, or more than one.

    Example:
        >>> from alignkit.expressions import Variable, max
        >>> x = Variable(100)
        >>> compose(max(x[:3]) + 2.0 * x[5]).dimension
        2

    Source: "The tractability landscape of diffusion alignment", arXiv 2605.11361, where r(x) = f(Ax) + ⟨g, x⟩.
    """
    reward = as_expression(reward)
    variable = _only_variable(reward)
    if reward.size != 1:
        raise ShapeError(
            f"A reward is a scalar, and this has shape {reward.shape}.",
            expression=str(reward),
            ways_out=("ak.sum(...) or ak.mean(...) of it",),
        )
    terms, linear, constant = _split_terms(reshape(reward, ()), variable)
    leaves = _Leaves(dimension_max)
    prepared: list[tuple[Floats, Expression]] = []
    for weights, atom in terms:
        moved, shift = _centred(atom, leaves)
        if shift is not None:
            _, extra, moved_constant = _split_terms(inner(weights.reshape(atom.shape), shift), variable)
            linear, constant = _add_vectors(linear, extra), constant + moved_constant
        prepared.append((weights, leaves.prepare(moved)))
    if leaves.rows > dimension_max:
        return _whole(reward, variable, leaves.rows, tolerance)
    g = np.zeros(variable.size) if linear is None else linear
    if not leaves.expressions:
        constant += sum(float(_term(weights, atom).value()) for weights, atom in prepared)
        return Composition(variable.shape, None, Subspace.empty(variable.size), g, constant, 0, tolerance)
    maps = [affine_map(leaf) for leaf in leaves.expressions]
    scales = [leaves.scales.get(id(leaf), 0.0) for leaf in leaves.expressions]
    offsets = [found.offset for found in maps]
    matrices = [found.matrix for found in maps]
    del maps
    space = row_space(matrices, scales, variable.size, tolerance)
    del matrices
    if space.subspace.dimension == variable.size:
        return _whole(reward, variable, leaves.rows, tolerance)
    w = Variable((space.subspace.dimension,), name="w") if space.subspace.dimension else None
    start = 0
    replaced: dict[int, Expression] = {}
    for leaf, offset in zip(leaves.expressions, offsets, strict=True):
        rows = space.coefficients[start : start + leaf.size]
        replaced[id(leaf)] = _over_coordinates(rows, offset, leaf.shape, w)
        start += leaf.size
    f, remainder = _assemble([(weights, _substitute(atom, replaced)) for weights, atom in prepared])
    subspace = space.subspace
    if f is None:
        subspace = Subspace.empty(variable.size)
    elif linear is not None:
        assert w is not None
        f, g = _orthogonalise(f, w, g, subspace)
    return Composition(variable.shape, f, subspace, g, constant + remainder, leaves.rows, space.tolerance)


def _only_variable(reward: Expression) -> Variable:
    variables = reward.variables()
    if not variables:
        raise ParameterError(
            "The reward does not depend on a variable.",
            expression=str(reward),
            ways_out=("build it from x = ak.Variable(base.shape)",),
        )
    if len(variables) > 1:
        names = ", ".join(f"{variable} of shape {variable.shape}" for variable in variables)
        raise ParameterError(
            f"A reward has one variable, and this has {len(variables)}: {names}.",
            expression=str(reward),
            ways_out=("write it in slices of a single variable",),
        )
    return variables[0]


# ---- what is linear at the top


def _split_terms(
    scalar: Expression, variable: Variable
) -> tuple[list[tuple[Floats, Expression]], Floats | None, float]:
    """r = Σ ⟨h, atom⟩ + ⟨g, x⟩ + c: the atoms with their weights h, g (None for 0) and c."""
    terms: list[tuple[Floats, Expression]] = []
    linear: Floats | None = None
    form = linear_form(scalar)
    for node, matrix in form.parts:
        if node is variable:
            linear = _as_vector(matrix, variable.size)
        else:
            weights = _as_vector(matrix, node.size)
            if weights.any():
                terms.append((weights, node))
    return terms, linear, float(form.offset[0])


def _as_vector(row: Matrix | None, size: int) -> Floats:
    """A 1×d matrix of any kind as a new vector."""
    if row is None:
        return np.ones(size)
    if is_operator(row):
        return np.array(row.rmatvec(np.ones(1)), dtype=np.float64).ravel()
    return row.toarray().ravel() if is_sparse(row) else np.array(row, dtype=np.float64).ravel()


def _add_vectors(left: Floats | None, right: Floats | None) -> Floats | None:
    if left is None or right is None:
        return right if left is None else left
    left += right
    return left


def _centred(atom: Expression, leaves: _Leaves) -> tuple[Expression, Expression | None]:
    """Take the mean out of an atom that moves with a common shift of affine arguments: (centred atom, the mean)."""
    if not (isinstance(atom, Selecting | Maximum) and all(arg.is_affine() for arg in atom.args)):
        return atom, None
    if leaves.rows + sum(arg.size for arg in atom.args) > leaves.limit:
        return atom, None
    if isinstance(atom, Maximum):
        # One stacked argument is a single leaf, and gives the backends one kind of atom instead of two.
        kind = Min if isinstance(atom, Minimum) else Max
        atom = kind(stack(atom.args), None if atom.shape == () else 0)
    assert isinstance(atom, Selecting)
    arg = atom.args[0]
    shift = mean(arg, atom.axis)
    gone = axes_of(atom.axis, arg.ndim)
    kept = tuple(1 if axis in gone else length for axis, length in enumerate(arg.shape))
    centred = arg - reshape(shift, kept)
    leaves.scales[id(centred)] = _row_scale(shift)
    return folded(atom.with_args((centred,))), shift


def _row_scale(shift: Expression) -> float:
    """The magnitude beside which rows, after centring, may be rounding."""
    if not shift.depends:
        return 0.0
    norms = row_norms(affine_map(shift).matrix)
    return 0.0 if norms is None else float(norms.max())


# ---- the affine sub-expressions that feed nonlinear atoms


@dataclass
class _Leaves:
    """Maximal affine sub-expressions, each once, with how many rows they have together.

    Arguments:
        limit: more rows than this will not be factorised, so nothing costly is done for them.
    """

    limit: int
    rows: int = 0
    expressions: list[Expression] = field(default_factory=list)
    scales: dict[int, float] = field(default_factory=dict)
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
        if not any(leaf is other for other in self.expressions):
            self.expressions.append(leaf)
            self.rows += leaf.size
        return leaf

    def _merge(self, mixed: Expression) -> Expression:
        """An affine function of atoms and of the variable, with its affine parts as a single leaf."""
        frontier = [node for node in _frontier(mixed) if node.depends]
        if sum(node.is_affine() for node in frontier) <= 1 or mixed.size > self.limit:
            return _substitute(mixed, {id(node): self._feed(node) for node in frontier})
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


# ---- rewriting over coordinates


def _substitute(root: Expression, known: dict[int, Expression]) -> Expression:
    found = dict(known)
    for node in topological(root, lambda one: id(one) in known):
        if id(node) in found:
            continue
        args = tuple(found[id(arg)] for arg in node.args)
        same = all(new is old for new, old in zip(args, node.args, strict=True))
        found[id(node)] = node if same else folded(node.with_args(args))
    return found[id(root)]


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


def _term(weights: Floats, atom: Expression) -> Expression:
    """⟨h, atom⟩ in its plainest form."""
    if (weights == weights[0]).all():
        total = atom if atom.shape == () else sum_of(atom)
        weight = float(weights[0])
        return total if weight == 1.0 else -total if weight == -1.0 else weight * total
    return inner(weights.reshape(atom.shape), atom)


def _assemble(terms: list[tuple[Floats, Expression]]) -> tuple[Expression | None, float]:
    f: Expression | None = None
    constant = 0.0
    for weights, atom in terms:
        term = _term(weights, atom)
        if not term.depends:
            constant += float(term.value())
        else:
            f = term if f is None else f + term
    return f, constant


def _orthogonalise(f: Expression, w: Variable, g: Floats, subspace: Subspace) -> tuple[Expression, Floats]:
    """Move the part of g in the row space into f, so that Qg = 0."""
    length = float(np.linalg.norm(g))
    inside = subspace.project(g)
    if float(np.linalg.norm(inside)) <= NEGLIGIBLE * length:
        return f, g
    f = f + inner(inside, w)
    for _ in range(2):
        subspace.remove(g)
    if float(np.linalg.norm(g)) <= NEGLIGIBLE * length:
        g = np.zeros_like(g)
    return f, g


def _whole(reward: Expression, variable: Variable, rows: int, tolerance: float) -> Composition:
    """The full-dimensional composition: w = vec(x), f the reward itself."""
    w = Variable((variable.size,), name="w")
    f = _substitute(reshape(reward, ()), {id(variable): reshape(w, variable.shape)})
    return Composition(
        variable.shape, f, Subspace.identity(variable.size), np.zeros(variable.size), 0.0, rows, tolerance
    )
