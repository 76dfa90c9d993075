"""A reward as a tree, with what the rules find at each node and where they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.compiler.phrases import brief
from alignkit.compiler.violations import Violation
from alignkit.expressions import Expression, Sign
from alignkit.expressions.atom import Node

__all__ = ["tree_lines"]

#: Characters of the column of sub-expressions with their branches, and at least of a sub-expression.
_COLUMN, _SHORTEST = 62, 24
#: A tree of more lines than this is shown in part.
_LINES = 40


@dataclass(frozen=True, eq=False)
class _Line:
    """A node as it stands in the tree.

    Arguments:
        node: the sub-expression.
        branch: the line's own branch, as `├─ `, with those above it to its left.
        below: what stands left of its children.
        moves: how the line above moves with it, where the rule looked at that.
        parent: the position of the line above; −1 for the root.
        again: whether the node has been shown before.
    """

    node: Expression
    branch: str
    below: str
    moves: str
    parent: int
    again: bool


def tree_lines(expression: Expression, violations: Sequence[Violation] = (), longest: int = _LINES) -> list[str]:
    """A line for each node, with its curvature, its sign and how the node above moves with it.

    Arguments:
        expression: the root.
        violations: where a wanted curvature fails; the nodes are marked, with the reasons.
        longest: longer trees lose lines that lead to no marked node, and say how many.

    Returns:
        the lines. An affine sub-expression is one line, since no rule looks inside; what occurs twice is opened once.
    """
    lines = _opened(expression)
    marks: dict[int, list[str]] = {}
    for violation in violations:
        marks.setdefault(id(violation.node), []).append(violation.reason)
    shown = _shown(lines, marks, longest)
    texts = [f"  {'':<{_COLUMN}}  {'curvature':<10}{'sign':<13}as it grows, the line above is"]
    left_out = 0
    for position, line in enumerate(lines):
        if position not in shown:
            left_out += 1
            continue
        texts += _left_out(left_out)
        left_out = 0
        texts.append(_row(line))
        if not line.again:
            texts += [f"  {line.below}✗ {reason}" for reason in marks.get(id(line.node), ())]
    return texts + _left_out(left_out)


def _opened(root: Expression) -> list[_Line]:
    """Every line of the tree, top down."""
    lines: list[_Line] = []
    opened: set[int] = set()
    waiting: list[tuple[Expression, str, str, str, int]] = [(root, "", "", "", -1)]
    while waiting:
        node, branch, below, moves, parent = waiting.pop()
        ends = not isinstance(node, Node) or node.is_affine()
        again = not ends and id(node) in opened
        position = len(lines)
        lines.append(_Line(node, branch, below, moves, parent, again))
        if ends or again:
            continue
        opened.add(id(node))
        assert isinstance(node, Node)
        children = []
        for place, arg in enumerate(node.args):
            last = place == len(node.args) - 1
            rate = "" if arg.is_affine() else str(node.monotonicity(place))
            children.append(
                (arg, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), rate, position)
            )
        waiting += reversed(children)
    return lines


def _shown(lines: Sequence[_Line], marks: dict[int, list[str]], longest: int) -> set[int]:
    """The positions of the lines to show: those that lead to marks first, then from the top."""
    if len(lines) <= longest:
        return set(range(len(lines)))
    shown: set[int] = set()
    for marked, line in enumerate(lines):
        position = marked
        if id(line.node) in marks and not line.again and len(shown) < longest:
            while position >= 0 and position not in shown:
                shown.add(position)
                position = lines[position].parent
    for position in range(len(lines)):
        if len(shown) >= longest:
            break
        shown.add(position)
    return shown


def _row(line: _Line) -> str:
    text = f"{line.branch}{brief(line.node, max(_SHORTEST, _COLUMN - len(line.branch)))}"
    if line.again:
        return f"  {text:<{_COLUMN}}  as above"
    sign = "" if line.node.sign is Sign.UNKNOWN else str(line.node.sign)
    return f"  {text:<{_COLUMN}}  {line.node.curvature!s:<10}{sign:<13}{line.moves}".rstrip()


def _left_out(count: int) -> list[str]:
    return [f"  … {count} line{'' if count == 1 else 's'} left out"] if count else []
