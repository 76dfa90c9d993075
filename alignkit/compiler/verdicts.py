"""Whether a route takes a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.routes import Reduction, Route

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a route takes a problem, and if not, why.

    Arguments:
        route: a path of the table.
        diagnosis: the problem.
        obstacle: the first reduction along the path that does not apply; None where the route takes the problem.
    """

    route: Route
    diagnosis: Diagnosis
    obstacle: Reduction | None

    @property
    def admits(self) -> bool:
        """Whether the route takes the problem."""
        return self.obstacle is None

    @cached_property
    def excluded(self) -> str | None:
        """The reason the problem is outside the route; None when inside."""
        if self.obstacle is None:
            return None
        return "; ".join(one.why_not(self.diagnosis) for one in self.obstacle.failures(self.diagnosis))

    @property
    def misses_by_dimension(self) -> bool:
        """Whether the problem is outside for its dimension alone."""
        failures = [one for step in self.route.reductions for one in step.failures(self.diagnosis)]
        return bool(failures) and all(one.limits_dimension for one in failures)


def judge(routes: Sequence[Route], diagnosis: Diagnosis) -> tuple[Verdict, ...]:
    """Hold a problem against every route, each reduction once."""
    applies: dict[int, bool] = {}

    def does_apply(step: Reduction) -> bool:
        if id(step) not in applies:
            applies[id(step)] = step.applies(diagnosis)
        return applies[id(step)]

    return tuple(
        Verdict(route, diagnosis, next((step for step in route.reductions if not does_apply(step)), None))
        for route in routes
    )
