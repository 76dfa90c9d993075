"""Plans in files: the routes by the names of their steps, the answers of backends as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.base import BaseLaw
from alignkit.compiler.bids import Offer
from alignkit.compiler.closeness import Closeness
from alignkit.compiler.diagnosis import diagnose
from alignkit.compiler.plan import Plan
from alignkit.compiler.routes import (
    ALLOWING_HEURISTICS,
    MONTE_CARLO,
    ROUTES,
    Options,
    Request,
    Route,
    Terminal,
    class_of,
)
from alignkit.compiler.verdicts import judge
from alignkit.contracts import Bid, Composition, ProxProblem
from alignkit.errors import SavedResultError
from alignkit.expressions import Expression

__all__ = ["plan_from", "plan_parts"]


def plan_parts(plan: Plan) -> dict[str, Any]:
    """What a plan is made of beside its base law, its reward and its closeness."""
    answers = [offer.answers for offer in plan.offers]
    chosen = next(
        ((place, row.index(plan.bid)) for place, row in enumerate(answers) if any(one is plan.bid for one in row)), None
    )
    return {
        "allows_heuristics": any(verdict.route.terminal.problems == MONTE_CARLO for verdict in plan.verdicts),
        "route": _steps(plan.chosen),
        "asked": _asked(plan.request),
        "offers": [
            {"routes": [_steps(route) for route in offer.routes], "asked": _asked(offer.request), "answers": row}
            for offer, row in zip(plan.offers, answers, strict=True)
        ],
        "chosen": chosen,
        "warnings": plan.warnings,
    }


def plan_from(
    parts: Mapping[str, Any],
    base: BaseLaw,
    reward: Expression,
    closeness: Closeness,
    composition: Composition,
    *,
    device: str | None = None,
) -> Plan:
    """The plan again, without asking any backend; on another device than before if one is named.

    Raises:
        SavedResultError: its route is not one of this version.
    """
    diagnosis = diagnose(reward, composition, closeness, base)
    table = ALLOWING_HEURISTICS if parts["allows_heuristics"] else ROUTES
    routes = {_steps(route): route for route in table.routes(class_of(closeness))}

    def named(steps: Sequence[str]) -> Route:
        if tuple(steps) not in routes:
            raise SavedResultError(
                f"The result was found by the route {' → '.join(steps)!r}, which this version does not have.",
                ways_out=["Solve the problem again."],
            )
        return routes[tuple(steps)]

    def request(asked: dict[str, Any] | None, terminal: Terminal) -> Request:
        if asked is None:
            return None
        return terminal.request(diagnosis, base, Options(**asked | ({} if device is None else {"device": device})))

    offers = []
    for offer in parts["offers"]:
        taken = tuple(named(steps) for steps in offer["routes"])
        offers.append(Offer(taken, request(offer["asked"], taken[0].terminal), tuple(offer["answers"])))
    place, chosen = parts["chosen"], named(parts["route"])
    bid = None if place is None else offers[place[0]].answers[place[1]]
    if bid is not None and not isinstance(bid, Bid):
        raise ValueError("the answer chosen is a refusal")
    return Plan(
        base=base,
        diagnosis=diagnosis,
        verdicts=judge(tuple(routes.values()), diagnosis),
        chosen=chosen,
        offers=tuple(offers),
        bid=bid,
        request=request(parts["asked"], chosen.terminal),
        warnings=tuple(parts["warnings"]),
    )


def _steps(route: Route) -> tuple[str, ...]:
    return tuple(step.name for step in route.reductions)


def _asked(request: Request) -> dict[str, Any] | None:
    """What of a request is the user's choice; the rest follows from the problem."""
    if request is None:
        return None
    tolerance = request.tolerance if isinstance(request, ProxProblem) else None
    return {"rows": request.rows, "tolerance": tolerance, "device": request.device}
