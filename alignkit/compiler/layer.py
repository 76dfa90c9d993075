"""A solved transport problem as a function of its data: x, λ and the parameters of the reward."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit import registry
from alignkit.compiler.composition import Recipe
from alignkit.compiler.plan import Plan
from alignkit.contracts import Floats, ProxProblem, ProxSession, Refusal
from alignkit.errors import BackendRefusedError, ParameterError, ShapeError
from alignkit.expressions import Constant, Expression, Parameter
from alignkit.expressions.atoms.lipschitz import UserFunction
from alignkit.expressions.expression import topological
from alignkit.transport.costs import Cost
from alignkit.transport.derivatives import Autodiff, MovedRows, TransportDerivative
from alignkit.transport.reduction import TransportMap, check_transport, reduce_transport

__all__ = ["MapOfParameters"]


class MapOfParameters:
    """T(x) at any values of λ and of some parameters, with its transposed derivative in all of them.

    It has copies of the parameters and a session of its own, so that the problem it was made from does not change with
    it, nor it with the problem.

    Arguments:
        plan: of the solved problem.
        weight: λ, where it is not given with the values.
        cost: c.
        parameters: those of the reward whose values are given, in this order.
        takes_weight: whether λ is given, after them.
        autodiff: of the library that differentiates.
    """

    def __init__(
        self,
        plan: Plan,
        weight: float,
        cost: Cost,
        *,
        parameters: Sequence[Parameter] = (),
        takes_weight: bool = False,
        autodiff: Autodiff,
    ) -> None:
        self._plan, self._weight, self._cost, self._autodiff = plan, weight, cost, autodiff
        self._takes_weight = takes_weight
        self._reward, copies = _copied(plan.diagnosis.reward)
        self._parameters = tuple(copies[id(parameter)] for parameter in parameters)
        self._recipe = Recipe(self._reward)
        self._request: ProxProblem | None = None
        self._session: ProxSession | None = None
        # An engine may come back for derivatives from a thread of its own.
        self._lock = threading.Lock()

    def forward(self, x: Floats, *values: Floats) -> MovedRows:
        """Move rows x, (n, *shape), at values of the parameters, and of λ if it takes one.

        Raises:
            ShapeError, ParameterError: a value has another shape, or is out of range.
            UnboundedTransportError: there is no map at these values.
            BackendRefusedError: the backend does not take the problem at these values.
        """
        with self._lock:
            weight = self._take(values)
            moved = self._map_at(weight).apply(np.asarray(x, dtype=np.float64))
            return MovedRows(moved.y, moved.gap, moved.tied)

    def pull_back(self, x: Floats, values: Sequence[Floats], moved: MovedRows, cotangent: Floats) -> tuple[Floats, ...]:
        """ȳ, (n, *shape), to the cotangents of x and of each of the values.

        Raises:
            NotDifferentiableError: the map has no derivative at some rows.
        """
        with self._lock:
            weight = self._take(values)
            derivative = TransportDerivative(
                self._recipe.composition, self._reward, weight, self._autodiff, self._cost, self._parameters
            )
            found = derivative.pull_back(x, moved.y, cotangent, gap=moved.gap, refused=moved.refused)
        bars = (found.x, *found.parameters)
        return (*bars, np.asarray(found.weight)) if self._takes_weight else bars

    def _take(self, values: Sequence[Floats]) -> float:
        """Give the parameters their values: λ."""
        wanted = len(self._parameters) + self._takes_weight
        if len(values) != wanted:
            names = [str(parameter) for parameter in self._parameters] + ["λ"] * self._takes_weight
            raise ParameterError(
                f"This layer takes x and {wanted} values ({', '.join(names) or 'none'}), and {len(values)} were given."
            )
        for parameter, value in zip(self._parameters, values, strict=False):
            parameter.value = value
        if not self._recipe.refresh():
            self._recipe, self._session = Recipe(self._reward), None
        if not self._takes_weight:
            return self._weight
        if np.size(values[-1]) != 1:
            raise ShapeError(f"λ is a number, and the value given for it has shape {np.shape(values[-1])}.")
        return float(np.reshape(values[-1], ()))

    def _map_at(self, weight: float) -> TransportMap:
        """The map at the present values, by the session where that can follow."""
        composition, asked = self._recipe.composition, self._plan.request
        tolerance = self._plan.tolerance
        rows, device = (asked.rows, asked.device) if isinstance(asked, ProxProblem) else (0, "auto")
        check_transport(composition, weight, self._cost, reward=self._reward)
        problem = reduce_transport(
            composition, weight, cost=self._cost, rows=rows, tolerance=tolerance or None, device=device
        )
        if problem is None:
            self._session = None
        else:
            update = getattr(self._session, "update", None)
            if update is None or not update(problem):
                self._session = self._opened(problem)
        return TransportMap(composition, weight, self._session, tolerance or 1e-6, self._cost)

    def _opened(self, problem: ProxProblem) -> ProxSession:
        solver: Any = registry.require(self._plan.backend, "prox_solver")()
        answer = solver.bid(problem)
        if isinstance(answer, Refusal):
            raise BackendRefusedError(
                f"{answer.backend} does not take the problem at these values: {answer.reason}.",
                ways_out=["Solve with another backend: problem.backends().", "Keep λ and the parameters nearer."],
                expression=str(self._reward),
            )
        session: ProxSession = solver.open(problem)
        return session


def _copied(reward: Expression) -> tuple[Expression, dict[int, Parameter]]:
    """A reward with parameters of its own, and these by the identity of the originals; constants are shared."""
    memo: dict[int, Any] = {}
    copies: dict[int, Parameter] = {}

    def visit(root: Expression) -> None:
        # Arguments come first, so that no copy goes deep.
        for node in topological(root):
            for constant in node._constants():
                visit(constant)
            if isinstance(node, Constant):
                memo[id(node)] = node
            if isinstance(node, UserFunction):
                memo.update({id(one): one for one in (node.function, node.derivative) if one is not None})
            made = copy.deepcopy(node, memo)
            if isinstance(made, Parameter):
                copies[id(node)] = made

    visit(reward)
    return copy.deepcopy(reward, memo), copies
