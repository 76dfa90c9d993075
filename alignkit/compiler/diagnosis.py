"""Diagnosis: the properties of a reward that decide its route."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from alignkit.base.law import BaseLaw
from alignkit.compiler.closeness import KL, Closeness
from alignkit.compiler.phrases import brief, described, named
from alignkit.compiler.planned_weight import planned_weight
from alignkit.compiler.summands import Summands, features, summands_of
from alignkit.compiler.violations import Violation, violations
from alignkit.contracts import Composition
from alignkit.expressions import Curvature, Expression
from alignkit.tilting.selection import missing_measure

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the compiler knows of a problem before it looks for a route, at the present values of its parameters.

    What only an explanation needs is found when it is asked for.

    Arguments:
        reward: as the user wrote it.
        composition: as r(x) = f(Qx) + ⟨g, x⟩ + c.
        closeness: the user's choice.
        curvature: of the reward; that of f where composition reveals more.
        is_bounded: whether the base law is known to have bounded data.
    """

    reward: Expression
    composition: Composition
    closeness: Closeness
    curvature: Curvature
    is_bounded: bool

    @property
    def dimension(self) -> int:
        """The intrinsic dimension k."""
        return self.composition.dimension

    @property
    def is_affine(self) -> bool:
        """Whether nothing but ⟨g, x⟩ + c is left."""
        return self.composition.nonlinear is None

    @cached_property
    def lipschitz(self) -> float:
        """A Lipschitz constant of f over w; infinite when none is known, 0 for affine rewards."""
        nonlinear = self.composition.nonlinear
        return 0.0 if nonlinear is None else float(nonlinear.lipschitz)

    @cached_property
    def weight(self) -> float:
        """λ; where a radius is given one that stands for it, until the solve finds it."""
        return planned_weight(self.composition, self.closeness)

    @cached_property
    def missing_measure(self) -> str | None:
        """Why no mixture of exponentials that is, or bounds, exp(f/λ) is known for bounded w; None where one is."""
        nonlinear = self.composition.nonlinear
        return None if nonlinear is None else missing_measure(nonlinear, bounded=True)

    @cached_property
    def outgrown_measure(self) -> str | None:
        """Why the one for bounded w does not serve this base law; None where it does, or where there is none."""
        nonlinear = self.composition.nonlinear
        # A term of too high a rank is not asked how it grows.
        if nonlinear is None or self.is_bounded or self.missing_measure is not None:
            return None
        return missing_measure(nonlinear, bounded=False)

    @property
    def rule(self) -> str:
        """The sentence of the calculus that gave the curvature."""
        return "no nonlinear atom is left." if self.is_affine else self.reward.curvature_rule

    @property
    def wanted(self) -> Curvature:
        """The curvature that makes any reward tractable under this closeness, in few dimensions under KL."""
        return Curvature.CONVEX if isinstance(self.closeness, KL) else Curvature.CONCAVE

    @property
    def has_wanted(self) -> bool:
        """Whether the reward has it."""
        convex = self.wanted is Curvature.CONVEX
        return self.curvature.is_convex if convex else self.curvature.is_concave

    @cached_property
    def violations(self) -> tuple[Violation, ...]:
        """Where the reward fails to have the wanted curvature; empty where it has it."""
        return () if self.has_wanted else violations(self.reward, self.wanted)

    @cached_property
    def summands(self) -> Summands:
        """The reward as a sum, with its convex and concave parts."""
        return summands_of(self.reward)

    @property
    def convex_part(self) -> Expression | None:
        """The summands that are proved convex and not affine, together; None when there are none."""
        return self.summands.convex_part

    @property
    def concave_part(self) -> Expression | None:
        """The summands that are proved concave and not affine, together; None when there are none."""
        return self.summands.concave_part

    @property
    def is_difference_of_convex(self) -> bool:
        """Whether the reward is proved to be a convex function plus a concave one, and an affine one."""
        return self.summands.is_difference_of_convex

    @property
    def steep(self) -> tuple[Expression, ...]:
        """The summands without a known Lipschitz constant."""
        return tuple(term for term in self.summands.terms if math.isinf(term.lipschitz))

    @property
    def shortfall(self) -> str:
        """What keeps the reward from the wanted curvature, in a clause."""
        reasons = [violation.reason.removesuffix(".") for violation in self.violations]
        what = f"the reward is {described(self.curvature)}, not {self.wanted}"
        return f"{what}: {named(reasons, joint='; ')}" if reasons else what

    @property
    def shortfall_of_affine(self) -> str:
        """What keeps the reward from being affine, in a clause."""
        bent = [brief(term) for term in self.summands.terms if not term.is_affine()]
        what = f"the reward is {described(self.curvature)}, not affine"
        return f"{what}: {named(bent)} {'is' if len(bent) == 1 else 'are'} nonlinear" if bent else what

    @property
    def described_features(self) -> str:
        """The affine sub-expressions whose rows make up k, in words."""
        found = [f"{brief(one)} ({one.size} row{'' if one.size == 1 else 's'})" for one in features(self.reward)]
        return named(found)


def diagnose(reward: Expression, composition: Composition, closeness: Closeness, base: BaseLaw) -> Diagnosis:
    """Read off the curvature of a composed reward, and what of the base law decides its route."""
    nonlinear = composition.nonlinear
    curvature = Curvature.AFFINE if nonlinear is None else nonlinear.curvature
    return Diagnosis(reward, composition, closeness, curvature, base.data_range is not None)
