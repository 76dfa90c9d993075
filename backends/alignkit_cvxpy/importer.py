"""cvxpy's expressions as alignkit's, node by node, with the same values and at least the same curvature."""

from __future__ import annotations

from typing import Any

import cvxpy
import numpy as np

import alignkit.expressions as ak
from alignkit.errors import CurvatureError, ParameterError
from alignkit.expressions import Expression
from alignkit_cvxpy.imported_affine import AFFINE, as_linear_map
from alignkit_cvxpy.imported_atoms import ATOMS, Inexpressible

__all__ = ["from_cvxpy"]

cp: Any = cvxpy  # typed in part only

#: Longest printed form of a cvxpy expression in a message.
_LONGEST = 200


def from_cvxpy(expression: Any) -> Expression:
    """A cvxpy expression, or objective, as an alignkit expression.

    Constants become constants and every `cp.Parameter` a `Parameter` of the same name, declared sign and present value.
    An objective becomes the reward that is maximised: `cp.Maximize(e)` gives e, and `cp.Minimize(e)` gives −e.

    Arguments:
        expression: a DCP expression of one real variable without attributes.

    Returns:
        An expression of one `Variable` of the same shape and name, with equal values wherever cvxpy's are defined.

    Raises:
        ParameterError: not an expression; several variables, or attributes of one; complex numbers.
        CurvatureError: it is not DCP, or alignkit's atoms cannot express an atom of it; the message names the atom.

    Example:
        ```python
        y = cp.Variable((2, 3), name="y")
        reward = from_cvxpy(-cp.norm1(y) - cp.sum_squares(cp.diff(y, axis=1)))
        ```
    """
    if isinstance(expression, cp.Maximize):
        return from_cvxpy(expression.args[0])
    if isinstance(expression, cp.Minimize):
        return from_cvxpy(-expression.args[0])
    if not isinstance(expression, cp.Expression):
        kind = type(expression).__name__
        raise ParameterError(
            f"from_cvxpy takes a cvxpy expression or objective, not a {kind}.",
            ways_out=["problem.objective"] if isinstance(expression, cp.Problem) else [],
        )
    _check_variables(expression)
    _check_curvature(expression)
    found: dict[int, Expression] = {}
    leaves: dict[int, Expression] = {}
    for node in _topological(expression):
        try:
            made = _leaf(node, leaves) if _is_leaf(node) else _inner(node, [found[id(arg)] for arg in node.args])
        except Inexpressible as obstacle:
            raise _refusal(node, obstacle.rule, obstacle.ways_out) from obstacle
        found[id(node)] = _checked(node, made)
    return found[id(expression)]


def _checked(node: Any, made: Expression) -> Expression:
    """What was made of a node, once its shape and curvature are those of cvxpy."""
    assert made.shape == node.shape, f"{_name(node)} has shape {node.shape}, and {made} has {made.shape}"
    for word in ("convex", "concave"):
        if getattr(node, f"is_{word}")() and not getattr(made, f"is_{word}")():
            raise _refusal(
                node,
                f"cvxpy takes it for {word}, which alignkit cannot confirm: {made.curvature_rule}",
                ["Make the matrix of a quadratic form semidefinite to rounding, without cvxpy's slack."]
                if isinstance(node, cp.QuadForm)
                else [],
            )
    return made


# ---- what cannot be imported


def _check_variables(expression: Any) -> None:
    variables = expression.variables()
    if len(variables) > 1:
        names = ", ".join(variable.name() for variable in variables)
        raise ParameterError(
            f"A reward is a function of one variable, and {_name(expression)} has {len(variables)}: {names}.",
            expression=_name(expression),
            ways_out=["Write the expression in slices of a single cp.Variable, as y[:3] and y[3:]."],
        )
    for variable in variables:
        given = [name for name, value in variable.attributes.items() if value is not None and value is not False]
        if given:
            raise ParameterError(
                f"The variable {variable.name()} has the attribute {', '.join(given)}, which is a constraint, and a "
                "reward has none: the base law decides where x lies.",
                expression=_name(expression),
                ways_out=[
                    f"cp.Variable({variable.shape}) without attributes.",
                    "Put what the attribute demands into the expression, as cp.pos(y) for y ≥ 0.",
                ],
            )
    if not expression.is_real():
        raise ParameterError(
            f"{_name(expression)} is complex; rewards are real.", expression=_name(expression), ways_out=["cp.real(e)"]
        )


