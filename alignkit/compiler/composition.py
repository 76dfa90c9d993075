"""From a reward to its composition r(x) = f(Qx) + ⟨g, x⟩ + c, with as few rows in Q as the reward needs.

The affine sub-expressions that feed nonlinear atoms are collected, their rows factorised, and the atoms rewritten over
coordinates w of the row space. What is linear at the top costs no dimension: it goes to g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alignkit.contracts import Composition
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions import (
    AffineAtom,
    AffineMap,
    Atom,
    Constant,
    Expression,
    Monotonicity,
    Parameter,
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
from alignkit.expressions.atom import Reduction, axes_of, folded, substitute
from alignkit.expressions.atoms.order import Max, Maximum, Min, Minimum
from alignkit.expressions.atoms.quadratic import LARGEST_SPECTRUM, QuadForm
from alignkit.expressions.expression import topological, united
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import Matrix, row_norms
from alignkit.expressions.rowspace import RowSpace, row_space

__all__ = ["Recipe", "compose"]

#: Rows of one sub-expression that differ more than this in length are called badly scaled.
SCALES = 1e6
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
        ParameterError: the reward has no variable, or more than one, or a parameter of it has no value.

    Example:
        >>> from alignkit.expressions import Variable, max
        >>> x = Variable(100)
        >>> compose(max(x[:3]) + 2.0 * x[5]).dimension
        2

    Source: "The tractability landscape of diffusion alignment", arXiv 2605.11361, where r(x) = f(Ax) + ⟨g, x⟩.
    """
    return Recipe(reward, dimension_max=dimension_max, tolerance=tolerance).composition


