"""The transport maps of one reward under one cost, a map for every λ."""

from __future__ import annotations

from dataclasses import replace

from alignkit.contracts import Composition, ProxProblem, ProxSession, ProxSolver, Refusal
from alignkit.errors import BackendRefusedError
from alignkit.transport.costs import Cost
from alignkit.transport.reduction import TransportMap, check_transport

__all__ = ["MapFamily"]


class MapFamily:
    """T_λ(x) = argmax_y r(y) − λ·c(x, y) for any λ, by a session that follows λ where its backend can.

    Arguments:
        composition: the reward r.
        cost: c.
        request: the reduced problem, at whatever λ; None for an affine reward.
        solver: the backend's; None exactly when there is no request.
        session: one of the solver's to go on with; a new one is opened when it is needed if None.

    Example:
        >>> import numpy as np
        >>> from alignkit.compiler.composition import compose
        >>> from alignkit.expressions import Variable
        >>> from alignkit.transport.costs import HALF_SQUARED_DISTANCE
        >>> family = MapFamily(compose(3 * Variable(1)[0]), HALF_SQUARED_DISTANCE, None, None)
        >>> [family.at(weight).apply(np.zeros((1, 1))).y.item() for weight in (1.0, 2.0)]
        [3.0, 1.5]
    """

    def __init__(
        self,
        composition: Composition,
        cost: Cost,
        request: ProxProblem | None,
        solver: ProxSolver | None,
        session: ProxSession | None = None,
    ) -> None:
        self.composition, self.cost, self.request, self.solver = composition, cost, request, solver
        self.session = session

    @property
    def tolerance(self) -> float:
        """The relative gap wanted of a row; 0 for an affine reward, whose maps are exact."""
        return 0.0 if self.request is None else self.request.tolerance

    def at(self, weight: float) -> TransportMap:
        """The map at λ, by the family's own session: good until another λ is asked for.

        Arguments:
            weight: λ > 0, in units of reward per cost.

        Raises:
            UnboundedTransportError: the reward outgrows λ·c.
            BackendRefusedError: the backend does not take this λ.
        """
        problem = self._problem_at(weight)
        if problem is not None:
            update = getattr(self.session, "update", None)
            if update is None or not update(problem):
                self.session = self._open(problem)
        return self._map(weight, self.session)

    def apart(self, weight: float) -> TransportMap:
        """The map at λ, with a session to itself; raises as `at` does."""
        problem = self._problem_at(weight)
        return self._map(weight, None if problem is None else self._open(problem))

    def _problem_at(self, weight: float) -> ProxProblem | None:
        check_transport(self.composition, weight, self.cost)
        # Neither the reduced f nor the form of its penalty depends on λ.
        return None if self.request is None else replace(self.request, weight=weight)

    def _open(self, problem: ProxProblem) -> ProxSession:
        assert self.solver is not None and self.request is not None
        # At its own λ the request was bid for when the problem was planned.
        answer = None if problem.weight == self.request.weight else self.solver.bid(problem)
        if isinstance(answer, Refusal):
            raise BackendRefusedError(
                f"{answer.backend} does not take the problem at λ = {problem.weight:.6g}: {answer.reason}.",
                ways_out=["Give λ itself: ak.Wasserstein(weight=λ).", "Another backend: problem.backends()."],
            )
        return self.solver.open(problem)

    def _map(self, weight: float, session: ProxSession | None) -> TransportMap:
        return TransportMap(self.composition, weight, session, self.tolerance, self.cost)
