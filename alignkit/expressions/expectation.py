"""Expectations under the aligned law q, and conditions on them.

An expectation is a leaf, like a variable: an affine function of q that rewards and constraints are written in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignkit.errors import CurvatureError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import as_argument, substitute
from alignkit.expressions.curvature import Curvature, Interval
from alignkit.expressions.expression import CALL, Expression, Printed, comparisons, topological, united
from alignkit.expressions.leaf import as_expression

__all__ = ["Constraint", "E", "Expectation", "Relation", "expectations", "without_expectations"]

Relation = Literal["==", "<=", ">="]
_SWAPPED: dict[str, Relation] = {"==": "==", "<=": ">=", ">=": "<="}


class Expectation(Expression):
    """The expectation under q of an affine expression; `E` makes them.

    Arguments:
        expression: what the expectation is of, affine in the one variable.
    """

    def __init__(self, expression: Expression) -> None:
        super().__init__(expression.shape)
        self.expression = expression
        self._depends = True
        self._has_expectation = True
        self._parameters = united((expression,))

    def _own_curvature(self) -> Curvature:
        return Curvature.AFFINE

    def _own_range(self) -> Interval:
        return self.expression.range

    def _own_lipschitz(self) -> float:
        return 1.0

    def _own_rule(self) -> str:
        return f"{self} is an expectation, linear in the law."

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        raise ParameterError(
            f"{self} is a number of the law q, which single points do not have.",
            ways_out=(f"average over draws: ({self.expression}).value(draws).mean(axis=0)",),
        )

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        raise AssertionError("an expectation has no arguments")

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"E({self.expression})", CALL


def E(expression: Any) -> Expectation:
    """The expectation under the aligned law q of an affine expression of the variable.

    It stands in concave utilities of the law, `r(x) + ak.log(ak.E(ak.inner(h, x)))`, and in constraints,
    `ak.E(B @ ak.vec(x)) == b`, under KL closeness.

    Arguments:
        expression: affine in the one variable, of any shape.

    Returns:
        An expression of that shape, affine in the law.

    Raises:
        CurvatureError: the expression is not affine.
        ParameterError: it has no variable, or more than one, or is an expectation already.

    Example:
        >>> from alignkit.expressions import Variable, log
        >>> x = Variable(3)
        >>> log(E(x[0]))
        Expression(CONCAVE, UNKNOWN, (), log(E(x[0])))
        >>> print(E(x) == [1.0, 0.0, 0.0])
        E(x) == [3 constant]
    """
    found = as_argument(expression, "E")
    if found.has_expectation:
        raise ParameterError(
            f"E({found}): an expectation of an expectation is the inner one, a number of the law.",
            ways_out=("write E once, around an affine expression of the variable",),
            expression=str(found),
        )
    variables = found.variables()
    if len(variables) != 1:
        names = ", ".join(f"{variable} of shape {variable.shape}" for variable in variables) or "none"
        raise ParameterError(
            f"E({found}) needs an expression of exactly one variable, and it has {names}.",
            ways_out=("build it from x = ak.Variable(base.shape)",),
            expression=str(found),
        )
    if not found.is_affine():
        raise CurvatureError(
            f"E({found}): expectations are taken of affine expressions, whose multipliers are tilts of the base law, "
            f"and {found.curvature_rule}",
            ways_out=(
                "add a nonlinear expression to the reward itself, which is averaged over q, with a weight",
                "E of the affine expression inside it",
            ),
            expression=str(found),
        )
    return Expectation(found)


@dataclass(frozen=True, eq=False)
class Constraint:
    """A condition on the law q, affine in its expectations: left == right, left <= right or left >= right.

    Comparing an expression of `E(…)` with a number, an array or another such expression makes it; every entry counts.

    Arguments:
        left: affine in expectations, of any shape.
        relation: "==", "<=" or ">=".
        right: of the same shape, or a scalar.

    Raises:
        CurvatureError: a side is not affine in the expectations.
        ParameterError: the variable stands outside E.
        ShapeError: the sides have different shapes, and neither is a scalar.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable(2)
        >>> constraint = 2 * E(x[0]) - E(x[1]) <= 3
        >>> print(constraint, "is", constraint.residual, constraint.relation, 0)
        2 * E(x[0]) - E(x[1]) <= 3 is 2 * x[0] - x[1] - 3 <= 0
    """

    left: Expression
    relation: Relation
    right: Expression

    def __post_init__(self) -> None:
        for side in (self.left, self.right):
            if not side.is_affine():
                raise CurvatureError(
                    f"{self}: {side} is not affine in the expectations: {side.curvature_rule}",
                    ways_out=(
                        "constrain the expectations themselves",
                        "put a concave function of them into the reward, as a utility",
                    ),
                    expression=str(side),
                )
            if side.variables():
                raise ParameterError(
                    f"{self}: {side} has the variable outside E(…), so it would bind every draw and not the law.",
                    ways_out=(f"E({without_expectations(side)})",),
                    expression=str(side),
                )
        if self.left.shape != self.right.shape and 1 not in (self.left.size, self.right.size):
            raise ShapeError(f"{self}: the sides have shapes {self.left.shape} and {self.right.shape}.")
        if self.left.size < self.right.size:
            raise ShapeError(
                f"{self}: one expectation, of shape {self.left.shape}, cannot be compared with "
                f"{self.right.size} numbers at once.",
                ways_out=("compare it with one number, or E of an expression of that shape",),
            )

    @property
    def residual(self) -> Expression:
        """left − right as an affine expression of the variable, of the shape of left: E_q of it is compared with 0."""
        return without_expectations(self.left - self.right)

    def parameters(self) -> tuple[Any, ...]:
        """The parameters in it, each once."""
        return united((self.left, self.right))

    def to_latex(self) -> str:
        """The condition in LaTeX, for mathematics mode.

        Returns:
            The formula, without dollar signs.

        Example:
            >>> from alignkit.expressions import Variable
            >>> print((E(Variable(2)) <= 1).to_latex())
            \\mathbb{E}_{q}\\left[x\\right] \\le 1
        """
        from alignkit.expressions.latex import constraint_latex

        return constraint_latex(self)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.to_latex()}$"

    def __bool__(self) -> bool:
        raise TypeError(
            f"The truth value of the constraint {self} is not defined: it is a condition on a law yet to be found. "
            "Pass it in constraints=[…]; write a ≤ E(…) ≤ b as two constraints."
        )

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"

    def __repr__(self) -> str:
        return f"Constraint({self})"


def expectations(expression: Expression) -> tuple[Expectation, ...]:
    """The expectations in an expression, each once, in order of appearance."""
    if not expression.has_expectation:
        return ()
    return tuple(node for node in topological(expression) if isinstance(node, Expectation))


def without_expectations(expression: Expression) -> Expression:
    """The expression with what the expectations are of in their place: for affine ones it has the same expectation."""
    return substitute(expression, {id(node): node.expression for node in expectations(expression)})


def _compare(left: Expression, relation: str, other: Any) -> Any:
    """What a comparison of an expression with something gives: a constraint where an expectation is in it."""
    if not left.has_expectation and not (isinstance(other, Expression) and other.has_expectation):
        if relation == "==":
            return left is other
        raise ParameterError(
            f"{left} {relation} {other}: an expression differs from draw to draw, and only expectations of it can be "
            "compared.",
            ways_out=(f"E({left}) {relation if len(relation) == 2 else relation + '='} …",),
            expression=str(left),
        )
    if len(relation) == 1:
        raise ParameterError(
            f"{left} {relation} {other}: a strict inequality has no closest law.",
            ways_out=(f"write {relation}=",),
            expression=str(left),
        )
    right = as_expression(other, beside=left)
    if not left.has_expectation or (right.has_expectation and left.size < right.size):
        return Constraint(right, _SWAPPED[relation], left)
    return Constraint(left, relation, right)  # type: ignore[arg-type]


comparisons.update(expectations=_compare)
