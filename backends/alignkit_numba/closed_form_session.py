"""Sessions of rewards whose proximal map has a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit_numba.methods import runs_on

__all__ = ["ClosedForm", "ClosedFormSession"]

Form = TypeVar("Form")


class ClosedForm(Protocol):
    """v ↦ z, compiled."""

    def solve(self, points: Floats) -> ProxSolution:
        """Solve rows v, (n, k), float64."""
        ...


class ClosedFormSession:
    """A compiled closed form for any number of batches, that follows its parameters and λ.

    Arguments:
        problem: what is asked.
        form: its f, as `recognise` found it.
        recognise: f of a problem where it is of this kind, else None.
        closed_form: the map of a problem whose f is of this kind.
    """

    is_prompt = True

    def __init__(
        self,
        problem: ProxProblem,
        form: Form,
        recognise: Callable[[ProxProblem], Form | None],
        closed_form: Callable[[ProxProblem, Form], ClosedForm],
    ) -> None:
        def map_of(other: ProxProblem) -> ClosedForm | None:
            if other.displacement is not None or not runs_on(other.device):
                return None
            found = recognise(other)
            return None if found is None else closed_form(other, found)

        self._map_of = map_of
        self._map = closed_form(problem, form)

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        found = self._map.solve(np.asarray(points, dtype=np.float64))
        if progress is not None:
            progress("numba", len(points), len(points))
        return found

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        found = self._map_of(problem)
        if found is None:
            return False
        self._map = found
        return True
