"""The calculus of curvature, sign and range: disciplined convex programming with range-dependent monotonicity.

Source: M. Grant, S. Boyd, Y. Ye, "Disciplined convex programming", 2006; the rules are those of cvxpy.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curvature", "Interval", "Monotonicity", "Sign"]


class Curvature(enum.Enum):
    """What is known of the curvature of an expression in its variable; the value is the word used in messages."""

    CONSTANT = "constant"
    AFFINE = "affine"
    CONVEX = "convex"
    CONCAVE = "concave"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value

    @property
    def is_affine(self) -> bool:
        """True for affine and constant."""
        return self in (Curvature.CONSTANT, Curvature.AFFINE)

    @property
    def is_convex(self) -> bool:
        """True for convex, affine and constant."""
        return self.is_affine or self is Curvature.CONVEX

    @property
    def is_concave(self) -> bool:
        """True for concave, affine and constant."""
        return self.is_affine or self is Curvature.CONCAVE


class Sign(enum.Enum):
    """What is known of the sign of every entry of an expression."""

    ZERO = "zero"
    NONNEGATIVE = "nonnegative"
    NONPOSITIVE = "nonpositive"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


class Monotonicity(enum.Enum):
    """How a function moves with one of its arguments, over the range that argument is known to have."""

    INCREASING = "increasing"
    DECREASING = "decreasing"
    UNKNOWN = "not monotone"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Interval:
    """Bounds that every entry of an expression obeys, whatever the variable is.

    Arguments:
        lower: the lower bound, possibly −inf.
        upper: the upper bound, possibly inf.

    Example:
        >>> Interval(-1.0, 2.0).sign
        <Sign.UNKNOWN: 'unknown'>
    """

    lower: float = -math.inf
    upper: float = math.inf

    @property
    def sign(self) -> Sign:
        """The sign these bounds prove."""
        if self.lower == 0.0 == self.upper:
            return Sign.ZERO
        if self.lower >= 0.0:
            return Sign.NONNEGATIVE
        if self.upper <= 0.0:
            return Sign.NONPOSITIVE
        return Sign.UNKNOWN

    @property
    def is_bounded(self) -> bool:
        """True when both bounds are finite."""
        return math.isfinite(self.lower) and math.isfinite(self.upper)

    @property
    def is_free(self) -> bool:
        """True when neither bound is finite."""
        return self.lower == -math.inf and self.upper == math.inf

    @property
    def magnitude(self) -> Interval:
        """The bounds of the absolute value."""
        largest = max(abs(self.lower), abs(self.upper))
        if self.lower <= 0.0 <= self.upper:
            return Interval(0.0, largest)
        return Interval(min(abs(self.lower), abs(self.upper)), largest)

    def __neg__(self) -> Interval:
        return Interval(-self.upper, -self.lower)

    def union(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.lower, other.lower), max(self.upper, other.upper))

    def power(self, exponent: float) -> Interval:
        """The bounds of t ↦ t**exponent, for a nonnegative interval and a positive exponent."""
        # A lower bound of inf would make differences of bounds NaN.
        least = min(_overflow_to_inf(self.lower, exponent), sys.float_info.max)
        return Interval(least, _overflow_to_inf(self.upper, exponent))

    def times(self, factor: float) -> Interval:
        """The bounds after multiplication by a nonnegative factor, with 0·inf = 0."""
        if factor == 0.0:
            return Interval(0.0, 0.0)
        return Interval(self.lower * factor, self.upper * factor)


def _overflow_to_inf(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class ArgumentRole:
    """One argument as the composition rule sees it: what prints as it, its curvature, and the monotonicity in it."""

    text: object
    curvature: Curvature
    monotonicity: Monotonicity

    def keeps_convex(self) -> bool:
        """True when a convex function of this argument, other things equal, is convex in the variable."""
        return self.curvature.is_affine or (
            (self.monotonicity is Monotonicity.INCREASING and self.curvature.is_convex)
            or (self.monotonicity is Monotonicity.DECREASING and self.curvature.is_concave)
        )

    def keeps_concave(self) -> bool:
        """True when a concave function of this argument, other things equal, is concave in the variable."""
        return self.curvature.is_affine or (
            (self.monotonicity is Monotonicity.INCREASING and self.curvature.is_concave)
            or (self.monotonicity is Monotonicity.DECREASING and self.curvature.is_convex)
        )


def compose(convex: bool, concave: bool, roles: Sequence[ArgumentRole]) -> Curvature:
    """The composition rule.

    Arguments:
        convex: whether the function is jointly convex in its arguments.
        concave: whether the function is jointly concave in its arguments.
        roles: its arguments.

    Returns:
        The strongest curvature the rule proves.
    """
    if all(role.curvature is Curvature.CONSTANT for role in roles):
        return Curvature.CONSTANT
    is_convex = convex and all(role.keeps_convex() for role in roles)
    is_concave = concave and all(role.keeps_concave() for role in roles)
    if is_convex and is_concave:
        return Curvature.AFFINE
    if is_convex:
        return Curvature.CONVEX
    return Curvature.CONCAVE if is_concave else Curvature.UNKNOWN


def explain(name: str, convex: bool, concave: bool, roles: Sequence[ArgumentRole]) -> str:
    """The rule `compose` applied, as a sentence that names the argument where it failed."""
    curvature = compose(convex, concave, roles)
    kind = {(True, True): "affine", (True, False): "convex", (False, True): "concave"}.get(
        (convex, concave), "neither convex nor concave"
    )
    if curvature is not Curvature.UNKNOWN:
        if all(role.curvature.is_affine for role in roles):
            return f"{name} is {kind} and its arguments are affine."
        moving = next(role for role in roles if not role.curvature.is_affine)
        return f"{name} is {kind} and {moving.monotonicity} in {moving.text}, which is {moving.curvature}."
    if not (convex or concave):
        return f"{name} is neither convex nor concave."
    failing = [role for role in roles if not ((convex and role.keeps_convex()) or (concave and role.keeps_concave()))]
    if failing:
        role = failing[0]
        return f"{name} is {kind} and {role.monotonicity} in {role.text}, which has {role.curvature} curvature."
    bent = [f"{role.text} ({role.curvature})" for role in roles if not role.curvature.is_affine]
    return f"{name} combines {' and '.join(bent[:3])}, whose curvatures disagree."
