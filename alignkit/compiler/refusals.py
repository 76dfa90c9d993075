"""Why a problem has no plan: the error for it, naming the user's own sub-expressions and what is tractable nearby."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignkit.citations import TRACTABILITY_LANDSCAPE
from alignkit.compiler.bids import Offer
from alignkit.compiler.closeness import KL
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import described, named
from alignkit.compiler.routes import AFFINE, GRID_DIMENSION_MAX
from alignkit.compiler.verdicts import Verdict
from alignkit.errors import (
    AlignkitError,
    BackendRefusedError,
    BackendUnavailableError,
    DimensionError,
    ImproperTargetError,
    IntractableError,
    UnboundedTransportError,
)

__all__ = ["NO_PLAN", "about_reward", "intractable", "unserved"]

#: What the compiler raises for a problem that is well posed as written, but has no plan.
NO_PLAN = (
    IntractableError,
    ImproperTargetError,
    UnboundedTransportError,
    BackendUnavailableError,
    BackendRefusedError,
)


def intractable(diagnosis: Diagnosis, verdicts: Sequence[Verdict]) -> IntractableError:
    """The error for a problem that no route takes."""
    # That a nonlinear reward is not affine is no news to its author.
    told = [verdict for verdict in verdicts if verdict.obstacle and AFFINE not in verdict.obstacle.preconditions]
    reasons = "; ".join(f"{verdict.route.name}: {verdict.excluded}" for verdict in told)
    kind: type[IntractableError] = IntractableError
    if any(verdict.misses_by_dimension for verdict in verdicts):
        kind = DimensionError
        why = (
            f"The intrinsic dimension k = {diagnosis.dimension} of the reward is too large for every route that would "
            f"take it otherwise. k is the rank of {diagnosis.described_features}."
        )
        general = [f"A reward that looks at x through at most {GRID_DIMENSION_MAX} linear features."]
        if isinstance(diagnosis.closeness, KL):
            general.append("A sum of squares, maxima of few affine pieces, and convex functions of one feature each.")
        else:
            general.append("A concave reward.")
    elif isinstance(diagnosis.closeness, KL) and diagnosis.has_wanted:
        why = "exp(r/λ) is not known to be bounded by a mixture of exponentials, so that tilts of p could make up q."
        general = [
            "huber(…) or logistic(…) in place of what grows faster than linearly.",
            "A base law with data_range=(…), if the data are bounded.",
        ]
    elif isinstance(diagnosis.closeness, KL):
        why = (
            f"KL alignment of a reward that is {described(diagnosis.curvature)} is hard in the worst case, even in one "
            f"dimension ({TRACTABILITY_LANDSCAPE.short})."
        )
        general = ["A convex reward.", "ak.Wasserstein(weight=…), if the reward can be made concave."]
    else:
        lipschitz = "no known Lipschitz constant"
        if math.isfinite(diagnosis.lipschitz):
            lipschitz = f"Lipschitz constant {diagnosis.lipschitz:.3g}"
        why = (
            f"Wasserstein alignment of a reward that is {described(diagnosis.curvature)}, with k = "
            f"{diagnosis.dimension} and {lipschitz}, is in no tractable class."
        )
        general = [
            "A concave reward, in any dimension.",
            f"A Lipschitz reward that looks at x through at most {GRID_DIMENSION_MAX} linear features.",
        ]
    return kind(
        f"{why} Curvature: {diagnosis.rule} Routes: {reasons}.", ways_out=general, expression=str(diagnosis.reward)
    )


def unserved(
    diagnosis: Diagnosis, verdicts: Sequence[Verdict], offers: Sequence[Offer], backend: str
) -> BackendUnavailableError | BackendRefusedError:
    """The error for a problem that a route takes, and nobody solves."""
    reward = str(diagnosis.reward)
    if not offers:
        route = next(verdict.route for verdict in verdicts if verdict.admits)
        return BackendUnavailableError(
            f"The problem is tractable ({route.name}: {route.reductions[-1].becomes}), but {route.terminal.missing}.",
            ways_out=["An affine reward under KL.", "A concave reward under ak.Wasserstein(weight=…)."],
            expression=reward,
        )
    routes = named([f"{route.name!r}" for offer in offers for route in offer.routes])
    refusals = [refusal for offer in offers for refusal in offer.refusals]
    if not refusals:
        capability = named([str(offer.routes[0].terminal.capability).replace("_", " ") for offer in offers])
        return BackendUnavailableError(
            f"No installed backend offers a {capability} for the route {routes}.",
            ways_out=["`alignkit backends` lists what is installed and what is missing."],
            expression=reward,
        )
    reasons = "; ".join(f"{refusal.backend}: {refusal.reason.removesuffix('.')}" for refusal in refusals)
    return BackendRefusedError(
        f"No backend takes the route {routes}: {reasons}.",
        ways_out=["Use backend='auto'." if backend != "auto" else "Install another backend, or change the reward."],
        expression=reward,
    )


def about_reward(error: AlignkitError, diagnosis: Diagnosis) -> AlignkitError:
    """An error of a lower floor with the reward it is about, where it names no part of it."""
    expression = error.expression or str(diagnosis.reward)
    return type(error)(error.message, ways_out=error.ways_out, expression=expression)
