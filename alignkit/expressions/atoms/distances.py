"""The distance to the nearest of several points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.errors import ShapeError
from alignkit.expressions.arrays import Array, Floats, MovedConstant, flat, shape_text
from alignkit.expressions.atom import Atom, as_argument, constant_argument, folded
from alignkit.expressions.atoms.elementwise import away_from_zero
from alignkit.expressions.atoms.norms import norm2, p_norm
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import CALL, Expression, Printed

__all__ = ["distance_to_points"]

#: Up to this many coordinates distances are summed directly; beyond, points are compared by a matrix product.
LONGEST_LOOP = 16
#: Largest table of distances, in entries (128 MB).
LARGEST_TABLE = 2**24


class DistanceToPoints(Atom):
    """min_j ‖x − p_j‖, Euclidean over all entries.

    Arguments:
        arg: the argument.
        points: (m, *arg.shape), float64.
    """

    name = "distance_to_points"

    def __init__(self, arg: Expression, points: Floats) -> None:
        super().__init__((), (arg,))
        self.points = points
        rows = points.reshape(len(points), -1)
        # Squared distances lose the fewest digits about the points' own centre.
        centre = rows.mean(axis=0)
        self._centre, self._rows = MovedConstant(centre), MovedConstant(rows - centre)

    @property
    def is_atom_convex(self) -> bool:
        """Always false: the distance to a single point is norm2."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """Known where the argument lies beyond all points in every entry."""
        bounds = self.args[0].range
        return away_from_zero(
            Interval(bounds.lower - float(self.points.max()), bounds.upper - float(self.points.min()))
        )

    def _gain(self, position: int) -> float:
        return 1.0

    def _own_range(self) -> Interval:
        bounds, rows = self.args[0].range, self.points.reshape(len(self.points), -1)
        nearest = np.maximum(np.maximum(bounds.lower - rows, rows - bounds.upper), 0.0)
        farthest = np.maximum(np.abs(bounds.lower - rows), np.abs(bounds.upper - rows))
        return Interval(*(float(np.linalg.norm(offsets, axis=1).min()) for offsets in (nearest, farthest)))

    def _nearest(self, xp: Any, value: Array) -> Array:
        """x less the nearest point, (n, d)."""
        rows, points = flat(xp, value) - self._centre.like(value), self._rows.like(value)
        block = max(1, LARGEST_TABLE // max(1, rows.shape[0]))
        least, place = _closest(xp, rows, points[:block])
        for start in range(block, points.shape[0], block):
            found, where = _closest(xp, rows, points[start : start + block])
            place = xp.where(found < least, where + start, place)
            least = xp.where(found < least, found, least)
        return rows - xp.take(points, place, axis=0)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return p_norm(xp, self._nearest(xp, values[0]), 2.0, (1,))

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        scale = cotangent / xp.where(result > 0.0, result, xp.ones_like(result))
        return [xp.reshape(scale[:, None] * self._nearest(xp, values[0]), values[0].shape)]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{self.name}({parts[0][0]}, [{shape_text(self.points.shape)} constant])", CALL


def _closest(xp: Any, rows: Array, points: Array) -> tuple[Array, Array]:
    """The least ‖x − p‖² over points less ‖x‖² or a constant, and which point it is; (n,) each."""
    if rows.shape[1] <= LONGEST_LOOP:
        squares = (rows[:, :1] - points[:, 0]) ** 2
        for column in range(1, rows.shape[1]):
            squares = squares + (rows[:, column : column + 1] - points[:, column]) ** 2
    else:
        squares = xp.sum(points * points, axis=1) - 2.0 * (rows @ points.T)
    return xp.min(squares, axis=1), xp.argmin(squares, axis=1)


def distance_to_points(x: Any, points: Any) -> Expression:
    """The Euclidean distance to the nearest of several points, min_j ‖x − p_j‖; Lipschitz with constant 1.

    Arguments:
        x: an expression or a constant.
        points: constants (m, *x.shape).

    Returns:
        A scalar expression; norm2(x − p) for a single point.

    Raises:
        ShapeError: the points are not of x's shape.
        ParameterError: the points are not constant.

    Example:
        >>> from alignkit.expressions import Variable
        >>> float(distance_to_points(Variable(2), [[0.0, 0.0], [5.0, 5.0]]).value([5.0, 4.0]))
        1.0
    """
    arg = as_argument(x, "distance_to_points")
    found = constant_argument(points, "distance_to_points: the points")
    if found.shape[1:] != arg.shape or found.ndim != arg.ndim + 1:
        shape = ", ".join(["m", *(str(length) for length in arg.shape)])
        raise ShapeError(
            f"distance_to_points: {arg} has shape {arg.shape}, and the points have {found.shape}, not ({shape}).",
            ways_out=("points[None] for a single point",) if found.shape == arg.shape else (),
        )
    return norm2(arg - found[0]) if len(found) == 1 else folded(DistanceToPoints(arg, found))


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "distance_to_points",
        "neither",
        "min ‖x − pⱼ‖ over points",
        lambda x: distance_to_points(x, np.stack([np.zeros(x.shape), np.ones(x.shape)])),
        (DistanceToPoints,),
        distance_to_points,
    ),
)
