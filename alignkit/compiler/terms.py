"""What is linear at the top of a reward, and the weights of the atoms there."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.expressions import (
    AffineAtom,
    Expression,
    Monotonicity,
    Parameter,
    Variable,
    inner,
    sum as sum_of,
)
from alignkit.expressions.arrays import Floats
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import linear_form
from alignkit.expressions.matrices import only_row

__all__ = ["Terms", "Weights", "add_vectors", "assemble", "signs_of_weights", "split_terms", "weighted"]


@dataclass(frozen=True, eq=False)
class Terms:
    """r = Σ ⟨h, atom⟩ + ⟨g, x⟩ + c: pairs of h, (atom.size,), and the atom; g, (d,), or None for 0; c."""

    terms: list[tuple[Floats, Expression]]
    linear: Floats | None
    constant: float


def split_terms(scalar: Expression, variable: Variable) -> Terms:
    """Take a scalar expression apart where its affine structure ends, at the present values of its parameters."""
    terms: list[tuple[Floats, Expression]] = []
    linear: Floats | None = None
    form = linear_form(scalar)
    for node, matrix in form.parts:
        if node is variable:
            linear = only_row(matrix, variable.size)
        else:
            weights = only_row(matrix, node.size)
            # A weight that is zero now may be another with the next value of a parameter.
            if weights.any() or scalar.parameters():
                terms.append((weights, node))
    return Terms(terms, linear, float(form.offset[0]))


class Weights:
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

    def of(self, atom: Expression) -> Expression:
        """⟨h, atom⟩, for the atom or what has taken its place."""
        return weighted(self.values, atom) if self.parameter is None else inner(self.parameter, atom)

    def refresh(self, values: Floats) -> None:
        """Take over new values."""
        self.values = values
        if self.parameter is not None:
            self.parameter.value = values.reshape(self.atom.shape)


def signs_of_weights(scalar: Expression) -> dict[int, Monotonicity]:
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


def add_vectors(left: Floats | None, right: Floats | None) -> Floats | None:
    """left + right, None for 0; left is written to."""
    if left is None or right is None:
        return right if left is None else left
    left += right
    return left


def weighted(weights: Floats, atom: Expression) -> Expression:
    """⟨weights, atom⟩ in its plainest form, for fixed weights of as many entries as the atom."""
    first = float(weights.flat[0])
    if not (weights == first).all():
        return inner(weights.reshape(atom.shape), atom)
    total = atom if atom.shape == () else sum_of(atom)
    return total if first == 1.0 else -total if first == -1.0 else first * total


def assemble(terms: list[tuple[Weights, Expression]]) -> tuple[Expression | None, float]:
    """Σ ⟨h, atom⟩ as an expression, None for 0, and a number for what is constant in it."""
    f: Expression | None = None
    constant = 0.0
    for weights, atom in terms:
        term = weights.of(atom)
        if not term.depends and not term.parameters():
            constant += float(term.value())
        else:
            f = term if f is None else f + term
    return f, constant
