"""What is asked of a program over the law, and what a fit of it hands back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Floats, Progress, TiltProgram
from alignkit.errors import Status
from alignkit.estimates import Estimate
from alignkit.tilting.exponential_family import ExponentialFamily
from alignkit.tilting.fitted import FittedTilt, TiltMoments
from alignkit.tilting.law_program import LawProgram, LawSolution, solve_law_program
from alignkit.tilting.radius import RadiusOutcome, solve_radius
from alignkit.tilting.target import TiltTarget

__all__ = ["STATUSES", "LawFit", "LawRequest", "Measured"]

#: How a fit ends where its draws bear out the solution.
STATUSES = {
    RadiusOutcome.REACHED: Status.SOLVED,
    RadiusOutcome.INACTIVE: Status.RADIUS_INACTIVE,
    RadiusOutcome.NOT_ATTAINED: Status.RADIUS_NOT_ATTAINED,
}


@dataclass(frozen=True, eq=False)
class LawRequest:
    """A program over the law, with all that it takes to sample its solution.

    Arguments:
        target: the reward of draws as a tilt target at λ = 1: its directions are Q and g, its linear part (1).
        rows: B, (l, d), of the moments y = Bx, in the order of the program.
        program: over E_q[y].
        names: of each entry of y, (l,).
        weight: λ; None where a radius is given.
        radius: ρ, in nats; None where a weight is given.
        check_proper: raises ImproperTargetError where E_p exp(r/λ) is proved infinite at a λ.
    """

    target: TiltTarget
    rows: Floats
    program: LawProgram
    names: tuple[str, ...]
    weight: float | None
    radius: float | None
    check_proper: Callable[[float], object]

    @cached_property
    def extended(self) -> TiltProgram:
        """The tilts wanted, along Q, g and B."""
        known = self.target.program
        directions = np.vstack([known.directions, self.rows])
        return TiltProgram(known.base, directions, np.zeros((1, len(directions))), known.rows, known.device)

    def at(self, slopes: Floats) -> TiltTarget:
        """The law p·exp⟨a, (r, y)⟩ as a target, a = (1/λ, η/λ); r/λ is left out where 1/λ = 0."""
        weight = 1 / slopes[0] if slopes[0] > 0 else math.inf
        return TiltTarget(self.extended, self.target.nonlinear, weight, slopes)

    def statistics(self, features: Floats) -> Floats:
        """(r − c, y) of rows, (n, 1 + l), from what a session on `extended` gives, (n, k + 1 + l)."""
        k = self.target.dimension
        score = self.target.exponent(features[:, : k + 1])
        return np.hstack([score[:, None], features[:, k + 1 :]])

    def solve(self, family: ExponentialFamily, start: LawSolution | None = None) -> tuple[LawSolution, RadiusOutcome]:
        """The program's solution over a family of s = (r, y), from a solution to start from."""
        if self.radius is not None:
            found = solve_radius(family, self.program, self.radius, start)
            return found.solution, found.outcome
        assert self.weight is not None
        multipliers = None if start is None or not start.is_solved else start.multipliers
        return solve_law_program(family, self.program, self.weight, multipliers), RadiusOutcome.REACHED

    def described(self, solution: LawSolution, how: str) -> str:
        """How multipliers were found, for a certificate."""
        gap = "" if math.isnan(solution.gap) else f", within {solution.gap:.1g} of the optimum over them"
        return f"{self.program.size} multipliers from {how}{gap}"


@dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted program over the law.

    Arguments:
        fitted: draws q, and knows its moments as those of a tilt target.
        solution: the multipliers and λ.
        status: how it ended.
        reward_before, reward_after: E_p and E_q of r less its constant.
        moments: E_q[y], an estimate each.
        kl: KL(q‖p).
        details: further facts, by name.
    """

    fitted: FittedTilt
    solution: LawSolution
    status: Status
    reward_before: Estimate
    reward_after: Estimate
    moments: tuple[Estimate, ...]
    kl: Estimate
    details: dict[str, str]


@dataclass(frozen=True, eq=False)
class Measured:
    """A fitted sampler with moments that more was found out about."""

    sampler: FittedTilt
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw rows; see `FittedTilt`."""
        return self.sampler.sample(rows, seed=seed, progress=progress)