class Recipe:
    """How a reward becomes a composition, kept so that new values of its parameters need no second analysis.

    Arguments:
        reward, dimension_max, tolerance: as for `compose`.

    Where a reward has parameters, f has parameters of its own for every coefficient that depends on theirs: `refresh`
    gives these their new values, and f stays the same object.

    Example:
        >>> from alignkit.expressions import Parameter, Variable, norm1
        >>> target = Parameter(2, [0.0, 0.0])
        >>> recipe = Recipe(norm1(Variable(100)[:2] - target))
        >>> before = recipe.composition.nonlinear
        >>> target.value = [1.0, 2.0]
        >>> recipe.refresh() and recipe.composition.nonlinear is before
        True
    """

    def __init__(self, reward: Expression, *, dimension_max: int = 256, tolerance: float = 1e-9) -> None:
        reward = as_expression(reward)
        self._variable = _only_variable(reward)
        if reward.size != 1:
            raise ShapeError(
                f"A reward is a scalar, and this has shape {reward.shape}.",
                expression=str(reward),
                ways_out=("ak.sum(...) or ak.mean(...) of it",),
            )
        self.reward, self._scalar = reward, reshape(reward, ())
        self._tolerance = tolerance
        self._leaves = _Leaves(dimension_max)
        self._shifts: list[tuple[_Weights, Expression]] = []
        #: What is left of f where no variable is in it, but parameters are.
        self._constant: Expression | None = None
        self._space = _no_rows(self._variable.size, tolerance)
        #: The versions that the composition and its row space were made of.
        self._held = _versions(reward.parameters())
        self._factorised: tuple[int, ...] = ()
        self.composition = self._compose(dimension_max)

    def refresh(self) -> bool:
        """Take over the present values of the parameters.

        Returns:
            True when `composition` holds them, with the same f; False when their values change the structure, as the
            rank, and the reward must be composed anew.
        """
        if self._whole or _versions(self.reward.parameters()) == self._held:
            return True
        self._held = _versions(self.reward.parameters())
        found = _split_terms(self._scalar, self._variable)
        if [id(atom) for _, atom in found.terms] != [id(weights.atom) for weights in self._weights]:
            return False
        for (values, _), weights in zip(found.terms, self._weights, strict=True):
            weights.refresh(values)
        space, leaves = self._space, self._leaves
        if _versions(leaves.slopes) != self._factorised:
            space = self._factorise()
            if space.subspace.dimension != self._space.subspace.dimension:
                return False
            self._space = space
        origin = np.zeros(self._variable.shape)
        start = 0
        for leaf in leaves.made:
            rows = space.coefficients[start : start + leaf.expression.size]
            leaf.refresh(rows, origin)
            start += leaf.expression.size
        linear, constant = self._with_shifts(found.linear, found.constant)
        self.composition = self._finish(self._f, linear, constant + self._remainder)
        return True

    def _compose(self, dimension_max: int) -> Composition:
        self._whole = False
        leaves, variable = self._leaves, self._variable
        found = _split_terms(self._scalar, variable)
        signs = _signs(self._scalar) if self.reward.parameters() else {}
        prepared: list[tuple[_Weights, Expression]] = []
        self._weights: list[_Weights] = []
        for values, atom in found.terms:
            moved, shift = _centred(atom, leaves)
            weights = _Weights(values, atom, signs.get(id(atom)))
            self._weights.append(weights)
            if shift is not None:
                self._shifts.append((weights, shift))
            prepared.append((weights, leaves.prepare(moved)))
        if leaves.rows > dimension_max:
            return self._compose_whole()
        linear, constant = self._with_shifts(found.linear, found.constant)
        if not leaves.made:
            self._remainder = sum(float(_term(weights, atom).value()) for weights, atom in prepared)
            self._f = None
            return self._finish(None, linear, constant + self._remainder)
        space = self._space = self._factorise()
        if space.subspace.dimension == variable.size:
            return self._compose_whole()
        self._w = w = Variable((space.subspace.dimension,), name="w") if space.subspace.dimension else None
        start = 0
        replaced: dict[int, Expression] = {}
        for leaf in leaves.made:
            rows = space.coefficients[start : start + leaf.expression.size]
            replaced[id(leaf.expression)] = leaf.over_coordinates(rows, w)
            start += leaf.expression.size
        f, self._remainder = _assemble([(weights, substitute(atom, replaced)) for weights, atom in prepared])
        if f is not None and not f.depends:
            self._constant, f = f, None
        self._inside: Parameter | None = None
        if f is not None and self.reward.parameters():
            assert w is not None
            self._inside = Parameter((w.size,), np.zeros(w.size), name="g_w")
            f = f + inner(self._inside, w)
        self._f = f
        return self._finish(f, linear, constant + self._remainder)

    def _factorise(self) -> RowSpace:
        self._factorised = _versions(self._leaves.slopes)
        maps = [leaf.read() for leaf in self._leaves.made]
        scales = [self._leaves.scales.get(id(leaf.expression), 0.0) for leaf in self._leaves.made]
        matrices = [found.matrix for found in maps]
        del maps
        return row_space(matrices, scales, self._variable.size, self._tolerance)

    def _with_shifts(self, linear: Floats | None, constant: float) -> tuple[Floats | None, float]:
        """Add the common shifts that were taken out of atoms."""
        for weights, shift in self._shifts:
            moved = _split_terms(inner(weights.values.reshape(weights.atom.shape), shift), self._variable)
            linear, constant = _add_vectors(linear, moved.linear), constant + moved.constant
        return linear, constant

    def _finish(self, f: Expression | None, linear: Floats | None, constant: float) -> Composition:
        space, variable = self._space, self._variable
        subspace = space.subspace
        if self._constant is not None:
            constant += float(self._constant.value())
        g = np.zeros(variable.size) if linear is None else linear
        if f is None:
            subspace = Subspace.empty(variable.size)
        elif linear is not None:
            assert self._w is not None
            inside = _orthogonalise(g, subspace)
            if self._inside is not None:
                self._inside.value = np.zeros(self._w.size) if inside is None else inside
            elif inside is not None:
                f = f + inner(inside, self._w)
        return Composition(
            variable.shape,
            f,
            subspace,
            g,
            constant,
            self._leaves.rows,
            space.tolerance,
            self._leaves.notes(space),
        )

    def _compose_whole(self) -> Composition:
        """The full-dimensional composition: w = vec(x), f the reward itself."""
        self._whole, variable = True, self._variable
        w = Variable((variable.size,), name="w")
        f = substitute(self._scalar, {id(variable): reshape(w, variable.shape)})
        return Composition(
            variable.shape,
            f,
            Subspace.identity(variable.size),
            np.zeros(variable.size),
            0.0,
            self._leaves.rows,
            self._tolerance,
        )


def _versions(parameters: Sequence[Parameter]) -> tuple[int, ...]:
    return tuple(parameter.version for parameter in parameters)


def _no_rows(columns: int, tolerance: float) -> RowSpace:
    nothing = np.zeros(0, dtype=bool)
    return RowSpace(Subspace.empty(columns), np.zeros((0, 0)), tolerance, nothing, nothing, np.zeros(0))


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


@dataclass(frozen=True, eq=False)
class _Terms:
    """r = Σ ⟨h, atom⟩ + ⟨g, x⟩ + c: pairs of h, (atom.size,), and the atom; g, (d,), or None for 0; c."""

    terms: list[tuple[Floats, Expression]]
    linear: Floats | None
    constant: float


def _split_terms(scalar: Expression, variable: Variable) -> _Terms:
    terms: list[tuple[Floats, Expression]] = []
    linear: Floats | None = None
    form = linear_form(scalar)
    for node, matrix in form.parts:
        if node is variable:
            linear = _as_vector(matrix, variable.size)
        else:
            weights = _as_vector(matrix, node.size)
            # A weight that is zero now may be another with the next value of a parameter.
            if weights.any() or scalar.parameters():
                terms.append((weights, node))
    return _Terms(terms, linear, float(form.offset[0]))


