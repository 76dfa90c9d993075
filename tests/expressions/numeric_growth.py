"""What growth claims mean for numbers: evaluation far out along rays, and which values can be trusted there."""

from __future__ import annotations

import math

import numpy as np

from alignkit.expressions import Expression
from alignkit.expressions.expression import topological
from alignkit.expressions.growth import Growth

#: Powers of t, from where claims about infinity show, short of where powers of floats overflow.
FAR = np.logspace(1, 60, 60)


def values(f: Expression, points: np.ndarray) -> np.ndarray:
    (variable,) = f.variables()
    with np.errstate(all="ignore"):
        return np.asarray(f.value(points.reshape(-1, *variable.shape))).reshape(len(points))


def rounding(f: Expression, points: np.ndarray) -> np.ndarray:
    """A bound of the rounding of f, from its largest sub-expression; infinite where one of them is not a number."""
    (variable,) = f.variables()
    rows = points.reshape(-1, *variable.shape)
    largest = np.zeros(len(points))
    with np.errstate(all="ignore"):
        for node in topological(f):
            if node.depends:
                found = np.abs(np.asarray(node.value(rows)).reshape(len(points), -1))
                size = np.where(np.isfinite(found), found, 0.0).max(axis=1)
                largest = np.maximum(largest, np.where(np.isnan(found).any(axis=1), math.inf, size))
        # A product of two such numbers may cancel too.
        return 1e-10 * (1.0 + largest**2)


def check_upper_bound(f: Expression, bound: float, directions: np.ndarray) -> None:
    """f(tu) ≤ ½(bound + ε)t² for large t: some t are too small, others lose too many digits, so one must hold."""
    exceeds = np.ones(len(directions), dtype=bool)
    for t in (1e6, 1e20):
        points = t * directions
        excess = 2.0 * values(f, points) - (bound + 1e-2 * (1.0 + bound)) * t**2
        exceeds &= excess > rounding(f, points)
    assert not exceeds.any(), f"{f} grows faster than {bound} along {directions[exceeds][0]}"


def check_lower_bound(f: Expression, growth: Growth, generator: np.random.Generator) -> None:
    """f grows as claimed on a tube around the ray, or is +∞ around the pole."""
    size = growth.direction.size
    if growth.pole is not None:
        point = growth.pole.point.ravel()
        around = point + 1e-9 * generator.standard_normal((20, size))
        assert (values(f, around) == math.inf).all(), f"{f} is finite near {point}"
        return
    offsets = 1e-8 * generator.standard_normal((10, size))
    ratios = np.stack([2.0 * values(f, t * growth.direction + offsets) / t**2 for t in FAR])
    usable = np.isfinite(np.stack([rounding(f, t * growth.direction + offsets) for t in FAR[::6]])).all(axis=0)
    ratios = np.where(np.isnan(ratios), -math.inf, ratios)
    best = ratios.max(axis=0)
    if math.isinf(growth.at_least):
        start = np.where(np.isfinite(ratios), np.abs(ratios), math.inf).min(axis=0)
        reached = (best == math.inf) | ((best > 0.0) & (best > 3.0 * start))
    else:
        reached = best >= growth.at_least - 1e-2 * (1.0 + growth.at_least)
    assert (reached | ~usable).all(), f"{f} does not grow like {growth.at_least} along {growth.direction}: {best}"