def _check_curvature(expression: Any) -> None:
    if expression.is_dcp():
        return
    culprit = next(node for node in _topological(expression) if not node.is_dcp())
    raise CurvatureError(
        f"{_name(expression)} is not DCP: {_broken_rule(culprit)}",
        expression=_name(culprit),
        ways_out=[
            "cp.square, cp.sum_squares or cp.quad_form for products of an expression with itself.",
            "Write the reward with alignkit's own atoms, which need no curvature: ak.sin, ak.clip, a * b …",
        ],
    )


def _broken_rule(node: Any) -> str:
    """The rule of disciplined convex programming that a node breaks, whose arguments all obey it."""
    name = _name(node)
    convex, concave = node.is_atom_convex(), node.is_atom_concave()
    if not (convex or concave):
        products = isinstance(node, cp.atoms.affine.binary_operators.BinaryOperator)
        kind = "multiplies or divides by an expression of the variable" if products else "is neither convex nor concave"
        return f"{name} {kind}."
    kind = "affine" if convex and concave else "convex" if convex else "concave"
    for place, arg in enumerate(node.args):
        moves = "increasing" if node.is_incr(place) else "decreasing" if node.is_decr(place) else "not monotone"
        fits = (arg.is_convex() and node.is_incr(place)) or (arg.is_concave() and node.is_decr(place))
        against = (arg.is_concave() and node.is_incr(place)) or (arg.is_convex() and node.is_decr(place))
        if not (arg.is_affine() or (convex and fits) or (concave and against)):
            return f"{name} is {kind} and {moves} in {_name(arg)}, which is {arg.curvature.lower()}."
    return f"{name} is {kind}, and the curvatures of its arguments disagree."


def _refusal(node: Any, rule: str, ways_out: list[str]) -> CurvatureError:
    return CurvatureError(
        f"{_name(node)} cannot be imported: {rule}",
        expression=_name(node),
        ways_out=[*ways_out, "Write that part of the reward with alignkit's own atoms, or leave it out."],
    )


def _name(node: Any) -> str:
    text = str(node)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


# ---- the walk


def _topological(root: Any) -> list[Any]:
    """All nodes down to variables, parameters and constants, each once, arguments before what is built from them."""
    order: list[Any] = []
    seen: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if not _is_leaf(node):
                stack.extend((arg, False) for arg in reversed(node.args))
    return order


def _is_leaf(node: Any) -> bool:
    if isinstance(node, cp.Variable | cp.Parameter):
        return True
    # A number repeated to a shape stays a number; a power of 0 is constant, and has no value before its variable has.
    is_fixed = node.is_constant() and not node.parameters() and not node.variables()
    return is_fixed and not isinstance(node, cp.atoms.affine.promote.Promote)


def _leaf(node: Any, leaves: dict[int, Expression]) -> Expression:
    if isinstance(node, cp.Variable):
        # Copies of a variable share its id.
        return leaves.setdefault(node.id, ak.Variable(node.shape, name=node.name()))
    if isinstance(node, cp.Parameter):
        if not node.is_real():
            raise ParameterError(f"The parameter {node.name()} is complex; rewards are real.")
        if node.id not in leaves:
            leaves[node.id] = ak.Parameter(
                node.shape, node.value, nonneg=node.is_nonneg(), nonpos=node.is_nonpos(), name=node.name()
            )
        return leaves[node.id]
    value = node.value
    if value is None:
        raise Inexpressible("it has no value, and holds no parameter that could be given one.")
    if hasattr(value, "toarray") and len(node.shape) == 2:
        return ak.as_expression(value)
    dense = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    return ak.as_expression(dense.reshape(node.shape))


def _inner(node: Any, args: list[Expression]) -> Expression:
    for kind in type(node).__mro__:
        for table in (AFFINE, ATOMS):
            if kind in table:
                made: Expression = table[kind](node, args)
                return made if made.shape == node.shape else ak.reshape(made, node.shape)
    if isinstance(node, cp.atoms.affine.affine_atom.AffAtom):
        return as_linear_map(node, args)
    raise Inexpressible(f"alignkit has no atom {type(node).__name__}.")
