"""Where a wanted curvature fails: nodes and arguments that stand in the way, by the composition rule read backwards.

Source: M. Grant, S. Boyd, Y. Ye, "Disciplined convex programming", 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.compiler.phrases import brief, described
from alignkit.expressions import Curvature, Expression, Monotonicity
from alignkit.expressions.atom import Node

__all__ = ["Violation", "violations"]


@dataclass(frozen=True, eq=False)
class Violation:
    """One obstacle to a wanted curvature.

    Arguments:
        node: the sub-expression at which the rule fails.
        argument: the argument it fails in; None when the node's own function has the wrong curvature.
        reason: the rule, in a sentence that names both.
    """

    node: Expression
    argument: Expression | None
    reason: str


def violations(expression: Expression, wanted: Curvature) -> tuple[Violation, ...]:
    """Why an expression is not proved convex, or concave.

    Arguments:
        expression: any expression.
        wanted: `Curvature.CONVEX` or `Curvature.CONCAVE`.

    Returns:
        the obstacles, in the order they were written; without any of them the curvature would be proved. Empty where
        it is proved.

    Example:
        >>> from alignkit.expressions import Variable, norm1, square
        >>> x = Variable(2)
        >>> [str(one.node) for one in violations(square(x[0]) - norm1(x), Curvature.CONVEX)]
        ['norm1(x)']
    """
    found: list[Violation] = []
    seen: set[tuple[int, Curvature]] = set()
    waiting = [(expression, wanted)]
    while waiting:
        node, needed = waiting.pop()
        if (id(node), needed) in seen or _has(node, needed):
            continue
        seen.add((id(node), needed))
        if not isinstance(node, Node):
            continue
        if not (node.is_atom_convex if needed is Curvature.CONVEX else node.is_atom_concave):
            found.append(
                Violation(node, None, f"{brief(node)} must be {needed} here, and {node.name} is {_kind(node)}.")
            )
            continue
        below: list[tuple[Expression, Curvature]] = []
        stuck: list[Violation] = []
        for position, arg in enumerate(node.args):
            if arg.is_affine():
                continue
            moves = node.monotonicity(position)
            if moves is Monotonicity.UNKNOWN:
                reason = (
                    f"{brief(node)} must be {needed} here, and {node.name} is not monotone in {brief(arg)}, which is "
                    f"{described(arg.curvature)} and would have to be affine."
                )
                stuck.append(Violation(node, arg, reason))
            else:
                below.append((arg, needed if moves is Monotonicity.INCREASING else _opposite(needed)))
        below = [(arg, inner) for arg, inner in below if not _has(arg, inner)]
        if not stuck and not below:
            # An atom with a curvature rule of its own, as a product of a special kind.
            stuck.append(Violation(node, None, f"{brief(node)} must be {needed} here: {node.curvature_rule}"))
        found += stuck
        waiting += reversed(below)
    return tuple(found)


def _has(node: Expression, wanted: Curvature) -> bool:
    return node.is_convex() if wanted is Curvature.CONVEX else node.is_concave()


def _opposite(curvature: Curvature) -> Curvature:
    return Curvature.CONCAVE if curvature is Curvature.CONVEX else Curvature.CONVEX


def _kind(node: Node) -> str:
    if node.is_atom_convex:
        return "affine" if node.is_atom_concave else "convex"
    return "concave" if node.is_atom_concave else "neither convex nor concave"
