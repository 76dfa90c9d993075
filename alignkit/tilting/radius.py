"""The weight λ at which the solution of a program over the law has a given divergence from the base.

The best law within KL(q‖p) ≤ ρ is the solution at the λ that minimises λρ + (the program's value at λ), a convex
function of λ ≥ 0 with derivative ρ − KL(λ): KL falls as λ grows, so one root is sought. At λ = 0 the radius is
inactive: the best law of all lies within it. Where E_p exp(r/λ) is infinite below a critical λ at which KL is still
below ρ, no law of the family attains a larger divergence.

Source: A. Ben-Tal, D. den Hertog, A. De Waegenaere, B. Melenberg, G. Rennen, "Robust solutions of optimization problems
affected by uncertain probabilities", Management Science 59, 2013, theorem 1, for the dual in (λ, η).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from alignkit.tilting.exponential_family import ExponentialFamily
from alignkit.tilting.law_program import LawProgram, LawSolution, solve_law_program

__all__ = ["RadiusOutcome", "RadiusSolution", "solve_radius"]

_HALVINGS = 100
#: Two halvings of λ that move KL by less, relative to 1 + KL, have reached the best law of all.
_SETTLED = 1e-7
_ROOT_TOLERANCE = 1e-9
#: Raising λ by this much leaves nothing of the reward.
_LARGEST_RAISE = 1e9


class RadiusOutcome(enum.Enum):
    """How the search for λ ended."""

    REACHED = "KL equals the radius"
    INACTIVE = "the best law of all lies inside the radius"
    NOT_ATTAINED = "KL stays below the radius down to the critical λ"
    TOO_SMALL = "every law that meets the constraints lies outside the radius"


@dataclass(frozen=True, eq=False)
class RadiusSolution:
    """The best law within a radius.

    Arguments:
        solution: with its λ; at the smallest λ looked at where the radius is inactive or not attained; the closest law
            that meets the constraints where the radius is too small.
        outcome: how the search ended.
    """

    solution: LawSolution
    outcome: RadiusOutcome


def solve_radius(
    family: ExponentialFamily, program: LawProgram, radius: float, start: LawSolution | None = None
) -> RadiusSolution:
    """Find λ with KL(q‖p) = ρ.

    Arguments:
        family: of s = (r, y).
        program: over the moments of y.
        radius: ρ > 0, in nats.
        start: a solution to start from.

    Returns:
        the solution; where its `is_solved` is False, the moments are out of reach.
    """
    tried: list[tuple[float, float]] = []

    def solve(weight: float, nearby: LawSolution | None) -> LawSolution:
        multipliers = None if nearby is None else nearby.multipliers
        found = solve_law_program(family, program, weight, multipliers)
        divergence = found.member.divergence
        tried.append((weight, divergence if found.is_solved and math.isfinite(divergence) else math.inf))
        return found

    reward_scale = math.sqrt(max(family.at(np.zeros(family.size)).covariance[0, 0], 0.0))
    weight = start.weight if start is not None else (reward_scale or 1.0) / math.sqrt(2 * radius)
    found = _sought(solve, radius, weight, start, max(_ROOT_TOLERANCE, family.precision))
    return replace(found, solution=replace(found.solution, tried=tuple(tried)))


def _sought(
    solve: Callable[[float, LawSolution | None], LawSolution],
    radius: float,
    weight: float,
    start: LawSolution | None,
    tolerance: float,
) -> RadiusSolution:
    """The root from a λ and a solution to start from."""
    found = solve(weight, start)
    if not found.is_solved and math.isfinite(found.member.log_partition):
        return RadiusSolution(found, RadiusOutcome.TOO_SMALL)
    above, below = found, found
    while _outside(above, radius):
        if above.weight > weight * _LARGEST_RAISE:
            return RadiusSolution(above, RadiusOutcome.TOO_SMALL)
        below, above = above, solve(4 * above.weight, above)
    settled = 0
    for _ in range(_HALVINGS):
        if _outside(below, radius):
            break
        above, below = below, solve(below.weight / 2, below)
        change = abs(below.member.divergence - above.member.divergence)
        settled = settled + 1 if change <= _SETTLED * (1 + above.member.divergence) else 0
        if settled == 2:
            return RadiusSolution(below, RadiusOutcome.INACTIVE)
    return _between(solve, radius, above, below, tolerance)


def _between(
    solve: Callable[[float, LawSolution | None], LawSolution],
    radius: float,
    above: LawSolution,
    below: LawSolution,
    tolerance: float,
) -> RadiusSolution:
    """The root in log λ between a λ with KL < ρ and one with KL > ρ or no law at all."""
    # By bisection, and by the secant where both ends have a divergence.
    while above.weight - below.weight > tolerance * above.weight:
        middle = math.sqrt(above.weight * below.weight)
        high, low = below.member.divergence - radius, above.member.divergence - radius
        if math.isfinite(high) and high > 0 > low:
            part = low / (low - high)
            # Kept off the ends, so that both of them move.
            part = min(max(part, 0.02), 0.98)
            middle = above.weight * (below.weight / above.weight) ** part
        found = solve(middle, above)
        if abs(found.member.divergence - radius) <= tolerance * radius:
            return RadiusSolution(found, RadiusOutcome.REACHED)
        above, below = (above, found) if _outside(found, radius) else (found, below)
    is_critical = not math.isfinite(below.member.log_partition)
    reached = above.member.divergence >= radius * (1 - 1e-3)
    return RadiusSolution(above, RadiusOutcome.NOT_ATTAINED if is_critical and not reached else RadiusOutcome.REACHED)


def _outside(solution: LawSolution, radius: float) -> bool:
    divergence = solution.member.divergence
    return not math.isfinite(divergence) or divergence > radius
