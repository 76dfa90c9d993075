"""Diagnosis: the properties of a reward that decide its route."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.compiler.closeness import Closeness
from alignkit.contracts import Composition
from alignkit.expressions import Curvature, Expression

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the compiler knows of a problem before it looks for a route.

    Arguments:
        reward: as the user wrote it.
        composition: as r(x) = f(Qx) + ⟨g, x⟩ + c.
        closeness: the user's choice.
        curvature: of the reward; that of f where composition reveals more.
        rule: the sentence of the calculus that gave it.
        lipschitz: a Lipschitz constant of f over w; infinite when none is known, 0 for affine rewards.
    """

    reward: Expression
    composition: Composition
    closeness: Closeness
    curvature: Curvature
    rule: str
    lipschitz: float

    @property
    def dimension(self) -> int:
        """The intrinsic dimension k."""
        return self.composition.dimension

    @property
    def is_affine(self) -> bool:
        """Whether nothing but ⟨g, x⟩ + c is left."""
        return self.composition.nonlinear is None


def diagnose(reward: Expression, composition: Composition, closeness: Closeness) -> Diagnosis:
    """Read off the curvature and the Lipschitz constant of a composed reward."""
    nonlinear = composition.nonlinear
    if nonlinear is None:
        return Diagnosis(reward, composition, closeness, Curvature.AFFINE, "no nonlinear atom is left.", 0.0)
    return Diagnosis(
        reward, composition, closeness, nonlinear.curvature, reward.curvature_rule, float(nonlinear.lipschitz)
    )
