"""A reward as a tree, with what the rules find at each node and where they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.compiler.phrases import brief
from alignkit.compiler.violations import Violation
from alignkit.expressions import Expression, Sign
from alignkit.expressions.atom import Node

__all__ = ["LeftOut", "TreeRow", "lines_of", "tree_lines", "tree_rows"]

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


@dataclass(frozen=True)
class TreeRow:
    """What an explanation shows of a node.

    Arguments:
        branch: the branches left of it.
        text: the node as printed, without its middle where it is long.
        curvature, sign: what is known of it; the sign is empty where nothing is.
        moves: how the node above moves with it, where the rule looked at that.
        again: whether the node is shown in full above.
        below: the branches left of what stands under it.
        reasons: why a wanted curvature fails here.
    """

    branch: str
    text: str
    curvature: str
    sign: str
    moves: str
    again: bool
    below: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """Rows of a long tree that are not shown.

    Arguments:
        count: how many.
    """

    count: int

    def __str__(self) -> str:
        return f"… {self.count} line{'' if self.count == 1 else 's'} left out"


def tree_lines(expression: Expression, violations: Sequence[Violation] = (), longest: int = _LINES) -> list[str]:
    """The rows of `tree_rows` as text, under a heading.

    Arguments:
        expression, violations, longest: as for `tree_rows`.
    """
    return lines_of(tree_rows(expression, violations, longest))


def lines_of(rows: Sequence[TreeRow | LeftOut]) -> list[str]:
    """Rows of a tree as text, under a heading."""
    lines = [f"  {'':<{_COLUMN}}  {'curvature':<10}{'sign':<13}as it grows, the line above is"]
    for row in rows:
        if isinstance(row, LeftOut):
            lines.append(f"  {row}")
            continue
        known = "as above" if row.again else f"{row.curvature:<10}{row.sign:<13}{row.moves}"
        lines.append(f"  {row.branch + row.text:<{_COLUMN}}  {known}".rstrip())
        lines += [f"  {row.below}✗ {reason}" for reason in row.reasons]
    return lines


def tree_rows(
    expression: Expression, violations: Sequence[Violation] = (), longest: int = _LINES
) -> tuple[TreeRow | LeftOut, ...]:
    """A row for each node, with its curvature, its sign and how the node above moves with it.

    Arguments:
        expression: the root.
        violations: where a wanted curvature fails; the nodes are marked, with the reasons.
        longest: longer trees lose lines that lead to no marked node, and say how many.

    Returns:
        the rows. An affine sub-expression is one row, since no rule looks inside; what occurs twice is opened once.
    """
    lines = _opened(expression)
    marks: dict[int, list[str]] = {}
    for violation in violations:
        marks.setdefault(id(violation.node), []).append(violation.reason)
    shown = _shown(lines, marks, longest)
    rows: list[TreeRow | LeftOut] = []
    left_out = 0
    for position, line in enumerate(lines):
        if position not in shown:
            left_out += 1
            continue
        if left_out:
            rows.append(LeftOut(left_out))
        left_out = 0
        rows.append(_row(line, () if line.again else tuple(marks.get(id(line.node), ()))))
    return (*rows, LeftOut(left_out)) if left_out else tuple(rows)


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


def _row(line: _Line, reasons: tuple[str, ...]) -> TreeRow:
    sign = "" if line.node.sign is Sign.UNKNOWN else str(line.node.sign)
    text = brief(line.node, max(_SHORTEST, _COLUMN - len(line.branch)))
    return TreeRow(line.branch, text, str(line.node.curvature), sign, line.moves, line.again, line.below, reasons)
