"""From a reward to its composition r(x) = f(Qx) + ⟨g, x⟩ + c, with as few rows in Q as the reward needs.

The affine sub-expressions that feed nonlinear atoms are collected, their rows factorised, and the atoms rewritten over
coordinates w of the row space. What is linear at the top costs no dimension: it goes to g.
"""

from __future__ import annotations

import numpy as np

from alignkit.compiler.leaves import Leaves, centred
from alignkit.compiler.terms import Weights, add_vectors, assemble, signs_of_weights, split_terms
from alignkit.contracts import Composition
from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions import (
    Expression,
    Parameter,
    Subspace,
    Variable,
    as_expression,
    inner,
    reshape,
)
from alignkit.expressions.arrays import Floats
from alignkit.expressions.atom import substitute
from alignkit.expressions.expression import versions_of
from alignkit.expressions.rowspace import RowSpace, row_space

__all__ = ["Recipe", "compose"]

#: From this many entries on, a Q that leaves out one direction is not formed.
_NEARLY_WHOLE = 16
#: Parts of g in the row space of Q below this, relative to ‖g‖, are rounding.
NEGLIGIBLE = 1e-12


def compose(reward: Expression, *, dimension_max: int = 256, tolerance: float = 1e-9) -> Composition:
    """Write a reward as r(x) = f(w) + ⟨g, x⟩ + c with w = Qx, QQᵀ = I, Qg = 0 and Q of minimal rank.

    Where the rank is d, or d − 1 in many dimensions, Q is the identity and f the reward.

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
        self._leaves = Leaves(dimension_max)
        self._shifts: list[tuple[Weights, Expression]] = []
        #: What is left of f where no variable is in it, but parameters are.
        self._constant: Expression | None = None
        self._space = _no_rows(self._variable.size, tolerance)
        #: The versions that the composition and its row space were made of.
        self._held = versions_of(reward.parameters())
        self._factorised: tuple[int, ...] = ()
        self.composition = self._compose(dimension_max)

    def refresh(self) -> bool:
        """Take over the present values of the parameters.

        Returns:
            True when `composition` holds them, with the same f; False when their values change the structure, as the
            rank, and the reward must be composed anew.
        """
        if self._whole or versions_of(self.reward.parameters()) == self._held:
            return True
        self._held = versions_of(self.reward.parameters())
        found = split_terms(self._scalar, self._variable)
        if [id(atom) for _, atom in found.terms] != [id(weights.atom) for weights in self._weights]:
            return False
        for (values, _), weights in zip(found.terms, self._weights, strict=True):
            weights.refresh(values)
        space, leaves = self._space, self._leaves
        if versions_of(leaves.slopes) != self._factorised:
            space = self._factorise()
            if space.subspace.dimension != self._space.subspace.dimension:
                return False
            self._space = space
        origin = np.zeros(self._variable.shape)
        for leaf, part in leaves.parts():
            leaf.refresh(space.coefficients[part], origin)
        linear, constant = self._with_shifts(found.linear, found.constant)
        self.composition = self._finish(self._f, linear, constant + self._remainder)
        return True

    def _compose(self, dimension_max: int) -> Composition:
        self._whole = False
        leaves, variable = self._leaves, self._variable
        found = split_terms(self._scalar, variable)
        signs = signs_of_weights(self._scalar) if self.reward.parameters() else {}
        prepared: list[tuple[Weights, Expression]] = []
        self._weights: list[Weights] = []
        for values, atom in found.terms:
            moved, shift = centred(atom, leaves)
            weights = Weights(values, atom, signs.get(id(atom)))
            self._weights.append(weights)
            if shift is not None:
                self._shifts.append((weights, shift))
            prepared.append((weights, leaves.prepare(moved)))
        if leaves.rows > dimension_max:
            return self._compose_whole()
        linear, constant = self._with_shifts(found.linear, found.constant)
        if not leaves.made:
            self._remainder = sum(float(weights.of(atom).value()) for weights, atom in prepared)
            self._f = None
            return self._finish(None, linear, constant + self._remainder)
        space = self._space = self._factorise()
        if _saves_nothing(space.subspace.dimension, variable.size):
            return self._compose_whole()
        self._w = w = Variable((space.subspace.dimension,), name="w") if space.subspace.dimension else None
        replaced = {
            id(leaf.expression): leaf.over_coordinates(space.coefficients[part], w) for leaf, part in leaves.parts()
        }
        f, self._remainder = assemble([(weights, substitute(atom, replaced)) for weights, atom in prepared])
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
        self._factorised = versions_of(self._leaves.slopes)
        maps = [leaf.read() for leaf in self._leaves.made]
        scales = [self._leaves.scales.get(id(leaf.expression), 0.0) for leaf in self._leaves.made]
        matrices = [found.matrix for found in maps]
        del maps
        return row_space(matrices, scales, self._variable.size, self._tolerance)

    def _with_shifts(self, linear: Floats | None, constant: float) -> tuple[Floats | None, float]:
        """Add the common shifts that were taken out of atoms."""
        for weights, shift in self._shifts:
            moved = split_terms(inner(weights.values.reshape(weights.atom.shape), shift), self._variable)
            linear, constant = add_vectors(linear, moved.linear), constant + moved.constant
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


def _saves_nothing(rank: int, ambient: int) -> bool:
    """Whether Q would be as large as the identity: of full rank, or short of it by one, as for differences.

    One direction is not worth a dense matrix, behind which f no longer sees single entries.
    """
    return rank == ambient or (rank == ambient - 1 and ambient >= _NEARLY_WHOLE)


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
