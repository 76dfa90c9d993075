"""Routes as data: one row per class of problems that is known to be tractable, and one way to test for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.transport.boundedness import dominated_by_penalty

__all__ = ["GRID_DIMENSION_MAX", "ROUTES", "Route"]

_LANDSCAPE = "“The tractability landscape of diffusion alignment”, arXiv 2605.11361"
_QUADRATIC = "“Steering diffusion models with quadratic rewards”, arXiv 2602.16570"

GRID_DIMENSION_MAX = 3


@dataclass(frozen=True)
class Route:
    """A tractability class: which problems it takes, how it reduces them, and what the reduction is worth.

    Arguments:
        name: in a few words.
        closeness: the closeness it belongs to.
        excludes: the reason a diagnosed problem is outside the class, or None when it is inside.
        reduction: what the problem becomes, in a sentence.
        capability: what a backend must offer to take the reduced problem; None while alignkit has no reduction for it.
        guarantee: what the reduction itself promises.
        source: the paper that shows it.
    """

    name: str
    closeness: type[Closeness]
    excludes: Callable[[Diagnosis], str | None]
    reduction: str
    capability: Literal["tilt_sampler", "prox_solver"] | None
    guarantee: str
    source: str


def _not_affine(diagnosis: Diagnosis) -> str | None:
    return None if diagnosis.is_affine else f"the reward is {diagnosis.curvature}, not affine"


def _not_convex(diagnosis: Diagnosis) -> str | None:
    return None if diagnosis.curvature.is_convex else f"the reward is {diagnosis.curvature}, not convex"


def _not_concave_in_total(diagnosis: Diagnosis) -> str | None:
    nonlinear = diagnosis.composition.nonlinear
    if nonlinear is None or dominated_by_penalty(nonlinear, diagnosis.closeness.present_weight):
        return None
    return f"the reward is {diagnosis.curvature}, and nothing shows that λ·c makes up for it"


def _not_lipschitz_in_few_dimensions(diagnosis: Diagnosis) -> str | None:
    if math.isinf(diagnosis.lipschitz):
        return "no Lipschitz constant of f is known"
    if diagnosis.dimension > GRID_DIMENSION_MAX:
        return f"k = {diagnosis.dimension} is above {GRID_DIMENSION_MAX}"
    return None


ROUTES: tuple[Route, ...] = (
    Route(
        name="linear tilt",
        closeness=KL,
        excludes=_not_affine,
        reduction="q is the one linear tilt p·exp⟨θ, x⟩ with θ = g/λ",
        capability="tilt_sampler",
        guarantee="the target is this tilt exactly",
        source=_LANDSCAPE,
    ),
    Route(
        name="mixture of tilts",
        closeness=KL,
        excludes=_not_convex,
        reduction="q is a mixture of linear tilts, by a convex program over their weights",
        capability=None,
        guarantee="exact by rejection",
        source=f"{_QUADRATIC}; {_LANDSCAPE}",
    ),
    Route(
        name="concave proximal transport",
        closeness=Wasserstein,
        excludes=_not_concave_in_total,
        reduction="T(x) = x + g/λ + Qᵀ(z − Qx), z = argmax f(z) − (λ/2)‖z − Qx‖²: a concave program in k dimensions",
        capability="prox_solver",
        guarantee="T is the optimal map, each row up to its gap",
        source=_LANDSCAPE,
    ),
    Route(
        name="Lipschitz proximal transport",
        closeness=Wasserstein,
        excludes=_not_lipschitz_in_few_dimensions,
        reduction="z by certified global search in k dimensions per row",
        capability="prox_solver",
        guarantee="T is optimal up to a certified ε",
        source=_LANDSCAPE,
    ),
)