class _Weights:
    """The weights h of a summand ⟨h, atom⟩ at the top of a reward.

    Arguments:
        values: (atom.size,), at present.
        atom: as the user wrote it.
        sign: how the reward moves with the atom, where its weights depend on parameters; None where they do not.
    """

    def __init__(self, values: Floats, atom: Expression, sign: Monotonicity | None) -> None:
        self.values, self.atom = values, atom
        self.parameter: Parameter | None = None
        if sign is not None:
            self.parameter = Parameter(
                atom.shape,
                values.reshape(atom.shape),
                nonneg=sign is Monotonicity.INCREASING,
                nonpos=sign is Monotonicity.DECREASING,
                name="h",
            )

    def refresh(self, values: Floats) -> None:
        """Take over new values."""
        self.values = values
        if self.parameter is not None:
            self.parameter.value = values.reshape(self.atom.shape)


def _signs(scalar: Expression) -> dict[int, Monotonicity]:
    """How a reward moves with each atom at its top, for those whose weights depend on parameters."""
    moves: dict[int, tuple[Monotonicity, bool]] = {id(scalar): (Monotonicity.INCREASING, False)}
    for node in reversed(topological(scalar, lambda one: not isinstance(one, AffineAtom))):
        if not isinstance(node, AffineAtom) or id(node) not in moves:
            continue
        sign, depends = moves[id(node)]
        depends |= any(constant.parameters() for constant in node._constants())
        for position, arg in enumerate(node.args):
            found = _times(sign, node.monotonicity(position))
            if id(arg) in moves:
                other, also = moves[id(arg)]
                moves[id(arg)] = (found if found is other else Monotonicity.UNKNOWN, depends or also)
            else:
                moves[id(arg)] = (found, depends)
    return {node: sign for node, (sign, depends) in moves.items() if depends}


def _times(first: Monotonicity, second: Monotonicity) -> Monotonicity:
    if Monotonicity.UNKNOWN in (first, second):
        return Monotonicity.UNKNOWN
    return Monotonicity.INCREASING if first is second else Monotonicity.DECREASING


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
    gone = axes_of(atom.axis, arg.ndim)
    kept = tuple(1 if axis in gone else length for axis, length in enumerate(arg.shape))
    centred = arg - reshape(shift, kept)
    leaves.scales[id(centred)] = _row_scale(shift)
    leaves.names[id(centred)] = f"{arg}, less their mean,"
    return folded(atom.with_args((centred,))), shift if rate == 1.0 else rate * shift


def _row_scale(shift: Expression) -> float:
    """The magnitude beside which rows, after centring, may be rounding."""
    if not shift.depends:
        return 0.0
    norms = row_norms(affine_map(shift).matrix)
    return 0.0 if norms is None else float(norms.max())


# ---- the affine sub-expressions that feed nonlinear atoms


class _Leaf:
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
class _Leaves:
    """Maximal affine sub-expressions, each once, with how many rows they have together.

    Arguments:
        limit: more rows than this will not be factorised, so nothing costly is done for them.
    """

    limit: int
    rows: int = 0
    made: list[_Leaf] = field(default_factory=list)
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
            self.made.append(_Leaf(leaf))
            self.rows += leaf.size
        return leaf

    @property
    def slopes(self) -> tuple[Parameter, ...]:
        """The parameters that the row space depends on."""
        return tuple(dict.fromkeys(parameter for leaf in self.made for parameter in leaf.slopes))

    def notes(self, space: RowSpace) -> tuple[str, ...]:
        """What the factorisation dropped, and what it found badly scaled."""
        notes, start = [], 0
        for leaf in self.made:
            part = slice(start, start + leaf.expression.size)
            start = part.stop
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


# ---- rewriting over coordinates


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


def _term(h: _Weights, atom: Expression) -> Expression:
    """⟨h, atom⟩ in its plainest form."""
    if h.parameter is not None:
        return inner(h.parameter, atom)
    weights = h.values
    if (weights == weights[0]).all():
        total = atom if atom.shape == () else sum_of(atom)
        weight = float(weights[0])
        return total if weight == 1.0 else -total if weight == -1.0 else weight * total
    return inner(weights.reshape(atom.shape), atom)


def _assemble(terms: list[tuple[_Weights, Expression]]) -> tuple[Expression | None, float]:
    f: Expression | None = None
    constant = 0.0
    for weights, atom in terms:
        term = _term(weights, atom)
        if not term.depends and not term.parameters():
            constant += float(term.value())
        else:
            f = term if f is None else f + term
    return f, constant


def _orthogonalise(g: Floats, subspace: Subspace) -> Floats | None:
    """Take the part of g in the row space out of it, in place: that part, as coordinates; None where it is rounding."""
    length = float(np.linalg.norm(g))
    inside: Floats = subspace.project(g)
    if float(np.linalg.norm(inside)) <= NEGLIGIBLE * length:
        return None
    for _ in range(2):
        subspace.remove(g)
    if float(np.linalg.norm(g)) <= NEGLIGIBLE * length:
        g[:] = 0.0
    return inside
