"""Domains: where they hold everywhere, and points around which an expression is +∞ because they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import array_api_compat
import numpy as np

from alignkit.expressions.arrays import Floats
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.curves import Curve
from alignkit.expressions.curvature import Monotonicity
from alignkit.expressions.expression import Condition, Expression, topological
from alignkit.expressions.leaf import Variable
from alignkit.expressions.matrices import row_norms, row_of
from alignkit.expressions.splitting import affine_over

__all__ = [
    "Pole",
    "can_reach_infinity",
    "condition_holds",
    "is_defined",
    "is_defined_everywhere",
    "outside_points",
    "pole_among",
]

#: How many entries of one argument are looked at.
_ROWS = 16
#: Largest array of points, in entries (32 MB).
_LARGEST = 2**22
#: How far from the boundary of its domain, relative to the bound, an argument must lie to count as outside.
_MARGIN = 1e-9
#: How many points near a pole must be poles too, and how near, relative to its coordinates.
_AROUND, _NEARBY = 8, 1e-6


@dataclass(frozen=True, eq=False)
class Pole:
    """A point around which a function is +∞, as an argument lies outside the domain of an atom.

    Arguments:
        point: of the variable's shape; the function is +∞ on a neighbourhood of it.
        atom: the atom.
        condition: of its domain, which fails at the point.
    """

    point: Floats
    atom: Atom
    condition: Condition

    def __str__(self) -> str:
        return f"where {self.condition} fails, outside the domain of {self.atom}"


def is_defined_everywhere(expression: Expression) -> bool:
    """Whether the ranges of arguments prove that no condition of the domain can fail.

    Example:
        >>> from alignkit.expressions import Variable, quad_over_lin, square
        >>> w = Variable(2)
        >>> is_defined_everywhere(square(w[0])), is_defined_everywhere(quad_over_lin(w[0], w[1]))
        (True, False)
    """
    defined: dict[int, bool] = {}
    for node in topological(expression):
        defined[id(node)] = is_defined(node, defined)
    return defined[id(expression)]


def is_defined(node: Expression, defined: Mapping[int, bool]) -> bool:
    """The same of a node, from what is known of its arguments, by identity."""
    return all(defined[id(arg)] for arg in node.args) and all(
        condition_holds(node.args[position], bound, strict) for position, bound, strict in node._domain()
    )


def condition_holds(arg: Expression, bound: float, strict: bool) -> bool:
    """Whether the range of an argument lies above a bound."""
    lowest = arg.range.lower
    return lowest > bound or (lowest == bound and not strict)


def can_reach_infinity(expression: Expression) -> bool:
    """Whether some entry may be +∞ at a finite point, as far as domains and monotonicity tell.

    Example:
        >>> from alignkit.expressions import Variable, quad_over_lin
        >>> w = Variable(2)
        >>> can_reach_infinity(quad_over_lin(w[0], w[1])), can_reach_infinity(-quad_over_lin(w[0], w[1]))
        (True, False)
    """
    up: dict[int, bool] = {}
    down: dict[int, bool] = {}
    for node in topological(expression):
        above = below = False
        if any(not condition_holds(node.args[place], bound, strict) for place, bound, strict in node._domain()):
            assert isinstance(node, Atom)
            above, below = not node.is_atom_concave, not node.is_atom_convex
        for position, arg in enumerate(node.args):
            if not (up[id(arg)] or down[id(arg)]):
                continue
            # A curve that is convex or concave over the range of its argument is so for infinite ones beyond it too.
            bent = isinstance(node, Curve) and (node.is_atom_convex or node.is_atom_concave)
            steady = Monotonicity.UNKNOWN if bent else node.monotonicity(position)  # type: ignore[attr-defined]
            if steady is Monotonicity.INCREASING:
                above, below = above or up[id(arg)], below or down[id(arg)]
            elif steady is Monotonicity.DECREASING:
                above, below = above or down[id(arg)], below or up[id(arg)]
            else:
                above = below = True
        up[id(node)], down[id(node)] = above, below
    return up[id(expression)]


def outside_points(expression: Expression, lower: float = -math.inf, upper: float = math.inf) -> Floats:
    """Points at which affine arguments leave the domains of atoms.

    Arguments:
        expression: a scalar expression of one variable.
        lower, upper: bounds of every entry of the points; both finite, or neither.

    Returns:
        (n, *shape), with the variable's shape. In a box each point takes one entry of one argument as far down as the
        box lets it; without a box it takes the entry below its bound and the other arguments above theirs.
    """
    variable = expression.variables()[0]
    rows, offsets, bounds = [], [], []
    for node in topological(expression):
        if not isinstance(node, Atom) or not node.depends:
            continue
        for position, bound, _ in node._domain():
            arg = node.args[position]
            if not arg.is_affine() or not arg.depends:
                continue
            inside = affine_over(arg, variable.size)
            norms = row_norms(inside.matrix)
            places = range(min(arg.size, _ROWS)) if norms is None else np.argsort(-norms, kind="stable")[:_ROWS]
            for place in places:
                rows.append(row_of(inside.matrix, int(place)))
                offsets.append(inside.offset[place])
                bounds.append(bound)
            if len(rows) * variable.size > _LARGEST // 2:
                break
    if not rows:
        return np.zeros((0, *variable.shape))
    matrix, gap = np.array(rows), np.array(bounds) - np.array(offsets)
    if math.isfinite(lower):
        points = np.where(matrix > 0.0, lower, np.where(matrix < 0.0, upper, (lower + upper) / 2.0))
    else:
        targets = gap[:, None] + np.where(np.eye(len(gap), dtype=bool), -1.0, 1.0)
        points = np.linalg.lstsq(matrix, targets, rcond=None)[0].T
    return points.reshape(-1, *variable.shape)


def pole_among(expression: Expression, points: Floats) -> Pole | None:
    """The first of some points around which an expression is +∞, for arguments outside the domain of an atom.

    Arguments:
        expression: a scalar expression of one variable.
        points: (n, *shape).

    Returns:
        None when there is none; values that merely overflow do not count.
    """
    with np.errstate(all="ignore"):
        values = np.asarray(expression.value(points)).reshape(len(points), -1)[:, 0]
    for point in points[values == math.inf]:
        broken = _broken(expression, point[None])
        # Held at 0 there, those atoms leave the rest finite: it is they that are infinite.
        held = tuple(atom for atom, _ in broken)
        if not broken or not np.isfinite(_values(expression, point[None], held)[id(expression)]).all():
            continue
        with np.errstate(all="ignore"):
            if (np.asarray(expression.value(_around(point))) == math.inf).all():
                return Pole(point, *broken[0])
    return None


def _around(point: Floats) -> Floats:
    """Points close to one, in fixed directions, (n, *shape)."""
    offsets = np.random.default_rng(0).standard_normal((_AROUND, *point.shape))
    return point + _NEARBY * (1.0 + np.abs(point)) * offsets


def _broken(expression: Expression, point: Floats) -> list[tuple[Atom, Condition]]:
    """The atoms outside their domains at a point, (1, *shape); none where some argument is close to its bound."""
    values = _values(expression, point)
    found: list[tuple[Atom, Condition]] = []
    for node in topological(expression):
        if not isinstance(node, Atom) or not node.depends:
            continue
        for position, bound, strict in node._domain():
            distance = values[id(node.args[position])] - bound
            if not (np.abs(distance) > _MARGIN * (1.0 + abs(bound))).all():
                return []
            if (distance < 0.0).any():
                found.append((node, Condition(node.args[position], bound, strict)))
    return found


def _values(expression: Expression, point: Floats, held: tuple[Atom, ...] = ()) -> dict[int, Floats]:
    """The value of every sub-expression at a point, (1, *shape), with some atoms held at 0."""
    found: dict[int, Floats] = {}
    still = {id(atom) for atom in held}
    xp = array_api_compat.array_namespace(point)
    with np.errstate(all="ignore"):
        for node in topological(expression):
            if isinstance(node, Variable):
                found[id(node)] = point
            elif not node.depends:
                found[id(node)] = np.asarray(node.value())[None]
            elif id(node) in still:
                found[id(node)] = np.zeros((1, *node.shape))
            else:
                found[id(node)] = node._numeric(xp, [found[id(arg)] for arg in node.args])
    return found
